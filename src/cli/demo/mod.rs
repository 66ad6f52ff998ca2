//! `laconicfs demo`: the whole way of a folder of text, every byte compared.

mod place;

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use tempfile::TempDir;

use super::exit::{Exit, failure};
use super::files::{self, FoundFile};
use super::report::{self, Table, bits_per_byte, percent, size};
use super::{coded, drain, models, progress};
use crate::codec::Kind;
use crate::filesystem::{FileSystem, NewStore, Report, Settings};
use crate::parallel;

use place::Place;

/// Rows of the table; the files beyond are summed up.
const ROWS: usize = 40;

/// Bytes copied or compared at a time.
const PIECE: usize = 1 << 20;

/// What is copied when no folder is named: folders of the source tree.
const SAMPLE: [&str; 3] = ["demo/sample", "docs", "src/tier"];

#[derive(Args)]
#[command(
    long_about = "See it work on real text: make a store in a temporary folder, mount it, copy \
        FOLDER in, code everything, unmount, mount again, read everything back and compare every \
        byte; then show what each file takes, beside zstd -19 in chunks of the same size.\n\n\
        Without FOLDER a small sample of the source tree is used. Where FUSE is missing, this \
        says what to install and does the same without the mount. Nothing is left behind.",
    after_help = "Examples:\n  laconicfs demo\n  laconicfs demo ~/Documents/notes"
)]
pub struct DemoArgs {
    /// Folder of text to copy in
    folder: Option<PathBuf>,
    /// Model to code with [default: the embedded model]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Plain bytes of a chunk, a power of two
    #[arg(long, value_name = "SIZE", default_value = "64k", value_parser = crate::config::size::parse_chunk)]
    chunk_size: usize,
}

/// A file on its way: where it comes from, and its path in the volume.
struct Item {
    from: FoundFile,
    to: PathBuf,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Line {
    file: String,
    bytes: u64,
    /// zstd -19 in the same chunks.
    zstd19: u64,
    /// Frames of the file's chunks.
    laconicfs: u64,
    bits_per_byte: f64,
}

#[derive(Serialize)]
struct Demo {
    /// Whether the files went through a real mount.
    mounted: bool,
    files: Vec<Line>,
    total: Line,
    store: Report,
}

pub fn run(args: &DemoArgs, json: bool) -> Result<()> {
    let items = items(args.folder.as_deref())?;
    let folder = TempDir::with_prefix("laconicfs-demo-").context("making a temporary folder")?;
    let store = folder.path().join("store");
    let dir = folder.path().join("mnt");
    std::fs::create_dir(&dir).context("making a temporary folder")?;
    place::clean_up_when_interrupted(folder.path().into(), dir.clone())?;
    let say = |text: &str| {
        if !json {
            report::print(&format!("{text}\n"))?;
        }
        Ok::<(), anyhow::Error>(())
    };

    let total: u64 = items.iter().map(|item| item.from.len).sum();
    say(&format!("making a store in {}", store.display()))?;
    let model = models::find(args.model.as_deref())?;
    let new = NewStore {
        chunk_size: args.chunk_size,
        model,
    };
    FileSystem::create(&store, &new)?;

    let settings = Settings {
        drain_threads: parallel::available(),
        ..Settings::default()
    };
    let fs = FileSystem::open(&store, &settings)?;
    let mut place = Place::mount(&fs, &dir);
    if let Some(reason) = place.without_mount() {
        say(&format!(
            "no mount here: {reason}\ngoing on without it, through the volume itself"
        ))?;
    }
    let mounted = place.without_mount().is_none();
    say(&format!(
        "copying {} files, {}, into {}",
        items.len(),
        size(total),
        if mounted { "the mount" } else { "the volume" }
    ))?;
    copy_in(&items, &mut place, total)?;
    fs.volume().sync()?;
    say("coding every chunk as small as it gets")?;
    drain::drain(&fs)?;
    say("unmounting, and mounting again")?;
    end(place, fs)?;

    let fs = FileSystem::open(&store, &settings)?;
    let place = match mounted {
        true => Place::mount(&fs, &dir),
        false => Place::direct(&fs),
    };
    if let (true, Some(reason)) = (mounted, place.without_mount()) {
        return Err(failure(Exit::Mount, reason));
    }
    say("reading everything back and comparing every byte")?;
    compare(&items, &place, total)?;
    say("all bytes are the same\n")?;
    let lines = measure(&items, &fs, total)?;
    let stat = fs.report()?;
    end(place, fs)?;

    let demo = Demo {
        mounted,
        total: sum("total", &lines),
        files: lines,
        store: stat,
    };
    report::emit(json, &demo, || human(&demo, args.chunk_size))
}

/// Unmounts and closes the store; nothing may hold it afterwards.
fn end(place: Place, fs: Arc<FileSystem>) -> Result<()> {
    place.unmount()?;
    fs.close().context("closing the store")?;
    Ok(())
}

fn items(folder: Option<&Path>) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    if let Some(folder) = folder {
        if !folder.is_dir() {
            return Err(failure(
                Exit::Failure,
                format!("{} is not a folder", folder.display()),
            ));
        }
        add(&mut items, folder, Path::new(""))?;
    } else {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in SAMPLE {
            let from = tree.join(name);
            if from.is_dir() {
                add(&mut items, &from, Path::new(name))?;
            }
        }
    }
    match items.is_empty() {
        false => Ok(items),
        true => Err(failure(
            Exit::Failure,
            "there are no files to copy: name a folder with text, as in: laconicfs demo FOLDER",
        )),
    }
}

