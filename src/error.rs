//! The library's error type.
//!
//! One enum serves all rooms, because an error met deep in the store must
//! reach both a FUSE client (as an errno, see `mount::errno`) and a person (as
//! a sentence that says what to do). The variants of the first group are the
//! conditions that POSIX names; those of the second are ours.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::store::ChunkId;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- conditions that POSIX names
    #[error("no such file or directory")]
    NotFound,
    #[error("the name exists already")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("the name is longer than 255 bytes")]
    NameTooLong,
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    #[error("the volume is mounted read-only")]
    ReadOnly,
    #[error("no space left on the disk that holds the store")]
    NoSpace,
    #[error("the file would be larger than the volume allows")]
    FileTooBig,
    #[error("too many links")]
    TooManyLinks,
    #[error("no such extended attribute")]
    NoAttribute,
    #[error("the buffer is too small for the result")]
    Range,
    #[error("operation not permitted")]
    NotPermitted,
    #[error("permission denied")]
    AccessDenied,
    #[error("operation not supported")]
    NotSupported,
    #[error("no data at or after this offset")]
    NoData,
    #[error("not enough memory")]
    NoMemory,
    /// Only from a volume's [`now`](crate::volume::Volume::now): ask again where
    /// waiting does no harm.
    #[error("the operation would have to wait")]
    WouldBlock,

    // ---- the store and what it holds
    /// An operating-system error, with what was being done.
    #[error("{context}: {source}")]
    Io {
        context: String,
        source: std::io::Error,
    },
    /// Stored bytes that are not what was written.
    #[error("damaged data: {0}")]
    Corrupt(String),
    /// A value's log was collected after the reference was read: read the row again.
    #[error("the value log that holds these bytes is missing")]
    Stale,
    #[error("{} is not a laconicfs store: {reason}", path.display())]
    NotAStore { path: PathBuf, reason: String },
    #[error("{what} has format {found}, this program knows up to {known}: use a newer laconicfs")]
    NewerFormat {
        what: String,
        found: u32,
        known: u32,
    },
    #[error("{} is in use by process {pid}; unmount it first", path.display())]
    Locked { path: PathBuf, pid: u32 },
    #[error("{0}")]
    Model(String),
    /// Its [interrupt](crate::interrupt::Interrupt) was raised.
    #[error("it was told to stop")]
    Interrupted,
    /// A file, a variable or a flag of the [configuration](crate::config) is wrong.
    #[error("{0}")]
    Config(String),
    /// The durability hook is not in effect; writing would not be safe.
    #[error("this build of laconicfs cannot make sled durable ({0}); refusing to write")]
    NotDurable(String),
    /// An operation needs the plain bytes of this chunk in memory first.
    /// Never leaves the tier and volume rooms: they load it and try again.
    #[error("chunk {0} must be loaded first")]
    NeedChunk(ChunkId),
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// Wraps an I/O error with a phrase saying what was being done.
    /// A full disk becomes [`Error::NoSpace`], whatever was being done.
    pub fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        // By its kind: libraries wrap errors of the system in their own.
        move |source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::NoSpace,
            _ => Error::Io {
                context: context.into(),
                source,
            },
        }
    }
}
