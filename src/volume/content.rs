//! The content of files.

use super::*;

/// Chunks that one operation of a copy moves at most, and bytes if chunks are
/// large.
const COPIED: (u64, u64) = (64, 4 << 20);

/// Bytes that one call of a copy moves at most.
const COPIED_AT_ONCE: u64 = 1 << 30;

/// Chunks that one operation looks through for a hole.
const SOUGHT: u64 = 1 << 14;

impl Change<'_, '_> {
    /// What follows from content that was written: size up to `end` at least,
    /// chunks, times, privileges.
    fn written(
        &mut self,
        ino: u64,
        inode: &mut Inode,
        end: u64,
        chunks: i64,
        drop_suid: bool,
    ) -> Result<()> {
        inode.chunks = inode.chunks.saturating_add_signed(chunks);
        self.op.wish(ino, inode.policy.unwrap_or_default());
        self.drop_privileges(ino, inode, drop_suid)?;
        self.resize(inode, end.max(inode.size))?;
        (inode.mtime, inode.ctime) = (self.now, self.now);
        self.put(ino, inode)
    }

    /// Copies one piece; returns how much, 0 at the end of the source.
    fn copy(
        &mut self,
        (from, from_offset): (u64, u64),
        (to, to_offset): (u64, u64),
        len: u64,
        drop_suid: bool,
    ) -> Result<u64> {
        let source = self.file(from)?;
        let mut target = self.file(to)?;
        if target.flags.contains(InodeFlags::APPEND) {
            return Err(Error::NotPermitted);
        }
        let len = len.min(source.size.saturating_sub(from_offset));
        if len == 0 {
            return Ok(0);
        }
        let end = self.end(to_offset, len)?;
        let chunks = self.op.copy(from, from_offset, to, to_offset, len)?;
        self.written(to, &mut target, end, chunks, drop_suid)?;
        Ok(len)
    }

    /// Where a range ends, if a file can be that long.
    fn end(&self, offset: u64, len: u64) -> Result<u64> {
        offset
            .checked_add(len)
            .filter(|end| *end <= self.core.max_size())
            .ok_or(Error::FileTooBig)
    }
}

impl Volume {
    /// At most `len` bytes from `offset` on; fewer only at the end of the
    /// file. Every chunk is verified.
    pub fn read_file(&self, ino: u64, offset: u64, len: usize) -> Result<Vec<u8>> {
        let size = || {
            self.look(|change| {
                let inode = change.file(ino)?;
                Ok((inode.size, change.wants_atime(&inode)))
            })
        };
        let (before, touch) = size()?;
        let wanted = before.saturating_sub(offset).min(len as u64) as usize;
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let tier = &self.core.tier;
        let mut bytes = match self.waits {
            true => tier.read(ino, offset, wanted)?,
            false => tier
                .try_read(ino, offset, wanted)?
                .ok_or(Error::WouldBlock)?,
        };
        // What was cut off meanwhile may have been read as zeros.
        let (after, _) = size()?;
        let left = after.saturating_sub(offset).min(wanted as u64);
        bytes.truncate(left as usize);
        if touch {
            self.touch(ino);
        }
        Ok(bytes)
    }

    /// Writes all of `data`; returns the offset behind it.
    pub fn write_file(&self, ino: u64, offset: u64, data: &[u8], flags: WriteFlags) -> Result<u64> {
        self.change(|change| {
            let mut inode = change.file(ino)?;
            let offset = match flags.contains(WriteFlags::APPEND) {
                true => inode.size,
                false => offset,
            };
            let end = change.end(offset, data.len() as u64)?;
            if !data.is_empty() {
                let chunks = change.op.write(ino, offset, data)?;
                let drop_suid = flags.contains(WriteFlags::DROP_SUID);
                change.written(ino, &mut inode, end, chunks, drop_suid)?;
            }
            Ok(end)
        })
    }

    /// fsync(2) of a file or directory. Waits for the disk, always.
    pub fn sync_file(&self, ino: u64) -> Result<()> {
        self.look(|change| change.inode(ino).map(drop))?;
        self.core.tier.sync()
    }

