//! The FUSE adapter: requests to and from the volume. Thin, no logic.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::volume::{self, Volume};

/// How to mount. [`MountOptions::parse`] understands what mount(8) passes.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Options that the volume itself honours; open it with these.
    pub volume: volume::Options,
    /// Shown as the device by mount(8): the path of the store.
    pub source: String,
    /// Let other users than the one who mounts reach the files.
    pub allow_other: bool,
    /// Let the kernel check permissions. On unless told otherwise.
    pub default_permissions: bool,
    /// Let the kernel collect small writes. On unless told otherwise.
    pub writeback_cache: bool,
    pub dev: bool,
    pub suid: bool,
    pub exec: bool,
    /// Threads that take requests from the kernel.
    pub event_threads: usize,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            volume: volume::Options::default(),
            source: "laconicfs".into(),
            allow_other: false,
            default_permissions: true,
            writeback_cache: true,
            dev: false,
            suid: false,
            exec: true,
            event_threads: 2,
        }
    }
}

impl MountOptions {
    /// Applies a comma-separated list as given after `-o`. Options meant for
    /// mount(8) alone (`defaults`, `_netdev`, `x-...`) are accepted and
    /// ignored; unknown ones are an error that names them.
    pub fn parse(&mut self, _list: &str) -> Result<()> {
        Err(Error::NotSupported)
    }
}

/// A mounted volume. All methods may be called from any thread.
pub struct Session {
    dir: PathBuf,
}

impl Session {
    /// The mount point, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns when the volume has been unmounted, by whomever.
    pub fn wait(&self) -> Result<()> {
        Err(Error::NotSupported)
    }

    /// Unmounts. When files are in use: an error that says so, unless `lazy`,
    /// which takes the mount away now and ends the session at the last close.
    pub fn unmount(&self, _lazy: bool) -> Result<()> {
        Err(Error::NotSupported)
    }
}

/// Mounts `volume` on the directory `dir` and returns once it answers.
pub fn mount(_volume: Arc<Volume>, _dir: &Path, _options: &MountOptions) -> Result<Session> {
    Err(Error::NotSupported)
}

/// Unmounts whatever laconicfs volume is mounted on `dir`, from any process.
pub fn unmount(_dir: &Path, _lazy: bool) -> Result<()> {
    Err(Error::NotSupported)
}
