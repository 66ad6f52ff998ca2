//! A store in memory, for tests: nothing survives it.

use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::Mutex;

use super::{Batch, Class, LogInfo, LogRecord, RECORD_HEADER, Row, Space, Store, Table, ValueRef};
use crate::error::{Error, Result};

struct Log {
    class: Class,
    sealed: bool,
    bytes: u64,
    /// By offset.
    records: BTreeMap<u64, (Table, Vec<u8>, Vec<u8>)>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    logs: BTreeMap<u64, Log>,
    next_log: u64,
}

/// See the module's description.
pub struct MemoryStore {
    inline_max: usize,
    state: Mutex<State>,
}

impl MemoryStore {
    pub fn new(inline_max: usize) -> Self {
        Self {
            inline_max,
            state: Mutex::default(),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(2048)
    }
}

impl Store for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.state.lock().rows.get(&(table, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        let state = self.state.lock();
        let from = Bound::Included((table, start.to_vec()));
        Ok(state
            .rows
            .range((from, Bound::Unbounded))
            .take_while(|((t, key), _)| *t == table && end.is_none_or(|end| key.as_slice() < end))
            .take(limit)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        let mut state = self.state.lock();
        for (table, key, value) in batch.changes {
            match value {
                Some(value) => state.rows.insert((table, key), value),
                None => state.rows.remove(&(table, key)),
            };
        }
        Ok(())
    }

    fn append(
        &self,
        class: Class,
        owner_table: Table,
        owner_key: &[u8],
        payload: &[u8],
    ) -> Result<ValueRef> {
        if payload.len() <= self.inline_max {
            return Ok(ValueRef::Inline(payload.to_vec()));
        }
        let len = u32::try_from(payload.len()).map_err(|_| Error::FileTooBig)?;
        let mut state = self.state.lock();
        let open = state
            .logs
            .iter()
            .find(|(_, log)| log.class == class && !log.sealed)
            .map(|(id, _)| *id);
        let id = open.unwrap_or_else(|| {
            let id = state.next_log;
            state.next_log += 1;
            id
        });
        let log = state.logs.entry(id).or_insert_with(|| Log {
            class,
            sealed: false,
            bytes: 0,
            records: BTreeMap::new(),
        });
        let offset = log.bytes;
        log.bytes += RECORD_HEADER + owner_key.len() as u64 + payload.len() as u64;
        log.records
            .insert(offset, (owner_table, owner_key.to_vec(), payload.to_vec()));
        Ok(ValueRef::Log {
            log: id,
            offset,
            len,
        })
    }

    fn value(&self, value: &ValueRef) -> Result<Vec<u8>> {
        match value {
            ValueRef::Inline(payload) => Ok(payload.clone()),
            ValueRef::Log { log, offset, .. } => {
                let state = self.state.lock();
                let log = state.logs.get(log).ok_or(Error::Stale)?;
                log.records
                    .get(offset)
                    .map(|(_, _, payload)| payload.clone())
                    .ok_or_else(|| Error::Corrupt("no record at this offset".into()))
            }
        }
    }

    fn logs(&self) -> Result<Vec<LogInfo>> {
        let state = self.state.lock();
        Ok(state
            .logs
            .iter()
            .map(|(id, log)| LogInfo {
                log: *id,
                class: log.class,
                bytes: log.bytes,
                sealed: log.sealed,
            })
            .collect())
    }

    fn walk_log(&self, log: u64, each: &mut dyn FnMut(LogRecord) -> Result<()>) -> Result<u64> {
        let records: Vec<LogRecord> = {
            let state = self.state.lock();
            let found = state.logs.get(&log).ok_or(Error::Stale)?;
            found
                .records
                .iter()
                .map(|(offset, (owner_table, owner_key, payload))| LogRecord {
                    owner_table: *owner_table,
                    owner_key: owner_key.clone(),
                    value: ValueRef::Log {
                        log,
                        offset: *offset,
                        len: payload.len() as u32,
                    },
                })
                .collect()
        };
        records.into_iter().try_for_each(each)?;
        Ok(0)
    }

    fn seal_logs(&self) -> Result<()> {
        for log in self.state.lock().logs.values_mut() {
            log.sealed = true;
        }
        Ok(())
    }

    fn remove_log(&self, log: u64) -> Result<()> {
        self.state.lock().logs.remove(&log);
        Ok(())
    }

    fn space(&self) -> Result<Space> {
        let state = self.state.lock();
        let rows = |((_, key), value): (&(Table, Vec<u8>), &Vec<u8>)| key.len() + value.len();
        Ok(Space {
            database: state.rows.iter().map(rows).sum::<usize>() as u64,
            logs: state.logs.values().map(|log| log.bytes).sum(),
            other: 0,
            available: 1 << 40,
            free: 1 << 40,
            capacity: 1 << 40,
        })
    }
}
