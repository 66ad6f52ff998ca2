//! Scratch: dumps tokens and ways of files.
use std::io::Write;
use std::sync::Arc;
use anyhow::{Context, Result};
use laconicfs::lm::mixer::{Way, lane_lengths};
use laconicfs::lm::model::{Model, State};
use laconicfs::lm::vocabulary::Vocabulary;
const CHUNK: usize = 64 << 10;

fn foresee(state: &mut State, vocabulary: &Vocabulary, tokens: &[u32], nl: usize) -> Result<Vec<Way>> {
    let lengths: Vec<usize> = lane_lengths(tokens.len(), nl).collect();
    let starts: Vec<usize> = lengths.iter().scan(0, |at, n| { *at += n; Some(*at - n) }).collect();
    let depth = vocabulary.depth() as usize;
    let mut ways: Vec<Option<Way>> = tokens.iter().map(|_| None).collect();
    state.reset();
    let before = |lane: usize, step: usize| match step { 0 => vocabulary.start(), _ => tokens[starts[lane] + step - 1] };
    let (longest, shortest) = (lengths[0], lengths[nl - 1]);
    let more = lengths.iter().filter(|&&n| n > shortest).count();
    for (lanes, from, to) in [(nl, 0, shortest), (more, shortest, longest)] {
        if lanes == 0 || from == to { continue; }
        let inputs: Vec<u32> = (from..to).flat_map(|s| (0..lanes).map(move |l| (l, s))).map(|(l, s)| before(l, s)).collect();
        state.forward(lanes, to - from, &inputs, &mut |step, lane, cdf| {
            let at = starts[lane] + from + step;
            ways[at] = Some(Way::new(cdf, tokens[at], depth));
        })?;
    }
    ways.into_iter().collect::<Option<Vec<Way>>>().context("left out")
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let model = Arc::new(Model::parse(std::fs::read(&args[0])?)?);
    let vocabulary = Vocabulary::from_tokenizer_json(model.tokenizer_json())?;
    let mut out = std::io::BufWriter::new(std::fs::File::create(&args[1])?);
    let mut state = State::new(model, 16)?;
    let v = vocabulary.len() as u32;
    out.write_all(&v.to_le_bytes())?;
    for c in 0..v {
        let b = vocabulary.bytes_of(c);
        out.write_all(&[b.len() as u8])?;
        out.write_all(b)?;
    }
    let depth = vocabulary.depth() as usize;
    let plain_only = args[1].ends_with("nolm");
    for file in &args[2..] {
        let text = std::fs::read(file)?;
        for chunk in text.chunks(CHUNK) {
            let tokens = vocabulary.encode(chunk);
            let name = file.rsplit('/').next().unwrap();
            out.write_all(&[name.len() as u8])?;
            out.write_all(name.as_bytes())?;
            let z = zstd::bulk::compress(chunk, 19)?.len().min(chunk.len());
            for n in [chunk.len(), z, tokens.len()] { out.write_all(&(n as u32).to_le_bytes())?; }
            for t in &tokens { out.write_all(&t.to_le_bytes())?; }
            if !plain_only {
                let lanes = (tokens.len() / 512).clamp(1, 16);
                for w in foresee(&mut state, &vocabulary, &tokens, lanes)? {
                    for l in 0..depth { out.write_all(&w.0[l].to_le_bytes())?; }
                }
            }
        }
        eprintln!("{file}");
    }
    Ok(())
}
