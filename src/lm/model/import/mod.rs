//! From a checkpoint folder as people download it to a model file.
//!
//! The only place of the engine with floats: they choose integers once, and
//! the integers are the model from then on.

mod checkpoint;
mod config;
mod float;
mod matrix;
mod projections;

use std::f64::consts::{LN_2, TAU};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::engine::State;
use super::file::{Header, Heads, Model, Shape, TURN, assemble};
use crate::error::{Error, Result};
use crate::kernel::{self, Scale};
use crate::lm::vocabulary::Vocabulary;

pub use checkpoint::Checkpoint;
pub use config::Config;
pub use float::Floats;
use matrix::{Matrix, scale, unit_for, value};
use projections::Projections;

/// Fraction bits of the residual stream to try, the finest first: 16 hold values
/// up to 2^14 in steps of 2^-16.
const FRACTIONS: [u32; 4] = [16, 13, 10, 8];
/// Tokens that the comparison of integers with floats takes: at most so many, and
/// so few that they cost at most so many products of weights.
const COMPARED: usize = 2048;
const COMPARED_WEIGHTS: usize = 20_000_000_000;

/// What a checkpoint does not say.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Name of the model; without one, that of the folder.
    pub name: Option<String>,
    /// Tokens that a token attends to: a multiple of 16 up to 4096. Where the
    /// checkpoint has a sliding window that is shorter, that counts.
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

/// A checkpoint as a model file, and how well the integers follow the floats.
pub struct Imported {
    pub file: Vec<u8>,
    pub comparison: Comparison,
}

/// The integer model beside the checkpoint in floats, on one text.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What was compared: tokens, and the bytes that they stand for.
    pub tokens: usize,
    pub bytes: usize,
    /// Bits a byte, without the mixer.
    pub integers: f64,
    /// The same in float32; none where that is not to be had.
    pub floats: Option<f64>,
    /// Why it is not.
    pub floats_missing: Option<String>,
    /// Fraction bits of the residual stream.
    pub fraction: u32,
}

/// Imports a checkpoint folder (`config.json`, `tokenizer.json`,
/// `*.safetensors` in bf16, f16 or f32) and returns the model file.
pub fn import(dir: &Path) -> Result<Vec<u8>> {
    import_with(dir, &ImportOptions::default())
}

pub fn import_with(dir: &Path, options: &ImportOptions) -> Result<Vec<u8>> {
    Source::open(dir, options)?.file(FRACTIONS[0])
}

/// The same, calibrated on a text: the fraction bits of the residual stream are
/// the most that leave it room, and the integers are compared with the floats.
/// Of the text, only the beginning is taken.
pub fn import_calibrated(dir: &Path, options: &ImportOptions, text: &[u8]) -> Result<Imported> {
    let source = Source::open(dir, options)?;
    let parameters = source.config.shape.parameters(source.config.tied);
    let most = (COMPARED_WEIGHTS / parameters).clamp(64, COMPARED);
    let mut codes = source.vocabulary.encode(&text[..text.len().min(16 * most)]);
    codes.truncate(most);
    if codes.is_empty() {
        return Err(Error::Invalid("the text to calibrate on is empty"));
    }
    let window = source.shape.window;
    let (mut file, mut integers, mut fraction) = (Vec::new(), 0.0, 0);
    for bits in FRACTIONS {
        fraction = bits;
        file = source.file(fraction)?;
        let model = Arc::new(Model::parse(file.clone())?);
        let mut state = State::new(model, 1)?;
        state.watch_peak();
        let start = source.vocabulary.start();
        integers = costs(&mut state, start, &codes, window)?.iter().sum();
        if state.peak() < kernel::RESIDUAL_LIMIT / 2 {
            break;
        }
    }
    let bytes: usize = codes
        .iter()
        .map(|&c| source.vocabulary.bytes_of(c).len())
        .sum();
    let floats = Floats::new(&source.config, &source.checkpoint)
        .and_then(|mut floats| floats.costs(&source.vocabulary, &codes, window));
    let (floats, floats_missing) = match floats {
        Ok(bits) => (Some(bits.iter().sum::<f64>() / bytes as f64), None),
        Err(reason) => (None, Some(reason)),
    };
    let comparison = Comparison {
        tokens: codes.len(),
        bytes,
        integers: integers / bytes as f64,
        floats,
        floats_missing,
        fraction,
    };
    Ok(Imported { file, comparison })
}

