//! Whole chunks: bytes to tokens, tokens in lanes, lanes to decisions, and back.
//!
//! Encoding and decoding are one walk over the tokens, step after step, lane
//! after lane; they differ only in who knows the next token. The encoder knows
//! all of them and has the model predict many steps at once, the decoder one
//! step at a time: integers make that the same predictions.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::kernel::Distribution;

use super::coder::{Decoder, Encoder};
use super::mixer::{
    Foresight, Head, Mixer, MixerStart, Room, Version, collect, decode_mix, encode_mix, log_odds,
};
use super::model::{MAX_LANES, Model, State};
use super::vocabulary::Vocabulary;

/// The most lanes of a chunk: what one matrix product takes at little more
/// than the cost of one.
const LANES: usize = 16;

/// Tokens that a lane should have. Fewer make a short chunk faster to read,
/// more make it smaller: 256 in place of 1024 doubles the speed of chunks of
/// 4 to 16 KiB and costs 2 % of their size.
const LANE_TOKENS: usize = 512;

/// Keys and values, in bytes, that lanes of chunks decoded side by side may
/// take. Beside a model with long windows chunks are decoded one by one.
const SIDE_BY_SIDE: usize = 16 << 20;

/// Codes chunks with the vocabulary of a model, with or without its
/// predictions. Shared by all threads.
pub struct ChunkCoder {
    model: Arc<Model>,
    vocabulary: Arc<Vocabulary>,
    start: MixerStart,
    /// What chunks have needed while they were coded, for the next ones.
    states: Mutex<Vec<State>>,
    mixers: Mutex<Vec<Mixer>>,
    /// How many of each are kept.
    keep: usize,
}

impl Foresight for Distribution<'_> {
    const LIVE: bool = true;

    #[inline(always)]
    fn odds(&self, _: usize, lo: usize, mid: usize, hi: usize) -> i32 {
        let (lo, mid, hi) = (self.at(lo), self.at(mid), self.at(hi));
        log_odds(hi.wrapping_sub(mid), mid.wrapping_sub(lo))
    }
}

/// A coded chunk, without its frame.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// Of the mixer that coded it.
    pub version: Version,
    pub bytes: &'a [u8],
    pub plain_len: usize,
}

/// A chunk that is being decoded.
struct Reading<'a> {
    /// Its place among those asked for.
    at: usize,
    plain_len: usize,
    lengths: Vec<usize>,
    mixer: Mixer,
    coder: Decoder<'a>,
    room: Room,
    /// Why it is no chunk.
    damage: Option<Error>,
}

impl Reading<'_> {
    /// The next token of a lane.
    fn take(&mut self, lane: usize, foresight: &Distribution) -> u32 {
        if self.damage.is_some() {
            return 0;
        }
        let code = self.mixer.code_with(lane, 0, foresight, &mut self.coder);
        self.damage = self.room.take(code).err();
        code
    }
}

