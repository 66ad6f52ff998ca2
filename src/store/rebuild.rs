//! A new database out of the journal.

use std::path::Path;

use ::sled::Db;

use super::database::{FORMAT_ROW, STATE_ROW, guarded, start};
use super::digest::{Digest, Stamp};
use super::files::sync_all_files;
use super::survey::Survey;
use super::{Batch, Table};
use crate::error::{Error, Result};

/// Rows written at a time.
const ROWS: usize = 1024;

/// Makes a database in `target` that holds what a whole journal says, proves
/// that by the sum of all rows, and makes it durable.
pub fn rebuild(target: &Path, survey: &Survey) -> Result<()> {
    let Some(goal) = survey.last else {
        return Err(Error::Corrupt("the journal is not whole".into()));
    };
    let mut builder = Builder::start(target)?;
    survey.rows(&mut |rows| {
        for (table, (key, value)) in rows {
            builder.change(table, &key, Some(&value))?;
        }
        Ok(())
    })?;
    let base = survey
        .checkpoint
        .as_ref()
        .map_or(0, |(part, _)| part.place.base);
    survey.commits(base, &mut |_, batch| builder.batch(&batch))?;
    let stamp = builder.finish(goal.epoch)?;
    match stamp == goal {
        true => Ok(()),
        false => Err(Error::Corrupt(
            "the journal does not add up to the rows that it names".into(),
        )),
    }
}

/// Takes a row: its key with the table in front, its value.
pub type Put<'a> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'a;

/// Makes a database in `target` of `older`, rows of the damaged database, and
/// of what can be read of the journal: all of it, or the commits behind `sound`
/// if the rows are whole as of that one. Returns how many pieces of the
/// journal could not be read.
pub fn salvage(
    target: &Path,
    survey: &Survey,
    sound: Option<u64>,
    older: impl FnOnce(&mut Put<'_>) -> Result<()>,
) -> Result<u64> {
    let mut builder = Builder::start(target)?;
    older(&mut |raw_key, value| builder.put(raw_key, Some(value)))?;
    let lost = survey.salvage(sound, &mut |batch| builder.batch(&batch))?;
    // Behind everything that was ever committed.
    builder.finish(survey.seen.max(sound.unwrap_or(0)) + 1)?;
    Ok(lost)
}

struct Builder {
    db: Db,
    pending: ::sled::Batch,
    waiting: usize,
    target: std::path::PathBuf,
}

impl Builder {
    fn start(target: &Path) -> Result<Self> {
        super::files::remove_directory(target)?;
        let (_, db) = start(target)?;
        Ok(Self {
            db,
            pending: ::sled::Batch::default(),
            waiting: 0,
            target: target.to_owned(),
        })
    }

    fn change(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.put(&[&[table as u8], key].concat(), value)
    }

    fn put(&mut self, raw_key: &[u8], value: Option<&[u8]>) -> Result<()> {
        match value {
            Some(value) => self.pending.insert(raw_key, value),
            None => self.pending.remove(raw_key),
        }
        self.waiting += 1;
        match self.waiting >= ROWS {
            true => self.write(),
            false => Ok(()),
        }
    }

    fn batch(&mut self, batch: &Batch) -> Result<()> {
        for (table, key, value) in &batch.changes {
            self.change(*table, key, value.as_deref())?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        self.waiting = 0;
        let batch = std::mem::take(&mut self.pending);
        guarded("rebuilding the database", || self.db.apply_batch(batch))
    }

    /// Adds up what is there, notes it as `epoch`, and makes it durable.
    fn finish(mut self, epoch: u64) -> Result<Stamp> {
        self.write()?;
        let stamp = guarded("rebuilding the database", || {
            let mut digest = Digest::default();
            for row in self.db.iter() {
                let (key, value) = row?;
                digest.add(&key, &value);
            }
            let stamp = Stamp { epoch, digest };
            self.db
                .insert(FORMAT_ROW, &super::database::FORMAT.to_be_bytes())?;
            self.db.insert(STATE_ROW, &stamp.encode())?;
            self.db.flush()?;
            Ok(stamp)
        })?;
        drop(self.db);
        sync_all_files(&self.target)?;
        Ok(stamp)
    }
}
