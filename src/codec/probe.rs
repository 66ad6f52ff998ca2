//! Cheap looks at a chunk that decide what is worth trying.

/// Per cent by which the language model must beat the codecs without it: it
/// takes ten times as long to read.
const MARGIN: usize = 3;

/// Below this many bytes the header of a modelled frame eats the gain.
const SHORT: usize = 16;

/// Whether a chunk can gain anything from contexts or a model. `zstd_len`: what
/// the best of raw and zstd makes of it.
pub fn worth_modelling(plain: &[u8], zstd_len: usize) -> bool {
    plain.len() >= SHORT && (zstd_len * 100 < plain.len() * 97 || !is_noise(plain))
}

/// Whether the language model's frame is smaller by enough.
pub fn model_earns_its_time(lm: usize, others: usize) -> bool {
    lm * 100 <= others * (100 - MARGIN)
}

/// Whether all bytes are about equally frequent, as in what is compressed or
/// encrypted. Two bytes drawn from noise of length `n` agree once in 256 times;
/// the count of agreeing pairs says how far the bytes are from that. Chunks too
/// short to tell are not noise.
fn is_noise(plain: &[u8]) -> bool {
    let mut counts = [0u64; 256];
    plain.iter().for_each(|&b| counts[usize::from(b)] += 1);
    let n = plain.len() as u64;
    let pairs: u64 = counts.iter().map(|c| c * c.saturating_sub(1)).sum();
    n >= 512 && pairs * 256 < n * n / 100 * 115
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn noise_is_not_worth_it_and_text_is() {
        for len in [1024, 65536] {
            assert!(!worth_modelling(&noise(len), len), "{len}");
        }
        let text = b"It was the best of times, it was the worst of times";
        assert!(worth_modelling(text, text.len()));
        assert!(!worth_modelling(b"tiny", 4));
        // Base64 of noise: six bits a byte, and zstd finds that.
        let letters: Vec<u8> = noise(65536).iter().map(|b| b'A' + b % 64).collect();
        assert!(worth_modelling(&letters, letters.len() * 4 / 5));
    }

    #[test]
    fn the_model_must_win_by_the_margin() {
        assert!(model_earns_its_time(97, 100));
        assert!(!model_earns_its_time(98, 100));
    }
}
