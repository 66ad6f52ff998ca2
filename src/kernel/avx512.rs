//! Products with AVX-512 VNNI: `vpdpbusd` adds four products of unsigned and
//! signed bytes to each of 16 sums, without saturation. Weights and keys are
//! the unsigned side, stored plus 128; what that adds to the sums is taken off
//! at their start.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::pack::{COLUMNS, Packed, Packing, Window};
use super::steps::{Spread, TOTAL};

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
unsafe fn correction(a: *const u8, inputs: usize) -> i32 {
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

/// Splits weights, a multiple of 32, into their low and high bytes.
///
/// # Safety
/// The processor has these instructions; `low` and `high` are as long as `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn split(p: &[u16], low: &mut [MaybeUninit<u8>], high: &mut [MaybeUninit<u8>]) {
    let bytes = low.chunks_exact_mut(32).zip(high.chunks_exact_mut(32));
    for (p, (low, high)) in p.chunks_exact(32).zip(bytes) {
        // SAFETY: all three chunks have 32 values
        unsafe {
            let p = _mm512_loadu_si512(p.as_ptr().cast());
            let l = _mm512_cvtepi16_epi8(p);
            let h = _mm512_cvtepi16_epi8(_mm512_srli_epi16::<8>(p));
            _mm256_storeu_si256(low.as_mut_ptr().cast(), l);
            _mm256_storeu_si256(high.as_mut_ptr().cast(), h);
        }
    }
}

/// The most slots of a window: room for the bytes of its weights.
const SLOTS: usize = 4096;

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
    unsafe fn weigh(weights: &[u16], window: &Window, stride: usize, out: &mut [i32]) {
        let dim = window.head_dim;
        let slots = window.filled.next_multiple_of(4);
        let mut h = 0;
        let heads = out.len() / dim;
        // low bytes of one or two heads, then high bytes
        let mut bytes = [MaybeUninit::<u8>::uninit(); 4 * SLOTS];
        while h < heads {
            let together = (heads - h).min(2);
            for i in 0..together {
                let from = &weights[(h + i) * stride..][..window.filled.next_multiple_of(32)];
                let (low, high) = bytes.split_at_mut(together * SLOTS);
                let (low, high) = (&mut low[i * SLOTS..], &mut high[i * SLOTS..]);
                // SAFETY: 32 weights at a time fit in `SLOTS`
                unsafe { split(from, low, high) };
            }
            let mut d = 0;
            while d < dim {
                let o = Operands {
                    // SAFETY: channel `d` of the first slots
                    w: unsafe { window.values.as_ptr().add(4 * d).cast() },
                    block: 4 * COLUMNS,
                    step: 4 * dim,
                    inputs: slots,
                    a: bytes.as_ptr().cast(),
                    a_stride: SLOTS,
                    // SAFETY: head `h` has `dim` sums
                    out: unsafe { out.as_mut_ptr().add(h * dim + d) },
                    out_stride: dim,
                };
                // SAFETY: the values have room for a multiple of 4 slots, and
                // `dim` is a multiple of 16; the bytes of all slots were
                // written above, 32 at a time
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
            h += together;
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn spread(powers: &[i32], sum: u64, out: &mut [u32]) {
        let Spread { cut, rate } = Spread::new(powers.len(), sum);
        let count = _mm_cvtsi32_si128(cut as i32);
        let factor = _mm512_set1_epi64(rate as i64);
        let zero = _mm512_setzero_si512();
        let last = _mm512_set1_epi32(15);
        let mut running = zero;
        let mut index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let (sixteens, rest) = powers.as_chunks::<16>();
        for (e, out) in sixteens.iter().zip(out.chunks_exact_mut(16)) {
            // SAFETY: 16 values
            let e = unsafe { _mm512_loadu_si512(e.as_ptr().cast()) };
            let e = _mm512_srl_epi32(e, count);
            // sums of 1, 2, 4, 8, 16 neighbours
            let s = _mm512_add_epi32(e, _mm512_alignr_epi32::<15>(e, zero));
            let s = _mm512_add_epi32(s, _mm512_alignr_epi32::<14>(s, zero));
            let s = _mm512_add_epi32(s, _mm512_alignr_epi32::<12>(s, zero));
            let s = _mm512_add_epi32(s, _mm512_alignr_epi32::<8>(s, zero));
            let before = _mm512_add_epi32(running, _mm512_sub_epi32(s, e));
            running = _mm512_add_epi32(running, _mm512_permutexvar_epi32(last, s));
            let even = _mm512_mul_epu32(before, factor);
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(before), factor);
            let even = _mm512_srli_epi64::<31>(even);
            let odd = _mm512_slli_epi64::<1>(odd);
            let counts = _mm512_mask_blend_epi32(0xaaaa, even, odd);
            let counts = _mm512_add_epi32(counts, index);
            index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
            // SAFETY: 16 values
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), counts) };
        }
        let mut running = _mm512_cvtsi512_si32(running) as u32;
        let first = 16 * sixteens.len();
        for (j, (o, &e)) in out[first..].iter_mut().zip(rest).enumerate() {
            *o = (first + j) as u32 + ((u64::from(running) * rate) >> 31) as u32;
            running += e as u32 >> cut;
        }
        if let Some(last) = out.last_mut() {
            *last = TOTAL;
        }
    }
}
