//! `laconicfs model`: what codes the chunks.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::exit::{Exit, failure};
use super::locate::{self, Found};
use super::models;
use super::report::{self, Table, size};
use crate::control::Ask;
use crate::filesystem::{FileSystem, Settings, StoreModel};
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
    /// Add a model to a store
    #[command(
        long_about = "Add the model of a file to a store, mounted or not. New chunks go on being \
            coded with the store's own; `model default` changes that, and `recompress` codes again \
            what is stored.",
        after_help = "Example:\n  laconicfs model add ~/notes.store big.lcm"
    )]
    Add {
        /// A store or its mount point
        store: PathBuf,
        #[arg(value_name = "MODEL", help = models::HELP)]
        model: String,
    },
    /// Choose the model that new chunks are coded with
    #[command(after_help = "Example:\n  laconicfs model default ~/notes.store big")]
    Default {
        /// A store or its mount point
        store: PathBuf,
        /// Model of the store: its name, or the beginning of its hash
        model: String,
    },
    /// Remove the models of a store that no chunk needs
    #[command(
        long_about = "Remove the models that no chunk of a store needs, except the one that new \
            chunks are coded with. Nothing that is stored can be lost by it.",
        after_help = "Example:\n  laconicfs model gc ~/notes.store"
    )]
    Gc {
        /// A store or its mount point
        store: PathBuf,
    },
    /// Make a model file of a checkpoint
    #[command(
        long_about = "Make a model file of a checkpoint folder of the Llama, Mistral, Qwen2 or \
            Qwen3 family, as people download them: config.json, tokenizer.json, *.safetensors. The \
            weights become 8-bit integers; how well these follow the checkpoint is measured on \
            the beginning of a text and reported in bits per byte, without the mixer.",
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
    /// Text to calibrate and to measure on [default: a page of the documentation]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
}

/// The text to calibrate on where none is named.
const TEXT: &[u8] = include_bytes!("../../README.md");

pub fn run(command: &ModelCommand, json: bool) -> Result<()> {
    match command {
        ModelCommand::List { store: Some(store) } => list_of(store, json),
        ModelCommand::List { store: None } => list(json),
        ModelCommand::Info { model } => info(model.as_deref(), json),
        ModelCommand::Import(args) => import(args, json),
        ModelCommand::Add { store, model } => add(store, model, json),
        ModelCommand::Default { store, model } => default(store, model, json),
        ModelCommand::Gc { store } => gc(store, json),
    }
}

/// Does something with an open store, in the process that has it open or here.
fn with_store<T: DeserializeOwned>(
    store: &Path,
    ask: Ask,
    settings: &Settings,
    here: impl FnOnce(&FileSystem) -> crate::Result<T>,
) -> Result<T> {
    match locate::find(store)? {
        Found::Open(mut open) => open.ask_for(ask),
        Found::Closed(store) => {
            let fs = FileSystem::open(&store, settings)?;
            let result = here(&fs);
            fs.close().context("closing the store")?;
            Ok(result?)
        }
    }
}

/// To change models and nothing else.
fn quiet() -> Settings {
    Settings {
        drain_threads: 0,
        ..Settings::default()
    }
}

fn add(store: &Path, model: &str, json: bool) -> Result<()> {
    let bytes = models::find(Some(model))?.ok_or_else(|| {
        failure(
            Exit::Model,
            "name a model to add: a file, or the embedded one",
        )
    })?;
    // A mount reads the file itself: the embedded model goes through one too.
    let mut file = tempfile::NamedTempFile::new().context("making a temporary file")?;
    file.write_all(&bytes).context("writing a temporary file")?;
    let ask = Ask::ModelAdd {
        file: file.path().into(),
    };
    let added: StoreModel = with_store(store, ask, &quiet(), |fs| fs.add_model(bytes))?;
    report::emit(json, &added, || {
        format!(
            "added {}; to code new chunks with it: laconicfs model default {} {}\n",
            added.name,
            store.display(),
            &added.hash[..16.min(added.hash.len())]
        )
    })
}

fn default(store: &Path, model: &str, json: bool) -> Result<()> {
    let ask = Ask::ModelDefault {
        model: model.into(),
    };
    let chosen: StoreModel = with_store(store, ask, &quiet(), |fs| fs.set_default_model(model))?;
    report::emit(json, &chosen, || {
        format!("new chunks are coded with {}\n", chosen.name)
    })
}

fn gc(store: &Path, json: bool) -> Result<()> {
    let removed: Vec<StoreModel> =
        with_store(store, Ask::ModelGc, &quiet(), FileSystem::collect_models)?;
    report::emit(json, &removed, || match removed.is_empty() {
        true => "every model is needed\n".into(),
        false => removed
            .iter()
            .map(|model| format!("removed {} ({})\n", model.name, size(model.file_bytes)))
            .collect(),
    })
}

fn list_of(store: &Path, json: bool) -> Result<()> {
    let models: Vec<StoreModel> =
        with_store(store, Ask::Models, &Settings::look(), FileSystem::models)?;
    report::emit(json, &models, || {
        if models.is_empty() {
            return "the store holds no model\n".into();
        }
        let mut table = Table::new(&["name", "parameters", "bytes", "hash", "", ""]);
        for model in &models {
            let mark = |set: bool, text: &str| if set { text } else { "" }.to_string();
            table.row(vec![
                model.name.clone(),
                model.parameters.to_string(),
                model.file_bytes.to_string(),
                model.hash[..16.min(model.hash.len())].into(),
                mark(model.default, "default"),
                mark(model.in_use, "in use"),
            ]);
        }
        table.to_string()
    })
}

/// A model's figures.
fn describe(model: &Model) -> Result<Value> {
    serde_json::to_value(model.info()).context("writing JSON")
}

fn list(json: bool) -> Result<()> {
    let mut values = Vec::new();
    if let Some(bytes) = model::embedded() {
        values.push(describe(&Model::parse(bytes.to_vec())?)?);
    }
    report::emit(json, &values, || {
        if values.is_empty() {
            return "this build carries no model\n".into();
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
    let text = args.text.as_ref().map(read).transpose()?;
    let imported = model::import_calibrated(&args.dir, &options, text.as_deref().unwrap_or(TEXT))
        .with_context(|| format!("importing {}", args.dir.display()))?;
    let mut value = describe(&Model::parse(imported.file.clone())?)?;
    std::fs::write(&args.out, &imported.file)
        .with_context(|| format!("writing {}", args.out.display()))?;
    value["comparison"] = serde_json::to_value(&imported.comparison).context("writing JSON")?;
    report::emit(json, &value, || {
        let c = &imported.comparison;
        let floats = match (c.floats, &c.floats_missing) {
            (Some(floats), _) => format!(
                "{floats:.4} in floats ({:+.2} %)",
                (c.integers / floats - 1.0) * 100.0
            ),
            (None, reason) => format!("no figure in floats: {}", reason.as_deref().unwrap_or("?")),
        };
        format!(
            "{}: {} ({})\n{:.4} bits per byte of the first {} bytes of text, {floats}\n",
            args.out.display(),
            value["name"].as_str().unwrap_or_default(),
            size(imported.file.len() as u64),
            c.integers,
            c.bytes,
        )
    })
}
