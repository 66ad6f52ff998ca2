//! Chunk frames: how the bytes of one chunk rest, and the choice of how.
//!
//! A frame is one byte that names codec and version, then that codec's own
//! bytes (`docs/format.md`). A frame does not say how long its plain bytes are
//! nor what they hash to: whoever keeps the frame keeps both.

mod policy;
mod probe;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::lm::mixer::Version;
use crate::lm::model::Model;
use crate::lm::{ChunkCoder, Payload};
use crate::parallel;

pub use policy::Policy;

/// How a frame is coded. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Kind {
    Raw = 0,
    Zstd = 1,
    /// Adaptive contexts over the vocabulary of a model, without the model.
    Mix = 2,
    /// The same, mixed with what the language model predicts.
    Lm = 3,
}

/// Bytes of a model's hash that a frame carries, to name it among the few
/// models of one store.
const MODEL_NAME: usize = 4;

/// The first bytes of a model's hash, as frames and rows name it.
pub type ModelId = [u8; MODEL_NAME];

/// Per cent by which the language model must beat the codecs without it,
/// unless told otherwise: it takes ten times as long to read.
pub const MARGIN: u8 = 3;

/// Zstd's level for the hot tier and for the cold one.
const HOT_LEVEL: i32 = 1;
const COLD_LEVEL: i32 = 19;

/// A frame and the length of its plain bytes.
pub type Coded<'a> = (&'a [u8], usize);

/// Chunks that are worth decoding side by side in one thread.
pub const TOGETHER: usize = 2;

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Raw, Kind::Zstd, Kind::Mix, Kind::Lm];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Raw => "raw",
            Kind::Zstd => "zstd",
            Kind::Mix => "mix",
            Kind::Lm => "lm",
        }
    }

    /// The codec that a frame names.
    pub fn of(frame: &[u8]) -> Result<Kind> {
        read_first(frame).map(|(kind, _)| kind)
    }
}

/// The first byte of a frame: the kind in the low four bits, its version in the
/// high ones. Those of `mix` and `lm` are the mixer's; raw and zstd have only
/// version 0.
fn first_byte(kind: Kind, version: Version) -> u8 {
    kind as u8 | (version as u8) << 4
}

fn read_first(frame: &[u8]) -> Result<(Kind, Version)> {
    let first = *frame
        .first()
        .ok_or_else(|| Error::Corrupt("a chunk frame is empty".into()))?;
    let newer = |found: u8, known: u8| Error::NewerFormat {
        what: "a chunk frame".into(),
        found: found.into(),
        known: known.into(),
    };
    let kind = match first & 0x0f {
        0 => Kind::Raw,
        1 => Kind::Zstd,
        2 => Kind::Mix,
        3 => Kind::Lm,
        other => return Err(newer(other, Kind::Lm as u8)),
    };
    match (first >> 4, kind) {
        (0, _) => Ok((kind, Version::V0)),
        (1, Kind::Mix | Kind::Lm) => Ok((kind, Version::V1)),
        (other, Kind::Mix | Kind::Lm) => Err(newer(other, Version::V1 as u8)),
        (other, _) => Err(newer(other, Version::V0 as u8)),
    }
}

/// A chunk to be coded.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub plain: &'a [u8],
    pub policy: Policy,
    /// Another model than the default one.
    pub model: Option<ModelId>,
}

/// Encodes and decodes chunks. Shared by all threads.
pub struct Codec {
    /// The first one codes new chunks.
    coders: RwLock<Vec<Arc<ChunkCoder>>>,
    /// Models that shall get no new chunks, because they are being removed.
    retired: RwLock<Vec<ModelId>>,
    /// See [`MARGIN`].
    margin: AtomicU8,
}

impl Default for Codec {
    /// Without a model.
    fn default() -> Self {
        Self {
            coders: RwLock::default(),
            retired: RwLock::default(),
            margin: AtomicU8::new(MARGIN),
        }
    }
}

impl Codec {
    /// A codec that knows these models. The first codes new chunks; chunks of
    /// all of them can be decoded. Without a model, chunks rest as zstd or raw.
    pub fn with_models(models: Vec<Arc<Model>>) -> Result<Codec> {
        let codec = Codec::default();
        for model in models {
            if !codec.add_model(model)? {
                return Err(ambiguous());
            }
        }
        Ok(codec)
    }