impl ChunkCoder {
    pub fn new(model: Arc<Model>) -> Result<Self> {
        let vocabulary = Arc::new(Vocabulary::from_tokenizer_json(model.tokenizer_json())?);
        let start = match model.mixer_start() {
            Some(bytes) => MixerStart::from_bytes(bytes)?,
            None => MixerStart::Untrained,
        };
        let keep = crate::parallel::available();
        Ok(Self {
            model,
            vocabulary,
            start,
            states: Mutex::default(),
            mixers: Mutex::default(),
            keep,
        })
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The version of the mixer that it encodes with.
    pub fn version(&self) -> Version {
        self.start.version()
    }

    fn mixer(&self) -> Mixer {
        // Never waits here: a thread at idle priority may hold the lock.
        let idle = self.mixers.try_lock().and_then(|mut idle| idle.pop());
        idle.unwrap_or_else(|| Mixer::new(self.start.clone(), self.vocabulary.clone()))
    }

    fn keep_mixer(&self, mixer: Mixer) {
        if let Some(mut idle) = self.mixers.try_lock()
            && idle.len() < self.keep
        {
            idle.push(mixer);
        }
    }

    /// A state of the model for so many lanes, at their beginning.
    fn state(&self, lanes: usize, interrupt: &Interrupt) -> Result<State> {
        let found = self.states.try_lock().and_then(|mut idle| {
            // the one that wastes the least memory
            let fits = (0..idle.len()).filter(|&i| idle[i].lanes() >= lanes);
            let found = fits.min_by_key(|&i| idle[i].lanes());
            found.map(|i| idle.swap_remove(i))
        });
        let mut state = match found {
            Some(mut state) => {
                state.reset();
                state
            }
            // Today's encoder never writes more than `LANES`; others may have.
            None => State::new(self.model.clone(), lanes.max(LANES))?,
        };
        state.heed(interrupt);
        Ok(state)
    }

    fn keep_state(&self, state: State) {
        if let Some(mut idle) = self.states.try_lock()
            && idle.len() < self.keep
        {
            idle.push(state);
        }
    }

    /// The payload of a frame (see `docs/format.md`), with the predictions of
    /// the model or by the mixer alone.
    pub fn encode(&self, plain: &[u8], with_model: bool, interrupt: &Interrupt) -> Result<Vec<u8>> {
        let mut mixer = self.mixer();
        let payload = match with_model {
            true => self.encode_modelled(&mut mixer, plain, interrupt),
            false => encode_mix(&mut mixer, self.version(), plain, interrupt),
        };
        self.keep_mixer(mixer);
        payload
    }

    /// The inverse of [`encode`](Self::encode). Takes time and memory in
    /// proportion to `plain_len`, whatever the payload.
    pub fn decode(
        &self,
        payload: Payload,
        with_model: bool,
        interrupt: &Interrupt,
    ) -> Result<Vec<u8>> {
        if with_model {
            let one = self.decode_many(&[payload], interrupt).pop();
            return one.unwrap_or(Err(Error::Invalid("no chunk to decode")));
        }
        let mut mixer = self.mixer();
        let Payload {
            version,
            bytes,
            plain_len,
        } = payload;
        let plain = decode_mix(&mut mixer, version, bytes, plain_len, interrupt);
        self.keep_mixer(mixer);
        plain
    }

    /// Decodes chunks that were coded with the model, several side by
    /// side: that takes less time than one after another, since the model's
    /// weights are read once for all. Each has its own result.
    pub fn decode_many(&self, chunks: &[Payload], interrupt: &Interrupt) -> Vec<Result<Vec<u8>>> {
        let mut results: Vec<_> = chunks.iter().map(|_| Ok(Vec::new())).collect();
        let most = SIDE_BY_SIDE / State::lane_bytes(&self.model);
        let mut group = Vec::new();
        let mut lanes = 0;
        for (at, &payload) in chunks.iter().enumerate() {
            let Payload {
                version,
                bytes,
                plain_len,
            } = payload;
            let (head, coded) = match Head::take(version, bytes, plain_len) {
                Ok(Some(head)) => head,
                Ok(None) => continue,
                Err(error) => {
                    results[at] = Err(error);
                    continue;
                }
            };
            if lanes + head.lanes > most.clamp(LANES, MAX_LANES) && lanes > 0 {
                self.decode_group(std::mem::take(&mut group), &mut results, interrupt);
                lanes = 0;
            }
            lanes += head.lanes;
            let mut mixer = self.mixer();
            mixer.begin(&head, true);
            group.push(Reading {
                at,
                plain_len,
                room: Room::new(&mixer, plain_len),
                lengths: head.lengths().collect(),
                mixer,
                coder: Decoder::new(coded),
                damage: None,
            });
        }
        if lanes > 0 {
            self.decode_group(group, &mut results, interrupt);
        }
        results
    }

    fn decode_group(
        &self,
        mut group: Vec<Reading>,
        results: &mut [Result<Vec<u8>>],
        interrupt: &Interrupt,
    ) {
        let done = self.advance(&mut group, interrupt);
        let done = done.map_err(|error| error.to_string());
        for mut reading in group {
            results[reading.at] = match (&done, reading.damage.take()) {
                (Err(_), _) if interrupt.is_raised() => Err(Error::Interrupted),
                (Err(error), _) => Err(Error::Model(error.clone())),
                (_, Some(damage)) => Err(damage),
                _ => collect(&reading.mixer, reading.lengths.len(), reading.plain_len),
            };
            self.keep_mixer(reading.mixer);
        }
    }

    /// Decodes the tokens of all lanes of the chunks, at most [`MAX_LANES`] or
    /// those of one chunk.
    fn advance(&self, group: &mut [Reading], interrupt: &Interrupt) -> Result<()> {
        // The longest lanes first: those that end are then the last ones. The
        // lanes of a chunk stay in their order, for they have it already.
        let mut lanes: Vec<(usize, usize, usize)> = Vec::new();
        for (chunk, reading) in group.iter().enumerate() {
            let all = reading.lengths.iter().enumerate();
            lanes.extend(all.map(|(lane, &len)| (len, chunk, lane)));
        }
        lanes.sort_by_key(|&(len, ..)| std::cmp::Reverse(len));
        let mut state = self.state(lanes.len(), interrupt)?;
        let mut before = vec![self.vocabulary.start(); lanes.len()];
        for step in 0..lanes[0].0 {
            let active = lanes.partition_point(|&(len, ..)| len > step);
            let mut next = Vec::with_capacity(active);
            state.predict(active, 1, &before[..active], &mut |_, row, foresight| {
                let (_, chunk, lane) = lanes[row];
                next.push(group[chunk].take(lane, foresight));
            })?;
            before = next;
            if group.iter().all(|reading| reading.damage.is_some()) {
                break;
            }
        }
        self.keep_state(state);
        Ok(())
    }

    fn encode_modelled(
        &self,
        mixer: &mut Mixer,
        plain: &[u8],
        interrupt: &Interrupt,
    ) -> Result<Vec<u8>> {
        let tokens = self.vocabulary.encode(plain);
        let count = tokens.len();
        let lanes = (count / LANE_TOKENS).clamp(1, LANES);
        let mut rest = tokens.as_slice();
        let deal = |len| rest.split_off(..len).unwrap_or_default();
        let head = Head::new(self.version(), plain, count, lanes);
        let dealt: Vec<&[u32]> = head.lengths().map(deal).collect();

        let mut payload = head.put();
        let mut coder = Encoder::default();
        let mut state = self.state(lanes, interrupt)?;
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
            state.predict(lanes, steps, &known, &mut |step, lane, foresight| {
                mixer.code_with(lane, dealt[lane][first + step], foresight, &mut coder);
            })?;
        }
        self.keep_state(state);
        payload.extend(coder.finish());
        Ok(payload)
    }
}
