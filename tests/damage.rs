//! Damage anywhere in a store: every read gives the right bytes or an error,
//! what one damage can cost is known, and a repair leaves a store in order.
//!
//! `LACONICFS_TRIALS=4000 cargo test --test damage -- --nocapture` does so many.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use laconicfs::filesystem::{FileSystem, NewStore, Settings};
use laconicfs::lm::model::Model;
use laconicfs::tier::Depth;
use laconicfs::volume::{Caller, OpenFlags, ROOT, WriteFlags};
use tempfile::TempDir;

mod program;

const CHUNK: usize = 8192;
const FILES: usize = 24;

/// Numbers at random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let hash = blake3::hash(&self.0.to_be_bytes());
        let mut word = [0; 8];
        word.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_be_bytes(word) % bound.max(1)
    }
}

/// The content of file `at`: text, noise, long and short.
fn content(at: usize) -> Vec<u8> {
    let len = [60, 900, 5000, 9000, 20_000, 50_000][at % 6];
    match at % 2 {
        0 => (0..)
            .flat_map(|i| format!("{at} {i}: the {} of the {}\n", i * i % 91, i % 13).into_bytes())
            .take(len)
            .collect(),
        _ => {
            let mut noise = vec![0; len];
            let mut hasher = blake3::Hasher::new();
            hasher.update(&at.to_be_bytes());
            hasher.finalize_xof().fill(&mut noise);
            noise
        }
    }
}

fn settings() -> Settings {
    Settings {
        drain_threads: 0,
        ..Settings::default()
    }
}

/// What a file held at first: the last third was written to once more.
fn first(at: usize) -> Vec<u8> {
    let mut first = content(at);
    if at >= 2 * FILES / 3 {
        first[30..50].fill(b'?');
    }
    first
}

/// Makes a store with files, half of them drained. Keeps a copy as a crash
/// leaves it, and one that was closed in order.
fn stores(home: &Path) -> [PathBuf; 2] {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model-v1.model");
    let model = Model::parse(fs::read(golden).unwrap()).unwrap();
    let store = home.join("store");
    let new = NewStore {
        chunk_size: CHUNK,
        model: Some(model.with_mixer_start(None).unwrap()),
    };
    FileSystem::create(&store, &new).unwrap();
    // Several opens, so that the journal has a past.
    let crashed = home.join("crashed");
    for part in 0..3 {
        let fs_ = FileSystem::open(&store, &settings()).unwrap();
        let me = Caller { uid: 0, gid: 0 };
        for at in (part * FILES / 3)..((part + 1) * FILES / 3) {
            let name = format!("file {at}");
            let mode = libc::S_IFREG | 0o644;
            let (attr, _) = fs_
                .volume()
                .create(ROOT, name.as_bytes(), mode, OpenFlags::WRITE, me)
                .unwrap();
            fs_.volume()
                .write_file(attr.ino, 0, &first(at), WriteFlags::empty())
                .unwrap();
            fs_.volume().release(attr.ino);
            if at % 4 == 0 {
                fs_.volume().tier().sync().unwrap();
            }
        }
        if part == 1 {
            fs_.volume().tier().drain(&mut |_| true).unwrap();
        }
        fs_.volume().tier().sync().unwrap();
        if part == 2 {
            // Small writes that wait beside their chunks: without them the
            // files would hold what was there before.
            for at in (2 * FILES / 3)..FILES {
                let name = format!("file {at}");
                let ino = fs_.volume().lookup(ROOT, name.as_bytes()).unwrap().ino;
                let bytes = &content(at)[30..50];
                fs_.volume()
                    .write_file(ino, 30, bytes, WriteFlags::empty())
                    .unwrap();
            }
            fs_.volume().tier().sync().unwrap();
            copy(&store, &crashed);
        }
        fs_.close().unwrap();
    }
    [store, crashed]
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files_below(&path, found),
            false => found.push(path),
        }
    }
    found.sort();
}

