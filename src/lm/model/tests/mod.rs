//! Tests of the model room.

mod float;
mod malformed;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::kernel;
use crate::lm::vocabulary::{
    Vocabulary,
    tests::{fallback_json, small_json},
};

/// Numbers that only look random, from -1 to 1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn tensor(&mut self, shape: &[usize], centre: f32, spread: f32) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| centre + spread * self.next())
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }
}

/// `config.json` of a small checkpoint.
fn config(tied: bool) -> serde_json::Value {
    json!({
        "model_type": "qwen3", "vocab_size": 280, "hidden_size": 48, "intermediate_size": 72,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "max_position_embeddings": 1024, "tie_word_embeddings": tied, "attention_bias": false,
        "use_sliding_window": false, "sliding_window": null, "max_window_layers": 2
    })
}

/// `config.json` of a small checkpoint of another family.
fn config_of(family: &str, tied: bool) -> serde_json::Value {
    let mut json = config(tied);
    json["model_type"] = family.into();
    if family != "qwen3" {
        // heads of width / heads, as those families have
        json["hidden_size"] = 64.into();
        json.as_object_mut().unwrap().remove("head_dim");
    }
    json
}

/// Writes a small checkpoint with weights that only look random.
fn checkpoint(dir: &Path, tied: bool) {
    checkpoint_of(dir, &config(tied), &small_json());
}

/// The same of any family, in two files.
fn checkpoint_of(dir: &Path, config: &serde_json::Value, tokenizer: &[u8]) {
    let mut noise = Noise(11);
    let mut files = [HashMap::new(), HashMap::new()];
    let mut put = |name: String, shape: &[usize], centre: f32, spread: f32| {
        let tensor = noise.tensor(shape, centre, spread);
        let file = usize::from(name.contains("mlp"));
        files[file].insert(name, tensor.to_dtype(DType::BF16).unwrap());
    };
    let width = config["hidden_size"].as_u64().unwrap() as usize;
    put("model.embed_tokens.weight".into(), &[280, width], 0.0, 0.5);
    if config["tie_word_embeddings"] != true {
        put("lm_head.weight".into(), &[280, width], 0.0, 0.5);
    }
    put("model.norm.weight".into(), &[width], 1.0, 0.5);
    for l in 0..2 {
        for (part, shape, centre, spread) in [
            ("input_layernorm", &[width][..], 1.0, 0.5),
            ("post_attention_layernorm", &[width], 1.0, 0.5),
            ("self_attn.q_proj", &[64, width], 0.0, 0.3),
            ("self_attn.k_proj", &[32, width], 0.0, 0.3),
            ("self_attn.v_proj", &[32, width], 0.0, 0.3),
            ("self_attn.q_norm", &[16], 1.0, 0.5),
            ("self_attn.k_norm", &[16], 1.0, 0.5),
            ("self_attn.o_proj", &[width, 64], 0.0, 0.2),
            ("mlp.gate_proj", &[72, width], 0.0, 0.3),
            ("mlp.up_proj", &[72, width], 0.0, 0.3),
            ("mlp.down_proj", &[width, 72], 0.0, 0.1),
        ] {
            if part.ends_with("_norm") && config["model_type"] != "qwen3" {
                continue;
            }
            let name = |kind: &str| format!("model.layers.{l}.{part}.{kind}");
            put(name("weight"), shape, centre, spread);
            let biased = ["q_proj", "k_proj", "v_proj"].map(|name| part.ends_with(name));
            if config["model_type"] == "qwen2" && biased.contains(&true) {
                put(name("bias"), &shape[..1], 0.0, 1.0);
            }
        }
    }
    if config["model_type"] == "qwen2" {
        // a few channels of keys have large biases, as in trained checkpoints
        let large: Vec<f32> = (0..32)
            .map(|j| if j % 8 == 3 { 20.0 } else { 1.0 })
            .collect();
        let large = Tensor::from_vec(large, 32, &Device::Cpu).unwrap();
        for (name, tensor) in &mut files[0] {
            if name.ends_with("k_proj.bias") {
                let bias = tensor.to_dtype(DType::F32).unwrap();
                *tensor = (bias * &large).unwrap().to_dtype(DType::BF16).unwrap();
            }
        }
    }
    for (tensors, name) in files.iter().zip(["model-1-of-2", "model-2-of-2"]) {
        candle_core::safetensors::save(tensors, dir.join(format!("{name}.safetensors"))).unwrap();
    }
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer.json"), tokenizer).unwrap();
}

/// A small model with a window of 32.
fn small_file(tied: bool) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(dir.path(), tied);
    let options = ImportOptions {
        name: Some("small".into()),
        window: 32,
        mixer: Some(b"weights".to_vec()),
    };
    import_with(dir.path(), &options).unwrap()
}

fn small_model() -> Arc<Model> {
    Arc::new(Model::parse(small_file(true)).unwrap())
}

