//! Plain files, reached through open directories so that no link on the way
//! is ever followed.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{self as sys, AtFlags, IFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::tree::{Meta, Tree, Xattr};
use crate::error::{Error, Result};
use crate::volume::{FileType, InodeFlags};

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// FIFOs do not block, and links are not followed.
const CAREFUL: OFlags = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// The plain files below a directory.
pub struct Plain {
    root: Arc<OwnedFd>,
}

fn failed(what: &str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::io(what)(errno.into())
}

impl Plain {
    /// The tree below `path`; links are followed up to there.
    pub fn new(path: &Path) -> Result<Self> {
        let context = || Error::io(format!("opening {}", path.display()));
        let file = File::open(path).map_err(context())?;
        match file.metadata().map_err(context())?.is_dir() {
            true => Ok(Self {
                root: Arc::new(file.into()),
            }),
            false => Err(context()(ErrorKind::NotADirectory.into())),
        }
    }

    /// Device and inode of the directory that everything lies in.
    pub fn id(&self) -> Result<(u64, u64)> {
        let found = sys::fstat(&self.root).map_err(failed("looking at it"))?;
        Ok((found.st_dev, found.st_ino))
    }
}

/// A path for the calls that take no open directory: its last component is
/// looked up in the directory, whatever has happened to the directory's name.
fn through(dir: &OwnedFd, name: &[u8]) -> Vec<u8> {
    let fd = format!("/proc/self/fd/{}/", dir.as_raw_fd());
    [fd.as_bytes(), name].concat()
}

fn time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let whole = match seconds < 0 {
        true => UNIX_EPOCH.checked_sub(whole),
        false => UNIX_EPOCH.checked_add(whole),
    };
    let fraction = Duration::from_nanos(nanoseconds);
    whole
        .and_then(|whole| whole.checked_add(fraction))
        .unwrap_or(UNIX_EPOCH)
}

fn timespec(time: SystemTime) -> sys::Timespec {
    let (tv_sec, tv_nsec) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs() as i64, since.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            match before.subsec_nanos() {
                0 => (-(before.as_secs() as i64), 0),
                nanos => (-(before.as_secs() as i64) - 1, 1_000_000_000 - nanos),
            }
        }
    };
    sys::Timespec {
        tv_sec,
        tv_nsec: tv_nsec.into(),
    }
}

/// Reads something of a length that may change between the two calls.
fn sized(
    len: impl Fn() -> rustix::io::Result<usize>,
    read: impl Fn(&mut Vec<u8>) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    loop {
        let mut bytes = vec![0; len()?];
        if bytes.is_empty() {
            return Ok(bytes);
        }
        match read(&mut bytes) {
            Err(Errno::RANGE) => {}
            read => {
                bytes.truncate(read?);
                return Ok(bytes);
            }
        }
    }
}

impl Tree for Plain {
    type Dir = Arc<OwnedFd>;
    type File = File;

    fn root(&self) -> Self::Dir {
        self.root.clone()
    }

