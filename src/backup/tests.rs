//! What goes into a volume and out again is what it was.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;

use super::*;
use crate::store::Store;
use crate::tier::Tier;
use crate::tier::tests::{memory, options, text};
use crate::volume::{self, Volume};

fn volume() -> Arc<Volume> {
    let store: Arc<dyn Store> = memory();
    let tier = Tier::open(store, Arc::default(), options()).unwrap();
    Volume::format(&tier, 1, 2).unwrap();
    Volume::open(tier, volume::Options::default()).unwrap()
}

fn clean(volume: &Volume) {
    assert_eq!(volume.check().unwrap(), Vec::<String>::new());
}

fn settings() -> CopyOptions {
    CopyOptions {
        threads: 3,
        ..CopyOptions::default()
    }
}

/// A copy that must not fail in any entry.
#[track_caller]
fn copies<S: Tree, T: Tree>(from: &S, to: &T, options: &CopyOptions) -> Copied {
    let copied = copy(from, to, options, &|_| ()).unwrap();
    assert_eq!(copied.failures, []);
    copied
}

/// Everything that can be seen of a file, read without the code under test.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    rdev: u64,
    mtime: (i64, i64),
    nlink: u64,
    /// The first path of the same inode.
    same_as: Option<PathBuf>,
    /// Hash of the bytes or of a link's target.
    content: blake3::Hash,
    xattr: Option<Vec<u8>>,
}

fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut found = BTreeMap::new();
    let mut first = BTreeMap::new();
    let walk = walkdir::WalkDir::new(root).sort_by_file_name();
    for entry in walk {
        let entry = entry.unwrap();
        let path = entry.path();
        let meta = path.symlink_metadata().unwrap();
        let short = path.strip_prefix(root).unwrap().to_path_buf();
        let content = match meta.file_type() {
            kind if kind.is_file() => fs::read(path).unwrap(),
            kind if kind.is_symlink() => fs::read_link(path).unwrap().as_os_str().as_bytes().into(),
            _ => Vec::new(),
        };
        let mut value = vec![0; 100_000];
        let xattr = rustix::fs::lgetxattr(path, "user.note", &mut value[..]).ok();
        let same_as = first.insert(meta.ino(), short.clone());
        if let Some(same) = &same_as {
            first.insert(meta.ino(), same.clone());
        }
        let what = Seen {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            rdev: meta.rdev(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            nlink: if meta.is_dir() { 0 } else { meta.nlink() },
            same_as,
            content: blake3::hash(&content),
            xattr: xattr.map(|len| value[..len].to_vec()),
        };
        found.insert(short, what);
    }
    found
}

/// A folder with one of everything.
fn sample() -> TempDir {
    let home = TempDir::new().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::create_dir_all(at("d/deep/deeper")).unwrap();
    fs::create_dir(at("empty folder")).unwrap();
    fs::write(at("text"), text(1, 70_000)).unwrap();
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("d/deep/odd name\n"), b"x").unwrap();
    let strange = home.path().join(std::ffi::OsStr::from_bytes(b"d/\xff\xfe"));
    fs::write(strange, text(2, 3000)).unwrap();
    let holes = File::create(at("d/holes")).unwrap();
    holes.write_all_at(b"middle", 3 << 20).unwrap();
    holes.set_len(9 << 20).unwrap();
    fs::hard_link(at("text"), at("d/deep/deeper/again")).unwrap();
    fs::hard_link(at("text"), at("and again")).unwrap();
    symlink("nowhere/at/all", at("dangling")).unwrap();
    symlink("/etc", at("d/outside")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), fifo, mode, 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
    for (name, mode) in [("text", 0o4751), ("d", 0o1777), ("empty", 0)] {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for name in ["text", "d/deep"] {
        let empty = rustix::fs::XattrFlags::empty();
        if let Err(error) = rustix::fs::lsetxattr(at(name), "user.note", b"a value", empty) {
            eprintln!("skipped: extended attributes, {error}");
        }
    }
    let times = [
        ("d/deep/deeper", 1_000_000_000, 5),
        ("d/deep", 900_000_000, 0),
        ("d/holes", 12, 999_999_999),
        ("text", 1_600_000_000, 123_456_789),
    ];
    for (name, seconds, nanos) in times {
        let time = UNIX_EPOCH + Duration::new(seconds, nanos);
        File::open(at(name)).unwrap().set_modified(time).unwrap();
    }
    home
}

