//! What `config.json` says, and what of it can be imported.

use std::f64::consts::TAU;
use std::path::Path;

use serde_json::Value;

use super::{read, refuse};
use crate::error::{Error, Result};
use crate::lm::model::file::{Heads, Shape};

/// The families of checkpoints, by their `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

impl Family {
    const ALL: [Family; 4] = [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3];

    pub fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
        }
    }

    /// What becomes of queries and keys before they are turned.
    pub fn heads(self) -> Heads {
        match self {
            Family::Llama | Family::Mistral => Heads::Plain,
            Family::Qwen2 => Heads::Biased,
            Family::Qwen3 => Heads::Normed,
        }
    }
}

/// How the rotation's frequencies are stretched for long texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    None,
    /// All by the same factor.
    Linear(f64),
    /// Wave lengths above `length / low` by the factor, below `length / high`
    /// not at all, between them by degrees: Llama 3.1.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        length: f64,
    },
}

impl Scaling {
    /// The frequency to use, in radians a position.
    pub fn apply(self, frequency: f64) -> f64 {
        match self {
            Scaling::None => frequency,
            Scaling::Linear(factor) => frequency / factor,
            Scaling::Llama3 {
                factor,
                low,
                high,
                length,
            } => {
                // how much of the frequency stays: 0 below `low` waves in the length, 1 above `high`
                let kept = (length * frequency / TAU - low) / (high - low);
                let kept = kept.clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
        }
    }
}

/// The fields of `config.json` that matter.
#[derive(Clone, Debug)]
pub struct Config {
    pub family: Family,
    /// Without the window.
    pub shape: Shape,
    /// Rows of the embedding; may be more than there are tokens.
    pub vocab: usize,
    pub tied: bool,
    pub theta: f64,
    pub scaling: Scaling,
    pub epsilon: f64,
    /// Tokens that a token attends to at most, itself included.
    pub sliding: Option<usize>,
}

/// The JSON, and how to complain of it.
struct Fields(Value);

impl Fields {
    fn wrong(&self, field: &str, want: &str) -> Error {
        let mut value = &self.0;
        for part in field.split('.') {
            value = &value[part];
        }
        refuse(format!(
            "config.json: {field} is {value}, {want} is supported"
        ))
    }

    fn count(&self, field: &str) -> Result<usize> {
        let n = self.0[field]
            .as_u64()
            .filter(|&n| (1..1 << 24).contains(&n));
        n.map(|n| n as usize)
            .ok_or_else(|| self.wrong(field, "only a positive number"))
    }

    /// The same; none where the field is null or absent.
    fn optional(&self, field: &str) -> Result<Option<usize>> {
        match self.0[field].is_null() {
            true => Ok(None),
            false => self.count(field).map(Some),
        }
    }

    /// A positive number, of the object `within` if that is not empty.
    fn number(&self, within: &str, field: &str) -> Result<f64> {
        let (value, path) = match within {
            "" => (&self.0[field], field.to_string()),
            _ => (&self.0[within][field], format!("{within}.{field}")),
        };
        let n = value.as_f64().filter(|&n| n > 0.0 && n.is_finite());
        n.ok_or_else(|| self.wrong(&path, "only a positive number"))
    }

    fn flag(&self, field: &str) -> bool {
        self.0[field].as_bool().unwrap_or(false)
    }

    /// Base and scaling of the rotation, of the layout before and since
    /// `rope_parameters`.
    fn rotation(&self) -> Result<(f64, Scaling)> {
        let object = match self.0["rope_parameters"].is_null() {
            true => "rope_scaling",
            false => "rope_parameters",
        };
        let theta = match (&self.0["rope_theta"], &self.0[object]["rope_theta"]) {
            (Value::Null, Value::Null) => 10_000.0,
            (Value::Null, _) => self.number(object, "rope_theta")?,
            _ => self.number("", "rope_theta")?,
        };
        let rope = &self.0[object];
        let kind = match (&rope["rope_type"], &rope["type"]) {
            (Value::Null, Value::Null) if rope["factor"].is_null() => "default",
            (Value::Null, kind) | (kind, _) => kind.as_str().unwrap_or("(not a word)"),
        };
        let number = |field| self.number(object, field);
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear(number("factor")?),
            "llama3" => {
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                if low >= high {
                    return Err(self.wrong(
                        &format!("{object}.low_freq_factor"),
                        "only less than high_freq_factor",
                    ));
                }
                Scaling::Llama3 {
                    factor: number("factor")?,
                    low,
                    high,
                    length: number("original_max_position_embeddings")?,
                }
            }
            _ => {
                return Err(self.wrong(object, "only the type default, linear or llama3"));
            }
        };
        Ok((theta, scaling))
    }
}

impl Config {
    pub fn read(dir: &Path) -> Result<Config> {
        let json: Value = serde_json::from_slice(&read(dir, "config.json")?)
            .map_err(|e| refuse(format!("config.json is not JSON ({e})")))?;
        let fields = Fields(json);
        let named = |f: &Family| fields.0["model_type"] == f.name();
        let family = Family::ALL.into_iter().find(named).ok_or_else(|| {
            fields.wrong(
                "model_type",
                "only \"llama\", \"mistral\", \"qwen2\" or \"qwen3\"",
            )
        })?;
        if fields.0["hidden_act"] != "silu" {
            return Err(fields.wrong("hidden_act", "only \"silu\""));
        }
        for field in ["attention_bias", "mlp_bias"] {
            if fields.flag(field) {
                return Err(fields.wrong(field, "only false"));
            }
        }
        if !fields.0["quantization_config"].is_null() {
            return Err(fields.wrong("quantization_config", "only null (full weights)"));
        }
        let epsilon = fields.number("", "rms_norm_eps")?;
        if epsilon > 1e-3 {
            return Err(fields.wrong("rms_norm_eps", "at most 0.001"));
        }
        let (theta, scaling) = fields.rotation()?;
        let sliding = match family {
            Family::Llama => None,
            Family::Mistral => fields.optional("sliding_window")?,
            Family::Qwen2 | Family::Qwen3 if !fields.flag("use_sliding_window") => None,
            Family::Qwen2 | Family::Qwen3 => Some(fields.count("sliding_window")?),
        };
        let (width, heads) = (
            fields.count("hidden_size")?,
            fields.count("num_attention_heads")?,
        );
        let vocab = fields.count("vocab_size")?;
        Ok(Config {
            family,
            shape: Shape {
                vocab,
                width,
                layers: fields.count("num_hidden_layers")?,
                heads,
                kv_heads: fields.optional("num_key_value_heads")?.unwrap_or(heads),
                head_dim: match fields.optional("head_dim")? {
                    Some(dim) => dim,
                    None if family != Family::Qwen3 && width.is_multiple_of(heads) => width / heads,
                    None => return Err(fields.wrong("head_dim", "only a positive number")),
                },
                hidden: fields.count("intermediate_size")?,
                window: 0,
            },
            vocab,
            tied: fields.flag("tie_word_embeddings"),
            theta,
            scaling,
            epsilon,
            sliding,
        })
    }
}