    fn list(&self, dir: &Self::Dir) -> Result<Vec<Vec<u8>>> {
        let context = || failed("reading a directory");
        let mut names = Vec::new();
        for entry in sys::Dir::read_from(dir).map_err(context())? {
            let entry = entry.map_err(context())?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn meta(&self, dir: &Self::Dir, name: &[u8]) -> Result<Option<Meta>> {
        let found = match sys::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            found => found.map_err(failed("looking at it"))?,
        };
        let file_type = FileType::from_mode(found.st_mode)
            .ok_or(Error::Invalid("this type of file is not known"))?;
        // What Linux hands out in 32 bits: 12 of the major and 20 of the minor.
        let (major, minor) = (sys::major(found.st_rdev), sys::minor(found.st_rdev));
        Ok(Some(Meta {
            file_type,
            mode: found.st_mode & 0o7777,
            uid: found.st_uid,
            gid: found.st_gid,
            rdev: minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12,
            size: found.st_size as u64,
            atime: time(found.st_atime, found.st_atime_nsec),
            mtime: time(found.st_mtime, found.st_mtime_nsec),
            #[allow(clippy::useless_conversion)] // 32 bits on aarch64
            nlink: found.st_nlink.into(),
            id: (found.st_dev, found.st_ino),
        }))
    }

    fn enter(&self, dir: &Self::Dir, name: &[u8]) -> Result<Self::Dir> {
        let open = sys::openat(dir, name, DIRECTORY, Mode::empty());
        open.map(Arc::new).map_err(failed("opening the directory"))
    }

    fn target(&self, dir: &Self::Dir, name: &[u8]) -> Result<Vec<u8>> {
        let target = sys::readlinkat(dir, name, Vec::new());
        Ok(target.map_err(failed("reading a link"))?.into_bytes())
    }

    fn xattrs(&self, dir: &Self::Dir, name: &[u8]) -> Result<Vec<Xattr>> {
        let context = || failed("reading extended attributes");
        let path = &through(dir, name)[..];
        let names = sized(
            || sys::llistxattr_query(path),
            |buffer| sys::llistxattr(path, &mut buffer[..]),
        );
        let names = match names {
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            names => names.map_err(context())?,
        };
        let mut found = Vec::new();
        for attr in names
            .split(|byte| *byte == 0)
            .filter(|attr| !attr.is_empty())
        {
            let value = sized(
                || sys::lgetxattr_query(path, attr),
                |buffer| sys::lgetxattr(path, attr, &mut buffer[..]),
            );
            match value {
                // Removed since.
                Err(Errno::NODATA) => {}
                value => found.push((attr.to_vec(), value.map_err(context())?)),
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    fn flags(&self, dir: &Self::Dir, name: &[u8]) -> Result<u32> {
        let open = sys::openat(dir, name, CAREFUL, Mode::empty());
        let open = open.map_err(failed("opening it"))?;
        match sys::ioctl_getflags(&open) {
            Ok(flags) => Ok(flags.bits() & InodeFlags::all().bits()),
            // Not every filesystem has them.
            Err(Errno::NOTTY | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => Ok(0),
            Err(errno) => Err(failed("reading its flags")(errno)),
        }
    }

    fn open(&self, dir: &Self::Dir, name: &[u8]) -> Result<File> {
        // Without touching the access time, where that is permitted.
        let flags = CAREFUL | OFlags::NOATIME;
        let open = sys::openat(dir, name, flags, Mode::empty());
        let open = match open {
            Err(Errno::PERM) => sys::openat(dir, name, CAREFUL, Mode::empty()),
            open => open,
        };
        let file = File::from(open.map_err(failed("opening it"))?);
        match file
            .metadata()
            .map_err(Error::io("looking at it"))?
            .is_file()
        {
            true => Ok(file),
            false => Err(Error::Invalid("it is no regular file any more")),
        }
    }

    fn read(&self, file: &File, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            match file.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("reading it")(error)),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn data(&self, file: &File, offset: u64) -> Result<Option<(u64, u64)>> {
        let context = || failed("looking for holes");
        let start = match sys::seek(file, SeekFrom::Data(offset)) {
            Err(Errno::NXIO) => return Ok(None),
            // A filesystem without holes.
            Err(Errno::INVAL | Errno::NOTSUP) => offset,
            start => start.map_err(context())?,
        };
        let size = sys::fstat(file).map_err(context())?.st_size as u64;
        let end = match sys::seek(file, SeekFrom::Hole(start)) {
            Err(Errno::NXIO | Errno::INVAL | Errno::NOTSUP) => size,
            end => end.map_err(context())?,
        };
        Ok((start < end).then_some((start, end)))
    }

    fn make_dir(&self, dir: &Self::Dir, name: &[u8]) -> Result<()> {
        let made = sys::mkdirat(dir, name, Mode::RWXU);
        made.map_err(failed("making the directory"))
    }

    fn create(&self, dir: &Self::Dir, name: &[u8]) -> Result<File> {
        let flags = CAREFUL | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let open = sys::openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
        open.map(File::from).map_err(failed("making the file"))
    }

    fn write(&self, file: &File, offset: u64, bytes: &[u8]) -> Result<()> {
        file.write_all_at(bytes, offset)
            .map_err(Error::io("writing the file"))
    }

    fn set_size(&self, file: &File, size: u64) -> Result<()> {
        file.set_len(size).map_err(Error::io("writing the file"))
    }

    fn symlink(&self, dir: &Self::Dir, name: &[u8], target: &[u8]) -> Result<()> {
        let made = sys::symlinkat(target, dir, name);
        made.map_err(failed("making the link"))
    }

    fn make_node(&self, dir: &Self::Dir, name: &[u8], meta: &Meta) -> Result<()> {
        let file_type = sys::FileType::from_raw_mode(u32::from(meta.file_type as u8) << 12);
        let rdev = meta.rdev;
        let device = sys::makedev(rdev >> 8 & 0xfff, rdev & 0xff | rdev >> 12 & 0xf_ff00);
        let mode = Mode::RUSR | Mode::WUSR;
        let made = sys::mknodat(dir, name, file_type, mode, device);
        made.map_err(failed("making the special file"))
    }

    fn link(&self, from: (&Self::Dir, &[u8]), to: (&Self::Dir, &[u8])) -> Result<()> {
        let made = sys::linkat(from.0, from.1, to.0, to.1, AtFlags::empty());
        made.map_err(failed("making a further name"))
    }

    fn remove(&self, dir: &Self::Dir, name: &[u8]) -> Result<()> {
        let removed = sys::unlinkat(dir, name, AtFlags::empty());
        removed.map_err(failed("removing what was there"))
    }

    fn set_owner(&self, dir: &Self::Dir, name: &[u8], meta: &Meta) -> Result<()> {
        let uid = rustix::fs::Uid::from_raw(meta.uid);
        let gid = rustix::fs::Gid::from_raw(meta.gid);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let set = sys::chownat(dir, name, Some(uid), Some(gid), flags);
        set.map_err(failed("giving it its owner"))
    }

    fn set_mode(&self, dir: &Self::Dir, name: &[u8], mode: u32) -> Result<()> {
        // chmod follows links: it gets the file itself, by descriptor, which
        // for a link is refused.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let set = sys::openat(dir, name, flags, Mode::empty()).and_then(|open| {
            let path = format!("/proc/self/fd/{}", open.as_raw_fd());
            sys::chmod(path, Mode::from_raw_mode(mode))
        });
        set.map_err(failed("setting its permissions"))
    }

    fn set_times(&self, dir: &Self::Dir, name: &[u8], meta: &Meta) -> Result<()> {
        let times = sys::Timestamps {
            last_access: timespec(meta.atime),
            last_modification: timespec(meta.mtime),
        };
        let set = sys::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW);
        set.map_err(failed("setting its times"))
    }

    fn set_xattr(&self, dir: &Self::Dir, name: &[u8], attr: &[u8], value: &[u8]) -> Result<()> {
        let path = &through(dir, name)[..];
        let set = sys::lsetxattr(path, attr, value, sys::XattrFlags::empty());
        set.map_err(failed("setting an extended attribute"))
    }

    fn remove_xattr(&self, dir: &Self::Dir, name: &[u8], attr: &[u8]) -> Result<()> {
        let removed = sys::lremovexattr(&through(dir, name)[..], attr);
        removed.map_err(failed("removing an extended attribute"))
    }

    fn set_flags(&self, dir: &Self::Dir, name: &[u8], flags: u32) -> Result<()> {
        let open = sys::openat(dir, name, CAREFUL, Mode::empty());
        let open = open.map_err(failed("opening it"))?;
        let set = sys::ioctl_getflags(&open).and_then(|before| {
            let known = IFlags::from_bits_retain(InodeFlags::all().bits());
            let flags = IFlags::from_bits_retain(flags);
            sys::ioctl_setflags(&open, before.difference(known) | flags)
        });
        set.map_err(failed("setting its flags"))
    }

    fn sync(&self) -> Result<()> {
        sys::syncfs(self.root.as_fd()).map_err(failed("flushing the disk"))
    }
}
