//! A disk that becomes full, for real.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::process::Command;

use crate::harness::{DEFAULT, Mount, THROUGH, obstacle, skip};

/// A small file system of its own, in memory.
fn small_disk(megabytes: u32) -> Option<tempfile::TempDir> {
    if let Some(why) = obstacle() {
        skip(&why);
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
        .arg(dir.path())
        .status();
    match mounted.is_ok_and(|status| status.success()) {
        true => Some(dir),
        false => {
            skip("a small disk cannot be mounted");
            None
        }
    }
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes a file and closes it, without a sync: what close(2) says counts.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    // SAFETY: the descriptor is owned here, and nobody uses it after this.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const FILE: usize = 700_000;

/// Writes files until one is refused; returns the numbers of the others.
fn fill(mount: &Mount, from: u64) -> Vec<u64> {
    let mut taken = Vec::new();
    for n in from..from + 100 {
        match write(&mount.path(&n.to_string()), &noise(n, FILE)) {
            Ok(()) => taken.push(n),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                let _ = std::fs::remove_file(mount.path(&n.to_string()));
                return taken;
            }
        }
    }
    panic!("the disk never became full");
}

#[test]
fn what_was_taken_is_kept_and_deleting_makes_room() {
    for options in [DEFAULT, THROUGH] {
        let Some(disk) = small_disk(24) else { return };
        let place = disk.path().to_owned();
        let mut mount = Mount::fresh_on(disk, options);
        let mut held = BTreeMap::new();
        let mut first = 0;
        for round in 0..3 {
            let taken = fill(&mount, round * 100);
            if round == 0 {
                first = taken.len();
                assert!(first > 10, "only {first} files fit");
            }
            // As much as the first time, but for what the database has grown.
            assert!(
                taken.len() + held.len() + 4 >= first,
                "{} of {first}",
                taken.len()
            );
            held.extend(taken.into_iter().map(|n| (n, ())));
            if round == 1 {
                mount = mount.again(options);
            }
            mount.forget();
            for n in held.keys() {
                let found = std::fs::read(mount.path(&n.to_string())).unwrap();
                assert!(found == noise(*n, FILE), "file {n}");
            }
            // Every other one the first time, of which logs are left that are
            // half live and have to be copied; then all.
            let step = if round == 0 { 2 } else { 1 };
            let gone: Vec<u64> = held.keys().copied().step_by(step).collect();
            for n in gone {
                std::fs::remove_file(mount.path(&n.to_string())).unwrap();
                held.remove(&n);
            }
        }
        drop(mount.unmount());
        let unmounted = Command::new("umount")
            .arg("-l")
            .arg(place)
            .status()
            .unwrap();
        assert!(unmounted.success());
    }
}
