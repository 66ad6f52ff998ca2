//! Files and checkpoints that are not what they should be.

use super::*;
use crate::error::Error;

#[test]
fn a_file_says_what_it_is() {
    let file = small_file(true);
    let model = Model::parse(file.clone()).unwrap();
    let info = model.info();
    assert_eq!(
        (info.name.as_str(), info.family.as_str()),
        ("small", "qwen3")
    );
    assert_eq!((info.shape.vocab, info.shape.window), (273, 32));
    assert_eq!(info.file_bytes, file.len() as u64);
    assert_eq!(info.mixer_bytes, 7);
    assert_eq!(model.tokenizer_json(), small_json());
    assert_eq!(model.mixer_start(), Some(&b"weights"[..]));
    assert_eq!(model.hash(), *blake3::hash(&file).as_bytes());
    assert_eq!(
        small_file(true),
        file,
        "import is a function of the checkpoint"
    );

    let other = Model::parse(model.with_mixer_start(Some(b"others")).unwrap()).unwrap();
    assert_eq!(other.mixer_start(), Some(&b"others"[..]));
    assert_ne!(other.hash(), model.hash());
    let none = Model::parse(model.with_mixer_start(None).unwrap()).unwrap();
    assert_eq!(none.mixer_start(), None);
    let again = none.with_mixer_start(Some(b"weights")).unwrap();
    assert_eq!(again, file);
}

/// The check put right, so that the checks behind it are reached.
fn sealed(mut file: Vec<u8>) -> Vec<u8> {
    let body = file.len() - 32;
    let hash = blake3::hash(&file[..body]);
    file[body..].copy_from_slice(hash.as_bytes());
    file
}

