//! The directory of a store (`docs/format-store.md`).
//!
//! | name | what it is |
//! |---|---|
//! | `superblock`, `superblock.copy` | what the store is: one line of JSON and one with its hash |
//! | `lock` | locked by whoever uses the store; holds the writer's process id |
//! | `db/`, `db.seal`, `journal/`, `logs/` | rows and values, see [`SledStore`] |
//! | `models/` | `HASH.model`, each named by the BLAKE3 hash of its bytes |
//!
//! Nothing in it depends on where it lies: a copy is a store as well.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::sled::{How, INLINE_MAX};
use super::{Access, SledStore, durable, recover};
use crate::error::{Error, Result};

/// The newest format of a store that this program knows, and the one it makes.
pub const FORMAT: u32 = 3;

/// The first format with a journal.
const JOURNALED: u32 = 2;

const MAGIC: &str = "laconicfs store";

const SUPERBLOCK: &str = "superblock";
const SUPERBLOCK_COPY: &str = "superblock.copy";

/// What is chosen when a store is made, and stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    /// Plain bytes of a chunk: a power of two from 4 KiB to 16 MiB.
    pub chunk_size: u32,
    /// Values up to this length rest in rows; at most 4096 bytes.
    pub inline_max: u32,
    /// Value logs are closed at this size, in bytes; at least 64 KiB.
    pub log_size: u64,
    /// The model that chunks are coded with unless told otherwise: its hash,
    /// in hexadecimal.
    pub model: Option<String>,
}

impl Default for Properties {
    fn default() -> Self {
        Self {
            chunk_size: 64 << 10,
            inline_max: 2048,
            log_size: 64 << 20,
            model: None,
        }
    }
}

/// A value log is at most this part of the disk: what is deleted comes free by
/// whole logs, and the last one is written to, dead or not.
const LOG_PART: u64 = 64;

impl Properties {
    /// What suits a store at `path`, which need not exist yet, on its disk.
    pub fn for_disk(path: &Path) -> Self {
        let mut properties = Self::default();
        let space = path.ancestors().skip(1).find_map(|above| match above {
            above if above.as_os_str().is_empty() => durable::disk_space(Path::new(".")).ok(),
            above => durable::disk_space(above).ok(),
        });
        if let Some((_, _, size)) = space {
            let least = 4 * u64::from(properties.chunk_size);
            properties.log_size = (size / LOG_PART).clamp(least, properties.log_size);
        }
        properties
    }

    fn check(&self) -> Result<()> {
        if !self.chunk_size.is_power_of_two() || !(4096..=16 << 20).contains(&self.chunk_size) {
            return Err(Error::Invalid(
                "the chunk size must be a power of two from 4 KiB to 16 MiB",
            ));
        }
        if self.inline_max > INLINE_MAX {
            return Err(Error::Invalid(
                "the inline threshold must be 4096 bytes at most",
            ));
        }
        if self.log_size < 64 << 10 {
            return Err(Error::Invalid("a value log must be 64 KiB at least"));
        }
        if let Some(model) = &self.model {
            blake3::Hash::from_hex(model).map_err(|_| {
                Error::Invalid("the name of a model is its hash: 64 hexadecimal digits")
            })?;
        }
        Ok(())
    }
}

/// What a store says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superblock {
    magic: String,
    pub format: u32,
    /// Thirty-two hexadecimal digits, drawn when the store was made.
    pub uuid: String,
    /// Seconds since 1970.
    pub created: u64,
    #[serde(flatten)]
    pub properties: Properties,
}

impl Superblock {
    /// Reads the superblock of the store at `path`, which may be in use; its
    /// copy where that is damaged or missing.
    pub fn read(path: &Path) -> Result<Self> {
        let first = Self::read_file(path, &path.join(SUPERBLOCK));
        match first {
            Err(error @ (Error::Corrupt(_) | Error::NotAStore { .. })) => {
                let copy = Self::read_file(path, &path.join(SUPERBLOCK_COPY));
                copy.map_err(|_| error)
            }
            first => first,
        }
    }

    /// Whether both copies are there and say the same.
    pub fn is_safe(&self, path: &Path) -> bool {
        [SUPERBLOCK, SUPERBLOCK_COPY]
            .iter()
            .all(|name| Self::read_file(path, &path.join(name)).is_ok_and(|found| found == *self))
    }

