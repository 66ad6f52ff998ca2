//! Finding the model that a command line names.

use std::path::Path;

use anyhow::{Context, Result};

use super::exit::{Exit, failure};
use crate::codec::Codec;
use crate::lm::model::{self, Model};

/// The name that stands for no model at all.
pub const NONE: &str = "none";

/// Explains `--model` in help texts.
pub const HELP: &str = "A model file, the name of the embedded model, or `none`";

/// The bytes of the model file that `name` names: a file, the embedded model
/// by its name, `none`; nothing named is the embedded model, if there is one.
pub fn find(name: Option<&str>) -> Result<Option<Vec<u8>>> {
    let embedded = model::embedded();
    let Some(name) = name else {
        return Ok(embedded.map(<[u8]>::to_vec));
    };
    if name == NONE {
        return Ok(None);
    }
    if let Some(bytes) = embedded
        && Model::parse(bytes.to_vec())?.info().name == name
    {
        return Ok(Some(bytes.to_vec()));
    }
    let path = Path::new(name);
    if path.is_dir() {
        return Err(failure(
            Exit::Model,
            format!(
                "{name} is a directory; if it holds a checkpoint, make a model file of it \
                 with: laconicfs model import {name} MODEL"
            ),
        ));
    }
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(failure(
            Exit::Model,
            format!(
                "there is no model `{name}`: neither a file nor embedded; `laconicfs model list` \
                 shows what is"
            ),
        )),
        Err(error) => Err(error).with_context(|| format!("reading the model {name}")),
    }
}

/// The same, parsed.
pub fn load(name: Option<&str>) -> Result<Option<Model>> {
    find(name)?
        .map(|bytes| {
            Model::parse(bytes).with_context(|| match name {
                Some(name) => format!("the model {name}"),
                None => "the embedded model".into(),
            })
        })
        .transpose()
}

/// A codec with this model, or without any.
pub fn codec(model: Option<Model>) -> Result<Codec> {
    Ok(match model {
        Some(model) => Codec::with_models(vec![std::sync::Arc::new(model)])?,
        None => Codec::default(),
    })
}

/// A model's name in full.
pub fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
