//! Patches: small writes into chunks that rest.
//!
//! A few bytes that are written into a stored chunk do not have the chunk
//! read, decoded, hashed and coded again. They are kept as a patch of it,
//! under inode and index like dirty chunks: in memory for readers, and from the
//! next commit on also as a row of `Patch`, whose value is written out at
//! once. So a commit costs what was written and not the chunks around it.
//!
//! Patches are *folded* soon: the chunk is read, the patch applied, and the
//! result goes the way of dirty chunks; the commit that names it removes the
//! patch's row. That is done when patches take much memory, when they are some
//! seconds old, before a copy of all rows begins, for a drain on demand and
//! when the tier is closed. A tier that opens after a crash finds the rows and
//! goes on with them.
//!
//! The map of a file names the chunk beneath, and whatever changes that name
//! removes the patch in the same operation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::codec::Policy;
use crate::error::{Error, Result};
use crate::store::{ChunkId, Store, Table, ValueRef};

use super::commit::in_parallel;
use super::content::put_at;
use super::op::Op;
use super::rows::{self, Run};
use super::{Health, Plain, Shared, State};

/// A chunk is rewritten when more than this part of it is patched, ...
const PART: usize = 2;

/// ... or when the patch falls into more pieces than these.
const PIECES: usize = 64;

/// How long a patch waits to be folded at most, about.
const FOLD_AFTER: Duration = Duration::from_secs(10);

/// How often some of those that have waited are folded, so that it does not
/// hold up what else is done.
const PACE: Duration = Duration::from_millis(300);

/// Patches are only made where so many write buffers would fit on the disk:
/// folding takes more space than the patches did.
const ROOM: u64 = 8;

/// What a piece takes of memory beside its bytes, and a patch.
const PIECE_MEMORY: usize = 64;
const PATCH_MEMORY: usize = 192;

/// What was written into a chunk since it was coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    /// The chunk beneath.
    pub base: ChunkId,
    /// Bytes by their offset; they neither overlap nor touch each other.
    pieces: BTreeMap<usize, Vec<u8>>,
    /// What was written cannot be read any more, and so the chunk cannot.
    pub lost: bool,
}

impl Patch {
    pub fn new(base: ChunkId) -> Self {
        Self {
            base,
            pieces: BTreeMap::new(),
            lost: false,
        }
    }

    /// Puts bytes over what is there.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        let before = self.pieces.range(..=at).next_back();
        let reaches = before.filter(|(from, bytes)| *from + bytes.len() >= at);
        let (start, mut merged) = match reaches.map(|(from, _)| *from) {
            Some(from) => {
                let mut bytes = self.pieces.remove(&from).unwrap_or_default();
                put_at(&mut bytes, at - from, data);
                (from, bytes)
            }
            None => (at, data.to_vec()),
        };
        let end = start + merged.len();
        while let Some((from, _)) = self.pieces.range(start..=end).next() {
            let from = *from;
            let bytes = self.pieces.remove(&from).unwrap_or_default();
            // The others begin behind the end: pieces do not touch.
            merged.extend_from_slice(bytes.get(end - from..).unwrap_or(&[]));
        }
        self.pieces.insert(start, merged);
    }

    /// Whether it stays small with another `len` bytes at `at`.
    fn takes(&self, at: usize, len: usize, chunk_size: usize) -> bool {
        let end = at + len;
        let kept = self.pieces.iter().map(|(from, bytes)| {
            let upto = from + bytes.len();
            bytes.len() - upto.min(end).saturating_sub(at.max(*from))
        });
        self.pieces.len() < PIECES && kept.sum::<usize>() + len <= chunk_size / PART
    }

    /// Where the last piece ends.
    pub fn end(&self) -> usize {
        let last = self.pieces.last_key_value();
        last.map_or(0, |(from, bytes)| from + bytes.len())
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        let bytes: usize = self.pieces.values().map(Vec::capacity).sum();
        PATCH_MEMORY + PIECE_MEMORY * self.pieces.len() + bytes
    }

    /// Whether all of `at..end` was written.
    pub fn covers(&self, at: usize, end: usize) -> bool {
        let before = self.pieces.range(..=at).next_back();
        before.is_some_and(|(from, bytes)| from + bytes.len() >= end)
    }

    /// Puts what was written over `out`, which is the chunk from `at` on.
    pub fn overlay(&self, out: &mut [u8], at: usize) {
        let end = at + out.len();
        for (from, bytes) in self.pieces.range(..end) {
            let (first, last) = ((*from).max(at), (from + bytes.len()).min(end));
            if first < last {
                out[first - at..last - at].copy_from_slice(&bytes[first - from..last - from]);
            }
        }
    }

    /// The chunk as it is with the patch.
    pub fn apply(&self, base: &[u8]) -> Result<Vec<u8>> {
        if self.lost {
            return Err(lost(&self.base));
        }
        let mut out = Vec::new();
        out.try_reserve_exact(base.len().max(self.end()))
            .map_err(|_| Error::NoMemory)?;
        out.extend_from_slice(base);
        for (from, bytes) in &self.pieces {
            put_at(&mut out, *from, bytes);
        }
        Ok(out)
    }

    /// For each piece `u32` offset, `u32` length, the bytes.
    pub fn encode(&self) -> Vec<u8> {
        let bytes: usize = self.pieces.values().map(|bytes| bytes.len() + 8).sum();
        let mut out = Vec::with_capacity(bytes);
        for (from, bytes) in &self.pieces {
            // Offsets and lengths are those of a chunk.
            out.extend_from_slice(&(*from as u32).to_be_bytes());
            out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            out.extend_from_slice(bytes);
        }
        out
    }

    /// The inverse of [`encode`](Self::encode).
    pub fn decode(base: ChunkId, mut payload: &[u8], chunk_size: usize) -> Result<Self> {
        let malformed = || Error::Corrupt("a patch is malformed".into());
        let mut patch = Self::new(base);
        let mut least = 0;
        while !payload.is_empty() {
            let (head, rest) = payload.split_first_chunk::<8>().ok_or_else(malformed)?;
            let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| head[at + i]));
            let (from, len) = (number(0) as usize, number(4) as usize);
            let (bytes, rest) = rest.split_at_checked(len).ok_or_else(malformed)?;
            if len == 0 || from < least || from + len > chunk_size {
                return Err(malformed());
            }
            least = from + len + 1;
            patch.pieces.insert(from, bytes.to_vec());
            payload = rest;
        }
        match patch.pieces.is_empty() {
            true => Err(malformed()),
            false => Ok(patch),
        }
    }
}

