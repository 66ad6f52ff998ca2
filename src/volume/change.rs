//! One operation on the rows of a volume.

use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::store::Table;
use crate::tier::Op;

use super::rows::{self, Counters, Dirent, Inode, SAME_HASH, Stamp};
use super::snapshots::{self, SNAPSHOTS, is_fixed};
use super::types::{FileType, InodeFlags, NAME_MAX, XATTR_MAX};
use super::{Core, Volume};

/// Files of at most this many chunks are freed where they lose their last
/// name; larger ones by the reaper.
const FREED_AT_ONCE: u64 = 256;

/// Runs of chunks that one operation frees at most.
const RUNS_FREED: usize = 64;

/// An operation: what it reads includes its own changes.
pub(super) struct Change<'a, 'op> {
    pub op: &'a mut Op<'op>,
    pub core: &'a Core,
    pub now: Stamp,
}

impl Core {
    pub fn change<'a, 'op>(&'a self, op: &'a mut Op<'op>) -> Change<'a, 'op> {
        Change {
            op,
            core: self,
            now: SystemTime::now().into(),
        }
    }
}

impl Volume {
    /// An operation that may change something. `f` may run several times.
    pub(super) fn change<T>(
        &self,
        mut f: impl FnMut(&mut Change<'_, '_>) -> Result<T>,
    ) -> Result<T> {
        if self.core.options.read_only {
            return Err(Error::ReadOnly);
        }
        match self.look(&mut f) {
            // What was just deleted may not have been given back yet.
            Err(Error::NoSpace) if !self.waits => Err(Error::WouldBlock),
            Err(Error::NoSpace) => {
                self.core.wait_for_reaper();
                match self.core.tier.make_space() {
                    true => self.look(f),
                    false => Err(Error::NoSpace),
                }
            }
            result => result,
        }
    }

    /// An operation that only reads.
    pub(super) fn look<T>(&self, mut f: impl FnMut(&mut Change<'_, '_>) -> Result<T>) -> Result<T> {
        let f = |op: &mut Op<'_>| f(&mut self.core.change(op));
        match self.waits {
            true => self.core.tier.run(f),
            false => self.core.tier.try_run(f)?.ok_or(Error::WouldBlock),
        }
    }
}

impl Change<'_, '_> {
    pub(super) fn row(&self, ino: u64) -> Result<Option<Inode>> {
        if ino == SNAPSHOTS {
            return self.snapshots_inode().map(Some);
        }
        let Some(row) = self.op.get(Table::Inode, &rows::inode_key(ino))? else {
            return Ok(None);
        };
        let mut inode = Inode::decode(&row)?;
        inode.parent = snapshots::parent_in(ino, &inode);
        Ok(Some(inode))
    }

    /// An inode that lives: it has a name or is held.
    pub fn inode(&self, ino: u64) -> Result<Inode> {
        match self.row(ino)? {
            Some(inode) if inode.nlink > 0 || self.core.is_held(ino) => Ok(inode),
            _ => Err(Error::NotFound),
        }
    }

    /// The inode that a directory entry leads to.
    pub fn entry_inode(&self, entry: &Dirent) -> Result<Inode> {
        self.row(entry.ino)?.ok_or_else(|| {
            let name = String::from_utf8_lossy(&entry.name);
            Error::Corrupt(format!("the inode {} of {name:?} is missing", entry.ino))
        })
    }

    /// A directory that is held or has a name.
    pub fn dir(&self, ino: u64) -> Result<Inode> {
        let inode = self.inode(ino)?;
        match inode.is_dir() {
            true => Ok(inode),
            false => Err(Error::NotDirectory),
        }
    }

    /// A directory whose entries may be changed.
    pub fn dir_to_change(&self, ino: u64, removes: bool) -> Result<Inode> {
        let inode = self.dir(ino)?;
        if is_fixed(ino) {
            return Err(Error::ReadOnly);
        }
        if inode.nlink == 0 {
            return Err(Error::NotFound);
        }
        let fixed = match removes {
            true => InodeFlags::IMMUTABLE | InodeFlags::APPEND,
            false => InodeFlags::IMMUTABLE,
        };
        match inode.flags.intersects(fixed) {
            true => Err(Error::NotPermitted),
            false => Ok(inode),
        }
    }

