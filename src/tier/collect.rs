//! Collecting value logs: giving back the space of values that nobody needs.
//!
//! A log that holds nothing live is removed. What is live in a log that is
//! mostly garbage is copied out first, and so is the content of small logs
//! when there are many. Only sealed logs are touched, and only while no value
//! in them waits for its commit; where space is short, the logs that are being
//! appended to are sealed for it.

use std::time::Instant;

use crate::error::{Error, Result};
use crate::store::{ChunkId, Class, LogRecord, Table};

use super::commit::{SPACE_AGE, Swap};
use super::patch::PatchRow;
use super::rows::{self, ChunkRow};
use super::{Health, Shared};

/// A cold log is copied when less than this part of it is live (in per cent).
const COLD_LIVE: u64 = 80;

/// The same for hot logs: the drain empties them anyway.
const HOT_LIVE: u64 = 50;

/// The same for both while space is short.
const SHORT_LIVE: u64 = 90;

/// Logs up to this size count as small, and this many of a class are merged.
const SMALL: u64 = 4 << 20;
const MANY: usize = 8;

impl Shared {
    /// Removes what is empty and copies one log if that pays. For the
    /// background.
    pub(super) fn collect_some(&self) -> Result<()> {
        self.collect(1, false).map(drop)
    }

    /// Collects until nothing is left that pays.
    pub(super) fn collect_all(&self) -> Result<()> {
        // Copying makes new logs, but never ones worth collecting; the bound
        // is for what others do meanwhile.
        for _ in 0..16 {
            if self.collect(usize::MAX, false)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// One round: removes empty logs, copies out of at most `limit` others.
    /// `short`: space is, and logs pay that otherwise would not. Returns how
    /// many were removed.
    fn collect(&self, limit: usize, short: bool) -> Result<usize> {
        let (health, tight, room) = {
            let mut state = self.state.lock();
            (state.health, self.is_tight(&mut state), state.room())
        };
        if self.options.read_only || !matches!(health, Health::Fine | Health::Full) {
            return Ok(0);
        }
        // Garbage in the logs that are appended to counts as well, where it
        // takes much of what is left.
        if tight || self.open_garbage()? > room / 2 {
            self.store.seal_logs()?;
        }
        let mut stuck = self.stuck.lock();
        let (empty, mut victims): (Vec<_>, Vec<_>) = {
            // The logs first: a value appended to one after this look at it is
            // in a log that was not sealed then.
            let logs = self.store.logs()?;
            let ledger = self.ledger.lock();
            logs.into_iter()
                .filter(|info| info.sealed)
                .filter_map(|info| Some((info, ledger.live(info.log)?)))
                .partition(|(_, live)| *live == 0)
        };
        let mut done = 0;
        for (info, _) in empty {
            done += usize::from(self.remove_if_dead(info.log)?);
        }
        // Copying needs space before it frees some.
        if health == Health::Full {
            return Ok(done);
        }
        stuck.retain(|log, _| victims.iter().any(|(info, _)| info.log == *log));
        victims.retain(|(info, live)| stuck.get(&info.log) != Some(live));
        let small = |class| {
            let small = victims
                .iter()
                .filter(|(info, _)| info.class == class && info.bytes < SMALL);
            small.count() >= MANY
        };
        let (many_hot, many_cold) = (small(Class::Hot), small(Class::Cold));
        victims.retain(|(info, live)| {
            let (part, many) = match info.class {
                Class::Hot => (HOT_LIVE, many_hot),
                Class::Cold => (COLD_LIVE, many_cold),
            };
            let part = if short { SHORT_LIVE } else { part };
            live * 100 < info.bytes * part || (many && info.bytes < SMALL)
        });
        victims.sort_by_key(|(info, live)| live * 1000 / info.bytes.max(1));
        for (info, live) in victims.into_iter().take(limit) {
            if self.drain.stopped() {
                break;
            }
            if self.empty_log(info.log)? {
                done += 1;
            } else {
                stuck.insert(info.log, live);
            }
        }
        Ok(done)
    }

    /// Bytes of records that nobody needs, in logs that are not sealed yet.
    fn open_garbage(&self) -> Result<u64> {
        let logs = self.store.logs()?;
        let ledger = self.ledger.lock();
        let open = logs.iter().filter(|info| !info.sealed);
        let garbage =
            open.filter_map(|info| Some(info.bytes.saturating_sub(ledger.live(info.log)?)));
        Ok(garbage.sum())
    }

    /// See [`Tier::make_space`](super::Tier::make_space).
    pub(super) fn make_space(&self) -> bool {
        let mut futile = self.futile.lock();
        if self.options.read_only || futile.is_some_and(|at| at.elapsed() < SPACE_AGE) {
            return false;
        }
        // What was deleted is garbage once that is committed. Whether it was
        // shows below.
        let _ = self.fold_all();
        let _ = self.sync();
        let mut usable = false;
        for _ in 0..64 {
            let space = self.look_at_space();
            {
                let mut state = self.state.lock();
                state.set_space(space);
                usable = state.health == Health::Fine && !self.is_tight(&mut state);
                // Room for one small change is not enough: whoever asks goes
                // on writing.
                let ample = (2 * self.options.dirty_bytes as u64).min(state.space.capacity / 8);
                if usable && state.room() >= ample {
                    break;
                }
            }
            match self.collect(1, true) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    log::warn!("giving back space: {error}");
                    break;
                }
            }
        }
        if usable {
            *futile = None;
            return true;
        }
        *futile = Some(Instant::now());
        false
    }

