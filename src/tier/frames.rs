//! Frames of chunks as they rest, for stores to exchange.

use crate::codec::Kind;
use crate::error::{Error, Result};
use crate::store::{ChunkId, Class, Table, ValueRef};

use super::op::{Op, Undo};
use super::rows::{self, ChunkRow, Run};
use super::{Shared, space_of};

/// A chunk as it rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub plain_len: u32,
    /// Coded as small as the codecs can, not only fast.
    pub cold: bool,
    pub bytes: Vec<u8>,
}

/// A frame that came from elsewhere and rests in a value log, for the commit
/// that counts the first row that names its chunk.
#[derive(Clone, Debug)]
pub struct Adopted {
    pub value: ValueRef,
    pub plain_len: u32,
    pub kind: Kind,
    pub class: Class,
}

/// The chunks that a row of `Cmap` names.
pub fn chunks_of_row(row: &[u8]) -> Result<Vec<ChunkId>> {
    Ok(Run::decode(row)?.names().collect())
}

/// The first bytes of the hash of the model that a frame needs.
pub fn model_of_frame(frame: &[u8]) -> Option<[u8; 4]> {
    match Kind::of(frame) {
        Ok(Kind::Mix | Kind::Lm) => frame[1..].first_chunk().copied(),
        _ => None,
    }
}

impl Shared {
    /// See [`Tier::frame`](super::Tier::frame).
    pub(super) fn frame(&self, name: &ChunkId) -> Result<Frame> {
        let mut lost = 0;
        loop {
            let row = self.store.get(Table::Chunk, &name.0)?;
            let frame = row.ok_or(Error::Stale).and_then(|row| {
                let row = ChunkRow::decode(&row)?;
                if row.lost {
                    return Err(rows::lost(name));
                }
                Ok(Frame {
                    plain_len: row.plain_len,
                    cold: row.class == Class::Cold,
                    bytes: self.store.value(&row.value)?,
                })
            });
            match frame {
                // Copied to another log meanwhile.
                Err(Error::Stale) => {
                    lost += 1;
                    self.check_lost(lost, name)?;
                }
                frame => return frame,
            }
        }
    }
}

impl Op<'_> {
    /// Puts (or, with `None`, removes) a row of `Cmap` in a space other than
    /// the volume's. `frames` are those of its chunks that the store may lack;
    /// nobody looks into them: what they do not decode to is found by readers.
    pub fn put_map(
        &mut self,
        key: &[u8],
        row: Option<&[u8]>,
        frames: &[(ChunkId, Frame)],
    ) -> Result<()> {
        self.begin_growth()?;
        if space_of(rows::parse_run_key(key)?.0) == 0 {
            return Err(Error::Invalid("this row is not the caller's to change"));
        }
        let run = match row {
            Some(row) => Run::decode(row)?,
            None => Run::default(),
        };
        for name in run.names() {
            let brought = frames.iter().any(|(of, _)| *of == name);
            if !brought && !self.knows(&name)? {
                return Err(Error::Corrupt(format!(
                    "chunk {name} is named but neither here nor brought along"
                )));
            }
        }
        for (name, frame) in frames {
            self.adopt(*name, frame)?;
        }
        self.drop_row(Table::Cmap, key)?;
        match run.is_empty() {
            true => Ok(()),
            false => self.put_copy(Table::Cmap, key.to_vec(), &run.encode()),
        }
    }

    /// Whether a chunk is in the store or on its way there.
    fn knows(&self, name: &ChunkId) -> Result<bool> {
        let layers = [Some(&self.state.pending), self.state.frozen.as_deref()];
        let coming = |layer: &super::Layer| layer.adopted.contains_key(name);
        if layers.into_iter().flatten().any(coming) || self.state.inflight.contains_key(name) {
            return Ok(true);
        }
        Ok(self.shared.store.get(Table::Chunk, &name.0)?.is_some())
    }

    fn adopt(&mut self, name: ChunkId, frame: &Frame) -> Result<()> {
        let class = match frame.cold {
            true => Class::Cold,
            false => Class::Hot,
        };
        if frame.plain_len as usize > self.shared.options.chunk_size {
            return Err(Error::Corrupt(format!("chunk {name} is too long")));
        }
        let kind = Kind::of(&frame.bytes)?;
        let store = &*self.shared.store;
        let value = (self.shared.ledger.lock()).append(
            store,
            class,
            Table::Chunk,
            &name.0,
            &frame.bytes,
        )?;
        if let ValueRef::Log { log, .. } = value {
            self.state.pending.appended.push(log);
            self.undo.push(Undo::Appended(log));
        }
        let adopted = Adopted {
            value,
            plain_len: frame.plain_len,
            kind,
            class,
        };
        let before = self.state.pending.adopted.insert(name, adopted);
        self.undo.push(Undo::Adopted(name, before));
        Ok(())
    }
}
