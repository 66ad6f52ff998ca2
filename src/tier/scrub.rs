//! Reading everything: is every stored chunk what its name says?

use std::collections::HashMap;

use crate::codec::{Codec, Coded, TOGETHER};
use crate::error::{Error, Result};
use crate::parallel;
use crate::store::{ChunkId, Row, Store, Table};

use super::patch::{self, PatchRow};
use super::repair::each_row;
use super::rows::{self, ChunkRow, Run};

/// Chunks looked at in one go, for each thread.
const BATCH: usize = 16;

/// Rows read at a time.
const PAGE: usize = 4096;

/// A chunk that cannot be read, and where files need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub chunk: ChunkId,
    /// Why, in words.
    pub reason: String,
    /// All that is missing is a model, which may be brought back.
    pub needs_model: bool,
    /// Inodes and indices of chunks in them.
    pub places: Vec<(u64, u64)>,
}

/// How closely [`scrub`] looks at chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Finds those that a repair has given up. Reads no values.
    Noted,
    /// Reads every value and compares it with the checksum of its record.
    Records,
    /// Decodes every chunk and compares it with its name.
    Chunks,
}

/// Looks for chunks that cannot be read, in a store that nobody writes to, or
/// of which what was written lately cannot. `each` hears of the plain bytes of
/// the chunks looked at.
pub fn scrub(
    store: &dyn Store,
    codec: &Codec,
    depth: Depth,
    threads: usize,
    each: &mut dyn FnMut(u64),
) -> Result<Vec<Damage>> {
    let mut damaged = damaged_chunks(store, codec, depth, threads, each)?;
    if depth != Depth::Noted {
        damaged.extend(damaged_patches(store)?);
    }
    damaged.sort_by_key(|damage| damage.chunk);
    Ok(damaged)
}

/// Looks for chunks that cannot be read.
pub(super) fn damaged_chunks(
    store: &dyn Store,
    codec: &Codec,
    depth: Depth,
    threads: usize,
    each: &mut dyn FnMut(u64),
) -> Result<Vec<Damage>> {
    let mut damaged = HashMap::<ChunkId, Damage>::new();
    let mut from = Vec::new();
    loop {
        let page = store.scan(Table::Chunk, &from, None, threads.max(1) * BATCH)?;
        let Some((last, _)) = page.last() else {
            break;
        };
        from = [last.as_slice(), &[0]].concat();
        let groups: Vec<_> = page.chunks(TOGETHER).collect();
        let results = parallel::map(threads, &groups, |group| verify(store, codec, depth, group));
        for ((key, _), result) in page.iter().zip(results.into_iter().flatten()) {
            match (result, <[u8; 32]>::try_from(key.as_slice())) {
                (Ok(plain_len), _) => each(plain_len),
                (Err(error), Ok(name)) => {
                    let chunk = ChunkId(name);
                    let damage = Damage {
                        chunk,
                        reason: error.to_string(),
                        needs_model: matches!(error, Error::Model(_)),
                        places: Vec::new(),
                    };
                    damaged.insert(chunk, damage);
                }
                // A malformed name is the check's to report.
                (Err(_), Err(_)) => {}
            }
        }
    }
    if !damaged.is_empty() {
        find_places(store, &mut damaged)?;
    }
    Ok(damaged.into_values().collect())
}

/// Chunks of which what was written lately cannot be read.
fn damaged_patches(store: &dyn Store) -> Result<Vec<Damage>> {
    let mut damaged = Vec::new();
    each_row(store, Table::Patch, |key, row| {
        let read = PatchRow::decode(row).and_then(|row| {
            let value = store.value(&row.value).map(drop);
            Ok((patch::parse_row_key(key)?, row.base, value))
        });
        // A malformed row is the check's to report.
        if let Ok((place, chunk, Err(error))) = read {
            damaged.push(Damage {
                chunk,
                reason: format!("what was last written into it cannot be read ({error})"),
                needs_model: false,
                places: vec![place],
            });
        }
        Ok(())
    })?;
    Ok(damaged)
}

/// Returns the lengths of the plain bytes.
fn verify(store: &dyn Store, codec: &Codec, depth: Depth, rows: &[Row]) -> Vec<Result<u64>> {
    let fetch = |(key, row): &Row| {
        let row = ChunkRow::decode(row)?;
        if row.lost {
            let name = <[u8; 32]>::try_from(key.as_slice()).unwrap_or_default();
            return Err(rows::lost(&ChunkId(name)));
        }
        Ok(match depth {
            Depth::Noted => (None, 0),
            Depth::Records => store.value(&row.value).map(|_| (None, row.plain_len))?,
            Depth::Chunks => (Some(store.value(&row.value)?), row.plain_len),
        })
    };
    let frames: Vec<Result<_>> = rows.iter().map(fetch).collect();
    let coded: Vec<Coded> = (frames.iter().flatten())
        .filter_map(|(frame, plain_len)| Some((frame.as_deref()?, *plain_len as usize)))
        .collect();
    let mut plains = codec.decode_many(&coded).into_iter();
    type Fetched = Result<(Option<Vec<u8>>, u32)>;
    let compare = |((key, _), frame): (&Row, Fetched)| {
        let (frame, plain_len) = frame?;
        if frame.is_some() {
            let plain = plains.next().unwrap_or(Err(Error::Stale))?;
            if ChunkId::of(&plain).0 != key[..] {
                return Err(Error::Corrupt(
                    "the decoded bytes are not those that were written".into(),
                ));
            }
        }
        Ok(u64::from(plain_len))
    };
    rows.iter().zip(frames).map(compare).collect()
}

pub(super) fn find_places(store: &dyn Store, damaged: &mut HashMap<ChunkId, Damage>) -> Result<()> {
    let mut from = Vec::new();
    loop {
        let page = store.scan(Table::Cmap, &from, None, PAGE)?;
        for (key, row) in &page {
            let (Ok((ino, run)), Ok(row)) = (rows::parse_run_key(key), Run::decode(row)) else {
                continue;
            };
            for slot in 0..rows::RUN {
                let index = run.saturating_mul(rows::RUN).saturating_add(slot);
                let damage = row.get(index).and_then(|name| damaged.get_mut(&name));
                if let Some(damage) = damage {
                    damage.places.push((ino, index));
                }
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), &[0]].concat(),
            _ => return Ok(()),
        }
    }
}
