//! `laconicfs snapshot`: pictures of a volume at one moment.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::exit::{Exit, failure};
use super::locate::{self, Found};
use super::progress;
use super::report::{self, Table, size};
use crate::control::Ask;
use crate::filesystem::{FileSystem, Report, Settings};
use crate::mount;
use crate::volume::{SNAPSHOTS_NAME, Snapshot};

#[derive(Subcommand)]
#[command(
    about = "Make, list, remove snapshots, or go back to one",
    long_about = "A snapshot shows the whole volume as it was at one moment, and cannot be \
        changed. Its files are found in the folder `.snapshots/NAME` in the root of the mount \
        (which is not listed, but can be entered). It shares all contents with the volume: it \
        costs some hundred bytes for each file, and later what the volume changes or deletes."
)]
pub enum SnapshotCommand {
    /// Make a snapshot, also while files are being written
    #[command(after_help = "Examples:\n  \
        laconicfs snapshot create ~/notes before-the-move\n  \
        laconicfs snapshot create ~/notes.store    # named by the time")]
    Create(CreateArgs),
    /// List the snapshots
    #[command(after_help = "Examples:\n  laconicfs snapshot list ~/notes\n  \
        ls ~/notes/.snapshots    # of a mounted store")]
    List(ListArgs),
    /// Make the volume what a snapshot is; of a store that is not mounted
    #[command(after_help = "Examples:\n  \
        laconicfs snapshot rollback ~/notes.store before-the-move\n\n\
        The present is kept as a snapshot of its own, so that this can be taken back.")]
    Rollback(RollbackArgs),
    /// Remove a snapshot and give back what only it holds
    #[command(after_help = "Examples:\n  \
        laconicfs snapshot delete ~/notes before-the-move")]
    Delete(DeleteArgs),
}

#[derive(Args)]
pub struct CreateArgs {
    /// A store or the mount point of one
    #[arg(value_name = "STORE|DIR")]
    path: PathBuf,
    /// Its name [default: the time, such as 2025-01-31T12-00-00]
    name: Option<String>,
}

#[derive(Args)]
pub struct ListArgs {
    /// A store or the mount point of one
    #[arg(value_name = "STORE|DIR")]
    path: PathBuf,
}

#[derive(Args)]
pub struct RollbackArgs {
    /// A store that is not mounted
    #[arg(value_name = "STORE")]
    path: PathBuf,
    /// The snapshot
    name: String,
    /// Do not keep the present as a snapshot
    #[arg(long)]
    discard: bool,
}

#[derive(Args)]
pub struct DeleteArgs {
    /// A store or the mount point of one
    #[arg(value_name = "STORE|DIR")]
    path: PathBuf,
    /// The snapshot
    name: String,
}

pub fn run(command: &SnapshotCommand, json: bool) -> Result<()> {
    match command {
        SnapshotCommand::Create(args) => create(args, json),
        SnapshotCommand::List(args) => list(args, json),
        SnapshotCommand::Rollback(args) => roll_back(args, json),
        SnapshotCommand::Delete(args) => delete(args, json),
    }
}

/// A name made of the time, for those who give none.
pub fn name_of_now() -> String {
    jiff::ZonedDateTime::now()
        .strftime("%Y-%m-%dT%H-%M-%S")
        .to_string()
}

fn create(args: &CreateArgs, json: bool) -> Result<()> {
    let name = args.name.clone().unwrap_or_else(name_of_now);
    let snapshot = make(&args.path, &name)?;
    report::emit(json, &snapshot, || {
        format!(
            "made the snapshot {} of {} files, {}\n",
            snapshot.name,
            snapshot.files,
            size(snapshot.logical)
        )
    })
}

/// Makes a snapshot, of a mounted store or not, with a bar.
pub fn make(path: &Path, name: &str) -> Result<Snapshot> {
    let bar = progress::rows("copying");
    let made = match locate::find(path)? {
        Found::Open(mut open) => {
            let report: Report = open.ask_for(Ask::Stat)?;
            if let Some(mounted) = report.mounted {
                // What the kernel still holds belongs to this moment too.
                mount::flush(&mounted.dir)?;
            }
            let ask = Ask::SnapshotCreate { name: name.into() };
            let made = open.ask(ask, &mut |rows| show(&bar, &rows))?;
            serde_json::from_value(made).context("the answer of the mount is malformed")?
        }
        Found::Closed(store) => writing(&store, |fs| {
            let made = fs
                .volume()
                .create_snapshot(name, &mut |rows| bar.set_position(rows));
            Ok(made?)
        })?,
    };
    bar.finish_and_clear();
    Ok(made)
}

