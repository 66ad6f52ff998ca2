//! Every width against the plain loops, bit for bit.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::kernel::{Job, Width, wide};

/// One decision with anything in it, and all that comes of it.
#[derive(Debug)]
struct Decision {
    tables: Tables,
    slots: Slots,
    check: u16,
    node: usize,
    second: bool,
    maps: Box<Maps>,
    others: [i16; OTHERS],
    rows: Vec<Row>,
    weights: Sums,
    error: i32,
    rate: i32,
}

impl Job for &Decision {
    type Output = Vec<i64>;

    #[inline(always)]
    fn run(self, mixing: impl Mixing) -> Vec<i64> {
        let Decision {
            tables,
            slots,
            check,
            node,
            second,
            maps,
            others,
            rows,
            weights,
            error,
            rate,
        } = self;
        let mut slots = *slots;
        for (k, slot) in slots.0.iter_mut().enumerate() {
            let claimed = mixing.claim(slot, *check, k % 3 > 0);
            assert_eq!(claimed, *slot);
        }
        let nodes = mixing.choose(&mixing.children(&slots, *node), *second);
        let (mut maps, mut rows, mut weights) = (maps.clone(), rows.clone(), *weights);
        let mut inputs = Row([0; INPUTS]);
        let read = mixing.read(tables, &nodes, &maps, *others, &mut inputs);
        let at = [5, 0, 3, 2, 4, 1];
        let sums = mixing.sums(at.map(|k| &rows[k]), &inputs);
        let mixed = mixing.mix(&weights, &sums);
        mixing.learn_last(&mut weights, &sums, *error);
        let target = i32::from(*second) << 16;
        mixing.learn(tables, &mut rows, &at, &inputs, &sums, target, *rate);
        let after = mixing.visit(tables, &nodes, &read, &mut maps, *second);

        let mut all = vec![i64::from(mixed), read.known as i64];
        all.extend(slots.0.as_flattened().iter().map(|&v| i64::from(v)));
        let lanes = [&nodes, &read.cells, &read.found, &after];
        all.extend(
            lanes
                .iter()
                .flat_map(|l| &l.0[..CONTEXTS])
                .map(|&v| i64::from(v)),
        );
        all.extend(
            [&sums, &weights]
                .iter()
                .flat_map(|s| &s.0)
                .map(|&v| i64::from(v)),
        );
        let rows = rows.iter().chain([&inputs]);
        all.extend(rows.flat_map(|row| &row.0).map(|&v| i64::from(v)));
        all.extend(maps.of.as_flattened().iter().map(|&v| i64::from(v)));
        all
    }
}

/// Numbers of 16 bits: anything, or at the bounds.
fn numbers(len: usize) -> impl Strategy<Value = Vec<u16>> {
    let bound = prop::sample::select(vec![0u16, 1, 15, 63, 64, 0x7fff, 0x8000, 0xffff]);
    prop_oneof![vec(any::<u16>(), len), vec(bound, len)]
}

/// Tables as they are in their bounds: odds below 4681, rates of 16 bits.
fn tables() -> impl Strategy<Value = Tables> {
    let odds = prop_oneof![-4680i16..=4680, Just(-4680), Just(4680), Just(0)];
    (vec(odds, 4097), numbers(3073), numbers(16)).prop_map(|(stretch, squash, rates)| Tables {
        stretch: stretch.try_into().unwrap(),
        squash: squash.try_into().unwrap(),
        rates: rates.try_into().unwrap(),
    })
}

fn decision() -> impl Strategy<Value = Decision> {
    let learned = (
        numbers(CONTEXTS * CELLS),
        numbers(SETS * INPUTS),
        vec(any::<i32>(), SETS),
    );
    let place = (any::<u16>(), 0..8usize, any::<bool>());
    let found = (numbers(CONTEXTS * 16), numbers(OTHERS));
    let step = (-65535..=65535i32, 0..4096i32);
    (tables(), learned, place, found, step).prop_map(|(tables, learned, place, found, step)| {
        let (maps, rows, last) = learned;
        let mut weights = Sums([0; 8]);
        weights.0[..SETS].copy_from_slice(&last);
        let slots = found.0.as_chunks().0.try_into().unwrap();
        let rows = rows.as_chunks::<INPUTS>().0.iter();
        Decision {
            tables,
            slots: Slots(slots),
            check: place.0,
            node: place.1,
            second: place.2,
            maps: Box::new(Maps {
                of: maps.as_chunks().0.try_into().unwrap(),
                end: 0,
            }),
            others: std::array::from_fn(|k| found.1[k] as i16),
            rows: rows.map(|row| Row(row.map(|w| w as i16))).collect(),
            weights,
            error: step.0,
            rate: step.1,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_width_takes_the_same_steps(decision in decision()) {
        let widths = Width::all();
        if widths.len() < 2 {
            eprintln!("skipped: this CPU has no wider registers");
        }
        let plain = (&decision).run(Plain);
        for width in widths {
            prop_assert!(wide(width, &decision) == plain, "{width:?}");
        }
    }
}
