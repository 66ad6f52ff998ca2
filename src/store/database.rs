//! The tables: sled behind a small face that knows sled's traps.
//!
//! All tables rest in one sled tree, a key being the table's number and then
//! the row's key. One tree, because `Tree::apply_batch` is then atomic over
//! all tables at a fraction of a multi-tree transaction's cost. It is atomic
//! across crashes too: sled reserves an entry in its log before the first
//! change and writes the log position of the last change into it, and recovery
//! stops before such an entry if its log does not reach that position. (A
//! multi-tree transaction commits through the very same entry.)
//!
//! Rows are small, because sled moves a leaf of more than an eighth of a
//! megabyte into a file that it neither syncs nor removes; [`ROW_MAX`] keeps
//! leaves below that.

use std::collections::HashMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ::sled::{Config, Db};
use parking_lot::{Mutex, RwLock};
use tempfile::TempDir;

use crate::error::{Error, Result};

use super::digest::{Digest, Stamp};
use super::files::{private_copy, sync_all_files};
use super::{Batch, Row, Table, durable};

/// The most that key and value of a row may take together. A leaf of sled
/// holds up to 17 rows and must stay below a quarter of a segment.
pub const ROW_MAX: usize = 6 << 10;

/// sled's default, written down because it cannot change later.
const SEGMENT: u64 = 512 << 10;

/// What sled keeps in memory. A hint to it, no bound.
const CACHE: u64 = 48 << 20;

/// Blocks kept in hand for the database, so that a store on a full disk can
/// still be opened and something in it be deleted: at least this much, and
/// what sled writes when it opens a database, a list of its pages.
const RESERVE: u64 = 1 << 20;
const RESERVE_PART: u64 = 32;

/// Rows of the database itself, which no table can have.
const OWN: u8 = 0xff;
pub const FORMAT_ROW: &[u8] = b"\xffformat";
const TEST_ROW: &[u8] = b"\xffself-test";
pub const FRESH_ROW: &[u8] = b"\xfffresh";

/// Holds the [`Stamp`] of the last commit.
pub const STATE_ROW: &[u8] = b"\xffstate";

/// The format of the rows' keys, and of the database as a whole.
pub const FORMAT: u32 = 1;

pub struct Database {
    /// Taken for a moment; `committing` is held around it by writers.
    state: RwLock<State>,
    /// One commit at a time. Holds the file whose blocks are reserved, and up
    /// to where they are.
    committing: Mutex<Reserve>,
    directory: PathBuf,
}

struct State {
    /// `None` after an error kept it from being opened again.
    db: Option<Db>,
    config: Config,
    /// Nothing is written any more, because of this.
    failure: Option<Failure>,
    /// What rows were before a batch that stopped half way.
    undo: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// Where `db` lives if it is a private copy for reading.
    copy: Option<TempDir>,
}

struct Reserve {
    file: File,
    end: u64,
    /// Of the last commit.
    stamp: Stamp,
}

/// A batch, and what it will make of the rows.
pub struct Plan {
    /// Of the rows with the batch.
    pub stamp: Stamp,
    changes: ::sled::Batch,
    /// What the rows that it changes were.
    undo: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

/// An error that is told again and again.
#[derive(Clone)]
enum Failure {
    NoSpace,
    Other(String),
}

impl Failure {
    fn error(&self) -> Error {
        match self {
            Failure::NoSpace => Error::NoSpace,
            Failure::Other(what) => Error::Io {
                context: "the store has failed before and takes no more changes until it is \
                          opened again"
                    .into(),
                source: std::io::Error::other(what.clone()),
            },
        }
    }
}

impl Database {
    /// Makes an empty database.
    pub fn create(directory: &Path) -> Result<()> {
        let (_, db) = start(directory)?;
        guarded("creating the database", || {
            db.insert(FORMAT_ROW, &FORMAT.to_be_bytes())?;
            db.insert(STATE_ROW, &Stamp::default().encode())?;
            db.flush()
        })?;
        drop(db);
        sync_all_files(directory)
    }

    /// Opens the database for changes. The caller holds the store's lock.
    pub fn open(directory: &Path) -> Result<Self> {
        let open = || {
            let database = Self::open_files(directory)?;
            database.self_test()?;
            Ok(database)
        };
        let database = match open() {
            Err(Error::NoSpace) => {
                release_reserve(directory)?;
                open()?
            }
            result => result?,
        };
        // For later; there is no harm in having none while nothing is full.
        let mut reserve = database.committing.lock();
        match reserve.make_room(directory, 0, 0) {
            Err(Error::NoSpace) => log::warn!("the disk that holds the store is full"),
            result => result?,
        }
        drop(reserve);
        Ok(database)
    }

