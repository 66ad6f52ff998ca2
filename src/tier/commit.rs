//! The commit thread: from the write buffer into the store.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::codec::{Kind, ModelId, Policy};
use crate::error::{Error, Result};
use crate::parallel;
use crate::store::{Batch, ChunkId, Class, Space, Table, ValueRef};

use super::overlay::Layer;
use super::patch::{self, Changed, Patch, PatchRow};
use super::rows::{self, ChunkRow, Counters, run_of};
use super::{Health, Plain, Shared, State};

/// How long a commit that found no space waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Space on the disk that writes leave alone, so that deleting still works:
/// the database needs room to record it, and the store keeps some for itself.
/// A small disk keeps this share of itself.
const RESERVE: u64 = 32 << 20;
const RESERVE_SHARE: u64 = 16;

/// What a byte of a row may take of the disk beside itself, in the database.
const ROW_SPACE: u64 = 3;

/// How old a figure of the free space may be.
pub(super) const SPACE_AGE: Duration = Duration::from_millis(500);

/// Chunks encoded at a time: bounds the memory that frames take.
const GROUP: usize = 64;

/// A chunk has a new value: re-coded, or copied out of a log.
pub(super) struct Swap {
    pub name: ChunkId,
    /// What its row must still say.
    pub from: ValueRef,
    /// Appended through the ledger; `None` if the value stays.
    pub to: Option<ValueRef>,
    pub kind: Kind,
    pub class: Class,
    /// Under which policy it was coded, and which model was tried.
    pub policy: Policy,
    pub model: Option<ModelId>,
}

/// What a freeze took out of the state.
struct Frozen {
    layer: Arc<Layer>,
    epoch: u64,
    /// The plain bytes that rows may now name.
    fresh: HashMap<ChunkId, Plain>,
    /// What the files that they were written to want of them.
    wishes: HashMap<ChunkId, Policy>,
    swaps: Vec<Swap>,
    patches: Changed,
}

impl Frozen {
    fn wish(&self, name: &ChunkId) -> Policy {
        self.wishes.get(name).copied().unwrap_or_default()
    }
}

/// Values that were appended by a commit that then failed for want of space:
/// the next one uses them.
#[derive(Default)]
struct Encoded {
    chunks: HashMap<ChunkId, (ValueRef, Kind)>,
    patches: HashMap<(u64, u64), (Arc<Patch>, ValueRef)>,
}

/// What a commit will have changed beside the store, once it is durable.
struct Outcome {
    batch: Batch,
    counters: Counters,
    logs: Vec<(u64, u64)>,
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

pub(super) fn commit_loop(shared: &Arc<Shared>) {
    let mut encoded = Encoded::default();
    loop {
        let mut state = shared.state.lock();
        loop {
            match shared.commit_due(&state) {
                Some(Duration::ZERO) => break,
                _ if state.stop => return,
                Some(wait) => drop(shared.wake.wait_for(&mut state, wait)),
                None => shared.wake.wait(&mut state),
            }
        }
        drop(state);
        let commit = AssertUnwindSafe(|| shared.commit(&mut encoded));
        if catch_unwind(commit).is_err() {
            // What was frozen stays readable. Nothing may follow it, because
            // how far it came is unknown.
            let error = Error::Other("a commit failed; please report this".into());
            shared.commit_failed(&mut shared.state.lock(), error);
            shared.done.notify_all();
        }
    }
}

impl Shared {
    /// How long until a commit should begin; `None` when there is no need.
    fn commit_due(&self, state: &State) -> Option<Duration> {
        if state.health == Health::Dead {
            return None;
        }
        let fold = self.fold_due(state).filter(|_| !state.stop);
        if !state.has_pending() {
            return fold;
        }
        if state.urgent || fold == Some(Duration::ZERO) {
            return Some(Duration::ZERO);
        }
        if state.stop {
            return None;
        }
        if state.health == Health::Full {
            let (_, failed) = state.failure.as_ref()?;
            return Some(RETRY.saturating_sub(failed.elapsed()));
        }
        if state.waiting_bytes() > self.options.dirty_bytes / 4 {
            return Some(Duration::ZERO);
        }
        let since = state.since.map_or(Duration::ZERO, |since| since.elapsed());
        let wait = self.options.commit_every.saturating_sub(since);
        Some(wait.min(fold.unwrap_or(wait)))
    }