    /// Copies what is live in a log to others of its class and removes it.
    /// Says whether that worked.
    fn empty_log(&self, log: u64) -> Result<bool> {
        let mut records = Vec::new();
        let lost = self.store.walk_log(log, &mut |record| {
            records.push(record);
            Ok(())
        })?;
        if lost > 0 {
            log::warn!(
                "{lost} bytes of value log {log} cannot be read; the log is kept if it is needed"
            );
        }
        let patched = |record: &LogRecord| {
            let row = self.store.get(Table::Patch, &record.owner_key)?;
            let row = row.as_deref().map(PatchRow::decode).transpose()?;
            Ok(row.is_some_and(|row| row.value == record.value))
        };
        for record in &records {
            // Their chunks are to be rewritten soon anyway.
            if record.owner_table == Table::Patch && patched(record)? {
                self.fold_all()?;
                break;
            }
        }
        for record in records {
            if self.drain.stopped() {
                return Ok(false);
            }
            match self.copy_record(&record) {
                Err(Error::Corrupt(what)) => {
                    log::error!("value log {log}: {what}; the log is kept");
                }
                result => result?,
            }
        }
        self.sync()?;
        self.remove_if_dead(log)
    }

    /// Removes a sealed log if no row needs it, now or after a power cut.
    fn remove_if_dead(&self, log: u64) -> Result<bool> {
        // In this order: a commit that is not known to be durable says so
        // before the ledger hears of it.
        let live = self.ledger.lock().live(log);
        let dead = live == Some(0) && !self.state.lock().unsure;
        if dead {
            self.store.remove_log(log)?;
        }
        Ok(dead)
    }

    /// Copies one record if the row that owned it still points at it.
    fn copy_record(&self, record: &LogRecord) -> Result<()> {
        let append = |class, payload: &[u8]| {
            self.ledger.lock().append(
                &*self.store,
                class,
                record.owner_table,
                &record.owner_key,
                payload,
            )
        };
        match record.owner_table {
            Table::Chunk => {
                let Some(row) = self.store.get(Table::Chunk, &record.owner_key)? else {
                    return Ok(());
                };
                let row = ChunkRow::decode(&row)?;
                let Ok(name) = <[u8; 32]>::try_from(record.owner_key.as_slice()) else {
                    return Ok(());
                };
                let name = ChunkId(name);
                if row.value != record.value {
                    return Ok(());
                }
                let frame = self.store.value(&row.value).inspect_err(|error| {
                    if matches!(error, Error::Corrupt(_)) {
                        self.damaged.lock().insert(name);
                    }
                })?;
                self.submit(Swap {
                    name,
                    to: Some(append(row.class, &frame)?),
                    from: row.value,
                    kind: row.kind,
                    class: row.class,
                    policy: row.policy,
                    model: row.model,
                });
            }
            Table::Xattr => {
                let key = record.owner_key.as_slice();
                let owned = self.run(|op| {
                    let row = op.get(Table::Xattr, key)?;
                    let value = row.as_deref().map(rows::parse_valued_row).transpose()?;
                    Ok(value.is_some_and(|(_, value)| value == record.value))
                })?;
                if owned {
                    let to = append(Class::Cold, &self.store.value(&record.value)?)?;
                    if !self.run(|op| op.move_value(key, &record.value, &to))? {
                        self.ledger.lock().settle(&to);
                    }
                }
            }
            // No other rows own values; if one ever does, the log's live
            // bytes keep it.
            _ => {}
        }
        Ok(())
    }
}
