//! A mounted volume: from the checks of the mount point to the last reply.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::adapter::Adapter;
use super::options::MountOptions;
use super::table::{self, Mounted};
use super::writers::Writers;
use crate::error::{Error, Result};
use crate::volume::Volume;

/// How long a fresh mount may take to answer. Generous: the machine may swap.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What the kernel may read ahead, in KiB. The FUSE handshake alone stays at
/// the kernel's default of 128, which is two chunks.
const READ_AHEAD_KB: u32 = 1024;

/// A mounted volume. All methods may be called from any thread.
///
/// Dropping it unmounts lazily: the mount point is free at once and the
/// session ends when the last file is closed.
#[derive(Debug)]
pub struct Session {
    dir: PathBuf,
    /// `major:minor` that the kernel gave the mount.
    device: String,
    end: Arc<End>,
}

/// Set once, when the session is over.
#[derive(Debug, Default)]
struct End {
    outcome: Mutex<Option<Result<(), String>>>,
    over: Condvar,
}

impl Session {
    /// The mount point, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns when the volume has been unmounted, by whomever, and no
    /// request is under way any more: the volume may be closed then.
    pub fn wait(&self) -> Result<()> {
        let mut outcome = self.end.outcome.lock();
        loop {
            if let Some(outcome) = outcome.as_ref() {
                return outcome.clone().map_err(Error::Other);
            }
            self.end.over.wait(&mut outcome);
        }
    }

    /// Whether [`wait`](Self::wait) would return at once.
    pub fn ended(&self) -> bool {
        self.end.outcome.lock().is_some()
    }

    /// Unmounts. When files are in use: an error that says so, unless `lazy`,
    /// which takes the mount away now and ends the session at the last close.
    /// Without `lazy` the session has ended when this returns `Ok`.
    pub fn unmount(&self, lazy: bool) -> Result<()> {
        if !self.ended() {
            // A mount on top of ours, or another one at our old place, is not
            // ours to take away.
            match table::mounted_on(&self.dir)? {
                Some(top) if top.device == self.device => table::unmount(&self.dir, lazy)?,
                Some(top) if self.is_mounted()? => {
                    return Err(Error::Other(format!(
                        "{} ({}) is mounted over this volume on {}: unmount that first",
                        top.source,
                        top.fstype,
                        self.dir.display()
                    )));
                }
                _ => {}
            }
        }
        if lazy { Ok(()) } else { self.wait() }
    }

    fn is_mounted(&self) -> Result<bool> {
        table::is_mounted(&self.device)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.unmount(true) {
            log::warn!("unmounting {}: {error}", self.dir.display());
        }
    }
}

/// Mounts `volume` on the directory `dir` and returns once it answers. One
/// mount of a volume at a time: its end forgets what the kernel has looked up.
pub fn mount(volume: Arc<Volume>, dir: &Path, options: &MountOptions) -> Result<Session> {
    clear_dead(dir, &options.source)?;
    let dir = check_mount_point(dir, &options.source)?;
    check_device()?;
    let writers = Arc::new(Writers::default());
    let adapter = Adapter::new(Arc::clone(&volume), options, Arc::clone(&writers))?;
    let fuse = fuser::Session::new(adapter, &dir, &options.config())
        .map_err(|error| refused(&dir, error))?;
    writers.set_notifier(fuse.notifier());

    // Dropping `fuse` on an error unmounts.
    let mounted = table::mounted_on(&dir)?;
    let session = Session {
        device: mounted.map(|m| m.device).unwrap_or_default(),
        dir,
        end: Arc::new(End::default()),
    };
    let end = Arc::clone(&session.end);
    let (place, device) = (session.dir.clone(), session.device.clone());
    std::thread::Builder::new()
        .name("mount".into())
        .spawn(move || {
            // Returns when every thread that takes requests has ended, and
            // drops the adapter, which waits for the workers.
            let outcome = fuse.run();
            // The kernel does not say so when it forgets all that it knew.
            volume.forget_all();
            let outcome = outcome.map_err(|error| {
                // Nobody answers there any more: better no mount than a dead one.
                if let Ok(Some(top)) = table::mounted_on(&place)
                    && top.device == device
                {
                    let _ = table::unmount(&place, true);
                }
                format!("the mount on {} failed: {error}", place.display())
            });
            *end.outcome.lock() = Some(outcome);
            end.over.notify_all();
        })
        .map_err(Error::io("starting a thread"))?;
    // From here on, dropping the session unmounts.
    session.answers()?;
    raise_read_ahead(&session.device);
    Ok(session)
}

impl Session {
    /// Asks for the root's attributes, from a thread that may be left behind.
    fn answers(&self) -> Result<()> {
        let dir = self.dir.clone();
        let (told, answer) = crossbeam_channel::bounded(1);
        std::thread::Builder::new()
            .name("mount-check".into())
            .spawn(move || {
                let _ = told.send(std::fs::metadata(&dir));
            })
            .map_err(Error::io("starting a thread"))?;
        match answer.recv_timeout(ANSWER_WITHIN) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Error::io("reading the root of the fresh mount")(error)),
            Err(_) => Err(Error::Other(format!(
                "the mount on {} did not answer within {} s",
                self.dir.display(),
                ANSWER_WITHIN.as_secs()
            ))),
        }
    }
}

