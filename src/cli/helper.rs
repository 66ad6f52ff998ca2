//! The program under the names that mount(8) and umount(8) look for.
//!
//! ```text
//! mount.laconicfs  STORE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
//! umount.laconicfs DIR [-flnrv] [-N NAMESPACE] [-t TYPE]
//! laconicfs        STORE DIR [-o OPTIONS]           (from mount.fuse3)
//! ```

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Under which name this program was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Program,
    /// mount(8) reads its exit status: see [`super::exit::HELPER_TABLE`].
    MountHelper,
    UmountHelper,
}

/// A command line as the program itself takes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Started {
    pub role: Role,
    pub args: Vec<OsString>,
    /// `mount -f`: everything but the mount itself.
    pub fake: bool,
}

/// Understands what mount(8) and its like pass.
pub fn understand(args: Vec<OsString>) -> Started {
    let name = args.first().map(Path::new).and_then(Path::file_name);
    let starts = |start: &[u8]| name.is_some_and(|name| name.as_bytes().starts_with(start));
    let role = match (starts(b"mount."), starts(b"umount.")) {
        (true, _) => Role::MountHelper,
        (_, true) => Role::UmountHelper,
        _ => Role::Program,
    };
    let bare = args.len() > 2 && args[1].as_bytes().contains(&b'/');
    if role == Role::Program && !bare {
        return Started {
            role,
            args,
            fake: false,
        };
    }
    let asks_for_help = |arg: &OsString| arg == "--help" || arg == "-h" || arg == "--version";
    let help = args.iter().any(asks_for_help);
    let mut fake = false;
    let mut args = args.into_iter();
    let mut out: Vec<OsString> = args.next().into_iter().collect();
    out.push(match role {
        Role::UmountHelper => "umount".into(),
        _ => "mount".into(),
    });
    while let Some(arg) = args.next() {
        let flags = arg.as_bytes().strip_prefix(b"-").unwrap_or_default();
        let all = |known: &[u8]| !flags.is_empty() && flags.iter().all(|flag| known.contains(flag));
        match role {
            _ if help || role == Role::Program => out.push(arg),
            _ if arg == OsStr::new("-N") || arg == OsStr::new("-t") => drop(args.next()),
            // Unknown options, mtab, verbosity: nothing to us.
            Role::MountHelper if all(b"sfnvi") => fake |= flags.contains(&b'f'),
            Role::UmountHelper if all(b"flnrvi") => {
                if flags.contains(&b'l') {
                    out.push("--lazy".into());
                }
            }
            _ => out.push(arg),
        }
    }
    Started {
        role,
        args: out,
        fake,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(args: &[&str]) -> (Role, Vec<String>, bool) {
        let started = understand(args.iter().map(OsString::from).collect());
        let args = started.args.into_iter();
        let args = args.map(|a| a.into_string().unwrap()).collect();
        (started.role, args, started.fake)
    }

    #[track_caller]
    fn becomes(args: &[&str], role: Role, expected: &[&str]) {
        let (found, args, fake) = turned(args);
        assert_eq!((found, fake), (role, false));
        assert_eq!(args[1..], *expected);
    }

    #[test]
    fn mount_helpers_become_mount() {
        let full = [
            "/sbin/mount.laconicfs",
            "a",
            "/m",
            "-n",
            "-t",
            "laconicfs",
            "-o",
            "ro",
        ];
        becomes(&full, Role::MountHelper, &["mount", "a", "/m", "-o", "ro"]);
        let fuse = [
            "mount.fuse.laconicfs",
            "a",
            "/m",
            "-sv",
            "-N",
            "/proc/1/ns/mnt",
        ];
        becomes(&fuse, Role::MountHelper, &["mount", "a", "/m"]);
        let bare = ["laconicfs", "/s", "/m", "-o", "rw"];
        becomes(&bare, Role::Program, &["mount", "/s", "/m", "-o", "rw"]);
        becomes(&["laconicfs", "stat", "/m"], Role::Program, &["stat", "/m"]);
        becomes(
            &["mount.laconicfs", "--help"],
            Role::MountHelper,
            &["mount", "--help"],
        );
        let (_, args, fake) = turned(&["mount.laconicfs", "a", "/m", "-f"]);
        assert!(fake && args[1..] == ["mount", "a", "/m"]);
    }

    #[test]
    fn umount_helpers_become_umount() {
        let helper = "/sbin/umount.fuse.laconicfs";
        becomes(&[helper, "/m"], Role::UmountHelper, &["umount", "/m"]);
        let lazy = [helper, "/m", "-ln", "-t", "fuse.laconicfs"];
        becomes(&lazy, Role::UmountHelper, &["umount", "/m", "--lazy"]);
    }
}
