//! What chunks start with: trained, and part of the model's file.

use std::sync::Arc;

use super::{Version, v0, v1};
use crate::error::{Error, Result};

/// Bits that the stored form drops of weights; of the probabilities that are
/// few; of those that are many.
pub const WEIGHTS: u32 = 4;
pub const FEW: u32 = 0;
pub const MANY: u32 = 5;

/// All that a version of the mixer learns and keeps from training.
pub trait Learned: Clone {
    /// What is known before any training.
    fn untrained() -> Self;

    /// As `clone`, into memory that is there.
    fn copy_from(&mut self, other: &Self);

    /// All numbers in the order of the stored form, which `number` may change;
    /// with each, how many bits of it the stored form drops.
    fn visit(&mut self, number: &mut impl FnMut(i32, u32) -> i32);
}

/// What a version starts with, without a model and beside one.
#[derive(Clone, PartialEq, Eq)]
pub struct Start<L> {
    pub blind: L,
    pub live: L,
}

impl<L: Learned> Start<L> {
    /// Nothing learned. Chunks decode with it, but they are larger.
    pub fn untrained() -> Self {
        Start {
            blind: L::untrained(),
            live: L::untrained(),
        }
    }

    fn pack(&self) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        write(&self.blind, &mut plain);
        write(&self.live, &mut plain);
        zstd::bulk::compress(&plain, 19).map_err(Error::io("packing the mixer's start"))
    }

    fn unpack(packed: &[u8]) -> Result<Self> {
        let mut start = Self::untrained();
        let size = 4 * count(&mut start.blind); // two halves, two bytes a number
        let plain = zstd::bulk::decompress(packed, size).map_err(|_| refuse("is damaged"))?;
        let rest = read(&mut start.blind, &plain).and_then(|rest| read(&mut start.live, rest));
        match rest {
            Some([]) => Ok(start),
            _ => Err(refuse("has the wrong size")),
        }
    }
}

fn count(learned: &mut impl Learned) -> usize {
    let mut count = 0;
    learned.visit(&mut |v, _| {
        count += 1;
        v
    });
    count
}

/// Of every number the difference from the untrained one, in 16 bits; all low
/// bytes, then all high bytes.
fn write<L: Learned>(learned: &L, out: &mut Vec<u8>) {
    let mut plain = Vec::new();
    L::untrained().visit(&mut |v, _| {
        plain.push(v);
        v
    });
    let mut plain = plain.into_iter();
    let (mut low, mut high) = (Vec::new(), Vec::new());
    learned.clone().visit(&mut |v, dropped| {
        let untrained = plain.next().unwrap_or(0);
        let mut rounded = (v - untrained + ((1 << dropped) >> 1)) >> dropped;
        if v <= 32767 && untrained + (rounded << dropped) > 32767 && dropped == WEIGHTS {
            rounded -= 1; // a weight of 16 bits would change its sign
        }
        let [l, h] = (rounded.clamp(-32768, 32767) as i16).to_le_bytes();
        low.push(l);
        high.push(h);
        v
    });
    out.extend(low);
    out.extend(high);
}

/// Reads what [`write`] wrote and returns the bytes after it.
fn read<'a, L: Learned>(learned: &mut L, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let count = count(learned);
    let (low, rest) = bytes.split_at_checked(count)?;
    let (high, rest) = rest.split_at_checked(count)?;
    let mut stored = low
        .iter()
        .zip(high)
        .map(|(&l, &h)| i32::from(i16::from_le_bytes([l, h])));
    *learned = L::untrained();
    learned.visit(&mut |v, dropped| {
        let v = v + (stored.next().unwrap_or(0) << dropped);
        if dropped == WEIGHTS {
            v
        } else {
            v.clamp(0, 65535)
        }
    });
    Some(rest)
}

fn refuse(reason: &str) -> Error {
    Error::Model(format!(
        "the mixer's section of the model {reason}: import the model again"
    ))
}

/// The stored form begins with a name and the number of the version, from 1,
/// which fixes all shapes.
const MAGIC: [[u8; 4]; 2] = [*b"mix\x01", *b"mix\x02"];

/// What a model has for the mixer to start with: at most the start of one
/// version. New chunks are coded with that version; any other starts
/// untrained.
#[derive(Clone, Default)]
pub enum MixerStart {
    /// New chunks are coded with the newest version.
    #[default]
    Untrained,
    V0(Arc<Start<v0::Learned>>),
    V1(Arc<Start<v1::Learned>>),
}

impl MixerStart {
    /// The version that new chunks are coded with.
    pub fn version(&self) -> Version {
        match self {
            MixerStart::V0(_) => Version::V0,
            MixerStart::V1(_) | MixerStart::Untrained => Version::V1,
        }
    }

    pub(super) fn v0(&self) -> Arc<Start<v0::Learned>> {
        match self {
            MixerStart::V0(start) => start.clone(),
            _ => Arc::new(Start::untrained()),
        }
    }

    pub(super) fn v1(&self) -> Arc<Start<v1::Learned>> {
        match self {
            MixerStart::V1(start) => start.clone(),
            _ => Arc::new(Start::untrained()),
        }
    }

    /// The stored form: the `mixer` section of a model file, described in
    /// docs/format-mix.md; nothing for what is untrained. It keeps numbers
    /// rounded: code only with what [`from_bytes`](Self::from_bytes) gives.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let (magic, packed) = match self {
            MixerStart::Untrained => return Ok(Vec::new()),
            MixerStart::V0(start) => (MAGIC[0], start.pack()?),
            MixerStart::V1(start) => (MAGIC[1], start.pack()?),
        };
        Ok([&magic[..], &packed].concat())
    }

    /// Reads the section of a model file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (magic, packed) = bytes
            .split_first_chunk()
            .ok_or_else(|| refuse("is cut short"))?;
        match MAGIC.iter().position(|m| m == magic) {
            Some(0) => Ok(MixerStart::V0(Arc::new(Start::unpack(packed)?))),
            Some(1) => Ok(MixerStart::V1(Arc::new(Start::unpack(packed)?))),
            _ => Err(refuse("is of another version")),
        }
    }
}
