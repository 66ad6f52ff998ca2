//! Reading everything: is every stored chunk what its name says?

use std::collections::HashMap;

use crate::codec::{Codec, Coded, TOGETHER};
use crate::error::{Error, Result};
use crate::parallel;
use crate::store::{ChunkId, Row, Store, Table};

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
    /// Inodes and indices of chunks in them.
    pub places: Vec<(u64, u64)>,
}

/// Decodes every chunk of a store that nobody writes to and compares it with
/// its name. `each` hears of the plain bytes of the chunks looked at.
pub fn scrub(
    store: &dyn Store,
    codec: &Codec,
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
        let results = parallel::map(threads, &groups, |group| verify(store, codec, group));
        for ((key, _), result) in page.iter().zip(results.into_iter().flatten()) {
            match (result, <[u8; 32]>::try_from(key.as_slice())) {
                (Ok(plain_len), _) => each(plain_len),
                (Err(error), Ok(name)) => {
                    let chunk = ChunkId(name);
                    let damage = Damage {
                        chunk,
                        reason: error.to_string(),
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
    let mut damaged: Vec<Damage> = damaged.into_values().collect();
    damaged.sort_by_key(|damage| damage.chunk);
    Ok(damaged)
}

/// Returns the lengths of the plain bytes.
fn verify(store: &dyn Store, codec: &Codec, rows: &[Row]) -> Vec<Result<u64>> {
    let fetch = |row: &[u8]| {
        let row = ChunkRow::decode(row)?;
        Ok((store.value(&row.value)?, row.plain_len))
    };
    let mut frames: Vec<Result<_>> = rows.iter().map(|(_, row)| fetch(row)).collect();
    let coded: Vec<Coded> = (frames.iter().flatten())
        .map(|(frame, plain_len)| (frame.as_slice(), *plain_len as usize))
        .collect();
    let mut plains = codec.decode_many(&coded).into_iter();
    let compare = |((key, _), frame): (&Row, Result<(_, u32)>)| {
        let (_, plain_len) = frame?;
        let plain = plains.next().unwrap_or(Err(Error::Stale))?;
        match ChunkId::of(&plain).0 == key[..] {
            true => Ok(u64::from(plain_len)),
            false => Err(Error::Corrupt(
                "the decoded bytes are not those that were written".into(),
            )),
        }
    };
    rows.iter().zip(frames.drain(..)).map(compare).collect()
}

fn find_places(store: &dyn Store, damaged: &mut HashMap<ChunkId, Damage>) -> Result<()> {
    let mut from = Vec::new();
    loop {
        let page = store.scan(Table::Cmap, &from, None, PAGE)?;
        for (key, row) in &page {
            let (Ok((ino, run)), Ok(row)) = (rows::parse_run_key(key), Run::decode(row)) else {
                continue;
            };
            for slot in 0..rows::RUN {
                let index = run * rows::RUN + slot;
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
