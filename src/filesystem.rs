//! A store and everything above it, put together from a path: its directory,
//! its models, the codec, the tier, the volume. Opened and closed in order.

mod history;
mod models;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use serde::{Deserialize, Serialize};

use crate::codec::{self, Codec};
use crate::error::{Error, Result};
use crate::lm::model::Model;
use crate::memory::Budget;
use crate::parallel;
use crate::store::{Access, Properties, Store, StoreDir, Table};
use crate::tier::{self, Rest, Rules, Tier};
use crate::volume::{self, Volume};

pub use history::Day;
pub use models::{StoreModel, WholeReport};

/// What a new store shall be.
#[derive(Clone, Debug)]
pub struct NewStore {
    /// Plain bytes of a chunk, a power of two.
    pub chunk_size: usize,
    /// The model file that chunks are coded with, if any.
    pub model: Option<Vec<u8>>,
}

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Settings {
    pub volume: volume::Options,
    /// Bound of the memory that a mount takes, in bytes; `None` for a quarter
    /// of what the machine allows. See [`Budget`].
    pub memory: Option<u64>,
    /// See [`tier::Options`]; less where `memory` leaves less.
    pub cache_bytes: usize,
    pub rules: Rules,
    pub drain_threads: usize,
    /// Per cent by which the language model must beat the other codecs.
    pub lm_margin: u8,
    /// Read a store whose database does not match its seal. Read-only.
    pub salvage: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let tier = tier::Options::default();
        Self {
            volume: volume::Options::default(),
            memory: None,
            cache_bytes: tier.cache_bytes,
            rules: tier.rules,
            drain_threads: tier.drain_threads,
            lm_margin: codec::MARGIN,
            salvage: false,
        }
    }
}

impl Settings {
    /// What the memory is used for.
    pub fn budget(&self) -> Result<Budget> {
        match self.memory {
            Some(total) => Budget::split(total, parallel::available()),
            None => Budget::of_machine(),
        }
    }

    /// To look at a store without changing anything.
    pub fn look() -> Self {
        Self {
            volume: volume::Options {
                read_only: true,
                ..volume::Options::default()
            },
            drain_threads: 0,
            ..Self::default()
        }
    }
}

/// An open store with its volume. It must be [closed](Self::close), and is
/// free for others once it has been dropped.
pub struct FileSystem {
    path: PathBuf,
    chunk_size: u64,
    dir: Mutex<StoreDir>,
    store: Arc<dyn Store>,
    codec: Arc<Codec>,
    tier: Arc<Tier>,
    volume: Arc<Volume>,
    mounted: Mutex<Option<Mounted>>,
    closed: AtomicBool,
    /// See [`hold_models`](Self::hold_models).
    models_held: RwLock<()>,
}

impl FileSystem {
    /// Makes a store with an empty volume, owned by whoever runs this.
    pub fn create(path: &Path, new: &NewStore) -> Result<()> {
        // A model that is none must not leave a store behind.
        if let Some(bytes) = &new.model {
            Model::parse(bytes.clone())?;
        }
        let existed = path.symlink_metadata().is_ok();
        let was_empty = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        let result = Self::create_in(path, new);
        // Half a store is of no use, and this one was made just now. What had
        // been there, or is another's, is refused by these two.
        if let Err(error) = &result
            && !matches!(error, Error::Other(_) | Error::Locked { .. })
        {
            if !existed {
                let _ = std::fs::remove_dir_all(path);
            } else if was_empty {
                remove_entries(path);
            }
        }
        result
    }

    fn create_in(path: &Path, new: &NewStore) -> Result<()> {
        let properties = Properties {
            chunk_size: u32::try_from(new.chunk_size).unwrap_or(u32::MAX),
            ..Properties::for_disk(path)
        };
        let mut dir = StoreDir::create(path, &properties)?;
        if let Some(bytes) = &new.model {
            let hash = dir.put_model(bytes)?;
            dir.set_default_model(&hash)?;
        }
        let options = tier::Options {
            chunk_size: new.chunk_size,
            drain_threads: 0,
            decode_threads: 1,
            ..tier::Options::default()
        };
        let tier = Tier::open(dir.store(), Arc::new(Codec::default()), options)?;
        // SAFETY: both take nothing, touch no memory and cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let formatted = Volume::format(&tier, uid, gid);
        formatted.and(tier.close())
    }

