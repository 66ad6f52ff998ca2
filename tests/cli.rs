//! The binary from outside: bad input ends in one clear line and the right
//! exit status; reports for programs are JSON.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use laconicfs::filesystem::{FileSystem, Settings};
use laconicfs::store::{Access, StoreDir};
use laconicfs::volume::{Caller, OpenFlags, ROOT, WriteFlags};
use serde_json::Value;
use tempfile::TempDir;

use program::{fails, fuse, laconicfs, text, works};

mod program;

#[track_caller]
fn json(args: &[&str]) -> Value {
    let text = works(args);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}\n{text}"))
}

/// A fresh folder, and a store in it.
fn store() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    works(&["mkfs", text(&store), "--model", "none"]);
    (folder, store)
}

/// The length of some bytes as people read it.
fn sized(bytes: &[u8]) -> String {
    indicatif::BinaryBytes(bytes.len() as u64).to_string()
}

/// Writes a file into the volume of a closed store.
fn put(store: &Path, name: &str, content: &[u8]) {
    let fs = FileSystem::open(store, &Settings::default()).unwrap();
    let volume = fs.volume();
    let me = Caller { uid: 0, gid: 0 };
    let mode = libc::S_IFREG | 0o644;
    let (attr, _) = volume
        .create(ROOT, name.as_bytes(), mode, OpenFlags::WRITE, me)
        .unwrap();
    volume
        .write_file(attr.ino, 0, content, WriteFlags::empty())
        .unwrap();
    volume.release(attr.ino);
    fs.close().unwrap();
}

/// Bytes that no codec makes smaller, so that they rest in a value log.
fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

/// A new superblock with a right hash, made by changing the JSON of the old.
fn edit_superblock(store: &Path, edit: impl FnOnce(&mut Value)) {
    let path = store.join("superblock");
    let text = fs::read_to_string(&path).unwrap();
    let mut value: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    edit(&mut value);
    let line = value.to_string();
    let hash = blake3::hash(line.as_bytes()).to_hex();
    fs::write(&path, format!("{line}\n{hash}\n")).unwrap();
}

#[test]
fn help_and_version_are_no_failures() {
    assert!(works(&["--version"]).starts_with("laconicfs "));
    let help = works(&["--help"]);
    assert!(help.contains("Exit status:") && help.contains("LACONICFS_LOG"));
    for command in ["mkfs", "mount", "umount", "drain", "stat", "fsck", "demo"] {
        let help = works(&[command, "--help"]);
        assert!(help.contains("Example"), "{command} teaches nothing");
    }
}

#[test]
fn a_wrong_command_line_has_status_two() {
    for args in [
        &["--nonsense"][..],
        &["mkfs"],
        &["frobnicate"],
        &["mkfs", "x", "--chunk-size", "3k"],
        &["codec", "bench", "x", "--codec", "gzip"],
        &[],
    ] {
        let output = laconicfs(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn what_is_not_a_store_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [folder.path(), &missing, &file] {
        for (command, status) in [("stat", 3), ("drain", 3), ("fsck", 8)] {
            let error = fails(&[command, text(path)], status);
            assert!(error.contains(text(path)), "{error}");
        }
        let dir = folder.path().join("mnt");
        let error = fails(&["mount", text(path), text(&dir), "--create"], 3);
        assert!(error.contains("mkfs"), "{error}");
    }
    // Nothing was made in what is not a store.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_store_is_not_made_where_something_is() {
    let (folder, store) = store();
    let error = fails(&["mkfs", text(&store)], 3);
    assert!(error.contains("already"), "{error}");
    fails(&["mkfs", text(folder.path())], 3);
    let missing = folder.path().join("a/b");
    fails(&["mkfs", text(&missing)], 1);
    works(&["fsck", text(&store)]);
}

/// Wherever the disk becomes full, in the database, the model or what follows.
#[test]
fn a_store_that_does_not_fit_is_not_half_made() {
    let disk = tempfile::tempdir().unwrap();
    let at = |name: &str| disk.path().join(name);
    let mut failed = 0;
    for kib in [16, 64, 500, 2000, 5000, 16000] {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(disk.path())
            .output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: a small disk cannot be mounted");
            return;
        }
        fs::create_dir(at("there")).unwrap();
        let outputs = ["new", "there"].map(|name| {
            let output = laconicfs(&["mkfs", text(&at(name))]);
            let left = fs::read_dir(at(name)).map_or(0, Iterator::count);
            if output.status.success() {
                fs::remove_dir_all(at(name)).unwrap();
            }
            (output, left)
        });
        let kept = fs::read_dir(disk.path()).unwrap().count();
        let unmounted = Command::new("umount").arg(disk.path()).status();
        assert!(unmounted.unwrap().success());
        for (output, left) in outputs {
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                assert!(left > 0);
                continue;
            }
            failed += 1;
            assert_eq!(output.status.code(), Some(8), "{kib} KiB: {said}");
            assert!(said.contains("free some space"), "{said}");
            assert_eq!(left, 0, "{kib} KiB");
        }
        assert!(kept <= 1, "{kib} KiB");
    }
    // All but the last are too small.
    assert_eq!(failed, 10);
}

