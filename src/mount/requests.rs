//! One method for each request of the kernel. No logic: that is the volume's.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::adapter::Adapter;
use super::convert::{drops_suid, file_attr, file_type, no_entry, open_flags, set_time};
use super::errno::Asked;
use super::flags::{
    FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC32_GETFLAGS,
    FS_IOC32_SETFLAGS, from_fsxattr, to_fsxattr,
};
use super::pool::guard;
use crate::error::{Error, Result};
use crate::volume::{
    self, Caller, Entry, Mode, Seek, SetAttr, Volume, XattrFlags, compression_flags, is_acl,
};

/// How long the kernel keeps names: we see every change, and it does too.
const ENTRY_TTL: Duration = Duration::from_secs(3600);
/// How long it keeps attributes. Shorter, because the blocks that a file
/// holds change when its bytes reach the store, which the kernel does not see.
const ATTR_TTL: Duration = Duration::from_secs(5);
/// Inode numbers are never used again.
const GENERATION: Generation = Generation(0);

/// Entries of a directory asked for at a time.
const DIRENTS: usize = 64;
/// Bytes that one copy_file_range request copies at most: it cannot be
/// interrupted.
const MAX_COPY: u64 = 64 << 20;

/// Without the flag, each open would drop the pages of the file.
const OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;

fn seek(whence: i32) -> Option<Seek> {
    match whence {
        libc::SEEK_DATA => Some(Seek::Data),
        libc::SEEK_HOLE => Some(Seek::Hole),
        _ => None,
    }
}

fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
    }
}

/// The groups of a caller who is not root: its own, and as the system knows
/// them while it waits for the answer.
fn groups(request: &Request) -> Option<Vec<u32>> {
    if request.uid() == 0 {
        return None;
    }
    let mut groups = vec![request.gid()];
    if let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", request.pid())) {
        let others = status.lines().find_map(|line| line.strip_prefix("Groups:"));
        let others = others.unwrap_or_default().split_ascii_whitespace();
        groups.extend(others.filter_map(|group| group.parse::<u32>().ok()));
    }
    Some(groups)
}

fn send_entry(reply: ReplyEntry, attr: volume::Attr) {
    reply.entry_with_ttls(&ATTR_TTL, &ENTRY_TTL, &file_attr(&attr), GENERATION);
}

fn send_attr(reply: ReplyAttr, attr: volume::Attr) {
    reply.attr(&ATTR_TTL, &file_attr(&attr));
}

/// A value or a list of names, or only its length when the caller wants that.
fn send_xattr(reply: ReplyXattr, size: u32, value: Vec<u8>) {
    match size {
        // Bounded by `volume::XATTR_MAX`.
        0 => reply.size(value.len() as u32),
        room if value.len() > room as usize => reply.error(Errno::ERANGE),
        _ => reply.data(&value),
    }
}

