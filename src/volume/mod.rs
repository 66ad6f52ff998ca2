//! The volume: POSIX over chunks. Inodes, names, ranges, attributes.
//!
//! Knows nothing of FUSE; see [`crate::mount`] for that.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tier::Tier;

/// When reading a file touches its access time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atime {
    /// Only when it is not newer than the last change, or older than a day.
    #[default]
    Relative,
    Never,
    Always,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Refuse every change with [`Error::ReadOnly`].
    pub read_only: bool,
    pub atime: Atime,
}

/// What the volume holds, in logical terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    pub directories: u64,
    /// Symbolic links, device nodes, FIFOs and sockets.
    pub others: u64,
    /// Sum of the sizes of the regular files.
    pub bytes: u64,
}

/// A mounted or mountable volume. Shared by all threads.
pub struct Volume {
    _tier: Arc<Tier>,
}

impl Volume {
    /// Writes the root directory into an empty store.
    pub fn format(_tier: &Tier, _uid: u32, _gid: u32) -> Result<()> {
        Err(Error::NotSupported)
    }

    /// Opens the volume that a formatted store holds.
    pub fn open(_tier: Arc<Tier>, _options: Options) -> Result<Arc<Volume>> {
        Err(Error::NotSupported)
    }

    pub fn tier(&self) -> &Arc<Tier> {
        &self._tier
    }

    pub fn totals(&self) -> Result<Totals> {
        Err(Error::NotSupported)
    }

    /// Walks every row and returns a sentence for each inconsistency.
    pub fn check(&self) -> Result<Vec<String>> {
        Err(Error::NotSupported)
    }

    /// Stops the reaper. The tier stays open: whoever opened it closes it.
    pub fn close(&self) -> Result<()> {
        Ok(())
    }
}
