//! Reading directories.

use super::*;

impl Volume {
    /// At most `limit` entries behind `cookie` (0: from the start), `.` and
    /// `..` first. An entry that is there all the time is seen exactly once by
    /// a reader who goes on with the cookie of the last entry it took.
    /// No entries: the end.
    ///
    /// The directory should be open (see [`open_dir`](Self::open_dir)); it
    /// reads as empty once it was removed.
    pub fn read_dir(&self, _ino: u64, _cookie: u64, _limit: usize) -> Result<Vec<Entry>> {
        Err(Error::NotSupported)
    }

    /// The same with the attributes of each entry's inode.
    pub fn read_dir_plus(
        &self,
        _ino: u64,
        _cookie: u64,
        _limit: usize,
    ) -> Result<Vec<(Entry, Attr)>> {
        Err(Error::NotSupported)
    }
}
