//! The program from outside, as the tests of its commands run it.
#![allow(dead_code)] // each of them takes what it needs

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_laconicfs");

/// The program with these arguments, nothing to read, and its own log.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(args)
        .env_remove("LACONICFS_LOG")
        .stdin(Stdio::null());
    command
}

pub fn laconicfs(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// What a command printed, which must have succeeded.
#[track_caller]
pub fn printed(args: &[&str], output: Output) -> Vec<u8> {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    output.stdout
}

/// The one line of error of a command, which must have ended with this status.
#[track_caller]
pub fn complaint(args: &[&str], output: Output, status: i32) -> String {
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {error}");
    assert!(error.starts_with("laconicfs: "), "{error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

/// Runs a command that must succeed; returns what it printed.
#[track_caller]
pub fn works(args: &[&str]) -> String {
    String::from_utf8(printed(args, laconicfs(args))).unwrap()
}

/// Runs a command that must end with this status and one line of error.
#[track_caller]
pub fn fails(args: &[&str], status: i32) -> String {
    complaint(args, laconicfs(args), status)
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Whether mounts can be made here; says so if not.
pub fn fuse() -> bool {
    let opened = File::options().read(true).write(true).open("/dev/fuse");
    if opened.is_err() {
        eprintln!("skipped: /dev/fuse is missing or may not be opened");
    }
    opened.is_ok()
}
