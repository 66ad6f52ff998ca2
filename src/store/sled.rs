//! The store that serves users: tables in sled, values in logs beside it.
//!
//! What a store's directory holds for it:
//!
//! * `db/`: the database ([`Database`]);
//! * `db.seal`: the database's hash, written when it was closed in order and
//!   removed before it is changed again. sled takes a flipped bit near the end
//!   of its log for the place where a crash tore it, and silently forgets what
//!   follows; the seal finds it before sled can;
//! * `db.new/`, `db.old/`: steps of [copying the database](refresh);
//! * `logs/`: the value logs ([`Logs`]).

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::database::{self, Database};
use super::vlog::Logs;
use super::{Batch, Class, LogInfo, LogRecord, Row, Space, Store, Table, ValueRef, durable};
use crate::error::{Error, Result};

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and writing; one process at a time.
    Write,
    /// Reading, from any number of processes while none writes. Not a byte
    /// below the store's directory changes, so it may be on read-only media;
    /// the database is copied to a temporary directory.
    Read,
    /// As `Read`, but a damaged database is opened as far as it goes: what it
    /// says may be older than what was last written.
    Salvage,
}

/// The inline threshold at most; see [`database::ROW_MAX`].
pub const INLINE_MAX: u32 = 4096;

/// A database smaller than this is never copied to make it smaller.
const REFRESH_MIN: u64 = 32 << 20;

/// Nor is one smaller than this many times what a fresh copy would take.
const REFRESH_RATIO: u64 = 3;

/// See the module's description.
pub struct SledStore {
    root: PathBuf,
    access: Access,
    inline_max: usize,
    database: Database,
    logs: Logs,
    /// Commits one after the other: see [`Logs::sync`].
    committing: Mutex<()>,
    /// Released when the last user of the store is gone.
    _lock: Option<File>,
}

impl SledStore {
    /// Makes an empty store in an existing directory.
    pub(super) fn create(root: &Path) -> Result<()> {
        let logs = root.join("logs");
        std::fs::create_dir(&logs).map_err(Error::io(format!("creating {}", logs.display())))?;
        Database::create(&root.join("db"))?;
        durable::sync_directory(root)
    }

    /// Opens the store in `root`; `lock` keeps others from writing it. Values up to `inline_max` bytes are kept in rows, and logs
    /// are closed when they have reached `log_size` bytes.
    pub(super) fn open(
        root: &Path,
        inline_max: u32,
        log_size: u64,
        access: Access,
        lock: Option<File>,
    ) -> Result<Self> {
        if inline_max > INLINE_MAX {
            return Err(Error::Invalid("the inline threshold is larger than 4096"));
        }
        let directory = root.join("db");
        let database = match access {
            Access::Write => {
                finish_refresh(root)?;
                check_seal(root, &directory)?;
                break_seal(root)?;
                let database = Database::open(&directory)?;
                match refresh(root, &database)? {
                    true => {
                        database.close();
                        swap_in_fresh(root)?;
                        Database::open(&directory)?
                    }
                    false => database,
                }
            }
            Access::Read | Access::Salvage => {
                // A crash may have come between the two renames.
                let old = root.join("db.old");
                let there = if directory.is_dir() { directory } else { old };
                let checked = check_seal(root, &there);
                match (access, checked) {
                    (Access::Salvage, Err(error)) => log::warn!("{error}"),
                    (_, checked) => checked?,
                }
                Database::open_copy(&there)?
            }
        };
        let first = match database.last(Table::Log)? {
            Some((key, _)) => <[u8; 8]>::try_from(key).map_or(0, u64::from_be_bytes),
            None => 0,
        };
        Ok(Self {
            logs: Logs::open(&root.join("logs"), log_size, first.saturating_add(1))?,
            root: root.to_owned(),
            access,
            inline_max: inline_max as usize,
            database,
            committing: Mutex::new(()),
            _lock: lock,
        })
    }

    #[cfg(test)]
    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    #[cfg(test)]
    pub(super) fn value_logs(&self) -> &Logs {
        &self.logs
    }

