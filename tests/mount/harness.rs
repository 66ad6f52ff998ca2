//! A volume mounted on a temporary directory.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use laconicfs::mount::{MountOptions, Session};
use laconicfs::store::{
    Access, Batch, Class, LogInfo, LogRecord, MemoryStore, Properties, Row, Space, Store, StoreDir,
    Table, ValueRef,
};
use laconicfs::tier::{self, Tier};
use laconicfs::volume::Volume;
use laconicfs::{Error, Result};

/// The mount options that most tests want.
pub const DEFAULT: &str = "allow_other";

/// The same without the kernel's cache of writes: a different path through
/// the kernel and through the adapter.
pub const THROUGH: &str = "allow_other,nowriteback_cache";

/// Where a test keeps its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Memory,
    Disk,
}

pub struct Mount {
    pub session: Session,
    pub store: Arc<Tricky>,
    /// Of the store, where it rests on disk.
    disk: Option<tempfile::TempDir>,
    volume: Arc<Volume>,
    tier: Arc<Tier>,
    options: MountOptions,
    dir: tempfile::TempDir,
}

/// Why this machine cannot mount, if so.
pub fn obstacle() -> Option<String> {
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
    {
        return Some(format!("/dev/fuse cannot be opened: {error}"));
    }
    let root = Command::new("id").arg("-u").output();
    if !root.is_ok_and(|id| id.stdout == b"0\n") {
        return Some("mounting with allow_other needs root".into());
    }
    None
}

/// Says on the terminal, past the test harness, that a test did not run.
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped {test}: {why}");
}

/// Whether `program` can be run; says so if not.
pub fn have(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .is_ok_and(|out| out.status.success());
    if !found {
        skip(&format!("there is no {program}"));
    }
    found
}

impl Mount {
    /// A new volume in memory, or `None`, said aloud, where the machine
    /// cannot mount.
    pub fn fresh(options: &str) -> Option<Mount> {
        Self::fresh_in(Place::Memory, options)
    }

    pub fn fresh_in(place: Place, options: &str) -> Option<Mount> {
        if let Some(why) = obstacle() {
            skip(&why);
            return None;
        }
        // For whoever looks for the cause of a failure, by RUST_LOG.
        let _ = env_logger::Builder::from_default_env()
            .is_test(true)
            .try_init();
        let disk = (place == Place::Disk).then(|| tempfile::tempdir().unwrap());
        Some(Self::fresh_at(disk, options))
    }

    /// A new volume in the directory `disk`, which may be a disk of its own.
    pub fn fresh_on(disk: tempfile::TempDir, options: &str) -> Mount {
        Self::fresh_at(Some(disk), options)
    }

    fn fresh_at(disk: Option<tempfile::TempDir>, options: &str) -> Mount {
        let store = Arc::new(match &disk {
            None => Tricky::new(None, Arc::new(MemoryStore::new(2048))),
            Some(dir) => Tricky::create(&dir.path().join("store")),
        });
        let place = disk.as_ref().map_or(Place::Memory, |_| Place::Disk);
        format(&store, place);
        let dir = tempfile::tempdir().unwrap();
        Self::over(store, disk, dir, options)
    }

    /// Tries to mount a new volume on a directory of somebody else.
    pub fn in_memory_on(dir: &Path) -> Result<Session> {
        let store = Arc::new(Tricky::new(None, Arc::new(MemoryStore::new(2048))));
        format(&store, Place::Memory);
        let options = MountOptions::default();
        let volume = Volume::open(open_tier(&store, Place::Memory, false), options.volume)?;
        laconicfs::mount::mount(volume, dir, &options)
    }

    /// Mounts the volume of the store `disk/store` on `dir`.
    pub fn of(disk: tempfile::TempDir, dir: tempfile::TempDir, options: &str) -> Mount {
        let store = Arc::new(Tricky::open(&disk.path().join("store")));
        Self::over(store, Some(disk), dir, options)
    }

