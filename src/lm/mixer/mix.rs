//! The `mix` codec: a chunk coded by the mixer alone, without a model.

use super::{MAX_LANES, Mixer, lane_lengths};
use crate::error::{Error, Result};
use crate::lm::coder::{Decoder, Encoder};

/// Codes a chunk in one lane. The payload is described in docs/format-mix.md;
/// it is a function of the bytes, the vocabulary and the mixer's start.
pub fn encode_mix(mixer: &mut Mixer, plain: &[u8]) -> Vec<u8> {
    let tokens = mixer.vocabulary().clone().encode(plain);
    let mut out = Vec::new();
    put_varint(&mut out, tokens.len() as u64);
    if tokens.is_empty() {
        return out;
    }
    let lanes = 1;
    put_varint(&mut out, lanes as u64);
    mixer.begin(lanes, tokens.len(), false);
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
    let corrupt = |what: &str| Error::Corrupt(format!("a chunk coded by mixing {what}"));
    let mut rest = payload;
    let mut number = || take_varint(&mut rest).ok_or_else(|| corrupt("ends in its head"));
    let tokens = number()?;
    if tokens > plain_len as u64 || (tokens == 0) != (plain_len == 0) {
        return Err(corrupt("cannot have so many tokens"));
    }
    let tokens = tokens as usize;
    if tokens == 0 {
        return if rest.is_empty() {
            Ok(Vec::new())
        } else {
            Err(corrupt("has bytes after its end"))
        };
    }
    let lanes = number()?;
    if lanes == 0 || lanes > MAX_LANES as u64 || lanes > tokens as u64 {
        return Err(corrupt("cannot have so many lanes"));
    }
    let lanes = lanes as usize;
    mixer.begin(lanes, tokens, false);
    let mut coder = Decoder::new(rest);
    let lengths: Vec<usize> = lane_lengths(tokens, lanes).collect();
    let vocabulary = mixer.vocabulary().clone();
    let mut room = plain_len;
    for step in 0..lengths[0] {
        for (lane, _) in lengths.iter().enumerate().filter(|l| step < *l.1) {
            let code = mixer.code(lane, 0, None, &mut coder);
            let left = room.checked_sub(vocabulary.bytes_of(code).len());
            room = left.ok_or_else(|| corrupt("is longer than its frame says"))?;
        }
    }
    if room != 0 {
        return Err(corrupt("is shorter than its frame says"));
    }
    Ok((0..lanes)
        .flat_map(|lane| mixer.text(lane))
        .copied()
        .collect())
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
