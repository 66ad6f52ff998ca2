//! Making rows agree with each other again, and chunks with their logs, in a
//! store that has been damaged.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::codec::{Codec, Kind, Policy};
use crate::error::{Error, Result};
use crate::store::{Batch, ChunkId, Class, Store, Table, ValueRef};

use super::patch::{self, PatchRow};
use super::rows::{self, ChunkRow, Counters, Run};
use super::scrub::{Damage, Depth, damaged_chunks, find_places};

/// Rows read at a time, and changes committed at a time.
const PAGE: usize = 4096;

/// What a [`repair`] did.
#[derive(Debug, Default)]
pub struct Repair {
    /// What was put in order, in words.
    pub corrected: Vec<String>,
    /// Chunks that cannot be read: reading them is an error from now on, or
    /// until a model is brought back.
    pub lost: Vec<Damage>,
    /// Keys of extended attributes whose values are lost, and with them their
    /// rows.
    pub lost_attributes: Vec<Vec<u8>>,
}

/// Finds the chunks that cannot be read (`depth` says how closely to look),
/// looks for other copies of them in the value logs, and notes those that are
/// lost. Then counts references, live bytes, the drain's queue and the
/// counters anew. `each` hears of the plain bytes of chunks looked at.
///
/// Nobody else may use the store meanwhile. Chunk maps must name what files
/// have: the volume's repair comes first. May be stopped and begun again.
pub fn repair(
    store: &dyn Store,
    codec: &Codec,
    depth: Depth,
    chunk_size: usize,
    threads: usize,
    each: &mut dyn FnMut(u64),
) -> Result<Repair> {
    let mut repair = Repair::default();
    let mut writer = Writer::new(store);
    let refs = count_names(store)?;
    drop_malformed(store, &refs, &mut writer, &mut repair)?;
    writer.flush()?;

    let damaged = damaged_chunks(store, codec, depth, threads, each)?;
    let mut wanted: HashMap<ChunkId, Damage> = damaged
        .into_iter()
        .map(|damage| (damage.chunk, damage))
        .collect();
    for name in refs.keys() {
        if store.get(Table::Chunk, &name.0)?.is_none() {
            wanted.insert(
                *name,
                Damage {
                    chunk: *name,
                    reason: "no row says where it is".into(),
                    needs_model: false,
                    places: Vec::new(),
                },
            );
        }
    }
    find_places(store, &mut wanted)?;
    let found = find_copies(store, codec, &wanted, chunk_size)?;
    let now = super::commit::now_ms();
    for (name, damage) in wanted {
        if damage.needs_model {
            repair.lost.push(damage);
            continue;
        }
        let before = store.get(Table::Chunk, &name.0)?;
        let before = before.and_then(|row| ChunkRow::decode(&row).ok());
        if let Some(row) = found.get(&name) {
            repair
                .corrected
                .push(format!("chunk {name}: another copy of it is used"));
            writer.put(Table::Chunk, &name.0, row.encode())?;
            continue;
        }
        if !before.as_ref().is_some_and(|row| row.lost) {
            repair
                .corrected
                .push(format!("chunk {name} is noted as lost ({})", damage.reason));
            let row = ChunkRow {
                lost: true,
                plain_len: before.as_ref().map_or(0, |row| row.plain_len),
                refs: 0, // Counted below.
                time: now,
                kind: Kind::Raw,
                class: Class::Cold,
                policy: before.as_ref().map_or(Policy::Auto, |row| row.policy),
                model: None,
                value: ValueRef::Inline(Vec::new()),
            };
            writer.put(Table::Chunk, &name.0, row.encode())?;
        }
        if refs.contains_key(&name) {
            repair.lost.push(damage);
        }
    }
    writer.flush()?;
    repair_patches(store, &mut writer, &mut repair)?;
    repair
        .lost
        .sort_by_key(|damage| damage.places.first().copied());

    drop_lost_attributes(store, &mut writer, &mut repair)?;
    writer.flush()?;
    let mut fixed = Fixed::default();
    recount(store, &refs, &mut writer, &mut fixed)?;
    writer.flush()?;
    repair.corrected.extend(fixed.sentences());
    Ok(repair)
}

/// Commits changes in pieces.
pub struct Writer<'a> {
    store: &'a dyn Store,
    batch: Batch,
}

