//! Mounts as a service: what systemd hears, what mount(8) passes, which
//! settings are in force, and what a second mount must leave alone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use program::{PROGRAM, fuse};

mod program;

/// A store, a place to mount it, and settings of this machine that are none.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Self { folder };
        fs::create_dir_all(place.path("etc/laconicfs")).unwrap();
        place.works(&["mkfs", "store", "--model", "none"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program::command(args);
        command
            .current_dir(self.folder.path())
            .env("LACONICFS_ETC", self.path("etc"));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn works(&self, args: &[&str]) -> String {
        String::from_utf8(program::printed(args, self.run(args))).unwrap()
    }

    #[track_caller]
    fn fails(&self, args: &[&str], status: i32) -> String {
        program::complaint(args, self.run(args), status)
    }

    fn mounted(&self) -> bool {
        let dir = fs::metadata(self.path("dir"));
        let above = fs::metadata(self.folder.path()).unwrap();
        dir.is_ok_and(|dir| dir.dev() != above.dev())
    }

    /// What `config show` says of a setting: its value, and from where.
    #[track_caller]
    fn setting(&self, of: &str, key: &str) -> (String, String) {
        let text = self.works(&["config", "show", "--json", of]);
        let settings: Vec<Value> = serde_json::from_str(&text).unwrap();
        let setting = settings.iter().find(|setting| setting["key"] == key);
        let setting = setting.unwrap_or_else(|| panic!("no {key} in {text}"));
        let text = |name: &str| setting[name].as_str().unwrap().to_string();
        (text("value"), text("from"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.mounted() {
            let _ = self.run(&["umount", "--lazy", "dir"]);
        }
    }
}

/// systemd's end of the socket.
struct Manager(UnixDatagram);

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        // Only so that a test that fails ends.
        socket
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        Self(socket)
    }

    /// The next message that has such a line.
    #[track_caller]
    fn hears(&self, line: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let len = self.0.recv(&mut buffer).expect(line);
            let message = String::from_utf8(buffer[..len].to_vec()).unwrap();
            if message.lines().any(|said| said.starts_with(line)) {
                return message;
            }
        }
    }
}

fn ended(mut child: Child) -> std::process::ExitStatus {
    child.wait().unwrap()
}

#[test]
fn systemd_hears_of_the_mount_until_its_end() {
    if !fuse() {
        return;
    }
    let place = Place::new();
    let socket = place.path("notify");
    let manager = Manager::new(&socket);
    // The variable for the watchdog names the process that is meant.
    let script = "WATCHDOG_PID=$$ exec \"$0\" mount --foreground --create store dir";
    let child = Command::new("sh")
        .args(["-c", script, PROGRAM])
        .current_dir(place.folder.path())
        .env("LACONICFS_ETC", place.path("etc"))
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "400000")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ready = manager.hears("READY=1");
    assert!(place.mounted(), "it is ready before it is mounted");
    let status = |message: &str| {
        let line = message
            .lines()
            .find_map(|line| line.strip_prefix("STATUS="));
        line.unwrap_or_else(|| panic!("no status in {message}"))
            .to_string()
    };
    let said = status(&ready);
    let dir = place.path("dir");
    assert!(
        said.starts_with(&format!("mounted on {}: ", dir.display())),
        "{said}"
    );
    assert!(
        said.contains("0 bytes in files") || said.contains("0 B in files"),
        "{said}"
    );
    fs::write(dir.join("file"), vec![b'x'; 3 << 20]).unwrap();
    // The pulse looks anew each time.
    while !status(&manager.hears("WATCHDOG=1")).contains("3.00 MiB in files") {}
    assert!(said.contains("queue "), "{said}");
    place.works(&["umount", "dir"]);
    manager.hears("STOPPING=1");
    assert!(ended(child).success());
    assert!(!place.mounted());
}

