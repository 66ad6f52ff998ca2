//! Snapshots on their way from one volume to another.

use super::rows::{Dirent, SnapshotRow, SnapshotState, Stamp};
use super::snapshots::check_snapshot_name;
use super::*;
use crate::store::ChunkId;
use crate::tier::{Cursor, Frame, SPACE, base_of};

/// Rows that one operation copies.
const PAGE: usize = 256;

/// A snapshot that can be sent.
#[derive(Clone, Debug)]
pub struct SentSnapshot {
    pub space: u32,
    pub name: String,
    pub id: String,
    /// Seconds since 1970 and nanoseconds.
    pub created: (i64, u32),
    pub totals: Totals,
}

/// What a stream says of the snapshot that it brings.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub name: String,
    pub id: String,
    pub base: Option<String>,
    pub created: (i64, u32),
    pub totals: Totals,
}

/// A snapshot that is being received. Others wait with theirs meanwhile.
pub struct Receiving<'a> {
    volume: &'a Volume,
    _one: parking_lot::MutexGuard<'a, ()>,
    space: u32,
    row: SnapshotRow,
}

fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_id(text: &str) -> Result<[u8; 16]> {
    let bad = || Error::Corrupt("the id of a snapshot is malformed".into());
    if text.len() != 32 || !text.is_ascii() {
        return Err(bad());
    }
    let mut id = [0; 16];
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| bad())?;
    }
    Ok(id)
}

impl Volume {
    /// A whole snapshot by its name.
    pub fn snapshot_to_send(&self, name: &str) -> Result<SentSnapshot> {
        // Rows may be read from the store directly then.
        match self.core.tier.sync() {
            Ok(()) | Err(Error::ReadOnly) => {}
            Err(error) => return Err(error),
        }
        self.look(|change| match change.snapshot(name)? {
            Some((space, row)) if row.state == SnapshotState::Whole => Ok(SentSnapshot {
                space,
                name: row.name.clone(),
                id: hex(&row.id),
                created: (row.created.seconds, row.created.nanoseconds),
                totals: row.totals,
            }),
            _ => Err(Error::Other(format!(
                "there is no whole snapshot {name:?}; `laconicfs snapshot list` shows those that \
                 are there"
            ))),
        })
    }

    /// Begins to receive a snapshot, or goes on with one that was cut off:
    /// see [`Receiving::position`]. It is seen only when it is
    /// [whole](Receiving::finish).
    pub fn receive(&self, incoming: &Incoming) -> Result<Receiving<'_>> {
        check_snapshot_name(&incoming.name)?;
        let id = parse_id(&incoming.id)?;
        let base_id = incoming.base.as_deref().map(parse_id).transpose()?;
        let one = self.core.making.lock();
        let rows = self.look(|change| change.snapshot_rows())?;
        let mut known = rows
            .iter()
            .filter(|(_, row)| row.state != SnapshotState::Removing);
        let space_of_base = match base_id {
            None => None,
            Some(id) => {
                let whole = |row: &SnapshotRow| row.state == SnapshotState::Whole && row.id == id;
                let base = rows.iter().find(|(_, row)| whole(row));
                Some(base.map(|(space, _)| *space).ok_or_else(|| {
                    Error::Other(
                        "the stream builds on a snapshot that is not here: receive that one \
                         first, or send without --from"
                            .into(),
                    )
                })?)
            }
        };
        let same = known
            .clone()
            .find(|(_, row)| row.id == id)
            .map(|(space, row)| (*space, row.clone()));
        let (space, row) = match same {
            Some((_, row)) if row.state != SnapshotState::Receiving => {
                return Err(Error::Other(format!(
                    "this snapshot is here already, as {:?}",
                    row.name
                )));
            }
            Some(cut_off) => cut_off,
            None if known.any(|(_, row)| row.name == incoming.name) => {
                return Err(Error::Other(format!(
                    "there is another snapshot {:?} here: delete it, or receive with --as NAME",
                    incoming.name
                )));
            }
            None => {
                let (seconds, nanoseconds) = incoming.created;
                let row = SnapshotRow {
                    state: SnapshotState::Receiving,
                    created: Stamp {
                        seconds,
                        nanoseconds: nanoseconds.min(999_999_999),
                    },
                    id,
                    totals: incoming.totals,
                    name: incoming.name.clone(),
                    received: None,
                };
                let space = self.change(|change| {
                    let space = change.new_space()?;
                    change.put_snapshot(space, &row)?;
                    Ok(space)
                })?;
                (space, row)
            }
        };
        let receiving = Receiving {
            volume: self,
            _one: one,
            space,
            row,
        };
        if receiving.row.received.is_none()
            && let Some(base) = space_of_base
        {
            receiving.copy(base)?;
        }
        Ok(receiving)
    }

    /// Whether nothing was ever put into the volume.
    pub fn is_empty(&self) -> Result<bool> {
        let totals = self.totals()?;
        Ok((totals.files, totals.directories, totals.others) == (0, 1, 0))
    }
}

