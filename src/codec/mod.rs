//! Chunk frames: how the bytes of one chunk rest, and the choice of how.
//!
//! A frame is one byte that names codec and version, then that codec's own
//! bytes (`docs/format.md`). A frame does not say how long its plain bytes are
//! nor what they hash to: whoever keeps the frame keeps both.

mod probe;
#[cfg(test)]
mod tests;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::lm::ChunkCoder;
use crate::lm::mixer::Version;
use crate::lm::model::Model;

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

/// Zstd's level for the hot tier and for the cold one.
const HOT_LEVEL: i32 = 1;
const COLD_LEVEL: i32 = 19;

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Raw, Kind::Zstd, Kind::Mix, Kind::Lm];

    /// The codec that a frame names.
    pub fn of(frame: &[u8]) -> Result<Kind> {
        read_first(frame).map(|(kind, _)| kind)
    }
}

/// The first byte of a frame: the kind in the low four bits, its version in the
/// high ones. Raw and zstd have only version 0.
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

/// Encodes and decodes chunks. Shared by all threads.
#[derive(Default)]
pub struct Codec {
    /// The first one codes new chunks.
    coders: Vec<ChunkCoder>,
}

impl Codec {
    /// A codec that knows these models. The first codes new chunks; chunks of
    /// all of them can be decoded. Without a model, chunks rest as zstd or raw.
    pub fn with_models(models: Vec<Arc<Model>>) -> Result<Codec> {
        let mut coders: Vec<ChunkCoder> = Vec::new();
        for model in models {
            let coder = ChunkCoder::new(model)?;
            if coders.iter().any(|known| name_of(known) == name_of(&coder)) {
                return Err(Error::Model(
                    "two models have names that a chunk cannot tell apart; remove one of them"
                        .into(),
                ));
            }
            coders.push(coder);
        }
        Ok(Codec { coders })
    }

    /// The model that codes new chunks.
    pub fn model(&self) -> Option<&Arc<Model>> {
        self.coders.first().map(ChunkCoder::model)
    }

    /// A frame made fast, for the hot tier: zstd at its fastest, or raw.
    pub fn encode_hot(&self, plain: &[u8]) -> Vec<u8> {
        zstd_or_raw(plain, HOT_LEVEL)
    }

    /// The smallest frame of all codecs, decoded and compared before it is
    /// returned. Slow: for the drain.
    pub fn encode_cold(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let frame = self.choose(plain)?;
        match self.decode(&frame, plain.len())? == plain {
            true => Ok(frame),
            false => Err(Error::Corrupt("the new coding decodes wrongly".into())),
        }
    }

    /// A frame of this kind, or the smallest of all kinds.
    ///
    /// [`Error::Model`] where the kind needs a model and there is none. A
    /// chunk that the kind cannot shrink comes back raw.
    pub fn encode_as(&self, kind: Option<Kind>, plain: &[u8]) -> Result<Vec<u8>> {
        match kind {
            None => self.choose(plain),
            Some(Kind::Raw) => Ok(frame(Kind::Raw, Version::V0, &[plain])),
            Some(Kind::Zstd) => Ok(zstd_or_raw(plain, COLD_LEVEL)),
            Some(kind @ (Kind::Mix | Kind::Lm)) => {
                let coder = self.coders.first().ok_or_else(|| {
                    Error::Model("this codec needs a model, and there is none here".into())
                })?;
                let modelled = encode_modelled(coder, kind, plain)?;
                Ok(match modelled.len() <= plain.len() {
                    true => modelled,
                    false => frame(Kind::Raw, Version::V0, &[plain]),
                })
            }
        }
    }

    /// The smallest frame, where the model must earn the time that it takes
    /// every reader.
    fn choose(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let small = zstd_or_raw(plain, COLD_LEVEL);
        let Some(coder) = self.coders.first() else {
            return Ok(small);
        };
        if !probe::worth_modelling(plain, small.len()) {
            return Ok(small);
        }
        let mix = encode_modelled(coder, Kind::Mix, plain)?;
        let lm = encode_modelled(coder, Kind::Lm, plain)?;
        let modelled = match probe::model_earns_its_time(lm.len(), mix.len().min(small.len())) {
            true => lm,
            false => mix,
        };
        Ok(match modelled.len() < small.len() {
            true => modelled,
            false => small,
        })
    }

    /// The plain bytes of a frame: exactly `plain_len` of them, or an error.
    /// The caller compares their hash with the chunk's name.
    pub fn decode(&self, frame: &[u8], plain_len: usize) -> Result<Vec<u8>> {
        let (kind, version) = read_first(frame)?;
        let body = &frame[1..];
        let plain = match kind {
            Kind::Raw => body.to_vec(),
            Kind::Zstd => zstd::bulk::decompress(body, plain_len)
                .map_err(|e| Error::Corrupt(format!("a zstd frame: {e}")))?,
            Kind::Mix | Kind::Lm => {
                let (name, payload) = body
                    .split_at_checked(MODEL_NAME)
                    .ok_or_else(|| Error::Corrupt("a chunk frame is cut short".into()))?;
                let coder = self.coder(name)?;
                coder.decode(version, payload, plain_len, kind == Kind::Lm)?
            }
        };
        if plain.len() != plain_len {
            return Err(Error::Corrupt("a chunk frame has the wrong length".into()));
        }
        Ok(plain)
    }

    fn coder(&self, name: &[u8]) -> Result<&ChunkCoder> {
        let found = self.coders.iter().find(|coder| name_of(coder) == name);
        found.ok_or_else(|| {
            let hex: String = name.iter().map(|b| format!("{b:02x}")).collect();
            Error::Model(format!(
                "a chunk was coded with the model {hex}..., which is not in this store: \
                 bring its file back into the store's folder `models`"
            ))
        })
    }
}

/// The bytes that name a coder's model in a frame.
fn name_of(coder: &ChunkCoder) -> [u8; MODEL_NAME] {
    let hash = coder.model().hash();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn encode_modelled(coder: &ChunkCoder, kind: Kind, plain: &[u8]) -> Result<Vec<u8>> {
    let payload = coder.encode(plain, kind == Kind::Lm)?;
    Ok(frame(kind, coder.version(), &[&name_of(coder), &payload]))
}

fn zstd_or_raw(plain: &[u8], level: i32) -> Vec<u8> {
    match zstd::bulk::compress(plain, level) {
        Ok(packed) if packed.len() < plain.len() => frame(Kind::Zstd, Version::V0, &[&packed]),
        _ => frame(Kind::Raw, Version::V0, &[plain]),
    }
}

fn frame(kind: Kind, version: Version, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    out.push(first_byte(kind, version));
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}
