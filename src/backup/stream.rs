//! The stream that carries a snapshot to another store
//! (`docs/format-stream.md`): records, each with its own checksum.

use std::io::{ErrorKind, Read, Write};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What every stream begins with.
const MAGIC: &[u8; 16] = b"laconicfs stream";

/// The newest version that this program reads, and the one it writes.
pub const VERSION: u32 = 1;

/// Bytes of a model that one record carries.
pub const MODEL_PART: usize = 1 << 20;

/// Longest payload: a chunk of the largest size that no codec makes smaller,
/// with room.
const LONGEST: u32 = 17 << 20;

/// Bytes of a record's checksum.
const CHECK: usize = 8;

/// What a stream says of itself first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    pub name: String,
    /// The snapshot's own id, and that of the one that it builds on: 32
    /// hexadecimal digits.
    pub id: String,
    pub base: Option<String>,
    /// Seconds since 1970 and nanoseconds.
    pub created: (i64, u32),
    /// What the snapshot holds.
    pub files: u64,
    pub directories: u64,
    pub others: u64,
    pub bytes: u64,
    pub chunk_size: u32,
    /// The model that the sender codes with: its hash.
    pub model: Option<String>,
    /// Rows up to this one are left out: the receiver has them.
    pub resume: Option<Position>,
}

/// A row of a snapshot: its table, and its key with the volume's own inode
/// number. Rows are sent in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Place in the order of tables.
    pub table: u8,
    pub key: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Begin(Begin),
    /// A part of a model: the hash and the length of the whole, and the bytes.
    Model([u8; 32], u64, Vec<u8>),
    /// Name, length of the plain bytes, whether it is coded for good, frame.
    Chunk([u8; 32], u32, bool, Vec<u8>),
    Row(Position, Vec<u8>),
    /// A row that the base has and the snapshot lacks.
    Gone(Position),
    /// How many records came before.
    End(u64),
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Record::Begin(_) => 1,
            Record::Model(..) => 2,
            Record::Chunk(..) => 3,
            Record::Row(..) => 4,
            Record::Gone(_) => 5,
            Record::End(_) => 6,
        }
    }

    fn payload(&self) -> Result<Vec<u8>> {
        let position = |position: &Position| {
            let mut out = vec![position.table];
            // Keys of rows have 272 bytes at most.
            out.extend_from_slice(&(position.key.len() as u16).to_be_bytes());
            out.extend_from_slice(&position.key);
            out
        };
        Ok(match self {
            Record::Begin(begin) => serde_json::to_vec(begin)
                .map_err(|error| Error::Other(format!("writing a stream: {error}")))?,
            Record::Model(hash, total, part) => [&hash[..], &total.to_be_bytes(), part].concat(),
            Record::Chunk(name, plain, cold, frame) => {
                [&name[..], &plain.to_be_bytes(), &[u8::from(*cold)], frame].concat()
            }
            Record::Row(at, row) => [position(at), row.clone()].concat(),
            Record::Gone(at) => position(at),
            Record::End(count) => count.to_be_bytes().to_vec(),
        })
    }

    fn parse(kind: u8, payload: &[u8]) -> Option<Record> {
        fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
            let (head, rest) = bytes.split_first_chunk::<N>()?;
            *bytes = rest;
            Some(*head)
        }
        fn position(bytes: &mut &[u8]) -> Option<Position> {
            let [table] = take(bytes)?;
            let len = usize::from(u16::from_be_bytes(take(bytes)?));
            let (key, rest) = bytes.split_at_checked(len)?;
            *bytes = rest;
            let key = key.to_vec();
            Some(Position { table, key })
        }
        let mut rest = payload;
        let record = match kind {
            1 => return serde_json::from_slice(payload).ok().map(Record::Begin),
            2 => {
                let (hash, total) = (take(&mut rest)?, u64::from_be_bytes(take(&mut rest)?));
                return Some(Record::Model(hash, total, rest.to_vec()));
            }
            3 => {
                let (name, plain) = (take(&mut rest)?, u32::from_be_bytes(take(&mut rest)?));
                let [cold] = take(&mut rest)?;
                return (cold < 2).then(|| Record::Chunk(name, plain, cold == 1, rest.to_vec()));
            }
            4 => {
                let at = position(&mut rest)?;
                return Some(Record::Row(at, rest.to_vec()));
            }
            5 => Record::Gone(position(&mut rest)?),
            6 => Record::End(u64::from_be_bytes(take(&mut rest)?)),
            _ => return None,
        };
        rest.is_empty().then_some(record)
    }
}

