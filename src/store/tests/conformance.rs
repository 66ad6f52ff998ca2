//! What every store promises, asked of each of them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Runs a test over all stores.
fn each_store(test: impl Fn(Arc<dyn Store>)) {
    test(Arc::new(MemoryStore::new(INLINE as usize)));
    let (_home, directory) = fresh();
    test(directory.store());
    test(Arc::new(FaultyStore::new(MemoryStore::new(
        INLINE as usize,
    ))));
}

fn put(store: &dyn Store, table: Table, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(table, key, value);
    store.commit(batch).unwrap();
}

#[test]
fn rows_are_kept_by_table_and_key() {
    each_store(|store| {
        for table in Table::ALL {
            assert_eq!(store.get(table, b"key").unwrap(), None);
            put(&*store, table, b"key", &[table as u8; 3]);
            put(&*store, table, b"", b"");
        }
        for table in Table::ALL {
            let value = store.get(table, b"key").unwrap();
            assert_eq!(value, Some(vec![table as u8; 3]));
            assert_eq!(store.get(table, b"").unwrap(), Some(Vec::new()));
            assert_eq!(store.get(table, b"ke").unwrap(), None);
            assert_eq!(store.scan(table, b"", None, 9).unwrap().len(), 2);
        }
    });
}

#[test]
fn scans_have_bounds_order_and_limit() {
    each_store(|store| {
        let mut batch = Batch::default();
        for key in [&b"b"[..], b"a", b"\xff\xff", b"ab", b""] {
            batch.put(Table::Dirent, key, key);
        }
        batch.put(Table::Cmap, b"a", b"other");
        store.commit(batch).unwrap();
        let keys = |start: &[u8], end: Option<&[u8]>, limit| -> Vec<Vec<u8>> {
            let rows = store.scan(Table::Dirent, start, end, limit).unwrap();
            assert!(rows.iter().all(|(key, value)| key == value));
            rows.into_iter().map(|(key, _)| key).collect()
        };
        let all = [&b""[..], b"a", b"ab", b"b", b"\xff\xff"];
        assert_eq!(keys(b"", None, 9), all);
        assert_eq!(keys(b"", None, 2), all[..2]);
        assert_eq!(keys(b"", None, 0), Vec::<Vec<u8>>::new());
        assert_eq!(keys(b"a", Some(b"b"), 9), all[1..3]);
        assert_eq!(keys(b"aa", None, 9), all[2..]);
        assert_eq!(keys(b"b", Some(b"a"), 9), Vec::<Vec<u8>>::new());
        assert_eq!(keys(b"a", Some(b"a"), 9), Vec::<Vec<u8>>::new());
    });
}

#[test]
fn the_last_change_of_a_key_in_a_batch_wins() {
    each_store(|store| {
        put(&*store, Table::Meta, b"a", b"old");
        let mut batch = Batch::default();
        batch.delete(Table::Meta, b"a");
        batch.put(Table::Meta, b"a", b"new");
        batch.put(Table::Meta, b"b", b"new");
        batch.delete(Table::Meta, b"b");
        batch.delete(Table::Meta, b"never there");
        store.commit(batch).unwrap();
        assert_eq!(
            store.get(Table::Meta, b"a").unwrap().as_deref(),
            Some(&b"new"[..])
        );
        assert_eq!(store.get(Table::Meta, b"b").unwrap(), None);
        store.commit(Batch::default()).unwrap();
    });
}

#[test]
fn values_rest_inline_or_in_logs() {
    each_store(|store| {
        for len in [0, 1, INLINE as usize, INLINE as usize + 1, 5000, 300_000] {
            for class in [Class::Hot, Class::Cold] {
                let payload = noise(len as u64, len);
                let value = store.append(class, Table::Chunk, b"owner", &payload);
                let value = value.unwrap();
                let inline = matches!(value, ValueRef::Inline(_));
                assert_eq!(inline, len <= INLINE as usize);
                assert_eq!(store.value(&value).unwrap(), payload);
                store.commit(Batch::default()).unwrap();
                assert_eq!(store.value(&value).unwrap(), payload);
            }
        }
    });
}

#[test]
fn logs_are_separate_by_class_and_walk_in_order() {
    each_store(|store| {
        let mut written: BTreeMap<u64, Vec<LogRecord>> = BTreeMap::new();
        let mut bytes: BTreeMap<u64, u64> = BTreeMap::new();
        let mut classes = BTreeMap::new();
        for at in 0..60u64 {
            let class = [Class::Hot, Class::Cold][at as usize % 2];
            let owner_key = noise(at, at as usize * 5);
            let payload = noise(at, 1000 + at as usize);
            let value = store
                .append(class, Table::Xattr, &owner_key, &payload)
                .unwrap();
            let ValueRef::Log { log, .. } = value else {
                panic!("{value:?}");
            };
            *bytes.entry(log).or_default() += value.log_bytes(owner_key.len());
            assert_eq!(*classes.entry(log).or_insert(class), class);
            written.entry(log).or_default().push(LogRecord {
                owner_table: Table::Xattr,
                owner_key,
                value,
            });
        }
        let infos = store.logs().unwrap();
        assert!(infos.is_sorted_by_key(|info| info.log));
        assert_eq!(infos.iter().filter(|info| !info.sealed).count(), 2);
        for info in infos {
            assert_eq!(info.class, classes[&info.log]);
            assert_eq!(info.bytes, bytes[&info.log]);
            let mut found = Vec::new();
            let lost = store.walk_log(info.log, &mut |record| {
                found.push(record);
                Ok(())
            });
            assert_eq!(lost.unwrap(), 0);
            assert_eq!(found, written[&info.log]);
            let stopped = store.walk_log(info.log, &mut |_| Err(Error::NotEmpty));
            assert!(matches!(stopped, Err(Error::NotEmpty)));
        }
    });
}

