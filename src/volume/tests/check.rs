//! Every kind of damage to the rows is found and named.

use super::*;

/// Damages a volume with two directories and a file, and looks what is said.
fn damaged(damage: impl Fn(&mut Change<'_, '_>, [u64; 3]) -> Result<()>) -> Vec<String> {
    let f = Fixture::new();
    let d = f.dir(ROOT, "d");
    let e = f.dir(d, "e");
    let a = f.volume.make_node(e, b"a", 0o644, 0, ME).unwrap().ino;
    f.write(a, 0, &text(1, 3 * CHUNK));
    f.volume
        .set_xattr(a, b"user.x", b"v", XattrFlags::empty())
        .unwrap();
    assert_clean(&f.volume);
    // What was there when the volume was opened has been freed: the reaper
    // mends nothing of what follows.
    f.volume.core.reap_later(a);
    f.volume.core.wait_for_reaper();
    f.volume.change(|change| damage(change, [d, e, a])).unwrap();
    let problems = f.volume.check().unwrap();
    std::mem::forget(f);
    problems
}

/// `what` is among the problems that the damage causes.
fn assert_found(what: &str, damage: impl Fn(&mut Change<'_, '_>, [u64; 3]) -> Result<()>) {
    let problems = damaged(damage);
    assert!(
        problems.iter().any(|problem| problem.contains(what)),
        "{what:?} is not in {problems:#?}"
    );
}

fn edit(
    which: usize,
    edit: impl Fn(&mut Inode),
) -> impl Fn(&mut Change<'_, '_>, [u64; 3]) -> Result<()> {
    move |change, inos| {
        change.edit(inos[which], |inode| {
            edit(inode);
            Ok(())
        })
    }
}

#[test]
fn what_an_inode_says_is_compared() {
    assert_found("says 2 names, there are 1", edit(2, |a| a.nlink = 2));
    assert_found("says 9 links, there are 3", edit(0, |d| d.nlink = 9));
    assert_found("says 5 entries, there are 1", edit(0, |d| d.size = 5));
    assert_found("has 3 chunks, not 4", edit(2, |a| a.chunks = 4));
    assert_found("chunks behind its end", edit(2, |a| a.size = CHUNK as u64));
    assert_found("the totals say", edit(2, |a| a.size += 1));
    assert_found("says 0 extended attributes", edit(2, |a| a.xattrs = 0));
    assert_found("has no name but does not wait", edit(2, |a| a.nlink = 0));
    assert_found("whose parent is 1", edit(1, |e| e.parent = ROOT));
    assert_found(
        "is no file but has chunks",
        edit(2, |a| {
            a.file_type = FileType::Fifo;
        }),
    );
    assert_found(
        "has another type",
        edit(2, |a| a.file_type = FileType::Fifo),
    );
}

#[test]
fn missing_and_superfluous_rows_are_found() {
    assert_found("leads to inode", |change, [.., a]| {
        change.op.delete(Table::Inode, rows::inode_key(a))
    });
    assert_found("which is missing", |change, [.., a]| {
        change.op.delete(Table::Inode, rows::inode_key(a))
    });
    assert_found("belongs to no inode", |change, [.., a]| {
        change.op.delete(Table::Inode, rows::inode_key(a))
    });
    assert_found("in a directory that is missing", |change, [_, e, _]| {
        change.op.delete(Table::Inode, rows::inode_key(e))
    });
    assert_found("there are 0", |change, [_, e, _]| {
        let entry = change.find(e, b"a")?.unwrap();
        let key = rows::dirent_key(e, entry.cookie, b"a");
        change.op.delete(Table::Dirent, key)
    });
    assert_found("waits to be freed", |change, [.., a]| {
        change
            .op
            .put(Table::Orphan, rows::inode_key(a), rows::ORPHAN)
    });
    assert_found("is no inode", |change, _| {
        change
            .op
            .put(Table::Orphan, rows::inode_key(77), rows::ORPHAN)
    });
    assert_found("not given out yet", |change, _| {
        let mut counters = change.counters()?;
        counters.next_ino = 2;
        change.put_counters(&counters)
    });
    assert_found("cannot be found", |change, [_, e, a]| {
        let key = rows::dirent_key(e, rows::first_cookie(b"b"), b"a");
        let row = rows::dirent_row(a, FileType::Regular);
        change.op.put(Table::Dirent, key, row)
    });
    assert_found("is there twice", |change, [_, e, a]| {
        let key = rows::dirent_key(e, rows::first_cookie(b"a") + 1, b"a");
        let row = rows::dirent_row(a, FileType::Regular);
        change.op.put(Table::Dirent, key, row)
    });
    assert_found("the volume's row is missing", |change, _| {
        change.op.delete(Table::Meta, rows::VOLUME)
    });
}

#[test]
fn rows_that_cannot_be_read_are_problems_and_not_errors() {
    assert_found("malformed", |change, [.., a]| {
        change.op.put(Table::Inode, rows::inode_key(a), [1, 2, 3])
    });
    assert_found("has format 9", |change, [.., a]| {
        change.op.put(Table::Inode, rows::inode_key(a), [9, 2, 3])
    });
    assert_found("malformed", |change, [_, e, _]| {
        let key = rows::dirent_key(e, rows::first_cookie(b"a"), b"a");
        change.op.put(Table::Dirent, key, [1])
    });
}

#[test]
fn circles_are_found() {
    assert_found("does not hang on the root", |change, [d, e, _]| {
        let entry = change.find(ROOT, b"d")?.unwrap();
        change.remove_entry(ROOT, &entry)?;
        change.add_entry(e, b"d", d, FileType::Directory)?;
        change.edit(d, |dir| {
            dir.parent = e;
            Ok(())
        })
    });
}

#[test]
fn an_entry_without_inode_is_an_error_that_names_it() {
    let f = Fixture::new();
    let a = f.file("a");
    f.volume
        .change(|change| change.op.delete(Table::Inode, rows::inode_key(a)))
        .unwrap();
    let error = f.volume.lookup(ROOT, b"a").unwrap_err();
    assert!(matches!(&error, Error::Corrupt(what) if what.contains("\"a\"")));
    std::mem::forget(f);
}
