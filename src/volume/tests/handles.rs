use super::*;

#[test]
fn open_files_outlive_their_names() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.file("a");
    f.write(a, 0, &text(1, 10 * CHUNK));
    v.open_file(a, OpenFlags::empty()).unwrap();
    v.open_file(a, OpenFlags::WRITE).unwrap();
    v.unlink(ROOT, b"a").unwrap();
    assert_eq!(v.attr(a).unwrap().nlink, 0);
    assert_eq!(f.rows(Table::Orphan), 1);
    assert_clean(v);
    f.write(a, 0, b"more");
    assert_eq!(&f.content(a)[..5], [b"more", &text(1, 5)[4..]].concat());
    assert_err!(v.link(a, ROOT, b"b"), Error::NotFound);
    v.release(a);
    v.open_file(a, OpenFlags::empty()).unwrap();
    v.release(a);
    assert_eq!(v.attr(a).unwrap().nlink, 0);
    v.release(a);
    v.close().unwrap();
    assert_err!(v.attr(a), Error::NotFound);
    assert_err!(v.open_file(a, OpenFlags::empty()), Error::NotFound);
    for table in [Table::Orphan, Table::Cmap] {
        assert_eq!(f.rows(table), 0);
    }
}

#[test]
fn small_files_go_with_their_name() {
    let f = Fixture::new();
    let a = f.file("a");
    f.write(a, 0, &text(1, 3 * CHUNK));
    f.volume
        .set_xattr(a, b"user.x", &text(2, 99), XattrFlags::empty())
        .unwrap();
    f.volume.sync().unwrap();
    f.volume.unlink(ROOT, b"a").unwrap();
    for table in [Table::Orphan, Table::Cmap, Table::Xattr] {
        assert_eq!(f.rows(table), 0, "{table:?}");
    }
    assert_eq!(f.rows(Table::Inode), 1);
}

#[test]
fn large_files_are_freed_by_the_reaper() {
    let mut f = Fixture::new();
    let a = f.file("a");
    f.write(a, 0, &text(1, 300 * CHUNK));
    f.write(a, 1 << 30, &text(1, 300 * CHUNK));
    f.volume.sync().unwrap();
    f.volume.unlink(ROOT, b"a").unwrap();
    f.reopen(Options::default());
    for table in [Table::Orphan, Table::Cmap] {
        assert_eq!(f.rows(table), 0);
    }
    assert_eq!(f.volume.totals().unwrap().bytes, 0);
}

#[test]
fn what_a_crash_left_is_freed_at_the_next_open() {
    let mut f = Fixture::new();
    let a = f.file("a");
    f.write(a, 0, b"text");
    f.volume.open_file(a, OpenFlags::empty()).unwrap();
    f.volume.unlink(ROOT, b"a").unwrap();
    f.reopen(Options {
        read_only: true,
        ..Options::default()
    });
    assert_eq!(f.rows(Table::Orphan), 1);
    assert_err!(f.volume.attr(a), Error::NotFound);
    f.reopen(Options::default());
    f.volume.close().unwrap();
    assert_eq!(f.rows(Table::Orphan), 0);
    assert_eq!(f.rows(Table::Inode), 1);
}

#[test]
fn a_volume_is_formatted_once_and_opened_only_then() {
    let store = memory();
    let tier = open_tier(&store);
    assert!(Volume::open(tier.clone(), Options::default()).is_err());
    Volume::format(&tier, 3, 4).unwrap();
    assert_err!(Volume::format(&tier, 3, 4), Error::Exists);
    let volume = Volume::open(tier, Options::default()).unwrap();
    let root = volume.attr(ROOT).unwrap();
    assert_eq!(
        (root.uid, root.gid, root.mode, root.nlink),
        (3, 4, 0o755, 2)
    );
    volume.close().unwrap();
    volume.close().unwrap();
    // Names still come and go; only large files wait.
    volume.make_dir(ROOT, b"d", 0o755, ME).unwrap();
    assert_eq!(volume.totals().unwrap().directories, 2);
    let stat = volume.stat_fs().unwrap();
    assert_eq!((stat.files, stat.name_max), (2, 255));
    assert!(stat.free <= stat.blocks);
}

