//! Copies of all rows of the inodes, as they are at one moment.
//!
//! Inode numbers are divided into *spaces* of [`SPACE`] numbers. Space 0 is
//! the volume as it is; every other one holds a copy, in which each inode has
//! the number that it has in space 0 plus the first of the space. Copied chunk
//! maps name the same chunks and are counted as further references; nothing
//! else in the tier knows of spaces.
//!
//! A copy is of one moment, a freeze of the commit thread, when no chunk is
//! dirty. Rows are copied afterwards, page by page in the order of their keys,
//! while writers go on: whoever changes a row that was not reached yet first
//! copies it as it was, in the same operation. Keys that have changed are
//! remembered until they are passed, because a row that is new must not be
//! taken for an old one.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::store::{Class, Table, ValueRef};

use super::op::{Op, Undo};
use super::rows::{self, Run};
use super::{Health, Shared, State};

/// Numbers of one space.
pub const SPACE: u64 = 1 << 44;

/// How many spaces there are, the volume's own included.
pub const SPACES: u32 = 1 << 19;

/// The tables whose keys begin with an inode number, in the order in which
/// they are copied. Inodes first: what says that an inode is to be freed is
/// replaced before its chunks are.
pub const SPACE_TABLES: [Table; 5] = [
    Table::Inode,
    Table::Orphan,
    Table::Dirent,
    Table::Xattr,
    Table::Cmap,
];

/// Keys remembered at most: about a hundred megabytes.
const TOUCHED: usize = 1 << 20;

/// The space that an inode number belongs to.
pub fn space_of(ino: u64) -> u32 {
    (ino / SPACE) as u32
}

/// The first number of a space.
pub fn base_of(space: u32) -> u64 {
    u64::from(space) * SPACE
}

/// A copy that is being made.
pub(super) struct Copying {
    base: u64,
    /// Where copying goes on: an index into `SPACE_TABLES` and a key.
    at: (usize, Vec<u8>),
    /// Keys from there on that have changed since the copy's moment.
    touched: BTreeSet<(usize, Vec<u8>)>,
}

/// A place among the rows of a space, for work that is done in pages.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    table: usize,
    /// Behind the number of the space.
    from: Option<Vec<u8>>,
    /// Rows that the target has and the source lacks are gone.
    cleared: bool,
}

impl Cursor {
    fn is_new(&self) -> bool {
        self.table == 0 && self.from.is_none() && !self.cleared
    }
}

fn place(table: Table) -> Option<usize> {
    SPACE_TABLES.iter().position(|of| *of == table)
}

/// A key of one space in another.
fn moved(key: &[u8], from: u64, to: u64) -> Result<Vec<u8>> {
    let (ino, rest) = key
        .split_first_chunk()
        .ok_or_else(|| Error::Corrupt("a key is too short".into()))?;
    let ino = u64::from_be_bytes(*ino).wrapping_sub(from).wrapping_add(to);
    Ok([&ino.to_be_bytes(), rest].concat())
}

fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

impl Copying {
    fn new(base: u64) -> Self {
        Self {
            base,
            at: (0, Vec::new()),
            touched: BTreeSet::new(),
        }
    }

    /// Whether a row must be copied before it changes; its index and key.
    fn wants(&self, table: Table, key: &[u8]) -> Option<(usize, Vec<u8>)> {
        let live = key.first_chunk().map(|ino| u64::from_be_bytes(*ino));
        if live? >= SPACE {
            return None;
        }
        let row = (place(table)?, key.to_vec());
        (row >= self.at && !self.touched.contains(&row)).then_some(row)
    }

    pub fn forget(&mut self, row: &(usize, Vec<u8>)) {
        self.touched.remove(row);
    }
}

/// What the commit thread needs to preserve the map row of a dirty chunk.
pub(super) struct Preserved {
    row: (usize, Vec<u8>),
    /// The copy's key, and what it names.
    copy: Option<(Vec<u8>, Run)>,
}

impl State {
    /// What has to be preserved of a map row that the commit thread is about
    /// to change.
    pub(super) fn to_preserve(&self, key: &[u8], run: &Run) -> Result<Option<Preserved>> {
        let Some(copying) = &self.copying else {
            return Ok(None);
        };
        let Some(row) = copying.wants(Table::Cmap, key) else {
            return Ok(None);
        };
        let copy = match run.is_empty() {
            true => None,
            false => Some((moved(key, 0, copying.base)?, run.clone())),
        };
        Ok(Some(Preserved { row, copy }))
    }

