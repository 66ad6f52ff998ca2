//! From a checkpoint folder as people download it to a model file.
//!
//! The only place of the engine with floats: they choose integers once, and
//! the integers are the model from then on.

use std::collections::HashMap;
use std::f64::consts::{LN_2, TAU};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::file::{Header, Shape, TURN, assemble};
use crate::error::{Error, Result};
use crate::kernel::Scale;
use crate::lm::vocabulary::Vocabulary;

/// Fraction bits of the residual stream: values up to 2^14, steps of 2^-16.
const FRACTION: u32 = 16;
/// The largest channel scale.
const TOP: f64 = 32767.0;

/// What a checkpoint does not say.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Name of the model; without one, that of the folder.
    pub name: Option<String>,
    /// Tokens that a token attends to: a multiple of 16 up to 4096.
    pub window: usize,
    /// Starting weights of the mixer.
    pub mixer: Option<Vec<u8>>,
}

impl Default for ImportOptions {
    fn default() -> ImportOptions {
        ImportOptions {
            name: None,
            window: 256,
            mixer: None,
        }
    }
}

/// Imports a checkpoint folder (`config.json`, `tokenizer.json`,
/// `*.safetensors` in bf16, f16 or f32) and returns the model file.
pub fn import(dir: &Path) -> Result<Vec<u8>> {
    import_with(dir, &ImportOptions::default())
}

pub fn import_with(dir: &Path, options: &ImportOptions) -> Result<Vec<u8>> {
    let config = Config::read(dir)?;
    let json = read(dir, "tokenizer.json")?;
    let vocabulary = Vocabulary::from_tokenizer_json(&json)?;
    if vocabulary.len() > config.vocab {
        return Err(refuse(format!(
            "tokenizer.json has {} tokens, config.json's vocab_size is {}",
            vocabulary.len(),
            config.vocab
        )));
    }
    let shape = Shape {
        vocab: vocabulary.len(),
        window: options.window,
        ..config.shape.clone()
    };
    shape.check().map_err(refuse)?;
    let mut checkpoint = Checkpoint::open(dir)?;
    let mut out = Sections::default();

    let tokenizer = zstd::bulk::compress(&json, 19).map_err(|e| refuse(e.to_string()))?;
    out.bytes("tokenizer", tokenizer);
    out.tables(&shape, config.theta);

    // rows in the order of codes; rows that no token has are dropped
    let in_code_order = |rows: Vec<f32>| -> Vec<f32> {
        (0..shape.vocab as u32)
            .filter_map(|code| vocabulary.id_of_code(code))
            .flat_map(|id| &rows[id as usize * shape.width..][..shape.width])
            .copied()
            .collect()
    };
    let table = [config.vocab, shape.width];
    let embed = in_code_order(checkpoint.take("model.embed_tokens.weight", &table)?);
    let embed = Matrix::new(&embed, shape.width, shape.vocab);
    let shift = out.embedding(&embed);
    let head = match config.tied {
        true => embed,
        false => {
            let head = in_code_order(checkpoint.take("lm_head.weight", &table)?);
            let head = Matrix::new(&head, shape.width, shape.vocab);
            out.bytes("head", head.bytes());
            head
        }
    };
    out.u16s("head.scales", &head.channels);
    let norm = out.norm(
        "norm",
        &checkpoint.take("model.norm.weight", &[shape.width])?,
    );
    out.units("units", &[norm, head.units[0]]);
    for l in 0..shape.layers {
        out.layer(l, &shape, &mut checkpoint)?;
    }
    if let Some(mixer) = &options.mixer {
        out.bytes("mixer", mixer.clone());
    }

    let folder = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let folder = folder.file_name().map(|n| n.to_string_lossy().into_owned());
    let header = Header {
        name: options.name.clone().or(folder).unwrap_or_default(),
        family: "qwen3".into(),
        shape,
        tied: config.tied,
        fraction: FRACTION,
        epsilon: (config.epsilon * f64::from(2 * FRACTION).exp2()).round() as u64,
        embed_shift: shift,
        sections: Vec::new(),
    };
    assemble(header, &out.sections)
}

