//! Whole chunks: bytes to tokens, tokens in lanes, lanes to decisions, and back.
//!
//! Encoding and decoding are one walk over the tokens, step after step, lane
//! after lane; they differ only in who knows the next token. The encoder knows
//! all of them and has the model predict many steps at once, the decoder one
//! step at a time: integers make that the same predictions.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Result;

use super::coder::{Decoder, Encoder};
use super::mixer::{
    Head, Mixer, MixerStart, Room, Version, collect, decode_mix, encode_mix,
};
use super::model::{Model, State};
use super::vocabulary::Vocabulary;

/// The most lanes of a chunk: what one matrix product takes at little more
/// than the cost of one.
const LANES: usize = 16;

/// Tokens that a lane should have. Fewer make a short chunk faster to read,
/// more make it smaller: 256 in place of 1024 doubles the speed of chunks of
/// 4 to 16 KiB and costs 2 % of their size.
const LANE_TOKENS: usize = 512;

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
    start: MixerStart,
    idle: Mutex<Vec<Scratch>>,
    /// How many `idle` keeps.
    keep: usize,
}

impl ChunkCoder {
    pub fn new(model: Arc<Model>) -> Result<Self> {
        let vocabulary = Arc::new(Vocabulary::from_tokenizer_json(model.tokenizer_json())?);
        let start = match model.mixer_start() {
            Some(bytes) => MixerStart::from_bytes(bytes)?,
            None => MixerStart::untrained(),
        };
        let keep = crate::parallel::available();
        Ok(Self {
            model,
            vocabulary,
            start,
            idle: Mutex::default(),
            keep,
        })
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The version of the frames that it writes.
    pub fn version(&self) -> Version {
        self.start.version()
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

    /// The payload of a frame (see `docs/format.md`), with the predictions of
    /// the model or by the mixer alone.
    pub fn encode(&self, plain: &[u8], with_model: bool) -> Result<Vec<u8>> {
        let mut scratch = self.scratch();
        let payload = match with_model {
            true => self.encode_modelled(&mut scratch, plain)?,
            false => encode_mix(&mut scratch.mixer, self.version(), plain),
        };
        self.give_back(scratch);
        Ok(payload)
    }

    /// The inverse of [`encode`](Self::encode). Takes time and memory in
    /// proportion to `plain_len`, whatever the payload.
    pub fn decode(
        &self,
        version: Version,
        payload: &[u8],
        plain_len: usize,
        with_model: bool,
    ) -> Result<Vec<u8>> {
        let mut scratch = self.scratch();
        let plain = match with_model {
            true => self.decode_modelled(&mut scratch, version, payload, plain_len)?,
            false => decode_mix(&mut scratch.mixer, version, payload, plain_len)?,
        };
        self.give_back(scratch);
        Ok(plain)
    }

    fn encode_modelled(&self, scratch: &mut Scratch, plain: &[u8]) -> Result<Vec<u8>> {
        let tokens = self.vocabulary.encode(plain);
        let count = tokens.len();
        let lanes = (count / LANE_TOKENS).clamp(1, LANES);
        let head = Head::new(self.version(), plain, count, lanes);
        let mut rest = tokens.as_slice();
        let deal = |len| rest.split_off(..len).unwrap_or_default();
        let dealt: Vec<&[u32]> = head.lengths().map(deal).collect();

        let mut payload = head.put();
        let mut coder = Encoder::default();
        let state = self.begin(&mut scratch.state, lanes)?;
        let mixer = &mut scratch.mixer;
        mixer.begin(&head, true);
        let whole = count / lanes;
        // All steps that all lanes have, then the odd last one.
        for (first, steps, lanes) in [(0, whole, lanes), (whole, 1, count % lanes)] {
            if steps == 0 || lanes == 0 {
                continue;
            }
            let before = |step: usize, lane: usize| match step {
                0 => self.vocabulary.start(),
                step => dealt[lane][step - 1],
            };
            let known: Vec<u32> = (first..first + steps)
                .flat_map(|step| (0..lanes).map(move |lane| before(step, lane)))
                .collect();
            state.forward(lanes, steps, &known, &mut |step, lane, cdf| {
                mixer.code(lane, dealt[lane][first + step], Some(cdf), &mut coder);
            })?;
        }
        payload.extend(coder.finish());
        Ok(payload)
    }

    fn decode_modelled(
        &self,
        scratch: &mut Scratch,
        version: Version,
        payload: &[u8],
        plain_len: usize,
    ) -> Result<Vec<u8>> {
        let Some((head, coded)) = Head::take(version, payload, plain_len)? else {
            return Ok(Vec::new());
        };
        let lengths: Vec<usize> = head.lengths().collect();
        let state = self.begin(&mut scratch.state, lengths.len())?;
        let mixer = &mut scratch.mixer;
        mixer.begin(&head, true);
        let mut coder = Decoder::new(coded);
        let mut room = Room::new(mixer, plain_len);
        let mut before = vec![self.vocabulary.start(); lengths.len()];
        for step in 0..lengths[0] {
            // Lanes that have ended are the last ones.
            let lanes = lengths.iter().filter(|&&len| step < len).count();
            let mut next = Vec::with_capacity(lanes);
            state.forward(lanes, 1, &before[..lanes], &mut |_, lane, cdf| {
                next.push(mixer.code(lane, 0, Some(cdf), &mut coder));
            })?;
            next.iter().try_for_each(|&code| room.take(code))?;
            before = next;
        }
        collect(mixer, lengths.len(), plain_len)
    }

    /// The model's state, at the beginning of a chunk of so many lanes.
    fn begin<'a>(&self, state: &'a mut Option<State>, lanes: usize) -> Result<&'a mut State> {
        // Today's encoder never writes more than `LANES`; others may have.
        if state.as_ref().is_none_or(|state| state.lanes() < lanes) {
            *state = None;
        }
        let state = match state {
            Some(state) => state,
            None => state.insert(State::new(self.model.clone(), lanes.max(LANES))?),
        };
        state.reset();
        Ok(state)
    }
}