    /// As fallocate(2); `mode` is checked here ([`Error::NotSupported`] for
    /// what [`AllocateFlags`] lacks). `drop_suid`: see [`SetAttr`].
    pub fn allocate(
        &self,
        ino: u64,
        offset: u64,
        len: u64,
        mode: i32,
        drop_suid: bool,
    ) -> Result<()> {
        let mode = AllocateFlags::from_bits(mode as u32).ok_or(Error::NotSupported)?;
        let keep = mode.contains(AllocateFlags::KEEP_SIZE);
        let punch = mode.contains(AllocateFlags::PUNCH_HOLE);
        let zero = mode.contains(AllocateFlags::ZERO_RANGE);
        if punch && (zero || !keep) {
            return Err(Error::NotSupported);
        }
        if len == 0 {
            return Err(Error::Invalid("a range of no bytes"));
        }
        if !punch && !zero {
            self.check_space(ino, len)?;
        }
        self.change(|change| {
            let mut inode = change.file(ino)?;
            let fixed = match punch || zero {
                true => InodeFlags::IMMUTABLE | InodeFlags::APPEND,
                false => InodeFlags::IMMUTABLE,
            };
            if inode.flags.intersects(fixed) {
                return Err(Error::NotPermitted);
            }
            let end = change.end(offset, len)?;
            let mut chunks = 0;
            if punch || zero {
                chunks = change.op.punch(ino, offset, len)?;
            }
            let end = match keep {
                true => 0,
                false => end,
            };
            change.written(ino, &mut inode, end, chunks, drop_suid)
        })
    }

    /// Refuses what surely has no room. Nothing can be reserved: how much
    /// the bytes will take is known when they are there.
    fn check_space(&self, ino: u64, len: u64) -> Result<()> {
        let stored = self.look(|change| Ok(change.file(ino)?.chunks))?;
        let stored = stored.saturating_mul(self.core.tier.chunk_size() as u64);
        let space = self.core.tier.stats()?.space;
        match len.saturating_sub(stored) > space.available {
            true => Err(Error::NoSpace),
            false => Ok(()),
        }
    }

    /// As copy_file_range(2): returns how many bytes were copied, fewer than
    /// `len` at the end of the source, or because that is enough for one
    /// call. Whole chunks are shared, not copied. Atomic only in pieces.
    pub fn copy_range(
        &self,
        from: u64,
        from_offset: u64,
        to: u64,
        to_offset: u64,
        len: u64,
        drop_suid: bool,
    ) -> Result<u64> {
        let chunk = self.core.tier.chunk_size() as u64;
        let piece = (COPIED.0 * chunk).min(COPIED.1).max(chunk);
        // A copy within one file may make it longer: what counts is its end now.
        let size = self.look(|change| Ok(change.file(from)?.size))?;
        let len = len
            .min(size.saturating_sub(from_offset))
            .min(COPIED_AT_ONCE);
        if from == to && from_offset.abs_diff(to_offset) < len {
            return Err(Error::Invalid("the ranges overlap"));
        }
        let mut done = 0;
        while done < len {
            let (source, target) = (from_offset.checked_add(done), to_offset.checked_add(done));
            let (Some(source), Some(target)) = (source, target) else {
                return Err(Error::FileTooBig);
            };
            // Pieces end where chunks do, so that these can be shared.
            let wanted = (len - done).min(piece - target % piece);
            let copy =
                self.change(|change| change.copy((from, source), (to, target), wanted, drop_suid));
            match copy {
                Ok(0) => break,
                Ok(copied) => done += copied,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        if done > 0 {
            self.touch(from);
        }
        Ok(done)
    }

    /// `SEEK_DATA` and `SEEK_HOLE` of lseek(2), by chunks.
    /// [`Error::NoData`] (ENXIO) behind the end, or where no data follows.
    pub fn seek(&self, ino: u64, offset: u64, what: Seek) -> Result<u64> {
        let page = SOUGHT * self.core.tier.chunk_size() as u64;
        let mut from = offset;
        loop {
            let found = self.look(|change| {
                let size = change.file(ino)?.size;
                if from >= size {
                    // All of the file was data, and a hole follows.
                    return match what == Seek::Hole && from > offset {
                        true => Ok(Some(size)),
                        false => Err(Error::NoData),
                    };
                }
                if what == Seek::Data {
                    let data = change.op.next_data(ino, from, size)?;
                    return data.map(Some).ok_or(Error::NoData);
                }
                let end = size.min(from.saturating_add(page));
                let hole = change.op.next_hole(ino, from, end)?;
                Ok((hole < end || end == size).then_some(hole))
            })?;
            match found {
                Some(at) => return Ok(at),
                None => from = from.saturating_add(page),
            }
        }
    }
}
