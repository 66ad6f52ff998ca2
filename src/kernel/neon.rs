//! Products with NEON, which every aarch64 processor has, and with `sdot`, of
//! FEAT_DotProd, where that is there as well: 16 products and their addition in
//! fours. Without it `smull` and two additions of pairs do the same; bytes stay
//! so far inside their range that no 16-bit sum of two products overflows.
//!
//! The elementwise steps are the common ones: NEON belongs to the target, so
//! the compiler has made vectors of them already.

use std::arch::{aarch64::*, asm};

use super::number::Scale;
use super::pack::{COLUMNS, Packed, Packing, Window};
use super::{Attention, Sums, attend};

/// What every aarch64 processor can do.
pub struct Neon;

/// The same with `sdot`.
pub struct Dotprod;

/// Four sums of four products.
trait Dot {
    /// Adds to sum `i` the products of bytes `4 i` to `4 i + 3` of `w` with
    /// bytes `4 LANE` to `4 LANE + 3` of `a`. One side lies within 127, the
    /// other within 128.
    ///
    /// # Safety
    /// The processor has the instructions of the kernel.
    unsafe fn add<const LANE: i32>(sums: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t;
}

impl Dot for Neon {
    #[inline(always)]
    unsafe fn add<const LANE: i32>(sums: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
        // SAFETY: NEON belongs to the target
        unsafe {
            let a = vreinterpretq_s8_s32(vdupq_laneq_s32::<LANE>(vreinterpretq_s32_s8(a)));
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(a));
            let high = vmull_high_s8(w, a);
            // two products are at most 2 * 127 * 128 < 2^15
            vpadalq_s16(sums, vpaddq_s16(low, high))
        }
    }
}

impl Dot for Dotprod {
    #[inline(always)]
    unsafe fn add<const LANE: i32>(mut sums: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
        // SAFETY: the caller has the instruction; it touches these registers
        // only. (The intrinsic `vdotq_laneq_s32` is not stable in Rust yet.)
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {w:v}.16b, {a:v}.4b[{lane}]",
                sums = inout(vreg) sums,
                w = in(vreg) w,
                a = in(vreg) a,
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

/// The sums of `R` rows and 16 columns. `inputs` is a multiple of 16.
///
/// # Safety
/// The processor has the instructions of `D`. `w` is readable at
/// `16 * inputs` bytes, `a` at `R` rows of `inputs` bytes one after the other,
/// `out` writable at `R` rows of 16 sums `out_stride` apart. `bias` is what to
/// take off each byte of `w` by exclusive or.
#[inline(always)]
unsafe fn block<D: Dot, const R: usize>(
    w: *const u8,
    bias: i8,
    inputs: usize,
    a: *const i8,
    out: *mut i32,
    out_stride: usize,
) {
    // SAFETY: the caller's ranges: of 16 inputs from `k` on, 256 weights and 16
    // values of each row; at the end 16 sums of each row
    unsafe {
        let bias = vdupq_n_s8(bias);
        let mut sums = [[vdupq_n_s32(0); 4]; R];
        for k in (0..inputs).step_by(16) {
            let mut rows = [vdupq_n_s8(0); R];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = vld1q_s8(a.add(r * inputs + k));
            }
            let w = w.add(k * COLUMNS).cast::<i8>();
            four::<D, R, 0>(&mut sums, w, bias, &rows);
            four::<D, R, 1>(&mut sums, w, bias, &rows);
            four::<D, R, 2>(&mut sums, w, bias, &rows);
            four::<D, R, 3>(&mut sums, w, bias, &rows);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (c, &sums) in sums.iter().enumerate() {
                vst1q_s32(out.add(r * out_stride + 4 * c), sums);
            }
        }
    }
}

/// Four inputs (the `LANE`-th of 16) of [`block`].
///
/// # Safety
/// The processor has the instructions of `D`; `w` is readable at 256 bytes.
#[inline(always)]
unsafe fn four<D: Dot, const R: usize, const LANE: i32>(
    sums: &mut [[int32x4_t; 4]; R],
    w: *const i8,
    bias: int8x16_t,
    rows: &[int8x16_t; R],
) {
    for c in 0..4 {
        // SAFETY: `LANE` and `c` are below 4
        unsafe {
            let w = veorq_s8(vld1q_s8(w.add(64 * LANE as usize + 16 * c)), bias);
            for (sums, &a) in sums.iter_mut().zip(rows) {
                sums[c] = D::add::<LANE>(sums[c], w, a);
            }
        }
    }
}

/// All rows and blocks of columns; blocks are `16 * inputs` bytes apart.
///
/// # Safety
/// As for [`block`], for `blocks` blocks and `rows` rows.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn all<D: Dot>(
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
        for r in (0..rows).step_by(4) {
            // SAFETY: block `b`, rows `r` to `r + 3` at most
            unsafe {
                let w = w.add(b * COLUMNS * inputs);
                let a = a.add(r * inputs);
                let out = out.add(r * out_stride + b * COLUMNS);
                match rows - r {
                    1 => block::<D, 1>(w, bias, inputs, a, out, out_stride),
                    2 => block::<D, 2>(w, bias, inputs, a, out, out_stride),
                    3 => block::<D, 3>(w, bias, inputs, a, out, out_stride),
                    _ => block::<D, 4>(w, bias, inputs, a, out, out_stride),
                }
            }
        }
    }
}

