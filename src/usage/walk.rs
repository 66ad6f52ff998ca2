//! From what a command names to inodes, and what lies below them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::volume::{Attr, FileType, ROOT, Volume};

/// Entries of a directory read at a time.
const ENTRIES: usize = 256;

/// A file or directory of a volume, as a command names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// What it is called in reports.
    pub name: PathBuf,
    /// Its inode, where the one who asks has looked; else the root's.
    #[serde(default = "root")]
    pub ino: u64,
    /// Where it is from there on.
    #[serde(default)]
    pub path: PathBuf,
}

fn root() -> u64 {
    ROOT
}

impl Target {
    /// The whole volume.
    pub fn whole(name: &Path) -> Target {
        Target {
            name: name.into(),
            ino: ROOT,
            path: PathBuf::new(),
        }
    }

    /// Where it leads.
    pub fn find(&self, volume: &Volume) -> Result<Attr> {
        let missing = |error| match error {
            Error::NotFound | Error::NotDirectory => {
                Error::Other(format!("there is no {} in the volume", self.name.display()))
            }
            error => error,
        };
        let mut attr = volume.attr(self.ino).map_err(missing)?;
        for part in self.path.components() {
            attr = match part {
                Component::Normal(name) => {
                    volume.lookup(attr.ino, name.as_bytes()).map_err(missing)?
                }
                Component::ParentDir => volume.lookup(attr.ino, b"..").map_err(missing)?,
                _ => attr,
            };
        }
        Ok(attr)
    }
}

/// A step of a walk.
pub enum Step {
    /// A directory begins; what lies in it follows, then `Leave`.
    Enter,
    Leave,
    /// Anything else.
    File,
}

/// Goes through `target` and all that lies below it, in the order of names,
/// until `each` says `false`. Depth 0 is the target itself. What is removed
/// meanwhile is passed over.
pub fn walk(
    volume: &Volume,
    target: &Target,
    each: &mut dyn FnMut(&Path, usize, &Attr, Step) -> Result<bool>,
) -> Result<bool> {
    let attr = target.find(volume)?;
    visit(volume, &target.name, 0, &attr, each)
}

fn visit(
    volume: &Volume,
    path: &Path,
    depth: usize,
    attr: &Attr,
    each: &mut dyn FnMut(&Path, usize, &Attr, Step) -> Result<bool>,
) -> Result<bool> {
    if attr.file_type != FileType::Directory {
        return each(path, depth, attr, Step::File);
    }
    // Not by recursion: directories may lie deep in each other.
    let mut open = vec![Level::read(volume, path.into(), *attr)?];
    if !each(path, depth, attr, Step::Enter)? {
        return Ok(false);
    }
    while let Some(level) = open.last_mut() {
        let Some((name, attr)) = level.left.pop() else {
            let at = depth + open.len() - 1;
            if let Some(level) = open.pop()
                && !each(&level.path, at, &level.attr, Step::Leave)?
            {
                return Ok(false);
            }
            continue;
        };
        let path = level.path.join(OsStr::from_bytes(&name));
        let at = depth + open.len();
        if attr.file_type == FileType::Directory {
            match Level::read(volume, path, attr) {
                Ok(level) => {
                    if !each(&level.path, at, &attr, Step::Enter)? {
                        return Ok(false);
                    }
                    open.push(level);
                }
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        } else if !each(&path, at, &attr, Step::File)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A directory that a walk is in.
struct Level {
    path: PathBuf,
    attr: Attr,
    /// Entries still to be seen, the last one first.
    left: Vec<(Vec<u8>, Attr)>,
}

impl Level {
    fn read(volume: &Volume, path: PathBuf, attr: Attr) -> Result<Level> {
        let mut left = Vec::new();
        let mut cookie = 0;
        loop {
            let entries = volume.list_dir(attr.ino, cookie, ENTRIES)?;
            let Some((last, _)) = entries.last() else {
                break;
            };
            cookie = last.cookie;
            let named = entries
                .into_iter()
                .filter(|(entry, _)| !matches!(entry.name.as_slice(), b"." | b".."));
            left.extend(named.map(|(entry, attr)| (entry.name, attr)));
        }
        left.sort_by(|a, b| b.0.cmp(&a.0));
        Ok(Level { path, attr, left })
    }
}

/// Remembers files with several names, so that each counts once.
#[derive(Default)]
pub struct Seen(HashSet<u64>);

impl Seen {
    /// Whether this is the first time.
    pub fn first(&mut self, attr: &Attr) -> bool {
        attr.nlink < 2 || self.0.insert(attr.ino)
    }
}
