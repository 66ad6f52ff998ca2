//! One operation: its changes, and how to take them back.

use std::collections::HashMap;
use std::sync::Arc;

use crate::codec::Policy;
use crate::error::{Error, Result};
use crate::store::{ChunkId, Class, Row, Table, ValueRef};

use super::frames::Adopted;
use super::patch::Patch;
use super::{Health, Plain, Shared, State, rows};

/// How to take one change back.
pub(super) enum Undo {
    Row(Table, Vec<u8>, Option<Option<Vec<u8>>>),
    Refs(ChunkId, i64),
    Live(u64, i64),
    /// A value was appended.
    Appended(u64),
    /// A frame was adopted.
    Adopted(ChunkId, Option<Adopted>),
    /// A key was remembered for the copy that is being made.
    Touched((usize, Vec<u8>)),
    /// A dirty chunk was put, replaced or removed.
    Dirty((u64, u64), Option<Plain>),
    /// A patch was set, replaced or removed.
    Patch((u64, u64), Option<Arc<Patch>>),
    /// Bytes of a dirty chunk were overwritten: what was there from an
    /// offset on, and its length then.
    Bytes((u64, u64), usize, Vec<u8>, usize),
}

/// The tables that callers may change; the others follow from the content.
const OPEN_TABLES: [Table; 5] = [
    Table::Meta,
    Table::Inode,
    Table::Dirent,
    Table::Orphan,
    Table::Xattr,
];

/// Names of `Meta` rows begin with this, unless they are the tier's own.
const META_PREFIX: &[u8] = b"v.";

/// Longest row, key and value together: the store refuses little more, and a
/// row that it refuses must not get as far as a commit.
const ROW_LIMIT: usize = 6000;

/// One operation of [`Shared::run`]: reads see its own changes and all
/// earlier ones.
pub struct Op<'a> {
    pub(super) shared: &'a Shared,
    pub(super) state: &'a mut State,
    /// Chunks loaded for this operation.
    pub(super) pins: &'a HashMap<ChunkId, Plain>,
    pub(super) undo: Vec<Undo>,
    /// The operation needs room in the write buffer before it can go on.
    wants_room: bool,
}

impl Drop for Op<'_> {
    /// Takes everything back unless the operation succeeded. Also after a
    /// panic, so that half an operation is never committed.
    fn drop(&mut self) {
        while let Some(undo) = self.undo.pop() {
            self.take_back(undo);
        }
    }
}

impl<'a> Op<'a> {
    /// Runs `f` once. The second result says that `NeedChunk` means room in
    /// the write buffer and not a chunk.
    pub(super) fn perform<T>(
        shared: &'a Shared,
        state: &'a mut State,
        pins: &'a HashMap<ChunkId, Plain>,
        f: &mut impl FnMut(&mut Op<'_>) -> Result<T>,
    ) -> (Result<T>, bool) {
        let mut op = Op {
            shared,
            state,
            pins,
            undo: Vec::new(),
            wants_room: false,
        };
        let result = f(&mut op);
        if result.is_ok() && !op.undo.is_empty() {
            op.undo.clear();
            op.state.changed(shared);
        }
        (result, op.wants_room)
    }

    fn take_back(&mut self, undo: Undo) {
        let state = &mut *self.state;
        match undo {
            Undo::Row(table, key, entry) => drop(state.pending.set(table, key, entry)),
            Undo::Refs(name, change) => state.pending.add_refs(name, -change),
            Undo::Live(log, change) => state.pending.add_live(log, -change),
            Undo::Appended(log) => {
                state.pending.appended.pop();
                self.shared.ledger.lock().settle_log(log);
            }
            Undo::Adopted(name, before) => {
                let adopted = &mut state.pending.adopted;
                match before {
                    Some(before) => drop(adopted.insert(name, before)),
                    None => drop(adopted.remove(&name)),
                }
            }
            Undo::Touched(row) => {
                if let Some(copying) = &mut state.copying {
                    copying.forget(&row);
                }
            }
            Undo::Dirty(key, before) => drop(state.set_dirty(key, before)),
            Undo::Patch(key, before) => drop(state.set_patch(key, before)),
            Undo::Bytes(key, at, bytes, len) => state.edit_dirty(key, |plain| {
                plain.resize(len.max(at + bytes.len()), 0);
                plain[at..at + bytes.len()].copy_from_slice(&bytes);
                plain.truncate(len);
            }),
        }
    }

    /// Called before every change.
    pub(super) fn begin_change(&mut self) -> Result<()> {
        if self.shared.options.read_only
            || matches!(self.state.health, Health::Dead | Health::Closed)
        {
            return Err(Error::ReadOnly);
        }
        // Only before the first change: what has begun may end, and an
        // operation that only reads never waits.
        if self.undo.is_empty() && self.shared.crowded(self.state) {
            self.wants_room = true;
            return Err(Error::NeedChunk(ChunkId([0; 32])));
        }
        Ok(())
    }

    /// Called before changes that take space.
    pub(super) fn begin_growth(&mut self) -> Result<()> {
        self.begin_change()?;
        match self.state.health == Health::Full || self.shared.is_tight(self.state) {
            true => Err(Error::NoSpace),
            false => Ok(()),
        }
    }

    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.shared.view(self.state).get(table, key)
    }

