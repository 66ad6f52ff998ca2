//! The rows that the tier keeps: what their bytes mean (`docs/format.md`).

use std::collections::BTreeMap;

use crate::codec::{Kind, ModelId, Policy};
use crate::error::{Error, Result};
use crate::store::{ChunkId, Class, ValueRef};

/// Chunks that one `Cmap` row names. A row of a full run takes about a
/// kilobyte; shorter ones would cost a database row for every few chunks.
pub const RUN: u64 = 32;

/// Name of the `Meta` row that holds [`Counters`].
pub const COUNTERS: &[u8] = b"t.counters";

/// Name of the `Meta` row that holds the number of the last commit.
pub const EPOCH: &[u8] = b"t.epoch";

/// The newest version of a chunk row, and the one of a row without a model.
const CHUNK_VERSION: u8 = 2;
const CHUNK_WITHOUT_MODEL: u8 = 1;

/// Bits of a chunk row's flags that hold the policy.
const POLICY_SHIFT: u32 = 1;
const POLICY_BITS: u8 = 0x07 << POLICY_SHIFT;
const COUNTERS_VERSION: u8 = 1;

/// Reads big-endian numbers from the front of a row.
struct Cursor<'a>(&'a [u8], &'static str);

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.0.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.0 = rest;
                Ok(*head)
            }
            None => Err(Error::Corrupt(format!("{} is too short", self.1))),
        }
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.take::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.take()?))
    }
}

fn class_of(byte: u8) -> Result<Class> {
    match byte {
        0 => Ok(Class::Hot),
        1 => Ok(Class::Cold),
        other => Err(Error::Corrupt(format!("unknown tier {other} in a row"))),
    }
}

/// How and where a chunk rests: the row of `Chunk` under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRow {
    /// The bytes are gone, and a repair has noted that: reading them is an
    /// error. Has an empty inline value.
    pub lost: bool,
    /// Length of the plain bytes.
    pub plain_len: u32,
    /// How many slots of `Cmap` rows name this chunk.
    pub refs: u64,
    /// When it entered the hot tier: milliseconds since 1970.
    pub time: u64,
    pub kind: Kind,
    pub class: Class,
    /// How it may be coded.
    pub policy: Policy,
    /// The model that was tried when it was coded cold, whatever codec won.
    pub model: Option<ModelId>,
    /// The chunk's frame.
    pub value: ValueRef,
}

impl ChunkRow {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        let version = match self.model {
            Some(_) => CHUNK_VERSION,
            None => CHUNK_WITHOUT_MODEL,
        };
        let flags = u8::from(self.lost) | (self.policy as u8) << POLICY_SHIFT;
        out.extend_from_slice(&[version, flags]);
        out.extend_from_slice(&self.plain_len.to_be_bytes());
        out.extend_from_slice(&self.refs.to_be_bytes());
        out.extend_from_slice(&self.time.to_be_bytes());
        out.extend_from_slice(&[self.kind as u8, self.class as u8]);
        out.extend(self.model.iter().flatten());
        self.value.encode(&mut out);
        out
    }

    pub fn decode(row: &[u8]) -> Result<Self> {
        let mut row = Cursor(row, "a chunk row");
        let version = row.u8()?;
        if !(CHUNK_WITHOUT_MODEL..=CHUNK_VERSION).contains(&version) {
            return Err(Error::NewerFormat {
                what: "a chunk row".into(),
                found: version.into(),
                known: CHUNK_VERSION.into(),
            });
        }
        let flags = row.u8()?;
        let policy = (flags & POLICY_BITS) >> POLICY_SHIFT;
        Ok(Self {
            lost: flags & 1 != 0,
            // An unknown policy bounds nobody who reads.
            policy: Policy::from_code(policy).unwrap_or_default(),
            plain_len: row.u32()?,
            refs: row.u64()?,
            time: row.u64()?,
            kind: Kind::of(&[row.u8()?])?,
            class: class_of(row.u8()?)?,
            model: match version {
                CHUNK_WITHOUT_MODEL => None,
                _ => Some(row.take()?),
            },
            value: ValueRef::decode(row.0)?,
        })
    }

    /// Bytes that the frame takes, wherever it rests.
    pub fn stored_len(&self) -> u64 {
        match &self.value {
            ValueRef::Inline(frame) => frame.len() as u64,
            ValueRef::Log { len, .. } => u64::from(*len),
        }
    }
}

