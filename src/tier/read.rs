//! Reading: through the cache of plain chunks, and decoding ahead of readers.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::codec::{Coded, TOGETHER};
use crate::error::{Error, Result};
use crate::store::{ChunkId, Table};

use super::content::Slot;
use super::patch::{self, Patch};
use super::rows::{self, ChunkRow};
use super::{Plain, Shared, State};

/// Readers whose place is remembered.
const READERS: usize = 128;

/// Requests of one reader may arrive this much out of order.
const SLACK: u64 = 1 << 20;

/// Where the readers of files are.
#[derive(Default)]
pub(super) struct Readers {
    by_ino: HashMap<u64, Reader>,
    clock: u64,
}

struct Reader {
    /// Where the next request is expected.
    next: u64,
    /// Requests in order so far.
    streak: u32,
    used: u64,
}

impl Readers {
    /// Notes a request; says whether the reader goes through the file in order.
    fn note(&mut self, ino: u64, offset: u64, len: usize) -> bool {
        self.clock += 1;
        if self.by_ino.len() >= READERS && !self.by_ino.contains_key(&ino) {
            let oldest = self.by_ino.iter().min_by_key(|(_, reader)| reader.used);
            if let Some(ino) = oldest.map(|(ino, _)| *ino) {
                self.by_ino.remove(&ino);
            }
        }
        let end = offset + len as u64;
        let reader = self.by_ino.entry(ino).or_insert(Reader {
            next: 0,
            streak: 0,
            used: 0,
        });
        reader.used = self.clock;
        if offset.abs_diff(reader.next) <= if reader.streak > 0 { SLACK } else { 0 } {
            reader.streak = reader.streak.saturating_add(1);
            reader.next = reader.next.max(end);
        } else {
            reader.streak = 0;
            reader.next = end;
        }
        reader.streak > 1
    }
}

/// The threads that decode ahead, and their short queue. Chunks go to them in
/// groups of at most [`TOGETHER`], which are decoded side by side.
pub(super) struct Pool {
    threads: usize,
    queue: Mutex<Option<Sender<Vec<ChunkId>>>>,
    jobs: Receiver<Vec<ChunkId>>,
}

impl Pool {
    pub fn new(threads: usize) -> Self {
        let (queue, jobs) = crossbeam_channel::bounded(4 * threads);
        Self {
            threads,
            queue: Mutex::new(Some(queue)),
            jobs,
        }
    }

    /// Ends the threads when they have done what is queued.
    pub fn stop(&self) {
        self.queue.lock().take();
    }

    /// Asks for chunks, shared among the threads; what finds the queue full is
    /// forgotten.
    fn ask(&self, names: &[ChunkId]) {
        if self.threads > 0
            && let Some(queue) = &*self.queue.lock()
        {
            let share = names.len().div_ceil(self.threads).clamp(1, TOGETHER);
            for group in names.chunks(share) {
                let _ = queue.try_send(group.to_vec());
            }
        }
    }
}

pub(super) fn decode_loop(shared: &Arc<Shared>) {
    for names in &shared.ahead.jobs {
        // Whoever reads the chunks meets the same error, or panic.
        let _ = catch_unwind(AssertUnwindSafe(|| shared.load_many(&names)));
    }
}

/// One chunk's part of a read.
enum Source {
    Zeros,
    Plain(Plain),
    Load(ChunkId),
    /// The patched chunk, unless the patch is all that is read.
    Patched(Box<Source>, Arc<Patch>),
}

impl Source {
    /// The chunk that has to be loaded for it.
    fn needs(&self) -> Option<ChunkId> {
        match self {
            Source::Load(name) => Some(*name),
            Source::Patched(below, _) => below.needs(),
            Source::Zeros | Source::Plain(_) => None,
        }
    }
}

