//! Attributes of inodes.

use super::rows::Stamp;
use super::*;

/// A file that loses more chunks than this is shortened in several operations.
const CHUNKS_CUT: u64 = 1 << 16;

const DAY: i64 = 24 * 60 * 60;

impl Core {
    /// The attributes of an inode as callers see them.
    pub(super) fn attr(&self, ino: u64, inode: &Inode) -> Attr {
        let chunk = self.tier.chunk_size() as u64;
        // The last chunk of a file is seldom full.
        let stored = inode.chunks.saturating_mul(chunk).div_ceil(512);
        Attr {
            ino,
            file_type: inode.file_type,
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            size: inode.size,
            blocks: stored.min(inode.size.div_ceil(512)),
            block_size: chunk as u32,
            atime: inode.atime.into(),
            mtime: inode.mtime.into(),
            ctime: inode.ctime.into(),
            crtime: inode.crtime.into(),
            flags: inode.flags,
            policy: inode.policy,
        }
    }

    /// The longest file: offsets are 63 bits everywhere. Nothing less will do,
    /// because a kernel that collects writes would not ask us before it
    /// accepts one behind an end of our own.
    pub(super) fn max_size(&self) -> u64 {
        i64::MAX as u64
    }

    /// Whether looking at the content changes the access time.
    fn wants_atime(&self, inode: &Inode, now: Stamp) -> bool {
        if self.options.read_only || inode.flags.contains(InodeFlags::NOATIME) {
            return false;
        }
        let atime = inode.atime;
        match self.options.atime {
            Atime::Never => false,
            Atime::Always => true,
            Atime::Relative => {
                let age = now.seconds.saturating_sub(atime.seconds);
                atime <= inode.mtime || atime <= inode.ctime || age >= DAY
            }
        }
    }
}

impl Change<'_, '_> {
    /// Says whether [`Volume::touch`] should follow.
    pub(super) fn wants_atime(&self, inode: &Inode) -> bool {
        self.core.wants_atime(inode, self.now)
    }

    /// Changes the size of a file.
    pub(super) fn set_size(
        &mut self,
        ino: u64,
        inode: &mut Inode,
        size: u64,
        drop_suid: bool,
    ) -> Result<()> {
        if size > self.core.max_size() {
            return Err(Error::FileTooBig);
        }
        if size < inode.size {
            let change = self.op.truncate(ino, size)?;
            inode.chunks = inode.chunks.saturating_add_signed(change);
            self.op.wish(ino, inode.policy.unwrap_or_default());
        }
        self.drop_privileges(ino, inode, drop_suid)?;
        self.resize(inode, size)?;
        (inode.mtime, inode.ctime) = (self.now, self.now);
        Ok(())
    }

    /// Notes a new size of a file, in the totals too.
    pub(super) fn resize(&mut self, inode: &mut Inode, size: u64) -> Result<()> {
        if size != inode.size {
            let mut counters = self.counters()?;
            counters.count(inode, -1);
            inode.size = size;
            counters.count(inode, 1);
            self.put_counters(&counters)?;
        }
        Ok(())
    }
}

impl Volume {
    pub fn attr(&self, ino: u64) -> Result<Attr> {
        self.look(|change| Ok(self.core.attr(ino, &change.inode(ino)?)))
    }

    /// Changes attributes, the size of a file among them: what lies behind a
    /// smaller size is gone, what lies before a larger one reads as zeros.
    /// Returns the attributes as they are then.
    ///
    /// Of a file that loses a great deal, the end goes first, in several
    /// operations.
    pub fn set_attr(&self, ino: u64, set: &SetAttr) -> Result<Attr> {
        if let Some(size) = set.size {
            self.shorten(ino, size)?;
        }
        self.change(|change| {
            let mut inode = change.inode(ino)?;
            let times_now = [set.atime, set.mtime]
                .iter()
                .all(|time| matches!(time, None | Some(SetTime::Now)));
            let more = set.mode.or(set.uid).or(set.gid).is_some() || set.size.is_some();
            // A kernel that keeps the times of writes hands them in when it
            // has written: of files that could be written when it was asked.
            let kept = set.ctime.is_some() && set.atime.is_none() && !more;
            let fixed = inode.flags.contains(InodeFlags::IMMUTABLE);
            let grows = inode.flags.contains(InodeFlags::APPEND);
            if !kept && (fixed || grows && (more || !times_now)) {
                return Err(Error::NotPermitted);
            }
            if let Some(size) = set.size {
                inode = change.file(ino)?;
                change.set_size(ino, &mut inode, size, set.drop_suid)?;
            }
            if set.uid.or(set.gid).is_some() {
                let suid = !inode.is_dir();
                change.drop_privileges(ino, &mut inode, suid)?;
                inode.uid = set.uid.unwrap_or(inode.uid);
                inode.gid = set.gid.unwrap_or(inode.gid);
            }
            if let Some(mode) = set.mode {
                change.set_mode(ino, &mut inode, mode)?;
            }
            let time = |time: Option<SetTime>, old| match time {
                None => old,
                Some(SetTime::Now) => change.now,
                Some(SetTime::At(time)) => time.into(),
            };
            inode.atime = time(set.atime, inode.atime);
            inode.mtime = time(set.mtime, inode.mtime);
            inode.ctime = set.ctime.map_or(change.now, Stamp::from);
            change.put(ino, &inode)?;
            Ok(self.core.attr(ino, &inode))
        })
    }

