//! The steps of the mixer that fill wide registers.
//!
//! [`Plain`] is the specification, in loops that a compiler can widen; another
//! implementation gives the same bits. What each step is for: docs/mixer.md.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;

/// Contexts for which there is room.
pub const CONTEXTS: usize = 24;
/// Sets of weights.
pub const SETS: usize = 6;
/// Inputs of a sum: for each context what its node's state has meant, in the
/// first lanes of the first half, and what the node says itself, in those of the
/// second; [`OTHERS`] follow the first.
pub const INPUTS: usize = 64;
/// Inputs that do not come from contexts, from input [`CONTEXTS`] on.
pub const OTHERS: usize = 8;
/// States of a node that a map tells apart: 16 counts, 32 probabilities.
pub const CELLS: usize = 512;

/// Sums lie within this bound.
const LIMIT: i32 = 12 * 512 - 1;
/// A sum of products with weights of which 1.0 is 2^14.
const SUM_SHIFT: u32 = 14;
/// Maps learn at a rate of 2^-6, final mixers of 2^-9 (of probabilities in
/// 1/65536, for weights of which 1.0 is 65536).
const MAP_SHIFT: u32 = 6;
const LAST_SHIFT: u32 = 18;

/// The nodes of four levels of decisions under one context: a binary tree of
/// 15 nodes, the root at 1, the children of `k` at `2 k` and `2 k + 1`. Number
/// 0 is the check that tells contexts apart.
///
/// A node is a probability of a one in 1/4096 (upper 12 bits) and a count of
/// visits up to 15.
pub type Slot = [u16; 16];

/// A node that nothing is known of.
pub const FRESH: u16 = 2048 << 4;

/// Slots as their contexts found them.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Slots(pub [Slot; CONTEXTS]);

/// A number for each context, and room to fill a register.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Lanes(pub [u16; 32]);

/// For each context a node and its sister, the sister in the upper half.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Sisters([u32; CONTEXTS]);

/// Weights, or inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct Row(pub [i16; INPUTS]);

/// Weights of a final mixer, or sums; the last two are nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(32))]
pub struct Sums(pub [i32; 8]);

/// Probabilities of a one in 1/65536 by state, for each context.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Maps {
    pub of: [[u16; CELLS]; CONTEXTS],
    /// See [`Tables`].
    pub end: u16,
}

/// What never changes. Tables that are looked up end with an entry that no index
/// means, so that four bytes can be read anywhere.
#[derive(Debug)]
pub struct Tables {
    /// Logarithms of odds by probability in 1/4096.
    pub stretch: [i16; 4096 + 1],
    /// The inverse in 1/65536, by a quarter of the distance from -6144.
    pub squash: [u16; 3072 + 1],
    /// How far a node moves by its count, in 1/65536.
    pub rates: [u16; 16],
}

/// What the nodes of a decision say.
#[derive(Debug)]
pub struct Read {
    /// The cell of its map that each context's node stands for.
    pub cells: Lanes,
    /// What the maps have there.
    pub found: Lanes,
    /// Contexts that have been here before.
    pub known: usize,
}

/// The steps.
pub trait Mixing: Copy {
    /// Makes a slot that of a context: it stays as it is if it is `known`.
    #[inline(always)]
    fn claim(self, slot: &mut Slot, check: u16, known: bool) -> Slot {
        let keep = 0u16.wrapping_sub(u16::from(known));
        for v in slot.iter_mut() {
            *v = (*v & keep) | (FRESH & !keep);
        }
        slot[0] = check;
        *slot
    }

    /// The children of a node (from 0 to 7; 0 has the root as its second one).
    #[inline(always)]
    fn children(self, slots: &Slots, node: usize) -> Sisters {
        let mut out = Sisters([0; CONTEXTS]);
        for (o, slot) in out.0.iter_mut().zip(&slots.0) {
            let at = (2 * node) & 14;
            *o = u32::from(slot[at]) | u32::from(slot[at + 1]) << 16;
        }
        out
    }

    /// One of two sisters.
    #[inline(always)]
    fn choose(self, sisters: &Sisters, second: bool) -> Lanes {
        let mut out = Lanes([0; 32]);
        for (o, pair) in out.0.iter_mut().zip(&sisters.0) {
            *o = (pair >> if second { 16 } else { 0 }) as u16;
        }
        out
    }

