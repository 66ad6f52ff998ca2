use super::*;

const NONE: RenameFlags = RenameFlags::empty();

#[test]
fn names_are_made_found_and_removed() {
    let f = Fixture::new();
    let v = &f.volume;
    let file = v.make_node(ROOT, b"a\xff\n ", 0o100640, 9, ME).unwrap();
    assert_eq!(file.file_type, FileType::Regular);
    assert_eq!((file.mode, file.uid, file.gid), (0o640, 7, 8));
    assert_eq!((file.nlink, file.size, file.rdev), (1, 0, 0));
    assert_eq!(v.lookup(ROOT, b"a\xff\n ").unwrap(), file);
    assert_err!(v.make_node(ROOT, b"a\xff\n ", 0o600, 0, ME), Error::Exists);
    let device = v.make_node(ROOT, b"dev", libc::S_IFBLK | 0o600, 0x801, ME);
    assert_eq!(device.unwrap().rdev, 0x801);
    assert_err!(v.lookup(ROOT, b"b"), Error::NotFound);
    assert_err!(v.lookup(file.ino, b"b"), Error::NotDirectory);
    assert_err!(v.make_dir(file.ino, b"b", 0o755, ME), Error::NotDirectory);
    assert_err!(v.make_dir(99, b"b", 0o755, ME), Error::NotFound);
    assert_err!(v.remove_dir(ROOT, b"a\xff\n "), Error::NotDirectory);
    assert_err!(v.unlink(ROOT, b"b"), Error::NotFound);
    v.unlink(ROOT, b"a\xff\n ").unwrap();
    assert_err!(v.lookup(ROOT, b"a\xff\n "), Error::NotFound);
    assert_err!(v.attr(file.ino), Error::NotFound);
}

#[test]
fn names_that_cannot_be_are_refused() {
    let f = Fixture::new();
    let v = &f.volume;
    let longest = vec![b'x'; 255];
    v.make_dir(ROOT, &longest, 0o755, ME).unwrap();
    assert_err!(
        v.make_dir(ROOT, &[b'x'; 256], 0o755, ME),
        Error::NameTooLong
    );
    assert_err!(v.lookup(ROOT, &[b'x'; 256]), Error::NameTooLong);
    for name in [&b""[..], b"a/b", b"a\0"] {
        assert_err!(v.make_node(ROOT, name, 0o600, 0, ME), Error::Invalid(_));
    }
    for name in [&b"."[..], b".."] {
        assert_err!(v.make_dir(ROOT, name, 0o755, ME), Error::Exists);
        assert_err!(v.unlink(ROOT, name), Error::IsDirectory);
        assert_err!(v.rename(ROOT, name, ROOT, b"n", NONE), Error::Invalid(_));
        assert_err!(
            v.rename(ROOT, &longest, ROOT, name, NONE),
            Error::Invalid(_)
        );
    }
    assert_err!(v.remove_dir(ROOT, b"."), Error::Invalid(_));
    assert_err!(v.remove_dir(ROOT, b".."), Error::NotEmpty);
}

#[test]
fn directories_count_their_links() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.dir(ROOT, "a");
    let b = f.dir(a, "b");
    assert_eq!(v.attr(ROOT).unwrap().nlink, 3);
    assert_eq!(v.attr(a).unwrap().nlink, 3);
    assert_eq!(v.lookup(b, b"..").unwrap().ino, a);
    assert_eq!(v.lookup(b, b".").unwrap().ino, b);
    assert_eq!(v.lookup(ROOT, b"..").unwrap().ino, ROOT);
    assert_err!(v.remove_dir(ROOT, b"a"), Error::NotEmpty);
    assert_err!(v.unlink(ROOT, b"a"), Error::IsDirectory);
    v.rename(a, b"b", ROOT, b"b", NONE).unwrap();
    assert_eq!(v.lookup(b, b"..").unwrap().ino, ROOT);
    assert_eq!(v.attr(ROOT).unwrap().nlink, 4);
    assert_eq!(v.attr(a).unwrap().nlink, 2);
    v.remove_dir(ROOT, b"a").unwrap();
    assert_eq!(v.attr(ROOT).unwrap().nlink, 3);
}

#[test]
fn hard_links_share_one_inode() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.file("a");
    let dir = f.dir(ROOT, "d");
    f.write(a, 0, b"text");
    assert_eq!(v.link(a, dir, b"b").unwrap().nlink, 2);
    assert_err!(v.link(a, dir, b"b"), Error::Exists);
    assert_err!(v.link(dir, ROOT, b"e"), Error::NotPermitted);
    // Two names of one inode: rename leaves both.
    v.rename(ROOT, b"a", dir, b"b", NONE).unwrap();
    assert_eq!(v.lookup(ROOT, b"a").unwrap().nlink, 2);
    v.unlink(ROOT, b"a").unwrap();
    assert_eq!(v.lookup(dir, b"b").unwrap().nlink, 1);
    assert_eq!(f.content(a), b"text");
}