impl Shared {
    /// See [`Tier::read`](super::Tier::read).
    pub(super) fn read(&self, ino: u64, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut lost = 0;
        loop {
            let plan = self.plan_read(ino, offset, len)?;
            let loads = plan.iter().filter_map(Source::needs);
            let loads: Vec<ChunkId> = loads.collect();
            // This thread takes its share, several chunks side by side.
            let share = loads.len().div_ceil(self.ahead.threads + 1);
            let (mine, others) = loads.split_at(share.min(TOGETHER));
            self.ahead.ask(others);
            if lost == 0 {
                self.look_ahead(ino, offset, len)?;
            }
            if mine.len() > 1 {
                self.load_many(mine);
            }
            match self.gather(&plan, offset, len) {
                Err((Error::Stale, name)) => {
                    lost += 1;
                    self.check_lost(lost, &name)?;
                }
                result => return result.map_err(|(error, _)| error),
            }
        }
    }

    /// See [`Tier::try_read`](super::Tier::try_read).
    pub(super) fn try_read(&self, ino: u64, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let plan = self.plan_read(ino, offset, len)?;
        if plan.iter().any(|source| source.needs().is_some()) {
            return Ok(None);
        }
        self.look_ahead(ino, offset, len)?;
        self.gather(&plan, offset, len)
            .map(Some)
            .map_err(|(error, _)| error)
    }

    fn plan_read(&self, ino: u64, offset: u64, len: usize) -> Result<Vec<Source>> {
        let size = self.options.chunk_size as u64;
        let end = offset.checked_add(len as u64).ok_or(Error::FileTooBig)?;
        let state = self.state.lock();
        (offset / size..end.div_ceil(size))
            .map(|index| {
                let begin = index * size;
                let part = offset.saturating_sub(begin)..(end - begin).min(size);
                self.source(&state, ino, index, part.start as usize..part.end as usize)
            })
            .collect()
    }

    /// Where `part` of a chunk is.
    fn source(
        &self,
        state: &State,
        ino: u64,
        index: u64,
        part: std::ops::Range<usize>,
    ) -> Result<Source> {
        Ok(match self.slot(state, ino, index)? {
            Slot::Hole => Source::Zeros,
            Slot::Dirty(plain) => Source::Plain(plain),
            Slot::Named(name) => self.stored_source(state, name),
            Slot::Patched(patch) if patch.lost => return Err(patch::lost(&patch.base)),
            Slot::Patched(patch) => {
                let below = match patch.covers(part.start, part.end) {
                    true => Source::Zeros,
                    false => self.stored_source(state, patch.base),
                };
                Source::Patched(Box::new(below), patch)
            }
        })
    }

    fn stored_source(&self, state: &State, name: ChunkId) -> Source {
        let inflight = state.inflight.get(&name).cloned();
        match inflight.or_else(|| self.cache.peek(&name)) {
            Some(plain) => {
                self.cache.hits.fetch_add(1, Ordering::Relaxed);
                Source::Plain(plain)
            }
            None => Source::Load(name),
        }
    }