/// On a disk that is mounted read-only, which root meets as well.
#[test]
fn a_read_only_disk_has_its_status() {
    let disk = tempfile::tempdir().unwrap();
    let mount = |options: &str| {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(disk.path())
            .output();
        mount.is_ok_and(|output| output.status.success())
    };
    if !mount("rw") {
        eprintln!("skipped: a disk cannot be mounted");
        return;
    }
    let store = disk.path().join("store");
    works(&["mkfs", text(&store), "--model", "none"]);
    put(&store, "file", b"content");
    assert!(mount("remount,ro"));
    let said = [
        laconicfs(&["drain", text(&store)]),
        laconicfs(&["mkfs", text(&disk.path().join("other"))]),
        laconicfs(&["stat", text(&store)]),
    ];
    let unmounted = Command::new("umount").arg(disk.path()).status();
    assert!(unmounted.unwrap().success());
    let statuses = said.each_ref().map(|output| output.status.code());
    assert_eq!(statuses, [Some(13), Some(13), Some(0)], "{said:?}");
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let (_folder, store) = store();
    edit_superblock(&store, |value| value["format"] = 99.into());
    let before = fs::read(store.join("superblock")).unwrap();
    let error = fails(&["stat", text(&store)], 4);
    assert!(error.contains("newer"), "{error}");
    fails(&["drain", text(&store)], 4);
    assert_eq!(fs::read(store.join("superblock")).unwrap(), before);
}

#[test]
fn a_damaged_superblock_is_noticed() {
    let (_folder, store) = store();
    let path = store.join("superblock");
    let good = fs::read(&path).unwrap();
    for at in [3, good.len() / 2, good.len() - 5] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        // There is a copy.
        works(&["stat", text(&store)]);
        fails(&["fsck", text(&store)], 4);
        fs::write(store.join("superblock.copy"), bad).unwrap();
        let output = laconicfs(&["stat", text(&store)]);
        assert!(matches!(output.status.code(), Some(3 | 7)));
        fs::write(store.join("superblock.copy"), &good).unwrap();
    }
    fs::write(&path, good).unwrap();
    works(&["fsck", text(&store)]);
}

#[test]
fn a_missing_or_altered_model_is_named() {
    let (_folder, store) = store();
    let hash = {
        let mut dir = StoreDir::open(&store, Access::Write).unwrap();
        let hash = dir.put_model(b"stands for a model").unwrap();
        dir.set_default_model(&hash).unwrap();
        hash
    };
    // It is there, but no model.
    fails(&["stat", text(&store)], 6);
    let path = store.join(format!("models/{hash}.model"));
    fs::write(&path, b"stands for a modem").unwrap();
    // What needs no model can be read.
    let looked = |what: &str| {
        let output = laconicfs(&["fsck", text(&store)]);
        let (out, error) = (output.stdout.as_slice(), output.stderr.as_slice());
        let said = String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(error);
        assert!(
            said.contains(hash.to_hex().as_str()) && said.contains(what),
            "{said}"
        );
        assert_eq!(output.status.code(), Some(4));
        works(&["stat", text(&store)]);
    };
    looked("has changed");
    fs::remove_file(&path).unwrap();
    looked("missing");

    let folder = tempfile::tempdir().unwrap();
    let fresh = folder.path().join("fresh");
    fails(&["mkfs", text(&fresh), "--model", "no-such-model"], 6);
    let junk = folder.path().join("junk");
    fs::write(&junk, b"junk").unwrap();
    fails(&["mkfs", text(&fresh), "--model", text(&junk)], 6);
    assert!(!fresh.exists());
}