/// Bits that the model spends on each of `codes`, in independent pieces of
/// `piece` tokens that each begin with the token `start`.
pub fn costs(state: &mut State, start: u32, codes: &[u32], piece: usize) -> Result<Vec<f64>> {
    let mut bits = Vec::with_capacity(codes.len());
    for codes in codes.chunks(piece) {
        let mut inputs = vec![start];
        inputs.extend(&codes[..codes.len() - 1]);
        let mut sink = |step: usize, _: usize, cdf: &[u32]| {
            let code = codes[step] as usize;
            bits.push(f64::from(kernel::TOTAL_BITS) - f64::from(cdf[code + 1] - cdf[code]).log2());
        };
        state.reset();
        state.forward(1, codes.len(), &inputs, &mut sink)?;
    }
    Ok(bits)
}

fn refuse(reason: impl std::fmt::Display) -> Error {
    Error::Model(format!("the checkpoint cannot be imported: {reason}"))
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>> {
    let path = dir.join(name);
    std::fs::read(&path).map_err(Error::io(format!("cannot read {}", path.display())))
}

/// A checkpoint, read and checked.
struct Source<'a> {
    options: &'a ImportOptions,
    /// The folder's own name.
    folder: String,
    config: Config,
    /// Of the model: with its tokens and its window.
    shape: Shape,
    json: Vec<u8>,
    vocabulary: Vocabulary,
    checkpoint: Checkpoint,
}

