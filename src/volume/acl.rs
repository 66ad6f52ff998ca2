//! POSIX access control lists, as acl(5) describes them.
//!
//! Lists are extended attributes in the shape that Linux gives them
//! (`linux/posix_acl_xattr.h`): `u32` version 2, then for each entry `u16` tag,
//! `u16` permissions, `u32` user or group, all little endian. The kernel
//! enforces them; here they are checked, kept in step with the mode, and
//! handed on to what is made in a directory.

use super::*;

/// The list that decides on access.
pub const ACL_ACCESS: &[u8] = b"system.posix_acl_access";

/// The list of a directory that what is made in it begins with.
pub const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Whether an attribute of this name is an access control list.
pub fn is_acl(name: &[u8]) -> bool {
    name == ACL_ACCESS || name == ACL_DEFAULT
}

const VERSION: u32 = 2;

/// The `id` of entries that are about nobody by name.
const NOBODY: u32 = u32::MAX;

/// Whom an entry is about, in the order in which entries stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
enum Tag {
    Owner = 0x01,
    User = 0x02,
    OwnerGroup = 0x04,
    Group = 0x08,
    Mask = 0x10,
    Other = 0x20,
}

impl Tag {
    fn of(code: u16) -> Option<Tag> {
        use Tag::*;
        [Owner, User, OwnerGroup, Group, Mask, Other]
            .into_iter()
            .find(|tag| *tag as u16 == code)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    /// `rwx` as the low three bits of a mode.
    permissions: u32,
    /// Of a [`Tag::User`] or [`Tag::Group`].
    id: u32,
}

/// A list that is complete and in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// `None` for an empty list, which means that there is none.
    pub fn parse(value: &[u8]) -> Result<Option<Acl>> {
        let malformed = Error::Invalid("an access control list is malformed");
        let Some((version, rest)) = value.split_first_chunk() else {
            return Err(malformed);
        };
        let (rows, []) = rest.as_chunks::<8>() else {
            return Err(malformed);
        };
        if u32::from_le_bytes(*version) != VERSION {
            return Err(malformed);
        }
        let mut entries = Vec::with_capacity(rows.len());
        for [t0, t1, p0, p1, id @ ..] in rows {
            let permissions = u16::from_le_bytes([*p0, *p1]).into();
            let id = u32::from_le_bytes(*id);
            let Some(tag) = Tag::of(u16::from_le_bytes([*t0, *t1])) else {
                return Err(malformed);
            };
            let named = matches!(tag, Tag::User | Tag::Group);
            if permissions > 7 || named && id == NOBODY {
                return Err(malformed);
            }
            entries.push(Entry {
                tag,
                permissions,
                id: if named { id } else { NOBODY },
            });
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
        let needed = [Tag::Owner, Tag::OwnerGroup, Tag::Other];
        let names = count(Tag::User) + count(Tag::Group) > 0;
        let complete = needed.into_iter().all(|tag| count(tag) == 1)
            && (count(Tag::Mask) == 1 || count(Tag::Mask) == 0 && !names);
        match complete && entries.is_sorted_by_key(|entry| entry.tag) {
            true => Ok(Some(Acl { entries })),
            false => Err(malformed),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            value.extend_from_slice(&(entry.tag as u16).to_le_bytes());
            value.extend_from_slice(&(entry.permissions as u16).to_le_bytes());
            value.extend_from_slice(&entry.id.to_le_bytes());
        }
        value
    }

    /// Whether it says no more than a mode can.
    pub fn is_minimal(&self) -> bool {
        self.entries.len() == 3
    }

    /// The entry that the group bits of the mode stand for.
    fn group_class(&self) -> Tag {
        match self.entries.iter().any(|entry| entry.tag == Tag::Mask) {
            true => Tag::Mask,
            false => Tag::OwnerGroup,
        }
    }

    /// The three entries that the mode shows, with the shift of their bits.
    fn shown(&mut self) -> impl Iterator<Item = (&mut Entry, u32)> {
        let group = self.group_class();
        self.entries.iter_mut().filter_map(move |entry| {
            let shift = match entry.tag {
                Tag::Owner => 6,
                Tag::Other => 0,
                tag if tag == group => 3,
                _ => return None,
            };
            Some((entry, shift))
        })
    }

    /// The permission bits that a mode shows for it.
    pub fn mode(&self) -> u32 {
        let bits = |(entry, shift): (&mut Entry, u32)| entry.permissions << shift;
        self.clone().shown().map(bits).sum()
    }

    /// What chmod(2) does to it.
    pub fn set_mode(&mut self, mode: u32) {
        for (entry, shift) in self.shown() {
            entry.permissions = mode >> shift & 7;
        }
    }

    /// Makes a default list the access list of a new inode, of which `mode`
    /// was asked for; returns the mode that it gets.
    pub fn inherit(&mut self, mode: u32) -> u32 {
        for (entry, shift) in self.shown() {
            entry.permissions &= mode >> shift;
        }
        mode & !0o777 | self.mode()
    }
}

impl Change<'_, '_> {
    fn acl(&self, ino: u64, inode: &Inode, name: &[u8]) -> Result<Option<Acl>> {
        match self.xattr(ino, inode, name) {
            Ok(value) => Acl::parse(&value)
                .map_err(|_| Error::Corrupt(format!("the access control list of inode {ino}"))),
            Err(Error::NoAttribute) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores a list, or deletes what is there.
    fn put_acl(
        &mut self,
        ino: u64,
        inode: &mut Inode,
        name: &[u8],
        acl: Option<&Acl>,
    ) -> Result<()> {
        match acl {
            Some(acl) => self.put_xattr(ino, inode, name, &acl.encode(), XattrFlags::empty()),
            None => match self.delete_xattr(ino, inode, name) {
                Err(Error::NoAttribute) => Ok(()),
                result => result,
            },
        }
    }

    /// The mode of an inode to be made in `dir`, and the lists that it gets.
    pub fn inherit(
        &self,
        parent: u64,
        dir: &Inode,
        file_type: FileType,
        mode: Mode,
    ) -> Result<(u32, [Option<Acl>; 2])> {
        let default = match file_type {
            FileType::Symlink => return Ok((mode.bits, [None, None])),
            _ => self.acl(parent, dir, ACL_DEFAULT)?,
        };
        let Some(mut acl) = default else {
            return Ok((mode.bits & !mode.umask, [None, None]));
        };
        let default = (file_type == FileType::Directory).then(|| acl.clone());
        let bits = acl.inherit(mode.bits);
        Ok((bits, [(!acl.is_minimal()).then_some(acl), default]))
    }

    /// Stores the lists of an inode just made.
    pub fn put_inherited(
        &mut self,
        ino: u64,
        inode: &mut Inode,
        [access, default]: &[Option<Acl>; 2],
    ) -> Result<()> {
        for (name, acl) in [(ACL_ACCESS, access), (ACL_DEFAULT, default)] {
            if acl.is_some() {
                self.put_acl(ino, inode, name, acl.as_ref())?;
            }
        }
        Ok(())
    }

    /// Sets the permission bits of a mode in the access list too.
    pub fn set_mode(&mut self, ino: u64, inode: &mut Inode, mode: u32) -> Result<()> {
        inode.mode = mode & 0o7777;
        if let Some(mut acl) = self.acl(ino, inode, ACL_ACCESS)? {
            acl.set_mode(mode);
            self.put_acl(ino, inode, ACL_ACCESS, Some(&acl))?;
        }
        Ok(())
    }
}

impl Volume {
    /// Sets or, by an empty list, removes an access control list. An access
    /// list changes the mode, and is kept only if it says more than that.
    ///
    /// `groups` are the caller's: setting the access list of a file of another
    /// group drops set-group-id. `None` for a caller who may keep it.
    pub fn set_acl(
        &self,
        ino: u64,
        name: &[u8],
        value: &[u8],
        groups: Option<&[u32]>,
    ) -> Result<()> {
        let acl = Acl::parse(value)?;
        self.change(|change| {
            let mut inode = change.xattr_inode(ino, name)?;
            let mut kept = acl.as_ref();
            match name == ACL_ACCESS {
                true => {
                    if let Some(acl) = kept {
                        inode.mode = inode.mode & !0o777 | acl.mode();
                        if groups.is_some_and(|groups| !groups.contains(&inode.gid)) {
                            inode.mode &= !libc::S_ISGID;
                        }
                    }
                    kept = kept.filter(|acl| !acl.is_minimal());
                }
                false if !inode.is_dir() && kept.is_some() => return Err(Error::AccessDenied),
                false => {}
            }
            change.put_acl(ino, &mut inode, name, kept)?;
            inode.ctime = change.now;
            change.put(ino, &inode)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `u:rwx, u:1000:rw, g:rx, g:50:r, m:rx, o:-`, as Linux writes it.
    const FULL: [u8; 52] = [
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 6, 0, 0xe8, 3, 0, 0, 4, 0, 5, 0, 255,
        255, 255, 255, 8, 0, 4, 0, 50, 0, 0, 0, 16, 0, 5, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255,
        255, 255, 255,
    ];

    #[test]
    fn lists_are_read_and_written_as_linux_does() {
        let mut acl = Acl::parse(&FULL).unwrap().unwrap();
        assert_eq!(acl.encode(), FULL);
        assert_eq!((acl.mode(), acl.is_minimal()), (0o750, false));
        acl.set_mode(0o6461);
        assert_eq!(acl.mode(), 0o461);
        // The mask, not the group's own entry.
        assert_eq!(acl.entries[2].permissions, 5);
        let mut acl = Acl::parse(&FULL).unwrap().unwrap();
        assert_eq!(acl.inherit(0o4644), 0o4640);
        assert_eq!(acl.mode(), 0o640);
        let mut minimal = [&FULL[..12], &FULL[20..28], &FULL[44..]].concat();
        minimal[6] = 6;
        let minimal = Acl::parse(&minimal).unwrap().unwrap();
        assert_eq!((minimal.mode(), minimal.is_minimal()), (0o650, true));
        assert_eq!(Acl::parse(&FULL[..4]).unwrap(), None);
    }

    #[test]
    fn malformed_lists_are_refused() {
        for len in (0..FULL.len()).filter(|len| *len != 4) {
            assert!(Acl::parse(&FULL[..len]).is_err(), "{len} bytes");
        }
        let change = |at: usize, to: u8| {
            let mut value = FULL;
            value[at] = to;
            Acl::parse(&value)
        };
        // Version, tag, permissions, order, and a user without a number.
        for (at, to) in [(0, 1), (4, 3), (6, 8), (12, 8), (36, 32), (5, 1)] {
            assert!(change(at, to).is_err(), "{to} at {at}");
        }
        let mut nobody = FULL;
        nobody[16..20].fill(255);
        assert!(Acl::parse(&nobody).is_err());
        // Names but no mask; an entry twice.
        let without = [&FULL[..36], &FULL[44..]].concat();
        assert!(Acl::parse(&without).is_err());
        let twice = [&FULL[..12], &FULL[4..]].concat();
        assert!(Acl::parse(&twice).is_err());
        assert!(change(16, 0xe9).is_ok());
    }
}
