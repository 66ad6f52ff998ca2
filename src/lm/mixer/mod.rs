//! Online mixing of the model's prediction with what the chunk has taught.
//!
//! A token is coded as the bits of its code, the highest first. For every bit
//! there is a probability from
//!
//! * the language model, if there is one, as the share of the codes with a one
//!   among those that the earlier bits have left;
//! * adaptive [contexts](v1): in each, the chunk's own history of this very
//!   decision, as a probability and a count; both the probability itself, and
//!   what such a state has turned out to mean so far;
//! * two match models.
//!
//! They meet in the logistic domain: sets of weights, each chosen by another
//! aspect of the situation, make one sum each, a final mixer makes one of
//! those, and adaptive maps correct it. Every part learns from every bit (the
//! way of paq and lpaq, by M. Mahoney, on tokens instead of bytes).
//!
//! All arithmetic is of integers with defined rounding and wrapping: encoder
//! and decoder see the same probabilities on every machine. Statistics begin
//! empty in every chunk; weights and maps begin as a [`MixerStart`], which is
//! trained and belongs to the model.
//!
//! The tokens of a chunk are cut into lanes, consecutive parts of which the
//! first `n % lanes` are one token longer. They take turns: the first token of
//! every lane, the second of every lane, ... A lane's contexts are of its own
//! text; statistics, weights and match models are of all.
//!
//! Two versions of this exist, [`v0`] as it was once and for ever, and [`v1`],
//! which codes new chunks. [`Mixer`] is either.

mod foresight;
mod head;
mod mix;
mod slots;
mod start;
mod tables;
#[cfg(test)]
mod tests;
mod v0;
mod v1;

use std::sync::Arc;

pub use foresight::{Blind, Cdf, Foresight, Way};
pub use head::{Head, lane_lengths};
pub(super) use mix::{Room, collect};
pub use mix::{decode_mix, encode_mix};
pub use start::{Learned, MixerStart, Start};
pub(super) use tables::log_odds;
pub use v1::Learned as Newest;

use super::coder::BitCoder;
use super::vocabulary::Vocabulary;
use crate::kernel::Width;

/// The most lanes of a chunk.
pub const MAX_LANES: usize = 64;

/// Bits of a code at most.
pub const LEVELS: usize = 18;

/// The versions of the mixer, as frames number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Version {
    V0 = 0,
    V1 = 1,
}

/// Codes the tokens of one chunk after another.
pub struct Mixer {
    start: MixerStart,
    vocabulary: Arc<Vocabulary>,
    width: Width,
    v1: v1::Mixer,
    /// Made when the first chunk needs it.
    v0: Option<Box<v0::Mixer>>,
    version: Version,
}

impl Mixer {
    pub fn new(start: MixerStart, vocabulary: Arc<Vocabulary>) -> Self {
        Mixer {
            v1: v1::Mixer::new(start.v1(), vocabulary.clone()),
            start,
            vocabulary,
            width: Width::best(),
            v0: None,
            version: Version::V1,
        }
    }

    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// The version that new chunks are coded with.
    pub fn newest(&self) -> Version {
        self.start.version()
    }

    /// What the newest version learned so far, and from now on: for training.
    pub fn learned_mut(&mut self) -> &mut Newest {
        self.v1.learned_mut()
    }

    /// Another width of registers: for tests, the results are the same.
    pub fn set_width(&mut self, width: Width) {
        self.width = width;
    }

    /// Begins a chunk, beside a model (`live`) or without.
    pub fn begin(&mut self, head: &Head, live: bool) {
        self.version = head.version;
        match head.version {
            Version::V0 => {
                let (start, vocabulary) = (&self.start, &self.vocabulary);
                let make = || Box::new(v0::Mixer::new(start.v0(), vocabulary.clone()));
                let mixer = self.v0.get_or_insert_with(make);
                mixer.begin(head.lanes, head.tokens, live);
            }
            Version::V1 => self.v1.begin(head, live),
        }
    }

    /// As [`begin`](Self::begin), but the newest version goes on with what it
    /// learned before.
    pub fn begin_with_learned(&mut self, head: &Head) {
        self.version = Version::V1;
        self.v1.begin_with_learned(head);
    }

    /// The bytes that a lane has coded in this chunk; none for what is no lane.
    pub fn text(&self, lane: usize) -> &[u8] {
        match (&self.v0, self.version) {
            (Some(v0), Version::V0) => v0.text(lane),
            _ => self.v1.text(lane),
        }
    }

    /// Codes the next token of a lane (below the number given to `begin`) and
    /// returns it. An encoder gives the token; a decoder gives anything. `cdf`
    /// is the model's: `vocabulary.len() + 1` sums of counts in code order.
    pub fn code(
        &mut self,
        lane: usize,
        token: u32,
        cdf: Option<&[u32]>,
        coder: &mut impl BitCoder,
    ) -> u32 {
        match cdf {
            Some(cdf) => self.code_with(lane, token, &Cdf(cdf), coder),
            None => self.code_with(lane, token, &Blind, coder),
        }
    }

    /// [`code`](Self::code) with any foresight.
    pub fn code_with<F: Foresight>(
        &mut self,
        lane: usize,
        token: u32,
        foresight: &F,
        coder: &mut impl BitCoder,
    ) -> u32 {
        match (&mut self.v0, self.version) {
            (Some(v0), Version::V0) => v0.code_with(self.width, lane, token, foresight, coder),
            _ => self.v1.code_with(self.width, lane, token, foresight, coder),
        }
    }
}