#[test]
fn a_read_only_volume_changes_nothing() {
    let mut f = Fixture::new();
    let a = f.file("a");
    f.write(a, 0, b"text");
    f.reopen(Options {
        read_only: true,
        atime: Atime::Always,
    });
    let v = &f.volume;
    let before = v.attr(a).unwrap();
    assert_eq!(f.content(a), b"text");
    assert_eq!(v.attr(a).unwrap(), before);
    let none = WriteFlags::empty();
    assert_err!(v.write_file(a, 0, b"x", none), Error::ReadOnly);
    assert_err!(v.unlink(ROOT, b"a"), Error::ReadOnly);
    assert_err!(v.open_file(a, OpenFlags::WRITE), Error::ReadOnly);
    assert_err!(v.set_attr(a, &SetAttr::default()), Error::ReadOnly);
    v.open_file(a, OpenFlags::empty()).unwrap();
    v.release(a);
}

#[test]
fn now_does_not_wait_for_a_chunk() {
    let mut f = Fixture::new();
    let a = f.file("a");
    let data = text(5, 4 * CHUNK);
    f.write(a, 0, &data);
    f.reopen(Options::default());
    let now = f.volume.now();
    assert_err!(now.read_file(a, 0, 10), Error::WouldBlock);
    let none = WriteFlags::empty();
    let most = &data[..CHUNK * 3 / 4];
    assert_err!(now.write_file(a, 10, most, none), Error::WouldBlock);
    // Whole chunks and rows need nothing that is not there.
    now.write_file(a, CHUNK as u64, &data[..CHUNK], none)
        .unwrap();
    now.make_dir(ROOT, b"d", 0o755, ME).unwrap();
    // Neither do small writes: they wait beside the chunk.
    now.write_file(a, 10, b"x", none).unwrap();
    assert_eq!(now.read_file(a, 10, 1).unwrap(), b"x");
    assert_err!(now.read_file(a, 0, 11), Error::WouldBlock);
    f.volume.write_file(a, 0, most, none).unwrap();
    now.write_file(a, 10, &data[10..11], none).unwrap();
    assert_eq!(now.read_file(a, 0, 10).unwrap(), data[..10]);
}

