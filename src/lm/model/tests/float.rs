//! The integer model beside the same checkpoint in floats.

use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::qwen3;

use super::*;

/// Bits that each of `codes` costs in floats, in independent pieces of
/// `piece` tokens that each begin with the token of byte 0.
fn float_costs(dir: &Path, vocabulary: &Vocabulary, codes: &[u32], piece: usize) -> Vec<f64> {
    let text = std::fs::read(dir.join("config.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let number = |field: &str| json[field].as_u64().unwrap() as usize;
    let tied = json["tie_word_embeddings"].as_bool().unwrap();
    let config = qwen3::Config {
        vocab_size: number("vocab_size"),
        hidden_size: number("hidden_size"),
        intermediate_size: number("intermediate_size"),
        num_hidden_layers: number("num_hidden_layers"),
        num_attention_heads: number("num_attention_heads"),
        head_dim: number("head_dim"),
        attention_bias: false,
        num_key_value_heads: number("num_key_value_heads"),
        max_position_embeddings: 4096,
        sliding_window: None,
        max_window_layers: 0,
        tie_word_embeddings: tied,
        rope_theta: json["rope_theta"].as_f64().unwrap(),
        rms_norm_eps: json["rms_norm_eps"].as_f64().unwrap(),
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    };
    let tensors =
        candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let head = if tied {
        "model.embed_tokens.weight"
    } else {
        "lm_head.weight"
    };
    let head = tensors[head].to_dtype(DType::F32).unwrap().t().unwrap();
    let builder = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let id = |code: u32| vocabulary.id_of_code(code).unwrap();
    let mut costs = Vec::new();
    for codes in codes.chunks(piece) {
        // a fresh model has an empty cache
        let mut model = qwen3::Model::new(&config, builder.clone()).unwrap();
        let mut inputs = vec![id(vocabulary.start())];
        inputs.extend(codes[..codes.len() - 1].iter().map(|&c| id(c)));
        let inputs = Tensor::new(&inputs[..], &Device::Cpu)
            .unwrap()
            .unsqueeze(0)
            .unwrap();
        let hidden = model.forward(&inputs, 0).unwrap().squeeze(0).unwrap();
        let logits = hidden
            .contiguous()
            .unwrap()
            .matmul(&head.contiguous().unwrap())
            .unwrap();
        for (row, &code) in logits.to_vec2::<f32>().unwrap().iter().zip(codes) {
            // rows of the checkpoint that no token has do not count
            let tokens = (0..vocabulary.len() as u32).map(|c| f64::from(row[id(c) as usize]));
            let top = tokens.clone().fold(f64::MIN, f64::max);
            let sum: f64 = tokens.map(|l| (l - top).exp()).sum();
            costs.push(
                (sum.ln() + top - f64::from(row[id(code) as usize])) / std::f64::consts::LN_2,
            );
        }
    }
    costs
}

fn integer_costs(
    model: Arc<Model>,
    vocabulary: &Vocabulary,
    codes: &[u32],
    piece: usize,
) -> Vec<f64> {
    let mut state = State::new(model, 1).unwrap();
    let mut costs = Vec::new();
    for codes in codes.chunks(piece) {
        let mut inputs = vec![vocabulary.start()];
        inputs.extend(&codes[..codes.len() - 1]);
        let mut sink = |step: usize, _: usize, cdf: &[u32]| {
            let code = codes[step] as usize;
            costs.push(f64::from(kernel::TOTAL_BITS) - f64::from(cdf[code + 1] - cdf[code]).log2());
        };
        state.reset();
        state.forward(1, codes.len(), &inputs, &mut sink).unwrap();
    }
    costs
}

/// Compares both on a text: the totals, and the tokens one by one.
fn compare(dir: &Path, text: &[u8], total: f64, single: f64) {
    let options = ImportOptions {
        window: 64,
        ..Default::default()
    };
    let model = Arc::new(Model::parse(import_with(dir, &options).unwrap()).unwrap());
    let vocabulary = Vocabulary::from_tokenizer_json(model.tokenizer_json()).unwrap();
    let codes = vocabulary.encode(text);
    let floats = float_costs(dir, &vocabulary, &codes, 64);
    let integers = integer_costs(model, &vocabulary, &codes, 64);
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