/// Unmounts whatever laconicfs volume is mounted on `dir`, from any process.
pub fn unmount(dir: &Path, lazy: bool) -> Result<()> {
    let shown = dir.display();
    let dir = table::resolve(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Other(format!("{shown} does not exist")),
        _ => Error::io(format!("looking for {shown}"))(error),
    })?;
    match table::mounted_on(&dir)? {
        Some(Mounted { fstype, .. }) if fstype == table::FSTYPE => table::unmount(&dir, lazy),
        Some(Mounted { fstype, source, .. }) => Err(Error::Other(format!(
            "{shown} is a mount of {source} ({fstype}), not of a laconicfs volume: use umount"
        ))),
        None => Err(Error::Other(format!("nothing is mounted on {shown}"))),
    }
}

/// Takes away what a daemon that died has left on `dir`, if it served the same
/// store: whoever calls has that store open, so nobody serves it any more.
fn clear_dead(dir: &Path, source: &str) -> Result<()> {
    let dead = match std::fs::metadata(dir).and_then(|_| std::fs::read_dir(dir)) {
        Ok(_) => false,
        Err(error) => table::is_dead(&error),
    };
    if !dead {
        return Ok(());
    }
    let dir = table::resolve(dir).map_err(Error::io(format!("looking at {}", dir.display())))?;
    let mounted = table::mounted_on(&dir)?;
    if mounted.is_some_and(|m| m.fstype == table::FSTYPE && m.source == source) {
        log::warn!(
            "the daemon that served {} has died: clearing its mount",
            dir.display()
        );
        table::unmount(&dir, true)?;
    }
    Ok(())
}

/// Returns `dir` as the kernel names it, when a volume can be mounted on it.
fn check_mount_point(dir: &Path, source: &str) -> Result<PathBuf> {
    let shown = dir.display();
    let other = |text: String| Err(Error::Other(text));
    let dead = || {
        other(format!(
            "what was mounted on {shown} has died: run `umount -l {shown}` and mount again"
        ))
    };
    let metadata = match std::fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) if table::is_dead(&error) => return dead(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return other(format!(
                "the mount point {shown} does not exist: create it, or mount with --create"
            ));
        }
        Err(error) => return Err(Error::io(format!("looking at {shown}"))(error)),
    };
    if !metadata.is_dir() {
        return other(format!("the mount point {shown} is not a directory"));
    }
    let dir = std::fs::canonicalize(dir).map_err(Error::io(format!("looking at {shown}")))?;
    if let Some(mount) = table::mounted_on(&dir)? {
        // The kernel may remember the attributes of a root whose daemon is
        // gone, but not its entries.
        if mount.fstype == table::FSTYPE
            && let Err(error) = std::fs::read_dir(&dir)
            && table::is_dead(&error)
        {
            return dead();
        }
        return other(format!(
            "{shown} is in use: {} ({}) is mounted there; unmount it first",
            mount.source, mount.fstype
        ));
    }
    // The store's own files would vanish under the mount, or the mount would
    // show up inside the store.
    if let Ok(store) = std::fs::canonicalize(source)
        && (store.starts_with(&dir) || dir.starts_with(&store))
    {
        return other(format!(
            "the store {} and the mount point {shown} must not lie inside one another",
            store.display()
        ));
    }
    Ok(dir)
}

fn check_device() -> Result<()> {
    let device = "/dev/fuse";
    let opened = std::fs::File::options().read(true).write(true).open(device);
    match opened.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) => Ok(()),
        Err((Some(libc::ENOENT | libc::ENODEV | libc::ENXIO), _)) => Err(Error::Other(format!(
            "{device} is missing: install the package fuse3, or load the module with \
             `modprobe fuse`; in a container, pass the device in"
        ))),
        Err((Some(libc::EACCES | libc::EPERM), _)) => Err(Error::Other(format!(
            "{device} may not be opened: run as root, or let its permissions be rw for you"
        ))),
        Err((_, error)) => Err(Error::io(format!("opening {device}"))(error)),
    }
}

/// Says why a mount did not come about.
fn refused(dir: &Path, error: io::Error) -> Error {
    let dir = dir.display();
    let said = error.to_string();
    let said = said.trim();
    Error::Other(if error.kind() == io::ErrorKind::NotFound {
        format!(
            "cannot mount on {dir}: that needs root or the program fusermount3: install the \
             package fuse3"
        )
    } else if said.contains("user_allow_other") {
        format!(
            "cannot mount on {dir}: `allow_other` needs root, or the line user_allow_other in \
             /etc/fuse.conf"
        )
    } else {
        format!("cannot mount on {dir}: {said}")
    })
}

/// Best effort: only root may, and nothing but speed depends on it.
fn raise_read_ahead(device: &str) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KB.to_string()) {
        log::debug!("{path}: {error}");
    }
}
