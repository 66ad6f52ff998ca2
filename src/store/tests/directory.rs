//! The directory as a whole: making, opening, locking, models.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// The error of something that must fail.
fn error<T>(result: crate::Result<T>) -> Error {
    result.err().expect("it must fail")
}

#[test]
fn a_store_remembers_what_it_is() {
    let (home, directory) = fresh();
    let superblock = directory.superblock().clone();
    assert_eq!(superblock.properties, properties());
    assert_eq!(superblock.uuid.len(), 32);
    let store = directory.store();
    let payload = noise(7, 9000);
    let value = store.append(Class::Cold, Table::Chunk, b"k", &payload);
    let value = value.unwrap();
    let mut batch = Batch::default();
    batch.put(Table::Inode, b"i", b"row");
    store.commit(batch).unwrap();
    drop(store);
    drop(directory);

    let directory = reopen(&home);
    assert_eq!(directory.superblock(), &superblock);
    let store = directory.store();
    assert_eq!(
        store.get(Table::Inode, b"i").unwrap().as_deref(),
        Some(&b"row"[..])
    );
    assert_eq!(store.value(&value).unwrap(), payload);
    // What an earlier process wrote is never appended to.
    assert!(store.logs().unwrap().iter().all(|info| info.sealed));
    let (first, second) = (
        value,
        store.append(Class::Cold, Table::Chunk, b"k", &payload),
    );
    let (ValueRef::Log { log: a, .. }, ValueRef::Log { log: b, .. }) = (first, second.unwrap())
    else {
        panic!("both are long");
    };
    assert_ne!(a, b);
    drop(store);
    drop(directory);

    let elsewhere = home.path().join("elsewhere");
    copy_directory(&home.path().join("store"), &elsewhere);
    let moved = StoreDir::open(&elsewhere, Access::Write).unwrap();
    assert_eq!(moved.superblock(), &superblock);
    assert_eq!(
        moved.store().get(Table::Inode, b"i").unwrap().as_deref(),
        Some(&b"row"[..])
    );
}

#[test]
fn what_is_not_a_store_is_not_opened() {
    let home = TempDir::new().unwrap();
    let nothing = error(StoreDir::open(&home.path().join("x"), Access::Write));
    assert!(matches!(nothing, Error::NotAStore { .. }), "{nothing}");
    let empty = error(StoreDir::open(home.path(), Access::Write));
    assert!(empty.to_string().contains("mkfs"), "{empty}");
    let file = home.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let found = error(StoreDir::open(&file, Access::Read));
    assert!(found.to_string().contains("it is a file"), "{found}");
    std::fs::write(home.path().join("superblock"), "something else").unwrap();
    let other = error(StoreDir::open(home.path(), Access::Write));
    assert!(matches!(other, Error::NotAStore { .. }), "{other}");
    // Nothing was left in it.
    assert!(!home.path().join("lock").exists());
}

#[test]
fn a_store_is_made_only_where_nothing_is() {
    let home = TempDir::new().unwrap();
    let path = home.path().join("a");
    std::fs::create_dir(&path).unwrap();
    std::fs::create_dir(path.join("lost+found")).unwrap();
    let made = StoreDir::create(&path, &properties()).unwrap();
    drop(made);
    let again = error(StoreDir::create(&path, &properties()));
    assert!(again.to_string().contains("a store already"), "{again}");
    let other = home.path().join("b");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("precious"), "x").unwrap();
    let found = error(StoreDir::create(&other, &properties()));
    assert!(found.to_string().contains("not empty"), "{found}");
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
    let file = home.path().join("f");
    std::fs::write(&file, "x").unwrap();
    assert!(StoreDir::create(&file, &properties()).is_err());
}

#[test]
fn impossible_properties_are_refused() {
    let home = TempDir::new().unwrap();
    let path = home.path().join("s");
    for wrong in [
        Properties {
            chunk_size: 65537,
            ..properties()
        },
        Properties {
            chunk_size: 2048,
            ..properties()
        },
        Properties {
            inline_max: 4097,
            ..properties()
        },
        Properties {
            log_size: 100,
            ..properties()
        },
        Properties {
            model: Some("laconic-s".into()),
            ..properties()
        },
    ] {
        let refused = error(StoreDir::create(&path, &wrong));
        assert!(matches!(refused, Error::Invalid(_)), "{refused}");
        assert!(!path.exists());
    }
}