    fn read_file(path: &Path, file: &Path) -> Result<Self> {
        let not_a_store = |reason: &str| Error::NotAStore {
            path: path.to_owned(),
            reason: format!("{reason}; `laconicfs mkfs` makes a store"),
        };
        let text = match std::fs::read(file) {
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Err(not_a_store(match path.symlink_metadata() {
                    Err(_) => "there is no such directory",
                    Ok(found) if found.is_file() => "it is a file, not a directory",
                    Ok(_) => "it has no superblock",
                }));
            }
            text => text.map_err(Error::io(format!("reading {}", file.display())))?,
        };
        let damaged = || {
            Error::Corrupt(format!(
                "the superblock {} is damaged; bring it back from a copy of the store",
                file.display()
            ))
        };
        let mut lines = text.split(|byte| *byte == b'\n');
        let (json, hash) = (lines.next().unwrap_or(b""), lines.next().unwrap_or(b""));
        if blake3::hash(json).to_hex().as_bytes() != hash {
            return Err(match json.starts_with(b"{") {
                true => damaged(),
                false => not_a_store("its superblock is not one"),
            });
        }
        // A newer superblock may have other fields.
        #[derive(Deserialize)]
        struct Start {
            magic: String,
            format: u32,
        }
        let start: Start = serde_json::from_slice(json).map_err(|_| damaged())?;
        if start.magic != MAGIC {
            return Err(not_a_store("its superblock is that of something else"));
        }
        if start.format == 0 {
            return Err(Error::Corrupt(format!(
                "the superblock of {} names no format",
                path.display()
            )));
        }
        if start.format > FORMAT {
            return Err(Error::NewerFormat {
                what: format!("the store {}", path.display()),
                found: start.format,
                known: FORMAT,
            });
        }
        let superblock: Self = serde_json::from_slice(json).map_err(|_| damaged())?;
        superblock.properties.check()?;
        Ok(superblock)
    }

    fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string(self).map_err(|e| Error::Other(e.to_string()))?;
        let hash = blake3::hash(json.as_bytes()).to_hex();
        let text = format!("{json}\n{hash}\n");
        // The copy is older for a moment, and that is all that it is for.
        durable::replace_file(&path.join(SUPERBLOCK), text.as_bytes())?;
        durable::replace_file(&path.join(SUPERBLOCK_COPY), text.as_bytes())
    }
}

/// An open store.
pub struct StoreDir {
    path: PathBuf,
    superblock: Superblock,
    access: Access,
    store: Arc<SledStore>,
}