impl<'a> Writer<'a> {
    pub fn new(store: &'a dyn Store) -> Self {
        Self {
            store,
            batch: Batch::default(),
        }
    }

    pub fn put(&mut self, table: Table, key: &[u8], row: Vec<u8>) -> Result<()> {
        self.batch.put(table, key, row);
        self.flush_if_long()
    }

    pub fn delete(&mut self, table: Table, key: &[u8]) -> Result<()> {
        self.batch.delete(table, key);
        self.flush_if_long()
    }

    fn flush_if_long(&mut self) -> Result<()> {
        match self.batch.changes.len() >= PAGE {
            true => self.flush(),
            false => Ok(()),
        }
    }

    pub fn flush(&mut self) -> Result<()> {
        match self.batch.is_empty() {
            true => Ok(()),
            false => self.store.commit(std::mem::take(&mut self.batch)),
        }
    }
}

/// How often chunk maps name each chunk. A malformed map is an error of the
/// caller: the volume's repair has seen to them.
fn count_names(store: &dyn Store) -> Result<HashMap<ChunkId, u64>> {
    let mut refs = HashMap::<ChunkId, u64>::new();
    each_row(store, Table::Cmap, |_, row| {
        if let Ok(run) = Run::decode(row) {
            run.names()
                .for_each(|name| *refs.entry(name).or_default() += 1);
        }
        Ok(())
    })?;
    Ok(refs)
}

/// Rows of chunks that are none.
fn drop_malformed(
    store: &dyn Store,
    refs: &HashMap<ChunkId, u64>,
    writer: &mut Writer<'_>,
    repair: &mut Repair,
) -> Result<()> {
    each_row(store, Table::Chunk, |key, row| {
        let named = <[u8; 32]>::try_from(key).is_ok_and(|name| refs.contains_key(&ChunkId(name)));
        match ChunkRow::decode(row) {
            Err(error @ Error::NewerFormat { .. }) => Err(error),
            Ok(_) if named => Ok(()),
            Ok(row) if row.refs > 0 || !named => {
                repair
                    .corrected
                    .push(format!("chunk {key:02x?}: dropped, no file names it"));
                writer.delete(Table::Chunk, key)
            }
            _ => {
                repair
                    .corrected
                    .push(format!("chunk {key:02x?}: its row was malformed"));
                writer.delete(Table::Chunk, key)
            }
        }
    })
}

/// Rows for chunks of which there is another record that can be read.
fn find_copies(
    store: &dyn Store,
    codec: &Codec,
    wanted: &HashMap<ChunkId, Damage>,
    chunk_size: usize,
) -> Result<HashMap<ChunkId, ChunkRow>> {
    let mut found = HashMap::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    let now = super::commit::now_ms();
    for info in store.logs()? {
        let mut records = Vec::new();
        let walked = store.walk_log(info.log, &mut |record| {
            let name = <[u8; 32]>::try_from(record.owner_key.as_slice()).map(ChunkId);
            if record.owner_table == Table::Chunk
                && let Ok(name) = name
                && wanted.contains_key(&name)
            {
                records.push((name, record.value));
            }
            Ok(())
        });
        match walked {
            Err(Error::Stale) => continue,
            walked => walked?,
        };
        for (name, value) in records {
            if found.contains_key(&name) {
                continue;
            }
            let Ok(frame) = store.value(&value) else {
                continue;
            };
            if let Some(plain_len) = decoded_len(store, codec, &frame, name, chunk_size)? {
                let row = ChunkRow {
                    lost: false,
                    plain_len,
                    refs: 0, // Counted afterwards.
                    time: now,
                    kind: Kind::of(&frame)?,
                    class: info.class,
                    policy: Policy::Auto,
                    model: None,
                    value,
                };
                found.insert(name, row);
            }
        }
    }
    Ok(found)
}

