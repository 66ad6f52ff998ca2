//! Online mixing of the model's prediction with what the chunk has taught.

mod lane;
mod learned;
mod slots;
mod tables;

use crate::kernel::{Width, wide};
use crate::lm::coder::BitCoder;
use lane::{CONTEXTS, Lane};
pub use learned::Learned;
use learned::{CELLS, INPUTS, MATCHES, ROW, SETS};
use slots::Slots;
use tables::{LIMIT, hash, log_odds, squash, stretch};

/// Where the next token is foreseen: the odds of a one at a node.
pub trait Foresight {
    const LIVE: bool;
    /// Log odds, in the logistic domain, of `mid..hi` against `lo..mid` at a level.
    fn odds(&self, level: usize, lo: usize, mid: usize, hi: usize) -> i32;
}

/// No model.
pub struct Blind;

impl Foresight for Blind {
    const LIVE: bool = false;
    #[inline(always)]
    fn odds(&self, _: usize, _: usize, _: usize, _: usize) -> i32 {
        0
    }
}

/// The model's cumulative frequencies, in code order.
pub struct Cdf<'a>(pub &'a [u32]);

impl Foresight for Cdf<'_> {
    const LIVE: bool = true;
    #[inline(always)]
    fn odds(&self, _: usize, lo: usize, mid: usize, hi: usize) -> i32 {
        let at = |i: usize| self.0.get(i).copied().unwrap_or(0);
        log_odds(at(hi).wrapping_sub(at(mid)), at(mid).wrapping_sub(at(lo)))
    }
}

/// Follows one earlier place of the text.
#[derive(Clone, Copy, Default)]
struct Match {
    /// The token foreseen is `history[at]`; 0: none.
    at: u32,
    length: u32,
}

pub struct Mixer {
    pub learned: Learned,
    slots: Slots,
    lanes: Vec<Lane>,
    /// Number of each lane's first token, and one past the last.
    starts: Vec<u32>,
    /// All tokens as code + 1 by number; 0 where not yet coded. Number 0 is
    /// unused.
    history: Vec<u32>,
    matches: Vec<[Match; 2]>,
    /// Where a hash of the last tokens was seen last.
    heads: [Vec<u32>; 2],
    vocabulary: usize,
    depth: usize,
    width: Width,
    rates: Rates,
}

/// Tunables, for experiments.
#[derive(Clone, Copy)]
pub struct Rates {
    pub v: [i32; 16],
}

const MATCH_TOKENS: [u32; 2] = [5, 2];

/// Rates of a node by its count, in 1/65536: 1 / (n + 1.5), held above 1/30.
static NODE_RATE: [i32; 16] = {
    let mut rate = [0; 16];
    let mut n = 0;
    while n < 16 {
        rate[n] = 131072 / (2 * n as i32 + 3);
        n += 1;
    }
    rate[12] = 65536 / 15;
    rate[13] = 65536 / 18;
    rate[14] = 65536 / 22;
    rate[15] = 65536 / 28;
    rate
};

impl Mixer {
    pub fn new(vocabulary: usize, depth: usize) -> Self {
        Mixer {
            learned: Learned::untrained(),
            slots: Slots::default(),
            lanes: Vec::new(),
            starts: Vec::new(),
            history: Vec::new(),
            matches: Vec::new(),
            heads: [vec![], vec![]],
            vocabulary,
            depth,
            width: Width::best(),
            rates: Rates { v: [0; 16] },
        }
    }

    pub fn set_rates(&mut self, v: [i32; 16]) {
        self.rates.v = v;
    }

    pub fn begin(&mut self, lanes: usize, tokens: usize, table_bits: u32) {
        self.slots.reset(table_bits);
        self.lanes.iter_mut().for_each(Lane::clear);
        self.lanes.resize_with(lanes, Lane::default);
        self.starts.clear();
        let mut at = 1;
        for l in 0..lanes {
            self.starts.push(at);
            at += (tokens / lanes + usize::from(l < tokens % lanes)) as u32;
        }
        self.starts.push(at);
        self.history.clear();
        self.history.resize(at as usize + 1, 0);
        self.matches.clear();
        self.matches.resize(lanes, [Match::default(); 2]);
        for h in &mut self.heads {
            h.clear();
            h.resize(1 << 16, 0);
        }
    }

    /// Codes the next token of a lane and returns it.
    pub fn code_with<C: BitCoder, F: Foresight>(&mut self, lane: usize, token: u32, bytes_of: impl Fn(u32) -> (usize, [u8; 64]), foresight: &F, coder: &mut C) -> u32 {
        let width = self.width;
        let code = wide(width, || self.decide(lane, token, foresight, coder));
        let (n, b) = bytes_of(code);
        self.lanes[lane].push(code, &b[..n]);
        code
    }

