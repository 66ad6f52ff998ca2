use std::time::{Duration, UNIX_EPOCH};

use super::*;

/// A long time ago.
fn past(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::new(seconds, 123_456_789)
}

/// Sets all times of an inode back.
fn age(volume: &Volume, ino: u64) {
    let set = SetAttr {
        atime: Some(SetTime::At(past(1))),
        mtime: Some(SetTime::At(past(2))),
        ctime: Some(past(3)),
        ..SetAttr::default()
    };
    let attr = volume.set_attr(ino, &set).unwrap();
    assert_eq!(
        (attr.atime, attr.mtime, attr.ctime),
        (past(1), past(2), past(3))
    );
}

/// Which of access, modification and change time an operation updates.
fn updates(volume: &Volume, ino: u64, operation: impl FnOnce()) -> (bool, bool, bool) {
    age(volume, ino);
    operation();
    let attr = volume.attr(ino).unwrap();
    (
        attr.atime != past(1),
        attr.mtime != past(2),
        attr.ctime != past(3),
    )
}

const NONE: (bool, bool, bool) = (false, false, false);
const CHANGED: (bool, bool, bool) = (false, false, true);
const MODIFIED: (bool, bool, bool) = (false, true, true);
const READ: (bool, bool, bool) = (true, false, false);

#[test]
fn operations_on_a_file_update_its_times() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.file("a");
    let d = f.dir(ROOT, "d");
    f.write(a, 0, &text(1, 1000));
    let check = |operation: &dyn Fn(), expected| {
        assert_eq!(updates(v, a, operation), expected);
    };
    let set = |set: SetAttr| {
        v.set_attr(a, &set).unwrap();
    };
    let default = SetAttr::default();
    check(&|| f.write(a, 5, b"x"), MODIFIED);
    check(&|| f.write(a, 5, b""), NONE);
    check(&|| drop(f.content(a)), READ);
    check(&|| drop(v.attr(a)), NONE);
    check(&|| v.open_file(a, OpenFlags::empty()).unwrap(), NONE);
    check(&|| v.open_file(a, OpenFlags::TRUNCATE).unwrap(), MODIFIED);
    let size = Some(0);
    check(&|| set(SetAttr { size, ..default }), MODIFIED);
    let mode = Some(0o600);
    check(&|| set(SetAttr { mode, ..default }), CHANGED);
    let uid = Some(1);
    check(&|| set(SetAttr { uid, ..default }), CHANGED);
    let mtime = Some(SetTime::Now);
    check(&|| set(SetAttr { mtime, ..default }), MODIFIED);
    check(&|| v.allocate(a, 0, 9, 0, false).unwrap(), MODIFIED);
    check(&|| assert!(v.link(a, d, b"l").is_ok()), CHANGED);
    let plain = RenameFlags::empty();
    check(&|| v.rename(d, b"l", d, b"m", plain).unwrap(), CHANGED);
    check(&|| v.unlink(d, b"m").unwrap(), CHANGED);
    let xattr = XattrFlags::empty();
    check(&|| v.set_xattr(a, b"user.x", b"", xattr).unwrap(), CHANGED);
    check(&|| v.remove_xattr(a, b"user.x").unwrap(), CHANGED);
    let me = Caller { uid: 0, gid: 0 };
    check(&|| v.set_flags(a, 0x40, me).unwrap(), CHANGED);
}

#[test]
fn operations_on_entries_update_their_directory() {
    let f = Fixture::new();
    let v = &f.volume;
    let d = f.dir(ROOT, "d");
    let a = f.file("a");
    let check = |operation: &dyn Fn(), expected| {
        assert_eq!(updates(v, d, operation), expected);
    };
    check(&|| drop(v.make_node(d, b"f", 0o600, 0, ME)), MODIFIED);
    check(&|| drop(v.make_node(d, b"f", 0o600, 0, ME)), NONE);
    check(&|| drop(v.make_dir(d, b"d", 0o700, ME)), MODIFIED);
    check(&|| drop(v.symlink(d, b"s", b"t", ME)), MODIFIED);
    check(&|| drop(v.link(a, d, b"l")), MODIFIED);
    check(&|| v.unlink(d, b"l").unwrap(), MODIFIED);
    check(&|| v.remove_dir(d, b"d").unwrap(), MODIFIED);
    let plain = RenameFlags::empty();
    check(&|| v.rename(d, b"f", ROOT, b"f", plain).unwrap(), MODIFIED);
    check(&|| v.rename(ROOT, b"f", d, b"s", plain).unwrap(), MODIFIED);
    check(&|| drop(v.lookup(d, b"s")), NONE);
    check(&|| drop(v.read_dir(d, 0, 1)), READ);
    check(&|| drop(v.read_dir(d, 1, 1)), NONE);
}

#[test]
fn access_times_follow_the_policy() {
    let mut f = Fixture::new();
    let a = f.file("a");
    f.write(a, 0, b"text");
    let new_atime = |f: &Fixture, atime: SystemTime, mtime, ctime| {
        let set = SetAttr {
            atime: Some(SetTime::At(atime)),
            mtime: Some(SetTime::At(mtime)),
            ctime: Some(ctime),
            ..SetAttr::default()
        };
        f.volume.set_attr(a, &set).unwrap();
        f.content(a);
        f.volume.attr(a).unwrap().atime != atime
    };
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 60 * 60 + 1);
    // Newer than the last change, and younger than a day: left alone.
    assert!(!new_atime(&f, now, past(1), past(2)));
    assert!(new_atime(&f, now - day, past(1), past(2)));
    assert!(new_atime(&f, now, now, past(2)));
    assert!(new_atime(&f, now, past(2), now));
    let root = Caller { uid: 0, gid: 0 };
    f.volume.set_flags(a, 0x80, root).unwrap();
    assert!(!new_atime(&f, past(1), past(2), past(3)));
    f.volume.set_flags(a, 0, root).unwrap();
    let options = |atime| Options {
        atime,
        ..Options::default()
    };
    f.reopen(options(Atime::Always));
    assert!(new_atime(&f, now, past(1), past(2)));
    f.reopen(options(Atime::Never));
    assert!(!new_atime(&f, past(1), past(2), past(3)));
}

