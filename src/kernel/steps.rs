//! The elementwise steps of the transformer: the specification.
//!
//! Plain loops over integers, written so that a compiler turns them into
//! vector code. Every kernel is built from this one source for its own
//! instruction set, and replaces single steps only where a test holds it to
//! the same bits. What each step computes, and why nothing overflows, is in
//! `docs/codec-model.md`; the bounds are repeated here in short.

use super::number::{PER_127, Scale, bits, inverse_square_root, reciprocal};

/// Limit of the residual stream: additions saturate at plus and minus this.
pub const RESIDUAL_LIMIT: i32 = (1 << 30) - 1;

/// The sum of all counts of a distribution is 2^this.
pub const TOTAL_BITS: u32 = 28;

/// The sum of all counts of a distribution.
pub const TOTAL: u32 = 1 << TOTAL_BITS;

/// Tokens of which a distribution keeps the sum.
pub const BLOCK: usize = 64;

/// Largest absolute value of a row. The values are above -2^31.
#[inline(always)]
pub fn peak(v: &[i32]) -> u32 {
    v.iter().fold(0, |m, x| m.max(x.unsigned_abs()))
}

/// Brings a row whose largest absolute value is `peak` to 14 bits:
/// `v * 2^-shift`, rounded to nearest, half up; absolute values to 2^14.
#[derive(Clone, Copy)]
pub struct Fit {
    up: u32,
    pub down: u32,
    pub half: i32,
    pub shift: i32,
}

impl Fit {
    #[inline(always)]
    pub fn new(peak: u32) -> Fit {
        let shift = bits(peak) as i32 - 14;
        let down = shift.max(0) as u32;
        Fit {
            up: (-shift).max(0) as u32,
            down,
            half: (1 << down) >> 1,
            shift,
        }
    }

    /// For `|v| <= peak <= 2^30`.
    #[inline(always)]
    pub fn apply(&self, v: i32) -> i32 {
        ((v << self.up) + self.half) >> self.down
    }
}

/// `v / 2^15`, rounded to nearest, half up; for `|v| < 2^31 - 2^14`.
#[inline(always)]
fn round15(v: i32) -> i32 {
    (v + (1 << 14)) >> 15
}

/// Quantises a row to int8: `out = round(v * 127 / peak)`, the returned scale
/// times `out` is about `v`. For `|v| <= 2^30`.
#[inline(always)]
pub fn quantise(v: &[i32], out: &mut [i8]) -> Scale {
    let top = peak(v);
    if top == 0 {
        out.fill(0);
        return Scale::ZERO;
    }
    let fit = Fit::new(top);
    let largest = fit.apply(top as i32) as u32; // 2^13 to 2^14
    let rate = ((127 << 21) / largest) as i32; // below 2^15
    for (q, &v) in out.iter_mut().zip(v) {
        *q = ((fit.apply(v) * rate + (1 << 20)) >> 21) as i8;
    }
    Scale::new(u64::from(largest), fit.shift).times(PER_127)
}

/// How to turn distances into 24-bit fixed point numbers of base-2 logarithms:
/// `min(d >> shift, 32767) * factor` is about `d * rate * 2^24`, at most 2^30.
#[derive(Clone, Copy)]
pub struct Rate {
    pub shift: u32,
    pub factor: i16,
}

impl Rate {
    #[inline(always)]
    pub fn new(rate: Scale) -> Rate {
        let factor = (rate.m >> 16) as i32; // 2^14 to 2^15 - 1
        let shift = -(rate.e + 40);
        if rate.m == 0 {
            Rate {
                shift: 0,
                factor: 0,
            }
        } else if shift < 0 {
            let factor = (factor << (-shift).min(15)).min(32767) as i16;
            Rate { shift: 0, factor }
        } else {
            Rate {
                shift: shift.min(31) as u32,
                factor: factor as i16,
            }
        }
    }

    #[inline(always)]
    pub fn apply(&self, d: u32) -> u32 {
        (i32::from((d >> self.shift).min(32767) as i16) * i32::from(self.factor)) as u32
    }
}

