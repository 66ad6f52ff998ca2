//! What is open: an inode lives as long as it is.
//!
//! Handles are only counted. Callers keep what belongs to a handle
//! themselves: the inode, and whether it appends.

use super::*;

/// The handles of one inode.
#[derive(Default)]
pub(super) struct Open {
    count: u64,
    /// It has lost its last name meanwhile.
    orphan: bool,
}

impl Core {
    pub(super) fn is_open(&self, ino: u64) -> bool {
        self.open.lock().contains_key(&ino)
    }

    /// Counts one more handle. The last thing an operation does: it cannot be
    /// taken back.
    fn count_handle(&self, ino: u64) {
        self.open.lock().entry(ino).or_default().count += 1;
    }

    /// The inode has lost its last name. Says whether it is open; then it is
    /// freed when it is closed.
    pub(super) fn mark_orphan(&self, ino: u64) -> bool {
        match self.open.lock().get_mut(&ino) {
            Some(open) => {
                open.orphan = true;
                true
            }
            None => false,
        }
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
        let mut handles = self.core.open.lock();
        let Some(open) = handles.get_mut(&ino) else {
            return log::warn!("inode {ino} was closed once more than opened");
        };
        open.count -= 1;
        if open.count == 0 {
            let orphan = open.orphan;
            handles.remove(&ino);
            drop(handles);
            if orphan {
                self.core.reap_later(ino);
            }
        }
    }
}