/// Calls `each` once for every chunk in the value logs that no file names and
/// that can be decoded, with its row and the length of its plain bytes.
pub fn strays(
    store: &dyn Store,
    codec: &Codec,
    chunk_size: usize,
    each: &mut dyn FnMut(ChunkId, Vec<u8>, u64) -> Result<()>,
) -> Result<()> {
    let mut seen: HashSet<ChunkId> = count_names(store)?.into_keys().collect();
    for info in store.logs()? {
        store.walk_log(info.log, &mut |record| {
            let Ok(name) = <[u8; 32]>::try_from(record.owner_key.as_slice()).map(ChunkId) else {
                return Ok(());
            };
            if record.owner_table != Table::Chunk || seen.contains(&name) {
                return Ok(());
            }
            let Ok(frame) = store.value(&record.value) else {
                return Ok(());
            };
            let Some(plain_len) = decoded_len(store, codec, &frame, name, chunk_size)? else {
                log::warn!("chunk {name} of value log {} cannot be decoded", info.log);
                return Ok(());
            };
            seen.insert(name);
            let row = ChunkRow {
                lost: false,
                plain_len,
                refs: 1,
                time: super::commit::now_ms(),
                kind: Kind::of(&frame)?,
                class: info.class,
                policy: Policy::Auto,
                model: None,
                value: record.value,
            };
            each(name, row.encode(), plain_len.into())
        })?;
    }
    Ok(())
}

/// The length of the plain bytes of a frame that decodes to the chunk `name`.
fn decoded_len(
    store: &dyn Store,
    codec: &Codec,
    frame: &[u8],
    name: ChunkId,
    chunk_size: usize,
) -> Result<Option<u32>> {
    let said = store.get(Table::Chunk, &name.0)?;
    let said = said.and_then(|row| ChunkRow::decode(&row).ok());
    let said = said.map(|row| row.plain_len as usize);
    Ok(plain_lengths(frame, chunk_size)
        .into_iter()
        .chain(said)
        .find(|len| {
            let plain = codec.decode(frame, *len);
            plain.is_ok_and(|plain| ChunkId::of(&plain) == name)
        })
        .map(|len| len as u32))
}

/// Lengths that the plain bytes of a frame may have: it does not tell in every
/// codec.
fn plain_lengths(frame: &[u8], chunk_size: usize) -> Vec<usize> {
    match Kind::of(frame) {
        Ok(Kind::Raw) => vec![frame.len() - 1],
        Ok(Kind::Zstd) => {
            let said = zstd::zstd_safe::get_frame_content_size(&frame[1..]);
            let said = said
                .ok()
                .flatten()
                .and_then(|len| usize::try_from(len).ok());
            said.into_iter().filter(|len| *len <= chunk_size).collect()
        }
        Ok(_) => vec![chunk_size],
        Err(_) => Vec::new(),
    }
}

fn drop_lost_attributes(
    store: &dyn Store,
    writer: &mut Writer<'_>,
    repair: &mut Repair,
) -> Result<()> {
    each_row(store, Table::Xattr, |key, row| {
        let value = rows::parse_valued_row(row).and_then(|(_, value)| store.value(&value));
        match value {
            Ok(_) => Ok(()),
            Err(Error::Corrupt(_) | Error::Stale) => {
                repair.lost_attributes.push(key.to_vec());
                writer.delete(Table::Xattr, key)
            }
            Err(error) => Err(error),
        }
    })
}

/// Patches whose chunk is not what their file names there are dropped: what
/// they were written over is gone, or they are older than the map. Those that
/// cannot be read stay, so that reading their chunks stays an error.
fn repair_patches(store: &dyn Store, writer: &mut Writer<'_>, repair: &mut Repair) -> Result<()> {
    each_row(store, Table::Patch, |key, row| {
        let decoded = match PatchRow::decode(row) {
            Err(error @ Error::NewerFormat { .. }) => return Err(error),
            decoded => decoded.and_then(|row| Ok((patch::parse_row_key(key)?, row))),
        };
        let Ok((place, row)) = decoded else {
            let what = format!("patch {key:02x?}: dropped, its row was malformed");
            repair.corrected.push(what);
            return writer.delete(Table::Patch, key);
        };
        let (ino, index) = place;
        if patch::chunk_below(store, place)? != Some(row.base) {
            repair.corrected.push(format!(
                "the patch of chunk {index} of inode {ino}: dropped, it belongs to another chunk"
            ));
            return writer.delete(Table::Patch, key);
        }
        match store.value(&row.value) {
            Ok(_) => Ok(()),
            Err(error @ (Error::Corrupt(_) | Error::Stale)) => {
                repair.lost.push(Damage {
                    chunk: row.base,
                    reason: format!("what was last written into it cannot be read ({error})"),
                    needs_model: false,
                    places: vec![place],
                });
                Ok(())
            }
            Err(error) => Err(error),
        }
    })
}

