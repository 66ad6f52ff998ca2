//! Tests of the model room.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::lm::vocabulary::Vocabulary;

/// Bits that the model spends on `codes` in one lane.
fn cost(state: &mut State, vocabulary: &Vocabulary, codes: &[u32]) -> f64 {
    state.reset();
    let mut inputs = vec![vocabulary.start()];
    inputs.extend(&codes[..codes.len() - 1]);
    let mut bits = 0.0;
    let mut sink = |step: usize, _: usize, cdf: &[u32]| {
        let code = codes[step] as usize;
        bits += 28.0 - f64::from(cdf[code + 1] - cdf[code]).log2();
    };
    state.forward(1, codes.len(), &inputs, &mut sink).unwrap();
    bits
}

/// Measures a checkpoint of the caller's: `CHECKPOINT` and `TEXT` name a folder
/// and a file, `WINDOW` the window.
#[test]
#[ignore = "a measurement"]
fn measure() {
    let dir = PathBuf::from(std::env::var("CHECKPOINT").unwrap());
    let text = std::fs::read(std::env::var("TEXT").unwrap()).unwrap();
    let text = &text[..text.len().min(65536)];
    let window = std::env::var("WINDOW").map_or(256, |w| w.parse().unwrap());
    let options = ImportOptions {
        window,
        ..Default::default()
    };
    let bytes = import_with(Path::new(&dir), &options).unwrap();
    let begin = std::time::Instant::now();
    let model = Arc::new(Model::parse(bytes).unwrap());
    println!("parsed in {:?}", begin.elapsed());
    println!("{}", serde_json::to_string(&model.info()).unwrap());
    let vocabulary = Vocabulary::from_tokenizer_json(model.tokenizer_json()).unwrap();
    let codes = vocabulary.encode(text);
    let mut state = State::new(model, 16).unwrap();
    let begin = std::time::Instant::now();
    let bits = cost(&mut state, &vocabulary, &codes);
    println!(
        "{} {window}: {:.5} bits a byte, {:.2} us a token",
        state.kernel(),
        bits / text.len() as f64,
        begin.elapsed().as_secs_f64() * 1e6 / codes.len() as f64,
    );
}