    /// Finds what the match models foresee.
    #[inline(always)]
    fn find_matches(&mut self, lane: usize, at: u32) {
        let recent = self.lanes[lane].recent;
        let step = at - self.starts[lane];
        for k in 0..2 {
            let m = &mut self.matches[lane][k];
            if m.at != 0 && self.history[m.at as usize] == recent[0] && self.history[m.at as usize + 1] != 0 {
                m.at += 1;
                m.length = (m.length + 1).min(65535);
            } else {
                *m = Match::default();
            }
            let need = MATCH_TOKENS[k];
            if step >= need {
                let mut h = 0;
                for &t in &recent[..need as usize] {
                    h = hash(h, t);
                }
                let head = &mut self.heads[k][(h >> 16) as usize];
                if m.at == 0 && *head != 0 {
                    let c = *head;
                    let mut length = 0;
                    while length < 32 && length < step && self.history[(c - 1 - length) as usize] == self.history[(at - 1 - length) as usize] {
                        length += 1;
                    }
                    if length >= need.min(3) && self.history[c as usize] != 0 {
                        *m = Match { at: c, length };
                    }
                }
                *head = at;
            }
        }
        let m = &mut self.matches[lane];
        if m[1].at == m[0].at {
            m[1].at = 0;
        }
    }