fn add(items: &mut Vec<Item>, folder: &Path, below: &Path) -> Result<()> {
    for from in files::below(&[folder.to_path_buf()])? {
        let name = from.path.strip_prefix(folder).unwrap_or(&from.path);
        let to = below.join(name);
        items.push(Item { from, to });
    }
    Ok(())
}

/// Calls `each` with the pieces of a file and their offsets.
fn pieces(item: &Item, each: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let path = &item.from.path;
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut offset = 0;
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        piece.clear();
        file.by_ref()
            .take(PIECE as u64)
            .read_to_end(&mut piece)
            .with_context(|| format!("reading {}", path.display()))?;
        if piece.is_empty() {
            return Ok(());
        }
        each(offset, &piece)?;
        offset += piece.len() as u64;
    }
}

fn copy_in(items: &[Item], place: &mut Place, total: u64) -> Result<()> {
    let bar = progress::bytes("copying", total);
    for item in items {
        let failed = || format!("copying {}", item.to.display());
        let mut file = place.create(&item.to).with_context(failed)?;
        pieces(item, &mut |offset, piece| {
            file.write(offset, piece)?;
            bar.inc(piece.len() as u64);
            Ok(())
        })
        .with_context(failed)?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn compare(items: &[Item], place: &Place, total: u64) -> Result<()> {
    let bar = progress::bytes("comparing", total);
    for item in items {
        let failed = || format!("reading {} back", item.to.display());
        let mut file = place.open(&item.to).with_context(failed)?;
        let mut len = 0;
        let mut same = true;
        pieces(item, &mut |offset, piece| {
            same &= file.read(offset, piece.len())? == piece;
            len = offset + piece.len() as u64;
            bar.inc(piece.len() as u64);
            Ok(())
        })
        .with_context(failed)?;
        // Nothing may follow either.
        same &= file.read(len, 1).with_context(failed)?.is_empty();
        if !same {
            return Err(failure(
                Exit::Damaged,
                format!(
                    "{} came back different (unless {} was changed meanwhile, this is a bug: \
                     please report it)",
                    item.to.display(),
                    item.from.path.display()
                ),
            ));
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn measure(items: &[Item], fs: &FileSystem, total: u64) -> Result<Vec<Line>> {
    let bar = progress::bytes("zstd -19", total);
    let direct = Place::direct_of(fs.volume().clone());
    let mut lines = Vec::new();
    for item in items {
        let path = &item.from.path;
        let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mut line = Line {
            file: item.to.display().to_string(),
            laconicfs: fs.volume().tier().footprint(direct.find(&item.to)?)?.stored,
            ..Line::default()
        };
        let limit = parallel::available() * 16;
        loop {
            let chunks = coded::read_chunks(&mut file, fs.chunk_size() as usize, limit)?;
            let sizes = parallel::map(parallel::available(), &chunks, |plain| {
                let frame = fs.codec().encode_as(Some(Kind::Zstd), plain);
                frame.map(|frame| frame.len() as u64)
            });
            for (plain, zstd) in chunks.iter().zip(sizes) {
                line.bytes += plain.len() as u64;
                line.zstd19 += zstd?;
                bar.inc(plain.len() as u64);
            }
            if chunks.len() < limit {
                break;
            }
        }
        line.bits_per_byte = bits_per_byte(line.laconicfs, line.bytes);
        lines.push(line);
    }
    bar.finish_and_clear();
    Ok(lines)
}

fn sum(name: &str, lines: &[Line]) -> Line {
    let mut total = Line {
        file: name.into(),
        ..Line::default()
    };
    for line in lines {
        total.bytes += line.bytes;
        total.zstd19 += line.zstd19;
        total.laconicfs += line.laconicfs;
    }
    total.bits_per_byte = bits_per_byte(total.laconicfs, total.bytes);
    total
}

fn human(demo: &Demo, chunk_size: usize) -> String {
    let mut table = Table::new(&[
        "file",
        "bytes",
        "zstd -19",
        "laconicfs",
        "bits/byte",
        "of zstd",
    ]);
    let row = |line: &Line| {
        vec![
            line.file.clone(),
            line.bytes.to_string(),
            line.zstd19.to_string(),
            line.laconicfs.to_string(),
            format!("{:.3}", line.bits_per_byte),
            percent(line.laconicfs, line.zstd19),
        ]
    };
    let shown = match demo.files.len() {
        many if many > ROWS => ROWS - 1,
        few => few,
    };
    for line in &demo.files[..shown] {
        table.row(row(line));
    }
    if shown < demo.files.len() {
        let rest = &demo.files[shown..];
        table.row(row(&sum(&format!("{} more files", rest.len()), rest)));
    }
    table.rule();
    table.row(row(&demo.total));

    let disk = &demo.store.disk;
    let mut out = table.to_string();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "chunks of {}, zstd -19 in the same chunks\n\n\
         store on disk  {} bytes ({}): {} database, {} value logs, {} model and others\n\
         model          {}\n\n\
         To mount a folder for good:\n  \
         laconicfs mkfs ~/notes.store\n  \
         laconicfs mount ~/notes.store ~/notes --create\n\
         and at every boot, in /etc/fstab:\n  \
         /home/you/notes.store  /home/you/notes  fuse.laconicfs  noauto,user,x-systemd.automount  0 0\n",
        size(chunk_size as u64),
        disk.total,
        size(disk.total),
        size(disk.database),
        size(disk.logs),
        size(disk.other),
        match &demo.store.model {
            Some(model) => format!("{}, counted above", model.name),
            None => "none: this build carries no model, chunks rest as zstd or raw".into(),
        },
    );
    out
}
