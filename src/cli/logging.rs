//! The log: to standard error, to the journal, or for a daemon in the
//! background to the file `log` in the store.
//!
//! Commands log what the variable `LACONICFS_LOG` says, `warn` if it is unset;
//! the daemon of a mount logs what the setting `log.level` says.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use env_logger::{Builder, Target};
use log::{Level, Log, Metadata, Record};
use parking_lot::Mutex;

/// The variable that says how much is logged.
pub const VARIABLE: &str = "LACONICFS_LOG";

/// Name of the log in the store's directory. Its predecessor ends in `.1`.
const NAME: &str = "log";

/// A log that has become longer than this is put aside.
const LONGEST: u64 = 1 << 20;

/// Messages of errors since the process began.
static ERRORS: AtomicU64 = AtomicU64::new(0);

/// How many errors have been logged.
pub fn errors() -> u64 {
    ERRORS.load(Ordering::Relaxed)
}

/// The log of a command: to standard error.
pub fn of_command() {
    let level = std::env::var(VARIABLE).unwrap_or_default();
    let level = if level.is_empty() { "warn" } else { &level };
    install(&mut builder(level));
}

/// The log of a mount that this command serves itself: to standard error, or
/// to the journal where that is what standard error is.
pub fn of_mount(level: &str) {
    let mut builder = builder(level);
    if is_journal() {
        builder.format(|out, record| writeln!(out, "{}", for_journal(record)));
    }
    install(&mut builder);
}

/// The log of a daemon in the background. Nothing is written before
/// [`Held::open`] says where: a mount that is refused must not write into the
/// log of the one that is running.
pub fn of_daemon(level: &str) -> Held {
    let held = Held(Arc::new(Mutex::new(Place::Memory(Vec::new()))));
    let target = Target::Pipe(Box::new(held.clone()));
    install(builder(level).target(target));
    std::panic::set_hook(Box::new(|info| log::error!("{info}")));
    held
}

/// What is logged of sled is of no use to a reader: its errors come back to us,
/// and we say them.
fn builder(level: &str) -> Builder {
    let mut builder = Builder::new();
    builder.parse_filters(&format!("fuser=error,sled=off,{level}"));
    builder
}

fn install(builder: &mut Builder) {
    let logger = builder.build();
    let filter = logger.filter();
    // Fails only if there is a logger already.
    if log::set_boxed_logger(Box::new(Counting(logger))).is_ok() {
        log::set_max_level(filter);
    }
}

/// Counts errors on their way.
struct Counting(env_logger::Logger);

impl Log for Counting {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() == Level::Error {
            ERRORS.fetch_add(1, Ordering::Relaxed);
        }
        self.0.log(record);
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// Whether standard error is the journal itself, as sd-daemon(3) has it.
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stderr = rustix::fs::fstat(io::stderr().as_fd());
    stderr.is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// One line, with the priority that the journal takes it to have. The journal
/// knows the time.
fn for_journal(record: &Record<'_>) -> String {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    format!("<{priority}>{}", record.args()).replace('\n', " ")
}

/// Where a store's daemon logs.
pub fn path(store: &Path) -> PathBuf {
    store.join(NAME)
}

/// The log of a daemon: in memory first, then in the store.
#[derive(Clone)]
pub struct Held(Arc<Mutex<Place>>);

enum Place {
    Memory(Vec<u8>),
    File(RotatingFile),
    Nowhere,
}

impl Held {
    /// Logs to the file of this store from now on, with what was said before;
    /// so does what writes to standard error beside the log, a crash of the
    /// allocator say. Where the file cannot be written nothing is.
    pub fn open(&self, store: &Path) -> io::Result<()> {
        let mut place = self.0.lock();
        let opened = RotatingFile::open(path(store));
        let stderr = match &opened {
            Ok(log) => log.file.try_clone(),
            Err(_) => OpenOptions::new().write(true).open("/dev/null"),
        };
        replace_stderr(&stderr?)?;
        let before = std::mem::replace(&mut *place, Place::Nowhere);
        let mut log = opened?;
        if let Place::Memory(said) = before {
            log.write_all(&said)?;
        }
        *place = Place::File(log);
        Ok(())
    }
}

impl Write for Held {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *self.0.lock() {
            Place::Memory(said) => said.write(line),
            Place::File(log) => log.write(line),
            Place::Nowhere => Ok(line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut *self.0.lock() {
            Place::File(log) => log.flush(),
            _ => Ok(()),
        }
    }
}

fn replace_stderr(file: &File) -> io::Result<()> {
    // SAFETY: both descriptors are open, and nothing in this process owns the
    // number 2.
    match unsafe { libc::dup2(file.as_raw_fd(), libc::STDERR_FILENO) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Appends to a file; when that has become long, it gets the suffix `.1` in
/// place of the one that had it, and a new one begins.
struct RotatingFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl RotatingFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let len = file.metadata()?.len();
        Ok(Self { path, file, len })
    }
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.len > LONGEST {
            let old = self.path.with_extension("1");
            std::fs::rename(&self.path, old)?;
            *self = Self::open(self.path.clone())?;
        }
        let len = self.file.write(line)?;
        self.len += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        let line = vec![b'x'; 1 << 18];
        let mut log = RotatingFile::open(path.clone()).unwrap();
        for _ in 0..12 {
            log.write_all(&line).unwrap();
        }
        let old = std::fs::metadata(path.with_extension("1")).unwrap().len();
        let new = std::fs::metadata(&path).unwrap().len();
        assert!(old <= LONGEST + line.len() as u64);
        assert!(new > 0 && new <= LONGEST + line.len() as u64);
        let names = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 2);
    }

    #[test]
    fn the_journal_gets_one_line_with_its_priority() {
        let line = |level| {
            for_journal(
                &Record::builder()
                    .level(level)
                    .args(format_args!("two\nlines"))
                    .build(),
            )
        };
        assert_eq!(line(Level::Error), "<3>two lines");
        assert_eq!(line(Level::Warn), "<4>two lines");
        assert_eq!(line(Level::Info), "<6>two lines");
        assert_eq!(line(Level::Trace), "<7>two lines");
    }
}
