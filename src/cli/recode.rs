//! `laconicfs compress` and `recompress`: coding again what is stored.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::exit::{Exit, failure};
use super::locate::{self, Found};
use super::{progress, report};
use crate::control::Ask;
use crate::filesystem::{FileSystem, Report, Settings};
use crate::mount;
use crate::tier::RecodeProgress;

#[derive(Args)]
#[command(
    long_about = "Code files, and folders with all that is in them, now: as small as their \
        policies allow (the attribute user.laconicfs.codec, or chattr +c and -c). What is coded \
        that way already is passed over, so this is also how a changed policy reaches what is \
        stored.\n\n\
        It may be interrupted at any time: what is coded stays, and the same command goes on \
        where it ended.",
    after_help = "Examples:\n  \
        laconicfs compress ~/notes/archive\n  \
        setfattr -n user.laconicfs.codec -v zstd ~/notes/hot && laconicfs compress ~/notes/hot\n  \
        laconicfs compress ~/notes.store:archive    # of a store that is not mounted"
)]
pub struct CompressArgs {
    /// Files or folders in a mount, a mount or a store as a whole, or STORE:PATH
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

#[derive(Args)]
#[command(
    long_about = "Code files, and folders with all that is in them, again with another model of \
        the store, whatever they were coded with before.\n\n\
        The store keeps every model that a chunk still needs; `model gc` removes the others. It \
        may be interrupted at any time: the same command goes on where it ended.",
    after_help = "Example:\n  \
        laconicfs model add ~/notes.store big.lcm\n  \
        laconicfs recompress --model big ~/notes/archive\n  \
        laconicfs model gc ~/notes.store"
)]
pub struct RecompressArgs {
    /// Model of the store: its name, or the beginning of its hash
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// Files or folders in a mount, a mount or a store as a whole, or STORE:PATH
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub fn compress(args: &CompressArgs, json: bool) -> Result<()> {
    run(&args.paths, None, json)
}

pub fn recompress(args: &RecompressArgs, json: bool) -> Result<()> {
    run(&args.paths, Some(&args.model), json)
}

fn run(paths: &[PathBuf], model: Option<&str>, json: bool) -> Result<()> {
    let (found, targets) = locate::targets(paths)?;
    let bar = progress::bytes("coding", 0);
    let done: RecodeProgress = match found {
        Found::Open(mut open) => {
            let report: Report = open.ask_for(Ask::Stat)?;
            if let Some(mounted) = report.mounted {
                // What the kernel still holds is to be coded as well.
                mount::flush(&mounted.dir)?;
            }
            let ask = Ask::Recode {
                targets,
                model: model.map(String::from),
            };
            let done = open.ask(ask, &mut |value| {
                if let Ok(now) = serde_json::from_value(value) {
                    progress::recode(&bar, &now);
                }
            })?;
            serde_json::from_value(done).context("the answer of the mount is malformed")?
        }
        Found::Closed(store) => {
            let settings = Settings {
                drain_threads: 0,
                ..Settings::default()
            };
            let fs = FileSystem::open(&store, &settings)?;
            let done = fs.recode(&targets, model, &mut |now| {
                progress::recode(&bar, now);
                true
            });
            fs.close().context("closing the store")?;
            done?
        }
    };
    bar.finish_and_clear();
    report::emit(json, &done, || human(&done))?;
    match done {
        RecodeProgress { interrupted, .. } if interrupted => Err(failure(
            Exit::Failure,
            "interrupted: the same command goes on from here",
        )),
        RecodeProgress { chunks_failed, .. } if chunks_failed > 0 => Err(failure(
            Exit::Damaged,
            format!("{chunks_failed} chunks could not be read and stay as they are"),
        )),
        _ => Ok(()),
    }
}

fn human(done: &RecodeProgress) -> String {
    let kept = match done.chunks_kept {
        0 => String::new(),
        kept => format!("; {kept} chunks were coded that way already"),
    };
    match done.chunks_coded {
        0 => format!("nothing to code in {} files{kept}\n", done.files_done),
        coded => format!(
            "coded {coded} chunks of {} files: {} before, {} after{kept}\n",
            done.files_done,
            report::size(done.stored_before),
            report::size(done.stored_after),
        ),
    }
}
