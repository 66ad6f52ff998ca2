//! Snapshots are what the volume was, whatever happens to it meanwhile.

use super::*;
use crate::volume::rows::{SnapshotRow, SnapshotState};
use crate::volume::snapshots::SNAPSHOTS_NAME;

/// Draws numbers: the same seed, the same ones.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn name(number: u64) -> Vec<u8> {
    format!("file {number}").into_bytes()
}

/// A volume with one of everything, and `files` files.
fn filled(store: Arc<dyn Store>, files: u64) -> Fixture {
    let f = Fixture::on(store);
    let d = f.dir(ROOT, "d");
    let e = f.dir(d, "e");
    for number in 0..files {
        let parent = [ROOT, d, e][number as usize % 3];
        let attr = f.volume.make_node(parent, &name(number), 0o640, 0, ME);
        let ino = attr.unwrap().ino;
        f.write(ino, 0, &text(number, 10 + 300 * (number as usize % 4)));
        if number % 5 == 0 {
            let value = text(number, 40);
            let flags = XattrFlags::empty();
            f.volume.set_xattr(ino, b"user.x", &value, flags).unwrap();
        }
    }
    let long = f.file("long");
    f.write(long, 200 * CHUNK as u64, &text(99, 3 * CHUNK));
    f.volume.link(long, e, b"long again").unwrap();
    f.volume.symlink(d, b"link", b"to/nowhere", ME).unwrap();
    f.volume
        .make_node(d, b"socket", libc::S_IFSOCK | 0o600, 0, ME)
        .unwrap();
    f
}

/// Changes something somewhere.
fn disturb(volume: &Volume, dice: &mut Dice) {
    let d = volume.lookup(ROOT, b"d").unwrap().ino;
    let e = volume.lookup(d, b"e").unwrap().ino;
    let parents = [ROOT, d, e];
    let mut pick = || (parents[dice.roll(3) as usize], name(dice.roll(400)));
    let ((a, from), (b, to)) = (pick(), pick());
    let found = volume.lookup(a, &from).map(|attr| attr.ino);
    let empty = WriteFlags::empty();
    // Many of these find nothing: that is fine.
    match (dice.roll(9), found) {
        (0, Ok(ino)) => drop(volume.write_file(ino, dice.roll(900), &text(dice.0, 700), empty)),
        (1, Ok(_)) => drop(volume.unlink(a, &from)),
        (2, Ok(_)) => drop(volume.rename(a, &from, b, &to, RenameFlags::empty())),
        (3, Ok(_)) => drop(volume.rename(a, &from, b, &to, RenameFlags::EXCHANGE)),
        (4, Ok(ino)) => {
            let value = text(dice.0, dice.roll(60) as usize);
            drop(volume.set_xattr(ino, b"user.x", &value, XattrFlags::empty()));
        }
        (5, Ok(ino)) => drop(volume.remove_xattr(ino, b"user.x")),
        (6, Ok(ino)) => drop(volume.link(ino, b, &to)),
        (7, _) => volume.sync().unwrap(),
        (_, Ok(ino)) => {
            let set = SetAttr {
                size: Some(dice.roll(2000)),
                ..SetAttr::default()
            };
            drop(volume.set_attr(ino, &set));
        }
        (_, Err(_)) => {
            if let Ok(attr) = volume.make_node(a, &from, 0o600, 0, ME) {
                drop(volume.write_file(attr.ino, 0, &text(dice.0, 500), empty));
            }
        }
    }
}

/// The directory in which a snapshot is seen.
fn inside(volume: &Volume, name: &str) -> u64 {
    let dir = volume.lookup(ROOT, SNAPSHOTS_NAME).unwrap().ino;
    volume.lookup(dir, name.as_bytes()).unwrap().ino
}

fn names(volume: &Volume) -> Vec<String> {
    let snapshots = volume.snapshots().unwrap();
    snapshots
        .into_iter()
        .map(|snapshot| snapshot.name)
        .collect()
}