#[test]
fn links_are_limited() {
    let f = Fixture::new();
    let a = f.file("a");
    let set = |nlink| {
        f.volume
            .change(|change| {
                change.edit(a, |inode| {
                    inode.nlink = nlink;
                    Ok(())
                })
            })
            .unwrap();
    };
    set(u32::MAX);
    assert_err!(f.volume.link(a, ROOT, b"b"), Error::TooManyLinks);
    assert_err!(f.volume.lookup(ROOT, b"b"), Error::NotFound);
    set(1);
}

#[test]
fn symbolic_links_keep_their_target() {
    let f = Fixture::new();
    let v = &f.volume;
    let target = vec![b'/'; SYMLINK_MAX];
    let link = v.symlink(ROOT, b"l", &target, ME).unwrap();
    assert_eq!((link.mode, link.size), (0o777, SYMLINK_MAX as u64));
    assert_eq!(v.read_link(link.ino).unwrap(), target);
    let longer = vec![b'/'; SYMLINK_MAX + 1];
    assert_err!(v.symlink(ROOT, b"m", &longer, ME), Error::NameTooLong);
    assert_err!(v.symlink(ROOT, b"m", b"", ME), Error::Invalid(_));
    assert_err!(v.read_link(ROOT), Error::Invalid(_));
}

#[test]
fn renames_replace_what_they_may() {
    let f = Fixture::new();
    let v = &f.volume;
    let (a, b) = (f.file("a"), f.file("b"));
    let (d, e) = (f.dir(ROOT, "d"), f.dir(ROOT, "e"));
    f.write(b, 0, &text(1, 3 * CHUNK));
    assert_err!(v.rename(ROOT, b"a", ROOT, b"d", NONE), Error::IsDirectory);
    assert_err!(v.rename(ROOT, b"d", ROOT, b"a", NONE), Error::NotDirectory);
    let noreplace = RenameFlags::NOREPLACE;
    assert_err!(v.rename(ROOT, b"a", ROOT, b"b", noreplace), Error::Exists);
    v.rename(ROOT, b"a", ROOT, b"b", NONE).unwrap();
    assert_eq!(v.lookup(ROOT, b"b").unwrap().ino, a);
    assert_err!(v.attr(b), Error::NotFound);
    v.rename(ROOT, b"b", e, b"b", noreplace).unwrap();
    assert_err!(v.rename(ROOT, b"d", ROOT, b"e", NONE), Error::NotEmpty);
    v.unlink(e, b"b").unwrap();
    v.rename(ROOT, b"d", ROOT, b"e", NONE).unwrap();
    assert_eq!(v.lookup(ROOT, b"e").unwrap().ino, d);
    assert_eq!(v.attr(ROOT).unwrap().nlink, 3);
    assert_err!(v.rename(ROOT, b"x", ROOT, b"e", NONE), Error::NotFound);
    assert_err!(
        v.rename(ROOT, b"e", ROOT, b"y", RenameFlags::all()),
        Error::Invalid(_)
    );
}

#[test]
fn directories_do_not_move_into_themselves() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.dir(ROOT, "a");
    let b = f.dir(a, "b");
    let c = f.dir(b, "c");
    assert_err!(v.rename(ROOT, b"a", a, b"x", NONE), Error::Invalid(_));
    assert_err!(v.rename(ROOT, b"a", c, b"x", NONE), Error::Invalid(_));
    let exchange = RenameFlags::EXCHANGE;
    assert_err!(v.rename(b, b"c", ROOT, b"a", exchange), Error::Invalid(_));
    assert_err!(v.rename(ROOT, b"a", b, b"c", exchange), Error::Invalid(_));
    assert_err!(v.rename(b, b"c", ROOT, b"a", NONE), Error::NotEmpty);
    v.rename(b, b"c", ROOT, b"c", NONE).unwrap();
    v.rename(ROOT, b"a", c, b"a", NONE).unwrap();
    assert_eq!(v.lookup(a, b"..").unwrap().ino, c);
}

#[test]
fn names_change_places() {
    let f = Fixture::new();
    let v = &f.volume;
    let exchange = RenameFlags::EXCHANGE;
    let a = f.file("a");
    let d = f.dir(ROOT, "d");
    let e = f.dir(d, "e");
    assert_err!(v.rename(ROOT, b"a", ROOT, b"x", exchange), Error::NotFound);
    v.rename(ROOT, b"a", d, b"e", exchange).unwrap();
    assert_eq!(v.lookup(ROOT, b"a").unwrap().ino, e);
    assert_eq!(v.lookup(d, b"e").unwrap().ino, a);
    assert_eq!(v.lookup(e, b"..").unwrap().ino, ROOT);
    assert_eq!(v.attr(d).unwrap().nlink, 2);
    assert_eq!(v.attr(ROOT).unwrap().nlink, 4);
    v.rename(ROOT, b"a", ROOT, b"d", exchange).unwrap();
    assert_eq!(v.lookup(ROOT, b"d").unwrap().ino, e);
}