    /// At most `limit` rows with `start <= key` and, where `end` is given,
    /// `key < end`, in the order of their keys.
    pub fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        self.shared.view(self.state).scan(table, start, end, limit)
    }

    /// Puts a row of `Meta` (named `v.*`), `Inode`, `Dirent` or `Orphan`.
    /// Attributes are put by [`put_value`](Self::put_value).
    pub fn put(
        &mut self,
        table: Table,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
    ) -> Result<()> {
        let key = key.into();
        let meta = table == Table::Meta && !key.starts_with(META_PREFIX);
        if meta || table == Table::Xattr || !OPEN_TABLES.contains(&table) {
            return Err(Error::Invalid("this table is not the caller's to change"));
        }
        self.begin_change()?;
        // Deleting rewrites rows too, but it never adds a name.
        if table == Table::Dirent
            && (self.state.health == Health::Full || self.shared.is_tight(self.state))
        {
            return Err(Error::NoSpace);
        }
        let value = value.into();
        check_length(&key, &value)?;
        self.preserve(table, &key)?;
        self.set_row(table, key, Some(value));
        Ok(())
    }

    /// Deletes a row, if it is there, of the tables that [`put`](Self::put)
    /// takes or of `Xattr`.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) -> Result<()> {
        let key = key.into();
        let meta = table == Table::Meta && !key.starts_with(META_PREFIX);
        if meta || !OPEN_TABLES.contains(&table) {
            return Err(Error::Invalid("this table is not the caller's to change"));
        }
        self.begin_change()?;
        self.preserve(table, &key)?;
        if table == Table::Xattr {
            self.release_value(table, &key)?;
        }
        self.set_row(table, key, None);
        Ok(())
    }

    /// Puts a row of `Xattr`: `prefix` (at most 255 bytes) rests in the row,
    /// `payload` there or, when it is large, in a value log.
    pub fn put_value(
        &mut self,
        table: Table,
        key: impl Into<Vec<u8>>,
        prefix: &[u8],
        payload: &[u8],
    ) -> Result<()> {
        if table != Table::Xattr {
            return Err(Error::Invalid("only attributes have large values"));
        }
        let key = key.into();
        self.begin_growth()?;
        self.preserve(table, &key)?;
        self.release_value(table, &key)?;
        let value = self.append_value(Class::Cold, table, &key, payload)?;
        let row = rows::valued_row(prefix, &value)?;
        check_length(&key, &row)?;
        self.set_row(table, key, Some(row));
        Ok(())
    }

    /// Appends a value that a row of this operation will own.
    pub(super) fn append_value(
        &mut self,
        class: Class,
        table: Table,
        key: &[u8],
        payload: &[u8],
    ) -> Result<ValueRef> {
        let store = &*self.shared.store;
        let value = (self.shared.ledger.lock()).append(store, class, table, key, payload)?;
        if let ValueRef::Log { log, .. } = value {
            self.state.pending.appended.push(log);
            self.undo.push(Undo::Appended(log));
            self.add_live(log, value.log_bytes(key.len()) as i64);
        }
        Ok(value)
    }

    /// Prefix and payload of a row put by [`put_value`](Self::put_value).
    pub fn get_value(&self, table: Table, key: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let Some(row) = self.get(table, key)? else {
            return Ok(None);
        };
        let (prefix, value) = rows::parse_valued_row(&row)?;
        Ok(Some((prefix.to_vec(), self.shared.store.value(&value)?)))
    }

    /// Points an `Xattr` row at a copy of its value, if it still is `from`.
    /// `to` comes from the ledger and is settled by the commit.
    pub(super) fn move_value(
        &mut self,
        key: &[u8],
        from: &ValueRef,
        to: &ValueRef,
    ) -> Result<bool> {
        let Some(row) = self.get(Table::Xattr, key)? else {
            return Ok(false);
        };
        let (prefix, value) = rows::parse_valued_row(&row)?;
        if value != *from {
            return Ok(false);
        }
        self.begin_change()?;
        let row = rows::valued_row(prefix, to)?;
        self.release_value(Table::Xattr, key)?;
        if let ValueRef::Log { log, .. } = *to {
            self.state.pending.appended.push(log);
            self.undo.push(Undo::Appended(log));
            self.add_live(log, to.log_bytes(key.len()) as i64);
        }
        self.set_row(Table::Xattr, key.to_vec(), Some(row));
        Ok(true)
    }

    /// The value that a row owns, if any, is garbage from now on.
    pub(super) fn release_value(&mut self, table: Table, key: &[u8]) -> Result<()> {
        if let Some(row) = self.get(table, key)?
            && let (_, value @ ValueRef::Log { log, .. }) = rows::parse_valued_row(&row)?
        {
            self.add_live(log, -(value.log_bytes(key.len()) as i64));
        }
        Ok(())
    }

    /// What the owner of a file wants of the chunks that this operation, or an
    /// earlier one since the last commit, wrote to it.
    pub fn wish(&mut self, ino: u64, policy: Policy) {
        match policy {
            Policy::Auto => self.state.wishes.remove(&ino),
            _ => self.state.wishes.insert(ino, policy),
        };
    }

    pub(super) fn set_row(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        let before = self.state.pending.set(table, key.clone(), Some(value));
        self.undo.push(Undo::Row(table, key, before));
    }

    pub(super) fn add_refs(&mut self, name: ChunkId, change: i64) {
        self.state.pending.add_refs(name, change);
        self.undo.push(Undo::Refs(name, change));
    }

    fn add_live(&mut self, log: u64, change: i64) {
        self.state.pending.add_live(log, change);
        self.undo.push(Undo::Live(log, change));
    }
}