#[test]
fn a_snapshot_taken_among_changes_shows_one_moment() {
    for seed in 1..6 {
        let mut f = filled(memory(), 400);
        let mut dice = Dice(seed * 7919);
        let before = tree(&f.volume);
        let totals = f.volume.totals().unwrap();
        let mut pages = 0;
        let volume = f.volume.clone();
        let made = f.volume.create_snapshot("one", &mut |_| {
            pages += 1;
            (0..60).for_each(|_| disturb(&volume, &mut dice));
        });
        let made = made.unwrap();
        drop(volume);
        assert!(pages >= 3, "{pages} pages: nothing happened meanwhile");
        assert_eq!(tree_below(&f.volume, inside(&f.volume, "one")), before);
        assert_ne!(tree(&f.volume), before);
        assert_eq!((made.files, made.logical), (totals.files, totals.bytes));
        (0..300).for_each(|_| disturb(&f.volume, &mut dice));
        f.reopen(Options::default());
        assert_eq!(tree_below(&f.volume, inside(&f.volume, "one")), before);
        assert_eq!(names(&f.volume), ["one"]);
    }
}

#[test]
fn nothing_in_a_snapshot_can_be_changed() {
    let f = filled(memory(), 9);
    f.volume.create_snapshot("one", &mut |_| ()).unwrap();
    let root = inside(&f.volume, "one");
    let v = &f.volume;
    let file = v.lookup(root, b"long").unwrap().ino;
    let before = tree_below(v, root);
    let empty = XattrFlags::empty();
    assert_err!(
        v.write_file(file, 0, b"x", WriteFlags::empty()),
        Error::ReadOnly
    );
    assert_err!(v.open_file(file, OpenFlags::WRITE), Error::ReadOnly);
    assert_err!(v.open_file(file, OpenFlags::TRUNCATE), Error::ReadOnly);
    assert_err!(v.make_dir(root, b"new", 0o755, ME), Error::ReadOnly);
    assert_err!(v.unlink(root, b"long"), Error::ReadOnly);
    assert_err!(v.link(file, ROOT, b"mine"), Error::ReadOnly);
    assert_err!(v.set_xattr(file, b"user.y", b"v", empty), Error::ReadOnly);
    assert_err!(
        v.set_attr(
            file,
            &SetAttr {
                size: Some(1),
                ..SetAttr::default()
            }
        ),
        Error::ReadOnly
    );
    assert_err!(
        v.set_attr(
            root,
            &SetAttr {
                mode: Some(0),
                ..SetAttr::default()
            }
        ),
        Error::ReadOnly
    );
    assert_err!(
        v.set_flags(file, 0x10, Caller { uid: 0, gid: 0 }),
        Error::ReadOnly
    );
    assert_err!(v.allocate(file, 0, 10, 3, false), Error::ReadOnly);
    let none = RenameFlags::empty();
    assert_err!(
        v.rename(root, b"long", ROOT, b"mine", none),
        Error::ReadOnly
    );
    assert_err!(
        v.rename(ROOT, b"long", root, b"mine", none),
        Error::ReadOnly
    );
    let dir = v.lookup(ROOT, SNAPSHOTS_NAME).unwrap().ino;
    assert_err!(v.remove_dir(dir, b"one"), Error::ReadOnly);
    assert_err!(v.make_dir(dir, b"two", 0o755, ME), Error::ReadOnly);
    assert_eq!(tree_below(v, root), before);
    // But it can be shared with: a copy takes its chunks.
    let mine = f.file("mine");
    let size = v.attr(file).unwrap().size;
    v.copy_range(file, 0, mine, 0, size, false).unwrap();
    assert_eq!(f.content(mine), f.content(file));
}

