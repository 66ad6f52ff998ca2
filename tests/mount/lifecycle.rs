//! Mounting and unmounting, and what can be in the way.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;

use laconicfs::mount::unmount;

use crate::harness::{DEFAULT, Mount, THROUGH, text};
use crate::sys;

fn says(error: laconicfs::Error, what: &str) {
    let said = error.to_string();
    assert!(said.contains(what), "{said:?} should say {what:?}");
}

fn mount_line(dir: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let dir = dir.to_str().unwrap();
    table
        .lines()
        .find(|line| line.split(' ').nth(1) == Some(dir))
        .map(str::to_owned)
}

#[test]
fn a_mount_answers_at_once_and_its_type_and_options_show() {
    let Some(mount) = Mount::fresh("allow_other,noexec,fsname=/the store") else {
        return;
    };
    assert!(fs::metadata(mount.root()).unwrap().is_dir());
    let line = mount_line(mount.root()).unwrap();
    assert!(line.starts_with("/the\\040store "), "{line}");
    for word in [
        "fuse.laconicfs",
        "noexec",
        "nosuid",
        "nodev",
        "allow_other",
        "default_permissions",
    ] {
        assert!(line.contains(word), "{line} lacks {word}");
    }
    let left = mount.unmount();
    assert_eq!(mount_line(left.dir.path()), None);
}

#[test]
fn what_was_written_is_there_after_a_remount() {
    let Some(mount) = Mount::fresh(DEFAULT) else {
        return;
    };
    fs::write(mount.path("a"), text(1, 300_000)).unwrap();
    let mount = mount.again(DEFAULT);
    assert_eq!(fs::read(mount.path("a")).unwrap(), text(1, 300_000));
    mount.drain();
    assert_eq!(fs::read(mount.path("a")).unwrap(), text(1, 300_000));
    let mount = mount.again("allow_other,nowriteback_cache");
    assert_eq!(fs::read(mount.path("a")).unwrap(), text(1, 300_000));
    mount.unmount();
}

#[test]
fn a_busy_volume_is_not_unmounted_unless_lazily() {
    let Some(mount) = Mount::fresh(DEFAULT) else {
        return;
    };
    fs::write(mount.path("a"), b"kept open").unwrap();
    let open = fs::File::open(mount.path("a")).unwrap();
    says(mount.session.unmount(false).unwrap_err(), "in use");
    says(unmount(mount.root(), false).unwrap_err(), "in use");
    assert!(mount.path("a").exists() && !mount.session.ended());

    mount.session.unmount(true).unwrap();
    assert_eq!(mount_line(mount.root()), None);
    assert!(!mount.path("a").exists());
    assert_eq!(std::io::read_to_string(&open).unwrap(), "kept open");
    assert!(!mount.session.ended());
    drop(open);
    mount.session.wait().unwrap();
    mount.unmount();
}

#[test]
fn another_process_may_unmount() {
    let Some(mount) = Mount::fresh(DEFAULT) else {
        return;
    };
    fs::write(mount.path("a"), b"x").unwrap();
    unmount(mount.root(), false).unwrap();
    mount.session.wait().unwrap();
    says(
        unmount(mount.root(), false).unwrap_err(),
        "nothing is mounted",
    );
    // Not an error: it is what the caller wants.
    mount.session.unmount(false).unwrap();
    mount.unmount();
}

#[test]
fn bad_mount_points_are_refused_and_named() {
    let Some(mount) = Mount::fresh(DEFAULT) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, what: &str| match mount.mount_on(path) {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(error) => says(error, what),
    };
    refused(&dir.path().join("missing"), "does not exist");
    fs::write(dir.path().join("file"), b"").unwrap();
    refused(&dir.path().join("file"), "not a directory");
    refused(mount.root(), "in use");
    refused(Path::new("/proc"), "in use");

    let dead = dir.path().join("dead one");
    fs::create_dir(&dead).unwrap();
    sys::dead_mount(&dead).unwrap();
    refused(&dead, "umount -l");
    unmount(&dead, true).unwrap();
    assert!(fs::metadata(&dead).unwrap().is_dir());

    says(
        unmount(Path::new("/proc"), false).unwrap_err(),
        "not of a laconicfs",
    );
    says(
        unmount(&dir.path().join("missing"), false).unwrap_err(),
        "does not exist",
    );
    mount.unmount();
}