    /// Opens the store at `path`, takes its lock, and starts its threads.
    pub fn open(path: &Path, settings: &Settings) -> Result<Arc<FileSystem>> {
        let budget = settings.budget()?;
        let read_only = settings.volume.read_only || settings.salvage;
        let access = match (settings.salvage, read_only) {
            (true, _) => Access::Salvage,
            (false, true) => Access::Read,
            (false, false) => Access::Write,
        };
        let dir = StoreDir::open(path, access)?;
        let codec = Arc::new(codec(&dir)?);
        codec.set_margin(settings.lm_margin);
        let store: Arc<dyn Store> = dir.store();
        let options = tier::Options {
            chunk_size: dir.properties().chunk_size as usize,
            cache_bytes: (settings.cache_bytes)
                .min(usize::try_from(budget.cache).unwrap_or(usize::MAX)),
            dirty_bytes: usize::try_from(budget.dirty).unwrap_or(usize::MAX),
            patch_bytes: usize::try_from(budget.patches).unwrap_or(usize::MAX),
            rules: settings.rules.clone(),
            drain_threads: settings.drain_threads.min(budget.coders),
            decode_threads: budget.coders,
            decoders: budget.coders,
            read_only,
            ..tier::Options::default()
        };
        let tier = Tier::open(store.clone(), codec.clone(), options)?;
        let volume = Volume::open(tier.clone(), settings.volume)?;
        Ok(Arc::new(FileSystem {
            path: dir.path().into(),
            chunk_size: dir.properties().chunk_size.into(),
            dir: Mutex::new(dir),
            store,
            codec,
            tier,
            volume,
            mounted: Mutex::new(None),
            closed: AtomicBool::new(false),
            models_held: RwLock::default(),
        }))
    }

    /// Puts the store at `path` in order: its files, then the rows of the
    /// volume, then the chunks. Nobody else may have it open. `each` hears of
    /// the plain bytes of the chunks looked at.
    pub fn repair(path: &Path, depth: tier::Depth, each: &mut dyn FnMut(u64)) -> Result<Repaired> {
        let mut corrected = StoreDir::examine(path)?;
        let mut missing = Vec::new();
        let dir = match StoreDir::open(path, Access::Write) {
            Err(Error::Corrupt(what)) => {
                log::warn!("{what}");
                missing = StoreDir::salvage_rows(path)?;
                StoreDir::open(path, Access::Write)?
            }
            opened => opened?,
        };
        let own = dir.properties().model.as_deref();
        let own = own.and_then(|hex| blake3::Hash::from_hex(hex).ok());
        let there = dir.models()?.into_iter().map(|(hash, _)| hash);
        for hash in there.chain(own) {
            if let (Err(_), Some(bytes)) = (dir.model(&hash), embedded(&hash)) {
                dir.put_model(bytes)?;
            }
        }
        let codec = codec(&dir)?;
        let store: Arc<dyn Store> = dir.store();
        let chunk_size = dir.properties().chunk_size as usize;
        let bare = store.scan(Table::Inode, &[], None, 1)?.is_empty();
        let bare = bare && store.scan(Table::Dirent, &[], None, 1)?.is_empty();
        // Some of these were deleted, and some have lost their rows: who knows.
        if bare || !missing.is_empty() {
            let files = volume::adopt(&*store, &codec, chunk_size)?;
            let found = format!(
                "{files} chunks that no file names were found in the value logs and are in \
                 /lost+found"
            );
            match bare {
                true => missing.push(format!("all names, owners and times are lost; {found}")),
                false if files > 0 => corrected.push(found),
                false => {}
            }
        }
        corrected.extend(volume::repair(&*store, chunk_size as u64)?);
        let threads = crate::parallel::available();
        let repair = tier::repair(&*store, &codec, depth, chunk_size, threads, each)?;
        corrected.extend(repair.corrected);
        // Rows of attributes went, and files still count them.
        if !repair.lost_attributes.is_empty() {
            volume::repair(&*store, chunk_size as u64)?;
        }
        Ok(Repaired {
            corrected,
            missing,
            lost_attributes: repair.lost_attributes,
        })
    }

    /// The canonical path of the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// The model that new chunks are coded with.
    pub fn own_model(&self) -> Option<blake3::Hash> {
        let hex = self.dir.lock().properties().model.clone();
        hex.and_then(|hex| blake3::Hash::from_hex(hex).ok())
    }

    /// The model of the store that frames call by these first bytes.
    pub fn model_named(&self, short: [u8; 4]) -> Result<blake3::Hash> {
        let mut models = self.dir.lock().models()?.into_iter().map(|(hash, _)| hash);
        let found = models.find(|hash| hash.as_bytes().starts_with(&short));
        found.ok_or_else(|| {
            Error::Model("a chunk was coded with a model that is not in this store".into())
        })
    }

    pub fn model_bytes(&self, hash: &blake3::Hash) -> Result<Vec<u8>> {
        self.dir.lock().model(hash)
    }