#[test]
fn one_writer_or_many_readers() {
    let (home, directory) = fresh();
    let path = home.path().join("store");
    for access in [Access::Write, Access::Read] {
        let locked = error(StoreDir::open(&path, access));
        let own = std::process::id();
        assert!(
            matches!(locked, Error::Locked { pid, .. } if pid == own),
            "{locked}"
        );
    }
    // The lock is held as long as anybody can write.
    let store = directory.store();
    drop(directory);
    assert!(matches!(
        StoreDir::open(&path, Access::Write),
        Err(Error::Locked { .. })
    ));
    drop(store);
    let one = StoreDir::open(&path, Access::Read).unwrap();
    let two = StoreDir::open(&path, Access::Read).unwrap();
    assert!(matches!(
        StoreDir::open(&path, Access::Write),
        Err(Error::Locked { .. })
    ));
    drop((one, two));
    StoreDir::open(&path, Access::Write).unwrap();
}

#[test]
fn readers_change_nothing() {
    let (home, directory) = fresh();
    let path = home.path().join("store");
    let store = directory.store();
    let payload = noise(3, 5000);
    let value = store.append(Class::Hot, Table::Chunk, b"k", &payload);
    let value = value.unwrap();
    let mut batch = Batch::default();
    batch.put(Table::Meta, b"k", b"v");
    store.commit(batch).unwrap();
    drop((store, directory));
    let contents = || {
        let files = crate::store::files::files_below(&path).unwrap();
        files
            .into_iter()
            .map(|file| (std::fs::read(&file).unwrap(), file))
            .collect::<Vec<_>>()
    };
    let before = contents();
    let reader = StoreDir::open(&path, Access::Read).unwrap();
    let store = reader.store();
    assert_eq!(
        store.get(Table::Meta, b"k").unwrap().as_deref(),
        Some(&b"v"[..])
    );
    assert_eq!(store.value(&value).unwrap(), payload);
    let refused = [
        error(store.commit(Batch::default())),
        error(store.append(Class::Hot, Table::Chunk, b"k", b"v")),
        error(store.seal_logs()),
        error(store.remove_log(1)),
        error(reader.put_model(b"m")),
    ];
    assert!(refused.iter().all(|e| matches!(e, Error::ReadOnly)));
    drop((store, reader));
    assert!(before == contents());
}

#[test]
fn a_newer_format_is_named() {
    let (home, directory) = fresh();
    drop(directory);
    let path = home.path().join("store");
    let text = std::fs::read_to_string(path.join("superblock")).unwrap();
    let json = text.lines().next().unwrap();
    // As a later program may write it: other fields, its own hash.
    let newer = json
        .replace("\"format\":3", "\"format\":7")
        .replace("\"created\"", "\"begun\"");
    let hash = blake3::hash(newer.as_bytes()).to_hex();
    std::fs::write(path.join("superblock"), format!("{newer}\n{hash}\n")).unwrap();
    let found = error(StoreDir::open(&path, Access::Write));
    let right = matches!(
        found,
        Error::NewerFormat {
            found: 7,
            known: 3,
            ..
        }
    );
    assert!(right, "{found}");
}

#[test]
fn models_are_kept_by_their_hash() {
    let (home, mut directory) = fresh();
    let bytes = noise(1, 100_000);
    let hash = directory.put_model(&bytes).unwrap();
    assert_eq!(hash, blake3::hash(&bytes));
    assert_eq!(directory.put_model(&bytes).unwrap(), hash);
    assert_eq!(directory.model(&hash).unwrap(), bytes);
    assert_eq!(directory.models().unwrap(), [(hash, 100_000)]);
    directory.set_default_model(&hash).unwrap();
    let unknown = blake3::hash(b"another");
    assert!(directory.set_default_model(&unknown).is_err());
    let missing = error(directory.model(&unknown));
    let named = missing.to_string().contains(&unknown.to_hex().to_string());
    assert!(named && matches!(missing, Error::Model(_)), "{missing}");
    drop(directory);

    let directory = reopen(&home);
    let model = directory.properties().model.clone();
    assert_eq!(model, Some(hash.to_hex().to_string()));
    let file = home.path().join(format!("store/models/{hash}.model"));
    let mut altered = bytes.clone();
    altered[77] ^= 4;
    std::fs::write(&file, &altered).unwrap();
    let changed = error(directory.model(&hash));
    let named = changed.to_string().contains(&hash.to_hex().to_string());
    assert!(named && matches!(changed, Error::Model(_)), "{changed}");
    // Bringing it back heals it.
    directory.put_model(&bytes).unwrap();
    assert_eq!(directory.model(&hash).unwrap(), bytes);
}