    fn check_writable(&self) -> Result<()> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read | Access::Salvage => Err(Error::ReadOnly),
        }
    }
}

impl Store for SledStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.database.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        self.database.scan(table, start, end, limit)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        self.check_writable()?;
        let _one = self.committing.lock();
        self.database.check_health()?;
        // After a failed sync the kernel forgets what it could not write:
        // values that look fine now may be gone after a power cut, and no
        // later sync would say so.
        self.logs
            .sync()
            .inspect_err(|error| self.database.fail(error))?;
        match batch.is_empty() {
            true => Ok(()),
            false => self.database.apply(batch),
        }
    }

    fn append(
        &self,
        class: Class,
        owner_table: Table,
        owner_key: &[u8],
        payload: &[u8],
    ) -> Result<ValueRef> {
        self.check_writable()?;
        if payload.len() <= self.inline_max {
            return Ok(ValueRef::Inline(payload.to_vec()));
        }
        self.logs.append(class, owner_table, owner_key, payload)
    }

    fn value(&self, value: &ValueRef) -> Result<Vec<u8>> {
        match value {
            ValueRef::Inline(payload) => Ok(payload.clone()),
            ValueRef::Log { log, offset, len } => self.logs.value(*log, *offset, *len),
        }
    }

    fn logs(&self) -> Result<Vec<LogInfo>> {
        Ok(self.logs.list())
    }

    fn walk_log(&self, log: u64, each: &mut dyn FnMut(LogRecord) -> Result<()>) -> Result<u64> {
        self.logs.walk(log, each)
    }

    fn seal_logs(&self) -> Result<()> {
        self.check_writable()?;
        self.logs.seal();
        Ok(())
    }

    fn remove_log(&self, log: u64) -> Result<()> {
        self.check_writable()?;
        self.logs.remove(log)
    }

    fn space(&self) -> Result<Space> {
        let (available, free, capacity) = durable::disk_space(&self.root)?;
        let database = blocks_below(&self.root.join("db"))?;
        let logs = blocks_below(&self.root.join("logs"))?;
        let all = blocks_below(&self.root)?;
        Ok(Space {
            database,
            logs,
            // What vanished between these looks is nobody's.
            other: all.saturating_sub(database + logs),
            available,
            free,
            capacity,
        })
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        let fine = self.database.close();
        if fine
            && self.access == Access::Write
            && let Err(error) = set_seal(&self.root)
        {
            log::warn!("the database was closed without its seal: {error}");
        }
    }
}

/// Bytes of the blocks that a directory and everything below it take.
pub(super) fn blocks_below(directory: &Path) -> Result<u64> {
    let context = || format!("measuring {}", directory.display());
    let mut total = 0;
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.map_err(Error::io(context()))?,
        };
        for entry in entries {
            let entry = entry.map_err(Error::io(context()))?;
            let found = match entry.metadata() {
                // Removed while we looked.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                found => found.map_err(Error::io(context()))?,
            };
            total += found.blocks() * 512;
            if found.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok(total)
}

/// What `db.seal` says, as JSON.
#[derive(serde::Serialize, serde::Deserialize, PartialEq, Eq)]
struct Seal {
    format: u32,
    /// Of the database's files, their names and lengths, in hexadecimal.
    blake3: String,
}

fn seal_path(root: &Path) -> PathBuf {
    root.join("db.seal")
}

