//! The program as people run it, in a process of its own.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use laconicfs::mount::unmount;

const PROGRAM: &str = env!("CARGO_BIN_EXE_laconicfs");

pub fn laconicfs(arguments: &[&OsStr]) -> io::Result<Output> {
    Command::new(PROGRAM).args(arguments).output()
}

/// A new store that codes without a model: what is coded small is coded soon.
pub fn make(store: &Path) {
    let made = laconicfs(
        &["mkfs", "--model", "none"]
            .map(OsStr::new)
            .iter()
            .copied()
            .chain([store.as_os_str()])
            .collect::<Vec<_>>(),
    )
    .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
}

/// Checks a store that is not mounted; what it found, if anything.
pub fn check(store: &Path, scrub: bool) -> Result<(), String> {
    static COMMAND: OnceLock<&str> = OnceLock::new();
    let command = COMMAND.get_or_init(|| {
        let help = laconicfs(&["fsck", "--help"].map(OsStr::new)).unwrap();
        if help.status.success() {
            "fsck"
        } else {
            "check"
        }
    });
    let mut arguments = vec![OsStr::new(command)];
    arguments.extend(scrub.then_some(OsStr::new("--scrub")));
    arguments.push(store.as_os_str());
    let checked = laconicfs(&arguments).unwrap();
    match checked.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command} says {}:\n{}{}",
            checked.status,
            String::from_utf8_lossy(&checked.stdout),
            String::from_utf8_lossy(&checked.stderr)
        )),
    }
}

fn mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let dir = dir.to_str().unwrap();
    table
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(dir))
}

/// A daemon. Killed, and its mount taken away, at the latest when it is
/// dropped.
pub struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Daemon {
    /// Starts it without waiting for its mount.
    pub fn spawn(store: &Path, dir: &Path, cached: bool) -> Self {
        let options = match cached {
            true => "allow_other",
            false => "allow_other,nowriteback_cache",
        };
        let child = Command::new(PROGRAM)
            .arg("mount")
            .args([store, dir])
            .args([
                "--foreground",
                "--quiet",
                "0",
                "--cache",
                "16M",
                "-o",
                options,
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            dir: dir.into(),
        }
    }

    pub fn start(store: &Path, dir: &Path, cached: bool) -> Self {
        let mut daemon = Self::spawn(store, dir, cached);
        while !mounted(dir) {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                let mut said = String::new();
                let _ = io::Read::read_to_string(daemon.child.stderr.as_mut().unwrap(), &mut said);
                panic!("the daemon ended before it mounted: {status}: {said}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    /// Asks it to end in order, and does not wait.
    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    pub fn kill_within(mut self, time: Duration) {
        std::thread::sleep(time);
        self.kill();
    }

    /// Unmounts in order.
    pub fn unmount(mut self) {
        let arguments = ["umount".as_ref(), self.dir.as_os_str()];
        let mut left = 100;
        loop {
            let output = laconicfs(&arguments).unwrap();
            if output.status.success() {
                break;
            }
            // Another test may hold a descriptor between fork and exec.
            left -= 1;
            assert!(left > 0, "{}", String::from_utf8_lossy(&output.stderr));
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        while mounted(&self.dir) {
            let _ = unmount(&self.dir, true);
        }
    }
}

/// A temporary directory that stays, said aloud, when a test fails.
pub struct Kept(Option<tempfile::TempDir>);

impl Kept {
    pub fn new() -> Self {
        Self(Some(tempfile::tempdir().unwrap()))
    }

    pub fn path(&self) -> &Path {
        self.0.as_ref().unwrap().path()
    }

    pub fn remove(mut self) {
        self.0.take();
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take() {
            eprintln!("the store was kept: {}", dir.keep().display());
        }
    }
}

/// Saves something to a file when a test fails.
pub struct OnPanic<F: FnOnce(&Path) -> io::Result<()>>(Option<F>);

impl<F: FnOnce(&Path) -> io::Result<()>> OnPanic<F> {
    pub fn new(save: F) -> Self {
        Self(Some(save))
    }
}

impl<F: FnOnce(&Path) -> io::Result<()>> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if let (true, Some(save)) = (std::thread::panicking(), self.0.take()) {
            let path = std::env::temp_dir().join(format!("laconicfs-cut-{}", std::process::id()));
            match save(&path) {
                Ok(()) => eprintln!("the disk was kept: {}", path.display()),
                Err(error) => eprintln!("the disk could not be kept: {error}"),
            }
        }
    }
}
