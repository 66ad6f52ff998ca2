//! `laconicfs stat`: a store in figures.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::locate::{self, Found};
use super::report::{self, Table, percent, size};
use crate::control::Ask;
use crate::filesystem::{FileSystem, Report, Settings};

#[derive(Args)]
#[command(
    long_about = "Show what a store holds and what it takes: bytes of the files, bytes of their \
        chunks by tier and codec, bytes on disk with everything counted, and what waits.\n\n\
        Works on a mounted store, named by its mount point or its directory, and on one that is \
        not mounted.",
    after_help = "Examples:\n  \
        laconicfs stat ~/notes\n  \
        laconicfs stat --json /srv/logs.store | jq .disk.total"
)]
pub struct StatArgs {
    /// A mount point, or a store
    #[arg(value_name = "DIR|STORE")]
    path: PathBuf,
}

pub fn run(args: &StatArgs, json: bool) -> Result<()> {
    let stat: Report = match locate::find(&args.path)? {
        Found::Open(mut open) => open.ask_for(Ask::Stat)?,
        Found::Closed(store) => {
            let fs = FileSystem::open(&store, &Settings::look())?;
            let report = fs.report();
            fs.close()?;
            report?
        }
    };
    report::emit(json, &stat, || human(&stat))
}

/// The report for people.
pub fn human(stat: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<12}{text}");
    };
    line("store", stat.store.display().to_string());
    line(
        "mounted",
        match &stat.mounted {
            Some(mounted) => format!("on {}, process {}", mounted.dir.display(), mounted.pid),
            None => "no".into(),
        },
    );
    line(
        "model",
        match &stat.model {
            Some(model) => format!(
                "{} ({})",
                model.name,
                &model.hash[..16.min(model.hash.len())]
            ),
            None => "none".into(),
        },
    );
    line("chunk size", size(stat.chunk_size));
    line(
        "files",
        format!(
            "{} files, {} directories, {} others",
            stat.files, stat.directories, stat.others
        ),
    );
    line("logical", size(stat.logical));
    if stat.snapshots > 0 {
        line(
            "snapshots",
            format!("{} of {} of files", stat.snapshots, size(stat.in_snapshots)),
        );
    }
    line(
        "on disk",
        format!(
            "{}, {} (database {}, value logs {}, model and others {})",
            size(stat.disk.total),
            report::against(stat.disk.total, stat.logical, "logical"),
            size(stat.disk.database),
            size(stat.disk.logs),
            size(stat.disk.other),
        ),
    );
    line(
        "disk left",
        format!(
            "{} of {}",
            size(stat.disk.available),
            size(stat.disk.capacity)
        ),
    );
    line(
        "queue",
        format!(
            "{} chunks, {} to code",
            stat.queue.chunks,
            size(stat.queue.plain)
        ),
    );
    let drain = &stat.drain;
    line(
        "drain",
        match (&drain.why, drain.rate) {
            (Some(why), _) => format!("rests: {why}"),
            (None, Some(rate)) => format!(
                "works at {}/s{}",
                size(rate as u64),
                match drain.seconds_left {
                    Some(left) => format!(", about {} to go", report::duration(left)),
                    None => String::new(),
                }
            ),
            (None, None) => "works".into(),
        },
    );
    let limit = |text: Option<String>| text.map(|text| format!(", {text}")).unwrap_or_default();
    line(
        "",
        format!(
            "{} threads at idle priority, {} % of their time; after {} s, hours: {}{}{}",
            drain.threads,
            drain.cpu_share,
            drain.quiet,
            drain.hours,
            limit(drain.max_load.map(|load| format!("load up to {load}"))),
            limit(
                drain
                    .min_battery
                    .map(|held| format!("battery from {held} %"))
            ),
        ),
    );
    line(
        "cache",
        format!(
            "{} of {}, {} hits, {} misses; {} wait to be written",
            size(stat.cache.bytes),
            size(stat.cache.limit),
            stat.cache.hits,
            stat.cache.misses,
            size(stat.cache.dirty),
        ),
    );
    if stat.damaged > 0 {
        line(
            "damaged",
            format!(
                "{} chunks could not be read since the mount; see: laconicfs fsck --scrub",
                stat.damaged
            ),
        );
    }
    out.push('\n');
    let mut table = Table::new(&["tier", "codec", "chunks", "plain", "stored", "of plain"]);
    let (mut chunks, mut plain, mut stored) = (0, 0, 0);
    for row in &stat.chunks {
        table.row(vec![
            row.tier.clone(),
            row.codec.clone(),
            row.chunks.to_string(),
            size(row.plain),
            size(row.stored),
            percent(row.stored, row.plain),
        ]);
        chunks += row.chunks;
        plain += row.plain;
        stored += row.stored;
    }
    table.rule();
    table.row(vec![
        "all".into(),
        String::new(),
        chunks.to_string(),
        size(plain),
        size(stored),
        percent(stored, plain),
    ]);
    out.push_str(&table.to_string());
    if stat.referenced > plain {
        let _ = writeln!(
            out,
            "equal chunks are kept once: {} of files rest in {} of chunks",
            size(stat.referenced),
            size(plain)
        );
    }
    out
}
