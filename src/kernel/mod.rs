//! The integer arithmetic of the transformer, scalar and vectorised.
//!
//! The scalar kernel is the specification; every other one gives the same
//! bits, for any number of rows. Which one runs is chosen once, from what the
//! processor can do; the environment variable `LACONICFS_KERNEL` forces one.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
mod distribution;
mod memory;
pub mod mixing;
#[cfg(target_arch = "aarch64")]
mod neon;
mod number;
mod pack;
mod scalar;
mod steps;
#[cfg(test)]
mod tests;
mod wide;

use std::sync::OnceLock;

pub use distribution::Distribution;
pub use memory::Aligned;
pub use number::{LOG2_E, Scale, inverse_square_root, square_root};
pub use pack::{INPUTS, OUTPUTS, PACKINGS, Packed, Packing, Window, put_key, put_value};
pub use steps::{
    BLOCK, GateScales, HeadScales, Norm, PlainHead, RESIDUAL_LIMIT, Spread, TOTAL, TOTAL_BITS,
    embed,
};
pub use wide::{Job, Width, prefetch, wide};

use crate::error::{Error, Result};

/// The steps that a kernel may replace, as functions that call [`steps`].
macro_rules! steps {
    ($(fn $step:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(
            /// See the step of that name in [`steps`].
            ///
            /// # Safety
            /// The processor has the instructions of the kernel.
            #[inline(always)]
            #[allow(clippy::unused_unit)]
            unsafe fn $step($($arg: $type),*) -> $out {
                steps::$step($($arg),*)
            }
        )*
    };
}

/// Replaces the steps by those with AVX-512.
#[cfg(target_arch = "x86_64")]
macro_rules! avx512_steps {
    () => {
        super::avx512_steps! {
            fn normalise(x: &[i32], norm: &Norm, scratch: &mut [i32], out: &mut [i8]) -> Scale;
            fn rotate(sums: &[i32], s: &HeadScales, scratch: &mut [i32], out: &mut [i8]) -> Scale;
            fn value(sums: &[i32], channel: &[u16], row: Scale, scratch: &mut [i32], out: &mut [i8]) -> Scale;
            fn join(heads: &[i32], scales: &[Scale], head_dim: usize, scratch: &mut [i32], out: &mut [i8]) -> Scale;
            fn accumulate(x: &mut [i32], sums: &[i32], channel: &[u16], cut: u32, row: Scale) -> ();
            fn gated(gate: &[i32], up: &[i32], s: &GateScales, row: Scale, scratch: &mut [i32], out: &mut [i8]) -> Scale;
            fn powers(sums: &[i32], channel: &[u16], row: Scale, scratch: &mut [i32]) -> u64;
            fn blocks(powers: &[i32], cut: u32, out: &mut [u32]) -> ();
        }
    };
    ($(fn $step:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
            unsafe fn $step($($arg: $type),*) -> $out {
                crate::kernel::avx512::$step($($arg),*)
            }
        )*
    };
}
#[cfg(target_arch = "x86_64")]
use avx512_steps;

/// What a kernel writes for its own instructions: the products, and steps that
/// it does better than a compiler; the others are those of [`steps`].
///
/// All are called only where the processor has the instructions of the kernel.
trait Dots {
    const PACKING: Packing;

    /// `out[r][j] = sum over k of a[r][k] * w[j][k]` for `rows` rows. `a` has
    /// `w.stride_in()` values a row, `out` `w.stride_out()` sums, and both have
    /// room for a multiple of 16 rows; rows after the last may be overwritten.
    ///
    /// # Safety
    /// The processor has the instructions of the kernel.
    unsafe fn product(w: &Packed, rows: usize, a: &[i8], out: &mut [i32]);

    /// See [`Arithmetic::attend`].
    ///
    /// # Safety
    /// The same, and `Window::check` holds.
    unsafe fn attend(
        queries: &[i8],
        scales: &[Scale],
        unit: Scale,
        window: &Window,
        scratch: &mut Attention,
        out: &mut [i32],
        out_scales: &mut [Scale],
    );

    steps! {
        fn normalise(x: &[i32], norm: &Norm, scratch: &mut [i32], out: &mut [i8]) -> Scale;
        fn rotate(sums: &[i32], s: &HeadScales, scratch: &mut [i32], out: &mut [i8]) -> Scale;
        fn plain(sums: &[i32], s: &PlainHead, scratch: &mut [i32], out: &mut [i8]) -> Scale;
        fn value(sums: &[i32], channel: &[u16], row: Scale, scratch: &mut [i32], out: &mut [i8]) -> Scale;
        fn join(heads: &[i32], scales: &[Scale], head_dim: usize, scratch: &mut [i32], out: &mut [i8]) -> Scale;
        fn accumulate(x: &mut [i32], sums: &[i32], channel: &[u16], cut: u32, row: Scale) -> ();
        fn gated(gate: &[i32], up: &[i32], s: &GateScales, row: Scale, scratch: &mut [i32], out: &mut [i8]) -> Scale;
        fn powers(sums: &[i32], channel: &[u16], row: Scale, scratch: &mut [i32]) -> u64;
        fn blocks(powers: &[i32], cut: u32, out: &mut [u32]) -> ();
    }
}

/// Scratch space of [`Arithmetic::attend`].
pub struct Attention {
    keys: Aligned<i32>,
    values: Aligned<i32>,
    scores: Aligned<i32>,
    weights: Aligned<u16>,
    /// The weights in bytes, for kernels that want them so.
    #[cfg(target_arch = "x86_64")]
    bytes: Aligned<u8>,
    stride: usize,
    limit: u32,
    cut: u32,
}

impl Attention {
    /// For windows of `window` slots and `queries` heads that share keys.
    pub fn new(window: usize, queries: usize, head_dim: usize) -> Attention {
        let stride = window.next_multiple_of(64);
        Attention {
            keys: Aligned::new(stride),
            values: Aligned::new(stride),
            scores: Aligned::new(stride * queries),
            weights: Aligned::new(stride * queries),
            #[cfg(target_arch = "x86_64")]
            bytes: Aligned::new(2 * stride * queries),
            stride,
            limit: steps::weight_bits(window),
            cut: steps::score_cut(head_dim),
        }
    }
}

/// The steps of the transformer, see [`steps`] for what each computes.
pub trait Arithmetic: Send + Sync {
    fn name(&self) -> &'static str;
    fn packing(&self) -> Packing;
    /// The matrix product `a * w^T` for `rows` rows. `a` has `w.stride_in()`
    /// values a row (0 after the last input), `out` `w.stride_out()` sums; both
    /// have room for a multiple of 16 rows, and rows after the last may be
    /// overwritten.
    fn product(&self, w: &Packed, rows: usize, a: &[i8], out: &mut [i32]);
    fn normalise(&self, x: &[i32], norm: &Norm, scratch: &mut [i32], out: &mut [i8]) -> Scale;
    fn rotate(&self, sums: &[i32], s: &HeadScales, scratch: &mut [i32], out: &mut [i8]) -> Scale;
    fn plain(&self, sums: &[i32], s: &PlainHead, scratch: &mut [i32], out: &mut [i8]) -> Scale;
    fn value(
        &self,
        sums: &[i32],
        channel: &[u16],
        row: Scale,
        scratch: &mut [i32],
        out: &mut [i8],
    ) -> Scale;
    /// Attention of the queries that share a window. `unit` is what a product
    /// of scales of 1 stands for, as a base-2 logarithm. Gives one row of sums
    /// and its scale for each query.
    #[allow(clippy::too_many_arguments)]
    fn attend(
        &self,
        queries: &[i8],
        scales: &[Scale],
        unit: Scale,
        window: &Window,
        scratch: &mut Attention,
        out: &mut [i32],
        out_scales: &mut [Scale],
    );
    fn join(
        &self,
        heads: &[i32],
        scales: &[Scale],
        head_dim: usize,
        scratch: &mut [i32],
        out: &mut [i8],
    ) -> Scale;
    /// `inputs` is how many values went into each sum.
    fn accumulate(&self, x: &mut [i32], sums: &[i32], channel: &[u16], inputs: usize, row: Scale);
    fn gated(
        &self,
        gate: &[i32],
        up: &[i32],
        s: &GateScales,
        row: Scale,
        scratch: &mut [i32],
        out: &mut [i8],
    ) -> Scale;
    /// What a [`Distribution`] is made of: `powers`, as long as `sums`, and the
    /// sums of its blocks.
    fn powers(
        &self,
        sums: &[i32],
        channel: &[u16],
        row: Scale,
        powers: &mut [i32],
        blocks: &mut [u32],
    ) -> Spread;
}

impl dyn Arithmetic + '_ {
    /// The distribution over the vocabulary. `row` is the scale of a sum times
    /// a channel's scale in base-2 logarithms; the scratch space is as long as
    /// `sums`, and as its blocks of [`BLOCK`].
    pub fn distribute<'a>(
        &self,
        sums: &[i32],
        channel: &[u16],
        row: Scale,
        powers: &'a mut [i32],
        blocks: &'a mut [u32],
    ) -> Distribution<'a> {
        let spread = self.powers(sums, channel, row, powers, blocks);
        Distribution::new(powers, blocks, spread)
    }
}

