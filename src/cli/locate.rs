//! From a path on the command line to the store it means.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::exit::{Exit, Failure, failure};
use crate::control::{self, Ask, Client};
use crate::mount;
use crate::store::Superblock;
use crate::usage::Target;

/// What a path turned out to be.
pub enum Found {
    /// A store that a process has open, by its mount or by its directory.
    Open(Open),
    /// A directory that may be a store; nobody answers for it.
    Closed(PathBuf),
}

/// A store that a process has open.
pub struct Open {
    client: Client,
}

/// Looks at `path`: a mount point (or anything in it), or a store.
pub fn find(path: &Path) -> Result<Found> {
    let shown = path.display();
    let absolute = match mount::resolve(path) {
        Ok(absolute) => absolute,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(failure(Exit::NotAStore, format!("{shown} does not exist")));
        }
        Err(error) => return Err(error).with_context(|| format!("looking for {shown}")),
    };
    if let Some(mounted) = mount::holding(&absolute)? {
        let socket = control::socket_path(Path::new(&mounted.source));
        let client = Client::connect(&socket).with_context(|| {
            format!(
                "the process behind the mount on {} does not answer (if it has died: \
                 `laconicfs umount --lazy {0}`, then mount again)",
                mounted.dir.display()
            )
        })?;
        return Ok(Found::Open(Open { client }));
    }
    Ok(by_store(absolute))
}

/// A store's directory, by its canonical path.
fn by_store(store: PathBuf) -> Found {
    // A socket that nobody listens at is left over from a process that was
    // killed: the store is closed.
    match Client::connect(&control::socket_path(&store)) {
        Ok(client) => Found::Open(Open { client }),
        Err(_) => Found::Closed(store),
    }
}

/// A file or folder of a volume on the command line, and the store that it is
/// of: `PATH` in a mount, a mount or a store as a whole, or `STORE:PATH`.
pub fn target(path: &Path) -> Result<(PathBuf, Target)> {
    let shown = path.display();
    // As it stands first: names may have colons.
    match mount::resolve(path) {
        Ok(absolute) => {
            if let Some(mounted) = mount::holding(&absolute)? {
                let found = std::fs::symlink_metadata(path)
                    .with_context(|| format!("looking at {shown}"))?;
                let target = Target {
                    name: path.into(),
                    ino: found.ino(),
                    path: PathBuf::new(),
                };
                return Ok((mounted.source.into(), target));
            }
            Superblock::read(&absolute)?;
            return Ok((absolute, Target::whole(path)));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("looking for {shown}")),
    }
    let bytes = path.as_os_str().as_bytes();
    let colons = bytes.iter().enumerate().filter(|(_, byte)| **byte == b':');
    for (at, _) in colons {
        let store = Path::new(OsStr::from_bytes(&bytes[..at]));
        if let Ok(absolute) = mount::resolve(store)
            && Superblock::read(&absolute).is_ok()
        {
            let target = Target {
                path: OsStr::from_bytes(&bytes[at + 1..]).into(),
                ..Target::whole(path)
            };
            return Ok((absolute, target));
        }
    }
    Err(failure(Exit::NotAStore, format!("{shown} does not exist")))
}

/// The one store that all paths are of, and what they are in it.
pub fn targets(paths: &[PathBuf]) -> Result<(Found, Vec<Target>)> {
    let mut all: Vec<Target> = Vec::new();
    let mut store: Option<PathBuf> = None;
    for path in paths {
        let (of, target) = self::target(path)?;
        if let (Some(store), Some(first)) = (&store, all.first())
            && *store != of
        {
            return Err(failure(
                Exit::Usage,
                format!(
                    "{} and {} are in different stores: ask for each by itself",
                    first.name.display(),
                    path.display()
                ),
            ));
        }
        store = Some(of);
        all.push(target);
    }
    match store {
        Some(store) => Ok((by_store(store), all)),
        None => Err(failure(Exit::Usage, "name a file or folder")),
    }
}

/// The canonical path of a store's directory, for commands that open it
/// themselves.
pub fn store(path: &Path) -> Result<PathBuf> {
    match path.canonicalize() {
        Ok(path) => {
            let mounted = mount::holding(&path)?;
            // A store may rest in a mounted volume like any other directory.
            match mounted.filter(|_| !path.join("superblock").exists()) {
                None => Ok(path),
                Some(mounted) => Err(failure(
                    Exit::InUse,
                    format!(
                        "{} is no store: the store {} is mounted on {}; unmount it first \
                         (`laconicfs umount {2}`), then name the store",
                        path.display(),
                        mounted.source,
                        mounted.dir.display(),
                    ),
                )),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(failure(
            Exit::NotAStore,
            format!(
                "{0} does not exist; make a store with: laconicfs mkfs {0}",
                path.display()
            ),
        )),
        Err(error) => Err(error).with_context(|| format!("looking for {}", path.display())),
    }
}

impl Open {
    /// Asks the process; a failure over there is one here.
    pub fn ask(&mut self, ask: Ask, progress: &mut dyn FnMut(Value)) -> Result<Value> {
        self.client.ask(ask, progress)?.map_err(|failed| {
            anyhow::Error::new(Failure {
                exit: Exit::from_status(failed.exit),
                message: failed.message,
            })
        })
    }

    /// The same for an answer of a known kind.
    pub fn ask_for<T: DeserializeOwned>(&mut self, ask: Ask) -> Result<T> {
        let value = self.ask(ask, &mut |_| ())?;
        serde_json::from_value(value).context("the answer of the mount is malformed")
    }
}

impl From<Client> for Open {
    fn from(client: Client) -> Self {
        Self { client }
    }
}
