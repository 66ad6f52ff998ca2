//! The distribution over the vocabulary, of which little is ever asked.

use std::cell::RefCell;

use super::steps::{BLOCK, Spread, TOTAL};

/// Sums of counts: [`at`](Self::at) is 0 for the first token, rises by at
/// least 1 each, and is [`TOTAL`] after the last one. Only sums over blocks of
/// tokens are kept; those within the block that was asked about last are made
/// when they are wanted.
pub struct Distribution<'a> {
    /// Powers of two, 30 bits after the point.
    powers: &'a [i32],
    /// The sums of the powers before each block, cut.
    before: &'a [u32],
    spread: Spread,
    inside: RefCell<Inside>,
}

struct Inside {
    block: usize,
    before: [u32; BLOCK],
}

impl<'a> Distribution<'a> {
    /// `sums` holds the sums of the blocks.
    pub(super) fn new(powers: &'a [i32], sums: &'a mut [u32], spread: Spread) -> Self {
        let mut running = 0; // at most all of them, below 2^31
        for sum in sums.iter_mut() {
            running += std::mem::replace(sum, running);
        }
        Distribution {
            powers,
            before: sums,
            spread,
            inside: RefCell::new(Inside {
                block: usize::MAX,
                before: [0; BLOCK],
            }),
        }
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.powers.len()
    }

    /// The counts of all tokens before this one; 2^28 from the last one on.
    #[inline(always)]
    pub fn at(&self, token: usize) -> u32 {
        if token >= self.powers.len() {
            return TOTAL;
        }
        let block = token / BLOCK;
        let mut sum = self.before[block];
        if !token.is_multiple_of(BLOCK) {
            sum += self.inside(block, token % BLOCK);
        }
        token as u32 + ((u64::from(sum) * self.spread.rate) >> 31) as u32
    }

    /// The powers of a block before the one at `place`.
    #[inline(always)]
    fn inside(&self, block: usize, place: usize) -> u32 {
        let mut inside = self.inside.borrow_mut();
        if inside.block != block {
            inside.block = block;
            let powers = self.powers[block * BLOCK..].iter();
            let mut running = 0;
            for (before, &power) in inside.before.iter_mut().zip(powers) {
                *before = running;
                running += power as u32 >> self.spread.cut;
            }
        }
        inside.before[place]
    }

    /// All sums: `out` has one entry more than there are tokens.
    pub fn write(&self, out: &mut [u32]) {
        for (token, out) in out.iter_mut().enumerate() {
            *out = self.at(token);
        }
    }
}
