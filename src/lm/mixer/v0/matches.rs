//! The match models: where the last tokens stood before, the next one may
//! follow again.

use super::lane::{Lane, RECENT};
use crate::lm::mixer::tables::hash;

/// Match models of a lane.
pub const MODELS: usize = 2;
/// Tokens that must have stood before for each model to take a place.
const TOKENS: [usize; MODELS] = [4, 2];
/// Matches are measured up to this length when they are taken.
const MEASURED: u32 = 32;

/// Follows one earlier place while it holds.
#[derive(Clone, Copy, Default)]
struct Match {
    /// Number of the token that is foreseen; 0: none.
    at: u32,
    /// Tokens that agreed before it.
    length: u32,
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
            if m.at != 0 && self.token(m.at) == recent[0] && self.token(m.at + 1) != 0 {
                m = Match {
                    at: m.at + 1,
                    length: (m.length + 1).min(1 << 16),
                };
            } else {
                m = Match::default();
            }
            if lane.count as usize >= TOKENS[k] {
                let h = recent[..TOKENS[k]].iter().fold(0, |h, &t| hash(h, t));
                let head = (h >> self.shift) as usize;
                let place = std::mem::replace(&mut self.heads[k][head], at);
                if m.at == 0 && place != 0 && self.token(place) != 0 {
                    let most = MEASURED.min(lane.count).min(place - 1);
                    let agree = |back: &u32| self.token(place - back) == self.token(at - back);
                    let length = (1..=most).take_while(agree).count() as u32;
                    if length as usize >= TOKENS[k].min(RECENT - 1) {
                        m = Match { at: place, length };
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
