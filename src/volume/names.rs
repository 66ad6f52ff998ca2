//! Names: finding, making, removing and renaming.

use super::*;

impl Volume {
    /// `.` and `..` are understood.
    pub fn lookup(&self, _parent: u64, _name: &[u8]) -> Result<Attr> {
        Err(Error::NotSupported)
    }

    /// Makes a regular file, FIFO, socket or device node, by the type bits of
    /// `mode`. The umask has been applied. In a directory with set-group-id
    /// the group is the directory's.
    pub fn make_node(
        &self,
        _parent: u64,
        _name: &[u8],
        _mode: u32,
        _rdev: u32,
        _caller: Caller,
    ) -> Result<Attr> {
        Err(Error::NotSupported)
    }

    /// Makes a regular file and opens it as [`open_file`](Self::open_file)
    /// does, or opens the one that is there. Says whether it was made.
    pub fn create(
        &self,
        _parent: u64,
        _name: &[u8],
        _mode: u32,
        _flags: OpenFlags,
        _caller: Caller,
    ) -> Result<(Attr, bool)> {
        Err(Error::NotSupported)
    }

    pub fn make_dir(
        &self,
        _parent: u64,
        _name: &[u8],
        _mode: u32,
        _caller: Caller,
    ) -> Result<Attr> {
        Err(Error::NotSupported)
    }

    /// `target` is 1 to [`SYMLINK_MAX`] bytes.
    pub fn symlink(
        &self,
        _parent: u64,
        _name: &[u8],
        _target: &[u8],
        _caller: Caller,
    ) -> Result<Attr> {
        Err(Error::NotSupported)
    }

    pub fn read_link(&self, _ino: u64) -> Result<Vec<u8>> {
        Err(Error::NotSupported)
    }

    /// Gives an inode that is no directory one more name.
    pub fn link(&self, _ino: u64, _parent: u64, _name: &[u8]) -> Result<Attr> {
        Err(Error::NotSupported)
    }

    /// Removes a name that is no directory's.
    pub fn unlink(&self, _parent: u64, _name: &[u8]) -> Result<()> {
        Err(Error::NotSupported)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, _parent: u64, _name: &[u8]) -> Result<()> {
        Err(Error::NotSupported)
    }

    /// As renameat2(2): replaces what is there, unless `NOREPLACE`; with
    /// `EXCHANGE` both names change places.
    pub fn rename(
        &self,
        _parent: u64,
        _name: &[u8],
        _new_parent: u64,
        _new_name: &[u8],
        _flags: RenameFlags,
    ) -> Result<()> {
        Err(Error::NotSupported)
    }
}