#[test]
fn a_flush_of_the_database_reaches_the_disk() {
    let (_home, directory) = fresh();
    let store = directory.store();
    let before = durable::calls();
    let mut batch = Batch::default();
    batch.put(Table::Meta, b"k", b"v");
    store.commit(batch).unwrap();
    assert!(durable::calls() > before);
}

#[test]
fn rows_too_long_for_the_database_are_refused() {
    let (_home, directory) = fresh();
    let mut batch = Batch::default();
    batch.put(Table::Meta, b"a", b"v");
    batch.put(Table::Meta, b"k", vec![0; 7000]);
    let refused = directory.store().commit(batch);
    assert!(matches!(refused, Err(Error::Invalid(_))));
    assert_eq!(directory.store().get(Table::Meta, b"a").unwrap(), None);
}

#[test]
fn a_store_on_read_only_files_can_be_read() {
    let (home, directory) = fresh();
    let mut batch = Batch::default();
    batch.put(Table::Meta, b"k", b"v");
    directory.store().commit(batch).unwrap();
    drop(directory);
    let path = home.path().join("store");
    for file in crate::store::files::files_below(&path).unwrap() {
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o444)).unwrap();
    }
    // Never written, as on media that came with the store.
    std::fs::remove_file(path.join("lock")).unwrap();
    let reader = StoreDir::open(&path, Access::Read).unwrap();
    assert!(reader.store().get(Table::Meta, b"k").unwrap().is_some());
    assert!(!path.join("lock").exists());
}

/// A fresh database is never taken for one that has grown.
#[test]
fn a_fresh_database_takes_what_is_expected() {
    for (rows, len) in [(30_000u64, 8), (30_000, 60), (3000, 2000)] {
        let (home, directory) = fresh();
        let store = directory.store();
        for first in (0..rows).step_by(1000) {
            let mut batch = Batch::default();
            for at in first..first + 1000 {
                batch.put(Table::Chunk, noise(at, 32), noise(at, len));
            }
            store.commit(batch).unwrap();
        }
        let (bytes, count) = store.database().logical_size().unwrap();
        let copy = home.path().join("copy");
        store.database().copy_to(&copy, (b"\xffx", b"")).unwrap();
        let found = crate::store::files::blocks_below(&copy).unwrap();
        let expected = crate::store::refresh::fresh_size(bytes, count);
        eprintln!("{rows} rows of {len}: {bytes} bytes, {found} on disk, {expected} expected");
        assert!(found < 2 * expected && expected < 3 * found + (4 << 20));
    }
}

/// A database that has grown by overwriting is copied to a small one, and
/// what a crash leaves of that at any step does no harm.
#[test]
fn a_bloated_database_is_made_small() {
    let (home, directory) = fresh();
    let path = home.path().join("store");
    let store = directory.store();
    let key = |at: u64| at.to_be_bytes();
    const ROWS: u64 = 60_000;
    for first in (0..ROWS).step_by(1000) {
        let mut batch = Batch::default();
        for at in first..first + 1000 {
            batch.put(Table::Inode, key(at), noise(at, 500));
        }
        store.commit(batch).unwrap();
    }
    for first in (0..ROWS - 1000).step_by(1000) {
        let mut batch = Batch::default();
        for at in first..first + 1000 {
            batch.delete(Table::Inode, key(at));
        }
        store.commit(batch).unwrap();
    }
    let expected = rows(&*store).unwrap();
    let before = store.space().unwrap().database;
    assert!(before > 40 << 20, "{before}: the test must bloat it");
    drop((store, directory));

    let directory = reopen(&home);
    let after = directory.store().space().unwrap().database;
    assert!(after < before / 4, "{before} -> {after}");
    assert_eq!(rows(&*directory.store()).unwrap(), expected);
    drop(directory);
    assert!(!path.join("db.new").exists() && !path.join("db.old").exists());

    // Killed while copying.
    copy_directory(&path.join("db"), &path.join("db.new"));
    std::fs::write(path.join("db.new/db"), "half").unwrap();
    assert_eq!(rows(&*reopen(&home).store()).unwrap(), expected);
    // Killed between the two renames.
    copy_directory(&path.join("db"), &path.join("db.new"));
    std::fs::rename(path.join("db"), path.join("db.old")).unwrap();
    let reader = StoreDir::open(&path, Access::Read).unwrap();
    assert_eq!(rows(&*reader.store()).unwrap(), expected);
    drop(reader);
    assert_eq!(rows(&*reopen(&home).store()).unwrap(), expected);
    // Killed after them.
    copy_directory(&path.join("db"), &path.join("db.old"));
    assert_eq!(rows(&*reopen(&home).store()).unwrap(), expected);
    assert!(!path.join("db.old").exists());
}
