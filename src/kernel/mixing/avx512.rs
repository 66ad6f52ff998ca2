//! The steps of the mixer with AVX-512: all contexts at once, in lanes of 16 bits.

use std::arch::x86_64::*;

use super::{
    CELLS, CONTEXTS, FRESH, INPUTS, LAST_SHIFT, LIMIT, Lanes, MAP_SHIFT, Maps, Mixing, OTHERS,
    Read, Row, SETS, SUM_SHIFT, Sisters, Slot, Slots, Sums, Tables,
};

/// Only [`wide`](crate::kernel::wide) makes one, where the CPU has the features.
#[derive(Clone, Copy)]
pub struct Avx512(pub(in crate::kernel) ());

macro_rules! steps {
    ($(fn $step:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        impl Mixing for Avx512 {
            $(#[inline(always)]
            fn $step(self, $($arg: $type),*) -> $out {
                // SAFETY: there is an `Avx512`, so the CPU has the features
                unsafe { $step($($arg),*) }
            })*
        }
    };
}

steps! {
    fn claim(slot: &mut Slot, check: u16, known: bool) -> Slot;
    fn children(slots: &Slots, node: usize) -> Sisters;
    fn choose(sisters: &Sisters, second: bool) -> Lanes;
    fn read(tables: &Tables, nodes: &Lanes, maps: &Maps, others: [i16; OTHERS], inputs: &mut Row) -> Read;
    fn sums(rows: [&Row; SETS], inputs: &Row) -> Sums;
    fn mix(weights: &Sums, sums: &Sums) -> i32;
    fn learn_last(weights: &mut Sums, sums: &Sums, error: i32) -> ();
    fn learn(tables: &Tables, rows: &mut [Row], at: &[usize; SETS], inputs: &Row, sums: &Sums, target: i32, rate: i32) -> ();
    fn visit(tables: &Tables, nodes: &Lanes, read: &Read, maps: &mut Maps, bit: bool) -> Lanes;
}

const _: () = assert!(CONTEXTS == 24 && INPUTS == 64 && SETS == 6 && OTHERS == 8);

/// The lanes of contexts.
const ALL: u32 = (1 << CONTEXTS) - 1;

macro_rules! get {
    ($from:expr) => {
        // SAFETY: 64 bytes
        unsafe { _mm512_loadu_si512(std::ptr::from_ref($from).cast()) }
    };
}
macro_rules! put {
    ($to:expr, $value:expr) => {
        // SAFETY: 64 bytes
        unsafe { _mm512_storeu_si512(std::ptr::from_mut($to).cast(), $value) }
    };
}

/// The two halves of a row.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(row: &Row) -> [__m512i; 2] {
    let (halves, _) = row.0.as_chunks::<{ INPUTS / 2 }>();
    [get!(&halves[0]), get!(&halves[1])]
}

/// Values of 16 bits at so many places of 16 bits of a table that goes on for
/// two bytes after the largest.
///
/// # Safety
/// The first 24 lanes are such places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn look(table: *const u16, places: __m512i) -> __m512i {
    let low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(places));
    let high = _mm256_cvtepu16_epi32(_mm512_extracti32x4_epi32::<2>(places));
    // SAFETY: the caller has seen to it
    let (low, high) = unsafe {
        (
            _mm512_i32gather_epi32::<2>(low, table.cast()),
            _mm256_i32gather_epi32::<2>(table.cast(), high),
        )
    };
    let high = _mm256_zextsi128_si256(_mm256_cvtepi32_epi16(high));
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(low)), high)
}

