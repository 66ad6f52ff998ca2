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

impl Version {
    /// All, from the oldest.
    pub const ALL: [Version; 2] = [Version::V0, Version::V1];
}

/// Codes the tokens of one chunk after another.
pub struct Mixer {
    start: MixerStart,
    vocabulary: Arc<Vocabulary>,
    width: Width,
    /// Of the version of the last chunk: those of one model are of one version.
    of: Versioned,
}

enum Versioned {
    V0(Box<v0::Mixer>),
    V1(Box<v1::Mixer>),
}

impl Versioned {
    fn new(version: Version, start: &MixerStart, vocabulary: &Arc<Vocabulary>) -> Self {
        let vocabulary = vocabulary.clone();
        match version {
            Version::V0 => Versioned::V0(Box::new(v0::Mixer::new(start.v0(), vocabulary))),
            Version::V1 => Versioned::V1(Box::new(v1::Mixer::new(start.v1(), vocabulary))),
        }
    }

    fn version(&self) -> Version {
        match self {
            Versioned::V0(_) => Version::V0,
            Versioned::V1(_) => Version::V1,
        }
    }
}

impl Mixer {
    pub fn new(start: MixerStart, vocabulary: Arc<Vocabulary>) -> Self {
        Mixer {
            of: Versioned::new(start.version(), &start, &vocabulary),
            start,
            vocabulary,
            width: Width::best(),
        }
    }

    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// The version that new chunks are coded with.
    pub fn newest(&self) -> Version {
        self.start.version()
    }

    /// What version 1 learned so far, and from now on: for training.
    pub fn learned_mut(&mut self) -> &mut Newest {
        self.v1().learned_mut()
    }

    fn v1(&mut self) -> &mut v1::Mixer {
        self.turn(Version::V1);
        match &mut self.of {
            Versioned::V1(mixer) => mixer,
            // just turned
            Versioned::V0(_) => unreachable!("another version of the mixer"),
        }
    }

    fn turn(&mut self, version: Version) {
        if self.of.version() != version {
            self.of = Versioned::new(version, &self.start, &self.vocabulary);
        }
    }

    /// Another width of registers: for tests, the results are the same.
    pub fn set_width(&mut self, width: Width) {
        self.width = width;
    }

    /// Begins a chunk, beside a model (`live`) or without.
    pub fn begin(&mut self, head: &Head, live: bool) {
        self.turn(head.version);
        match &mut self.of {
            Versioned::V0(mixer) => mixer.begin(head.lanes, head.tokens, live),
            Versioned::V1(mixer) => mixer.begin(head, live),
        }
    }

    /// As [`begin`](Self::begin), but version 1 goes on with what it learned
    /// before.
    pub fn begin_with_learned(&mut self, head: &Head) {
        self.v1().begin_with_learned(head);
    }

    /// The bytes that a lane has coded in this chunk; none for what is no lane.
    pub fn text(&self, lane: usize) -> &[u8] {
        match &self.of {
            Versioned::V0(mixer) => mixer.text(lane),
            Versioned::V1(mixer) => mixer.text(lane),
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
        match &mut self.of {
            Versioned::V0(mixer) => mixer.code_with(self.width, lane, token, foresight, coder),
            Versioned::V1(mixer) => mixer.code_with(self.width, lane, token, foresight, coder),
        }
    }
}