#[test]
fn everything_survives_the_way_through_a_volume() {
    let (from, back) = (sample(), TempDir::new().unwrap());
    let volume = volume();
    let stored = Stored::new(volume.clone(), Path::new("")).unwrap();
    let plain = Plain::new(from.path()).unwrap();
    let verify = CopyOptions {
        verify: true,
        ..settings()
    };
    let copied = copies(&plain, &stored, &verify);
    assert_eq!((copied.files, copied.hard_links), (5, 2));
    assert_eq!((copied.symlinks, copied.specials), (2, 2));
    assert_eq!((copied.directories, copied.verified), (4, 5));
    assert_eq!(copied.left_out, []);
    assert_eq!(copied.bytes, measure(&plain).unwrap());
    clean(&volume);
    let copied = copies(&stored, &Plain::new(back.path()).unwrap(), &verify);
    assert_eq!((copied.files, copied.verified), (5, 5));
    let (before, after) = (seen(from.path()), seen(back.path()));
    assert_eq!(before.len(), 16);
    assert_eq!(before, after);
    let holes = fs::metadata(back.path().join("d/holes")).unwrap();
    assert!(holes.blocks() * 512 < 1 << 20, "the hole was filled");
    assert!(
        fs::symlink_metadata(back.path().join("socket"))
            .unwrap()
            .file_type()
            .is_socket()
    );
}

#[test]
fn what_is_there_is_not_copied_again() {
    let from = sample();
    let volume = volume();
    let stored = Stored::new(volume.clone(), Path::new("")).unwrap();
    let plain = Plain::new(from.path()).unwrap();
    copies(&plain, &stored, &settings());
    let again = copies(&plain, &stored, &settings());
    assert_eq!((again.files, again.bytes, again.equal), (0, 0, 5));
    // As long, as old, but other bytes: only the bytes themselves tell.
    let path = from.path().join("d/deep/odd name\n");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, b"y").unwrap();
    File::open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(copies(&plain, &stored, &settings()).files, 0);
    let checksum = CopyOptions {
        checksum: true,
        ..settings()
    };
    let again = copies(&plain, &stored, &checksum);
    assert_eq!((again.files, again.equal), (1, 4));
    // Removed attributes and names that lead elsewhere follow as well.
    fs::remove_file(from.path().join("and again")).unwrap();
    fs::write(from.path().join("and again"), b"its own").unwrap();
    let _ = rustix::fs::lremovexattr(from.path().join("text"), "user.note");
    copies(&plain, &stored, &settings());
    let back = TempDir::new().unwrap();
    copies(&stored, &Plain::new(back.path()).unwrap(), &settings());
    assert_eq!(seen(from.path()), seen(back.path()));
    clean(&volume);
}

#[test]
fn links_in_the_target_are_replaced_and_never_followed() {
    let (from, to, outside) = (sample(), TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(outside.path().join("treasure"), b"treasure").unwrap();
    symlink(outside.path(), to.path().join("d")).unwrap();
    symlink(outside.path().join("treasure"), to.path().join("text")).unwrap();
    fs::hard_link(outside.path().join("treasure"), to.path().join("empty")).unwrap();
    let (plain, target) = (
        Plain::new(from.path()).unwrap(),
        Plain::new(to.path()).unwrap(),
    );
    copies(&plain, &target, &settings());
    assert_eq!(seen(from.path()), seen(to.path()));
    assert_eq!(
        fs::read(outside.path().join("treasure")).unwrap(),
        b"treasure"
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn one_failure_does_not_stop_the_others() {
    let (from, to) = (sample(), TempDir::new().unwrap());
    fs::create_dir_all(to.path().join("text/in the way")).unwrap();
    let plain = Plain::new(from.path()).unwrap();
    let target = Plain::new(to.path()).unwrap();
    let copied = copy(&plain, &target, &settings(), &|_| ()).unwrap();
    let failed: Vec<_> = copied.failures.iter().map(|f| f.path.clone()).collect();
    assert_eq!(failed, [PathBuf::from("text")]);
    assert_eq!(copied.failure_count, 1);
    assert_eq!(fs::read(to.path().join("d/deep/odd name\n")).unwrap(), b"x");
    let other = fs::symlink_metadata(to.path().join("pipe")).unwrap();
    assert!(other.file_type().is_fifo());
}

#[test]
fn parts_of_a_volume_and_parts_left_out() {
    let (from, back) = (sample(), TempDir::new().unwrap());
    let volume = volume();
    let plain = Plain::new(from.path()).unwrap();
    let id = Plain::new(&from.path().join("d/deep"))
        .unwrap()
        .id()
        .unwrap();
    let skip = CopyOptions {
        skip: vec![id],
        ..settings()
    };
    let whole = Stored::new(volume.clone(), Path::new("")).unwrap();
    let copied = copies(&plain, &whole, &skip);
    assert_eq!(copied.left_out.len(), 1);
    assert_eq!(copied.left_out[0].example, Path::new("d/deep"));
    let part = Stored::new(volume.clone(), Path::new("/d//")).unwrap();
    copies(&part, &Plain::new(back.path()).unwrap(), &settings());
    assert!(back.path().join("holes").exists());
    assert!(!back.path().join("deep").exists());
    for path in ["none", "d/none"] {
        let error = Stored::new(volume.clone(), Path::new(path)).err().unwrap();
        assert!(matches!(error, crate::Error::NotFound), "{error}");
    }
    let error = Stored::new(volume, Path::new("text")).err().unwrap();
    assert!(matches!(error, crate::Error::NotDirectory), "{error}");
}
