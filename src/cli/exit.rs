//! How the program ends: the one list of its exit statuses, and the sentences
//! that go with them; [`table`] lists them. `fsck` has those of fsck(8) instead.

use std::fmt;
use std::io::ErrorKind;

use super::helper::Role;
use crate::Error;

/// An exit status; see [`table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Failure = 1,
    Usage = 2,
    NotAStore = 3,
    NewerFormat = 4,
    InUse = 5,
    Model = 6,
    Damaged = 7,
    NoSpace = 8,
    Mount = 9,
    NotMounted = 10,
    NotDurable = 11,
    Config = 12,
    ReadOnly = 13,
}

/// The statuses that mount(8) expects of its helpers.
pub const HELPER_TABLE: &[(u8, &str)] = &[
    (0, "done"),
    (1, "the command line is wrong"),
    (
        32,
        "the mount failed; the line on standard error says why and what to do",
    ),
];

/// All statuses with their meaning. The numbers are a promise.
pub fn table() -> impl Iterator<Item = (u8, &'static str)> {
    let failures = Exit::ALL
        .into_iter()
        .map(|exit| (exit as u8, exit.meaning()));
    [(0, "done")].into_iter().chain(failures)
}

/// The same for `--help`.
pub fn help() -> String {
    let lines = table().map(|(status, meaning)| format!("  {status:>2}  {meaning}"));
    let lines = lines.collect::<Vec<_>>().join("\n");
    format!("Exit status:\n{lines}\nfsck has those of fsck(8): see its help")
}

impl Exit {
    const ALL: [Exit; 13] = [
        Exit::Failure,
        Exit::Usage,
        Exit::NotAStore,
        Exit::NewerFormat,
        Exit::InUse,
        Exit::Model,
        Exit::Damaged,
        Exit::NoSpace,
        Exit::Mount,
        Exit::NotMounted,
        Exit::NotDurable,
        Exit::Config,
        Exit::ReadOnly,
    ];

    fn meaning(self) -> &'static str {
        match self {
            Exit::Failure => "another failure; the message says what",
            Exit::Usage => "the command line is wrong",
            Exit::NotAStore => "the path is not a store, or is one already",
            Exit::NewerFormat => "a newer format: use a newer laconicfs",
            Exit::InUse => "the store is in use, or the mount is busy",
            Exit::Model => "a model is missing, altered, or cannot be used",
            Exit::Damaged => "stored data is damaged",
            Exit::NoSpace => "the disk that holds the store is full",
            Exit::Mount => "the mount failed: FUSE missing, mount point in use, bad option",
            Exit::NotMounted => "nothing is mounted there",
            Exit::NotDurable => "the store cannot be made durable; nothing was written",
            Exit::Config => "a setting is wrong, in a file, a variable or a flag",
            Exit::ReadOnly => "the store, or the disk that holds it, is read-only",
        }
    }

    /// The number for whoever started this program.
    pub fn for_caller(self, role: Role) -> u8 {
        match (role, self) {
            (Role::Program, exit) => exit as u8,
            (_, Exit::Usage) => 1,
            _ => 32,
        }
    }

    /// The status that another process of ours ended with or sent.
    pub fn from_status(status: u8) -> Exit {
        Self::ALL
            .into_iter()
            .find(|exit| *exit as u8 == status)
            .unwrap_or(Exit::Failure)
    }

    /// The status for an error that a command ends with.
    pub fn of(error: &anyhow::Error) -> Exit {
        for cause in error.chain() {
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                return failure.exit;
            }
            if let Some(error) = cause.downcast_ref::<Error>() {
                return Exit::of_library(error);
            }
            if let Some(error) = cause.downcast_ref::<std::io::Error>() {
                return Exit::of_system(error);
            }
        }
        Exit::Failure
    }

    fn of_library(error: &Error) -> Exit {
        match error {
            Error::NotAStore { .. } => Exit::NotAStore,
            Error::NewerFormat { .. } => Exit::NewerFormat,
            Error::Locked { .. } => Exit::InUse,
            Error::Model(_) => Exit::Model,
            Error::Corrupt(_) => Exit::Damaged,
            Error::NoSpace => Exit::NoSpace,
            Error::NotDurable(_) => Exit::NotDurable,
            Error::Config(_) => Exit::Config,
            Error::ReadOnly => Exit::ReadOnly,
            Error::Io { source, .. } => Exit::of_system(source),
            _ => Exit::Failure,
        }
    }

    fn of_system(error: &std::io::Error) -> Exit {
        // By its kind: libraries wrap errors of the system in their own.
        match error.kind() {
            ErrorKind::ReadOnlyFilesystem => Exit::ReadOnly,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Exit::NoSpace,
            _ => Exit::Failure,
        }
    }

    /// What to do about it, where the message does not say so itself.
    fn advice(self) -> Option<&'static str> {
        match self {
            Exit::Damaged => Some(
                "`laconicfs fsck --scrub STORE` lists all damage, --repair puts in order what can be",
            ),
            Exit::NoSpace => Some("free some space there and try again"),
            _ => None,
        }
    }
}

