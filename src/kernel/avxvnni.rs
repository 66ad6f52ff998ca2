//! Products with AVX-VNNI, for processors that have `vpdpbusd` on 256 bits but
//! not AVX-512: four products of unsigned and signed bytes are added to each of 8
//! sums, without saturation. As with AVX-512, weights and keys are the unsigned
//! side, stored plus 128; what that adds is taken off at the start. All else is
//! that of AVX2.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::number::Scale;
use super::pack::{COLUMNS, Packed, Packing, Window};
use super::{Attention, Sums, attend};

pub struct AvxVnni;

/// Rows that share a pass over the columns.
const TOGETHER: usize = 64;

/// Where a product reads and writes: blocks of 16 columns, in each 64 bytes for
/// 4 inputs; rows of `inputs` bytes.
#[derive(Clone, Copy)]
struct Operands {
    w: *const u8,
    inputs: usize,
    a: *const i8,
    out: *mut i32,
    out_stride: usize,
}

/// The sums of `R` rows and 16 columns, starting from one number a row.
///
/// # Safety
/// `o.w` is readable at one block, `o.a` at `R` rows, `o.out` writable at `R`
/// rows of 16 sums.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn block<const R: usize>(o: Operands, start: &[i32]) {
    let mut sums = [[_mm256_setzero_si256(); 2]; R];
    for (sums, &start) in sums.iter_mut().zip(start) {
        *sums = [_mm256_set1_epi32(start); 2];
    }
    for k in 0..o.inputs / 4 {
        // SAFETY: step `k` of the block
        let (w0, w1) = unsafe {
            let w = o.w.add(k * 4 * COLUMNS);
            (
                _mm256_loadu_si256(w.cast()),
                _mm256_loadu_si256(w.add(32).cast()),
            )
        };
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row `r`, inputs `4 k` to `4 k + 3`
            let four = unsafe { o.a.add(r * o.inputs + 4 * k).cast::<i32>().read_unaligned() };
            let a = _mm256_set1_epi32(four);
            sums[0] = _mm256_dpbusd_avx_epi32(sums[0], w0, a);
            sums[1] = _mm256_dpbusd_avx_epi32(sums[1], w1, a);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: 16 sums of row `r`
        unsafe {
            let out = o.out.add(r * o.out_stride);
            _mm256_storeu_si256(out.cast(), sums[0]);
            _mm256_storeu_si256(out.add(8).cast(), sums[1]);
        }
    }
}

/// `-128` times the sum of a row of signed bytes.
///
/// # Safety
/// `a` is readable at `inputs` bytes, a multiple of 16.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn correction(a: *const i8, inputs: usize) -> i32 {
    let mut sum = _mm_setzero_si128();
    for k in (0..inputs).step_by(16) {
        // SAFETY: the caller vouches for the range
        let a = unsafe { _mm_loadu_si128(a.add(k).cast()) };
        sum = _mm_dpbusd_avx_epi32(sum, _mm_set1_epi8(1), a);
    }
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum));
    -128 * _mm_cvtsi128_si32(sum)
}

/// All rows, six at a time: as many sums as there are registers for.
///
/// # Safety
/// As for [`block`], for `blocks` blocks one after another and `count` rows.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn all(o: Operands, blocks: usize, count: usize) {
    for first in (0..count).step_by(TOGETHER) {
        let end = count.min(first + TOGETHER);
        let mut corrections = [0; TOGETHER];
        for (r, c) in (first..end).zip(&mut corrections) {
            // SAFETY: row `r`
            *c = unsafe { correction(o.a.add(r * o.inputs), o.inputs) };
        }
        for b in 0..blocks {
            for r in (first..end).step_by(6) {
                let start = &corrections[r - first..];
                // SAFETY: block `b`, rows `r` to `r + 5` at most
                unsafe {
                    let at = Operands {
                        w: o.w.add(b * COLUMNS * o.inputs),
                        a: o.a.add(r * o.inputs),
                        out: o.out.add(r * o.out_stride + b * COLUMNS),
                        ..o
                    };
                    match end - r {
                        1 => block::<1>(at, start),
                        2 => block::<2>(at, start),
                        3 => block::<3>(at, start),
                        4 => block::<4>(at, start),
                        5 => block::<5>(at, start),
                        _ => block::<6>(at, start),
                    }
                }
            }
        }
    }
}

impl super::Dots for AvxVnni {
    const PACKING: Packing = Packing::Biased;

    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn product(w: &Packed, count: usize, a: &[i8], out: &mut [i32]) {
        let o = Operands {
            w: w.data.as_ptr(),
            inputs: w.stride_in(),
            a: a.as_ptr(),
            out: out.as_mut_ptr(),
            out_stride: w.stride_out(),
        };
        // SAFETY: `Packed` holds `stride_out / 16` blocks; the caller checked that
        // `a` and `out` have room
        unsafe { all(o, w.stride_out() / COLUMNS, count) }
    }

    #[target_feature(enable = "avx2,avxvnni")]
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
        unsafe { attend::<AvxVnni>(queries, scales, unit, window, scratch, out, out_scales) }
    }
}

impl Sums for AvxVnni {
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn scores(queries: &[i8], window: &Window, stride: usize, out: &mut [i32]) {
        let o = Operands {
            w: window.keys.as_ptr(),
            inputs: window.head_dim,
            a: queries.as_ptr(),
            out: out.as_mut_ptr(),
            out_stride: stride,
        };
        let blocks = window.filled.div_ceil(COLUMNS);
        // SAFETY: keys have room for a multiple of 64 slots, `out` for `stride`
        // sums a query (`Window::check`)
        unsafe { all(o, blocks, queries.len() / window.head_dim) }
    }

    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn weigh(weights: &[u16], window: &Window, stride: usize, out: &mut [i32]) {
        // SAFETY: the same contract, and AVX2 is a part of these instructions
        unsafe { Avx2::weigh(weights, window, stride, out) }
    }
}