/// The error of reading a chunk that a repair has given up.
pub fn lost(name: &ChunkId) -> Error {
    Error::Corrupt(format!(
        "chunk {name} was lost to damage of the store; writing these bytes anew makes it good"
    ))
}

/// The chunk names of one run of a file: the row of `Cmap`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    slots: [Option<ChunkId>; RUN as usize],
}

impl Run {
    /// The chunk in slot `index % RUN`.
    pub fn get(&self, index: u64) -> Option<ChunkId> {
        self.slots[(index % RUN) as usize]
    }

    /// Names the chunk in slot `index % RUN`; returns what was there.
    pub fn set(&mut self, index: u64, name: Option<ChunkId>) -> Option<ChunkId> {
        std::mem::replace(&mut self.slots[(index % RUN) as usize], name)
    }

    pub fn names(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.slots.iter().flatten().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// A bit map of the slots that are taken (the first in the lowest bit),
    /// then their names.
    pub fn encode(&self) -> Vec<u8> {
        let mut taken = 0u32;
        for (at, slot) in self.slots.iter().enumerate() {
            taken |= u32::from(slot.is_some()) << at;
        }
        let mut out = Vec::with_capacity(4 + 32 * taken.count_ones() as usize);
        out.extend_from_slice(&taken.to_be_bytes());
        for name in self.names() {
            out.extend_from_slice(&name.0);
        }
        out
    }

    pub fn decode(row: &[u8]) -> Result<Self> {
        let mut row = Cursor(row, "a chunk map row");
        let taken = row.u32()?;
        let mut run = Run::default();
        for (at, slot) in run.slots.iter_mut().enumerate() {
            if taken >> at & 1 == 1 {
                *slot = Some(ChunkId(row.take()?));
            }
        }
        if !row.0.is_empty() {
            return Err(Error::Corrupt("a chunk map row is too long".into()));
        }
        Ok(run)
    }
}

/// The run that chunk `index` of a file belongs to.
pub fn run_of(index: u64) -> u64 {
    index / RUN
}

/// Key of the `Cmap` row of `run` (chunks `run * RUN ..`) of inode `ino`. Keys
/// sort like runs: those whose number does not fit in 32 bits, far out in
/// sparse files, come behind the last one that does.
pub fn run_key(ino: u64, run: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(20);
    key.extend_from_slice(&ino.to_be_bytes());
    match u32::try_from(run) {
        Ok(short) => key.extend_from_slice(&short.to_be_bytes()),
        Err(_) => {
            key.extend_from_slice(&u32::MAX.to_be_bytes());
            key.extend_from_slice(&run.to_be_bytes());
        }
    }
    key
}

/// Where the `Cmap` rows of an inode end.
pub fn runs_end(ino: u64) -> Option<Vec<u8>> {
    ino.checked_add(1).map(|next| next.to_be_bytes().to_vec())
}

/// The inverse of [`run_key`].
pub fn parse_run_key(key: &[u8]) -> Result<(u64, u64)> {
    let mut key = Cursor(key, "a chunk map key");
    let (ino, short) = (key.u64()?, key.u32()?);
    if key.0.is_empty() {
        return Ok((ino, short.into()));
    }
    let run = key.u64()?;
    match key.0.is_empty() && short == u32::MAX && run > u32::MAX.into() {
        true => Ok((ino, run)),
        false => Err(Error::Corrupt("a chunk map key is malformed".into())),
    }
}

/// Key of a `Pend` row: chunks wait for the drain in the order of their commits.
pub fn pend_key(time: u64, name: &ChunkId) -> [u8; 40] {
    let mut key = [0; 40];
    key[..8].copy_from_slice(&time.to_be_bytes());
    key[8..].copy_from_slice(&name.0);
    key
}

/// The inverse of [`pend_key`].
pub fn parse_pend_key(key: &[u8]) -> Result<(u64, ChunkId)> {
    let mut key = Cursor(key, "a queue key");
    Ok((key.u64()?, ChunkId(key.take()?)))
}

/// A `u64` alone in a row or key: the rows of `Log`.
pub fn parse_u64(row: &[u8]) -> Result<u64> {
    Cursor(row, "a number").u64()
}

/// The number of the last commit. One that no store can have reached is damage:
/// the next ones would overflow.
pub fn parse_epoch(row: &[u8]) -> Result<u64> {
    let epoch = parse_u64(row)?;
    match epoch < 1 << 62 {
        true => Ok(epoch),
        false => Err(Error::Corrupt(format!("commit {epoch} cannot be the last"))),
    }
}

/// An `Xattr` row whose payload may rest in a value log: the length of the
/// prefix, the prefix (the caller's own), the value reference.
pub fn valued_row(prefix: &[u8], value: &ValueRef) -> Result<Vec<u8>> {
    let len = u8::try_from(prefix.len())
        .map_err(|_| Error::Invalid("a row's prefix is longer than 255 bytes"))?;
    let mut row = vec![len];
    row.extend_from_slice(prefix);
    value.encode(&mut row);
    Ok(row)
}

/// The inverse of [`valued_row`].
pub fn parse_valued_row(row: &[u8]) -> Result<(&[u8], ValueRef)> {
    let damaged = || Error::Corrupt("an attribute's row is too short".into());
    let (len, rest) = row.split_first().ok_or_else(damaged)?;
    let (prefix, value) = rest
        .split_at_checked(usize::from(*len))
        .ok_or_else(damaged)?;
    Ok((prefix, ValueRef::decode(value)?))
}

/// Chunks of one tier and codec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub chunks: u64,
    /// Their plain bytes.
    pub plain: u64,
    /// The bytes of their frames.
    pub stored: u64,
}

