//! Names: finding, making, removing and renaming.

use super::change::check_name;
use super::rows::Dirent;
use super::*;

/// No directory lies deeper than this below another; more would be a circle.
const DEEPEST: usize = 1 << 24;

/// What to make.
struct New<'a> {
    file_type: FileType,
    mode: Mode,
    rdev: u32,
    target: &'a [u8],
    caller: Caller,
}

impl Change<'_, '_> {
    /// Makes an inode and its name. The caller has checked that the name is free.
    fn make(&mut self, parent: u64, name: &[u8], new: &New<'_>) -> Result<(u64, Inode)> {
        let dir = self.dir_to_change(parent, false)?;
        let Caller { uid, gid } = new.caller;
        let (mode, lists) = self.inherit(parent, &dir, new.file_type, new.mode)?;
        let mut inode = Inode::new(new.file_type, mode, uid, gid, self.now);
        inode.rdev = new.rdev;
        inode.target = new.target.to_vec();
        inode.size = new.target.len() as u64;
        if dir.mode & libc::S_ISGID != 0 {
            inode.gid = dir.gid;
            if inode.is_dir() {
                inode.mode |= libc::S_ISGID;
            }
        }
        if inode.is_dir() {
            inode.parent = parent;
        }
        if inode.has_content() {
            inode.policy = dir.policy;
        }
        let ino = self.add_inode(&inode)?;
        if lists.iter().any(Option::is_some) {
            self.put_inherited(ino, &mut inode, &lists)?;
            self.put(ino, &inode)?;
        }
        if inode.is_dir() {
            self.count_subdir(parent, 1)?;
        }
        self.add_entry(parent, name, ino, new.file_type)?;
        Ok((ino, inode))
    }

    /// The entry of a name in a directory where it will be changed.
    fn entry_to_change(&self, parent: u64, name: &[u8]) -> Result<(Dirent, Inode)> {
        self.dir_to_change(parent, true)?;
        let entry = self.find(parent, name)?.ok_or(Error::NotFound)?;
        if snapshots::is_fixed(entry.ino) {
            return Err(Error::ReadOnly);
        }
        let inode = self.entry_inode(&entry)?;
        let fixed = InodeFlags::IMMUTABLE | InodeFlags::APPEND;
        match inode.flags.intersects(fixed) {
            true => Err(Error::NotPermitted),
            false => Ok((entry, inode)),
        }
    }

    /// Whether `dir` is `ino` or lies below it.
    fn is_below(&self, dir: u64, ino: u64) -> Result<bool> {
        let mut at = dir;
        for _ in 0..DEEPEST {
            if at == ino {
                return Ok(true);
            }
            if at == ROOT {
                return Ok(false);
            }
            at = self.dir(at)?.parent;
        }
        Err(Error::Corrupt(format!(
            "directory {dir} does not hang on the root"
        )))
    }

    /// A directory has moved from one parent to another.
    fn move_dir(&mut self, ino: u64, inode: &Inode, from: u64, to: u64) -> Result<()> {
        if !inode.is_dir() || from == to {
            return Ok(());
        }
        self.count_subdir(from, -1)?;
        self.count_subdir(to, 1)?;
        self.edit(ino, |dir| {
            dir.parent = to;
            Ok(())
        })
    }

    fn touch_ctime(&mut self, ino: u64) -> Result<()> {
        let now = self.now;
        self.edit(ino, |inode| {
            inode.ctime = now;
            Ok(())
        })
    }