    /// Whether writes would leave too little space for anything else.
    pub(super) fn is_tight(&self, state: &mut State) -> bool {
        let tight = |state: &State| state.room() < state.needed_space();
        if tight(state) && state.space_taken.elapsed() > SPACE_AGE {
            // Believe it only when it is fresh: space may have been freed.
            let space = self.look_at_space();
            state.set_space(space);
        }
        tight(state)
    }

    pub(super) fn look_at_space(&self) -> Option<Space> {
        let space = self.store.space();
        space
            .inspect_err(|error| log::warn!("cannot tell how much space is left: {error}"))
            .ok()
    }

    /// One commit of everything that is pending.
    fn commit(&self, encoded: &mut Encoded) {
        self.fold_some();
        let hashed = self.hash_dirty();
        let frozen = {
            let mut state = self.state.lock();
            state.attempts += 1;
            state.urgent = false;
            self.freeze(&mut state, hashed)
        };
        match frozen {
            Err(error) => self.commit_failed(&mut self.state.lock(), error),
            Ok(frozen) => match self.write_out(&frozen, encoded) {
                Ok((outcome, result)) => self.commit_done(frozen, outcome, encoded, result),
                Err(error) => self.thaw(frozen, error),
            },
        }
        self.done.notify_all();
    }

    /// Hashes the dirty chunks without holding the lock.
    fn hash_dirty(&self) -> HashMap<(u64, u64), (Plain, ChunkId)> {
        let dirty: Vec<_> = {
            let state = self.state.lock();
            let share = |(key, plain): (&(u64, u64), &Plain)| (*key, plain.clone());
            state.dirty.iter().map(share).collect()
        };
        let names = in_parallel(&dirty, |(_, plain)| ChunkId::of(plain));
        let hashed = dirty.into_iter().zip(names);
        hashed
            .map(|((key, plain), name)| (key, (plain, name)))
            .collect()
    }

    /// Gives the dirty chunks names and moves everything pending out of the
    /// way of further operations. Changes nothing when it fails.
    fn freeze(
        &self,
        state: &mut State,
        hashed: HashMap<(u64, u64), (Plain, ChunkId)>,
    ) -> Result<Frozen> {
        let mut names = Vec::with_capacity(state.dirty.len());
        for (key, plain) in &state.dirty {
            let name = match hashed.get(key) {
                Some((same, name)) if Arc::ptr_eq(same, plain) => *name,
                _ => ChunkId::of(plain),
            };
            names.push((*key, name));
        }
        drop(hashed);
        // `dirty` is sorted, so the chunks of a run follow each other.
        let mut changed = Vec::new();
        let same_run = |a: &((u64, u64), _), b: &((u64, u64), _)| {
            (a.0.0, run_of(a.0.1)) == (b.0.0, run_of(b.0.1))
        };
        for chunks in names.chunk_by(same_run) {
            let ((ino, first), _) = chunks[0]; // `chunk_by` yields no empty ones
            let mut run = self.run_row(state, ino, first)?;
            let key = rows::run_key(ino, run_of(first));
            let preserved = state.to_preserve(&key, &run)?;
            let mut refs = Vec::new();
            for ((_, index), name) in chunks {
                let before = run.set(*index, Some(*name));
                refs.push((*name, 1));
                refs.extend(before.map(|before| (before, -1)));
            }
            changed.push((key, run.encode(), refs, preserved));
        }
        // A copy that is to be made begins here: its own row as it is now.
        // What is patched has to be folded first.
        let copy_row = match &state.copy_wanted {
            Some((_, table, key)) if state.patches.is_empty() => {
                Some(self.view(state).get(*table, key)?)
            }
            _ => None,
        };
        // Nothing fails from here on.
        for (key, row, refs, preserved) in changed {
            if let Some(preserved) = preserved {
                state.preserve(preserved);
            }
            let layer = &mut state.pending;
            layer.set(Table::Cmap, key, Some(Some(row)));
            for (name, change) in refs {
                layer.add_refs(name, change);
            }
        }
        let dirty = std::mem::take(&mut state.dirty);
        let wishes = std::mem::take(&mut state.wishes);
        let policy = |ino: u64| wishes.get(&ino).copied().unwrap_or_default();
        let patches = state.patches.take_changed(policy);
        for (plain, ((ino, _), name)) in dirty.into_values().zip(names) {
            state.inflight.entry(name).or_insert(plain);
            if let Some(wish) = wishes.get(&ino) {
                let wished = state.inflight_wishes.entry(name).or_default();
                *wished = (*wished).max(*wish);
            }
        }
        let wishes: Vec<_> = wishes.into_iter().collect();
        state.keep_wishes_of_patches(&wishes);
        state.dirty_bytes = 0;
        state.inflight_bytes = state.inflight.values().map(|plain| plain.capacity()).sum();
        state.since = None;
        let layer = Arc::new(std::mem::take(&mut state.pending));
        state.frozen = Some(layer.clone());
        state.epoch += 1;
        if let Some(row) = copy_row
            && let Some((base, ..)) = state.copy_wanted.take()
        {
            state.begin_copying(base);
            state.copy_begun = Some(row);
        }
        Ok(Frozen {
            layer,
            epoch: state.epoch - 1,
            fresh: state.inflight.clone(),
            wishes: state.inflight_wishes.clone(),
            swaps: std::mem::take(&mut state.swaps),
            patches,
        })
    }