    /// The inputs of a decision. A node that nobody visited has meant nothing.
    #[inline(always)]
    fn read(
        self,
        tables: &Tables,
        nodes: &Lanes,
        maps: &Maps,
        others: [i16; OTHERS],
        inputs: &mut Row,
    ) -> Read {
        let (mut cells, mut found) = (Lanes([0; 32]), Lanes([0; 32]));
        let mut known = 0;
        for (j, map) in maps.of.iter().enumerate() {
            let v = nodes.0[j];
            let (p, n) = (tables.stretch[usize::from(v >> 4)], v & 15);
            let cell = n * 32 + (((p * 7) >> 11) + 16) as u16;
            let was = map[usize::from(cell) % CELLS];
            let meant = tables.stretch[usize::from(was >> 4)];
            (cells.0[j], found.0[j]) = (cell, was);
            known += usize::from(n > 0);
            inputs.0[j] = if n > 0 { meant } else { 0 };
            inputs.0[INPUTS / 2 + j] = p;
        }
        inputs.0[CONTEXTS..INPUTS / 2].copy_from_slice(&others);
        Read {
            cells,
            found,
            known,
        }
    }

    /// One sum for each set of weights.
    #[inline(always)]
    fn sums(self, rows: [&Row; SETS], inputs: &Row) -> Sums {
        let mut sums = Sums([0; 8]);
        for (out, row) in sums.0.iter_mut().zip(rows) {
            let mut sum = 0i32;
            for (&w, &x) in row.0.iter().zip(&inputs.0) {
                sum = sum.wrapping_add(i32::from(w) * i32::from(x));
            }
            *out = (sum >> SUM_SHIFT).clamp(-LIMIT, LIMIT);
        }
        sums
    }

    /// The sum of sums of a final mixer.
    #[inline(always)]
    fn mix(self, weights: &Sums, sums: &Sums) -> i32 {
        let pairs = weights.0.iter().zip(&sums.0);
        let sum: i64 = pairs.map(|(&w, &s)| i64::from(w) * i64::from(s)).sum();
        (sum >> 16).clamp(-i64::from(LIMIT), i64::from(LIMIT)) as i32
    }

    /// Has a final mixer learn from its error, in 1/65536.
    #[inline(always)]
    fn learn_last(self, weights: &mut Sums, sums: &Sums, error: i32) {
        for (w, &sum) in weights.0.iter_mut().zip(&sums.0) {
            // the product is below 2^16 times 2^13
            *w = w.wrapping_add((error * sum + (1 << (LAST_SHIFT - 1))) >> LAST_SHIFT);
        }
    }

    /// Has rows of weights learn from the errors of their sums. `target` is the
    /// bit in 1/65536, `rate` less than 2^12.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    fn learn(
        self,
        tables: &Tables,
        rows: &mut [Row],
        at: &[usize; SETS],
        inputs: &Row,
        sums: &Sums,
        target: i32,
        rate: i32,
    ) {
        for (&at, &sum) in at.iter().zip(&sums.0) {
            let p = i32::from(tables.squash[(sum + 6144) as usize >> 2]);
            let error = (((target - p) * rate) >> 8).clamp(-32767, 32767) as i16;
            for (w, &x) in rows[at].0.iter_mut().zip(&inputs.0) {
                let step = (i32::from(x) * i32::from(error) + 0x4000) >> 15;
                *w = w.saturating_add(step as i16);
            }
        }
    }

    /// What nodes become by a visit; maps learn what their states have meant.
    #[inline(always)]
    fn visit(
        self,
        tables: &Tables,
        nodes: &Lanes,
        read: &Read,
        maps: &mut Maps,
        bit: bool,
    ) -> Lanes {
        let mut out = Lanes([0; 32]);
        let (goal, end) = if bit { (4095, 65535) } else { (0, 0) };
        for (j, map) in maps.of.iter_mut().enumerate() {
            let v = nodes.0[j];
            let (p, n) = (i32::from(v >> 4), v & 15);
            let rate = i32::from(tables.rates[usize::from(n)]);
            let p = p + (((goal - p) * rate + 0x8000) >> 16);
            out.0[j] = (p as u16) << 4 | (n + 1).min(15);
            let was = i32::from(read.found.0[j]);
            let cell = usize::from(read.cells.0[j]) % CELLS;
            map[cell] = (was + ((end - was) >> MAP_SHIFT)) as u16;
        }
        out
    }
}

/// The loops above.
#[derive(Clone, Copy)]
pub struct Plain;

impl Mixing for Plain {}