/// The sums over a window that a kernel writes.
trait Sums {
    /// Sums of each query with the keys of all filled slots, `stride` sums a
    /// query; those after the last filled slot may be overwritten. `stride` is
    /// a multiple of 64.
    ///
    /// # Safety
    /// The processor has the instructions of the kernel.
    unsafe fn scores(queries: &[i8], window: &Window, stride: usize, out: &mut [i32]);

    /// Sums of the values of all filled slots times each query's weights
    /// (`stride` a query, below 2^15, 0 after the last filled slot).
    ///
    /// # Safety
    /// The processor has the instructions of the kernel.
    unsafe fn weigh(weights: &[u16], window: &Window, stride: usize, out: &mut [i32]);
}

/// See [`Arithmetic::attend`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn attend<D: Sums>(
    queries: &[i8],
    scales: &[Scale],
    unit: Scale,
    window: &Window,
    scratch: &mut Attention,
    out: &mut [i32],
    out_scales: &mut [Scale],
) {
    let (stride, filled) = (scratch.stride, window.filled);
    let key_cut = steps::shorten(&window.key_scales[..filled], &mut scratch.keys);
    let value_cut = steps::shorten(&window.value_scales[..filled], &mut scratch.values);
    // SAFETY: the caller has the instructions of `D`
    unsafe { D::scores(queries, window, stride, &mut scratch.scores) };
    let unit = unit.shifted(scratch.cut as i32 + key_cut as i32 - 24);
    for (g, scale) in scales.iter().enumerate() {
        let row = g * stride..g * stride + filled;
        let weights = &mut scratch.weights[g * stride..(g + 1) * stride];
        out_scales[g] = steps::soften(
            &mut scratch.scores[row],
            &scratch.keys[..filled],
            &scratch.values[..filled],
            scratch.cut,
            scale.times(unit),
            scratch.limit,
            &mut weights[..filled],
        )
        .shifted(value_cut as i32 - 24);
        let end = filled.next_multiple_of(64).min(stride);
        weights[filled..end].fill(0);
    }
    // SAFETY: the caller has the instructions of `D`
    unsafe { D::weigh(&scratch.weights, window, stride, out) };
}

