use super::*;

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

#[test]
fn sizes_grow_and_shrink() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.file("a");
    let size = |size| {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        v.set_attr(a, &set)
    };
    let data = text(1, 1000);
    f.write(a, 0, &data);
    assert_eq!(v.read_file(a, 990, 100).unwrap(), data[990..]);
    assert_eq!(v.read_file(a, 1000, 100).unwrap(), b"");
    assert_eq!(v.read_file(a, u64::MAX, 100).unwrap(), b"");
    assert_eq!(size(300).unwrap().size, 300);
    assert_eq!(size(600).unwrap().size, 600);
    assert_eq!(f.content(a), [&data[..300], &[0; 300]].concat());
    assert_err!(
        v.write_file(ROOT, 0, b"x", WriteFlags::empty()),
        Error::IsDirectory
    );
    assert_err!(v.read_file(ROOT, 0, 1), Error::IsDirectory);
    let set = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    assert_err!(v.set_attr(ROOT, &set), Error::IsDirectory);
}

#[test]
fn files_may_be_enormous_and_sparse() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.file("a");
    let max = i64::MAX as u64;
    let none = WriteFlags::empty();
    f.write(a, max - 4, b"last");
    assert_eq!(v.attr(a).unwrap().size, max);
    assert_eq!(v.attr(a).unwrap().blocks, CHUNK as u64 / 512 + 1);
    assert_eq!(v.read_file(a, max - 6, 10).unwrap(), b"\0\0last");
    assert_err!(v.write_file(a, max, b"x", none), Error::FileTooBig);
    assert_err!(v.write_file(a, u64::MAX, b"x", none), Error::FileTooBig);
    assert_err!(v.allocate(a, max, 1, 0, false), Error::FileTooBig);
    let size = Some(max + 1);
    let set = SetAttr {
        size,
        ..SetAttr::default()
    };
    assert_err!(v.set_attr(a, &set), Error::FileTooBig);
    assert_eq!(
        v.seek(a, 0, Seek::Data).unwrap(),
        max / CHUNK as u64 * CHUNK as u64
    );
    // What lies on both sides of where the chunk map's short keys end, and far
    // out, survives the store and is found, counted, cut and freed.
    let edge = ((u64::from(u32::MAX) + 1) * 32) * CHUNK as u64;
    for at in [8 << 40, edge - 5, edge + 5 * CHUNK as u64, 1 << 62] {
        f.write(a, at, b"middle");
    }
    v.sync().unwrap();
    assert_clean(v);
    let mut data = Vec::new();
    let mut at = 0;
    while let Ok(found) = v.seek(a, at, Seek::Data) {
        data.push(found);
        at = v.seek(a, found, Seek::Hole).unwrap();
    }
    let chunk = |at: u64| at / CHUNK as u64 * CHUNK as u64;
    let places = [8 << 40, edge - 5, edge + 5 * CHUNK as u64, 1 << 62, max - 4];
    assert_eq!(data, places.map(chunk));
    for at in [8 << 40, edge - 5, edge + 5 * CHUNK as u64, 1 << 62] {
        assert_eq!(v.read_file(a, at - 1, 8).unwrap(), b"\0middle\0");
    }
    assert_eq!(v.tier().footprint(a).unwrap().chunks, 6);
    let punched = v.allocate(a, edge - 5, 1 << 61, PUNCH, false);
    punched.unwrap();
    assert_eq!(v.seek(a, edge, Seek::Data).unwrap(), 1 << 62);
    assert_eq!(v.copy_range(a, 1 << 62, a, 9 << 40, 6, false).unwrap(), 6);
    assert_eq!(v.read_file(a, 9 << 40, 6).unwrap(), b"middle");
    let set = SetAttr {
        size: Some((1 << 62) + 3),
        ..SetAttr::default()
    };
    v.set_attr(a, &set).unwrap();
    assert_eq!(v.read_file(a, 1 << 62, 6).unwrap(), b"mid");
    let other = f.file("b");
    f.write(other, 1 << 62, b"x");
    f.write(other, max - 1, b"x");
    assert_clean(v);
    v.unlink(ROOT, b"b").unwrap();
    v.unlink(ROOT, b"a").unwrap();
    v.sync().unwrap();
    assert_eq!(f.rows(Table::Cmap), 0);
}

#[test]
fn blocks_are_those_of_stored_chunks() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.file("a");
    let blocks = || v.attr(a).unwrap().blocks;
    f.write(a, 0, b"x");
    assert_eq!(blocks(), 1);
    f.write(a, 0, &text(1, 16 * CHUNK));
    assert_eq!(blocks(), 8);
    f.write(a, 1 << 20, b"x");
    assert_eq!(blocks(), 9);
    v.allocate(a, 0, 8 * CHUNK as u64, PUNCH, false).unwrap();
    assert_eq!(blocks(), 5);
}

