//! Whole chunks: bytes to tokens, tokens in lanes, lanes to decisions, and back.
//!
//! Encoding and decoding are one walk over the tokens, step after step, lane
//! after lane; they differ only in who knows the next token. The encoder knows
//! all of them and has the model predict many steps at once, the decoder one
//! step at a time: integers make that the same predictions.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result};

use super::coder::{BitCoder, Decoder, Encoder};
use super::mixer::{Mixer, MixerStart, lane_lengths};
use super::model::{Model, State};
use super::vocabulary::Vocabulary;

/// The most lanes of a chunk: what one matrix product takes at little more
/// than the cost of one.
const LANES: usize = 16;

/// Tokens that a lane should have, so that its start without any context
/// costs little.
const LANE_TOKENS: usize = 1024;

/// What one chunk needs while it is coded; kept for the next one.
struct Scratch {
    /// Made when the first chunk needs the model.
    state: Option<State>,
    mixer: Mixer,
}

/// Codes chunks with the vocabulary of a model, with or without its
/// predictions. Shared by all threads.
pub struct ChunkCoder {
    model: Arc<Model>,
    vocabulary: Arc<Vocabulary>,
    start: Arc<MixerStart>,
    idle: Mutex<Vec<Scratch>>,
    /// How many `idle` keeps.
    keep: usize,
}

/// How many lanes have a token at a step, when `tokens` are dealt to `lanes`.
///
/// The first `tokens % lanes` lanes have one more than the others, so that the
/// lanes which have ended are always the last ones.
fn active(tokens: usize, lanes: usize, step: usize) -> usize {
    match tokens / lanes {
        whole if step < whole => lanes,
        _ => tokens % lanes,
    }
}

