//! A disk without space: nothing is lost, and deleting works.

use std::process::Command;

use super::*;

/// A small file system of its own.
struct Disk(TempDir);

impl Disk {
    /// `None`, and the reason on the screen, where it cannot be mounted.
    fn mount(megabytes: u32) -> Option<Self> {
        let home = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(home.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(home)),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr);
                eprintln!("skipped: a small disk cannot be mounted: {}", why.trim());
                None
            }
            Err(error) => {
                eprintln!("skipped: mount(8) cannot be run: {error}");
                None
            }
        }
    }

    /// Takes what space is left, as another program might.
    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.0.path().join("filler")).unwrap();
        for block in [1 << 20, 4096] {
            let bytes = vec![0; block];
            while file.write_all(&bytes).is_ok() {}
        }
    }

    fn relieve(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.unwrap().success() || std::thread::panicking());
    }
}

fn key(at: u64) -> [u8; 8] {
    at.to_be_bytes()
}

/// Stores one value; its row is there when it returns `Ok`.
fn store_value(store: &dyn Store, at: u64, len: usize) -> crate::Result<ValueRef> {
    let value = store.append(Class::Hot, Table::Chunk, &key(at), &noise(at, len))?;
    let mut row = Vec::new();
    value.encode(&mut row);
    let mut batch = Batch::default();
    batch.put(Table::Chunk, key(at), row);
    store.commit(batch)?;
    Ok(value)
}

fn verify(store: &dyn Store, kept: &[(u64, usize)]) {
    for (at, len) in kept {
        let row = store.get(Table::Chunk, &key(*at)).unwrap();
        let value = ValueRef::decode(&row.unwrap()).unwrap();
        assert_eq!(store.value(&value).unwrap(), noise(*at, *len));
    }
    for info in store.logs().unwrap() {
        assert_eq!(store.walk_log(info.log, &mut |_| Ok(())).unwrap(), 0);
    }
}

#[test]
fn a_full_disk_loses_nothing_and_heals() {
    let Some(disk) = Disk::mount(24) else { return };
    let path = disk.0.path().join("store");
    let mut directory = StoreDir::create(&path, &properties()).unwrap();
    let mut store = directory.store();
    let mut kept = Vec::new();
    let mut at = 0;
    let mut fill = |store: &dyn Store, kept: &mut Vec<(u64, usize)>| {
        let mut failures = 0;
        while failures < 3 {
            at += 1;
            let len = 30_000 + (at as usize * 7919) % 9000;
            match store_value(store, at, len) {
                Ok(_) => kept.push((at, len)),
                Err(Error::NoSpace) => failures += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(at < 10_000, "the disk never became full");
        }
    };
    fill(&*store, &mut kept);
    assert!(kept.len() > 300);
    verify(&*store, &kept);
    disk.fill();

    // Also after a crash, or opened again.
    drop((store, directory));
    directory = StoreDir::open(&path, Access::Write).unwrap();
    store = directory.store();
    verify(&*store, &kept);

    // Deleting needs no space that is not there.
    store.seal_logs().unwrap();
    let gone = kept.split_off(kept.len() / 2);
    for (at, _) in &gone {
        let mut batch = Batch::default();
        batch.delete(Table::Chunk, key(*at));
        store.commit(batch).unwrap();
    }
    verify(&*store, &kept);
    let mut needed = std::collections::BTreeSet::new();
    for (at, _) in &kept {
        let row = store.get(Table::Chunk, &key(*at)).unwrap().unwrap();
        if let ValueRef::Log { log, .. } = ValueRef::decode(&row).unwrap() {
            needed.insert(log);
        }
    }
    for info in store.logs().unwrap() {
        if !needed.contains(&info.log) {
            store.remove_log(info.log).unwrap();
        }
    }
    let before = kept.len();
    fill(&*store, &mut kept);
    assert!(kept.len() > before + 20, "{before} -> {}", kept.len());
    verify(&*store, &kept);
    disk.relieve();
    fill(&*store, &mut kept);
    verify(&*store, &kept);
    drop((store, directory));
    let directory = StoreDir::open(&path, Access::Read).unwrap();
    verify(&*directory.store(), &kept);
}

/// Where the reserve does not help, sled itself runs out of space within a
/// commit: that is then there wholly or not at all, and so after a restart.
#[test]
fn sled_may_run_out_of_space() {
    let Some(disk) = Disk::mount(24) else { return };
    for round in 0..4u64 {
        let path = disk.0.path().join(format!("store{round}"));
        let directory = StoreDir::create(&path, &properties()).unwrap();
        let store = directory.store();
        let mut batch = Batch::default();
        batch.put(Table::Inode, noise(0, 20), 0u64.to_be_bytes());
        store.commit(batch).unwrap();
        store.pair().journal.as_ref().unwrap().pretend_room();
        disk.fill();
        let put = |number: u64, count: u64| {
            store.database().pretend_room();
            let mut batch = Batch::default();
            for at in 0..count {
                batch.put(Table::Inode, noise(at, 20), number.to_be_bytes());
            }
            store.commit(batch)
        };
        let mut number = 0;
        let failed = loop {
            number += 1;
            assert!(number < 50_000, "sled never ran out of space");
            if let Err(error) = put(number, 20 + round * 300) {
                break error;
            }
        };
        assert!(matches!(failed, Error::NoSpace), "{failed}");
        let whole = |rows: &[Row]| {
            let first = rows.first().map_or(0, |(_, value)| {
                u64::from_be_bytes(value.as_slice().try_into().unwrap())
            });
            assert!(rows.iter().all(|(_, value)| *value == first.to_be_bytes()));
            assert!(first == number || first == number - 1);
            first
        };
        let rows = store.scan(Table::Inode, &[], None, 10_000).unwrap();
        let reached = whole(&rows);
        disk.relieve();
        // It works again, or says that it needs a restart.
        let again = put(number, 10);
        assert!(matches!(again, Ok(()) | Err(Error::NoSpace)));
        drop(store);
        drop(directory);
        let directory = StoreDir::open(&path, Access::Write).unwrap();
        let rows = directory.store().scan(Table::Inode, &[], None, 10_000);
        let rows = rows.unwrap();
        match again {
            Ok(()) => assert!(rows.len() >= 10),
            // What was refused may be there, as it was in the journal.
            Err(_) => assert!(whole(&rows) >= reached),
        }
        drop(directory);
        std::fs::remove_dir_all(&path).unwrap();
    }
}
