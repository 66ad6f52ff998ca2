//! Extended attributes: `user.*`, `trusted.*` and `security.*`.

use super::policy::CODEC;
use super::rows::{XATTR_PREFIX, xattr_key};
use super::*;

const TRUSTED: &[u8] = b"trusted.";

/// Whether attributes of this name can exist on inodes of this type.
fn check_name(name: &[u8], file_type: Option<FileType>) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Error::Range);
    }
    let user = name.starts_with(b"user.");
    let known = user || name.starts_with(TRUSTED) || name.starts_with(b"security.");
    let bare = name.iter().position(|b| *b == b'.').map(|dot| dot + 1) == Some(name.len());
    if name.contains(&0) || known && bare {
        return Err(Error::Invalid(
            "an attribute's name is empty or contains NUL",
        ));
    }
    if !known {
        return Err(Error::NotSupported);
    }
    // As user(7) says: others may open these whatever their mode allows.
    let ordinary = matches!(
        file_type,
        None | Some(FileType::Regular | FileType::Directory)
    );
    match user && !ordinary {
        true => Err(Error::NotPermitted),
        false => Ok(()),
    }
}

impl Change<'_, '_> {
    /// The names of an inode's attributes, each with a NUL behind it.
    fn xattr_names(&self, ino: u64, inode: &Inode, trusted: bool) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        if inode.policy.is_some() {
            names.extend_from_slice(CODEC);
            names.push(0);
        }
        if inode.xattrs == 0 {
            return Ok(names);
        }
        for (key, _) in self.xattr_rows(ino)? {
            let name = &key[8..];
            if trusted || !name.starts_with(TRUSTED) {
                names.extend_from_slice(name);
                names.push(0);
            }
        }
        Ok(names)
    }

    /// An inode whose attributes may be changed.
    fn xattr_inode(&self, ino: u64, name: &[u8]) -> Result<Inode> {
        let inode = self.inode(ino)?;
        check_name(name, Some(inode.file_type))?;
        match inode
            .flags
            .intersects(InodeFlags::IMMUTABLE | InodeFlags::APPEND)
        {
            true => Err(Error::NotPermitted),
            false => Ok(inode),
        }
    }
}

impl Volume {
    /// `name` with its namespace, 1 to 255 bytes; `value` up to [`XATTR_MAX`]
    /// ([`Error::Range`] beyond either). `system.*`, ACLs among them, is
    /// [`Error::NotSupported`]. [`Error::NoSpace`] when the names of an inode's
    /// attributes would not fit in what listxattr(2) can return.
    pub fn set_xattr(&self, ino: u64, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        if value.len() > XATTR_MAX {
            return Err(Error::Range);
        }
        self.change(|change| {
            let mut inode = change.xattr_inode(ino, name)?;
            let policy = match name == CODEC {
                true => Some(policy::parse(value)?),
                false => None,
            };
            let key = xattr_key(ino, name);
            let exists = match policy {
                Some(_) => inode.policy.is_some(),
                None => inode.xattrs > 0 && change.op.get(Table::Xattr, &key)?.is_some(),
            };
            if exists && flags.contains(XattrFlags::CREATE) {
                return Err(Error::Exists);
            }
            if !exists {
                if flags.contains(XattrFlags::REPLACE) {
                    return Err(Error::NoAttribute);
                }
                let names = change.xattr_names(ino, &inode, true)?.len();
                if names + name.len() + 1 > XATTR_MAX {
                    return Err(Error::NoSpace);
                }
            }
            if policy.is_some() {
                return change.set_policy(ino, inode, policy);
            }
            inode.xattrs += u32::from(!exists);
            change
                .op
                .put_value(Table::Xattr, key, XATTR_PREFIX, value)?;
            inode.ctime = change.now;
            change.put(ino, &inode)
        })
    }

    /// [`Error::NoAttribute`] if there is none.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        self.look(|change| {
            let inode = change.inode(ino)?;
            check_name(name, None)?;
            if name == CODEC {
                return change.policy_value(ino, &inode);
            }
            if inode.xattrs == 0 {
                return Err(Error::NoAttribute);
            }
            let key = xattr_key(ino, name);
            match change.op.get_value(Table::Xattr, &key)? {
                Some((prefix, value)) if prefix == XATTR_PREFIX => Ok(value),
                Some((prefix, _)) => Err(Error::NewerFormat {
                    what: "an extended attribute".into(),
                    found: prefix.first().copied().unwrap_or(0).into(),
                    known: XATTR_PREFIX[0].into(),
                }),
                None => Err(Error::NoAttribute),
            }
        })
    }

    /// Names with a NUL behind each, as listxattr(2) returns them; `trusted.*`
    /// only for those who may see it.
    pub fn list_xattrs(&self, ino: u64, trusted: bool) -> Result<Vec<u8>> {
        self.look(|change| {
            let inode = change.inode(ino)?;
            change.xattr_names(ino, &inode, trusted)
        })
    }

    /// [`Error::NoAttribute`] if there is none.
    pub fn remove_xattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        self.change(|change| {
            let mut inode = change.xattr_inode(ino, name)?;
            if name == CODEC && inode.policy.is_some() {
                return change.set_policy(ino, inode, None);
            }
            let key = xattr_key(ino, name);
            if inode.xattrs == 0 || change.op.get(Table::Xattr, &key)?.is_none() {
                return Err(Error::NoAttribute);
            }
            change.op.delete(Table::Xattr, key)?;
            inode.xattrs -= 1;
            inode.ctime = change.now;
            change.put(ino, &inode)
        })
    }
}