#[test]
fn privileges_go_when_content_or_owner_change() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.file("a");
    let after = |mode, operation: &dyn Fn()| {
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        assert_eq!(v.set_attr(a, &set).unwrap().mode, mode);
        operation();
        v.attr(a).unwrap().mode
    };
    let write = |flags| move || assert!(v.write_file(a, 0, b"x", flags).is_ok());
    let drops = WriteFlags::DROP_SUID;
    assert_eq!(after(0o6775, &write(drops)), 0o775);
    // Without execution by the group, set-group-id means something else.
    assert_eq!(after(0o6765, &write(drops)), 0o2765);
    assert_eq!(after(0o6775, &write(WriteFlags::empty())), 0o6775);
    let size = |drop_suid| {
        move || {
            let set = SetAttr {
                size: Some(3),
                drop_suid,
                ..SetAttr::default()
            };
            v.set_attr(a, &set).unwrap();
        }
    };
    assert_eq!(after(0o6775, &size(true)), 0o775);
    assert_eq!(after(0o6775, &size(false)), 0o6775);
    let open = OpenFlags::TRUNCATE | OpenFlags::DROP_SUID;
    assert_eq!(after(0o6775, &|| v.open_file(a, open).unwrap()), 0o775);
    let owner = || {
        let set = SetAttr {
            gid: Some(1),
            ..SetAttr::default()
        };
        v.set_attr(a, &set).unwrap();
    };
    assert_eq!(after(0o6775, &owner), 0o775);
    let d = v.make_dir(ROOT, b"d", 0o6775, ME).unwrap().ino;
    let set = SetAttr {
        uid: Some(1),
        ..SetAttr::default()
    };
    assert_eq!(v.set_attr(d, &set).unwrap().mode, 0o6775);
    // Capabilities of a file go with any write.
    let name = b"security.capability";
    v.set_xattr(a, name, b"c", XattrFlags::empty()).unwrap();
    write(WriteFlags::empty())();
    assert_err!(v.xattr(a, name), Error::NoAttribute);
}

#[test]
fn flags_are_enforced() {
    let f = Fixture::new();
    let v = &f.volume;
    let root = Caller { uid: 0, gid: 0 };
    let d = f.dir(ROOT, "d");
    let a = v.make_node(d, b"a", 0o644, 0, ME).unwrap().ino;
    let immutable = InodeFlags::IMMUTABLE.bits();
    let append = InodeFlags::APPEND.bits();
    assert_err!(v.set_flags(a, immutable, ME), Error::NotPermitted);
    assert_err!(v.set_flags(a, 0x8, root), Error::NotSupported);
    v.set_flags(a, InodeFlags::NODUMP.bits(), ME).unwrap();
    let other = Caller { uid: 99, gid: 99 };
    assert_err!(v.set_flags(a, 0, other), Error::NotPermitted);
    let plain = RenameFlags::empty();
    let refused = || {
        assert_err!(v.unlink(d, b"a"), Error::NotPermitted);
        assert_err!(v.rename(d, b"a", d, b"b", plain), Error::NotPermitted);
        assert_err!(v.link(a, d, b"l"), Error::NotPermitted);
        assert_err!(v.open_file(a, OpenFlags::WRITE), Error::NotPermitted);
        assert_err!(v.open_file(a, OpenFlags::TRUNCATE), Error::NotPermitted);
        let mode = Some(0o600);
        let set = SetAttr {
            mode,
            ..SetAttr::default()
        };
        assert_err!(v.set_attr(a, &set), Error::NotPermitted);
    };
    v.set_flags(a, immutable, root).unwrap();
    assert_eq!(v.attr(a).unwrap().flags, InodeFlags::IMMUTABLE);
    refused();
    let appends = OpenFlags::WRITE | OpenFlags::APPEND;
    assert_err!(v.open_file(a, appends), Error::NotPermitted);
    v.set_flags(a, append, root).unwrap();
    refused();
    v.open_file(a, appends).unwrap();
    // What the kernel noted of a write is taken; what a user sets is not.
    let kept = SetAttr {
        mtime: Some(SetTime::At(past(5))),
        ctime: Some(past(6)),
        ..SetAttr::default()
    };
    assert_eq!(v.set_attr(a, &kept).unwrap().mtime, past(5));
    let atime = Some(SetTime::At(past(5)));
    let utimes = SetAttr { atime, ..kept };
    assert_err!(v.set_attr(a, &utimes), Error::NotPermitted);
    v.set_flags(a, 0, root).unwrap();
    v.set_flags(d, append, root).unwrap();
    assert_err!(v.unlink(d, b"a"), Error::NotPermitted);
    v.make_node(d, b"b", 0o644, 0, ME).unwrap();
    v.set_flags(d, immutable, root).unwrap();
    assert_err!(v.make_node(d, b"c", 0o644, 0, ME), Error::NotPermitted);
}