/// What the store holds, kept up to date by every commit so that nobody has
/// to count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By tier and codec. Without empty ones.
    pub chunks: BTreeMap<(u8, u8), Count>,
    /// Slots of `Cmap` rows that name a chunk, and the plain bytes behind them:
    /// what the store would hold if equal chunks were kept twice.
    pub refs: u64,
    pub refs_plain: u64,
}

impl Counters {
    /// Counts a row in.
    pub fn add(&mut self, row: &ChunkRow) {
        let count = self
            .chunks
            .entry((row.class as u8, row.kind as u8))
            .or_default();
        count.chunks = count.chunks.wrapping_add(1);
        count.plain = count.plain.wrapping_add(row.plain_len.into());
        count.stored = count.stored.wrapping_add(row.stored_len());
        self.refs = self.refs.wrapping_add(row.refs);
        let referred = row.refs.wrapping_mul(row.plain_len.into());
        self.refs_plain = self.refs_plain.wrapping_add(referred);
    }

    /// Counts a row out.
    pub fn remove(&mut self, row: &ChunkRow) {
        // Wrapping and not saturating: if the counters were ever wrong, the
        // error must not change while rows come and go, so that a check can
        // see and correct it.
        let key = (row.class as u8, row.kind as u8);
        let count = self.chunks.entry(key).or_default();
        count.chunks = count.chunks.wrapping_sub(1);
        count.plain = count.plain.wrapping_sub(row.plain_len.into());
        count.stored = count.stored.wrapping_sub(row.stored_len());
        if *count == Count::default() {
            self.chunks.remove(&key);
        }
        self.refs = self.refs.wrapping_sub(row.refs);
        let referred = row.refs.wrapping_mul(row.plain_len.into());
        self.refs_plain = self.refs_plain.wrapping_sub(referred);
    }

