//! `laconicfs export`: the files of a store as plain files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::import::{self, Ended};
use super::place::{self, Place};
use super::progress;
use crate::backup::{CopyOptions, Plain, Stored, copy, measure};
use crate::filesystem::{FileSystem, Settings};

#[derive(Args)]
#[command(
    long_about = "Write the files of a store to a directory as plain files: contents with their \
        holes, names, owners, permissions, times, extended attributes, hard and symbolic links, \
        and, for root, device nodes. What this user or the other filesystem does not permit is \
        left out and said.\n\n\
        A store that is not mounted is read directly, without FUSE, on all cores. Files that are \
        in the directory with the same size and time are taken to be done, so an export that \
        was interrupted goes on where it was. Files that are only there stay.",
    after_help = "Examples:\n  \
        laconicfs export ~/notes.store /media/usb/notes\n  \
        laconicfs export ~/notes.store:2024/letters letters\n  \
        laconicfs export --verify ~/notes /srv/copy    # of a mounted store"
)]
pub struct ExportArgs {
    /// A store or the mount point of one, and a path in it
    #[arg(value_name = "STORE|DIR[:PATH]")]
    from: PathBuf,
    /// Directory to write to; made if it is missing
    #[arg(value_name = "OUT")]
    to: PathBuf,
    /// Read everything back and compare every byte
    #[arg(long)]
    verify: bool,
    /// Compare the bytes of files that seem to be done, not only size and time
    #[arg(long)]
    checksum: bool,
}

pub fn run(args: &ExportArgs, json: bool) -> Result<()> {
    let place = place::find(&args.from)?;
    let made = make_directory(&args.to)?;
    let to = Plain::new(&args.to)?;
    let mut options = CopyOptions {
        checksum: args.checksum,
        verify: args.verify,
        threads: crate::parallel::available(),
        ..CopyOptions::default()
    };
    let copied = match &place {
        Place::Stored { store, path } => {
            let fs = FileSystem::open(store, &Settings::look())?;
            let copied = Stored::new(fs.volume().clone(), path)
                .with_context(|| format!("looking for {} in the store", path.display()))
                .and_then(|from| {
                    let bar = progress::bytes("exporting", measure(&from)?);
                    let copied = copy(&from, &to, &options, &|bytes| bar.inc(bytes));
                    bar.finish_and_clear();
                    Ok(copied?)
                });
            fs.close()?;
            copied
        }
        Place::Mounted { dir, .. } => {
            let from = Plain::new(dir)?;
            options.skip = vec![to.id()?];
            let bar = progress::bytes("exporting", measure(&from)?);
            let copied = copy(&from, &to, &options, &|bytes| bar.inc(bytes));
            bar.finish_and_clear();
            Ok(copied?)
        }
    };
    if copied.is_err() && made {
        // Only if nothing was written to it.
        let _ = std::fs::remove_dir(&args.to);
    }
    let ended = Ended {
        verb: "exported",
        to: &args.to,
        hint: None,
    };
    import::report(&copied?, &ended, json)
}

/// Says whether it was made.
fn make_directory(path: &Path) -> Result<bool> {
    match std::fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("making {}", path.display())),
    }
}