    /// Cannot fail.
    pub(super) fn preserve(&mut self, preserved: Preserved) {
        if let Some((key, run)) = preserved.copy {
            let row = Some(Some(run.encode()));
            self.pending.set(Table::Cmap, key, row);
            run.names().for_each(|name| self.pending.add_refs(name, 1));
        }
        self.touch(preserved.row);
    }

    fn touch(&mut self, row: (usize, Vec<u8>)) {
        if let Some(copying) = &mut self.copying {
            copying.touched.insert(row);
            // Better no copy than no memory.
            if copying.touched.len() > TOUCHED || self.health == Health::Full {
                self.copying = None;
            }
        }
    }

    /// At the end of a freeze: from here on a copy is of this moment. Returns
    /// the row that was asked for.
    pub(super) fn begin_copying(&mut self, base: u64) {
        self.copying = Some(Copying::new(base));
    }
}

impl Op<'_> {
    /// Called before a row is changed: a copy that is being made gets it as
    /// it was.
    pub(super) fn preserve(&mut self, table: Table, key: &[u8]) -> Result<()> {
        let Some(copying) = &self.state.copying else {
            return Ok(());
        };
        let base = copying.base;
        let Some(row) = copying.wants(table, key) else {
            return Ok(());
        };
        if let Some(value) = self.get(table, key)? {
            self.put_copy(table, moved(key, 0, base)?, &value)?;
        }
        self.state.touch(row.clone());
        self.undo.push(Undo::Touched(row));
        Ok(())
    }

    /// Puts a row that is a copy of another one where there is none.
    pub(super) fn put_copy(&mut self, table: Table, key: Vec<u8>, row: &[u8]) -> Result<()> {
        match table {
            Table::Cmap => {
                let run = Run::decode(row)?;
                run.names().for_each(|name| self.add_refs(name, 1));
                self.set_row(table, key, Some(row.to_vec()));
            }
            Table::Xattr => {
                let (prefix, value) = rows::parse_valued_row(row)?;
                // A record in a log has one owner.
                let value = match value {
                    ValueRef::Log { .. } => {
                        let payload = self.shared.store.value(&value)?;
                        self.append_value(Class::Cold, table, &key, &payload)?
                    }
                    inline => inline,
                };
                let row = rows::valued_row(prefix, &value)?;
                self.set_row(table, key, Some(row));
            }
            _ => self.set_row(table, key, Some(row.to_vec())),
        }
        Ok(())
    }

    /// Removes a row of any of these tables and what it holds.
    pub(super) fn drop_row(&mut self, table: Table, key: &[u8]) -> Result<()> {
        match table {
            Table::Cmap => {
                let (ino, run) = rows::parse_run_key(key)?;
                let first = run.saturating_mul(rows::RUN);
                self.drop_patches(ino, first, first.saturating_add(rows::RUN));
                if let Some(row) = self.get(table, key)? {
                    for name in Run::decode(&row)?.names() {
                        self.add_refs(name, -1);
                    }
                }
            }
            Table::Xattr => self.release_value(table, key)?,
            _ => {}
        }
        self.set_row(table, key.to_vec(), None);
        Ok(())
    }

    /// Copies at most `limit` rows; `None` when all are copied.
    fn copy_page(&mut self, limit: usize) -> Result<Option<u64>> {
        self.begin_growth()?;
        let aborted = || {
            Error::Other(
                "the volume changes faster than its rows can be copied, or the disk is full: \
                 try again when less is written"
                    .into(),
            )
        };
        let copying = self.state.copying.as_ref().ok_or_else(aborted)?;
        let base = copying.base;
        let (mut table, mut from) = copying.at.clone();
        let end = SPACE.to_be_bytes();
        let (mut left, mut copied) = (limit, 0);
        while left > 0 && table < SPACE_TABLES.len() {
            let rows = self.scan(SPACE_TABLES[table], &from, Some(&end), left)?;
            let all = rows.len() < left;
            left -= rows.len();
            if let Some((last, _)) = rows.last() {
                from = behind(last);
            }
            for (key, row) in rows {
                let touched = |copying: &Copying| copying.touched.contains(&(table, key.clone()));
                if !self.state.copying.as_ref().is_some_and(touched) {
                    self.put_copy(SPACE_TABLES[table], moved(&key, 0, base)?, &row)?;
                    copied += 1;
                }
            }
            if all {
                (table, from) = (table + 1, Vec::new());
            }
        }
        // Nothing fails from here on.
        if let Some(copying) = &mut self.state.copying {
            copying.at = (table, from);
            copying.touched = copying.touched.split_off(&copying.at);
        }
        Ok((table < SPACE_TABLES.len()).then_some(copied))
    }

    /// Removes at most `limit` rows of a space; `true` when none is left.
    pub fn remove_rows(&mut self, space: u32, cursor: &mut Cursor, limit: usize) -> Result<bool> {
        self.begin_change()?;
        let Some(table) = SPACE_TABLES.get(cursor.table).copied() else {
            return Ok(true);
        };
        let start = match &cursor.from {
            Some(key) => key.clone(),
            None => base_of(space).to_be_bytes().to_vec(),
        };
        let end = base_of(space + 1).to_be_bytes();
        let rows = self.scan(table, &start, Some(&end), limit)?;
        for (key, _) in &rows {
            self.drop_row(table, key)?;
        }
        // Nothing fails from here on.
        match rows.last() {
            Some((last, _)) if rows.len() == limit => cursor.from = Some(behind(last)),
            _ => {
                cursor.from = None;
                cursor.table += 1;
            }
        }
        Ok(cursor.table == SPACE_TABLES.len())
    }

    /// Makes the rows of one space equal to those of another, at most `limit`
    /// of them; says how many were looked at, and `None` at the end. May be
    /// begun again from the start.
    pub fn overwrite_rows(
        &mut self,
        (from, to): (u32, u32),
        cursor: &mut Cursor,
        limit: usize,
    ) -> Result<Option<u64>> {
        self.begin_growth()?;
        let Some(table) = SPACE_TABLES.get(cursor.table).copied() else {
            return Ok(None);
        };
        let (source, target) = (base_of(from), base_of(to));
        if cursor.is_new() {
            for ino in self.state.patches.files(target..target + SPACE) {
                self.drop_patches(ino, 0, u64::MAX);
            }
        }
        let (read, other) = match cursor.cleared {
            true => (source, target),
            false => (target, source),
        };
        let start = match &cursor.from {
            Some(key) => key.clone(),
            None => read.to_be_bytes().to_vec(),
        };
        let end = (read + SPACE).to_be_bytes();
        let rows = self.scan(table, &start, Some(&end), limit)?;
        for (key, row) in &rows {
            let counterpart = moved(key, read, other)?;
            let there = self.get(table, &counterpart)?;
            match cursor.cleared {
                false if there.is_none() => self.drop_row(table, key)?,
                true if there.as_deref() != Some(row) => {
                    if there.is_some() {
                        self.drop_row(table, &counterpart)?;
                    }
                    self.put_copy(table, counterpart, row)?;
                }
                _ => {}
            }
        }
        // Nothing fails from here on.
        match rows.last() {
            Some((last, _)) if rows.len() == limit => cursor.from = Some(behind(last)),
            _ => {
                cursor.from = None;
                cursor.table += usize::from(cursor.cleared);
                cursor.cleared = !cursor.cleared;
            }
        }
        Ok(Some(rows.len() as u64))
    }
}

