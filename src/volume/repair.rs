//! Putting the rows of a damaged volume in order: what lost its name is found
//! in `/lost+found`, what lost its content says so when it is read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::SystemTime;

use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::store::{ChunkId, Store, Table};
use crate::tier::{self, RUN, Run, SPACE, Writer, each_row, space_of};

use super::ROOT;
use super::rows::{self, Counters, Dirent, Inode, SnapshotRow};
use super::snapshots::{SNAPSHOTS_NAME, is_fixed};
use super::types::{FileType, Totals};

/// The name of chunks whose names are lost: no bytes have this hash.
const NAMELESS: ChunkId = ChunkId([0; 32]);

/// Holes that are filled with lost chunks in a file that lost part of its map;
/// more of them are far beyond any real file's.
const FILLED: u64 = 1 << 20;

/// What is put in order is described up to so many times.
const DESCRIBED: usize = 1000;

const LOST_FOUND: &[u8] = b"lost+found";

/// An entry, by its directory and key.
#[derive(Clone)]
struct Entry {
    key: Vec<u8>,
    ino: u64,
}

struct State<'a> {
    store: &'a dyn Store,
    writer: Writer<'a>,
    inodes: BTreeMap<u64, Inode>,
    /// Rows as they were, to write only what changes.
    before: HashMap<u64, Vec<u8>>,
    /// By directory and name.
    entries: BTreeMap<(u64, Vec<u8>), Entry>,
    /// Of these entries, with their directories.
    cookies: HashSet<(u64, u64)>,
    corrected: Vec<String>,
    /// What was put in order beside that.
    more: u64,
    chunk_size: u64,
}

/// Makes the rows of a volume agree with each other; snapshots stay as they
/// are, but for parts of chunk maps that cannot be read, and rows of snapshots
/// that are none go. Values are not looked at, [`tier::repair`] does that
/// afterwards. Returns what was put in order, in words. Nobody else may use
/// the store meanwhile.
pub fn repair(store: &dyn Store, chunk_size: u64) -> Result<Vec<String>> {
    let mut state = State {
        store,
        writer: Writer::new(store),
        inodes: BTreeMap::new(),
        before: HashMap::new(),
        entries: BTreeMap::new(),
        cookies: HashSet::new(),
        corrected: Vec::new(),
        more: 0,
        chunk_size,
    };
    state.drop_stray_spaces()?;
    let orphans = state.read_orphans()?;
    state.read_inodes()?;
    state.see_to_root();
    let counted = state.read_chunk_maps(&orphans)?;
    state.read_entries()?;
    state.attach(&orphans)?;
    state.count_chunks(&counted)?;
    state.count_xattrs()?;
    state.count_links();
    state.write(&orphans)?;
    if state.more > 0 {
        let more = format!("{} more rows put in order", state.more);
        state.corrected.push(more);
    }
    Ok(state.corrected)
}

/// Makes a file of every chunk in the value logs that no file names, for a store
/// that has lost rows. [`repair`] gives them names. Returns how many there are.
pub fn adopt(store: &dyn Store, codec: &Codec, chunk_size: usize) -> Result<u64> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let (uid, gid) = (uid.as_raw(), gid.as_raw());
    let mut writer = Writer::new(store);
    let last = last_ino(store)?;
    let mut ino = last;
    tier::strays(store, codec, chunk_size, &mut |name, row, plain_len| {
        ino += 1;
        let now = SystemTime::now().into();
        let mut inode = Inode::new(FileType::Regular, 0o600, uid, gid, now);
        inode.size = plain_len;
        inode.chunks = 1;
        let mut run = Run::default();
        run.set(0, Some(name));
        writer.put(Table::Chunk, &name.0, row)?;
        writer.put(Table::Cmap, &tier::run_key(ino, 0), run.encode())?;
        writer.put(Table::Inode, &rows::inode_key(ino), inode.encode())
    })?;
    writer.flush()?;
    Ok(ino - last)
}

