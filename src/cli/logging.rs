//! The log: to standard error, or for a daemon to the file `log` in the store.
//!
//! `LACONICFS_LOG` says how much (`warn` if unset; `info`, `debug`, or
//! `laconicfs::tier=debug`, as env_logger takes it).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The variable that says how much is logged.
pub const VARIABLE: &str = "LACONICFS_LOG";

/// Name of the log in the store's directory. Its predecessor ends in `.1`.
const NAME: &str = "log";

/// A log that has become longer than this is put aside.
const LONGEST: u64 = 1 << 20;

/// What is logged of sled is of no use to a reader: its errors come back to us,
/// and we say them.
fn builder(default: &str) -> env_logger::Builder {
    env_logger::Builder::from_env(env_logger::Env::new().filter_or(VARIABLE, default))
}

/// Logs to standard error.
pub fn to_stderr() {
    // Fails only if there is a logger already.
    let _ = builder("warn,fuser=error,sled=off").try_init();
}

/// Logs to the file of this store; panics too.
pub fn to_file(store: &Path) -> io::Result<()> {
    let log = RotatingFile::open(path(store))?;
    let target = env_logger::Target::Pipe(Box::new(log));
    let _ = builder("info,fuser=error,sled=off")
        .target(target)
        .try_init();
    std::panic::set_hook(Box::new(|info| log::error!("{info}")));
    Ok(())
}

/// Where a store's daemon logs.
pub fn path(store: &Path) -> PathBuf {
    store.join(NAME)
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
}