    /// Brings what was frozen into the store. The inner result tells whether
    /// it is durable; after an error of the outer one the store has nothing.
    fn write_out(&self, frozen: &Frozen, encoded: &mut Encoded) -> Result<(Outcome, Result<()>)> {
        let mut outcome = self.plan(frozen, encoded)?;
        // Tells afterwards whether a commit that failed was applied all the
        // same: its reference counts must not be counted twice.
        let mark = frozen.epoch.to_be_bytes();
        outcome.batch.put(Table::Meta, rows::EPOCH, mark);
        match self.store.commit(std::mem::take(&mut outcome.batch)) {
            Ok(()) => Ok((outcome, Ok(()))),
            Err(error) => match self.store.get(Table::Meta, rows::EPOCH)? {
                Some(row) if row == mark => Ok((outcome, Err(error))),
                _ => Err(error),
            },
        }
    }

    fn plan(&self, frozen: &Frozen, encoded: &mut Encoded) -> Result<Outcome> {
        let mut chunks = self.touched_chunks(frozen)?;
        self.encode_new(frozen, &chunks, encoded)?;
        self.write_patches(frozen, encoded)?;
        let now = now_ms();
        let mut live = frozen.layer.live.clone();
        let mut log_change = |value: &ValueRef, key: usize, sign: i64| {
            if let ValueRef::Log { log, .. } = value {
                *live.entry(*log).or_default() += sign * value.log_bytes(key) as i64;
            }
        };
        let mut batch = Batch::default();
        for table in Table::ALL {
            for (key, value) in frozen.layer.table(table) {
                batch.changes.push((table, key.clone(), value.clone()));
            }
        }
        for (place, patch) in &frozen.patches {
            let key = patch::row_key(*place);
            let before = self.store.get(Table::Patch, &key)?;
            if let Some(Ok(row)) = before.as_deref().map(PatchRow::decode) {
                log_change(&row.value, key.len(), -1);
            }
            match (patch, encoded.patches.get(place)) {
                (Some((patch, policy)), Some((_, value))) => {
                    log_change(value, key.len(), 1);
                    let row = PatchRow {
                        base: patch.base,
                        policy: *policy,
                        value: value.clone(),
                    };
                    batch.put(Table::Patch, key, row.encode()?);
                }
                // One that cannot be read stays as it is.
                (Some(_), None) => {}
                (None, _) if before.is_some() => batch.delete(Table::Patch, key),
                (None, _) => {}
            }
        }
        let mut counters = self.state.lock().counters.clone();
        for (name, chunk) in &mut chunks {
            let before = chunk.row.take();
            let refs = before.as_ref().map_or(0, |row| row.refs);
            let refs_now = refs.checked_add_signed(chunk.refs).unwrap_or_else(|| {
                log::error!("chunk {name}: more names of it were removed than there were");
                0
            });
            let mut after = None;
            if refs_now > 0 {
                let new = encoded
                    .chunks
                    .get(name)
                    .filter(|_| before.is_none() || chunk.heal);
                // A frame from elsewhere, where there is none that can be read.
                let lacks = || (before.as_ref()).is_none_or(|row| !self.is_readable(row));
                let adopted = frozen.layer.adopted.get(name).filter(|_| lacks());
                after = match (&before, new, frozen.fresh.get(name)) {
                    (_, Some((value, kind)), Some(plain)) => Some(ChunkRow {
                        lost: false,
                        plain_len: plain.len() as u32, // at most the chunk size
                        refs: refs_now,
                        time: now,
                        kind: *kind,
                        class: Class::Hot,
                        policy: frozen.wish(name),
                        model: None,
                        value: value.clone(),
                    }),
                    _ if adopted.is_some() => adopted.map(|adopted| ChunkRow {
                        lost: false,
                        plain_len: adopted.plain_len,
                        refs: refs_now,
                        time: now,
                        kind: adopted.kind,
                        class: adopted.class,
                        policy: frozen.wish(name),
                        model: None,
                        value: adopted.value.clone(),
                    }),
                    // Of several wishes for one chunk the one that reads
                    // fastest counts. What is coded stays until it is coded
                    // again: its row says how it is.
                    (Some(row), ..) => Some(ChunkRow {
                        refs: refs_now,
                        policy: match row.class {
                            Class::Hot => row.policy.max(frozen.wish(name)),
                            Class::Cold => row.policy,
                        },
                        ..row.clone()
                    }),
                    (None, ..) => {
                        log::error!("chunk {name} is named by a file but not in the store");
                        None
                    }
                };
            }
            if let Some(row) = &mut after {
                for swap in chunk.swaps.iter().filter_map(|at| frozen.swaps.get(*at)) {
                    if row.value == swap.from {
                        row.value = swap.to.as_ref().unwrap_or(&swap.from).clone();
                        row.kind = swap.kind;
                        row.class = swap.class;
                        row.policy = swap.policy;
                        row.model = swap.model;
                    }
                }
            }
            let pend = |row: &Option<ChunkRow>| {
                let hot = row.as_ref().filter(|row| row.class == Class::Hot);
                hot.map(|row| rows::pend_key(row.time, name).to_vec())
            };
            let (waited, waits) = (pend(&before), pend(&after));
            if waited != waits {
                let delete = waited.map(|key| (Table::Pend, key, None));
                let put = waits.map(|key| (Table::Pend, key, Some(Vec::new())));
                batch.changes.extend(delete.into_iter().chain(put));
            }
            if let Some(row) = &before {
                log_change(&row.value, name.0.len(), -1);
                counters.remove(row);
            }
            match &after {
                Some(row) => {
                    log_change(&row.value, name.0.len(), 1);
                    counters.add(row);
                    batch.put(Table::Chunk, name.0, row.encode());
                }
                None if before.is_some() => batch.delete(Table::Chunk, name.0),
                None => {}
            }
        }
        live.retain(|_, change| *change != 0);
        let logs = self.ledger.lock().changed(&live);
        for (log, live) in &logs {
            match live {
                0 => batch.delete(Table::Log, log.to_be_bytes()),
                _ => batch.put(Table::Log, log.to_be_bytes(), live.to_be_bytes()),
            }
        }
        if !chunks.is_empty() {
            batch.put(Table::Meta, rows::COUNTERS, counters.encode());
        }
        Ok(Outcome {
            batch,
            counters,
            logs,
        })
    }