    #[inline(always)]
    fn decide<C: BitCoder, F: Foresight>(&mut self, lane: usize, token: u32, foresight: &F, coder: &mut C) -> u32 {
        let step = self.lanes[lane].count;
        let at = self.starts[lane] + step;
        self.find_matches(lane, at);
        let guess = self.history[self.matches[lane][0].at as usize];
        let contexts = self.lanes[lane].contexts(hash(guess, self.matches[lane][0].length.min(20)));
        for &c in &contexts {
            self.slots.prefetch(hash(c, 1));
        }
        let last_byte = usize::from(self.lanes[lane].last_byte());
        let column = self.lanes[lane].column().min(7);
        let guesses = self.matches[lane].map(|m| self.history[m.at as usize].wrapping_sub(1));
        let mut live = self.matches[lane].map(|m| m.at != 0);
        let lengths = self.matches[lane].map(|m| if m.length < 16 { m.length as usize } else { (16 + (m.length as usize - 16) / 8).min(31) });
        let [rate, last_shift, apm_rate, map_rate, cmask, smask, kinds, limit, surprise, ..] = self.rates.v;

        let mut slot = [0u32; CONTEXTS];
        let mut node = 1u32; // in the group of four levels
        let mut prefix = 1u32; // all decisions so far, under a leading one
        let mut inputs = [0i16; INPUTS];
        let (mut ix, mut st) = ([0u16; CONTEXTS], [0u16; CONTEXTS]);
        for level in 0..self.depth {
            let below = self.depth - level - 1;
            let lo = ((prefix as usize) << (below + 1)) - (1 << self.depth);
            let mid = lo + (1 << below);
            if level % 4 == 0 {
                for j in 0..CONTEXTS {
                    if cmask >> j & 1 != 0 { continue; }
                    slot[j] = self.slots.find(hash(contexts[j], prefix));
                }
                node = 1;
            }
            if mid >= self.vocabulary {
                prefix *= 2;
                node *= 2;
                continue;
            }

            // ---- inputs
            let lm = if F::LIVE { foresight.odds(level, lo, mid, (mid + (1 << below)).min(self.vocabulary)) } else { 0 };
            let mut order = 0;
            for j in 0..CONTEXTS {
                if cmask >> j & 1 != 0 { continue; }
                let v = self.slots.node(slot[j], node);
                st[j] = v;
                let (p, n) = (u32::from(v >> 4), usize::from(v & 15));
                let s = stretch(p);
                let cell = n * 32 + ((s * 7 >> 11) + 16) as usize;
                ix[j] = cell as u16;
                let m = self.learned.maps[j][cell & (CELLS - 1)];
                order += usize::from(n > 0 && (1..6).contains(&j));
                inputs[j] = if n > 0 { stretch(u32::from(m >> 4)) as i16 } else { 0 };
                inputs[CONTEXTS + j] = s as i16;
                inputs[2 * CONTEXTS + j] = if n > 0 { ((i32::from(m) - 32768) >> 4) as i16 } else { 0 };
            }
            inputs[3 * CONTEXTS] = lm as i16;
            let mut state = 0;
            let mut cells = [0usize; 2];
            for k in 0..2 {
                cells[k] = if k == 0 { lengths[k] } else { 32 + lengths[k].min(15) + 16 * level };
                inputs[3 * CONTEXTS + 1 + k] = 0;
                if live[k] {
                    let g = guesses[k] >> below & 1;
                    let x = stretch(u32::from(self.learned.seen[cells[k]] >> 4));
                    inputs[3 * CONTEXTS + 1 + k] = if g == 1 { x } else { -x } as i16;
                    if k == 0 {
                        state = if lengths[0] >= 16 { 3 } else if lengths[0] >= 6 { 2 } else { 1 } * 3;
                    } else {
                        state += if live[0] && guesses[0] >> below & 1 != g { 2 } else { 1 };
                    }
                }
            }
            inputs[INPUTS - 1] = 256;
            if kinds & 1 != 0 { inputs[..CONTEXTS].fill(0); }
            if kinds & 2 != 0 { inputs[CONTEXTS..2 * CONTEXTS].fill(0); }
            if kinds & 4 != 0 { inputs[2 * CONTEXTS..3 * CONTEXTS].fill(0); }

            // ---- weights
            let lm_state = if F::LIVE { (lm.unsigned_abs() as usize / 320).min(19) } else { column };
            let rows = [
                ROW[0] + level * MATCHES + state,
                ROW[1] + last_byte * 5 + (level / 3).min(4),
                ROW[2] + level * 16 + order,
                ROW[3] + level * 24 + lm_state,
                ROW[4] + if level < 9 { prefix as usize } else { 512 + (prefix as usize >> (level - 8)) % 512 },
            ];
            let mut x = [0i32; SETS];
            for k in 0..SETS {
                if smask >> k & 1 != 0 { continue; }
                let w = &self.learned.rows[rows[k]].0;
                let mut sum = 0i32;
                for j in 0..INPUTS {
                    sum = sum.wrapping_add(i32::from(inputs[j]) * i32::from(w[j]));
                }
                x[k] = (sum >> 14).clamp(-LIMIT, LIMIT);
            }
            let last = &mut self.learned.last[level * MATCHES + state];
            let mut mixed = 0i32;
            for k in 0..SETS {
                mixed = mixed.wrapping_add(((i64::from(last[k]) * i64::from(x[k])) >> 16) as i32);
            }
            let mixed = mixed.clamp(-LIMIT, LIMIT);
            let pm = squash(mixed);

            // ---- adaptive probability maps
            let pos = mixed + 12 * 512;
            let (a, fr) = ((pos >> 9) as usize, pos & 511);
            let apm_rows = [level * MATCHES + state, level * 256 + last_byte];
            let mut p = 2 * pm;
            for k in 0..2 {
                let t = &self.learned.apms[k][apm_rows[k]];
                p += (i32::from(t[a]) * (512 - fr) + i32::from(t[a + 1]) * fr) >> 9;
            }
            let p = (p >> 2).clamp(1, 65535);

            let bit = coder.code(token >> below & 1, p as u32);

            // ---- learning
            let target = (bit as i32) << 16;
            for k in 0..2 {
                let t = &mut self.learned.apms[k][apm_rows[k]];
                let cell = &mut t[a + usize::from(fr >= 256)];
                *cell = (i32::from(*cell) + ((target - bit as i32 - i32::from(*cell)) >> apm_rate)) as u16;
            }
            let e_last = target - pm;
            for k in 0..SETS {
                last[k] += (e_last * (x[k] >> 2) + (1 << (last_shift - 3))) >> (last_shift - 2);
                if smask >> k & 1 != 0 { continue; }
                let e = ((target - squash(x[k])) * rate) >> 8;
                let e = e.clamp(-32768, 32767);
                let w = &mut self.learned.rows[rows[k]].0;
                for j in 0..INPUTS {
                    let delta = (i32::from(inputs[j]) * e + 0x4000) >> 15;
                    w[j] = w[j].saturating_add(delta as i16);
                }
            }
            for j in 0..CONTEXTS {
                if cmask >> j & 1 != 0 { continue; }
                let v = st[j];
                let (p, n) = (i32::from(v >> 4), v & 15);
                let goal = -(bit as i32) & 4095;
                let q = p + (((goal - p) * NODE_RATE[usize::from(n)] + 0x8000) >> 16);
                let mut n = (n + 1).min(limit as u16);
                if surprise > 0 && (goal - p).abs() > 3500 { n = n.min(surprise as u16); }
                *self.slots.node_mut(slot[j], node) = (q as u16) << 4 | n;
                let m = &mut self.learned.maps[j][usize::from(ix[j]) & (CELLS - 1)];
                *m = (i32::from(*m) + ((target - bit as i32 - i32::from(*m)) >> map_rate)) as u16;
            }
            for k in 0..2 {
                if live[k] {
                    let right = guesses[k] >> below & 1 == bit;
                    let s = &mut self.learned.seen[cells[k]];
                    *s = (i32::from(*s) + (((i32::from(right) * 65535) - i32::from(*s)) >> 6)) as u16;
                    live[k] = right;
                }
            }
            prefix = prefix * 2 + bit;
            node = node * 2 + bit;
        }
        let code = prefix - (1 << self.depth);
        self.history[at as usize] = code + 1;
        code
    }
}
