//! `laconicfs codec bench`: size and speed of the codec on files.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::codec::{Choice, Coding};
use super::coded::read_chunks;
use super::exit::{Exit, failure};
use super::report::{self, Table, bits_per_byte, percent};
use super::{files, models, progress};
use crate::codec::{Codec, Coded, Kind};
use crate::parallel;

#[derive(Args)]
pub struct BenchArgs {
    /// Files to code, or directories to search for them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    coding: Coding,
}

/// Sizes and times of one file, or of all.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line {
    file: String,
    plain: u64,
    coded: u64,
    /// zstd -19 in the same chunks, or the plain chunk where that is smaller.
    zstd19: u64,
    bits_per_byte: f64,
    /// `coded` per `zstd19`.
    of_zstd19: f64,
    /// 10^6 plain bytes per second.
    encode_mb_s: f64,
    decode_mb_s: f64,
    #[serde(skip)]
    encode_s: f64,
    #[serde(skip)]
    decode_s: f64,
}

impl Line {
    fn add(&mut self, other: &Line) {
        self.plain += other.plain;
        self.coded += other.coded;
        self.zstd19 += other.zstd19;
        self.encode_s += other.encode_s;
        self.decode_s += other.decode_s;
    }

    fn finish(mut self) -> Line {
        let speed = |seconds: f64| match seconds > 0.0 {
            true => self.plain as f64 / 1e6 / seconds,
            false => 0.0,
        };
        self.encode_mb_s = speed(self.encode_s);
        self.decode_mb_s = speed(self.decode_s);
        self.bits_per_byte = bits_per_byte(self.coded, self.plain);
        self.of_zstd19 = match self.zstd19 {
            0 => 0.0,
            zstd => self.coded as f64 / zstd as f64,
        };
        self
    }
}

#[derive(Serialize)]
struct Bench {
    codec: Choice,
    chunk_size: usize,
    threads: usize,
    files: Vec<Line>,
    total: Line,
}

pub fn run(args: &BenchArgs, json: bool) -> Result<()> {
    let codec = models::codec(args.coding.model()?)?;
    let paths = files::below(&args.files)?;
    if paths.is_empty() {
        return Err(failure(Exit::Failure, "there are no files to measure"));
    }
    let bytes = paths.iter().map(|path| path.len).sum();
    let bar = progress::bytes("measuring", bytes);
    let mut total = Line {
        file: "total".into(),
        ..Line::default()
    };
    let mut lines = Vec::new();
    for file in &paths {
        let line = measure(&codec, &args.coding, &file.path, &mut |n| bar.inc(n))
            .with_context(|| file.path.display().to_string())?;
        total.add(&line);
        lines.push(line.finish());
    }
    bar.finish_and_clear();
    let bench = Bench {
        codec: args.coding.codec,
        chunk_size: args.coding.chunk_size,
        threads: args.coding.threads(),
        files: lines,
        total: total.finish(),
    };
    report::emit(json, &bench, || human(&bench))
}

/// Codes and decodes one file, batch by batch, so that memory is bounded.
fn measure(codec: &Codec, coding: &Coding, path: &Path, each: &mut dyn FnMut(u64)) -> Result<Line> {
    let mut input = BufReader::new(File::open(path).context("opening it")?);
    let mut line = Line {
        file: path.display().to_string(),
        ..Line::default()
    };
    let (threads, kind) = (coding.threads(), coding.codec.kind());
    loop {
        let limit = threads * 16;
        let chunks = read_chunks(&mut input, coding.chunk_size, limit)?;
        let start = Instant::now();
        let frames = parallel::map(threads, &chunks, |plain| codec.encode_as(kind, plain));
        line.encode_s += start.elapsed().as_secs_f64();
        let frames: Vec<Vec<u8>> = frames.into_iter().collect::<crate::Result<_>>()?;

        let coded: Vec<Coded> = (frames.iter().zip(&chunks))
            .map(|(frame, plain)| (frame.as_slice(), plain.len()))
            .collect();
        let start = Instant::now();
        let plains = codec.decode_all(threads, &coded);
        line.decode_s += start.elapsed().as_secs_f64();

        let zstd = parallel::map(threads, &chunks, |plain| {
            codec.encode_as(Some(Kind::Zstd), plain).map(|f| f.len())
        });
        for (((plain, frame), again), zstd) in chunks.iter().zip(&frames).zip(plains).zip(zstd) {
            if again? != *plain {
                return Err(failure(
                    Exit::Damaged,
                    "a chunk came back different: this is a bug of the codec, please report it",
                ));
            }
            line.plain += plain.len() as u64;
            line.coded += frame.len() as u64;
            line.zstd19 += zstd? as u64;
            each(plain.len() as u64);
        }
        if chunks.len() < limit {
            return Ok(line);
        }
    }
}

/// Two digits at least, however slow.
fn speed(mb_s: f64) -> String {
    match mb_s {
        fast if fast >= 1.0 => format!("{fast:.2}"),
        slow => format!("{slow:.4}"),
    }
}

fn human(bench: &Bench) -> String {
    let mut table = Table::new(&[
        "file",
        "bytes",
        "coded",
        "bits/byte",
        "zstd -19",
        "of zstd",
        "enc MB/s",
        "dec MB/s",
    ]);
    let row = |line: &Line| {
        vec![
            line.file.clone(),
            line.plain.to_string(),
            line.coded.to_string(),
            format!("{:.3}", line.bits_per_byte),
            line.zstd19.to_string(),
            percent(line.coded, line.zstd19),
            speed(line.encode_mb_s),
            speed(line.decode_mb_s),
        ]
    };
    for line in &bench.files {
        table.row(row(line));
    }
    table.rule();
    table.row(row(&bench.total));
    format!(
        "{table}chunks of {}, {} threads\n",
        report::size(bench.chunk_size as u64),
        bench.threads
    )
}
