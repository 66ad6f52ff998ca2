//! The elementwise steps with AVX-512, to the bits of [`steps`]: 16 values of
//! 32 bits at a time, or 32 of 16 bits where that is enough. Two groups of 16
//! become one of 32 by their places: the first in the low halves of 32 bits,
//! the second in the high halves. Rows whose length or size is unusual go
//! through [`steps`] itself.

use std::arch::x86_64::*;

use super::super::number::{PER_127, Scale, bits, inverse_square_root, reciprocal};
use super::super::steps::{self, Fit, GateScales, HeadScales, Norm, RESIDUAL_LIMIT, Rate};

#[inline]
#[target_feature(enable = "avx512f")]
fn get(v: &[i32; 16]) -> __m512i {
    // SAFETY: 64 bytes
    unsafe { _mm512_loadu_si512(v.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn put(v: &mut [i32; 16], to: __m512i) {
    // SAFETY: 64 bytes
    unsafe { _mm512_storeu_si512(v.as_mut_ptr().cast(), to) }
}

/// 16 values with zeros in the high halves.
#[inline]
#[target_feature(enable = "avx512f")]
fn get_u16(v: &[u16; 16]) -> __m512i {
    // SAFETY: 32 bytes
    _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(v.as_ptr().cast()) })
}

/// The same of signed values: their bits, with zeros in the high halves.
#[inline]
#[target_feature(enable = "avx512f")]
fn get_i16(v: &[i16; 16]) -> __m512i {
    // SAFETY: 32 bytes
    _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(v.as_ptr().cast()) })
}

/// The low halves of `a` and of `b`, side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn join16(a: __m512i, b: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, a, _mm512_slli_epi32::<16>(b))
}

/// The largest absolute value.
#[inline]
#[target_feature(enable = "avx512f")]
fn peak(v: &[[i32; 16]]) -> u32 {
    let mut top = [_mm512_setzero_si512(); 2];
    let (pairs, rest) = v.as_chunks::<2>();
    for [a, b] in pairs {
        top[0] = _mm512_max_epu32(top[0], _mm512_abs_epi32(get(a)));
        top[1] = _mm512_max_epu32(top[1], _mm512_abs_epi32(get(b)));
    }
    for a in rest {
        top[0] = _mm512_max_epu32(top[0], _mm512_abs_epi32(get(a)));
    }
    _mm512_reduce_max_epu32(_mm512_max_epu32(top[0], top[1]))
}

/// A [`Fit`] that shifts down.
#[derive(Clone, Copy)]
struct Down {
    half: __m512i,
    count: __m512i,
}

impl Down {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(fit: &Fit) -> Down {
        Down {
            half: _mm512_set1_epi32(fit.half),
            count: _mm512_set1_epi32(fit.down as i32),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn apply(self, v: __m512i) -> __m512i {
        _mm512_srav_epi32(_mm512_add_epi32(v, self.half), self.count)
    }
}

/// [`steps::quantise`] of a row whose peak is known.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn quantise(v: &[[i32; 16]], out: &mut [i8], top: u32) -> Scale {
    let fit = Fit::new(top);
    if top == 0 || fit.shift < 0 {
        return steps::quantise(v.as_flattened(), out);
    }
    let largest = fit.apply(top as i32) as u32; // 2^13 to 2^14
    let rate = _mm512_set1_epi32(((127 << 21) / largest) as i32); // below 2^15
    let (down, half) = (Down::new(&fit), _mm512_set1_epi32(1 << 20));
    let one = |v: &[i32; 16]| {
        let product = _mm512_madd_epi16(down.apply(get(v)), rate);
        _mm512_srai_epi32::<21>(_mm512_add_epi32(product, half))
    };
    let (fours, rest) = v.as_chunks::<4>();
    let (wide, narrow) = out.as_chunks_mut::<64>();
    for ([a, b, c, d], out) in fours.iter().zip(wide) {
        let low = _mm512_packs_epi32(one(a), one(b));
        let high = _mm512_packs_epi32(one(c), one(d));
        let all = in_order(_mm512_packs_epi16(low, high));
        // SAFETY: 64 bytes
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), all) };
    }
    for (v, out) in rest.iter().zip(narrow.as_chunks_mut::<16>().0) {
        let all = _mm512_cvtepi32_epi8(one(v));
        // SAFETY: 16 bytes
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), all) };
    }
    Scale::new(u64::from(largest), fit.shift).times(PER_127)
}

