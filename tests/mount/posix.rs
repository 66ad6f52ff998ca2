//! What single system calls do on a mount.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{
    FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink,
};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::harness::{DEFAULT, Mount, THROUGH, have, run, text};
use crate::sys;

fn read_write(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

fn errno(result: io::Result<()>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// Runs `body` on a mount with and one without the cache of writes.
fn both(body: impl Fn(&Mount)) {
    for options in [DEFAULT, THROUGH] {
        let Some(mount) = Mount::fresh(options) else {
            return;
        };
        body(&mount);
        mount.unmount();
    }
}

#[test]
fn every_kind_of_node_can_be_made() {
    both(|mount| {
        sys::make_node(&mount.path("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
        sys::make_node(&mount.path("sock"), libc::S_IFSOCK | 0o600, 0).unwrap();
        let device = libc::makedev(1, 3);
        sys::make_node(&mount.path("null"), libc::S_IFCHR | 0o666, device).unwrap();
        sys::make_node(&mount.path("file"), libc::S_IFREG | 0o640, 0).unwrap();
        symlink("no/where", mount.path("link")).unwrap();
        let meta = |name| fs::symlink_metadata(mount.path(name)).unwrap();
        assert!(meta("fifo").file_type().is_fifo());
        assert!(meta("sock").file_type().is_socket());
        assert!(meta("null").file_type().is_char_device());
        assert_eq!(meta("null").rdev(), device);
        assert_eq!(meta("file").mode(), libc::S_IFREG | 0o640);
        assert_eq!(meta("link").len(), 8);
        assert_eq!(
            fs::read_link(mount.path("link")).unwrap(),
            Path::new("no/where")
        );
        // Devices are not honoured unless asked for.
        assert_eq!(
            errno(File::open(mount.path("null")).map(drop)),
            libc::EACCES
        );
        // A FIFO is the kernel's once it is open.
        let fifo = mount.path("fifo");
        std::thread::scope(|threads| {
            threads.spawn(|| fs::write(&fifo, b"through").unwrap());
            assert_eq!(fs::read(&fifo).unwrap(), b"through");
        });
    });
}

#[test]
fn hard_links_share_one_file() {
    both(|mount| {
        fs::write(mount.path("a"), b"one").unwrap();
        fs::create_dir(mount.path("d")).unwrap();
        fs::hard_link(mount.path("a"), mount.path("d/b")).unwrap();
        let (a, b) = (
            fs::metadata(mount.path("a")).unwrap(),
            fs::metadata(mount.path("d/b")).unwrap(),
        );
        assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
        fs::write(mount.path("d/b"), b"two").unwrap();
        assert_eq!(fs::read(mount.path("a")).unwrap(), b"two");
        fs::remove_file(mount.path("a")).unwrap();
        assert_eq!(fs::metadata(mount.path("d/b")).unwrap().nlink(), 1);
        assert_eq!(fs::read(mount.path("d/b")).unwrap(), b"two");
        assert_eq!(
            errno(fs::hard_link(mount.path("d"), mount.path("e"))),
            libc::EPERM
        );
    });
}

#[test]
fn rename_replaces_exchanges_and_refuses() {
    both(|mount| {
        let path = |name| mount.path(name);
        fs::write(path("a"), b"a").unwrap();
        fs::write(path("b"), b"b").unwrap();
        fs::create_dir_all(path("d/e")).unwrap();
        let noreplace = sys::rename(&path("a"), &path("b"), libc::RENAME_NOREPLACE);
        assert_eq!(errno(noreplace), libc::EEXIST);
        sys::rename(&path("a"), &path("b"), libc::RENAME_EXCHANGE).unwrap();
        assert_eq!(fs::read(path("a")).unwrap(), b"b");
        sys::rename(&path("a"), &path("d"), libc::RENAME_EXCHANGE).unwrap();
        assert!(path("a/e").is_dir() && path("d").is_file());
        let whiteout = sys::rename(&path("d"), &path("x"), libc::RENAME_WHITEOUT);
        assert_eq!(errno(whiteout), libc::EINVAL);
        fs::rename(path("d"), path("b")).unwrap();
        assert_eq!(fs::read(path("b")).unwrap(), b"b");
        assert_eq!(errno(fs::rename(path("a"), path("a/e/f"))), libc::EINVAL);
        assert_eq!(errno(fs::rename(path("b"), path("a"))), libc::EISDIR);
        assert_eq!(errno(fs::remove_dir(path("a"))), libc::ENOTEMPTY);
    });
}

#[test]
fn a_file_without_a_name_lives_while_it_is_open() {
    both(|mount| {
        let mut file = read_write(&mount.path("a"));
        file.write_all(&text(1, 100_000)).unwrap();
        fs::remove_file(mount.path("a")).unwrap();
        assert!(!mount.path("a").exists());
        file.write_all(&text(2, 100_000)).unwrap();
        file.sync_all().unwrap();
        mount.forget();
        let mut back = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut back).unwrap();
        assert_eq!(back, [text(1, 100_000), text(2, 100_000)].concat());
        let meta = file.metadata().unwrap();
        assert_eq!((meta.nlink(), meta.len()), (0, 200_000));
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    });
}

#[test]
fn holes_are_found_and_punched_while_the_kernel_still_holds_the_bytes() {
    both(|mount| {
        let file = read_write(&mount.path("a"));
        let (data, far) = (text(1, 200_000), 10 << 20);
        file.write_all_at(&data, far).unwrap();
        // Nothing was closed or synced: with the cache of writes the kernel
        // alone knows these bytes.
        let found = sys::seek(&file, 0, libc::SEEK_DATA).unwrap();
        assert!(found <= far && found > far - 65536, "{found}");
        assert_eq!(sys::seek(&file, 0, libc::SEEK_HOLE).unwrap(), 0);
        let end = sys::seek(&file, far, libc::SEEK_HOLE).unwrap();
        assert_eq!(end, far + 200_000);
        let behind = sys::seek(&file, far + 200_000, libc::SEEK_DATA);
        assert_eq!(errno(behind.map(drop)), libc::ENXIO);

        let (keep, punch) = (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE);
        sys::allocate(&file, keep | punch, far + 1000, 190_000).unwrap();
        let mut back = vec![1; 200_000];
        file.read_exact_at(&mut back, far).unwrap();
        assert_eq!(back[..1000], data[..1000]);
        assert!(back[1000..191_000].iter().all(|&b| b == 0));
        assert_eq!(back[191_000..], data[191_000..]);

        sys::allocate(&file, 0, 0, 20 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 20 << 20);
        sys::allocate(&file, libc::FALLOC_FL_ZERO_RANGE, far, 1000).unwrap();
        file.read_exact_at(&mut back[..1000], far).unwrap();
        assert!(back[..1000].iter().all(|&b| b == 0));
        // The kernel itself says so; only the volume's tests see our answer.
        for mode in [libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE] {
            let refused = sys::allocate(&file, mode, 0, 65536);
            assert_eq!(errno(refused), libc::EOPNOTSUPP);
        }
        assert_eq!(file.metadata().unwrap().len(), 20 << 20);
        file.sync_all().unwrap();
        assert!(fs::metadata(mount.path("a")).unwrap().blocks() < (1 << 20) / 512);
    });
}

#[test]
fn files_without_a_name_are_refused() {
    both(|mount| {
        // Asked for once, and then remembered by the kernel.
        for _ in 0..2 {
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(libc::O_TMPFILE);
            let refused = options.open(mount.path("")).map(drop);
            assert_eq!(errno(refused), libc::EOPNOTSUPP);
        }
        assert_eq!(fs::read_dir(mount.path("")).unwrap().count(), 0);
    });
}

#[test]
fn ranges_are_copied_by_the_volume() {
    both(|mount| {
        let data = text(3, 1 << 20);
        fs::write(mount.path("a"), &data).unwrap();
        let from = File::open(mount.path("a")).unwrap();
        let to = read_write(&mount.path("b"));
        to.write_all_at(&text(4, 1000), 0).unwrap();
        let mut done = 0;
        while done < data.len() - 10 {
            let at = done as i64;
            let copied =
                sys::copy_range(&from, at + 10, &to, at + 500, data.len() - 10 - done).unwrap();
            assert!(copied > 0);
            done += copied;
        }
        let expected = [&text(4, 1000)[..500], &data[10..]].concat();
        assert_eq!(fs::read(mount.path("b")).unwrap(), expected);
        mount.forget();
        assert_eq!(fs::read(mount.path("b")).unwrap(), expected);
    });
}

const MAPPED: usize = 300_000;

/// What the next test runs in a process of its own. Unmapping waits for the
/// daemon while it holds the lock on the process's address space; were the
/// daemon in this process, both would wait for ever.
#[test]
#[ignore = "run by another test"]
fn map_and_write() {
    let path = std::env::var_os("LACONICFS_FILE").expect("LACONICFS_FILE must be set");
    let file = read_write(Path::new(&path));
    file.set_len(MAPPED as u64).unwrap();
    let mut map = sys::Map::new(&file, MAPPED).unwrap();
    map.bytes().copy_from_slice(&text(5, MAPPED));
    map.sync().unwrap();
    map.bytes()[100_000..100_004].copy_from_slice(b"late");
    drop((map, file));
    // What is written is in a map that is there already.
    let file = read_write(Path::new(&path));
    let mut map = sys::Map::new(&file, MAPPED).unwrap();
    assert_eq!(map.bytes()[200_000], text(5, MAPPED)[200_000]);
    file.write_all_at(b"!", 200_000).unwrap();
    assert_eq!(map.bytes()[200_000], b'!');
}

#[test]
fn bytes_written_through_a_shared_map_are_in_the_file() {
    both(|mount| {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "posix::map_and_write"])
            .env("LACONICFS_FILE", mount.path("a"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        mount.forget();
        let mut expected = text(5, MAPPED);
        expected[100_000..100_004].copy_from_slice(b"late");
        expected[200_000] = b'!';
        assert_eq!(fs::read(mount.path("a")).unwrap(), expected);
    });
}

#[test]
fn two_processes_append_whole_lines() {
    both(|mount| {
        let script = "for i in $(seq 300); do echo \"$0 line $i of this process\" >> log; done";
        std::thread::scope(|threads| {
            for name in ["one", "two"] {
                threads.spawn(move || run(mount.root(), "sh", &["-c", script, name]));
            }
        });
        mount.forget();
        let log = fs::read_to_string(mount.path("log")).unwrap();
        for name in ["one", "two"] {
            let lines: Vec<_> = log.lines().filter(|l| l.starts_with(name)).collect();
            let expected: Vec<_> = (1..=300)
                .map(|i| format!("{name} line {i} of this process"))
                .collect();
            assert_eq!(lines, expected);
        }
        assert_eq!(log.lines().count(), 600);
    });
}

/// Each file that is replaced loses its only name, while readers stand between
/// finding the name and opening it: they get the old file or the new one.
#[test]
fn a_file_replaced_by_rename_is_always_there_and_whole() {
    both(|mount| {
        let target = mount.path("doc");
        // The number of the version, and that many bytes more.
        let version = |n: u32| {
            let mut bytes = n.to_le_bytes().to_vec();
            bytes.resize(4 + n as usize % 5000, n as u8);
            bytes
        };
        fs::write(&target, version(0)).unwrap();
        let (over, seen) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let read = fs::read(&target).unwrap();
                        let n = u32::from_le_bytes(*read.first_chunk().unwrap());
                        assert!(read == version(n), "half of version {n}");
                        // 0 for a file that was replaced under the look at it.
                        assert!(fs::metadata(&target).unwrap().nlink() <= 1);
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let writers: Vec<_> = (0..2)
                .map(|writer| {
                    let (mount, target) = (&mount, &target);
                    threads.spawn(move || {
                        let fresh = mount.path(&format!("fresh {writer}"));
                        for n in (writer..3000u32).step_by(2) {
                            fs::write(&fresh, version(n)).unwrap();
                            fs::rename(&fresh, target).unwrap();
                        }
                    })
                })
                .collect();
            let written: Vec<_> = writers.into_iter().map(|w| w.join()).collect();
            over.store(true, Ordering::Relaxed);
            written.into_iter().for_each(|result| result.unwrap());
        });
        assert!(seen.into_inner() > 0);
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 1);
    });
}

