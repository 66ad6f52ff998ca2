//! `laconicfs drain`: coding now what would be coded in the background.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::exit::{Exit, failure};
use super::locate::{self, Found};
use super::{progress, report};
use crate::control::Ask;
use crate::filesystem::{FileSystem, Report, Settings};
use crate::mount;
use crate::tier::DrainProgress;

#[derive(Args)]
#[command(
    long_about = "Code every chunk that is stored by now as small as the codecs can, and wait \
        for it.\n\n\
        A mounted store does so by itself when chunks have been left alone for a while; this is \
        for those who want it done now. It may be interrupted at any time: nothing is lost, the \
        rest stays in the queue.",
    after_help = "Examples:\n  \
        laconicfs drain ~/notes          # of a mounted store\n  \
        laconicfs drain ~/notes.store    # mounted or not\n  \
        laconicfs drain --pause ~/notes  # no more in the background until --resume"
)]
pub struct DrainArgs {
    /// A mount point, or a store
    #[arg(value_name = "DIR|STORE")]
    path: PathBuf,
    /// Do nothing now, and have the mount code nothing in the background until --resume or the
    /// next mount
    #[arg(long, conflicts_with = "resume")]
    pause: bool,
    /// Let the mount go on in the background
    #[arg(long)]
    resume: bool,
}

pub fn run(args: &DrainArgs, json: bool) -> Result<()> {
    if args.pause || args.resume {
        return pause(args, json);
    }
    let done = path(&args.path)?;
    report::emit(json, &done, || {
        if done.chunks_done == 0 {
            return "nothing waits: every chunk is coded\n".into();
        }
        format!(
            "coded {} chunks of {}: {} before, {} after\n",
            done.chunks_done,
            report::size(done.plain_done),
            report::size(done.stored_before),
            report::size(done.stored_after),
        )
    })
}

/// Drains the store that a path means, with a bar.
pub fn path(path: &Path) -> Result<DrainProgress> {
    Ok(match locate::find(path)? {
        Found::Open(mut open) => {
            let report: Report = open.ask_for(Ask::Stat)?;
            if let Some(mounted) = report.mounted {
                // What the kernel still holds is to be coded as well.
                mount::flush(&mounted.dir)?;
            }
            let bar = progress::bytes("coding", 0);
            let mut last = DrainProgress::default();
            open.ask(Ask::Drain, &mut |value| {
                if let Ok(now) = serde_json::from_value(value) {
                    progress::drain(&bar, &now);
                    last = now;
                }
            })?;
            bar.finish_and_clear();
            last
        }
        Found::Closed(store) => closed(&store)?,
    })
}

fn pause(args: &DrainArgs, json: bool) -> Result<()> {
    let Found::Open(mut open) = locate::find(&args.path)? else {
        return Err(failure(
            Exit::NotMounted,
            format!(
                "{} is not mounted: nothing works in its background",
                args.path.display()
            ),
        ));
    };
    open.ask(
        if args.pause { Ask::Pause } else { Ask::Resume },
        &mut |_| (),
    )?;
    let done = serde_json::json!({ "paused": args.pause });
    report::emit(json, &done, || match args.pause {
        true => "the drain rests until `laconicfs drain --resume` or the next mount\n".into(),
        false => "the drain goes on\n".into(),
    })
}

fn closed(store: &Path) -> Result<DrainProgress> {
    let fs = FileSystem::open(store, &Settings::default())?;
    let result = drain(&fs);
    fs.close().context("closing the store")?;
    result
}

/// Drains a file system of this process, with a bar.
pub fn drain(fs: &FileSystem) -> Result<DrainProgress> {
    let bar = progress::bytes("coding", 0);
    let mut last = DrainProgress::default();
    fs.volume().tier().drain(&mut |now| {
        progress::drain(&bar, now);
        last = *now;
        true
    })?;
    bar.finish_and_clear();
    Ok(last)
}
