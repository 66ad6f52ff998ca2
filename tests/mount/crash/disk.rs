//! A disk whose power can be cut.
//!
//! It is the only file of a small FUSE file system, to be used through a loop
//! device. As a real disk it has a cache that forgets: a block that was
//! written is safe only when a flush has come after it. A cut keeps of what
//! was not flushed all, nothing, or for each block one of its versions by
//! chance, as a disk that writes in an order of its own does. Nothing that
//! merely lies in the page cache of the host is ever seen.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use parking_lot::Mutex;

use super::Random;

/// What the disk writes whole or not at all.
const BLOCK: usize = 4096;
const FILE: INodeNo = INodeNo(2);
const NAME: &str = "disk";

type Block = Arc<[u8; BLOCK]>;

/// The blocks of a disk; those never written are zeros.
#[derive(Clone, Default)]
pub struct Blocks {
    safe: HashMap<u64, Block>,
    /// Versions since the last flush, oldest first.
    cached: BTreeMap<u64, Vec<Block>>,
    /// Bytes written and flushes taken, for the report.
    pub written: u64,
    pub flushes: u64,
    /// Flushes are acknowledged and do nothing: for the test of the tests.
    pub lies: bool,
}

impl Blocks {
    fn read(&self, number: u64) -> Option<&Block> {
        let cached = self
            .cached
            .get(&number)
            .and_then(|versions| versions.last());
        cached.or_else(|| self.safe.get(&number))
    }

    fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        self.written += data.len() as u64;
        while !data.is_empty() {
            let (number, at) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
            let len = data.len().min(BLOCK - at);
            let mut block = self.read(number).map_or([0; BLOCK], |block| **block);
            block[at..at + len].copy_from_slice(&data[..len]);
            self.cached.entry(number).or_default().push(block.into());
            offset += len as u64;
            data = &data[len..];
        }
    }

    fn flush(&mut self) {
        self.flushes += 1;
        if self.lies {
            return;
        }
        for (number, versions) in std::mem::take(&mut self.cached) {
            self.safe
                .extend(versions.last().map(|last| (number, last.clone())));
        }
    }

    /// What a cut at this moment leaves.
    pub fn cut(&self, keeps: Keeps, random: &mut Random) -> Blocks {
        let mut left = Blocks {
            safe: self.safe.clone(),
            ..Blocks::default()
        };
        for (number, versions) in &self.cached {
            let kept = match keeps {
                Keeps::All => versions.len(),
                Keeps::Nothing => 0,
                Keeps::Some => random.below(versions.len() + 1),
            };
            if kept > 0 {
                left.safe.insert(*number, versions[kept - 1].clone());
            }
        }
        left
    }

    /// Writes it to a sparse file, for whoever looks for a cause.
    pub fn save(&self, path: &Path, size: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let file = fs::File::create(path)?;
        file.set_len(size)?;
        for (number, block) in &self.safe {
            file.write_all_at(&block[..], number * BLOCK as u64)?;
        }
        Ok(())
    }
}

/// What of the unflushed blocks survives.
#[derive(Clone, Copy, Debug)]
pub enum Keeps {
    All,
    Nothing,
    Some,
}

/// The file system of one file.
struct Files {
    blocks: Arc<Mutex<Blocks>>,
    size: u64,
}

impl Files {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let file = ino == FILE;
        FileAttr {
            ino,
            size: if file { self.size } else { 0 },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if file {
                FileType::RegularFile
            } else {
                FileType::Directory
            },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK as u32,
            flags: 0,
        }
    }
}

const TTL: Duration = Duration::from_secs(3600);

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&TTL, &self.attr(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Past the page cache: every write is seen as it is made.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let end = (offset + u64::from(size)).min(self.size);
        let first = offset / BLOCK as u64;
        let mut data = Vec::with_capacity(size as usize + 2 * BLOCK);
        let blocks = self.blocks.lock();
        for number in first..end.div_ceil(BLOCK as u64) {
            match blocks.read(number) {
                Some(block) => data.extend_from_slice(&block[..]),
                None => data.resize(data.len() + BLOCK, 0),
            }
        }
        let start = (offset - first * BLOCK as u64) as usize;
        reply.data(&data[start..start + end.saturating_sub(offset) as usize]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.blocks.lock().write(offset, data);
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.blocks.lock().flush();
        reply.ok();
    }
}

