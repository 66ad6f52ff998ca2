//! Logarithms and the logistic function in fixed point, by integer recipes:
//! the same tables on every machine.
//!
//! The *logistic domain* has 512 steps a nat: `stretch(p) = ln(p / (1 - p))`
//! and its inverse `squash`, held within [`LIMIT`].

use crate::kernel::mixing::Tables;

/// Bound of the logistic domain: 12 nats, 1 in 163,000.
pub const LIMIT: i32 = 12 * 512 - 1;

/// ln 2 in 1/32768.
const LN2: i32 = 22713;

/// `ln(1 + i / 2048)` in 1/32768, by 2 atanh(z) = 2 (z + z^3/3 + z^5/5 + ...).
static LN: [u16; 2048] = {
    let mut table = [0; 2048];
    let mut i = 0;
    while i < 2048 {
        let z = ((i as u64) << 32) / (4096 + i as u64);
        let (mut power, mut sum, mut k) = (z, 0, 1);
        while k < 24 {
            sum += power / k;
            power = (((power * z) >> 32) * z) >> 32;
            k += 2;
        }
        table[i] = ((sum + (1 << 15)) >> 16) as u16; // 2 * sum, from 2^32 to 2^15
        i += 1;
    }
    table
};

/// `ln(a)` in 1/32768, by the first 12 bits of `a`; that of 1 for 0.
#[inline(always)]
pub fn ln(a: u32) -> i32 {
    let a = a.max(1);
    let zeros = a.leading_zeros();
    let mantissa = a << zeros;
    (31 - zeros as i32) * LN2 + i32::from(LN[(mantissa >> 20 & 2047) as usize])
}

/// `ln(ones / zeros)` in the logistic domain.
#[inline(always)]
pub fn log_odds(ones: u32, zeros: u32) -> i32 {
    ((ln(ones) - ln(zeros)) >> 6).clamp(-LIMIT, LIMIT)
}

/// `stretch` of the middle of each 4096th.
const STRETCH: [i16; 4097] = {
    let mut table = [0; 4097];
    let mut p = 0;
    while p < 4096 {
        let (ones, zeros) = (2 * p as u32 + 1, 8191 - 2 * p as u32);
        let (mut l, mut sign, mut a) = (0, 1, ones);
        while sign >= -1 {
            // `ln` as above, which is not a constant function
            let shift = a.leading_zeros();
            let m = (a << shift) >> 20 & 2047;
            l += sign * ((31 - shift as i32) * LN2 + LN[m as usize] as i32);
            sign -= 2;
            a = zeros;
        }
        table[p] = (l >> 6) as i16;
        p += 1;
    }
    table
};

/// `stretch` of a probability in 1/4096.
#[inline(always)]
pub fn stretch(p12: u32) -> i32 {
    i32::from(TABLES.stretch[(p12 & 4095) as usize])
}

const STEPS: usize = 6 * 512;

/// The tables, and the rates of nodes by their counts, in 1/65536: 1 / (n + 1.5),
/// held above 1/48.
pub static TABLES: Tables = Tables {
    stretch: STRETCH,
    squash: SQUASH,
    rates: {
        let mut rates = [0; 16];
        let mut n = 0;
        while n < 12 {
            rates[n] = (131072 / (2 * n + 3)) as u16;
            n += 1;
        }
        rates[12] = (65536u32 / 15) as u16;
        rates[13] = (65536u32 / 18) as u16;
        rates[14] = (65536u32 / 22) as u16;
        rates[15] = (65536u32 / 48) as u16;
        rates
    },
};

/// `65536 / (1 + e^-x)` at steps of 1/128 nat from -12 to 12 nats.
const SQUASH: [u16; STEPS + 1] = {
    // e^(1/256) and e^(1/128) in 2^-48: sums of (1/n)^k / k!
    let one = 1u128 << 48;
    let (mut half, mut step, mut a, mut b, mut k) = (0, 0, one, one, 1);
    while k < 12 {
        half += a;
        step += b;
        a /= 256 * k;
        b /= 128 * k;
        k += 1;
    }
    let mut table = [0; STEPS + 1];
    let (mut e, mut i) = (half, 0); // e^x at the middle of the step above zero
    while i < STEPS / 2 {
        let p = (65536 * e + ((e + one) >> 1)) / (e + one);
        let p = if p > 65535 { 65535 } else { p };
        table[STEPS / 2 + i] = p as u16;
        table[STEPS / 2 - 1 - i] = (65536 - p) as u16;
        e = (e * step) >> 48;
        i += 1;
    }
    table
};

/// The probability in 1/65536, from 1 to 65535, of a value of the logistic
/// domain.
#[inline(always)]
pub fn squash(x: i32) -> i32 {
    let step = (x.clamp(-LIMIT, LIMIT) + 6144) >> 2;
    i32::from(TABLES.squash[step as usize])
}

/// A well mixed number from two.
#[inline(always)]
pub fn hash(a: u32, b: u32) -> u32 {
    let h = (a ^ b.wrapping_mul(0x9E37_79B1)).wrapping_mul(0x85EB_CA77);
    (h ^ h >> 15).wrapping_mul(0xC2B2_AE3D)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right() {
        for a in (1..5000).chain([1 << 20, (1 << 24) - 1, u32::MAX]) {
            let error = f64::from(ln(a)) / 32768.0 - f64::from(a).ln();
            assert!(error.abs() < 0.0007, "ln({a}) is off by {error}");
        }
        for p in 0..4096 {
            let exact = ((f64::from(p) + 0.5) / (4095.5 - f64::from(p))).ln();
            assert!((f64::from(stretch(p)) / 512.0 - exact).abs() < 0.004);
        }
    }

    #[test]
    fn squash_is_the_inverse_of_stretch() {
        for x in -LIMIT..=LIMIT {
            let exact = 65536.0 / (1.0 + (-f64::from(x) / 512.0).exp());
            let p = f64::from(squash(x));
            assert!(
                (p - exact).abs() <= 1.0 + exact * (1.0 - exact / 65536.0) / 200.0,
                "squash({x}) = {p}, not {exact}"
            );
            assert!((1..=65535).contains(&squash(x)));
        }
        assert_eq!(
            (squash(i32::MIN), squash(i32::MAX)),
            (squash(-LIMIT), squash(LIMIT))
        );
        for p in 0..4096 {
            assert!((squash(stretch(p)) - (p as i32 * 16 + 8)).abs() <= 70);
        }
    }

    /// Tables are part of the format: they may never change.
    #[test]
    fn tables_are_the_same_for_ever() {
        let mut h = blake3::Hasher::new();
        LN.iter().for_each(|v| {
            h.update(&v.to_le_bytes());
        });
        STRETCH[..4096].iter().for_each(|v| {
            h.update(&v.to_le_bytes());
        });
        SQUASH[..STEPS].iter().for_each(|v| {
            h.update(&v.to_le_bytes());
        });
        assert_eq!(&h.finalize().to_hex()[..16], "8f3d30b4a5b83418");
    }
}