    /// The chunks that a commit changes, with their rows before it.
    fn touched_chunks(&self, frozen: &Frozen) -> Result<BTreeMap<ChunkId, Touched>> {
        let mut chunks = BTreeMap::<ChunkId, Touched>::new();
        for (name, change) in &frozen.layer.refs {
            if *change != 0 {
                chunks.entry(*name).or_default().refs = *change;
            }
        }
        for name in frozen.wishes.keys() {
            chunks.entry(*name).or_default();
        }
        for (at, swap) in frozen.swaps.iter().enumerate() {
            chunks.entry(swap.name).or_default().swaps.push(at);
        }
        for name in self.damaged.lock().iter() {
            if frozen.fresh.contains_key(name) {
                chunks.entry(*name).or_default().heal = true;
            }
        }
        // Bytes that the store has already are not stored again, unless what it
        // has cannot be read: they may be all that is left. That changes no
        // count where they stood already.
        for name in frozen.fresh.keys() {
            chunks.entry(*name).or_default();
        }
        for (name, chunk) in &mut chunks {
            if let Some(row) = self.store.get(Table::Chunk, &name.0)? {
                let row = ChunkRow::decode(&row)?;
                chunk.heal |= frozen.fresh.contains_key(name) && !self.is_readable(&row);
                chunk.row = Some(row);
            }
        }
        chunks.retain(|_, chunk| chunk.refs != 0 || chunk.heal || !chunk.swaps.is_empty());
        Ok(chunks)
    }