/// Packing works within quarters of a register; this brings its fours of
/// values back in order.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_order(packed: __m512i) -> __m512i {
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_epi32(order, packed)
}

/// The low halves of two groups of eight products of 64 bits, of the even and
/// of the odd places, cut by 9 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn cut9(even: __m512i, odd: __m512i) -> __m512i {
    let (even, odd) = (
        _mm512_srli_epi64::<9>(even),
        _mm512_slli_epi64::<{ 32 - 9 }>(odd),
    );
    _mm512_mask_blend_epi32(0xaaaa, even, odd)
}

/// See [`steps::normalise`].
#[target_feature(enable = "avx512f,avx512bw")]
pub fn normalise(x: &[i32], norm: &Norm, scratch: &mut [i32], out: &mut [i8]) -> Scale {
    let (x16, []) = x.as_chunks::<16>() else {
        return steps::normalise(x, norm, scratch, out);
    };
    let cut = bits(peak(x16)).saturating_sub(24);
    let count = _mm512_set1_epi32(cut as i32);
    let mut sums = [_mm512_setzero_si512(); 2];
    let mut top = _mm512_setzero_si512();
    let scratch = &mut scratch[..x.len()];
    let t16 = scratch.as_chunks_mut::<16>().0;
    for ((t, x), g) in t16.iter_mut().zip(x16).zip(norm.gain.as_chunks::<16>().0) {
        // SAFETY: 32 bytes
        let g = _mm512_cvtepi16_epi32(unsafe { _mm256_loadu_si256(g.as_ptr().cast()) });
        let x = _mm512_srav_epi32(get(x), count);
        let (x_odd, g_odd) = (_mm512_srli_epi64::<32>(x), _mm512_srli_epi64::<32>(g));
        sums[0] = _mm512_add_epi64(sums[0], _mm512_mul_epi32(x, x));
        sums[1] = _mm512_add_epi64(sums[1], _mm512_mul_epi32(x_odd, x_odd));
        let scaled = cut9(_mm512_mul_epi32(x, g), _mm512_mul_epi32(x_odd, g_odd));
        top = _mm512_max_epu32(top, _mm512_abs_epi32(scaled));
        put(t, scaled);
    }
    let sum = _mm512_reduce_add_epi64(_mm512_add_epi64(sums[0], sums[1])) as u64;
    let sum = sum + x.len() as u64 * (norm.epsilon >> (2 * cut));
    quantise(t16, out, _mm512_reduce_max_epu32(top))
        .times(norm.unit)
        .times(inverse_square_root(sum.max(1)))
        .shifted(9)
}

/// The most groups of 16 of a head that [`rotate`] takes: below, the sum of
/// squares fits 32 bits.
const HEAD: usize = 8;

