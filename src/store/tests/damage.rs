//! Damage on the disk: an error or the right bytes, never wrong ones.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use super::*;
use crate::store::files::files_below;

/// What each key owns.
type Values = BTreeMap<Vec<u8>, (ValueRef, Vec<u8>)>;

/// A store with some of everything, closed in order.
fn filled() -> (TempDir, Values, blake3::Hash) {
    let (home, directory) = fresh();
    let model = directory.put_model(&noise(5, 20_000)).unwrap();
    let store = directory.store();
    let mut values = BTreeMap::new();
    for at in 0..150u64 {
        let key = noise(at, 32);
        let payload = noise(at ^ 77, at as usize * 20);
        let class = [Class::Hot, Class::Cold][at as usize % 2];
        let value = store.append(class, Table::Chunk, &key, &payload).unwrap();
        let mut row = Vec::new();
        value.encode(&mut row);
        let mut batch = Batch::default();
        batch.put(Table::Chunk, key.clone(), row);
        store.commit(batch).unwrap();
        values.insert(key, (value, payload));
    }
    (home, values, model)
}

/// Reads everything of a store that may be damaged; returns how many errors
/// there were. What is read must be right.
fn read_all(path: &Path, values: &Values, model: &blake3::Hash) -> usize {
    let directory = match StoreDir::open(path, Access::Write) {
        Ok(directory) => directory,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return 1;
        }
    };
    let mut errors = 0;
    match directory.model(model) {
        Ok(bytes) => assert_eq!(bytes, noise(5, 20_000)),
        Err(_) => errors += 1,
    }
    let store = directory.store();
    for (key, (value, payload)) in values {
        match store.get(Table::Chunk, key) {
            Ok(row) => assert_eq!(&ValueRef::decode(&row.unwrap()).unwrap(), value),
            Err(_) => errors += 1,
        }
        match store.value(value) {
            Ok(found) => assert_eq!(&found, payload),
            Err(Error::Corrupt(_)) => errors += 1,
            Err(error) => panic!("{error}"),
        }
    }
    errors
}

