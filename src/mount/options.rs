//! Mount options, as given after `-o` or in the fourth field of fstab.

use fuser::{Config, MountOption, SessionACL};

use crate::error::{Error, Result};
use crate::volume::{self, Atime};

/// The options for people: a group, and what it does.
pub const OPTIONS: &[(&str, &str)] = &[
    ("ro, rw", "Refuse every change; or not (default)."),
    (
        "salvage",
        "Read what is left of a store whose database does not match its seal; implies ro.",
    ),
    (
        "relatime, noatime, strictatime",
        "When reading touches the access time: at most once a day or after a change (default), \
         never, always.",
    ),
    (
        "allow_other",
        "Other users may reach the files. Without root this needs the line user_allow_other in \
         /etc/fuse.conf.",
    ),
    (
        "default_permissions, nodefault_permissions",
        "The kernel checks permissions (default); or nobody does.",
    ),
    (
        "writeback_cache, nowriteback_cache",
        "The kernel collects small writes (default); or each write reaches the daemon at once.",
    ),
    ("exec, noexec", "Programs may be run (default); or not."),
    ("suid, nosuid", "Honour set-user-ID bits; or not (default)."),
    ("dev, nodev", "Honour device nodes; or not (default)."),
    (
        "user, users, owner, group",
        "Imply what mount(8) says: nosuid and nodev, and the first two noexec.",
    ),
    (
        "nonempty",
        "Mount on a directory that is not empty; what is in it is hidden.",
    ),
    (
        "remount",
        "Change a mount in place: see mount.laconicfs(8).",
    ),
    (
        "fsname=NAME",
        "Accepted and ignored: mount(8) shows the path of the store as the device.",
    ),
    (
        "defaults, auto, noauto, nofail, _netdev, async, comment=, x-...",
        "For mount(8) and systemd; accepted and ignored.",
    ),
];

/// How to mount. [`MountOptions::parse`] understands what mount(8) passes.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Options that the volume itself honours; open it with these.
    pub volume: volume::Options,
    /// Read a store whose database does not match its seal; implies read-only.
    pub salvage: bool,
    /// Shown as the device by mount(8): the path of the store.
    pub source: String,
    /// Let other users than the one who mounts reach the files.
    pub allow_other: bool,
    /// Let the kernel check permissions. On unless told otherwise.
    pub default_permissions: bool,
    /// Let the kernel collect small writes. On unless told otherwise.
    pub writeback_cache: bool,
    /// Honour device nodes. Off unless asked for, as is the custom of FUSE.
    pub dev: bool,
    /// Honour set-user-ID bits. Off unless asked for, as is the custom of FUSE.
    pub suid: bool,
    pub exec: bool,
    /// Requests that nobody waits for, under way at a time: readahead and
    /// writeback, up to a megabyte each.
    pub background: u16,
    /// Threads that take requests from the kernel. Two: on a quiet machine of two
    /// processors one alone makes half as many files a second (docs/benchmarks.md).
    pub event_threads: usize,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            volume: volume::Options::default(),
            salvage: false,
            source: "laconicfs".into(),
            allow_other: false,
            default_permissions: true,
            writeback_cache: true,
            dev: false,
            suid: false,
            exec: true,
            background: 64,
            event_threads: 2,
        }
    }
}

impl MountOptions {
    /// Applies a comma-separated list as given after `-o`; later options win.
    /// Options meant for mount(8) alone (`defaults`, `_netdev`, `x-...`) are
    /// accepted and ignored; unknown ones are an error that names them.
    pub fn parse(&mut self, list: &str) -> Result<()> {
        list.split(',')
            .filter(|option| !option.is_empty())
            .try_for_each(|option| self.apply(option))
    }