impl StoreDir {
    /// Makes a store in `path`, a directory that is empty or does not exist
    /// yet, and opens it for writing.
    pub fn create(path: &Path, properties: &Properties) -> Result<Self> {
        properties.check()?;
        // Everybody's files are in it, whoever may read them.
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => check_empty(path)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let context = format!("creating {} (make its parent first)", path.display());
                return Err(Error::io(context)(error));
            }
            made => made.map_err(Error::io(format!("creating {}", path.display())))?,
        }
        let path = absolute(path)?;
        let lock = lock(&path, Access::Write)?;
        let models = path.join("models");
        std::fs::create_dir(&models)
            .map_err(Error::io(format!("creating {}", models.display())))?;
        SledStore::create(&path)?;
        drop(lock);
        let created = SystemTime::now().duration_since(UNIX_EPOCH);
        let superblock = Superblock {
            magic: MAGIC.into(),
            format: FORMAT,
            uuid: random_hex()?,
            created: created.map_or(0, |age| age.as_secs()),
            properties: properties.clone(),
        };
        // Last, so that only a whole store looks like one.
        superblock.write(&path)?;
        if let Some(parent) = path.parent() {
            durable::sync_directory(parent)?;
        }
        Self::open(&path, Access::Write)
    }

    /// Opens the store in `path`.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        // First, so that no lock is made in a directory that is not a store.
        Superblock::read(path)?;
        let path = absolute(path)?;
        let lock = lock(&path, access)?;
        let mut superblock = Superblock::read(&path)?;
        let how = How {
            access,
            uuid: superblock.uuid.clone(),
            inline_max: superblock.properties.inline_max,
            log_size: superblock.properties.log_size,
            journal: superblock.format >= JOURNALED,
        };
        let store = SledStore::open(&path, &how, lock)?;
        if access == Access::Write {
            // From here on a program that knows no journal must not write.
            superblock.format = FORMAT;
            if !superblock.is_safe(&path) {
                superblock.write(&path)?;
            }
        }
        Ok(Self {
            path,
            superblock,
            access,
            store: Arc::new(store),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    pub fn properties(&self) -> &Properties {
        &self.superblock.properties
    }

    pub fn access(&self) -> Access {
        self.access
    }

    /// What is wrong with the files of the store at `path`, in words: its
    /// superblock, its database as a whole, its journal, its models. Nothing
    /// is changed.
    pub fn examine(path: &Path) -> Result<Vec<String>> {
        let superblock = Superblock::read(path)?;
        let path = absolute(path)?;
        let _lock = lock(&path, Access::Read)?;
        let mut problems = Vec::new();
        if superblock.format >= JOURNALED {
            if !superblock.is_safe(&path) {
                problems.push("the superblock or its copy is damaged or missing".into());
            }
            problems.extend(recover::problems(&path, &superblock.uuid)?);
        }
        let dir = Self::models_path_of(&path);
        for (hash, _) in models_in(&dir)? {
            let bytes = std::fs::read(dir.join(model_name(&hash)));
            if bytes.map_or(true, |bytes| blake3::hash(&bytes) != hash) {
                problems.push(format!("the file of model {hash} is damaged"));
            }
        }
        if let Some(own) = &superblock.properties.model
            && !dir.join(format!("{own}.model")).exists()
        {
            problems.push(format!("the file of model {own} is missing"));
        }
        Ok(problems)
    }

    /// Puts what can be read of the rows in the place of a database that the
    /// journal cannot bring back, and says what is known to be missing, in
    /// words. The rows may not agree with each other afterwards. The next
    /// writer opens them as they are.
    pub fn salvage_rows(path: &Path) -> Result<Vec<String>> {
        let superblock = Superblock::read(path)?;
        let path = absolute(path)?;
        let _lock = lock(&path, Access::Write)?;
        recover::salvage_in_place(&path, &superblock.uuid)
    }

    /// Rows and values. Whoever holds it holds the store's lock.
    pub fn store(&self) -> Arc<SledStore> {
        self.store.clone()
    }

    fn models_path_of(path: &Path) -> PathBuf {
        path.join("models")
    }

    fn model_path(&self, hash: &blake3::Hash) -> PathBuf {
        Self::models_path_of(&self.path).join(model_name(hash))
    }

    /// Adds a model to the store and returns its name. One that is there
    /// already, whole, is left alone.
    pub fn put_model(&self, bytes: &[u8]) -> Result<blake3::Hash> {
        if self.access != Access::Write {
            return Err(Error::ReadOnly);
        }
        let hash = blake3::hash(bytes);
        if self.model(&hash).is_err() {
            durable::replace_file(&self.model_path(&hash), bytes)?;
        }
        Ok(hash)
    }

    /// Takes a model out of the store. The caller knows that no chunk needs it.
    pub fn remove_model(&self, hash: &blake3::Hash) -> Result<()> {
        if self.access != Access::Write {
            return Err(Error::ReadOnly);
        }
        let path = self.model_path(hash);
        std::fs::remove_file(&path).map_err(Error::io(format!("removing {}", path.display())))?;
        path.parent().map_or(Ok(()), durable::sync_directory)
    }

    /// The bytes of a model, which hash to its name.
    pub fn model(&self, hash: &blake3::Hash) -> Result<Vec<u8>> {
        let path = self.model_path(hash);
        let remedy = format!(
            "chunks coded with it cannot be read until the file {} is brought back; any copy of \
             the same model will do, from another store or a backup",
            path.display()
        );
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::Model(format!(
                    "model {hash} is missing from the store: {remedy}"
                )));
            }
            bytes => bytes.map_err(Error::io(format!("reading {}", path.display())))?,
        };
        match blake3::hash(&bytes) == *hash {
            true => Ok(bytes),
            false => Err(Error::Model(format!(
                "model {hash} is not what it was, its file has changed: {remedy}"
            ))),
        }
    }

    /// The names of the store's models and the bytes that each takes. The
    /// files are not read.
    pub fn models(&self) -> Result<Vec<(blake3::Hash, u64)>> {
        models_in(&Self::models_path_of(&self.path))
    }

    /// Makes a model that is in the store the one that chunks are coded with
    /// from now on.
    pub fn set_default_model(&mut self, hash: &blake3::Hash) -> Result<()> {
        if self.access != Access::Write {
            return Err(Error::ReadOnly);
        }
        self.model(hash)?;
        let mut superblock = self.superblock.clone();
        superblock.properties.model = Some(hash.to_hex().to_string());
        superblock.write(&self.path)?;
        self.superblock = superblock;
        Ok(())
    }
}