    fn gather(
        &self,
        plan: &[Source],
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, (Error, ChunkId)> {
        let size = self.options.chunk_size;
        let mut out = Vec::new();
        out.try_reserve_exact(len)
            .map_err(|_| (Error::NoMemory, ChunkId([0; 32])))?;
        for source in plan {
            // The first chunk begins before the range, the last ends after it.
            let at = ((offset + out.len() as u64) % size as u64) as usize;
            let end = (at + len - out.len()).min(size);
            let upto = out.len() + end - at;
            let (source, patch) = match source {
                Source::Patched(below, patch) => (&**below, Some(patch)),
                source => (source, None),
            };
            let loaded;
            let plain: &[u8] = match source {
                // No patch lies over another.
                Source::Zeros | Source::Patched(..) => &[],
                Source::Plain(plain) => plain,
                Source::Load(name) => {
                    loaded = self.load(name).map_err(|error| (error, *name))?;
                    &loaded
                }
            };
            let begun = out.len();
            out.extend_from_slice(&plain[at.min(plain.len())..end.min(plain.len())]);
            out.resize(upto, 0);
            if let Some(patch) = patch {
                patch.overlay(&mut out[begun..], at);
            }
        }
        Ok(out)
    }

    /// Has the next chunks decoded when a reader goes through a file in order.
    fn look_ahead(&self, ino: u64, offset: u64, len: usize) -> Result<()> {
        if self.ahead.threads == 0 || !self.readers.lock().note(ino, offset, len) {
            return Ok(());
        }
        let size = self.options.chunk_size as u64;
        let first = (offset + len as u64).div_ceil(size);
        // Up to the end of a group, so that a steady reader asks for groups.
        let group = TOGETHER as u64;
        let end = (first + group * self.ahead.threads as u64).next_multiple_of(group);
        let mut names: Vec<ChunkId> = {
            let state = self.state.lock();
            let mut names = Vec::new();
            for index in first..end {
                match self.slot(&state, ino, index)? {
                    Slot::Named(name) => names.push(name),
                    Slot::Patched(patch) => names.push(patch.base),
                    Slot::Hole | Slot::Dirty(_) => {}
                }
            }
            names.retain(|name| !state.inflight.contains_key(name));
            names
        };
        names.retain(|name| !self.cache.contains(name));
        self.ahead.ask(&names);
        Ok(())
    }

    /// The plain bytes of a chunk, through the cache. Threads that want the
    /// same chunk wait for one of them to decode it.
    pub(super) fn load(&self, name: &ChunkId) -> Result<Plain> {
        (self.cache).load(name, || self.fetch(name).map(|(_, plain)| Arc::new(plain)))
    }

    /// Decodes chunks side by side into the cache, but for those that are there
    /// or that another thread is decoding. What fails is left for whoever reads
    /// the chunk.
    fn load_many(&self, names: &[ChunkId]) {
        let find = |name: &ChunkId| {
            let row = self.row(name).ok()?;
            let frame = self.store.value(&row.value).ok()?;
            Some((frame, row.plain_len as usize))
        };
        self.cache.load_many(names, find, |found| {
            let frames = found.iter();
            let frames: Vec<Coded> = frames.map(|(_, (frame, len))| (&frame[..], *len)).collect();
            let plains = self.codec.decode_many(&frames).into_iter().zip(found);
            let right = plains.map(|(plain, (name, _))| {
                let plain = plain.ok().filter(|plain| ChunkId::of(plain) == *name);
                plain.map(Arc::new)
            });
            right.collect()
        });
    }

    /// The row of a chunk that is there; [`Error::Stale`] when there is none.
    fn row(&self, name: &ChunkId) -> Result<ChunkRow> {
        let row = self.store.get(Table::Chunk, &name.0)?.ok_or(Error::Stale)?;
        let row = ChunkRow::decode(&row)?;
        match row.lost {
            true => Err(rows::lost(name)),
            false => Ok(row),
        }
    }

    /// The row and the plain bytes of a chunk from the store, verified.
    /// [`Error::Stale`] when there is no such row.
    pub(super) fn fetch(&self, name: &ChunkId) -> Result<(ChunkRow, Vec<u8>)> {
        let row = self.row(name)?;
        let plain = self.store.value(&row.value).and_then(|frame| {
            let _turn = self.cache.turn();
            let plain = self.codec.decode(&frame, row.plain_len as usize)?;
            match ChunkId::of(&plain) == *name {
                true => Ok(plain),
                false => Err(Error::Corrupt("its bytes do not match its name".into())),
            }
        });
        match plain {
            Ok(plain) => Ok((row, plain)),
            Err(Error::Corrupt(what)) => {
                self.damaged.lock().insert(*name);
                Err(Error::Corrupt(format!("chunk {name}: {what}")))
            }
            Err(error) => Err(error),
        }
    }
}