#[test]
fn appends_go_to_the_end() {
    let f = Fixture::new();
    let a = f.file("a");
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let volume = f.volume.clone();
            std::thread::spawn(move || {
                for i in 0..50 {
                    let line = format!("{number}:{i}\n");
                    volume
                        .write_file(a, 0, line.as_bytes(), WriteFlags::APPEND)
                        .unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    let content = String::from_utf8(f.content(a)).unwrap();
    let mut lines: Vec<_> = content.lines().collect();
    lines.sort();
    let mut expected: Vec<_> = (0..4)
        .flat_map(|n| (0..50).map(move |i| format!("{n}:{i}")))
        .collect();
    expected.sort();
    assert_eq!(lines, expected);
}

#[test]
fn allocation_does_what_its_mode_says() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.file("a");
    let data = text(1, 1000);
    f.write(a, 0, &data);
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    let zero = libc::FALLOC_FL_ZERO_RANGE;
    v.allocate(a, 0, 5000, keep, false).unwrap();
    assert_eq!(f.content(a), data);
    v.allocate(a, 500, 700, 0, false).unwrap();
    assert_eq!(f.content(a), [&data[..], &[0; 200]].concat());
    v.allocate(a, 100, 400, PUNCH, false).unwrap();
    v.allocate(a, 900, 9000, zero | keep, false).unwrap();
    let holes = [&data[..100], &[0; 400], &data[500..900], &[0; 300]].concat();
    assert_eq!(f.content(a), holes);
    v.allocate(a, 1100, 200, zero, false).unwrap();
    assert_eq!(f.content(a), [&holes[..], &[0; 100]].concat());
    for mode in [
        libc::FALLOC_FL_COLLAPSE_RANGE,
        libc::FALLOC_FL_INSERT_RANGE,
        libc::FALLOC_FL_PUNCH_HOLE,
        PUNCH | zero,
    ] {
        assert_err!(v.allocate(a, 0, 256, mode, false), Error::NotSupported);
    }
    assert_err!(v.allocate(a, 0, 0, 0, false), Error::Invalid(_));
    assert_err!(v.allocate(ROOT, 0, 1, 0, false), Error::IsDirectory);
    // More than the disk has.
    let available = v.tier().stats().unwrap().space.available;
    if let Some(more) = available.checked_add(1 << 20) {
        assert_err!(v.allocate(a, 0, more, 0, false), Error::NoSpace);
    }
}

#[test]
fn copies_share_chunks_and_know_their_ends() {
    let f = Fixture::new();
    let v = &f.volume;
    let (a, b) = (f.file("a"), f.file("b"));
    // Longer than what one operation copies.
    let data = text(1, 200 * CHUNK + 10);
    f.write(a, 0, &data);
    v.sync().unwrap();
    assert_eq!(
        v.copy_range(a, 0, b, 0, u64::MAX / 2, false).unwrap(),
        data.len() as u64
    );
    assert_eq!(f.content(b), data);
    v.sync().unwrap();
    let stats = v.tier().stats().unwrap();
    let chunks: u64 = stats.chunks.iter().map(|c| c.chunks).sum();
    assert_eq!((chunks, stats.references), (201, 402));
    // To where no chunk can be shared.
    assert_eq!(v.copy_range(a, 3, b, 700, 1000, false).unwrap(), 1000);
    let mut expected = data.clone();
    expected[700..1700].copy_from_slice(&data[3..1003]);
    assert_eq!(f.content(b), expected);
    assert_eq!(
        v.copy_range(a, data.len() as u64, b, 0, 10, false).unwrap(),
        0
    );
    assert_eq!(v.copy_range(b, 0, b, 60_000, 300, false).unwrap(), 300);
    assert_err!(v.copy_range(b, 0, b, 10, 300, false), Error::Invalid(_));
    assert_err!(
        v.copy_range(a, 0, b, u64::MAX - 5, 300, false),
        Error::FileTooBig
    );
    assert_err!(v.copy_range(ROOT, 0, b, 0, 300, false), Error::IsDirectory);
}

#[test]
fn data_and_holes_are_found() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.file("a");
    let chunk = CHUNK as u64;
    f.write(a, 2 * chunk, &text(1, 2 * CHUNK));
    f.write(a, 10 * chunk, b"end");
    let size = 10 * chunk + 3;
    assert_eq!(v.seek(a, 0, Seek::Data).unwrap(), 2 * chunk);
    assert_eq!(v.seek(a, 0, Seek::Hole).unwrap(), 0);
    assert_eq!(v.seek(a, 2 * chunk + 5, Seek::Data).unwrap(), 2 * chunk + 5);
    assert_eq!(v.seek(a, 2 * chunk + 5, Seek::Hole).unwrap(), 4 * chunk);
    assert_eq!(v.seek(a, 4 * chunk, Seek::Data).unwrap(), 10 * chunk);
    assert_eq!(v.seek(a, 10 * chunk, Seek::Hole).unwrap(), size);
    assert_err!(v.seek(a, size, Seek::Hole), Error::NoData);
    assert_err!(v.seek(a, size, Seek::Data), Error::NoData);
    v.allocate(a, 10 * chunk, 100, PUNCH, false).unwrap();
    let set = SetAttr {
        size: Some(20 * chunk),
        ..SetAttr::default()
    };
    v.set_attr(a, &set).unwrap();
    assert_eq!(v.seek(a, 19 * chunk, Seek::Hole).unwrap(), 19 * chunk);
    assert_err!(v.seek(a, 11 * chunk, Seek::Data), Error::NoData);
}

#[test]
fn large_files_are_cut_in_pieces() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.file("a");
    // One megabyte of text again and again: many chunks, few bytes.
    let data = text(1, 1 << 20);
    f.write(a, 0, &data);
    for i in 1..20 {
        let copied = v.copy_range(a, 0, a, i << 20, 1 << 20, false).unwrap();
        assert_eq!(copied, 1 << 20);
    }
    assert!(v.attr(a).unwrap().size / CHUNK as u64 > 1 << 16);
    let to = |size| SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    // Pieces of the hole at its end are not gone through one by one.
    v.set_attr(a, &to(1 << 62)).unwrap();
    let set = to(1000);
    assert_err!(v.now().set_attr(a, &set), Error::WouldBlock);
    assert_eq!(v.set_attr(a, &set).unwrap().size, 1000);
    assert_eq!(f.content(a), data[..1000]);
}
