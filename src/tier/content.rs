//! Changing the content of files: writes, truncation, holes, copies.
//!
//! Every call first looks whether it needs the plain bytes of chunks that are
//! not in memory, and asks for them before it changes anything.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::store::{ChunkId, Table};

use super::op::{Op, Undo};
use super::patch::{self, Patch};
use super::rows::{self, RUN, Run, run_of, runs_end};
use super::{Plain, Shared, State};

/// What a chunk of a file is.
#[derive(Clone)]
pub(super) enum Slot {
    Hole,
    Dirty(Plain),
    Named(ChunkId),
    Patched(Arc<Patch>),
}

/// The part of a byte range that lies in one chunk.
struct Piece {
    index: u64,
    /// Where it begins in the chunk.
    at: usize,
    len: usize,
    /// Where it begins in the range.
    from: usize,
}

/// Cuts `[offset, offset + len)` at chunk boundaries.
fn pieces(chunk_size: usize, offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let size = chunk_size as u64;
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let position = offset + done as u64;
        let at = (position % size) as usize;
        let piece = Piece {
            index: position / size,
            at,
            len: (chunk_size - at).min(len - done),
            from: done,
        };
        done += piece.len;
        Some(piece)
    })
}

/// What a copy does to one chunk of its target.
enum Change {
    /// Becomes the same stored chunk, or a hole.
    Share(Option<ChunkId>),
    /// Becomes these bytes.
    Whole(Plain),
    /// These bytes are written.
    Bytes(Vec<u8>),
    /// This many bytes become zeros.
    Zero(usize),
}

impl Shared {
    /// The chunk `index` of a file.
    pub(super) fn slot(&self, state: &State, ino: u64, index: u64) -> Result<Slot> {
        if let Some(plain) = state.dirty.get(&(ino, index)) {
            return Ok(Slot::Dirty(plain.clone()));
        }
        if let Some(patch) = state.patches.get((ino, index)) {
            return Ok(Slot::Patched(patch.clone()));
        }
        Ok(match self.run_row(state, ino, index)?.get(index) {
            Some(name) => Slot::Named(name),
            None => Slot::Hole,
        })
    }

    /// The run around chunk `index`, without dirty chunks.
    pub(super) fn run_row(&self, state: &State, ino: u64, index: u64) -> Result<Run> {
        let key = rows::run_key(ino, run_of(index));
        let row = self.view(state).get(Table::Cmap, &key)?;
        row.map_or(Ok(Run::default()), |row| Run::decode(&row))
    }
}

