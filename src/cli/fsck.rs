//! `laconicfs fsck`: does a store agree with itself, and what if it does not?

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::{locate, progress, report};
use crate::error::Error;
use crate::filesystem::{FileSystem, Repaired, Settings};
use crate::store::StoreDir;
use crate::tier::{self, Damage, Depth};
use crate::volume;

#[derive(Args)]
#[command(
    long_about = "Check a store that is not mounted, and repair it.\n\n\
        Every row of the database is compared with every other, and the files of the store with \
        their checksums. --scrub also reads and decodes every chunk and compares it with the hash \
        of what was written: as slow as reading all files.\n\n\
        Without --repair nothing is changed. With it the database is made anew from the journal \
        where it is damaged or missing, the journal from the database, lost models come back if \
        this program has them, chunks from other copies in the value logs; what has lost its name \
        is put into /lost+found, and everything is counted again. What cannot be brought back is \
        listed by path and range, and reading it is an error from then on, never zeros; to write \
        the range anew or to delete the file ends that. Copy a damaged store before you repair it, \
        if you can.",
    after_help = "Exit status, as fsck(8) has it (a sum):\n   \
        0  clean\n   \
        1  errors were corrected\n   \
        4  errors are left: rerun with --repair, or data is lost\n   \
        8  it could not be checked: no store, in use, a newer format, no space\n  \
        16  the command line is wrong\n\n\
        Examples:\n  \
        laconicfs fsck ~/notes.store\n  \
        laconicfs fsck --scrub ~/notes.store     # reads and decodes every chunk\n  \
        laconicfs fsck --repair ~/notes.store    # puts in order what can be"
)]
pub struct FsckArgs {
    /// The store: its directory, not where it was mounted
    store: PathBuf,
    /// Read, decode and verify every chunk too
    #[arg(long)]
    scrub: bool,
    /// Put in order what is wrong
    #[arg(long)]
    repair: bool,
}

/// The exit statuses of fsck(8); their sum is one.
pub const CLEAN: u8 = 0;
const CORRECTED: u8 = 1;
const UNCORRECTED: u8 = 4;
pub const FAILED: u8 = 8;
pub const USAGE: u8 = 16;

/// The names of the fields are a promise to those who read the JSON.
#[derive(Serialize)]
struct Checked {
    store: PathBuf,
    /// Whether every chunk was decoded.
    scrubbed: bool,
    /// Whether anything might have been changed.
    repaired: bool,
    /// What was put in order, in words.
    corrected: Vec<String>,
    /// What is wrong, in words; after a repair what still is.
    problems: Vec<String>,
    /// Parts of files that cannot be read. Each is one of the problems.
    lost: Vec<Lost>,
    status: u8,
}

/// A part of a file that cannot be read.
#[derive(Serialize)]
struct Lost {
    /// From the root of the volume; `null` when the file has no name.
    path: Option<PathBuf>,
    inode: u64,
    /// The first byte, and the one behind the last.
    start: u64,
    end: u64,
    reason: String,
}

/// Returns the exit status.
pub fn run(args: &FsckArgs, json: bool) -> Result<u8> {
    let store = locate::store(&args.store)?;
    let mut checked = Checked {
        store,
        scrubbed: args.scrub,
        repaired: args.repair,
        corrected: Vec::new(),
        problems: Vec::new(),
        lost: Vec::new(),
        status: CLEAN,
    };
    if args.repair {
        let depth = match args.scrub {
            true => Depth::Chunks,
            false => Depth::Records,
        };
        let bar = progress::count_bytes("repairing");
        let repaired = FileSystem::repair(&checked.store, depth, &mut |plain| bar.inc(plain));
        bar.finish_and_clear();
        note_repair(&mut checked, repaired?)?;
    }
    look(&mut checked, args.scrub && !args.repair)?;
    checked.problems.dedup();
    if !checked.corrected.is_empty() {
        checked.status |= CORRECTED;
    }
    if !checked.problems.is_empty() {
        checked.status |= UNCORRECTED;
    }
    report::emit(json, &checked, || human(&checked))?;
    match checked.problems.len() {
        0 => {}
        1 => super::complain("the store has a problem"),
        many => super::complain(&format!("the store has {many} problems")),
    }
    Ok(checked.status)
}

