//! Integer numbers with an exponent, and the functions of one number that the
//! engine needs: reciprocal and inverse square root.
//!
//! Everything here is exact: two implementations that follow the definitions
//! give the same bits. The definitions are repeated in `docs/codec-model.md`.

/// Bits that `v` needs: 0 for 0, otherwise `floor(log2 v) + 1`.
#[inline(always)]
pub fn bits(v: u32) -> u32 {
    32 - v.leading_zeros()
}

/// A positive number `m * 2^e` with `2^30 <= m < 2^31`, or zero (`m = 0`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    pub m: u32,
    pub e: i32,
}

impl Scale {
    pub const ZERO: Scale = Scale { m: 0, e: 0 };
    pub const ONE: Scale = Scale { m: 1 << 30, e: -30 };

    /// `m * 2^e`, with the bits of `m` below the 31 highest cut off.
    #[inline(always)]
    pub const fn new(m: u64, e: i32) -> Scale {
        if m == 0 {
            return Scale::ZERO;
        }
        let shift = 33 - m.leading_zeros() as i32;
        let m = if shift > 0 { m >> shift } else { m << -shift };
        Scale {
            m: m as u32,
            e: e + shift,
        }
    }

    /// The product, cut off to 31 bits.
    #[inline(always)]
    pub const fn times(self, other: Scale) -> Scale {
        Scale::new(self.m as u64 * other.m as u64, self.e + other.e)
    }

    /// The product with `2^by`.
    #[inline(always)]
    pub const fn shifted(self, by: i32) -> Scale {
        Scale {
            m: self.m,
            e: self.e + by,
        }
    }

    /// `floor(self * 2^24)`, at most `2^31 - 1`: how the KV cache keeps scales.
    #[inline(always)]
    pub fn to_fixed24(self) -> u32 {
        match self.e + 24 {
            _ if self.m == 0 => 0,
            1.. => i32::MAX as u32,
            0 => self.m,
            down @ -30..0 => self.m >> -down,
            _ => 0,
        }
    }
}

/// `1/127`, the step between quantised values relative to the largest.
pub const PER_127: Scale = reciprocal(127);

/// `log2(e)`: `floor(log2(e) * 2^30) * 2^-30`.
pub const LOG2_E: Scale = Scale {
    m: 1_549_082_004,
    e: -30,
};

/// `floor(2^62 / n) * 2^-62`, cut off to 31 bits; `n` is not 0.
#[inline(always)]
pub const fn reciprocal(n: u32) -> Scale {
    Scale::new((1 << 62) / n as u64, -62)
}

/// The square root of a small integer: `floor(sqrt(n * 2^48)) * 2^-24`.
pub const fn square_root(n: u32) -> Scale {
    Scale::new(((n as u128) << 48).isqrt() as u64, -24)
}

/// Start of the inverse square root: for `i` in 32..128 the value at `i - 32`
/// is `floor(sqrt(floor(2^68 / (2 i + 1))))`.
const SEED: [u32; 96] = {
    let mut table = [0; 96];
    let mut i = 0;
    while i < 96 {
        table[i] = ((1u128 << 68) / (2 * (i as u128 + 32) + 1)).isqrt() as u32;
        i += 1;
    }
    table
};

/// `1 / sqrt(n)` for `n > 0`, to about 2^-26 of its value: a table look-up and
/// two steps of Newton's method in integers.
#[inline(always)]
pub fn inverse_square_root(n: u64) -> Scale {
    // n = v * 4^h with 2^30 <= v < 2^32
    let up = n.leading_zeros() & !1;
    let v = (n << up) >> 32;
    let h = 16 - (up / 2) as i32;
    let mut y = u64::from(SEED[(v >> 25) as usize - 32]); // about 2^46 / sqrt(v)
    for _ in 0..2 {
        let square = (y * y) >> 32;
        let one = (v * square) >> 30; // about 2^30
        y = (y * ((3 << 30) - one)) >> 31;
    }
    Scale::new(y, -46 - h)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(s: Scale) -> f64 {
        f64::from(s.m) * f64::from(s.e).exp2()
    }

    #[test]
    fn scales_are_close_to_what_they_stand_for() {
        let third = reciprocal(3);
        assert!((value(third) * 3.0 - 1.0).abs() < 1e-9);
        assert!((value(third.times(third)) * 9.0 - 1.0).abs() < 1e-8);
        assert!((value(square_root(64)) - 8.0).abs() < 1e-8);
        assert_eq!(third.times(Scale::ZERO), Scale::ZERO);
        assert_eq!(Scale::ONE.to_fixed24(), 1 << 24);
        assert_eq!(Scale::ONE.shifted(7).to_fixed24(), i32::MAX as u32);
        assert_eq!(Scale::ONE.shifted(-24).to_fixed24(), 1);
        assert_eq!(Scale::ONE.shifted(-25).to_fixed24(), 0);
        assert_eq!(Scale::ONE.shifted(-1000).to_fixed24(), 0);
    }

    #[test]
    fn inverse_square_root_is_accurate_over_its_whole_range() {
        let mut n = 1u64;
        for i in 0..20_000u64 {
            for n in [n, u64::MAX - i, 1 << (i % 64), (1 << (i % 64)) + 1] {
                let exact = 1.0 / (n as f64).sqrt();
                let error = value(inverse_square_root(n)) / exact - 1.0;
                assert!(error.abs() < 3e-8, "1/sqrt({n}) is wrong by {error}");
            }
            n = n
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407)
                >> (i % 60);
            n = n.max(1);
        }
    }
}