/// A daemon that waits for its own answer must not outlive being killed: its
/// mount would hang for ever instead of being dead.
#[test]
fn a_daemon_can_be_killed_while_it_asks_its_own_mount() {
    if !fuse() {
        return;
    }
    let place = Place::new();
    let socket = place.path("notify");
    let manager = Manager::new(&socket);
    let script = "WATCHDOG_PID=$$ exec \"$0\" mount --foreground --create store dir";
    let mut child = Command::new("sh")
        .args(["-c", script, PROGRAM])
        .current_dir(place.folder.path())
        .env("LACONICFS_ETC", place.path("etc"))
        .env("NOTIFY_SOCKET", &socket)
        // So that it asks its mount without a pause.
        .env("WATCHDOG_USEC", "4")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    manager.hears("READY=1");
    for _ in 0..20 {
        manager.hears("WATCHDOG=1");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        fs::read_dir(place.path("dir")).is_err(),
        "the dead daemon's mount lives"
    );
    place.works(&["mount", "store", "dir"]);
    place.works(&["umount", "dir"]);
}

#[test]
fn a_signal_ends_the_mount_with_everything_on_disk() {
    if !fuse() {
        return;
    }
    let place = Place::new();
    let socket = place.path("notify");
    let manager = Manager::new(&socket);
    let child = place
        .command(&["mount", "--foreground", "--create", "store", "dir"])
        .env("NOTIFY_SOCKET", &socket)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    manager.hears("READY=1");
    fs::write(place.path("dir/file"), "kept").unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    manager.hears("STOPPING=1");
    assert!(ended(child).success());
    assert!(!place.mounted());
    place.works(&["fsck", "--scrub", "store"]);
    place.works(&["mount", "store", "dir"]);
    assert_eq!(fs::read_to_string(place.path("dir/file")).unwrap(), "kept");
    place.works(&["umount", "dir"]);
}

