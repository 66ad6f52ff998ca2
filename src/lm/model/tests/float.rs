//! The integer model beside the same checkpoint in floats.

use super::super::import::{Checkpoint, Config, Floats, costs, import_calibrated};
use super::*;

/// Compares both on a text: the totals, and the tokens one by one.
fn compare(dir: &Path, text: &[u8], total: f64, single: f64) {
    let options = ImportOptions {
        window: 64,
        ..Default::default()
    };
    let model = Arc::new(Model::parse(import_with(dir, &options).unwrap()).unwrap());
    let vocabulary = Vocabulary::from_tokenizer_json(model.tokenizer_json()).unwrap();
    let codes = vocabulary.encode(text);
    let config = Config::read(dir).unwrap();
    let mut floats = Floats::new(&config, &Checkpoint::open(dir).unwrap()).unwrap();
    let floats = floats.costs(&vocabulary, &codes, 64).unwrap();
    let mut state = State::new(model, 1).unwrap();
    let integers = costs(&mut state, vocabulary.start(), &codes, 64).unwrap();
    let (f, i): (f64, f64) = (floats.iter().sum(), integers.iter().sum());
    println!(
        "{}: {f:.1} bits in floats, {i:.1} in integers",
        dir.display()
    );
    assert!(
        (i / f - 1.0).abs() < total,
        "{f} bits in floats, {i} in integers"
    );
    let distance = |(f, i): (&f64, &f64)| (f - i).abs();
    let mean = floats.iter().zip(&integers).map(distance).sum::<f64>() / codes.len() as f64;
    assert!(mean < single, "a token differs by {mean} bits on average");
    let spread = floats
        .iter()
        .map(|c| (c - f / codes.len() as f64).abs())
        .sum::<f64>();
    assert!(
        spread / codes.len() as f64 > 10.0 * mean,
        "the model says nothing: {spread}"
    );
}

const TEXT: &[u8] = b"In the beginning the universe was created. 00012 This has made a lot of people \
    and others very angry and has been widely regarded as a bad move. caf\xc3\xa9 { \"a\": [1, 2] }\r\n";

#[test]
fn integers_follow_floats_on_a_small_checkpoint() {
    for tied in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(dir.path(), tied);
        compare(dir.path(), &TEXT.repeat(3), 0.02, 0.12);
    }
}

#[test]
fn integers_follow_floats_on_shipped_checkpoints() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let mut found = 0;
    for entry in std::fs::read_dir(models).into_iter().flatten().flatten() {
        if entry.path().join("model.safetensors").exists() {
            compare(&entry.path(), &TEXT.repeat(3), 0.02, 0.12);
            found += 1;
        }
    }
    if found == 0 {
        println!("skipped: models/ holds no checkpoint");
    }
}

/// Every family, both spellings of tokenizers, tied and not.
#[test]
fn integers_follow_floats_in_every_family() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32
    });
    for (family, tied, tokenizer, rope) in [
        ("llama", true, small_json(), None),
        ("llama", false, fallback_json(false), Some(llama3)),
        ("mistral", false, fallback_json(true), None),
        ("qwen2", true, small_json(), None),
        ("qwen2", false, small_json(), None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config_of(family, tied);
        if let Some(rope) = rope {
            config["rope_scaling"] = rope;
        }
        checkpoint_of(dir.path(), &config, &tokenizer);
        println!("{family}, tied: {tied}");
        compare(dir.path(), &TEXT.repeat(3), 0.02, 0.12);
    }
}

#[test]
fn a_sliding_window_bounds_the_window() {
    for (family, flag) in [("mistral", false), ("qwen2", true)] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config_of(family, true);
        config["use_sliding_window"] = flag.into();
        config["sliding_window"] = 40.into();
        checkpoint_of(dir.path(), &config, &small_json());
        let model = Model::parse(import(dir.path()).unwrap()).unwrap();
        assert_eq!(model.shape().window, 32, "{family}"); // a multiple of 16
    }
}

/// The report of an import, and a stream too large for the finest fraction.
#[test]
fn calibration_reports_and_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(dir.path(), true);
    let imported = import_calibrated(dir.path(), &ImportOptions::default(), TEXT).unwrap();
    let c = &imported.comparison;
    assert_eq!(imported.file, import(dir.path()).unwrap());
    assert_eq!((c.fraction, c.bytes), (16, TEXT.len()));
    assert!((c.integers / c.floats.unwrap() - 1.0).abs() < 0.02, "{c:?}");

    let place = dir.path().join("model-2-of-2.safetensors");
    let mut tensors = candle_core::safetensors::load(&place, &Device::Cpu).unwrap();
    for (name, tensor) in &mut tensors {
        if name.contains("down_proj") {
            *tensor = (&*tensor * 3000.0).unwrap();
        }
    }
    candle_core::safetensors::save(&tensors, &place).unwrap();
    let large = import_calibrated(dir.path(), &ImportOptions::default(), TEXT).unwrap();
    let c = large.comparison;
    assert!(c.fraction < 16, "{c:?}");
    assert!((c.integers / c.floats.unwrap() - 1.0).abs() < 0.02, "{c:?}");
    let cut_off = import_with(dir.path(), &ImportOptions::default()).unwrap();
    assert_ne!(large.file, cut_off);

    assert!(import_calibrated(dir.path(), &ImportOptions::default(), b"").is_err());
}
