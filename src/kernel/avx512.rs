//! Products with AVX-512 VNNI: `vpdpbusd` adds four products of unsigned and
//! signed bytes to each of 16 sums, without saturation. Weights and keys are
//! the unsigned side, stored plus 128; what that adds to the sums is taken off
//! at their start.

mod steps;

use std::arch::x86_64::*;

use super::number::Scale;
use super::pack::{COLUMNS, Packed, Packing, Window};
use super::steps::shorten;
use super::{Attention, GateScales, HeadScales, Norm};
use steps::{Bytes, soften};
pub use steps::{accumulate, blocks, gated, join, normalise, powers, rotate, value};

pub struct Vnni;

/// Blocks of 16 columns that go through the registers at once.
const BLOCKS: usize = 4;

/// Rows that share a pass over the columns.
const TOGETHER: usize = 64;

/// Where a product reads and writes.
#[derive(Clone, Copy)]
struct Operands {
    /// Columns: 64 bytes for 4 inputs and 16 columns.
    w: *const u8,
    /// Bytes from one block of 16 columns to the next.
    block: usize,
    /// Bytes from 4 inputs to the next 4.
    step: usize,
    /// Inputs, a multiple of 4.
    inputs: usize,
    /// Rows of bytes, and bytes from one to the next.
    a: *const u8,
    a_stride: usize,
    out: *mut i32,
    out_stride: usize,
}

/// The sums of `R` rows and `C` blocks of columns, starting from one number a
/// row. With `SIGNED_ROWS` the columns are unsigned and the rows signed,
/// otherwise the other way round.
///
/// # Safety
/// `o.w` is readable at `C` blocks and `o.inputs / 4` steps, `o.a` at `R` rows
/// of `o.inputs` bytes, `o.out` writable at `R` rows of `16 * C` sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn block<const R: usize, const C: usize, const SIGNED_ROWS: bool>(
    o: Operands,
    start: [i32; R],
) -> [[__m512i; C]; R] {
    let mut sums = [[_mm512_setzero_si512(); C]; R];
    for r in 0..R {
        sums[r] = [_mm512_set1_epi32(start[r]); C];
    }
    for k in 0..o.inputs / 4 {
        let mut w = [_mm512_setzero_si512(); C];
        for (c, w) in w.iter_mut().enumerate() {
            // SAFETY: block `c`, step `k`; the caller vouches for the range
            *w = unsafe { _mm512_loadu_si512(o.w.add(c * o.block + k * o.step).cast()) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row `r`, inputs `4 k` to `4 k + 3`; as above
            let four = unsafe {
                o.a.add(r * o.a_stride + 4 * k)
                    .cast::<i32>()
                    .read_unaligned()
            };
            let a = _mm512_set1_epi32(four);
            for (sum, &w) in sums.iter_mut().zip(&w) {
                *sum = if SIGNED_ROWS {
                    _mm512_dpbusd_epi32(*sum, w, a)
                } else {
                    _mm512_dpbusd_epi32(*sum, a, w)
                };
            }
        }
    }
    sums
}

/// `-128` times the sum of a row of signed bytes.
///
/// # Safety
/// `a` is readable at `inputs` bytes, a multiple of 16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn correction(a: *const u8, inputs: usize) -> i32 {
    let mut sum = _mm_setzero_si128();
    let ones = _mm_set1_epi8(1);
    for k in (0..inputs).step_by(16) {
        // SAFETY: the caller vouches for the range
        let a = unsafe { _mm_loadu_si128(a.add(k).cast()) };
        sum = _mm_dpbusd_epi32(sum, ones, a);
    }
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum));
    -128 * _mm_cvtsi128_si32(sum)
}

/// Rows of signed bytes times columns of biased ones: `R` rows and 4 blocks.
///
/// # Safety
/// As for [`block`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn rows<const R: usize>(o: Operands, corrections: &[i32]) {
    let mut start = [0; R];
    start.copy_from_slice(&corrections[..R]);
    // SAFETY: the caller vouches for the ranges
    unsafe {
        let sums = block::<R, BLOCKS, true>(o, start);
        for (r, sums) in sums.iter().enumerate() {
            for (c, &sum) in sums.iter().enumerate() {
                let out = o.out.add(r * o.out_stride + c * COLUMNS);
                _mm512_storeu_si512(out.cast(), sum);
            }
        }
    }
}