/// See [`steps::rotate`].
#[target_feature(enable = "avx512f,avx512bw")]
pub fn rotate(sums: &[i32], s: &HeadScales, scratch: &mut [i32], out: &mut [i8]) -> Scale {
    let (a16, []) = sums.as_chunks::<16>() else {
        return steps::rotate(sums, s, scratch, out);
    };
    let fit = Fit::new(peak(a16));
    if fit.shift < 0 || !a16.len().is_multiple_of(2) || a16.len() > HEAD {
        return steps::rotate(sums, s, scratch, out);
    }
    let (down, half) = (Down::new(&fit), _mm512_set1_epi32(1 << 14));
    let low16 = _mm512_set1_epi32(0xffff);
    let mut square = _mm512_setzero_si512();
    let mut t = [_mm512_setzero_si512(); HEAD];
    let scales = (s.channel.as_chunks::<16>().0.iter()).zip(s.gained.as_chunks::<16>().0);
    for ((t, a), (c, g)) in t.iter_mut().zip(a16).zip(scales) {
        let a = down.apply(get(a));
        let round = |v| _mm512_srai_epi32::<15>(_mm512_add_epi32(v, half));
        let y = round(_mm512_madd_epi16(a, get_u16(c)));
        square = _mm512_add_epi32(square, _mm512_madd_epi16(y, _mm512_and_si512(y, low16)));
        *t = round(_mm512_madd_epi16(a, get_i16(g)));
    }
    let square = _mm512_reduce_add_epi64(_mm512_add_epi64(
        _mm512_and_si512(square, _mm512_set1_epi64(0xffff_ffff)),
        _mm512_srli_epi64::<32>(square),
    )) as u64;
    let scratch = &mut scratch[..sums.len()];
    let out16 = scratch.as_chunks_mut::<16>().0;
    let (low, high) = out16.split_at_mut(a16.len() / 2);
    let turns = (s.cos.as_chunks::<16>().0.iter()).zip(s.sin.as_chunks::<16>().0);
    let mut top = _mm512_setzero_si512();
    for (i, ((low, high), (c, s))) in low.iter_mut().zip(high).zip(turns).enumerate() {
        let both = join16(t[i], t[i + a16.len() / 2]);
        let (c, s) = (get_i16(c), get_i16(s));
        let minus = _mm512_sub_epi32(_mm512_setzero_si512(), s);
        let l = _mm512_madd_epi16(both, join16(c, minus)); // a c - b s
        let h = _mm512_madd_epi16(both, join16(s, c)); // a s + b c
        top = _mm512_max_epu32(top, _mm512_abs_epi32(l));
        top = _mm512_max_epu32(top, _mm512_abs_epi32(h));
        put(low, l);
        put(high, h);
    }
    quantise(out16, out, _mm512_reduce_max_epu32(top))
        .times(s.unit)
        .times(inverse_square_root(square.max(1)))
        .shifted(-14)
}

/// See [`steps::value`].
#[target_feature(enable = "avx512f,avx512bw")]
pub fn value(
    sums: &[i32],
    channel: &[u16],
    row: Scale,
    scratch: &mut [i32],
    out: &mut [i8],
) -> Scale {
    let (a16, []) = sums.as_chunks::<16>() else {
        return steps::value(sums, channel, row, scratch, out);
    };
    let fit = Fit::new(peak(a16));
    if fit.shift < 0 {
        return steps::value(sums, channel, row, scratch, out);
    }
    let down = Down::new(&fit);
    let mut top = _mm512_setzero_si512();
    let scratch = &mut scratch[..sums.len()];
    let t16 = scratch.as_chunks_mut::<16>().0;
    for ((t, a), c) in t16.iter_mut().zip(a16).zip(channel.as_chunks::<16>().0) {
        let scaled = _mm512_madd_epi16(down.apply(get(a)), get_u16(c));
        top = _mm512_max_epu32(top, _mm512_abs_epi32(scaled));
        put(t, scaled);
    }
    let scale = quantise(t16, out, _mm512_reduce_max_epu32(top));
    scale.times(row).shifted(fit.shift)
}