/// A disk in a loop device, its ext4 mounted. Dropping it takes all away.
pub struct Disk {
    blocks: Arc<Mutex<Blocks>>,
    session: Option<BackgroundSession>,
    device: Option<String>,
    /// Where the disk is a file, and where its ext4 is mounted.
    image: tempfile::TempDir,
    mounted: tempfile::TempDir,
}

/// Runs a tool as root; what it printed, or why not.
fn tool(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().into()),
        false => Err(format!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

impl Disk {
    /// Attaches a disk with these blocks; an empty one gets an ext4.
    /// The error says what this machine lacks.
    pub fn attach(blocks: Blocks, size: u64) -> Result<Disk, String> {
        let fresh = blocks.safe.is_empty();
        let dir = || tempfile::tempdir().map_err(|error| error.to_string());
        let mut disk = Disk {
            blocks: Arc::new(Mutex::new(blocks)),
            session: None,
            device: None,
            image: dir()?,
            mounted: dir()?,
        };
        let files = Files {
            blocks: disk.blocks.clone(),
            size,
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("laconicfs-test-disk".into())];
        config.n_threads = Some(2);
        let session = fuser::spawn_mount(files, disk.image.path(), &config);
        disk.session = Some(session.map_err(|error| format!("mounting a disk: {error}"))?);
        let file = disk.image.path().join(NAME);
        let file = file.to_str().unwrap_or_default();
        let device = tool("losetup", &["--find", "--show", "--direct-io=on", file])?;
        disk.device = Some(device.clone());
        if fresh {
            tool("mkfs.ext4", &["-q", "-E", "nodiscard", &device])?;
        }
        let mounted = disk.mounted.path().to_str().unwrap_or_default();
        tool("mount", &["-t", "ext4", &device, mounted])?;
        Ok(disk)
    }

    /// The root of its ext4.
    pub fn root(&self) -> PathBuf {
        self.mounted.path().into()
    }

    /// From now on.
    pub fn lie(&self) {
        self.blocks.lock().lies = true;
    }

    /// The blocks now. Cheap: they are shared until written.
    pub fn snapshot(&self) -> Blocks {
        self.blocks.lock().clone()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mounted = self.mounted.path().to_str().unwrap_or_default();
        // Another test may hold a descriptor between fork and exec.
        for _ in 0..50 {
            match tool("umount", &[mounted]) {
                Err(why) if why.contains("busy") => std::thread::sleep(Duration::from_millis(20)),
                _ => break,
            }
        }
        if let Some(device) = &self.device {
            let _ = tool("losetup", &["--detach", device]);
        }
        // The loop device lets go of its file a moment later.
        let image = self.image.path().to_str().unwrap_or_default();
        let _ = tool("umount", &["--lazy", image]);
        drop(self.session.take());
    }
}

#[test]
fn a_cut_keeps_what_was_flushed_and_of_the_rest_one_version_of_each_block() {
    let mut random = Random::new(7);
    let mut blocks = Blocks::default();
    let first = |blocks: &Blocks, number| blocks.read(number).map_or(0, |block| block[9]);
    blocks.write(0, &[1; BLOCK * 2]);
    blocks.flush();
    blocks.write(BLOCK as u64 + 5, &[2; 10]);
    blocks.write(BLOCK as u64, &[3; BLOCK]);
    blocks.write(BLOCK as u64 * 5, &[4; BLOCK]);
    assert_eq!([0, 1, 5, 6].map(|n| first(&blocks, n)), [1, 3, 4, 0]);
    let nothing = blocks.cut(Keeps::Nothing, &mut random);
    assert_eq!([0, 1, 5].map(|n| first(&nothing, n)), [1, 1, 0]);
    let all = blocks.cut(Keeps::All, &mut random);
    assert_eq!([0, 1, 5].map(|n| first(&all, n)), [1, 3, 4]);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let some = blocks.cut(Keeps::Some, &mut random);
        seen.insert([0, 1, 5].map(|n| first(&some, n)));
    }
    let every = [
        [1, 1, 0],
        [1, 1, 4],
        [1, 2, 0],
        [1, 2, 4],
        [1, 3, 0],
        [1, 3, 4],
    ];
    assert_eq!(seen, every.into());
}
