//! The files of a database as files: listing, copying, syncing them.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::durable;
use crate::error::{Error, Result};

/// Copies a database into a temporary directory, as `db`.
pub fn private_copy(directory: &Path) -> Result<TempDir> {
    let copy = tempfile::Builder::new()
        .prefix("laconicfs-")
        .tempdir()
        .map_err(Error::io("creating a temporary directory"))?;
    copy_files(directory, &copy.path().join("db")).map_err(|source| Error::Io {
        context: format!(
            "copying the database to {} for reading (TMPDIR says where to)",
            copy.path().display()
        ),
        source,
    })?;
    Ok(copy)
}

/// Every file below a directory, in the order of their names.
pub fn files_below(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => waiting.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    Ok(found)
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for path in files_below(from)? {
        let Ok(name) = path.strip_prefix(from) else {
            continue; // Every path found begins so.
        };
        let target = to.join(name);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::copy(&path, &target)?;
        // A store on read-only media has files that nobody may write.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&target, mode)?;
    }
    Ok(())
}

/// Makes files and directories durable that sled made without doing so.
pub fn sync_all_files(directory: &Path) -> Result<()> {
    let syncing = || format!("syncing {}", directory.display());
    for path in files_below(directory).map_err(Error::io(syncing()))? {
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(Error::io(syncing()))?;
    }
    durable::sync_directory(directory)
}

pub fn remove_directory(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Bytes of the blocks that a directory and everything below it take.
pub fn blocks_below(directory: &Path) -> Result<u64> {
    let context = || format!("measuring {}", directory.display());
    let mut total = 0;
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(Error::io(context()))?,
        };
        for entry in entries {
            let entry = entry.map_err(Error::io(context()))?;
            let found = match entry.metadata() {
                // Removed while we looked.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                found => found.map_err(Error::io(context()))?,
            };
            total += found.blocks() * 512;
            if found.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok(total)
}
