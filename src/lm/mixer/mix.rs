//! The `mix` codec: a chunk coded by the mixer alone, without a model. And the
//! payload's head, which chunks that a model has coded share.

use std::sync::Arc;

use super::{MAX_LANES, Mixer, lane_lengths};
use crate::error::{Error, Result};
use crate::lm::coder::{Decoder, Encoder};
use crate::lm::vocabulary::Vocabulary;

/// Codes a chunk in one lane. The payload is described in docs/format-mix.md;
/// it is a function of the bytes, the vocabulary and the mixer's start.
pub fn encode_mix(mixer: &mut Mixer, plain: &[u8]) -> Vec<u8> {
    let tokens = mixer.vocabulary().clone().encode(plain);
    let mut out = put_head(tokens.len(), 1);
    if tokens.is_empty() {
        return out;
    }
    mixer.begin(1, tokens.len(), false);
    let mut coder = Encoder::default();
    for &token in &tokens {
        mixer.code(0, token, None, &mut coder);
    }
    out.extend(coder.finish());
    out
}

/// The chunk of `plain_len` bytes that [`encode_mix`] made `payload` of.
/// Anything else is [`Error::Corrupt`], or other bytes of that length: time
/// and memory are bounded by `plain_len`.
pub fn decode_mix(mixer: &mut Mixer, payload: &[u8], plain_len: usize) -> Result<Vec<u8>> {
    let Some((lengths, coded)) = take_head(payload, plain_len)? else {
        return Ok(Vec::new());
    };
    mixer.begin(lengths.len(), lengths.iter().sum(), false);
    let mut coder = Decoder::new(coded);
    let mut room = Room::new(mixer, plain_len);
    for step in 0..lengths[0] {
        for (lane, _) in lengths.iter().enumerate().filter(|l| step < *l.1) {
            room.take(mixer.code(lane, 0, None, &mut coder))?;
        }
    }
    collect(mixer, lengths.len(), plain_len)
}

fn corrupt(what: &str) -> Error {
    Error::Corrupt(format!("a modelled chunk {what}"))
}

/// The head of a payload: how many tokens in how many lanes.
pub fn put_head(tokens: usize, lanes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, tokens as u64);
    if tokens > 0 {
        put_varint(&mut out, lanes as u64);
    }
    out
}

/// The lengths of the lanes that a payload's head announces, and what the
/// coder wrote; `None` for the empty chunk.
pub fn take_head(payload: &[u8], plain_len: usize) -> Result<Option<(Vec<usize>, &[u8])>> {
    let mut rest = payload;
    let mut number = || take_varint(&mut rest).ok_or_else(|| corrupt("ends in its head"));
    let tokens = number()?;
    if tokens > plain_len as u64 || (tokens == 0) != (plain_len == 0) {
        return Err(corrupt("cannot have so many tokens"));
    }
    if tokens == 0 {
        return match rest.is_empty() {
            true => Ok(None),
            false => Err(corrupt("has bytes after its end")),
        };
    }
    let lanes = number()?;
    if lanes == 0 || lanes > MAX_LANES as u64 || lanes > tokens {
        return Err(corrupt("cannot have so many lanes"));
    }
    let lengths = lane_lengths(tokens as usize, lanes as usize).collect();
    Ok(Some((lengths, rest)))
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

/// Appends a number, seven bits a byte, lowest first; the top bit says that
/// more follow.
fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Takes a number of at most 35 bits, in as few bytes as it needs.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for i in 0..5 {
        let (&b, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(b & 0x7f) << (7 * i);
        if b < 0x80 {
            return (i == 0 || b != 0).then_some(n);
        }
    }
    None
}
