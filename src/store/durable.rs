//! Making files durable, and proof that sled does so too.
//!
//! sled 0.34 ends a flush with `sync_file_range`, which moves pages towards
//! the disk but neither commits the file's metadata nor empties the disk's
//! cache: after a power cut the database may be gone. The remedy is a function
//! of that name in this program, which the linker gives to sled in place of
//! the C library's, and which calls `fdatasync`. [`calls`] counts, so that a
//! writer can prove at start-up that the replacement is in effect.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::raw::{c_int, c_uint};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

static CALLS: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// Stands in for the C library's function of this name; see the module.
/// Returns 0, or -1 with `errno` set, as the original does.
///
/// # Safety
///
/// Callable with any arguments: the kernel checks the descriptor.
// SAFETY: the symbol replaces the C library's with the same signature and a
// stronger effect, so no caller of it can tell but by its durability.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(
    fd: c_int,
    _offset: libc::off64_t,
    _len: libc::off64_t,
    _flags: c_uint,
) -> c_int {
    CALLS.fetch_add(1, Ordering::SeqCst);
    #[cfg(test)]
    let fd = if witness::see(fd) { fd } else { -1 };
    // SAFETY: fdatasync takes any number for a descriptor and touches no memory.
    let result = unsafe { libc::fdatasync(fd) };
    if result != 0 {
        FAILURES.fetch_add(1, Ordering::SeqCst);
    }
    result
}

/// How often [`sync_file_range`] has been called.
pub fn calls() -> u64 {
    CALLS.load(Ordering::SeqCst)
}

/// How many of these calls failed. What was written before a failed sync may
/// be lost although it can be read, and no later sync will tell.
pub fn failures() -> u64 {
    FAILURES.load(Ordering::SeqCst)
}

/// Makes the entries of a directory durable: what was created, renamed or
/// removed in it.
pub fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::io(format!("syncing {}", path.display())))
}

/// Sets disk blocks aside for `[offset, offset + len)` of a file without
/// changing its size. `Ok(false)` where the file system cannot do so.
pub fn set_aside(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    };
    loop {
        // SAFETY: the descriptor is open as long as `file` lives; the call
        // touches no memory.
        let result =
            unsafe { libc::fallocate64(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, offset, len) };
        if result == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(false),
            _ => return Err(error),
        }
    }
}

/// Bytes available to this process, bytes free, and the size of the file
/// system that holds `path`.
pub fn disk_space(path: &Path) -> Result<(u64, u64, u64)> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::Invalid("a path with a zero byte"))?;
    // SAFETY: all-zero bytes are a valid statvfs, which holds numbers only.
    let mut found: libc::statvfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: `name` ends with a zero byte and `found` is a whole statvfs;
    // both live through the call.
    match unsafe { libc::statvfs64(name.as_ptr(), &mut found) } {
        0 => Ok((
            found.f_bavail * found.f_frsize,
            found.f_bfree * found.f_frsize,
            found.f_blocks * found.f_frsize,
        )),
        _ => Err(Error::io(format!("looking at {}", path.display()))(
            io::Error::last_os_error(),
        )),
    }
}

/// Writes `bytes` to `path` so that a reader, or a power cut, finds the old
/// file or the new one, whole. Durable when it returns.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let directory = path.parent().unwrap_or(Path::new("."));
    let context = || format!("writing {}", path.display());
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)
        .map_err(Error::io(context()))?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(Error::io(context()))?;
    file.persist(path)
        .map_err(|error| Error::io(context())(error.error))?;
    sync_directory(directory)
}

/// Lets a test see a file as each sync finds it, and make syncs fail. What a
/// power cut leaves is one of these states with any part of what was written
/// after it.
#[cfg(test)]
pub mod witness {
    use std::collections::HashMap;
    use std::path::{Path, PathBuf};

    use parking_lot::Mutex;

    enum Watch {
        States(Vec<Vec<u8>>),
        Fail,
    }

    static WATCHES: Mutex<Option<HashMap<PathBuf, Watch>>> = Mutex::new(None);

    fn set(path: &Path, watch: Watch) {
        let mut watches = WATCHES.lock();
        let watches = watches.get_or_insert_default();
        watches.insert(path.to_owned(), watch);
    }

    /// Keeps what each sync of the file finds.
    pub fn watch(path: &Path) {
        set(path, Watch::States(Vec::new()));
    }

    /// Lets all syncs of the file fail.
    pub fn fail(path: &Path) {
        set(path, Watch::Fail);
    }

    /// The states since the last call.
    pub fn states(path: &Path) -> Vec<Vec<u8>> {
        match WATCHES.lock().as_mut().and_then(|all| all.get_mut(path)) {
            Some(Watch::States(states)) => std::mem::take(states),
            _ => Vec::new(),
        }
    }

    /// Ends what was asked for.
    pub fn forget(path: &Path) {
        if let Some(watches) = &mut *WATCHES.lock() {
            watches.remove(path);
        }
    }

    /// Whether the sync shall take place.
    pub(super) fn see(fd: i32) -> bool {
        let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{fd}")) else {
            return true;
        };
        match WATCHES.lock().as_mut().and_then(|all| all.get_mut(&path)) {
            Some(Watch::States(states)) => {
                states.extend(std::fs::read(&path));
                true
            }
            Some(Watch::Fail) => false,
            None => true,
        }
    }
}