impl Receiving<'_> {
    /// The place in the order of tables and the key of the last row that was
    /// received before a stream was cut off.
    pub fn position(&self) -> Option<&(u8, Vec<u8>)> {
        self.row.received.as_ref()
    }

    fn copy(&self, base: u32) -> Result<()> {
        let tier = &self.volume.core.tier;
        let mut cursor = Cursor::default();
        while {
            let step = |op: &mut crate::tier::Op<'_>| {
                op.overwrite_rows((base, self.space), &mut cursor, PAGE)
            };
            tier.run(step)?.is_some()
        } {}
        Ok(())
    }

    /// Takes one row, or removes it; `at` is its place in the order of tables.
    /// Keys have the numbers of the volume that it comes from.
    pub fn take(
        &mut self,
        table: Table,
        at: u8,
        key: &[u8],
        row: Option<&[u8]>,
        frames: &[(ChunkId, Frame)],
    ) -> Result<()> {
        let malformed = || Error::Corrupt("a row in the stream is malformed".into());
        let (ino, rest) = key.split_first_chunk().ok_or_else(malformed)?;
        let ino = u64::from_be_bytes(*ino);
        if ino == 0 || ino >= SPACE {
            return Err(malformed());
        }
        let new_key = [&(ino + base_of(self.space)).to_be_bytes(), rest].concat();
        match (table, row) {
            (Table::Inode, row) if rest.is_empty() => {
                row.map(Inode::decode).transpose()?;
            }
            (Table::Dirent, row) if rest.len() > 8 => {
                row.map(|row| Dirent::decode(&new_key, row)).transpose()?;
                change::check_name(&rest[8..])?;
            }
            (Table::Xattr, _) if !rest.is_empty() => {}
            // What they say is looked at where they are put.
            (Table::Cmap, _) => {}
            _ => return Err(malformed()),
        }
        let mut state = self.row.clone();
        state.received = Some((at, key.to_vec()));
        let space = self.space;
        self.volume.change(|change| {
            match (table, row) {
                (Table::Cmap, row) => change.op.put_map(&new_key, row, frames)?,
                (Table::Xattr, Some(row)) => {
                    let (len, rest) = row.split_first().ok_or_else(malformed)?;
                    let split = rest.split_at_checked(usize::from(*len));
                    let (prefix, value) = split.ok_or_else(malformed)?;
                    change.op.put_value(table, new_key.clone(), prefix, value)?;
                }
                (_, Some(row)) => change.op.put(table, new_key.clone(), row)?,
                (_, None) => change.op.delete(table, new_key.clone())?,
            }
            change.put_snapshot(space, &state)
        })?;
        self.row = state;
        Ok(())
    }

    /// Everything is here: compares what can be counted, and lets the
    /// snapshot be seen.
    pub fn finish(mut self) -> Result<Snapshot> {
        let core = &self.volume.core;
        let mut counted = Counters {
            next_ino: ROOT + 1,
            totals: Totals::default(),
            next_space: 0,
        };
        let mut from = base_of(self.space).to_be_bytes().to_vec();
        let end = base_of(self.space + 1).to_be_bytes();
        loop {
            let page = core
                .tier
                .run(|op| op.scan(Table::Inode, &from, Some(&end), PAGE))?;
            for (key, row) in &page {
                counted.count(&Inode::decode(row)?, 1);
                counted.next_ino = rows::parse_ino(key)? % SPACE + 1;
                from = [&key[..], &[0]].concat();
            }
            if page.len() < PAGE {
                break;
            }
        }
        if counted.totals != self.row.totals {
            return Err(Error::Corrupt(format!(
                "the stream should bring {:?}, but there are {:?}: send it again from the start, \
                 after `laconicfs snapshot delete` of {:?}",
                self.row.totals, counted.totals, self.row.name
            )));
        }
        self.row.state = SnapshotState::Whole;
        self.row.received = None;
        let (space, row) = (self.space, &self.row);
        self.volume.change(|change| {
            // The volume may become this one day, and then goes on behind it.
            let mut counters = change.counters()?;
            counters.next_ino = counters.next_ino.max(counted.next_ino);
            change.put_counters(&counters)?;
            change.put_snapshot(space, row)
        })?;
        core.tier.sync()?;
        Ok(Snapshot::from(&self.row))
    }

    /// Makes durable what is here so far.
    pub fn pause(&self) -> Result<()> {
        self.volume.core.tier.sync()
    }
}