    /// Opens a database that nobody else will see, for reading or repair:
    /// sled writes when it opens one, so it must be a copy.
    pub fn open_private(directory: &Path) -> Result<Self> {
        Self::open_files(directory)
    }

    /// The same for what is left of a damaged one, whose own rows may be lost.
    pub fn open_damaged(directory: &Path) -> Result<Self> {
        match Self::open_files(directory) {
            Err(Error::Corrupt(_)) => Self::open_with(directory, true),
            opened => opened,
        }
    }

    fn open_files(directory: &Path) -> Result<Self> {
        Self::open_with(directory, false)
    }

    fn open_with(directory: &Path, damaged: bool) -> Result<Self> {
        let data = data_file(directory);
        // sled would start with an empty one.
        if !data.is_file() {
            return Err(Error::Corrupt(format!(
                "the store's database {} is missing",
                data.display()
            )));
        }
        let (config, db) = start(directory)?;
        let own = |row: &[u8]| match guarded("reading the database", || db.get(row)) {
            Err(Error::Corrupt(_)) if damaged => Ok(None),
            found => found,
        };
        let format = own(FORMAT_ROW)?;
        let format = format.as_deref().map(<[u8; 4]>::try_from);
        match format {
            None if damaged => {}
            Some(Ok(bytes)) if u32::from_be_bytes(bytes) <= FORMAT => {}
            Some(Ok(bytes)) => {
                return Err(Error::NewerFormat {
                    what: "the store's database".into(),
                    found: u32::from_be_bytes(bytes),
                    known: FORMAT,
                });
            }
            _ => {
                return Err(Error::Corrupt(format!(
                    "the store's database {} does not hold what it must",
                    directory.display()
                )));
            }
        }
        let stamp = own(STATE_ROW)?.and_then(|row| Stamp::decode(&row));
        let file = File::options()
            .read(true)
            .write(true)
            .open(&data)
            .map_err(Error::io(format!("opening {}", data.display())))?;
        let state = State {
            db: Some(db),
            config,
            failure: None,
            undo: HashMap::new(),
            copy: None,
        };
        Ok(Self {
            state: RwLock::new(state),
            committing: Mutex::new(Reserve {
                file,
                end: 0,
                // One that a database of format 1 lacks is given to it.
                stamp: stamp.unwrap_or_default(),
            }),
            directory: directory.to_owned(),
        })
    }

    /// Proves that a flush reaches the disk; see [`durable`].
    fn self_test(&self) -> Result<()> {
        let reserve = self.committing.lock();
        let before = durable::calls();
        let test = self.with(|db| {
            db.insert(TEST_ROW, &before.to_be_bytes())?;
            db.remove(TEST_ROW)?;
            db.flush()
        });
        drop(reserve);
        test?;
        match durable::calls() > before {
            true => Ok(()),
            false => Err(Error::NotDurable(
                "a flush of sled did not call this program's sync_file_range".into(),
            )),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&Db) -> ::sled::Result<T>) -> Result<T> {
        let state = self.state.read();
        guarded("using the database", || f(state.db()?))
    }

    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.get_raw(&raw_key(table, key))
    }

    pub fn get_raw(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let state = self.state.read();
        if let Some(before) = state.undo.get(key) {
            return Ok(before.clone());
        }
        guarded("reading a row", || {
            Ok(state.db()?.get(key)?.map(|value| value.to_vec()))
        })
    }

