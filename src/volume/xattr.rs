//! Extended attributes: `user.*`, `trusted.*` and `security.*`.

use super::*;

impl Volume {
    /// `name` with its namespace, 1 to 255 bytes; `value` up to [`XATTR_MAX`].
    /// `system.*`, ACLs among them, is [`Error::NotSupported`].
    pub fn set_xattr(
        &self,
        _ino: u64,
        _name: &[u8],
        _value: &[u8],
        _flags: XattrFlags,
    ) -> Result<()> {
        Err(Error::NotSupported)
    }

    /// [`Error::NoAttribute`] if there is none.
    pub fn xattr(&self, _ino: u64, _name: &[u8]) -> Result<Vec<u8>> {
        Err(Error::NotSupported)
    }

    /// Names with a NUL behind each, as listxattr(2) returns them; `trusted.*`
    /// only for those who may see it.
    pub fn list_xattrs(&self, _ino: u64, _trusted: bool) -> Result<Vec<u8>> {
        Err(Error::NotSupported)
    }

    /// [`Error::NoAttribute`] if there is none.
    pub fn remove_xattr(&self, _ino: u64, _name: &[u8]) -> Result<()> {
        Err(Error::NotSupported)
    }
}