/// The checksum of a record: of where it is as well, so that none can be
/// lost, repeated or moved.
fn check(offset: u64, kind: u8, payload: &[u8]) -> [u8; CHECK] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&offset.to_be_bytes());
    hasher.update(&[kind]);
    hasher.update(&(payload.len() as u32).to_be_bytes());
    hasher.update(payload);
    let mut check = [0; CHECK];
    hasher.finalize_xof().fill(&mut check);
    check
}

/// Writes a stream.
pub struct Writer<W> {
    out: W,
    offset: u64,
    records: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Result<Self> {
        let mut writer = Self {
            out,
            offset: 0,
            records: 0,
        };
        writer.bytes(MAGIC)?;
        writer.bytes(&VERSION.to_be_bytes())?;
        Ok(writer)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.out
            .write_all(bytes)
            .map_err(Error::io("writing the stream"))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    pub fn record(&mut self, record: &Record) -> Result<()> {
        let (kind, payload) = (record.kind(), record.payload()?);
        let check = check(self.offset, kind, &payload);
        self.bytes(&[kind])?;
        self.bytes(&(payload.len() as u32).to_be_bytes())?;
        self.bytes(&payload)?;
        self.bytes(&check)?;
        self.records += 1;
        Ok(())
    }

    /// Ends the stream; returns its length.
    pub fn end(mut self) -> Result<u64> {
        let end = Record::End(self.records);
        self.record(&end)?;
        self.out.flush().map_err(Error::io("writing the stream"))?;
        Ok(self.offset)
    }

    /// Bytes written so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// Reads a stream.
pub struct Reader<R> {
    input: R,
    offset: u64,
    records: u64,
}

impl<R: Read> Reader<R> {
    /// Reads what a stream begins with, and its first record.
    pub fn new(input: R) -> Result<(Self, Begin)> {
        let mut reader = Self {
            input,
            offset: 0,
            records: 0,
        };
        let magic: [u8; 16] = reader.take()?;
        if magic != *MAGIC {
            return Err(Error::Other(
                "this is no stream of laconicfs: `laconicfs send STORE > FILE` makes one".into(),
            ));
        }
        let version = u32::from_be_bytes(reader.take()?);
        if version > VERSION {
            return Err(Error::NewerFormat {
                what: "the stream".into(),
                found: version,
                known: VERSION,
            });
        }
        match reader.record()? {
            Record::Begin(begin) if version > 0 => Ok((reader, begin)),
            _ => Err(reader.damaged(20)),
        }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn damaged(&self, at: u64) -> Error {
        Error::Corrupt(format!(
            "the stream is damaged in the record at byte {at}; send it again"
        ))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        match self.input.read_exact(bytes) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Error::Other(format!(
                "the stream ends behind byte {}, before its end",
                self.offset
            ))),
            read => {
                read.map_err(Error::io("reading the stream"))?;
                self.offset += bytes.len() as u64;
                Ok(())
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next record, checked.
    pub fn record(&mut self) -> Result<Record> {
        let start = self.offset;
        let [kind] = self.take()?;
        let len = u32::from_be_bytes(self.take()?);
        if len > LONGEST {
            return Err(self.damaged(start));
        }
        let mut payload = vec![0; len as usize];
        self.fill(&mut payload)?;
        let sum: [u8; CHECK] = self.take()?;
        if sum != check(start, kind, &payload) {
            return Err(self.damaged(start));
        }
        let record = Record::parse(kind, &payload).ok_or_else(|| self.damaged(start))?;
        if record == Record::End(self.records) {
            return Ok(record);
        }
        if matches!(record, Record::End(_)) {
            return Err(self.damaged(start));
        }
        self.records += 1;
        Ok(record)
    }
}

impl Position {
    /// For people to copy: table and key in hexadecimal.
    pub fn token(&self) -> String {
        let key = self.key.iter().map(|byte| format!("{byte:02x}"));
        format!("{}.{}", self.table, key.collect::<String>())
    }

    /// The inverse of [`token`](Self::token).
    pub fn parse(token: &str) -> Option<Position> {
        let (table, key) = token.split_once('.')?;
        if key.len() % 2 != 0 || !key.is_ascii() {
            return None;
        }
        let key = (0..key.len() / 2)
            .map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).ok())
            .collect::<Option<Vec<u8>>>()?;
        let table = table.parse().ok()?;
        Some(Position { table, key })
    }
}
