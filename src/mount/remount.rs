//! Changing a mount in place, as `mount -o remount` asks for.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::table::{self, Mounted};
use crate::error::{Error, Result};

/// Flags that can be changed: the word that sets one, the word that clears it,
/// and its bit for mount(2).
const FLAGS: [(&str, &str, libc::c_ulong); 4] = [
    ("ro", "rw", libc::MS_RDONLY),
    ("nosuid", "suid", libc::MS_NOSUID),
    ("nodev", "dev", libc::MS_NODEV),
    ("noexec", "exec", libc::MS_NOEXEC),
];

/// Access times are the daemon's; the kernel's flags for them stay.
const KEPT: [(&str, libc::c_ulong); 3] = [
    ("noatime", libc::MS_NOATIME),
    ("nodiratime", libc::MS_NODIRATIME),
    ("relatime", libc::MS_RELATIME),
];

/// Changes the flags of the laconicfs mount on `dir` to what the option list
/// says; what it does not name stays. `writable` tells whether the daemon
/// would take changes. What was written is on disk before a mount becomes
/// read-only.
pub fn remount(dir: &Path, list: &str, writable: bool) -> Result<()> {
    let shown = dir.display();
    let Some(mounted) = table::mounted_on(dir)?.filter(|m| m.fstype == table::FSTYPE) else {
        return Err(Error::Other(format!(
            "no laconicfs volume is mounted on {shown}: there is nothing to remount"
        )));
    };
    let flags = changed(&mounted, list)?;
    if flags & libc::MS_RDONLY == 0 && !writable {
        return Err(Error::Other(format!(
            "{shown} was mounted read-only: unmount it and mount it again with rw"
        )));
    }
    if flags & libc::MS_RDONLY != 0 {
        table::flush(dir)?;
    }
    remount_with(dir, flags).map_err(Error::io(format!("remounting {shown}")))
}

/// The flags that the mount shall have.
fn changed(mounted: &Mounted, list: &str) -> Result<libc::c_ulong> {
    let has = |word: &str| mounted.options.split(',').any(|option| option == word);
    let mut flags = 0;
    for (word, _, bit) in FLAGS {
        flags |= if has(word) { bit } else { 0 };
    }
    for (word, bit) in KEPT {
        flags |= if has(word) { bit } else { 0 };
    }
    for option in list.split(',').filter(|option| !option.is_empty()) {
        if let Some((_, _, bit)) = FLAGS.iter().find(|(set, _, _)| *set == option) {
            flags |= bit;
        } else if let Some((_, _, bit)) = FLAGS.iter().find(|(_, clear, _)| *clear == option) {
            flags &= !bit;
        } else if !has(option) && !harmless(option) {
            return Err(Error::Other(format!(
                "mount option `{option}` cannot be changed by a remount: unmount, and mount \
                 again with it"
            )));
        }
    }
    Ok(flags)
}

/// Options for mount(8) alone, and what it reads from its tables.
fn harmless(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or(option);
    let known = [
        "remount", "defaults", "auto", "noauto", "user", "users", "nouser", "owner", "group",
        "nofail", "_netdev", "async", "comment", "user_id", "group_id", "fsname", "source",
        "subtype", "max_read", "rootmode", "fd", "nonempty",
    ];
    known.contains(&name) || name.starts_with("x-") || name.starts_with("X-")
}

fn remount_with(dir: &Path, flags: libc::c_ulong) -> io::Result<()> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    let null = std::ptr::null();
    // SAFETY: `path` is a C string that outlives the call; a remount takes
    // neither source, type nor data, and these may be null.
    let done = unsafe {
        libc::mount(
            null,
            path.as_ptr(),
            null,
            flags | libc::MS_REMOUNT,
            std::ptr::null(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(options: &str) -> Mounted {
        Mounted {
            device: "0:1".into(),
            dir: "/m".into(),
            fstype: table::FSTYPE.into(),
            source: "/s".into(),
            options: options.into(),
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let old = mounted("rw,nosuid,nodev,relatime,user_id=0,allow_other");
        let base = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_RELATIME;
        let flags = |list| changed(&old, list).unwrap();
        assert_eq!(flags("remount"), base);
        assert_eq!(flags("remount,ro"), base | libc::MS_RDONLY);
        assert_eq!(flags("ro,remount,rw,noexec"), base | libc::MS_NOEXEC);
        assert_eq!(flags("suid,dev"), libc::MS_RELATIME);
        let full = "rw,nosuid,relatime,user_id=0,group_id=0,allow_other,x-a=b,remount,ro";
        assert_eq!(flags(full), base | libc::MS_RDONLY);
    }

    #[test]
    fn what_cannot_be_changed_is_named() {
        for bad in [
            "noatime",
            "allow_other",
            "nowriteback_cache",
            "bind",
            "nonsense",
        ] {
            let error = changed(&mounted("rw,relatime"), bad)
                .unwrap_err()
                .to_string();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
    }

    #[test]
    fn only_our_mounts_are_remounted() {
        assert!(remount(Path::new("/proc"), "remount,ro", true).is_err());
    }
}