#[test]
fn the_folder_of_snapshots_is_found_but_not_listed() {
    let f = filled(memory(), 3);
    let v = &f.volume;
    let dir = v.lookup(ROOT, SNAPSHOTS_NAME).unwrap();
    assert_eq!((dir.file_type, dir.size), (FileType::Directory, 0));
    v.create_snapshot("one", &mut |_| ()).unwrap();
    v.create_snapshot("two", &mut |_| ()).unwrap();
    let listed = v.read_dir(ROOT, 0, 100).unwrap();
    assert!(listed.iter().all(|entry| entry.name != SNAPSHOTS_NAME));
    let mut seen = Vec::new();
    let mut cookie = 0;
    while let Some((entry, attr)) = v.read_dir_plus(dir.ino, cookie, 1).unwrap().pop() {
        assert_eq!(entry.ino, attr.ino);
        cookie = entry.cookie;
        seen.push(String::from_utf8(entry.name).unwrap());
    }
    assert_eq!(seen, [".", "..", "one", "two"]);
    assert_eq!(v.lookup(dir.ino, b"..").unwrap().ino, ROOT);
    let one = v.lookup(dir.ino, b"one").unwrap().ino;
    assert_eq!(v.lookup(one, b"..").unwrap().ino, dir.ino);
    let d = v.lookup(one, b"d").unwrap().ino;
    assert_eq!(v.lookup(d, b"..").unwrap().ino, one);
    let link = v.lookup(d, b"link").unwrap().ino;
    for (ino, path) in [
        (dir.ino, "/.snapshots"),
        (one, "/.snapshots/one"),
        (link, "/.snapshots/one/d/link"),
    ] {
        assert_eq!(v.path(ino).unwrap().unwrap(), path.as_bytes());
    }
    // Nobody can make the name, or take it away.
    assert_err!(v.make_dir(ROOT, SNAPSHOTS_NAME, 0o755, ME), Error::Exists);
    assert_err!(
        v.make_node(ROOT, SNAPSHOTS_NAME, 0o644, 0, ME),
        Error::Exists
    );
    assert_err!(v.symlink(ROOT, SNAPSHOTS_NAME, b"x", ME), Error::Exists);
    assert_err!(v.remove_dir(ROOT, SNAPSHOTS_NAME), Error::ReadOnly);
    let none = RenameFlags::empty();
    assert_err!(
        v.rename(ROOT, b"d", ROOT, SNAPSHOTS_NAME, none),
        Error::ReadOnly
    );
    assert_err!(
        v.rename(ROOT, SNAPSHOTS_NAME, ROOT, b"x", none),
        Error::ReadOnly
    );
    // In other folders it is a name like any other.
    v.make_dir(v.lookup(ROOT, b"d").unwrap().ino, SNAPSHOTS_NAME, 0o755, ME)
        .unwrap();
}

#[test]
fn an_older_entry_of_that_name_stays() {
    let f = Fixture::new();
    let own = f.dir(ROOT, "own");
    f.volume
        .change(|change| change.add_entry(ROOT, SNAPSHOTS_NAME, own, FileType::Directory))
        .unwrap();
    f.volume
        .change(|change| {
            let entry = change.find(ROOT, b"own")?.unwrap();
            change.remove_entry(ROOT, &entry)
        })
        .unwrap();
    f.volume.create_snapshot("one", &mut |_| ()).unwrap();
    assert_eq!(f.volume.lookup(ROOT, SNAPSHOTS_NAME).unwrap().ino, own);
    f.volume.remove_dir(ROOT, SNAPSHOTS_NAME).unwrap();
    assert_eq!(
        f.volume.lookup(ROOT, SNAPSHOTS_NAME).unwrap().ino,
        SNAPSHOTS
    );
}

#[test]
fn removing_gives_everything_back() {
    let f = filled(memory(), 50);
    let v = &f.volume;
    let rows = |f: &Fixture| Table::ALL.map(|table| f.rows(table));
    v.sync().unwrap();
    let before = rows(&f);
    for (name, files) in [("one", 51), ("two", 51)] {
        assert_eq!(v.create_snapshot(name, &mut |_| ()).unwrap().files, files);
    }
    assert!(v.create_snapshot("one", &mut |_| ()).is_err());
    let root = inside(v, "one");
    let file = v.lookup(root, b"long").unwrap().ino;
    v.open_file(file, OpenFlags::empty()).unwrap();
    let error = v.delete_snapshot("one", &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("open"), "{error}");
    v.release(file);
    v.delete_snapshot("one", &mut |_| ()).unwrap();
    assert_eq!(names(v), ["two"]);
    assert_err!(v.attr(file), Error::NotFound);
    assert!(v.delete_snapshot("one", &mut |_| ()).is_err());
    v.delete_snapshot("two", &mut |_| ()).unwrap();
    assert_eq!(rows(&f), before);
    // A number is not used twice, a name may be.
    v.create_snapshot("one", &mut |_| ()).unwrap();
    assert_ne!(inside(v, "one"), root);
}

