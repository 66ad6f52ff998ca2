//! What callers hand in and get back.

use std::time::SystemTime;

use crate::codec::Policy;

/// Inode number of the root directory.
pub const ROOT: u64 = 1;

/// Longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;

/// Longest target of a symbolic link, in bytes.
pub const SYMLINK_MAX: usize = 4095;

/// Longest value of an extended attribute, and most bytes that the names of
/// one inode's attributes take with a NUL after each: Linux passes no more.
pub const XATTR_MAX: usize = 65536;

/// When reading a file touches its access time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atime {
    /// Only when it is not newer than the last change, or older than a day.
    #[default]
    Relative,
    Never,
    Always,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Refuse every change with [`Error::ReadOnly`](crate::Error::ReadOnly).
    pub read_only: bool,
    pub atime: Atime,
}

/// What the volume holds, in logical terms. Files that have no name any more
/// count until their space is given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    pub directories: u64,
    /// Symbolic links, device nodes, FIFOs and sockets.
    pub others: u64,
    /// Sum of the sizes of the regular files.
    pub bytes: u64,
}

/// What an inode is. The numbers are part of the format and those that Linux
/// uses in `d_type`; shifted left by 12 they are the type bits of `st_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileType {
    Fifo = 1,
    CharDevice = 2,
    Directory = 4,
    BlockDevice = 6,
    Regular = 8,
    Symlink = 10,
    Socket = 12,
}

impl FileType {
    /// From the number in `d_type`.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }

    /// From the type bits of `st_mode`; none means a regular file, as for
    /// mknod(2).
    pub fn from_mode(mode: u32) -> Option<Self> {
        match mode & libc::S_IFMT {
            0 => Some(Self::Regular),
            bits => Self::from_code((bits >> 12) as u8),
        }
    }
}

/// The attributes of an inode, as stat(2) shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: u64,
    pub file_type: FileType,
    /// Permission bits with set-user-id, set-group-id and sticky: `mode & 0o7777`.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// As Linux encodes a device in 32 bits; 0 unless a device node.
    pub rdev: u32,
    /// Bytes of a file or of a symbolic link's target; entries of a directory.
    pub size: u64,
    /// Units of 512 bytes that the stored chunks hold, before coding.
    pub blocks: u64,
    /// Best size of a request: the chunk size.
    pub block_size: u32,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    /// When the inode was made.
    pub crtime: SystemTime,
    /// See [`InodeFlags`].
    pub flags: InodeFlags,
    /// How the chunks shall be coded; `None` where nobody has said.
    pub policy: Option<Policy>,
}

/// Who makes an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// The mode that is asked for of a new inode. A number alone is one to which
/// the umask has been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Permission bits, and type bits where they count.
    pub bits: u32,
    /// Bits to take away, unless the directory has a default access control
    /// list.
    pub umask: u32,
}

impl From<u32> for Mode {
    fn from(bits: u32) -> Self {
        Self { bits, umask: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(SystemTime),
}

/// Attributes to change; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Only `mode & 0o7777` counts.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// A kernel that keeps times itself (writeback cache) hands them in;
    /// otherwise every change sets it to now.
    pub ctime: Option<SystemTime>,
    /// A change of size drops set-user-id and set-group-id (the caller has no
    /// `CAP_FSETID`; root has it). A change of owner always does.
    pub drop_suid: bool,
}

bitflags::bitflags! {
    /// How to open.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct OpenFlags: u32 {
        /// The handle may write.
        const WRITE = 1;
        /// Every write goes to the end, wherever it says.
        const APPEND = 2;
        /// The content is dropped first.
        const TRUNCATE = 4;
        /// With `create`: the name must not exist.
        const EXCLUSIVE = 8;
        /// See [`SetAttr::drop_suid`], for `TRUNCATE`.
        const DROP_SUID = 16;
    }

    /// How to write.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct WriteFlags: u32 {
        /// At the end of the file, atomically; the offset is ignored.
        const APPEND = 1;
        /// Drops set-user-id and set-group-id (`FUSE_WRITE_KILL_SUIDGID`).
        const DROP_SUID = 2;
    }

    /// How to rename; the bits are those of renameat2(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        const NOREPLACE = libc::RENAME_NOREPLACE;
        const EXCHANGE = libc::RENAME_EXCHANGE;
    }

    /// How to set an extended attribute; the bits are those of setxattr(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct XattrFlags: u32 {
        /// It must not exist.
        const CREATE = libc::XATTR_CREATE as u32;
        /// It must exist.
        const REPLACE = libc::XATTR_REPLACE as u32;
    }

    /// What chattr(1) sets; the bits are those of `FS_IOC_SETFLAGS`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct InodeFlags: u32 {
        /// Cannot be changed, renamed, linked or removed.
        const IMMUTABLE = 0x10;
        /// Can be written at its end only.
        const APPEND = 0x20;
        /// dump(8) passes it over. Kept for others; means nothing here.
        const NODUMP = 0x40;
        /// Reading leaves the access time alone.
        const NOATIME = 0x80;
    }

    /// What fallocate(2) does; the bits are its own. None of the last two:
    /// the range shall be writable later, which cannot be reserved, only
    /// checked against the space that is there.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct AllocateFlags: u32 {
        const KEEP_SIZE = libc::FALLOC_FL_KEEP_SIZE as u32;
        /// Needs `KEEP_SIZE`.
        const PUNCH_HOLE = libc::FALLOC_FL_PUNCH_HOLE as u32;
        const ZERO_RANGE = libc::FALLOC_FL_ZERO_RANGE as u32;
    }
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub ino: u64,
    pub file_type: FileType,
    /// Reading goes on behind this entry with this cookie. It fits in 63
    /// bits, is never 0 and stays the entry's own while the entry lives,
    /// whatever happens to others; it grows along the directory.
    pub cookie: u64,
}

/// What statfs(2) shows. Blocks are of `block_size` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    pub block_size: u32,
    /// Size of the disk that holds the store.
    pub blocks: u64,
    /// What the disk has left; chunks take less of it than they are long.
    pub free: u64,
    /// The part of it that is not kept for root.
    pub available: u64,
    /// Inodes in use, and how many more there may be.
    pub files: u64,
    pub files_free: u64,
    pub name_max: u32,
}