/// In one piece: a part of it stored after the whole could not be read at once.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn claim(slot: &mut Slot, check: u16, known: bool) -> Slot {
    // SAFETY: 32 bytes
    let was = unsafe { _mm256_loadu_si256(slot.as_ptr().cast()) };
    let keep = 0u16.wrapping_sub(u16::from(known));
    let v = _mm256_mask_blend_epi16(keep, _mm256_set1_epi16(FRESH as i16), was);
    let v = _mm256_mask_set1_epi16(v, 1, check as i16);
    let mut out = [0; 16];
    // SAFETY: 32 bytes
    unsafe {
        _mm256_storeu_si256(slot.as_mut_ptr().cast(), v);
        _mm256_storeu_si256(out.as_mut_ptr().cast(), v);
    }
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn children(slots: &Slots, node: usize) -> Sisters {
    let at = slots.0.as_ptr().cast::<i32>().wrapping_add(node & 7);
    let eight = _mm256_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56);
    let places = _mm512_inserti64x4::<1>(
        _mm512_castsi256_si512(eight),
        _mm256_add_epi32(eight, _mm256_set1_epi32(64)),
    );
    let mut out = Sisters([0; CONTEXTS]);
    // SAFETY: number `node` of the 8 pairs of each slot; the output has 24 places
    unsafe {
        let low = _mm512_i32gather_epi32::<4>(places, at);
        let high = _mm256_i32gather_epi32::<4>(at.wrapping_add(128), eight);
        _mm512_storeu_si512(out.0.as_mut_ptr().cast(), low);
        _mm256_storeu_si256(out.0.as_mut_ptr().add(16).cast(), high);
    }
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn choose(sisters: &Sisters, second: bool) -> Lanes {
    let count = _mm_cvtsi32_si128(16 * i32::from(second));
    // SAFETY: 24 places
    let (low, high) = unsafe {
        (
            _mm512_loadu_si512(sisters.0.as_ptr().cast()),
            _mm256_loadu_si256(sisters.0.as_ptr().add(16).cast()),
        )
    };
    let low = _mm512_cvtepi32_epi16(_mm512_srl_epi32(low, count));
    let high = _mm256_cvtepi32_epi16(_mm256_srl_epi32(high, count));
    let high = _mm256_zextsi128_si256(high);
    let mut out = Lanes([0; 32]);
    put!(
        &mut out.0,
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
    );
    out
}