    fn rename(
        &mut self,
        (parent, name): (u64, &[u8]),
        (new_parent, new_name): (u64, &[u8]),
        flags: RenameFlags,
    ) -> Result<()> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let (from, inode) = self.entry_to_change(parent, name)?;
        self.dir_to_change(new_parent, exchange)?;
        let to = self.find(new_parent, new_name)?;
        match &to {
            None if exchange => return Err(Error::NotFound),
            Some(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Error::Exists),
            // Two names of one file: POSIX leaves both.
            Some(to) if to.ino == from.ino => return Ok(()),
            _ => {}
        }
        if inode.is_dir() && self.is_below(new_parent, from.ino)? {
            return Err(Error::Invalid("a directory cannot be moved into itself"));
        }
        let Some(to) = to else {
            self.remove_entry(parent, &from)?;
            self.add_entry(new_parent, new_name, from.ino, from.file_type)?;
            self.move_dir(from.ino, &inode, parent, new_parent)?;
            return self.touch_ctime(from.ino);
        };
        let (_, replaced) = self.entry_to_change(new_parent, new_name)?;
        if exchange {
            if replaced.is_dir() && self.is_below(parent, to.ino)? {
                return Err(Error::Invalid("a directory cannot be moved into itself"));
            }
            self.point_entry(parent, &from, to.ino, to.file_type)?;
            self.point_entry(new_parent, &to, from.ino, from.file_type)?;
            self.move_dir(from.ino, &inode, parent, new_parent)?;
            self.move_dir(to.ino, &replaced, new_parent, parent)?;
            self.touch_ctime(to.ino)?;
            return self.touch_ctime(from.ino);
        }
        match (inode.is_dir(), replaced.is_dir()) {
            (true, false) => return Err(Error::NotDirectory),
            (false, true) => return Err(Error::IsDirectory),
            (true, true) if replaced.size > 0 => return Err(Error::NotEmpty),
            _ => {}
        }
        self.remove_entry(parent, &from)?;
        self.point_entry(new_parent, &to, from.ino, from.file_type)?;
        self.move_dir(from.ino, &inode, parent, new_parent)?;
        self.touch_ctime(from.ino)?;
        if replaced.is_dir() {
            self.count_subdir(new_parent, -1)?;
        }
        self.drop_link(to.ino, replaced)
    }
}

fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

