//! Attributes of inodes.

use super::*;

impl Volume {
    pub fn attr(&self, _ino: u64) -> Result<Attr> {
        Err(Error::NotSupported)
    }

    /// Changes attributes, the size of a file among them: what lies behind a
    /// smaller size is gone, what lies before a larger one reads as zeros.
    /// Returns the attributes as they are then.
    pub fn set_attr(&self, _ino: u64, _set: &SetAttr) -> Result<Attr> {
        Err(Error::NotSupported)
    }

    /// What chattr(1) may set: see [`InodeFlags`]. Unknown flags are refused
    /// with [`Error::NotSupported`]; only the owner and root may set flags,
    /// and only root `IMMUTABLE` and `APPEND` ([`Error::NotPermitted`]).
    /// The flags are shown by [`attr`](Self::attr).
    pub fn set_flags(&self, _ino: u64, _flags: u32, _caller: Caller) -> Result<()> {
        Err(Error::NotSupported)
    }
}
