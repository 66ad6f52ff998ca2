//! The volume: POSIX over chunks. Inodes, names, ranges, attributes.
//!
//! Knows nothing of FUSE; see [`crate::mount`] for that. Permissions are the
//! kernel's to check (`default_permissions`); everything else that POSIX asks
//! of a filesystem is done here: link counts, times, set-user-id and
//! set-group-id, what may be renamed onto what, files that are open without
//! a name.
//!
//! Names are any bytes but `/` and NUL, up to [`NAME_MAX`]. Every method is
//! one operation of the tier, and so atomic even across a power cut, unless
//! it says otherwise. A file lives while it has a name or is
//! [open](Volume::open_file); then its space is given back, piece by piece if
//! it is large, after a crash at the next open.
//!
//! A method may have to wait: for a chunk to be read and decoded, or for room
//! in the write buffer. [`Volume::now`] is the same volume with the promise
//! not to: it answers [`Error::WouldBlock`] instead, having changed nothing.
//! Only `read_file`, `sync`, `sync_file` and `check` of that volume, by their
//! nature, may reach the disk anyway where they say so.

mod attributes;
mod check;
mod content;
mod directory;
mod handles;
mod names;
mod types;
mod xattr;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tier::Tier;

pub use types::{
    AllocateFlags, Atime, Attr, Caller, Entry, FileType, InodeFlags, NAME_MAX, OpenFlags, Options,
    ROOT, RenameFlags, SYMLINK_MAX, Seek, SetAttr, SetTime, StatFs, Totals, WriteFlags, XATTR_MAX,
    XattrFlags,
};

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

    /// The same volume, whose methods answer [`Error::WouldBlock`] instead of
    /// waiting. For dispatchers: try here first, and hand the request to a
    /// thread that may wait if it cannot be served at once. Get it once and
    /// keep it; closing either closes both.
    pub fn now(&self) -> Arc<Volume> {
        Arc::new(Volume {
            _tier: self._tier.clone(),
        })
    }

    pub fn tier(&self) -> &Arc<Tier> {
        &self._tier
    }

    pub fn totals(&self) -> Result<Totals> {
        Err(Error::NotSupported)
    }

    pub fn stat_fs(&self) -> Result<StatFs> {
        Err(Error::NotSupported)
    }

    /// Everything that finished before survives a power cut when this
    /// returns: syncfs(2). Waits for the disk, always.
    pub fn sync(&self) -> Result<()> {
        Err(Error::NotSupported)
    }

    /// Stops the reaper. The tier stays open: whoever opened it closes it.
    /// May be called again.
    pub fn close(&self) -> Result<()> {
        Ok(())
    }
}
