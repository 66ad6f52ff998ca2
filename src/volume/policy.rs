//! How the chunks of files shall be coded: the attribute
//! `user.laconicfs.codec` and the flags of chattr(1), two faces of one field
//! of the inode.
//!
//! What is made in a directory inherits the directory's policy. A change
//! counts for what is written later; what is stored stays as it is until
//! someone asks for it to be coded again.

use super::rows::{XATTR_PREFIX, xattr_key};
use super::*;
use crate::codec::Policy;

/// The attribute's name.
pub(super) const CODEC: &[u8] = b"user.laconicfs.codec";

/// `FS_COMPR_FL` and `FS_NOCOMP_FL`: chattr(1)'s `c` and `m`.
const COMPRESS: u32 = 0x4;
const DO_NOT_COMPRESS: u32 = 0x400;

/// The policy that a value of the attribute names.
pub(super) fn parse(value: &[u8]) -> Result<Policy> {
    Policy::from_name(value).ok_or(Error::Invalid(
        "the codec of a file is auto, lm, mix, zstd or none",
    ))
}

impl Change<'_, '_> {
    /// Sets or takes away the policy of an inode that may be changed. What is
    /// written and not yet committed follows it.
    pub(super) fn set_policy(
        &mut self,
        ino: u64,
        mut inode: Inode,
        policy: Option<Policy>,
    ) -> Result<()> {
        // An attribute of this name from before it meant something.
        let key = xattr_key(ino, CODEC);
        if inode.xattrs > 0 && self.op.get(Table::Xattr, &key)?.is_some() {
            self.op.delete(Table::Xattr, key)?;
            inode.xattrs -= 1;
        }
        inode.policy = policy;
        inode.ctime = self.now;
        if !inode.is_dir() {
            self.op.wish(ino, policy.unwrap_or_default());
        }
        self.put(ino, &inode)
    }

    /// The policy's value, also where an older program stored it as an
    /// attribute like any other.
    pub(super) fn policy_value(&self, ino: u64, inode: &Inode) -> Result<Vec<u8>> {
        if let Some(policy) = inode.policy {
            return Ok(policy.name().as_bytes().to_vec());
        }
        let key = xattr_key(ino, CODEC);
        match self.op.get_value(Table::Xattr, &key)? {
            Some((prefix, value)) if prefix == XATTR_PREFIX => Ok(value),
            _ => Err(Error::NoAttribute),
        }
    }
}

/// The flags of chattr(1) that a file or directory with this policy shows:
/// what will be coded small shows `c`, what will not `m`.
pub fn compression_flags(attr: &Attr) -> u32 {
    match (attr.file_type, attr.policy) {
        (FileType::Regular | FileType::Directory, Some(Policy::None)) => DO_NOT_COMPRESS,
        (FileType::Regular | FileType::Directory, _) => COMPRESS,
        _ => 0,
    }
}

impl Volume {
    /// As [`set_flags`](Self::set_flags), for flags that were read with
    /// [`compression_flags`] among them: `c` taken away or `m` added makes the
    /// policy `none`; `c` added makes it `auto`; `m` taken away leaves it open.
    pub fn set_compression_flags(&self, ino: u64, flags: u32, caller: Caller) -> Result<()> {
        let known = flags & !(COMPRESS | DO_NOT_COMPRESS);
        let known = InodeFlags::from_bits(known).ok_or(Error::NotSupported)?;
        let (plus, minus) = (flags & COMPRESS != 0, flags & DO_NOT_COMPRESS != 0);
        self.set_known_flags(ino, known, caller, |inode| {
            if !inode.has_content() {
                return;
            }
            inode.policy = match inode.policy {
                Some(Policy::None) if plus => Some(Policy::Auto),
                Some(Policy::None) if !minus => None,
                Some(Policy::None) => Some(Policy::None),
                _ if minus || !plus => Some(Policy::None),
                policy => policy,
            };
        })
    }
}