impl Source<'_> {
    fn open<'a>(dir: &Path, options: &'a ImportOptions) -> Result<Source<'a>> {
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
        let sliding = config.sliding.map_or(usize::MAX, |s| s & !15);
        let shape = Shape {
            vocab: vocabulary.len(),
            window: options.window.min(sliding),
            ..config.shape.clone()
        };
        shape.check().map_err(refuse)?;
        let folder = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
        let folder = folder.file_name().map(|n| n.to_string_lossy().into_owned());
        Ok(Source {
            options,
            folder: folder.unwrap_or_default(),
            config,
            shape,
            json,
            vocabulary,
            checkpoint: Checkpoint::open(dir)?,
        })
    }

    /// The rows of a table of all tokens in the order of codes; rows that no
    /// token has are dropped.
    fn table(&self, name: &str) -> Result<Matrix> {
        let width = self.shape.width;
        let rows = self.checkpoint.get(name, &[self.config.vocab, width])?;
        let ordered: Vec<f32> = (0..self.shape.vocab as u32)
            .filter_map(|code| self.vocabulary.id_of_code(code))
            .flat_map(|id| &rows[id as usize * width..][..width])
            .copied()
            .collect();
        Ok(Matrix::new(&ordered, width, self.shape.vocab))
    }

    /// The model file.
    fn file(&self, fraction: u32) -> Result<Vec<u8>> {
        let (config, shape) = (&self.config, &self.shape);
        let mut out = Sections::default();
        let tokenizer = zstd::bulk::compress(&self.json, 19).map_err(|e| refuse(e.to_string()))?;
        out.bytes("tokenizer", tokenizer);
        out.tables(config);

        let embed = self.table("model.embed_tokens.weight")?;
        let shift = out.embedding(&embed, fraction);
        let head = match config.tied {
            true => embed,
            false => {
                let head = self.table("lm_head.weight")?;
                out.bytes("head", head.bytes());
                head
            }
        };
        out.u16s("head.scales", &head.channels);
        let gains = self.checkpoint.get("model.norm.weight", &[shape.width])?;
        let norm = out.norm("norm", &gains);
        out.units("units", &[norm, head.units[0]]);
        for l in 0..shape.layers {
            out.layer(l, config, &self.checkpoint)?;
        }
        if let Some(mixer) = &self.options.mixer {
            out.bytes("mixer", mixer.clone());
        }

        let name = self.options.name.clone();
        let header = Header {
            name: name.unwrap_or_else(|| self.folder.clone()),
            family: config.family.name().into(),
            shape: shape.clone(),
            heads: config.family.heads(),
            tied: config.tied,
            fraction,
            epsilon: (config.epsilon * f64::from(2 * fraction).exp2()).round() as u64,
            embed_shift: shift,
            sections: Vec::new(),
        };
        assemble(header, &out.sections)
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
    fn tables(&mut self, config: &Config) {
        let half = config.shape.head_dim / 2;
        let base = |i| config.theta.powf(-(i as f64) / half as f64);
        let turns = (0..half).map(|i| config.scaling.apply(base(i)) / TAU);
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
    fn embedding(&mut self, m: &Matrix, fraction: u32) -> u32 {
        self.bytes("embed", m.bytes());
        let steps: Vec<f64> = (0..m.channels.len())
            .map(|row| m.step(row) * f64::from(fraction).exp2())
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

    /// Scales of query and key channels times the gains of their heads' norms;
    /// returns a unit for each head.
    fn gained(
        &mut self,
        name: String,
        matrices: [&Matrix; 2],
        gains: &[Vec<f32>; 2],
    ) -> Vec<Scale> {
        let (mut gained, mut units) = (Vec::new(), Vec::new());
        for (m, gain) in matrices.into_iter().zip(gains) {
            let dim = gain.len();
            for (h, &of_channels) in m.units.iter().enumerate() {
                let product = |d: usize| m.step(h * dim + d) * f64::from(gain[d]);
                let unit = unit_for((0..dim).map(product));
                gained.extend((0..dim).map(|d| (product(d) / value(unit)).round() as i16));
                // channel scales count in units of their own
                units.push(scale(value(unit) / value(of_channels)));
            }
        }
        self.i16s(name, &gained);
        units
    }

    /// What is added to the heads' sums; returns a unit for each head.
    fn biases<'a>(&mut self, name: String, heads: impl Iterator<Item = &'a [f32]>) -> Vec<Scale> {
        let (mut biases, mut units) = (Vec::new(), Vec::new());
        for head in heads {
            let unit = unit_for(head.iter().map(|&b| f64::from(b)));
            let rounded = |&b: &f32| (f64::from(b) / value(unit)).round() as i16;
            biases.extend(head.iter().map(rounded));
            units.push(unit);
        }
        self.i16s(name, &biases);
        units
    }

    fn layer(&mut self, l: usize, config: &Config, checkpoint: &Checkpoint) -> Result<()> {
        let s = &config.shape;
        let take = |part: &str, shape: &[usize]| {
            checkpoint.get(&format!("model.layers.{l}.{part}"), shape)
        };
        let name = |part: &str| format!("{l}.{part}");
        let gains = take("input_layernorm.weight", &[s.width])?;
        let attn_norm = self.norm(name("attn_norm"), &gains);

        let mut p = Projections::take(config, take)?;
        if config.family.heads() != Heads::Normed {
            p.balance(s, &gains);
        }
        let keys = s.kv_heads * s.head_dim;
        let q = Matrix::new(&p.q.weights, s.width, s.head_dim);
        let k = Matrix::new(&p.k.weights, s.width, s.head_dim);
        let v = Matrix::new(&p.v.weights, s.width, keys);
        let joint = |f: fn(&Matrix) -> Vec<u8>| [&q, &k, &v].into_iter().flat_map(f).collect();
        self.bytes(name("qkv"), joint(Matrix::bytes));
        let channels = [&q, &k, &v].into_iter().flat_map(|m| &m.channels);
        self.u16s(name("qkv.scales"), &channels.copied().collect::<Vec<_>>());
        let head_units = match config.family.heads() {
            Heads::Normed => {
                let gains = [
                    take("self_attn.q_norm.weight", &[s.head_dim])?,
                    take("self_attn.k_norm.weight", &[s.head_dim])?,
                ];
                self.gained(name("qk.gained"), [&q, &k], &gains)
            }
            Heads::Plain => q.units.iter().chain(&k.units).copied().collect(),
            Heads::Biased => {
                let biases = [&p.q.bias, &p.k.bias, &p.v.bias].map(|b| b.chunks(s.head_dim));
                let bias_units = self.biases(name("qkv.bias"), biases.into_iter().flatten());
                let units = q.units.iter().chain(&k.units).copied();
                units.chain(bias_units).collect::<Vec<_>>()
            }
        };

        let o = take("self_attn.o_proj.weight", &[s.width, s.queries()])?;
        let o = Matrix::new(&o, s.queries(), s.width);
        self.bytes(name("o"), o.bytes());
        self.u16s(name("o.scales"), &o.channels);

        let mlp_norm = self.norm(
            name("mlp_norm"),
            &take("post_attention_layernorm.weight", &[s.width])?,
        );
        let mut gate_up = take("mlp.gate_proj.weight", &[s.hidden, s.width])?;
        gate_up.extend(take("mlp.up_proj.weight", &[s.hidden, s.width])?);
        let gate_up = Matrix::new(&gate_up, s.width, s.hidden);
        self.bytes(name("gate_up"), gate_up.bytes());
        self.u16s(name("gate_up.scales"), &gate_up.channels);

        let down = take("mlp.down_proj.weight", &[s.width, s.hidden])?;
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