/// The highest number of an inode that any row of the volume knows.
fn last_ino(store: &dyn Store) -> Result<u64> {
    let mut last = ROOT;
    let mut see = |ino: u64| {
        if space_of(ino) == 0 {
            last = last.max(ino);
        }
    };
    for table in tier::SPACE_TABLES {
        each_row(store, table, |key, row| {
            see(rows::parse_ino(key).unwrap_or(ROOT));
            if table == Table::Dirent {
                see(Dirent::decode(key, row).map_or(ROOT, |entry| entry.ino));
            }
            Ok(())
        })?;
    }
    let counters = kept_counters(store)?;
    see(counters.map_or(ROOT, |counters| counters.next_ino.saturating_sub(1)));
    Ok(last)
}

/// The counters that the store has, if they can be understood.
fn kept_counters(store: &dyn Store) -> Result<Option<Counters>> {
    let row = store.get(Table::Meta, rows::VOLUME)?;
    Ok(row.and_then(|row| Counters::decode(&row).ok()))
}

/// What a chunk map says of a file.
#[derive(Clone, Copy, Default)]
struct Counted {
    chunks: u64,
    /// One more than the last chunk's index.
    end: u64,
}

impl State<'_> {
    fn say(&mut self, what: String) {
        match self.corrected.len() < DESCRIBED {
            true => self.corrected.push(what),
            false => self.more += 1,
        }
    }

    fn now_inode(&self, file_type: FileType, mode: u32) -> Inode {
        let (uid, gid) = self
            .inodes
            .get(&ROOT)
            .map_or((0, 0), |root| (root.uid, root.gid));
        Inode::new(file_type, mode, uid, gid, SystemTime::now().into())
    }

    /// Rows of snapshots that have no row themselves.
    fn drop_stray_spaces(&mut self) -> Result<()> {
        let mut known = HashSet::from([0]);
        let mut stray = Vec::new();
        each_row(self.store, Table::Meta, |key, row| {
            if let Ok(space) = rows::parse_snapshot_key(key) {
                match SnapshotRow::decode(row) {
                    Ok(_) => drop(known.insert(space)),
                    Err(error @ Error::NewerFormat { .. }) => return Err(error),
                    Err(_) => stray.push((Table::Meta, key.to_vec())),
                }
            }
            Ok(())
        })?;
        for table in tier::SPACE_TABLES {
            each_row(self.store, table, |key, _| {
                match rows::parse_ino(key) {
                    Ok(ino) if !known.contains(&space_of(ino)) => stray.push((table, key.to_vec())),
                    _ => {}
                }
                Ok(())
            })?;
        }
        if !stray.is_empty() {
            self.say(format!("{} rows of no snapshot, dropped", stray.len()));
        }
        for (table, key) in stray {
            self.writer.delete(table, &key)?;
        }
        self.writer.flush()
    }

    fn read_orphans(&mut self) -> Result<BTreeSet<u64>> {
        let mut orphans = BTreeSet::new();
        let mut malformed = Vec::new();
        each_row(self.store, Table::Orphan, |key, row| {
            match rows::parse_ino(key) {
                Ok(ino) if is_fixed(ino) => {}
                Ok(ino) if key.len() == 8 && row == rows::ORPHAN => drop(orphans.insert(ino)),
                _ => malformed.push(key.to_vec()),
            }
            Ok(())
        })?;
        for key in malformed {
            self.say(format!("orphan {key:02x?}: malformed, dropped"));
            self.writer.delete(Table::Orphan, &key)?;
        }
        Ok(orphans)
    }

    fn read_inodes(&mut self) -> Result<()> {
        let mut malformed = Vec::new();
        let (inodes, before) = (&mut self.inodes, &mut self.before);
        each_row(self.store, Table::Inode, |key, row| {
            let ino = rows::parse_ino(key).unwrap_or(0);
            if is_fixed(ino) {
                return Ok(());
            }
            match Inode::decode(row) {
                Err(error @ Error::NewerFormat { .. }) => return Err(error),
                Ok(inode) if key.len() == 8 && ino >= ROOT => {
                    before.insert(ino, row.to_vec());
                    inodes.insert(ino, inode);
                }
                _ => malformed.push(key.to_vec()),
            }
            Ok(())
        })?;
        for key in malformed {
            self.say(format!("inode {key:02x?}: malformed, dropped"));
            self.writer.delete(Table::Inode, &key)?;
        }
        Ok(())
    }

    fn see_to_root(&mut self) {
        if !self.inodes.get(&ROOT).is_some_and(Inode::is_dir) {
            let root = self.now_inode(FileType::Directory, 0o755);
            self.inodes.insert(ROOT, root);
            self.say("the root directory was missing".into());
        }
        if let Some(root) = self.inodes.get_mut(&ROOT) {
            root.parent = ROOT;
        }
    }

    /// Chunk maps: of files that have no inode, one is made.
    fn read_chunk_maps(&mut self, orphans: &BTreeSet<u64>) -> Result<HashMap<u64, Counted>> {
        let mut counted = HashMap::<u64, Counted>::new();
        let mut changes: Vec<(Vec<u8>, Option<Run>, String)> = Vec::new();
        each_row(self.store, Table::Cmap, |key, row| {
            let Ok((ino, number)) = tier::parse_run_key(key) else {
                changes.push((key.to_vec(), None, "a chunk map without file".into()));
                return Ok(());
            };
            if is_fixed(ino) && Run::decode(row).is_ok() {
                return Ok(());
            }
            let file = self.inodes.get(&ino);
            if file.is_some_and(|inode| inode.file_type != FileType::Regular) {
                changes.push((
                    key.to_vec(),
                    None,
                    format!("chunks of inode {ino}, no file"),
                ));
                return Ok(());
            }
            let mut run = Run::decode(row).unwrap_or_else(|_| {
                let mut run = Run::default();
                for slot in 0..RUN {
                    run.set(slot, Some(NAMELESS));
                }
                let what = format!("a part of the chunk map of inode {ino} is lost");
                changes.push((key.to_vec(), Some(run.clone()), what));
                run
            });
            if is_fixed(ino) {
                return Ok(());
            }
            let first = number.saturating_mul(RUN);
            if let Some(inode) = file.filter(|inode| inode.nlink > 0 || !orphans.contains(&ino)) {
                let mut behind = false;
                for index in first..first.saturating_add(RUN) {
                    if index >= inode.size.div_ceil(self.chunk_size) {
                        behind |= run.set(index, None).is_some();
                    }
                }
                if behind {
                    let what = format!("chunks behind the end of inode {ino}");
                    changes.retain(|(other, ..)| other != key);
                    changes.push((key.to_vec(), Some(run.clone()), what));
                }
            }
            let sum = counted.entry(ino).or_default();
            for index in first..first.saturating_add(RUN) {
                if run.get(index).is_some() {
                    sum.chunks += 1;
                    sum.end = index + 1;
                }
            }
            Ok(())
        })?;
        for (key, run, what) in changes {
            self.say(what);
            match run.filter(|run| !run.is_empty()) {
                Some(run) => self.writer.put(Table::Cmap, &key, run.encode())?,
                None => self.writer.delete(Table::Cmap, &key)?,
            }
        }
        let known: HashSet<u64> = self.inodes.keys().copied().collect();
        let mut nameless: Vec<u64> = counted.keys().copied().collect();
        nameless.retain(|ino| !known.contains(ino));
        nameless.sort_unstable();
        for ino in nameless {
            let mut inode = self.now_inode(FileType::Regular, 0o600);
            // As far as files go.
            let size = counted[&ino].end.saturating_mul(self.chunk_size);
            inode.size = size.min(i64::MAX as u64);
            self.inodes.insert(ino, inode);
            self.say(format!(
                "the inode of file {ino} is lost: owner, times and exact size with it"
            ));
        }
        Ok(counted)
    }

    fn read_entries(&mut self) -> Result<()> {
        let mut dropped = Vec::new();
        let (inodes, entries) = (&self.inodes, &mut self.entries);
        let cookies = &mut self.cookies;
        let mut dirs = HashSet::new();
        each_row(self.store, Table::Dirent, |key, row| {
            if rows::parse_ino(key).is_ok_and(is_fixed) {
                return Ok(());
            }
            let decoded = rows::parse_ino(key).and_then(|p| Ok((p, Dirent::decode(key, row)?)));
            let (parent, entry) = match decoded {
                Err(error @ Error::NewerFormat { .. }) => return Err(error),
                Err(_) => {
                    dropped.push((
                        key.to_vec(),
                        format!("entry {key:02x?}: malformed, dropped"),
                    ));
                    return Ok(());
                }
                Ok(decoded) => decoded,
            };
            let shown = String::from_utf8_lossy(&entry.name).into_owned();
            let first = rows::first_cookie(&entry.name);
            let place = (parent, entry.name.clone());
            let cookie = (parent, entry.cookie);
            let why = if super::change::check_name(&entry.name).is_err()
                || !(first..first + rows::SAME_HASH as u64).contains(&entry.cookie)
            {
                Some("its key is wrong")
            } else if entries.contains_key(&place) {
                Some("the name is there twice")
            } else if !inodes.get(&parent).is_some_and(Inode::is_dir) {
                Some("its directory is lost")
            } else {
                match inodes.get(&entry.ino) {
                    None => Some("what it leads to is lost"),
                    Some(inode) if inode.is_dir() && entry.ino == ROOT => Some("it is the root"),
                    Some(inode) if inode.is_dir() && inode.parent != parent => {
                        Some("the directory lies elsewhere")
                    }
                    Some(inode) if inode.is_dir() && !dirs.insert(entry.ino) => {
                        Some("the directory has a name already")
                    }
                    Some(_) => None,
                }
            };
            match why {
                Some(why) => {
                    let what = format!(
                        "the entry {shown:?} of directory {parent} (inode {}) was dropped: {why}",
                        entry.ino
                    );
                    dropped.push((key.to_vec(), what));
                }
                None => {
                    let (key, ino) = (key.to_vec(), entry.ino);
                    entries.insert(place, Entry { key, ino });
                    cookies.insert(cookie);
                }
            }
            Ok(())
        })?;
        for (key, what) in dropped {
            self.say(what);
            self.writer.delete(Table::Dirent, &key)?;
        }
        // Their types follow the inodes.
        let mut retyped = Vec::new();
        for ((parent, name), entry) in &self.entries {
            if let Some(inode) = self.inodes.get(&entry.ino) {
                let row = rows::dirent_row(entry.ino, inode.file_type);
                if self.store.get(Table::Dirent, &entry.key)?.as_ref() != Some(&row) {
                    retyped.push((entry.key.clone(), row, *parent, name.clone()));
                }
            }
        }
        for (key, row, parent, name) in retyped {
            let name = String::from_utf8_lossy(&name);
            self.say(format!(
                "the entry {name:?} of directory {parent} had a wrong type"
            ));
            self.writer.put(Table::Dirent, &key, row)?;
        }
        Ok(())
    }

    /// Gives names in `/lost+found` to what has none.
    fn attach(&mut self, orphans: &BTreeSet<u64>) -> Result<()> {
        let mut named: HashSet<u64> = self.entries.values().map(|entry| entry.ino).collect();
        named.insert(ROOT);
        let nameless: Vec<u64> = self
            .inodes
            .iter()
            .filter(|(ino, inode)| {
                // One that waits to be freed needs no name.
                let waits = inode.nlink == 0 && orphans.contains(ino);
                !named.contains(ino) && !waits
            })
            .map(|(ino, _)| *ino)
            .collect();
        for ino in nameless {
            self.attach_one(ino)?;
        }
        // Circles of directories: cut at their least inode, one by one.
        loop {
            let mut reached = HashSet::from([ROOT]);
            let mut children = HashMap::<u64, Vec<u64>>::new();
            for ((parent, _), entry) in &self.entries {
                children.entry(*parent).or_default().push(entry.ino);
            }
            let mut waiting = vec![ROOT];
            while let Some(ino) = waiting.pop() {
                for child in children.remove(&ino).unwrap_or_default() {
                    if reached.insert(child) {
                        waiting.push(child);
                    }
                }
            }
            let lost = self.entries.values().map(|entry| entry.ino);
            let Some(ino) = lost.filter(|ino| !reached.contains(ino)).min() else {
                return Ok(());
            };
            let old = self.entries.iter().find(|(_, entry)| entry.ino == ino);
            if let Some((place, entry)) = old.map(|(place, entry)| (place.clone(), entry.clone())) {
                self.writer.delete(Table::Dirent, &entry.key)?;
                self.entries.remove(&place);
            }
            self.attach_one(ino)?;
        }
    }

    fn attach_one(&mut self, ino: u64) -> Result<()> {
        let parent = self.lost_found()?;
        let name = format!("inode-{ino}").into_bytes();
        if let Some(inode) = self.inodes.get_mut(&ino)
            && inode.is_dir()
        {
            inode.parent = parent;
        }
        self.add_entry(parent, name, ino)?;
        self.say(format!(
            "inode {ino} had no name: it is /lost+found/inode-{ino} now"
        ));
        Ok(())
    }

    fn lost_found(&mut self) -> Result<u64> {
        let found = self.entries.get(&(ROOT, LOST_FOUND.to_vec()));
        if let Some(entry) = found
            && self.inodes.get(&entry.ino).is_some_and(Inode::is_dir)
        {
            return Ok(entry.ino);
        }
        let name = match found {
            None => LOST_FOUND.to_vec(),
            Some(_) => b"lost+found.laconicfs".to_vec(),
        };
        if let Some(entry) = self.entries.get(&(ROOT, name.clone())) {
            return Ok(entry.ino);
        }
        let ino = self.next_ino();
        let mut inode = self.now_inode(FileType::Directory, 0o700);
        inode.parent = ROOT;
        self.inodes.insert(ino, inode);
        self.add_entry(ROOT, name, ino)?;
        Ok(ino)
    }

    fn next_ino(&self) -> u64 {
        let last = self.inodes.last_key_value().map_or(ROOT, |(ino, _)| *ino);
        let kept = self.kept_counters().map_or(0, |counters| counters.next_ino);
        kept.max(last + 1)
    }

    fn next_space(&self) -> Result<u32> {
        let mut next = self
            .kept_counters()
            .map_or(0, |counters| counters.next_space);
        each_row(self.store, Table::Meta, |key, _| {
            if let Ok(space) = rows::parse_snapshot_key(key) {
                next = next.max(space.saturating_add(1));
            }
            Ok(())
        })?;
        Ok(next)
    }

    fn kept_counters(&self) -> Option<Counters> {
        kept_counters(self.store).ok().flatten()
    }

    fn add_entry(&mut self, parent: u64, name: Vec<u8>, ino: u64) -> Result<()> {
        if self.entries.contains_key(&(parent, name.clone())) {
            return Ok(());
        }
        let Some(inode) = self.inodes.get(&ino) else {
            return Ok(());
        };
        let first = rows::first_cookie(&name);
        let free = (first..first + rows::SAME_HASH as u64)
            .find(|cookie| !self.cookies.contains(&(parent, *cookie)));
        let Some(cookie) = free else {
            return Ok(()); // A hundred names with one hash do not happen.
        };
        let key = rows::dirent_key(parent, cookie, &name);
        let row = rows::dirent_row(ino, inode.file_type);
        self.writer.put(Table::Dirent, &key, row)?;
        self.cookies.insert((parent, cookie));
        self.entries.insert((parent, name), Entry { key, ino });
        Ok(())
    }

    /// Files say how many chunks they have. Where some are missing in the map,
    /// every hole may be one of them: it is an error from now on to read it.
    fn count_chunks(&mut self, counted: &HashMap<u64, Counted>) -> Result<()> {
        let mut said = Vec::new();
        for (ino, inode) in &mut self.inodes {
            if inode.file_type != FileType::Regular {
                continue;
            }
            let found = counted.get(ino).copied().unwrap_or_default();
            let slots = inode.size.div_ceil(self.chunk_size);
            let missing = inode.chunks.saturating_sub(found.chunks);
            let fresh = !self.before.contains_key(ino);
            if missing > 0
                && inode.nlink > 0
                && !fresh
                && slots.saturating_sub(found.chunks) <= FILLED
            {
                fill_holes(self.store, &mut self.writer, *ino, slots)?;
                said.push(format!(
                    "inode {ino} lost {missing} places of chunks: reading its holes is an error \
                     from now on"
                ));
                inode.chunks = slots;
            } else if inode.chunks != found.chunks {
                if !fresh {
                    said.push(format!(
                        "inode {ino} has {} chunks, not {}",
                        found.chunks, inode.chunks
                    ));
                }
                inode.chunks = found.chunks;
            }
        }
        said.into_iter().for_each(|what| self.say(what));
        Ok(())
    }

    fn count_xattrs(&mut self) -> Result<()> {
        let mut counts = HashMap::<u64, u32>::new();
        let mut dropped = Vec::new();
        each_row(self.store, Table::Xattr, |key, _| {
            match rows::parse_ino(key) {
                Ok(ino) if is_fixed(ino) || self.inodes.contains_key(&ino) => {
                    *counts.entry(ino).or_default() += 1
                }
                _ => dropped.push(key.to_vec()),
            }
            Ok(())
        })?;
        for key in dropped {
            self.say(format!("attribute {key:02x?} of no inode was dropped"));
            self.writer.delete(Table::Xattr, &key)?;
        }
        for (ino, inode) in &mut self.inodes {
            inode.xattrs = counts.get(ino).copied().unwrap_or(0);
        }
        // Of snapshots this much is put in order: values can be lost.
        let mut changed = Vec::new();
        each_row(self.store, Table::Inode, |key, row| {
            let ino = rows::parse_ino(key).unwrap_or(0);
            if let (true, Ok(mut inode)) = (is_fixed(ino), Inode::decode(row)) {
                let counted = counts.get(&ino).copied().unwrap_or(0);
                if std::mem::replace(&mut inode.xattrs, counted) != counted {
                    changed.push((key.to_vec(), inode.encode()));
                }
            }
            Ok(())
        })?;
        for (key, row) in changed {
            self.say(format!("inode {key:02x?} of a snapshot lost an attribute"));
            self.writer.put(Table::Inode, &key, row)?;
        }
        Ok(())
    }

    fn count_links(&mut self) {
        let mut names = HashMap::<u64, u32>::new();
        let mut content = HashMap::<u64, (u64, u32)>::new();
        for ((parent, _), entry) in &self.entries {
            *names.entry(entry.ino).or_default() += 1;
            let is_dir = self.inodes.get(&entry.ino).is_some_and(Inode::is_dir);
            let sum = content.entry(*parent).or_default();
            sum.0 += 1;
            sum.1 += u32::from(is_dir);
        }
        for (ino, inode) in &mut self.inodes {
            let names = names.get(ino).copied().unwrap_or(0);
            if inode.is_dir() {
                let (entries, dirs) = content.get(ino).copied().unwrap_or_default();
                inode.size = entries;
                inode.nlink = match names > 0 || *ino == ROOT {
                    true => 2 + dirs,
                    false => 0,
                };
            } else {
                inode.nlink = names;
            }
        }
    }

    /// Writes what has changed.
    fn write(&mut self, orphans: &BTreeSet<u64>) -> Result<()> {
        let mut counters = Counters {
            next_ino: self.next_ino(),
            totals: Totals::default(),
            next_space: self.next_space()?,
        };
        let mut changed = 0u64;
        for (ino, inode) in &self.inodes {
            counters.count(inode, 1);
            let row = inode.encode();
            if self.before.get(ino) != Some(&row) {
                changed += 1;
                self.writer.put(Table::Inode, &rows::inode_key(*ino), row)?;
            }
            let waits = inode.nlink == 0;
            if waits != orphans.contains(ino) {
                changed += 1;
                match waits {
                    true => self.writer.put(
                        Table::Orphan,
                        &rows::inode_key(*ino),
                        rows::ORPHAN.to_vec(),
                    )?,
                    false => self.writer.delete(Table::Orphan, &rows::inode_key(*ino))?,
                }
            }
        }
        for ino in orphans.iter().filter(|ino| !self.inodes.contains_key(ino)) {
            changed += 1;
            self.writer.delete(Table::Orphan, &rows::inode_key(*ino))?;
        }
        let row = counters.encode();
        if self.store.get(Table::Meta, rows::VOLUME)?.as_ref() != Some(&row) {
            changed += 1;
            self.writer.put(Table::Meta, rows::VOLUME, row)?;
        }
        if changed > 0 {
            self.say(format!("{changed} rows of inodes and totals counted anew"));
        }
        self.writer.flush()
    }
}

