//! Snapshots: the whole volume as it was at one moment, read-only.
//!
//! A snapshot is a copy of the rows of all inodes in a space of its own (see
//! [`tier::SPACE`]), so that everything that reads an inode reads those of
//! snapshots too. Chunks are shared. Rows of directories are copied as they
//! are, with the numbers of the volume; [`Dirent`] and [`Change`] move those
//! into the space where they are read.
//!
//! Snapshots are found under `.snapshots` in the root, which is looked up but
//! not listed. A real entry of that name, made by an earlier program, stays
//! and hides them.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::rows::{Dirent, FIRST_COOKIE, SnapshotRow, SnapshotState};
use super::*;
use crate::tier::{Cursor, SPACE, SPACES, base_of, space_of};

/// The directory of snapshots: inode 0 of the first space, which is none.
pub const SNAPSHOTS: u64 = SPACE;

/// Its name in the root.
pub const SNAPSHOTS_NAME: &[u8] = b".snapshots";

/// Rows that one operation copies or removes.
const PAGE: usize = 256;

/// How long to wait for a file to be closed, fifty times.
const CLOSING: std::time::Duration = std::time::Duration::from_millis(20);

/// Longest name of a snapshot.
const LONGEST: usize = 200;

/// A snapshot, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub name: String,
    /// Thirty-two hexadecimal digits: the same wherever it was sent to.
    pub id: String,
    /// When it was made: seconds since 1970.
    pub created: i64,
    pub files: u64,
    pub directories: u64,
    pub others: u64,
    /// Sum of the sizes of the files.
    pub logical: u64,
    /// Part of a snapshot that is being received, or was cut off.
    pub partial: bool,
}

impl From<&SnapshotRow> for Snapshot {
    fn from(row: &SnapshotRow) -> Self {
        Self {
            name: row.name.clone(),
            id: row.id.iter().map(|byte| format!("{byte:02x}")).collect(),
            created: row.created.seconds,
            files: row.totals.files,
            directories: row.totals.directories,
            others: row.totals.others,
            logical: row.totals.bytes,
            partial: row.state == SnapshotState::Receiving,
        }
    }
}

/// Whether an inode belongs to a snapshot.
pub(super) fn is_fixed(ino: u64) -> bool {
    ino >= SPACE
}

/// Whether this can be a snapshot's name.
pub fn check_snapshot_name(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.len() > LONGEST
        || name.starts_with(['.', '-'])
        || name.contains('/')
        || name.chars().any(char::is_control);
    match bad {
        true => Err(Error::Other(format!(
            "{name:?} cannot name a snapshot: names have 1 to {LONGEST} bytes, do not begin with \
             a dot or dash, and contain neither slashes nor control characters"
        ))),
        false => Ok(()),
    }
}

pub(super) fn random_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    match getrandom::fill(&mut id) {
        Ok(()) => Ok(id),
        Err(error) => Err(Error::Other(format!("drawing a snapshot's id: {error}"))),
    }
}

impl Change<'_, '_> {
    /// All rows of snapshots with their spaces, whole or not.
    pub(super) fn snapshot_rows(&self) -> Result<Vec<(u32, SnapshotRow)>> {
        let (start, end) = (rows::snapshot_key(0), rows::snapshot_key(SPACES));
        self.op
            .scan(Table::Meta, &start, Some(&end), SPACES as usize)?
            .iter()
            .map(|(key, row)| Ok((rows::parse_snapshot_key(key)?, SnapshotRow::decode(row)?)))
            .collect()
    }

    fn whole_snapshots(&self) -> Result<Vec<(u32, SnapshotRow)>> {
        let mut rows = self.snapshot_rows()?;
        rows.retain(|(_, row)| row.state == SnapshotState::Whole);
        Ok(rows)
    }

    /// The snapshot of a name, if it is not on its way out.
    pub(super) fn snapshot(&self, name: &str) -> Result<Option<(u32, SnapshotRow)>> {
        let rows = self.snapshot_rows()?;
        Ok(rows
            .into_iter()
            .find(|(_, row)| row.name == name && row.state != SnapshotState::Removing))
    }