/// `2^-p` with 30 bits after the point, `p` having 24: a cubic polynomial,
/// exact to 1.4e-4 of its value, 0 from `p = 64` on.
#[inline(always)]
pub fn power(p: u32) -> u32 {
    let f = ((p >> 9) & 0x7fff) as i32;
    // the casts change nothing: they tell the compiler that 16 bits suffice
    let c = i32::from((7540 - ((1272 * f) >> 15)) as i16);
    let b = i32::from((22652 - ((c * f) >> 15)) as i16);
    let a = 32768 - ((b * f) >> 15); // 2^14 to 2^15
    // p <= 2^30, so the whole part is at most 64; both shifts stay below 32
    let whole = p >> 24;
    ((a as u32) << 15) >> whole.min(31)
}

/// The embedding of a token (int8 as bytes): `out = (row * scale + half) >> shift`;
/// `scale < 2^23`, `shift` from 1 to 30.
#[inline(always)]
pub fn embed(row: &[u8], scale: u32, shift: u32, out: &mut [i32]) {
    let half = 1 << (shift - 1);
    for (x, &w) in out.iter_mut().zip(row) {
        *x = (i32::from(w as i8) * scale as i32 + half) >> shift;
    }
}

/// The root-mean-square norm of a row, quantised.
pub struct Norm<'a> {
    pub gain: &'a [i16],
    /// What a gain of 1 stands for, times the square root of the row's length.
    pub unit: Scale,
    /// Epsilon in units of the squared residual stream.
    pub epsilon: u64,
}

/// `out` times the returned scale is about
/// `x * gain * unit / sqrt(sum(x^2 + epsilon))`. For `|x| <= RESIDUAL_LIMIT`
/// and rows of at most 2^15 values. `scratch` is as long as the row.
#[inline(always)]
pub fn normalise(x: &[i32], norm: &Norm, scratch: &mut [i32], out: &mut [i8]) -> Scale {
    let cut = bits(peak(x)).saturating_sub(24);
    let mut sum = 0u64; // below 2^48 * 2^15
    for ((t, &x), &g) in scratch.iter_mut().zip(x).zip(norm.gain) {
        let x = i64::from(x >> cut); // -2^24 to 2^24 - 1
        sum += (x * x) as u64;
        *t = ((x * i64::from(g)) >> 9) as i32; // to 2^30
    }
    let sum = sum + x.len() as u64 * (norm.epsilon >> (2 * cut));
    let scale = quantise(scratch, out);
    scale
        .times(norm.unit)
        .times(inverse_square_root(sum.max(1)))
        .shifted(9)
}

/// What turns the sums of one query or key head into its quantised vector.
pub struct HeadScales<'a> {
    /// Scale of each channel relative to the head's largest.
    pub channel: &'a [u16],
    /// The same with the gain of the head's norm.
    pub gained: &'a [i16],
    /// What a gained scale of 1 stands for, times the square root of the
    /// head's length.
    pub unit: Scale,
    /// Cosines and sines of this position, amplitude 2^14, half a head each.
    pub cos: &'a [i16],
    pub sin: &'a [i16],
}

/// Norm, rotation and quantisation of one query or key head. The scale of the
/// row that went into the sums cancels out. Heads of at most 256 values.
#[inline(always)]
pub fn rotate(sums: &[i32], s: &HeadScales, scratch: &mut [i32], out: &mut [i8]) -> Scale {
    let fit = Fit::new(peak(sums));
    let mut square = 0u64;
    for ((t, &a), (&c, &g)) in scratch
        .iter_mut()
        .zip(sums)
        .zip(s.channel.iter().zip(s.gained))
    {
        let a = fit.apply(a);
        let y = round15(a * i32::from(c)); // to 2^14
        square += (y * y) as u64;
        *t = round15(a * i32::from(g));
    }
    let half = sums.len() / 2;
    let (low, high) = scratch.split_at_mut(half);
    for ((low, high), (&c, &s)) in low
        .iter_mut()
        .zip(high.iter_mut())
        .zip(s.cos.iter().zip(s.sin))
    {
        let (a, b, c, s) = (*low, *high, i32::from(c), i32::from(s));
        *low = a * c - b * s; // to 2^29
        *high = b * c + a * s;
    }
    quantise(scratch, out)
        .times(s.unit)
        .times(inverse_square_root(square.max(1)))
        .shifted(-14)
}

