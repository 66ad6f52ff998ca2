//! The bytes of value logs: records one behind the other, each describing
//! itself (`docs/format-store.md`).

use crate::error::{Error, Result};

use super::{RECORD_HEADER, Table};

/// The format of records that this program writes, and the newest it reads.
pub const FORMAT: u8 = 1;

pub const RECORD_MAGIC: [u8; 4] = *b"\x9eLVR";

/// The longest key of an owner: what the header's field holds.
pub const KEY_MAX: usize = u16::MAX as usize;

/// What a record's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub table: Table,
    pub format: u8,
    pub key_len: usize,
    pub payload_len: u32,
    /// Of header, key and place.
    sum: u32,
    /// Of the payload.
    hash: [u8; 8],
}

/// Bytes of the header before its own checksum.
const SUMMED: usize = 12;

/// A whole record, to be written at `offset` of log `log`.
pub fn encode(log: u64, offset: u64, table: Table, key: &[u8], payload: &[u8]) -> Result<Vec<u8>> {
    let key_len = u16::try_from(key.len()).map_err(|_| Error::NameTooLong)?;
    let payload_len = u32::try_from(payload.len()).map_err(|_| Error::FileTooBig)?;
    let mut out = Vec::with_capacity(RECORD_HEADER as usize + key.len() + payload.len());
    out.extend_from_slice(&RECORD_MAGIC);
    out.push(table as u8);
    out.push(FORMAT);
    out.extend_from_slice(&key_len.to_be_bytes());
    out.extend_from_slice(&payload_len.to_be_bytes());
    let hash = payload_hash(payload);
    let sum = place_sum(log, offset, &out[..SUMMED], &hash, key);
    out.extend_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&hash);
    out.extend_from_slice(key);
    out.extend_from_slice(payload);
    Ok(out)
}

/// The header at the start of `bytes`, if it looks like one. It can be trusted
/// once [`check_key`] has agreed.
pub fn decode(bytes: &[u8]) -> Option<Header> {
    let header = bytes.get(..RECORD_HEADER as usize)?;
    if header[..4] != RECORD_MAGIC {
        return None;
    }
    let table = *Table::ALL.get(usize::from(header[4]))?;
    let mut hash = [0; 8];
    hash.copy_from_slice(&header[16..24]);
    Some(Header {
        table,
        format: header[5],
        key_len: usize::from(u16::from_be_bytes([header[6], header[7]])),
        payload_len: be32(header, 8),
        sum: be32(header, 12),
        hash,
    })
}

impl Header {
    /// Bytes of the whole record.
    pub fn record_len(&self) -> u64 {
        RECORD_HEADER + self.key_len as u64 + u64::from(self.payload_len)
    }
}

/// Whether `head` (a header and its whole key) was written as the record at
/// `offset` of log `log`.
pub fn check_key(log: u64, offset: u64, header: &Header, head: &[u8]) -> bool {
    let key = &head[RECORD_HEADER as usize..];
    header.sum == place_sum(log, offset, &head[..SUMMED], &header.hash, key)
}

pub fn check_payload(header: &Header, payload: &[u8]) -> bool {
    header.hash == payload_hash(payload)
}

/// The place is part of the sum: a record inside the payload of another, or
/// one that a disk put in the wrong place, is not taken for a record.
fn place_sum(log: u64, offset: u64, fields: &[u8], hash: &[u8; 8], key: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&log.to_be_bytes());
    sum.update(&offset.to_be_bytes());
    sum.update(fields);
    sum.update(hash);
    sum.update(key);
    sum.finalize()
}

fn payload_hash(payload: &[u8]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&blake3::hash(payload).as_bytes()[..8]);
    out
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}
