//! Between the volume's types and fuser's.

use fuser::{Errno, FileAttr, INodeNo, TimeOrNow};

use crate::volume::{Attr, FileType, OpenFlags, SetTime};

pub(super) fn file_type(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::Directory => fuser::FileType::Directory,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Socket => fuser::FileType::Socket,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: attr.crtime,
        kind: file_type(attr.file_type),
        // Masked to twelve bits by the volume.
        perm: attr.mode as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.block_size,
        flags: 0,
    }
}

/// Tells the kernel to remember that a name is not there: inode 0.
pub(super) fn no_entry() -> FileAttr {
    let epoch = std::time::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(at),
    }
}

/// `flags` of open(2); `drop_suid` as in [`volume::SetAttr`](crate::volume::SetAttr).
pub(super) fn open_flags(flags: i32, drop_suid: bool) -> OpenFlags {
    let mut open = OpenFlags::empty();
    open.set(OpenFlags::WRITE, flags & libc::O_ACCMODE != libc::O_RDONLY);
    open.set(OpenFlags::APPEND, flags & libc::O_APPEND != 0);
    open.set(OpenFlags::TRUNCATE, flags & libc::O_TRUNC != 0);
    open.set(OpenFlags::EXCLUSIVE, flags & libc::O_EXCL != 0);
    open.set(OpenFlags::DROP_SUID, drop_suid);
    open
}

/// A reply that can say no.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ident)*) => {
        $(impl Refuse for fuser::$reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse! {
    ReplyAttr ReplyCreate ReplyData ReplyDirectory ReplyDirectoryPlus ReplyEmpty ReplyEntry
    ReplyIoctl ReplyLseek ReplyOpen ReplyStatfs ReplyWrite ReplyXattr
}

/// Whether the caller may keep set-user-ID bits. The kernel says so by
/// `CAP_FSETID`, which fuser does not hand on where sizes change; root has it.
pub(super) fn drops_suid(request: &fuser::Request) -> bool {
    request.uid() != 0
}
