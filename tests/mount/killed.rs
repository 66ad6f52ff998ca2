//! A daemon that is killed at any moment.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use laconicfs::mount::unmount;

use crate::harness::{DEFAULT, Mount, obstacle, serve, skip, text};

/// What the daemon of these tests runs, and what may be run by hand: serves
/// the store `$LACONICFS_STORE` on `$LACONICFS_DIR` until it is unmounted.
#[test]
#[ignore = "waits for somebody to unmount"]
fn daemon() {
    let path = |name| std::env::var_os(name).unwrap_or_else(|| panic!("{name} must be set"));
    let options = std::env::var("LACONICFS_OPTIONS").unwrap_or(DEFAULT.into());
    serve(
        path("LACONICFS_STORE").as_ref(),
        path("LACONICFS_DIR").as_ref(),
        &options,
    );
}

/// A daemon in a process of its own. Killed, and its mount taken away, at the
/// latest when it is dropped.
struct Daemon<'a> {
    child: Child,
    dir: &'a Path,
}

impl<'a> Daemon<'a> {
    fn start(store: &Path, dir: &'a Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "killed::daemon"])
            .env("LACONICFS_STORE", store)
            .env("LACONICFS_DIR", dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut daemon = Daemon { child, dir };
        while !mounted(dir) {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {ended:?}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        daemon
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if mounted(self.dir) {
            let _ = unmount(self.dir, true);
        }
    }
}

fn mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let dir = dir.to_str().unwrap();
    table
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(dir))
}

/// Makes a file durable under its last name, as careful programs do.
fn save(dir: &Path, n: u64) -> io::Result<()> {
    let (fresh, last) = (dir.join("fresh"), dir.join(format!("file {n}")));
    let mut file = File::create(&fresh)?;
    file.write_all(&text(n, 1 + (n as usize * 7919) % 150_000))?;
    file.sync_all()?;
    drop(file);
    fs::rename(&fresh, &last)?;
    File::open(dir)?.sync_all()
}

#[test]
fn what_was_synced_outlives_a_killed_daemon() {
    if let Some(why) = obstacle() {
        return skip(&why);
    }
    let disk = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (store, root) = (disk.path().join("store"), dir.path());
    let mut saved = 0;
    for round in 1..=4 {
        let mut daemon = Daemon::start(&store, root);
        // What earlier rounds saved is there.
        for n in 0..saved {
            let expected = text(n, 1 + (n as usize * 7919) % 150_000);
            assert_eq!(fs::read(root.join(format!("file {n}"))).unwrap(), expected);
        }
        let acknowledged = Mutex::new(saved);
        std::thread::scope(|threads| {
            let saver = threads.spawn(|| {
                for n in saved.. {
                    if save(root, n).is_err() {
                        return;
                    }
                    *acknowledged.lock().unwrap() = n + 1;
                }
            });
            // Others write all the time what nobody makes durable.
            let noise = threads.spawn(|| {
                for n in 0.. {
                    if fs::write(root.join(format!("noise {}", n % 50)), text(n, 30_000)).is_err() {
                        return;
                    }
                }
            });
            while *acknowledged.lock().unwrap() < saved + 10 * round {
                assert!(!saver.is_finished(), "the daemon failed by itself");
                std::thread::yield_now();
            }
            daemon.kill();
            saver.join().unwrap();
            noise.join().unwrap();
        });
        saved = *acknowledged.lock().unwrap();
        // The kernel may still know the root itself.
        let dead = fs::read_dir(root).unwrap_err();
        assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
        // The next mount clears the dead one, and nothing but that.
        let next = Mount::in_memory_on(root).unwrap();
        assert_eq!(fs::read_dir(root).unwrap().count(), 0);
        assert!(Mount::in_memory_on(root).is_err(), "it is alive");
        unmount(root, false).unwrap();
        next.wait().unwrap();
    }
    let mount = Mount::of(disk, dir, DEFAULT);
    for n in 0..saved {
        let expected = text(n, 1 + (n as usize * 7919) % 150_000);
        assert_eq!(
            fs::read(mount.path(&format!("file {n}"))).unwrap(),
            expected
        );
    }
    // What nobody synced may be old, new or missing, but can be read.
    for entry in fs::read_dir(mount.root()).unwrap() {
        fs::read(entry.unwrap().path()).unwrap();
    }
    mount.unmount();
}
