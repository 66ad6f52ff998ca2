//! `laconicfs import`: plain files into a store.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::exit::{Exit, failure};
use super::place::{self, Place};
use super::{drain, progress, report};
use crate::backup::{Copied, CopyOptions, Plain, Stored, copy, measure};
use crate::filesystem::{FileSystem, Settings};

/// Failures that are shown to people one by one.
const SHOWN: usize = 20;

#[derive(Args)]
#[command(
    long_about = "Copy what lies in a directory into a store, with owners, permissions, times, \
        extended attributes, hard links, holes and special files. Links are copied, never \
        followed. What a store cannot hold, and what cannot be read, is left out and said.\n\n\
        A store that is not mounted is written directly, without FUSE, on all cores. Files that \
        are there with the same size and time are passed over: an import that was interrupted \
        goes on where it was, and one that is repeated takes what has changed.",
    after_help = "Examples:\n  \
        laconicfs import ~/notes ~/notes.store\n  \
        laconicfs import --drain /var/log/archive /srv/logs.store:2024\n  \
        laconicfs import --checksum ~/notes /mnt/notes    # into a mounted store"
)]
pub struct ImportArgs {
    /// Directory whose contents are copied
    from: PathBuf,
    /// A store or the mount point of one, and a folder in it, which must exist
    #[arg(value_name = "STORE|DIR[:PATH]")]
    to: PathBuf,
    /// Compare the bytes of files that seem to be there, not only size and time
    #[arg(long)]
    checksum: bool,
    /// Read everything back and compare every byte
    #[arg(long)]
    verify: bool,
    /// Leave out what is mounted below the directory
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Code everything as small as it gets before returning
    #[arg(long)]
    drain: bool,
}

/// What is said at the end.
pub struct Ended<'a> {
    pub verb: &'a str,
    pub to: &'a Path,
    pub hint: Option<String>,
}

pub fn run(args: &ImportArgs, json: bool) -> Result<()> {
    let from = Plain::new(&args.from)?;
    let place = place::find(&args.to)?;
    let (Place::Stored { store, .. } | Place::Mounted { store, .. }) = &place;
    let mut options = CopyOptions {
        checksum: args.checksum,
        verify: args.verify,
        one_filesystem: args.one_file_system,
        // A store that lies in what it takes in would never end.
        skip: vec![Plain::new(store)?.id()?],
        threads: crate::parallel::available(),
    };
    let copied = match &place {
        Place::Stored { store, path } => {
            let settings = Settings {
                // The cores are the import's; what waits is coded afterwards.
                drain_threads: 0,
                ..Settings::default()
            };
            let fs = FileSystem::open(store, &settings)?;
            let copied = stored(&fs, path, &from, &options, args.drain);
            let closed = fs.close().context("closing the store");
            copied.and_then(|copied| closed.map(|()| copied))
        }
        Place::Mounted { dir, .. } => {
            let to = Plain::new(dir)?;
            options.skip.push(to.id()?);
            let bar = progress::bytes("importing", measure(&from)?);
            let copied = copy(&from, &to, &options, &|bytes| bar.inc(bytes));
            bar.finish_and_clear();
            Ok(copied?)
        }
    }?;
    if args.drain && matches!(place, Place::Mounted { .. }) {
        drain::path(store)?;
    }
    let hint = (!args.drain && copied.files > 0).then(|| {
        format!(
            "what was copied is coded as small as it gets in the background of a mount, or now \
             by: laconicfs drain {}",
            args.to.display()
        )
    });
    let ended = Ended {
        verb: "imported",
        to: &args.to,
        hint,
    };
    report(&copied, &ended, json)
}

fn stored(
    fs: &FileSystem,
    path: &Path,
    from: &Plain,
    options: &CopyOptions,
    drain: bool,
) -> Result<Copied> {
    let to = Stored::new(fs.volume().clone(), path)
        .with_context(|| format!("looking for {} in the store", path.display()))?;
    let bar = progress::bytes("importing", measure(from)?);
    let copied = copy(from, &to, options, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let copied = copied?;
    if drain {
        drain::drain(fs)?;
    }
    Ok(copied)
}

/// Prints what a copy did; files that failed are a failure of the command.
pub fn report(copied: &Copied, ended: &Ended<'_>, json: bool) -> Result<()> {
    report::emit(json, copied, || human(copied, ended))?;
    match copied.failure_count {
        0 => Ok(()),
        1 => Err(failure(Exit::Failure, "one entry could not be copied")),
        many => Err(failure(
            Exit::Failure,
            format!("{many} entries could not be copied"),
        )),
    }
}

fn human(copied: &Copied, ended: &Ended<'_>) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    for failure in copied.failures.iter().take(SHOWN) {
        let _ = writeln!(out, "{}: {}", failure.path.display(), failure.reason);
    }
    for left in &copied.left_out {
        let _ = writeln!(
            out,
            "left out: {} of {} entries, {} among them ({})",
            left.what,
            left.count,
            left.example.display(),
            left.reason
        );
    }
    let _ = write!(
        out,
        "{} {} in {} files to {}",
        ended.verb,
        report::size(copied.bytes),
        copied.files,
        ended.to.display()
    );
    let others = [
        (copied.directories, "directories"),
        (copied.symlinks, "symbolic links"),
        (copied.specials, "special files"),
        (copied.hard_links, "further names"),
        (copied.equal, "files were there already"),
        (copied.verified, "files read back and compared"),
    ];
    for (count, what) in others {
        if count > 0 {
            let _ = write!(out, "; {count} {what}");
        }
    }
    out.push('\n');
    if let Some(hint) = &ended.hint {
        let _ = writeln!(out, "{hint}");
    }
    out
}
