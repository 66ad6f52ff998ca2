//! Do the rows of a volume agree with each other?

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::store::Row;
use crate::tier::{self, SPACE, base_of, space_of};

use super::rows::{Dirent, SnapshotRow, SnapshotState};
use super::*;

/// Rows read at a time.
const PAGE: usize = 4096;

/// Problems described in words; more are only counted.
const DESCRIBED: usize = 1000;

/// What is known of an inode.
struct Seen {
    inode: Inode,
    /// Entries that lead to it.
    names: u64,
    /// Entries in it, and those of them that are directories.
    entries: u64,
    subdirs: u64,
    /// Rows of extended attributes.
    xattrs: u64,
    orphan: bool,
}

#[derive(Default)]
struct Findings {
    problems: Vec<String>,
    more: u64,
}

impl Findings {
    fn add(&mut self, problem: String) {
        match self.problems.len() < DESCRIBED {
            true => self.problems.push(problem),
            false => self.more += 1,
        }
    }
}

impl Volume {
    /// Walks every row and returns a sentence for each inconsistency, those
    /// of the tier included; nothing is read of values. Nobody should change
    /// the volume meanwhile, nor drain it: what changes while it is looked at
    /// may look wrong. Waits for the disk, always.
    pub fn check(&self) -> Result<Vec<String>> {
        match self.core.tier.sync() {
            Ok(()) | Err(Error::ReadOnly) => {}
            Err(error) => return Err(error),
        }
        let mut found = Findings::default();
        let snapshots = self.check_snapshots(&mut found)?;
        let mut inodes = self.check_inodes(&snapshots, &mut found)?;
        self.check_entries(&snapshots, &mut inodes, &mut found)?;
        self.check_orphans(&snapshots, &mut inodes, &mut found)?;
        self.check_xattrs(&snapshots, &mut inodes, &mut found)?;
        for (ino, seen) in &inodes {
            check_links(*ino, seen, &mut found);
        }
        check_tree(&inodes, &mut found);
        self.check_chunks(&snapshots, &inodes, &mut found)?;
        self.check_counters(&inodes, &snapshots, &mut found)?;
        let tier = tier::check(&**self.core.tier.store())?;
        found.more += tier.problem_count - tier.problems.len() as u64;
        tier.problems.into_iter().for_each(|p| found.add(p));
        if found.more > 0 {
            found
                .problems
                .push(format!("{} more problems of these kinds", found.more));
        }
        Ok(found.problems)
    }

    /// The snapshots by their spaces.
    fn check_snapshots(&self, found: &mut Findings) -> Result<Snapshots> {
        let mut snapshots = Snapshots::new();
        self.each_row(Table::Meta, |key, row| {
            let Ok(space) = rows::parse_snapshot_key(key) else {
                return;
            };
            match SnapshotRow::decode(row) {
                Ok(row) => drop(snapshots.insert(space, row)),
                Err(error) => found.add(format!("snapshot {space}: {error}")),
            }
        })?;
        Ok(snapshots)
    }