/// All rows, four at a time.
///
/// # Safety
/// As for [`block`], for `count` rows and `blocks` blocks (a multiple of 4).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn all_rows(o: Operands, blocks: usize, count: usize) {
    for first in (0..count).step_by(TOGETHER) {
        let end = count.min(first + TOGETHER);
        let mut corrections = [0; TOGETHER];
        for (r, c) in (first..end).zip(&mut corrections) {
            // SAFETY: row `r`
            *c = unsafe { correction(o.a.add(r * o.a_stride), o.inputs) };
        }
        // a group of columns stays in the first-level cache for all rows
        for b in (0..blocks).step_by(BLOCKS) {
            for r in (first..end).step_by(4) {
                let start = &corrections[r - first..];
                // SAFETY: rows `r` to `r + 3` at most, blocks `b` to `b + 3`
                unsafe {
                    let at = Operands {
                        w: o.w.add(b * o.block),
                        a: o.a.add(r * o.a_stride),
                        out: o.out.add(r * o.out_stride + b * COLUMNS),
                        ..o
                    };
                    match end - r {
                        1 => rows::<1>(at, start),
                        2 => rows::<2>(at, start),
                        3 => rows::<3>(at, start),
                        _ => rows::<4>(at, start),
                    }
                }
            }
        }
    }
}

/// The product for signed weights and at most 4 rows: here the rows are the
/// unsigned side. Used where tiles do not pay.
///
/// # Safety
/// The processor has these instructions; lengths as for `Dots::product`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn signed_rows(w: &Packed, count: usize, a: &[i8], out: &mut [i32]) {
    let (inputs, stride) = (w.stride_in(), w.stride_out());
    for r in 0..count {
        let a = &a[r * inputs..(r + 1) * inputs];
        let out = &mut out[r * stride..(r + 1) * stride];
        for (column, out) in out.chunks_exact_mut(BLOCKS * COLUMNS).enumerate() {
            let weights = &w.data[column * BLOCKS * COLUMNS * inputs..];
            let bias = _mm512_set1_epi8(i8::MIN);
            let mut sums = [_mm512_setzero_si512(); BLOCKS];
            let mut extra = [_mm512_setzero_si512(); BLOCKS];
            for k in 0..inputs / 4 {
                // SAFETY: inputs `4 k` to `4 k + 3`
                let four = unsafe { a.as_ptr().add(4 * k).cast::<i32>().read_unaligned() };
                let a = _mm512_xor_si512(_mm512_set1_epi32(four), bias);
                for c in 0..BLOCKS {
                    let at = c * COLUMNS * inputs + k * 4 * COLUMNS;
                    // SAFETY: step `k` of block `c` of four that exist, since
                    // `stride` is a multiple of 64
                    let w = unsafe { _mm512_loadu_si512(weights.as_ptr().add(at).cast()) };
                    sums[c] = _mm512_dpbusd_epi32(sums[c], a, w);
                    // 128 times the weights, which the bias of the row adds
                    extra[c] = _mm512_dpbusd_epi32(extra[c], bias, w);
                }
            }
            for c in 0..BLOCKS {
                let sum = _mm512_sub_epi32(sums[c], extra[c]);
                // SAFETY: `out` has 64 sums
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(c * COLUMNS).cast(), sum) };
            }
        }
    }
}

/// `H` rows of weights times `D` blocks of 16 channels of the values.
///
/// # Safety
/// As for [`block`], where rows `h` and `H + h` of `o.a` are the low and high
/// bytes of the weights of head `h`; `ROWS` is `2 * H`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn weigh_block<const H: usize, const ROWS: usize, const D: usize>(o: Operands) {
    // SAFETY: the caller vouches for the ranges
    unsafe {
        let sums = block::<ROWS, D, false>(o, [0; ROWS]);
        let (low, high) = sums.split_at(H);
        for (h, (low, high)) in low.iter().zip(high).enumerate() {
            for (d, (&low, &high)) in low.iter().zip(high).enumerate() {
                let sum = _mm512_add_epi32(low, _mm512_slli_epi32::<8>(high));
                _mm512_storeu_si512(o.out.add(h * o.out_stride + d * COLUMNS).cast(), sum);
            }
        }
    }
}

impl super::Dots for Vnni {
    const PACKING: Packing = Packing::Biased;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn product(w: &Packed, count: usize, a: &[i8], out: &mut [i32]) {
        let o = Operands {
            w: w.data.as_ptr(),
            block: COLUMNS * w.stride_in(),
            step: 4 * COLUMNS,
            inputs: w.stride_in(),
            a: a.as_ptr().cast(),
            a_stride: w.stride_in(),
            out: out.as_mut_ptr(),
            out_stride: w.stride_out(),
        };
        // SAFETY: `Packed` holds `stride_out` columns, a multiple of 64, of
        // `stride_in` inputs; the caller checked that `a` and `out` have room
        unsafe { all_rows(o, w.stride_out() / COLUMNS, count) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
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
        unsafe { attend::<Vnni>(queries, scales, unit, window, scratch, out, out_scales) }
    }

    super::avx512_steps! {}
}

/// The sums over a window that a kernel with these steps writes.
pub trait Sums {
    /// Sums of each query with the keys of all filled slots, `stride` sums a
    /// query; those after the last filled slot may be overwritten.
    ///
    /// # Safety
    /// The processor has the instructions; `Window::check` holds.
    unsafe fn scores(queries: &[i8], window: &Window, stride: usize, out: &mut [i32]);

