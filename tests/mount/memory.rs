//! The daemon as a process of its own, whose memory is bounded.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{obstacle, skip, text};

const PROGRAM: &str = env!("CARGO_BIN_EXE_laconicfs");

/// A mounted store and the process that serves it.
struct Daemon {
    dir: tempfile::TempDir,
    pid: u64,
}

impl Daemon {
    /// Mounts a new store; `limit` is an argument of the shell's `ulimit`.
    fn start(limit: &str, options: &[&str]) -> Option<Daemon> {
        if let Some(why) = obstacle() {
            skip(&why);
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let run = |script: &str, options: &[&str]| {
            let output = Command::new("sh")
                .args(["-c", script, PROGRAM])
                .args(options)
                .current_dir(dir.path())
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            output.stdout
        };
        run("exec \"$0\" mkfs store", &[]);
        let script = format!(
            "ulimit {limit}; exec \"$0\" --json mount store m --create --quiet 0 \
             --drain-threads 1 \"$@\""
        );
        let said: serde_json::Value = serde_json::from_slice(&run(&script, options)).unwrap();
        let pid = said["pid"].as_u64().unwrap();
        Some(Daemon { dir, pid })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("m").join(name)
    }

    /// A figure of /proc/PID/status, in bytes; `None` once it has died.
    fn figure(&self, name: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes = line.trim_start_matches(':').trim().strip_suffix("kB")?;
        Some(kilobytes.trim().parse::<u64>().unwrap() * 1024)
    }

    /// Writers and readers of more than fits, all at once.
    fn load(&self) {
        const LEN: usize = 12 << 20;
        std::thread::scope(|threads| {
            for n in 0..6u64 {
                threads.spawn(move || {
                    let path = self.path(&format!("file {n}"));
                    let bytes = text(n, LEN);
                    fs::write(&path, &bytes).unwrap();
                    let file = File::options().read(true).write(true).open(&path).unwrap();
                    // Small pieces of many chunks.
                    for at in (0..LEN as u64).step_by(300_000) {
                        file.write_all_at(&bytes[at as usize..][..100], at).unwrap();
                    }
                    file.sync_all().unwrap();
                    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
                    let mut back = Vec::new();
                    File::open(&path).unwrap().read_to_end(&mut back).unwrap();
                    assert!(back == bytes, "file {n}");
                });
            }
            threads.spawn(|| {
                for n in 0..3000 {
                    fs::write(self.path(&format!("small {n}")), b"x").unwrap();
                }
            });
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let dir = self.dir.path().join("m");
        let _ = Command::new(PROGRAM).arg("umount").arg(&dir).output();
        // Should that have failed: nothing may stay mounted.
        let _ = Command::new("umount").arg("-l").arg(&dir).output();
    }
}

#[test]
fn a_mount_keeps_within_its_memory() {
    let Some(daemon) = Daemon::start("-c 0", &["--memory", "192M", "--cache", "1G"]) else {
        return;
    };
    daemon.load();
    let peak = daemon.figure("VmHWM").expect("the daemon must live");
    println!("at most {} MiB were resident", peak >> 20);
    assert!(peak <= 192 << 20, "{} MiB", peak >> 20);
}

#[test]
fn a_limited_address_space_is_no_death() {
    let Some(daemon) = Daemon::start("-v 800000", &[]) else {
        return;
    };
    daemon.load();
    let peak = daemon.figure("VmPeak").expect("the daemon must live");
    assert!(peak <= 800_000 << 10, "{} MiB", peak >> 20);
}

#[test]
fn too_little_memory_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let run = |options: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command
            .current_dir(dir.path())
            .args(options)
            .output()
            .unwrap()
    };
    assert!(run(&["mkfs", "store"]).status.success());
    let refused = run(&["mount", "store", "m", "--create", "--memory", "20M"]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("at least 192 MiB"), "{said}");
}