fn refuse(reason: impl std::fmt::Display) -> Error {
    Error::Model(format!("the checkpoint cannot be imported: {reason}"))
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>> {
    let path = dir.join(name);
    std::fs::read(&path).map_err(Error::io(format!("cannot read {}", path.display())))
}

/// The fields of `config.json` that matter.
struct Config {
    shape: Shape,
    /// Rows of the embedding; may be more than there are tokens.
    vocab: usize,
    tied: bool,
    theta: f64,
    epsilon: f64,
}

impl Config {
    fn read(dir: &Path) -> Result<Config> {
        let json: Value = serde_json::from_slice(&read(dir, "config.json")?)
            .map_err(|e| refuse(format!("config.json is not JSON ({e})")))?;
        let wrong = |field: &str, want: &str| {
            refuse(format!(
                "config.json: {field} is {}, {want} is supported",
                json[field]
            ))
        };
        if json["model_type"] != "qwen3" {
            return Err(wrong("model_type", "only \"qwen3\""));
        }
        if json["hidden_act"] != "silu" {
            return Err(wrong("hidden_act", "only \"silu\""));
        }
        for field in ["attention_bias", "use_sliding_window"] {
            if json[field].as_bool().unwrap_or(false) {
                return Err(wrong(field, "only false"));
            }
        }
        let rope = &json["rope_parameters"];
        let kind = rope["rope_type"].as_str().unwrap_or("default");
        if !json["rope_scaling"].is_null() || kind != "default" {
            return Err(wrong("rope_scaling", "only null"));
        }
        if !json["quantization_config"].is_null() {
            return Err(wrong("quantization_config", "only null (full weights)"));
        }
        let count = |field: &str| {
            let n = json[field].as_u64().filter(|&n| (1..1 << 24).contains(&n));
            n.map(|n| n as usize)
                .ok_or_else(|| wrong(field, "only a positive number"))
        };
        let number = |value: &Value, field: &str| {
            let n = value.as_f64().filter(|&n| n > 0.0);
            n.ok_or_else(|| wrong(field, "only a positive number"))
        };
        let theta = match &json["rope_theta"] {
            Value::Null => number(&rope["rope_theta"], "rope_theta")?,
            theta => number(theta, "rope_theta")?,
        };
        let epsilon = number(&json["rms_norm_eps"], "rms_norm_eps")?;
        if epsilon > 1e-3 {
            return Err(wrong("rms_norm_eps", "at most 0.001"));
        }
        let vocab = count("vocab_size")?;
        Ok(Config {
            shape: Shape {
                vocab,
                width: count("hidden_size")?,
                layers: count("num_hidden_layers")?,
                heads: count("num_attention_heads")?,
                kv_heads: count("num_key_value_heads")?,
                head_dim: count("head_dim")?,
                hidden: count("intermediate_size")?,
                window: 0,
            },
            vocab,
            tied: json["tie_word_embeddings"].as_bool().unwrap_or(false),
            theta,
            epsilon,
        })
    }
}

/// The tensors of a folder by name.
struct Checkpoint(HashMap<String, Tensor>);

impl Checkpoint {
    fn open(dir: &Path) -> Result<Checkpoint> {
        let context = || format!("cannot read {}", dir.display());
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(Error::io(context()))? {
            let path = entry.map_err(Error::io(context()))?.path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                files.push(path);
            }
        }
        if files.is_empty() {
            return Err(refuse(format!("{} holds no *.safetensors", dir.display())));
        }
        let mut tensors = HashMap::new();
        for path in files {
            let some = candle_core::safetensors::load(&path, &Device::Cpu)
                .map_err(|e| refuse(format!("{}: {e}", path.display())))?;
            tensors.extend(some);
        }
        Ok(Checkpoint(tensors))
    }

    /// The values of a tensor, which must have this shape and be finite.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.0.remove(name);
        let tensor = tensor.ok_or_else(|| refuse(format!("the tensor {name} is missing")))?;
        if tensor.dims() != shape {
            return Err(refuse(format!(
                "the tensor {name} has the shape {:?}, config.json says {shape:?}",
                tensor.dims()
            )));
        }
        let values = tensor
            .to_dtype(DType::F32)
            .and_then(|t| t.flatten_all()?.to_vec1::<f32>())
            .map_err(|e| refuse(format!("the tensor {name}: {e}")))?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(refuse(format!(
                "the tensor {name} holds a value that is not finite"
            )));
        }
        Ok(values)
    }
}

