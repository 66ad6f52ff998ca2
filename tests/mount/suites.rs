//! Suites that others wrote, where they are installed:
//! `cargo install pjdfstest@0.2.2` and `cargo install fsx@0.3.2`.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::harness::{DEFAULT, Mount, Place, THROUGH, have, skip};

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

#[test]
fn fsx() {
    if !have("fsx") {
        return;
    }
    for options in [DEFAULT, THROUGH] {
        let Some(mount) = Mount::fresh(options) else {
            return;
        };
        for seed in ["1", "2"] {
            let output = Command::new("fsx")
                .args(["-S", seed, "-N", "3000"])
                .arg(mount.path("file"))
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "seed {seed}, {options}:\n{}\n{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        mount.unmount();
    }
}

/// For work by hand: a new volume on disk, mounted on `$LACONICFS_DIR` with
/// `$LACONICFS_OPTIONS` until somebody unmounts it.
#[test]
#[ignore = "waits for somebody to unmount"]
fn serve() {
    let dir = std::env::var("LACONICFS_DIR").expect("LACONICFS_DIR must name the mount point");
    let options = std::env::var("LACONICFS_OPTIONS").unwrap_or(DEFAULT.into());
    let Some(mount) = Mount::fresh_in(Place::Disk, &options) else {
        return;
    };
    let session = mount.mount_on(dir.as_ref()).unwrap();
    session.wait().unwrap();
    mount.unmount();
}