/// The error of reading a chunk whose patch cannot be read.
pub(super) fn lost(base: &ChunkId) -> Error {
    Error::Corrupt(format!(
        "what was last written into the chunk over {base} was lost to damage of the store; \
         writing the whole chunk anew makes it good"
    ))
}

/// What a row of `Patch` says.
pub(super) struct PatchRow {
    pub base: ChunkId,
    pub policy: Policy,
    pub value: ValueRef,
}

const VERSION: u8 = 1;

impl PatchRow {
    pub fn encode(&self) -> Result<Vec<u8>> {
        let prefix = [&[VERSION, self.policy as u8], &self.base.0[..]].concat();
        rows::valued_row(&prefix, &self.value)
    }

    pub fn decode(row: &[u8]) -> Result<Self> {
        let (prefix, value) = rows::parse_valued_row(row)?;
        let (version, rest) = prefix.split_first().unwrap_or((&0, &[]));
        if *version > VERSION {
            return Err(Error::NewerFormat {
                what: "a patch's row".into(),
                found: (*version).into(),
                known: VERSION.into(),
            });
        }
        match rest.split_first() {
            Some((policy, base)) if *version == VERSION => Ok(Self {
                // An unknown policy bounds nobody who reads.
                policy: Policy::from_code(*policy).unwrap_or_default(),
                base: ChunkId(
                    base.try_into()
                        .map_err(|_| Error::Corrupt("a patch's row is malformed".into()))?,
                ),
                value,
            }),
            _ => Err(Error::Corrupt("a patch's row is malformed".into())),
        }
    }
}

/// Key of the row of a patch: inode and index.
pub(super) fn row_key((ino, index): (u64, u64)) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&ino.to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The inverse of [`row_key`].
pub(super) fn parse_row_key(key: &[u8]) -> Result<(u64, u64)> {
    match key.split_first_chunk::<8>() {
        Some((ino, index)) if index.len() == 8 => {
            Ok((u64::from_be_bytes(*ino), rows::parse_u64(index)?))
        }
        _ => Err(Error::Corrupt("a patch's key is malformed".into())),
    }
}

/// The chunk that the map of a file names there.
pub(super) fn chunk_below(store: &dyn Store, (ino, index): (u64, u64)) -> Result<Option<ChunkId>> {
    let run = store.get(Table::Cmap, &rows::run_key(ino, rows::run_of(index)))?;
    Ok(match run {
        Some(run) => Run::decode(&run)?.get(index),
        None => None,
    })
}