/// See [`steps::join`].
#[target_feature(enable = "avx512f,avx512bw")]
pub fn join(
    heads: &[i32],
    scales: &[Scale],
    head_dim: usize,
    scratch: &mut [i32],
    out: &mut [i8],
) -> Scale {
    if !head_dim.is_multiple_of(16) || !heads.len().is_multiple_of(16) {
        return steps::join(heads, scales, head_dim, scratch, out);
    }
    let exponent = scales.iter().filter(|s| s.m != 0).map(|s| s.e).max();
    let exponent = exponent.unwrap_or(0);
    let mut top = _mm512_setzero_si512();
    let scratch = &mut scratch[..heads.len()];
    let each = scratch.chunks_exact_mut(head_dim);
    for ((t, o), s) in each.zip(heads.chunks_exact(head_dim)).zip(scales) {
        // of products of 64 bits the high halves, shifted by what is above 32
        let shift = (exponent - s.e).clamp(0, 31);
        let (m, count) = (_mm512_set1_epi32(s.m as i32), _mm512_set1_epi32(shift));
        for (t, o) in (t.as_chunks_mut::<16>().0.iter_mut()).zip(o.as_chunks::<16>().0) {
            let o = get(o);
            let even = _mm512_srli_epi64::<32>(_mm512_mul_epi32(o, m));
            let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(o), m);
            let high = _mm512_mask_blend_epi32(0xaaaa, even, odd);
            let scaled = _mm512_srav_epi32(high, count);
            top = _mm512_max_epu32(top, _mm512_abs_epi32(scaled));
            put(t, scaled);
        }
    }
    let top = _mm512_reduce_max_epu32(top);
    quantise(scratch.as_chunks::<16>().0, out, top).shifted(32 + exponent)
}

/// See [`steps::accumulate`].
#[target_feature(enable = "avx512f,avx512bw")]
pub fn accumulate(x: &mut [i32], sums: &[i32], channel: &[u16], cut: u32, row: Scale) {
    let shift = (-row.shifted(cut as i32).e).clamp(1, 62);
    // below 32, a sum may be too large for the high half
    if shift < 32 || !x.len().is_multiple_of(16) {
        return steps::accumulate(x, sums, channel, cut, row);
    }
    let cut = _mm512_set1_epi64(i64::from(cut));
    let m = _mm512_set1_epi32(row.m as i32);
    let half = _mm512_set1_epi64(1 << (shift - 1));
    let rest = _mm512_set1_epi32(shift - 32);
    let limit = _mm512_set1_epi32(RESIDUAL_LIMIT);
    let bound = |v| {
        let v = _mm512_min_epi32(v, limit);
        _mm512_max_epi32(v, _mm512_sub_epi32(_mm512_setzero_si512(), limit))
    };
    let given = (sums.as_chunks::<16>().0.iter()).zip(channel.as_chunks::<16>().0);
    for (x, (a, c)) in x.as_chunks_mut::<16>().0.iter_mut().zip(given) {
        let (a, c) = (get(a), get_u16(c));
        let even = _mm512_srlv_epi64(_mm512_mul_epi32(a, c), cut);
        let (a, c) = (_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(c));
        let odd = _mm512_srlv_epi64(_mm512_mul_epi32(a, c), cut);
        let even = _mm512_add_epi64(_mm512_mul_epi32(even, m), half);
        let odd = _mm512_add_epi64(_mm512_mul_epi32(odd, m), half);
        let high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64::<32>(even), odd);
        let y = bound(_mm512_srav_epi32(high, rest));
        put(x, bound(_mm512_add_epi32(get(x), y)));
    }
}

/// `p = d * factor` of 32 distances below 2^15: high and low halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn product(d: __m512i, factor: __m512i) -> (__m512i, __m512i) {
    (_mm512_mulhi_epu16(d, factor), _mm512_mullo_epi16(d, factor))
}

/// [`Rate`] in registers.
#[derive(Clone, Copy)]
struct Distances {
    shift: __m512i,
    most: __m512i,
    factor: __m512i,
}

impl Distances {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new(rate: Rate) -> Distances {
        Distances {
            shift: _mm512_set1_epi32(rate.shift as i32),
            most: _mm512_set1_epi32(32767),
            factor: _mm512_set1_epi16(rate.factor),
        }
    }

