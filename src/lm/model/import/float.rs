//! The same checkpoint in float32, through candle-transformers: what the integers
//! are compared with.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::{llama, mistral, qwen2, qwen3};

use super::Checkpoint;
use super::config::{Config, Family, Scaling};
use crate::lm::vocabulary::Vocabulary;

/// Positions that a model is made for: as many as a window has at most.
const POSITIONS: usize = 4096;

/// A model in floats, one token at a time.
pub enum Floats {
    Llama(Box<Llama>),
    Mistral(Box<mistral::Model>),
    Qwen2(Box<qwen2::ModelForCausalLM>),
    Qwen3(Box<qwen3::ModelForCausalLM>),
}

/// Llama keeps its cache beside it.
pub struct Llama {
    model: llama::Llama,
    config: llama::Config,
    cache: llama::Cache,
}

/// Reasons why there is no figure, in words.
type Result<T> = std::result::Result<T, String>;

fn reason(e: candle_core::Error) -> String {
    format!("the checkpoint cannot be run in floats ({e})")
}

impl Floats {
    pub fn new(config: &Config, checkpoint: &Checkpoint) -> Result<Floats> {
        if let Scaling::Linear(_) = config.scaling {
            return Err("linear scaling of the rotation is not known there".into());
        }
        if config.family != Family::Llama && config.scaling != Scaling::None {
            return Err("scaling of the rotation is known for Llama only there".into());
        }
        let mut tensors = checkpoint.tensors().clone();
        if let (true, Some(table)) = (config.tied, tensors.get("model.embed_tokens.weight")) {
            let table = table.clone();
            tensors.insert("lm_head.weight".into(), table);
        }
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        match config.family {
            Family::Llama => Floats::llama(config, weights),
            Family::Mistral => Floats::mistral(config, weights),
            Family::Qwen2 => Floats::qwen2(config, weights),
            Family::Qwen3 => Floats::qwen3(config, weights),
        }
        .map_err(reason)
    }

    fn llama(c: &Config, weights: VarBuilder) -> candle_core::Result<Floats> {
        let s = &c.shape;
        if s.queries() != s.width {
            candle_core::bail!("heads times head_dim must be hidden_size there");
        }
        let rope_scaling = match c.scaling {
            Scaling::Llama3 {
                factor,
                low,
                high,
                length,
            } => Some(llama::Llama3RopeConfig {
                factor: factor as f32,
                low_freq_factor: low as f32,
                high_freq_factor: high as f32,
                original_max_position_embeddings: length as usize,
                rope_type: llama::Llama3RopeType::Llama3,
            }),
            Scaling::None | Scaling::Linear(_) => None,
        };
        let config = llama::Config {
            hidden_size: s.width,
            intermediate_size: s.hidden,
            vocab_size: c.vocab,
            num_hidden_layers: s.layers,
            num_attention_heads: s.heads,
            num_key_value_heads: s.kv_heads,
            use_flash_attn: false,
            rms_norm_eps: c.epsilon,
            rope_theta: c.theta as f32,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling,
            max_position_embeddings: POSITIONS,
            tie_word_embeddings: c.tied,
        };
        Ok(Floats::Llama(Box::new(Llama {
            model: llama::Llama::load(weights, &config)?,
            cache: llama::Cache::new(true, DType::F32, &config, &Device::Cpu)?,
            config,
        })))
    }

    fn mistral(c: &Config, weights: VarBuilder) -> candle_core::Result<Floats> {
        let s = &c.shape;
        let config = mistral::Config {
            vocab_size: c.vocab,
            hidden_size: s.width,
            intermediate_size: s.hidden,
            num_hidden_layers: s.layers,
            num_attention_heads: s.heads,
            head_dim: Some(s.head_dim),
            num_key_value_heads: s.kv_heads,
            hidden_act: Activation::Silu,
            max_position_embeddings: POSITIONS,
            rms_norm_eps: c.epsilon,
            rope_theta: c.theta,
            sliding_window: None,
            use_flash_attn: false,
        };
        Ok(Floats::Mistral(Box::new(mistral::Model::new(
            &config, weights,
        )?)))
    }