/// Everything that a state says about `tokens`, given in pieces of some steps:
/// one hash of all distributions for each lane.
fn digest(state: &mut State, lanes: usize, tokens: &[u32], steps: &[usize]) -> Vec<blake3::Hash> {
    let mut hashers = vec![blake3::Hasher::new(); lanes];
    state.reset();
    let (mut rest, mut pieces) = (tokens, steps.iter().cycle());
    let mut expected = 0;
    while !rest.is_empty() {
        let steps = (*pieces.next().unwrap()).min(rest.len() / lanes);
        let (now, later) = rest.split_at(steps * lanes);
        let mut calls = 0;
        let mut sink = |step: usize, lane: usize, cdf: &[u32]| {
            assert_eq!((step, lane), (calls / lanes, calls % lanes));
            calls += 1;
            cdf.iter().for_each(|c| {
                hashers[lane].update(&c.to_le_bytes());
            });
        };
        state.forward(lanes, steps, now, &mut sink).unwrap();
        assert_eq!(calls, now.len());
        expected += calls;
        rest = later;
    }
    assert_eq!(expected, tokens.len());
    hashers.iter().map(blake3::Hasher::finalize).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Any cut into calls, any lanes beside it and any kernel: the same bits.
    #[test]
    fn bits_do_not_depend_on_how_they_are_computed(
        (lanes, tokens) in (1..=20usize).prop_flat_map(|lanes| {
            (Just(lanes), proptest::collection::vec(0u32..273, lanes * 50))
        }),
        cuts in proptest::collection::vec(1..40usize, 1..5),
    ) {
        let model = small_model();
        let plain = kernel::available()[0];
        let mut state = State::with_kernel(model.clone(), lanes, plain).unwrap();
        let reference = digest(&mut state, lanes, &tokens, &[50]);
        for kernel in kernel::available() {
            let mut state = State::with_kernel(model.clone(), 20, *kernel).unwrap();
            prop_assert_eq!(&digest(&mut state, lanes, &tokens, &[1]), &reference, "{} steps", kernel.name());
            prop_assert_eq!(&digest(&mut state, lanes, &tokens, &cuts), &reference, "{} cuts", kernel.name());
            // a lane alone
            let lane = lanes / 2;
            let alone: Vec<u32> = tokens.iter().skip(lane).step_by(lanes).copied().collect();
            prop_assert_eq!(digest(&mut state, 1, &alone, &cuts)[0], reference[lane], "{} alone", kernel.name());
        }
    }
}

/// Model files of each version and what they say, for ever. The files were made
/// by `write_golden`; floats of another machine may choose other integers, so
/// they are kept as they are.
const GOLDEN: [(&[u8], &str); 2] = [
    (
        include_bytes!("../../../../tests/golden/model-v1.model"),
        "582f8a7dd9d828f56924e93437f151bc2fa2d0dd5c3c8cc07174f6ad9d211126",
    ),
    (
        include_bytes!("../../../../tests/golden/model-v2.model"),
        "345a9799b7c88c15d0175479da7bd30ad0a5e30b54a689dbf52072ec8797fa61",
    ),
];

#[test]
fn the_golden_models_say_the_same_for_ever() {
    for (file, digest_then) in GOLDEN {
        let model = Arc::new(Model::parse(file.to_vec()).unwrap());
        let tokens: Vec<u32> = (0..3 * 80).map(|i| i * i * 31 % 273).collect();
        for kernel in kernel::available() {
            let mut state = State::with_kernel(model.clone(), 3, *kernel).unwrap();
            let lanes = digest(&mut state, 3, &tokens, &[7]);
            let mut all = blake3::Hasher::new();
            lanes.iter().for_each(|h| {
                all.update(h.as_bytes());
            });
            let all = all.finalize().to_hex();
            assert_eq!(all.as_str(), digest_then, "{}", kernel.name());
        }
    }
}

/// Lanes that end do not disturb those that go on.
#[test]
fn lanes_may_end_one_after_another() {
    let model = small_model();
    let tokens: Vec<u32> = (0..60).map(|i| i * 37 % 273).collect();
    let run = |lanes_at: fn(usize) -> usize| {
        let mut state = State::new(model.clone(), 4).unwrap();
        let mut of_first = Vec::new();
        for step in 0..60 {
            let lanes = lanes_at(step);
            let inputs: Vec<u32> = (0..lanes).map(|l| tokens[(step + l * 7) % 60]).collect();
            let mut sink = |_: usize, lane: usize, cdf: &[u32]| {
                if lane == 0 {
                    of_first.extend_from_slice(cdf);
                }
            };
            state.forward(lanes, 1, &inputs, &mut sink).unwrap();
        }
        of_first
    };
    assert!(run(|step| 4 - step / 20) == run(|_| 1));
}

#[test]
fn misuse_is_refused() {
    let model = small_model();
    assert!(State::new(model.clone(), 0).is_err());
    assert!(State::new(model.clone(), 65).is_err());
    let mut state = State::new(model, 2).unwrap();
    let mut sink = |_: usize, _: usize, _: &[u32]| {};
    assert!(state.forward(3, 1, &[0, 0, 0], &mut sink).is_err());
    assert!(state.forward(2, 1, &[0], &mut sink).is_err());
    assert!(state.forward(1, 1, &[273], &mut sink).is_err());
    state.forward(1, 1, &[272], &mut sink).unwrap();
    assert!(
        state.forward(2, 1, &[0, 0], &mut sink).is_err(),
        "lanes grow"
    );
    state.reset();
    state.forward(2, 1, &[0, 0], &mut sink).unwrap();
}

/// Writes the files of the golden test where `GOLDEN` says.
#[test]
#[ignore = "writes files"]
fn write_golden() {
    let folder = PathBuf::from(std::env::var("GOLDEN").unwrap());
    std::fs::write(folder.join("model-v1.model"), small_file(true)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    checkpoint_of(dir.path(), &config_of("qwen2", false), &fallback_json(true));
    let options = ImportOptions {
        name: Some("small".into()),
        window: 32,
        mixer: None,
    };
    let file = import_with(dir.path(), &options).unwrap();
    std::fs::write(folder.join("model-v2.model"), file).unwrap();
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
        let bits = import::costs(&mut state, vocabulary.start(), &codes, codes.len()).unwrap();
        let bits = bits.iter().sum::<f64>() / text.len() as f64;
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
    println!(
        "{}, window {window}: {many:.2} us a token at once, {few:.2} in {lanes} lanes",
        state.kernel()
    );
}
