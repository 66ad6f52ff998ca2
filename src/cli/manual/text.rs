//! What the manual says that the definition of the flags does not.

type Entries = &'static [(&'static str, &'static str)];

pub const FILES: Entries = &[
    (
        "STORE/laconicfs.toml",
        "Settings of this store: see laconicfs.toml(5).",
    ),
    (
        "/etc/laconicfs/NAME.toml, /etc/laconicfs.toml",
        "Settings of the store of that name, and of all stores.",
    ),
    (
        "STORE/log, STORE/log.1",
        "What the daemon of the mount has to say, at most about two megabytes. Under systemd it \
         logs to the journal instead.",
    ),
    (
        "STORE/control",
        "The socket by which commands reach the daemon; only its owner may use it.",
    ),
    (
        "STORE/lock",
        "Locked while a process has the store open, and names it.",
    ),
    (
        "STORE/superblock, STORE/db, STORE/logs, STORE/models",
        "The store itself: what it is, its database, the contents of files, the models that they \
         are coded with. Copy all of it, while it is not mounted, to copy the store.",
    ),
];

pub const ENVIRONMENT: Entries = &[
    (
        "LACONICFS_LOG",
        "How much is logged: error, warn (the default of commands), info (that of mounts), debug \
         or trace; or levels of single rooms, such as laconicfs::tier=debug,warn.",
    ),
    (
        "LACONICFS_ETC",
        "A directory to look for settings in instead of /etc.",
    ),
    (
        "LACONICFS_KERNEL",
        "Forces one implementation of the arithmetic (scalar, avx2, avxvnni, avx512, amx; neon and \
         dotprod on aarch64); the results are the same. For measurements.",
    ),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM",
        "Set by systemd: mount --foreground tells readiness, status, keep-alives and its end, \
         and gives each line of its log a priority.",
    ),
];

pub const STATUS: &str = "0 when all went well, otherwise one of the numbers that laconicfs(1) \
    lists, with one line on standard error that says what is wrong and what to do.";

pub const SEE_ENVIRONMENT: &str =
    "LACONICFS_LOG says how much is logged. laconicfs(1) lists all variables.";

pub const SEE_ALSO: &str = "laconicfs(1), laconicfs-mount(1), laconicfs.toml(5), \
    mount.laconicfs(8), fstab(5), mount(8), fuse(8)";

pub const SETTINGS_FILES: &[&str] = &[
    "STORE/laconicfs.toml",
    "/etc/laconicfs/NAME.toml",
    "/etc/laconicfs.toml",
];

pub const SETTINGS: &[&str] = &[
    "How a store is mounted and what its daemon does in the background. None of these files need \
     exist. They are read when a store is mounted.",
    "Of several values for a setting the first of these counts: a flag of laconicfs-mount(1), \
     among them --set SECTION.KEY=VALUE; a variable of the environment; the file in the store; \
     /etc/laconicfs/NAME.toml, where NAME is the last component of the store's path or what \
     --name says; /etc/laconicfs.toml; the default. `laconicfs config show STORE` prints what is \
     in force and where it comes from.",
    "The files are TOML: sections in brackets, one setting a line. Texts stand in quotes. Sizes \
     are numbers with a binary unit (64k, 256M, 2G), times are numbers of seconds or such as \
     30s, 10m, 1h 30m. A section, a setting or a value that does not exist is an error that \
     names file, line and the nearest name; `laconicfs config check FILE` looks for them. \
     `laconicfs config example` prints a file with every setting, explained.",
];

pub const ETC: &str = "A directory to look for laconicfs.toml and laconicfs/NAME.toml in instead \
    of /etc.";

pub const SETTINGS_EXAMPLE: &[&str] = &[
    "[mount]",
    "options = \"noatime,allow_other\"",
    "",
    "[cache]",
    "size = \"1G\"",
    "",
    "[drain]",
    "quiet = \"10m\"",
    "threads = 2",
    "hours = \"22:00-06:00\"",
];

pub const HELPER_SYNOPSIS: &[&str] = &[
    "mount -t laconicfs [-o OPTIONS] STORE DIR",
    "mount.laconicfs STORE DIR [-sfnv] [-o OPTIONS]",
];

pub const HELPER: &[&str] = &[
    "The program laconicfs under another name. mount(8) calls it for the types laconicfs and \
     fuse.laconicfs, and so does everything that reads fstab(5). It does what laconicfs-mount(1) \
     does: it returns when the mount answers, and a process in the background serves it until it \
     is unmounted by umount(8) or laconicfs-umount(1).",
    "Settings that are not options are taken from laconicfs.toml(5).",
    "mount -o remount,ro DIR makes a mount read-only, after everything that was written is on \
     disk; remount,rw makes it writable again if it was mounted so. noatime, noexec, nosuid, \
     nodev and their opposites may be changed likewise. Other options cannot be changed without \
     unmounting.",
];

pub const HELPER_FILES: Entries = &[
    (
        "/sbin/mount.laconicfs, /sbin/mount.fuse.laconicfs",
        "Links to the program.",
    ),
    (
        "/etc/fuse.conf",
        "With the line user_allow_other, users other than root may give allow_other.",
    ),
];

pub const HELPER_EXAMPLE: &[&str] = &[
    "mount -t laconicfs -o noatime /srv/logs.store /srv/logs",
    "",
    "In /etc/fstab, at boot, and when first used:",
    "  /srv/logs.store        /srv/logs        laconicfs  allow_other,nofail          0 0",
    "  /home/you/notes.store  /home/you/notes  laconicfs  noauto,x-systemd.automount  0 0",
];
