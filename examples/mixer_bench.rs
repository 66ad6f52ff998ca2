//! Measures the mixer on files, chunk by chunk, beside zstd -19:
//! `cargo run --release --example mixer_bench -- MODEL [--start FILE] [--model] FILE...`
//!
//! `--model` runs the language model too (16 lanes); `--start` takes another
//! start of the mixer than the model's own. Sizes are of payloads with their
//! heads; every chunk is decoded and compared.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use laconicfs::interrupt::Interrupt;
use laconicfs::lm::coder::{Decoder, Encoder};
use laconicfs::lm::mixer::{Head, Mixer, MixerStart, decode_mix, encode_mix};
use laconicfs::lm::model::{Model, State, import};
use laconicfs::lm::vocabulary::Vocabulary;

const CHUNK: usize = 64 << 10;
/// Lanes as the codec chooses them.
const LANES: usize = 16;
const LANE_TOKENS: usize = 512;

/// Codes (`known`) or decodes tokens beside the model, serially.
fn with_model(
    mixer: &mut Mixer,
    state: &mut State,
    head: &Head,
    known: Option<&[u32]>,
    coder: &mut impl laconicfs::lm::coder::BitCoder,
) -> Result<Vec<u8>> {
    let lanes = head.lanes;
    let lengths: Vec<usize> = head.lengths().collect();
    let starts: Vec<usize> = lengths
        .iter()
        .scan(0, |at, n| {
            *at += n;
            Some(*at - n)
        })
        .collect();
    mixer.begin(head, true);
    state.reset();
    let mut last = vec![mixer.vocabulary().start(); lanes];
    for step in 0..lengths[0] {
        let active = lengths.iter().filter(|&&n| step < n).count();
        let inputs = last[..active].to_vec();
        state.forward(active, 1, &inputs, &mut |_, lane, cdf| {
            let token = known.map_or(0, |k| k[starts[lane] + step]);
            last[lane] = mixer.code(lane, token, Some(cdf), coder);
        })?;
    }
    Ok((0..lanes).flat_map(|l| mixer.text(l)).copied().collect())
}

/// A model file, or a checkpoint folder, which is imported.
fn open(path: &str) -> Result<Arc<Model>> {
    let path = std::path::Path::new(path);
    let bytes = if path.is_dir() {
        import(path)?
    } else {
        std::fs::read(path).context("the model")?
    };
    Ok(Arc::new(Model::parse(bytes)?))
}

fn main() -> Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let beside = args
        .iter()
        .position(|a| a == "--model")
        .map(|i| args.remove(i))
        .is_some();
    let start = args
        .iter()
        .position(|a| a == "--start")
        .map(|i| (args.remove(i), args.remove(i)).1);
    ensure!(
        args.len() > 1,
        "usage: mixer_bench MODEL [--start FILE] [--model] FILE..."
    );
    let model = open(&args[0])?;
    let start = match start {
        Some(file) => MixerStart::from_bytes(&std::fs::read(&file)?)?,
        None => match model.mixer_start() {
            Some(bytes) => MixerStart::from_bytes(bytes)?,
            None => MixerStart::Untrained,
        },
    };
    let vocabulary = Arc::new(Vocabulary::from_tokenizer_json(model.tokenizer_json())?);
    let mut mixer = Mixer::new(start, vocabulary.clone());
    let version = mixer.newest();
    let mut sums = (0, 0, 0);
    for file in &args[1..] {
        let text = std::fs::read(file).with_context(|| file.clone())?;
        let (mut coded, mut zstd, mut seconds) = (0, 0, [0.0; 2]);
        for chunk in text.chunks(CHUNK) {
            zstd += zstd::bulk::compress(chunk, 19)?.len();
            let t = Instant::now();
            let back = if beside {
                let tokens = vocabulary.encode(chunk);
                let lanes = (tokens.len() / LANE_TOKENS).clamp(1, LANES);
                let head = Head::new(version, chunk, tokens.len(), lanes);
                let mut encoder = Encoder::default();
                let mut state = State::new(model.clone(), LANES)?;
                with_model(&mut mixer, &mut state, &head, Some(&tokens), &mut encoder)?;
                let bytes = encoder.finish();
                coded += bytes.len() + head.put().len();
                seconds[0] += t.elapsed().as_secs_f64();
                let t = Instant::now();
                let back = with_model(
                    &mut mixer,
                    &mut state,
                    &head,
                    None,
                    &mut Decoder::new(&bytes),
                )?;
                seconds[1] += t.elapsed().as_secs_f64();
                back
            } else {
                let never = Interrupt::default();
                let bytes = encode_mix(&mut mixer, version, chunk, &never)?;
                coded += bytes.len();
                seconds[0] += t.elapsed().as_secs_f64();
                let t = Instant::now();
                let back = decode_mix(&mut mixer, version, &bytes, chunk.len(), &never)?;
                seconds[1] += t.elapsed().as_secs_f64();
                back
            };
            ensure!(back == chunk, "{file} does not come back");
        }
        let n = text.len() as f64;
        println!(
            "{:12} {:8} bytes, {:.3} bits a byte, zstd {:.3}, ratio {:.3}; MB/s: {:.2} in, {:.2} out",
            file.rsplit('/').next().unwrap_or(file),
            text.len(),
            coded as f64 * 8.0 / n,
            zstd as f64 * 8.0 / n,
            coded as f64 / zstd as f64,
            n / 1e6 / seconds[0],
            n / 1e6 / seconds[1],
        );
        sums = (sums.0 + text.len(), sums.1 + coded, sums.2 + zstd);
    }
    println!(
        "all: {} of {} bytes, zstd {}, ratio {:.4}",
        sums.1,
        sums.0,
        sums.2,
        sums.1 as f64 / sums.2 as f64
    );
    Ok(())
}