    /// A regular file.
    pub fn file(&self, ino: u64) -> Result<Inode> {
        let inode = self.inode(ino)?;
        match inode.file_type {
            FileType::Regular => Ok(inode),
            FileType::Directory => Err(Error::IsDirectory),
            _ => Err(Error::Invalid("not a regular file")),
        }
    }

    /// Every change of an inode comes here, and so no snapshot is changed.
    pub fn put(&mut self, ino: u64, inode: &Inode) -> Result<()> {
        if is_fixed(ino) {
            return Err(Error::ReadOnly);
        }
        self.op
            .put(Table::Inode, rows::inode_key(ino), inode.encode())
    }

    /// Changes an inode that is there.
    pub fn edit(&mut self, ino: u64, edit: impl FnOnce(&mut Inode) -> Result<()>) -> Result<()> {
        let mut inode = self.row(ino)?.ok_or_else(|| {
            Error::Corrupt(format!("inode {ino} is named by a directory but missing"))
        })?;
        edit(&mut inode)?;
        self.put(ino, &inode)
    }

    pub fn counters(&self) -> Result<Counters> {
        match self.op.get(Table::Meta, rows::VOLUME)? {
            Some(row) => Counters::decode(&row),
            None => Err(Error::Corrupt("the volume's row is missing".into())),
        }
    }

    pub fn put_counters(&mut self, counters: &Counters) -> Result<()> {
        self.op.put(Table::Meta, rows::VOLUME, counters.encode())
    }

    /// Stores a new inode and returns its number.
    pub fn add_inode(&mut self, inode: &Inode) -> Result<u64> {
        let mut counters = self.counters()?;
        let ino = counters.next_ino;
        if is_fixed(ino) {
            return Err(Error::Corrupt(
                "the volume's row says that all inode numbers are used".into(),
            ));
        }
        counters.next_ino += 1;
        counters.count(inode, 1);
        self.put_counters(&counters)?;
        self.put(ino, inode)?;
        Ok(ino)
    }

    /// The entry of a name. Names with the same hash lie side by side.
    pub fn find(&self, parent: u64, name: &[u8]) -> Result<Option<Dirent>> {
        let same_hash = self.same_hash(parent, name)?;
        match same_hash.into_iter().find(|entry| entry.name == name) {
            Some(entry) => Ok(Some(entry)),
            None => self.find_snapshots(parent, name),
        }
    }

    fn same_hash(&self, parent: u64, name: &[u8]) -> Result<Vec<Dirent>> {
        let first = rows::first_cookie(name);
        let end = rows::dirent_place(parent, first + SAME_HASH as u64);
        let start = rows::dirent_place(parent, first);
        self.op
            .scan(Table::Dirent, &start, Some(&end), SAME_HASH)?
            .iter()
            .map(|(key, row)| Dirent::decode(key, row))
            .collect()
    }

    /// Adds an entry; the caller knows that there is none of that name.
    pub fn add_entry(
        &mut self,
        parent: u64,
        name: &[u8],
        ino: u64,
        file_type: FileType,
    ) -> Result<()> {
        let same_hash = self.same_hash(parent, name)?;
        let first = rows::first_cookie(name);
        let free = (first..)
            .take(SAME_HASH)
            .find(|cookie| same_hash.iter().all(|entry| entry.cookie != *cookie))
            .ok_or(Error::NoSpace)?;
        let key = rows::dirent_key(parent, free, name);
        self.op
            .put(Table::Dirent, key, rows::dirent_row(ino, file_type))?;
        let now = self.now;
        self.edit(parent, |dir| {
            dir.size = dir.size.saturating_add(1);
            (dir.mtime, dir.ctime) = (now, now);
            Ok(())
        })
    }

    /// Lets an entry lead to another inode.
    pub fn point_entry(
        &mut self,
        parent: u64,
        entry: &Dirent,
        ino: u64,
        file_type: FileType,
    ) -> Result<()> {
        let key = rows::dirent_key(parent, entry.cookie, &entry.name);
        self.op
            .put(Table::Dirent, key, rows::dirent_row(ino, file_type))?;
        let now = self.now;
        self.edit(parent, |dir| {
            (dir.mtime, dir.ctime) = (now, now);
            Ok(())
        })
    }