    pub(super) fn put_snapshot(&mut self, space: u32, row: &SnapshotRow) -> Result<()> {
        let key = rows::snapshot_key(space);
        self.op.put(Table::Meta, key, row.encode())
    }

    /// The directory of snapshots as an inode.
    pub(super) fn snapshots_inode(&self) -> Result<Inode> {
        let snapshots = self.whole_snapshots()?;
        let root = self.inode(ROOT)?;
        let newest = snapshots.iter().map(|(_, row)| row.created).max();
        let time = newest.unwrap_or(root.crtime);
        let mut inode = Inode::new(FileType::Directory, 0o555, root.uid, root.gid, time);
        inode.size = snapshots.len() as u64;
        inode.nlink += snapshots.len() as u32; // at most `SPACES`
        inode.parent = ROOT;
        Ok(inode)
    }

    /// The snapshots as entries of their directory, from a cookie on.
    pub(super) fn snapshot_entries(&self, cookie: u64, limit: usize) -> Result<Vec<Dirent>> {
        let snapshots = self.whole_snapshots()?.into_iter();
        let entries = snapshots.map(|(space, row)| Dirent {
            cookie: FIRST_COOKIE + u64::from(space),
            name: row.name.into_bytes(),
            ino: base_of(space) + ROOT,
            file_type: FileType::Directory,
        });
        Ok(entries
            .filter(|entry| entry.cookie >= cookie)
            .take(limit)
            .collect())
    }

    /// The entries that have no rows: `.snapshots` and those in it.
    pub(super) fn find_snapshots(&self, parent: u64, name: &[u8]) -> Result<Option<Dirent>> {
        if parent == ROOT && name == SNAPSHOTS_NAME {
            return Ok(Some(Dirent {
                cookie: FIRST_COOKIE,
                name: name.to_vec(),
                ino: SNAPSHOTS,
                file_type: FileType::Directory,
            }));
        }
        if parent != SNAPSHOTS {
            return Ok(None);
        }
        let entries = self.snapshot_entries(0, usize::MAX)?;
        Ok(entries.into_iter().find(|entry| entry.name == name))
    }

    /// The path from the root of a snapshot's own root, or of the directory of
    /// snapshots.
    pub(super) fn snapshot_path(&self, ino: u64) -> Result<Option<Vec<u8>>> {
        if ino == SNAPSHOTS {
            return Ok(Some(SNAPSHOTS_NAME.to_vec()));
        }
        let entries = self.snapshot_entries(0, usize::MAX)?;
        let found = entries.into_iter().find(|entry| entry.ino == ino);
        Ok(found.map(|entry| [SNAPSHOTS_NAME, b"/", &entry.name].concat()))
    }

    /// Takes a space that was never used.
    pub(super) fn new_space(&mut self) -> Result<u32> {
        let mut counters = self.counters()?;
        let space = counters.next_space.max(1);
        if space >= SPACES {
            return Err(Error::Other(
                "this volume has had too many snapshots; copy it to a new store with send and \
                 receive"
                    .into(),
            ));
        }
        counters.next_space = space + 1;
        self.put_counters(&counters)?;
        Ok(space)
    }

    /// Removes an inode without a name from a snapshot that is being made.
    fn drop_orphan(&mut self, ino: u64) -> Result<Option<Inode>> {
        let Some(inode) = self.row(ino)? else {
            return Ok(None);
        };
        if !self.op.free_some(ino, PAGE)? {
            return Ok(Some(inode));
        }
        for (key, _) in self.xattr_rows(ino)? {
            self.op.delete(Table::Xattr, key)?;
        }
        self.op.delete(Table::Inode, rows::inode_key(ino))?;
        self.op.delete(Table::Orphan, rows::inode_key(ino))?;
        Ok(None)
    }
}

