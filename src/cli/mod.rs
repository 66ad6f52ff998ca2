//! The commands of the `laconicfs` binary: one file each, and what they share.

mod bench;
mod codec;
mod coded;
mod config;
mod daemon;
mod demo;
mod drain;
mod du;
mod exit;
mod export;
mod files;
mod fsck;
mod helper;
mod import;
mod locate;
mod logging;
mod manual;
mod mkfs;
mod model;
mod models;
mod mount;
mod page;
mod pipe;
mod place;
mod progress;
mod pulse;
mod recode;
mod report;
mod send;
mod snapshot;
mod stat;
mod top;
mod umount;

use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use exit::Exit;
use helper::Role;

use crate::config::size;

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
    after_help = exit::help(),
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
    Mount(Box<mount::MountArgs>),
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
    /// Show the settings in force, or check a file of them
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Use or measure the codec alone, on files
    #[command(subcommand)]
    Codec(codec::CodecCommand),
    /// List, describe, import, add or remove models
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Ask a mount whether it answers
    #[command(hide = true)]
    Probe(pulse::ProbeArgs),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Manual(manual::ManualArgs),
    /// Print the completions for a shell
    #[command(hide = true)]
    Completions(manual::CompletionsArgs),
    /// See it work: a temporary store, a mount, every byte compared
    Demo(demo::DemoArgs),
}

/// Runs the command line and returns the process's exit status.
pub fn main() -> ExitCode {
    let started = helper::understand(std::env::args_os().collect());
    let status = |exit: Exit| ExitCode::from(exit.for_caller(started.role));
    let cli = match Cli::try_parse_from(&started.args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure.
            let _ = error.print();
            let fsck = |arg: &OsString| arg == "fsck" || arg == "check";
            return match error.use_stderr() {
                true if matches!(started.role, Role::Program)
                    && started.args.get(1).is_some_and(fsck) =>
                {
                    ExitCode::from(fsck::USAGE)
                }
                true => status(Exit::Usage),
                false => ExitCode::SUCCESS,
            };
        }
    };
    if started.fake {
        return ExitCode::SUCCESS;
    }
    match catch_unwind(AssertUnwindSafe(|| run(&cli))) {
        Ok(Ok(status)) => ExitCode::from(status),
        Ok(Err(error)) => {
            let message = exit::message(&error);
            // Empty where another process says it.
            if !message.is_empty() {
                complain(&message);
            }
            match &cli.command {
                Command::Fsck(_) => ExitCode::from(fsck::FAILED),
                _ => status(Exit::of(&error)),
            }
        }
        Err(_) => {
            complain("that was a bug of laconicfs, please report it; stored data is not affected");
            status(Exit::Failure)
        }
    }
}

/// Returns the exit status of what went well.
fn run(cli: &Cli) -> Result<u8> {
    let json = cli.json;
    // A mount that serves logs as its configuration says.
    if !matches!(&cli.command, Command::Mount(args) if args.serves()) {
        logging::of_command();
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
        Command::Config(command) => config::run(command, json),
        Command::Codec(command) => codec::run(command, json),
        Command::Model(command) => model::run(command, json),
        Command::Probe(args) => pulse::probe(args),
        Command::Manual(args) => manual::write(args, Cli::command()),
        Command::Completions(args) => manual::complete(args, Cli::command()),
        Command::Demo(args) => demo::run(args, json),
    };
    done.map(|()| fsck::CLEAN)
}

fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "laconicfs: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Commands and arguments without a word of help, by their path.
    fn unexplained(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        if command.get_about().is_none() {
            found.push(path.into());
        }
        for arg in command.get_arguments() {
            if arg.get_help().is_none() && arg.get_long_help().is_none() {
                found.push(format!("{path} {}", arg.get_id()));
            }
        }
        for below in command.get_subcommands() {
            unexplained(below, &format!("{path} {}", below.get_name()), found);
        }
    }

    #[test]
    fn every_command_and_argument_has_help() {
        let mut command = Cli::command();
        command.build();
        let mut found = Vec::new();
        unexplained(&command, "laconicfs", &mut found);
        assert_eq!(found, Vec::<String>::new());
        // And it would be found if one had none.
        let silent = clap::Command::new("silent").arg(clap::Arg::new("argument"));
        unexplained(&silent, "silent", &mut found);
        assert_eq!(found, ["silent", "silent argument"]);
    }
}
