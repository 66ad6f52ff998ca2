//! Extended attributes: `user.*`, `trusted.*` and `security.*`, and of
//! `system.*` the access control lists.

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
    let known =
        user || name.starts_with(TRUSTED) || name.starts_with(b"security.") || acl::is_acl(name);
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
        // Links have no permissions.
        false if acl::is_acl(name) && file_type == Some(FileType::Symlink) => {
            Err(Error::NotSupported)
        }
        false => Ok(()),
    }
}

impl Change<'_, '_> {
    /// The names of an inode's attributes, each with a NUL behind it.
    pub(super) fn xattr_names(&self, ino: u64, inode: &Inode, trusted: bool) -> Result<Vec<u8>> {
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

    /// The value of an attribute.
    pub fn xattr(&self, ino: u64, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        if inode.xattrs == 0 {
            return Err(Error::NoAttribute);
        }
        match self.op.get_value(Table::Xattr, &xattr_key(ino, name))? {
            Some((prefix, value)) if prefix == XATTR_PREFIX => Ok(value),
            Some((prefix, _)) => Err(Error::NewerFormat {
                what: "an extended attribute".into(),
                found: prefix.first().copied().unwrap_or(0).into(),
                known: XATTR_PREFIX[0].into(),
            }),
            None => Err(Error::NoAttribute),
        }
    }

    /// Sets an attribute; the caller puts the inode.
    pub fn put_xattr(
        &mut self,
        ino: u64,
        inode: &mut Inode,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        let key = xattr_key(ino, name);
        let exists = inode.xattrs > 0 && self.op.get(Table::Xattr, &key)?.is_some();
        if exists && flags.contains(XattrFlags::CREATE) {
            return Err(Error::Exists);
        }
        if !exists {
            if flags.contains(XattrFlags::REPLACE) {
                return Err(Error::NoAttribute);
            }
            let names = self.xattr_names(ino, inode, true)?.len();
            if names + name.len() + 1 > XATTR_MAX {
                return Err(Error::NoSpace);
            }
            // Saturating: a damaged row may say anything.
            inode.xattrs = inode.xattrs.saturating_add(1);
        }
        self.op.put_value(Table::Xattr, key, XATTR_PREFIX, value)
    }

    /// Deletes an attribute; the caller puts the inode.
    pub fn delete_xattr(&mut self, ino: u64, inode: &mut Inode, name: &[u8]) -> Result<()> {
        let key = xattr_key(ino, name);
        if inode.xattrs == 0 || self.op.get(Table::Xattr, &key)?.is_none() {
            return Err(Error::NoAttribute);
        }
        self.op.delete(Table::Xattr, key)?;
        inode.xattrs -= 1;
        Ok(())
    }

    /// An inode whose attributes may be changed.
    pub fn xattr_inode(&self, ino: u64, name: &[u8]) -> Result<Inode> {
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
    /// ([`Error::Range`] beyond either). Access control lists are taken as
    /// [`set_acl`](Self::set_acl) does; other names in `system.*` are
    /// [`Error::NotSupported`]. [`Error::NoSpace`] when the names of an inode's
    /// attributes would not fit in what listxattr(2) can return.
    pub fn set_xattr(&self, ino: u64, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        if value.len() > XATTR_MAX {
            return Err(Error::Range);
        }
        if acl::is_acl(name) {
            return self.set_acl(ino, name, value, None);
        }
        if name == CODEC {
            return self.set_codec(ino, value, flags);
        }
        self.change(|change| {
            let mut inode = change.xattr_inode(ino, name)?;
            change.put_xattr(ino, &mut inode, name, value, flags)?;
            inode.ctime = change.now;
            change.put(ino, &inode)
        })
    }

    /// [`Error::NoAttribute`] if there is none.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        self.look(|change| {
            let inode = change.inode(ino)?;
            check_name(name, None)?;
            match inode.policy {
                Some(policy) if name == CODEC => Ok(policy.name().into()),
                _ => change.xattr(ino, &inode, name),
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

    /// [`Error::NoAttribute`] if there is none, unless it is an access control
    /// list.
    pub fn remove_xattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        self.change(|change| {
            let mut inode = change.xattr_inode(ino, name)?;
            if name == CODEC && inode.policy.is_some() {
                return change.set_policy(ino, inode, None);
            }
            match change.delete_xattr(ino, &mut inode, name) {
                Err(Error::NoAttribute) if acl::is_acl(name) => return Ok(()),
                result => result?,
            }
            inode.ctime = change.now;
            change.put(ino, &inode)
        })
    }
}