/// Implements [`Arithmetic`] with the products of `$dots`, compiling the
/// common steps for the given instructions.
macro_rules! arithmetic {
    ($kernel:ident, $name:literal, $dots:ty $(, $features:literal)?) => {
        struct $kernel;

        impl Arithmetic for $kernel {
            fn name(&self) -> &'static str {
                $name
            }

            fn packing(&self) -> Packing {
                <$dots as Dots>::PACKING
            }

            fn product(&self, w: &Packed, rows: usize, a: &[i8], out: &mut [i32]) {
                assert_eq!(w.packing, self.packing(), "weights packed for another kernel");
                assert!(a.len() >= rows.next_multiple_of(16) * w.stride_in());
                assert!(out.len() >= rows.next_multiple_of(16) * w.stride_out());
                // SAFETY: `available` lists a kernel only where the processor
                // has its instructions; the lengths were checked
                unsafe { <$dots as Dots>::product(w, rows, a, out) }
            }

            arithmetic! { @steps [$($features)?]
                fn normalise(x: &[i32], norm: &Norm, scratch: &mut [i32], out: &mut [i8]) -> Scale {
                    // SAFETY: as above
                    unsafe { <$dots as Dots>::normalise(x, norm, scratch, out) }
                }
                fn rotate(sums: &[i32], s: &HeadScales, scratch: &mut [i32], out: &mut [i8]) -> Scale {
                    // SAFETY: as above
                    unsafe { <$dots as Dots>::rotate(sums, s, scratch, out) }
                }
                fn plain(sums: &[i32], s: &PlainHead, scratch: &mut [i32], out: &mut [i8]) -> Scale {
                    // SAFETY: as above
                    unsafe { <$dots as Dots>::plain(sums, s, scratch, out) }
                }
                fn value(sums: &[i32], channel: &[u16], row: Scale, scratch: &mut [i32], out: &mut [i8]) -> Scale {
                    // SAFETY: as above
                    unsafe { <$dots as Dots>::value(sums, channel, row, scratch, out) }
                }
                fn attend(queries: &[i8], scales: &[Scale], unit: Scale, window: &Window, scratch: &mut Attention, out: &mut [i32], out_scales: &mut [Scale]) -> () {
                    window.check(queries.len(), out.len(), scratch.stride);
                    // SAFETY: as above; the shapes were checked
                    unsafe { <$dots as Dots>::attend(queries, scales, unit, window, scratch, out, out_scales) }
                }
                fn join(heads: &[i32], scales: &[Scale], head_dim: usize, scratch: &mut [i32], out: &mut [i8]) -> Scale {
                    // SAFETY: as above
                    unsafe { <$dots as Dots>::join(heads, scales, head_dim, scratch, out) }
                }
                fn accumulate(x: &mut [i32], sums: &[i32], channel: &[u16], inputs: usize, row: Scale) -> () {
                    // SAFETY: as above
                    unsafe { <$dots as Dots>::accumulate(x, sums, channel, steps::residual_cut(inputs), row) }
                }
                fn gated(gate: &[i32], up: &[i32], s: &GateScales, row: Scale, scratch: &mut [i32], out: &mut [i8]) -> Scale {
                    // SAFETY: as above
                    unsafe { <$dots as Dots>::gated(gate, up, s, row, scratch, out) }
                }
                fn powers(sums: &[i32], channel: &[u16], row: Scale, powers: &mut [i32], blocks: &mut [u32]) -> Spread {
                    assert!(powers.len() == sums.len() && channel.len() == sums.len());
                    assert_eq!(blocks.len(), sums.len().div_ceil(steps::BLOCK));
                    // SAFETY: as above; the lengths were checked
                    unsafe {
                        let sum = <$dots as Dots>::powers(sums, channel, row, powers);
                        let spread = Spread::new(powers.len(), sum);
                        <$dots as Dots>::blocks(powers, spread.cut, blocks);
                        spread
                    }
                }
            }
        }
    };
    (@steps $features:tt $(fn $step:ident($($arg:ident: $type:ty),*) -> $out:ty $body:block)*) => {
        $(fn $step(&self, $($arg: $type),*) -> $out {
            arithmetic! { @call $features, $step, ($($arg: $type),*), $out, $body }
        })*
    };
    (@call [], $step:ident, ($($arg:ident: $type:ty),*), $out:ty, $body:block) => {
        $body
    };
    (@call [$features:literal], $step:ident, ($($arg:ident: $type:ty),*), $out:ty, $body:block) => {{
        #[target_feature(enable = $features)]
        fn run($($arg: $type),*) -> $out $body
        // SAFETY: `available` lists a kernel only where the processor has its
        // instructions
        unsafe { run($($arg),*) }
    }};
}

