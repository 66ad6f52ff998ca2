//! The store that serves users: tables in sled, values in logs beside it.
//!
//! What a store's directory holds for it:
//!
//! * `db/`: the database ([`Database`]);
//! * `db.seal`: proof that it was closed in order ([`Seal`]). sled takes a
//!   flipped bit near the end of its log for the place where a crash tore it,
//!   and silently forgets what follows; the seal finds it before sled can;
//! * `journal/`: every commit once more, and checkpoints, which prove a
//!   database after a crash and rebuild it ([`recover`]);
//! * `db.new/`, `db.old/`: steps of replacing the database;
//! * `logs/`: the value logs ([`Logs`]).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::checkpoint::Pair;
use super::database::Database;
use super::files::blocks_below;
use super::recover;
use super::seal::Seal;
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

/// How a store is opened.
pub(super) struct How {
    pub access: Access,
    /// The store's id.
    pub uuid: String,
    /// Values up to this length are kept in rows.
    pub inline_max: u32,
    /// Logs are closed when they have reached this size.
    pub log_size: u64,
    /// Whether it has a journal; if not, a writer gives it one.
    pub journal: bool,
}

/// See the module's description.
pub struct SledStore {
    root: PathBuf,
    access: Access,
    inline_max: usize,
    rows: Arc<Pair>,
    logs: Logs,
    /// Where the database is when it is a copy for reading.
    _copy: Option<TempDir>,
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

    /// Opens the store in `root`; `lock` keeps others from writing it.
    pub(super) fn open(root: &Path, how: &How, lock: Option<File>) -> Result<Self> {
        let How { access, uuid, .. } = how;
        if how.inline_max > INLINE_MAX {
            return Err(Error::Invalid("the inline threshold is larger than 4096"));
        }
        let (rows, copy) = match access {
            Access::Write => (recover::for_writing(root, uuid, !how.journal)?, None),
            Access::Read | Access::Salvage => {
                let salvage = *access == Access::Salvage;
                let (rows, copy) = recover::for_reading(root, uuid, how.journal, salvage)?;
                (rows, Some(copy))
            }
        };
        let first = match rows.database.last(Table::Log)? {
            Some((key, _)) => <[u8; 8]>::try_from(key).map_or(0, u64::from_be_bytes),
            None => 0,
        };
        let logs = root.join("logs");
        Ok(Self {
            logs: Logs::open(&logs, how.log_size, first.saturating_add(1))?,
            root: root.to_owned(),
            access: *access,
            inline_max: how.inline_max as usize,
            rows,
            _copy: copy,
            _lock: lock,
        })
    }

    #[cfg(test)]
    pub(super) fn database(&self) -> &Database {
        &self.rows.database
    }

    /// The database with its journal.
    #[cfg(test)]
    pub(super) fn pair(&self) -> &Arc<Pair> {
        &self.rows
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
        self.rows.database.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        self.rows.database.scan(table, start, end, limit)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        self.check_writable()?;
        let Pair {
            database,
            journal: Some(journal),
            committing,
            ..
        } = &*self.rows
        else {
            return Err(Error::ReadOnly);
        };
        let one = committing.lock();
        database.check_health()?;
        // After a failed sync the kernel forgets what it could not write:
        // values that look fine now may be gone after a power cut, and no
        // later sync would say so.
        let failed = |error: &Error| database.fail(error);
        self.logs.sync().inspect_err(failed)?;
        if batch.is_empty() {
            return Ok(());
        }
        let plan = database.plan(&batch)?;
        match journal.append(plan.stamp, &batch) {
            // Nothing has happened.
            Err(Error::NoSpace) => return Err(Error::NoSpace),
            appended => appended.inspect_err(failed)?,
        }
        // Side by side: the disk commits both at once.
        let syncing = journal.sync();
        let applied = database.apply(plan, true);
        let synced = syncing.wait().inspect_err(failed);
        // What the journal has and the database not would become a part of
        // the store when it is opened again: there must be no other commit.
        applied.inspect_err(failed)?;
        synced?;
        drop(one);
        self.rows.checkpoint_if_due();
        Ok(())
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
        let database =
            blocks_below(&self.root.join("db"))? + blocks_below(&self.root.join(recover::JOURNAL))?;
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
        self.rows.wait();
        let epoch = self.rows.database.stamp().epoch;
        let fine = self.rows.database.close();
        if fine
            && self.access == Access::Write
            && let Err(error) = Seal::set(&self.root, epoch)
        {
            log::warn!("the database was closed without its seal: {error}");
        }
    }
}