/// The first cell of each context's map.
static FIRST_CELLS: Lanes = {
    let (mut first, mut j) = ([0; 32], 0);
    while j < CONTEXTS {
        first[j] = (j * CELLS) as u16;
        j += 1;
    }
    Lanes(first)
};

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn read(
    tables: &Tables,
    nodes: &Lanes,
    maps: &Maps,
    others: [i16; OTHERS],
    inputs: &mut Row,
) -> Read {
    let v = get!(&nodes.0);
    let stretch = tables.stretch.as_ptr().cast();
    // SAFETY: 12 bits, and the table has 2^12 entries and one more
    let p = unsafe { look(stretch, _mm512_srli_epi16::<4>(v)) };
    let p = _mm512_maskz_mov_epi16(ALL, p);
    let n = _mm512_and_si512(v, _mm512_set1_epi16(15));
    let been = _mm512_test_epi16_mask(v, _mm512_set1_epi16(15)) & ALL;
    // in 16 bits: |p| < 4681
    let steps = _mm512_srai_epi16::<11>(_mm512_mullo_epi16(p, _mm512_set1_epi16(7)));
    let cell = _mm512_add_epi16(steps, _mm512_set1_epi16(16));
    let cell = _mm512_add_epi16(cell, _mm512_slli_epi16::<5>(n));
    let cell = _mm512_and_si512(cell, _mm512_set1_epi16(CELLS as i16 - 1));
    let place = _mm512_add_epi16(cell, get!(&FIRST_CELLS.0));
    // SAFETY: places of the maps, after which there are two bytes; then as above
    let (was, meant) = unsafe {
        let was = look(std::ptr::from_ref(maps).cast(), place);
        (was, look(stretch, _mm512_srli_epi16::<4>(was)))
    };
    let meant = _mm512_maskz_mov_epi16(been, meant);
    let [a, b, c, d, e, f, g, h] = others;
    let others = _mm_setr_epi16(a, b, c, d, e, f, g, h);
    let (to, _) = inputs.0.as_chunks_mut::<{ INPUTS / 2 }>();
    put!(&mut to[0], _mm512_inserti32x4::<3>(meant, others));
    put!(&mut to[1], p);
    let (mut cells, mut found) = (Lanes([0; 32]), Lanes([0; 32]));
    put!(&mut cells.0, cell);
    put!(&mut found.0, was);
    Read {
        cells,
        found,
        known: been.count_ones() as usize,
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn sums(rows: [&Row; SETS], inputs: &Row) -> Sums {
    let [low, high] = halves(inputs);
    let [a, b, c, d, e, f] = rows.map(|row| {
        let [l, h] = halves(row);
        let sum = _mm512_add_epi32(_mm512_madd_epi16(low, l), _mm512_madd_epi16(high, h));
        _mm256_add_epi32(
            _mm512_castsi512_si256(sum),
            _mm512_extracti64x4_epi64::<1>(sum),
        )
    });
    let (ab, cd, ef) = (
        _mm256_hadd_epi32(a, b),
        _mm256_hadd_epi32(c, d),
        _mm256_hadd_epi32(e, f),
    );
    let abcd = _mm256_hadd_epi32(ab, cd);
    let ef = _mm256_hadd_epi32(ef, _mm256_setzero_si256());
    let sum = _mm256_add_epi32(
        _mm256_permute2x128_si256::<0x20>(abcd, ef),
        _mm256_permute2x128_si256::<0x31>(abcd, ef),
    );
    let sum = _mm256_srai_epi32::<{ SUM_SHIFT as i32 }>(sum);
    let sum = _mm256_min_epi32(sum, _mm256_set1_epi32(LIMIT));
    let sum = _mm256_max_epi32(sum, _mm256_set1_epi32(-LIMIT));
    let mut out = Sums([0; 8]);
    // SAFETY: 32 bytes
    unsafe { _mm256_storeu_si256(out.0.as_mut_ptr().cast(), sum) };
    out
}

#[inline]
#[target_feature(enable = "avx512f")]
fn get_sums(from: &Sums) -> __m256i {
    // SAFETY: 32 bytes
    unsafe { _mm256_loadu_si256(from.0.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn mix(weights: &Sums, sums: &Sums) -> i32 {
    let (w, s) = (get_sums(weights), get_sums(sums));
    // the even places, and the odd ones
    let even = _mm256_mul_epi32(w, s);
    let odd = _mm256_mul_epi32(_mm256_srli_epi64::<32>(w), _mm256_srli_epi64::<32>(s));
    let sum = _mm256_add_epi64(even, odd);
    let sum = _mm_add_epi64(
        _mm256_castsi256_si128(sum),
        _mm256_extracti128_si256::<1>(sum),
    );
    let sum = _mm_cvtsi128_si64(sum).wrapping_add(_mm_extract_epi64::<1>(sum));
    (sum >> 16).clamp(-i64::from(LIMIT), i64::from(LIMIT)) as i32
}

#[inline]
#[target_feature(enable = "avx512f")]
fn learn_last(weights: &mut Sums, sums: &Sums, error: i32) {
    let product = _mm256_mullo_epi32(get_sums(sums), _mm256_set1_epi32(error));
    let half = _mm256_set1_epi32(1 << (LAST_SHIFT - 1));
    let step = _mm256_srai_epi32::<{ LAST_SHIFT as i32 }>(_mm256_add_epi32(product, half));
    let sum = _mm256_add_epi32(get_sums(weights), step);
    // SAFETY: 32 bytes
    unsafe { _mm256_storeu_si256(weights.0.as_mut_ptr().cast(), sum) };
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn learn(
    tables: &Tables,
    rows: &mut [Row],
    at: &[usize; SETS],
    inputs: &Row,
    sums: &Sums,
    target: i32,
    rate: i32,
) {
    let places = _mm256_add_epi32(get_sums(sums), _mm256_set1_epi32(6144));
    let places = _mm256_srli_epi32::<2>(places);
    let places = _mm256_min_epu32(places, _mm256_set1_epi32(3071));
    // SAFETY: the table has 3072 entries and one more
    let p = unsafe { _mm256_i32gather_epi32::<2>(tables.squash.as_ptr().cast(), places) };
    let p = _mm256_and_si256(p, _mm256_set1_epi32(0xffff));
    let error = _mm256_sub_epi32(_mm256_set1_epi32(target), p);
    let error = _mm256_srai_epi32::<8>(_mm256_mullo_epi32(error, _mm256_set1_epi32(rate)));
    let error = _mm256_max_epi32(error, _mm256_set1_epi32(-32767));
    let error = _mm256_min_epi32(error, _mm256_set1_epi32(32767));
    let error = _mm512_castsi256_si512(error);
    let [low, high] = halves(inputs);
    for (k, &at) in at.iter().enumerate() {
        // the lower half of number k of 32 bits
        let error = _mm512_permutexvar_epi16(_mm512_set1_epi16(2 * k as i16), error);
        let row = &mut rows[at];
        let [l, h] = halves(row);
        let (to, _) = row.0.as_chunks_mut::<{ INPUTS / 2 }>();
        let [low, high] = [low, high].map(|x| _mm512_mulhrs_epi16(x, error));
        put!(&mut to[0], _mm512_adds_epi16(l, low));
        put!(&mut to[1], _mm512_adds_epi16(h, high));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn visit(tables: &Tables, nodes: &Lanes, read: &Read, maps: &mut Maps, bit: bool) -> Lanes {
    let cell = get!(&read.found.0);
    const SHIFT: u32 = MAP_SHIFT;
    let ones = _mm512_set1_epi16(-1);
    let cell = if bit {
        let step = _mm512_srli_epi16::<SHIFT>(_mm512_xor_si512(cell, ones));
        _mm512_add_epi16(cell, step)
    } else {
        // a shift that rounds up
        let step = _mm512_srli_epi16::<SHIFT>(cell);
        let rest = _mm512_test_epi16_mask(cell, _mm512_set1_epi16((1 << SHIFT) - 1));
        let step = _mm512_mask_sub_epi16(step, rest, step, ones);
        _mm512_sub_epi16(cell, step)
    };
    let mut learned = Lanes([0; 32]);
    put!(&mut learned.0, cell);
    for (j, map) in maps.of.iter_mut().enumerate() {
        map[usize::from(read.cells.0[j]) % CELLS] = learned.0[j];
    }

    let v = get!(&nodes.0);
    let (p, n) = (
        _mm512_srli_epi16::<4>(v),
        _mm512_and_si512(v, _mm512_set1_epi16(15)),
    );
    // SAFETY: 32 bytes
    let rates = unsafe { _mm256_loadu_si256(tables.rates.as_ptr().cast()) };
    let rate = _mm512_permutexvar_epi16(n, _mm512_castsi256_si512(rates));
    let goal = _mm512_set1_epi16(if bit { 4095 } else { 0 });
    let way = _mm512_sub_epi16(goal, p);
    // way * rate >> 16, rounded: a rate of 2^15 or more counts as negative, so
    // that 2^16 times the way is missing
    let step = _mm512_mulhi_epi16(way, rate);
    let large = _mm512_movepi16_mask(rate);
    let step = _mm512_mask_add_epi16(step, large, step, way);
    let half = _mm512_srli_epi16::<15>(_mm512_mullo_epi16(way, rate));
    let p = _mm512_add_epi16(p, _mm512_add_epi16(step, half));
    let n = _mm512_min_epu16(
        _mm512_add_epi16(n, _mm512_set1_epi16(1)),
        _mm512_set1_epi16(15),
    );
    let mut out = Lanes([0; 32]);
    put!(&mut out.0, _mm512_or_si512(_mm512_slli_epi16::<4>(p), n));
    out
}
