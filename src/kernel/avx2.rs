//! Products with AVX2. `vpmaddubsw` multiplies unsigned with signed bytes and
//! adds pairs with saturation at 16 bits; with absolute values on one side and
//! the signs on the other, both within 127, a pair stays below 2^15 and the
//! sums are exact.

use std::arch::x86_64::*;

use super::number::Scale;
use super::pack::{COLUMNS, Packed, Packing, Window};
use super::{Attention, Sums, attend};

pub struct Avx2;

/// Adds the products of four signed bytes with signed bytes to 8 sums each;
/// both within 127.
#[inline]
#[target_feature(enable = "avx2")]
fn add_products(sum: __m256i, magnitude: __m256i, w: __m256i, a: __m256i) -> __m256i {
    let signed = _mm256_sign_epi8(a, w);
    let pairs = _mm256_maddubs_epi16(magnitude, signed);
    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// The sums of `R` rows and 16 columns.
///
/// # Safety
/// `w` is readable at `64 * inputs / 4` bytes, `a` at `R` rows of `inputs`
/// bytes `a_stride` apart, `out` writable at `R` rows of 16 sums `out_stride`
/// apart. `bias` is what to take off each byte of `w` by exclusive or.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block<const R: usize>(
    w: *const u8,
    bias: i8,
    inputs: usize,
    a: *const i8,
    a_stride: usize,
    out: *mut i32,
    out_stride: usize,
) {
    let mut sums = [[_mm256_setzero_si256(); 2]; R];
    let bias = _mm256_set1_epi8(bias);
    for k in 0..inputs / 4 {
        // SAFETY: step `k` of the caller's range
        let (w0, w1) = unsafe {
            let w = w.add(k * 4 * COLUMNS);
            (
                _mm256_xor_si256(_mm256_loadu_si256(w.cast()), bias),
                _mm256_xor_si256(_mm256_loadu_si256(w.add(32).cast()), bias),
            )
        };
        let (m0, m1) = (_mm256_abs_epi8(w0), _mm256_abs_epi8(w1));
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row `r`, inputs `4 k` to `4 k + 3`
            let four = unsafe { a.add(r * a_stride + 4 * k).cast::<i32>().read_unaligned() };
            let a = _mm256_set1_epi32(four);
            sums[0] = add_products(sums[0], m0, w0, a);
            sums[1] = add_products(sums[1], m1, w1, a);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: 16 sums of row `r`
        unsafe {
            let out = out.add(r * out_stride);
            _mm256_storeu_si256(out.cast(), sums[0]);
            _mm256_storeu_si256(out.add(8).cast(), sums[1]);
        }
    }
}

/// All rows and blocks of columns; blocks are `COLUMNS * inputs` bytes apart.
///
/// # Safety
/// As for [`block`], for `blocks` blocks and `rows` rows.
#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx2")]
unsafe fn all(
    w: *const u8,
    bias: i8,
    inputs: usize,
    blocks: usize,
    a: *const i8,
    rows: usize,
    out: *mut i32,
    out_stride: usize,
) {
    for b in 0..blocks {
        let mut r = 0;
        while r < rows {
            // SAFETY: block `b`, rows `r` to `r + 3` at most
            unsafe {
                let w = w.add(b * COLUMNS * inputs);
                let a = a.add(r * inputs);
                let out = out.add(r * out_stride + b * COLUMNS);
                match rows - r {
                    1 => block::<1>(w, bias, inputs, a, inputs, out, out_stride),
                    2 => block::<2>(w, bias, inputs, a, inputs, out, out_stride),
                    3 => block::<3>(w, bias, inputs, a, inputs, out, out_stride),
                    _ => block::<4>(w, bias, inputs, a, inputs, out, out_stride),
                }
            }
            r += 4;
        }
    }
}

impl super::Dots for Avx2 {
    const PACKING: Packing = Packing::Signed;

    #[target_feature(enable = "avx2")]
    unsafe fn product(w: &Packed, rows: usize, a: &[i8], out: &mut [i32]) {
        let (inputs, stride) = (w.stride_in(), w.stride_out());
        let (weights, a, out) = (w.data.as_ptr(), a.as_ptr(), out.as_mut_ptr());
        // SAFETY: `Packed` holds `stride / 16` blocks of `inputs` inputs; the
        // caller checked that `a` and `out` have room
        unsafe { all(weights, 0, inputs, stride / COLUMNS, a, rows, out, stride) }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn attend(
        queries: &[i8],
        scales: &[Scale],
        unit: Scale,
        window: &Window,
        scratch: &mut Attention,
        out: &mut [i32],
        out_scales: &mut [Scale],
    ) {
        // SAFETY: the same contract
        unsafe { attend::<Avx2>(queries, scales, unit, window, scratch, out, out_scales) }
    }
}

impl Sums for Avx2 {
    #[target_feature(enable = "avx2")]
    unsafe fn scores(queries: &[i8], window: &Window, stride: usize, out: &mut [i32]) {
        let dim = window.head_dim;
        let blocks = window.filled.div_ceil(COLUMNS);
        let (rows, out) = (queries.len() / dim, out.as_mut_ptr());
        let keys = window.keys.as_ptr();
        // SAFETY: keys have room for a multiple of 64 slots, `out` for
        // `stride` sums a query (`Window::check`)
        unsafe {
            all(
                keys,
                i8::MIN,
                dim,
                blocks,
                queries.as_ptr(),
                rows,
                out,
                stride,
            )
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn weigh(weights: &[u16], window: &Window, stride: usize, out: &mut [i32]) {
        let dim = window.head_dim;
        for (p, out) in weights.chunks_exact(stride).zip(out.chunks_exact_mut(dim)) {
            for (d, out) in out.chunks_exact_mut(8).enumerate() {
                let mut sums = [_mm256_setzero_si256(); 2];
                for four in 0..window.filled.div_ceil(4) {
                    // SAFETY: `p` has `stride` weights, a multiple of 64; the
                    // values have room for as many slots; `dim` is a multiple
                    // of 8, so that 8 channels times 4 slots are in range
                    unsafe {
                        let p = p.as_ptr().add(4 * four).cast::<i64>().read_unaligned();
                        let p = _mm256_set1_epi64x(p);
                        let v = window.values.as_ptr().add((four * dim + 8 * d) * 4);
                        let v = _mm256_loadu_si256(v.cast());
                        let low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(v));
                        let high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(v));
                        sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(low, p));
                        sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(high, p));
                    }
                }
                // two sums a channel: channels 0 1 4 5 2 3 6 7 after the addition
                let sum = _mm256_hadd_epi32(sums[0], sums[1]);
                let sum = _mm256_permute4x64_epi64::<0b11_01_10_00>(sum);
                // SAFETY: 8 sums
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sum) };
            }
        }
    }
}
