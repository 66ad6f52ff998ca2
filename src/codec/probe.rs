//! Cheap looks at a chunk that decide what is worth trying.

/// Below this many bytes the header of a modelled frame eats the gain.
const SHORT: usize = 16;

/// Whether a chunk can gain anything from contexts or a model. `zstd_len`: what
/// the best of raw and zstd makes of it.
pub fn worth_modelling(plain: &[u8], zstd_len: usize) -> bool {
    plain.len() >= SHORT && (shrinks(plain, zstd_len) || !is_noise(plain))
}

/// Whether a chunk is surely not worth more than the fastest look at it, whose
/// result is `fast_len` bytes: zstd found no repetition and its bytes are noise.
pub fn is_hopeless(plain: &[u8], fast_len: usize) -> bool {
    !shrinks(plain, fast_len) && is_noise(plain)
}

/// Whether the model is worth trying: what neither zstd nor contexts make
/// smaller, it does not either, and it takes ten times as long to find out.
pub fn worth_predicting(plain: &[u8], zstd_len: usize, mix_len: usize) -> bool {
    shrinks(plain, zstd_len.min(mix_len))
}

fn shrinks(plain: &[u8], len: usize) -> bool {
    len * 100 < plain.len() * 97
}

/// Whether the language model's frame is smaller by enough: it must beat the
/// others by `margin` per cent.
pub fn model_earns_its_time(lm: usize, others: usize, margin: u8) -> bool {
    lm * 100 <= others * (100 - usize::from(margin.min(100)))
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
        assert!(model_earns_its_time(97, 100, 3));
        assert!(!model_earns_its_time(98, 100, 3));
        assert!(model_earns_its_time(100, 100, 0));
        assert!(!model_earns_its_time(1, 100, 100));
    }

    #[test]
    fn noise_is_hopeless_unless_it_repeats() {
        assert!(is_hopeless(&noise(65536), 65536));
        // The same noise twice, and zstd has found that.
        assert!(!is_hopeless(&noise(32768).repeat(2), 32800));
        assert!(!is_hopeless(&[b'a'; 4096], 4096));
        assert!(worth_predicting(&[0; 100], 99, 90));
        assert!(!worth_predicting(&[0; 100], 99, 98));
    }
}
