//! `laconicfs codec`: the codec alone, on files.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::coded::{self, Header};
use super::exit::{self, Exit, failure};
use super::report::{bits_per_byte, percent, size};
use super::{bench, models, progress, report};
use crate::codec::Kind;
use crate::lm::model::{self, Model};
use crate::parallel;

#[derive(Subcommand)]
pub enum CodecCommand {
    /// Code a file
    #[command(
        long_about = "Code a file in chunks, one after another behind a small header: the size \
            of OUT is what the codec costs. The model is not part of OUT; its hash is.",
        after_help = "Example:\n  laconicfs codec encode book.txt book.lcn --chunk-size 256k"
    )]
    Encode(EncodeArgs),
    /// Decode a file that `encode` made
    #[command(
        long_about = "Decode a file that `codec encode` made. Every chunk is compared with the \
            hash of what was coded; OUT appears only when all of it is right.",
        after_help = "Example:\n  laconicfs codec decode book.lcn book.txt"
    )]
    Decode(DecodeArgs),
    /// Measure size and speed on files
    #[command(
        long_about = "Code and decode files in memory, compare, and show bits per byte, the size \
            against zstd -19 in the same chunks, and MB/s both ways (10^6 plain bytes per \
            second, all threads together). Directories are searched for files.",
        after_help = "Examples:\n  laconicfs codec bench *.txt\n  \
            laconicfs codec bench src/ --codec mix --threads 1 --json"
    )]
    Bench(bench::BenchArgs),
}

/// How to code, shared by `encode` and `bench`.
#[derive(Args)]
pub struct Coding {
    /// Plain bytes of a chunk, a power of two
    #[arg(long, value_name = "SIZE", default_value = "64k", value_parser = crate::config::size::parse_chunk)]
    pub chunk_size: usize,
    /// Threads to code with [default: all]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// The codec to use; `auto` takes the smallest for each chunk
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    pub codec: Choice,
    #[arg(long, value_name = "MODEL", help = models::HELP)]
    pub model: Option<String>,
}

impl Coding {
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(parallel::available).max(1)
    }

    /// The model, where this coding may need one. Asking for `lm` without
    /// having one is an error, and said before any work.
    pub fn model(&self) -> Result<Option<Model>> {
        if matches!(self.codec, Choice::Raw | Choice::Zstd) {
            return Ok(None);
        }
        let model = models::load(self.model.as_deref())?;
        if model.is_none() && self.codec == Choice::Lm {
            return Err(failure(
                Exit::Model,
                "the codec `lm` needs a model: give one with --model FILE",
            ));
        }
        Ok(model)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    Raw,
    Zstd,
    Mix,
    Lm,
    Auto,
}

impl Choice {
    pub fn kind(self) -> Option<Kind> {
        match self {
            Choice::Raw => Some(Kind::Raw),
            Choice::Zstd => Some(Kind::Zstd),
            Choice::Mix => Some(Kind::Mix),
            Choice::Lm => Some(Kind::Lm),
            Choice::Auto => None,
        }
    }
}

#[derive(Args)]
pub struct EncodeArgs {
    /// File to code
    input: PathBuf,
    /// File to write; one that is there is replaced when all went well
    output: PathBuf,
    #[command(flatten)]
    coding: Coding,
}

#[derive(Args)]
pub struct DecodeArgs {
    /// File to decode
    input: PathBuf,
    /// File to write; one that is there is replaced when all went well
    output: PathBuf,
    /// Threads to decode with [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[arg(long, value_name = "MODEL", help = models::HELP)]
    model: Option<String>,
}

pub fn run(command: &CodecCommand, json: bool) -> Result<()> {
    match command {
        CodecCommand::Encode(args) => encode(args, json),
        CodecCommand::Decode(args) => decode(args, json),
        CodecCommand::Bench(args) => bench::run(args, json),
    }
    .map_err(exit::not_of_a_store)
}

/// What became of a file.
#[derive(Serialize)]
struct Done {
    plain: u64,
    coded: u64,
    bits_per_byte: f64,
}

