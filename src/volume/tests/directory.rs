use std::collections::BTreeSet;

use super::*;

/// Reads on behind a cookie, `step` entries at a time, to the end.
fn read(volume: &Volume, dir: u64, mut cookie: u64, step: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    loop {
        let page = volume.read_dir(dir, cookie, step).unwrap();
        assert!(page.len() <= step);
        let Some(last) = page.last() else {
            return entries;
        };
        cookie = last.cookie;
        entries.extend(page);
    }
}

#[test]
fn every_entry_is_seen_once_with_any_page() {
    let f = Fixture::new();
    let dir = f.dir(ROOT, "d");
    let names: BTreeSet<Vec<u8>> = (0..500).map(|i| format!("n{i}").into_bytes()).collect();
    for name in &names {
        f.volume.make_node(dir, name, 0o644, 0, ME).unwrap();
    }
    for step in [1, 2, 3, 100, 1000] {
        let entries = read(&f.volume, dir, 0, step);
        assert_eq!(entries[0].name, b".");
        assert_eq!((&*entries[1].name, entries[1].ino), (&b".."[..], ROOT));
        let seen: BTreeSet<_> = entries[2..].iter().map(|e| e.name.clone()).collect();
        assert_eq!(seen, names);
        assert_eq!(entries.len(), names.len() + 2);
    }
    assert_eq!(f.volume.attr(dir).unwrap().size, 500);
}

#[test]
fn readers_are_not_disturbed_by_changes() {
    let f = Fixture::new();
    let v = &f.volume;
    let dir = f.dir(ROOT, "d");
    let stays = |i: usize| i.is_multiple_of(3);
    for i in 0..300 {
        v.make_node(dir, format!("n{i}").as_bytes(), 0o644, 0, ME)
            .unwrap();
    }
    let mut seen = Vec::new();
    let mut cookie = 0;
    for round in 0.. {
        let page = v.read_dir(dir, cookie, 7).unwrap();
        let Some(last) = page.last() else { break };
        cookie = last.cookie;
        seen.extend(page.into_iter().map(|entry| entry.name));
        for i in (0..300).filter(|i| !stays(*i) && i / 5 == round) {
            v.unlink(dir, format!("n{i}").as_bytes()).unwrap();
            v.make_node(dir, format!("new{i}").as_bytes(), 0o644, 0, ME)
                .unwrap();
        }
        v.sync().unwrap();
    }
    for i in (0..300).filter(|i| stays(*i)) {
        let name = format!("n{i}").into_bytes();
        assert_eq!(seen.iter().filter(|n| **n == name).count(), 1);
    }
}

/// Names with equal hashes, simulated: what differs is only the key.
/// Enough entries for any plan that does not scale to show; a million where
/// `LACONICFS_ENTRIES` says so. A reader goes through them in odd pages while
/// every other entry vanishes and as many appear.
#[test]
fn enormous_directories_are_read_while_they_change() {
    let count: u64 = std::env::var("LACONICFS_ENTRIES").map_or(30_000, |n| n.parse().unwrap());
    let f = Fixture::new();
    let v = &f.volume;
    let d = f.dir(ROOT, "d");
    let name = |n: u64| format!("entry number {n}").into_bytes();
    for n in 0..count {
        v.symlink(d, &name(n), b"x", ME).unwrap();
    }
    v.sync().unwrap();
    assert_eq!(v.attr(d).unwrap().size, count);
    let mut seen = BTreeMap::<Vec<u8>, u32>::new();
    let (mut cookie, mut gone) = (0, 0);
    loop {
        let page = v.read_dir(d, cookie, 997).unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.is_sorted_by_key(|entry| entry.cookie) && page[0].cookie > cookie);
        cookie = last.cookie;
        for entry in page {
            *seen.entry(entry.name).or_default() += 1;
        }
        for _ in 0..997 {
            if gone < count {
                v.unlink(d, &name(gone)).unwrap();
                v.symlink(d, format!("new {gone}").as_bytes(), b"x", ME)
                    .unwrap();
                gone += 2;
            }
        }
    }
    // What stayed was seen, and nothing was seen twice.
    assert!((1..count).step_by(2).all(|n| seen.contains_key(&name(n))));
    assert!(seen.values().all(|times| *times == 1));
    assert_eq!(v.lookup(d, &name(1)).unwrap().file_type, FileType::Symlink);
    assert_eq!(v.attr(d).unwrap().size, count);
}

#[test]
fn names_with_one_hash_keep_apart() {
    let f = Fixture::new();
    let v = &f.volume;
    let dir = f.dir(ROOT, "d");
    f.volume.make_node(dir, b"x", 0o644, 0, ME).unwrap();
    let cookie = read(v, dir, 2, 9)[0].cookie;
    assert_eq!(cookie, rows::first_cookie(b"x"));
    // Others stand where the name would: it gets the next free place.
    v.unlink(dir, b"x").unwrap();
    let taken = [0, 1, 3];
    let others: Vec<_> = taken
        .iter()
        .map(|i| rows::dirent_key(dir, cookie + i, format!("other{i}").as_bytes()))
        .collect();
    let row = rows::dirent_row(ROOT, FileType::Directory);
    v.change(|change| {
        others
            .iter()
            .try_for_each(|key| change.op.put(Table::Dirent, key.clone(), row.clone()))
    })
    .unwrap();
    let made = v.make_node(dir, b"x", 0o644, 0, ME).unwrap();
    let entries = read(v, dir, 2, 1);
    let cookies: Vec<_> = entries.iter().map(|e| e.cookie - cookie).collect();
    assert_eq!(cookies, [0, 1, 2, 3]);
    assert_eq!(v.lookup(dir, b"x").unwrap().ino, made.ino);
    v.unlink(dir, b"x").unwrap();
    assert_err!(v.lookup(dir, b"x"), Error::NotFound);
    v.change(|change| {
        others
            .iter()
            .try_for_each(|key| change.op.delete(Table::Dirent, key.clone()))
    })
    .unwrap();
}

#[test]
fn removed_directories_are_empty() {
    let f = Fixture::new();
    let v = &f.volume;
    let dir = f.dir(ROOT, "d");
    v.open_dir(dir).unwrap();
    v.remove_dir(ROOT, b"d").unwrap();
    assert_eq!(v.read_dir(dir, 0, 10).unwrap(), []);
    assert_eq!(v.attr(dir).unwrap().nlink, 0);
    assert_err!(v.make_dir(dir, b"x", 0o755, ME), Error::NotFound);
    let a = f.file("a");
    assert_err!(v.link(a, dir, b"x"), Error::NotFound);
    let none = RenameFlags::empty();
    assert_err!(v.rename(ROOT, b"a", dir, b"x", none), Error::NotFound);
    v.release(dir);
    v.close().unwrap();
    assert_err!(v.read_dir(dir, 0, 10), Error::NotFound);
    assert_err!(v.read_dir(a, 0, 10), Error::NotDirectory);
}
