//! Damage anywhere in a store: every read gives the right bytes or an error,
//! what one damage can cost is known, and a repair leaves a store in order.
//!
//! `LACONICFS_TRIALS=4000 cargo test --test damage -- --nocapture` does so many.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use laconicfs::filesystem::{FileSystem, NewStore, Settings};
use laconicfs::lm::model::Model;
use laconicfs::tier::Depth;
use laconicfs::volume::{Caller, OpenFlags, ROOT, WriteFlags, XattrFlags};
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
            if at % 6 == 4 {
                // Long text in a codec that is fast to read, so that there are more
                // trials; what remains is enough for the slow ones.
                let flags = XattrFlags::empty();
                let (ino, codec) = (attr.ino, b"user.laconicfs.codec");
                fs_.volume().set_xattr(ino, codec, b"zstd", flags).unwrap();
            }
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
            let content = book_on(shelf, book);
            volume
                .write_file(ino, 0, &content, WriteFlags::empty())
                .unwrap();
            volume.release(ino);
        }
    }
    fs_.close().unwrap();
    store
}

/// None like another.
fn book_on(shelf: usize, book: usize) -> Vec<u8> {
    content(shelf * BOOKS + book)
}

const SHELVES: usize = 8;
const BOOKS: usize = 50;

/// What became of the files on the shelves.
#[derive(Debug, Default)]
struct Salvaged {
    whole: usize,
    /// Chunks under their name and without one, earlier states, and errors.
    named: usize,
    nameless: usize,
    earlier: usize,
    errors: usize,
    /// Chunks that are nowhere: those that rested in rows, and others.
    gone: usize,
    gone_from_logs: usize,
}

/// Looks for everything that was on the shelves; `lost` are the parts of files of
/// which it is known that they are lost.
fn look(fs_: &FileSystem, lost: &[(String, u64, u64)], what: &str) -> Salvaged {
    let volume = fs_.volume();
    let mut found = HashSet::new();
    if let Ok(dir) = volume.lookup(ROOT, b"lost+found") {
        for entry in volume.read_dir(dir.ino, 2, 10_000).unwrap() {
            let size = volume.attr(entry.ino).unwrap().size;
            for from in (0..size).step_by(CHUNK) {
                if let Ok(bytes) = volume.read_file(entry.ino, from, CHUNK) {
                    found.insert(blake3::hash(&bytes));
                }
            }
        }
    }
    let mut salvaged = Salvaged::default();
    for shelf in 0..SHELVES {
        let dir = volume.lookup(ROOT, format!("shelf {shelf}").as_bytes());
        for book in 0..BOOKS {
            let expected = book_on(shelf, book);
            let path = format!("/shelf {shelf}/book {book}");
            let name = format!("book {book}");
            let attr = dir.as_ref().ok();
            let attr = attr.and_then(|dir| volume.lookup(dir.ino, name.as_bytes()).ok());
            let before = salvaged.named;
            for (at, chunk) in expected.chunks(CHUNK).enumerate() {
                let from = (at * CHUNK) as u64;
                let read = attr.map(|attr| volume.read_file(attr.ino, from, chunk.len()));
                match read {
                    Some(Ok(bytes)) if bytes == chunk => {
                        salvaged.named += 1;
                        continue;
                    }
                    // A state in which it was shorter.
                    Some(Ok(bytes)) if chunk.starts_with(&bytes) => salvaged.earlier += 1,
                    Some(Ok(_)) => panic!("wrong bytes in {path} from {from}: {what}"),
                    Some(Err(_)) => {
                        let to = from + chunk.len() as u64;
                        let told = lost
                            .iter()
                            .any(|(of, a, b)| *of == path && *a <= from && to <= *b);
                        assert!(told, "{path} from {from} is not told: {what}, {lost:?}");
                        salvaged.errors += 1;
                    }
                    None => {}
                }
                // Noise of more than two thousand bytes rests in no row.
                let in_log = (shelf * BOOKS + book) % 2 == 1 && chunk.len() > 3000;
                match found.contains(&blake3::hash(chunk)) {
                    true => salvaged.nameless += 1,
                    false if in_log => salvaged.gone_from_logs += 1,
                    false => salvaged.gone += 1,
                }
            }
            salvaged.whole +=
                usize::from(salvaged.named - before == expected.chunks(CHUNK).count());
        }
    }
    salvaged
}

/// Where sled cannot read its file and no journal helps, what lies on its other
/// pages comes back, with names; what rests in value logs comes back in any case;
/// what is lost is told, by path and range where a path is left, and reading it
/// is an error.
#[test]
fn a_page_that_cannot_be_read_costs_what_lay_on_it() {
    let trials: u64 = std::env::var("LACONICFS_TRIALS").map_or(12, |n| n.parse().unwrap());
    let home = TempDir::new().unwrap();
    // As it was closed, sled reads all of its file when it opens it, and takes
    // damage for the end; opened once more it reads page by page, when asked.
    let closed = shelves(home.path());
    let opened = home.path().join("opened");
    copy(&closed, &opened);
    for _ in 0..2 {
        FileSystem::open(&opened, &settings())
            .unwrap()
            .close()
            .unwrap();
    }
    let mut dice = Dice(7);
    let (mut whole, mut books) = (0, 0);
    for trial in 0..trials {
        let store = home.path().join(format!("trial-{trial}"));
        let by_page = trial % 3 != 0;
        copy(if by_page { &opened } else { &closed }, &store);
        fs::remove_dir_all(store.join("journal")).unwrap();
        let file = store.join("db/db");
        let mut bytes = fs::read(&file).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let at = dice.roll(used as u64) as usize;
        bytes[at..(at + 40).min(used)].fill(0x55);
        fs::write(&file, bytes).unwrap();
        let what = format!("trial {trial}: {at} of {used}, by page: {by_page}");
        let output = program::laconicfs(&["fsck", "--repair", "--json", program::text(&store)]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{what}: {}", String::from_utf8_lossy(&output.stderr)));
        let problems = report["problems"].as_array().unwrap();
        let told = !problems.is_empty();
        // Some of its file sled reads at once all the same.
        let earlier =
            (problems.iter()).any(|problem| problem.as_str().unwrap().contains("earlier state"));
        let lost: Vec<(String, u64, u64)> = (report["lost"].as_array().unwrap().iter())
            .map(|lost| {
                let path = lost["path"].as_str().unwrap_or_default();
                let at = |name: &str| lost[name].as_u64().unwrap();
                (path.to_string(), at("start"), at("end"))
            })
            .collect();
        let fs_ = FileSystem::open(&store, &Settings::look()).unwrap();
        let problems = fs_.volume().check().unwrap();
        assert_eq!(problems, Vec::<String>::new(), "{what}");
        let salvaged = look(&fs_, &lost, &what);
        fs_.close().unwrap();
        println!("{what}: {salvaged:?}, told: {told}");
        assert_eq!(salvaged.gone_from_logs, 0, "{what}: {salvaged:?}");
        let all = salvaged.whole == SHELVES * BOOKS;
        assert!(all || told, "{what}: {salvaged:?}");
        if by_page && !earlier {
            whole += salvaged.whole;
            books += SHELVES * BOOKS;
        }
        fs::remove_dir_all(&store).unwrap();
    }
    // One page of a hundred, each time.
    assert!(whole >= books * 9 / 10, "{whole} of {books}");
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