fn encode(args: &EncodeArgs, json: bool) -> Result<()> {
    let model = args.coding.model()?;
    let header = Header {
        chunk_size: args.coding.chunk_size,
        plain_len: 0,
        model: model.as_ref().map(Model::hash),
    };
    let codec = models::codec(model)?;
    let (mut input, len) = open(&args.input)?;
    let bar = progress::bytes("coding", len);
    let (plain, coded) = replace(&args.output, |output| {
        coded::encode(
            &codec,
            args.coding.codec.kind(),
            header,
            args.coding.threads(),
            &mut input,
            output,
            &mut |plain| bar.inc(plain),
        )
    })?;
    bar.finish_and_clear();
    emit(plain, coded, json, |done| {
        format!(
            "{}: {} plain, {} coded ({}, {:.3} bits per byte)\n",
            args.output.display(),
            size(plain),
            size(coded),
            percent(coded, plain),
            done.bits_per_byte
        )
    })
}

fn decode(args: &DecodeArgs, json: bool) -> Result<()> {
    let (mut input, coded) = open(&args.input)?;
    let name = || args.input.display().to_string();
    let header = Header::read(&mut input).with_context(name)?;
    let model = match header.model {
        Some(hash) => Some(wanted(&hash, args.model.as_deref())?),
        None => None,
    };
    let codec = models::codec(model)?;
    let threads = args.threads.unwrap_or_else(parallel::available).max(1);
    let bar = progress::bytes("decoding", header.plain_len);
    replace(&args.output, |output| {
        let mut each = |plain| bar.inc(plain);
        coded::decode(&codec, &header, threads, &mut input, output, &mut each).with_context(name)
    })?;
    bar.finish_and_clear();
    let plain = header.plain_len;
    emit(plain, coded, json, |_| {
        format!(
            "{}: {} out of {} coded, every chunk as it was\n",
            args.output.display(),
            size(plain),
            size(coded),
        )
    })
}

fn emit(plain: u64, coded: u64, json: bool, human: impl FnOnce(&Done) -> String) -> Result<()> {
    let done = Done {
        plain,
        coded,
        bits_per_byte: bits_per_byte(coded, plain),
    };
    report::emit(json, &done, || human(&done))
}

/// The model with this hash: the one named, else the embedded one.
fn wanted(hash: &[u8; 32], named: Option<&str>) -> Result<Model> {
    let loaded = match (named, model::embedded()) {
        (Some(_), _) | (None, Some(_)) => models::load(named)?,
        (None, None) => None,
    };
    match loaded {
        Some(model) if model.hash() == *hash => Ok(model),
        _ => Err(failure(
            Exit::Model,
            format!(
                "the file was coded with the model whose BLAKE3 hash is {}: give it with \
                 --model FILE",
                models::hex(hash)
            ),
        )),
    }
}

fn open(path: &Path) -> Result<(BufReader<File>, u64)> {
    let failed = || format!("opening {}", path.display());
    let file = File::open(path).with_context(failed)?;
    let metadata = file.metadata().with_context(failed)?;
    if metadata.is_dir() {
        return Err(failure(
            Exit::Failure,
            format!("{} is a directory: name a file", path.display()),
        ));
    }
    Ok((BufReader::new(file), metadata.len()))
}

/// Lets `write` fill a new file that takes the place of `path` when it
/// succeeds. Returns its result and the file's length.
fn replace<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<T>,
) -> Result<(T, u64)> {
    let failed = || format!("writing {}", path.display());
    // The rename below would put a file in the place of a device such as
    // /dev/null, or of what /dev/stdout links to.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(failure(
            Exit::Failure,
            format!("{} is not a regular file: name another", path.display()),
        ));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Permissions as an ordinary new file would have: the umask applies.
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let file = tempfile::Builder::new()
        .permissions(everyone)
        .tempfile_in(folder)
        .with_context(failed)?;
    let mut output = BufWriter::new(file.as_file());
    let result = write(&mut output)?;
    output.flush().with_context(failed)?;
    drop(output);
    let len = file.as_file().metadata().with_context(failed)?.len();
    file.persist(path)
        .map_err(|error| error.error)
        .with_context(failed)?;
    Ok((result, len))
}