    /// [`Rate::apply`] of two groups of distances.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn apply(self, a: __m512i, b: __m512i) -> (__m512i, __m512i) {
        let short = |d| _mm512_min_epu32(_mm512_srlv_epi32(d, self.shift), self.most);
        let b = _mm512_slli_epi32::<16>(short(b));
        product(_mm512_or_si512(short(a), b), self.factor)
    }
}

/// [`steps::power`] of 32 numbers in halves: `a` and the whole part, for
/// `(a << 15) >> whole`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn power(high: __m512i, low: __m512i) -> (__m512i, __m512i) {
    let whole = _mm512_srli_epi16::<8>(high);
    // twice the 15 bits after the point: (x y) >> 15 is the high half of x (2 y)
    let (h, l) = (_mm512_slli_epi16::<8>(high), _mm512_srli_epi16::<8>(low));
    let even = _mm512_set1_epi16(!1);
    let f = _mm512_ternarylogic_epi32::<0b1110_0000>(even, h, l); // even & (h | l)
    let less = |n: i16, x| _mm512_sub_epi16(_mm512_set1_epi16(n), _mm512_mulhi_epu16(x, f));
    let c = less(7540, _mm512_set1_epi16(1272));
    let b = less(22652, c);
    (less(i16::MIN, b), whole)
}

/// The weights that [`soften`] leaves: their low and high bytes.
pub struct Bytes<'a> {
    pub low: &'a mut [u8],
    pub high: &'a mut [u8],
}

/// [`steps::soften`], with the weights in bytes, 0 from `filled` to the next
/// multiple of 64. All slices have room for that multiple.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
#[allow(clippy::too_many_arguments)]
pub fn soften(
    scores: &mut [i32],
    keys: &[i32],
    values: &[i32],
    filled: usize,
    cut: u32,
    rate: Scale,
    limit: u32,
    out: Bytes,
) -> Scale {
    let count = _mm512_set1_epi32(cut as i32);
    let half = _mm512_set1_epi32((1 << cut) >> 1);
    let mut top = _mm512_set1_epi32(i32::MIN);
    let s16 = scores.as_chunks_mut::<16>().0;
    let k16 = keys.as_chunks::<16>().0;
    // each loop over what is whole, then once more over what is left, masked
    let mut scale = |s: &mut [i32; 16], k: &[i32; 16], valid: __mmask16| {
        let cut = _mm512_srav_epi32(_mm512_add_epi32(get(s), half), count);
        let scaled = _mm512_madd_epi16(cut, get(k)); // both fit 16 bits
        top = _mm512_mask_max_epi32(top, valid, top, scaled);
        put(s, scaled);
    };
    let whole = filled / 16;
    for (s, k) in s16[..whole].iter_mut().zip(k16) {
        scale(s, k, !0);
    }
    if !filled.is_multiple_of(16) {
        scale(&mut s16[whole], &k16[whole], mask(filled % 16));
    }
    let top = _mm512_set1_epi32(_mm512_reduce_max_epi32(top));
    let rate = Distances::new(Rate::new(rate));
    let (ones, low16) = (_mm512_set1_epi16(1), _mm512_set1_epi32(0xffff));
    let (mut sum, mut heaviest) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let mut weigh = |[s, t]: &mut [[i32; 16]; 2], [v, w]: &[[i32; 16]; 2], valid: __m512i| {
        let distance = |s: &[i32; 16]| _mm512_sub_epi32(top, get(s));
        let (high, low) = rate.apply(distance(s), distance(t));
        let (a, whole) = power(high, low);
        let e = _mm512_srlv_epi16(a, _mm512_add_epi16(whole, ones)); // to 2^14
        let e = _mm512_and_si512(e, valid);
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(e, ones));
        let first = _mm512_madd_epi16(_mm512_and_si512(e, low16), get(v)); // below 2^29
        let second = _mm512_madd_epi16(_mm512_srli_epi32::<16>(e), get(w));
        heaviest = _mm512_max_epu32(heaviest, _mm512_max_epu32(first, second));
        put(s, first);
        put(t, second);
    };
    let s32 = s16.as_chunks_mut::<2>().0;
    let v32 = values.as_chunks::<16>().0.as_chunks::<2>().0;
    let whole = filled / 32;
    for (s, v) in s32[..whole].iter_mut().zip(v32) {
        weigh(s, v, _mm512_set1_epi32(!0));
    }
    if !filled.is_multiple_of(32) {
        // the second 16 are the high halves
        let left = filled % 32;
        let low = _mm512_maskz_mov_epi32(mask(left), low16);
        let high = _mm512_set1_epi32(!0xffff);
        let valid = _mm512_mask_or_epi32(low, mask(left.saturating_sub(16)), low, high);
        weigh(&mut s32[whole], &v32[whole], valid);
    }
    let (sum, heaviest) = (
        _mm512_reduce_add_epi32(sum) as u32,
        _mm512_reduce_max_epu32(heaviest),
    );
    let cut = bits(heaviest).saturating_sub(limit);
    let count = _mm512_set1_epi32(cut as i32);
    let low8 = _mm512_set1_epi16(0xff);
    let bytes = |s: &[[i32; 16]; 4], low: &mut [u8; 64], high: &mut [u8; 64], left: usize| {
        let part = |i: usize| {
            let valid = mask(left.saturating_sub(16 * i));
            _mm512_maskz_srlv_epi32(valid, get(&s[i]), count)
        };
        let first = _mm512_packus_epi32(part(0), part(1));
        let second = _mm512_packus_epi32(part(2), part(3));
        let l = _mm512_packus_epi16(
            _mm512_and_si512(first, low8),
            _mm512_and_si512(second, low8),
        );
        let h = _mm512_packus_epi16(
            _mm512_srli_epi16::<8>(first),
            _mm512_srli_epi16::<8>(second),
        );
        // SAFETY: 64 bytes each
        unsafe {
            _mm512_storeu_si512(low.as_mut_ptr().cast(), in_order(l));
            _mm512_storeu_si512(high.as_mut_ptr().cast(), in_order(h));
        }
    };
    let s64 = s16.as_chunks::<4>().0;
    let low64 = out.low.as_chunks_mut::<64>().0;
    let high64 = out.high.as_chunks_mut::<64>().0;
    let whole = filled / 64;
    for ((s, low), high) in s64[..whole].iter().zip(&mut *low64).zip(&mut *high64) {
        bytes(s, low, high, 64);
    }
    if !filled.is_multiple_of(64) {
        let left = filled % 64;
        bytes(&s64[whole], &mut low64[whole], &mut high64[whole], left);
    }
    // the largest score has e = 2^14, so the sum is not 0
    reciprocal(sum).shifted(cut as i32)
}

