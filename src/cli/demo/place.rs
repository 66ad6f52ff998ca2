//! Where the demonstration's files go: through a mount, or where there is no
//! FUSE, through the volume itself.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::Error;
use crate::filesystem::FileSystem;
use crate::mount::{self, MountOptions, Session};
use crate::volume::{Caller, OpenFlags, ROOT, Volume, WriteFlags};

/// A mounted or directly used volume.
pub enum Place {
    Mounted(Session),
    Direct {
        volume: Arc<Volume>,
        /// Why there is no mount, if one was wanted.
        reason: Option<String>,
    },
}

/// An open file in a [`Place`].
pub enum OpenFile {
    Mounted(File),
    Direct { volume: Arc<Volume>, ino: u64 },
}

impl Place {
    /// Mounts on `dir`, or does without.
    pub fn mount(fs: &FileSystem, dir: &Path) -> Place {
        let options = MountOptions {
            source: fs.path().display().to_string(),
            ..MountOptions::default()
        };
        match mount::mount(fs.volume().clone(), dir, &options) {
            Ok(session) => Place::Mounted(session),
            Err(error) => Place::Direct {
                volume: fs.volume().clone(),
                reason: Some(error.to_string()),
            },
        }
    }

    pub fn direct(fs: &FileSystem) -> Place {
        Self::direct_of(fs.volume().clone())
    }

    pub fn direct_of(volume: Arc<Volume>) -> Place {
        Place::Direct {
            volume,
            reason: None,
        }
    }

    /// Why there is no mount, where there was to be one.
    pub fn without_mount(&self) -> Option<&str> {
        match self {
            Place::Mounted(_) => None,
            Place::Direct { reason, .. } => reason.as_deref(),
        }
    }

    /// Makes a file and the directories above it.
    pub fn create(&mut self, path: &Path) -> Result<OpenFile> {
        match self {
            Place::Mounted(session) => {
                let path = session.dir().join(path);
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                Ok(OpenFile::Mounted(File::create(path)?))
            }
            Place::Direct { volume, .. } => {
                let names = names(path);
                let (last, parents) = names.split_last().context("an empty path")?;
                let me = Caller { uid: 0, gid: 0 };
                let mut dir = ROOT;
                for name in parents {
                    dir = match volume.make_dir(dir, name, 0o755, me) {
                        Err(Error::Exists) => volume.lookup(dir, name)?.ino,
                        made => made?.ino,
                    };
                }
                let flags = OpenFlags::WRITE | OpenFlags::TRUNCATE;
                let (attr, _) = volume.create(dir, last, libc::S_IFREG | 0o644, flags, me)?;
                Ok(OpenFile::Direct {
                    volume: volume.clone(),
                    ino: attr.ino,
                })
            }
        }
    }

    pub fn open(&self, path: &Path) -> Result<OpenFile> {
        match self {
            Place::Mounted(session) => Ok(OpenFile::Mounted(File::open(session.dir().join(path))?)),
            Place::Direct { volume, .. } => {
                let ino = self.find(path)?;
                volume.open_file(ino, OpenFlags::empty())?;
                Ok(OpenFile::Direct {
                    volume: volume.clone(),
                    ino,
                })
            }
        }
    }

    /// The inode number of a path.
    pub fn find(&self, path: &Path) -> Result<u64> {
        match self {
            Place::Mounted(session) => {
                let metadata = std::fs::metadata(session.dir().join(path))?;
                Ok(std::os::unix::fs::MetadataExt::ino(&metadata))
            }
            Place::Direct { volume, .. } => {
                let mut ino = ROOT;
                for name in names(path) {
                    ino = volume.lookup(ino, name)?.ino;
                }
                Ok(ino)
            }
        }
    }

    pub fn unmount(self) -> Result<()> {
        if let Place::Mounted(session) = self {
            // Something that looks at every new mount may hold it a moment.
            if let Err(error) = session.unmount(false) {
                log::info!("{error}");
                session.unmount(true)?;
            }
            session.wait()?;
        }
        Ok(())
    }
}

impl OpenFile {
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        match self {
            OpenFile::Mounted(file) => file.write_all_at(data, offset)?,
            OpenFile::Direct { volume, ino } => {
                volume.write_file(*ino, offset, data, WriteFlags::empty())?;
            }
        }
        Ok(())
    }

    /// At most `len` bytes; fewer only at the end of the file.
    pub fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>> {
        match self {
            OpenFile::Mounted(file) => {
                let mut data = vec![0; len];
                let mut read = 0;
                while read < len {
                    match file.read_at(&mut data[read..], offset + read as u64)? {
                        0 => break,
                        more => read += more,
                    }
                }
                data.truncate(read);
                Ok(data)
            }
            OpenFile::Direct { volume, ino } => Ok(volume.read_file(*ino, offset, len)?),
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let OpenFile::Direct { volume, ino } = self {
            volume.release(*ino);
        }
    }
}

fn names(path: &Path) -> Vec<&[u8]> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        })
        .collect()
}

/// On Ctrl-C: no mount and no temporary folder stay behind.
pub fn clean_up_when_interrupted(folder: PathBuf, dir: PathBuf) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("watching for signals")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let _ = mount::unmount(&dir, true);
                let _ = std::fs::remove_dir_all(&folder);
                std::process::exit(128 + signal);
            }
        })
        .context("starting a thread")?;
    Ok(())
}