/// What turns the sums of a head without a norm into a row.
pub struct PlainHead<'a> {
    /// Scales of the channels.
    pub channel: &'a [u16],
    /// What a sum times a channel's scale of 1 stands for.
    pub row: Scale,
    /// What is added, and its unit.
    pub bias: Option<(&'a [i16], Scale)>,
    /// Cosines and sines of the position; none for values.
    pub turn: Option<(&'a [i16], &'a [i16])>,
}

/// A head without a norm: scaled, biased, turned, quantised.
#[inline(always)]
pub fn plain(sums: &[i32], s: &PlainHead, scratch: &mut [i32], out: &mut [i8]) -> Scale {
    let fit = Fit::new(peak(sums));
    for ((t, &a), &c) in scratch.iter_mut().zip(sums).zip(s.channel) {
        *t = fit.apply(a) * i32::from(c); // to 2^29
    }
    let mut scale = s.row.shifted(fit.shift);
    if let Some((bias, unit)) = s.bias {
        scale = add_bias(scratch, scale, bias, unit);
    }
    if let Some((cos, sin)) = s.turn {
        let fit = Fit::new(peak(scratch));
        let (low, high) = scratch.split_at_mut(sums.len() / 2);
        let pairs = low.iter_mut().zip(high.iter_mut());
        for ((low, high), (&c, &s)) in pairs.zip(cos.iter().zip(sin)) {
            let (a, b) = (fit.apply(*low), fit.apply(*high)); // to 2^14
            let (c, s) = (i32::from(c), i32::from(s)); // likewise
            *low = a * c - b * s; // to 2^29
            *high = b * c + a * s;
        }
        scale = scale.shifted(fit.shift - 14);
    }
    quantise(scratch, out).times(scale)
}

/// Adds `bias` (in units of `unit`) to values of at most 2^29 (in units of
/// `scale`); returns the unit of the sums, which are at most 2^30: a power of 2
/// in which neither summand passes 2^29.
#[inline(always)]
fn add_bias(v: &mut [i32], scale: Scale, bias: &[i16], unit: Scale) -> Scale {
    let sizes = [(scale, 29), (unit, 15)];
    let top = |(s, bits): (Scale, i32)| if s.m == 0 { i32::MIN } else { s.e + 31 + bits };
    let grid = match sizes.into_iter().map(top).max() {
        Some(top) if top != i32::MIN => top - 29,
        _ => 0,
    };
    let shift = |s: Scale| (grid - s.e).clamp(1, 62) as u32;
    let term = |v: i64, s: Scale| ((v * i64::from(s.m) + (1 << (shift(s) - 1))) >> shift(s)) as i32;
    for (v, &b) in v.iter_mut().zip(bias) {
        *v = term(i64::from(*v), scale) + term(i64::from(b), unit);
    }
    Scale::ONE.shifted(grid)
}

/// The sums of a value head times their channels' scales, quantised;
/// `row` is the scale of a sum times a channel's scale.
#[inline(always)]
pub fn value(
    sums: &[i32],
    channel: &[u16],
    row: Scale,
    scratch: &mut [i32],
    out: &mut [i8],
) -> Scale {
    let fit = Fit::new(peak(sums));
    for ((t, &a), &c) in scratch.iter_mut().zip(sums).zip(channel) {
        *t = fit.apply(a) * i32::from(c);
    }
    quantise(scratch, out).times(row).shifted(fit.shift)
}

/// Bits by which a window's probabilities are limited, so that their sum over
/// int8 values stays below 2^31.
#[inline(always)]
pub fn weight_bits(window: usize) -> u32 {
    (24 - bits(window as u32 - 1)).min(15)
}

/// Bits cut off the sums of a query and a key so that they fit 15.
#[inline(always)]
pub fn score_cut(head_dim: usize) -> u32 {
    bits(127 * 127 * head_dim as u32).saturating_sub(15)
}