impl Core {
    /// Removes what snapshots left that were not finished or not wholly
    /// removed. Stops when `go_on` says `false`.
    pub(super) fn remove_dead_snapshots(&self, go_on: &dyn Fn() -> bool) -> Result<()> {
        let rows = self.tier.run(|op| self.change(op).snapshot_rows())?;
        for (space, row) in rows {
            let dead = matches!(row.state, SnapshotState::Making | SnapshotState::Removing);
            let here = self.making.try_lock();
            // One that is being made or removed by someone else just now.
            if dead && here.is_some() && !self.remove_space(space, go_on)? {
                break;
            }
        }
        Ok(())
    }

    /// Says whether all is gone.
    fn remove_space(&self, space: u32, go_on: &dyn Fn() -> bool) -> Result<bool> {
        let mut cursor = Cursor::default();
        while !self
            .tier
            .run(|op| op.remove_rows(space, &mut cursor, PAGE))?
        {
            if !go_on() {
                return Ok(false);
            }
        }
        let key = rows::snapshot_key(space);
        self.tier.run(|op| op.delete(Table::Meta, key.clone()))?;
        Ok(true)
    }

    /// Ends a roll back that has begun.
    pub(super) fn finish_roll_back(&self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let begun = self.tier.run(|op| op.get(Table::Meta, rows::ROLL_BACK))?;
        let Some(begun) = begun else {
            return Ok(());
        };
        let space = rows::parse_roll_back(&begun)?;
        let (mut cursor, mut done) = (Cursor::default(), 0);
        while let Some(rows) = {
            let step =
                |op: &mut crate::tier::Op<'_>| op.overwrite_rows((space, 0), &mut cursor, PAGE);
            self.tier.run(step)?
        } {
            done += rows;
            progress(done);
        }
        self.tier.run(|op| {
            let mut change = self.change(op);
            let row = change.op.get(Table::Meta, &rows::snapshot_key(space))?;
            let row = row.ok_or_else(|| Error::Corrupt("a snapshot's row is missing".into()))?;
            let mut counters = change.counters()?;
            counters.totals = SnapshotRow::decode(&row)?.totals;
            change.put_counters(&counters)?;
            change.op.delete(Table::Meta, rows::ROLL_BACK)
        })?;
        self.tier.sync()
    }
}

fn no_snapshot(name: &str) -> Error {
    Error::Other(format!(
        "there is no snapshot {name:?}; `laconicfs snapshot list` shows those that are there"
    ))
}

