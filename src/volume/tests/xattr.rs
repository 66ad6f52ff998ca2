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
    for name in [&b"system.posix_acl_access"[..], b"other.x", b"plain"] {
        assert_err!(v.set_xattr(a, name, b"", NONE), Error::NotSupported);
        assert_err!(v.xattr(a, name), Error::NotSupported);
    }
}
