//! `laconicfs model`: what codes the chunks.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::exit::{Exit, failure};
use super::report::{self, Table, size};
use super::{locate, models};
use crate::filesystem::FileSystem;
use crate::lm::model::{self, ImportOptions, Model};

#[derive(Subcommand)]
pub enum ModelCommand {
    /// List the models of this program, or of a store
    #[command(
        long_about = "List the models that are embedded in this program or, with STORE, those \
            that a store holds. A store keeps every model that one of its chunks needs.",
        after_help = "Examples:\n  laconicfs model list\n  laconicfs model list ~/notes.store"
    )]
    List {
        /// A store, mounted or not
        store: Option<PathBuf>,
    },
    /// Show what a model is
    #[command(after_help = "Examples:\n  laconicfs model info\n  laconicfs model info big.lcm")]
    Info {
        #[arg(value_name = "MODEL", help = models::HELP)]
        model: Option<String>,
    },
    /// Make a model file of a checkpoint
    #[command(
        long_about = "Make a model file of a checkpoint folder of the Llama, Qwen2 or Qwen3 \
            family, as people download them: config.json, tokenizer.json, *.safetensors. The \
            weights become 8-bit integers.",
        after_help = "Example:\n  laconicfs model import ./checkpoint big.lcm\n  \
            laconicfs mkfs big.store --model big.lcm"
    )]
    Import(ImportArgs),
}

#[derive(Args)]
pub struct ImportArgs {
    /// The checkpoint's folder
    dir: PathBuf,
    /// The model file to write
    out: PathBuf,
    /// Name of the model [default: that of the folder]
    #[arg(long)]
    name: Option<String>,
    /// Tokens that a token attends to: a multiple of 16 up to 4096
    #[arg(long, value_name = "TOKENS", default_value_t = ImportOptions::default().window)]
    window: usize,
    /// File with starting weights of the mixer
    #[arg(long, value_name = "FILE")]
    mixer: Option<PathBuf>,
}

pub fn run(command: &ModelCommand, json: bool) -> Result<()> {
    match command {
        ModelCommand::List { store } => list(store.as_ref(), json),
        ModelCommand::Info { model } => info(model.as_deref(), json),
        ModelCommand::Import(args) => import(args, json),
    }
}

/// A model's figures.
fn describe(model: &Model) -> Result<Value> {
    serde_json::to_value(model.info()).context("writing JSON")
}

fn list(store: Option<&PathBuf>, json: bool) -> Result<()> {
    let files = match store {
        Some(store) => FileSystem::models_of(&locate::store(store)?)?,
        None => model::embedded().map(<[u8]>::to_vec).into_iter().collect(),
    };
    let mut values = Vec::new();
    for bytes in files {
        values.push(describe(&Model::parse(bytes)?)?);
    }
    report::emit(json, &values, || {
        if values.is_empty() {
            return match store {
                Some(_) => "the store holds no model\n".into(),
                None => "this build carries no model\n".into(),
            };
        }
        let mut table = Table::new(&["name", "parameters", "bytes", "hash"]);
        for value in &values {
            let text = |key: &str| match &value[key] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let hash = text("hash");
            table.row(vec![
                text("name"),
                text("parameters"),
                text("file_bytes"),
                hash[..16.min(hash.len())].into(),
            ]);
        }
        table.to_string()
    })
}

fn info(name: Option<&str>, json: bool) -> Result<()> {
    let Some(model) = models::load(name)? else {
        return Err(failure(
            Exit::Model,
            "this build carries no model: name a model file",
        ));
    };
    let value = describe(&model)?;
    report::emit(json, &value, || {
        let mut out = String::new();
        for (key, value) in value.as_object().into_iter().flatten() {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            out.push_str(&format!("{key:<16}{text}\n"));
        }
        out
    })
}

fn import(args: &ImportArgs, json: bool) -> Result<()> {
    let read =
        |path: &PathBuf| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
    let options = ImportOptions {
        name: args.name.clone(),
        window: args.window,
        mixer: args.mixer.as_ref().map(read).transpose()?,
    };
    let bytes = model::import_with(&args.dir, &options)
        .with_context(|| format!("importing {}", args.dir.display()))?;
    let value = describe(&Model::parse(bytes.clone())?)?;
    std::fs::write(&args.out, &bytes).with_context(|| format!("writing {}", args.out.display()))?;
    report::emit(json, &value, || {
        format!(
            "{}: {} ({})\n",
            args.out.display(),
            value["name"].as_str().unwrap_or_default(),
            size(bytes.len() as u64)
        )
    })
}
