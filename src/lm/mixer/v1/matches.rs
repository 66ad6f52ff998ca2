//! The match models: where the last tokens stood before, the next one may
//! follow again.

use super::lane::Lane;
use crate::lm::mixer::tables::hash;

/// Match models of a lane.
pub const MODELS: usize = 2;
/// Tokens that must have stood before for each model to take a place.
const TOKENS: [usize; MODELS] = [6, 2];
/// Tokens that must agree before a place for a model to follow it: hashes lie.
const LEAST: [u32; MODELS] = [3, 2];
/// Below this length a model looks for another place.
const SHORT: u32 = 3;
/// Mismatches after which the first model goes on beyond the token that
/// differed; a length of more than [`FORGIVEN`] starts the count anew.
const MISSES: u32 = 8;
const FORGIVEN: u32 = 15;
/// Matches are measured up to this length when they are taken.
const MEASURED: u32 = 32;

/// Follows one earlier place while it holds.
#[derive(Clone, Copy, Default)]
struct Match {
    /// Number of the token that is foreseen; 0: none.
    at: u32,
    /// Tokens that agreed before it.
    length: u32,
    /// Tokens that differed on the way.
    misses: u32,
}

/// What a match model foresees.
#[derive(Clone, Copy, Default)]
pub struct Guess {
    pub code: u32,
    /// Whether there is a guess, and all decisions so far agree with it.
    pub live: bool,
    /// Tokens that agreed, in 32 buckets.
    pub bucket: usize,
}

/// The text of all lanes as tokens, and where in it each lane looks.
#[derive(Default)]
pub struct Matches {
    /// All tokens as code + 1, by number; 0 where none is known yet. Number 0
    /// is nobody's.
    history: Vec<u32>,
    /// Number of each lane's first token.
    starts: Vec<u32>,
    lanes: Vec<[Match; MODELS]>,
    /// Where each hash of last tokens was seen last.
    heads: [Vec<u32>; MODELS],
    shift: u32,
}

impl Matches {
    /// Forgets all; room for lanes of these lengths.
    pub fn reset(&mut self, lengths: impl Iterator<Item = usize>, bits: u32) {
        self.starts.clear();
        let mut next = 1;
        for length in lengths {
            self.starts.push(next);
            next += length as u32;
        }
        self.history.clear();
        self.history.resize(next as usize + 1, 0);
        self.lanes.clear();
        self.lanes.resize(self.starts.len(), Default::default());
        for heads in &mut self.heads {
            heads.clear();
            heads.resize(1 << bits, 0);
        }
        self.shift = 32 - bits;
    }

    fn token(&self, number: u32) -> u32 {
        self.history.get(number as usize).copied().unwrap_or(0)
    }

    /// What is foreseen for the lane's next token.
    #[inline(always)]
    pub fn guess(&mut self, number: usize, lane: &Lane) -> [Guess; MODELS] {
        let (at, recent) = (self.starts[number] + lane.count, &lane.recent);
        for k in 0..MODELS {
            let mut m = self.lanes[number][k];
            let goes_on = m.at != 0 && self.token(m.at + 1) != 0;
            if goes_on && self.token(m.at) == recent[0] {
                m = Match {
                    at: m.at + 1,
                    length: (m.length + 1).min(1 << 16),
                    misses: if m.length > FORGIVEN { 0 } else { m.misses },
                };
            } else if goes_on && k == 0 && m.misses < MISSES {
                m = Match {
                    at: m.at + 1,
                    length: 0,
                    misses: m.misses + 1,
                };
            } else {
                m = Match::default();
            }
            if lane.count as usize >= TOKENS[k] {
                let h = recent[..TOKENS[k]].iter().fold(0, |h, &t| hash(h, t));
                let head = (h >> self.shift) as usize;
                let place = std::mem::replace(&mut self.heads[k][head], at);
                if m.length < SHORT && place != 0 && self.token(place) != 0 {
                    let most = MEASURED.min(lane.count).min(place - 1);
                    let agree = |back: &u32| self.token(place - back) == self.token(at - back);
                    let length = (1..=most).take_while(agree).count() as u32;
                    if length >= LEAST[k] {
                        m = Match {
                            at: place,
                            length,
                            misses: 0,
                        };
                    }
                }
            }
            self.lanes[number][k] = m;
        }
        let [long, short] = self.lanes[number];
        [
            self.guess_of(long),
            self.guess_of(if short.at == long.at {
                Match::default()
            } else {
                short
            }),
        ]
    }

    #[inline(always)]
    fn guess_of(&self, m: Match) -> Guess {
        let length = m.length as usize;
        Guess {
            code: self.token(m.at).wrapping_sub(1),
            live: m.at != 0,
            bucket: if length < 16 {
                length
            } else {
                (14 + length / 8).min(31)
            },
        }
    }

    /// Notes the token that the lane has just coded.
    #[inline(always)]
    pub fn note(&mut self, number: usize, lane: &Lane, code: u32) {
        let at = (self.starts[number] + lane.count) as usize;
        if let Some(t) = self.history.get_mut(at) {
            *t = code + 1;
        }
    }
}