#[test]
fn sealed_logs_are_removed_and_their_values_stale() {
    each_store(|store| {
        let append = |seed| {
            let value = store.append(Class::Hot, Table::Chunk, b"k", &noise(seed, 100));
            let value = value.unwrap();
            let ValueRef::Log { log, .. } = value else {
                panic!("{value:?}");
            };
            (log, value)
        };
        let (log, value) = append(1);
        assert_eq!(append(2).0, log);
        store.seal_logs().unwrap();
        assert!(store.logs().unwrap().iter().all(|info| info.sealed));
        let (next, kept) = append(3);
        assert_ne!(log, next);
        assert_eq!(store.value(&value).unwrap(), noise(1, 100));
        store.remove_log(log).unwrap();
        assert!(matches!(store.value(&value), Err(Error::Stale)));
        let walked = store.walk_log(log, &mut |_| Ok(()));
        assert!(matches!(walked, Err(Error::Stale)));
        store.remove_log(log).unwrap();
        assert_eq!(store.logs().unwrap().len(), 1);
        store.commit(Batch::default()).unwrap();
        assert_eq!(store.value(&kept).unwrap(), noise(3, 100));
        // Numbers are not used again.
        store.seal_logs().unwrap();
        store.remove_log(next).unwrap();
        assert!(append(4).0 > next);
        assert!(matches!(store.value(&kept), Err(Error::Stale)));
    });
}

#[test]
fn space_is_measured() {
    each_store(|store| {
        let before = store.space().unwrap();
        let value = store.append(Class::Cold, Table::Chunk, b"k", &noise(1, 200_000));
        value.unwrap();
        store.commit(Batch::default()).unwrap();
        let after = store.space().unwrap();
        assert!(after.logs >= before.logs + 200_000);
        assert!(after.capacity >= after.available);
    });
}

#[test]
fn threads_may_share_a_store() {
    each_store(|store| {
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..20u8 {
                        let payload = noise(u64::from(thread) << 8 | u64::from(round), 3000);
                        let value = store
                            .append(Class::Hot, Table::Chunk, &[thread], &payload)
                            .unwrap();
                        let mut batch = Batch::default();
                        let mut row = Vec::new();
                        value.encode(&mut row);
                        batch.put(Table::Chunk, [thread, round], row);
                        batch.put(Table::Meta, [thread], [round]);
                        store.commit(batch).unwrap();
                        assert_eq!(store.value(&value).unwrap(), payload);
                    }
                });
            }
        });
        let rows = store.scan(Table::Chunk, &[], None, 1000).unwrap();
        assert_eq!(rows.len(), 80);
        for (key, row) in rows {
            let value = ValueRef::decode(&row).unwrap();
            let seed = u64::from(key[0]) << 8 | u64::from(key[1]);
            assert_eq!(store.value(&value).unwrap(), noise(seed, 3000));
        }
    });
}

#[test]
fn faults_strike_when_told() {
    let store = FaultyStore::new(MemoryStore::new(INLINE as usize));
    let put = |value: &[u8]| {
        let mut batch = Batch::default();
        batch.put(Table::Meta, b"k", value);
        store.commit(batch)
    };
    let get = || store.get(Table::Meta, b"k").unwrap();
    let fault = |skip, after, for_ever| Fault {
        call: Some(Call::Commit),
        skip,
        after,
        for_ever,
        error: || Error::NoSpace,
    };
    store.arm(Some(fault(1, false, false)));
    put(b"1").unwrap();
    // Other calls do not count.
    store.seal_logs().unwrap();
    assert!(matches!(put(b"2"), Err(Error::NoSpace)));
    assert_eq!(get(), Some(b"1".to_vec()));
    put(b"3").unwrap();
    store.arm(Some(fault(0, true, false)));
    assert!(matches!(put(b"4"), Err(Error::NoSpace)));
    assert_eq!(get(), Some(b"4".to_vec()));
    store.arm(Some(fault(0, false, true)));
    assert!(put(b"5").is_err() && put(b"6").is_err());
    assert_eq!(get(), Some(b"4".to_vec()));
    store.arm(None);
    put(b"7").unwrap();
    assert_eq!(store.calls(), 8);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn sled_equals_memory(
        batches in prop::collection::vec(
            prop::collection::vec(
                (0..9usize, prop::collection::vec(0..4u8, 0..4), prop::option::of(0..300usize)),
                0..40,
            ),
            1..12,
        ),
        reopen_after in 0..12usize,
    ) {
        let memory = MemoryStore::new(INLINE as usize);
        let (home, mut directory) = fresh();
        for (at, changes) in batches.into_iter().enumerate() {
            let mut batch = Batch::default();
            for (table, key, len) in changes {
                let value = len.map(|len| noise(at as u64, len));
                batch.changes.push((Table::ALL[table], key, value));
            }
            memory.commit(batch.clone()).unwrap();
            directory.store().commit(batch).unwrap();
            if at == reopen_after {
                drop(directory);
                directory = reopen(&home);
            }
        }
        let store = directory.store();
        prop_assert_eq!(rows(&*store).unwrap(), rows(&memory).unwrap());
        for start in 0..4u8 {
            for limit in [1, 3] {
                let of = |store: &dyn Store| store.scan(Table::Inode, &[start], Some(&[3, 1]), limit);
                prop_assert_eq!(of(&*store).unwrap(), of(&memory).unwrap());
            }
        }
    }
}
