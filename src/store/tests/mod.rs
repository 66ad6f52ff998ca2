//! Tests of the stores.

mod conformance;
mod crash;
mod damage;
mod directory;
mod disk_full;
mod faults;
mod golden;
mod journal;

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::error::Error;

/// Values above this rest in logs.
const INLINE: u32 = 64;

/// Small, so that logs end often.
const LOG: u64 = 64 << 10;

fn properties() -> Properties {
    Properties {
        inline_max: INLINE,
        log_size: LOG,
        ..Properties::default()
    }
}

/// A new store in a temporary directory.
fn fresh() -> (TempDir, StoreDir) {
    let home = TempDir::new().unwrap();
    let store = StoreDir::create(&home.path().join("store"), &properties()).unwrap();
    (home, store)
}

fn reopen(home: &TempDir) -> StoreDir {
    StoreDir::open(&home.path().join("store"), Access::Write).unwrap()
}

/// `len` bytes without a pattern; the same seed, the same bytes.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_be_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

/// A small generator of numbers, for tests that pick at random.
struct Dice(u64);

impl Dice {
    /// A number below `bound`.
    fn roll(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let hash = blake3::hash(&self.0.to_be_bytes());
        let mut word = [0; 8];
        word.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_be_bytes(word) % bound
    }
}

/// All rows of a store.
fn rows(store: &dyn Store) -> crate::Result<Vec<(Table, Row)>> {
    let mut all = Vec::new();
    for table in Table::ALL {
        let found = store.scan(table, &[], None, usize::MAX)?;
        all.extend(found.into_iter().map(|row| (table, row)));
    }
    Ok(all)
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_directory(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}
