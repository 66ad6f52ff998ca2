//! The two dresses in which chattr(1) flags come: `FS_IOC_GETFLAGS` has bits
//! of its own, `FS_IOC_FSGETXATTR` a structure with other bits. The kernel
//! asks for the second even where a program uses the first.

use crate::volume::InodeFlags;

pub(super) const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
pub(super) const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
/// The same from 32-bit programs.
pub(super) const FS_IOC32_GETFLAGS: u32 = 0x8004_6601;
pub(super) const FS_IOC32_SETFLAGS: u32 = 0x4004_6602;
pub(super) const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
pub(super) const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;

/// `FS_XFLAG_*` and what it is here.
const XFLAGS: [(u32, InodeFlags); 4] = [
    (0x08, InodeFlags::IMMUTABLE),
    (0x10, InodeFlags::APPEND),
    (0x40, InodeFlags::NOATIME),
    (0x80, InodeFlags::NODUMP),
];

/// Set by the kernel itself wherever extended attributes are: means nothing.
const FS_XFLAG_HASATTR: u32 = 0x8000_0000;

/// Length of `struct fsxattr`. Its first word holds the flags; extent sizes
/// and the project, which follow, are zero here.
const FSXATTR: usize = 28;

pub(super) fn to_fsxattr(flags: InodeFlags) -> [u8; FSXATTR] {
    let word = XFLAGS
        .iter()
        .filter(|(_, flag)| flags.contains(*flag))
        .fold(0, |word, (bit, _)| word | bit);
    let mut out = [0; FSXATTR];
    out[..4].copy_from_slice(&u32::to_ne_bytes(word));
    out
}

/// The flags, or `None` for what no inode here can have.
pub(super) fn from_fsxattr(bytes: &[u8]) -> Option<u32> {
    let (word, rest) = bytes.get(..FSXATTR)?.split_first_chunk()?;
    let mut word = u32::from_ne_bytes(*word) & !FS_XFLAG_HASATTR;
    let mut flags = InodeFlags::empty();
    for (bit, flag) in XFLAGS {
        flags.set(flag, word & bit != 0);
        word &= !bit;
    }
    (word == 0 && rest.iter().all(|&b| b == 0)).then_some(flags.bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dresses_show_the_same_flags() {
        for flags in 0..=0xff {
            let flags = InodeFlags::from_bits_truncate(flags);
            assert_eq!(from_fsxattr(&to_fsxattr(flags)), Some(flags.bits()));
        }
        assert_eq!(to_fsxattr(InodeFlags::NODUMP)[0], 0x80);
        let mut project = to_fsxattr(InodeFlags::empty());
        project[12] = 1;
        assert_eq!(from_fsxattr(&project), None);
        assert_eq!(from_fsxattr(&[0; 27]), None);
        assert_eq!(from_fsxattr(&[2; 28]), None);
    }
}