#[test]
fn files_without_a_name_are_left_out() {
    let f = filled(memory(), 3);
    let v = &f.volume;
    let gone = f.file("gone");
    f.write(gone, 0, &text(5, 9000));
    v.set_xattr(gone, b"user.x", &text(1, 50), XattrFlags::empty())
        .unwrap();
    v.open_file(gone, OpenFlags::WRITE).unwrap();
    v.unlink(ROOT, b"gone").unwrap();
    assert_eq!(v.totals().unwrap().files, 5);
    let made = v.create_snapshot("one", &mut |_| ()).unwrap();
    assert_eq!(made.files, 4);
    assert_clean(v);
    f.write(gone, 9000, b"still here");
    v.release(gone);
}

#[test]
fn names_of_snapshots() {
    let f = Fixture::new();
    let long = "x".repeat(201);
    for bad in ["", ".", "..", ".x", "-x", "a/b", "a\nb", &long] {
        assert!(f.volume.create_snapshot(bad, &mut |_| ()).is_err(), "{bad}");
    }
    for good in ["a b", "ä", "2025-01-01"] {
        f.volume.create_snapshot(good, &mut |_| ()).unwrap();
    }
    assert_eq!(f.volume.snapshots().unwrap().len(), 3);
}

#[test]
fn rolling_back_restores_everything() {
    let mut f = filled(memory(), 200);
    let before = tree(&f.volume);
    f.volume.create_snapshot("one", &mut |_| ()).unwrap();
    let mut dice = Dice(11);
    (0..500).for_each(|_| disturb(&f.volume, &mut dice));
    let later = tree(&f.volume);
    assert_ne!(later, before);
    f.volume.create_snapshot("two", &mut |_| ()).unwrap();
    f.reopen(Options::default());
    f.volume.roll_back("one", &mut |_| ()).unwrap();
    assert_eq!(tree(&f.volume), before);
    f.reopen(Options::default());
    assert_eq!(tree(&f.volume), before);
    // New files get new numbers, and there is a way forward again.
    let new = f.file("new");
    assert!(later.values().all(|node| node.ino != new));
    f.volume.roll_back("two", &mut |_| ()).unwrap();
    assert_eq!(tree(&f.volume), later);
    assert!(f.volume.roll_back("none", &mut |_| ()).is_err());
    let d = f.volume.lookup(ROOT, b"d").unwrap().ino;
    f.volume.open_dir(d).unwrap();
    assert!(f.volume.roll_back("one", &mut |_| ()).is_err());
    f.volume.release(d);
}

/// After a power cut a snapshot is there wholly or not at all, and what is
/// removed or rolled back is so wholly, once the volume is opened again.
#[test]
fn power_cuts_leave_whole_snapshots() {
    let tape = Arc::new(Tape::default());
    let f = filled(tape.clone(), 120);
    f.volume.sync().unwrap();
    let mut dice = Dice(23);
    let before = tree(&f.volume);
    tape.mark(1);
    let volume = f.volume.clone();
    f.volume
        .create_snapshot("one", &mut |_| {
            (0..20).for_each(|_| disturb(&volume, &mut dice));
            volume.sync().unwrap();
        })
        .unwrap();
    drop(volume);
    tape.mark(2);
    let later = tree(&f.volume);
    f.volume
        .roll_back("one", &mut |_| f.volume.sync().unwrap())
        .unwrap();
    tape.mark(3);
    f.volume
        .delete_snapshot("one", &mut |_| f.volume.sync().unwrap())
        .unwrap();
    tape.mark(4);
    let (mut cuts, mut without, mut half) = (0, 0, 0);
    tape.replay(&mut |store, synced| {
        if synced == 0 {
            return;
        }
        cuts += 1;
        let rows = store
            .scan(Table::Meta, b"v.snapshot.", Some(b"v.snapshot/"), 9)
            .unwrap();
        let state = rows
            .first()
            .map(|(_, row)| SnapshotRow::decode(row).unwrap().state);
        half += u64::from(state == Some(SnapshotState::Making));
        let volume = Volume::open(open_tier(store), Options::default()).unwrap();
        // Removing what is half there may go on after the close: see what is seen.
        match names(&volume).len() {
            0 => without += 1,
            _ => assert_eq!(tree_below(&volume, inside(&volume, "one")), before),
        }
        match synced {
            1 => {}
            2 => assert!([&before, &later].contains(&&tree(&volume))),
            _ => assert_eq!(tree(&volume), before),
        }
        assert!(synced != 2 || names(&volume) == ["one"]);
        assert!(synced != 4 || names(&volume).is_empty());
        volume.close().unwrap();
        assert_clean(&volume);
    });
    assert!(
        cuts > 10 && without > 3 && half > 1,
        "{cuts} {without} {half}"
    );
}

