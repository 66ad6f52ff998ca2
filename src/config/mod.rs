//! The configuration: what a mount is told beside its store and directory.
//!
//! Every setting is one line of the table [`KEYS`], with its name
//! (`section.key`), its default and its explanation; files, environment,
//! `--set`, `config show`, the example file and laconicfs.toml(5) all follow
//! from that table. To add a setting, add a field to its section below and a
//! line to the table.
//!
//! Of several values the first of these counts: a flag, the environment,
//! `STORE/laconicfs.toml`, `/etc/laconicfs/NAME.toml`, `/etc/laconicfs.toml`,
//! the default. A name that is none of these is an error that tells the file,
//! the line and the nearest name that is.

mod keys;
mod load;
pub mod size;
mod value;

use std::time::Duration;

pub use keys::{KEYS, Key};
pub use load::{Flag, Loaded, Origin, Setting, VARIABLE_OF_ETC, check, check_file, load};

use crate::metrics::Listen;
use crate::tier::Hours;

/// What is in force. One field for each section of the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub mount: Mount,
    pub cache: Cache,
    pub drain: Drain,
    pub metrics: Metrics,
    pub log: Log,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mount {
    /// As after `-o`; understood by [`MountOptions`](crate::mount::MountOptions).
    pub options: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cache {
    /// Bytes of memory that a mount takes at most; `None` for a quarter of what
    /// the machine allows.
    pub memory: Option<u64>,
    /// Bytes of memory for chunks that have been decoded.
    pub size: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drain {
    /// How long a chunk must have been left alone.
    pub quiet: Duration,
    /// Threads; `None` is as many as the machine runs at once, 0 leaves the
    /// work to `laconicfs drain`.
    pub threads: Option<usize>,
    /// Per cent of the time of each thread, 1 to 100.
    pub cpu_share: u8,
    /// The hours of the day, local time, in which it works.
    pub hours: Hours,
    /// It rests while the load average of one minute is above this.
    pub max_load: Option<f64>,
    /// It rests while the machine runs on a battery that holds less per cent
    /// than this.
    pub min_battery: Option<u8>,
    /// Per cent by which the language model must beat the other codecs.
    pub lm_margin: u8,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Where metrics are served, if anywhere.
    pub listen: Option<Listen>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// A filter as env_logger takes it: `info`, `laconicfs::tier=debug,warn`.
    pub level: String,
}

#[cfg(test)]
mod tests;
