//! The database's seal: proof that it was closed in order and is what it was.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{durable, files};
use crate::error::{Error, Result};

/// The newest format that this program knows, and the one it writes.
const FORMAT: u32 = 2;

/// The first line of `db.seal`, as JSON.
#[derive(Serialize, Deserialize)]
struct Line {
    format: u32,
    /// Of the database's files, their names and lengths, in hexadecimal.
    blake3: String,
    /// Of the last commit. Missing in format 1.
    #[serde(default)]
    epoch: u64,
}

/// What a look at the seal says.
#[derive(Debug)]
pub enum Seal {
    /// The database is what it was when it was closed.
    Whole,
    /// It was not closed in order.
    Missing,
    /// It was, and is not what it was then; or the seal itself is damaged.
    Broken {
        why: String,
        /// The last commit that it held then, 0 if that is not known.
        epoch: u64,
    },
}

fn path(root: &Path) -> PathBuf {
    root.join("db.seal")
}

/// The hash of a database's files.
fn hash(directory: &Path) -> Result<String> {
    let reading = || format!("reading {}", directory.display());
    let mut hasher = blake3::Hasher::new();
    for path in files::files_below(directory).map_err(Error::io(reading()))? {
        use std::os::unix::ffi::OsStrExt;
        let file = File::open(&path).map_err(Error::io(reading()))?;
        let bytes = file.metadata().map_err(Error::io(reading()))?.len();
        let name = path.strip_prefix(directory).unwrap_or(&path).as_os_str();
        hasher.update(&(name.len() as u64).to_be_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&bytes.to_be_bytes());
        hasher.update_reader(file).map_err(Error::io(reading()))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

impl Seal {
    /// Seals the database below `root`, which has been closed after `epoch`.
    pub fn set(root: &Path, epoch: u64) -> Result<()> {
        let line = Line {
            format: FORMAT,
            blake3: hash(&root.join("db"))?,
            epoch,
        };
        let text = serde_json::to_string(&line).map_err(|e| Error::Other(e.to_string()))?;
        let sum = blake3::hash(text.as_bytes()).to_hex();
        durable::replace_file(&path(root), format!("{text}\n{sum}\n").as_bytes())
    }

    /// Compares the database in `directory` with the seal below `root`.
    pub fn look(root: &Path, directory: &Path) -> Result<Self> {
        let path = path(root);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Seal::Missing),
            text => text.map_err(Error::io(format!("reading {}", path.display())))?,
        };
        let damaged = Seal::Broken {
            why: format!("the seal {} is damaged", path.display()),
            epoch: 0,
        };
        let mut lines = text.split(|byte| *byte == b'\n');
        let (json, sum) = (lines.next().unwrap_or(&[]), lines.next());
        let Ok(line) = serde_json::from_slice::<Line>(json) else {
            return Ok(damaged);
        };
        let summed = sum.is_some_and(|sum| blake3::hash(json).to_hex().as_bytes() == sum);
        if line.format > FORMAT && summed {
            return Err(Error::NewerFormat {
                what: path.display().to_string(),
                found: line.format,
                known: FORMAT,
            });
        }
        if !summed && line.format != 1 {
            return Ok(damaged);
        }
        let epoch = if summed { line.epoch } else { 0 };
        if directory.is_dir() && hash(directory)? == line.blake3 {
            return Ok(Seal::Whole);
        }
        let why = match directory.is_dir() {
            true => "is not what it was when the store was closed",
            false => "is missing",
        };
        let why = format!("the database {} {why}", directory.display());
        Ok(Seal::Broken { why, epoch })
    }

    /// From now on the database may change.
    pub fn remove(root: &Path) -> Result<()> {
        match std::fs::remove_file(path(root)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("removing the database's seal")(error)),
            Ok(()) => durable::sync_directory(root),
        }
    }
}