impl Op<'_> {
    fn chunk_size(&self) -> usize {
        self.shared.options.chunk_size
    }

    fn slot(&self, ino: u64, index: u64) -> Result<Slot> {
        self.shared.slot(self.state, ino, index)
    }

    /// The plain bytes of a chunk if they are in memory.
    fn plain(&self, name: &ChunkId) -> Result<Plain> {
        let found = self.pins.get(name).or(self.state.inflight.get(name));
        match found.cloned().or_else(|| self.shared.cache.peek(name)) {
            Some(plain) => Ok(plain),
            None => Err(Error::NeedChunk(*name)),
        }
    }

    /// Plain bytes of a slot; a hole has none.
    fn slot_plain(&self, slot: &Slot) -> Result<Option<Plain>> {
        match slot {
            Slot::Hole => Ok(None),
            Slot::Dirty(plain) => Ok(Some(plain.clone())),
            Slot::Named(name) => self.plain(name).map(Some),
            Slot::Patched(patch) if patch.lost => Err(patch::lost(&patch.base)),
            Slot::Patched(patch) => {
                let plain = patch.apply(&self.plain(&patch.base)?)?;
                Ok(Some(Arc::new(plain)))
            }
        }
    }

    /// How many bytes of a slot are stored; what follows reads as zeros.
    fn slot_len(&self, slot: &Slot) -> Result<usize> {
        match slot {
            Slot::Hole => Ok(0),
            Slot::Dirty(plain) => Ok(plain.len()),
            Slot::Patched(patch) => {
                let below = self.slot_len(&Slot::Named(patch.base))?;
                Ok(below.max(patch.end()))
            }
            Slot::Named(name) => {
                if let Ok(plain) = self.plain(name) {
                    return Ok(plain.len());
                }
                match self.shared.store.get(Table::Chunk, &name.0)? {
                    Some(row) => Ok(rows::ChunkRow::decode(&row)?.plain_len as usize),
                    // Its row will be there when this is tried again.
                    None => Err(Error::NeedChunk(*name)),
                }
            }
        }
    }

    /// Makes sure that a part of a chunk can be changed. Called before the
    /// first change of an operation, so that it can be run again.
    fn prepare_edit(&self, slot: &Slot) -> Result<()> {
        match slot {
            Slot::Named(name) => self.plain(name).map(drop),
            Slot::Patched(patch) if patch.lost => Err(patch::lost(&patch.base)),
            Slot::Patched(patch) => self.plain(&patch.base).map(drop),
            Slot::Hole | Slot::Dirty(_) => Ok(()),
        }
    }

    /// Whether a write into a chunk becomes a patch.
    fn patches(&self, slot: &Slot, at: usize, len: usize) -> bool {
        match slot {
            Slot::Hole | Slot::Dirty(_) => false,
            Slot::Named(name) => self.may_patch(name, None, at, len),
            Slot::Patched(patch) => self.may_patch(&patch.base, Some(patch), at, len),
        }
    }

    /// Sets or removes a patch.
    fn set_patch(&mut self, key: (u64, u64), patch: Option<Arc<Patch>>) {
        if patch.is_some() || self.state.patches.get(key).is_some() {
            let before = self.state.set_patch(key, patch);
            self.undo.push(Undo::Patch(key, before));
        }
    }

    /// Removes the patches of a file's chunks from `first` on, before `end`.
    pub(super) fn drop_patches(&mut self, ino: u64, first: u64, end: u64) {
        for index in self.state.patches.of_file(ino, first, end) {
            self.set_patch((ino, index), None);
        }
    }

    fn set_dirty(&mut self, key: (u64, u64), plain: Option<Plain>) {
        if plain.is_some() {
            self.set_patch(key, None);
        }
        let before = self.state.set_dirty(key, plain);
        self.undo.push(Undo::Dirty(key, before));
    }

    /// Names the chunk of a slot in its `Cmap` row.
    fn set_name(&mut self, ino: u64, index: u64, name: Option<ChunkId>) -> Result<()> {
        self.set_patch((ino, index), None);
        let mut run = self.shared.run_row(self.state, ino, index)?;
        let before = run.set(index, name);
        if before == name {
            return Ok(());
        }
        self.set_run(ino, run_of(index), &run)?;
        for (name, change) in [(name, 1), (before, -1)] {
            if let Some(name) = name {
                self.add_refs(name, change);
            }
        }
        Ok(())
    }

    fn set_run(&mut self, ino: u64, run: u64, row: &Run) -> Result<()> {
        let key = rows::run_key(ino, run);
        self.preserve(Table::Cmap, &key)?;
        let value = (!row.is_empty()).then(|| row.encode());
        self.set_row(Table::Cmap, key, value);
        Ok(())
    }

    /// Makes a chunk dirty with bytes `at..at + data.len()` replaced.
    fn edit(&mut self, ino: u64, index: u64, at: usize, data: &[u8]) -> Result<()> {
        let key = (ino, index);
        let end = at + data.len();
        match self.slot(ino, index)? {
            Slot::Dirty(plain) => {
                let len = plain.len();
                let before = plain[at.min(len)..end.min(len)].to_vec();
                drop(plain);
                self.undo.push(Undo::Bytes(key, at.min(len), before, len));
                self.state.edit_dirty(key, |bytes| put_at(bytes, at, data));
            }
            slot if self.patches(&slot, at, data.len()) => {
                let mut patch = match slot {
                    Slot::Patched(patch) => (*patch).clone(),
                    Slot::Named(name) => Patch::new(name),
                    // Those are never patched.
                    Slot::Hole | Slot::Dirty(_) => return Err(Error::Stale),
                };
                patch.write(at, data);
                self.set_patch(key, Some(Arc::new(patch)));
            }
            slot => {
                let mut bytes = match self.slot_plain(&slot)? {
                    Some(plain) => {
                        let mut bytes = Vec::with_capacity(plain.len().max(end));
                        bytes.extend_from_slice(&plain);
                        bytes
                    }
                    None => Vec::with_capacity(end),
                };
                put_at(&mut bytes, at, data);
                self.set_dirty(key, Some(Arc::new(bytes)));
            }
        }
        Ok(())
    }

    /// Makes a chunk dirty with bytes `at..at + len` cleared, as far as they
    /// are stored.
    fn clear(&mut self, ino: u64, index: u64, at: usize, len: usize) -> Result<()> {
        let stored = self.slot_len(&self.slot(ino, index)?)?;
        let end = (at + len).min(stored);
        if at >= end {
            return Ok(());
        }
        match end == stored {
            true => self.cut(ino, index, at),
            false => self.edit(ino, index, at, &vec![0; end - at]),
        }
    }

    /// Makes a chunk dirty with only its first `len` bytes left.
    fn cut(&mut self, ino: u64, index: u64, len: usize) -> Result<()> {
        let key = (ino, index);
        match self.slot(ino, index)? {
            Slot::Hole => {}
            Slot::Dirty(plain) if plain.len() > len => {
                let before = plain[len..].to_vec();
                self.undo.push(Undo::Bytes(key, len, before, plain.len()));
                drop(plain);
                self.state.edit_dirty(key, |bytes| bytes.truncate(len));
            }
            Slot::Dirty(_) => {}
            slot @ (Slot::Named(_) | Slot::Patched(_)) => {
                if let Some(plain) = self.slot_plain(&slot)?
                    && plain.len() > len
                {
                    self.set_dirty(key, Some(Arc::new(plain[..len].to_vec())));
                }
            }
        }
        Ok(())
    }

    /// Makes a chunk a hole. Says whether it was none.
    fn remove(&mut self, ino: u64, index: u64) -> Result<bool> {
        let dirty = self.state.dirty.contains_key(&(ino, index));
        if dirty {
            self.set_dirty((ino, index), None);
        }
        let named = self.shared.run_row(self.state, ino, index)?.get(index);
        if named.is_some() {
            self.set_name(ino, index, None)?;
        }
        Ok(dirty || named.is_some())
    }

    /// Removes all chunks from `first` on; returns how many there were. At
    /// most `limit` rows are changed, and the second result says whether that
    /// was all.
    fn remove_from(&mut self, ino: u64, first: u64, limit: usize) -> Result<(i64, bool)> {
        let mut removed = 0;
        let range = (ino, first)..=(ino, u64::MAX);
        let dirty: Vec<u64> = self
            .state
            .dirty
            .range(range)
            .map(|((_, i), _)| *i)
            .collect();
        // A chunk that is both dirty and named counts once: below.
        for index in dirty {
            let run = self.shared.run_row(self.state, ino, index)?;
            removed += i64::from(run.get(index).is_none());
            self.set_dirty((ino, index), None);
        }
        self.drop_patches(ino, first, u64::MAX);
        let mut run = run_of(first);
        let end = runs_end(ino);
        let mut left = limit;
        loop {
            let page = left.min(256);
            if page == 0 {
                return Ok((removed, false));
            }
            let found = self.scan(Table::Cmap, &rows::run_key(ino, run), end.as_deref(), page)?;
            let all = found.len() < page;
            left -= found.len();
            for (key, row) in found {
                let (_, number) = rows::parse_run_key(&key)?;
                let mut row = Run::decode(&row)?;
                for index in (number * RUN..).take(RUN as usize) {
                    if index >= first
                        && let Some(name) = row.set(index, None)
                    {
                        removed += 1;
                        self.add_refs(name, -1);
                    }
                }
                self.set_run(ino, number, &row)?;
                run = number;
            }
            match run.checked_add(1) {
                Some(next) if !all => run = next,
                _ => return Ok((removed, true)),
            }
        }
    }

    /// Writes `data` at `offset`. Returns by how much the number of the
    /// file's chunks has changed.
    pub fn write(&mut self, ino: u64, offset: u64, data: &[u8]) -> Result<i64> {
        self.begin_growth()?;
        let size = self.chunk_size();
        offset
            .checked_add(data.len() as u64)
            .ok_or(Error::FileTooBig)?;
        let mut new = 0;
        for piece in pieces(size, offset, data.len()) {
            let slot = self.slot(ino, piece.index)?;
            new += i64::from(matches!(slot, Slot::Hole));
            if piece.len < size && !self.patches(&slot, piece.at, piece.len) {
                self.prepare_edit(&slot)?;
            }
        }
        for piece in pieces(size, offset, data.len()) {
            let bytes = &data[piece.from..piece.from + piece.len];
            if piece.len == size {
                let mut whole = Vec::new();
                whole.try_reserve_exact(size).map_err(|_| Error::NoMemory)?;
                whole.extend_from_slice(bytes);
                self.set_dirty((ino, piece.index), Some(Arc::new(whole)));
            } else {
                self.edit(ino, piece.index, piece.at, bytes)?;
            }
        }
        let written = &self.shared.traffic.written;
        written.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(new)
    }

    /// Drops what lies behind `new_size`, so that it reads as zeros if the
    /// file grows again. Returns the change in the number of chunks.
    pub fn truncate(&mut self, ino: u64, new_size: u64) -> Result<i64> {
        self.begin_change()?;
        let size = self.chunk_size() as u64;
        let (index, len) = (new_size / size, (new_size % size) as usize);
        if len > 0 {
            let slot = self.slot(ino, index)?;
            if self.slot_len(&slot)? > len {
                self.prepare_edit(&slot)?;
                self.cut(ino, index, len)?;
            }
        }
        let first = new_size.div_ceil(size);
        let (removed, _) = self.remove_from(ino, first, usize::MAX)?;
        Ok(-removed)
    }

    /// Makes a range read as zeros; whole chunks become holes. Returns the
    /// change in the number of chunks.
    pub fn punch(&mut self, ino: u64, offset: u64, len: u64) -> Result<i64> {
        self.begin_change()?;
        let size = self.chunk_size() as u64;
        let end = offset.checked_add(len).ok_or(Error::FileTooBig)?;
        // The edges are cleared, what lies between is removed.
        let head = offset.next_multiple_of(size).min(end) - offset;
        let tail_at = (end - end % size).max(offset + head);
        let edges = [(offset, head), (tail_at, end - tail_at)];
        for (at, len) in edges {
            let slot = self.slot(ino, at / size)?;
            if len > 0 && self.slot_len(&slot)? > (at % size) as usize {
                self.prepare_edit(&slot)?;
            }
        }
        for (at, len) in edges {
            self.clear(ino, at / size, (at % size) as usize, len as usize)?;
        }
        let mut removed = 0;
        let mut at = offset + head;
        while let Some(data) = self.next_data(ino, at, tail_at)? {
            removed += i64::from(self.remove(ino, data / size)?);
            at = (data / size + 1) * size;
        }
        Ok(-removed)
    }

    /// Makes a range of one file equal to a range of another (or to another
    /// range of its own), sharing whole chunks where the ranges' offsets in
    /// their chunks agree. Returns the change in the number of `to`'s chunks.
    ///
    /// `len` should be moderate (some MiB): bytes that cannot be shared pass
    /// through memory.
    pub fn copy(
        &mut self,
        from: u64,
        from_offset: u64,
        to: u64,
        to_offset: u64,
        len: u64,
    ) -> Result<i64> {
        self.begin_growth()?;
        let size = self.chunk_size();
        to_offset.checked_add(len).ok_or(Error::FileTooBig)?;
        from_offset.checked_add(len).ok_or(Error::FileTooBig)?;
        let len = usize::try_from(len).map_err(|_| Error::FileTooBig)?;
        let aligned = from_offset % size as u64 == to_offset % size as u64;
        let mut plan = Vec::new();
        let mut new = 0;
        for piece in pieces(size, to_offset, len) {
            let there = self.slot(to, piece.index)?;
            let source = from_offset + piece.from as u64;
            let change = self.copy_piece(from, source, aligned, &piece, &there)?;
            let after = match &change {
                Change::Share(None) => false,
                Change::Zero(_) => !matches!(there, Slot::Hole),
                _ => true,
            };
            new += i64::from(after) - i64::from(!matches!(there, Slot::Hole));
            plan.push((piece, change));
        }
        for (piece, change) in plan {
            match change {
                Change::Bytes(bytes) => self.edit(to, piece.index, piece.at, &bytes)?,
                Change::Zero(len) => self.clear(to, piece.index, piece.at, len)?,
                Change::Share(None) => drop(self.remove(to, piece.index)?),
                Change::Whole(plain) => self.set_dirty((to, piece.index), Some(plain)),
                Change::Share(Some(name)) => {
                    if self.state.dirty.contains_key(&(to, piece.index)) {
                        self.set_dirty((to, piece.index), None);
                    }
                    self.set_name(to, piece.index, Some(name))?;
                }
            }
        }
        Ok(new)
    }

    /// What a copy does to one piece of its target, where `there` is now.
    fn copy_piece(
        &self,
        from: u64,
        source: u64,
        aligned: bool,
        piece: &Piece,
        there: &Slot,
    ) -> Result<Change> {
        let size = self.chunk_size();
        if aligned {
            let slot = self.slot(from, source / size as u64)?;
            // The end of a file can be shared as well if nothing follows it.
            let whole = piece.at == 0
                && (piece.len == size
                    || (self.slot_len(&slot)? <= piece.len && self.slot_len(there)? <= piece.len));
            if whole {
                return Ok(match slot {
                    Slot::Hole => Change::Share(None),
                    Slot::Named(name) => Change::Share(Some(name)),
                    Slot::Dirty(plain) => Change::Whole(plain),
                    Slot::Patched(_) => match self.slot_plain(&slot)? {
                        Some(plain) => Change::Whole(plain),
                        None => Change::Share(None),
                    },
                });
            }
        }
        let mut bytes = Vec::with_capacity(piece.len);
        let mut hole = true;
        for part in pieces(size, source, piece.len) {
            let slot = self.slot(from, part.index)?;
            if let Some(plain) = self.slot_plain(&slot)? {
                hole = false;
                let end = (part.at + part.len).min(plain.len());
                bytes.extend_from_slice(&plain[part.at.min(end)..end]);
            }
            bytes.resize(part.from + part.len, 0);
        }
        self.prepare_edit(there)?;
        Ok(match hole {
            true => Change::Zero(piece.len),
            false => Change::Bytes(bytes),
        })
    }

    /// The first offset in `[offset, size)` that lies in a stored chunk.
    pub fn next_data(&self, ino: u64, offset: u64, size: u64) -> Result<Option<u64>> {
        if offset >= size {
            return Ok(None);
        }
        let chunk = self.chunk_size() as u64;
        let first = offset / chunk;
        let dirty = self.state.dirty.range((ino, first)..=(ino, u64::MAX));
        let mut found = dirty.map(|((_, index), _)| *index).next();
        let (mut run, end) = (run_of(first), runs_end(ino));
        'runs: loop {
            let page = self.scan(Table::Cmap, &rows::run_key(ino, run), end.as_deref(), 2)?;
            for (key, row) in &page {
                let (_, number) = rows::parse_run_key(key)?;
                let row = Run::decode(row)?;
                let named = (number * RUN..)
                    .take(RUN as usize)
                    .find(|index| *index >= first && row.get(*index).is_some());
                if let Some(index) = named {
                    found = Some(found.map_or(index, |found| found.min(index)));
                    break 'runs;
                }
                run = number;
            }
            match run.checked_add(1) {
                Some(next) if page.len() == 2 => run = next,
                _ => break,
            }
        }
        Ok(found
            .map(|index| (index.saturating_mul(chunk)).max(offset))
            .filter(|data| *data < size))
    }

    /// The first offset in `[offset, size]` that lies in no stored chunk;
    /// every file has a hole at its end.
    pub fn next_hole(&self, ino: u64, offset: u64, size: u64) -> Result<u64> {
        let chunk = self.chunk_size() as u64;
        let mut index = offset / chunk;
        let mut run = self.shared.run_row(self.state, ino, index)?;
        while index.saturating_mul(chunk) < size {
            let dirty = self.state.dirty.contains_key(&(ino, index));
            if !dirty && run.get(index).is_none() {
                break;
            }
            index += 1;
            if index.is_multiple_of(RUN) {
                run = self.shared.run_row(self.state, ino, index)?;
            }
        }
        Ok(index.saturating_mul(chunk).max(offset).min(size))
    }

    /// Frees at most `limit` runs of chunks of an inode that nobody uses any
    /// more. `true` when none is left.
    pub fn free_some(&mut self, ino: u64, limit: usize) -> Result<bool> {
        self.begin_change()?;
        Ok(self.remove_from(ino, 0, limit)?.1)
    }
}

/// Writes `data` at `at`, with zeros between the end and `at`.
pub(super) fn put_at(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at {
        bytes.resize(at, 0);
    }
    let over = (bytes.len() - at).min(data.len());
    bytes[at..at + over].copy_from_slice(&data[..over]);
    bytes.extend_from_slice(&data[over..]);
}
