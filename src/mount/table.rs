//! The kernel's mount table, and taking mounts out of it.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};

/// The file system type that our mounts show.
pub const FSTYPE: &str = "fuse.laconicfs";

/// The part of it that is ours.
pub(super) const SUBTYPE: &str = "laconicfs";

/// One line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// `major:minor` of the file system.
    pub device: String,
    pub dir: PathBuf,
    pub fstype: String,
    pub source: String,
    /// Those of the mount and those of the file system, separated by commas.
    pub options: String,
}

/// What is mounted on `dir`, topmost, or `None` when nothing is.
/// `dir` must be as the kernel writes it: absolute, without links.
pub fn mounted_on(dir: &Path) -> Result<Option<Mounted>> {
    let table =
        std::fs::read("/proc/self/mountinfo").map_err(Error::io("reading /proc/self/mountinfo"))?;
    // Later lines cover earlier ones.
    Ok(parse(&table).filter(|mount| mount.dir == dir).last())
}

/// The laconicfs mount that `path` lies in, itself included. `path` must be as
/// for [`mounted_on`]; what is at it is not looked at.
pub fn holding(path: &Path) -> Result<Option<Mounted>> {
    let table =
        std::fs::read("/proc/self/mountinfo").map_err(Error::io("reading /proc/self/mountinfo"))?;
    // The deepest mount point holds it, and of equals the last.
    let around = parse(&table).filter(|mount| path.starts_with(&mount.dir));
    let deepest = around.max_by_key(|mount| mount.dir.components().count());
    Ok(deepest.filter(|mount| mount.fstype == FSTYPE))
}

/// Whether a file system with this device is mounted anywhere.
pub(super) fn is_mounted(device: &str) -> Result<bool> {
    let table =
        std::fs::read("/proc/self/mountinfo").map_err(Error::io("reading /proc/self/mountinfo"))?;
    Ok(parse(&table).any(|mount| mount.device == device))
}

fn parse(table: &[u8]) -> impl Iterator<Item = Mounted> {
    table.split(|&b| b == b'\n').filter_map(|line| {
        // id parent device root dir options [tags...] - type source options
        let mut fields = line.split(|&b| b == b' ');
        let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
        let dir = PathBuf::from(std::ffi::OsString::from_vec(unescape(fields.nth(1)?)));
        let of_mount = String::from_utf8_lossy(fields.next()?).into_owned();
        fields.find(|field| *field == b"-")?;
        let mut text = || Some(String::from_utf8_lossy(&unescape(fields.next()?)).into_owned());
        Some(Mounted {
            device,
            dir,
            fstype: text()?,
            source: text()?,
            options: format!("{of_mount},{}", text()?),
        })
    })
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => out.push(*first),
        }
    }
    out
}

/// `dir` as the mount table would name it. Does not need `dir` itself to
/// answer, so that a dead mount can be named.
pub fn resolve(dir: &Path) -> io::Result<PathBuf> {
    match std::fs::canonicalize(dir) {
        Err(error) if is_dead(&error) => {
            let absolute = std::path::absolute(dir)?;
            match (absolute.parent(), absolute.file_name()) {
                (Some(parent), Some(name)) => Ok(std::fs::canonicalize(parent)?.join(name)),
                _ => Err(error),
            }
        }
        other => other,
    }
}

/// Whether this is the error of a mount whose daemon is gone.
pub(super) fn is_dead(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTCONN | libc::ECONNABORTED)
    )
}

/// Takes the topmost mount off `dir`, an entry of the mount table.
pub(super) fn unmount(dir: &Path, lazy: bool) -> Result<()> {
    match umount2(dir, lazy) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => fusermount(dir, lazy),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(busy(dir)),
        Err(error) => Err(Error::io(format!("unmounting {}", dir.display()))(error)),
        Ok(()) => Ok(()),
    }
}

fn umount2(dir: &Path, lazy: bool) -> io::Result<()> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: `path` is a C string that outlives the call.
    match unsafe { libc::umount2(path.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel hand over everything that it still holds for the files on
/// the mount at `dir`: syncfs(2).
pub fn flush(dir: &Path) -> Result<()> {
    let context = || Error::io(format!("flushing {}", dir.display()));
    let open = std::fs::File::open(dir).map_err(context())?;
    // SAFETY: the descriptor is open during the call, which touches no memory.
    match unsafe { libc::syncfs(open.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(context()(io::Error::last_os_error())),
    }
}

/// The way of users who may not call umount2 themselves.
fn fusermount(dir: &Path, lazy: bool) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.env("LC_ALL", "C").arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = match command.arg("--").arg(dir).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Other(format!(
                "unmounting {} needs root or the program fusermount3: install the package fuse3",
                dir.display()
            )));
        }
        Err(error) => return Err(Error::io("running fusermount3")(error)),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(if said.contains("busy") {
        busy(dir)
    } else {
        Error::Other(format!("cannot unmount {}: {}", dir.display(), said.trim()))
    })
}

fn busy(dir: &Path) -> Error {
    let dir = dir.display();
    Error::Other(format!(
        "{dir} is in use: close what is open there (`fuser -vm {dir}` lists it) and try again, \
         or unmount lazily"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table_are_understood() {
        let table = b"22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
            90 22 0:51 / /mnt/a\\040b\\134c rw shared:7 master:2 - fuse.laconicfs /st\\040ore rw,user_id=0\n\
            short line\n\
            91 22 0:52 / /mnt rw - tmpfs none rw\n";
        let mounts: Vec<_> = parse(table).collect();
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[1].dir, Path::new("/mnt/a b\\c"));
        assert_eq!(mounts[1].device, "0:51");
        assert_eq!(mounts[1].fstype, FSTYPE);
        assert_eq!(mounts[1].source, "/st ore");
        assert_eq!(mounts[1].options, "rw,rw,user_id=0");
        assert_eq!(mounts[2].fstype, "tmpfs");
    }

    #[test]
    fn the_root_is_mounted_and_a_fresh_directory_is_not() {
        assert!(mounted_on(Path::new("/")).unwrap().is_some());
        let dir = tempfile::tempdir().unwrap();
        let dir = resolve(dir.path()).unwrap();
        assert_eq!(mounted_on(&dir).unwrap(), None);
        // Refused or not a mount point, according to who runs the test.
        assert!(unmount(&dir, false).is_err());
    }
}