#[test]
fn a_dead_mount_is_cleared_by_the_next() {
    if !fuse() {
        return;
    }
    let place = Place::new();
    let said = place.works(&["--json", "mount", "--create", "store", "dir"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let pid = said["pid"].to_string();
    assert!(
        Command::new("kill")
            .args(["-9", &pid])
            .status()
            .unwrap()
            .success()
    );
    // The kernel notices the death when the process has gone.
    while fs::read_dir(place.path("dir")).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    place.works(&["mount", "--create", "store", "dir"]);
    fs::write(place.path("dir/file"), "x").unwrap();
    place.works(&["umount", "dir"]);
    assert!(!place.mounted());
}

#[test]
fn the_settings_of_a_mount_are_shown_with_their_origin() {
    if !fuse() {
        return;
    }
    let place = Place::new();
    let general = "[drain]\nquiet = 1\nthreads = 7\ncpu_share = 11\nhours = '01:00-02:00'\n";
    fs::write(place.path("etc/laconicfs.toml"), general).unwrap();
    let named = "[drain]\nquiet = 2\nthreads = 2\ncpu_share = 12\n";
    fs::write(place.path("etc/laconicfs/store.toml"), named).unwrap();
    let own = "[drain]\nquiet = 3\nthreads = 3\n";
    fs::write(place.path("store/laconicfs.toml"), own).unwrap();
    let mut command = place.command(&["mount", "--create", "store", "dir", "-o", "noatime"]);
    command.args(["--quiet", "5", "--set", "drain.max_load=2.5"]);
    command
        .env("LACONICFS_DRAIN_QUIET", "4")
        .env("LACONICFS_DRAIN_THREADS", "1");
    assert!(command.status().unwrap().success());
    let file = |name: &str, line: u32| format!("{}:{line}", place.path(name).display());
    for (key, value, from) in [
        ("drain.quiet", "5s", "the flag --quiet".to_string()),
        (
            "drain.threads",
            "1",
            "the variable LACONICFS_DRAIN_THREADS".into(),
        ),
        ("drain.cpu_share", "12", file("etc/laconicfs/store.toml", 4)),
        ("drain.hours", "01:00-02:00", file("etc/laconicfs.toml", 5)),
        ("drain.max_load", "2.5", "the flag --set".into()),
        ("mount.options", "noatime", "the flag -o".into()),
        ("drain.min_battery", "off", "default".into()),
    ] {
        assert_eq!(place.setting("dir", key), (value.into(), from), "{key}");
    }
    // They are what the mount goes by, not only what it says.
    let stat: Value = serde_json::from_str(&place.works(&["--json", "stat", "dir"])).unwrap();
    assert_eq!(stat["drain"]["quiet"], 5.0);
    assert_eq!(stat["drain"]["threads"], 1);
    assert_eq!(stat["drain"]["cpu_share"], 12);
    assert_eq!(stat["drain"]["max_load"], 2.5);
    place.works(&["umount", "dir"]);
    // Of a store that is not mounted: what a mount would go by.
    assert_eq!(place.setting("store", "drain.quiet").0, "3s");
}

#[test]
fn a_wrong_setting_is_named_and_nothing_is_mounted() {
    let place = Place::new();
    let file = place.path("store/laconicfs.toml");
    fs::write(&file, "[drain]\nqiuet = 3\n").unwrap();
    for args in [
        &["mount", "--create", "store", "dir"][..],
        &["mount", "--create", "--foreground", "store", "dir"],
        &["config", "show", "store"],
    ] {
        let said = place.fails(args, 12);
        let at = format!("{}:2: ", file.display());
        assert!(
            said.contains(&at) && said.contains("perhaps drain.quiet?"),
            "{said}"
        );
    }
    let said = place.fails(&["config", "check", "store/laconicfs.toml"], 12);
    assert!(said.contains(":2: "), "{said}");
    fs::remove_file(&file).unwrap();
    let said = place.fails(&["mount", "store", "dir", "--set", "drian.quiet=3"], 12);
    assert!(said.contains("perhaps drain.quiet?"), "{said}");
    let said = place
        .command(&["config", "show"])
        .env("LACONICFS_CACHE_SZIE", "1M")
        .output();
    let said = said.unwrap();
    assert_eq!(said.status.code(), Some(12));
    assert!(String::from_utf8_lossy(&said.stderr).contains("perhaps LACONICFS_CACHE_SIZE?"));
    assert!(!place.path("dir").exists());
}

/// Processes that want the whole machine, more than it has.
struct Spinners(Vec<Child>);

impl Spinners {
    fn start() -> Self {
        let cores = std::thread::available_parallelism().unwrap().get();
        let spin = |_| {
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
        };
        Self((0..4 * cores).map(spin).map(Result::unwrap).collect())
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Threads at idle priority get next to no time then; nobody must wait for what
/// they have begun.
#[test]
fn a_busy_machine_keeps_neither_drain_nor_umount_waiting() {
    if !fuse() {
        return;
    }
    let place = Place::new();
    place.works(&["mkfs", "coded"]);
    let mount = [
        "mount",
        "--create",
        "coded",
        "dir",
        "--set",
        "drain.quiet=0",
    ];
    place.works(&mount);
    let words = |n: usize| {
        let lines = (n..n + 5000).map(|i| format!("{i}: of {} and {}\n", i * i % 1013, i % 29));
        lines.collect::<String>()
    };
    let busy = || loop {
        let stat: Value = serde_json::from_str(&place.works(&["stat", "--json", "dir"])).unwrap();
        if stat["queue"]["chunks"] != 0 && stat["drain"]["rest"].is_null() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    // The bound finds what hangs; it measures nothing.
    let ends = |args: &[&str]| {
        let mut child = place.command(args).stdout(Stdio::null()).spawn().unwrap();
        for _ in 0..3000 {
            if let Some(status) = child.try_wait().unwrap() {
                return assert!(status.success(), "{args:?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = child.kill();
        panic!("{args:?} hangs");
    };
    fs::write(place.path("dir/one"), words(0)).unwrap();
    busy();
    {
        let _spinners = Spinners::start();
        ends(&["drain", "dir"]);
    }
    let stat: Value = serde_json::from_str(&place.works(&["stat", "--json", "dir"])).unwrap();
    assert_eq!(stat["queue"]["chunks"], 0, "{stat}");
    fs::write(place.path("dir/two"), words(7000)).unwrap();
    busy();
    {
        let _spinners = Spinners::start();
        ends(&["umount", "dir"]);
    }
    place.works(&["fsck", "--scrub", "coded"]);
    place.works(&mount);
    assert!(fs::read_to_string(place.path("dir/one")).unwrap() == words(0));
    assert!(fs::read_to_string(place.path("dir/two")).unwrap() == words(7000));
    place.works(&["umount", "dir"]);
}

#[test]
fn a_second_mount_is_refused_and_leaves_the_log_alone() {
    if !fuse() {
        return;
    }
    let place = Place::new();
    let said = place.works(&["--json", "mount", "--create", "store", "dir"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let pid = said["pid"].to_string();
    fs::create_dir(place.path("other")).unwrap();
    for args in [
        &["mount", "store", "other"][..],
        &["mount", "--foreground", "store", "other"],
        &["mount", "store", "other", "-o", "ro"],
    ] {
        let refused = place.fails(args, 5);
        assert!(refused.contains(&pid), "{refused}");
        assert!(refused.contains("store"), "{refused}");
    }
    place.works(&["umount", "dir"]);
    // One mount has begun and ended, and nobody else has said anything.
    let log = fs::read_to_string(place.path("store/log")).unwrap();
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(lines(" is mounted on "), 1, "{log}");
    assert_eq!(lines("in use"), 0, "{log}");
    assert_eq!(lines("other"), 0, "{log}");
}

/// Runs a script as root in a mount namespace of its own, where /sbin has the
/// program under the names that mount(8) and umount(8) look for.
fn with_helpers(place: &Place, script: &str) -> Option<Output> {
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if !root {
        eprintln!("skipped: only root has mount(8) call a helper");
        return None;
    }
    let usable = Command::new("unshare").args(["--mount", "true"]).output();
    if !usable.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a mount namespace of its own cannot be had here");
        return None;
    }
    let prepare = "set -eu
        sbin=$(realpath /sbin)
        cp -al $sbin helpers 2>/dev/null || { rm -rf helpers; cp -a $sbin helpers; }
        for name in mount.laconicfs mount.fuse.laconicfs umount.fuse.laconicfs; do
            ln -sf \"$0\" helpers/$name
        done
        mount --bind helpers $sbin
        mkdir -p dir
        trap 'umount --lazy dir 2>/dev/null || true' EXIT\n";
    let output = Command::new("unshare")
        .args([
            "--mount",
            "bash",
            "-c",
            &format!("{prepare}{script}"),
            PROGRAM,
        ])
        .current_dir(place.folder.path())
        .env("LACONICFS_ETC", place.path("etc"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Some(output)
}

#[test]
fn mount_and_fstab_take_a_store() {
    if !fuse() {
        return;
    }
    let place = Place::new();
    let script = r#"
        mount -t laconicfs -o noatime,nofail,_netdev,x-systemd.automount store dir
        findmnt -n -o FSTYPE,SOURCE dir
        echo kept >dir/file
        mount -o remount,ro dir
        if touch dir/file 2>/dev/null; then echo "written while read-only"; exit 1; fi
        mount -o remount,rw dir
        echo more >>dir/file
        umount dir
        mountpoint -q dir && exit 1
        # Unmounted means: on disk, and free.
        "$0" fsck --scrub store >/dev/null
        echo "$PWD/store $PWD/dir laconicfs ro,noauto,user,nofail,x-systemd.device-timeout=5 0 0" >fstab
        mount -T fstab "$PWD/dir"
        cat dir/file
        if touch dir/file 2>/dev/null; then echo "written while read-only"; exit 1; fi
        umount dir
        status=0; mount -t laconicfs -o frobnicate store dir 2>said || status=$?
        echo "status $status"; grep -q '`frobnicate`' said
        status=0; mount -t laconicfs missing dir 2>said || status=$?
        echo "status $status"; grep -q 'laconicfs mkfs' said
        # In a dry run nothing is mounted.
        mount -f -t laconicfs store dir
        ! mountpoint -q dir
    "#;
    let Some(output) = with_helpers(&place, script) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{error}");
    let store = place.path("store");
    let expected = format!(
        "fuse.laconicfs {}\nkept\nmore\nstatus 32\nstatus 32\n",
        store.display()
    );
    let said: Vec<&str> = said.split_whitespace().collect();
    let expected: Vec<&str> = expected.split_whitespace().collect();
    assert_eq!(said, expected);
}

/// Pages and completions are what the Makefile installs.
#[test]
fn pages_and_completions_are_written() {
    let place = Place::new();
    place.works(&["manual", "pages"]);
    for name in [
        "laconicfs.1",
        "laconicfs-mount.1",
        "laconicfs.toml.5",
        "mount.laconicfs.8",
    ] {
        let page = fs::read_to_string(place.path("pages").join(name)).unwrap();
        assert!(
            page.contains(".SH NAME") || page.contains(".SH \"NAME\""),
            "{name}"
        );
    }
    for shell in ["bash", "zsh", "fish"] {
        let text = place.works(&["completions", shell]);
        assert!(text.contains("snapshot"), "{shell}");
    }
}