    fn each_row(&self, table: Table, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let mut from = Vec::new();
        loop {
            let page: Vec<Row> = self.core.tier.run(|op| op.scan(table, &from, None, PAGE))?;
            for (key, row) in &page {
                each(key, row);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), &[0]].concat(),
                _ => return Ok(()),
            }
        }
    }

    fn check_inodes(
        &self,
        snapshots: &Snapshots,
        found: &mut Findings,
    ) -> Result<BTreeMap<u64, Seen>> {
        let mut inodes = BTreeMap::new();
        self.each_row(Table::Inode, |key, row| {
            let ino = rows::parse_ino(key).unwrap_or(0);
            if is_unfinished(snapshots, key) {
                return;
            }
            let space = space_of(ino);
            if space > 0 && !snapshots.contains_key(&space) {
                return found.add(format!("inode {ino} belongs to no snapshot"));
            }
            match Inode::decode(row) {
                Ok(mut inode) if ino % SPACE >= ROOT && key.len() == 8 => {
                    inode.parent = snapshots::parent_in(ino, &inode);
                    let seen = Seen {
                        inode,
                        names: 0,
                        entries: 0,
                        subdirs: 0,
                        xattrs: 0,
                        orphan: false,
                    };
                    inodes.insert(ino, seen);
                }
                Ok(_) => found.add(format!("inode {key:02x?}: its number is malformed")),
                Err(error) => found.add(format!("inode {ino}: {error}")),
            }
        })?;
        Ok(inodes)
    }

    fn check_entries(
        &self,
        snapshots: &Snapshots,
        inodes: &mut BTreeMap<u64, Seen>,
        found: &mut Findings,
    ) -> Result<()> {
        let mut same_hash: (u64, u64, HashSet<Vec<u8>>) = (0, 0, HashSet::new());
        self.each_row(Table::Dirent, |key, row| {
            if is_unfinished(snapshots, key) {
                return;
            }
            let entry = rows::parse_ino(key).and_then(|p| Ok((p, Dirent::decode(key, row)?)));
            let (parent, entry) = match entry {
                Ok(entry) => entry,
                Err(error) => return found.add(format!("entry {key:02x?}: {error}")),
            };
            let name = String::from_utf8_lossy(&entry.name);
            let name = format!("the entry {name:?} of directory {parent}");
            let first = rows::first_cookie(&entry.name);
            let named = change::check_name(&entry.name).is_ok();
            if !named || !(first..first + rows::SAME_HASH as u64).contains(&entry.cookie) {
                found.add(format!("{name} has the wrong key: it cannot be found"));
            }
            if (same_hash.0, same_hash.1) != (parent, first) {
                same_hash = (parent, first, HashSet::new());
            }
            if !same_hash.2.insert(entry.name.clone()) {
                found.add(format!("{name} is there twice"));
            }
            let is_dir = entry.file_type == FileType::Directory;
            match inodes.get_mut(&parent) {
                Some(dir) if dir.inode.is_dir() => {
                    dir.entries += 1;
                    dir.subdirs += u64::from(is_dir);
                }
                Some(_) => found.add(format!("{name} is in an inode that is no directory")),
                None => found.add(format!("{name} is in a directory that is missing")),
            }
            match inodes.get_mut(&entry.ino) {
                Some(seen) => {
                    seen.names += 1;
                    if seen.inode.file_type != entry.file_type {
                        found.add(format!("{name} has another type than its inode"));
                    }
                    if is_dir && seen.inode.parent != parent {
                        found.add(format!(
                            "{name} leads to a directory whose parent is {}",
                            seen.inode.parent
                        ));
                    }
                }
                None => found.add(format!("{name} leads to inode {}, missing", entry.ino)),
            }
        })
    }

    fn check_orphans(
        &self,
        snapshots: &Snapshots,
        inodes: &mut BTreeMap<u64, Seen>,
        found: &mut Findings,
    ) -> Result<()> {
        self.each_row(Table::Orphan, |key, row| {
            if is_unfinished(snapshots, key) {
                return;
            }
            let seen = rows::parse_ino(key)
                .ok()
                .and_then(|ino| inodes.get_mut(&ino));
            match seen {
                Some(seen) if row == rows::ORPHAN => seen.orphan = true,
                Some(_) => found.add(format!("orphan {key:02x?}: its row is malformed")),
                None => found.add(format!("orphan {key:02x?} is no inode")),
            }
        })
    }

    fn check_xattrs(
        &self,
        snapshots: &Snapshots,
        inodes: &mut BTreeMap<u64, Seen>,
        found: &mut Findings,
    ) -> Result<()> {
        self.each_row(Table::Xattr, |key, _| {
            if is_unfinished(snapshots, key) {
                return;
            }
            match rows::parse_ino(key)
                .ok()
                .and_then(|ino| inodes.get_mut(&ino))
            {
                Some(seen) => seen.xattrs += 1,
                None => found.add(format!("attribute {key:02x?} belongs to no inode")),
            }
        })
    }

    /// Chunks of files as counted, none behind their ends, none without file.
    fn check_chunks(
        &self,
        snapshots: &Snapshots,
        inodes: &BTreeMap<u64, Seen>,
        found: &mut Findings,
    ) -> Result<()> {
        for (ino, seen) in inodes {
            // What waits to be freed may be freed in part.
            if seen.inode.nlink == 0 || seen.inode.file_type != FileType::Regular {
                continue;
            }
            let Inode { size, chunks, .. } = seen.inode;
            match self.count_chunks(*ino, size) {
                Ok((stored, behind)) => {
                    if stored != chunks {
                        found.add(format!("inode {ino} has {stored} chunks, not {chunks}"));
                    }
                    if behind {
                        found.add(format!("inode {ino} has chunks behind its end"));
                    }
                }
                Err(error) => found.add(format!("chunks of inode {ino}: {error}")),
            }
        }
        let mut from = Some(0);
        while let Some(ino) = from {
            let key = rows::inode_key(ino);
            let next = self
                .core
                .tier
                .run(|op| op.scan(Table::Cmap, &key, None, 1))?;
            let Some((key, _)) = next.first() else { break };
            let Ok(ino) = rows::parse_ino(key) else {
                break; // The tier's check speaks of that.
            };
            if is_unfinished(snapshots, key) {
                from = Some(base_of(space_of(ino) + 1));
                continue;
            }
            match inodes.get(&ino).map(|seen| seen.inode.file_type) {
                Some(FileType::Regular) => {}
                Some(_) => found.add(format!("inode {ino} is no file but has chunks")),
                None => found.add(format!("there are chunks of inode {ino}, which is missing")),
            }
            from = ino.checked_add(1);
        }
        Ok(())
    }

    /// How many chunks a file has, and whether any lies behind `size`.
    fn count_chunks(&self, ino: u64, size: u64) -> Result<(u64, bool)> {
        let chunk = self.core.tier.chunk_size() as u64;
        let max = self.core.max_size();
        let (mut at, mut chunks, mut last) = (0, 0, 0);
        loop {
            let next = self.core.tier.run(|op| {
                let Some(data) = op.next_data(ino, at, max)? else {
                    return Ok(None);
                };
                let page = data.saturating_add(chunk << 14).min(max);
                Ok(Some((data, op.next_hole(ino, data, page)?)))
            })?;
            let Some((data, hole)) = next else { break };
            chunks += (hole - data).div_ceil(chunk);
            last = hole.next_multiple_of(chunk);
            at = hole;
        }
        Ok((chunks, last > size.next_multiple_of(chunk)))
    }

    fn check_counters(
        &self,
        inodes: &BTreeMap<u64, Seen>,
        snapshots: &Snapshots,
        found: &mut Findings,
    ) -> Result<()> {
        let kept = self.core.tier.run(|op| op.get(Table::Meta, rows::VOLUME))?;
        let kept = match kept.map(|row| Counters::decode(&row)) {
            Some(Ok(kept)) => kept,
            Some(Err(error)) => {
                found.add(error.to_string());
                return Ok(());
            }
            None => {
                found.add("the volume's row is missing".into());
                return Ok(());
            }
        };
        let mut counted: BTreeMap<u32, Counters> = BTreeMap::new();
        for (ino, seen) in inodes {
            let nothing = Counters {
                totals: Totals::default(),
                ..kept.clone()
            };
            let counters = counted.entry(space_of(*ino)).or_insert(nothing);
            counters.count(&seen.inode, 1);
        }
        let totals = |space: u32| counted.get(&space).map(|counters| counters.totals);
        let compare = |found: &mut Findings, what: &str, space, said| {
            let counted = totals(space).unwrap_or_default();
            if counted != said {
                found.add(format!(
                    "the totals{what} say {said:?}, there are {counted:?}"
                ));
            }
        };
        compare(found, "", 0, kept.totals);
        for (space, row) in snapshots {
            if row.state == SnapshotState::Whole {
                let what = format!(" of the snapshot {:?}", row.name);
                compare(found, &what, *space, row.totals);
            }
            if *space >= kept.next_space {
                found.add(format!("snapshot {space} has a number not given out yet"));
            }
        }
        match inodes.range(..SPACE).next_back() {
            Some((last, _)) if *last >= kept.next_ino => {
                found.add(format!("inode {last} has a number not given out yet"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The snapshots by their spaces.
type Snapshots = BTreeMap<u32, SnapshotRow>;

/// Whether the row of a key belongs to a snapshot that is being made,
/// received or removed: such rows need not agree yet.
fn is_unfinished(snapshots: &Snapshots, key: &[u8]) -> bool {
    let space = rows::parse_ino(key).map_or(0, space_of);
    snapshots
        .get(&space)
        .is_some_and(|row| row.state != SnapshotState::Whole)
}

/// Compares what an inode says of itself with what leads to it and lies in it.
fn check_links(ino: u64, seen: &Seen, found: &mut Findings) {
    let inode = &seen.inode;
    let mut count = |what: &str, said: u64, counted: u64| {
        if said != counted {
            found.add(format!(
                "inode {ino} says {said} {what}, there are {counted}"
            ));
        }
    };
    count("extended attributes", inode.xattrs.into(), seen.xattrs);
    if inode.is_dir() {
        count("entries", inode.size, seen.entries);
        let root = ino % SPACE == ROOT;
        let live = root || inode.nlink > 0;
        count("names", u64::from(live && !root), seen.names);
        let links = if live { 2 + seen.subdirs } else { 0 };
        count("links", inode.nlink.into(), links);
    } else {
        count("names", inode.nlink.into(), seen.names);
    }
    if seen.orphan != (inode.nlink == 0) {
        found.add(match seen.orphan {
            true => format!("inode {ino} has names but waits to be freed"),
            false => format!("inode {ino} has no name but does not wait to be freed"),
        });
    }
}

/// Every directory with a name hangs on the root.
fn check_tree(inodes: &BTreeMap<u64, Seen>, found: &mut Findings) {
    let parent = |ino: u64| match inodes.get(&ino) {
        Some(seen) if seen.inode.is_dir() && seen.inode.nlink > 0 => Some(seen.inode.parent),
        _ => None,
    };
    if parent(ROOT) != Some(ROOT) {
        found.add("the root directory is missing or not its own parent".into());
    }
    let mut known = HashMap::from([(ROOT, true)]);
    let roots = inodes.keys().filter(|ino| **ino % SPACE == ROOT);
    known.extend(roots.map(|root| (*root, true)));
    for (ino, seen) in inodes {
        if !seen.inode.is_dir() || seen.inode.nlink == 0 {
            continue;
        }
        let mut path = Vec::new();
        let mut at = Some(*ino);
        let hangs = loop {
            let Some(dir) = at else { break false };
            if let Some(hangs) = known.get(&dir) {
                break *hangs;
            }
            // Until more is known: a way that comes back here is a circle.
            known.insert(dir, false);
            path.push(dir);
            at = parent(dir);
        };
        for dir in path {
            known.insert(dir, hangs);
        }
        if !hangs {
            found.add(format!("directory {ino} does not hang on the root"));
        }
    }
}