/// Adds entries behind `cookie` until `add` says that there is no room; what
/// was read and not added goes to `unused`. An error counts only while nothing
/// was added: the kernel asks again.
fn fill<E>(
    mut cookie: u64,
    read: impl Fn(u64) -> Result<Vec<E>>,
    mut add: impl FnMut(&E) -> (u64, bool),
    unused: impl Fn(&E),
) -> Result<()> {
    let mut added = false;
    loop {
        let entries = match read(cookie) {
            Ok(entries) if entries.is_empty() => return Ok(()),
            Ok(entries) => entries,
            Err(_) if added => return Ok(()),
            Err(error) => return Err(error),
        };
        for (at, entry) in entries.iter().enumerate() {
            let (next, full) = add(entry);
            if full {
                entries[at..].iter().for_each(unused);
                return Ok(());
            }
            cookie = next;
            added = true;
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.agree(config);
        Ok(())
    }

    // Batches of these come here one by one.
    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        guard(Asked::of("forget", ino.0), || {
            self.volume.forget(ino.0, lookups);
        });
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (parent.0, name.as_bytes().to_vec());
        let op = move |volume: &Volume| match volume.lookup(parent, &name) {
            Err(Error::NotFound) => Ok(None),
            other => other.map(Some),
        };
        let asked = Asked::name("lookup", parent);
        // Snapshots come and go without the kernel.
        let ttl = match parent {
            volume::SNAPSHOTS => Duration::ZERO,
            _ => ENTRY_TTL,
        };
        self.serve(&self.waiters, asked, reply, op, move |reply, found| {
            let attr = found.map_or_else(no_entry, |attr| file_attr(&attr));
            reply.entry_with_ttls(&ATTR_TTL.min(ttl), &ttl, &attr, GENERATION);
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let op = move |volume: &Volume| volume.attr(ino.0);
        let asked = Asked::of("getattr", ino.0);
        self.serve(&self.waiters, asked, reply, op, send_attr);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            ctime,
            drop_suid: drops_suid(request),
        };
        let op = move |volume: &Volume| volume.set_attr(ino.0, &set);
        let asked = Asked::of("setattr", ino.0);
        self.serve(&self.waiters, asked, reply, op, send_attr);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let op = move |volume: &Volume| volume.read_link(ino.0);
        let asked = Asked::of("readlink", ino.0);
        self.serve(&self.waiters, asked, reply, op, |reply, target| {
            reply.data(&target);
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        bits: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        let mode = Mode { bits, umask };
        let op = move |volume: &Volume| volume.make_node(parent.0, &name, mode, rdev, caller);
        let asked = Asked::name("mknod", parent.0);
        self.serve(&self.waiters, asked, reply, op, send_entry);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        bits: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        let mode = Mode { bits, umask };
        let op = move |volume: &Volume| volume.make_dir(parent.0, &name, mode, caller);
        let asked = Asked::name("mkdir", parent.0);
        self.serve(&self.waiters, asked, reply, op, send_entry);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        let op = move |volume: &Volume| volume.unlink(parent.0, &name);
        let asked = Asked::name("unlink", parent.0);
        self.serve(&self.waiters, asked, reply, op, |reply, ()| reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        let op = move |volume: &Volume| volume.remove_dir(parent.0, &name);
        let asked = Asked::name("rmdir", parent.0);
        self.serve(&self.waiters, asked, reply, op, |reply, ()| reply.ok());
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        let target = target.as_os_str().as_bytes().to_vec();
        let op = move |volume: &Volume| volume.symlink(parent.0, &name, &target, caller);
        let asked = Asked::name("symlink", parent.0);
        self.serve(&self.waiters, asked, reply, op, send_entry);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(flags) = volume::RenameFlags::from_bits(flags.bits()) else {
            return reply.error(Errno::EINVAL);
        };
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        let op =
            move |volume: &Volume| volume.rename(parent.0, &name, new_parent.0, &new_name, flags);
        let asked = Asked::name("rename", parent.0);
        self.serve(&self.waiters, asked, reply, op, |reply, ()| reply.ok());
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        let op = move |volume: &Volume| volume.link(ino.0, parent.0, &name);
        let asked = Asked::name("link", parent.0);
        self.serve(&self.waiters, asked, reply, op, send_entry);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open = open_flags(flags.0, drops_suid(request));
        let op = move |volume: &Volume| volume.open_file(ino.0, open);
        let writers = Arc::clone(&self.writers);
        let asked = Asked::of("open", ino.0);
        self.serve(&self.waiters, asked, reply, op, move |reply, ()| {
            let handle = writers.opened(ino.0, open.contains(volume::OpenFlags::WRITE));
            reply.opened(handle, OPENED);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        bits: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let open = open_flags(flags, drops_suid(request));
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        let mode = Mode { bits, umask };
        let op = move |volume: &Volume| volume.create(parent.0, &name, mode, open, caller);
        let writers = Arc::clone(&self.writers);
        let asked = Asked::name("create", parent.0);
        self.serve(&self.waiters, asked, reply, op, move |reply, (attr, _)| {
            let handle = writers.opened(attr.ino, open.contains(volume::OpenFlags::WRITE));
            // One time for both: the shorter one.
            reply.created(&ATTR_TTL, &file_attr(&attr), GENERATION, handle, OPENED);
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let op = move |volume: &Volume| volume.read_file(ino.0, offset, size as usize);
        let asked = Asked::range("read", ino.0, offset, size.into());
        self.serve(&self.readers, asked, reply, op, |reply, bytes| {
            reply.data(&bytes);
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // O_APPEND needs nothing here: the kernel has taken the offset from
        // the size, and holds the inode's lock until the reply.
        let flags = if flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            volume::WriteFlags::DROP_SUID
        } else {
            volume::WriteFlags::empty()
        };
        let len = data.len() as u32; // at most MAX_WRITE
        let asked = Asked::range("write", ino.0, offset, len.into());
        guard(asked, || {
            match self.now.write_file(ino.0, offset, data, flags) {
                Ok(_) => reply.written(len),
                Err(Error::WouldBlock) => {
                    let mut kept = Vec::new();
                    if kept.try_reserve_exact(data.len()).is_err() {
                        return reply.error(Errno::ENOMEM);
                    }
                    kept.extend_from_slice(data);
                    let data = kept;
                    let op = move |volume: &Volume| volume.write_file(ino.0, offset, &data, flags);
                    self.wait(asked, reply, op, move |reply, _| reply.written(len));
                }
                Err(error) => reply.error(self.reporter.errno(asked, error)),
            }
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Every write has had its own answer: the kernel need not ask.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.writers.released(ino.0, handle);
        self.close(ino.0, reply);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync("fsync", ino.0, reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let op = move |volume: &Volume| volume.open_dir(ino.0);
        let asked = Asked::of("opendir", ino.0);
        self.serve(&self.waiters, asked, reply, op, |reply, ()| {
            reply.opened(FileHandle(0), FopenFlags::empty());
        });
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        fn list(volume: &Volume, ino: u64, cookie: u64, reply: &mut ReplyDirectory) -> Result<()> {
            let read = |cookie| volume.read_dir(ino, cookie, DIRENTS);
            let add = |entry: &Entry| {
                let kind = file_type(entry.file_type);
                let name = OsStr::from_bytes(&entry.name);
                let full = reply.add(INodeNo(entry.ino), entry.cookie, kind, name);
                (entry.cookie, full)
            };
            fill(cookie, read, add, |_| ())
        }
        self.list(Asked::of("readdir", ino.0), offset, reply, list, |reply| {
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        fn list(
            volume: &Volume,
            ino: u64,
            cookie: u64,
            reply: &mut ReplyDirectoryPlus,
        ) -> Result<()> {
            let read = |cookie| volume.read_dir_plus(ino, cookie, DIRENTS);
            let add = |(entry, attr): &(Entry, volume::Attr)| {
                let full = reply.add(
                    INodeNo(entry.ino),
                    entry.cookie,
                    OsStr::from_bytes(&entry.name),
                    &ATTR_TTL,
                    &file_attr(attr),
                    GENERATION,
                );
                (entry.cookie, full)
            };
            fill(cookie, read, add, |(entry, _)| {
                // The kernel never hears of these lookups.
                if !matches!(&*entry.name, b"." | b"..") {
                    volume.forget(entry.ino, 1);
                }
            })
        }
        self.list(Asked::of("readdir", ino.0), offset, reply, list, |reply| {
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.close(ino.0, reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync("fsyncdir", ino.0, reply);
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let op = |volume: &Volume| volume.stat_fs();
        let asked = Asked::of("statfs", ino.0);
        self.serve(&self.waiters, asked, reply, op, |reply, stat| {
            reply.statfs(
                stat.blocks,
                stat.free,
                stat.available,
                stat.files + stat.files_free,
                stat.files_free,
                stat.block_size,
                stat.name_max,
                stat.block_size,
            );
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let Some(flags) = XattrFlags::from_bits(flags as u32) else {
            return reply.error(Errno::EINVAL);
        };
        let asked = Asked::of("setxattr", ino.0);
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        if is_acl(&name) {
            if !self.lists {
                return reply.error(Errno::EOPNOTSUPP);
            }
            let groups = groups(request);
            let op = move |volume: &Volume| volume.set_acl(ino.0, &name, &value, groups.as_deref());
            return self.serve(&self.waiters, asked, reply, op, |reply, ()| reply.ok());
        }
        let op = move |volume: &Volume| volume.set_xattr(ino.0, &name, &value, flags);
        self.serve(&self.waiters, asked, reply, op, |reply, ()| reply.ok());
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        if is_acl(&name) && !self.lists {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let op = move |volume: &Volume| volume.xattr(ino.0, &name);
        let asked = Asked::of("getxattr", ino.0);
        self.serve(&self.waiters, asked, reply, op, move |reply, value| {
            send_xattr(reply, size, value);
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let trusted = request.uid() == 0;
        let op = move |volume: &Volume| volume.list_xattrs(ino.0, trusted);
        let asked = Asked::of("listxattr", ino.0);
        self.serve(&self.waiters, asked, reply, op, move |reply, names| {
            send_xattr(reply, size, names);
        });
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        let op = move |volume: &Volume| volume.remove_xattr(ino.0, &name);
        let asked = Asked::of("removexattr", ino.0);
        self.serve(&self.waiters, asked, reply, op, |reply, ()| reply.ok());
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let drop_suid = drops_suid(request);
        let op = move |volume: &Volume| volume.allocate(ino.0, offset, len, mode, drop_suid);
        let asked = Asked::range("fallocate", ino.0, offset, len);
        self.serve(&self.waiters, asked, reply, op, |reply, ()| reply.ok());
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (Ok(offset), Some(seek)) = (u64::try_from(offset), seek(whence)) else {
            return reply.error(Errno::EINVAL);
        };
        let asked = Asked::of("lseek", ino.0);
        let send = |reply: ReplyLseek, at| reply.offset(at as i64); // no file is larger
        if !(self.writeback && self.writers.any(ino.0)) {
            let op = move |volume: &Volume| volume.seek(ino.0, offset, seek);
            return self.serve(&self.waiters, asked, reply, op, send);
        }
        let (volume, writers) = (Arc::clone(&self.volume), Arc::clone(&self.writers));
        let reporter = Arc::clone(&self.reporter);
        self.flusher.submit(asked, move || {
            if let Err(error) = writers.collect(ino.0) {
                log::warn!("{asked}: collecting the kernel's pages: {error}");
                return reply.error(Errno::EIO);
            }
            match volume.seek(ino.0, offset, seek) {
                Ok(at) => send(reply, at),
                Err(error) => reply.error(reporter.errno(asked, error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (len, drop_suid) = (len.min(MAX_COPY), drops_suid(request));
        let op = move |volume: &Volume| {
            volume.copy_range(from.0, from_offset, to.0, to_offset, len, drop_suid)
        };
        let asked = Asked::range("copy_file_range", from.0, from_offset, len);
        // Never served at once: it may be long.
        self.wait(asked, reply, op, |reply, copied| {
            reply.written(copied as u32); // at most MAX_COPY
        });
    }

    fn ioctl(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        argument: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        let asked = Asked::of("ioctl", ino.0);
        // Flags of the first dress speak of compression too.
        let mut compression = false;
        let set = match command {
            FS_IOC_GETFLAGS | FS_IOC32_GETFLAGS => {
                let op = move |volume: &Volume| volume.attr(ino.0);
                return self.serve(&self.waiters, asked, reply, op, |reply, attr| {
                    let flags = attr.flags.bits() | compression_flags(&attr);
                    reply.ioctl(0, &flags.to_ne_bytes());
                });
            }
            FS_IOC_FSGETXATTR => {
                let op = move |volume: &Volume| volume.attr(ino.0);
                return self.serve(&self.waiters, asked, reply, op, |reply, attr| {
                    reply.ioctl(0, &to_fsxattr(attr.flags));
                });
            }
            FS_IOC_SETFLAGS | FS_IOC32_SETFLAGS => {
                compression = true;
                let flags = argument.first_chunk();
                flags.map(|flags| u32::from_ne_bytes(*flags))
            }
            FS_IOC_FSSETXATTR => from_fsxattr(argument),
            _ => return reply.error(Errno::ENOTTY),
        };
        let Some(flags) = set else {
            return reply.error(Errno::EOPNOTSUPP);
        };
        let caller = caller(request);
        let op = move |volume: &Volume| match compression {
            true => volume.set_compression_flags(ino.0, flags, caller),
            false => volume.set_flags(ino.0, flags, caller),
        };
        self.serve(&self.waiters, asked, reply, op, |reply, ()| {
            reply.ioctl(0, &[]);
        });
    }

    // What follows is the kernel's to do; it does not ask again.

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
