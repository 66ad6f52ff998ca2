//! `laconicfs mkfs`: making a store.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::exit::{Exit, failure};
use super::{models, report, size};
use crate::error::Error;
use crate::filesystem::{FileSystem, NewStore};
use crate::lm::model::Model;

#[derive(Args)]
#[command(
    long_about = "Make a store: a directory that holds the files of one laconicfs volume.\n\n\
        The store keeps a copy of the model that its chunks are coded with, so it can be \
        read wherever this program runs.",
    after_help = "Examples:\n  \
        laconicfs mkfs ~/notes.store\n  \
        laconicfs mkfs /srv/logs.store --chunk-size 256k\n  \
        laconicfs mkfs plain.store --model none      # raw, zstd and mix only"
)]
pub struct MkfsArgs {
    /// Directory to make; it may exist if it is empty
    store: PathBuf,
    /// Model to code with: a model file, the name of an embedded model, or `none` [default: the
    /// embedded model]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Plain bytes of a chunk, a power of two: larger codes smaller, smaller reads faster
    #[arg(long, value_name = "SIZE", default_value = "64k", value_parser = size::parse_chunk)]
    chunk_size: usize,
}

#[derive(Serialize)]
struct Made {
    store: PathBuf,
    chunk_size: usize,
    model: Option<String>,
}

pub fn run(args: &MkfsArgs, json: bool) -> Result<()> {
    let model = models::find(args.model.as_deref())?;
    let name = match &model {
        Some(bytes) => Some(Model::parse(bytes.clone())?.info().name),
        None => None,
    };
    FileSystem::create(
        &args.store,
        &NewStore {
            chunk_size: args.chunk_size,
            model,
        },
    )
    .map_err(|error| match error {
        // The directory is taken, by a store or by something else.
        Error::Other(taken) => failure(Exit::NotAStore, taken),
        error => error.into(),
    })?;
    let made = Made {
        store: args.store.canonicalize().unwrap_or(args.store.clone()),
        chunk_size: args.chunk_size,
        model: name,
    };
    report::emit(json, &made, || {
        format!(
            "made {} with chunks of {} and {}\nmount it with: laconicfs mount {} DIR\n",
            args.store.display(),
            report::size(made.chunk_size as u64),
            match &made.model {
                Some(name) => format!("the model {name}"),
                None => "no model".into(),
            },
            args.store.display(),
        )
    })
}
