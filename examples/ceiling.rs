//! A file system in memory that does as little as FUSE lets it: what a mount on
//! this machine can reach at most. `tests/suites/bench` measures it beside ours:
//! `cargo run --release --example ceiling -- MOUNTPOINT`, until it is unmounted.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, SessionACL, TimeOrNow,
    WriteFlags,
};

const TTL: Duration = Duration::from_secs(3600);
const GENERATION: Generation = Generation(0);
const ROOT: u64 = 1;

struct Inode {
    attr: FileAttr,
    names: BTreeMap<OsString, u64>,
    bytes: Vec<u8>,
}

struct Memory {
    inodes: HashMap<u64, Inode>,
    next: u64,
}

struct Ceiling(Mutex<Memory>);

type Answer<T> = Result<T, Errno>;

impl Memory {
    fn new() -> Self {
        let mut memory = Memory {
            inodes: HashMap::new(),
            next: ROOT,
        };
        memory.add(FileType::Directory);
        memory
    }

    fn add(&mut self, kind: FileType) -> FileAttr {
        let now = SystemTime::now();
        let attr = FileAttr {
            ino: INodeNo(self.next),
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        let (names, bytes) = Default::default();
        let inode = Inode { attr, names, bytes };
        self.inodes.insert(self.next, inode);
        self.next += 1;
        attr
    }

    fn inode(&mut self, ino: INodeNo) -> Answer<&mut Inode> {
        self.inodes.get_mut(&ino.0).ok_or(Errno::ENOENT)
    }

    fn find(&mut self, parent: INodeNo, name: &OsStr) -> Answer<FileAttr> {
        let found = self.inode(parent)?.names.get(name).copied();
        Ok(self.inode(INodeNo(found.ok_or(Errno::ENOENT)?))?.attr)
    }

    fn make(&mut self, parent: INodeNo, name: &OsStr, kind: FileType) -> Answer<FileAttr> {
        let attr = self.add(kind);
        self.inode(parent)?.names.insert(name.into(), attr.ino.0);
        Ok(attr)
    }

    fn remove(&mut self, parent: INodeNo, name: &OsStr) -> Answer<()> {
        let gone = self.inode(parent)?.names.remove(name);
        self.inodes.remove(&gone.ok_or(Errno::ENOENT)?);
        Ok(())
    }

    fn resize(&mut self, ino: INodeNo, size: u64) -> Answer<FileAttr> {
        let inode = self.inode(ino)?;
        inode.bytes.resize(size as usize, 0);
        inode.attr.size = size;
        Ok(inode.attr)
    }

    fn write(&mut self, ino: INodeNo, offset: u64, data: &[u8]) -> Answer<u32> {
        let end = offset + data.len() as u64;
        if end > self.inode(ino)?.attr.size {
            self.resize(ino, end)?;
        }
        self.inode(ino)?.bytes[offset as usize..end as usize].copy_from_slice(data);
        Ok(data.len() as u32)
    }
}

impl Ceiling {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry(reply: ReplyEntry, answer: Answer<FileAttr>) {
    match answer {
        Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
        Err(error) => reply.error(error),
    }
}

fn empty(reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn attributes(reply: ReplyAttr, answer: Answer<FileAttr>) {
    match answer {
        Ok(attr) => reply.attr(&TTL, &attr),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Ceiling {
    /// What laconicfs asks for.
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            InitFlags::FUSE_WRITEBACK_CACHE,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_PARALLEL_DIROPS,
        ] {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.memory().find(parent, name));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attributes(reply, self.memory().inode(ino).map(|inode| inode.attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut memory = self.memory();
        attributes(
            reply,
            match size {
                Some(size) => memory.resize(ino, size),
                None => memory.inode(ino).map(|inode| inode.attr),
            },
        );
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        entry(reply, self.memory().make(parent, name, FileType::Directory));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.memory().make(parent, name, FileType::RegularFile) {
            Ok(attr) => {
                let keep = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(&TTL, &attr, GENERATION, FileHandle(0), keep);
            }
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.memory().remove(parent, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.memory().remove(parent, name));
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
        match self.memory().inode(ino) {
            Ok(Inode { bytes, .. }) => {
                let from = bytes.len().min(offset as usize);
                reply.data(&bytes[from..bytes.len().min(from + size as usize)]);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.memory().write(ino, offset, data) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut memory = self.memory();
        let names: Vec<(OsString, u64)> = match memory.inode(ino) {
            Ok(inode) => (inode.names.iter().map(|(n, &i)| (n.clone(), i))).collect(),
            Err(error) => return reply.error(error),
        };
        for (at, (name, ino)) in names.iter().enumerate().skip(offset as usize) {
            let kind = memory.inodes[ino].attr.kind;
            if reply.add(INodeNo(*ino), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

fn main() -> anyhow::Result<()> {
    let Some(dir) = std::env::args_os().nth(1) else {
        anyhow::bail!("usage: ceiling MOUNTPOINT");
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("ceiling".into()),
        MountOption::DefaultPermissions,
    ];
    config.acl = SessionACL::All;
    fuser::mount(Ceiling(Mutex::new(Memory::new())), dir, &config)?;
    Ok(())
}
