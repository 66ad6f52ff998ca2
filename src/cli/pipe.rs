//! Streams to and from the process that has a store open: through a named
//! pipe in the store's directory, which both may use.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{self as sys, FileType, Mode, OFlags};
use tempfile::TempDir;

/// How long to wait before looking again for the other side.
const PAUSE: Duration = Duration::from_millis(2);

/// Removed when dropped.
pub struct Pipe {
    path: PathBuf,
    _folder: TempDir,
}

impl Pipe {
    pub fn new(store: &Path) -> Result<Self> {
        // Such names are nobody's: see docs/format-store.md.
        let folder = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(store)
            .with_context(|| format!("making a folder in {}", store.display()))?;
        let path = folder.path().join("stream");
        let mode = Mode::RUSR | Mode::WUSR;
        sys::mknodat(sys::CWD, &path, FileType::Fifo, mode, 0)
            .with_context(|| format!("making the pipe {}", path.display()))?;
        Ok(Self {
            path,
            _folder: folder,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, write: bool) -> std::io::Result<File> {
        File::options()
            .read(!write)
            .write(write)
            .custom_flags(libc::O_NONBLOCK)
            .open(&self.path)
    }

    /// Copies what the other side writes to `out`, until it has closed the
    /// pipe, or `ended` without having opened it.
    pub fn copy_to(&self, out: &mut dyn Write, ended: &AtomicBool) -> Result<()> {
        let mut pipe = self.open(false).context("opening the pipe")?;
        let mut buffer = vec![0; 1 << 16];
        let mut begun = false;
        loop {
            // Looked at before the pipe: what was written before the end is read.
            let last = ended.load(Ordering::SeqCst);
            match pipe.read(&mut buffer) {
                Ok(0) if begun || last => return out.flush().context("writing the stream"),
                Ok(0) => std::thread::sleep(PAUSE),
                Ok(len) => {
                    if !begun {
                        wait_from_now_on(&pipe)?;
                        begun = true;
                    }
                    out.write_all(&buffer[..len])
                        .context("writing the stream")?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("reading the pipe"),
            }
        }
    }

    /// Copies `input` to the other side, until it has had enough.
    pub fn copy_from(&self, input: &mut dyn Read, ended: &AtomicBool) -> Result<()> {
        let mut pipe = loop {
            match self.open(true) {
                Ok(pipe) => break pipe,
                Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                    if ended.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error).context("opening the pipe"),
            }
        };
        wait_from_now_on(&pipe)?;
        match std::io::copy(input, &mut pipe) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).context("reading the stream")
            }
            _ => Ok(()),
        }
    }
}

fn wait_from_now_on(pipe: &File) -> Result<()> {
    let set = sys::fcntl_getfl(pipe)
        .and_then(|flags| sys::fcntl_setfl(pipe, flags.difference(OFlags::NONBLOCK)));
    set.context("preparing the pipe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_and_the_other_side_may_never_come() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let never = AtomicBool::new(false);
        let pipe = Pipe::new(folder.path()).unwrap();
        let path = pipe.path().to_owned();
        let mut out = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| std::fs::write(&path, &bytes).unwrap());
            pipe.copy_to(&mut out, &never).unwrap();
        });
        assert!(out == bytes);
        let read = std::thread::scope(|scope| {
            let read = scope.spawn(|| std::fs::read(&path).unwrap());
            pipe.copy_from(&mut &bytes[..], &never).unwrap();
            read.join().unwrap()
        });
        assert!(read == bytes);
        let ended = AtomicBool::new(true);
        out.clear();
        pipe.copy_to(&mut out, &ended).unwrap();
        pipe.copy_from(&mut &bytes[..], &ended).unwrap();
        assert!(out.is_empty());
        drop(pipe);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
