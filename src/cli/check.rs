//! `laconicfs check`: does a store agree with itself?

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::exit::{Exit, failure};
use super::locate;
use super::{progress, report};
use crate::filesystem::{FileSystem, Settings};
use crate::tier::{self, Damage};
use crate::volume::{FileType, ROOT, SNAPSHOTS, SNAPSHOTS_NAME, Volume};

#[derive(Args)]
#[command(
    long_about = "Check a store that is not mounted: every row of its database against every \
        other. With --scrub, every chunk is also read, decoded and compared with the hash of \
        what was written, and damage is named by file and range.\n\n\
        Nothing is changed. The exit status is 7 when something is wrong.",
    after_help = "Examples:\n  \
        laconicfs check ~/notes.store\n  \
        laconicfs check --scrub ~/notes.store    # as slow as reading all of it"
)]
pub struct CheckArgs {
    store: PathBuf,
    /// Read and verify every chunk too
    #[arg(long)]
    scrub: bool,
}

#[derive(Serialize)]
struct Checked {
    store: PathBuf,
    /// Whether every chunk was read.
    scrubbed: bool,
    problems: Vec<String>,
}

pub fn run(args: &CheckArgs, json: bool) -> Result<()> {
    let store = locate::store(&args.store)?;
    let fs = FileSystem::open(&store, &Settings::look())?;
    let problems = find_problems(&fs, args.scrub);
    fs.close().context("closing the store")?;
    let checked = Checked {
        store,
        scrubbed: args.scrub,
        problems: problems?,
    };
    report::emit(json, &checked, || {
        let mut out: String = checked.problems.iter().map(|p| format!("{p}\n")).collect();
        if checked.problems.is_empty() {
            out.push_str(match checked.scrubbed {
                true => "clean: every row agrees and every chunk reads back\n",
                false => "clean: every row agrees (chunks were not read; --scrub does)\n",
            });
        }
        out
    })?;
    match checked.problems.len() {
        0 => Ok(()),
        1 => Err(failure(Exit::Damaged, "the store has a problem")),
        many => Err(failure(
            Exit::Damaged,
            format!("the store has {many} problems"),
        )),
    }
}

fn find_problems(fs: &FileSystem, scrub: bool) -> Result<Vec<String>> {
    let mut problems = fs.volume().check()?;
    if scrub {
        let total = fs.report()?.chunks.iter().map(|row| row.plain).sum();
        let bar = progress::bytes("reading", total);
        let damage = tier::scrub(
            &**fs.store(),
            fs.codec(),
            crate::parallel::available(),
            &mut |plain| bar.inc(plain),
        )?;
        bar.finish_and_clear();
        let names = match damage.is_empty() {
            true => HashMap::new(),
            false => names(fs.volume()),
        };
        let chunk_size = fs.chunk_size();
        problems.extend(damage.iter().map(|d| describe(d, &names, chunk_size)));
    }
    Ok(problems)
}

/// A sentence with files and ranges.
fn describe(damage: &Damage, names: &HashMap<u64, PathBuf>, chunk_size: u64) -> String {
    let mut places: Vec<String> = Vec::new();
    for (ino, index) in &damage.places {
        let file = match names.get(ino) {
            Some(path) => path.display().to_string(),
            None => format!("inode {ino}"),
        };
        let start = index * chunk_size;
        places.push(format!(
            "{file} bytes {start} to {}",
            start + chunk_size - 1
        ));
    }
    let places = match places.is_empty() {
        true => "no file".into(),
        false => places.join(", "),
    };
    format!("chunk {} ({places}): {}", damage.chunk, damage.reason)
}

/// The first path of every inode that can be reached.
fn names(volume: &Volume) -> HashMap<u64, PathBuf> {
    let mut names = HashMap::new();
    let snapshots = PathBuf::from("/").join(os_name(SNAPSHOTS_NAME));
    // The present first, so that it gives its names to what it shares.
    let mut folders = vec![(SNAPSHOTS, snapshots), (ROOT, PathBuf::from("/"))];
    while let Some((ino, path)) = folders.pop() {
        let mut cookie = 0;
        // A directory that cannot be read has been reported by the check.
        while let Ok(entries) = volume.read_dir(ino, cookie, 1000) {
            let Some(last) = entries.last() else {
                break;
            };
            cookie = last.cookie;
            for entry in entries {
                if matches!(entry.name.as_slice(), b"." | b"..") {
                    continue;
                }
                let path = path.join(os_name(&entry.name));
                if entry.file_type == FileType::Directory {
                    folders.push((entry.ino, path.clone()));
                }
                names.entry(entry.ino).or_insert(path);
            }
        }
    }
    names
}

fn os_name(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}
