//! What the mixer learns besides the statistics of contexts: weights and
//! maps. A chunk starts from a trained copy of it.

use super::lane::CONTEXTS;

/// Inputs of a mixer. The first `3 * CONTEXTS` are of the contexts, kind by kind.
pub const INPUTS: usize = 96;
/// Weight sets that a decision is mixed with.
pub const SETS: usize = 5;
/// Levels of decisions: bits of a code at most.
pub const LEVELS: usize = 18;
/// States of the match models.
pub const MATCHES: usize = 12;
/// Rows of weights of each set.
pub const ROWS: [usize; SETS] = [LEVELS * MATCHES, 256 * 5, LEVELS * 16, LEVELS * 24, 1024];
/// First row of each set.
pub const ROW: [usize; SETS] = {
    let mut first = [0; SETS];
    let mut k = 1;
    while k < SETS {
        first[k] = first[k - 1] + ROWS[k - 1];
        k += 1;
    }
    first
};
const ALL_ROWS: usize = ROW[SETS - 1] + ROWS[SETS - 1];
/// Cells of a context's map from node states to probabilities.
pub const CELLS: usize = 512;
/// Interpolation points of an APM.
pub const POINTS: usize = 25;
/// Rows of the two APMs.
pub const APM_ROWS: [usize; 2] = [LEVELS * MATCHES, LEVELS * 256];
/// Cells of the match models' confidence.
pub const SEEN: usize = 32 * LEVELS;

/// Weights of one row; 1.0 is 16384.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct Row(pub [i16; INPUTS]);

/// Everything learned that a chunk starts with.
#[derive(Clone, PartialEq, Eq)]
pub struct Learned {
    /// Rows of all sets.
    pub rows: Vec<Row>,
    /// Weights of the final mixer by level and match state; 1.0 is 65536.
    pub last: Vec<[i32; SETS]>,
    /// Probabilities in 1/65536 by context and state of its node.
    pub maps: Vec<[u16; CELLS]>,
    pub apms: [Vec<[u16; POINTS]>; 2],
    /// Probability that a match model is right.
    pub seen: Vec<u16>,
}

impl Learned {
    /// What is known before any training.
    pub fn untrained() -> Self {
        let mut row = [0.25 / CONTEXTS as f64; INPUTS].map(|w| (w * 16384.0 * 2.0) as i16);
        row[3 * CONTEXTS] = 16384 / 2;
        let mut map = [0; CELLS];
        for (i, m) in map.iter_mut().enumerate() {
            *m = super::tables::squash((i as i32 % 32 - 16) * 288 + 144) as u16;
        }
        let mut apm = [0; POINTS];
        for (i, p) in apm.iter_mut().enumerate() {
            *p = super::tables::squash((i as i32 - 12) * 512) as u16;
        }
        Learned {
            rows: vec![Row(row); ALL_ROWS],
            last: vec![[65536 / SETS as i32; SETS]; LEVELS * MATCHES],
            maps: vec![map; CONTEXTS],
            apms: APM_ROWS.map(|rows| vec![apm; rows]),
            seen: vec![52000; SEEN],
        }
    }

    /// As `clone_from`, without new memory.
    pub fn copy_from(&mut self, other: &Learned) {
        self.rows.clone_from(&other.rows);
        self.last.clone_from(&other.last);
        self.maps.clone_from(&other.maps);
        self.apms.clone_from(&other.apms);
        self.seen.clone_from(&other.seen);
    }
}