    /// Whether a chunk's value is there and is what was stored, by its record's
    /// checksum: to decode it would take too long.
    fn is_readable(&self, row: &ChunkRow) -> bool {
        !row.lost && self.store.value(&row.value).is_ok()
    }

    /// Encodes and appends the chunks that the store lacks.
    fn encode_new(
        &self,
        frozen: &Frozen,
        chunks: &BTreeMap<ChunkId, Touched>,
        encoded: &mut Encoded,
    ) -> Result<()> {
        let new: Vec<(&ChunkId, &Plain)> = chunks
            .iter()
            .filter(|(name, chunk)| {
                let needed = match &chunk.row {
                    None => chunk.refs > 0,
                    Some(row) => chunk.heal && row.refs.checked_add_signed(chunk.refs) != Some(0),
                };
                needed && !encoded.chunks.contains_key(name)
            })
            .filter_map(|(name, _)| Some((name, frozen.fresh.get(name)?)))
            .collect();
        for group in new.chunks(GROUP) {
            let frames = in_parallel(group, |(name, plain)| {
                self.codec.encode_hot_for(frozen.wish(name), plain)
            });
            for ((name, _), frame) in group.iter().zip(frames) {
                let kind = Kind::of(&frame)?;
                let mut ledger = self.ledger.lock();
                let value =
                    ledger.append(&*self.store, Class::Hot, Table::Chunk, &name.0, &frame)?;
                encoded.chunks.insert(**name, (value, kind));
            }
        }
        Ok(())
    }

    /// Appends the patches that the store lacks.
    fn write_patches(&self, frozen: &Frozen, encoded: &mut Encoded) -> Result<()> {
        for (place, patch) in &frozen.patches {
            let before = encoded.patches.get(place);
            let wanted = patch.as_ref().filter(|(patch, _)| !patch.lost);
            if let (Some((old, _)), Some((patch, _))) = (before, wanted)
                && Arc::ptr_eq(old, patch)
            {
                continue;
            }
            let mut ledger = self.ledger.lock();
            if let Some((_, value)) = encoded.patches.remove(place) {
                ledger.settle(&value);
            }
            if let Some((patch, _)) = wanted {
                let (key, payload) = (patch::row_key(*place), patch.encode());
                let value =
                    ledger.append(&*self.store, Class::Hot, Table::Patch, &key, &payload)?;
                encoded.patches.insert(*place, (patch.clone(), value));
            }
        }
        Ok(())
    }