    /// Sums of the values times each query's weights, given in bytes: `stride`
    /// a row, in the rows that [`places`] names, 0 after the last filled slot
    /// up to a multiple of 64.
    ///
    /// # Safety
    /// The processor has the instructions; `Window::check` holds.
    unsafe fn weigh(bytes: &[u8], window: &Window, stride: usize, out: &mut [i32]);
}

/// The rows of the low and the high bytes of a query's weights: two queries'
/// low ones, then their high ones.
pub fn places(query: usize, queries: usize) -> (usize, usize) {
    let pair = query & !1;
    let low = 2 * pair + query % 2;
    (low, low + (queries - pair).min(2))
}

/// See [`Arithmetic::attend`](super::Arithmetic::attend).
///
/// # Safety
/// The processor has the instructions of `S`; `Window::check` holds.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn attend<S: Sums>(
    queries: &[i8],
    scales: &[Scale],
    unit: Scale,
    window: &Window,
    scratch: &mut Attention,
    out: &mut [i32],
    out_scales: &mut [Scale],
) {
    let (stride, filled) = (scratch.stride, window.filled);
    let key_cut = shorten(&window.key_scales[..filled], &mut scratch.keys);
    let value_cut = shorten(&window.value_scales[..filled], &mut scratch.values);
    // SAFETY: the same contract
    unsafe { S::scores(queries, window, stride, &mut scratch.scores) };
    let unit = unit.shifted(scratch.cut as i32 + key_cut as i32 - 24);
    let rows = scratch.scores.chunks_exact_mut(stride);
    for (query, ((scores, scale), out)) in rows.zip(scales).zip(out_scales).enumerate() {
        let (low, high) = places(query, scales.len());
        let (lows, highs) = scratch.bytes.split_at_mut(high * stride);
        let bytes = Bytes {
            low: &mut lows[low * stride..(low + 1) * stride],
            high: &mut highs[..stride],
        };
        *out = soften(
            scores,
            &scratch.keys,
            &scratch.values,
            filled,
            scratch.cut,
            scale.times(unit),
            scratch.limit,
            bytes,
        )
        .shifted(value_cut as i32 - 24);
    }
    // SAFETY: the same contract; the weights were written above
    unsafe { S::weigh(&scratch.bytes, window, stride, out) };
}

impl Sums for Vnni {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn scores(queries: &[i8], window: &Window, stride: usize, out: &mut [i32]) {
        let dim = window.head_dim;
        let o = Operands {
            w: window.keys.as_ptr(),
            block: COLUMNS * dim,
            step: 4 * COLUMNS,
            inputs: dim,
            a: queries.as_ptr().cast(),
            a_stride: dim,
            out: out.as_mut_ptr(),
            out_stride: stride,
        };
        // SAFETY: the keys have room for a multiple of 64 slots, `out` for
        // `stride` sums a query, a multiple of 64 (`Window::check`)
        unsafe {
            all_rows(
                o,
                window.filled.next_multiple_of(64) / 16,
                queries.len() / dim,
            )
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn weigh(bytes: &[u8], window: &Window, stride: usize, out: &mut [i32]) {
        let dim = window.head_dim;
        let heads = out.len() / dim;
        for h in (0..heads).step_by(2) {
            let together = (heads - h).min(2);
            let bytes = &bytes[2 * h * stride..2 * (h + together) * stride];
            let mut d = 0;
            while d < dim {
                let o = Operands {
                    // SAFETY: channel `d` of the first slots
                    w: unsafe { window.values.as_ptr().add(4 * d).cast() },
                    block: 4 * COLUMNS,
                    step: 4 * dim,
                    inputs: window.filled.next_multiple_of(4),
                    a: bytes.as_ptr(),
                    a_stride: stride,
                    // SAFETY: head `h` has `dim` sums
                    out: unsafe { out.as_mut_ptr().add(h * dim + d) },
                    out_stride: dim,
                };
                // SAFETY: the values have room for a multiple of 4 slots, the
                // rows of bytes likewise, and `dim` is a multiple of 16
                unsafe {
                    match (together, dim - d) {
                        (2, 64..) => weigh_block::<2, 4, 4>(o),
                        (2, _) => weigh_block::<2, 4, 1>(o),
                        (_, 64..) => weigh_block::<1, 2, 4>(o),
                        _ => weigh_block::<1, 2, 1>(o),
                    }
                }
                d += if dim - d >= 64 { 64 } else { 16 };
            }
        }
    }
}
