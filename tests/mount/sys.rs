//! The system calls that std does not offer.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn open(path: &Path, flags: i32) -> io::Result<File> {
    let path = c(path);
    // SAFETY: a C string that lives across the call.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
    match fd {
        0.. => {
            // SAFETY: just opened, and owned by nobody else.
            Ok(unsafe { File::from_raw_fd(fd) })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn seek(file: &File, offset: u64, whence: i32) -> io::Result<u64> {
    // SAFETY: takes no pointers.
    let at = unsafe { libc::lseek(file.as_raw_fd(), offset as i64, whence) };
    u64::try_from(at).map_err(|_| io::Error::last_os_error())
}

pub fn allocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: takes no pointers.
    done(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) })
}

/// Copies at given offsets; returns how much.
pub fn copy_range(
    from: &File,
    mut from_at: i64,
    to: &File,
    mut to_at: i64,
    len: usize,
) -> io::Result<usize> {
    // SAFETY: both offsets live across the call.
    let copied = unsafe {
        libc::copy_file_range(
            from.as_raw_fd(),
            &mut from_at,
            to.as_raw_fd(),
            &mut to_at,
            len,
            0,
        )
    };
    usize::try_from(copied).map_err(|_| io::Error::last_os_error())
}

pub fn rename(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (from, to) = (c(from), c(to));
    // SAFETY: both are C strings that live across the call.
    done(unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            flags,
        )
    })
}

pub fn make_node(path: &Path, mode: u32, device: u64) -> io::Result<()> {
    let path = c(path);
    // SAFETY: a C string that lives across the call.
    done(unsafe { libc::mknod(path.as_ptr(), mode, device) })
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8], flags: i32) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    // SAFETY: C strings and a slice that live across the call.
    done(unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    })
}

pub fn remove_xattr(path: &Path, name: &str) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    // SAFETY: C strings that live across the call.
    done(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) })
}

pub fn xattr(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    let mut value = vec![0; 70000];
    // SAFETY: C strings and a buffer of the length given, alive across the call.
    let len = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    value.truncate(len);
    Ok(value)
}

pub fn list_xattrs(path: &Path) -> io::Result<Vec<String>> {
    let path = c(path);
    let mut names = vec![0u8; 70000];
    // SAFETY: a C string and a buffer of the length given, alive across the call.
    let len = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    Ok(names[..len]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect())
}

const FS_IOC_GETFLAGS: libc::c_ulong = 0x8008_6601;
const FS_IOC_SETFLAGS: libc::c_ulong = 0x4008_6602;

pub fn flags(file: &File) -> io::Result<u32> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the call writes an int, which fits a long.
    done(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFLAGS, &mut flags) })?;
    Ok(flags as u32)
}

pub fn set_flags(file: &File, flags: u32) -> io::Result<()> {
    let flags = libc::c_long::from(flags);
    // SAFETY: the call reads an int from a long.
    done(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_SETFLAGS, &flags) })
}

/// A shared, writable mapping of a file's first bytes.
pub struct Map {
    at: *mut libc::c_void,
    len: usize,
}

impl Map {
    pub fn new(file: &File, len: usize) -> io::Result<Map> {
        // SAFETY: the kernel chooses the place; nothing else is mapped there.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Map { at, len })
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped readable and writable for `len` bytes until drop, and
        // borrowed through `self` alone.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.len) }
    }

    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the range is mapped.
        done(unsafe { libc::msync(self.at, self.len, libc::MS_SYNC) })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` and not used any more.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

/// Mounts a FUSE file system whose daemon is dead at once.
pub fn dead_mount(dir: &Path) -> io::Result<()> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let data = CString::new(format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        device.as_raw_fd()
    ))
    .unwrap();
    let (source, fstype, dir) = (c"dead", c"fuse.laconicfs", c(dir));
    // SAFETY: C strings that live across the call.
    done(unsafe {
        libc::mount(
            source.as_ptr(),
            dir.as_ptr(),
            fstype.as_ptr(),
            0,
            data.as_ptr().cast(),
        )
    })
}
