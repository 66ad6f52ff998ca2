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

/// Seconds that this thread has run on a processor.
fn seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds = stat.split(' ').next().unwrap().parse::<f64>().unwrap();
    nanoseconds * 1e-9
}

/// Measures a checkpoint of the caller's: `CHECKPOINT` and `TEXT` name a folder
/// and a file, `WINDOW` the window, `LANES` how many decode side by side.
#[test]
#[ignore = "a measurement"]
fn measure() {
    let dir = PathBuf::from(std::env::var("CHECKPOINT").unwrap());
    let text = std::fs::read(std::env::var("TEXT").unwrap()).unwrap();
    let text = &text[..text.len().min(65536)];
    let number = |name, default| std::env::var(name).map_or(default, |w| w.parse().unwrap());
    let (window, lanes) = (number("WINDOW", 256), number("LANES", 16));
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
    let mut state = State::new(model, lanes).unwrap();
    let mut times = [f64::MAX; 2];
    for _ in 0..number("REPEAT", 3) {
        let begin = seconds();
        let bits = cost(&mut state, &vocabulary, &codes) / text.len() as f64;
        times[0] = times[0].min((seconds() - begin) * 1e6 / codes.len() as f64);
        println!("{bits:.5} bits a byte");

        let steps = codes.len() / lanes;
        state.reset();
        let begin = seconds();
        for step in 0..steps {
            let inputs: Vec<u32> = (0..lanes).map(|l| codes[l * steps + step]).collect();
            let mut sink = |_: usize, _: usize, cdf: &[u32]| assert!(cdf[1] > 0);
            state.forward(lanes, 1, &inputs, &mut sink).unwrap();
        }
        let time = (seconds() - begin) * 1e6 / (steps * lanes) as f64;
        times[1] = times[1].min(time);
    }
    let [many, few] = times;
    println!("{}, window {window}: {many:.2} us a token at once, {few:.2} in {lanes} lanes", state.kernel());
}