    /// The store has everything that was frozen; it is durable if `result`
    /// says so, and otherwise with the next commit that succeeds.
    fn commit_done(
        &self,
        frozen: Frozen,
        outcome: Outcome,
        encoded: &mut Encoded,
        result: Result<()>,
    ) {
        // First of all: nothing may be removed because of a commit that a
        // power cut could still undo.
        self.state.lock().unsure = result.is_err();
        {
            let mut ledger = self.ledger.lock();
            ledger.committed(outcome.logs);
            let chunks = encoded.chunks.drain().map(|(_, (value, _))| value);
            let patches = encoded.patches.drain().map(|(_, (_, value))| value);
            for value in chunks.chain(patches) {
                ledger.settle(&value);
            }
            for value in frozen.swaps.iter().filter_map(|swap| swap.to.as_ref()) {
                ledger.settle(value);
            }
            for log in &frozen.layer.appended {
                ledger.settle_log(*log);
            }
        }
        self.damaged
            .lock()
            .retain(|name| !frozen.fresh.contains_key(name));
        // Into the cache before they leave the buffer: a reader finds them in
        // one or the other.
        for (name, plain) in frozen.fresh {
            self.cache.insert(name, plain);
        }
        // What this commit has made needless may be given back.
        if let Some(mut futile) = self.futile.try_lock() {
            *futile = None;
        }
        let look = {
            let state = self.state.lock();
            // Where one more write buffer would not fit, every commit counts.
            let near = state.room() < 2 * self.options.dirty_bytes as u64;
            near || state.space_taken.elapsed() > SPACE_AGE
        };
        let space = look.then(|| self.look_at_space());
        let mut state = self.state.lock();
        state.frozen = None;
        state.inflight.clear();
        state.inflight_wishes.clear();
        state.inflight_bytes = 0;
        state.counters = outcome.counters;
        if let Some(space) = space {
            state.set_space(space);
        }
        match result {
            Ok(()) => {
                state.durable = frozen.epoch + 1;
                if state.health == Health::Full {
                    state.health = Health::Fine;
                    log::info!("there is space again; writes go on");
                }
            }
            Err(error) => self.commit_failed(&mut state, error),
        }
        drop(state);
        self.drain.ring();
    }

    /// Puts what was frozen back under what has changed meanwhile: the next
    /// commit takes both, so that space freed meanwhile counts.
    fn thaw(&self, frozen: Frozen, error: Error) {
        let Frozen {
            layer,
            swaps,
            patches,
            ..
        } = frozen;
        drop(layer);
        let mut state = self.state.lock();
        // The commit thread has dropped its reference, and nobody else keeps
        // one beyond the lock.
        if let Some(mut layer) = state.frozen.take().and_then(Arc::into_inner) {
            layer.absorb(std::mem::take(&mut state.pending));
            state.pending = layer;
        }
        state.patches.put_back(&patches);
        let later = std::mem::replace(&mut state.swaps, swaps);
        state.swaps.extend(later);
        self.commit_failed(&mut state, error);
    }

    fn commit_failed(&self, state: &mut State, error: Error) {
        state.failed = state.attempts;
        match (&error, state.health) {
            (Error::NoSpace, Health::Fine) => {
                log::error!(
                    "the disk is full: what was written stays readable and is kept in memory \
                     until space is freed; new writes are refused"
                );
                state.health = Health::Full;
            }
            (Error::NoSpace, _) => {}
            _ => {
                log::error!(
                    "the store failed ({error}); the volume is read-only from now on. What was \
                     not synced is lost at the unmount"
                );
                state.health = Health::Dead;
            }
        }
        state.failure = Some((error, Instant::now()));
    }
}

impl State {
    /// Bytes of the disk that what waits for a commit may take at most.
    fn needed_space(&self) -> u64 {
        let frozen = self.frozen.as_ref().map_or(0, |layer| layer.bytes());
        let rows = (self.pending.bytes() + frozen) as u64;
        // Patches are there twice until the chunks are folded.
        let folded = self.patches.count() as u64 * self.chunk_size;
        let patches = self.patches.memory() as u64 + folded;
        self.waiting_bytes() as u64 + ROW_SPACE * rows + patches
    }

    /// Bytes that writes may still take.
    pub(super) fn room(&self) -> u64 {
        let reserve = RESERVE.min(self.space.capacity / RESERVE_SHARE);
        self.space.available.saturating_sub(reserve)
    }

    pub(super) fn set_space(&mut self, space: Option<Space>) {
        self.space_taken = Instant::now();
        self.space = space.unwrap_or(self.space);
    }
}

/// A chunk that a commit changes.
#[derive(Default)]
struct Touched {
    row: Option<ChunkRow>,
    /// Change of its reference count.
    refs: i64,
    /// Indices of its swaps.
    swaps: Vec<usize>,
    /// Its value is damaged and its bytes are at hand.
    heal: bool,
}

/// `each` of the items, in their order, by several threads when that pays.
pub(super) fn in_parallel<T: Sync, R: Send>(items: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    match items.len() < 8 {
        true => items.iter().map(each).collect(),
        false => parallel::map(parallel::available(), items, each),
    }
}