#[test]
fn groups_are_inherited_from_directories_with_setgid() {
    let f = Fixture::new();
    let v = &f.volume;
    let d = v.make_dir(ROOT, b"d", 0o2775, ME).unwrap().ino;
    let other = Caller { uid: 1, gid: 99 };
    let file = v.make_node(d, b"f", 0o644, 0, other).unwrap();
    assert_eq!((file.gid, file.mode), (8, 0o644));
    let sub = v.make_dir(d, b"s", 0o755, other).unwrap();
    assert_eq!((sub.gid, sub.mode), (8, 0o2755));
    let outside = v.make_node(ROOT, b"f", 0o644, 0, other).unwrap();
    assert_eq!(outside.gid, 99);
}

#[test]
fn create_opens_what_is_there() {
    let f = Fixture::new();
    let v = &f.volume;
    let write = OpenFlags::WRITE;
    let (file, made) = v.create(ROOT, b"a", 0o600, write, ME).unwrap();
    assert!(made);
    f.write(file.ino, 0, b"text");
    let (same, made) = v.create(ROOT, b"a", 0o644, write, ME).unwrap();
    assert_eq!(
        (same.ino, same.size, same.mode, made),
        (file.ino, 4, 0o600, false)
    );
    let (cut, _) = v
        .create(ROOT, b"a", 0o644, write | OpenFlags::TRUNCATE, ME)
        .unwrap();
    assert_eq!(cut.size, 0);
    let exclusive = write | OpenFlags::EXCLUSIVE;
    assert_err!(v.create(ROOT, b"a", 0o600, exclusive, ME), Error::Exists);
    f.dir(ROOT, "d");
    assert_err!(v.create(ROOT, b"d", 0o600, write, ME), Error::IsDirectory);
    // Three opens succeeded, and none of those that failed counts.
    v.unlink(ROOT, b"a").unwrap();
    for _ in 0..3 {
        v.attr(file.ino).unwrap();
        v.release(file.ino);
    }
    v.close().unwrap();
    assert_err!(v.attr(file.ino), Error::NotFound);
}

#[test]
fn a_full_disk_takes_no_names_but_gives_them_back() {
    let tape = Arc::new(Tape::default());
    let f = Fixture::on(tape.clone());
    let v = &f.volume;
    let a = f.file("a");
    f.write(a, 0, &text(3, 5 * CHUNK));
    v.sync().unwrap();
    let full = |on| tape.full.store(on, std::sync::atomic::Ordering::SeqCst);
    full(true);
    f.write(a, 0, b"x");
    assert_err!(v.sync(), Error::NoSpace);
    assert_err!(v.make_dir(ROOT, b"d", 0o755, ME), Error::NoSpace);
    v.unlink(ROOT, b"a").unwrap();
    full(false);
    v.sync().unwrap();
    v.make_dir(ROOT, b"d", 0o755, ME).unwrap();
}

#[test]
fn an_inode_leads_back_to_a_path() {
    let f = Fixture::new();
    let v = &f.volume;
    let (d, e) = (f.dir(ROOT, "d"), f.dir(ROOT, "e"));
    let sub = f.dir(d, "sub");
    // More entries than one look takes.
    for n in 0..1500 {
        v.symlink(d, format!("l{n}").as_bytes(), b"x", ME).unwrap();
    }
    let file = v.make_node(sub, b"\xff", 0o644, 0, ME).unwrap().ino;
    let path = |ino| v.path(ino).unwrap();
    assert_eq!(path(ROOT).unwrap(), b"/");
    assert_eq!(path(sub).unwrap(), b"/d/sub");
    for _ in 0..2 {
        assert_eq!(path(file).unwrap(), b"/d/sub/\xff");
    }
    // What was found last is not believed when names have changed.
    v.rename(sub, b"\xff", e, b"f", RenameFlags::empty())
        .unwrap();
    assert_eq!(path(file).unwrap(), b"/e/f");
    v.rename(ROOT, b"e", sub, b"g", RenameFlags::empty())
        .unwrap();
    assert_eq!(path(file).unwrap(), b"/d/sub/g/f");
    v.open_file(file, OpenFlags::empty()).unwrap();
    v.unlink(e, b"f").unwrap();
    assert_eq!(path(file), None);
    v.release(file);
    assert_eq!(path(99_999), None);
}
