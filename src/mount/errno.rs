//! The one place where errors become errnos.

use std::fmt;

use fuser::Errno;

use crate::error::Error;

/// The errno that a program sees for `error`.
///
/// Conditions that POSIX names keep their names. Whatever else goes wrong in
/// the store is an I/O error: an `ENOENT` met on a value log must never look
/// like a missing file.
pub fn errno(error: &Error) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotDirectory => Errno::ENOTDIR,
        Error::IsDirectory => Errno::EISDIR,
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::Invalid(_) => Errno::EINVAL,
        Error::ReadOnly => Errno::EROFS,
        Error::NoSpace => Errno::ENOSPC,
        Error::FileTooBig => Errno::EFBIG,
        Error::TooManyLinks => Errno::EMLINK,
        Error::NoAttribute => Errno::ENODATA,
        Error::Range => Errno::ERANGE,
        Error::NotPermitted => Errno::EPERM,
        Error::AccessDenied => Errno::EACCES,
        Error::NotSupported => Errno::EOPNOTSUPP,
        Error::NoData => Errno::ENXIO,
        Error::NoMemory => Errno::ENOMEM,
        _ => Errno::EIO,
    }
}

/// What a request asks for: enough to name it in the log.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    what: &'static str,
    ino: u64,
    range: Option<(u64, u64)>,
    by_name: bool,
}

impl Asked {
    /// Something of the inode `ino` itself.
    pub fn of(what: &'static str, ino: u64) -> Self {
        Self {
            what,
            ino,
            range: None,
            by_name: false,
        }
    }

    /// `len` bytes from `offset` on, of the file `ino`.
    pub fn range(what: &'static str, ino: u64, offset: u64, len: u64) -> Self {
        Self {
            range: Some((offset, len)),
            ..Self::of(what, ino)
        }
    }

    /// A name in the directory `parent`.
    pub fn name(what: &'static str, parent: u64) -> Self {
        Self {
            by_name: true,
            ..Self::of(what, parent)
        }
    }

    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// The errno for `error`.
    pub fn errno(&self, error: &Error) -> Errno {
        match errno(error) {
            // What the kernel knows lives, so this is for those who come by a
            // handle kept from an earlier mount: `ESTALE` is what they expect.
            Errno::ENOENT if !self.by_name => Errno::ESTALE,
            other => other,
        }
    }
}

impl Asked {
    /// In words, with the inode's path if that is known.
    pub fn describe(&self, path: Option<&[u8]>) -> String {
        let Self { what, ino, .. } = self;
        let inode = match path {
            // Quoted: a name may hold anything, ends of lines too.
            Some(path) => format!("{:?} (inode {ino})", String::from_utf8_lossy(path)),
            None => format!("inode {ino}"),
        };
        match (self.range, self.by_name) {
            (Some((at, len)), _) => format!("{what} of {len} bytes at {at} of {inode}"),
            (None, true) => format!("{what} in directory {inode}"),
            (None, false) => format!("{what} of {inode}"),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posix_conditions_keep_their_names_and_the_rest_is_eio() {
        assert_eq!(errno(&Error::NotFound).code(), libc::ENOENT);
        assert_eq!(errno(&Error::NoSpace).code(), libc::ENOSPC);
        assert_eq!(errno(&Error::NoAttribute).code(), libc::ENODATA);
        let inner = Error::io("opening a value log")(std::io::ErrorKind::NotFound.into());
        assert_eq!(errno(&inner).code(), libc::EIO);
        assert_eq!(errno(&Error::Corrupt("x".into())).code(), libc::EIO);
    }

    #[test]
    fn a_missing_inode_is_stale_and_a_missing_name_is_not_there() {
        let inode = Asked::of("open", 5).errno(&Error::NotFound);
        assert_eq!(inode.code(), libc::ESTALE);
        let name = Asked::name("unlink", 5).errno(&Error::NotFound);
        assert_eq!(name.code(), libc::ENOENT);
    }

    #[test]
    fn the_log_names_file_and_range() {
        let asked = Asked::range("read", 17, 65536, 4096);
        assert_eq!(asked.to_string(), "read of 4096 bytes at 65536 of inode 17");
        assert_eq!(
            asked.describe(Some(b"/a\n\xff")),
            "read of 4096 bytes at 65536 of \"/a\\n\u{fffd}\" (inode 17)"
        );
        let asked = Asked::name("unlink", 5);
        assert_eq!(
            asked.describe(Some(b"/d")),
            "unlink in directory \"/d\" (inode 5)"
        );
    }
}