impl Shared {
    /// See [`Tier::begin_copy`](super::Tier::begin_copy).
    pub(super) fn begin_copy(&self, space: u32, row: (Table, &[u8])) -> Result<Option<Vec<u8>>> {
        let mut state = self.state.lock();
        if state.copying.is_some() || state.copy_wanted.is_some() {
            return Err(Error::Other("another snapshot is being made".into()));
        }
        state.copy_wanted = Some((base_of(space), row.0, row.1.to_vec()));
        state.patches.try_again();
        let begun = state.attempts;
        loop {
            state.urgent = true;
            self.wake.notify_one();
            if let Some(row) = state.copy_begun.take() {
                return Ok(row);
            }
            if !state.patches.is_empty() && state.patches.are_stuck() {
                state.copy_wanted = None;
                return Err(Error::Other(
                    "a chunk that was written to is damaged (the log says which): write the \
                     file anew or remove it before making a snapshot"
                        .into(),
                ));
            }
            let dead = matches!(state.health, Health::Dead | Health::Closed);
            if state.failed > begun || dead || self.options.read_only {
                state.copy_wanted = None;
                return Err(match dead || self.options.read_only {
                    true => Error::ReadOnly,
                    false => state.failure(),
                });
            }
            self.done.wait(&mut state);
        }
    }

    /// See [`Tier::copy_some`](super::Tier::copy_some).
    pub(super) fn copy_some(&self, limit: usize) -> Result<Option<u64>> {
        self.run(|op| op.copy_page(limit))
    }

    pub(super) fn end_copy(&self) {
        self.state.lock().copying = None;
    }
}
