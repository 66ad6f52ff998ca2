//! The codec from bytes to frames and back, and its parts: the transformer's
//! steps for several numbers of lanes, the mixer with its coder alone.
//!
//! The kernel is the best one, or that of `LACONICFS_KERNEL`.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use laconicfs::codec::{Codec, Coded, Kind, TOGETHER};
use laconicfs::lm::model::{Model, State, embedded};

/// 64 KiB of this project's own text.
fn text() -> Vec<u8> {
    let parts = [
        include_str!("../README.md"),
        include_str!("../docs/codec-model.md"),
        include_str!("../docs/format-store.md"),
        include_str!("../src/tier/content.rs"),
        include_str!("../src/lm/mixer/mod.rs"),
    ];
    let text = parts.concat().into_bytes();
    text.into_iter().cycle().take(65536).collect()
}

fn model() -> Option<Arc<Model>> {
    let model = embedded().map(|bytes| Model::parse(bytes.to_vec()));
    model.and_then(Result::ok).map(Arc::new)
}

/// From a model file in memory to the first decoded byte: reading it, the
/// vocabulary, the mixer's start, weights packed for the kernel, buffers.
fn load(c: &mut Criterion) {
    let (Some(bytes), Some(Ok(codec))) = (
        embedded(),
        model().map(|model| Codec::with_models(vec![model])),
    ) else {
        return println!("skipped: this build has no model");
    };
    let plain = "a word or two, and again a word or two".repeat(20);
    let frame = codec.encode_as(Some(Kind::Lm), plain.as_bytes());
    let frame = frame.expect("it has a model");
    c.bench_function("load", |b| {
        b.iter(|| {
            let model = Model::parse(bytes.to_vec()).expect("it was parsed before");
            let codec = Codec::with_models(vec![Arc::new(model)]).expect("one model");
            codec.decode(&frame, plain.len())
        });
    });
}

fn engine(c: &mut Criterion) {
    let Some(model) = model() else {
        return println!("skipped: this build has no model");
    };
    let mut group = c.benchmark_group("model");
    for (lanes, steps) in [(16, 1), (32, 1), (64, 1), (16, 16)] {
        let Ok(mut state) = State::new(model.clone(), lanes) else {
            continue;
        };
        let tokens: Vec<u32> = (0..lanes * steps).map(|i| (i * 31 % 4096) as u32).collect();
        // until all windows are full
        for _ in 0..300 / steps {
            let filled = state.predict(lanes, steps, &tokens, &mut |_, _, _| ());
            filled.expect("the tokens are those of the model");
        }
        group.throughput(Throughput::Elements(tokens.len() as u64));
        group.bench_function(format!("{lanes} lanes, {steps} steps"), |b| {
            b.iter(|| state.predict(lanes, steps, black_box(&tokens), &mut |_, _, _| ()));
        });
    }
}

fn codec(c: &mut Criterion) {
    let Some(Ok(codec)) = model().map(|model| Codec::with_models(vec![model])) else {
        return println!("skipped: this build has no model");
    };
    let text = text();
    for kind in Kind::ALL {
        let Ok(frame) = codec.encode_as(Some(kind), &text) else {
            continue;
        };
        let mut group = c.benchmark_group(format!("{kind:?}").to_lowercase());
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("encode", |b| b.iter(|| codec.encode_as(Some(kind), &text)));
        group.bench_function("decode", |b| b.iter(|| codec.decode(&frame, text.len())));
        if kind == Kind::Lm {
            let frames: Vec<Coded> = vec![(&frame, text.len()); TOGETHER];
            group.throughput(Throughput::Bytes((TOGETHER * text.len()) as u64));
            group.bench_function("decode side by side", |b| {
                b.iter(|| codec.decode_many(&frames))
            });
        }
    }
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(2))
        .sample_size(10);
    targets = load, engine, codec
}
criterion_main!(all);