fn check_length(key: &[u8], value: &[u8]) -> Result<()> {
    match key.len() + value.len() > ROW_LIMIT {
        true => Err(Error::Invalid("a row is longer than the store allows")),
        false => Ok(()),
    }
}

impl State {
    /// Puts or removes a dirty chunk; returns what was there.
    pub(super) fn set_dirty(&mut self, key: (u64, u64), plain: Option<Plain>) -> Option<Plain> {
        let before = match plain {
            Some(plain) => {
                self.dirty_bytes += plain.capacity();
                self.dirty.insert(key, plain)
            }
            None => self.dirty.remove(&key),
        };
        if let Some(before) = &before {
            self.dirty_bytes -= before.capacity();
        }
        before
    }

    /// Changes the bytes of a dirty chunk, if it is there.
    pub(super) fn edit_dirty(&mut self, key: (u64, u64), edit: impl FnOnce(&mut Vec<u8>)) {
        if let Some(plain) = self.dirty.get_mut(&key) {
            self.dirty_bytes -= plain.capacity();
            // Copies the chunk when the commit thread is hashing it or another
            // file shares it.
            let bytes = Arc::make_mut(plain);
            edit(bytes);
            self.dirty_bytes += bytes.capacity();
        }
    }

    /// An operation has changed something.
    pub(super) fn changed(&mut self, shared: &Shared) {
        let first = self.since.is_none();
        if first {
            self.since = Some(std::time::Instant::now());
        }
        if first || self.waiting_bytes() > shared.options.dirty_bytes / 4 {
            shared.wake.notify_one();
        }
    }
}
