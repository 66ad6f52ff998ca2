//! `laconicfs du`: what files and folders take.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::locate::{self, Found};
use super::report::{self, Table, percent, size};
use crate::control::Ask;
use crate::filesystem::{FileSystem, Report, Settings};
use crate::mount;
use crate::usage::{Line, Query, Sizes, Sort, Usage};

#[derive(Args)]
#[command(
    long_about = "Show what files and folders take: how long they are, what the frames of their \
        chunks add up to, and what they hold on disk, where a chunk that several files share \
        counts once, for the first of them; then the sums by tier and codec.\n\n\
        On disk means frames and what the store keeps beside each: the record's header, the \
        chunk's name and its row. The database itself, models, and garbage that waits to be \
        collected are the whole store's: see `laconicfs stat`.",
    after_help = "Examples:\n  \
        laconicfs du ~/notes\n  \
        laconicfs du --files --sort ratio ~/notes/archive | head\n  \
        laconicfs du --depth 1 ~/notes.store         # not mounted\n  \
        laconicfs du --json ~/notes.store:archive"
)]
pub struct DuArgs {
    /// Files or folders in a mount, a mount or a store as a whole, or STORE:PATH
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Show folders down to this depth below each PATH [default: all]
    #[arg(long, short, value_name = "N")]
    depth: Option<usize>,
    /// Show files too
    #[arg(long, short)]
    files: bool,
    /// What comes first
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Show at most so many lines
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10_000)]
    limit: usize,
}

pub fn run(args: &DuArgs, json: bool) -> Result<()> {
    let (found, targets) = locate::targets(&args.paths)?;
    let query = Query {
        targets,
        depth: args.depth,
        files: args.files,
        sort: args.sort,
        limit: args.limit,
    };
    let usage: Usage = match found {
        Found::Open(mut open) => {
            let report: Report = open.ask_for(Ask::Stat)?;
            if let Some(mounted) = report.mounted {
                // What the kernel still holds counts as well.
                mount::flush(&mounted.dir)?;
            }
            open.ask_for(Ask::Du(query))?
        }
        Found::Closed(store) => {
            let fs = FileSystem::open(&store, &Settings::look())?;
            let usage = fs.usage(&query, &mut |_| true);
            fs.close().context("closing the store")?;
            usage?
        }
    };
    report::emit(json, &usage, || human(&usage))
}

fn cells(sizes: &Sizes) -> Vec<String> {
    vec![
        size(sizes.logical),
        size(sizes.stored),
        size(sizes.disk),
        percent(sizes.disk, sizes.logical),
        match sizes.waiting {
            0 => "-".into(),
            waiting => size(waiting),
        },
    ]
}

fn row(line: &Line) -> Vec<String> {
    let slash = if line.directory { "/" } else { "" };
    let path = line.path.display().to_string();
    let mut row = vec![format!("{}{slash}", path.trim_end_matches('/'))];
    row.extend(cells(&line.sizes));
    row
}

fn human(usage: &Usage) -> String {
    let mut table = Table::new(&[
        "path",
        "logical",
        "stored",
        "on disk",
        "of logical",
        "waits",
    ]);
    for line in &usage.lines {
        table.row(row(line));
    }
    table.rule();
    let mut total = vec![format!("{} files", usage.total.files)];
    total.extend(cells(&usage.total));
    table.row(total);
    let mut out = table.to_string();
    // Writing to a string cannot fail.
    if usage.more > 0 {
        let _ = writeln!(out, "{} more lines: see --limit", usage.more);
    }
    if !usage.coded.is_empty() {
        out.push('\n');
        let mut table = Table::new(&["tier", "codec", "chunks", "plain", "stored", "of plain"]);
        for coded in &usage.coded {
            table.row(vec![
                coded.tier.clone(),
                coded.codec.clone(),
                coded.chunks.to_string(),
                size(coded.plain),
                size(coded.stored),
                percent(coded.stored, coded.plain),
            ]);
        }
        out.push_str(&table.to_string());
    }
    let total = &usage.total;
    if total.shared > 0 {
        let _ = writeln!(
            out,
            "{} of {} chunks are named more than once and kept once",
            total.shared, total.chunks
        );
    }
    if total.overhead > 0 {
        let _ = writeln!(
            out,
            "records and rows beside the frames take {} of what is on disk",
            size(total.overhead)
        );
    }
    out
}