    /// Adds a model that chunks from elsewhere were coded with. They can be
    /// read at once.
    pub fn put_model(&self, bytes: &[u8]) -> Result<()> {
        let model = Model::parse(bytes.to_vec())?;
        self.codec.add_model(Arc::new(model))?;
        self.dir.lock().put_model(bytes).map(drop)
    }

    /// While this is held no model is removed: for those who add chunks that
    /// were coded elsewhere.
    pub fn hold_models(&self) -> RwLockReadGuard<'_, ()> {
        self.models_held.read()
    }

    /// A codec that knows the models which came since the store was opened too.
    pub fn codec_of_all_models(&self) -> Result<Codec> {
        codec(&self.dir.lock())
    }

    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Plain bytes of a chunk.
    pub fn chunk_size(&self) -> u64 {
        self.chunk_size
    }

    /// Notes where it is mounted, for reports.
    pub fn set_mounted(&self, mounted: Option<Mounted>) {
        *self.mounted.lock() = mounted;
    }

    /// Makes everything durable and stops the threads. May be called again.
    pub fn close(&self) -> Result<()> {
        if !self.closed.swap(true, Ordering::SeqCst)
            && let Err(error) = self.note_day()
        {
            log::warn!("noting what the store holds today: {error}");
        }
        let volume = self.volume.close();
        volume.and(self.tier.close())
    }

    /// The store in figures.
    pub fn report(&self) -> Result<Report> {
        let totals = self.volume.totals()?;
        let snapshots = self.volume.snapshots()?;
        let stats = self.tier.stats()?;
        let space = stats.space;
        Ok(Report {
            store: self.path().into(),
            mounted: self.mounted.lock().clone(),
            model: self.codec.model().map(|model| model_name(&model)),
            chunk_size: self.chunk_size(),
            files: totals.files,
            directories: totals.directories,
            others: totals.others,
            logical: totals.bytes,
            snapshots: snapshots.len() as u64,
            in_snapshots: snapshots.iter().map(|snapshot| snapshot.logical).sum(),
            disk: Disk {
                total: space.database + space.logs + space.other,
                database: space.database,
                logs: space.logs,
                other: space.other,
                available: space.available,
                capacity: space.capacity,
            },
            chunks: stats
                .chunks
                .iter()
                .map(|chunks| Chunks {
                    tier: chunks.tier.into(),
                    codec: chunks.codec.name().into(),
                    chunks: chunks.chunks,
                    plain: chunks.plain,
                    stored: chunks.stored,
                })
                .collect(),
            references: stats.references,
            referenced: stats.referenced,
            queue: Queue {
                chunks: stats.queue,
                plain: stats.queue_plain,
            },
            cache: Cache {
                hits: stats.cache_hits,
                misses: stats.cache_misses,
                bytes: stats.cache_bytes,
                limit: stats.cache_limit,
                dirty: stats.dirty,
            },
            damaged: stats.damaged,
            drain: self.drain_report(stats.queue_plain),
            traffic: Traffic {
                read: stats.read,
                written: stats.written,
            },
        })
    }
}

impl FileSystem {
    fn drain_report(&self, waiting: u64) -> Drain {
        let now = self.tier.drain_state();
        let rules = self.tier.rules();
        Drain {
            why: now.rest.as_ref().map(ToString::to_string),
            paused: now.paused,
            seconds_left: match (now.rate, &now.rest) {
                (Some(rate), None | Some(Rest::Quiet { .. })) if rate > 0.0 => {
                    Some(waiting as f64 / rate)
                }
                _ => None,
            },
            rest: now.rest,
            chunks: now.chunks,
            plain: now.plain,
            stored_before: now.stored_before,
            stored_after: now.stored_after,
            worked: now.worked.as_secs_f64(),
            rate: now.rate,
            threads: self.tier.drain_threads(),
            quiet: rules.quiet.as_secs_f64(),
            cpu_share: rules.cpu_share,
            hours: rules.hours.to_string(),
            max_load: rules.max_load,
            min_battery: rules.min_battery,
        }
    }
}

/// Empties a directory, as far as that goes.
fn remove_entries(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let _ = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => std::fs::remove_dir_all(entry.path()),
            false => std::fs::remove_file(entry.path()),
        };
    }
}

/// What [`FileSystem::repair`] did.
#[derive(Debug, Default)]
pub struct Repaired {
    /// What was not as it should be, in words.
    pub corrected: Vec<String>,
    /// Rows that are known to be missing, in words.
    pub missing: Vec<String>,
    /// Keys of extended attributes that are lost: the inode as `u64`, and the
    /// name.
    pub lost_attributes: Vec<Vec<u8>>,
}

