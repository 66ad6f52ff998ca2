//! Counting everything again: do the rows of a store agree with each other?

use std::collections::{BTreeMap, HashMap};

use crate::error::Result;
use crate::store::{ChunkId, Class, Store, Table, ValueRef};

use super::patch::{self, PatchRow};
use super::rows::{self, ChunkRow, Counters, Run};

/// Problems described in words; more are only counted.
const DESCRIBED: usize = 1000;

/// Rows read at a time.
const PAGE: usize = 4096;

/// What [`check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// Chunks, and the names of chunks in files.
    pub chunks: u64,
    pub references: u64,
    /// What is wrong, in words: at most the first thousand.
    pub problems: Vec<String>,
    pub problem_count: u64,
}

impl Check {
    fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.problem_count += 1;
        if self.problems.len() < DESCRIBED {
            self.problems.push(what());
        }
    }
}

/// Recounts reference counts, live bytes of value logs, the queue of the drain
/// and the counters of a store that nobody writes to, and compares. Reads no
/// values. Rows that cannot be decoded are problems, not errors.
pub fn check(store: &dyn Store) -> Result<Check> {
    let mut found = Check::default();
    let mut refs = HashMap::<ChunkId, u64>::new();
    each_row(store, Table::Cmap, |key, row| {
        match rows::parse_run_key(key).and_then(|key| Ok((key, Run::decode(row)?))) {
            Ok((_, run)) => run
                .names()
                .for_each(|name| *refs.entry(name).or_default() += 1),
            Err(error) => found.wrong(|| format!("chunk map {key:02x?}: {error}")),
        }
    })?;

    let logs: HashMap<u64, u64> = store.logs()?.iter().map(|i| (i.log, i.bytes)).collect();
    let mut live = BTreeMap::<u64, u64>::new();
    let mut counters = Counters::default();
    let mut waiting = HashMap::<ChunkId, u64>::new();
    let mut value = |found: &mut Check,
                     owner: &dyn Fn() -> String,
                     key: &[u8],
                     value: &ValueRef| {
        if let ValueRef::Log { log, offset, .. } = value {
            let bytes = value.log_bytes(key.len());
            *live.entry(*log).or_default() += bytes;
            match logs.get(log) {
                None => found.wrong(|| format!("{} rests in log {log}, which is missing", owner())),
                Some(size) if offset + bytes > *size => {
                    found.wrong(|| format!("{} lies behind the end of log {log}", owner()));
                }
                Some(_) => {}
            }
        }
    };
    each_row(store, Table::Chunk, |key, row| {
        let (Ok(name), row) = (<[u8; 32]>::try_from(key), ChunkRow::decode(row)) else {
            return found.wrong(|| format!("chunk {key:02x?}: its name is malformed"));
        };
        let name = ChunkId(name);
        let row = match row {
            Ok(row) => row,
            Err(error) => return found.wrong(|| format!("chunk {name}: {error}")),
        };
        let named = refs.remove(&name).unwrap_or(0);
        found.chunks += 1;
        found.references += named;
        if named != row.refs {
            found.wrong(|| {
                format!(
                    "chunk {name} is counted {} times but named {named} times",
                    row.refs
                )
            });
        }
        value(&mut found, &|| format!("chunk {name}"), key, &row.value);
        counters.add(&row);
        if row.class == Class::Hot {
            waiting.insert(name, row.time);
        }
    })?;
    for name in refs.keys() {
        found.wrong(|| format!("chunk {name} is named by a file but not in the store"));
    }
    each_row(
        store,
        Table::Xattr,
        |key, row| match rows::parse_valued_row(row) {
            Ok((_, v)) => value(&mut found, &|| format!("attribute {key:02x?}"), key, &v),
            Err(error) => found.wrong(|| format!("attribute {key:02x?}: {error}")),
        },
    )?;
    each_row(store, Table::Patch, |key, row| {
        let read = || -> Result<_> {
            let (place, row) = (patch::parse_row_key(key)?, PatchRow::decode(row)?);
            Ok((
                place,
                patch::chunk_below(store, place)? == Some(row.base),
                row,
            ))
        };
        let problem = match read() {
            Ok((place, matches, row)) => {
                let owner = || format!("the patch of chunk {} of inode {}", place.1, place.0);
                value(&mut found, &owner, key, &row.value);
                (!matches).then(|| format!("{} belongs to another chunk", owner()))
            }
            Err(error) => Some(format!("patch {key:02x?}: {error}")),
        };
        if let Some(problem) = problem {
            found.wrong(|| problem);
        }
    })?;

    each_row(store, Table::Pend, |key, _| {
        match rows::parse_pend_key(key) {
            Ok((time, name)) if waiting.remove(&name) == Some(time) => {}
            Ok((_, name)) => found.wrong(|| format!("chunk {name} is in the queue but not hot")),
            Err(error) => found.wrong(|| format!("queue entry {key:02x?}: {error}")),
        }
    })?;
    for name in waiting.keys() {
        found.wrong(|| format!("chunk {name} is hot but not in the queue"));
    }
    each_row(store, Table::Log, |key, row| {
        match rows::parse_u64(key).and_then(|log| Ok((log, rows::parse_u64(row)?))) {
            Ok((log, bytes)) => {
                let counted = live.remove(&log).unwrap_or(0);
                if counted != bytes {
                    found.wrong(|| {
                        format!("log {log} should hold {bytes} live bytes but holds {counted}")
                    });
                }
            }
            Err(error) => found.wrong(|| format!("log row {key:02x?}: {error}")),
        }
    })?;
    for (log, bytes) in &live {
        found.wrong(|| format!("log {log} holds {bytes} live bytes but has no row"));
    }
    let kept = match store.get(Table::Meta, rows::COUNTERS)? {
        Some(row) => Counters::decode(&row),
        None => Ok(Counters::default()),
    };
    match kept {
        Ok(kept) if kept == counters => {}
        Ok(kept) => found.wrong(|| format!("the counters say {kept:?}, there are {counters:?}")),
        Err(error) => found.wrong(|| error.to_string()),
    }
    Ok(found)
}

fn each_row(store: &dyn Store, table: Table, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
    let mut from = Vec::new();
    loop {
        let rows = store.scan(table, &from, None, PAGE)?;
        for (key, row) in &rows {
            each(key, row);
        }
        match rows.last() {
            Some((last, _)) if rows.len() == PAGE => from = [last.as_slice(), &[0]].concat(),
            _ => return Ok(()),
        }
    }
}