/// The patches of all files, and those that may not be folded now.
#[derive(Default)]
pub(super) struct Patches {
    by_place: BTreeMap<(u64, u64), Arc<Patch>>,
    /// Bytes of memory that they take.
    memory: usize,
    /// Those whose rows in the store are not what they are here.
    changed: BTreeSet<(u64, u64)>,
    /// Those that could not be folded: the chunk beneath is damaged.
    stuck: BTreeSet<(u64, u64)>,
    /// When the oldest was made, or a fold last ended, whichever was later.
    since: Option<Instant>,
    /// All are to be folded, at once.
    folding: bool,
    /// When some were last folded, while there are more that have waited.
    aging: Option<Instant>,
    /// Where folding goes on, so that all have their turn.
    next: (u64, u64),
}

/// Patches that a commit writes down, or removes.
pub(super) type Changed = Vec<((u64, u64), Option<(Arc<Patch>, Policy)>)>;

impl Patches {
    pub fn get(&self, place: (u64, u64)) -> Option<&Arc<Patch>> {
        self.by_place.get(&place)
    }

    /// Sets or removes a patch; returns what was there.
    pub fn set(&mut self, place: (u64, u64), patch: Option<Arc<Patch>>) -> Option<Arc<Patch>> {
        let before = match patch {
            Some(patch) => {
                self.memory += patch.memory();
                self.since.get_or_insert_with(Instant::now);
                self.by_place.insert(place, patch)
            }
            None => self.by_place.remove(&place),
        };
        if let Some(before) = &before {
            self.memory -= before.memory();
        }
        self.changed.insert(place);
        self.stuck.remove(&place);
        before
    }

    /// The chunks of a file that are patched, of those from `first` on and
    /// before `end`.
    pub fn of_file(&self, ino: u64, first: u64, end: u64) -> Vec<u64> {
        let range = self.by_place.range((ino, first)..(ino, end));
        range.map(|((_, index), _)| *index).collect()
    }

    fn has_file(&self, ino: u64) -> bool {
        let mut range = self.by_place.range((ino, 0)..=(ino, u64::MAX));
        range.next().is_some()
    }

    /// Has those that could not be folded tried again.
    pub fn try_again(&mut self) {
        self.stuck.clear();
    }

    /// The files in a range that are patched.
    pub fn files(&self, range: std::ops::Range<u64>) -> Vec<u64> {
        let places = self.by_place.range((range.start, 0)..(range.end, 0));
        let mut files: Vec<u64> = places.map(|((ino, _), _)| *ino).collect();
        files.dedup();
        files
    }

    pub fn memory(&self) -> usize {
        self.memory
    }

    pub fn count(&self) -> usize {
        self.by_place.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }

    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Whether all that are left cannot be folded.
    pub fn are_stuck(&self) -> bool {
        self.by_place.len() <= self.stuck.len()
    }

    /// For a freeze: what the next commit has to do with the rows.
    pub fn take_changed(&mut self, policy: impl Fn(u64) -> Policy) -> Changed {
        let changed = std::mem::take(&mut self.changed);
        let patch = |place: (u64, u64)| {
            let patch = self.by_place.get(&place)?;
            Some((patch.clone(), policy(place.0)))
        };
        let places = changed.into_iter();
        places.map(|place| (place, patch(place))).collect()
    }

    /// The commit failed.
    pub fn put_back(&mut self, changed: &Changed) {
        self.changed.extend(changed.iter().map(|(place, _)| place));
    }

    /// How long until they should be folded; `None` when there are none that
    /// can be.
    fn fold_due(&self, limit: usize) -> Option<Duration> {
        if self.are_stuck() {
            return None;
        }
        if self.folding || self.memory > limit / 2 {
            return Some(Duration::ZERO);
        }
        Some(match self.aging {
            Some(last) => PACE.saturating_sub(last.elapsed()),
            None => {
                let waited = self.since.map_or(FOLD_AFTER, |since| since.elapsed());
                FOLD_AFTER.saturating_sub(waited)
            }
        })
    }
}

impl State {
    /// As [`Patches::set`].
    pub(super) fn set_patch(
        &mut self,
        place: (u64, u64),
        patch: Option<Arc<Patch>>,
    ) -> Option<Arc<Patch>> {
        self.patches.set(place, patch)
    }

