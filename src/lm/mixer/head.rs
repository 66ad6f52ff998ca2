//! The head of a payload: what both sides of a chunk must know before its
//! first token.

use super::tables::hash;
use super::{MAX_LANES, Version};
use crate::error::{Error, Result};

/// The longest stride, in bytes.
const MAX_STRIDE: usize = 2048;

/// What a payload says before its first token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub version: Version,
    pub tokens: usize,
    /// From 1 to [`MAX_LANES`], and at most `tokens`.
    pub lanes: usize,
    /// Bytes of a record, if the chunk seems to consist of records of one
    /// length; 0 if not, and always in version 0.
    pub stride: usize,
}

/// Lengths of the lanes of a chunk of so many tokens.
pub fn lane_lengths(tokens: usize, lanes: usize) -> impl Iterator<Item = usize> {
    (0..lanes).map(move |l| tokens / lanes + usize::from(l < tokens % lanes))
}

impl Head {
    /// Of a chunk that consists of so many tokens.
    pub fn new(version: Version, plain: &[u8], tokens: usize, lanes: usize) -> Self {
        let stride = match version {
            Version::V0 => 0,
            Version::V1 => stride(plain),
        };
        Head {
            version,
            tokens,
            lanes,
            stride,
        }
    }

    /// Lengths of the lanes, in tokens; later ones are never longer.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + use<> {
        lane_lengths(self.tokens, self.lanes)
    }

    /// The beginning of the payload.
    pub fn put(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.tokens);
        if self.tokens > 0 {
            put_varint(&mut out, self.lanes);
            if self.version == Version::V1 {
                put_varint(&mut out, self.stride);
            }
        }
        out
    }

    /// Reads it, and returns what the coder wrote after it; `None` for the
    /// empty chunk.
    pub fn take(
        version: Version,
        payload: &[u8],
        plain_len: usize,
    ) -> Result<Option<(Head, &[u8])>> {
        let mut rest = payload;
        let mut number = || take_varint(&mut rest).ok_or_else(|| corrupt("ends in its head"));
        let tokens = number()?;
        if tokens > plain_len || (tokens == 0) != (plain_len == 0) {
            return Err(corrupt("cannot have so many tokens"));
        }
        if tokens == 0 {
            return match rest.is_empty() {
                true => Ok(None),
                false => Err(corrupt("has bytes after its end")),
            };
        }
        let lanes = number()?;
        if lanes == 0 || lanes > MAX_LANES || lanes > tokens {
            return Err(corrupt("cannot have so many lanes"));
        }
        let stride = match version {
            Version::V0 => 0,
            Version::V1 => number()?,
        };
        if stride > MAX_STRIDE {
            return Err(corrupt("cannot have such long records"));
        }
        let head = Head {
            version,
            tokens,
            lanes,
            stride,
        };
        Ok(Some((head, rest)))
    }
}

/// The distance at which three bytes most often come again, if that happens
/// often enough to mean records; 0 if not.
fn stride(plain: &[u8]) -> usize {
    let mut last = vec![0; 1 << 16];
    let mut seen = vec![0; MAX_STRIDE + 1];
    for (at, bytes) in plain.windows(3).enumerate() {
        let three = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
        let before = std::mem::replace(&mut last[(hash(three, 1) >> 16) as usize], at + 1);
        let distance = at + 1 - before;
        if before > 0 && distance > 1 && distance <= MAX_STRIDE {
            seen[distance] += 1;
        }
    }
    let most = seen.iter().enumerate().max_by_key(|&(_, &count)| count);
    match most {
        Some((distance, &count)) if count * OFTEN > plain.len() => distance,
        _ => 0,
    }
}

/// A stride is one if it explains one in so many bytes.
const OFTEN: usize = 16;

pub(super) fn corrupt(what: &str) -> Error {
    Error::Corrupt(format!("a modelled chunk {what}"))
}

/// Appends a number, seven bits a byte, lowest first; the top bit says that
/// more follow.
fn put_varint(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Takes a number of at most 35 bits, in as few bytes as it needs.
fn take_varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut n = 0u64;
    for i in 0..5 {
        let (&b, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(b & 0x7f) << (7 * i);
        if b < 0x80 {
            let shortest = i == 0 || b != 0;
            return usize::try_from(n).ok().filter(|_| shortest);
        }
    }
    None
}