#[test]
fn opening_truncates_and_lengths_change() {
    both(|mount| {
        let path = mount.path("a");
        fs::write(&path, text(1, 150_000)).unwrap();
        fs::write(&path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        let file = read_write(&path);
        file.set_len(100_000).unwrap();
        file.write_all_at(b"end", 99_997).unwrap();
        file.set_len(3).unwrap();
        file.set_len(8).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"sho\0\0\0\0\0");
        mount.forget();
        assert_eq!(fs::read(&path).unwrap(), b"sho\0\0\0\0\0");
    });
}

#[test]
fn a_program_that_runs_is_not_emptied() {
    both(|mount| {
        let path = mount.path("sleep");
        fs::copy("/bin/sleep", &path).unwrap();
        let len = fs::metadata(&path).unwrap().len();
        let mut child = std::process::Command::new(&path).arg("60").spawn().unwrap();
        // std knows no such combination.
        let opened = sys::open(&path, libc::O_RDONLY | libc::O_TRUNC);
        assert_eq!(errno(opened.map(drop)), libc::ETXTBSY);
        mount.forget();
        assert_eq!(fs::metadata(&path).unwrap().len(), len);
        assert_eq!(fs::read(&path).unwrap(), fs::read("/bin/sleep").unwrap());
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn direct_io_and_cached_io_see_the_same_bytes() {
    both(|mount| {
        let path = mount.path("a");
        fs::write(&path, text(1, 256 << 10)).unwrap();
        let direct = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .unwrap();
        let mut back = vec![0; 64 << 10];
        direct.read_exact_at(&mut back, 64 << 10).unwrap();
        assert_eq!(back, text(1, 256 << 10)[64 << 10..128 << 10]);
        direct.write_all_at(&text(2, 64 << 10), 64 << 10).unwrap();
        let seen = fs::read(&path).unwrap();
        assert_eq!(seen[64 << 10..128 << 10], text(2, 64 << 10));
        assert_eq!(seen[128 << 10..], text(1, 256 << 10)[128 << 10..]);
    });
}

#[test]
fn attributes_are_kept() {
    let Some(mount) = Mount::fresh(DEFAULT) else {
        return;
    };
    let path = mount.path("a");
    fs::write(&path, b"x").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(&path, Some(1234), Some(2345)).unwrap();
    let then = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let times = fs::FileTimes::new().set_modified(then).set_accessed(then);
    File::open(&path).unwrap().set_times(times).unwrap();
    let mount = mount.again(DEFAULT);
    let meta = fs::metadata(mount.path("a")).unwrap();
    // A change of owner drops set-user-id.
    assert_eq!(meta.mode() & 0o7777, 0o751);
    assert_eq!((meta.uid(), meta.gid()), (1234, 2345));
    assert_eq!(meta.modified().unwrap(), then);
    assert_eq!(meta.accessed().unwrap(), then);
    mount.unmount();
}

#[test]
fn reading_touches_the_access_time_once_a_day_or_after_a_change() {
    let Some(mount) = Mount::fresh(DEFAULT) else {
        return;
    };
    let path = mount.path("a");
    fs::write(&path, b"x").unwrap();
    let now = std::time::SystemTime::now();
    let set = |accessed, modified| {
        let times = fs::FileTimes::new();
        let times = times.set_accessed(accessed).set_modified(modified);
        File::open(&path).unwrap().set_times(times).unwrap();
    };
    // The kernel keeps attributes for some seconds; looking at pages that it
    // has does not ask us either.
    let accessed_by_reading = |mount: &Mount| {
        mount.forget();
        fs::read(&path).unwrap();
        mount.forget();
        fs::metadata(&path).unwrap().accessed().unwrap()
    };
    let hours = |n: u64| now - std::time::Duration::from_secs(n * 3600);
    // Setting times is a change, later than either.
    set(hours(2), hours(3));
    let touched = accessed_by_reading(&mount);
    assert!(touched > hours(1), "{touched:?}");
    assert_eq!(accessed_by_reading(&mount), touched);
    let mount = mount.again("allow_other,strictatime");
    let path = mount.path("a");
    mount.forget();
    fs::read(&path).unwrap();
    mount.forget();
    assert!(fs::metadata(&path).unwrap().accessed().unwrap() > touched);
    mount.unmount();
}

#[test]
fn files_may_be_as_long_as_offsets_go() {
    both(|mount| {
        let file = read_write(&mount.path("a"));
        let end = i64::MAX as u64;
        let places = [8 << 40, (1 << 53) - 3, 1 << 62, end - 6];
        for at in places {
            file.write_all_at(b"middle", at).unwrap();
        }
        assert_eq!(file.metadata().unwrap().len(), end);
        file.sync_all().unwrap();
        mount.forget();
        for at in places {
            let mut back = [1; 7];
            file.read_exact_at(&mut back, at - 1).unwrap();
            assert_eq!(&back, b"\0middle");
        }
        assert_eq!(
            sys::seek(&file, 9 << 40, libc::SEEK_DATA).unwrap(),
            (1 << 53) - 65536
        );
        assert!(file.metadata().unwrap().blocks() < 2048);
        // The kernel's own answer where offset and length overflow.
        assert_eq!(errno(file.write_all_at(b"x", end)), libc::EINVAL);
        file.set_len((8 << 40) + 3).unwrap();
        assert_eq!(sys::seek(&file, 0, libc::SEEK_END).unwrap(), (8 << 40) + 3);
        file.set_len(end).unwrap();
        let mut back = [1; 6];
        file.read_exact_at(&mut back, 8 << 40).unwrap();
        assert_eq!(&back, b"mid\0\0\0");
        drop(file);
        fs::remove_file(mount.path("a")).unwrap();
    });
}

#[test]
fn a_write_by_another_user_drops_set_user_id() {
    both(|mount| {
        if !have("python3") {
            return;
        }
        let path = mount.path("a");
        for (how, expected) in [
            ("os.write(os.open(p, os.O_WRONLY), b'y'); os.setuid", 0o4777),
            (
                "os.setuid(1000); os.write(os.open(p, os.O_WRONLY), b'y'); len",
                0o777,
            ),
            ("os.setuid(1000); os.truncate(p, 0); len", 0o777),
            (
                "os.setuid(1000); os.open(p, os.O_WRONLY | os.O_TRUNC); len",
                0o777,
            ),
        ] {
            fs::write(&path, b"x").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o4777)).unwrap();
            let script = format!("import os, sys; p = sys.argv[1]; {how}");
            fs::set_permissions(mount.root(), Permissions::from_mode(0o755)).unwrap();
            // From a directory that everyone may search.
            run(
                Path::new("/"),
                "python3",
                &["-c", &script, path.to_str().unwrap()],
            );
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            assert_eq!(mode, expected, "{how}");
        }
    });
}

#[test]
fn policies_are_inherited_and_have_two_faces() {
    let Some(mount) = Mount::fresh(DEFAULT) else {
        return;
    };
    const NAME: &str = "user.laconicfs.codec";
    let (dir, path) = (mount.path("d"), mount.path("d/f"));
    fs::create_dir(&dir).unwrap();
    assert_eq!(errno(sys::xattr(&dir, NAME).map(drop)), libc::ENODATA);
    for wrong in [&b"lz4"[..], b"", b"zstd\n"] {
        assert_eq!(errno(sys::set_xattr(&dir, NAME, wrong, 0)), libc::EINVAL);
    }
    sys::set_xattr(&dir, NAME, b"zstd", 0).unwrap();
    fs::write(&path, b"x").unwrap();
    assert_eq!(sys::xattr(&path, NAME).unwrap(), b"zstd");
    assert_eq!(sys::list_xattrs(&path).unwrap(), [NAME]);
    // `chattr -c`, `+c`, `+m`, `-m`.
    let file = File::open(&path).unwrap();
    let flags = || sys::flags(&file).unwrap();
    let says = |expected: Option<&[u8]>| match sys::xattr(&path, NAME) {
        Ok(value) => assert_eq!(Some(value.as_slice()), expected),
        Err(error) => assert_eq!(
            (error.raw_os_error(), expected),
            (Some(libc::ENODATA), None)
        ),
    };
    sys::set_flags(&file, flags() & !0x4).unwrap();
    assert_eq!(flags(), 0x400);
    says(Some(b"none"));
    sys::set_flags(&file, flags() | 0x4).unwrap();
    says(Some(b"auto"));
    sys::set_flags(&file, flags() | 0x400).unwrap();
    says(Some(b"none"));
    sys::set_flags(&file, flags() & !0x400).unwrap();
    says(None);
    assert_eq!(flags(), 0x4);
}

#[test]
fn extended_attributes_and_flags() {
    let Some(mount) = Mount::fresh(DEFAULT) else {
        return;
    };
    let path = mount.path("a");
    fs::write(&path, b"x").unwrap();
    sys::set_xattr(&path, "user.one", b"1", 0).unwrap();
    sys::set_xattr(&path, "trusted.two", &text(1, 60_000), 0).unwrap();
    sys::set_xattr(&path, "user.empty", b"", 0).unwrap();
    sys::set_xattr(&path, "security.three", b"3", 0).unwrap();
    let create = sys::set_xattr(&path, "user.one", b"2", libc::XATTR_CREATE);
    assert_eq!(errno(create), libc::EEXIST);
    let replace = sys::set_xattr(&path, "user.three", b"2", libc::XATTR_REPLACE);
    assert_eq!(errno(replace), libc::ENODATA);
    assert_eq!(sys::xattr(&path, "user.one").unwrap(), b"1");
    let names: BTreeSet<_> = sys::list_xattrs(&path).unwrap().into_iter().collect();
    let expected = ["user.one", "trusted.two", "user.empty", "security.three"];
    assert_eq!(names, expected.map(String::from).into());
    sys::remove_xattr(&path, "user.one").unwrap();
    let gone = sys::xattr(&path, "user.one").map(drop);
    assert_eq!(errno(gone), libc::ENODATA);
    let other = sys::set_xattr(&path, "system.other", b"1", 0);
    assert_eq!(errno(other), libc::EOPNOTSUPP);

    // What will be coded small shows `c`.
    const COMPRESSED: u32 = 0x4;
    const IMMUTABLE: u32 = 0x10;
    let file = File::open(&path).unwrap();
    assert_eq!(sys::flags(&file).unwrap(), COMPRESSED);
    sys::set_flags(&file, COMPRESSED | IMMUTABLE).unwrap();
    assert_eq!(sys::flags(&file).unwrap(), COMPRESSED | IMMUTABLE);
    assert_eq!(errno(fs::remove_file(&path)), libc::EPERM);
    assert_eq!(errno(fs::write(&path, b"y")), libc::EPERM);
    // A flag that means nothing here (FS_SYNC_FL) is refused, not forgotten.
    assert_eq!(errno(sys::set_flags(&file, 0x8)), libc::EOPNOTSUPP);
    let log = mount.path("log");
    fs::write(&log, b"one\n").unwrap();
    sys::set_flags(&File::open(&log).unwrap(), 0x20).unwrap();
    assert_eq!(errno(fs::write(&log, b"y")), libc::EPERM);
    let mut append = OpenOptions::new().append(true).open(&log).unwrap();
    for n in 0..2000 {
        writeln!(append, "line {n} at the end").unwrap();
    }
    append.sync_all().unwrap();
    let expected: String = (0..2000)
        .map(|n| format!("line {n} at the end\n"))
        .collect();
    mount.forget();
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        format!("one\n{expected}")
    );
    drop((append, file));
    let mount = mount.again(DEFAULT);
    let path = mount.path("a");
    assert_eq!(sys::xattr(&path, "trusted.two").unwrap(), text(1, 60_000));
    let file = File::open(&path).unwrap();
    sys::set_flags(&file, 0).unwrap();
    fs::remove_file(&path).unwrap();
    drop(file);
    mount.unmount();
}

