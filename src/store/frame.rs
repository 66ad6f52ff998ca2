//! The records of the journal (`docs/format-store.md`): every one describes
//! itself, knows its place, and carries its hash.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::digest::{STAMP, Stamp};
use super::{Batch, Row, Table};
use crate::error::{Error, Result};

/// The format of frames that this program writes, and the newest it reads.
pub const FORMAT: u8 = 1;

pub const MAGIC: [u8; 4] = *b"\x9eLJN";

pub const HEADER: usize = 40;

/// Bytes of the header before its hash.
const HASHED: usize = 24;

/// Larger plain bodies are never written; a limit for readers of damage.
const PLAIN_MAX: u32 = 1 << 30;

/// Bytes read at a time when searching for the next frame.
const WINDOW: usize = 256 << 10;

/// Length of a deleted row's value.
const DELETED: u16 = u16::MAX;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The changes of one commit.
    Commit = 1,
    /// Rows of a checkpoint.
    Rows = 2,
    /// The end of a checkpoint.
    End = 3,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Kind::Commit, Kind::Rows, Kind::End]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The file that a frame is in: part of its hash, so that a frame is only one
/// where it was written.
#[derive(Clone, Debug)]
pub struct Place {
    /// The store's id.
    pub uuid: String,
    /// The kind of file, as the end of its name.
    pub extension: &'static str,
    /// The number in its name.
    pub base: u64,
}

impl Place {
    fn hash(&self, offset: u64, header: &[u8], body: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.uuid.as_bytes());
        hasher.update(self.extension.as_bytes());
        hasher.update(&self.base.to_be_bytes());
        hasher.update(&offset.to_be_bytes());
        hasher.update(header);
        hasher.update(body);
        let mut out = [0; 16];
        out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        out
    }

    /// A whole frame, to be written at `offset`. `body` is compressed already.
    pub fn frame(
        &self,
        offset: u64,
        kind: Kind,
        number: u64,
        plain: usize,
        body: &[u8],
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + body.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[FORMAT, kind as u8, 0, 0]);
        // Bodies are far below these limits.
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(&(plain as u32).to_be_bytes());
        out.extend_from_slice(&number.to_be_bytes());
        let hash = self.hash(offset, &out, body);
        out.extend_from_slice(&hash);
        out.extend_from_slice(body);
        out
    }
}

/// A frame that was read and is what was written.
pub struct Frame {
    pub kind: Kind,
    /// Of a commit its epoch, of rows their ordinal, of an end the rows' number.
    pub number: u64,
    /// Bytes of the whole frame.
    pub len: u64,
    plain: usize,
    body: Vec<u8>,
}

impl Frame {
    /// The body as it was before compression.
    pub fn body(&self) -> Result<Vec<u8>> {
        let damaged = |_| Error::Corrupt("the journal holds a record that cannot be read".into());
        let body = zstd::bulk::decompress(&self.body, self.plain).map_err(damaged)?;
        match body.len() == self.plain {
            true => Ok(body),
            false => Err(damaged(io::Error::other("its length"))),
        }
    }
}

/// Reads the frames of one file, one after the other.
pub struct Frames<'a> {
    file: &'a File,
    place: Place,
    size: u64,
    pub offset: u64,
}

impl<'a> Frames<'a> {
    pub fn new(file: &'a File, place: Place) -> Result<Self> {
        let found = file
            .metadata()
            .map_err(Error::io("looking at the journal"))?;
        Ok(Self {
            file,
            place,
            size: found.len(),
            offset: 0,
        })
    }

    /// Bytes behind the last frame read.
    pub fn left(&self) -> u64 {
        self.size.saturating_sub(self.offset)
    }

    /// The frame at `offset`, which moves behind it; `None` where there is none.
    pub fn next(&mut self) -> Result<Option<Frame>> {
        let frame = self.read(self.offset)?;
        if let Some(frame) = &frame {
            self.offset += frame.len;
        }
        Ok(frame)
    }

    /// The next frame behind something that is none, wherever it begins.
    pub fn skip(&mut self) -> Result<Option<Frame>> {
        let mut at = self.offset + 1;
        let mut window = vec![0; WINDOW];
        while at + (HEADER as u64) <= self.size {
            let len = (WINDOW as u64).min(self.size - at) as usize;
            if self.file.read_exact_at(&mut window[..len], at).is_err() {
                at += 4096; // The disk may read what follows.
                continue;
            }
            let starts = window[..len].windows(4).enumerate();
            for (start, _) in starts.filter(|(_, bytes)| *bytes == MAGIC) {
                let offset = at + start as u64;
                if let Some(frame) = self.read(offset)? {
                    self.offset = offset + frame.len;
                    return Ok(Some(frame));
                }
            }
            at += len.saturating_sub(3).max(1) as u64;
        }
        self.offset = self.size;
        Ok(None)
    }

