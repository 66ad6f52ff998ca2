//! Suites that others wrote, where they are installed:
//! `cargo install pjdfstest@0.2.2` and `cargo install fsx@0.3.2`.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{DEFAULT, Mount, THROUGH, have, skip};

/// A group that always goes with the user nobody, by its name here.
fn nobodys_group() -> Option<&'static str> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    let there = |name: &&str| {
        groups
            .lines()
            .any(|line| line.split(':').next() == Some(name))
    };
    ["nogroup", "nobody"].into_iter().find(there)
}

#[test]
fn pjdfstest() {
    if !have("pjdfstest") {
        return;
    }
    let Some(group) = nobodys_group() else {
        return skip("there is no group of the user nobody");
    };
    // Times set by a user who is not the owner reach the file system too late
    // when the kernel keeps them: the cache of writes is off.
    let Some(mount) = Mount::fresh("allow_other,nowriteback_cache,suid,dev") else {
        return;
    };
    let mut config = tempfile::NamedTempFile::new().unwrap();
    write!(
        config,
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutime_now = {{}}\n\
         utimensat = {{}}\nstat_st_birthtime = {{}}\n\
         [settings]\nnaptime = 0.01\nallow_remount = false\n\
         [dummy_auth]\nentries = [[\"nobody\", \"{group}\"], [\"daemon\", \"daemon\"]]\n"
    )
    .unwrap();
    fs::set_permissions(mount.root(), Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("pjdfstest")
        .arg("-c")
        .arg(config.path())
        .arg("-p")
        .arg(mount.root())
        // Another file system, to which nothing can be linked or renamed.
        .args(["-s", "/dev/shm"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<_> = said
        .lines()
        .filter(|line| line.contains("FAILED"))
        .collect();
    assert!(
        output.status.success(),
        "{}\n{said}\n{}\n{failed:#?}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let _ = writeln!(std::io::stderr(), "{}", said.lines().last().unwrap_or(""));
    mount.unmount();
}

/// Every operation that fsx knows, over a few chunks.
const FSX: &str = "\
flen = 600000
[opsize]
max = 150000
[weights]
close_open = 1
invalidate = 1
mapread = 4
mapwrite = 4
read = 4
write = 8
truncate = 2
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 1
punch_hole = 2
sendfile = 1
posix_fadvise = 1
copy_file_range = 2
";

#[test]
fn fsx_finds_its_bytes_while_they_are_coded_and_forgotten() {
    if !have("fsx") {
        return;
    }
    let mut config = tempfile::NamedTempFile::new().unwrap();
    config.write_all(FSX.as_bytes()).unwrap();
    let operations = std::env::var("LACONICFS_FSX").unwrap_or("2000".into());
    for (seed, options) in [("1", DEFAULT), ("2", THROUGH)] {
        let Some(mount) = Mount::fresh(options) else {
            return;
        };
        let over = AtomicBool::new(false);
        let output = std::thread::scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    mount.drain();
                }
            });
            let output = Command::new("fsx")
                .args(["-S", seed, "-N", &operations, "-f"])
                .arg(config.path())
                .arg("-P")
                .arg(std::env::temp_dir())
                .arg(mount.path("file"))
                .output();
            over.store(true, Ordering::Relaxed);
            output.unwrap()
        });
        assert!(
            output.status.success(),
            "seed {seed}, {options}:\n{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        mount.unmount();
    }
}