/// How much was counted wrongly.
#[derive(Default)]
struct Fixed {
    refs: u64,
    queue: u64,
    logs: u64,
    counters: bool,
}

impl Fixed {
    fn sentences(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (count, what) in [
            (self.refs, "reference counts of chunks"),
            (self.queue, "entries of the drain's queue"),
            (self.logs, "counts of live bytes in value logs"),
        ] {
            if count > 0 {
                out.push(format!("{count} {what} put right"));
            }
        }
        if self.counters {
            out.push("the counters of chunks put right".into());
        }
        out
    }
}

/// Everything that follows from the chunk maps, the chunks and the attributes.
fn recount(
    store: &dyn Store,
    refs: &HashMap<ChunkId, u64>,
    writer: &mut Writer<'_>,
    fixed: &mut Fixed,
) -> Result<()> {
    let mut counters = Counters::default();
    let mut live = BTreeMap::<u64, u64>::new();
    let mut queue = HashSet::<Vec<u8>>::new();
    let count = |live: &mut BTreeMap<u64, u64>, key: &[u8], value: &ValueRef| {
        if let ValueRef::Log { log, .. } = value {
            *live.entry(*log).or_default() += value.log_bytes(key.len());
        }
    };
    each_row(store, Table::Chunk, |key, row| {
        let mut row = ChunkRow::decode(row)?;
        let Ok(name) = <[u8; 32]>::try_from(key).map(ChunkId) else {
            return Ok(());
        };
        let named = refs.get(&name).copied().unwrap_or(0);
        if row.refs != named {
            fixed.refs += 1;
            row.refs = named;
            writer.put(Table::Chunk, key, row.encode())?;
        }
        counters.add(&row);
        count(&mut live, key, &row.value);
        if row.class == Class::Hot {
            queue.insert(rows::pend_key(row.time, &name).to_vec());
        }
        Ok(())
    })?;
    each_row(store, Table::Xattr, |key, row| {
        let (_, value) = rows::parse_valued_row(row)?;
        count(&mut live, key, &value);
        Ok(())
    })?;
    each_row(store, Table::Patch, |key, row| {
        count(&mut live, key, &PatchRow::decode(row)?.value);
        Ok(())
    })?;
    each_row(store, Table::Pend, |key, _| {
        if queue.remove(key) {
            return Ok(());
        }
        fixed.queue += 1;
        writer.delete(Table::Pend, key)
    })?;
    for key in queue {
        fixed.queue += 1;
        writer.put(Table::Pend, &key, Vec::new())?;
    }
    each_row(store, Table::Log, |key, row| {
        let kept = rows::parse_u64(key).and_then(|log| Ok((log, rows::parse_u64(row)?)));
        if let Ok((log, bytes)) = kept
            && key.len() == 8
            && live.get(&log) == Some(&bytes)
        {
            live.remove(&log);
            return Ok(());
        }
        fixed.logs += 1;
        writer.delete(Table::Log, key)
    })?;
    // After the deletions: a later change to the same key wins.
    for (log, bytes) in live {
        fixed.logs += 1;
        writer.put(Table::Log, &log.to_be_bytes(), bytes.to_be_bytes().to_vec())?;
    }
    let epoch = store.get(Table::Meta, rows::EPOCH)?;
    if epoch.is_some_and(|row| rows::parse_epoch(&row).is_err()) {
        // Only ever compared with the one that the next commit gives out.
        fixed.counters = true;
        writer.delete(Table::Meta, rows::EPOCH)?;
    }
    let row = counters.encode();
    let kept = store.get(Table::Meta, rows::COUNTERS)?;
    let nothing = counters == Counters::default() && kept.is_none();
    if !nothing && kept.as_ref() != Some(&row) {
        fixed.counters = true;
        writer.put(Table::Meta, rows::COUNTERS, row)?;
    }
    Ok(())
}

/// Calls `each` with key and value of every row of a table, which may be
/// changed meanwhile.
pub fn each_row(
    store: &dyn Store,
    table: Table,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let mut from = Vec::new();
    loop {
        let page = store.scan(table, &from, None, PAGE)?;
        for (key, row) in &page {
            each(key, row)?;
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), &[0]].concat(),
            _ => return Ok(()),
        }
    }
}