    fn read(&self, offset: u64) -> Result<Option<Frame>> {
        let left = self.size.saturating_sub(offset);
        if left < HEADER as u64 {
            return Ok(None);
        }
        let mut header = [0; HEADER];
        if self.file.read_exact_at(&mut header, offset).is_err() || header[..4] != MAGIC {
            return Ok(None);
        }
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| header[at + i]));
        let (len, plain) = (word(8), word(12));
        if u64::from(len) > left - HEADER as u64 || plain > PLAIN_MAX {
            return Ok(None);
        }
        let mut body = vec![0; len as usize];
        if self
            .file
            .read_exact_at(&mut body, offset + HEADER as u64)
            .is_err()
        {
            return Ok(None);
        }
        if self.place.hash(offset, &header[..HASHED], &body) != header[HASHED..] {
            return Ok(None);
        }
        let newer = |found: u8| Error::NewerFormat {
            what: "the store's journal".into(),
            found: found.into(),
            known: FORMAT.into(),
        };
        if header[4] > FORMAT {
            return Err(newer(header[4]));
        }
        let kind = Kind::of(header[5]).ok_or_else(|| newer(FORMAT + 1))?;
        let mut number = [0; 8];
        number.copy_from_slice(&header[16..24]);
        Ok(Some(Frame {
            kind,
            number: u64::from_be_bytes(number),
            len: HEADER as u64 + u64::from(len),
            plain: plain as usize,
            body,
        }))
    }
}

/// The body of a commit: what the rows are then, and what changes.
pub fn encode_commit(stamp: Stamp, batch: &Batch) -> Vec<u8> {
    let mut out = stamp.encode().to_vec();
    for (table, key, value) in &batch.changes {
        encode_row(&mut out, *table, key, value.as_deref());
    }
    out
}

/// The inverse of [`encode_commit`].
pub fn decode_commit(body: &[u8]) -> Result<(Stamp, Batch)> {
    let (stamp, rows) = body.split_at_checked(STAMP).ok_or_else(malformed)?;
    let stamp = Stamp::decode(stamp).ok_or_else(malformed)?;
    let mut batch = Batch::default();
    decode_rows(rows, |table, key, value| {
        let value = value.map(<[u8]>::to_vec);
        batch.changes.push((table, key.to_vec(), value));
    })?;
    Ok((stamp, batch))
}

/// Only the stamp of a commit.
pub fn commit_stamp(body: &[u8]) -> Result<Stamp> {
    let stamp = body.get(..STAMP).and_then(Stamp::decode);
    stamp.ok_or_else(malformed)
}

/// `u8` table, `u16` length of the key, `u16` length of the value (65535: the
/// row is deleted), the key, the value.
pub fn encode_row(out: &mut Vec<u8>, table: Table, key: &[u8], value: Option<&[u8]>) {
    // A row takes 6 KiB at most.
    let len = value.map_or(DELETED, |value| value.len() as u16);
    out.push(table as u8);
    out.extend_from_slice(&(key.len() as u16).to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value.unwrap_or(&[]));
}

fn decode_rows(mut body: &[u8], mut each: impl FnMut(Table, &[u8], Option<&[u8]>)) -> Result<()> {
    while let Some((head, rest)) = body.split_first_chunk::<5>() {
        let table = Table::ALL.get(usize::from(head[0]));
        let key = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let value = match u16::from_be_bytes([head[3], head[4]]) {
            DELETED => None,
            len => Some(usize::from(len)),
        };
        let (key, rest) = rest.split_at_checked(key).ok_or_else(malformed)?;
        let split = rest.split_at_checked(value.unwrap_or(0));
        let (bytes, rest) = split.ok_or_else(malformed)?;
        each(*table.ok_or_else(malformed)?, key, value.map(|_| bytes));
        body = rest;
    }
    match body.is_empty() {
        true => Ok(()),
        false => Err(malformed()),
    }
}

/// The rows of a checkpoint's block.
pub fn decode_block(body: &[u8]) -> Result<Vec<(Table, Row)>> {
    let mut rows = Vec::new();
    decode_rows(body, |table, key, value| {
        rows.push((table, (key.to_vec(), value.unwrap_or(&[]).to_vec())));
    })?;
    Ok(rows)
}

fn malformed() -> Error {
    Error::Corrupt("the journal holds a record that is malformed".into())
}
