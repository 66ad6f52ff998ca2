//! `STORE|DIR[:PATH]`: a tree of files in a store, mounted or not.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::exit::{Exit, failure};
use super::locate::{self, Found};
use crate::control::Ask;
use crate::filesystem::Report;
use crate::mount;

/// Where the files are.
pub enum Place {
    /// Below a path in the volume of a store that nobody has open.
    Stored { store: PathBuf, path: PathBuf },
    /// Plain files: those of a mount.
    Mounted { store: PathBuf, dir: PathBuf },
}

/// The place that an argument names.
pub fn find(argument: &Path) -> Result<Place> {
    let (root, path) = split(argument);
    match locate::find(&root)? {
        Found::Closed(store) => Ok(Place::Stored { store, path }),
        Found::Open(mut open) => {
            let report: Report = open.ask_for(Ask::Stat)?;
            let Some(mounted) = report.mounted else {
                return Err(failure(
                    Exit::InUse,
                    format!(
                        "{} is being mounted or unmounted; try again",
                        root.display()
                    ),
                ));
            };
            // A folder in the mount names itself; the store its whole volume.
            let named = mount::resolve(&root)?;
            let dir = match named.starts_with(&mounted.dir) {
                true => named,
                false => mounted.dir,
            };
            let below = path.strip_prefix("/").unwrap_or(&path);
            Ok(Place::Mounted {
                store: report.store,
                dir: dir.join(below),
            })
        }
    }
}

/// What is before the last colon and the path behind it, unless all of it is
/// the path of something that is there.
fn split(argument: &Path) -> (PathBuf, PathBuf) {
    let bytes = argument.as_os_str().as_bytes();
    let colon = bytes.iter().rposition(|byte| *byte == b':');
    match colon {
        Some(at) if at > 0 && argument.symlink_metadata().is_err() => {
            let part = |bytes| PathBuf::from(OsStr::from_bytes(bytes));
            (part(&bytes[..at]), part(&bytes[at + 1..]))
        }
        _ => (argument.into(), PathBuf::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_divides_unless_it_is_in_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let named = dir.path().join("a:b");
        std::fs::create_dir(&named).unwrap();
        assert_eq!(split(&named), (named.clone(), PathBuf::new()));
        let argument = dir.path().join("store:x/y");
        let expected = (dir.path().join("store"), PathBuf::from("x/y"));
        assert_eq!(split(&argument), expected);
        let argument = PathBuf::from("/none");
        assert_eq!(split(&argument), (argument.clone(), PathBuf::new()));
    }
}