/// A positive number as a scale.
fn scale(v: f64) -> Scale {
    let exponent = 30 - v.log2().floor() as i32;
    Scale::new((v * f64::from(exponent).exp2()) as u64, -exponent)
}

fn value(s: Scale) -> f64 {
    f64::from(s.m) * f64::from(s.e).exp2()
}

/// The unit in which the largest of these is 32767; anything if all are 0.
fn unit_for(values: impl Iterator<Item = f64>) -> Scale {
    let top = values.fold(0.0, |m: f64, v| m.max(v.abs()));
    // rounded up a little, so that the largest stays within 15 bits
    scale((top / TOP * (1.0 + 1e-8)).clamp(1e-30, 1e12))
}

/// A quantised matrix: weights, scales of its rows (channels), and the unit of
/// the scales in each of its groups of rows.
struct Matrix {
    weights: Vec<i8>,
    channels: Vec<u16>,
    units: Vec<Scale>,
    group: usize,
}

impl Matrix {
    /// Rows of `width` values; the scales of every `group` rows share a unit.
    fn new(values: &[f32], width: usize, group: usize) -> Matrix {
        let mut m = Matrix {
            weights: Vec::with_capacity(values.len()),
            channels: Vec::new(),
            units: Vec::new(),
            group,
        };
        for rows in values.chunks(width * group) {
            let peak = |row: &[f32]| row.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            let step = |row: &[f32]| f64::from(peak(row)) / 127.0;
            let unit = unit_for(rows.chunks(width).map(step));
            for row in rows.chunks(width) {
                // the scale is rounded first, so that it loses nothing
                let channel = (step(row) / value(unit)).ceil().clamp(1.0, TOP);
                let inverse = 1.0 / (channel * value(unit));
                let quantise = |&v: &f32| (f64::from(v) * inverse).round().clamp(-127.0, 127.0);
                m.weights.extend(row.iter().map(|v| quantise(v) as i8));
                m.channels.push(channel as u16);
            }
            m.units.push(unit);
        }
        m
    }

    fn bytes(&self) -> Vec<u8> {
        self.weights.iter().map(|&w| w as u8).collect()
    }

    /// What a weight of 1 in this row stands for.
    fn step(&self, row: usize) -> f64 {
        f64::from(self.channels[row]) * value(self.units[row / self.group])
    }
}

/// The sections of the file in the making.
#[derive(Default)]
struct Sections {
    sections: Vec<(String, Vec<u8>)>,
}

impl Sections {
    fn bytes(&mut self, name: impl Into<String>, bytes: Vec<u8>) {
        self.sections.push((name.into(), bytes));
    }