    /// Forgets the wishes of files whose chunks are all on their way.
    pub(super) fn keep_wishes_of_patches(&mut self, wishes: &[(u64, Policy)]) {
        for (ino, policy) in wishes {
            if self.patches.has_file(*ino) {
                self.wishes.insert(*ino, *policy);
            }
        }
    }
}

impl Op<'_> {
    /// Whether a write into the stored chunk `base`, patched so far or not, is
    /// to become a patch.
    pub(super) fn may_patch(
        &self,
        base: &ChunkId,
        patch: Option<&Patch>,
        at: usize,
        len: usize,
    ) -> bool {
        let options = &self.shared.options;
        let size = options.chunk_size;
        let fits = match patch {
            Some(patch) => !patch.lost && patch.takes(at, len, size),
            None => len <= size / PART,
        };
        // What folding will take at most.
        let folded = (self.state.patches.count() + 1) as u64 * size as u64;
        fits && self.state.copy_wanted.is_none()
            && self.state.patches.memory() + len <= options.patch_bytes
            // Whoever writes into a damaged chunk shall hear of it.
            && !self.shared.damaged.lock().contains(base)
            && self.state.room() >= ROOM * options.dirty_bytes as u64 + 2 * folded
    }
}

impl Shared {
    /// Finds the patches that a crash has left.
    pub(super) fn load_patches(&self) -> Result<()> {
        let mut state = self.state.lock();
        let mut from = Vec::new();
        loop {
            let page = self.store.scan(Table::Patch, &from, None, 256)?;
            for (key, row) in &page {
                let place = parse_row_key(key)?;
                let (patch, policy) = self.load_patch(place, row)?;
                if policy != Policy::Auto {
                    state.wishes.insert(place.0, policy);
                }
                state.patches.set(place, Some(Arc::new(patch)));
            }
            match page.last() {
                Some((last, _)) if page.len() == 256 => from = [last.as_slice(), &[0]].concat(),
                _ => break,
            }
        }
        // The rows say all that.
        state.patches.changed.clear();
        Ok(())
    }

    fn load_patch(&self, place: (u64, u64), row: &[u8]) -> Result<(Patch, Policy)> {
        let row = PatchRow::decode(row)?;
        let value = self.store.value(&row.value);
        let patch = value.and_then(|payload| {
            let below = chunk_below(&*self.store, place)?;
            match below == Some(row.base) {
                true => Patch::decode(row.base, &payload, self.options.chunk_size),
                false => Err(Error::Corrupt("it belongs to another chunk".into())),
            }
        });
        match patch {
            Ok(patch) => Ok((patch, row.policy)),
            Err(Error::Corrupt(what)) => {
                let (ino, index) = place;
                log::error!("the patch of chunk {index} of inode {ino}: {what}");
                let mut patch = Patch::new(row.base);
                patch.lost = true;
                Ok((patch, row.policy))
            }
            Err(error) => Err(error),
        }
    }

    /// How long until the commit thread should fold; `None`: there is no need.
    pub(super) fn fold_due(&self, state: &State) -> Option<Duration> {
        match state.health {
            Health::Fine => state.patches.fold_due(self.options.patch_bytes),
            _ => None,
        }
    }

    /// Turns some patches into dirty chunks, if that is due. For the commit
    /// thread, before it freezes.
    pub(super) fn fold_some(&self) {
        let most = (self.options.dirty_bytes / 4 / self.options.chunk_size).max(1);
        let chosen: Vec<_> = {
            let mut state = self.state.lock();
            let wanted = state.copy_wanted.is_some();
            state.patches.folding |= wanted;
            if self.fold_due(&state) != Some(Duration::ZERO) {
                return;
            }
            state.patches.aging = Some(Instant::now());
            let patches = &state.patches;
            let places = patches.by_place.range(patches.next..);
            let places = places.chain(patches.by_place.range(..patches.next));
            let places = places.filter(|(place, _)| !patches.stuck.contains(place));
            places
                .take(most)
                .map(|(place, patch)| {
                    let base = state.inflight.get(&patch.base).cloned();
                    (*place, patch.clone(), base)
                })
                .collect()
        };
        let folded = in_parallel(&chosen, |(_, patch, base)| {
            let base: Plain = match base.clone().or_else(|| self.cache.peek(&patch.base)) {
                Some(base) => base,
                None => Arc::new(self.fetch(&patch.base)?.1),
            };
            patch.apply(&base)
        });
        let mut state = self.state.lock();
        state.patches.next = chosen.last().map_or((0, 0), |(place, ..)| *place);
        for ((place, patch, _), plain) in chosen.iter().zip(folded) {
            let same = |now: &Arc<Patch>| Arc::ptr_eq(now, patch);
            if !state.patches.get(*place).is_some_and(same) {
                continue; // Written or removed meanwhile.
            }
            match plain {
                Ok(plain) => {
                    state.patches.set(*place, None);
                    state.set_dirty(*place, Some(Arc::new(plain)));
                }
                Err(error) => {
                    if !matches!(error, Error::Stale) {
                        let (ino, index) = *place;
                        log::warn!("chunk {index} of inode {ino} stays patched: {error}");
                    }
                    state.patches.stuck.insert(*place);
                }
            }
        }
        if state.patches.are_stuck() {
            let patches = &mut state.patches;
            (patches.folding, patches.aging) = (false, None);
            patches.since = (!patches.is_empty()).then(Instant::now);
        }
    }

