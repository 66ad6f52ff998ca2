//! The steps of the transformer, each kernel that this processor has. The
//! values are made up; none takes another time for others. What is read lies in
//! the caches: these are ceilings, see docs/performance.md.
//!
//! `cargo bench --bench kernels -- --quick amx` for one kernel in seconds.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use laconicfs::kernel::{
    self, Aligned, Attention, GateScales, HeadScales, LOG2_E, Norm, Packed, Scale, Window,
};

/// Numbers of any size up to `most`, of both signs.
fn numbers(len: usize, most: i32) -> Vec<i32> {
    let number = |i: i64| (i * 7_919 % 100_003 * 2 - 100_003) * i64::from(most) / 100_003;
    (0..len as i64).map(|i| number(i) as i32).collect()
}

fn products(c: &mut Criterion) {
    for k in kernel::available() {
        let mut group = c.benchmark_group(format!("{}/product", k.name()));
        // gate and up of laconic-s
        let (inputs, outputs) = (256, 1280);
        let weights: Vec<u8> = (numbers(inputs * outputs, 127).iter())
            .map(|&w| w as i8 as u8)
            .collect();
        let weights = Packed::new(&weights, inputs, k.packing());
        for rows in [1, 16, 32, 64] {
            let a: Vec<i8> = numbers(64 * inputs, 127).iter().map(|&a| a as i8).collect();
            let mut out = Aligned::new(64 * weights.stride_out());
            group.throughput(Throughput::Elements((inputs * outputs * rows) as u64));
            group.bench_function(format!("{rows} rows"), |b| {
                b.iter(|| k.product(&weights, rows, black_box(&a), &mut out));
            });
        }
    }
}

fn attention(c: &mut Criterion) {
    let (dim, heads, slots) = (64, 4, 256);
    let mut keys: Aligned<u8> = Aligned::new(slots * dim);
    let mut values: Aligned<i8> = Aligned::new(slots * dim);
    for ((key, value), n) in (keys.iter_mut().zip(values.iter_mut())).zip(numbers(slots * dim, 127))
    {
        (*key, *value) = ((n + 128) as u8, n as i8);
    }
    let queries: Vec<i8> = numbers(heads * dim, 127).iter().map(|&q| q as i8).collect();
    let scales = vec![1 << 20; slots];
    let window = Window {
        head_dim: dim,
        filled: slots,
        keys: &keys,
        values: &values,
        key_scales: &scales,
        value_scales: &scales,
    };
    let mut scratch = Attention::new(slots, heads, dim);
    let (mut out, mut out_scales) = (vec![0; heads * dim], vec![Scale::ZERO; heads]);
    let (query, unit) = (vec![Scale::ONE.shifted(-8); heads], Scale::ONE.shifted(-3));
    for k in kernel::available() {
        c.bench_function(
            &format!("{}/attention of 4 heads, 256 slots", k.name()),
            |b| {
                b.iter(|| {
                    let queries = black_box(&queries);
                    k.attend(
                        queries,
                        &query,
                        unit,
                        &window,
                        &mut scratch,
                        &mut out,
                        &mut out_scales,
                    );
                });
            },
        );
    }
}

fn steps(c: &mut Criterion) {
    let x = numbers(1280, 2_000_000);
    let logits = numbers(4096, 2_000_000);
    let (channel, gain) = (vec![20_000u16; 4096], vec![16_000i16; 256]);
    let (mut scratch, mut out) = (vec![0; 4096], vec![0i8; 640]);
    let unit = Scale::ONE.shifted(-20);
    let mut logistic = [0; 64];
    for (i, entry) in logistic.iter_mut().enumerate() {
        *entry = (16384 + 200 * i as u32) | 200 << 16;
    }
    for k in kernel::available() {
        let mut group = c.benchmark_group(k.name());
        group.bench_function("norm of 256", |b| {
            let norm = Norm {
                gain: &gain,
                unit,
                epsilon: 9,
            };
            b.iter(|| {
                k.normalise(
                    black_box(&x[..256]),
                    &norm,
                    &mut scratch[..256],
                    &mut out[..256],
                )
            });
        });
        group.bench_function("query head of 64", |b| {
            let head = HeadScales {
                channel: &channel[..64],
                gained: &gain[..64],
                unit,
                cos: &gain[..32],
                sin: &gain[32..64],
            };
            b.iter(|| {
                k.rotate(
                    black_box(&x[..64]),
                    &head,
                    &mut scratch[..64],
                    &mut out[..64],
                )
            });
        });
        group.bench_function("gate of 640", |b| {
            let gates = GateScales {
                gate_channel: &channel[..640],
                up_channel: &channel[..640],
                gate_unit: unit,
                up_unit: unit,
                log2_e: LOG2_E,
                logistic: &logistic,
            };
            let (gate, up) = x.split_at(640);
            b.iter(|| {
                k.gated(
                    black_box(gate),
                    up,
                    &gates,
                    unit,
                    &mut scratch[..640],
                    &mut out,
                )
            });
        });
        group.bench_function("into the stream of 256", |b| {
            let mut stream = x[..256].to_vec();
            b.iter(|| {
                k.accumulate(
                    &mut stream,
                    black_box(&x[256..512]),
                    &channel[..256],
                    256,
                    unit,
                )
            });
        });
        group.bench_function("softmax of 4096", |b| {
            let mut blocks = vec![0; 64];
            b.iter(|| {
                k.distribute(
                    black_box(&logits),
                    &channel,
                    unit,
                    &mut scratch,
                    &mut blocks,
                )
                .at(2000)
            });
        });
    }
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(500))
        .sample_size(20);
    targets = products, attention, steps
}
criterion_main!(all);