    fn apply(&mut self, option: &str) -> Result<()> {
        match option {
            "ro" => self.volume.read_only = true,
            "rw" => self.volume.read_only = false,
            "salvage" => {
                self.salvage = true;
                self.volume.read_only = true;
            }
            "noatime" => self.volume.atime = Atime::Never,
            "relatime" | "atime" => self.volume.atime = Atime::Relative,
            "strictatime" => self.volume.atime = Atime::Always,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "exec" => self.exec = true,
            "noexec" => self.exec = false,
            // What mount(8) says that these imply.
            "user" | "users" => {
                self.dev = false;
                self.suid = false;
                self.exec = false;
            }
            "owner" | "group" => {
                self.dev = false;
                self.suid = false;
            }
            "allow_other" => self.allow_other = true,
            "default_permissions" => self.default_permissions = true,
            "nodefault_permissions" => self.default_permissions = false,
            "writeback_cache" => self.writeback_cache = true,
            "nowriteback_cache" => self.writeback_cache = false,
            // For mount(8), systemd and [`remount`](super::remount()) alone.
            "remount" | "defaults" | "auto" | "noauto" | "nouser" | "nofail" | "fail"
            | "_netdev" | "async" | "silent" | "loud" | "nomand" | "nolazytime" | "norelatime"
            | "nostrictatime" | "diratime" | "nonempty" => {}
            "sync" | "dirsync" => {
                return Err(Error::Other(format!(
                    "mount option `{option}` is not supported: leave it out; fsync and O_SYNC \
                     make single files durable"
                )));
            }
            "auto_unmount" | "allow_root" => {
                return Err(Error::Other(format!(
                    "mount option `{option}` is not supported: leave it out"
                )));
            }
            _ => match option.split_once('=') {
                Some(("fsname" | "source", name)) => self.source = name.into(),
                Some(("comment", _)) => {}
                _ if option.starts_with("x-") || option.starts_with("X-") => {}
                _ => return Err(Error::Other(format!("unknown mount option `{option}`"))),
            },
        }
        Ok(())
    }

    /// What fuser needs to know.
    pub(super) fn config(&self) -> Config {
        fn pick<T>(on: bool, yes: T, no: T) -> T {
            if on { yes } else { no }
        }
        let mut options = vec![
            MountOption::FSName(self.source.clone()),
            // As a plain parameter, because fuser keeps its own `Subtype` from
            // the kernel when it mounts without fusermount3.
            MountOption::CUSTOM(format!("subtype={}", super::table::SUBTYPE)),
            pick(self.volume.read_only, MountOption::RO, MountOption::RW),
            pick(self.dev, MountOption::Dev, MountOption::NoDev),
            pick(self.suid, MountOption::Suid, MountOption::NoSuid),
            pick(self.exec, MountOption::Exec, MountOption::NoExec),
        ];
        if self.volume.atime == Atime::Never {
            options.push(MountOption::NoAtime);
        }
        if self.default_permissions {
            options.push(MountOption::DefaultPermissions);
        }
        let mut config = Config::default();
        config.mount_options = options;
        config.acl = pick(self.allow_other, SessionACL::All, SessionACL::Owner);
        config.n_threads = Some(self.event_threads.max(1));
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> Result<MountOptions> {
        let mut options = MountOptions::default();
        options.parse(list)?;
        Ok(options)
    }

    #[test]
    fn what_fstab_holds_is_understood() {
        let options = parsed(
            "defaults,ro,noatime,allow_other,suid,dev,noexec,nofail,_netdev,noauto,\
             x-systemd.requires=network.target,comment=a note,",
        )
        .unwrap();
        assert!(options.volume.read_only && options.allow_other && options.suid && options.dev);
        assert!(!options.exec && options.default_permissions && options.writeback_cache);
        assert_eq!(options.volume.atime, Atime::Never);
    }

    #[test]
    fn what_is_documented_is_understood() {
        for (group, _) in OPTIONS {
            for option in group.split(", ").filter(|option| !option.ends_with("...")) {
                assert!(parsed(option).is_ok(), "{option}");
            }
        }
    }

    #[test]
    fn later_options_win() {
        let options = parsed("ro,rw,user,exec,strictatime,relatime,nowriteback_cache").unwrap();
        assert!(!options.volume.read_only && options.exec && !options.suid);
        assert!(!options.writeback_cache);
        assert_eq!(options.volume.atime, Atime::Relative);
        assert!(!parsed("suid,dev,exec,users").unwrap().exec);
    }

    #[test]
    fn salvaging_is_read_only() {
        let options = parsed("salvage").unwrap();
        assert!(options.salvage && options.volume.read_only);
    }

    #[test]
    fn unknown_options_are_named() {
        for bad in ["compress=zstd", "readonly", "sync", "auto_unmount", "uid=5"] {
            let error = parsed(&format!("rw,{bad},ro")).unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
    }

    #[test]
    fn no_two_options_given_to_fuser_conflict() {
        let config = parsed("ro,noatime,noexec").unwrap().config();
        assert!(config.mount_options.contains(&MountOption::RO));
        assert!(!config.mount_options.contains(&MountOption::RW));
        assert!(config.mount_options.contains(&MountOption::NoSuid));
        assert!(config.mount_options.contains(&MountOption::NoAtime));
        assert_eq!(config.acl, SessionACL::Owner);
    }
}
