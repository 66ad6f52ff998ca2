//! Stores written once by every format: they must be readable for ever.

use std::io::Write;
use std::path::PathBuf;

use super::*;
use crate::store::files::files_below;

/// The files of the golden store of a format, each compressed by itself.
fn golden(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/store-{format}"))
}

/// Row `at` of the golden store: its table, key and the value that it owns.
fn content(at: u64) -> (Table, Vec<u8>, Vec<u8>) {
    let table = Table::ALL[at as usize % 8];
    (
        table,
        noise(at, 8 + at as usize),
        noise(at, at as usize * 13),
    )
}

const ROWS: u64 = 32;
const MODEL: &[u8] = b"a model of nothing";

#[test]
#[ignore = "writes the golden store of a new format"]
fn write_golden() {
    let (_home, directory) = fresh();
    let store = directory.store();
    directory.put_model(MODEL).unwrap();
    let mut batch = Batch::default();
    for at in 0..ROWS {
        let (table, key, payload) = content(at);
        let class = [Class::Hot, Class::Cold][at as usize % 2];
        let mut row = Vec::new();
        let value = store.append(class, table, &key, &payload).unwrap();
        value.encode(&mut row);
        batch.put(table, key, row);
    }
    store.commit(batch).unwrap();
    store.pair().checkpoint().unwrap();
    // A commit behind the checkpoint; it changes nothing.
    let (table, key, _) = content(1);
    let mut batch = Batch::default();
    batch.delete(Table::Meta, b"nothing");
    batch.put(table, key.clone(), store.get(table, &key).unwrap().unwrap());
    store.commit(batch).unwrap();
    let path = directory.path().to_owned();
    drop((store, directory));
    std::fs::remove_file(path.join("lock")).unwrap();
    for file in files_below(&path).unwrap() {
        let name = file.strip_prefix(&path).unwrap();
        let packed = zstd::encode_all(std::fs::File::open(&file).unwrap(), 19).unwrap();
        let target = golden(3).join(format!("{}.zst", name.display()));
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        // Those that are there stay as they are.
        let mut file = std::fs::File::create_new(target).unwrap();
        file.write_all(&packed).unwrap();
    }
}

#[test]
fn golden_stores_are_read() {
    for format in [1, 2, 3] {
        let home = unpacked(format);
        read(home.path(), format);
    }
    // Without its database as well.
    for format in [2, 3] {
        let home = unpacked(format);
        std::fs::remove_dir_all(home.path().join("db")).unwrap();
        read(home.path(), format);
    }
}

fn unpacked(format: u32) -> TempDir {
    let home = TempDir::new().unwrap();
    for file in files_below(&golden(format)).unwrap() {
        let name = file.strip_prefix(golden(format)).unwrap();
        // `superblock.copy` keeps its end.
        let name = Path::new(name.to_str().unwrap().strip_suffix(".zst").unwrap_or(""));
        let plain = zstd::decode_all(std::fs::File::open(&file).unwrap()).unwrap();
        let target = home.path().join(name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, plain).unwrap();
    }
    home
}

fn read(path: &Path, format: u32) {
    let opened = [
        (Access::Read, format),
        (Access::Write, 3), // It has got a journal.
        (Access::Read, 3),
        (Access::Write, 3),
    ];
    for (access, format) in opened {
        let directory = StoreDir::open(path, access).unwrap();
        assert_eq!(directory.superblock().format, format);
        assert_eq!(directory.properties(), &properties());
        assert_eq!(directory.model(&blake3::hash(MODEL)).unwrap(), MODEL);
        let store = directory.store();
        assert_eq!(rows(&*store).unwrap().len() as u64, ROWS);
        let mut walked = 0;
        for info in store.logs().unwrap() {
            let lost = store.walk_log(info.log, &mut |record| {
                let ValueRef::Log { len, .. } = record.value else {
                    panic!("{record:?}");
                };
                let (table, key, payload) = content(u64::from(len) / 13);
                assert_eq!((record.owner_table, record.owner_key), (table, key));
                assert_eq!(store.value(&record.value).unwrap(), payload);
                walked += 1;
                Ok(())
            });
            assert_eq!(lost.unwrap(), 0);
        }
        // All but the five that are short enough for their rows.
        assert_eq!(walked, ROWS - 5);
        for at in 0..ROWS {
            let (table, key, payload) = content(at);
            let row = store.get(table, &key).unwrap().unwrap();
            let value = ValueRef::decode(&row).unwrap();
            assert_eq!(store.value(&value).unwrap(), payload);
        }
    }
}
