//! How the program ends: the one list of its exit statuses, and the sentences
//! that go with them.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | another failure; the message says what |
//! | 2 | the command line is wrong |
//! | 3 | the path is not a store, or is one already |
//! | 4 | the store, file or model has a newer format: use a newer laconicfs |
//! | 5 | the store is in use, or the mount is busy |
//! | 6 | a model is missing, altered, or cannot be used |
//! | 7 | stored data is damaged |
//! | 8 | the disk that holds the store is full |
//! | 9 | the mount failed: FUSE missing, a mount point in use, a bad option |
//! | 10 | nothing is mounted there |
//! | 11 | the store cannot be made durable; nothing was written |
//!
//! `fsck` has those of fsck(8) instead.

use std::fmt;

use crate::Error;

/// An exit status; see the module's table.
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
}

/// The same table for `--help`.
pub const HELP: &str = "\
Exit status:
   0  done
   1  another failure; the message says what
   2  the command line is wrong
   3  the path is not a store, or is one already
   4  a newer format: use a newer laconicfs
   5  the store is in use, or the mount is busy
   6  a model is missing, altered, or cannot be used
   7  stored data is damaged
   8  the disk that holds the store is full
   9  the mount failed: FUSE missing, mount point in use, bad option
  10  nothing is mounted there
  11  the store cannot be made durable; nothing was written
fsck has those of fsck(8): see its help";

impl Exit {
    const ALL: [Exit; 11] = [
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
    ];

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

/// The line that a person reads: everything that is known, on one line.
pub fn message(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let part = cause.to_string();
        // An I/O error of the library prints its source itself.
        if !parts.last().is_some_and(|last| last.ends_with(&part)) {
            parts.push(part);
        }
    }
    let mut line = parts.join(": ").replace('\n', " ");
    let from_library = error.chain().any(|cause| cause.is::<Error>());
    if let Some(advice) = Exit::of(error).advice()
        && from_library
    {
        line.push_str("; ");
        line.push_str(advice);
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn statuses_come_back_from_their_numbers() {
        for exit in Exit::ALL {
            assert_eq!(Exit::from_status(exit as u8), exit);
            assert!(HELP.contains(&format!("\n  {:>2}  ", exit as u8)));
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
    fn a_cause_is_said_once() {
        let io = std::io::Error::from_raw_os_error(libc::EACCES);
        let error = anyhow::Error::new(Error::io("opening x")(io));
        assert_eq!(message(&error).matches("denied").count(), 1);
    }
}
