use super::*;
use crate::codec::{Kind, Policy};
use crate::tier::RecodeFile;

const CODEC: &[u8] = b"user.laconicfs.codec";
const ANY: XattrFlags = XattrFlags::empty();

/// Codecs of the stored chunks.
fn codecs(volume: &Volume) -> Vec<Kind> {
    let stats = volume.tier().stats().unwrap();
    stats.chunks.iter().map(|chunks| chunks.codec).collect()
}

#[test]
fn what_is_made_in_a_directory_inherits_its_policy() {
    let mut f = Fixture::new();
    let d = f.dir(ROOT, "d");
    f.volume.set_xattr(d, CODEC, b"none", ANY).unwrap();
    let below = f.dir(d, "e");
    let file = f.volume.make_node(below, b"f", 0o644, 0, ME).unwrap().ino;
    let link = f.volume.symlink(below, b"l", b"f", ME).unwrap().ino;
    // Later changes of the directory are for files that are made later.
    f.volume.set_xattr(below, CODEC, b"zstd", ANY).unwrap();
    let later = f.volume.make_node(below, b"g", 0o644, 0, ME).unwrap().ino;
    f.reopen(Options::default());
    let value = |ino| f.volume.xattr(ino, CODEC);
    assert_eq!(value(file).unwrap(), b"none");
    assert_eq!(value(later).unwrap(), b"zstd");
    assert_err!(value(link), Error::NoAttribute);
    assert_err!(
        f.volume.set_xattr(link, CODEC, b"auto", ANY),
        Error::NotPermitted
    );
}

#[test]
fn the_attribute_is_like_others() {
    let f = Fixture::new();
    let (v, a) = (&f.volume, f.file("a"));
    for wrong in [&b"best"[..], b"", b"LM", b"auto "] {
        assert_err!(v.set_xattr(a, CODEC, wrong, ANY), Error::Invalid(_));
    }
    assert_err!(
        v.set_xattr(a, CODEC, b"lm", XattrFlags::REPLACE),
        Error::NoAttribute
    );
    v.set_xattr(a, CODEC, b"lm", XattrFlags::CREATE).unwrap();
    assert_err!(
        v.set_xattr(a, CODEC, b"mix", XattrFlags::CREATE),
        Error::Exists
    );
    v.set_xattr(a, CODEC, b"mix", XattrFlags::REPLACE).unwrap();
    v.set_xattr(a, b"user.x", b"y", ANY).unwrap();
    let names = v.list_xattrs(a, false).unwrap();
    assert_eq!(names, b"user.laconicfs.codec\0user.x\0");
    assert_eq!(v.attr(a).unwrap().policy, Some(Policy::Mix));
    v.remove_xattr(a, CODEC).unwrap();
    assert_err!(v.remove_xattr(a, CODEC), Error::NoAttribute);
    assert_eq!(v.list_xattrs(a, false).unwrap(), b"user.x\0");
    let root = Caller { uid: 0, gid: 0 };
    v.set_flags(a, InodeFlags::IMMUTABLE.bits(), root).unwrap();
    assert_err!(v.set_xattr(a, CODEC, b"lm", ANY), Error::NotPermitted);
}

#[test]
fn chunks_are_coded_as_their_files_want() {
    let f = Fixture::new();
    let (v, tier) = (&f.volume, f.volume.tier());
    let data = b"again and again and again and ".repeat(CHUNK / 30);
    let a = f.file("a");
    v.set_xattr(a, CODEC, b"none", ANY).unwrap();
    f.write(a, 0, &data);
    v.sync().unwrap();
    assert_eq!(codecs(v), [Kind::Raw]);
    tier.drain(&mut |_| true).unwrap();
    assert_eq!(codecs(v), [Kind::Raw]);

    // Another policy counts for what is written, or asked for, later.
    v.set_xattr(a, CODEC, b"zstd", ANY).unwrap();
    tier.drain(&mut |_| true).unwrap();
    assert_eq!(codecs(v), [Kind::Raw]);
    let file = |policy| RecodeFile {
        ino: a,
        policy,
        size: data.len() as u64,
    };
    let done = tier
        .recode(&[file(Policy::Zstd)], None, &mut |_| true)
        .unwrap();
    assert_eq!((done.chunks_coded, done.chunks_kept), (1, 0));
    assert_eq!(done.plain_done, done.plain_total);
    assert!(done.stored_after < done.stored_before);
    assert_eq!(codecs(v), [Kind::Zstd]);
    // What is settled is not coded again.
    let done = tier
        .recode(&[file(Policy::Zstd)], None, &mut |_| true)
        .unwrap();
    assert_eq!((done.chunks_coded, done.chunks_kept), (0, 1));
    assert_eq!(f.content(a), data);
}

#[test]
fn the_wish_that_reads_fastest_counts_for_a_shared_chunk() {
    let f = Fixture::new();
    let (v, tier) = (&f.volume, f.volume.tier());
    let data = b"shared by two files, as it is ".repeat(CHUNK / 30);
    let (a, b) = (f.file("a"), f.file("b"));
    v.set_xattr(a, CODEC, b"none", ANY).unwrap();
    for (first, second) in [(a, b), (b, a)] {
        f.write(first, 0, &data);
        v.sync().unwrap();
        f.write(second, 0, &data);
        v.sync().unwrap();
        tier.drain(&mut |_| true).unwrap();
        assert_eq!(codecs(v), [Kind::Raw]);
        for ino in [a, b] {
            let set = SetAttr {
                size: Some(0),
                ..SetAttr::default()
            };
            v.set_attr(ino, &set).unwrap();
        }
        v.sync().unwrap();
        assert_eq!(codecs(v), []);
    }
    // On demand too, in either order.
    f.write(a, 0, &data);
    f.write(b, 0, &data);
    let file = |ino, policy| RecodeFile {
        ino,
        policy,
        size: data.len() as u64,
    };
    let files = [file(b, Policy::Auto), file(a, Policy::None)];
    let done = tier.recode(&files, None, &mut |_| true).unwrap();
    assert_eq!((done.chunks_coded, done.chunks_kept), (1, 1));
    assert_eq!(codecs(v), [Kind::Raw]);
}

#[test]
fn coding_again_may_be_interrupted_and_goes_on() {
    let f = Fixture::new();
    let (v, tier) = (&f.volume, f.volume.tier());
    let a = f.file("a");
    let data = text(7, 200 * CHUNK);
    f.write(a, 0, &data);
    let file = RecodeFile {
        ino: a,
        policy: Policy::Auto,
        size: data.len() as u64,
    };
    let first = tier.recode(&[file], None, &mut |_| false).unwrap();
    assert!(first.interrupted && first.chunks_coded > 0 && first.chunks_coded < 200);
    let second = tier.recode(&[file], None, &mut |_| true).unwrap();
    assert!(!second.interrupted);
    assert_eq!(second.chunks_kept, first.chunks_coded);
    assert_eq!(first.chunks_coded + second.chunks_coded, 200);
    assert_eq!(f.content(a), data);
    assert_eq!(v.tier().stats().unwrap().queue, 0);
}