arithmetic!(ScalarKernel, "scalar", scalar::Plain);
#[cfg(target_arch = "x86_64")]
arithmetic!(Avx2Kernel, "avx2", avx2::Avx2, "avx2,bmi2");
#[cfg(target_arch = "x86_64")]
arithmetic!(
    AvxVnniKernel,
    "avxvnni",
    avxvnni::AvxVnni,
    "avx2,avxvnni,bmi2"
);
#[cfg(target_arch = "x86_64")]
arithmetic!(
    AmxKernel,
    "amx",
    amx::Tiles,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi2"
);
#[cfg(target_arch = "x86_64")]
arithmetic!(
    Avx512Kernel,
    "avx512",
    avx512::Vnni,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi2"
);
#[cfg(target_arch = "aarch64")]
arithmetic!(NeonKernel, "neon", neon::Neon, "neon");
#[cfg(target_arch = "aarch64")]
arithmetic!(DotprodKernel, "dotprod", neon::Dotprod, "neon,dotprod");

/// The kernels that this processor can run, the best one last.
pub fn available() -> &'static [&'static dyn Arithmetic] {
    static LIST: OnceLock<Vec<&'static dyn Arithmetic>> = OnceLock::new();
    LIST.get_or_init(|| {
        #[allow(unused_mut)] // processors without any other kernel
        let mut list: Vec<&'static dyn Arithmetic> = vec![&ScalarKernel];
        #[cfg(target_arch = "x86_64")]
        {
            let has = |feature: bool, kernel: &'static dyn Arithmetic| feature.then_some(kernel);
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("bmi2");
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2");
            let avxvnni = avx2 && is_x86_feature_detected!("avxvnni");
            list.extend(has(avx2, &Avx2Kernel));
            list.extend(has(avxvnni, &AvxVnniKernel));
            list.extend(has(avx512, &Avx512Kernel));
            list.extend(has(avx512 && amx::available(), &AmxKernel));
        }
        #[cfg(target_arch = "aarch64")]
        {
            list.push(&NeonKernel); // NEON belongs to the target
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                list.push(&DotprodKernel);
            }
        }
        list
    })
}

/// The names that `LACONICFS_KERNEL` may have.
const NAMES: [&str; 7] = [
    "scalar", "avx2", "avxvnni", "avx512", "amx", "neon", "dotprod",
];

/// The kernel of a name.
pub fn named(name: &str) -> Result<&'static dyn Arithmetic> {
    let found = available().iter().find(|k| k.name() == name);
    found.copied().ok_or_else(|| {
        let usable: Vec<&str> = available().iter().map(|k| k.name()).collect();
        let usable = usable.join(", ");
        Error::Model(if NAMES.contains(&name) {
            format!("this processor cannot run the kernel {name:?}; it can run: {usable}")
        } else {
            format!("there is no kernel {name:?}; this processor can run: {usable}")
        })
    })
}

/// The kernel to use: that of `LACONICFS_KERNEL`, otherwise the best one.
pub fn selected() -> Result<&'static dyn Arithmetic> {
    match std::env::var("LACONICFS_KERNEL") {
        Ok(name) if !name.is_empty() => {
            named(&name).map_err(|e| Error::Model(format!("the variable LACONICFS_KERNEL: {e}")))
        }
        _ => Ok(available()[available().len() - 1]),
    }
}