#[test]
fn damage_is_named_by_file_and_range() {
    let (_folder, store) = store();
    put(&store, "whole", &noise(1000));
    let content = noise(200_000);
    put(&store, "broken", &content);
    works(&["drain", text(&store)]);
    works(&["fsck", "--scrub", text(&store)]);
    let mut logs: Vec<_> = fs::read_dir(store.join("logs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    logs.sort_by_key(|path| fs::metadata(path).unwrap().len());
    let log = File::options()
        .read(true)
        .write(true)
        .open(logs.last().unwrap())
        .unwrap();
    let mut byte = [0];
    log.read_exact_at(&mut byte, 100_000).unwrap();
    log.write_all_at(&[byte[0] ^ 4], 100_000).unwrap();

    let output = laconicfs(&["fsck", "--scrub", "--json", text(&store)]);
    assert_eq!(output.status.code(), Some(4));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let problems = report["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let problem = problems[0].as_str().unwrap();
    let (_, range) = problem.split_once("/broken bytes ").unwrap();
    let (start, _) = range.split_once(" to ").unwrap();
    let start: u64 = start.parse().unwrap();

    // That range and no other cannot be read.
    let fs = FileSystem::open(&store, &Settings::look()).unwrap();
    let ino = fs.volume().lookup(ROOT, b"broken").unwrap().ino;
    for (index, chunk) in content.chunks(65536).enumerate() {
        let at = index as u64 * 65536;
        let read = fs.volume().read_file(ino, at, chunk.len());
        assert_eq!(read.is_err(), at == start);
        assert!(at == start || read.unwrap() == chunk);
    }
    fs.close().unwrap();
    drop(fs);
    let [lost] = &report["lost"].as_array().unwrap()[..] else {
        panic!("{report}");
    };
    assert_eq!(lost["path"], "/broken");
    assert_eq!(lost["start"], start);

    // A repair notes it: an error and no zeros, until it is written anew.
    assert_eq!(
        laconicfs(&["fsck", "--repair", text(&store)]).status.code(),
        Some(1 + 4)
    );
    assert_eq!(laconicfs(&["fsck", text(&store)]).status.code(), Some(4));
    let fs = FileSystem::open(&store, &Settings::default()).unwrap();
    for (index, chunk) in content.chunks(65536).enumerate() {
        let at = index as u64 * 65536;
        let read = fs.volume().read_file(ino, at, chunk.len());
        assert_eq!(read.is_err(), at == start);
    }
    let range = start as usize..(start as usize + 65536).min(content.len());
    fs.volume()
        .write_file(ino, start, &content[range], WriteFlags::empty())
        .unwrap();
    fs.close().unwrap();
    drop(fs);
    works(&["fsck", "--scrub", text(&store)]);
    let fs = FileSystem::open(&store, &Settings::look()).unwrap();
    assert!(fs.volume().read_file(ino, 0, content.len()).unwrap() == content);
    fs.close().unwrap();
}

/// A copy from a backup heals what is damaged, by itself and after a repair.
#[test]
fn an_import_heals_damage() {
    for repaired in [false, true] {
        let (folder, store) = store();
        let backup = folder.path().join("backup");
        fs::create_dir(&backup).unwrap();
        fs::write(backup.join("file"), noise(200_000)).unwrap();
        works(&["import", "--drain", text(&backup), text(&store)]);
        let logs = fs::read_dir(store.join("logs")).unwrap();
        let paths = logs.map(|entry| entry.unwrap().path());
        let log = paths.max_by_key(|path| fs::metadata(path).unwrap().len());
        let log = File::options().read(true).write(true).open(log.unwrap());
        let (log, mut byte) = (log.unwrap(), [0]);
        log.read_exact_at(&mut byte, 100_000).unwrap();
        log.write_all_at(&[byte[0] ^ 4], 100_000).unwrap();
        let fsck = |how: &str| laconicfs(&["fsck", how, text(&store)]).status.code();
        assert_eq!(fsck("--scrub"), Some(4));
        if repaired {
            assert_eq!(fsck("--repair"), Some(1 + 4));
        }
        let import = [
            "import",
            "--checksum",
            text(&backup),
            text(&store),
            "--json",
        ];
        assert_eq!(json(&import)["files"], 1);
        assert_eq!(fsck("--scrub"), Some(0));
        let import = json(&import);
        assert_eq!((&import["files"], &import["equal"]), (&0.into(), &1.into()));
    }
}

/// Without its database a store comes back from its journal, and without that
/// as well from its value logs, without names.
#[test]
fn a_store_without_its_database_comes_back() {
    let (_folder, store) = store();
    let content = noise(150_000);
    put(&store, "file", &content);
    fs::remove_dir_all(store.join("db")).unwrap();
    let output = laconicfs(&["fsck", text(&store)]);
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("db is missing") && !said.contains("db.old"),
        "{said}"
    );
    assert_eq!(
        laconicfs(&["fsck", "--repair", text(&store)]).status.code(),
        Some(1)
    );
    works(&["fsck", "--scrub", text(&store)]);
    let read = |name: &[u8]| {
        let fs = FileSystem::open(&store, &Settings::look()).unwrap();
        let ino = fs.volume().lookup(ROOT, name).unwrap().ino;
        let read = fs.volume().read_file(ino, 0, content.len() + 1).unwrap();
        fs.close().unwrap();
        read
    };
    assert!(read(b"file") == content);
    // The superblock has a copy.
    fs::write(store.join("superblock"), "nothing").unwrap();
    assert_eq!(laconicfs(&["fsck", text(&store)]).status.code(), Some(4));
    assert_eq!(
        laconicfs(&["fsck", "--repair", text(&store)]).status.code(),
        Some(1)
    );
    works(&["fsck", text(&store)]);
    assert!(read(b"file") == content);
    assert_eq!(laconicfs(&["fsck", "--nonsense"]).status.code(), Some(16));

    // All rows lost: what is in the logs becomes files without names.
    fs::remove_dir_all(store.join("db")).unwrap();
    fs::remove_dir_all(store.join("journal")).unwrap();
    let output = laconicfs(&["fsck", text(&store)]);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(
        said.contains("db is missing") && !said.contains("db.old"),
        "{said}"
    );
    let output = laconicfs(&["fsck", "--repair", text(&store)]);
    assert_eq!(output.status.code(), Some(1 + 4), "{output:?}");
    works(&["fsck", "--scrub", text(&store)]);
    let fs = FileSystem::open(&store, &Settings::look()).unwrap();
    let found = fs.volume().lookup(ROOT, b"lost+found").unwrap().ino;
    let mut left: Vec<&[u8]> = content.chunks(65536).collect();
    for entry in fs.volume().read_dir(found, 2, 100).unwrap() {
        let size = fs.volume().attr(entry.ino).unwrap().size as usize;
        let read = fs.volume().read_file(entry.ino, 0, size).unwrap();
        let before = left.len();
        left.retain(|chunk| *chunk != read);
        assert_eq!(left.len(), before - 1, "{entry:?}");
    }
    assert!(left.is_empty());
    fs.close().unwrap();
}

#[test]
fn a_store_in_use_is_refused_with_the_holder() {
    let (_folder, store) = store();
    let fs = FileSystem::open(&store, &Settings::default()).unwrap();
    let pid = std::process::id().to_string();
    for (command, status) in [("stat", 5), ("drain", 5), ("fsck", 8), ("check", 8)] {
        let error = fails(&[command, text(&store)], status);
        assert!(error.contains(&pid), "{error}");
    }
    fs.close().unwrap();
    drop(fs);
    works(&["stat", text(&store)]);
}

#[test]
fn reports_are_json() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let made = json(&[
        "mkfs",
        "--json",
        text(&store),
        "--model",
        "none",
        "--chunk-size",
        "16k",
    ]);
    assert_eq!(made["chunk_size"], 16384);
    let content = "All work and no play makes Jack a dull boy.\n".repeat(2000);
    put(&store, "jack", content.as_bytes());
    let before = json(&["stat", "--json", text(&store)]);
    assert_eq!(before["logical"], content.len() as u64);
    assert_eq!(before["files"], 1);
    assert!(before["queue"]["chunks"].as_u64().unwrap() > 0);
    let drained = json(&["drain", "--json", text(&store)]);
    assert_eq!(drained["chunks_done"], before["queue"]["chunks"]);
    let after = json(&["stat", "--json", text(&store)]);
    assert_eq!(after["queue"]["chunks"], 0);
    assert_eq!(
        json(&["fsck", "--json", text(&store)])["problems"],
        Value::Array(vec![])
    );
    assert!(json(&["model", "list", "--json"]).is_array());
    assert!(json(&["model", "list", "--json", text(&store)]).is_array());
    // People get something as well.
    assert!(works(&["stat", text(&store)]).contains("cold"));
    assert!(works(&["fsck", text(&store)]).contains("clean"));
}

#[test]
fn files_go_through_the_codec_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let content = [
        b"Das Pferd frisst keinen Gurkensalat. ".repeat(3000),
        noise(5000),
    ]
    .concat();
    for (name, content) in [("text", content.as_slice()), ("empty", b"")] {
        let (plain, coded, again) = (at(name), at("coded"), at("again"));
        fs::write(&plain, content).unwrap();
        for codec in ["raw", "zstd", "auto"] {
            let report = json(&[
                "codec",
                "encode",
                text(&plain),
                text(&coded),
                "--codec",
                codec,
                "--json",
            ]);
            assert_eq!(report["coded"], fs::metadata(&coded).unwrap().len());
            let said = works(&["codec", "decode", text(&coded), text(&again)]);
            assert_eq!(fs::read(&again).unwrap(), content);
            // Of what was decoded, not what coding it would have gained.
            let (plain, coded) = (sized(content), sized(&fs::read(&coded).unwrap()));
            let expected = format!("{plain} out of {coded} coded");
            assert!(said.contains(&expected), "{said}");
        }
    }
    // Damage leaves what is there alone.
    let mut bad = fs::read(at("coded")).unwrap();
    bad.truncate(10);
    fs::write(at("bad"), bad).unwrap();
    fs::write(at("kept"), "kept").unwrap();
    let error = fails(&["codec", "decode", text(&at("bad")), text(&at("kept"))], 7);
    // Advice that goes with stores would mislead.
    assert!(!error.contains("fsck"), "{error}");
    fails(
        &["codec", "decode", text(&at("text")), text(&at("kept"))],
        7,
    );
    fails(
        &["codec", "encode", text(&at("missing")), text(&at("kept"))],
        1,
    );
    fails(
        &["codec", "encode", text(folder.path()), text(&at("kept"))],
        1,
    );
    assert_eq!(fs::read(at("kept")).unwrap(), b"kept");

    let bench = json(&[
        "codec",
        "bench",
        text(&at("text")),
        "--json",
        "--codec",
        "zstd",
    ]);
    assert_eq!(bench["total"]["plain"], content.len() as u64);
    assert_eq!(bench["total"]["coded"], bench["total"]["zstd19"]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (_folder, store) = store();
    let mut child = Command::new(env!("CARGO_BIN_EXE_laconicfs"))
        .args(["stat", text(&store)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty());
}

#[test]
fn what_is_not_mounted_cannot_be_unmounted() {
    let (folder, store) = store();
    fails(&["umount", text(folder.path())], 10);
    fails(&["umount", text(&store)], 10);
    fails(&["umount", "/no/such/folder"], 10);
    fails(&["umount", "/proc"], 10);
}

#[test]
fn a_mount_lives_from_mount_to_umount() {
    if !fuse() {
        return;
    }
    let (folder, store) = store();
    let dir = folder.path().join("mnt");
    let (s, d) = (text(&store), text(&dir));
    fails(&["mount", s, d], 9);
    fails(&["mount", s, d, "--create", "-o", "nonsense"], 9);
    let mounted = json(&["mount", s, d, "--create", "--json"]);
    let pid = mounted["pid"].to_string();
    fs::write(dir.join("file"), "written through the mount").unwrap();

    // Every way to name it, while it is mounted.
    for path in [s, d, text(&dir.join("file"))] {
        let stat = json(&["stat", "--json", path]);
        assert_eq!(stat["mounted"]["pid"].to_string(), pid);
    }
    json(&["drain", "--json", d]);
    // What a refused mount made it takes away, and nothing else.
    let outer = folder.path().join("outer");
    fs::create_dir(&outer).unwrap();
    for (other, more) in [
        ("outer/in/deep", None),
        ("outer/deep", Some("--foreground")),
    ] {
        let other = folder.path().join(other);
        let mut args = vec!["mount", s, text(&other), "--create"];
        args.extend(more);
        let error = fails(&args, 5);
        assert!(error.contains(&pid), "{error}");
        assert_eq!(fs::read_dir(&outer).unwrap().count(), 0);
        fs::create_dir_all(&other).unwrap();
        fails(&args, 5);
        assert!(other.exists());
        fs::remove_dir_all(&outer).unwrap();
        fs::create_dir(&outer).unwrap();
    }
    fails(&["fsck", s], 8);
    // A mount is no store, and its store is named.
    for path in [d, text(&dir.join("file"))] {
        let error = fails(&["fsck", path], 8);
        assert!(error.contains(s) && error.contains("unmount"), "{error}");
    }
    let second = folder.path().join("second");
    works(&["mkfs", text(&second), "--model", "none"]);
    let error = fails(&["mount", text(&second), d], 9);
    assert!(error.contains("in use"), "{error}");

    // Not while a file is open.
    let open = File::open(dir.join("file")).unwrap();
    fails(&["umount", d], 5);
    drop(open);
    works(&["umount", d]);
    // The store is free at once, and the log and the socket are in order.
    works(&["fsck", "--scrub", s]);
    assert!(!store.join("control").exists());

    works(&["mount", s, d, "-o", "ro"]);
    assert_eq!(
        fs::read(dir.join("file")).unwrap(),
        b"written through the mount"
    );
    assert!(fs::write(dir.join("file"), "x").is_err());
    fails(&["drain", d], 13);
    works(&["umount", "--json", s]);
    assert!(fs::read(dir.join("file")).is_err());
}

#[test]
fn a_mount_point_must_be_an_empty_directory() {
    if !fuse() {
        return;
    }
    let (folder, store) = store();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    fails(&["mount", text(&store), text(&file)], 9);
    fails(&["mount", text(&store), text(folder.path())], 9);
    let inside = store.join("mnt");
    fails(&["mount", text(&store), text(&inside), "--create"], 9);
    assert!(!inside.exists());
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

#[test]
fn the_demonstration_compares_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("deeper")).unwrap();
    let content = "The quick brown fox jumps over the lazy dog.\n".repeat(1000);
    fs::write(folder.path().join("deeper/fox"), &content).unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();
    let demo = json(&["demo", text(folder.path()), "--json", "--model", "none"]);
    assert_eq!(demo["total"]["bytes"], content.len() as u64);
    assert_eq!(demo["files"].as_array().unwrap().len(), 2);
    assert_eq!(demo["files"][0]["file"], "deeper/fox");
    fails(&["demo", "/no/such/folder"], 1);
}