/// Damages one place of one file below a part of the store; says what.
fn damage(store: &Path, part: &str, dice: &mut Dice) -> String {
    let mut files = Vec::new();
    files_below(store, &mut files);
    files.retain(|file| {
        let name = file.strip_prefix(store).unwrap().to_str().unwrap();
        name.starts_with(part) && name != "lock" && fs::metadata(file).unwrap().len() > 0
    });
    if files.is_empty() {
        return format!("nothing in {part}");
    }
    let file = &files[dice.roll(files.len() as u64) as usize];
    let mut bytes = fs::read(file).unwrap();
    let at = dice.roll(bytes.len() as u64) as usize;
    let longest = [16, 600, 9000][dice.roll(3) as usize];
    let len = 1 + dice.roll(longest) as usize;
    let to = bytes.len().min(at + len);
    let how = match dice.roll(5) {
        0 | 1 => {
            bytes[at] ^= 1 << dice.roll(8);
            "flipped"
        }
        2 => {
            bytes[at..to].fill(0);
            "zeroed"
        }
        3 => {
            bytes.truncate(at);
            "truncated"
        }
        _ => {
            let twice = bytes[at..to].to_vec();
            bytes.splice(at..at, twice);
            "doubled"
        }
    };
    fs::write(file, bytes).unwrap();
    format!(
        "{} {how} at {at} to {to}",
        file.strip_prefix(store).unwrap().display()
    )
}

/// What reading all files gives.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    /// Files that are not there, are shorter, or are as they were at first: an
    /// earlier state.
    missing: usize,
    errors: usize,
}

fn read_all(fs_: &FileSystem, what: &str) -> Read {
    let mut read = Read::default();
    for at in 0..FILES {
        let name = format!("file {at}");
        let Ok(attr) = fs_.volume().lookup(ROOT, name.as_bytes()) else {
            read.missing += 1;
            continue;
        };
        let expected = content(at);
        if attr.size != expected.len() as u64 {
            read.missing += 1;
        }
        for from in (0..expected.len()).step_by(CHUNK) {
            let end = expected.len().min(from + CHUNK);
            match fs_.volume().read_file(attr.ino, from as u64, end - from) {
                Ok(found) => {
                    let is = |whole: &[u8]| found == whole[from..from + found.len()];
                    assert!(found.len() <= end - from, "{name} at {from}: {what}");
                    if !is(&expected) {
                        assert!(is(&first(at)), "wrong bytes in {name} at {from}: {what}");
                        read.missing += 1;
                    }
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    read.errors += 1;
                }
            }
        }
    }
    read
}

/// One damage, or two; returns whether anything was lost for good.
fn trial(stores: &[PathBuf; 2], home: &Path, seed: u64) -> bool {
    let mut dice = Dice(seed << 20);
    let store = home.join(format!("trial-{seed}"));
    let base = &stores[dice.roll(2) as usize];
    copy(base, &store);
    const PARTS: [&str; 8] = [
        "superblock",
        "db/",
        "db/",
        "journal/",
        "journal/",
        "logs/",
        "models/",
        "",
    ];
    let part = |dice: &mut Dice| PARTS[dice.roll(8) as usize];
    let twice = dice.roll(4) == 0;
    let mut what = format!("trial {seed}, {}: ", base.file_name().unwrap().display());
    for _ in 0..1 + u8::from(twice) {
        let part = part(&mut dice);
        what.push_str(&damage(&store, part, &mut dice));
        what.push_str("; ");
    }
    // Both newest ends of a store that a crash left: that may have been the
    // crash (`docs/format-store.md`).
    let blind = base == &stores[1] && what.contains("db/") && what.contains("journal/");
    let values = what.contains("logs/") || what.contains("models/");
    for settings in [Settings::look(), settings()] {
        match FileSystem::open(&store, &settings) {
            Ok(fs_) => {
                let read = read_all(&fs_, &what);
                // Never an earlier state, whatever is damaged.
                assert!(blind || read.missing == 0, "{read:?} {what}");
                // An earlier state may name values that are gone: errors, too.
                assert!(blind || values || read.errors == 0, "{read:?} {what}");
                fs_.close().unwrap();
            }
            Err(error) => assert!(twice, "{error}: {what}"),
        }
    }
    let repaired = FileSystem::repair(&store, Depth::Chunks, &mut |_| ());
    let lost = match repaired {
        Err(error) => {
            // Both superblocks at once.
            assert!(
                twice && what.matches("superblock").count() == 2,
                "{error}: {what}"
            );
            true
        }
        Ok(repaired) => {
            let fs_ = FileSystem::open(&store, &Settings::look()).unwrap();
            assert_eq!(
                fs_.volume().check().unwrap(),
                Vec::<String>::new(),
                "{what}"
            );
            let read = read_all(&fs_, &what);
            if !twice {
                assert_eq!(read.missing, 0, "{what}");
            }
            let told = blind || !repaired.missing.is_empty();
            assert!(read.missing == 0 || told, "{read:?} {what}");
            fs_.close().unwrap();
            read != Read::default()
        }
    };
    fs::remove_dir_all(&store).unwrap();
    lost
}