fn model_name(hash: &blake3::Hash) -> String {
    format!("{}.model", hash.to_hex())
}

/// The models in a directory: their names and lengths.
fn models_in(path: &Path) -> Result<Vec<(blake3::Hash, u64)>> {
    let listing = || format!("listing {}", path.display());
    let mut models = Vec::new();
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(models),
        entries => entries.map_err(Error::io(listing()))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io(listing()))?;
        let name = entry.file_name();
        let hash = name
            .to_str()
            .and_then(|name| name.strip_suffix(".model"))
            .and_then(|hex| blake3::Hash::from_hex(hex).ok());
        if let Some(hash) = hash {
            let found = entry.metadata().map_err(Error::io(listing()))?;
            models.push((hash, found.len()));
        }
    }
    models.sort_by_key(|(hash, _)| *hash.as_bytes());
    Ok(models)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .map_err(Error::io(format!("looking at {}", path.display())))
}

/// Whether a store may be made in an existing directory.
fn check_empty(path: &Path) -> Result<()> {
    let listing = || format!("listing {}", path.display());
    if path.join("superblock").exists() {
        return Err(Error::Other(format!(
            "{} holds a store already: mount it, or make the new one elsewhere",
            path.display()
        )));
    }
    for entry in std::fs::read_dir(path).map_err(Error::io(listing()))? {
        // A fresh file system of its own is as good as empty.
        if entry.map_err(Error::io(listing()))?.file_name() != "lost+found" {
            return Err(Error::Other(format!(
                "{} is not empty; a store is made in an empty directory or a new one",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Locks the store, alone or beside other readers.
fn lock(path: &Path, access: Access) -> Result<Option<File>> {
    let name = path.join("lock");
    let context = || format!("locking the store with {}", name.display());
    let write = access == Access::Write;
    let opened = File::options()
        .read(true)
        .write(write)
        .create(write)
        .open(&name);
    let mut file = match opened {
        // Nobody has ever written this copy of a store.
        Err(error) if !write && error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(Error::io(context()))?,
    };
    let try_lock = || match write {
        true => file.try_lock(),
        false => file.try_lock_shared(),
    };
    let mut locked = try_lock();
    // A process that ends, or one that starts another, holds a lock for a
    // moment longer than it means to.
    for _ in 0..20 {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        locked = try_lock();
    }
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Locked {
                path: path.to_owned(),
                pid: holder(&mut file),
            });
        }
        Err(TryLockError::Error(error)) => return Err(Error::io(context())(error)),
    }
    if write {
        // For people and for `holder`; the lock is what counts.
        let pid = format!("{}\n", std::process::id());
        let noted = file
            .set_len(0)
            .and_then(|()| file.write_all(pid.as_bytes()));
        if let Err(error) = noted {
            log::debug!("noting the process in {}: {error}", name.display());
        }
    }
    Ok(Some(file))
}

/// The process that holds the lock: one that the kernel names, the last writer
/// before others; 0 when nothing is known.
fn holder(file: &mut File) -> u32 {
    let mut text = String::new();
    let noted = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let noted: Option<u32> = noted.ok().and_then(|_| text.trim().parse().ok());
    let inode = file.metadata().map_or(0, |found| found.ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    // `1: FLOCK  ADVISORY  WRITE 708 00:1a:2345 0 EOF`
    let holders: Vec<u32> = locks
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let kind = fields.next()?;
            let pid = fields.nth(2)?.parse().ok()?;
            let place = fields.next()?.ends_with(&format!(":{inode}"));
            (kind == "FLOCK" && place && pid != 0).then_some(pid)
        })
        .collect();
    noted
        .filter(|pid| holders.contains(pid))
        .or(holders.first().copied())
        .or(noted)
        .unwrap_or(0)
}

fn random_hex() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(Error::io("drawing the store's id"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
