use super::*;

const NONE: XattrFlags = XattrFlags::empty();

#[test]
fn values_of_any_length_are_kept() {
    let mut f = Fixture::new();
    let a = f.file("a");
    let b = f.file("b");
    let mut expected = BTreeMap::new();
    for (i, len) in [0, 1, 100, 5000, XATTR_MAX].into_iter().enumerate() {
        let name = format!("user.n{i}").into_bytes();
        let value = text(i as u64, len);
        f.volume.set_xattr(a, &name, b"earlier", NONE).unwrap();
        f.volume.set_xattr(a, &name, &value, NONE).unwrap();
        expected.insert(name, value);
    }
    f.volume.set_xattr(b, b"user.n0", b"other", NONE).unwrap();
    f.reopen(Options::default());
    let attr = f.volume.attr(a).unwrap();
    assert_eq!(node(&f.volume, &attr).xattrs, expected);
    f.volume.remove_xattr(a, b"user.n3").unwrap();
    assert_err!(f.volume.remove_xattr(a, b"user.n3"), Error::NoAttribute);
    assert_err!(f.volume.xattr(a, b"user.n3"), Error::NoAttribute);
    assert_eq!(f.volume.xattr(b, b"user.n0").unwrap(), b"other");
}

#[test]
fn flags_and_limits_are_honoured() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.file("a");
    let name = b"user.x";
    let replace = XattrFlags::REPLACE;
    assert_err!(v.set_xattr(a, name, b"1", replace), Error::NoAttribute);
    v.set_xattr(a, name, b"1", XattrFlags::CREATE).unwrap();
    assert_err!(
        v.set_xattr(a, name, b"2", XattrFlags::CREATE),
        Error::Exists
    );
    v.set_xattr(a, name, b"2", replace).unwrap();
    assert_eq!(v.xattr(a, name).unwrap(), b"2");
    let long = [&b"user."[..], &[b'x'; 250]].concat();
    v.set_xattr(a, &long, b"", NONE).unwrap();
    let longer = [&long[..], b"x"].concat();
    assert_err!(v.set_xattr(a, &longer, b"", NONE), Error::Range);
    let large = vec![0; XATTR_MAX + 1];
    assert_err!(v.set_xattr(a, name, &large, NONE), Error::Range);
    assert_err!(v.set_xattr(a, b"user.", b"", NONE), Error::Invalid(_));
    assert_err!(v.set_xattr(99, name, b"", NONE), Error::NotFound);
    // The list can be no longer than what Linux passes on.
    let mut refused = 0;
    for i in 0..300 {
        let name = [&b"user."[..], format!("{i:0250}").as_bytes()].concat();
        match v.set_xattr(a, &name, b"", NONE) {
            Ok(()) => {}
            Err(Error::NoSpace) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let len = v.list_xattrs(a, true).unwrap().len();
    assert!(refused > 0 && len <= XATTR_MAX && len > XATTR_MAX - 256);
}

#[test]
fn namespaces_have_their_rules() {
    let f = Fixture::new();
    let v = &f.volume;
    let a = f.file("a");
    let link = v.symlink(ROOT, b"l", b"a", ME).unwrap().ino;
    for name in [&b"user.u"[..], b"trusted.t", b"security.s"] {
        v.set_xattr(a, name, b"", NONE).unwrap();
    }
    assert_eq!(
        v.list_xattrs(a, true).unwrap(),
        b"security.s\0trusted.t\0user.u\0"
    );
    assert_eq!(v.list_xattrs(a, false).unwrap(), b"security.s\0user.u\0");
    assert_err!(v.set_xattr(link, b"user.u", b"", NONE), Error::NotPermitted);
    v.set_xattr(link, b"trusted.t", b"", NONE).unwrap();
    for name in [&b"system.other"[..], b"other.x", b"plain"] {
        assert_err!(v.set_xattr(a, name, b"", NONE), Error::NotSupported);
        assert_err!(v.xattr(a, name), Error::NotSupported);
    }
}

/// `u:rwx`, as given for `u:ID`, `g:rx`, `m:rwx`, `o:-`.
fn acl(id: u32, permissions: u8) -> Vec<u8> {
    let mut value = vec![2, 0, 0, 0];
    let nobody = u32::MAX;
    for (tag, permissions, id) in [
        (1, 7, nobody),
        (2, permissions, id),
        (4, 5, nobody),
        (16, 7, nobody),
        (32, 0, nobody),
    ] {
        value.extend_from_slice(&[tag, 0, permissions, 0]);
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

#[test]
fn access_lists_and_modes_keep_in_step() {
    let mut f = Fixture::new();
    let a = f.file("a");
    let mode = |f: &Fixture| f.volume.attr(a).unwrap().mode;
    f.volume.set_acl(a, ACCESS, &acl(9, 6), None).unwrap();
    assert_eq!(mode(&f), 0o770);
    let set = SetAttr {
        mode: Some(0o2641),
        ..SetAttr::default()
    };
    f.volume.set_attr(a, &set).unwrap();
    f.reopen(Options::default());
    let v = &f.volume;
    // The mask and the owner have changed, the group and the user have not.
    let mut expected = acl(9, 6);
    (expected[6], expected[30], expected[38]) = (6, 4, 1);
    assert_eq!(v.xattr(a, ACCESS).unwrap(), expected);
    assert_eq!(v.list_xattrs(a, false).unwrap(), [ACCESS, b"\0"].concat());
    // Set-group-id is kept by those who are in the group (8) and by root.
    v.set_acl(a, ACCESS, &acl(9, 6), Some(&[3, 8])).unwrap();
    assert_eq!(mode(&f), 0o2770);
    v.set_acl(a, ACCESS, &acl(9, 6), Some(&[3])).unwrap();
    assert_eq!(mode(&f), 0o770);
    // What a mode says as well is not kept.
    let list = acl(9, 6);
    let minimal = [&list[..12], &list[20..28], &list[36..]].concat();
    v.set_acl(a, ACCESS, &minimal, None).unwrap();
    assert_eq!(mode(&f), 0o750);
    assert_err!(v.xattr(a, ACCESS), Error::NoAttribute);
    v.remove_xattr(a, ACCESS).unwrap();
    v.set_xattr(a, ACCESS, &acl(1, 1), NONE).unwrap();
    v.set_acl(a, ACCESS, &[2, 0, 0, 0], None).unwrap();
    assert_eq!((v.attr(a).unwrap().mode, f.rows(Table::Xattr)), (0o770, 0));

    assert_err!(v.set_acl(a, DEFAULT, &acl(9, 6), None), Error::AccessDenied);
    assert_err!(v.set_acl(a, ACCESS, b"\x03\0\0\0", None), Error::Invalid(_));
    let link = v.symlink(ROOT, b"l", b"a", ME).unwrap().ino;
    assert_err!(
        v.set_acl(link, ACCESS, &acl(9, 6), None),
        Error::NotSupported
    );
}

#[test]
fn default_lists_are_inherited_and_the_umask_is_not_used_then() {
    let f = Fixture::new();
    let v = &f.volume;
    let dir = f.dir(ROOT, "d");
    let mode = |bits| Mode { bits, umask: 0o077 };
    let plain = v.make_dir(dir, b"plain", mode(0o775), ME).unwrap();
    assert_eq!(plain.mode, 0o700);
    v.set_acl(dir, DEFAULT, &acl(9, 6), None).unwrap();
    assert_eq!(v.attr(dir).unwrap().mode, 0o755);

    let a = v
        .create(dir, b"a", mode(0o666), OpenFlags::empty(), ME)
        .unwrap()
        .0;
    v.release(a.ino);
    assert_eq!(a.mode, 0o660);
    let mut expected = acl(9, 6);
    (expected[6], expected[30]) = (6, 6);
    assert_eq!(v.xattr(a.ino, ACCESS).unwrap(), expected);
    assert_err!(v.xattr(a.ino, DEFAULT), Error::NoAttribute);

    let sub = v.make_dir(dir, b"sub", mode(0o777), ME).unwrap();
    assert_eq!(sub.mode, 0o770);
    for name in [ACCESS, DEFAULT] {
        assert_eq!(v.xattr(sub.ino, name).unwrap(), acl(9, 6));
    }
    let deep = v.make_node(sub.ino, b"fifo", mode(libc::S_IFIFO | 0o600), 0, ME);
    assert_eq!(deep.unwrap().mode, 0o600);
    let link = v.symlink(sub.ino, b"l", b"a", ME).unwrap();
    assert_eq!(
        (link.mode, v.list_xattrs(link.ino, true).unwrap().len()),
        (0o777, 0)
    );
}