/// A store of folders with many small files, so that the database has many
/// pages, closed in order.
fn shelves(home: &Path) -> PathBuf {
    let store = home.join("shelves");
    let new = NewStore {
        chunk_size: CHUNK,
        model: None,
    };
    FileSystem::create(&store, &new).unwrap();
    let fs_ = FileSystem::open(&store, &settings()).unwrap();
    let (volume, me) = (fs_.volume(), Caller { uid: 0, gid: 0 });
    for shelf in 0..SHELVES {
        let name = format!("shelf {shelf}");
        let mode = libc::S_IFDIR | 0o755;
        let dir = volume
            .make_dir(ROOT, name.as_bytes(), mode, me)
            .unwrap()
            .ino;
        for book in 0..BOOKS {
            let name = format!("book {book}");
            let mode = libc::S_IFREG | 0o644;
            let flags = OpenFlags::WRITE;
            let made = volume.create(dir, name.as_bytes(), mode, flags, me);
            let ino = made.unwrap().0.ino;
            let content = content(shelf * BOOKS + book);
            volume
                .write_file(ino, 0, &content, WriteFlags::empty())
                .unwrap();
            volume.release(ino);
        }
    }
    fs_.close().unwrap();
    store
}

const SHELVES: usize = 8;
const BOOKS: usize = 50;

