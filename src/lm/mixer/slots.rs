//! The statistics of a chunk: a hash table of slots.

use super::tables::hash;
use crate::kernel::mixing::{FRESH, Mixing, Slot};
use crate::kernel::{Aligned, prefetch};

/// Two slots to a cache line, and either may hold what hashes to the line.
pub struct Slots {
    slots: Aligned<Slot>,
    shift: u32,
}

impl Default for Slots {
    /// Without room; see [`reset`](Self::reset).
    fn default() -> Self {
        Slots {
            slots: Aligned::new(0),
            shift: 31,
        }
    }
}

impl Slots {
    /// Empties the table and gives it `2^bits` lines of 64 bytes.
    pub fn reset(&mut self, bits: u32) {
        let count = 2 << bits;
        if self.slots.len() < count {
            self.slots = Aligned::new(count);
        }
        self.slots[..count].fill([FRESH; 16]);
        self.shift = 32 - bits;
    }

    #[inline(always)]
    fn line(&self, hash: u32) -> usize {
        (hash >> self.shift) as usize * 2
    }

    /// Asks for the lines of contexts after some decisions; their hashes.
    #[inline(always)]
    pub fn ask<const CONTEXTS: usize>(
        &self,
        contexts: &[u32; CONTEXTS],
        decisions: u32,
    ) -> [u32; CONTEXTS] {
        let mut hashes = [0; CONTEXTS];
        for (h, &context) in hashes.iter_mut().zip(contexts) {
            *h = hash(context, decisions);
        }
        for &h in &hashes {
            self.prefetch(h);
        }
        hashes
    }

    #[inline(always)]
    pub fn prefetch(&self, hash: u32) {
        prefetch(&self.slots[self.line(hash)]);
    }

    /// The number of the slot of a context, and the slot; where there is none, an
    /// empty one in the place of the less visited of its line.
    #[inline(always)]
    pub fn find(&mut self, mixing: impl Mixing, hash: u32) -> (u32, Slot) {
        let line = self.line(hash);
        let check = hash as u16 | 1;
        let pair = &mut self.slots[line..line + 2];
        // without branches: nobody could foresee them
        let (first, second) = (pair[0][0] == check, pair[1][0] == check);
        let less = pair[1][1] & 15 < pair[0][1] & 15;
        let place = usize::from(!first & (second | less));
        let slot = mixing.claim(&mut pair[place], check, first | second);
        ((line + place) as u32, slot)
    }

    /// Changes a node, from 1 to 15.
    #[inline(always)]
    pub fn set(&mut self, slot: u32, node: usize, to: u16) {
        self.slots[slot as usize][node & 15] = to;
    }

    /// Puts slots back after their nodes have learned. Where two contexts have
    /// come to share one, the later stays.
    #[inline(always)]
    pub fn put<const CONTEXTS: usize>(&mut self, at: &[u32; CONTEXTS], slots: &[Slot; CONTEXTS]) {
        for (&at, slot) in at.iter().zip(slots) {
            self.slots[at as usize] = *slot;
        }
    }
}
