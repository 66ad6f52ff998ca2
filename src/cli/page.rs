//! `laconicfs report`: a store on one page.

mod html;
mod plots;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::exit::{Exit, failure};
use super::locate::{self, Found};
use super::report::{self, percent, size};
use super::stat;
use crate::codec::Kind;
use crate::control::Ask;
use crate::filesystem::{Chunks, FileSystem, Report, Settings, WholeReport};
use crate::mount;

#[derive(Args)]
#[command(
    long_about = "Show a store as a whole: sizes by codec and by type of file, how well files \
        were coded, how it has grown, and what could still be gained.\n\n\
        With --html, one page that needs nothing else: no network, no scripts. Every file's \
        chunks are counted, which takes a while in large stores.",
    after_help = "Examples:\n  \
        laconicfs report ~/notes --html notes.html\n  \
        laconicfs report ~/notes.store --json | jq .gains"
)]
pub struct ReportArgs {
    /// A mount point, or a store, mounted or not
    #[arg(value_name = "DIR|STORE")]
    path: PathBuf,
    /// Write a page for a browser here; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Something that would make a store smaller.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gain {
    /// What it is about.
    what: &'static str,
    /// Bytes on disk, about.
    bytes: u64,
    /// How to get them.
    how: String,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Page<'a> {
    #[serde(flatten)]
    whole: &'a WholeReport,
    gains: &'a [Gain],
}

pub fn run(args: &ReportArgs, json: bool) -> Result<()> {
    let whole = whole(&args.path)?;
    let gains = gains(&whole);
    if let Some(file) = &args.html {
        write(file, &html::page(&whole, &gains)?)?;
    }
    let page = Page {
        whole: &whole,
        gains: &gains,
    };
    report::emit(json, &page, || match &args.html {
        Some(file) => format!("wrote {}\n", file.display()),
        None => human(&whole, &gains),
    })
}

fn whole(path: &Path) -> Result<WholeReport> {
    match locate::find(path)? {
        Found::Open(mut open) => {
            let report: Report = open.ask_for(Ask::Stat)?;
            if let Some(mounted) = report.mounted {
                // What the kernel still holds counts as well.
                mount::flush(&mounted.dir)?;
            }
            open.ask_for(Ask::Report)
        }
        Found::Closed(store) => {
            let fs = FileSystem::open(&store, &Settings::look())?;
            let whole = fs.whole_report(&mut |_| true);
            fs.close().context("closing the store")?;
            Ok(whole?)
        }
    }
}

/// Replaces a file when the new one is whole.
fn write(file: &Path, text: &str) -> Result<()> {
    if file.is_dir() {
        return Err(failure(
            Exit::Failure,
            format!("{} is a folder: name a file", file.display()),
        ));
    }
    let failed = || format!("writing {}", file.display());
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut new = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    new.write_all(text.as_bytes()).with_context(failed)?;
    new.persist(file)
        .map_err(|error| error.error)
        .with_context(failed)?;
    Ok(())
}

/// What could still be gained, the most first. Estimates, from what the chunks
/// that are coded gained.
fn gains(whole: &WholeReport) -> Vec<Gain> {
    let (stat, survey) = (&whole.stat, &whole.survey);
    // What rests as it is says nothing about what shrinks, on either side.
    let sum = |tier: &str| {
        let shrank = |row: &&Chunks| row.tier == tier && row.codec != Kind::Raw.name();
        let rows = stat.chunks.iter().filter(shrank);
        rows.fold((0, 0), |(plain, stored), row| {
            (plain + row.plain, stored + row.stored)
        })
    };
    let (hot_plain, hot_stored) = sum("hot");
    let (cold_plain, cold_stored) = sum("cold");
    let becomes = |plain: u64| match cold_plain {
        0 => None,
        _ => Some((plain as f64 * cold_stored as f64 / cold_plain as f64) as u64),
    };
    let mut gains = Vec::new();
    let mut gain = |what, bytes: Option<u64>, how: String| {
        if let Some(bytes) = bytes.filter(|bytes| *bytes > 0) {
            gains.push(Gain { what, bytes, how });
        }
    };
    gain(
        "chunks that wait to be coded",
        becomes(hot_plain).map(|coded| hot_stored.saturating_sub(coded)),
        match &stat.drain.why {
            Some(why) if stat.mounted.is_some() => {
                format!("`laconicfs drain` does it now; the background rests: {why}")
            }
            _ => "`laconicfs drain` does it now, a mount by and by".into(),
        },
    );
    gain(
        "files whose policy asks for speed",
        becomes(survey.held_plain).map(|coded| survey.held_stored.saturating_sub(coded)),
        "set user.laconicfs.codec to auto where files are seldom read, then `laconicfs compress`"
            .into(),
    );
    let live: u64 = survey.coded.iter().map(|coded| coded.disk).sum();
    gain(
        "garbage in value logs",
        Some(stat.disk.logs.saturating_sub(live)),
        "given back when the logs are collected: in the background, and by `laconicfs drain`"
            .into(),
    );
    gains.sort_by_key(|gain| std::cmp::Reverse(gain.bytes));
    gains
}

fn human(whole: &WholeReport, gains: &[Gain]) -> String {
    let mut out = stat::human(&whole.stat);
    let mut table = report::Table::new(&["type", "files", "logical", "stored", "of plain"]);
    for kind in &whole.survey.kinds {
        table.row(vec![
            html::kind_name(kind),
            kind.sizes.files.to_string(),
            size(kind.sizes.logical),
            size(kind.sizes.stored),
            percent(kind.sizes.stored, kind.sizes.plain),
        ]);
    }
    out.push_str(&format!("\n{table}"));
    if !gains.is_empty() {
        out.push_str("\nwhat could still be gained, about:\n");
    }
    for gain in gains {
        let bytes = size(gain.bytes);
        out.push_str(&format!("  {bytes:>10}  {}: {}\n", gain.what, gain.how));
    }
    out
}

#[cfg(test)]
pub(super) mod tests;
