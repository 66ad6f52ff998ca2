//! Writing checkpoints while commits go on.

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::Table;
use super::database::Database;
use super::journal::Journal;
use crate::error::{Error, Result};

/// Rows read at a time: commits wait that long at most.
const PAGE: usize = 512;

/// A database with its journal.
pub struct Pair {
    pub database: Database,
    /// None when the store is open for reading.
    pub journal: Option<Journal>,
    /// Held by commits, one after the other.
    pub committing: Mutex<()>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Pair {
    pub fn new(database: Database, journal: Option<Journal>) -> Arc<Self> {
        Arc::new(Self {
            database,
            journal,
            committing: Mutex::new(()),
            writer: Mutex::default(),
        })
    }

    /// Writes a checkpoint. Commits go on, but for a moment at its beginning
    /// and its end.
    pub fn checkpoint(&self) -> Result<()> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let mut checkpoint = {
            let _one = self.committing.lock();
            self.database.check_health()?;
            journal.begin_checkpoint(self.database.stamp().epoch)?
        };
        let mut from = Vec::new();
        loop {
            let page = self.database.page(&from, PAGE)?;
            for (raw_key, value) in &page {
                let (table, key) = split(raw_key)?;
                checkpoint.put(table, key, value)?;
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), &[0]].concat(),
                _ => break,
            }
        }
        // A commit that is under way may be among these rows already: with it
        // they are whole, and it must be durable before they count.
        let stamp = {
            let _one = self.committing.lock();
            self.database.check_health()?;
            self.database.stamp()
        };
        checkpoint.finish(stamp)
    }

    /// Lets a thread write a checkpoint if one is due and none does.
    pub fn checkpoint_if_due(self: &Arc<Self>) {
        if !self.journal.as_ref().is_some_and(Journal::wants_checkpoint) {
            return;
        }
        let mut writer = self.writer.lock();
        if writer.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let pair = self.clone();
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || {
                if let Err(error) = pair.checkpoint() {
                    log::warn!("a checkpoint of the journal was put off: {error}");
                }
            });
        match thread {
            Ok(thread) => *writer = Some(thread),
            Err(error) => log::warn!("a checkpoint of the journal was put off: {error}"),
        }
    }

    /// Waits for a checkpoint that is being written.
    pub fn wait(&self) {
        if let Some(thread) = self.writer.lock().take() {
            // A panic of it has been printed; the journal is whole without it.
            let _ = thread.join();
        }
    }
}

/// Table and key of a raw key.
fn split(raw_key: &[u8]) -> Result<(Table, &[u8])> {
    let (table, key) = raw_key
        .split_first()
        .and_then(|(table, key)| Some((*Table::ALL.get(usize::from(*table))?, key)))
        .ok_or_else(|| Error::Corrupt("the database holds a row of no table".into()))?;
    Ok((table, key))
}
