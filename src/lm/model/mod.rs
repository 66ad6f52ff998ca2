//! The integer transformer and its file.

use std::path::Path;

use crate::error::{Error, Result};

/// A model, ready to code with.
pub struct Model {}

/// What a model is, in figures.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ModelInfo {
    pub name: String,
    pub parameters: u64,
    /// Tokens of the vocabulary.
    pub vocabulary: u32,
    /// Size of the model's file.
    pub bytes: u64,
}

impl Model {
    pub fn parse(_bytes: Vec<u8>) -> Result<Model> {
        Err(none())
    }

    /// BLAKE3 of the model's file.
    pub fn hash(&self) -> [u8; 32] {
        [0; 32]
    }

    pub fn info(&self) -> ModelInfo {
        ModelInfo {
            name: String::new(),
            parameters: 0,
            vocabulary: 0,
            bytes: 0,
        }
    }
}

/// The model that ships with the program.
pub fn embedded() -> Option<&'static [u8]> {
    None
}

/// The model file made of a checkpoint folder.
pub fn import(_dir: &Path) -> Result<Vec<u8>> {
    Err(none())
}

fn none() -> Error {
    Error::Model("this build carries no model".into())
}