impl ChunkCoder {
    pub fn new(model: Arc<Model>) -> Result<Self> {
        let vocabulary = Arc::new(Vocabulary::from_tokenizer_json(model.tokenizer_json())?);
        let start = match model.mixer_start() {
            Some(bytes) => MixerStart::from_bytes(bytes)?,
            None => MixerStart::untrained(),
        };
        let keep = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            model,
            vocabulary,
            start: Arc::new(start),
            idle: Mutex::default(),
            keep,
        })
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    fn scratch(&self) -> Scratch {
        self.idle.lock().pop().unwrap_or_else(|| Scratch {
            state: None,
            mixer: Mixer::new(self.start.clone(), self.vocabulary.clone()),
        })
    }

    fn give_back(&self, scratch: Scratch) {
        let mut idle = self.idle.lock();
        if idle.len() < self.keep {
            idle.push(scratch);
        }
    }

    /// The payload of a frame (see `docs/format.md`).
    pub fn encode(&self, plain: &[u8], with_model: bool) -> Result<Vec<u8>> {
        let tokens = self.vocabulary.encode(plain);
        let lanes = match with_model {
            true => (tokens.len() / LANE_TOKENS).clamp(1, LANES),
            // Lanes only serve the model.
            false => 1,
        };
        let mut rest = tokens.as_slice();
        let deal = |len| rest.split_off(..len).unwrap_or_default();
        let dealt: Vec<&[u32]> = lane_lengths(tokens.len(), lanes).map(deal).collect();

        let mut payload = Vec::with_capacity(plain.len() / 4 + 16);
        put_number(&mut payload, tokens.len());
        payload.push(lanes as u8);
        let mut coder = Encoder::default();
        let mut scratch = self.scratch();
        scratch.mixer.begin(lanes, tokens.len(), with_model);
        if with_model {
            self.encode_modelled(&mut scratch, tokens.len(), &dealt, &mut coder)?;
        } else {
            for &token in &tokens {
                scratch.mixer.code(0, token, None, &mut coder);
            }
        }
        self.give_back(scratch);
        payload.extend_from_slice(&coder.finish());
        Ok(payload)
    }

    fn encode_modelled(
        &self,
        scratch: &mut Scratch,
        count: usize,
        dealt: &[&[u32]],
        coder: &mut Encoder,
    ) -> Result<()> {
        let lanes = dealt.len();
        let state = self.begin(&mut scratch.state)?;
        let mixer = &mut scratch.mixer;
        let whole = count / lanes;
        // All steps that all lanes have, then the odd last one.
        for (first, steps, lanes) in [(0, whole, lanes), (whole, 1, count % lanes)] {
            if steps == 0 || lanes == 0 {
                continue;
            }
            let known = |step: usize, lane: usize| match step {
                0 => self.vocabulary.start(),
                step => dealt[lane][step - 1],
            };
            let before: Vec<u32> = (first..first + steps)
                .flat_map(|step| (0..lanes).map(move |lane| known(step, lane)))
                .collect();
            state.forward(lanes, steps, &before, &mut |step, lane, cdf| {
                mixer.code(lane, dealt[lane][first + step], Some(cdf), coder);
            })?;
        }
        Ok(())
    }

    /// The model's state, at the beginning of a chunk.
    fn begin<'a>(&self, state: &'a mut Option<State>) -> Result<&'a mut State> {
        let state = match state {
            Some(state) => state,
            None => state.insert(State::new(self.model.clone(), LANES)?),
        };
        state.reset();
        Ok(state)
    }

    /// The inverse of [`encode`](Self::encode). Takes time and memory in
    /// proportion to `plain_len`, whatever the payload.
    pub fn decode(&self, payload: &[u8], plain_len: usize, with_model: bool) -> Result<Vec<u8>> {
        let damaged = || Error::Corrupt("the payload of a modelled chunk is malformed".into());
        let (count, rest) = take_number(payload).ok_or_else(damaged)?;
        let (&lanes, coded) = rest.split_first().ok_or_else(damaged)?;
        let lanes = usize::from(lanes);
        // Every token has at least one byte.
        if count > plain_len || lanes == 0 || lanes > LANES || lanes > count.max(1) {
            return Err(damaged());
        }
        let mut coder = Decoder::new(coded);
        let mut scratch = self.scratch();
        scratch.mixer.begin(lanes, count, with_model);
        let mut left = plain_len;
        // Called with every token, so that garbage cannot outgrow the chunk.
        let mut take = |token: u32| {
            let len = self.vocabulary.bytes_of(token).len();
            left = left.checked_sub(len).ok_or_else(damaged)?;
            Ok(())
        };
        if with_model {
            self.decode_modelled(&mut scratch, count, lanes, &mut coder, &mut take)?;
        } else {
            for step in 0..count.div_ceil(lanes) {
                for lane in 0..active(count, lanes, step) {
                    take(scratch.mixer.code(lane, 0, None, &mut coder))?;
                }
            }
        }
        let mut plain = Vec::with_capacity(plain_len);
        (0..lanes).for_each(|lane| plain.extend_from_slice(scratch.mixer.text(lane)));
        self.give_back(scratch);
        match plain.len() == plain_len {
            true => Ok(plain),
            false => Err(damaged()),
        }
    }

    fn decode_modelled(
        &self,
        scratch: &mut Scratch,
        count: usize,
        lanes: usize,
        coder: &mut impl BitCoder,
        take: &mut dyn FnMut(u32) -> Result<()>,
    ) -> Result<()> {
        let state = self.begin(&mut scratch.state)?;
        let mixer = &mut scratch.mixer;
        let mut before = vec![self.vocabulary.start(); lanes];
        for step in 0..count.div_ceil(lanes) {
            let lanes = active(count, lanes, step);
            let mut next = Vec::with_capacity(lanes);
            state.forward(lanes, 1, &before[..lanes], &mut |_, lane, cdf| {
                next.push(mixer.code(lane, 0, Some(cdf), coder));
            })?;
            next.iter().try_for_each(|&token| take(token))?;
            before = next;
        }
        Ok(())
    }
}

/// Seven bits a byte, the lowest first; the high bit says that more follow.
fn put_number(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A number and what follows it. At most five bytes.
fn take_number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0u64;
    for (at, &byte) in bytes.iter().enumerate().take(5) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Some((usize::try_from(number).ok()?, &bytes[at + 1..]));
        }
    }
    None
}