    pub fn remove_entry(&mut self, parent: u64, entry: &Dirent) -> Result<()> {
        let key = rows::dirent_key(parent, entry.cookie, &entry.name);
        self.op.delete(Table::Dirent, key)?;
        let now = self.now;
        self.edit(parent, |dir| {
            dir.size = dir.size.saturating_sub(1);
            (dir.mtime, dir.ctime) = (now, now);
            Ok(())
        })
    }

    /// Changes how many directories name `ino` as their parent.
    pub fn count_subdir(&mut self, ino: u64, change: i32) -> Result<()> {
        self.edit(ino, |dir| {
            dir.nlink = dir
                .nlink
                .checked_add_signed(change)
                .ok_or(Error::TooManyLinks)?;
            Ok(())
        })
    }

    /// Takes one name from an inode, or the only one from a directory. Without
    /// names it is freed, now or, when it is held or large, later.
    pub fn drop_link(&mut self, ino: u64, mut inode: Inode) -> Result<()> {
        inode.nlink = match inode.is_dir() {
            true => 0,
            false => inode.nlink.saturating_sub(1),
        };
        inode.ctime = self.now;
        if inode.nlink > 0 {
            return self.put(ino, &inode);
        }
        let held = self.core.mark_orphan(ino);
        // `FREED_AT_ONCE` chunks lie in no more runs than that.
        if !held
            && inode.chunks <= FREED_AT_ONCE
            && self.op.free_some(ino, FREED_AT_ONCE as usize + 1)?
        {
            return self.remove_inode(ino, &inode);
        }
        self.put(ino, &inode)?;
        self.op
            .put(Table::Orphan, rows::inode_key(ino), rows::ORPHAN)?;
        if !held {
            self.core.reap_later(ino);
        }
        Ok(())
    }

    /// Frees a part of what an inode without a name holds, and at last the
    /// inode. `true` when there is nothing left to do.
    pub fn reap(&mut self, ino: u64) -> Result<bool> {
        match self.row(ino)? {
            Some(inode) if inode.nlink == 0 => {
                if self.core.is_held(ino) {
                    return Ok(true);
                }
                if !self.op.free_some(ino, RUNS_FREED)? {
                    return Ok(false);
                }
                self.remove_inode(ino, &inode)?;
            }
            _ => {}
        }
        let key = rows::inode_key(ino);
        if self.op.get(Table::Orphan, &key)?.is_some() {
            self.op.delete(Table::Orphan, key)?;
        }
        Ok(true)
    }

    /// Removes the rows of an inode that has no chunks.
    fn remove_inode(&mut self, ino: u64, inode: &Inode) -> Result<()> {
        if inode.xattrs > 0 {
            for (key, _) in self.xattr_rows(ino)? {
                self.op.delete(Table::Xattr, key)?;
            }
        }
        self.op.delete(Table::Inode, rows::inode_key(ino))?;
        let mut counters = self.counters()?;
        counters.count(inode, -1);
        self.put_counters(&counters)
    }

    /// All rows of an inode's extended attributes: their names take no more
    /// than `XATTR_MAX` bytes, so there are not more either.
    pub fn xattr_rows(&self, ino: u64) -> Result<Vec<crate::store::Row>> {
        let end = ino.checked_add(1).map(rows::inode_key);
        let end = end.as_ref().map(|key| key.as_slice());
        self.op
            .scan(Table::Xattr, &rows::inode_key(ino), end, XATTR_MAX)
    }

    /// What happens to set-user-id, set-group-id and file capabilities when a
    /// file is written or given away.
    pub fn drop_privileges(&mut self, ino: u64, inode: &mut Inode, suid: bool) -> Result<()> {
        if suid {
            inode.mode &= !libc::S_ISUID;
            // Without execution by the group it used to mean locking.
            if inode.mode & libc::S_IXGRP != 0 {
                inode.mode &= !libc::S_ISGID;
            }
        }
        if inode.xattrs > 0 {
            let key = rows::xattr_key(ino, b"security.capability");
            if self.op.get(Table::Xattr, &key)?.is_some() {
                self.op.delete(Table::Xattr, key)?;
                inode.xattrs -= 1;
            }
        }
        Ok(())
    }
}

/// Whether a name can stand in a directory. `.` and `..` are for the caller.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
    match name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        true => Err(Error::Invalid("a name is empty or contains a slash or NUL")),
        false => Ok(()),
    }
}
