//! What the mixer learns besides the statistics of contexts: weights and
//! maps. Every chunk starts from a trained copy of it.

use super::lane::{CLASSES, CONTEXTS};
use super::matches::MODELS;
use crate::kernel::mixing::{self, CELLS, INPUTS, Maps, OTHERS, Row, SETS, Sums};
use crate::lm::mixer::LEVELS;
use crate::lm::mixer::start::{self, FEW, MANY, WEIGHTS};
use crate::lm::mixer::tables::squash;

/// What the node of a context says itself; what its state has meant is in the
/// first places.
const SAYS: usize = INPUTS / 2;
/// The first place of what is no context, of which the following are numbers.
const FIRST_OTHER: usize = mixing::CONTEXTS;
/// The model's odds, and its probability.
pub const MODEL: usize = 0;
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

/// Rows of weights in each: by level and match state; by last byte and level;
/// by the decisions so far; by level and trust; by level and the number of
/// contexts that have been here before; by level and the classes of the last
/// three bytes.
pub const ROWS: [usize; SETS] = [
    LEVELS * MATCHES,
    256 * LEVELS / LEVELS_TOGETHER,
    1024,
    LEVELS * TRUST,
    LEVELS * (CONTEXTS + 1),
    LEVELS * CLASSES,
];
/// The first row of each set.
pub const FIRST: [usize; SETS] = {
    let (mut first, mut k) = ([0; SETS], 1);
    while k < SETS {
        first[k] = first[k - 1] + ROWS[k - 1];
        k += 1;
    }
    first
};
const ALL_ROWS: usize = FIRST[SETS - 1] + ROWS[SETS - 1];

/// Rows of the two final mixers: by level and match state; by the last byte.
pub const LAST_ROWS: [usize; 2] = [LEVELS * MATCHES, 256];

/// Points of an adaptive probability map, a nat apart.
pub const POINTS: usize = 25;
/// Rows of the maps: by level and match state; by level and last byte.
pub const APM_ROWS: [usize; 2] = [LEVELS * MATCHES, LEVELS * 256];
/// Cells of the match models' trust, each by bucket and level.
pub const SEEN: usize = MODELS * 32 * LEVELS;

/// Places of the weights of a row as they are stored: kind by kind, then those of
/// what is no context, then zeros. 1.0 is 16384.
static STORED: [usize; INPUTS] = {
    let (mut stored, mut k) = ([0; INPUTS], 0);
    while k < INPUTS {
        stored[k] = match k.checked_sub(2 * CONTEXTS) {
            None if k < CONTEXTS => k,
            None => SAYS + k - CONTEXTS,
            Some(other) if other < OTHERS => FIRST_OTHER + other,
            // what is left: where there is room for contexts, then the end
            Some(rest) if rest - OTHERS < FIRST_OTHER - CONTEXTS => CONTEXTS + rest - OTHERS,
            Some(_) => k,
        };
        k += 1;
    }
    stored
};

/// Everything learned that a chunk starts with.
#[derive(Clone, PartialEq, Eq)]
pub struct Learned {
    /// Rows of all sets.
    pub rows: Vec<Row>,
    /// Weights of the final mixers; 1.0 is 65536.
    pub last: [Vec<Sums>; 2],
    /// Probability of a one, in 1/65536, by context and state of its node.
    pub maps: Box<Maps>,
    pub apms: [Vec<[u16; POINTS]>; 2],
    /// Probability of a one by hash of context and decisions so far.
    pub priors: [Vec<u16>; PRIORS],
    /// Probability that a match model is right.
    pub seen: Vec<u16>,
}

impl start::Learned for Learned {
    fn untrained() -> Self {
        let mut row = [0; INPUTS];
        row[..CONTEXTS].fill(1000);
        row[FIRST_OTHER + MODEL] = 10240;
        row[FIRST_OTHER + MATCH..][..MODELS].fill(4096);
        let mut map = [0; CELLS];
        for (i, m) in map.iter_mut().enumerate() {
            *m = squash((i as i32 % 32 - 16) * 288 + 144) as u16;
        }
        let mut apm = [0; POINTS];
        for (i, p) in apm.iter_mut().enumerate() {
            *p = squash((i as i32 - 12) * 512) as u16;
        }
        let mut last = Sums([0; 8]);
        last.0[..SETS].fill(65536 / SETS as i32);
        Learned {
            rows: vec![Row(row); ALL_ROWS],
            last: LAST_ROWS.map(|rows| vec![last; rows]),
            maps: Box::new(Maps {
                of: [map; mixing::CONTEXTS],
                end: 0,
            }),
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
        for row in &mut self.rows {
            for place in STORED {
                let w = &mut row.0[place];
                *w = number(i32::from(*w), WEIGHTS) as i16;
            }
        }
        let last = self.last.iter_mut().flatten();
        for w in last.flat_map(|weights| &mut weights.0[..SETS]) {
            *w = number(*w, WEIGHTS);
        }
        let apms = self.apms.iter_mut().flatten().flatten();
        let many = apms.chain(self.priors.iter_mut().flatten());
        let few = self.maps.of[..CONTEXTS]
            .iter_mut()
            .flatten()
            .chain(&mut self.seen);
        for (p, dropped) in few.map(|p| (p, FEW)).chain(many.map(|p| (p, MANY))) {
            *p = number(i32::from(*p), dropped) as u16;
        }
    }
}