fn show(bar: &indicatif::ProgressBar, rows: &Value) {
    bar.set_position(rows.as_u64().unwrap_or(0));
}

/// Opens a store to change its snapshots.
fn writing<T>(store: &Path, work: impl FnOnce(&FileSystem) -> Result<T>) -> Result<T> {
    let settings = Settings {
        drain_threads: 0,
        ..Settings::default()
    };
    let fs = FileSystem::open(store, &settings)?;
    let result = work(&fs);
    let closed = fs.close().context("closing the store");
    result.and_then(|done| closed.map(|()| done))
}

fn list(args: &ListArgs, json: bool) -> Result<()> {
    let snapshots = of(&args.path)?;
    report::emit(json, &snapshots, || {
        if snapshots.is_empty() {
            return "no snapshots; make one with: laconicfs snapshot create\n".into();
        }
        let mut table = Table::new(&["name", "made", "files", "directories", "logical", ""]);
        for snapshot in &snapshots {
            table.row(vec![
                snapshot.name.clone(),
                time(snapshot.created),
                snapshot.files.to_string(),
                snapshot.directories.to_string(),
                size(snapshot.logical),
                if snapshot.partial { "partial" } else { "" }.into(),
            ]);
        }
        table.to_string()
    })
}

/// The snapshots of a store, mounted or not.
pub fn of(path: &Path) -> Result<Vec<Snapshot>> {
    match locate::find(path)? {
        Found::Open(mut open) => open.ask_for(Ask::Snapshots),
        Found::Closed(store) => {
            let fs = FileSystem::open(&store, &Settings::look())?;
            let snapshots = fs.volume().snapshots();
            fs.close()?;
            Ok(snapshots?)
        }
    }
}

fn time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => {
            let local = time.to_zoned_datetime(jiff::tz::TimeZone::system());
            local.strftime("%Y-%m-%d %H:%M:%S").to_string()
        }
        Err(_) => "-".into(),
    }
}

#[derive(serde::Serialize)]
struct RolledBack {
    store: PathBuf,
    snapshot: String,
    /// The snapshot of what was there before.
    kept: Option<String>,
}

fn roll_back(args: &RollbackArgs, json: bool) -> Result<()> {
    let store = match locate::find(&args.path)? {
        Found::Closed(store) => store,
        Found::Open(_) => {
            return Err(failure(
                Exit::InUse,
                format!(
                    "{} is mounted, and what programs have open there cannot be taken back: \
                     unmount it first (laconicfs umount). Single files can be copied out of \
                     {}/{} at any time",
                    args.path.display(),
                    String::from_utf8_lossy(SNAPSHOTS_NAME),
                    args.name
                ),
            ));
        }
    };
    let bar = progress::rows("rolling back");
    let kept = writing(&store, |fs| {
        let volume = fs.volume();
        if !volume
            .snapshots()?
            .iter()
            .any(|known| known.name == args.name)
        {
            return Err(failure(
                Exit::Failure,
                format!(
                    "there is no snapshot {:?} in {}",
                    args.name,
                    store.display()
                ),
            ));
        }
        let kept = (!args.discard).then(|| format!("before-rollback-{}", name_of_now()));
        if let Some(kept) = &kept {
            volume.create_snapshot(kept, &mut |rows| bar.set_position(rows))?;
        }
        volume.roll_back(&args.name, &mut |rows| bar.set_position(rows))?;
        Ok(kept)
    })?;
    bar.finish_and_clear();
    let done = RolledBack {
        store,
        snapshot: args.name.clone(),
        kept,
    };
    report::emit(json, &done, || {
        let mut text = format!("the volume is what it was in {}\n", done.snapshot);
        if let Some(kept) = &done.kept {
            text.push_str(&format!("what it was before is kept as {kept}\n"));
        }
        text
    })
}

#[derive(serde::Serialize)]
struct Deleted {
    snapshot: String,
}

fn delete(args: &DeleteArgs, json: bool) -> Result<()> {
    let bar = progress::rows("removing");
    match locate::find(&args.path)? {
        Found::Open(mut open) => {
            let name = args.name.clone();
            open.ask(Ask::SnapshotDelete { name }, &mut |rows| show(&bar, &rows))?;
        }
        Found::Closed(store) => writing(&store, |fs| {
            let volume = fs.volume();
            Ok(volume.delete_snapshot(&args.name, &mut |rows| bar.set_position(rows))?)
        })?,
    }
    bar.finish_and_clear();
    let done = Deleted {
        snapshot: args.name.clone(),
    };
    report::emit(json, &done, || {
        format!("removed the snapshot {}\n", done.snapshot)
    })
}
