//! What the mixer learns besides the statistics of contexts: weights and
//! maps. Every chunk starts from a trained copy of it.

use super::lane::CONTEXTS;
use super::matches::MODELS;
use super::tables::squash;
use crate::error::{Error, Result};

/// Kinds of input that a context gives: what its node's state has meant, and
/// what its node says itself.
pub const KINDS: usize = 2;
/// Inputs of a mixer: of the contexts, kind by kind, then the [others](Input).
pub const INPUTS: usize = 48;
/// The model's odds, and its probability.
pub const MODEL: usize = KINDS * CONTEXTS;
/// The odds of the match models.
pub const MATCH: usize = MODEL + 2;
/// A constant.
pub const BIAS: usize = MATCH + MODELS;

/// The odds of the priors.
pub const PRIOR: usize = BIAS + 1;
/// Priors: probabilities of a one that are not of this chunk alone but learned
/// in training, by the decisions so far and by nothing, the last byte or the
/// last token. Only without a model, which knows better.
pub const PRIORS: usize = 3;
/// Entries of each, in bits. Contexts are hashed, without a check, to 16 entries:
/// the nodes of four levels.
pub const PRIOR_BITS: [u32; PRIORS] = [14, 17, 18];

/// Bits of a code at most.
pub const LEVELS: usize = 18;
/// States of the match models.
pub const MATCHES: usize = 12;
/// Classes of the model's confidence; without a model, of the contexts'.
pub const TRUST: usize = 20;
/// Levels that share weights in the set of the last byte.
pub const LEVELS_TOGETHER: usize = 3;

/// Weight sets with which a decision is mixed.
pub const SETS: usize = 4;
/// Rows of weights in each: by level and match state; by last byte and level;
/// by the decisions so far; by level and trust.
pub const ROWS: [usize; SETS] = [
    LEVELS * MATCHES,
    256 * LEVELS / LEVELS_TOGETHER,
    1024,
    LEVELS * TRUST,
];
/// The first row of each set.
pub const FIRST: [usize; SETS] = [0, ROWS[0], ROWS[0] + ROWS[1], ROWS[0] + ROWS[1] + ROWS[2]];
const ALL_ROWS: usize = FIRST[SETS - 1] + ROWS[SETS - 1];

/// States of a node that a map tells apart: 16 counts, 32 probabilities.
pub const CELLS: usize = 512;
/// Points of an adaptive probability map, a nat apart.
pub const POINTS: usize = 25;
/// Rows of the maps: by level and match state; by level and last byte.
pub const APM_ROWS: [usize; 2] = [LEVELS * MATCHES, LEVELS * 256];
/// Cells of the match models' trust, each by bucket and level.
pub const SEEN: usize = MODELS * 32 * LEVELS;

/// Weights of one row; 1.0 is 16384.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(align(32))]
pub struct Row(pub [i16; INPUTS]);

/// Everything learned that a chunk starts with.
#[derive(Clone, PartialEq, Eq)]
pub struct Learned {
    /// Rows of all sets.
    pub rows: Vec<Row>,
    /// Weights of the final mixer by level and match state; 1.0 is 65536.
    pub last: Vec<[i32; SETS]>,
    /// Probability of a one, in 1/65536, by context and state of its node.
    pub maps: Box<[[u16; CELLS]; CONTEXTS]>,
    pub apms: [Vec<[u16; POINTS]>; 2],
    /// Probability of a one by hash of context and decisions so far.
    pub priors: [Vec<u16>; PRIORS],
    /// Probability that a match model is right.
    pub seen: Vec<u16>,
}

/// Bits that the stored form drops of weights; of the probabilities that are
/// few; of those that are many.
const WEIGHTS: u32 = 4;
const FEW: u32 = 0;
const MANY: u32 = 5;

impl Learned {
    /// What is known before any training.
    pub fn untrained() -> Self {
        let mut row = [0; INPUTS];
        row[..CONTEXTS].fill(2500);
        row[MODEL] = 8192;
        row[MATCH..MATCH + MODELS].fill(4096);
        let mut map = [0; CELLS];
        for (i, m) in map.iter_mut().enumerate() {
            *m = squash((i as i32 % 32 - 16) * 288 + 144) as u16;
        }
        let mut apm = [0; POINTS];
        for (i, p) in apm.iter_mut().enumerate() {
            *p = squash((i as i32 - 12) * 512) as u16;
        }
        Learned {
            rows: vec![Row(row); ALL_ROWS],
            last: vec![[65536 / SETS as i32; SETS]; LEVELS * MATCHES],
            maps: Box::new([map; CONTEXTS]),
            apms: APM_ROWS.map(|rows| vec![apm; rows]),
            priors: PRIOR_BITS.map(|bits| vec![1 << 15; 1 << bits]),
            seen: vec![52000; SEEN],
        }
    }