#[test]
fn large_directories_are_listed_once_while_they_are_emptied() {
    both(|mount| {
        let dir = mount.path("d");
        fs::create_dir(&dir).unwrap();
        let expected: BTreeSet<_> = (0..3000).map(|n| format!("file number {n}")).collect();
        for name in &expected {
            File::create(dir.join(name)).unwrap();
        }
        mount.forget();
        let mut seen = BTreeSet::new();
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            assert!(seen.insert(entry.file_name().into_string().unwrap()));
            fs::remove_file(entry.path()).unwrap();
        }
        assert_eq!(seen, expected);
        fs::remove_dir(&dir).unwrap();
    });
}

#[test]
fn names_of_any_bytes() {
    use std::os::unix::ffi::OsStrExt;
    both(|mount| {
        let name = std::ffi::OsStr::from_bytes(b"\xff\xfe not text \n\x01");
        fs::write(mount.root().join(name), b"x").unwrap();
        let listed: Vec<_> = fs::read_dir(mount.root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(listed, [name]);
        let long = "n".repeat(255);
        fs::write(mount.path(&long), b"x").unwrap();
        let longer = fs::write(mount.path(&"n".repeat(256)), b"x");
        assert_eq!(errno(longer), libc::ENAMETOOLONG);
    });
}

#[test]
fn the_end_of_a_file_follows_writes_by_others() {
    both(|mount| {
        let mut reader = read_write(&mount.path("a"));
        let writer = read_write(&mount.path("a"));
        writer.write_all_at(b"abc", 0).unwrap();
        assert_eq!(reader.seek(SeekFrom::End(0)).unwrap(), 3);
        writer.write_all_at(b"def", 100_000).unwrap();
        assert_eq!(reader.seek(SeekFrom::End(0)).unwrap(), 100_003);
        let mut back = [0; 6];
        reader.read_exact_at(&mut back, 99_997).unwrap();
        assert_eq!(&back, b"\0\0\0def");
    });
}