fn seal_of(directory: &Path) -> Result<Seal> {
    let reading = || format!("reading {}", directory.display());
    let mut hasher = blake3::Hasher::new();
    for path in database::files_below(directory).map_err(Error::io(reading()))? {
        use std::os::unix::ffi::OsStrExt;
        let file = File::open(&path).map_err(Error::io(reading()))?;
        let bytes = file.metadata().map_err(Error::io(reading()))?.len();
        let name = path.strip_prefix(directory).unwrap_or(&path).as_os_str();
        hasher.update(&(name.len() as u64).to_be_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&bytes.to_be_bytes());
        hasher.update_reader(file).map_err(Error::io(reading()))?;
    }
    Ok(Seal {
        format: 1,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

fn set_seal(root: &Path) -> Result<()> {
    let seal = seal_of(&root.join("db"))?;
    let text = serde_json::to_vec(&seal).map_err(|e| Error::Other(e.to_string()))?;
    durable::replace_file(&seal_path(root), &text)
}

/// Compares the database with its seal, if it has one: none is there after a
/// crash, and the database's own checks have to do.
fn check_seal(root: &Path, directory: &Path) -> Result<()> {
    let path = seal_path(root);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        text => text.map_err(Error::io(format!("reading {}", path.display())))?,
    };
    let seal: Option<Seal> = serde_json::from_slice(&text).ok();
    match seal {
        Some(seal) if seal.format > 1 => Err(Error::NewerFormat {
            what: format!("{}", path.display()),
            found: seal.format,
            known: 1,
        }),
        Some(seal) if seal == seal_of(directory)? => Ok(()),
        _ => Err(Error::Corrupt(format!(
            "the database {} is not what it was when the store was closed; nothing was changed. \
             Bring `db` and `db.seal` back from a copy of the store, or read what is left by \
             mounting it with `-o salvage`",
            directory.display()
        ))),
    }
}

/// From now on the database may change.
fn break_seal(root: &Path) -> Result<()> {
    match std::fs::remove_file(seal_path(root)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("removing the database's seal")(error)),
        Ok(()) => durable::sync_directory(root),
    }
}

/// Copies a database that has grown far beyond its content to `db.new`, for
/// sled's file never shrinks. `false` when it does not pay or does not work:
/// the old one is as good.
fn refresh(root: &Path, database: &Database) -> Result<bool> {
    let size = blocks_below(&root.join("db"))?;
    if size < REFRESH_MIN {
        return Ok(false);
    }
    let (bytes, rows) = database.logical_size()?;
    let expected = fresh_size(bytes, rows);
    // What the last copy took in truth, should the estimate be poor.
    let last = match database.get_raw(database::FRESH_ROW)? {
        Some(row) => <[u8; 8]>::try_from(row).map_or(0, u64::from_be_bytes),
        None => 0,
    };
    if size < REFRESH_RATIO * expected.max(1) || size < 2 * last {
        return Ok(false);
    }
    let (available, ..) = durable::disk_space(root)?;
    if available < 2 * expected + REFRESH_MIN {
        log::info!("too little space to copy the database, which is larger than it need be");
        return Ok(false);
    }
    let target = root.join("db.new");
    let copied = database
        .copy_to(&target, (database::FRESH_ROW, &expected.to_be_bytes()))
        .and_then(|()| durable::sync_directory(root));
    match copied {
        Ok(()) => Ok(true),
        Err(error) => {
            log::warn!("copying the database to make it smaller: {error}");
            remove_directory(&target)?;
            Ok(false)
        }
    }
}

/// About what a fresh database of so many bytes and rows takes on disk, its
/// reserve included; measured.
pub(super) fn fresh_size(bytes: u64, rows: u64) -> u64 {
    2 * bytes + 96 * rows + (2 << 20)
}

/// Puts `db.new`, which is whole, in the place of `db`.
fn swap_in_fresh(root: &Path) -> Result<()> {
    let rename = |from: &str, to: &str| {
        std::fs::rename(root.join(from), root.join(to))
            .map_err(Error::io(format!("renaming {from} to {to}")))
            .and_then(|()| durable::sync_directory(root))
    };
    rename("db", "db.old")?;
    rename("db.new", "db")?;
    remove_directory(&root.join("db.old"))
}

/// Cleans up after a crash during [`refresh`] or [`swap_in_fresh`].
fn finish_refresh(root: &Path) -> Result<()> {
    let [db, new, old] = ["db", "db.new", "db.old"].map(|name| root.join(name));
    if !db.is_dir() && old.is_dir() {
        std::fs::rename(&old, &db).map_err(Error::io("bringing back db.old"))?;
        durable::sync_directory(root)?;
    }
    remove_directory(&new)?;
    match db.is_dir() {
        true => remove_directory(&old),
        false => Ok(()),
    }
}

fn remove_directory(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}
