//! Version 1 of the mixer: what codes new chunks. Beyond version 0 it has three
//! contexts more, contexts of records, a first match model that goes on behind
//! what differed, two more sets of weights, a second final mixer, and a rate that
//! falls as the chunk goes on.

mod lane;
mod learned;
mod matches;

use std::sync::Arc;

pub use learned::Learned;

use super::LEVELS;
use super::foresight::Foresight;
use super::head::Head;
use super::slots::Slots;
use super::start::{Learned as _, Start};
use super::tables::{LIMIT, TABLES, hash, squash, stretch};
use crate::kernel::mixing::{self, FRESH, INPUTS, Lanes, Mixing, OTHERS, Row};
use crate::kernel::{Job, Width, prefetch, wide};
use crate::lm::coder::BitCoder;
use crate::lm::vocabulary::Vocabulary;
use lane::{CLASSES, CONTEXTS, GUESS, Lane};
use learned::{
    APM_ROWS, BIAS, FIRST, LAST_ROWS, LEVELS_TOGETHER, MATCH, MATCHES, MODEL, POINTS, PRIOR,
    PRIOR_BITS, PRIORS, ROWS, TRUST,
};
use matches::{Guess, MODELS, Matches};

/// Learning rate of the weights without a model and beside one; 1.0 is 4096.
const RATES: [i32; 2] = [36, 16];
/// What is added at the beginning of a chunk, and half of it after so many tokens.
const HASTE: i32 = 30;
const HALF: i32 = 1024;
/// The largest table of statistics, in lines of 64 bytes, by its logarithm:
/// 8 MB.
const MAX_LINES: u32 = 17;

/// Learning rates of maps: 2^-7 and so on.
const APM_SHIFT: u32 = 7;
const SEEN_SHIFT: u32 = 6;
const PRIOR_SHIFT: u32 = 5;

/// Codes the tokens of one chunk after another.
pub struct Mixer {
    start: Arc<Start<Learned>>,
    vocabulary: Arc<Vocabulary>,
    learned: Learned,
    slots: Slots,
    lanes: Vec<Lane>,
    matches: Matches,
    /// Tokens of this chunk.
    done: i32,
}

impl Mixer {
    pub fn new(start: Arc<Start<Learned>>, vocabulary: Arc<Vocabulary>) -> Self {
        Mixer {
            learned: start.blind.clone(),
            start,
            vocabulary,
            slots: Slots::default(),
            lanes: Vec::new(),
            matches: Matches::default(),
            done: 0,
        }
    }

    /// What was learned so far, and from now on: for training.
    pub fn learned_mut(&mut self) -> &mut Learned {
        &mut self.learned
    }

    /// Begins a chunk, beside a model (`live`) or without.
    pub fn begin(&mut self, head: &Head, live: bool) {
        let start = if live {
            &self.start.live
        } else {
            &self.start.blind
        };
        self.learned.copy_from(start);
        self.begin_with_learned(head);
    }

    /// As [`begin`](Self::begin), but goes on with what was learned before.
    pub fn begin_with_learned(&mut self, head: &Head) {
        let bits = usize::BITS - head.tokens.leading_zeros(); // 15 for 64 KiB of prose
        self.slots.reset((bits + 2).clamp(6, MAX_LINES));
        self.matches.reset(head.lengths(), bits.clamp(6, 16));
        self.lanes.resize_with(head.lanes, Lane::default);
        for lane in &mut self.lanes {
            lane.begin(head.stride);
        }
        self.done = 0;
    }

    /// The bytes that a lane has coded in this chunk; none for what is no lane.
    pub fn text(&self, lane: usize) -> &[u8] {
        self.lanes.get(lane).map_or(&[], |l| &l.text)
    }

    /// Codes the next token of a lane.
    pub fn code_with<F: Foresight>(
        &mut self,
        width: Width,
        lane: usize,
        token: u32,
        foresight: &F,
        coder: &mut impl BitCoder,
    ) -> u32 {
        let job = Decide {
            mixer: self,
            lane,
            token,
            foresight,
            coder,
        };
        wide(width, job)
    }

    /// Asks for the statistics with which the next token of a lane begins.
    #[inline(always)]
    fn prefetch_slots(&self, lane: usize) {
        for &context in &self.lanes[lane].contexts {
            self.slots.prefetch(hash(context, 1));
        }
    }

    /// Asks for the rows that are known before a lane's next token.
    #[inline(always)]
    fn prefetch_rows(&self, lane: usize) {
        let lane = &self.lanes[lane];
        let (byte, classes) = (usize::from(lane.last_byte()), lane.classes());
        let rows = &self.learned.rows;
        for level in 0..self.vocabulary.depth() as usize {
            if level % LEVELS_TOGETHER == 0 {
                prefetch_row(&rows[row_of_byte(level, byte)]);
            }
            prefetch_row(&rows[row_of_classes(level, classes)]);
            prefetch(&self.learned.apms[1][apm_of_byte(level, byte)]);
        }
    }

