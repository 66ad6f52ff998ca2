//! A sum over all rows, kept up to date by every commit: two databases with
//! the same sum hold the same rows.

/// The sum, modulo 2^128, of the first sixteen bytes (big endian) of the hash
/// of every row: BLAKE3 of the key's length as `u16`, the key with the table
/// in front, the value. Rows come and go in any order.
///
/// It finds damage. Nobody who can choose rows gains anything by a collision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u128);

impl Digest {
    pub fn add(&mut self, raw_key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_add(hash(raw_key, value));
    }

    pub fn remove(&mut self, raw_key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_sub(hash(raw_key, value));
    }
}

fn hash(raw_key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    // Rows are far shorter than that.
    hasher.update(&(raw_key.len() as u16).to_be_bytes());
    hasher.update(raw_key);
    hasher.update(value);
    let mut word = [0; 16];
    word.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_be_bytes(word)
}

/// What the rows were after a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The commit's number: one more than that of the one before.
    pub epoch: u64,
    pub digest: Digest,
}

/// Bytes of an encoded stamp.
pub const STAMP: usize = 24;

impl Stamp {
    /// `u64` epoch, 16 bytes digest.
    pub fn encode(&self) -> [u8; STAMP] {
        let mut out = [0; STAMP];
        out[..8].copy_from_slice(&self.epoch.to_be_bytes());
        out[8..].copy_from_slice(&self.digest.0.to_be_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (epoch, digest) = bytes.split_first_chunk::<8>()?;
        Some(Self {
            epoch: u64::from_be_bytes(*epoch),
            digest: Digest(u128::from_be_bytes(digest.try_into().ok()?)),
        })
    }
}