/// 16 weights below 2^15 in two bytes each: `weight = low - 256 * high`, `low`
/// from -128 to 127, `high` from -128 to 0.
///
/// # Safety
/// `p` is readable at 16 weights.
#[inline(always)]
unsafe fn halves(p: *const u16) -> (int8x16_t, int8x16_t) {
    // SAFETY: the caller's range
    let (a, b) = unsafe { (vld1q_u16(p), vld1q_u16(p.add(8))) };
    // SAFETY: NEON belongs to the target
    unsafe {
        let low = vcombine_u8(vmovn_u16(a), vmovn_u16(b));
        // (p + 128) >> 8, from 0 to 128
        let high = vcombine_u8(vrshrn_n_u16::<8>(a), vrshrn_n_u16::<8>(b));
        (
            vreinterpretq_s8_u8(low),
            vnegq_s8(vreinterpretq_s8_u8(high)),
        )
    }
}

/// Four slots (the `LANE`-th of 16) of `weigh`, for 16 channels.
///
/// # Safety
/// The processor has the instructions of `D`; `values` is readable at 64 bytes.
#[inline(always)]
unsafe fn slots<D: Dot, const LANE: i32>(
    lows: &mut [int32x4_t; 4],
    highs: &mut [int32x4_t; 4],
    values: *const i8,
    (low, high): (int8x16_t, int8x16_t),
) {
    for (c, (lows, highs)) in lows.iter_mut().zip(highs).enumerate() {
        // SAFETY: the caller's range
        unsafe {
            let values = vld1q_s8(values.add(16 * c));
            *lows = D::add::<LANE>(*lows, values, low);
            *highs = D::add::<LANE>(*highs, values, high);
        }
    }
}

impl<D: Dot> Sums for D {
    #[inline(always)]
    unsafe fn scores(queries: &[i8], window: &Window, stride: usize, out: &mut [i32]) {
        let dim = window.head_dim;
        let blocks = window.filled.div_ceil(COLUMNS);
        let (rows, out) = (queries.len() / dim, out.as_mut_ptr());
        let (keys, queries) = (window.keys.as_ptr(), queries.as_ptr());
        // SAFETY: keys have room for a multiple of 64 slots, `out` for
        // `stride` sums a query, `dim` is a multiple of 16 (`Window::check`)
        unsafe { all::<D>(keys, i8::MIN, dim, blocks, queries, rows, out, stride) }
    }

    #[inline(always)]
    unsafe fn weigh(weights: &[u16], window: &Window, stride: usize, out: &mut [i32]) {
        let dim = window.head_dim;
        for (p, out) in weights.chunks_exact(stride).zip(out.chunks_exact_mut(dim)) {
            for (d, out) in out.chunks_exact_mut(16).enumerate() {
                // SAFETY: `p` has `stride` weights, a multiple of 64, 0 after
                // the last filled slot up to a multiple of 64; the values have
                // room for as many slots; blocks of 4 slots are `4 * dim` bytes
                // apart, and 16 channels of one are 64 bytes
                unsafe {
                    let (mut lows, mut highs) = ([vdupq_n_s32(0); 4], [vdupq_n_s32(0); 4]);
                    for slot in (0..window.filled).step_by(16) {
                        let p = halves(p.as_ptr().add(slot));
                        let v = window.values.as_ptr().add(slot * dim + 64 * d);
                        slots::<D, 0>(&mut lows, &mut highs, v, p);
                        slots::<D, 1>(&mut lows, &mut highs, v.add(4 * dim), p);
                        slots::<D, 2>(&mut lows, &mut highs, v.add(8 * dim), p);
                        slots::<D, 3>(&mut lows, &mut highs, v.add(12 * dim), p);
                    }
                    for (c, (&low, &high)) in lows.iter().zip(&highs).enumerate() {
                        // the difference fits, whatever wraps on the way
                        let sums = vsubq_s32(low, vshlq_n_s32::<8>(high));
                        vst1q_s32(out.as_mut_ptr().add(4 * c), sums);
                    }
                }
            }
        }
    }
}

/// Implements [`Dots`](super::Dots), compiled for the given instructions.
macro_rules! dots {
    ($kernel:ident, $features:literal) => {
        impl super::Dots for $kernel {
            const PACKING: Packing = Packing::Signed;

            #[target_feature(enable = $features)]
            unsafe fn product(w: &Packed, rows: usize, a: &[i8], out: &mut [i32]) {
                let (inputs, stride) = (w.stride_in(), w.stride_out());
                let (weights, a, out) = (w.data.as_ptr(), a.as_ptr(), out.as_mut_ptr());
                // SAFETY: `Packed` holds `stride / 16` blocks of `inputs`
                // inputs, a multiple of 64; the caller checked that `a` and
                // `out` have room
                unsafe {
                    all::<$kernel>(weights, 0, inputs, stride / COLUMNS, a, rows, out, stride)
                }
            }

            #[target_feature(enable = $features)]
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
                unsafe {
                    attend::<$kernel>(queries, scales, unit, window, scratch, out, out_scales)
                }
            }
        }
    };
}

dots!(Neon, "neon");
dots!(Dotprod, "neon,dotprod");