    /// One token. Some loops run over several arrays at once, by index.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn decide<F: Foresight>(
        &mut self,
        mixing: impl Mixing,
        lane: usize,
        token: u32,
        foresight: &F,
        coder: &mut impl BitCoder,
    ) -> u32 {
        // the lane whose turn will be next, if this is not the end of a chunk
        let next = if lane + 1 < self.lanes.len() {
            lane + 1
        } else {
            0
        };
        if next != lane {
            self.prefetch_slots(next);
            self.prefetch_rows(next);
        }
        let l = &self.lanes[lane];
        let mut guesses = self.matches.guess(lane, l);
        let expected = if guesses[0].live {
            hash(guesses[0].code + 1, guesses[0].bucket as u32)
        } else {
            0
        };
        let mut contexts = l.contexts;
        contexts[GUESS] = l.guess_context(expected);
        let last_byte = usize::from(l.last_byte());
        let classes = l.classes();
        let prior_of = [0, 1 + last_byte as u32, l.recent[0]];
        let (depth, vocabulary) = (self.vocabulary.depth() as usize, self.vocabulary.len());

        let rate = RATES[usize::from(F::LIVE)] + HASTE * HALF / HALF.saturating_add(self.done);
        let learned = &mut self.learned;
        let mut found = [0; CONTEXTS];
        let mut hashes = [0; CONTEXTS];
        let mut hashed = 0; // the decisions for which those are
        let mut prior_slots = [0; PRIORS];
        let mut slots = mixing::Slots([[FRESH; 16]; mixing::CONTEXTS]);
        let mut nodes = Lanes([0; 32]);
        let mut node = 1; // within the four levels of `slots`
        let mut prefix = 1u32; // the decisions so far, after a leading one
        let mut inputs = Row([0; INPUTS]);
        for level in 0..depth {
            let below = depth - level - 1;
            let lo = ((prefix as usize) << (below + 1)) - (1 << depth);
            let mid = lo + (1 << below);
            if level % 4 == 0 {
                if hashed != prefix {
                    hashes = self.slots.ask(&contexts, prefix);
                }
                if !F::LIVE {
                    for k in 0..PRIORS {
                        let slot = hash(prior_of[k], prefix) >> (36 - PRIOR_BITS[k]);
                        prior_slots[k] = slot as usize * 16;
                        prefetch(&learned.priors[k][prior_slots[k]]);
                    }
                }
                for (j, h) in hashes.into_iter().enumerate() {
                    (found[j], slots.0[j]) = self.slots.find(mixing, h);
                }
                node = 1;
                nodes = mixing.choose(&mixing.children(&slots, 0), true);
            }
            let children = mixing.children(&slots, node);
            if mid >= vocabulary {
                prefix *= 2;
                node *= 2;
                nodes = mixing.choose(&children, false);
                continue;
            }

            // ---- inputs
            let mut others = [0; OTHERS];
            others[BIAS] = 256;
            let mut trust = 0;
            let mut entries = [0; PRIORS];
            if F::LIVE {
                let hi = (mid + (1 << below)).min(vocabulary);
                let odds = foresight.odds(level, lo, mid, hi).clamp(-LIMIT, LIMIT);
                others[MODEL] = odds as i16;
                others[MODEL + 1] = ((squash(odds) - 32768) >> 4) as i16;
                trust = odds.unsigned_abs() as usize / 320;
            } else {
                for k in 0..PRIORS {
                    entries[k] = prior_slots[k] + (node & 15);
                    others[PRIOR + k] =
                        stretch(u32::from(learned.priors[k][entries[k]] >> 4)) as i16;
                }
            }
            let mut seen = [0; MODELS];
            for (k, g) in guesses.iter().enumerate() {
                seen[k] = (k * 32 + g.bucket) * LEVELS + level;
                let odds = stretch(u32::from(learned.seen[seen[k]] >> 4)) as i16;
                let one = g.code >> below & 1 == 1;
                others[MATCH + k] = if !g.live {
                    0
                } else if one {
                    odds
                } else {
                    -odds
                };
            }
            let state = match_state(&guesses, below);
            let read = mixing.read(&TABLES, &nodes, &learned.maps, others, &mut inputs);
            let known = read.known;
            if !F::LIVE {
                trust = known;
            }

            // ---- mixing
            let decisions = if level < 9 {
                prefix as usize
            } else {
                512 + (prefix as usize >> (level - 8)) % 512
            };
            let rows = [
                FIRST[0] + (level * MATCHES + state) % ROWS[0],
                row_of_byte(level, last_byte),
                FIRST[2] + decisions % ROWS[2],
                FIRST[3] + (level * TRUST + trust.min(TRUST - 1)) % ROWS[3],
                FIRST[4] + (level * (CONTEXTS + 1) + known) % ROWS[4],
                row_of_classes(level, classes),
            ];
            let sums = mixing.sums(rows.map(|row| &learned.rows[row]), &inputs);
            let last_rows = [(level * MATCHES + state) % LAST_ROWS[0], last_byte];
            let mixes = [0, 1].map(|k| mixing.mix(&learned.last[k][last_rows[k]], &sums));
            let mixed = (mixes[0] + mixes[1]) >> 1;
            let p_mixed = squash(mixed);

            // ---- adaptive probability maps
            let (point, part) = ((mixed + 6144) as usize >> 9, (mixed + 6144) & 511);
            let apm_rows = [
                (level * MATCHES + state) % APM_ROWS[0],
                apm_of_byte(level, last_byte),
            ];
            let mut p = 2 * p_mixed;
            for k in 0..2 {
                let row = &learned.apms[k][apm_rows[k]];
                let (a, b) = (
                    i32::from(row[point % POINTS]),
                    i32::from(row[(point + 1) % POINTS]),
                );
                p += (a * (512 - part) + b * part) >> 9;
            }
            if level % 4 == 3 && level + 1 < depth {
                // in the likelier case its slots come while this decision is learned
                hashed = prefix * 2 + u32::from(p >= 2 << 16);
                hashes = self.slots.ask(&contexts, hashed);
            }
            let bit = coder.code(token >> below & 1, (p >> 2).clamp(1, 65535) as u32) & 1;

            // ---- learning
            let target = (bit as i32) << 16;
            for k in 0..2 {
                let row = &mut learned.apms[k][apm_rows[k]];
                approach(
                    &mut row[(point + usize::from(part >= 256)) % POINTS],
                    bit,
                    APM_SHIFT,
                );
                let last = &mut learned.last[k][last_rows[k]];
                mixing.learn_last(last, &sums, target - squash(mixes[k]));
            }
            mixing.learn(
                &TABLES,
                &mut learned.rows,
                &rows,
                &inputs,
                &sums,
                target,
                rate,
            );
            let after = mixing.visit(&TABLES, &nodes, &read, &mut learned.maps, bit == 1);
            for (&slot, &v) in found.iter().zip(&after.0) {
                self.slots.set(slot, node, v);
            }
            if !F::LIVE {
                for k in 0..PRIORS {
                    approach(&mut learned.priors[k][entries[k]], bit, PRIOR_SHIFT);
                }
            }
            for (k, g) in guesses.iter_mut().enumerate() {
                if g.live {
                    g.live = g.code >> below & 1 == bit;
                    approach(&mut learned.seen[seen[k]], u32::from(g.live), SEEN_SHIFT);
                }
            }
            prefix = prefix * 2 + bit;
            node = node * 2 + bit as usize;
            nodes = mixing.choose(&children, bit == 1);
        }
        let code = prefix - (1 << depth);
        let l = &mut self.lanes[lane];
        self.matches.note(lane, l, code);
        l.push(code, self.vocabulary.bytes_of(code));
        l.set_contexts();
        if next == lane {
            self.prefetch_slots(lane);
        }
        self.done = self.done.saturating_add(1);
        code
    }
}