/// Many threads at the same names: whatever wins, the rows agree, and what was
/// closed and removed is gone.
#[test]
fn threads_do_not_confuse_each_other() {
    let f = Fixture::new();
    let dirs = [f.dir(ROOT, "x"), f.dir(ROOT, "y")];
    let threads: Vec<_> = (0..4usize)
        .map(|number| {
            let volume = f.volume.clone();
            std::thread::spawn(move || {
                for i in 0..400usize {
                    let name = [b'a' + (i * 7 + number) as u8 % 5];
                    let other = [b'a' + (i * 3 + number) as u8 % 5];
                    let (d, e) = (dirs[i % 2], dirs[(i / 3) % 2]);
                    // Losing a race is no failure.
                    match i % 6 {
                        0 | 1 => {
                            let flags = OpenFlags::WRITE;
                            let made = volume.create(d, &name, 0o600, flags, ME);
                            if let Ok((attr, _)) = made {
                                let data = text(i as u64, 3 * CHUNK);
                                let flags = WriteFlags::APPEND;
                                volume.write_file(attr.ino, 0, &data, flags).unwrap();
                                volume.read_file(attr.ino, 0, 10).unwrap();
                                volume.release(attr.ino);
                            }
                        }
                        2 => drop(volume.make_dir(d, &name, 0o700, ME)),
                        3 => {
                            let flags = RenameFlags::from_bits_truncate(i as u32 / 6 % 3);
                            drop(volume.rename(d, &name, e, &other, flags));
                        }
                        4 => drop(volume.unlink(d, &name)),
                        _ => drop(volume.remove_dir(d, &name)),
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    f.volume.close().unwrap();
    assert_eq!(f.rows(Table::Orphan), 0);
    let tree = tree(&f.volume);
    let totals = f.volume.totals().unwrap();
    assert_eq!(tree.len() as u64, totals.files + totals.directories);
}

#[test]
fn what_a_kernel_knows_outlives_its_names() {
    let f = Fixture::new();
    let v = f.volume.counting();
    // What looks but is no kernel does not count.
    let quiet = f.file("quiet");
    f.volume.lookup(ROOT, b"quiet").unwrap();
    f.volume.unlink(ROOT, b"quiet").unwrap();
    assert_err!(v.attr(quiet), Error::NotFound);

    let a = v.make_node(ROOT, b"a", 0o644, 0, ME).unwrap().ino;
    f.write(a, 0, &text(1, 3 * CHUNK));
    assert_eq!(v.now().lookup(ROOT, b"a").unwrap().ino, a);
    v.link(a, ROOT, b"b").unwrap();
    assert_eq!(
        v.create(ROOT, b"a", 0, OpenFlags::empty(), ME)
            .unwrap()
            .0
            .ino,
        a
    );
    v.release(a);
    let listed = v.read_dir_plus(ROOT, 0, 100).unwrap();
    assert_eq!(listed.len(), 4);
    v.unlink(ROOT, b"a").unwrap();
    v.unlink(ROOT, b"b").unwrap();
    // Six answers named it, two of them in the list.
    v.forget(a, 5);
    assert_eq!(v.attr(a).unwrap().nlink, 0);
    assert_eq!(f.content(a), text(1, 3 * CHUNK));
    v.open_file(a, OpenFlags::empty()).unwrap();
    v.forget(a, 1);
    assert_eq!(f.content(a), text(1, 3 * CHUNK));
    assert_clean(&v);
    v.release(a);
    v.close().unwrap();
    assert_err!(v.attr(a), Error::NotFound);
    for table in [Table::Orphan, Table::Cmap] {
        assert_eq!(f.rows(table), 0);
    }
    // Nothing but the inodes that live is remembered.
    assert_eq!(f.volume.core.held.lock().len(), 0);
}

#[test]
fn an_unmounted_kernel_has_forgotten_everything() {
    let f = Fixture::new();
    let v = f.volume.counting();
    let dir = v.make_dir(ROOT, b"d", 0o755, ME).unwrap().ino;
    let link = v.symlink(dir, b"l", b"x", ME).unwrap().ino;
    v.unlink(dir, b"l").unwrap();
    v.remove_dir(ROOT, b"d").unwrap();
    assert_eq!(v.attr(link).unwrap().nlink, 0);
    // A directory that was removed reads as empty and takes no names.
    assert!(v.read_dir(dir, 0, 9).unwrap().is_empty());
    assert_err!(v.lookup(dir, b"l"), Error::NotFound);
    assert_err!(v.make_dir(dir, b"e", 0o755, ME), Error::NotFound);
    v.open_dir(dir).unwrap();
    v.forget_all();
    assert!(v.attr(dir).is_ok());
    v.release(dir);
    v.close().unwrap();
    assert_eq!(f.rows(Table::Orphan), 0);
    assert_eq!(f.rows(Table::Inode), 1);
}

/// One thread replaces a file, others look it up and open it: what was looked
/// up can always be opened and read.
#[test]
fn nothing_comes_between_a_lookup_and_its_count() {
    let f = Fixture::new();
    let v = f.volume.counting();
    v.forget(f.file("a"), 0);
    let over = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !over.load(relaxed) {
                    let ino = v.lookup(ROOT, b"a").unwrap().ino;
                    v.open_file(ino, OpenFlags::empty()).unwrap();
                    v.forget(ino, 1);
                    v.read_file(ino, 0, 10).unwrap();
                    v.release(ino);
                }
            });
        }
        for _ in 0..2000 {
            let fresh = v.make_node(ROOT, b"b", 0o644, 0, ME).unwrap().ino;
            let replace = v.rename(ROOT, b"b", ROOT, b"a", RenameFlags::empty());
            v.forget(fresh, 1);
            replace.unwrap();
        }
        over.store(true, relaxed);
    });
    v.close().unwrap();
    assert_eq!(f.rows(Table::Inode), 2);
    assert_eq!(f.rows(Table::Orphan), 0);
}
