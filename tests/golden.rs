//! What earlier versions wrote is read for ever, and every kernel writes and
//! reads the same bytes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use laconicfs::filesystem::{FileSystem, NewStore, Settings};
use laconicfs::lm::model::Model;
use laconicfs::store::{Access, Store, StoreDir, Table};
use laconicfs::volume::{Caller, OpenFlags, ROOT, WriteFlags};
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// The small model of the golden files: it knows nothing, but it computes.
fn model() -> Vec<u8> {
    let model = Model::parse(fs::read(golden("model-v1.model")).unwrap()).unwrap();
    // Its mixer section is not one.
    model.with_mixer_start(None).unwrap()
}

fn text(len: usize) -> Vec<u8> {
    let line = |i: usize| format!("{i}: the {} of the {}\n", i * i % 91, i % 13);
    (0..).flat_map(|i| line(i).into_bytes()).take(len).collect()
}

/// What the golden store holds: names and contents. All but the last file were
/// drained.
fn files() -> Vec<(&'static [u8], Vec<u8>)> {
    let mut noise = vec![0; 9000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    vec![
        (b"empty", Vec::new()),
        (b"text", text(20_000)),
        (b"same text", text(20_000)),
        (b"noise", noise),
        (b"zeros", vec![0; 300_000]),
        (b"odd \xff name\n", b"caf\xc3\xa9 \xa0\xa1".to_vec()),
        (b"hot", text(5000)),
    ]
}

/// What was written over the files of `volume-3` after they were coded, and
/// synced before a crash: name, offset, bytes.
fn patches() -> Vec<(&'static [u8], usize, Vec<u8>)> {
    vec![
        (b"text", 5, b"patched".to_vec()),
        (b"text", 8190, b"over the end of a chunk".to_vec()),
        (b"text", 19_990, text(900)),
        (b"noise", 8192, vec![b'-'; 700]),
        // Long enough for a value log.
        (b"zeros", 100_000, text(3000)),
    ]
}

/// The files of a golden volume.
fn content(volume: &str) -> Vec<(&'static [u8], Vec<u8>)> {
    let mut files = files();
    if volume == "volume-3" {
        for (name, at, bytes) in patches() {
            for (_, content) in files.iter_mut().filter(|(of, _)| *of == name) {
                content.resize(content.len().max(at + bytes.len()), 0);
                content[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }
    files
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(below(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
#[ignore = "writes the golden volume of a new format"]
fn write_golden() {
    let home = TempDir::new().unwrap();
    let store = home.path().join("store");
    let new = NewStore {
        chunk_size: 8192,
        model: Some(model()),
    };
    FileSystem::create(&store, &new).unwrap();
    let settings = Settings {
        drain_threads: 0,
        ..Settings::default()
    };
    let fs_ = FileSystem::open(&store, &settings).unwrap();
    let me = Caller { uid: 0, gid: 0 };
    for (name, content) in files() {
        if name == b"hot" {
            fs_.volume().tier().drain(&mut |_| true).unwrap();
        }
        let (attr, _) = fs_
            .volume()
            .create(ROOT, name, libc::S_IFREG | 0o644, OpenFlags::WRITE, me)
            .unwrap();
        let written = fs_
            .volume()
            .write_file(attr.ino, 0, &content, WriteFlags::empty());
        assert_eq!(written.unwrap(), content.len() as u64);
        fs_.volume().release(attr.ino);
    }
    fs_.volume().tier().drain(&mut |_| true).unwrap();
    for (name, at, bytes) in patches() {
        let ino = fs_.volume().lookup(ROOT, name).unwrap().ino;
        let written = fs_
            .volume()
            .write_file(ino, at as u64, &bytes, WriteFlags::empty());
        assert_eq!(written.unwrap(), (at + bytes.len()) as u64);
    }
    fs_.volume().sync().unwrap();
    // As a crash would leave it.
    for file in below(&store) {
        let name = file.strip_prefix(&store).unwrap();
        if name == Path::new("lock") {
            continue;
        }
        let packed = zstd::encode_all(fs::File::open(&file).unwrap(), 19).unwrap();
        let target = golden("volume-3").join(format!("{}.zst", name.display()));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        // Those that are there stay as they are.
        let mut file = fs::File::create_new(target).unwrap();
        file.write_all(&packed).unwrap();
    }
}

/// A golden volume, unpacked.
fn unpacked(volume: &str) -> TempDir {
    let home = TempDir::new().unwrap();
    for file in below(&golden(volume)) {
        assert_eq!(file.extension().unwrap(), "zst");
        let name = file.strip_prefix(golden(volume)).unwrap();
        let target = home.path().join(name.with_extension(""));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let plain = zstd::decode_all(fs::File::open(&file).unwrap()).unwrap();
        fs::write(target, plain).unwrap();
    }
    home
}

#[test]
fn golden_volumes_are_read() {
    for volume in ["volume-1", "volume-1-journal", "volume-3"] {
        read(unpacked(volume).path(), volume);
    }
    // Without their database as well.
    for volume in ["volume-1-journal", "volume-3"] {
        let home = unpacked(volume);
        fs::remove_dir_all(home.path().join("db")).unwrap();
        read(home.path(), volume);
    }
}

#[test]
fn golden_volumes_hold_rows_of_every_version() {
    let home = unpacked("volume-3");
    let directory = StoreDir::open(home.path(), Access::Read).unwrap();
    let store = directory.store();
    let rows = |table| store.scan(table, &[], None, usize::MAX).unwrap();
    // The second version of a chunk's row has a model, and patches wait.
    assert!(rows(Table::Chunk).iter().any(|(_, row)| row[0] == 2));
    assert_eq!(rows(Table::Patch).len(), 5);
    drop((store, directory));
    let home = unpacked("volume-1");
    let directory = StoreDir::open(home.path(), Access::Read).unwrap();
    let rows = directory
        .store()
        .scan(Table::Chunk, &[], None, usize::MAX)
        .unwrap();
    assert!(rows.iter().all(|(_, row)| row[0] == 1));
}

fn read(path: &Path, volume: &str) {
    for settings in [Settings::look(), Settings::default()] {
        let fs_ = FileSystem::open(path, &settings).unwrap();
        let report = fs_.report().unwrap();
        assert!(report.chunks.iter().any(|c| c.tier == "cold"));
        for (name, content) in content(volume) {
            let ino = fs_.volume().lookup(ROOT, name).unwrap().ino;
            let read = fs_.volume().read_file(ino, 0, content.len() + 10).unwrap();
            assert_eq!(read, content, "{name:?}");
        }
        assert_eq!(fs_.volume().check().unwrap(), Vec::<String>::new());
        fs_.close().unwrap();
    }
}

/// Every kernel that this machine has encodes to the same bytes, and decodes
/// what another has encoded.
#[test]
fn kernels_write_and_read_the_same_bytes() {
    let home = TempDir::new().unwrap();
    let path = |name: &str| home.path().join(name);
    fs::write(path("model"), model()).unwrap();
    fs::write(path("plain"), text(6000)).unwrap();
    let mut first: Option<Vec<u8>> = None;
    for kernel in [
        "scalar", "avx2", "avxvnni", "avx512", "amx", "neon", "dotprod",
    ] {
        let run = |args: &[&str]| {
            Command::new(env!("CARGO_BIN_EXE_laconicfs"))
                .args(args)
                .current_dir(home.path())
                .env("LACONICFS_KERNEL", kernel)
                .output()
                .unwrap()
        };
        let encoded = run(&[
            "codec", "encode", "plain", kernel, "--codec", "lm", "--model", "model",
        ]);
        if !encoded.status.success() {
            let why = String::from_utf8_lossy(&encoded.stderr);
            assert!(kernel != "scalar", "{why}");
            eprintln!("skipped: {kernel}: {why}");
            continue;
        }
        let bytes = fs::read(path(kernel)).unwrap();
        assert_eq!(
            first.get_or_insert_with(|| bytes.clone()),
            &bytes,
            "{kernel}"
        );
        let decoded = run(&["codec", "decode", "scalar", "back", "--model", "model"]);
        assert!(decoded.status.success(), "{decoded:?}");
        assert_eq!(fs::read(path("back")).unwrap(), text(6000));
        fs::remove_file(path("back")).unwrap();
    }
}
