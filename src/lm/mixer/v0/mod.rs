//! Version 0 of the mixer, as it was: frozen, so that the frames it wrote are
//! read for ever. The parts and their names are those of [`v1`](super::v1).

mod lane;
mod learned;
mod matches;

use std::sync::Arc;

pub use learned::Learned;

use super::LEVELS;
use super::foresight::Foresight;
use super::head::lane_lengths;
use super::slots::Slots;
use super::start::{Learned as _, Start};
use super::tables::{LIMIT, hash, squash, stretch};
use crate::kernel::mixing::{FRESH, Mixing};
use crate::kernel::{Job, Width, prefetch, wide};
use crate::lm::coder::BitCoder;
use crate::lm::vocabulary::Vocabulary;
use lane::{CONTEXTS, Lane};
use learned::{
    APM_ROWS, BIAS, CELLS, FIRST, INPUTS, LEVELS_TOGETHER, MATCH, MATCHES, MODEL, POINTS, PRIOR,
    PRIOR_BITS, PRIORS, ROWS, SETS, TRUST,
};
use matches::{Guess, MODELS, Matches};

/// Learning rate of the weights without a model and beside one; 1.0 is 4096.
const RATES: [i32; 2] = [36, 24];
/// Learning rate of the final mixer: 2^-9.
const LAST_SHIFT: u32 = 18;
/// Learning rates of maps: 2^-6 and so on.
const MAP_SHIFT: u32 = 6;
const APM_SHIFT: u32 = 7;
const SEEN_SHIFT: u32 = 6;
const PRIOR_SHIFT: u32 = 5;

/// Rate of a node by its count, in 1/65536: 1 / (n + 1.5), held above 1/28.
static NODE_RATE: [i32; 16] = {
    let mut rate = [0; 16];
    let mut n = 0;
    while n < 12 {
        rate[n] = 131072 / (2 * n as i32 + 3);
        n += 1;
    }
    rate[12] = 65536 / 15;
    rate[13] = 65536 / 18;
    rate[14] = 65536 / 22;
    rate[15] = 65536 / 28;
    rate
};