    /// Learns one more model. `false` if it was known.
    ///
    /// [`Error::Model`] if a chunk could not tell it from another one.
    pub fn add_model(&self, model: Arc<Model>) -> Result<bool> {
        let coder = ChunkCoder::new(model)?;
        let mut coders = self.coders.write();
        match coders.iter().find(|known| id_of(known) == id_of(&coder)) {
            Some(known) if known.model().hash() == coder.model().hash() => Ok(false),
            Some(_) => Err(ambiguous()),
            None => {
                coders.push(Arc::new(coder));
                Ok(true)
            }
        }
    }

    /// Has a known model code new chunks. `false` if it is not known.
    pub fn set_default_model(&self, id: ModelId) -> bool {
        let mut coders = self.coders.write();
        let found = coders.iter().position(|coder| id_of(coder) == id);
        if let Some(at) = found {
            coders[..=at].rotate_right(1);
        }
        found.is_some()
    }

    /// Forgets a model; its chunks can no longer be read.
    pub fn remove_model(&self, id: ModelId) {
        self.coders.write().retain(|coder| id_of(coder) != id);
    }

    /// Notes that a model shall get no new chunks, or may again.
    pub fn retire(&self, id: ModelId, retired: bool) {
        let mut all = self.retired.write();
        all.retain(|known| *known != id);
        if retired {
            all.push(id);
        }
    }

    pub fn is_retired(&self, id: ModelId) -> bool {
        self.retired.read().contains(&id)
    }

    /// The model that codes new chunks.
    pub fn model(&self) -> Option<Arc<Model>> {
        let coders = self.coders.read();
        coders.first().map(|coder| coder.model().clone())
    }

    /// The same as rows name it.
    pub fn model_id(&self) -> Option<ModelId> {
        self.coders.read().first().map(|coder| id_of(coder))
    }

    /// Sets by how many per cent the language model must beat the others.
    pub fn set_margin(&self, per_cent: u8) {
        self.margin.store(per_cent, Ordering::Relaxed);
    }

    /// A frame made fast, for the hot tier: zstd at its fastest, or raw.
    pub fn encode_hot(&self, plain: &[u8]) -> Vec<u8> {
        zstd_or_raw(plain, HOT_LEVEL)
    }

    /// The same for a file with a policy: none is raw.
    pub fn encode_hot_for(&self, policy: Policy, plain: &[u8]) -> Vec<u8> {
        match policy {
            Policy::None => plain_frame(Kind::Raw, plain),
            _ => self.encode_hot(plain),
        }
    }

    /// The smallest frame of all codecs for each chunk, decoded and compared
    /// before it is returned. Slow: for the drain. About [`TOGETHER`] chunks at
    /// once are the fastest.
    pub fn encode_cold(&self, plains: &[&[u8]]) -> Vec<Result<Vec<u8>>> {
        let wanted: Vec<Wanted> = (plains.iter())
            .map(|plain| Wanted {
                plain,
                policy: Policy::Auto,
                model: None,
            })
            .collect();
        self.encode_wanted(&wanted, &Interrupt::default())
    }

    /// The same among the codecs that each chunk's policy allows, with the model
    /// that it names. [`Error::Interrupted`] for those that were not ready when
    /// `interrupt` was raised.
    pub fn encode_wanted(&self, wanted: &[Wanted], interrupt: &Interrupt) -> Vec<Result<Vec<u8>>> {
        let choose = |wanted| self.choose(wanted, interrupt);
        let mut frames: Vec<_> = wanted.iter().map(choose).collect();
        let made: Vec<usize> = (0..frames.len()).filter(|&i| frames[i].is_ok()).collect();
        let coded: Vec<Coded> = (made.iter())
            .filter_map(|&i| Some((frames[i].as_ref().ok()?.as_slice(), wanted[i].plain.len())))
            .collect();
        let decoded = self.decode_until(&coded, interrupt);
        for (i, decoded) in made.into_iter().zip(decoded) {
            match decoded {
                Ok(plain) if plain == wanted[i].plain => {}
                Ok(_) => {
                    frames[i] = Err(Error::Corrupt("the new coding decodes wrongly".into()));
                }
                Err(error) => frames[i] = Err(error),
            }
        }
        frames
    }

