//! The `mix` codec: a chunk coded by the mixer alone, without a model.

use std::sync::Arc;

use super::head::{Head, corrupt};
use super::{Mixer, Version};
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::lm::coder::{Decoder, Encoder};
use crate::lm::vocabulary::Vocabulary;

/// Tokens between two looks at the interrupt: a millisecond or so.
const ASK_EVERY: usize = 256;

/// Codes a chunk in one lane. The payload is described in docs/format-mix.md;
/// it is a function of the bytes, the version, the vocabulary and the mixer's
/// start.
pub fn encode_mix(
    mixer: &mut Mixer,
    version: Version,
    plain: &[u8],
    interrupt: &Interrupt,
) -> Result<Vec<u8>> {
    let tokens = mixer.vocabulary().clone().encode(plain);
    let head = Head::new(version, plain, tokens.len(), 1);
    let mut out = head.put();
    if tokens.is_empty() {
        return Ok(out);
    }
    mixer.begin(&head, false);
    let mut coder = Encoder::default();
    for some in tokens.chunks(ASK_EVERY) {
        interrupt.check()?;
        for &token in some {
            mixer.code(0, token, None, &mut coder);
        }
    }
    out.extend(coder.finish());
    Ok(out)
}

/// The chunk of `plain_len` bytes that [`encode_mix`] made `payload` of.
/// Anything else is [`Error::Corrupt`](crate::error::Error::Corrupt), or other
/// bytes of that length: time and memory are bounded by `plain_len`.
pub fn decode_mix(
    mixer: &mut Mixer,
    version: Version,
    payload: &[u8],
    plain_len: usize,
    interrupt: &Interrupt,
) -> Result<Vec<u8>> {
    let Some((head, coded)) = Head::take(version, payload, plain_len)? else {
        return Ok(Vec::new());
    };
    let lengths: Vec<usize> = head.lengths().collect();
    mixer.begin(&head, false);
    let mut coder = Decoder::new(coded);
    let mut room = Room::new(mixer, plain_len);
    for step in 0..lengths[0] {
        if step % ASK_EVERY == 0 {
            interrupt.check()?;
        }
        for (lane, _) in lengths.iter().enumerate().filter(|l| step < *l.1) {
            room.take(mixer.code(lane, 0, None, &mut coder))?;
        }
    }
    collect(mixer, lengths.len(), plain_len)
}

/// Plain bytes that are still to come, so that garbage cannot outgrow its chunk.
pub struct Room {
    vocabulary: Arc<Vocabulary>,
    left: usize,
}

impl Room {
    pub fn new(mixer: &Mixer, plain_len: usize) -> Self {
        Room {
            vocabulary: mixer.vocabulary().clone(),
            left: plain_len,
        }
    }

    /// Notes a decoded token.
    pub fn take(&mut self, code: u32) -> Result<()> {
        let left = self.left.checked_sub(self.vocabulary.bytes_of(code).len());
        self.left = left.ok_or_else(|| corrupt("is longer than its frame says"))?;
        Ok(())
    }
}

/// The bytes of all lanes, once they are decoded.
pub fn collect(mixer: &Mixer, lanes: usize, plain_len: usize) -> Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(plain_len);
    (0..lanes).for_each(|lane| plain.extend_from_slice(mixer.text(lane)));
    match plain.len() == plain_len {
        true => Ok(plain),
        false => Err(corrupt("is shorter than its frame says")),
    }
}