/// A bit of a value or model is missed; one of anything else is made good.
#[test]
fn flipped_bits_are_found_or_made_good() {
    let (home, values, model) = filled();
    let path = home.path().join("store");
    assert_eq!(read_all(&path, &values, &model), 0);
    let mut dice = Dice(11);
    let mut trials = 0;
    for file in files_below(&path).unwrap() {
        let name = file.strip_prefix(&path).unwrap().to_owned();
        let len = std::fs::metadata(&file).unwrap().len();
        if len == 0 || name.as_os_str() == "lock" {
            continue;
        }
        for trial in 0..12 {
            let copy = home.path().join("copy");
            copy_directory(&path, &copy);
            let (at, bit) = (dice.roll(len), dice.roll(8));
            let target = copy.join(&name);
            let mut byte = [0];
            let flipped = std::fs::File::options()
                .read(true)
                .write(true)
                .open(target)
                .unwrap();
            flipped.read_exact_at(&mut byte, at).unwrap();
            byte[0] ^= 1 << bit;
            flipped.write_all_at(&byte, at).unwrap();
            let errors = read_all(&copy, &values, &model);
            // Every byte of a log belongs to a record.
            let lost = usize::from(name.starts_with("logs") || name.starts_with("models"));
            assert_eq!(errors, lost, "{name:?} byte {at} bit {bit} {trial}");
            // And it stays so.
            assert_eq!(read_all(&copy, &values, &model), lost);
            trials += 1;
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
    assert!(trials > 70, "{trials}");
}

/// A store after a crash, without a seal, and its rows.
fn crashed() -> (TempDir, std::path::PathBuf, Vec<(Table, Row)>) {
    let (home, directory) = fresh();
    let path = home.path().join("store");
    let store = directory.store();
    for at in 0..60u64 {
        let mut batch = Batch::default();
        for row in 0..8 {
            batch.put(Table::Inode, noise((at * 3 + row) % 50, 8), noise(at, 90));
        }
        batch.delete(Table::Inode, noise(at % 20, 8));
        store.commit(batch).unwrap();
        if at == 30 {
            store.pair().checkpoint().unwrap();
        }
    }
    let copy = home.path().join("crashed");
    copy_directory(&path, &copy);
    assert!(!copy.join("db.seal").exists());
    let rows = rows(&*store).unwrap();
    (home, copy, rows)
}

/// After a crash there is no seal, and yet no damage makes the store forget:
/// what is damaged in one of database and journal is in the other.
#[test]
fn damage_after_a_crash_is_made_good() {
    let (home, path, expected) = crashed();
    let files: Vec<_> = files_below(&path)
        .unwrap()
        .into_iter()
        .map(|file| file.strip_prefix(&path).unwrap().to_owned())
        .filter(|name| name.starts_with("db") || name.starts_with("journal"))
        .collect();
    assert!(files.len() > 3, "{files:?}");
    let mut dice = Dice(4);
    for trial in 0..60 {
        let copy = home.path().join("copy");
        copy_directory(&path, &copy);
        let name = &files[dice.roll(files.len() as u64) as usize];
        let mut bytes = std::fs::read(copy.join(name)).unwrap();
        let at = dice.roll(bytes.len() as u64) as usize;
        let to = bytes.len().min(at + 1 + dice.roll(9000) as usize);
        match trial % 4 {
            0 => bytes[at] ^= 1 << dice.roll(8),
            1 => bytes[at..to].fill(0),
            2 => bytes.truncate(at),
            _ => {
                let twice = bytes[at..to].to_vec();
                bytes.splice(at..at, twice);
            }
        }
        std::fs::write(copy.join(name), bytes).unwrap();
        for access in [Access::Read, Access::Write, Access::Write] {
            let directory = StoreDir::open(&copy, access);
            let directory = directory.unwrap_or_else(|e| panic!("{name:?} at {at}: {e}"));
            let found = rows(&*directory.store()).unwrap();
            assert!(found == expected, "{name:?} at {at}, {} rows", found.len());
        }
        std::fs::remove_dir_all(&copy).unwrap();
    }
}

/// A database that is gone altogether comes back, with or without a seal.
#[test]
fn a_missing_or_emptied_database_comes_back() {
    let (home, values, model) = filled();
    let path = home.path().join("store");
    let copy = home.path().join("copy");
    for seal in [true, false] {
        for how in 0..3 {
            copy_directory(&path, &copy);
            if !seal {
                std::fs::remove_file(copy.join("db.seal")).unwrap();
            }
            match how {
                0 => std::fs::remove_dir_all(copy.join("db")).unwrap(),
                1 => std::fs::remove_file(copy.join("db/db")).unwrap(),
                _ => std::fs::write(copy.join("db/db"), "").unwrap(),
            }
            let reader = StoreDir::open(&copy, Access::Read).unwrap();
            assert_eq!(rows(&*reader.store()).unwrap().len(), values.len());
            drop(reader);
            assert_eq!(read_all(&copy, &values, &model), 0);
            assert!(copy.join("db/db").exists() && copy.join("db.seal").exists());
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
}

/// Damaged in the database and in the journal: nothing is changed until
/// somebody asks to read what is left, or for a repair.
#[test]
fn damage_is_not_made_worse_and_can_be_read_around() {
    let (home, values, model) = filled();
    let path = home.path().join("store");
    let damage = |file: &Path, at: usize| {
        let mut bytes = std::fs::read(file).unwrap();
        bytes[at] ^= 1;
        std::fs::write(file, &bytes).unwrap();
    };
    let database = path.join("db/db");
    let bytes = std::fs::read(&database).unwrap();
    // In the last rows written.
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap() - 40;
    let all = files_below(&path.join("journal")).unwrap();
    let changes = all
        .iter()
        .find(|file| file.extension().unwrap() == "changes");
    let changes = changes.unwrap();
    let middle = std::fs::metadata(changes).unwrap().len() as usize / 2;
    damage(&database, last);
    damage(changes, middle);
    let before = std::fs::read(changes).unwrap();
    for access in [Access::Write, Access::Read, Access::Write] {
        let refused = StoreDir::open(&path, access).err();
        let Some(Error::Corrupt(what)) = refused else {
            panic!("{refused:?}");
        };
        assert!(what.contains("fsck --repair"), "{what}");
    }
    assert!(std::fs::read(changes).unwrap() == before);
    assert!(path.join("db.seal").exists());
    let salvage = StoreDir::open(&path, Access::Salvage).unwrap();
    let kept = rows(&*salvage.store()).unwrap().len();
    // One commit, and so one row, cannot be read.
    assert!(kept >= values.len() - 1 && kept <= values.len(), "{kept}");
    drop(salvage);
    let copy = home.path().join("copy");
    copy_directory(&path, &copy);
    let missing = StoreDir::salvage_rows(&copy).unwrap();
    assert!(!missing.is_empty());
    let repaired = StoreDir::open(&copy, Access::Write).unwrap();
    assert_eq!(rows(&*repaired.store()).unwrap().len(), kept);
    damage(&database, last);
    damage(changes, middle);
    assert_eq!(read_all(&path, &values, &model), 0);
}

#[test]
fn truncated_logs_keep_what_is_before() {
    let (home, values, _) = filled();
    let path = home.path().join("store");
    let mut dice = Dice(2);
    for _ in 0..10 {
        let copy = home.path().join("copy");
        copy_directory(&path, &copy);
        let mut ends = BTreeMap::new();
        for file in files_below(&copy.join("logs")).unwrap() {
            let name = file.file_stem().unwrap().to_str().unwrap();
            let log = u64::from_str_radix(name, 16).unwrap();
            let end = dice.roll(std::fs::metadata(&file).unwrap().len() + 1);
            let opened = std::fs::File::options().write(true).open(&file).unwrap();
            opened.set_len(end).unwrap();
            ends.insert(log, end);
        }
        let directory = StoreDir::open(&copy, Access::Write).unwrap();
        let store = directory.store();
        let mut walked = std::collections::BTreeSet::new();
        for info in store.logs().unwrap() {
            let mut readable = 0;
            let lost = store.walk_log(info.log, &mut |record| {
                readable += record.value.log_bytes(record.owner_key.len());
                walked.insert(record.owner_key);
                Ok(())
            });
            assert_eq!(lost.unwrap() + readable, info.bytes);
        }
        for (key, (value, payload)) in &values {
            let whole = match value {
                ValueRef::Inline(_) => true,
                ValueRef::Log { log, offset, .. } => {
                    let whole = offset + value.log_bytes(key.len()) <= ends[log];
                    assert_eq!(walked.contains(key), whole);
                    whole
                }
            };
            match store.value(value) {
                Ok(found) => assert!(whole && &found == payload),
                Err(error) => assert!(!whole && matches!(error, Error::Corrupt(_))),
            }
        }
        drop((store, directory));
        std::fs::remove_dir_all(&copy).unwrap();
    }
}

/// A walk finds what follows a damaged stretch, and nothing else.
#[test]
fn walks_go_on_behind_damage() {
    let (home, directory) = fresh();
    let store = directory.store();
    let mut inner = Vec::new();
    let mut records = Vec::new();
    for at in 0..40u64 {
        // Payloads that look like records, as when a store is kept in a store.
        let payload = match at % 3 {
            0 => crate::store::record::encode(1, 777, Table::Chunk, b"x", &noise(at, 90)).unwrap(),
            1 if !inner.is_empty() => std::mem::take(&mut inner),
            _ => b"\x9eLVR".repeat(40),
        };
        let key = noise(at, 60);
        let value = store.append(Class::Hot, Table::Chunk, &key, &payload);
        let value = value.unwrap();
        let ValueRef::Log { offset, .. } = value else {
            panic!("{value:?}");
        };
        inner = crate::store::record::encode(1, offset, Table::Chunk, &key, &payload).unwrap();
        records.push((key, value));
    }
    store.commit(Batch::default()).unwrap();
    let [info] = store.logs().unwrap()[..] else {
        panic!("one log");
    };
    let name = crate::store::vlog::file_name(info.log, info.class);
    let file = home.path().join("store/logs").join(name);
    let damaged = [3, 4, 17, 39];
    let opened = std::fs::File::options().write(true).open(file).unwrap();
    let mut bytes = 0;
    for at in damaged {
        let (key, value) = &records[at];
        let ValueRef::Log { offset, .. } = value else {
            panic!("{value:?}");
        };
        // Header, length and key in turn.
        let within = [0, 10, 30, 21][at % 4];
        opened.write_all_at(&[0xEE], offset + within).unwrap();
        bytes += value.log_bytes(key.len());
    }
    let mut found = Vec::new();
    let lost = store.walk_log(info.log, &mut |record| {
        found.push((record.owner_key, record.value));
        Ok(())
    });
    assert_eq!(lost.unwrap(), bytes);
    let mut expected = records.clone();
    for at in damaged.into_iter().rev() {
        expected.remove(at);
    }
    assert_eq!(found, expected);
}

/// References that no row of ours would hold are refused, not followed.
#[test]
fn absurd_references_are_errors() {
    let (_home, directory) = fresh();
    let store = directory.store();
    let good = store.append(Class::Hot, Table::Chunk, b"k", &noise(1, 5000));
    let ValueRef::Log { log, offset, len } = good.unwrap() else {
        panic!("it is long");
    };
    for (offset, len) in [
        (offset, len - 1),
        (offset, len + 1),
        (offset, u32::MAX),
        (offset + 1, len),
        (u64::MAX, len),
        (u64::MAX - 10, u32::MAX),
    ] {
        let value = ValueRef::Log { log, offset, len };
        assert!(matches!(store.value(&value), Err(Error::Corrupt(_))));
    }
}