/// Codes the tokens of one chunk after another.
pub struct Mixer {
    start: Arc<Start<Learned>>,
    vocabulary: Arc<Vocabulary>,
    learned: Learned,
    slots: Slots,
    lanes: Vec<Lane>,
    matches: Matches,
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
        }
    }

    /// Begins a chunk of so many tokens, beside a model (`live`) or without.
    pub fn begin(&mut self, lanes: usize, tokens: usize, live: bool) {
        let start = if live {
            &self.start.live
        } else {
            &self.start.blind
        };
        self.learned.copy_from(start);
        let bits = usize::BITS - tokens.leading_zeros(); // 15 for 64 KiB of prose
        self.slots.reset((bits + 1).clamp(6, 16));
        self.matches
            .reset(lane_lengths(tokens, lanes), bits.clamp(6, 16));
        self.lanes.iter_mut().for_each(Lane::clear);
        self.lanes.resize_with(lanes, Lane::default);
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
        let code = wide(
            width,
            Decide {
                mixer: self,
                lane,
                token,
                foresight,
                coder,
            },
        );
        self.matches.note(lane, &self.lanes[lane], code);
        self.lanes[lane].push(code, self.vocabulary.bytes_of(code));
        code
    }

    /// One token. The loops run over several arrays at once, by index.
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
        let l = &self.lanes[lane];
        let mut guesses = self.matches.guess(lane, l);
        let expected = if guesses[0].live {
            hash(guesses[0].code + 1, guesses[0].bucket as u32)
        } else {
            0
        };
        let contexts = l.contexts(expected);
        let last_byte = usize::from(l.last_byte());
        let prior_of = [0, 1 + last_byte as u32, l.recent[0]];
        let (depth, vocabulary) = (self.vocabulary.depth() as usize, self.vocabulary.len());

        let learned = &mut self.learned;
        let mut found = [0; CONTEXTS];
        let mut prior_slots = [0; PRIORS];
        let mut nodes = [[FRESH; 16]; CONTEXTS];
        let mut node = 1; // within the four levels of `nodes`
        let mut prefix = 1u32; // the decisions so far, after a leading one
        let mut inputs = [0i16; INPUTS];
        inputs[BIAS] = 256;
        for level in 0..depth {
            let below = depth - level - 1;
            let lo = ((prefix as usize) << (below + 1)) - (1 << depth);
            let mid = lo + (1 << below);
            if level % 4 == 0 {
                if level > 0 {
                    self.slots.put(&found, &nodes);
                }
                let hashes = contexts.map(|c| hash(c, prefix));
                hashes.iter().for_each(|&h| self.slots.prefetch(h));
                if !F::LIVE {
                    for k in 0..PRIORS {
                        let slot = hash(prior_of[k], prefix) >> (36 - PRIOR_BITS[k]);
                        prior_slots[k] = slot as usize * 16;
                        prefetch(&learned.priors[k][prior_slots[k]]);
                    }
                }
                for j in 0..CONTEXTS {
                    (found[j], nodes[j]) = self.slots.find(mixing, hashes[j]);
                }
                node = 1;
            }
            if mid >= vocabulary {
                prefix *= 2;
                node *= 2;
                continue;
            }

            // ---- inputs
            let mut known = 0;
            let mut cells = [0u16; CONTEXTS];
            for j in 0..CONTEXTS {
                let v = nodes[j][node & 15];
                let (p, n) = (stretch(u32::from(v >> 4)), v & 15);
                let cell = (n as i32 * 32 + (((p * 7) >> 11) + 16)) as u16;
                cells[j] = cell;
                let meant = stretch(u32::from(learned.maps[j][usize::from(cell) % CELLS] >> 4));
                known += usize::from(n > 0);
                inputs[j] = if n > 0 { meant as i16 } else { 0 };
                inputs[CONTEXTS + j] = p as i16;
            }
            let mut trust = known.min(TRUST - 1);
            let mut entries = [0; PRIORS];
            if F::LIVE {
                let hi = (mid + (1 << below)).min(vocabulary);
                let odds = foresight.odds(level, lo, mid, hi).clamp(-LIMIT, LIMIT);
                inputs[MODEL] = odds as i16;
                inputs[MODEL + 1] = ((squash(odds) - 32768) >> 4) as i16;
                trust = (odds.unsigned_abs() as usize / 320).min(TRUST - 1);
            } else {
                for k in 0..PRIORS {
                    entries[k] = prior_slots[k] + (node & 15);
                    inputs[PRIOR + k] =
                        stretch(u32::from(learned.priors[k][entries[k]] >> 4)) as i16;
                }
            }
            let mut seen = [0; MODELS];
            for (k, g) in guesses.iter().enumerate() {
                seen[k] = (k * 32 + g.bucket) * LEVELS + level;
                let odds = stretch(u32::from(learned.seen[seen[k]] >> 4)) as i16;
                let one = g.code >> below & 1 == 1;
                inputs[MATCH + k] = if !g.live {
                    0
                } else if one {
                    odds
                } else {
                    -odds
                };
            }
            let state = match_state(&guesses, below);

            // ---- mixing
            let decisions = if level < 9 {
                prefix as usize
            } else {
                512 + (prefix as usize >> (level - 8)) % 512
            };
            let rows = [
                FIRST[0] + (level * MATCHES + state) % ROWS[0],
                FIRST[1]
                    + (last_byte * (LEVELS / LEVELS_TOGETHER) + level / LEVELS_TOGETHER) % ROWS[1],
                FIRST[2] + decisions % ROWS[2],
                FIRST[3] + (level * TRUST + trust) % ROWS[3],
            ];
            let mut sums = [0; SETS];
            for k in 0..SETS {
                let row = &learned.rows[rows[k]].0;
                let mut sum = 0i32;
                for j in 0..INPUTS {
                    sum = sum.wrapping_add(i32::from(inputs[j]) * i32::from(row[j]));
                }
                sums[k] = (sum >> 14).clamp(-LIMIT, LIMIT);
            }
            let last = &mut learned.last[level * MATCHES + state];
            let mixed: i64 = (0..SETS)
                .map(|k| i64::from(last[k]) * i64::from(sums[k]))
                .sum();
            let mixed = (mixed >> 16).clamp(-i64::from(LIMIT), i64::from(LIMIT)) as i32;
            let p_mixed = squash(mixed);

            // ---- adaptive probability maps
            let (point, part) = ((mixed + 6144) as usize >> 9, (mixed + 6144) & 511);
            let apm_rows = [
                (level * MATCHES + state) % APM_ROWS[0],
                (level * 256 + last_byte) % APM_ROWS[1],
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
            }
            for k in 0..SETS {
                let step =
                    i64::from(target - p_mixed) * i64::from(sums[k]) + (1 << (LAST_SHIFT - 1));
                last[k] = last[k].wrapping_add((step >> LAST_SHIFT) as i32);
                let error = (((target - squash(sums[k])) * RATES[usize::from(F::LIVE)]) >> 8)
                    .clamp(-32767, 32767);
                let row = &mut learned.rows[rows[k]].0;
                for j in 0..INPUTS {
                    let step = (i32::from(inputs[j]) * error + 0x4000) >> 15;
                    row[j] = row[j].saturating_add(step as i16);
                }
            }
            let goal = if bit == 1 { 4095 } else { 0 };
            for j in 0..CONTEXTS {
                let v = &mut nodes[j][node & 15];
                let (p, n) = (i32::from(*v >> 4), *v & 15);
                let p = p + (((goal - p) * NODE_RATE[usize::from(n)] + 0x8000) >> 16);
                *v = (p as u16) << 4 | (n + 1).min(15);
                approach(
                    &mut learned.maps[j][usize::from(cells[j]) % CELLS],
                    bit,
                    MAP_SHIFT,
                );
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
        }
        self.slots.put(&found, &nodes);
        prefix - (1 << depth)
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
