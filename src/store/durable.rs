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
    let fd = if witness::see(fd) && !faults::due_fd(fd) {
        fd
    } else {
        -1
    };
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
    #[cfg(test)]
    if faults::due_at(path, 0).is_some() {
        return Err(Error::io(format!("syncing {}", path.display()))(
            faults::error(),
        ));
    }
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::io(format!("syncing {}", path.display())))
}

/// Writes all of `bytes` at `offset`.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    #[cfg(test)]
    if let Some(part) = faults::due(file, bytes.len()) {
        file.write_all_at(&bytes[..part], offset)?;
        return Err(faults::error());
    }
    file.write_all_at(bytes, offset)
}

/// Makes the content of a file durable.
pub fn sync_file(file: &File) -> io::Result<()> {
    #[cfg(test)]
    if faults::due(file, 0).is_some() {
        return Err(faults::error());
    }
    file.sync_data()
}

/// Renames within a directory; durable when that has been synced.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    if faults::due_at(to, 0).is_some() {
        return Err(faults::error());
    }
    std::fs::rename(from, to)
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
    #[cfg(test)]
    if faults::due_at(path, 0).is_some() {
        return Err(Error::io(context())(faults::error()));
    }
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

/// Lets writes and syncs of a store fail at a chosen one, and every one after
/// it, as when the power goes: what a test copies afterwards is what the disk
/// holds.
#[cfg(test)]
pub mod faults {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::path::{Path, PathBuf};

    use parking_lot::Mutex;

    struct Plan {
        root: PathBuf,
        /// Operations that succeed before.
        left: u64,
        /// Operations seen.
        seen: u64,
        /// Bytes of the failing write that still reach the file, in 256ths.
        part: usize,
    }

    static PLANS: Mutex<Vec<Plan>> = Mutex::new(Vec::new());

    /// Lets the operation after `left` others below `root` fail.
    pub fn arm(root: &Path, left: u64, part: usize) {
        let root = root.to_owned();
        PLANS.lock().push(Plan {
            root,
            left,
            seen: 0,
            part,
        });
    }

    /// Ends the plan for `root`; says how many operations there were.
    pub fn disarm(root: &Path) -> u64 {
        let mut plans = PLANS.lock();
        let at = plans.iter().position(|plan| plan.root == root);
        at.map_or(0, |at| plans.remove(at).seen)
    }

    pub fn error() -> io::Error {
        io::Error::from_raw_os_error(libc::EIO)
    }

    /// Whether an operation on `path` fails, and how much of `len` bytes it
    /// still does.
    pub fn due_at(path: &Path, len: usize) -> Option<usize> {
        let mut plans = PLANS.lock();
        let plan = plans.iter_mut().find(|plan| path.starts_with(&plan.root))?;
        plan.seen += 1;
        if plan.left > 0 {
            plan.left -= 1;
            return None;
        }
        // Only the first one does something.
        Some(len * std::mem::take(&mut plan.part) / 256)
    }

    pub fn due(file: &File, len: usize) -> Option<usize> {
        if PLANS.lock().is_empty() {
            return None;
        }
        let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        due_at(&path, len)
    }

    pub fn due_fd(fd: i32) -> bool {
        if PLANS.lock().is_empty() {
            return false;
        }
        let path = std::fs::read_link(format!("/proc/self/fd/{fd}"));
        path.is_ok_and(|path| due_at(&path, 0).is_some())
    }
}