    /// All chunks of one tier.
    pub fn class(&self, class: Class) -> Count {
        let mut sum = Count::default();
        for ((of, _), count) in &self.chunks {
            if *of == class as u8 {
                sum.chunks = sum.chunks.wrapping_add(count.chunks);
                sum.plain = sum.plain.wrapping_add(count.plain);
                sum.stored = sum.stored.wrapping_add(count.stored);
            }
        }
        sum
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![COUNTERS_VERSION];
        out.extend_from_slice(&self.refs.to_be_bytes());
        out.extend_from_slice(&self.refs_plain.to_be_bytes());
        for ((class, kind), count) in &self.chunks {
            out.extend_from_slice(&[*class, *kind]);
            for number in [count.chunks, count.plain, count.stored] {
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
        out
    }

    pub fn decode(row: &[u8]) -> Result<Self> {
        let mut row = Cursor(row, "the row of counters");
        let version = row.u8()?;
        if version != COUNTERS_VERSION {
            return Err(Error::NewerFormat {
                what: "the row of counters".into(),
                found: version.into(),
                known: COUNTERS_VERSION.into(),
            });
        }
        let mut counters = Counters {
            chunks: BTreeMap::new(),
            refs: row.u64()?,
            refs_plain: row.u64()?,
        };
        while !row.0.is_empty() {
            let key = (row.u8()?, row.u8()?);
            let count = Count {
                chunks: row.u64()?,
                plain: row.u64()?,
                stored: row.u64()?,
            };
            counters.chunks.insert(key, count);
        }
        Ok(counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_their_encoding() {
        let row = ChunkRow {
            lost: false,
            plain_len: 7,
            refs: 3,
            time: 1 << 40,
            kind: Kind::Zstd,
            class: Class::Cold,
            policy: Policy::Mix,
            model: Some([9, 8, 7, 6]),
            value: ValueRef::Log {
                log: 1,
                offset: 2,
                len: 3,
            },
        };
        assert_eq!(ChunkRow::decode(&row.encode()).unwrap(), row);
        let without = ChunkRow {
            model: None,
            ..row.clone()
        };
        assert_eq!(ChunkRow::decode(&without.encode()).unwrap(), without);
        // What was written before there were policies.
        let mut first = without.encode();
        assert_eq!(first[..2], [1, 4]);
        first[1] = 0;
        assert_eq!(ChunkRow::decode(&first).unwrap().policy, Policy::Auto);
        first[0] = 3;
        assert!(matches!(
            ChunkRow::decode(&first),
            Err(Error::NewerFormat { found: 3, .. })
        ));
        let lost = ChunkRow {
            lost: true,
            ..row.clone()
        };
        assert_eq!(ChunkRow::decode(&lost.encode()).unwrap(), lost);
        let mut run = Run::default();
        run.set(0, Some(ChunkId([1; 32])));
        run.set(RUN * 5 + 31, Some(ChunkId([2; 32])));
        assert_eq!(Run::decode(&run.encode()).unwrap(), run);
        assert_eq!(run.encode()[..4], [0x80, 0, 0, 1]);
        let mut counters = Counters::default();
        counters.add(&row);
        assert_eq!(Counters::decode(&counters.encode()).unwrap(), counters);
        counters.remove(&row);
        assert_eq!(counters, Counters::default());
    }

    #[test]
    fn keys_of_runs_sort_like_runs() {
        let short = u64::from(u32::MAX);
        let mut runs = vec![0, 1, 255, 256, short - 1, short, short + 1];
        runs.extend([1 << 40, u64::MAX / RUN]);
        let keys: Vec<_> = runs.iter().map(|run| run_key(7, *run)).collect();
        assert!(keys.is_sorted());
        assert!(*keys.last().unwrap() < runs_end(7).unwrap());
        for (key, run) in keys.iter().zip(runs) {
            assert_eq!(parse_run_key(key).unwrap(), (7, run));
        }
        assert_eq!(keys[1], [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1]);
        assert_eq!(keys[6][8..], [255, 255, 255, 255, 0, 0, 0, 1, 0, 0, 0, 0]);
        let bare = [&keys[1][..], &[0; 8]].concat();
        for bad in [&bare[..], &keys[6][..19], &keys[1][..11]] {
            assert!(parse_run_key(bad).is_err());
        }
    }

    #[test]
    fn damaged_rows_are_errors() {
        let row = ChunkRow {
            lost: false,
            plain_len: 7,
            refs: 3,
            time: 0,
            kind: Kind::Raw,
            class: Class::Hot,
            policy: Policy::Auto,
            model: None,
            value: ValueRef::Inline(vec![0, 1]),
        };
        for len in 0..24 {
            assert!(ChunkRow::decode(&row.encode()[..len]).is_err());
        }
        assert!(Run::decode(&[0, 0, 0, 1, 5]).is_err());
        assert!(Run::decode(&[0, 0, 0, 0, 5]).is_err());
        assert!(Counters::decode(&[1, 2]).is_err());
        assert!(parse_valued_row(&[3, 1]).is_err());
        assert!(parse_valued_row(&[]).is_err());
    }
}