/// Where sled cannot read its file and no journal helps, what lies on its other
/// pages comes back, with names; what is lost is told, by path and range where a
/// path is left, and reading it is an error.
#[test]
fn a_page_that_cannot_be_read_costs_what_lay_on_it() {
    let trials: u64 = std::env::var("LACONICFS_TRIALS").map_or(12, |n| n.parse().unwrap());
    let home = TempDir::new().unwrap();
    let whole = shelves(home.path());
    fs::remove_dir_all(whole.join("journal")).unwrap();
    let mut dice = Dice(7);
    let mut untouched = 0;
    for trial in 0..trials {
        let store = home.path().join(format!("trial-{trial}"));
        copy(&whole, &store);
        let file = store.join("db/db");
        let mut bytes = fs::read(&file).unwrap();
        // Behind the first block, which says how to read the others.
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let at = dice.roll(used as u64) as usize;
        bytes[at..(at + 40).min(used)].fill(0x55);
        fs::write(&file, bytes).unwrap();
        let what = format!("trial {trial}: {at} of {used}");
        let output = program::laconicfs(&["fsck", "--repair", "--json", program::text(&store)]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{what}: {}", String::from_utf8_lossy(&output.stderr)));
        let told = !report["problems"].as_array().unwrap().is_empty();
        let lost: Vec<(String, u64, u64)> = (report["lost"].as_array().unwrap().iter())
            .map(|lost| {
                let path = lost["path"].as_str().unwrap_or_default();
                let at = |name: &str| lost[name].as_u64().unwrap();
                (path.to_string(), at("start"), at("end"))
            })
            .collect();
        let fs_ = FileSystem::open(&store, &Settings::look()).unwrap();
        assert_eq!(
            fs_.volume().check().unwrap(),
            Vec::<String>::new(),
            "{what}"
        );
        let volume = fs_.volume();
        // Contents without names.
        let mut found = std::collections::HashSet::new();
        if let Ok(dir) = volume.lookup(ROOT, b"lost+found") {
            for entry in volume.read_dir(dir.ino, 2, 10_000).unwrap() {
                let attr = volume.attr(entry.ino).unwrap();
                if let Ok(bytes) = volume.read_file(entry.ino, 0, attr.size as usize) {
                    found.insert(blake3::hash(&bytes));
                }
            }
        }
        let (mut named, mut errors, mut nameless, mut gone) = (0, 0, 0, 0);
        for shelf in 0..SHELVES {
            let dir = volume.lookup(ROOT, format!("shelf {shelf}").as_bytes());
            for book in 0..BOOKS {
                let expected = content(shelf * BOOKS + book);
                let name = format!("book {book}");
                let attr = (dir.as_ref().ok())
                    .and_then(|dir| volume.lookup(dir.ino, name.as_bytes()).ok());
                let Some(attr) = attr else {
                    match found.contains(&blake3::hash(&expected)) {
                        true => nameless += 1,
                        false => gone += 1,
                    }
                    continue;
                };
                let mut whole = true;
                for from in (0..expected.len()).step_by(CHUNK) {
                    let end = expected.len().min(from + CHUNK);
                    match volume.read_file(attr.ino, from as u64, end - from) {
                        Ok(bytes) => assert!(
                            bytes == expected[from..end],
                            "wrong bytes in {shelf}/{name} at {from}, {what}"
                        ),
                        Err(_) => {
                            whole = false;
                            let path = format!("/shelf {shelf}/{name}");
                            let (from, end) = (from as u64, end as u64);
                            assert!(
                                (lost.iter())
                                    .any(|(of, a, b)| *of == path && *a <= from && end <= *b),
                                "{path} from {from} is not told: {what}, {lost:?}"
                            );
                        }
                    }
                }
                match whole {
                    true => named += 1,
                    false => errors += 1,
                }
            }
        }
        fs_.close().unwrap();
        println!(
            "{what}: {named} whole, {errors} in part, {nameless} without names, {gone} gone; told: {told}"
        );
        assert!(errors + nameless + gone == 0 || told, "{what}");
        untouched += named;
        fs::remove_dir_all(&store).unwrap();
    }
    println!("{untouched} of {}", trials * (SHELVES * BOOKS) as u64);
}

#[test]
fn damage_anywhere() {
    let trials: u64 = match std::env::var("LACONICFS_TRIALS") {
        Ok(count) => count.parse().unwrap(),
        Err(_) => 40,
    };
    let first: u64 = std::env::var("LACONICFS_FIRST_TRIAL").map_or(0, |at| at.parse().unwrap());
    let home = TempDir::new().unwrap();
    let stores = Arc::new(stores(home.path()));
    let next = AtomicU64::new(first);
    let lost = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + trials {
                        return;
                    }
                    let some = trial(&stores, home.path(), seed);
                    lost.fetch_add(u64::from(some), Ordering::SeqCst);
                    if seed % 200 == 199 {
                        println!("{} trials", seed + 1 - first);
                    }
                }
            });
        }
    });
    let lost = lost.into_inner();
    println!("{trials} trials; in {lost} of them a part of some file was lost");
    // Damaged value logs do cost something, or the trials are none.
    assert!(lost > 0 && lost < trials / 2, "{lost} of {trials}");
}