    fn qwen2(c: &Config, weights: VarBuilder) -> candle_core::Result<Floats> {
        let s = &c.shape;
        if s.queries() != s.width {
            candle_core::bail!("heads times head_dim must be hidden_size there");
        }
        let config = qwen2::Config {
            vocab_size: c.vocab,
            hidden_size: s.width,
            intermediate_size: s.hidden,
            num_hidden_layers: s.layers,
            num_attention_heads: s.heads,
            num_key_value_heads: s.kv_heads,
            max_position_embeddings: POSITIONS,
            sliding_window: POSITIONS,
            max_window_layers: 0,
            tie_word_embeddings: c.tied,
            rope_theta: c.theta,
            rms_norm_eps: c.epsilon,
            use_sliding_window: false,
            hidden_act: Activation::Silu,
        };
        let model = qwen2::ModelForCausalLM::new(&config, weights)?;
        Ok(Floats::Qwen2(Box::new(model)))
    }

    fn qwen3(c: &Config, weights: VarBuilder) -> candle_core::Result<Floats> {
        let s = &c.shape;
        let config = qwen3::Config {
            vocab_size: c.vocab,
            hidden_size: s.width,
            intermediate_size: s.hidden,
            num_hidden_layers: s.layers,
            num_attention_heads: s.heads,
            head_dim: s.head_dim,
            attention_bias: false,
            num_key_value_heads: s.kv_heads,
            max_position_embeddings: POSITIONS,
            sliding_window: None,
            max_window_layers: 0,
            tie_word_embeddings: c.tied,
            rope_theta: c.theta,
            rms_norm_eps: c.epsilon,
            use_sliding_window: false,
            hidden_act: Activation::Silu,
        };
        let model = qwen3::ModelForCausalLM::new(&config, weights)?;
        Ok(Floats::Qwen3(Box::new(model)))
    }

    /// Begins a new text.
    fn reset(&mut self) -> candle_core::Result<()> {
        match self {
            Floats::Llama(l) => {
                l.cache = llama::Cache::new(true, DType::F32, &l.config, &Device::Cpu)?;
            }
            Floats::Mistral(model) => model.clear_kv_cache(),
            Floats::Qwen2(model) => model.clear_kv_cache(),
            Floats::Qwen3(model) => model.clear_kv_cache(),
        }
        Ok(())
    }

    /// The logits, by id, of what follows a token at a position.
    fn step(&mut self, id: u32, position: usize) -> candle_core::Result<Vec<f32>> {
        let input = Tensor::new(&[[id]], &Device::Cpu)?;
        let logits = match self {
            Floats::Llama(l) => l.model.forward(&input, position, &mut l.cache)?,
            Floats::Mistral(model) => model.forward(&input, position)?,
            Floats::Qwen2(model) => model.forward(&input, position)?,
            Floats::Qwen3(model) => model.forward(&input, position)?,
        };
        logits.flatten_all()?.to_vec1()
    }

    /// Bits that each of `codes` costs, in independent pieces of `piece` tokens
    /// that each begin with the token of byte 0.
    pub fn costs(
        &mut self,
        vocabulary: &Vocabulary,
        codes: &[u32],
        piece: usize,
    ) -> Result<Vec<f64>> {
        let ids: Vec<usize> = (0..vocabulary.len() as u32)
            .filter_map(|code| vocabulary.id_of_code(code))
            .map(|id| id as usize)
            .collect();
        let mut costs = Vec::with_capacity(codes.len());
        for codes in codes.chunks(piece) {
            self.reset().map_err(reason)?;
            let mut last = vocabulary.start();
            for (position, &code) in codes.iter().enumerate() {
                let row = self.step(ids[last as usize] as u32, position);
                let row = row.map_err(reason)?;
                // rows of the checkpoint that no token has do not count
                let logits = ids.iter().map(|&id| f64::from(row[id]));
                let top = logits.clone().fold(f64::MIN, f64::max);
                let sum: f64 = logits.map(|l| (l - top).exp()).sum();
                let own = f64::from(row[ids[code as usize]]);
                costs.push((sum.ln() + top - own) / std::f64::consts::LN_2);
                last = code;
            }
        }
        Ok(costs)
    }
}
