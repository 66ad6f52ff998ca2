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
    assert_err!(now.write_file(a, 10, b"x", none), Error::WouldBlock);
    // Whole chunks and rows need nothing that is not there.
    now.write_file(a, CHUNK as u64, &data[..CHUNK], none)
        .unwrap();
    now.make_dir(ROOT, b"d", 0o755, ME).unwrap();
    f.volume.write_file(a, 10, b"x", none).unwrap();
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