/// Sorts what a repair says into what is good now and what is lost.
fn note_repair(checked: &mut Checked, repaired: Repaired) -> Result<()> {
    checked.corrected = repaired.corrected;
    checked.problems = repaired.missing;
    if !repaired.lost_attributes.is_empty() {
        let dir = StoreDir::open(&checked.store, crate::store::Access::Read)?;
        let paths = volume::paths(&*dir.store())?;
        for key in &repaired.lost_attributes {
            let (ino, name) = key.split_at(key.len().min(8));
            let ino = <[u8; 8]>::try_from(ino).map_or(0, u64::from_be_bytes);
            let name = String::from_utf8_lossy(name);
            let place = place(paths.get(&ino), ino);
            checked
                .problems
                .push(format!("the extended attribute {name} of {place} is lost"));
        }
    }
    Ok(())
}

/// Looks for everything that is wrong now.
fn look(checked: &mut Checked, scrub: bool) -> Result<()> {
    checked.problems.extend(StoreDir::examine(&checked.store)?);
    let fs = match FileSystem::open(&checked.store, &Settings::look()) {
        // What cannot even be read is a finding.
        Err(Error::Corrupt(what)) => {
            checked.problems.push(what);
            return Ok(());
        }
        opened => opened?,
    };
    let found = look_inside(checked, &fs, scrub);
    fs.close().context("closing the store")?;
    found
}

fn look_inside(checked: &mut Checked, fs: &Arc<FileSystem>, scrub: bool) -> Result<()> {
    checked.problems.extend(fs.volume().check()?);
    let (depth, total) = match scrub {
        true => {
            let chunks = fs.report()?.chunks;
            (Depth::Chunks, chunks.iter().map(|row| row.plain).sum())
        }
        false => (Depth::Noted, 0),
    };
    let bar = progress::bytes("reading", total);
    let damage = tier::scrub(
        &**fs.store(),
        fs.codec(),
        depth,
        crate::parallel::available(),
        &mut |plain| bar.inc(plain),
    )?;
    bar.finish_and_clear();
    if damage.is_empty() {
        return Ok(());
    }
    let paths = volume::paths(&**fs.store())?;
    for damage in &damage {
        checked
            .problems
            .push(describe(damage, &paths, fs.chunk_size()));
        checked.lost.extend(lost(damage, &paths, fs));
    }
    checked
        .lost
        .sort_by(|a, b| (&a.path, a.inode, a.start).cmp(&(&b.path, b.inode, b.start)));
    Ok(())
}

fn lost(damage: &Damage, paths: &HashMap<u64, PathBuf>, fs: &FileSystem) -> Vec<Lost> {
    let chunk = fs.chunk_size();
    let part = |(ino, index): &(u64, u64)| {
        let size = fs.volume().attr(*ino).map_or(u64::MAX, |attr| attr.size);
        let start = index * chunk;
        Lost {
            path: paths.get(ino).cloned(),
            inode: *ino,
            start,
            end: (start + chunk).min(size.max(start)),
            reason: damage.reason.clone(),
        }
    };
    damage.places.iter().map(part).collect()
}

/// A sentence with files and ranges.
fn describe(damage: &Damage, paths: &HashMap<u64, PathBuf>, chunk_size: u64) -> String {
    let places: Vec<String> = damage
        .places
        .iter()
        .map(|(ino, index)| {
            let (file, start) = (place(paths.get(ino), *ino), index * chunk_size);
            format!("{file} bytes {start} to {}", start + chunk_size - 1)
        })
        .collect();
    let places = match places.is_empty() {
        true => "no file".into(),
        false => places.join(", "),
    };
    format!("chunk {} ({places}): {}", damage.chunk, damage.reason)
}

fn place(path: Option<&PathBuf>, ino: u64) -> String {
    match path {
        Some(path) => Path::display(path).to_string(),
        None => format!("inode {ino}"),
    }
}

fn human(checked: &Checked) -> String {
    let mut out = String::new();
    for what in &checked.corrected {
        out.push_str(&format!("corrected: {what}\n"));
    }
    for what in &checked.problems {
        out.push_str(&format!("{what}\n"));
    }
    out.push_str(match (checked.problems.is_empty(), checked.repaired) {
        (true, _) if checked.scrubbed => "clean: every row agrees and every chunk reads back\n",
        (true, _) => "clean: every row agrees (chunks were not decoded; --scrub does)\n",
        (false, false) => "the store is damaged; --repair puts in order what can be\n",
        (false, true) => {
            "what is named above is lost: bring it back from a copy, write it anew, or delete it\n"
        }
    });
    out
}
