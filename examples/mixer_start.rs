//! Trains what the mixer starts with:
//! `cargo run --release --example mixer_start -- [--beside N] MODEL OUT FILE...`
//!
//! MODEL is a model file or a checkpoint folder, OUT becomes the `mixer` section for it. Every file
//! is cut into chunks of 64 KiB; the chunks, in a shuffled order that is the
//! same every time, are coded twice, and what is learned is kept from one to
//! the next. Take some hundred chunks of all kinds of data. With `--beside N`
//! only the first N are run through the model, which takes most of the time.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use laconicfs::lm::coder::Cost;
use laconicfs::lm::mixer::{
    Head, Learned, Mixer, MixerStart, Newest, Start, Version, Way, lane_lengths,
};
use laconicfs::lm::model::{Model, State, import};
use laconicfs::lm::vocabulary::Vocabulary;

const CHUNK: usize = 64 << 10;
const LANES: usize = 16;
const PASSES: usize = 2;

struct Piece {
    plain: Vec<u8>,
    tokens: Vec<u32>,
    /// What the model foresees on the way to every token.
    ways: Vec<Way>,
}

/// Calls `each(lane, number)` in the order in which tokens are coded.
fn in_order(tokens: usize, lanes: usize, mut each: impl FnMut(usize, usize)) {
    let lengths: Vec<usize> = lane_lengths(tokens, lanes).collect();
    for step in 0..tokens.div_ceil(lanes) {
        let mut first = 0;
        for (lane, &length) in lengths.iter().enumerate() {
            if step < length {
                each(lane, first + step);
            }
            first += length;
        }
    }
}

fn foresee(state: &mut State, vocabulary: &Vocabulary, tokens: &[u32]) -> Result<Vec<Way>> {
    let lengths: Vec<usize> = lane_lengths(tokens.len(), LANES).collect();
    let starts: Vec<usize> = lengths
        .iter()
        .scan(0, |at, n| {
            *at += n;
            Some(*at - n)
        })
        .collect();
    let depth = vocabulary.depth() as usize;
    let mut ways: Vec<Option<Way>> = tokens.iter().map(|_| None).collect();
    state.reset();
    let before = |lane: usize, step: usize| match step {
        0 => vocabulary.start(),
        _ => tokens[starts[lane] + step - 1],
    };
    let (longest, shortest) = (lengths[0], lengths[LANES - 1]);
    let more = lengths.iter().filter(|&&n| n > shortest).count();
    for (lanes, from, to) in [(LANES, 0, shortest), (more, shortest, longest)] {
        if lanes == 0 || from == to {
            continue;
        }
        let inputs: Vec<u32> = (from..to)
            .flat_map(|s| (0..lanes).map(move |l| (l, s)))
            .map(|(l, s)| before(l, s))
            .collect();
        state.forward(lanes, to - from, &inputs, &mut |step, lane, cdf| {
            let at = starts[lane] + from + step;
            ways[at] = Some(Way::new(cdf, tokens[at], depth));
        })?;
    }
    ways.into_iter()
        .collect::<Option<Vec<Way>>>()
        .context("the model left out a token")
}

/// Codes a piece and returns its bits.
fn code(mixer: &mut Mixer, piece: &Piece, live: bool) -> f64 {
    let lanes = if live { LANES } else { 1 };
    let mut cost = Cost::default();
    let head = Head::new(Version::V1, &piece.plain, piece.tokens.len(), lanes);
    mixer.begin_with_learned(&head);
    in_order(piece.tokens.len(), lanes, |lane, at| {
        match live {
            true => mixer.code_with(lane, piece.tokens[at], &piece.ways[at], &mut cost),
            false => mixer.code(lane, piece.tokens[at], None, &mut cost),
        };
    });
    cost.bits
}

fn train(mixer: &mut Mixer, pieces: &[Piece], live: bool) -> Newest {
    let pieces: Vec<&Piece> = pieces
        .iter()
        .filter(|p| !live || !p.ways.is_empty())
        .collect();
    *mixer.learned_mut() = Newest::untrained();
    let bytes: usize = pieces.iter().map(|p| p.plain.len()).sum();
    for pass in 1..=PASSES {
        let bits: f64 = pieces.iter().map(|p| code(mixer, p, live)).sum();
        eprintln!(
            "{}, pass {pass}: {:.4} bits a byte",
            if live {
                "beside the model"
            } else {
                "without a model"
            },
            bits / bytes as f64
        );
    }
    mixer.learned_mut().clone()
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
    let mut beside = usize::MAX;
    if args.first().is_some_and(|a| a == "--beside") && args.len() > 1 {
        beside = args[1].parse().context("--beside takes a number")?;
        args.drain(..2);
    }
    let [model, out, files @ ..] = args.as_slice() else {
        bail!("usage: mixer_start [--beside N] MODEL OUT FILE...");
    };
    let model = open(model)?;
    let vocabulary = Arc::new(Vocabulary::from_tokenizer_json(model.tokenizer_json())?);
    let mut state = State::new(model, LANES)?;
    let mut pieces = Vec::new();
    for file in files {
        let text = std::fs::read(file).with_context(|| file.clone())?;
        for chunk in text.chunks(CHUNK).filter(|c| c.len() >= LANES * 64) {
            let tokens = vocabulary.encode(chunk);
            pieces.push(Piece {
                plain: chunk.to_vec(),
                tokens,
                ways: Vec::new(),
            });
        }
    }
    let mut random = 1u32;
    for i in (1..pieces.len()).rev() {
        random = random.wrapping_mul(1664525).wrapping_add(1013904223);
        pieces.swap(i, (random >> 8) as usize % (i + 1));
    }
    for (i, piece) in pieces.iter_mut().take(beside).enumerate() {
        piece.ways = foresee(&mut state, &vocabulary, &piece.tokens)?;
        if i % 20 == 19 {
            eprintln!("{} chunks foreseen", i + 1);
        }
    }
    let mut mixer = Mixer::new(MixerStart::Untrained, vocabulary);
    let start = MixerStart::V1(Arc::new(Start {
        blind: train(&mut mixer, &pieces, false),
        live: train(&mut mixer, &pieces, true),
    }));
    let bytes = start.to_bytes()?;
    std::fs::write(out, &bytes).with_context(|| out.clone())?;
    eprintln!("{out}: {} bytes", bytes.len());
    Ok(())
}