    /// As `clone`, into memory that is there.
    pub fn copy_from(&mut self, other: &Learned) {
        self.rows.clone_from(&other.rows);
        self.last.clone_from(&other.last);
        self.maps.clone_from(&other.maps);
        self.apms.clone_from(&other.apms);
        self.priors.clone_from(&other.priors);
        self.seen.clone_from(&other.seen);
    }

    /// All numbers in the order of the stored form, which `number` may change;
    /// with each, how many bits of it the stored form drops.
    fn visit(&mut self, number: &mut impl FnMut(i32, u32) -> i32) {
        for w in self.rows.iter_mut().flat_map(|r| &mut r.0) {
            *w = number(i32::from(*w), WEIGHTS) as i16;
        }
        for w in self.last.iter_mut().flatten() {
            *w = number(*w, WEIGHTS);
        }
        let apms = self.apms.iter_mut().flatten().flatten();
        let many = apms.chain(self.priors.iter_mut().flatten());
        let few = self.maps.iter_mut().flatten().chain(&mut self.seen);
        for (p, dropped) in few.map(|p| (p, FEW)).chain(many.map(|p| (p, MANY))) {
            *p = number(i32::from(*p), dropped) as u16;
        }
    }

    /// The stored form: of every number the difference from the untrained one,
    /// in 16 bits; all low bytes, then all high bytes.
    fn write(&self, out: &mut Vec<u8>) {
        let mut plain = Vec::new();
        Learned::untrained().visit(&mut |v, _| {
            plain.push(v);
            v
        });
        let mut plain = plain.into_iter();
        let (mut low, mut high) = (Vec::new(), Vec::new());
        self.clone().visit(&mut |v, dropped| {
            let difference = v - plain.next().unwrap_or(0);
            let rounded = (difference + ((1 << dropped) >> 1)) >> dropped;
            let [l, h] = (rounded.clamp(-32768, 32767) as i16).to_le_bytes();
            low.push(l);
            high.push(h);
            v
        });
        out.extend(low);
        out.extend(high);
    }

    /// Reads what [`write`](Self::write) wrote and returns the bytes after it.
    fn read<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let mut count = 0;
        self.visit(&mut |v, _| {
            count += 1;
            v
        });
        let (low, rest) = bytes.split_at_checked(count)?;
        let (high, rest) = rest.split_at_checked(count)?;
        let mut stored = low
            .iter()
            .zip(high)
            .map(|(&l, &h)| i32::from(i16::from_le_bytes([l, h])));
        *self = Learned::untrained();
        self.visit(&mut |v, dropped| {
            let v = v + (stored.next().unwrap_or(0) << dropped);
            if dropped == WEIGHTS {
                v
            } else {
                v.clamp(0, 65535)
            }
        });
        Some(rest)
    }
}

/// The first bytes of the stored form: a name and the version of the mixer,
/// which fixes all shapes.
const MAGIC: [u8; 4] = *b"mix\x01";

/// What chunks start with, without a model and beside one.
#[derive(Clone, PartialEq, Eq)]
pub struct MixerStart {
    pub blind: Learned,
    pub live: Learned,
}

impl MixerStart {
    /// Nothing learned. Chunks decode with it, but they are larger.
    pub fn untrained() -> Self {
        MixerStart {
            blind: Learned::untrained(),
            live: Learned::untrained(),
        }
    }

    /// The stored form: the `mixer` section of a model file. It keeps weights
    /// rounded: code only with what [`from_bytes`](Self::from_bytes) gives.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        self.blind.write(&mut plain);
        self.live.write(&mut plain);
        let packed =
            zstd::bulk::compress(&plain, 19).map_err(Error::io("packing the mixer's start"))?;
        Ok([&MAGIC[..], &packed].concat())
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let refuse = |reason: &str| {
            Error::Model(format!(
                "the mixer's section of the model {reason}: import the model again"
            ))
        };
        let packed = bytes
            .strip_prefix(&MAGIC)
            .ok_or_else(|| refuse("is of another version"))?;
        let mut start = MixerStart::untrained();
        let mut size = 0;
        start.blind.visit(&mut |v, _| {
            size += 4; // two bytes a number, of two halves
            v
        });
        let plain = zstd::bulk::decompress(packed, size).map_err(|_| refuse("is damaged"))?;
        let rest = start
            .blind
            .read(&plain)
            .and_then(|rest| start.live.read(rest));
        match rest {
            Some([]) => Ok(start),
            _ => Err(refuse("has the wrong size")),
        }
    }
}
