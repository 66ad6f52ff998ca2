//! What the mixer learns besides the statistics of contexts: weights and
//! maps. Every chunk starts from a trained copy of it.

use super::lane::CONTEXTS;
use super::matches::MODELS;
use crate::lm::mixer::LEVELS;
use crate::lm::mixer::start::{self, FEW, MANY, WEIGHTS};
use crate::lm::mixer::tables::squash;

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

impl start::Learned for Learned {
    fn untrained() -> Self {
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

    fn copy_from(&mut self, other: &Learned) {
        self.rows.clone_from(&other.rows);
        self.last.clone_from(&other.last);
        self.maps.clone_from(&other.maps);
        self.apms.clone_from(&other.apms);
        self.priors.clone_from(&other.priors);
        self.seen.clone_from(&other.seen);
    }

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
}