    /// A frame of this kind, or the smallest of all kinds.
    ///
    /// [`Error::Model`] where the kind needs a model and there is none. A
    /// chunk that the kind cannot shrink comes back raw.
    pub fn encode_as(&self, kind: Option<Kind>, plain: &[u8]) -> Result<Vec<u8>> {
        match kind {
            None => {
                let wanted = Wanted {
                    plain,
                    policy: Policy::Auto,
                    model: None,
                };
                self.choose(&wanted, &Interrupt::default())
            }
            Some(Kind::Raw) => Ok(plain_frame(Kind::Raw, plain)),
            Some(Kind::Zstd) => Ok(zstd_or_raw(plain, COLD_LEVEL)),
            Some(kind @ (Kind::Mix | Kind::Lm)) => {
                let coder = self.default_coder().ok_or_else(|| {
                    Error::Model("this codec needs a model, and there is none here".into())
                })?;
                let modelled = encode_modelled(&coder, kind, plain, &Interrupt::default())?;
                Ok(match modelled.len() <= plain.len() {
                    true => modelled,
                    false => plain_frame(Kind::Raw, plain),
                })
            }
        }
    }

    /// The smallest frame that the policy allows. Under [`Policy::Auto`] the
    /// model must earn the time that it takes every reader.
    fn choose(&self, wanted: &Wanted, interrupt: &Interrupt) -> Result<Vec<u8>> {
        let Wanted {
            plain,
            policy,
            model,
        } = *wanted;
        if policy == Policy::None {
            return Ok(plain_frame(Kind::Raw, plain));
        }
        // A cheap look first: what is compressed already is met again and
        // again, and shall cost no more than its writing did.
        let fast = zstd_or_raw(plain, HOT_LEVEL);
        if probe::is_hopeless(plain, fast.len()) {
            return Ok(fast);
        }
        interrupt.check()?;
        let small = zstd_or_raw(plain, COLD_LEVEL);
        let coder = match model {
            _ if !policy.uses_model() => None,
            Some(id) => Some(self.coder(&id)?),
            None => self.default_coder(),
        };
        let Some(coder) = coder.as_deref() else {
            return Ok(small);
        };
        if !probe::worth_modelling(plain, small.len()) {
            return Ok(small);
        }
        let smaller = |a: Vec<u8>, b: Vec<u8>| if a.len() < b.len() { a } else { b };
        let mix = encode_modelled(coder, Kind::Mix, plain, interrupt)?;
        if policy == Policy::Mix || !probe::worth_predicting(plain, small.len(), mix.len()) {
            return Ok(smaller(mix, small));
        }
        let lm = encode_modelled(coder, Kind::Lm, plain, interrupt)?;
        let margin = match policy {
            Policy::Lm => 0,
            _ => self.margin.load(Ordering::Relaxed),
        };
        let earned = probe::model_earns_its_time(lm.len(), mix.len().min(small.len()), margin);
        Ok(smaller(if earned { lm } else { mix }, small))
    }

    /// The plain bytes of a frame: exactly `plain_len` of them, or an error.
    /// The caller compares their hash with the chunk's name.
    pub fn decode(&self, frame: &[u8], plain_len: usize) -> Result<Vec<u8>> {
        self.decode_one(frame, plain_len, &Interrupt::default())
    }

    fn decode_one(&self, frame: &[u8], plain_len: usize, interrupt: &Interrupt) -> Result<Vec<u8>> {
        let (kind, version) = read_first(frame)?;
        let body = &frame[1..];
        let plain = match kind {
            Kind::Raw => body.to_vec(),
            Kind::Zstd => zstd::bulk::decompress(body, plain_len)
                .map_err(|e| Error::Corrupt(format!("a zstd frame: {e}")))?,
            Kind::Mix | Kind::Lm => {
                let (name, bytes) = body
                    .split_at_checked(MODEL_NAME)
                    .ok_or_else(|| Error::Corrupt("a chunk frame is cut short".into()))?;
                let coder = self.coder(name)?;
                let payload = Payload {
                    version,
                    bytes,
                    plain_len,
                };
                coder.decode(payload, kind == Kind::Lm, interrupt)?
            }
        };
        if plain.len() != plain_len {
            return Err(Error::Corrupt("a chunk frame has the wrong length".into()));
        }
        Ok(plain)
    }

    /// [`decode`](Self::decode) for several frames, each with its own result.
    /// Those that the model coded go through it side by side, which is faster.
    pub fn decode_many(&self, frames: &[Coded]) -> Vec<Result<Vec<u8>>> {
        self.decode_until(frames, &Interrupt::default())
    }