/// Cuts scales of the cache to 15 bits, all by the same shift, which it
/// returns.
#[inline(always)]
pub fn shorten(scales: &[u32], out: &mut [i32]) -> u32 {
    let top = scales.iter().fold(0, |m, &s| m.max(s));
    let cut = bits(top).saturating_sub(15);
    for (o, &s) in out.iter_mut().zip(scales) {
        *o = (s >> cut) as i32;
    }
    cut
}

/// From the sums of one query with all keys to weights of the values: softmax
/// in integers. `scores` holds the sums and is scratch afterwards; `keys` and
/// `values` are shortened scales; `rate` is the base-2 logarithm that a
/// shortened sum times a shortened key scale stands for. Weights are below
/// `2^limit`. Returns what a weight times a shortened value scale of 1 stands
/// for.
#[inline(always)]
pub fn soften(
    scores: &mut [i32],
    keys: &[i32],
    values: &[i32],
    cut: u32,
    rate: Scale,
    limit: u32,
    out: &mut [u16],
) -> Scale {
    let half = (1 << cut) >> 1;
    let mut top = i32::MIN;
    for (s, &k) in scores.iter_mut().zip(keys) {
        *s = ((*s + half) >> cut) * k; // to 2^30
        top = top.max(*s);
    }
    let rate = Rate::new(rate);
    let (mut sum, mut heaviest) = (0u32, 0);
    for (s, &v) in scores.iter_mut().zip(values) {
        let e = power(rate.apply(top.wrapping_sub(*s) as u32)) >> 16; // to 2^14
        sum += e;
        *s = e as i32 * v; // below 2^29
        heaviest = heaviest.max(*s);
    }
    let cut = bits(heaviest as u32).saturating_sub(limit);
    for (o, &s) in out.iter_mut().zip(scores.iter()) {
        *o = (s >> cut) as u16;
    }
    // the largest score has e = 2^14, so the sum is not 0
    reciprocal(sum).shifted(cut as i32)
}

/// Brings the heads of an attention output, `head_dim` sums each with their
/// scales, to one unit and quantises the row.
#[inline(always)]
pub fn join(
    heads: &[i32],
    scales: &[Scale],
    head_dim: usize,
    scratch: &mut [i32],
    out: &mut [i8],
) -> Scale {
    let exponent = scales.iter().filter(|s| s.m != 0).map(|s| s.e).max();
    let exponent = exponent.unwrap_or(0);
    for ((t, o), s) in scratch
        .chunks_exact_mut(head_dim)
        .zip(heads.chunks_exact(head_dim))
        .zip(scales)
    {
        let shift = (32 + exponent - s.e).clamp(32, 63) as u32;
        for (t, &o) in t.iter_mut().zip(o) {
            *t = ((i64::from(o) * i64::from(s.m)) >> shift) as i32; // to 2^30
        }
    }
    quantise(scratch, out).shifted(32 + exponent)
}

/// Bits cut off the sums over `inputs` values times a channel's scale so that
/// they fit 31.
#[inline(always)]
pub fn residual_cut(inputs: usize) -> u32 {
    (bits(127 * 127 * inputs as u32) + 15).saturating_sub(31)
}

/// Adds a linear layer's output to the residual stream; `row` is the scale of
/// a sum times a channel's scale in units of the stream.
#[inline(always)]
pub fn accumulate(x: &mut [i32], sums: &[i32], channel: &[u16], cut: u32, row: Scale) {
    let row = row.shifted(cut as i32);
    let shift = (-row.e).clamp(1, 62) as u32;
    let half = 1i64 << (shift - 1);
    let limit = i64::from(RESIDUAL_LIMIT);
    for ((x, &a), &c) in x.iter_mut().zip(sums).zip(channel) {
        let t = (i64::from(a) * i64::from(c)) >> cut; // below 2^31
        let y = (t * i64::from(row.m) + half) >> shift;
        let y = y.clamp(-limit, limit) as i32;
        *x = (*x + y).clamp(-RESIDUAL_LIMIT, RESIDUAL_LIMIT);
    }
}

