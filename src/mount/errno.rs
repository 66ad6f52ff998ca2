//! The one place where errors become errnos.

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
        _ => Errno::EIO,
    }
}

/// The errno for `error`, which is logged when a bare `EIO` would hide what
/// happened. `what` names the operation, the file and the range.
pub(super) fn report(error: &Error, what: impl FnOnce() -> String) -> Errno {
    let errno = errno(error);
    if errno == Errno::EIO {
        log::error!("{}: {error}", what());
    }
    errno
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
}