#[test]
fn a_mount_may_not_cover_its_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    let list = format!("{DEFAULT},fsname={}", store.display());
    let Some(mount) = Mount::fresh(&list) else {
        return;
    };
    for bad in [dir.path(), &store] {
        match mount.mount_on(bad) {
            Ok(_) => panic!("{} was accepted", bad.display()),
            Err(error) => says(error, "must not lie inside"),
        }
    }
    mount.unmount();
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let Some(mount) = Mount::fresh(DEFAULT) else {
        return;
    };
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/a"), b"content").unwrap();
    let mount = mount.again("allow_other,ro");
    let refused = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
    };
    refused(fs::write(mount.path("b"), b""));
    refused(fs::write(mount.path("d/a"), b""));
    refused(fs::remove_file(mount.path("d/a")));
    refused(fs::create_dir(mount.path("e")));
    refused(fs::rename(mount.path("d"), mount.path("e")));
    refused(fs::hard_link(mount.path("d/a"), mount.path("l")));
    refused(sys::set_xattr(&mount.path("d/a"), "user.x", b"1", 0));
    assert_eq!(fs::read(mount.path("d/a")).unwrap(), b"content");
    assert_eq!(fs::read_dir(mount.path("d")).unwrap().count(), 1);
    mount.unmount();
}

#[test]
fn a_damaged_chunk_and_a_panic_are_eio_and_the_mount_lives_on() {
    let Some(mount) = Mount::fresh(DEFAULT) else {
        return;
    };
    fs::write(mount.path("good"), text(1, 200_000)).unwrap();
    fs::write(mount.path("bad"), text(2, 200_000)).unwrap();
    let mount = mount.again(DEFAULT);
    for fault in [&mount.store.damage, &mount.store.panic] {
        fault.store(true, Ordering::Relaxed);
        let error = fs::read(mount.path("bad")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        // Rows are fine, and so is whatever needs no value.
        fs::write(mount.path("new"), b"new").unwrap();
        assert_eq!(fs::read(mount.path("new")).unwrap(), b"new");
        fault.store(false, Ordering::Relaxed);
        assert_eq!(fs::read(mount.path("good")).unwrap(), text(1, 200_000));
        mount.forget();
    }
    assert_eq!(fs::read(mount.path("bad")).unwrap(), text(2, 200_000));
    mount.unmount();
}

#[test]
fn a_full_disk_is_enospc_and_costs_nothing_that_was_there() {
    for options in [DEFAULT, THROUGH] {
        let Some(mount) = Mount::fresh(options) else {
            return;
        };
        let old = fs::File::create(mount.path("old")).unwrap();
        (&old).write_all(&text(1, 500_000)).unwrap();
        old.sync_all().unwrap();
        mount.store.full.store(true, Ordering::Relaxed);
        // Sooner or later: at the write, or when the file is made durable.
        let mut new = fs::File::create(mount.path("new")).unwrap();
        let error = (0..50)
            .try_for_each(|n| new.write_all(&text(n, 100_000)))
            .and_then(|()| new.sync_all())
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        drop(new);
        mount.forget();
        assert_eq!(fs::read(mount.path("old")).unwrap(), text(1, 500_000));
        mount.store.full.store(false, Ordering::Relaxed);
        fs::remove_file(mount.path("new")).unwrap();
        // Nothing new is taken until something has reached the disk again.
        old.sync_all().unwrap();
        let mut new = fs::File::create(mount.path("new")).unwrap();
        new.write_all(&text(3, 300_000)).unwrap();
        new.sync_all().unwrap();
        drop((old, new));
        let mount = mount.again(options);
        assert_eq!(fs::read(mount.path("old")).unwrap(), text(1, 500_000));
        assert_eq!(fs::read(mount.path("new")).unwrap(), text(3, 300_000));
        mount.unmount();
    }
}