/// Names a lost chunk in every hole of a file.
fn fill_holes(store: &dyn Store, writer: &mut Writer<'_>, ino: u64, slots: u64) -> Result<()> {
    // What is waiting changes these rows too.
    writer.flush()?;
    for first in (0..slots).step_by(RUN as usize) {
        let key = tier::run_key(ino, first / RUN);
        let mut run = match store.get(Table::Cmap, &key)? {
            Some(row) => Run::decode(&row)?,
            None => Run::default(),
        };
        for index in first..slots.min(first + RUN) {
            if run.get(index).is_none() {
                run.set(index, Some(NAMELESS));
            }
        }
        writer.put(Table::Cmap, &key, run.encode())?;
    }
    Ok(())
}

/// The first path of every inode that has one, from the rows alone.
pub fn paths(store: &dyn Store) -> Result<HashMap<u64, PathBuf>> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = HashMap::<u64, (u64, Vec<u8>)>::new();
    each_row(store, Table::Dirent, |key, row| {
        if let (Ok(parent), Ok(entry)) = (rows::parse_ino(key), Dirent::decode(key, row)) {
            names.entry(entry.ino).or_insert((parent, entry.name));
        }
        Ok(())
    })?;
    let mut snapshots = HashMap::new();
    each_row(store, Table::Meta, |key, row| {
        if let (Ok(space), Ok(row)) = (rows::parse_snapshot_key(key), SnapshotRow::decode(row)) {
            snapshots.insert(tier::base_of(space) + ROOT, row.name);
        }
        Ok(())
    })?;
    let mut paths = HashMap::new();
    for ino in names.keys() {
        let (mut parts, mut at) = (Vec::new(), *ino);
        // A damaged tree may have circles.
        while at % SPACE != ROOT && parts.len() < 4096 {
            let Some((parent, name)) = names.get(&at) else {
                break;
            };
            parts.push(std::ffi::OsStr::from_bytes(name));
            at = *parent;
        }
        if at % SPACE == ROOT {
            let mut root = PathBuf::from("/");
            if let Some(name) = snapshots.get(&at) {
                root.push(std::ffi::OsStr::from_bytes(SNAPSHOTS_NAME));
                root.push(name);
            }
            let path = parts.iter().rev().fold(root, |path, part| path.join(part));
            paths.insert(*ino, path);
        }
    }
    Ok(paths)
}
