//! Online mixing of the model's prediction with what the chunk has taught.

use super::coder::BitCoder;
use super::vocabulary::Vocabulary;

pub struct Mixer {
    depth: u32,
    len: usize,
}
impl Mixer {
    pub fn new(v: &Vocabulary) -> Self {
        Mixer {
            depth: v.depth(),
            len: v.len(),
        }
    }
    pub fn begin(&mut self, _lanes: usize, _tokens: usize) {}
    pub fn code<C: BitCoder>(
        &mut self,
        _lane: usize,
        token: u32,
        cdf: Option<&[u32]>,
        coder: &mut C,
    ) -> u32 {
        let (mut lo, mut hi) = (0usize, 1usize << self.depth);
        let at = |i: usize| u64::from(cdf.map_or(i as u32, |c| c[i.min(self.len)]));
        for d in (0..self.depth).rev() {
            let mid = (lo + hi) / 2;
            let bit = if mid >= self.len {
                0
            } else {
                let (a, b, c) = (at(lo), at(mid), at(hi));
                let p = (((c - b) << 16) / (c - a)).clamp(1, 65535) as u32;
                coder.code(token >> d & 1, p)
            };
            if bit == 1 { lo = mid } else { hi = mid }
        }
        lo as u32
    }
}