impl Volume {
    /// The snapshots, in the order in which they came here.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.look(|change| {
            let mut rows = change.snapshot_rows()?;
            rows.retain(|(_, row)| {
                matches!(row.state, SnapshotState::Whole | SnapshotState::Receiving)
            });
            Ok(rows.iter().map(|(_, row)| Snapshot::from(row)).collect())
        })
    }

    /// Makes a snapshot of everything as it is at one moment during this
    /// call, while others may go on changing the volume; a file that is open
    /// without a name is not in it. It is there wholly or not at all, also
    /// after a power cut, and durable when this returns. `progress` hears how
    /// many rows are copied; it waits always.
    pub fn create_snapshot(&self, name: &str, progress: &mut dyn FnMut(u64)) -> Result<Snapshot> {
        check_snapshot_name(name)?;
        let core = &self.core;
        let _one = core.making.lock();
        let mut row = SnapshotRow {
            state: SnapshotState::Making,
            created: SystemTime::now().into(),
            id: random_id()?,
            totals: Totals::default(),
            name: name.into(),
            received: None,
        };
        let space = self.change(|change| {
            if change.snapshot(name)?.is_some() {
                return Err(Error::Other(format!(
                    "there is a snapshot {name:?} already: delete it first, or choose another name"
                )));
            }
            let space = change.new_space()?;
            change.put_snapshot(space, &row)?;
            Ok(space)
        })?;
        let made = self.fill_snapshot(space, &mut row, progress);
        core.tier.end_copy();
        if let Err(error) = made {
            // What is left of it is removed when the volume is opened, if not now.
            if let Err(error) = core.remove_space(space, &|| true) {
                log::warn!("removing half a snapshot: {error}");
            }
            return Err(error);
        }
        Ok(Snapshot::from(&row))
    }

    fn fill_snapshot(
        &self,
        space: u32,
        row: &mut SnapshotRow,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let tier = &self.core.tier;
        let counters = tier.begin_copy(space, Table::Meta, rows::VOLUME)?;
        let counters =
            counters.ok_or_else(|| Error::Corrupt("the volume's row is missing".into()))?;
        let mut counters = Counters::decode(&counters)?;
        row.created = SystemTime::now().into();
        let mut done = 0;
        while let Some(rows) = tier.copy_some(PAGE)? {
            done += rows;
            progress(done);
        }
        tier.end_copy();
        let (start, end) = (base_of(space), base_of(space + 1));
        loop {
            let (start, end) = (rows::inode_key(start), rows::inode_key(end));
            let orphans = tier.run(|op| op.scan(Table::Orphan, &start, Some(&end), PAGE))?;
            if orphans.is_empty() {
                break;
            }
            for (key, _) in orphans {
                let ino = rows::parse_ino(&key)?;
                let inode = self.look(|change| change.row(ino))?;
                while self.change(|change| change.drop_orphan(ino))?.is_some() {}
                match inode {
                    Some(inode) => counters.count(&inode, -1),
                    None => tier.run(|op| op.delete(Table::Orphan, key.clone()))?,
                }
            }
        }
        row.totals = counters.totals;
        row.state = SnapshotState::Whole;
        self.change(|change| change.put_snapshot(space, row))?;
        tier.sync()
    }

    /// Removes a snapshot and gives back what only it holds. `progress` hears
    /// how many rows are gone. Fails when files of it are open; what was begun
    /// is finished after a power cut.
    pub fn delete_snapshot(&self, name: &str, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let core = &self.core;
        let _one = core.making.lock();
        // The directory of snapshots has the first number of the first space.
        let in_use = |space| core.is_any_open(base_of(space) + ROOT..base_of(space + 1));
        // The kernel says that a file is closed when it finds the time.
        for _ in 0..50 {
            match self.look(|change| change.snapshot(name))? {
                Some((space, _)) if in_use(space) => std::thread::sleep(CLOSING),
                _ => break,
            }
        }
        let space = self.change(|change| {
            let (space, mut row) = change.snapshot(name)?.ok_or_else(|| no_snapshot(name))?;
            if in_use(space) {
                return Err(Error::Other(format!(
                    "files or folders of the snapshot {name:?} are open: close them first"
                )));
            }
            row.state = SnapshotState::Removing;
            change.put_snapshot(space, &row)?;
            Ok(space)
        })?;
        let done = std::cell::RefCell::new((0, progress));
        core.remove_space(space, &|| {
            let (rows, progress) = &mut *done.borrow_mut();
            *rows += PAGE as u64;
            progress(*rows);
            true
        })?;
        core.tier.sync()
    }

    /// Makes the volume what a snapshot is. For a volume that nobody uses:
    /// what was changed since is gone, and what is open is not found any more.
    /// Begun, it is finished at the latest when the volume is opened again.
    pub fn roll_back(&self, name: &str, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let core = &self.core;
        let _one = core.making.lock();
        if core.is_any_open(0..u64::MAX) {
            return Err(Error::Other("files are open: close them first".into()));
        }
        core.tier.sync()?;
        self.change(|change| {
            let (space, row) = change.snapshot(name)?.ok_or_else(|| no_snapshot(name))?;
            if row.state != SnapshotState::Whole {
                return Err(Error::Other(format!(
                    "the snapshot {name:?} is not wholly received yet"
                )));
            }
            let row = rows::roll_back_row(space);
            change.op.put(Table::Meta, rows::ROLL_BACK, row)
        })?;
        core.tier.sync()?;
        core.finish_roll_back(progress)
    }
}

/// The parent of a directory, as its row has it, in the space it is read in.
pub(super) fn parent_in(ino: u64, inode: &Inode) -> u64 {
    match is_fixed(ino) {
        true if ino % SPACE == ROOT => SNAPSHOTS,
        true if inode.is_dir() => inode.parent + base_of(space_of(ino)),
        _ => inode.parent,
    }
}
