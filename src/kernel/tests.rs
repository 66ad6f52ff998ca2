//! Every kernel that this processor has against the scalar one, bit for bit.

use proptest::collection::vec;
use proptest::prelude::*;

use super::number::reciprocal;
use super::*;

/// The kernels other than the specification.
fn others() -> Vec<&'static dyn Arithmetic> {
    available()
        .iter()
        .copied()
        .filter(|k| k.name() != "scalar")
        .collect()
}

/// int8 values: sometimes all extremes, sometimes all alike.
fn bytes(len: usize) -> impl Strategy<Value = Vec<i8>> {
    prop_oneof![
        vec(-127i8..=127, len),
        vec(prop_oneof![Just(-127i8), Just(127), Just(0)], len),
        Just(vec![127; len]),
        Just(vec![-127; len]),
    ]
}

/// Sums of any size up to 2^`bits`.
fn sums(len: usize, bits: u32) -> impl Strategy<Value = Vec<i32>> {
    (0..=bits).prop_flat_map(move |b| vec(-(1i32 << b)..=1 << b, len))
}

fn scale() -> impl Strategy<Value = Scale> {
    (1u64..1 << 40, -80..20).prop_map(|(m, e)| Scale::new(m, e))
}

fn product(k: &dyn Arithmetic, w: &[i8], inputs: usize, rows: usize, a: &[i8]) -> Vec<i32> {
    let w: Vec<u8> = w.iter().map(|&w| w as u8).collect();
    let w = Packed::new(&w, inputs, k.packing());
    let room = rows.next_multiple_of(16);
    let mut padded = Aligned::new(room * w.stride_in());
    for (row, a) in padded
        .chunks_exact_mut(w.stride_in())
        .zip(a.chunks_exact(inputs))
    {
        row[..inputs].copy_from_slice(a);
    }
    let mut out = Aligned::new(room * w.stride_out());
    k.product(&w, rows, &padded, &mut out);
    let rows = out.chunks_exact(w.stride_out()).take(rows);
    rows.flat_map(|row| row[..w.outputs].to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products((inputs, w, rows, a) in (1..300usize, 1..200usize, 1..=64usize).prop_flat_map(
        |(inputs, outputs, rows)| (Just(inputs), bytes(inputs * outputs), Just(rows), bytes(inputs * rows)),
    )) {
        let plain: Vec<i32> = a.chunks_exact(inputs).flat_map(|a| {
            w.chunks_exact(inputs).map(move |w| {
                a.iter().zip(w).map(|(&a, &w)| i32::from(a) * i32::from(w)).sum::<i32>()
            })
        }).collect();
        for k in available() {
            prop_assert_eq!(&product(*k, &w, inputs, rows, &a), &plain, "{}", k.name());
        }
    }

    #[test]
    fn attention(
        (dim, group, filled, keys, values, queries, scales) in
            (1..=8usize, 1..=9usize, 1..=320usize).prop_flat_map(|(dim, group, filled)| {
                let dim = 16 * dim;
                (
                    Just(dim), Just(group), Just(filled),
                    bytes(dim * filled), bytes(dim * filled), bytes(dim * group),
                    vec((0u32..=i32::MAX as u32, 0u32..=1 << 20), filled),
                )
            }),
        unit in scale(),
        query in vec(scale(), 9),
    ) {
        let run = |k: &dyn Arithmetic| {
            let room = filled.next_multiple_of(64);
            let (mut ring, mut cells) = (Aligned::new(room * dim), Aligned::new(room * dim));
            // what is not filled must not matter
            ring.fill(if k.name() == "scalar" { 0 } else { 77 });
            cells.fill(if k.name() == "scalar" { 0 } else { -77 });
            for slot in 0..filled {
                let at = slot * dim..(slot + 1) * dim;
                put_key(&mut ring, slot, &keys[at.clone()]);
                put_value(&mut cells, slot, &values[at]);
            }
            let (key_scales, value_scales): (Vec<u32>, Vec<u32>) = scales.iter().copied().unzip();
            let window = Window {
                head_dim: dim, filled, keys: &ring, values: &cells,
                key_scales: &key_scales, value_scales: &value_scales,
            };
            let mut scratch = Attention::new(room, group, dim);
            let mut out = vec![0; dim * group];
            let mut out_scales = vec![Scale::ZERO; group];
            k.attend(&queries, &query[..group], unit, &window, &mut scratch, &mut out, &mut out_scales);
            (out, out_scales)
        };
        let plain = run(available()[0]);
        for k in others() {
            prop_assert_eq!(&run(k), &plain, "{}", k.name());
        }
    }

    #[test]
    fn steps_of_a_row(
        (len, a, b, x, c, d, g, h) in (1..=70usize, 0..4usize).prop_flat_map(|(len, whole)| {
            // mostly lengths that kernels have loops of their own for
            let len = if whole == 0 { 2 * len } else { 32 * len.div_ceil(8) };
            (
                Just(len), sums(len, 29), sums(len, 29), sums(len, 29),
                vec(0..1u16 << 15, len), vec(0..1u16 << 15, len),
                vec(-32767i16..=32767, len), vec(-16384i16..=16384, len),
            )
        }),
        (row, other) in (scale(), scale()),
        epsilon in 0u64..1 << 40,
    ) {
        let mut logistic = [0; 64];
        for (i, entry) in logistic.iter_mut().enumerate() {
            *entry = (16384 + 200 * i as u32) | 200 << 16;
        }
        let run = |k: &dyn Arithmetic| {
            let mut out = Vec::new();
            let mut scratch = vec![0; len];
            let mut take = |s: Scale, q: &[i8]| out.push((s, q.to_vec()));
            let mut q = vec![0i8; len];
            let norm = Norm { gain: &g, unit: other, epsilon };
            let s = k.normalise(&x, &norm, &mut scratch, &mut q);
            take(s, &q);
            let (cos, sin) = h.split_at(len / 2);
            let heads = HeadScales { channel: &c, gained: &g, unit: other, cos, sin };
            let s = k.rotate(&a, &heads, &mut scratch, &mut q);
            take(s, &q);
            let s = k.value(&a, &c, row, &mut scratch, &mut q);
            take(s, &q);
            for bias in [None, Some((&g[..], other))] {
                for turn in [None, Some((cos, sin))] {
                    let head = PlainHead { channel: &c, row, bias, turn };
                    let s = k.plain(&a, &head, &mut scratch, &mut q);
                    take(s, &q);
                }
            }
            let s = k.join(&a, &[row, other], len / 2, &mut scratch, &mut q);
            take(s, &q);
            let gates = GateScales {
                gate_channel: &c, up_channel: &d, gate_unit: other, up_unit: row,
                log2_e: LOG2_E, logistic: &logistic,
            };
            let s = k.gated(&a, &b, &gates, row, &mut scratch, &mut q);
            take(s, &q);
            let mut stream = x.clone();
            k.accumulate(&mut stream, &a, &c, 1 << 15, row);
            (out, stream)
        };
        let plain = run(available()[0]);
        for k in others() {
            prop_assert_eq!(&run(k), &plain, "{}", k.name());
        }
    }

    #[test]
    fn distributions(
        (a, c) in (256..1000usize, 0..2usize).prop_flat_map(|(len, whole)| {
            let len = if whole == 0 { len } else { len & !31 };
            (sums(len, 29), vec(0..1u16 << 15, len))
        }),
        row in scale(),
    ) {
        let run = |k: &dyn Arithmetic| {
            let mut out = vec![7; a.len() + 1];
            let (mut powers, mut blocks) = (vec![0; a.len()], vec![0; a.len().div_ceil(BLOCK)]);
            let distribution = k.distribute(&a, &c, row, &mut powers, &mut blocks);
            distribution.write(&mut out);
            // in any order
            for (i, &at) in out.iter().enumerate().rev().step_by(7) {
                assert_eq!(distribution.at(i), at, "{}", k.name());
            }
            out
        };
        let plain = run(available()[0]);
        prop_assert_eq!(plain[0], 0);
        prop_assert_eq!(plain[a.len()], TOTAL);
        prop_assert!(plain.is_sorted_by(|a, b| a < b));
        for k in others() {
            prop_assert_eq!(&run(k), &plain, "{}", k.name());
        }
    }
}

#[test]
fn distributions_follow_the_softmax() {
    // logits 0, -1, -2 ... in base-2 logarithms
    let sums: Vec<i32> = (0..256).map(|i| -i * 1000).collect();
    let channel = vec![32767; 256];
    let row = reciprocal(1000).times(reciprocal(32767));
    for k in available() {
        let mut cdf = vec![0; 257];
        k.distribute(&sums, &channel, row, &mut [0; 256], &mut [0; 4])
            .write(&mut cdf);
        for (i, pair) in cdf.windows(2).take(20).enumerate() {
            let wanted = f64::from(TOTAL) * (-1.0 - i as f64).exp2();
            let error = f64::from(pair[1] - pair[0]) / wanted - 1.0;
            assert!(
                error.abs() < 0.01,
                "{}: token {i} is off by {error}",
                k.name()
            );
        }
    }
}

#[test]
fn a_kernel_that_is_not_there_is_refused_with_those_that_are() {
    let refusal = |name| named(name).err().map(|e| e.to_string());
    assert!(refusal("fast").unwrap().contains("no kernel \"fast\""));
    assert!(refusal("fast").unwrap().contains("scalar"));
    assert_eq!(refusal("scalar"), None);
    for name in NAMES {
        let there = available().iter().any(|k| k.name() == name);
        println!(
            "kernel {name}: {}",
            if there {
                "tested"
            } else {
                "skipped, this processor cannot run it"
            }
        );
        assert_eq!(refusal(name).is_none(), there, "{name}");
    }
}
