//! The content of files.

use super::*;

impl Volume {
    /// At most `len` bytes from `offset` on; fewer only at the end of the
    /// file. Every chunk is verified.
    pub fn read_file(&self, _ino: u64, _offset: u64, _len: usize) -> Result<Vec<u8>> {
        Err(Error::NotSupported)
    }

    /// Writes all of `data`; returns the offset behind it.
    pub fn write_file(
        &self,
        _ino: u64,
        _offset: u64,
        _data: &[u8],
        _flags: WriteFlags,
    ) -> Result<u64> {
        Err(Error::NotSupported)
    }

    /// fsync(2) of a file or directory. Waits for the disk, always.
    pub fn sync_file(&self, _ino: u64) -> Result<()> {
        Err(Error::NotSupported)
    }

    /// As fallocate(2); `mode` is checked here ([`Error::NotSupported`] for
    /// what [`AllocateFlags`] lacks). `drop_suid`: see [`SetAttr`].
    pub fn allocate(
        &self,
        _ino: u64,
        _offset: u64,
        _len: u64,
        _mode: i32,
        _drop_suid: bool,
    ) -> Result<()> {
        Err(Error::NotSupported)
    }

    /// As copy_file_range(2): returns how many bytes were copied, fewer than
    /// `len` at the end of the source, or because that is enough for one
    /// call. Whole chunks are shared, not copied. Atomic only in pieces.
    pub fn copy_range(
        &self,
        _from: u64,
        _from_offset: u64,
        _to: u64,
        _to_offset: u64,
        _len: u64,
        _drop_suid: bool,
    ) -> Result<u64> {
        Err(Error::NotSupported)
    }

    /// `SEEK_DATA` and `SEEK_HOLE` of lseek(2), by chunks.
    /// [`Error::NoData`] (ENXIO) behind the end, or where no data follows.
    pub fn seek(&self, _ino: u64, _offset: u64, _what: Seek) -> Result<u64> {
        Err(Error::NotSupported)
    }
}