    /// Folds all patches that can be.
    pub(super) fn fold_all(&self) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        let mut state = self.state.lock();
        state.patches.try_again();
        let begun = state.attempts;
        while !state.patches.are_stuck() {
            if state.failed > begun || state.health != Health::Fine {
                return Err(state.failure());
            }
            state.patches.folding = true;
            state.urgent = true;
            self.wake.notify_one();
            self.done.wait(&mut state);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_patch_is_what_was_written(
            base in prop::collection::vec(any::<u8>(), 0..300),
            writes in prop::collection::vec((0..200usize, 1..60usize, any::<u8>()), 1..20),
            at in 0..300usize,
            len in 0..100usize,
        ) {
            let mut patch = Patch::new(ChunkId([1; 32]));
            let mut expected = base.clone();
            for (at, len, byte) in writes {
                let data = vec![byte; len];
                patch.write(at, &data);
                put_at(&mut expected, at, &data);
            }
            prop_assert_eq!(&patch.apply(&base).unwrap(), &expected);
            let mut out = base.clone();
            out.resize(500, 0);
            let mut part = out[at..at + len].to_vec();
            patch.overlay(&mut part, at);
            let mut whole = expected.clone();
            whole.resize(500, 0);
            prop_assert_eq!(&part[..], &whole[at..at + len]);
            if patch.covers(at, at + len) {
                let mut part = vec![!0; len];
                patch.overlay(&mut part, at);
                prop_assert_eq!(&part[..], &whole[at..at + len]);
            }
            let again = Patch::decode(patch.base, &patch.encode(), 300).unwrap();
            prop_assert_eq!(again, patch);
        }
    }

    #[test]
    fn malformed_patches_are_errors() {
        let mut patch = Patch::new(ChunkId([1; 32]));
        patch.write(3, b"abc");
        patch.write(9, b"defg");
        let payload = patch.encode();
        assert_eq!(
            payload,
            [
                &[0, 0, 0, 3, 0, 0, 0, 3],
                &b"abc"[..],
                &[0, 0, 0, 9, 0, 0, 0, 4],
                b"defg"
            ]
            .concat()
        );
        let decode = |payload: &[u8], size| Patch::decode(ChunkId([1; 32]), payload, size);
        assert!(decode(&payload, 13).is_ok());
        assert!(decode(&payload, 12).is_err());
        for len in 0..payload.len() {
            // Between the two pieces it is a patch of one.
            assert_eq!(decode(&payload[..len], 13).is_ok(), len == 11, "{len}");
        }
        // Pieces that overlap or touch.
        let touching = [&payload[..11], &[0, 0, 0, 6, 0, 0, 0, 1, 9]].concat();
        assert!(decode(&touching, 99).is_err());
        let row = PatchRow {
            base: ChunkId([7; 32]),
            policy: Policy::Zstd,
            value: ValueRef::Inline(payload),
        };
        let bytes = row.encode().unwrap();
        assert_eq!(PatchRow::decode(&bytes).unwrap().policy, Policy::Zstd);
        for len in 0..34 {
            assert!(PatchRow::decode(&bytes[..len]).is_err());
        }
        let mut newer = bytes.clone();
        newer[1] = 2;
        assert!(matches!(
            PatchRow::decode(&newer),
            Err(Error::NewerFormat { found: 2, .. })
        ));
        assert_eq!(parse_row_key(&row_key((5, 6))).unwrap(), (5, 6));
        assert!(parse_row_key(&[0; 15]).is_err() && parse_row_key(&[0; 17]).is_err());
    }
}
