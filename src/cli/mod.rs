//! The commands of the `laconicfs` binary: one file each, and what they share.

mod bench;
mod codec;
mod coded;
mod daemon;
mod demo;
mod drain;
mod du;
mod exit;
mod export;
mod files;
mod fsck;
mod import;
mod locate;
mod logging;
mod mkfs;
mod model;
mod models;
mod mount;
mod page;
mod pipe;
mod place;
mod progress;
mod recode;
mod report;
mod send;
mod size;
mod snapshot;
mod stat;
mod top;
mod umount;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use exit::Exit;

#[derive(Parser)]
#[command(
    name = "laconicfs",
    version,
    about = "A filesystem whose files rest as chunks coded by a small language model",
    long_about = "laconicfs is a filesystem of few words: you mount a directory and use it like \
        any other, and the contents of its files rest on disk as chunks that a small language \
        model has coded, at about half of what zstd -19 makes of text.\n\n\
        A *store* is the directory that holds one volume; `mkfs` makes it, `mount` shows its \
        files. Writes land at once, coded fast; in the background a *drain* codes chunks that \
        are left alone as small as they get.\n\n\
        LACONICFS_LOG=info (or debug) shows what the program does.",
    after_help = exit::HELP,
    arg_required_else_help = true
)]
struct Cli {
    /// Print reports as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a store
    Mkfs(mkfs::MkfsArgs),
    /// Mount a store on a directory
    Mount(mount::MountArgs),
    /// Unmount, and wait until everything is on disk
    #[command(visible_alias = "unmount")]
    Umount(umount::UmountArgs),
    /// Code now what waits to be coded
    Drain(drain::DrainArgs),
    /// Show what a store holds and takes
    Stat(stat::StatArgs),
    /// Show what files and folders take, by codec and tier
    Du(du::DuArgs),
    /// Show live what a mounted store does
    Top(top::TopArgs),
    /// Show a store on one page, with plots
    Report(page::ReportArgs),
    /// Code files and folders now, as their policies say
    Compress(recode::CompressArgs),
    /// Code files and folders again, with another model
    Recompress(recode::RecompressArgs),
    /// Check a store that is not mounted, and repair it
    #[command(visible_alias = "check")]
    Fsck(fsck::FsckArgs),
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Write a snapshot as a stream, for `receive`
    Send(send::SendArgs),
    /// Make a store, or a snapshot, of a stream
    Receive(send::ReceiveArgs),
    /// Copy plain files into a store
    Import(import::ImportArgs),
    /// Copy the files of a store out as plain files
    Export(export::ExportArgs),
    /// Use or measure the codec alone, on files
    #[command(subcommand)]
    Codec(codec::CodecCommand),
    /// List, describe, import, add or remove models
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// See it work: a temporary store, a mount, every byte compared
    Demo(demo::DemoArgs),
}

/// Runs the command line and returns the process's exit status.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(as_mount_helper(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure.
            let _ = error.print();
            let fsck = |arg: &OsString| arg == "fsck" || arg == "check";
            return match error.use_stderr() {
                true if std::env::args_os().nth(1).as_ref().is_some_and(fsck) => {
                    ExitCode::from(fsck::USAGE)
                }
                true => ExitCode::from(Exit::Usage as u8),
                false => ExitCode::SUCCESS,
            };
        }
    };
    match catch_unwind(AssertUnwindSafe(|| run(&cli))) {
        Ok(Ok(status)) => ExitCode::from(status),
        Ok(Err(error)) => {
            complain(&exit::message(&error));
            ExitCode::from(match &cli.command {
                Command::Fsck(_) => fsck::FAILED,
                _ => Exit::of(&error) as u8,
            })
        }
        Err(_) => {
            complain("that was a bug of laconicfs, please report it; stored data is not affected");
            ExitCode::from(Exit::Failure as u8)
        }
    }
}

/// Returns the exit status of what went well.
fn run(cli: &Cli) -> Result<u8> {
    let json = cli.json;
    // The daemon of a mount logs to its store.
    if !matches!(&cli.command, Command::Mount(args) if args.logs_itself()) {
        logging::to_stderr();
    }
    let done = match &cli.command {
        Command::Mkfs(args) => mkfs::run(args, json),
        Command::Mount(args) => mount::run(args, json),
        Command::Umount(args) => umount::run(args, json),
        Command::Drain(args) => drain::run(args, json),
        Command::Stat(args) => stat::run(args, json),
        Command::Du(args) => du::run(args, json),
        Command::Top(args) => top::run(args, json),
        Command::Report(args) => page::run(args, json),
        Command::Compress(args) => recode::compress(args, json),
        Command::Recompress(args) => recode::recompress(args, json),
        Command::Fsck(args) => return fsck::run(args, json),
        Command::Snapshot(command) => snapshot::run(command, json),
        Command::Send(args) => send::send_stream(args, json),
        Command::Receive(args) => send::receive(args, json),
        Command::Import(args) => import::run(args, json),
        Command::Export(args) => export::run(args, json),
        Command::Codec(command) => codec::run(command, json),
        Command::Model(command) => model::run(command, json),
        Command::Demo(args) => demo::run(args, json),
    };
    done.map(|()| fsck::CLEAN)
}

fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "laconicfs: {message}");
}

/// mount(8) calls `mount.laconicfs STORE DIR [-sfnv] [-N NAMESPACE] [-o
/// OPTIONS] [-t TYPE]`, and its helper for FUSE calls `laconicfs STORE DIR -o
/// OPTIONS`: both become `laconicfs mount STORE DIR -o OPTIONS`.
fn as_mount_helper(args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().map(Path::new).and_then(Path::file_name);
    let helper = name.is_some_and(|name| name.as_bytes().starts_with(b"mount."));
    let bare = args.len() > 2 && args[1].as_bytes().contains(&b'/');
    if !helper && !bare {
        return args;
    }
    let mut args = args.into_iter();
    let mut out: Vec<OsString> = args.next().into_iter().collect();
    out.push("mount".into());
    while let Some(arg) = args.next() {
        let is = |text: &str| arg == OsStr::new(text);
        if helper && (is("-N") || is("-t")) {
            args.next();
        } else if helper && (is("-s") || is("-n") || is("-v") || is("-i")) {
            // About mtab and unknown options: nothing to us.
        } else {
            out.push(arg);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mount_helpers_become_mount() {
        let turned = |args: &[&str]| {
            let args = args.iter().map(OsString::from).collect();
            let args = as_mount_helper(args).into_iter();
            args.map(|a| a.into_string().unwrap()).collect::<Vec<_>>()
        };
        let full = [
            "/sbin/mount.laconicfs",
            "a",
            "/m",
            "-n",
            "-t",
            "laconicfs",
            "-o",
            "ro",
        ];
        assert_eq!(
            turned(&full),
            ["/sbin/mount.laconicfs", "mount", "a", "/m", "-o", "ro"]
        );
        assert_eq!(
            turned(&["laconicfs", "/s", "/m", "-o", "rw"]),
            ["laconicfs", "mount", "/s", "/m", "-o", "rw"]
        );
        assert_eq!(
            turned(&["laconicfs", "stat", "/m"]),
            ["laconicfs", "stat", "/m"]
        );
    }
}