/// [`Mixer::decide`], for [`wide`].
struct Decide<'a, F, C> {
    mixer: &'a mut Mixer,
    lane: usize,
    token: u32,
    foresight: &'a F,
    coder: &'a mut C,
}

impl<F: Foresight, C: BitCoder> Job for Decide<'_, F, C> {
    type Output = u32;

    #[inline(always)]
    fn run(self, mixing: impl Mixing) -> u32 {
        self.mixer
            .decide(mixing, self.lane, self.token, self.foresight, self.coder)
    }
}

/// Rows of weights and of a map that are known before a token's first decision.
#[inline(always)]
fn row_of_byte(level: usize, byte: usize) -> usize {
    FIRST[1] + (byte * (LEVELS / LEVELS_TOGETHER) + level / LEVELS_TOGETHER) % ROWS[1]
}

#[inline(always)]
fn row_of_classes(level: usize, classes: usize) -> usize {
    FIRST[5] + (level * CLASSES + classes) % ROWS[5]
}

#[inline(always)]
fn apm_of_byte(level: usize, byte: usize) -> usize {
    (level * 256 + byte) % APM_ROWS[1]
}

/// Asks for both lines of a row.
#[inline(always)]
fn prefetch_row(row: &Row) {
    prefetch(&row.0[0]);
    prefetch(&row.0[INPUTS / 2]);
}

/// Moves a probability in 1/65536 towards a bit.
#[inline(always)]
fn approach(p: &mut u16, bit: u32, shift: u32) {
    let goal = if bit == 1 { 65535 } else { 0 };
    *p = (i32::from(*p) + ((goal - i32::from(*p)) >> shift)) as u16;
}

/// Which match models have a guess about this bit, how sure the first is, and
/// whether they agree: below [`MATCHES`].
#[inline(always)]
fn match_state(guesses: &[Guess; MODELS], below: usize) -> usize {
    let [long, short] = guesses;
    let sure = match long.bucket {
        _ if !long.live => 0,
        0..6 => 1,
        6..16 => 2,
        _ => 3,
    };
    let agree = match short.live {
        false => 0,
        true if long.live && (long.code ^ short.code) >> below & 1 == 1 => 2,
        true => 1,
    };
    sure * 3 + agree
}