    /// Cuts a large file in pieces until one operation can do the rest.
    pub(super) fn shorten(&self, ino: u64, size: u64) -> Result<()> {
        let step = CHUNKS_CUT * self.core.tier.chunk_size() as u64;
        loop {
            let cut = self.change(|change| {
                let mut inode = change.inode(ino)?;
                if inode.file_type != FileType::Regular || inode.chunks <= CHUNKS_CUT {
                    return Ok(false);
                }
                if inode
                    .flags
                    .intersects(InodeFlags::IMMUTABLE | InodeFlags::APPEND)
                {
                    return Err(Error::NotPermitted);
                }
                let mut next = inode.size.saturating_sub(1) / step;
                let data_from = |change: &mut Change, piece: u64| {
                    let data = change.op.next_data(ino, piece * step, inode.size)?;
                    Ok::<_, Error>(data.is_some())
                };
                if !data_from(change, next)? {
                    // A hole at the end may be exabytes long: at once.
                    let mut last = size / step;
                    while last < next {
                        let middle = last + (next - last) / 2;
                        match data_from(change, middle)? {
                            true => last = middle + 1,
                            false => next = middle,
                        }
                    }
                }
                let next = next * step;
                if next <= size {
                    return Ok(false);
                }
                if !self.waits {
                    return Err(Error::WouldBlock);
                }
                change.set_size(ino, &mut inode, next, false)?;
                change.put(ino, &inode)?;
                Ok(true)
            })?;
            if !cut {
                return Ok(());
            }
        }
    }

    /// Notes that the content was looked at. What is read matters more than
    /// the time: nobody waits for this, and no failure is reported.
    pub(super) fn touch(&self, ino: u64) {
        if snapshots::is_fixed(ino) {
            return;
        }
        let touched = self.core.tier.try_run(|op| {
            let mut change = self.core.change(op);
            let mut inode = change.inode(ino)?;
            if change.wants_atime(&inode) {
                inode.atime = change.now;
                change.put(ino, &inode)?;
            }
            Ok(())
        });
        if let Err(error) = touched {
            log::debug!("access time of inode {ino}: {error}");
        }
    }

    /// What chattr(1) may set: see [`InodeFlags`]. Unknown flags are refused
    /// with [`Error::NotSupported`]; only the owner and root may set flags,
    /// and only root `IMMUTABLE` and `APPEND` ([`Error::NotPermitted`]).
    /// The flags are shown by [`attr`](Self::attr). Those about compression
    /// are another face of the file's policy: see
    /// [`set_compression_flags`](Self::set_compression_flags).
    pub fn set_flags(&self, ino: u64, flags: u32, caller: Caller) -> Result<()> {
        let flags = InodeFlags::from_bits(flags).ok_or(Error::NotSupported)?;
        self.set_known_flags(ino, flags, caller, |_| ())
    }

    pub(super) fn set_known_flags(
        &self,
        ino: u64,
        flags: InodeFlags,
        caller: Caller,
        more: impl Fn(&mut Inode),
    ) -> Result<()> {
        self.change(|change| {
            let mut inode = change.inode(ino)?;
            let root = caller.uid == 0;
            let changed = inode.flags ^ flags;
            let guarded = InodeFlags::IMMUTABLE | InodeFlags::APPEND;
            if !root && (caller.uid != inode.uid || changed.intersects(guarded)) {
                return Err(Error::NotPermitted);
            }
            inode.flags = flags;
            more(&mut inode);
            inode.ctime = change.now;
            change.put(ino, &inode)
        })
    }
}
