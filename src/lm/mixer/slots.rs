//! The statistics of a chunk: a hash table of slots.

use crate::kernel::prefetch;

/// The nodes of four levels of decisions under one context: a binary tree of
/// 15 nodes, the root at 1, the children of `k` at `2 k` and `2 k + 1`. Number
/// 0 is the check that tells contexts apart.
///
/// A node is a probability of a one in 1/4096 (upper 12 bits) and a count of
/// visits up to 15.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub struct Slot(pub [u16; 16]);

/// A node that nothing is known of.
const FRESH: u16 = 2048 << 4;

impl Slot {
    pub const EMPTY: Slot = Slot([FRESH; 16]);
}

/// Two slots to a cache line, and either may hold what hashes to the line.
#[derive(Default)]
pub struct Slots {
    slots: Vec<Slot>,
    shift: u32,
}

impl Slots {
    /// Empties the table and gives it `2^bits` lines of 64 bytes.
    pub fn reset(&mut self, bits: u32) {
        self.slots.clear();
        self.slots.resize(2 << bits, Slot::EMPTY);
        self.shift = 32 - bits;
    }

    #[inline(always)]
    fn line(&self, hash: u32) -> usize {
        (hash >> self.shift) as usize * 2
    }

    #[inline(always)]
    pub fn prefetch(&self, hash: u32) {
        prefetch(&self.slots[self.line(hash)]);
    }

    /// The number of the slot of a context; where there is none, an empty one
    /// in the place of the less visited of its line.
    #[inline(always)]
    pub fn find(&mut self, hash: u32) -> u32 {
        let line = self.line(hash);
        let check = hash as u16 | 1;
        let pair = &mut self.slots[line..line + 2];
        if pair[0].0[0] == check {
            return line as u32;
        }
        if pair[1].0[0] == check {
            return line as u32 + 1;
        }
        let victim = usize::from(pair[1].0[1] & 15 < pair[0].0[1] & 15);
        pair[victim] = Slot::EMPTY;
        pair[victim].0[0] = check;
        (line + victim) as u32
    }

    #[inline(always)]
    pub fn get(&self, slot: u32) -> Slot {
        self.slots[slot as usize]
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
