//! How the chunks of files shall be coded: the attribute
//! `user.laconicfs.codec` and the flags of chattr(1), two faces of one field
//! of the inode.
//!
//! What is made in a directory inherits the directory's policy. A change
//! counts for what is written later; what is stored stays as it is until
//! someone asks for it to be coded again.

use super::*;
use crate::codec::Policy;

/// The attribute's name.
pub(super) const CODEC: &[u8] = b"user.laconicfs.codec";

/// `FS_COMPR_FL` and `FS_NOCOMP_FL`: chattr(1)'s `c` and `m`.
const COMPRESS: u32 = 0x4;
const DO_NOT_COMPRESS: u32 = 0x400;

/// The policy that a value of the attribute names.
fn parse(value: &[u8]) -> Result<Policy> {
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
        match self.delete_xattr(ino, &mut inode, CODEC) {
            Err(Error::NoAttribute) => {}
            deleted => deleted?,
        }
        inode.policy = policy;
        inode.ctime = self.now;
        if !inode.is_dir() {
            self.op.wish(ino, policy.unwrap_or_default());
        }
        self.put(ino, &inode)
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
    /// setxattr(2) of `user.laconicfs.codec`: [`Error::Invalid`] for what is no
    /// policy.
    pub(super) fn set_codec(&self, ino: u64, value: &[u8], flags: XattrFlags) -> Result<()> {
        self.change(|change| {
            let inode = change.xattr_inode(ino, CODEC)?;
            let policy = parse(value)?;
            let exists = inode.policy.is_some();
            if exists && flags.contains(XattrFlags::CREATE) {
                return Err(Error::Exists);
            }
            if !exists && flags.contains(XattrFlags::REPLACE) {
                return Err(Error::NoAttribute);
            }
            let names = change.xattr_names(ino, &inode, true)?.len();
            if !exists && names + CODEC.len() + 1 > XATTR_MAX {
                return Err(Error::NoSpace);
            }
            change.set_policy(ino, inode, Some(policy))
        })
    }

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