    pub fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        let from = raw_key(table, start);
        let to = match end {
            Some(end) => raw_key(table, end),
            None => vec![table as u8 + 1],
        };
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let state = self.state.read();
        // Rows of a batch that stopped half way are not to be seen.
        if !state.undo.is_empty() {
            return state.scan_undone(&from, &to, limit);
        }
        guarded("reading rows", || {
            let rows = state.db()?.range(from..to).take(limit);
            rows.map(|row| row.map(|(key, value)| (key[1..].to_vec(), value.to_vec())))
                .collect()
        })
    }

    /// The last row of a table.
    pub fn last(&self, table: Table) -> Result<Option<Row>> {
        self.with(|db| {
            let last = db.range([table as u8]..[table as u8 + 1]).next_back();
            last.map(|row| row.map(|(key, value)| (key[1..].to_vec(), value.to_vec())))
                .transpose()
        })
    }

    /// Whether an earlier failure has ended writing.
    pub fn check_health(&self) -> Result<()> {
        match &self.state.read().failure {
            Some(failure) => Err(failure.error()),
            None => Ok(()),
        }
    }

    /// Takes no more changes because of `error`.
    pub fn fail(&self, error: &Error) {
        let mut state = self.state.write();
        if state.failure.is_none() {
            state.failure = Some(match error {
                Error::NoSpace => Failure::NoSpace,
                other => Failure::Other(other.to_string()),
            });
        }
    }

    /// The stamp of the last commit.
    pub fn stamp(&self) -> Stamp {
        self.committing.lock().stamp
    }

    /// Adds up all rows. Every page is read and checked on the way.
    pub fn digest(&self) -> Result<Digest> {
        self.with(|db| {
            let mut digest = Digest::default();
            for row in db.range(..[OWN]) {
                let (key, value) = row?;
                digest.add(&key, &value);
            }
            Ok(digest)
        })
    }

    /// At most `limit` rows from a raw key on: table and key, value.
    pub fn page(&self, from: &[u8], limit: usize) -> Result<Vec<Row>> {
        self.with(|db| {
            let rows = db.range(from..&[OWN][..]).take(limit);
            rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect()
        })
    }

    /// Writes down what the rows are, durably: for a database that never was.
    pub fn set_stamp(&self, stamp: Stamp) -> Result<()> {
        let mut reserve = self.committing.lock();
        self.with(|db| {
            db.insert(STATE_ROW, &stamp.encode())?;
            db.flush()
        })?;
        reserve.stamp = stamp;
        Ok(())
    }

    /// Looks at what a batch will change, and sees to space for it. Nothing
    /// else may be committed until the plan has been [applied](Self::apply).
    pub fn plan(&self, batch: &Batch) -> Result<Plan> {
        let mut reserve = self.committing.lock();
        self.check_health()?;
        let mut undo = HashMap::with_capacity(batch.changes.len());
        let mut after = HashMap::with_capacity(batch.changes.len());
        let mut bytes = 0;
        for (table, key, value) in &batch.changes {
            let len = key.len() + value.as_ref().map_or(0, Vec::len);
            if len > ROW_MAX {
                return Err(Error::Invalid("a row of the store is longer than 6 KiB"));
            }
            bytes += len as u64;
            let key = raw_key(*table, key);
            if !undo.contains_key(&key) {
                undo.insert(key.clone(), self.get_raw(&key)?);
            }
            after.insert(key, value.as_deref());
        }
        reserve.make_room(&self.directory, bytes, undo.len() as u64 + 1)?;
        let mut stamp = reserve.stamp;
        stamp.epoch += 1;
        let mut changes = ::sled::Batch::default();
        for (key, before) in &undo {
            if let Some(value) = before {
                stamp.digest.remove(key, value);
            }
            match after.get(key).copied().flatten() {
                Some(value) => {
                    stamp.digest.add(key, value);
                    changes.insert(key.as_slice(), value);
                }
                None => changes.remove(key.as_slice()),
            }
        }
        changes.insert(STATE_ROW, &stamp.encode());
        Ok(Plan {
            stamp,
            changes,
            undo,
        })
    }

    /// Applies a batch atomically; `durable`: it survives a power cut when
    /// this returns `Ok`.
    pub fn apply(&self, plan: Plan, durable: bool) -> Result<()> {
        let mut reserve = self.committing.lock();
        self.check_health()?;
        let Plan {
            stamp,
            changes,
            undo,
        } = plan;
        let failures = durable::failures();
        let mut state = self.state.write();
        let again = changes.clone();
        let applied = guarded("writing rows", || state.db()?.apply_batch(changes));
        if let Err(error) = applied {
            state.undo = undo;
            self.failed(&mut state, &mut reserve, error, failures, again)?;
            reserve.stamp = stamp;
            return Ok(());
        }
        let Some(db) = state.db.clone() else {
            return Ok(()); // It has just been used.
        };
        drop(state); // Readers go on while the disk works.
        let flushed = match durable {
            true => guarded("making rows durable", || db.flush()).map(drop),
            false => Ok(()),
        };
        drop(db);
        if let Err(error) = flushed {
            let mut state = self.state.write();
            self.failed(&mut state, &mut reserve, error, failures, again)?;
        }
        reserve.stamp = stamp;
        Ok(())
    }

    /// Makes everything applied durable.
    pub fn flush(&self) -> Result<()> {
        self.with(|db| db.flush()).map(drop)
    }

    /// After sled failed it never writes again, and may not even read. If it
    /// merely lacked space, it is opened anew from what the disk holds, the
    /// last batch wholly or not at all, and given that batch again: it is in
    /// the journal already. After anything else nothing more may be written,
    /// for nobody knows what the disk took; what the files hold is then read
    /// from a copy, and the journal has what they lack when the store is
    /// opened the next time.
    fn failed(
        &self,
        state: &mut State,
        reserve: &mut Reserve,
        error: Error,
        failures: u64,
        batch: ::sled::Batch,
    ) -> Result<()> {
        if state.config.global_error().is_ok() {
            // It stopped at a page that it could not read, within a batch.
            log::error!("the database failed: {error}");
            state.failure = Some(Failure::Other(error.to_string()));
            return Err(error);
        }
        if matches!(error, Error::NoSpace) && durable::failures() == failures {
            log::warn!("the disk became full within a commit; opening the database again");
            state.undo.clear();
            state.db = None; // Having failed it writes nothing when dropped.
            reserve.end = 0;
            if let Err(error) = release_reserve(&self.directory) {
                log::warn!("{error}");
            }
            let opened = start(&self.directory).and_then(|(config, db)| {
                // Should it be there already, it does no harm.
                guarded("writing rows", || {
                    db.apply_batch(batch)?;
                    db.flush()
                })?;
                Ok((config, db))
            });
            match opened {
                Ok((config, db)) => {
                    state.config = config;
                    state.db = Some(db);
                    return Ok(());
                }
                Err(again) => log::warn!("the database could not be opened again: {again}"),
            }
        }
        log::error!(
            "the database failed ({error}): it takes no more changes. See to the disk, unmount, \
             and mount again"
        );
        state.failure = Some(match error {
            Error::NoSpace => Failure::NoSpace,
            _ => Failure::Other(error.to_string()),
        });
        let copy = private_copy(&self.directory)
            .and_then(|copy| Ok((start(&copy.path().join("db"))?, copy)));
        match copy {
            Ok(((config, db), copy)) => {
                state.undo.clear();
                state.config = config;
                state.db = Some(db);
                state.copy = Some(copy);
            }
            Err(error) => log::error!("reading it may fail: {error}"),
        }
        Err(error)
    }

    /// Bytes of all rows' keys and values, and their number.
    pub fn logical_size(&self) -> Result<(u64, u64)> {
        self.with(|db| {
            let mut total = (0, 0);
            for row in db.iter() {
                let (key, value) = row?;
                total.0 += (key.len() + value.len()) as u64;
                total.1 += 1;
            }
            Ok(total)
        })
    }

    /// Copies every row into a new database at `target`, durable when it
    /// returns. `own` is a row to add.
    pub fn copy_to(&self, target: &Path, own: (&[u8], &[u8])) -> Result<()> {
        const ROWS: usize = 1024;
        let (_, new) = start(target)?;
        self.with(|db| {
            let mut batch = ::sled::Batch::default();
            let mut rows = 0;
            for row in db.iter() {
                let (key, value) = row?;
                batch.insert(key, value);
                rows += 1;
                if rows % ROWS == 0 {
                    new.apply_batch(std::mem::take(&mut batch))?;
                }
            }
            batch.insert(own.0, own.1);
            new.apply_batch(batch)?;
            new.flush()
        })?;
        drop(new);
        sync_all_files(target)
    }

    /// Makes the next commits believe that the disk has space for them.
    #[cfg(test)]
    pub fn pretend_room(&self) {
        self.committing.lock().end = u64::MAX / 2;
    }

    /// As after a batch that stopped half way, with what was before it.
    #[cfg(test)]
    pub fn pretend_torn(&self, before: HashMap<Vec<u8>, Option<Vec<u8>>>) {
        let mut state = self.state.write();
        state.undo = before;
        state.failure = Some(Failure::Other("torn".into()));
    }

    /// Ends the use of the files. Whether everything is on the disk: if not,
    /// the database must not be taken for one that was closed in order.
    pub fn close(&self) -> bool {
        let reserve = self.committing.lock();
        let mut state = self.state.write();
        let Some(db) = state.db.take() else {
            return false;
        };
        let fine = state.failure.is_none()
            && guarded("closing the database", || db.flush()).is_ok()
            && state.config.global_error().is_ok();
        if !state.undo.is_empty() {
            // Dropping it would flush the half of a batch.
            std::mem::forget(db);
        } else {
            drop(db);
        }
        drop(reserve);
        fine
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    fn db(&self) -> ::sled::Result<&Db> {
        self.db.as_ref().ok_or_else(|| {
            ::sled::Error::Io(std::io::Error::other(
                "the database was closed by an error; see to the disk, unmount and mount again",
            ))
        })
    }

    /// Rows as they were before the batch in `undo`.
    fn scan_undone(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>> {
        let mut rows: std::collections::BTreeMap<Vec<u8>, Vec<u8>> =
            guarded("reading rows", || {
                let rows = self.db()?.range(from..to);
                rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
                    .collect()
            })?;
        for (key, before) in &self.undo {
            if key.as_slice() < from || key.as_slice() >= to {
                continue;
            }
            match before {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        let rows = rows.into_iter().take(limit);
        Ok(rows
            .map(|(key, value)| (key[1..].to_vec(), value))
            .collect())
    }
}

impl Reserve {
    /// Makes sure that a batch finds its space: a database that runs out of
    /// it in the middle is far more trouble.
    fn make_room(&mut self, directory: &Path, bytes: u64, rows: u64) -> Result<()> {
        let size = self
            .file
            .metadata()
            .map_err(Error::io("looking at the database"))?
            .len();
        // A row is written about three times before its page settles. When a
        // segment is full, what is left of it is written too.
        let written = 3 * bytes + 256 * rows + (16 << 10);
        let left = size.next_multiple_of(SEGMENT) - size;
        let need = if written <= left {
            written
        } else {
            left + written
        };
        if self.end >= size + need {
            return Ok(());
        }
        let reserve = RESERVE.max(size / RESERVE_PART);
        for spare in [reserve, reserve / 2, reserve / 4, 0] {
            let len = need + spare;
            match durable::set_aside(&self.file, size, len) {
                Ok(true) => {
                    self.end = size + len;
                    return Ok(());
                }
                Ok(false) => {
                    let (available, ..) = durable::disk_space(directory)?;
                    return match available >= need {
                        true => Ok(()),
                        false => Err(Error::NoSpace),
                    };
                }
                Err(error) => match Error::io("reserving space for the database")(error) {
                    Error::NoSpace => {}
                    other => return Err(other),
                },
            }
        }
        Err(Error::NoSpace)
    }
}

fn raw_key(table: Table, key: &[u8]) -> Vec<u8> {
    debug_assert!((table as u8) < OWN);
    [&[table as u8], key].concat()
}

/// The one file in which sled keeps everything.
fn data_file(directory: &Path) -> PathBuf {
    directory.join("db")
}

/// Gives the disk back the blocks that [`Reserve`] set aside behind the end of
/// the database's file.
fn release_reserve(directory: &Path) -> Result<()> {
    let path = data_file(directory);
    File::options()
        .write(true)
        .open(&path)
        // To where it ends already: blocks behind the end are freed.
        .and_then(|file| file.set_len(file.metadata()?.len()))
        .map_err(Error::io(format!("cutting {}", path.display())))
}

/// Opens sled's files, or makes them.
pub fn start(directory: &Path) -> Result<(Config, Db)> {
    drop_half_snapshots(directory)?;
    let config = Config::new()
        .path(directory)
        .segment_size(SEGMENT as usize)
        .cache_capacity(CACHE)
        // Every commit flushes; a timer would only make batches durable
        // before their time.
        .flush_every_ms(None);
    // A thread of sled may hold the file's lock for a moment after the last
    // use of it has ended.
    for _ in 0..100 {
        match guarded("opening the database", || config.open()) {
            Err(Error::Io { source, .. }) if source.to_string().contains("acquire lock") => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            result => return Ok((config.clone(), result?)),
        }
    }
    Err(Error::Other(format!(
        "the database {} is in use by another process; end that first",
        directory.display()
    )))
}

/// A crash or a full disk while sled opens a database leaves a snapshot half
/// written, under a name of its own. sled means to ignore it but looks for
/// another name, takes it for the newest and refuses to open the database.
fn drop_half_snapshots(directory: &Path) -> Result<()> {
    let looking = || format!("listing {}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io(looking()))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io(looking()))?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .ends_with(b".generating")
        {
            std::fs::remove_file(entry.path()).map_err(Error::io(looking()))?;
        }
    }
    Ok(())
}

/// Calls sled and translates its errors; a panic in it becomes one.
pub fn guarded<T>(context: &str, f: impl FnOnce() -> ::sled::Result<T>) -> Result<T> {
    use ::sled::Error as Sled;
    let damaged = |what: &str| {
        Error::Corrupt(format!(
            "{context}: the store's database is damaged ({what}); `laconicfs fsck --repair` \
             rebuilds it"
        ))
    };
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Sled::Io(source))) => Err(match source.kind() {
            // sled copies errors by their kind and loses their number.
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::NoSpace,
            _ => Error::io(context)(source),
        }),
        Ok(Err(error @ Sled::Unsupported(_))) => Err(damaged(&error.to_string())),
        Ok(Err(error)) => Err(damaged(&error.to_string())),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(damaged(text.unwrap_or("sled panicked")))
        }
    }
}
