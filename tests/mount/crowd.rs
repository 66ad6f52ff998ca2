//! Many clients at once: on one file, in one directory, with the drain between
//! them, and while the volume is unmounted.
//!
//! `LACONICFS_CROWD` says how many times as long each test works (1).

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::harness::{DEFAULT, Mount, Place, THROUGH, text};

const CLIENTS: usize = 6;

fn times() -> usize {
    let times = std::env::var("LACONICFS_CROWD").ok();
    times.map_or(1, |times| {
        times.parse().expect("LACONICFS_CROWD is a number")
    })
}

/// Runs `body` on mounts with and without the cache of writes, in memory and
/// on the disk.
fn mounts(body: impl Fn(Mount)) {
    for (place, options) in [(Place::Memory, DEFAULT), (Place::Disk, THROUGH)] {
        if let Some(mount) = Mount::fresh_in(place, options) {
            body(mount);
        }
    }
}

/// Runs the clients, by number, and meanwhile `other` over and over.
fn with_clients(client: impl Fn(usize) + Sync, mut other: impl FnMut()) {
    let left = AtomicU64::new(CLIENTS as u64);
    std::thread::scope(|threads| {
        for number in 0..CLIENTS {
            let (client, left) = (&client, &left);
            threads.spawn(move || {
                // Counted even if it panics: `other` must end.
                struct Count<'a>(&'a AtomicU64);
                impl Drop for Count<'_> {
                    fn drop(&mut self) {
                        self.0.fetch_sub(1, Ordering::SeqCst);
                    }
                }
                let _count = Count(left);
                client(number);
            });
        }
        while left.load(Ordering::SeqCst) > 0 {
            other();
        }
    });
}

#[test]
fn clients_that_write_one_file_each_find_their_bytes() {
    // Shorter than a page and across its edges and those of chunks, so that
    // all pages have several writers.
    const RECORD: usize = 1500;
    const RECORDS: usize = 300;
    mounts(|mount| {
        let path = mount.path("file");
        File::create(&path).unwrap();
        let rounds = 3 * times() as u64;
        let record = |client: usize, n: usize, round| {
            text((client * RECORDS + n) as u64 * 1000 + round, RECORD)
        };
        let at = |client: usize, n: usize| ((n * CLIENTS + client) * RECORD) as u64;
        let client = |number: usize| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            let mut found = vec![0; RECORD];
            for round in 0..rounds {
                for n in 0..RECORDS {
                    let bytes = record(number, n, round);
                    file.write_all_at(&bytes, at(number, n)).unwrap();
                    // What was written is read, whoever else writes beside it.
                    let back = n / 2;
                    file.read_exact_at(&mut found, at(number, back)).unwrap();
                    assert!(
                        found == record(number, back, round),
                        "{number}: {round}, {back}"
                    );
                }
            }
        };
        with_clients(client, || mount.drain());
        let mount = mount.again(DEFAULT);
        let found = fs::read(mount.path("file")).unwrap();
        assert_eq!(found.len(), CLIENTS * RECORDS * RECORD);
        for number in 0..CLIENTS {
            for n in 0..RECORDS {
                let at = at(number, n) as usize;
                assert!(found[at..at + RECORD] == record(number, n, rounds - 1));
            }
        }
        mount.unmount();
    });
}

#[test]
fn appended_records_are_neither_lost_nor_torn() {
    mounts(|mount| {
        let path = mount.path("log");
        let count = 400 * times();
        let line = |client: usize, n: usize| {
            format!("{client} {n} {}\n", "x".repeat((client * 31 + n * 7) % 300))
        };
        let client = |number: usize| {
            let mut file = OpenOptions::new()
                .append(true)
                .create(true)
                .open(&path)
                .unwrap();
            for n in 0..count {
                file.write_all(line(number, n).as_bytes()).unwrap();
            }
        };
        with_clients(client, || mount.drain());
        let mount = mount.again(DEFAULT);
        let log = fs::read_to_string(mount.path("log")).unwrap();
        let mut next = [0; CLIENTS];
        for found in log.lines() {
            let number: usize = found.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(format!("{found}\n"), line(number, next[number]));
            next[number] += 1;
        }
        assert_eq!(next, [count; CLIENTS]);
        mount.unmount();
    });
}