fn refusal(file: Vec<u8>) -> String {
    match Model::parse(file) {
        Ok(_) => panic!("a malformed file was accepted"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn damage_is_refused() {
    let file = small_file(true);
    for len in [0, 7, 16, 47, 48, 100, file.len() - 1] {
        refusal(file[..len].to_vec());
    }
    for at in (0..file.len()).step_by(997) {
        let mut damaged = file.clone();
        damaged[at] ^= 4;
        refusal(damaged);
    }
    let mut newer = file.clone();
    newer[8] = 3;
    assert!(matches!(
        Model::parse(newer),
        Err(Error::NewerFormat { found: 3, .. })
    ));
    let mut other = file.clone();
    other[8] = 2;
    assert!(refusal(sealed(other)).contains("heads"));
}

#[test]
fn wrong_shapes_and_sections_are_refused() {
    let file = small_file(true);
    let end = 16 + u32::from_le_bytes(file[12..16].try_into().unwrap()) as usize;
    let header = String::from_utf8(file[16..end].to_vec()).unwrap();
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        assert!(header.contains(from), "{from} in {header}");
        let mut file = file.clone();
        file[16..end].copy_from_slice(header.replacen(from, to, 1).as_bytes());
        refusal(sealed(file))
    };
    assert!(replaced("\"width\":48", "\"width\":49").contains("instead of"));
    assert!(replaced("\"vocab\":273", "\"vocab\":  9").contains("vocab is 9"));
    assert!(replaced("\"kv_heads\":2", "\"kv_heads\":3").contains("multiple"));
    assert!(replaced("\"head_dim\":16", "\"head_dim\":17").contains("multiples of 16"));
    assert!(replaced("\"window\":32", "\"window\":33").contains("multiples of 16"));
    assert!(replaced("\"layers\":2", "\"layers\":3").contains("missing"));
    assert!(replaced("\"fraction\":16", "\"fraction\":99").contains("fraction"));
    assert!(replaced("\"tied\":true", "\"tied\":null").contains("header"));
    assert!(replaced("[\"0.qkv\"", "[\"1.qkv\"").contains("two sections"));
    assert!(replaced("[\"0.qkv\"", "[\"0.qk?\"").contains("missing"));
    let offset = header
        .split("[\"0.qkv\",")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    let far = "9".repeat(offset.len());
    let place = |number: &str| format!("[\"0.qkv\",{number},");
    assert!(replaced(&place(offset), &place(&far)).contains("outside"));
    let near = "1".to_string() + &" ".repeat(offset.len() - 1);
    assert!(replaced(&place(offset), &place(&near)).contains("outside"));

    let weight = offset.parse::<usize>().unwrap();
    let mut spoilt = file.clone();
    spoilt[weight] = 0x80;
    assert!(refusal(sealed(spoilt)).contains("-128"));
}

proptest! {
    /// Any change of any bytes behind a right hash: refused, or a model that
    /// computes without a panic.
    #[test]
    fn altered_files_do_no_harm(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut file = small_file(true);
        let body = file.len() - 32;
        for (at, value) in changes {
            file[at.index(body)] = value;
        }
        if let Ok(model) = Model::parse(sealed(file)) {
            let mut state = State::new(Arc::new(model), 2).unwrap();
            let mut sink = |_: usize, _: usize, cdf: &[u32]| assert!(cdf.is_sorted_by(|a, b| a < b));
            state.forward(2, 40, &[5; 80], &mut sink).unwrap();
        }
    }
}

#[test]
fn checkpoints_that_are_not_understood_are_refused_by_field() {
    let refused = |field: &str, value: serde_json::Value| {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(dir.path(), true);
        let mut changed = config(true);
        changed[field] = value;
        std::fs::write(dir.path().join("config.json"), changed.to_string()).unwrap();
        let message = import(dir.path()).unwrap_err().to_string();
        assert!(message.contains(field), "{field}: {message}");
    };
    refused("model_type", json!("gpt2"));
    refused("hidden_act", json!("gelu"));
    refused("attention_bias", json!(true));
    refused("mlp_bias", json!(true));
    refused("rope_scaling", json!({ "type": "yarn" }));
    refused(
        "rope_scaling",
        json!({ "rope_type": "llama3", "factor": 8 }),
    );
    refused(
        "rope_parameters",
        json!({ "rope_type": "linear", "factor": -1 }),
    );
    refused("rms_norm_eps", json!(0.5));
    refused("rope_theta", json!("many"));
    refused("head_dim", json!(null));
    refused("head_dim", json!(24));
    refused("vocab_size", json!(100));
    refused("quantization_config", json!({ "bits": 4 }));

    let dir = tempfile::tempdir().unwrap();
    assert!(
        import(dir.path())
            .unwrap_err()
            .to_string()
            .contains("config.json")
    );
    checkpoint(dir.path(), true);
    let mut wide = config(true);
    wide["intermediate_size"] = json!(80);
    std::fs::write(dir.path().join("config.json"), wide.to_string()).unwrap();
    assert!(
        import(dir.path())
            .unwrap_err()
            .to_string()
            .contains("gate_proj")
    );
    std::fs::write(dir.path().join("config.json"), config(false).to_string()).unwrap();
    assert!(
        import(dir.path())
            .unwrap_err()
            .to_string()
            .contains("lm_head")
    );
    std::fs::write(dir.path().join("model-2-of-2.safetensors"), b"not one").unwrap();
    assert!(
        import(dir.path())
            .unwrap_err()
            .to_string()
            .contains("model-2-of-2.safetensors")
    );
    std::fs::remove_file(dir.path().join("model-1-of-2.safetensors")).unwrap();
    std::fs::remove_file(dir.path().join("model-2-of-2.safetensors")).unwrap();
    assert!(
        import(dir.path())
            .unwrap_err()
            .to_string()
            .contains("safetensors")
    );
    let odd = ImportOptions {
        window: 100,
        ..Default::default()
    };
    checkpoint(dir.path(), true);
    assert!(
        import_with(dir.path(), &odd)
            .unwrap_err()
            .to_string()
            .contains("window")
    );
}
