//! The store: atomic batches of key-value rows over a few tables, and values
//! too large for a row.
//!
//! Everything above this room sees only the [`Store`] trait. [`MemoryStore`]
//! serves tests and [`SledStore`] serves users; [`FaultyStore`] wraps either and
//! fails where a test tells it to. One conformance test runs over all of them.
//! [`StoreDir`] is the directory in which a user's store rests.

mod checkpoint;
mod database;
mod digest;
mod directory;
mod durable;
mod faulty;
mod files;
mod frame;
mod journal;
mod memory;
mod rebuild;
mod record;
mod recover;
mod refresh;
mod seal;
mod sled;
mod survey;
#[cfg(test)]
mod tests;
mod vlog;

use std::fmt;

pub use directory::{Properties, StoreDir, Superblock};
pub use faulty::{Call, Fault, FaultyStore};
pub use memory::MemoryStore;
pub use sled::{Access, SledStore};

use crate::error::Result;

/// The name of a chunk: the BLAKE3 hash of its plain bytes.
///
/// Equal chunks have equal names, so each is stored once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    pub fn of(plain: &[u8]) -> Self {
        Self(*blake3::hash(plain).as_bytes())
    }
}

impl fmt::Display for ChunkId {
    /// The first eight bytes in hexadecimal: enough to find a chunk in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The tables of a store. Their numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// Counters and the like, by name.
    Meta = 0,
    /// Inode number -> attributes.
    Inode = 1,
    /// Parent inode ++ name hash ++ name -> inode and kind.
    Dirent = 2,
    /// Inode ++ run of chunks -> chunk names.
    Cmap = 3,
    /// Chunk name -> where and how it rests, reference count.
    Chunk = 4,
    /// Queue of the drain: commit time ++ chunk name.
    Pend = 5,
    /// Inodes without a name that wait to be freed.
    Orphan = 6,
    /// Inode ++ attribute name -> value.
    Xattr = 7,
    /// Value log -> its live bytes.
    Log = 8,
    /// Inode ++ index of a chunk -> what was written into it lately.
    Patch = 9,
}

impl Table {
    pub const ALL: [Table; 10] = [
        Table::Meta,
        Table::Inode,
        Table::Dirent,
        Table::Cmap,
        Table::Chunk,
        Table::Pend,
        Table::Orphan,
        Table::Xattr,
        Table::Log,
        Table::Patch,
    ];
}

pub type Row = (Vec<u8>, Vec<u8>);

/// Changes that become durable together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In order; `None` deletes. A later change to the same key wins.
    pub changes: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), Some(value.into())));
    }

    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), None));
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Which logs a value belongs to. Hot and cold values rest in separate files,
/// so that hot ones die whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    Hot = 0,
    Cold = 1,
}

/// Where a value rests. Part of the rows that own it; encoded by
/// [`ValueRef::encode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueRef {
    /// At most the store's inline threshold: the bytes are in the row itself.
    Inline(Vec<u8>),
    /// In a value log: `offset` is where its record begins, `len` the
    /// payload's length.
    Log { log: u64, offset: u64, len: u32 },
}

/// Length of a record's header in a value log, and so what a logged value
/// costs beside its payload and owner key.
pub const RECORD_HEADER: u64 = 24;

/// A value log as the file system sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogInfo {
    pub log: u64,
    pub class: Class,
    /// Bytes of the file.
    pub bytes: u64,
    /// No longer appended to, and so may be collected.
    pub sealed: bool,
}

/// A record found by walking a log: who owned it, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    pub owner_table: Table,
    pub owner_key: Vec<u8>,
    pub value: ValueRef,
}

/// What the store takes on disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Space {
    /// Blocks that the database's files hold.
    pub database: u64,
    /// Blocks that the value logs hold.
    pub logs: u64,
    /// Blocks that models, superblock and the rest hold.
    pub other: u64,
    /// Bytes that the disk has left for this store (statvfs `f_bavail`).
    pub available: u64,
    /// Free bytes of the disk, those that only root may take included.
    pub free: u64,
    /// Size of the disk.
    pub capacity: u64,
}

/// Atomic batches over tables, and values beside them.
///
/// All methods may be called from any thread. Keys are compared as bytes.
pub trait Store: Send + Sync {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// At most `limit` rows with `start <= key` and, where `end` is given,
    /// `key < end`, in the order of their keys.
    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>>;

    /// Makes every value appended so far durable, then applies `batch`
    /// atomically, and returns when it would survive a power cut.
    ///
    /// After an error the batch is applied wholly or not at all, and the
    /// store may still be read; callers stop writing and report it.
    fn commit(&self, batch: Batch) -> Result<()>;

    /// Appends a value for the row `owner_key` of `owner_table`. It can be
    /// read at once and lasts once a commit has put the reference in a row.
    /// Values up to the inline threshold come back as [`ValueRef::Inline`].
    fn append(
        &self,
        class: Class,
        owner_table: Table,
        owner_key: &[u8],
        payload: &[u8],
    ) -> Result<ValueRef>;

    /// The payload, checked against the record's checksum.
    /// [`Error::Stale`](crate::Error::Stale) when its log has been removed.
    fn value(&self, value: &ValueRef) -> Result<Vec<u8>>;

    /// All value logs, by number.
    fn logs(&self) -> Result<Vec<LogInfo>>;

    /// Calls `each` for the readable records of a log, in their order, and
    /// returns how many bytes could not be read.
    fn walk_log(&self, log: u64, each: &mut dyn FnMut(LogRecord) -> Result<()>) -> Result<u64>;

    /// Ends the log that is appended to, so that it may be collected.
    fn seal_logs(&self) -> Result<()>;

    /// Deletes a sealed log. The caller has committed that nothing refers to it.
    fn remove_log(&self, log: u64) -> Result<()>;

    fn space(&self) -> Result<Space>;
}

impl ValueRef {
    /// Bytes on disk that this value holds in its log (0 when inline), given
    /// the length of its owner's key.
    pub fn log_bytes(&self, owner_key_len: usize) -> u64 {
        match self {
            ValueRef::Inline(_) => 0,
            ValueRef::Log { len, .. } => RECORD_HEADER + owner_key_len as u64 + u64::from(*len),
        }
    }

    /// `00 payload...` inline, or `01 log:u64 offset:u64 len:u32`, big endian.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            ValueRef::Inline(payload) => {
                out.push(0);
                out.extend_from_slice(payload);
            }
            ValueRef::Log { log, offset, len } => {
                out.push(1);
                out.extend_from_slice(&log.to_be_bytes());
                out.extend_from_slice(&offset.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
            }
        }
    }

    /// The inverse of [`encode`](Self::encode); `bytes` is the rest of the row.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        match bytes {
            [0, payload @ ..] => Ok(ValueRef::Inline(payload.to_vec())),
            [1, rest @ ..] if rest.len() == 20 => {
                let word = |at: usize| {
                    let mut b = [0; 8];
                    b.copy_from_slice(&rest[at..at + 8]);
                    u64::from_be_bytes(b)
                };
                Ok(ValueRef::Log {
                    log: word(0),
                    offset: word(8),
                    len: u32::from_be_bytes([rest[16], rest[17], rest[18], rest[19]]),
                })
            }
            _ => Err(crate::Error::Corrupt(
                "a value reference is malformed".into(),
            )),
        }
    }
}