#[test]
fn a_full_disk_leaves_no_half_snapshot() {
    let tape = Arc::new(Tape::default());
    let f = filled(tape.clone(), 400);
    f.volume.sync().unwrap();
    let full = tape.clone();
    let made = f.volume.create_snapshot("one", &mut |_| {
        full.full.store(true, std::sync::atomic::Ordering::SeqCst);
        let _ = f.volume.sync();
    });
    assert!(made.is_err());
    tape.full.store(false, std::sync::atomic::Ordering::SeqCst);
    // The store needs a moment to find out.
    while f.volume.sync().is_err() {}
    assert!(names(&f.volume).is_empty());
    f.volume.create_snapshot("one", &mut |_| ()).unwrap();
}

#[test]
fn damage_in_snapshots_is_found() {
    let damaged = |what: &str, damage: &dyn Fn(&mut Change<'_, '_>, u64) -> Result<()>| {
        let f = filled(memory(), 3);
        f.volume.create_snapshot("one", &mut |_| ()).unwrap();
        let root = inside(&f.volume, "one");
        f.volume.change(|change| damage(change, root)).unwrap();
        let problems = f.volume.check().unwrap();
        assert!(
            problems.iter().any(|problem| problem.contains(what)),
            "{what:?} is not in {problems:#?}"
        );
        std::mem::forget(f);
    };
    damaged("of the snapshot \"one\"", &|change, _| {
        let (space, mut row) = change.snapshot("one")?.unwrap();
        row.totals.files += 1;
        change.put_snapshot(space, &row)
    });
    damaged("belongs to no snapshot", &|change, _| {
        let (space, _) = change.snapshot("one")?.unwrap();
        change.op.delete(Table::Meta, rows::snapshot_key(space))
    });
    damaged("missing", &|change, root| {
        let entry = change.find(root, b"d")?.unwrap();
        change.op.delete(Table::Inode, rows::inode_key(entry.ino))
    });
}

fn repaired(store: &Arc<dyn Store>) -> Vec<String> {
    use crate::tier::Depth;
    let codec = crate::codec::Codec::default();
    let mut said = crate::volume::repair(&**store, CHUNK as u64).unwrap();
    let tier = tier::repair(&**store, &codec, Depth::Chunks, CHUNK, 1, &mut |_| ()).unwrap();
    said.extend(tier.corrected);
    said.extend(crate::volume::repair(&**store, CHUNK as u64).unwrap());
    said
}

#[test]
fn repairs_leave_snapshots_alone_and_drop_what_belongs_to_none() {
    let mut f = filled(memory(), 60);
    f.volume.create_snapshot("one", &mut |_| ()).unwrap();
    f.volume.create_snapshot("two", &mut |_| ()).unwrap();
    let before = tree(&f.volume);
    let lost = inside(&f.volume, "two");
    f.reopen(Options::default());
    f.volume.close().unwrap();
    f.volume.tier().close().unwrap();
    assert_eq!(repaired(&f.store), Vec::<String>::new());
    let mut batch = crate::store::Batch::default();
    batch.delete(Table::Meta, rows::snapshot_key(2));
    batch.delete(Table::Meta, rows::VOLUME);
    f.store.commit(batch).unwrap();
    let said = repaired(&f.store);
    assert!(
        said.iter().any(|what| what.contains("of no snapshot")),
        "{said:?}"
    );
    f.volume = Volume::open(open_tier(&f.store), Options::default()).unwrap();
    assert_eq!(names(&f.volume), ["one"]);
    assert_eq!(tree(&f.volume), before);
    assert_eq!(tree_below(&f.volume, inside(&f.volume, "one")), before);
    assert_err!(f.volume.attr(lost), Error::NotFound);
    // What is there keeps its number.
    f.volume.create_snapshot("three", &mut |_| ()).unwrap();
    assert!(inside(&f.volume, "three") > lost - crate::tier::SPACE);
    let new = f.file("new");
    assert!(before.values().all(|node| node.ino != new));
    let path = crate::volume::paths(&*f.store).unwrap();
    assert!(
        path.values()
            .any(|path| path.starts_with("/.snapshots/one/d/e"))
    );
}