#[test]
fn clients_in_one_directory_do_not_hide_each_others_names() {
    const COMMON: usize = 40;
    mounts(|mount| {
        let root = mount.root();
        // These stay, and every listing must show each of them once.
        let stays: BTreeSet<String> = (0..200).map(|n| format!("stays {n}")).collect();
        for name in &stays {
            fs::write(root.join(name), name).unwrap();
        }
        let won = AtomicU64::new(0);
        let rounds = 60 * times();
        let together = Barrier::new(CLIENTS);
        let client = |number: usize| {
            // Everybody wants these names; each is made by one.
            together.wait();
            for n in 0..COMMON {
                match File::create_new(root.join(format!("common {n}"))) {
                    Ok(mut file) => {
                        won.fetch_add(1, Ordering::Relaxed);
                        file.write_all(b"made once").unwrap();
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
                }
            }
            for round in 0..rounds {
                let path = |what: &str| root.join(format!("{what} {number}"));
                fs::write(path("fresh"), format!("{number} {round}")).unwrap();
                fs::rename(path("fresh"), path("mine")).unwrap();
                fs::hard_link(path("mine"), path("link")).unwrap();
                fs::create_dir(path("dir")).unwrap();
                let found = fs::read_to_string(path("link")).unwrap();
                assert_eq!(found, format!("{number} {round}"));
                fs::remove_file(path("link")).unwrap();
                fs::remove_dir(path("dir")).unwrap();
                // One name that all replace: always somebody's whole file.
                fs::write(path("new"), format!("whole {number}")).unwrap();
                fs::rename(path("new"), root.join("shared")).unwrap();
                let shared = fs::read_to_string(root.join("shared")).unwrap();
                let client = shared.strip_prefix("whole ");
                let client = client.and_then(|client| client.parse::<usize>().ok());
                assert!(client.is_some_and(|client| client < CLIENTS), "{shared:?}");
            }
        };
        with_clients(client, || {
            let mut found = Vec::new();
            for entry in fs::read_dir(root).unwrap() {
                found.push(entry.unwrap().file_name().into_string().unwrap());
            }
            let staying = found.iter().filter(|name| name.starts_with("stays"));
            let staying: Vec<_> = staying.cloned().collect();
            assert_eq!(staying.len(), stays.len());
            assert_eq!(BTreeSet::from_iter(staying), stays);
        });
        assert_eq!(won.into_inner(), COMMON as u64);
        let mount = mount.again(DEFAULT);
        let count = fs::read_dir(mount.root()).unwrap().count();
        assert_eq!(count, stays.len() + COMMON + CLIENTS + 1);
        for number in 0..CLIENTS {
            let found = fs::read_to_string(mount.path(&format!("mine {number}"))).unwrap();
            assert_eq!(found, format!("{number} {}", rounds - 1));
        }
        mount.unmount();
    });
}

#[test]
fn readers_see_the_same_bytes_while_chunks_are_coded() {
    mounts(|mount| {
        let files: Vec<_> = (0..CLIENTS as u64)
            .map(|n| (mount.path(&format!("file {n}")), text(n, 300_000)))
            .collect();
        for (path, content) in &files {
            fs::write(path, content).unwrap();
        }
        let over = AtomicBool::new(false);
        let rounds = 4 * times() as u64;
        std::thread::scope(|threads| {
            for number in 0..CLIENTS {
                let (files, over) = (&files, &over);
                threads.spawn(move || {
                    let mut x = number;
                    while !over.load(Ordering::Relaxed) {
                        x = x * 5 + 3;
                        let (path, content) = &files[x % files.len()];
                        let (at, len) = (x * 7919 % content.len(), 1 + x % 100_000);
                        let end = (at + len).min(content.len());
                        let mut found = vec![0; end - at];
                        let file = File::open(path).unwrap();
                        file.read_exact_at(&mut found, at as u64).unwrap();
                        assert!(found == content[at..end], "{} from {at}", path.display());
                        x %= 1_000_003;
                    }
                });
            }
            for round in 0..rounds {
                // Hot once more, with the same bytes and with others behind.
                for (path, content) in &files {
                    let file = OpenOptions::new().write(true).open(path).unwrap();
                    file.write_all_at(content, 0).unwrap();
                    let behind = text(round, 5000);
                    file.write_all_at(&behind, content.len() as u64).unwrap();
                }
                mount.drain();
            }
            over.store(true, Ordering::Relaxed);
        });
        mount.unmount();
    });
}

#[test]
fn a_writer_whose_chunks_are_being_coded_wins() {
    mounts(|mount| {
        let rounds = 40 * times() as u64;
        let version = |client: usize, round: u64| text(client as u64 * 10_000 + round, 130_000);
        let client = |number: usize| {
            let path = mount.path(&format!("file {number}"));
            for round in 0..rounds {
                let content = version(number, round);
                match round % 3 {
                    0 => fs::write(&path, &content).unwrap(),
                    _ => {
                        let file = OpenOptions::new().write(true).open(&path).unwrap();
                        file.write_all_at(&content, 0).unwrap();
                        file.sync_data().unwrap();
                    }
                }
                assert!(fs::read(&path).unwrap() == content, "{number}, {round}");
            }
        };
        with_clients(client, || mount.drain());
        let mount = mount.again(THROUGH);
        for number in 0..CLIENTS {
            let found = fs::read(mount.path(&format!("file {number}"))).unwrap();
            assert!(found == version(number, rounds - 1), "{number}");
        }
        mount.unmount();
    });
}

#[test]
fn a_volume_that_is_unmounted_under_load_keeps_what_was_closed() {
    for round in 0..times() as u64 {
        for options in [DEFAULT, THROUGH] {
            let Some(mount) = Mount::fresh_in(Place::Disk, options) else {
                return;
            };
            let root = mount.root().to_owned();
            let closed = AtomicU64::new(0);
            let stop = AtomicBool::new(false);
            // While somebody has a file open it is refused, and does no harm.
            let open = File::create(root.join("open")).unwrap();
            std::thread::scope(|threads| {
                let (stop, closed, root) = (&stop, &closed, &root);
                threads.spawn(move || {
                    let mut n = 0;
                    // Once the mount is gone, the directory below is there.
                    while !stop.load(Ordering::Relaxed) {
                        let content = text(round + n, 1 + (n as usize * 7919) % 100_000);
                        fs::write(root.join(format!("file {n}")), content).unwrap();
                        n += 1;
                        closed.store(n, Ordering::Relaxed);
                    }
                });
                while closed.load(Ordering::Relaxed) < 20 {
                    assert!(mount.session.unmount(false).is_err());
                }
                stop.store(true, Ordering::Relaxed);
            });
            drop(open);
            let mount = mount.again(options);
            for n in 0..closed.into_inner() {
                let content = text(round + n, 1 + (n as usize * 7919) % 100_000);
                assert!(fs::read(mount.path(&format!("file {n}"))).unwrap() == content);
            }
            // Lazily it succeeds at once; who holds a file can finish.
            let mut held = File::create(mount.path("held")).unwrap();
            mount.session.unmount(true).unwrap();
            assert!(!root.join("held").exists());
            held.write_all(&text(round, 200_000)).unwrap();
            held.sync_all().unwrap();
            assert!(!mount.session.ended());
            drop(held);
            mount.session.wait().unwrap();
            let mount = mount.again(options);
            assert!(fs::read(mount.path("held")).unwrap() == text(round, 200_000));
            mount.unmount();
        }
    }
}