/// The first `n` of 16.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    if n >= 16 { !0 } else { (1 << n) - 1 }
}

/// See [`steps::gated`].
#[target_feature(enable = "avx512f,avx512bw")]
pub fn gated(
    gate: &[i32],
    up: &[i32],
    s: &GateScales,
    row: Scale,
    scratch: &mut [i32],
    out: &mut [i8],
) -> Scale {
    let (g32, []) = gate.as_chunks::<16>().0.as_chunks::<2>() else {
        return steps::gated(gate, up, s, row, scratch, out);
    };
    let u32s = up.as_chunks::<16>().0.as_chunks::<2>().0;
    let (gate_fit, up_fit) = (
        Fit::new(peak(g32.as_flattened())),
        Fit::new(peak(u32s.as_flattened())),
    );
    if gate_fit.shift < 0 || up_fit.shift < 0 || !gate.len().is_multiple_of(32) {
        return steps::gated(gate, up, s, row, scratch, out);
    }
    let gate_scale = s.gate_unit.times(row).shifted(gate_fit.shift);
    let up_scale = s.up_unit.times(row).shifted(up_fit.shift);
    let rate = Distances::new(Rate::new(gate_scale.times(s.log2_e)));
    let (gate_down, up_down) = (Down::new(&gate_fit), Down::new(&up_fit));
    let (values, rises) = logistic(s.logistic);
    let low16 = _mm512_set1_epi32(0xffff);
    let mut top = _mm512_setzero_si512();
    let channels = (s.gate_channel.as_chunks::<16>().0.as_chunks::<2>().0.iter())
        .zip(s.up_channel.as_chunks::<16>().0.as_chunks::<2>().0);
    let scratch = &mut scratch[..gate.len()];
    let t32 = scratch.as_chunks_mut::<16>().0.as_chunks_mut::<2>().0;
    for (((t, g), u), (gc, uc)) in t32.iter_mut().zip(g32).zip(u32s).zip(channels) {
        let (g0, g1) = (gate_down.apply(get(&g[0])), gate_down.apply(get(&g[1])));
        let (c0, c1) = (get_u16(&gc[0]), get_u16(&gc[1]));
        let distance = |g, c| _mm512_abs_epi32(_mm512_madd_epi16(g, c)); // to 2^29
        let (high, low) = rate.apply(distance(g0, c0), distance(g1, c1));
        // at most 2^28 - 1
        let over = _mm512_cmpgt_epu16_mask(high, _mm512_set1_epi16(0xfff));
        let high = _mm512_min_epu16(high, _mm512_set1_epi16(0xfff));
        let low = _mm512_mask_mov_epi16(low, over, _mm512_set1_epi16(-1));
        // the logistic function between two entries: f is twice 14 bits
        let index = _mm512_srli_epi16::<6>(high);
        let f = _mm512_ternarylogic_epi32::<0b1110_0000>(
            _mm512_set1_epi16(0x7ffe),
            _mm512_slli_epi16::<9>(high),
            _mm512_srli_epi16::<7>(low),
        );
        let rise = _mm512_permutex2var_epi16(rises[0], index, rises[1]);
        let value = _mm512_permutex2var_epi16(values[0], index, values[1]);
        // (rise f) >> 15, of the product's halves
        let part = _mm512_or_si512(
            _mm512_slli_epi16::<1>(_mm512_mulhi_epi16(rise, f)),
            _mm512_srli_epi16::<15>(_mm512_mullo_epi16(rise, f)),
        );
        let l = _mm512_add_epi16(value, part);
        // what a rounded product of 16 bits is: `round15` of it
        let g = _mm512_mulhrs_epi16(join16(g0, g1), join16(c0, c1));
        let negative = _mm512_movepi16_mask(g);
        // below 0 the factor is 32768 - l: g itself, and |g| times l
        let x = _mm512_mulhrs_epi16(_mm512_abs_epi16(g), l);
        let x = _mm512_mask_add_epi16(x, negative, x, g);
        let (u0, u1) = (up_down.apply(get(&u[0])), up_down.apply(get(&u[1])));
        let u = _mm512_mulhrs_epi16(join16(u0, u1), join16(get_u16(&uc[0]), get_u16(&uc[1])));
        let first = _mm512_madd_epi16(_mm512_and_si512(x, low16), u); // to 2^28
        let second = _mm512_madd_epi16(_mm512_andnot_si512(low16, x), u);
        top = _mm512_max_epu32(top, _mm512_abs_epi32(first));
        top = _mm512_max_epu32(top, _mm512_abs_epi32(second));
        put(&mut t[0], first);
        put(&mut t[1], second);
    }
    let top = _mm512_reduce_max_epu32(top);
    quantise(scratch.as_chunks::<16>().0, out, top)
        .times(gate_scale)
        .times(up_scale)
        .shifted(30)
}

