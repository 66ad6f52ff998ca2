//! The volume: POSIX over chunks. Inodes, names, ranges, attributes.
//!
//! Knows nothing of FUSE; see [`crate::mount`] for that. Permissions are the
//! kernel's to check (`default_permissions`); everything else that POSIX asks
//! of a filesystem is done here: link counts, times, set-user-id and
//! set-group-id, what may be renamed onto what, files that are open without
//! a name.
//!
//! Names are any bytes but `/` and NUL, up to [`NAME_MAX`]. Every method is
//! one operation of the tier, and so atomic even across a power cut, unless
//! it says otherwise. A file lives while it has a name, is
//! [open](Volume::open_file), or is known to a kernel (see
//! [`Volume::counting`]); then its space is given back, piece by piece if it is
//! large, after a crash at the next open.
//!
//! A method may have to wait: for a chunk to be read and decoded, or for room
//! in the write buffer. [`Volume::now`] is the same volume with the promise
//! not to: it answers [`Error::WouldBlock`] instead, having changed nothing.
//! Methods that say that they wait always do so there too. Rows are read where
//! an operation needs them, from memory or from the store.

mod acl;
mod attributes;
mod change;
mod check;
mod content;
mod directory;
mod handles;
mod names;
mod paths;
mod policy;
mod reaper;
mod repair;
mod rows;
mod snapshots;
#[cfg(test)]
mod tests;
mod transfer;
mod types;
mod xattr;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::store::Table;
use crate::tier::Tier;

use change::Change;
use handles::Held;
use reaper::{Queue, Reaper};
use rows::{Counters, Inode};

pub use acl::is_acl;
pub use policy::compression_flags;
pub use repair::{adopt, paths, repair};
pub use snapshots::{SNAPSHOTS, SNAPSHOTS_NAME, Snapshot, check_snapshot_name};
pub use transfer::{Incoming, Receiving, SentSnapshot};
pub use types::{
    AllocateFlags, Atime, Attr, Caller, Entry, FileType, InodeFlags, Mode, NAME_MAX, OpenFlags,
    Options, ROOT, RenameFlags, SYMLINK_MAX, Seek, SetAttr, SetTime, StatFs, Totals, WriteFlags,
    XATTR_MAX, XattrFlags,
};

/// A mounted or mountable volume. Shared by all threads.
pub struct Volume {
    core: Arc<Core>,
    reaper: Arc<Reaper>,
    /// Whether methods may wait; see [`Volume::now`].
    waits: bool,
    /// Whether answers count as lookups; see [`Volume::counting`].
    counts: bool,
}

/// What all views of a volume and the reaper share.
///
/// Operations take the locks here inside the tier's, and so nothing is opened
/// or looked up between an operation's look at `held` and its end.
struct Core {
    tier: Arc<Tier>,
    options: Options,
    /// Inodes with handles or lookups.
    held: Mutex<HashMap<u64, Held>>,
    /// The last name that was searched for.
    placed: Mutex<Option<paths::Place>>,
    /// Held while a snapshot is made, removed or rolled back to.
    making: Mutex<()>,
    reaper: Queue,
}

impl Volume {
    /// Writes the root directory, owned by `uid` and `gid`, into an empty store.
    pub fn format(tier: &Tier, uid: u32, gid: u32) -> Result<()> {
        tier.run(|op| {
            if op.get(Table::Meta, rows::VOLUME)?.is_some() {
                return Err(Error::Exists);
            }
            let now = SystemTime::now().into();
            let mut root = Inode::new(FileType::Directory, 0o755, uid, gid, now);
            root.parent = ROOT;
            let mut counters = Counters {
                next_ino: ROOT + 1,
                totals: Totals::default(),
                next_space: 0,
            };
            counters.count(&root, 1);
            op.put(Table::Meta, rows::VOLUME, counters.encode())?;
            op.put(Table::Inode, rows::inode_key(ROOT), root.encode())
        })?;
        tier.sync()
    }

    /// Opens the volume that a formatted store holds.
    pub fn open(tier: Arc<Tier>, options: Options) -> Result<Arc<Volume>> {
        let row = tier.run(|op| op.get(Table::Meta, rows::VOLUME))?;
        let row = row.ok_or_else(|| {
            Error::Other("this store holds no volume: make one with `laconicfs mkfs`".into())
        })?;
        // A newer format is refused here already.
        Counters::decode(&row)?;
        let core = Arc::new(Core {
            tier,
            options,
            held: Mutex::default(),
            placed: Mutex::default(),
            making: Mutex::default(),
            reaper: Queue::default(),
        });
        let rolling = core.tier.run(|op| op.get(Table::Meta, rows::ROLL_BACK))?;
        match (rolling, options.read_only) {
            (None, _) => {}
            (Some(_), false) => core.finish_roll_back(&mut |_| ())?,
            (Some(_), true) => {
                return Err(Error::Other(
                    "the volume is half rolled back to a snapshot; mounting the store, or \
                     `laconicfs drain` of it, finishes that"
                        .into(),
                ));
            }
        }
        let reaper = Reaper::start(core.clone())?;
        Ok(Arc::new(Volume {
            core,
            reaper,
            waits: true,
            counts: false,
        }))
    }

    /// The same volume, whose methods answer [`Error::WouldBlock`] instead of
    /// waiting. For dispatchers: try here first, and hand the request to a
    /// thread that may wait if it cannot be served at once. Get it once and
    /// keep it; closing either closes both.
    pub fn now(&self) -> Arc<Volume> {
        Arc::new(Volume {
            core: self.core.clone(),
            reaper: self.reaper.clone(),
            waits: false,
            counts: self.counts,
        })
    }

    /// The same volume for a kernel, which remembers inodes: every answer that
    /// names one (by [`lookup`](Self::lookup), what makes a name, and
    /// [`read_dir_plus`](Self::read_dir_plus) but for `.` and `..`) counts as a
    /// lookup of it, and keeps it alive until as many were
    /// [forgotten](Self::forget). Lookup and count are one: nobody can remove
    /// the inode between them.
    pub fn counting(&self) -> Arc<Volume> {
        Arc::new(Volume {
            core: self.core.clone(),
            reaper: self.reaper.clone(),
            waits: self.waits,
            counts: true,
        })
    }

    pub fn tier(&self) -> &Arc<Tier> {
        &self.core.tier
    }

    pub fn totals(&self) -> Result<Totals> {
        self.look(|change| Ok(change.counters()?.totals))
    }

    /// The disk that holds the store, and how many inodes there are. Asks the
    /// disk.
    pub fn stat_fs(&self) -> Result<StatFs> {
        let block = 4096;
        let totals = self.totals()?;
        let space = self.core.tier.stats()?.space;
        let files = totals.files + totals.directories + totals.others;
        Ok(StatFs {
            block_size: block as u32,
            blocks: space.capacity / block,
            free: space.free / block,
            available: space.available / block,
            files,
            // Inode numbers never run out; rows take space as chunks do.
            files_free: space.available / 512,
            name_max: NAME_MAX as u32,
        })
    }

    /// Everything that finished before survives a power cut when this
    /// returns: syncfs(2). Waits for the disk, always.
    pub fn sync(&self) -> Result<()> {
        self.core.tier.sync()
    }

    /// Stops the reaper once it has given back what is deleted so far, within
    /// reason. The tier stays open: whoever opened it closes it. May be called
    /// again.
    pub fn close(&self) -> Result<()> {
        self.reaper.close();
        Ok(())
    }
}
