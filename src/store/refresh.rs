//! Replacing the database by a fresh one, step by step, so that a crash at any
//! moment leaves one of them.

use std::path::Path;

use super::database::{self, Database};
use super::durable;
use super::files::{blocks_below, remove_directory};
use crate::error::{Error, Result};

/// A database smaller than this is never copied to make it smaller.
const REFRESH_MIN: u64 = 32 << 20;

/// Nor is one smaller than this many times what a fresh copy would take.
const REFRESH_RATIO: u64 = 3;

/// Copies a database that has grown far beyond its content to `db.new`, for
/// sled's file never shrinks. `false` when it does not pay or does not work:
/// the old one is as good.
pub fn refresh(root: &Path, database: &Database) -> Result<bool> {
    let size = blocks_below(&root.join("db"))?;
    if size < REFRESH_MIN {
        return Ok(false);
    }
    let (bytes, rows) = database.logical_size()?;
    let expected = fresh_size(bytes, rows);
    // What the last copy took in truth, should the estimate be poor.
    let last = match database.get_raw(database::FRESH_ROW)? {
        Some(row) => <[u8; 8]>::try_from(row).map_or(0, u64::from_be_bytes),
        None => 0,
    };
    if size < REFRESH_RATIO * expected.max(1) || size < 2 * last {
        return Ok(false);
    }
    let (available, ..) = durable::disk_space(root)?;
    if available < 2 * expected + REFRESH_MIN {
        log::info!("too little space to copy the database, which is larger than it need be");
        return Ok(false);
    }
    let target = root.join("db.new");
    let copied = database
        .copy_to(&target, (database::FRESH_ROW, &expected.to_be_bytes()))
        .and_then(|()| durable::sync_directory(root));
    match copied {
        Ok(()) => Ok(true),
        Err(error) => {
            log::warn!("copying the database to make it smaller: {error}");
            remove_directory(&target)?;
            Ok(false)
        }
    }
}

/// About what a fresh database of so many bytes and rows takes on disk, its
/// reserve included; measured.
pub fn fresh_size(bytes: u64, rows: u64) -> u64 {
    2 * bytes + 96 * rows + (2 << 20)
}

/// Puts `db.new`, which is whole, in the place of `db`, if there is one.
pub fn swap_in_fresh(root: &Path) -> Result<()> {
    let rename = |from: &str, to: &str| {
        std::fs::rename(root.join(from), root.join(to))
            .map_err(Error::io(format!("renaming {from} to {to}")))
            .and_then(|()| durable::sync_directory(root))
    };
    if root.join("db").symlink_metadata().is_ok() {
        rename("db", "db.old")?;
    }
    rename("db.new", "db")?;
    remove_directory(&root.join("db.old"))
}

/// Cleans up after a crash during [`refresh`] or [`swap_in_fresh`].
pub fn finish_refresh(root: &Path) -> Result<()> {
    let [db, new, old] = ["db", "db.new", "db.old"].map(|name| root.join(name));
    if !db.is_dir() && old.is_dir() {
        std::fs::rename(&old, &db).map_err(Error::io("bringing back db.old"))?;
        durable::sync_directory(root)?;
    }
    remove_directory(&new)?;
    match db.is_dir() {
        true => remove_directory(&old),
        false => Ok(()),
    }
}