    fn u16s(&mut self, name: impl Into<String>, values: &[u16]) {
        self.bytes(name, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    fn i16s(&mut self, name: impl Into<String>, values: &[i16]) {
        self.bytes(name, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    fn u32s(&mut self, name: impl Into<String>, values: impl Iterator<Item = u32>) {
        self.bytes(name, values.flat_map(u32::to_le_bytes).collect());
    }

    fn units(&mut self, name: impl Into<String>, units: &[Scale]) {
        self.u32s(name, units.iter().flat_map(|u| [u.m, u.e as u32]));
    }

    /// Gains of a norm; returns their unit.
    fn norm(&mut self, name: impl Into<String>, gains: &[f32]) -> Scale {
        let unit = unit_for(gains.iter().map(|&g| f64::from(g)));
        let gain = |&g: &f32| (f64::from(g) / value(unit)).round() as i16;
        self.i16s(name, &gains.iter().map(gain).collect::<Vec<_>>());
        unit
    }

    /// Frequencies of the rotation, sines, and the logistic function.
    fn tables(&mut self, shape: &Shape, theta: f64) {
        let half = shape.head_dim / 2;
        let turns = (0..half).map(|i| theta.powf(-(i as f64) / half as f64) / TAU);
        // a frequency of a whole turn would be none
        self.u32s(
            "frequencies",
            turns.map(|t| (t * 32f64.exp2()).round() as u64 as u32),
        );
        let sine = |i| ((i as f64 * TAU / TURN as f64).sin() * 16384.0).round() as i16;
        self.i16s("sine", &(0..TURN).map(sine).collect::<Vec<_>>());
        let logistic = |i: u32| {
            let v = 32768.0 / (1.0 + (-f64::from(i) * 0.25 * LN_2).exp());
            (v.round() as u32).min(32767)
        };
        let entry = |i| logistic(i) | (logistic(i + 1) - logistic(i)) << 16;
        self.u32s("logistic", (0..64).map(entry));
    }

    /// The embedding; returns its shift.
    fn embedding(&mut self, m: &Matrix) -> u32 {
        self.bytes("embed", m.bytes());
        let steps: Vec<f64> = (0..m.channels.len())
            .map(|row| m.step(row) * f64::from(FRACTION).exp2())
            .collect();
        let top = steps.iter().fold(1e-30, |m: f64, &s| m.max(s));
        let shift = (23.0 - top.log2()).floor().clamp(1.0, 30.0) as u32;
        let last = f64::from((1 << 23) - 1);
        let scaled = steps
            .iter()
            .map(|s| (s * f64::from(shift).exp2()).round().min(last));
        self.u32s("embed.scales", scaled.map(|s| s as u32));
        shift
    }

    fn layer(&mut self, l: usize, s: &Shape, checkpoint: &mut Checkpoint) -> Result<()> {
        let mut take = |part: &str, shape: &[usize]| {
            checkpoint.take(&format!("model.layers.{l}.{part}.weight"), shape)
        };
        let dim = s.head_dim;
        let (queries, keys) = (s.queries(), s.kv_heads * dim);
        let name = |part: &str| format!("{l}.{part}");

        let attn_norm = self.norm(name("attn_norm"), &take("input_layernorm", &[s.width])?);
        let q = take("self_attn.q_proj", &[queries, s.width])?;
        let k = take("self_attn.k_proj", &[keys, s.width])?;
        let v = take("self_attn.v_proj", &[keys, s.width])?;
        let q = Matrix::new(&q, s.width, dim);
        let k = Matrix::new(&k, s.width, dim);
        let v = Matrix::new(&v, s.width, keys);
        let q_gain = take("self_attn.q_norm", &[dim])?;
        let k_gain = take("self_attn.k_norm", &[dim])?;
        let (mut gained, mut head_units) = (Vec::new(), Vec::new());
        for (m, gain, heads) in [(&q, &q_gain, s.heads), (&k, &k_gain, s.kv_heads)] {
            for h in 0..heads {
                let product = |d: usize| m.step(h * dim + d) * f64::from(gain[d]);
                let unit = unit_for((0..dim).map(product));
                gained.extend((0..dim).map(|d| (product(d) / value(unit)).round() as i16));
                // channel scales count in units of their own
                head_units.push(scale(value(unit) / value(m.units[h])));
            }
        }
        let joint = |f: fn(&Matrix) -> Vec<u8>| [&q, &k, &v].into_iter().flat_map(f).collect();
        self.bytes(name("qkv"), joint(Matrix::bytes));
        let channels = [&q, &k, &v].into_iter().flat_map(|m| &m.channels);
        self.u16s(name("qkv.scales"), &channels.copied().collect::<Vec<_>>());
        self.i16s(name("qk.gained"), &gained);

        let o = take("self_attn.o_proj", &[s.width, queries])?;
        let o = Matrix::new(&o, queries, s.width);
        self.bytes(name("o"), o.bytes());
        self.u16s(name("o.scales"), &o.channels);

        let mlp_norm = self.norm(
            name("mlp_norm"),
            &take("post_attention_layernorm", &[s.width])?,
        );
        let mut gate_up = take("mlp.gate_proj", &[s.hidden, s.width])?;
        gate_up.extend(take("mlp.up_proj", &[s.hidden, s.width])?);
        let gate_up = Matrix::new(&gate_up, s.width, s.hidden);
        self.bytes(name("gate_up"), gate_up.bytes());
        self.u16s(name("gate_up.scales"), &gate_up.channels);

        let down = take("mlp.down_proj", &[s.width, s.hidden])?;
        let down = Matrix::new(&down, s.hidden, s.width);
        self.bytes(name("down"), down.bytes());
        self.u16s(name("down.scales"), &down.channels);

        let mut units = vec![
            attn_norm,
            mlp_norm,
            v.units[0],
            o.units[0],
            gate_up.units[0],
            gate_up.units[1],
            down.units[0],
        ];
        units.extend(head_units);
        self.units(name("units"), &units);
        Ok(())
    }
}
