//! What is open: an inode lives as long as it is.
//!
//! Handles are only counted. Callers keep what belongs to a handle
//! themselves: the inode, and whether it appends.

use super::*;

impl Volume {
    /// Opens a regular file. Each success wants one [`release`](Self::release).
    /// `TRUNCATE` and `DROP_SUID` are acted on; `WRITE` and `APPEND` are
    /// compared with the inode's flags.
    pub fn open_file(&self, _ino: u64, _flags: OpenFlags) -> Result<()> {
        Err(Error::NotSupported)
    }

    /// Opens a directory. Each success wants one [`release`](Self::release).
    pub fn open_dir(&self, _ino: u64) -> Result<()> {
        Err(Error::NotSupported)
    }

    /// Closes what [`open_file`](Self::open_file), [`open_dir`](Self::open_dir)
    /// or [`create`](Self::create) opened. Never waits.
    pub fn release(&self, _ino: u64) {}
}