/// The models of a store, its own first.
fn models(dir: &StoreDir) -> Result<Vec<Vec<u8>>> {
    let own = dir.properties().model.clone();
    let mut hashes: Vec<blake3::Hash> = dir.models()?.into_iter().map(|(hash, _)| hash).collect();
    if let Some(own) = own.and_then(|hex| blake3::Hash::from_hex(hex).ok()) {
        hashes.retain(|hash| *hash != own);
        hashes.insert(0, own);
    }
    let mut models = Vec::new();
    for hash in &hashes {
        match dir.model(hash) {
            Ok(bytes) => models.push(bytes),
            // Chunks coded without it can be read all the same.
            Err(error @ Error::Model(_)) => match embedded(hash) {
                Some(bytes) => models.push(bytes.to_vec()),
                None => log::error!("{error}"),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(models)
}

/// The model of this name, if this program has it.
fn embedded(hash: &blake3::Hash) -> Option<&'static [u8]> {
    crate::lm::model::embedded().filter(|bytes| blake3::hash(bytes) == *hash)
}

fn codec(dir: &StoreDir) -> Result<Codec> {
    let mut parsed = Vec::new();
    for bytes in models(dir)? {
        parsed.push(Arc::new(Model::parse(bytes)?));
    }
    Codec::with_models(parsed)
}

fn model_name(model: &Model) -> ModelName {
    ModelName {
        name: model.info().name,
        hash: blake3::Hash::from_bytes(model.hash()).to_hex().to_string(),
    }
}

/// A store in figures, as `stat` shows it. All sizes are bytes. The names of
/// the fields are a promise to those who read the JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub store: PathBuf,
    pub mounted: Option<Mounted>,
    /// The model that new chunks are coded with.
    pub model: Option<ModelName>,
    pub chunk_size: u64,
    pub files: u64,
    pub directories: u64,
    pub others: u64,
    /// Sum of the sizes of the files.
    pub logical: u64,
    /// Snapshots, and the sum of the sizes of the files in them; they are not
    /// counted above.
    #[serde(default)]
    pub snapshots: u64,
    #[serde(default)]
    pub in_snapshots: u64,
    pub disk: Disk,
    pub chunks: Vec<Chunks>,
    /// How often files name chunks, and the plain bytes behind these names.
    pub references: u64,
    pub referenced: u64,
    /// What waits to be coded.
    pub queue: Queue,
    pub cache: Cache,
    /// Chunks that could not be read since the store was opened.
    pub damaged: u64,
    pub drain: Drain,
    pub traffic: Traffic,
}

/// The drain: what it does, what it has done since the store was opened, and
/// what it was told. All times are seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    pub paused: bool,
    /// Why it does nothing just now, for programs and in words; `None` while
    /// it works.
    pub rest: Option<Rest>,
    pub why: Option<String>,
    /// What the queue will take at the speed of the last chunks; `None` where
    /// nobody knows, or while it may not work.
    pub seconds_left: Option<f64>,
    /// Chunks coded, their plain bytes, their frames before and after.
    pub chunks: u64,
    pub plain: u64,
    pub stored_before: u64,
    pub stored_after: u64,
    /// For how long it has worked.
    pub worked: f64,
    /// Plain bytes a second of its last chunks.
    pub rate: Option<f64>,
    pub threads: usize,
    pub quiet: f64,
    /// Per cent of each thread's time.
    pub cpu_share: u8,
    pub hours: String,
    pub max_load: Option<f64>,
    pub min_battery: Option<u8>,
}

/// Bytes that readers got and writers gave since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub read: u64,
    pub written: u64,
}

/// Where a store is mounted, and by which process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    pub dir: PathBuf,
    pub pid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelName {
    pub name: String,
    /// BLAKE3 of its file, in hexadecimal.
    pub hash: String,
}

/// Blocks that the store holds, and the disk it is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub total: u64,
    pub database: u64,
    pub logs: u64,
    /// Models, superblock, log.
    pub other: u64,
    pub available: u64,
    pub capacity: u64,
}

/// Chunks of one tier and codec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunks {
    /// `hot` or `cold`.
    pub tier: String,
    pub codec: String,
    pub chunks: u64,
    pub plain: u64,
    pub stored: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    pub chunks: u64,
    pub plain: u64,
}

/// Chunks in memory: read (the cache) and written (dirty).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    pub hits: u64,
    pub misses: u64,
    pub bytes: u64,
    pub limit: u64,
    pub dirty: u64,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An empty file system without a model that codes when it is told to, and
    /// the folder whose `store` it is.
    pub(crate) fn fresh() -> (tempfile::TempDir, Arc<FileSystem>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let new = NewStore {
            chunk_size: 4096,
            model: None,
        };
        FileSystem::create(&path, &new).unwrap();
        let settings = Settings {
            drain_threads: 0,
            ..Settings::default()
        };
        let fs = FileSystem::open(&path, &settings).unwrap();
        (folder, fs)
    }
}
