//! What is foreseen of the next token before the chunk's own statistics speak.

use super::tables::log_odds;

/// A distribution of the next token, asked decision by decision.
pub trait Foresight {
    /// Whether there is any.
    const LIVE: bool;

    /// Odds, in the logistic domain, of the codes `mid..hi` against `lo..mid`:
    /// of a one at this level.
    fn odds(&self, level: usize, lo: usize, mid: usize, hi: usize) -> i32;
}

/// Nothing is foreseen.
pub struct Blind;

impl Foresight for Blind {
    const LIVE: bool = false;

    #[inline(always)]
    fn odds(&self, _: usize, _: usize, _: usize, _: usize) -> i32 {
        0
    }
}

/// Sums of the counts of all codes below each, from the language model.
pub struct Cdf<'a>(pub &'a [u32]);

impl Foresight for Cdf<'_> {
    const LIVE: bool = true;

    #[inline(always)]
    fn odds(&self, _: usize, lo: usize, mid: usize, hi: usize) -> i32 {
        let at = |i: usize| self.0.get(i).copied().unwrap_or(0);
        let (lo, mid, hi) = (at(lo), at(mid), at(hi));
        log_odds(hi.wrapping_sub(mid), mid.wrapping_sub(lo))
    }
}

/// The odds along the way of one known token, kept from an earlier
/// [`Cdf`]: for training, which goes over a text several times.
pub struct Way(pub [i16; super::LEVELS]);

impl Way {
    /// The way to `code`.
    pub fn new(cdf: &[u32], code: u32, depth: usize) -> Way {
        let (mut way, vocabulary) = ([0; super::LEVELS], cdf.len().saturating_sub(1));
        for (level, odds) in way.iter_mut().enumerate().take(depth) {
            let below = depth - level - 1;
            let lo = code as usize >> (below + 1) << (below + 1);
            let mid = lo + (1 << below);
            if mid < vocabulary {
                let hi = (mid + (1 << below)).min(vocabulary);
                *odds = Cdf(cdf).odds(level, lo, mid, hi) as i16;
            }
        }
        Way(way)
    }
}

impl Foresight for Way {
    const LIVE: bool = true;

    #[inline(always)]
    fn odds(&self, level: usize, _: usize, _: usize, _: usize) -> i32 {
        i32::from(self.0[level])
    }
}