impl Volume {
    /// `.` and `..` are understood.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        check_name(name)?;
        self.look(|change| {
            let dir = change.dir(parent)?;
            let ino = match name {
                b"." => return Ok(self.answer(parent, &dir)),
                b".." => dir.parent,
                _ => {
                    let entry = change.find(parent, name)?.ok_or(Error::NotFound)?;
                    let inode = change.entry_inode(&entry)?;
                    return Ok(self.answer(entry.ino, &inode));
                }
            };
            Ok(self.answer(ino, &change.inode(ino)?))
        })
    }

    fn make(&self, parent: u64, name: &[u8], new: &New<'_>) -> Result<Attr> {
        check_name(name)?;
        self.change(|change| {
            if is_dots(name) || change.dir(parent).is_ok() && change.find(parent, name)?.is_some() {
                return Err(Error::Exists);
            }
            let (ino, inode) = change.make(parent, name, new)?;
            Ok(self.answer(ino, &inode))
        })
    }

    /// Makes a regular file, FIFO, socket or device node, by the type bits of
    /// `mode`. In a directory with set-group-id the group is the directory's.
    pub fn make_node(
        &self,
        parent: u64,
        name: &[u8],
        mode: impl Into<Mode>,
        rdev: u32,
        caller: Caller,
    ) -> Result<Attr> {
        let mode = mode.into();
        let file_type = match FileType::from_mode(mode.bits) {
            Some(FileType::Directory | FileType::Symlink) | None => {
                return Err(Error::Invalid("this type of file is not made by mknod"));
            }
            Some(file_type) => file_type,
        };
        let device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        let new = New {
            file_type,
            mode,
            rdev: if device { rdev } else { 0 },
            target: b"",
            caller,
        };
        self.make(parent, name, &new)
    }

    /// Makes a regular file and opens it as [`open_file`](Self::open_file)
    /// does, or opens the one that is there. Says whether it was made.
    pub fn create(
        &self,
        parent: u64,
        name: &[u8],
        mode: impl Into<Mode>,
        flags: OpenFlags,
        caller: Caller,
    ) -> Result<(Attr, bool)> {
        check_name(name)?;
        let new = New {
            file_type: FileType::Regular,
            mode: mode.into(),
            rdev: 0,
            target: b"",
            caller,
        };
        self.change(|change| {
            change.dir(parent)?;
            let found = change.find(parent, name)?;
            if is_dots(name) || found.is_some() && flags.contains(OpenFlags::EXCLUSIVE) {
                return Err(Error::Exists);
            }
            let (ino, inode, made) = match found {
                Some(entry) => (entry.ino, change.file(entry.ino)?, false),
                None => {
                    let (ino, inode) = change.make(parent, name, &new)?;
                    (ino, inode, true)
                }
            };
            let flags = match made {
                true => OpenFlags::empty(),
                false => flags,
            };
            let inode = change.open(ino, inode, flags)?;
            Ok((self.answer(ino, &inode), made))
        })
    }

    pub fn make_dir(
        &self,
        parent: u64,
        name: &[u8],
        mode: impl Into<Mode>,
        caller: Caller,
    ) -> Result<Attr> {
        let new = New {
            file_type: FileType::Directory,
            mode: mode.into(),
            rdev: 0,
            target: b"",
            caller,
        };
        self.make(parent, name, &new)
    }

    /// `target` is 1 to [`SYMLINK_MAX`] bytes.
    pub fn symlink(&self, parent: u64, name: &[u8], target: &[u8], caller: Caller) -> Result<Attr> {
        if target.len() > SYMLINK_MAX {
            return Err(Error::NameTooLong);
        }
        if target.is_empty() || target.contains(&0) {
            return Err(Error::Invalid("a target is empty or contains NUL"));
        }
        let new = New {
            file_type: FileType::Symlink,
            mode: 0o777.into(),
            rdev: 0,
            target,
            caller,
        };
        self.make(parent, name, &new)
    }

    pub fn read_link(&self, ino: u64) -> Result<Vec<u8>> {
        let (target, touch) = self.look(|change| {
            let inode = change.inode(ino)?;
            if inode.file_type != FileType::Symlink {
                return Err(Error::Invalid("not a symbolic link"));
            }
            Ok((inode.target.clone(), change.wants_atime(&inode)))
        })?;
        if touch {
            self.touch(ino);
        }
        Ok(target)
    }

    /// Gives an inode that is no directory one more name.
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr> {
        check_name(name)?;
        self.change(|change| {
            change.dir_to_change(parent, false)?;
            let mut inode = change.inode(ino)?;
            let fixed = InodeFlags::IMMUTABLE | InodeFlags::APPEND;
            if inode.is_dir() || inode.flags.intersects(fixed) {
                return Err(Error::NotPermitted);
            }
            // Open, but its space is promised to others.
            if inode.nlink == 0 {
                return Err(Error::NotFound);
            }
            if is_dots(name) || change.find(parent, name)?.is_some() {
                return Err(Error::Exists);
            }
            inode.nlink = inode.nlink.checked_add(1).ok_or(Error::TooManyLinks)?;
            inode.ctime = change.now;
            change.put(ino, &inode)?;
            change.add_entry(parent, name, ino, inode.file_type)?;
            Ok(self.answer(ino, &inode))
        })
    }

    /// Removes a name that is no directory's.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        check_name(name)?;
        self.change(|change| {
            if is_dots(name) {
                return Err(Error::IsDirectory);
            }
            let (entry, inode) = change.entry_to_change(parent, name)?;
            if inode.is_dir() {
                return Err(Error::IsDirectory);
            }
            change.remove_entry(parent, &entry)?;
            change.drop_link(entry.ino, inode)
        })
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, parent: u64, name: &[u8]) -> Result<()> {
        check_name(name)?;
        self.change(|change| {
            match name {
                b"." => return Err(Error::Invalid("`.` cannot be removed")),
                b".." => return Err(Error::NotEmpty),
                _ => {}
            }
            let (entry, inode) = change.entry_to_change(parent, name)?;
            if !inode.is_dir() {
                return Err(Error::NotDirectory);
            }
            if inode.size > 0 {
                return Err(Error::NotEmpty);
            }
            change.remove_entry(parent, &entry)?;
            change.count_subdir(parent, -1)?;
            change.drop_link(entry.ino, inode)
        })
    }

    /// As renameat2(2): replaces what is there, unless `NOREPLACE`; with
    /// `EXCHANGE` both names change places.
    pub fn rename(
        &self,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        check_name(name)?;
        check_name(new_name)?;
        if is_dots(name) || is_dots(new_name) || flags == RenameFlags::all() {
            return Err(Error::Invalid("this cannot be renamed"));
        }
        self.change(|change| change.rename((parent, name), (new_parent, new_name), flags))
    }
}