/// What turns the sums of the gate and up projections into the hidden row.
pub struct GateScales<'a> {
    pub gate_channel: &'a [u16],
    pub up_channel: &'a [u16],
    pub gate_unit: Scale,
    pub up_unit: Scale,
    /// `log2(e)`.
    pub log2_e: Scale,
    /// The logistic function of quarters of `ln 2`, amplitude 2^15: value
    /// (low 16 bits) and difference to the next (high 16 bits).
    pub logistic: &'a [u32; 64],
}

/// `silu(gate) * up`, quantised; `row` is the scale of the input row.
#[inline(always)]
pub fn gated(
    gate: &[i32],
    up: &[i32],
    s: &GateScales,
    row: Scale,
    scratch: &mut [i32],
    out: &mut [i8],
) -> Scale {
    let (gate_fit, up_fit) = (Fit::new(peak(gate)), Fit::new(peak(up)));
    let gate_scale = s.gate_unit.times(row).shifted(gate_fit.shift);
    let up_scale = s.up_unit.times(row).shifted(up_fit.shift);
    let rate = Rate::new(gate_scale.times(s.log2_e));
    for (((t, &g), &u), (&gc, &uc)) in scratch
        .iter_mut()
        .zip(gate)
        .zip(up)
        .zip(s.gate_channel.iter().zip(s.up_channel))
    {
        let g = gate_fit.apply(g) * i32::from(gc); // to 2^29
        let u = round15(up_fit.apply(u) * i32::from(uc));
        let p = rate.apply(g.unsigned_abs()).min((1 << 28) - 1);
        let entry = s.logistic[(p >> 22) as usize];
        let f = ((p >> 8) & 0x3fff) as i32;
        let sigma = (i32::from(entry as i16) * (1 << 14) + ((entry as i32) >> 16) * f) >> 14;
        let sigma = if g < 0 { 32768 - sigma } else { sigma };
        *t = round15(round15(g) * sigma) * u; // to 2^28
    }
    quantise(scratch, out)
        .times(gate_scale)
        .times(up_scale)
        .shifted(30)
}

/// Logits to powers of two: `scratch`, as long as `sums`, gets 30 bits after
/// the point, the largest 2^30. Returns their sum. `row` is the scale of a sum
/// times a channel's scale in base-2 logarithms.
#[inline(always)]
pub fn powers(sums: &[i32], channel: &[u16], row: Scale, scratch: &mut [i32]) -> u64 {
    let fit = Fit::new(peak(sums));
    let mut top = i32::MIN;
    for ((t, &a), &c) in scratch.iter_mut().zip(sums).zip(channel) {
        *t = fit.apply(a) * i32::from(c); // to 2^29
        top = top.max(*t);
    }
    let rate = Rate::new(row.shifted(fit.shift));
    let mut sum = 0u64;
    for part in scratch.chunks_mut(4096) {
        // in halves of 16 bits, so that 32 bits are enough for either sum
        let (mut low, mut high) = (0u32, 0u32);
        for t in part {
            let e = power(rate.apply((top - *t) as u32));
            low += e & 0xffff;
            high += e >> 16;
            *t = e as i32;
        }
        sum += u64::from(low) + (u64::from(high) << 16);
    }
    sum
}

/// Sums of [`BLOCK`] powers each, each power cut by `cut` bits. All sums of a
/// distribution together are below 2^31.
#[inline(always)]
pub fn blocks(powers: &[i32], cut: u32, out: &mut [u32]) {
    for (o, e) in out.iter_mut().zip(powers.chunks(BLOCK)) {
        *o = e.iter().map(|&e| e as u32 >> cut).sum();
    }
}

/// How sums of powers become sums of counts.
pub struct Spread {
    pub cut: u32,
    /// Below 2^30.
    pub rate: u64,
}

impl Spread {
    #[inline(always)]
    pub fn new(tokens: usize, sum: u64) -> Spread {
        // the largest power is 2^30, so the sum has at least 31 bits
        let cut = 64 - sum.leading_zeros() - 31;
        let rate = (u64::from(TOTAL - tokens as u32) << 31) / (sum >> cut);
        Spread { cut, rate }
    }
}