/// A failure that a command found itself, with its status.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error with this status and message.
pub fn failure(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure {
        exit,
        message: message.into(),
    })
}

/// The same error without the advice that goes with stores.
pub fn not_of_a_store(error: anyhow::Error) -> anyhow::Error {
    match Exit::of(&error) {
        Exit::Damaged => failure(Exit::Damaged, causes(&error)),
        _ => error,
    }
}

/// The line that a person reads: everything that is known, on one line.
pub fn message(error: &anyhow::Error) -> String {
    let mut line = causes(error);
    let from_library = error.chain().any(|cause| cause.is::<Error>());
    if let Some(advice) = Exit::of(error).advice()
        && from_library
    {
        line.push_str("; ");
        line.push_str(advice);
    }
    line
}

fn causes(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let part = cause.to_string();
        // An I/O error of the library prints its source itself.
        if !parts.last().is_some_and(|last| last.ends_with(&part)) {
            parts.push(part);
        }
    }
    parts.join(": ").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn statuses_come_back_from_their_numbers() {
        for exit in Exit::ALL {
            assert_eq!(Exit::from_status(exit as u8), exit);
            assert!(help().contains(&format!("\n  {:>2}  ", exit as u8)));
        }
        assert_eq!(Exit::from_status(200), Exit::Failure);
    }

    #[test]
    fn context_keeps_the_status_and_the_cause() {
        let error = Err::<(), _>(Error::NoSpace)
            .context("writing the store")
            .unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NoSpace);
        let line = message(&error);
        assert!(line.starts_with("writing the store: no space left"));
        assert!(line.ends_with("try again"));
    }

    #[test]
    fn only_stores_are_to_be_checked() {
        let damaged = || anyhow::Error::new(Error::Corrupt("cut".into())).context("chunk 3");
        assert!(message(&damaged()).contains("laconicfs"));
        let error = not_of_a_store(damaged());
        assert_eq!(message(&error), "chunk 3: damaged data: cut");
        assert_eq!(Exit::of(&error), Exit::Damaged);
    }

    #[test]
    fn what_is_read_only_or_full_has_its_status() {
        let of = |code| {
            let source = std::io::Error::from_raw_os_error(code);
            Exit::of(&anyhow::Error::new(source).context("writing x"))
        };
        assert_eq!(of(libc::EROFS), Exit::ReadOnly);
        assert_eq!(of(libc::ENOSPC), Exit::NoSpace);
        assert_eq!(of(libc::EIO), Exit::Failure);
    }

    #[test]
    fn a_cause_is_said_once() {
        let io = std::io::Error::from_raw_os_error(libc::EACCES);
        let error = anyhow::Error::new(Error::io("opening x")(io));
        assert_eq!(message(&error).matches("denied").count(), 1);
    }
}
