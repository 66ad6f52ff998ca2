//! What lives without a name: an inode that is open, or that a kernel knows.
//!
//! Handles and lookups are only counted. Callers keep what belongs to a
//! handle themselves: the inode, and whether it appends.

use super::*;

/// Who needs an inode beside its names.
#[derive(Default)]
pub(super) struct Held {
    /// Answers that named it to a kernel, less those that it has forgotten.
    lookups: u64,
    /// Handles.
    opens: u32,
    /// It has lost its last name meanwhile.
    orphan: bool,
}

impl Core {
    pub(super) fn is_held(&self, ino: u64) -> bool {
        self.held.lock().contains_key(&ino)
    }

    /// Counts one more handle. The last thing an operation does: it cannot be
    /// taken back.
    fn count_handle(&self, ino: u64) {
        self.held.lock().entry(ino).or_default().opens += 1;
    }

    /// Whether any inode with a number in a range has handles.
    pub(super) fn is_any_open(&self, range: std::ops::Range<u64>) -> bool {
        let held = self.held.lock();
        held.iter()
            .any(|(ino, held)| range.contains(ino) && held.opens > 0)
    }

    /// The inode has lost its last name. Says whether it is held; then it is
    /// freed when it is let go.
    pub(super) fn mark_orphan(&self, ino: u64) -> bool {
        match self.held.lock().get_mut(&ino) {
            Some(held) => {
                held.orphan = true;
                true
            }
            None => false,
        }
    }

    /// Changes the counts of an inode, and has it freed if that was the last
    /// hold on it. `false` when nobody held it.
    fn let_go(&self, ino: u64, change: impl FnOnce(&mut Held)) -> bool {
        let mut all = self.held.lock();
        let Some(held) = all.get_mut(&ino) else {
            return false;
        };
        change(held);
        if held.opens == 0 && held.lookups == 0 {
            let orphan = held.orphan;
            all.remove(&ino);
            // Kernels forget many at once when memory is short.
            if all.capacity() > 1024 && all.len() < all.capacity() / 4 {
                all.shrink_to_fit();
            }
            drop(all);
            if orphan {
                self.reap_later(ino);
            }
        }
        true
    }
}

impl Change<'_, '_> {
    /// Opens a regular file that is there. The last thing an operation does.
    pub(super) fn open(&mut self, ino: u64, mut inode: Inode, flags: OpenFlags) -> Result<Inode> {
        let truncates = flags.contains(OpenFlags::TRUNCATE);
        let writes = flags.contains(OpenFlags::WRITE) || truncates;
        let appends = flags.contains(OpenFlags::APPEND) && !truncates;
        if writes && snapshots::is_fixed(ino) {
            return Err(Error::ReadOnly);
        }
        if writes && inode.flags.contains(InodeFlags::IMMUTABLE)
            || writes && !appends && inode.flags.contains(InodeFlags::APPEND)
        {
            return Err(Error::NotPermitted);
        }
        if truncates {
            self.set_size(ino, &mut inode, 0, flags.contains(OpenFlags::DROP_SUID))?;
            self.put(ino, &inode)?;
        }
        self.core.count_handle(ino);
        Ok(inode)
    }
}

impl Volume {
    /// The attributes that answer a request for an inode, which counts as a
    /// lookup in a [counting](Self::counting) view. The last thing an
    /// operation does: it cannot be taken back.
    pub(super) fn answer(&self, ino: u64, inode: &Inode) -> Attr {
        if self.counts {
            self.core.held.lock().entry(ino).or_default().lookups += 1;
        }
        self.core.attr(ino, inode)
    }

    /// Takes back lookups that a [counting](Self::counting) view has counted:
    /// the kernel has forgotten them, or never heard of them. Never waits.
    pub fn forget(&self, ino: u64, lookups: u64) {
        let known = self.core.let_go(ino, |held| {
            held.lookups = held.lookups.saturating_sub(lookups);
        });
        // The kernel knows the root without having asked for it.
        if !known && ino != ROOT {
            log::debug!("inode {ino} was forgotten once more than looked up");
        }
    }

    /// Takes back all lookups: the kernel that asked for them has unmounted.
    pub fn forget_all(&self) {
        let known: Vec<u64> = self.core.held.lock().keys().copied().collect();
        for ino in known {
            self.core.let_go(ino, |held| held.lookups = 0);
        }
    }

    /// Opens a regular file. Each success wants one [`release`](Self::release).
    /// `TRUNCATE` and `DROP_SUID` are acted on; `WRITE` and `APPEND` are
    /// compared with the inode's flags.
    pub fn open_file(&self, ino: u64, flags: OpenFlags) -> Result<()> {
        let open = |change: &mut Change<'_, '_>| {
            let inode = change.file(ino)?;
            change.open(ino, inode, flags)
        };
        match flags.contains(OpenFlags::TRUNCATE) {
            true => {
                self.shorten(ino, 0)?;
                self.change(open)
            }
            false if flags.contains(OpenFlags::WRITE) => self.change(open),
            false => self.look(open),
        }
        .map(drop)
    }

    /// Opens a directory. Each success wants one [`release`](Self::release).
    pub fn open_dir(&self, ino: u64) -> Result<()> {
        self.look(|change| {
            change.dir(ino)?;
            self.core.count_handle(ino);
            Ok(())
        })
    }

    /// Closes what [`open_file`](Self::open_file), [`open_dir`](Self::open_dir)
    /// or [`create`](Self::create) opened. Never waits.
    pub fn release(&self, ino: u64) {
        let mut opened = false;
        self.core.let_go(ino, |held| {
            opened = held.opens > 0;
            held.opens = held.opens.saturating_sub(1);
        });
        if !opened {
            log::warn!("inode {ino} was closed once more than opened");
        }
    }
}