    fn decode_until(&self, frames: &[Coded], interrupt: &Interrupt) -> Vec<Result<Vec<u8>>> {
        let mut plains: Vec<_> = frames.iter().map(|_| Ok(Vec::new())).collect();
        let mut rest: Vec<usize> = (0..frames.len()).collect();
        while let Some(&first) = rest.first() {
            // the frames of the first one's model, which is nearly always all
            let modelled = |i: usize| match read_first(frames[i].0) {
                Ok((Kind::Lm, version)) => {
                    let (name, bytes) = frames[i].0[1..].split_at_checked(MODEL_NAME)?;
                    let payload = Payload {
                        version,
                        bytes,
                        plain_len: frames[i].1,
                    };
                    Some((name, payload))
                }
                _ => None,
            };
            let name = |i: usize| modelled(i).map(|(name, _)| name);
            let Some((coder, wanted)) = name(first).and_then(|n| Some((self.coder(n).ok()?, n)))
            else {
                let (frame, plain_len) = frames[first];
                plains[first] = self.decode_one(frame, plain_len, interrupt);
                rest.remove(0);
                continue;
            };
            let alike: Vec<usize> = (rest.iter().copied())
                .filter(|&i| name(i) == Some(wanted))
                .collect();
            rest.retain(|&i| name(i) != Some(wanted));
            let payloads: Vec<Payload> = (alike.iter())
                .filter_map(|&i| Some(modelled(i)?.1))
                .collect();
            let decoded = coder.decode_many(&payloads, interrupt);
            for (i, plain) in alike.into_iter().zip(decoded) {
                plains[i] = plain;
            }
        }
        plains
    }

    /// [`decode_many`](Self::decode_many) by up to `threads` threads.
    pub fn decode_all(&self, threads: usize, frames: &[Coded]) -> Vec<Result<Vec<u8>>> {
        let share = frames.len().div_ceil(threads.max(1)).clamp(1, TOGETHER);
        let groups: Vec<&[Coded]> = frames.chunks(share).collect();
        let plains = parallel::map(threads, &groups, |group| self.decode_many(group));
        plains.into_iter().flatten().collect()
    }

    fn default_coder(&self) -> Option<Arc<ChunkCoder>> {
        self.coders.read().first().cloned()
    }

    fn coder(&self, name: &[u8]) -> Result<Arc<ChunkCoder>> {
        let coders = self.coders.read();
        let found = coders.iter().find(|coder| id_of(coder) == name);
        found.cloned().ok_or_else(|| {
            let hex: String = name.iter().map(|b| format!("{b:02x}")).collect();
            Error::Model(format!(
                "a chunk was coded with the model {hex}..., which is not in this store: \
                 bring its file back into the store's folder `models`"
            ))
        })
    }
}

/// The bytes that name a coder's model in a frame.
fn id_of(coder: &ChunkCoder) -> ModelId {
    model_id(&coder.model().hash())
}

/// The name of a model in frames, from its hash.
pub fn model_id(hash: &[u8; 32]) -> ModelId {
    [hash[0], hash[1], hash[2], hash[3]]
}

/// The model that a frame of `mix` or `lm` names.
pub fn model_of(frame: &[u8]) -> Option<ModelId> {
    match Kind::of(frame) {
        Ok(Kind::Mix | Kind::Lm) => frame.get(1..)?.first_chunk().copied(),
        _ => None,
    }
}

fn ambiguous() -> Error {
    Error::Model("two models have names that a chunk cannot tell apart; remove one of them".into())
}

fn encode_modelled(
    coder: &ChunkCoder,
    kind: Kind,
    plain: &[u8],
    interrupt: &Interrupt,
) -> Result<Vec<u8>> {
    let payload = coder.encode(plain, kind == Kind::Lm, interrupt)?;
    let first = first_byte(kind, coder.version());
    Ok(frame(first, &[&id_of(coder), &payload]))
}

fn zstd_or_raw(plain: &[u8], level: i32) -> Vec<u8> {
    match zstd::bulk::compress(plain, level) {
        Ok(packed) if packed.len() < plain.len() => plain_frame(Kind::Zstd, &packed),
        _ => plain_frame(Kind::Raw, plain),
    }
}

/// A frame of a codec without a model.
fn plain_frame(kind: Kind, rest: &[u8]) -> Vec<u8> {
    frame(first_byte(kind, Version::V0), &[rest])
}

fn frame(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    out.push(first);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}