    fn over(
        store: Arc<Tricky>,
        disk: Option<tempfile::TempDir>,
        dir: tempfile::TempDir,
        list: &str,
    ) -> Mount {
        let mut options = MountOptions::default();
        options.parse(list).unwrap();
        let place = disk.as_ref().map_or(Place::Memory, |_| Place::Disk);
        let tier = open_tier(&store, place, options.volume.read_only);
        let volume = Volume::open(Arc::clone(&tier), options.volume).unwrap();
        let session = laconicfs::mount::mount(Arc::clone(&volume), dir.path(), &options).unwrap();
        Mount {
            session,
            store,
            disk,
            volume,
            tier,
            options,
            dir,
        }
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Codes every chunk cold and forgets the kernel's pages.
    pub fn drain(&self) {
        self.volume.sync().unwrap();
        self.tier.drain(&mut |_| true).unwrap();
        self.forget();
    }

    /// Makes the kernel forget what it knows of this mount: pages and names.
    pub fn forget(&self) {
        // Asks the kernel as a whole; nothing but speed depends on it.
        std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    }

    /// Unmounts and checks the volume; returns what is left of the mount.
    pub fn unmount(self) -> Left {
        // Another test may be between fork and exec of a program, where it
        // holds a copy of every descriptor of this process.
        let mut tries = 0;
        while let Err(error) = self.session.unmount(false) {
            tries += 1;
            assert!(tries < 100, "{error}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.session.wait().unwrap();
        self.volume.close().unwrap();
        let problems = self.volume.check().unwrap();
        assert!(problems.is_empty(), "{problems:#?}");
        self.tier.close().unwrap();
        Left {
            store: self.store,
            disk: self.disk,
            dir: self.dir,
        }
    }

    /// Unmounts, checks the volume, opens its store anew and mounts it again.
    pub fn again(self, options: &str) -> Mount {
        let Left { store, disk, dir } = self.unmount();
        let store = match &disk {
            None => store,
            Some(disk) => {
                drop(store);
                Arc::new(Tricky::open(&disk.path().join("store")))
            }
        };
        Self::over(store, disk, dir, options)
    }

    /// A second mount of the same volume, elsewhere.
    pub fn mount_on(&self, dir: &Path) -> Result<Session> {
        laconicfs::mount::mount(Arc::clone(&self.volume), dir, &self.options)
    }
}

pub struct Left {
    store: Arc<Tricky>,
    disk: Option<tempfile::TempDir>,
    pub dir: tempfile::TempDir,
}

fn format(store: &Arc<Tricky>, place: Place) {
    let tier = open_tier(store, place, false);
    Volume::format(&tier, 0, 0).unwrap();
    tier.close().unwrap();
}

/// Serves the volume of `store`, which is made if need be, on `dir` until
/// somebody unmounts it.
pub fn serve(store: &Path, dir: &Path, list: &str) {
    let tricky = Arc::new(if store.exists() {
        Tricky::open(store)
    } else {
        let tricky = Arc::new(Tricky::create(store));
        format(&tricky, Place::Disk);
        drop(tricky);
        Tricky::open(store)
    });
    let mut options = MountOptions::default();
    options.parse(list).unwrap();
    let tier = open_tier(&tricky, Place::Disk, options.volume.read_only);
    let volume = Volume::open(Arc::clone(&tier), options.volume).unwrap();
    let session = laconicfs::mount::mount(Arc::clone(&volume), dir, &options).unwrap();
    session.wait().unwrap();
    volume.close().unwrap();
    tier.close().unwrap();
}

fn open_tier(store: &Arc<Tricky>, place: Place, read_only: bool) -> Arc<Tier> {
    let mut options = tier::Options {
        drain_threads: 0,
        read_only,
        ..tier::Options::default()
    };
    if place == Place::Memory {
        // Small, so that reads reach the store and writes wait for room.
        options.cache_bytes = 1 << 20;
        options.dirty_bytes = 1 << 20;
        options.commit_every = Duration::from_millis(50);
    }
    Tier::open(Arc::clone(store) as Arc<dyn Store>, Arc::default(), options).unwrap()
}

/// Runs a program in `dir`, which must succeed; returns what it printed.
pub fn run(dir: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// Text that compresses like text; the same seed, the same bytes.
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the",
        "store",
        "keeps",
        "a",
        "chunk",
        "of",
        "plain",
        "bytes",
        "and",
        "every",
        "reader",
        "sees",
        "them",
        "again",
        "later",
        "unchanged",
    ];
    let mut x = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 16);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(WORDS[(x % 16) as usize].as_bytes());
        out.push(if x.is_multiple_of(11) { b'\n' } else { b' ' });
    }
    out.truncate(len);
    out
}

/// A store whose values can be made to fail.
pub struct Tricky {
    inner: Arc<dyn Store>,
    /// Holds the lock on the store's directory.
    _dir: Option<StoreDir>,
    /// Values read are damaged.
    pub damage: AtomicBool,
    /// Reading a value on behalf of a request panics.
    pub panic: AtomicBool,
    /// There is no space left.
    pub full: AtomicBool,
}

impl Tricky {
    fn new(dir: Option<StoreDir>, inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            _dir: dir,
            damage: AtomicBool::new(false),
            panic: AtomicBool::new(false),
            full: AtomicBool::new(false),
        }
    }

    fn create(path: &Path) -> Self {
        Self::on(StoreDir::create(path, &Properties::for_disk(path)).unwrap())
    }

    fn open(path: &Path) -> Self {
        Self::on(StoreDir::open(path, Access::Write).unwrap())
    }

    fn on(dir: StoreDir) -> Self {
        let inner = dir.store();
        Self::new(Some(dir), inner)
    }
}

impl Store for Tricky {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        self.inner.scan(table, start, end, limit)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        self.inner.commit(batch)
    }

    fn append(
        &self,
        class: Class,
        owner_table: Table,
        owner_key: &[u8],
        payload: &[u8],
    ) -> Result<ValueRef> {
        if self.full.load(Ordering::Relaxed) {
            return Err(Error::NoSpace);
        }
        self.inner.append(class, owner_table, owner_key, payload)
    }

    fn value(&self, value: &ValueRef) -> Result<Vec<u8>> {
        // The tier's own threads read ahead; theirs is another story.
        let ours = std::thread::current()
            .name()
            .is_some_and(|name| name.starts_with("reader"));
        if ours && self.panic.load(Ordering::Relaxed) {
            panic!("on purpose, by the test");
        }
        let mut bytes = self.inner.value(value)?;
        if self.damage.load(Ordering::Relaxed)
            && let Some(last) = bytes.last_mut()
        {
            *last ^= 1;
        }
        Ok(bytes)
    }

    fn logs(&self) -> Result<Vec<LogInfo>> {
        self.inner.logs()
    }

    fn walk_log(&self, log: u64, each: &mut dyn FnMut(LogRecord) -> Result<()>) -> Result<u64> {
        self.inner.walk_log(log, each)
    }

    fn seal_logs(&self) -> Result<()> {
        self.inner.seal_logs()
    }

    fn remove_log(&self, log: u64) -> Result<()> {
        self.inner.remove_log(log)
    }

    fn space(&self) -> Result<Space> {
        self.inner.space()
    }
}