/// Values and differences of the logistic function, 64 each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn logistic(table: &[u32; 64]) -> ([__m512i; 2], [__m512i; 2]) {
    let mut halves = [[0u16; 64]; 2];
    for (i, &entry) in table.iter().enumerate() {
        halves[0][i] = entry as u16;
        halves[1][i] = (entry >> 16) as u16;
    }
    let [values, rises] = halves.map(|h| {
        [0, 32].map(|at| {
            let h: &[u16] = &h[at..at + 32];
            // SAFETY: 64 bytes
            unsafe { _mm512_loadu_si512(h.as_ptr().cast()) }
        })
    });
    (values, rises)
}

/// See [`steps::powers`].
#[target_feature(enable = "avx512f,avx512bw")]
pub fn powers(sums: &[i32], channel: &[u16], row: Scale, scratch: &mut [i32]) -> u64 {
    let (a32, []) = sums.as_chunks::<16>().0.as_chunks::<2>() else {
        return steps::powers(sums, channel, row, scratch);
    };
    let fit = Fit::new(peak(a32.as_flattened()));
    if fit.shift < 0 || !sums.len().is_multiple_of(32) {
        return steps::powers(sums, channel, row, scratch);
    }
    let down = Down::new(&fit);
    let mut top = [_mm512_set1_epi32(i32::MIN); 2];
    let channels = channel.as_chunks::<16>().0.as_chunks::<2>().0;
    let scratch = &mut scratch[..sums.len()];
    let t32 = scratch.as_chunks_mut::<16>().0.as_chunks_mut::<2>().0;
    for ((t, a), c) in t32.iter_mut().zip(a32).zip(channels) {
        for i in 0..2 {
            let scaled = _mm512_madd_epi16(down.apply(get(&a[i])), get_u16(&c[i])); // to 2^29
            top[i] = _mm512_max_epi32(top[i], scaled);
            put(&mut t[i], scaled);
        }
    }
    let top = _mm512_set1_epi32(_mm512_reduce_max_epi32(_mm512_max_epi32(top[0], top[1])));
    let rate = Distances::new(Rate::new(row.shifted(fit.shift)));
    let (low16, low32) = (_mm512_set1_epi32(0xffff), _mm512_set1_epi64(0xffff_ffff));
    let mut sum = [_mm512_setzero_si512(); 2];
    for [s, t] in t32 {
        let distance = |s: &[i32; 16]| _mm512_sub_epi32(top, get(s));
        let (high, low) = rate.apply(distance(s), distance(t));
        let (a, whole) = power(high, low);
        let first = _mm512_srli_epi32::<1>(_mm512_slli_epi32::<16>(a));
        let first = _mm512_srlv_epi32(first, _mm512_and_si512(whole, low16));
        let second = _mm512_srli_epi32::<1>(_mm512_andnot_si512(low16, a));
        let second = _mm512_srlv_epi32(second, _mm512_srli_epi32::<16>(whole));
        put(s, first);
        put(t, second);
        let both = _mm512_add_epi32(first, second); // to 2^31
        sum[0] = _mm512_add_epi64(sum[0], _mm512_and_si512(both, low32));
        sum[1] = _mm512_add_epi64(sum[1], _mm512_srli_epi64::<32>(both));
    }
    _mm512_reduce_add_epi64(_mm512_add_epi64(sum[0], sum[1])) as u64
}

/// Sums of 64 powers each, each power cut by `cut` bits, in 32 bits.
#[target_feature(enable = "avx512f,avx512bw")]
pub fn blocks(powers: &[i32], cut: u32, out: &mut [u32]) {
    let count = _mm512_set1_epi32(cut as i32);
    let (whole, rest) = powers.as_chunks::<64>();
    let (outs, last) = out.split_at_mut(whole.len());
    for (o, e) in outs.iter_mut().zip(whole) {
        let e = e.as_chunks::<16>().0;
        let cut = |i: usize| _mm512_srlv_epi32(get(&e[i]), count);
        let sum = _mm512_add_epi32(
            _mm512_add_epi32(cut(0), cut(1)),
            _mm512_add_epi32(cut(2), cut(3)),
        );
        *o = _mm512_reduce_add_epi32(sum) as u32;
    }
    if let Some(last) = last.first_mut() {
        *last = rest.iter().map(|&e| e as u32 >> cut).sum();
    }
}
