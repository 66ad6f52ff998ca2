//! A client that does to its files what programs do, and writes down
//! beforehand what it does and afterwards what was acknowledged.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Random;
use super::journal::{Journal, Node, State, XATTR};
use crate::harness::text;
use crate::sys;

/// The directories of a client.
pub const DIRS: [&str; 2] = ["d0", "d1"];
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// No file grows beyond: three chunks and a bit.
const FILE_MAX: usize = 220_000;

pub struct Client<'a> {
    root: PathBuf,
    random: Random,
    journal: &'a Mutex<Journal>,
    /// Every write has bytes of its own; every file a number of its own.
    next: u64,
    acknowledged: &'a AtomicU64,
}

impl<'a> Client<'a> {
    pub fn new(
        root: &Path,
        seed: u64,
        journal: &'a Mutex<Journal>,
        acknowledged: &'a AtomicU64,
    ) -> Self {
        Self {
            root: root.into(),
            random: Random::new(seed),
            journal,
            // Beyond any inode number, which name the files of the first state.
            next: (seed | 1) << 32,
            acknowledged,
        }
    }

    /// Works until the daemon dies; returns how that looked.
    pub fn work(mut self) -> io::Error {
        loop {
            if let Err(error) = self.step() {
                return error;
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn name(&mut self) -> String {
        let dir = DIRS[self.random.below(DIRS.len())];
        format!("{dir}/{}", NAMES[self.random.below(NAMES.len())])
    }

    fn now(&self) -> State {
        self.journal.lock().now().clone()
    }

    /// Notes what `change` will do, then does it.
    fn perform(
        &self,
        change: impl FnOnce(&mut State),
        call: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut next = self.now();
        change(&mut next);
        self.journal.lock().begin(next);
        call()
    }

    /// Notes a write at `at` of a file, then does it.
    fn put(
        &self,
        name: &str,
        at: usize,
        data: &[u8],
        call: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut next = self.now();
        self.content(name, |content| put(content, at, data))(&mut next);
        self.journal.lock().begin_write(next, name);
        call()
    }

    /// Syncs and notes that it was acknowledged.
    fn sync(&self, name: &str, call: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let (len, file) = {
            let journal = self.journal.lock();
            (journal.len(), journal.now().names.get(name).copied())
        };
        call()?;
        self.journal.lock().acknowledge(len, file);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn sync_file(&self, name: &str) -> io::Result<()> {
        let file = File::open(self.path(name))?;
        self.sync(name, || file.sync_all())
    }

    fn sync_dir(&self, name: &str) -> io::Result<()> {
        let dir = File::open(self.path(&name[..2]))?;
        self.sync("", || dir.sync_all())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let id = self.fresh();
        let node = Node::new(false, Vec::new(), 0o640);
        self.perform(
            |state| {
                state.names.insert(name.into(), id);
                state.nodes.insert(id, node.into());
            },
            || {
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o640);
                options.open(self.path(name)).map(drop)
            },
        )
    }

    fn content(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> impl FnOnce(&mut State) {
        move |state: &mut State| {
            let node = state.node(name).unwrap().clone();
            let mut content = node.content.clone();
            change(&mut content);
            state.set(name, node.with_content(content));
        }
    }

    fn write(&mut self, name: &str, at: usize, len: usize) -> io::Result<()> {
        let data = text(self.fresh(), len);
        let path = self.path(name);
        self.perform(
            self.content(name, |content| put(content, at, &data)),
            || {
                let file = OpenOptions::new().write(true).open(path)?;
                file.write_all_at(&data, at as u64)
            },
        )
    }

    /// One step of everyday life; of a file that is not there, its making.
    fn step(&mut self) -> io::Result<()> {
        let name = self.name();
        let state = self.now();
        let Some(node) = state.node(&name).cloned() else {
            return match self.random.below(5) {
                0 => self.symlink(&name),
                _ => {
                    self.create(&name)?;
                    let len = self.random.length();
                    self.write(&name, 0, len)
                }
            };
        };
        let action = self.random.below(100);
        if node.is_link {
            return match action {
                0..60 => self.rename(&name),
                60..70 => self.link(&name),
                _ => self.unlink(&name),
            };
        }
        let len = node.content.len();
        match action {
            0..16 => {
                let at = self.random.below(len + 1);
                let most = self.random.length().min(FILE_MAX - at.min(FILE_MAX));
                self.write(&name, at, most)
            }
            16..26 => self.append(&name, len),
            26..36 => self.save(&name),
            36..44 => self.truncate(&name, len),
            44..50 => self.punch(&name, len),
            50..60 => self.copy(&name, &state),
            60..68 => self.rename(&name),
            68..72 => self.link(&name),
            72..79 => self.unlink(&name),
            79..82 => self.attributes(&name, node.mode),
            82..86 => self.overwrite(&name, len),
            86..89 => self.sync_dir(&name),
            _ => self.sync_file(&name),
        }
    }

    fn symlink(&mut self, name: &str) -> io::Result<()> {
        let id = self.fresh();
        let target = format!("target {id}");
        let node = Node::new(true, target.clone().into_bytes(), 0o777);
        self.perform(
            |state| {
                state.names.insert(name.into(), id);
                state.nodes.insert(id, node.into());
            },
            || symlink(&target, self.path(name)),
        )
    }

    fn append(&mut self, name: &str, len: usize) -> io::Result<()> {
        let most = FILE_MAX.saturating_sub(len).min(9000);
        let data = text(self.fresh(), most);
        let path = self.path(name);
        self.put(name, len, &data, || {
            OpenOptions::new().append(true).open(path)?.write_all(&data)
        })
    }

    /// As an editor does: a new file, synced, over the old one.
    fn save(&mut self, name: &str) -> io::Result<()> {
        let fresh = format!("{}/fresh", &name[..2]);
        if self.now().names.contains_key(&fresh) {
            self.unlink(&fresh)?;
        }
        self.create(&fresh)?;
        let len = self.random.length();
        self.write(&fresh, 0, len)?;
        self.sync_file(&fresh)?;
        self.move_over(&fresh, name)?;
        match self.random.below(2) {
            0 => self.sync_dir(name),
            _ => Ok(()),
        }
    }

    fn move_over(&self, from: &str, to: &str) -> io::Result<()> {
        self.perform(
            |state| {
                let (a, b) = (state.names[from], state.names.get(to));
                // Two names of one file: rename(2) does nothing.
                if Some(&a) != b {
                    state.unlink(to);
                    state.names.remove(from);
                    state.names.insert(to.into(), a);
                }
            },
            || fs::rename(self.path(from), self.path(to)),
        )
    }

    fn rename(&mut self, name: &str) -> io::Result<()> {
        let other = self.name();
        if self.random.below(3) > 0 || !self.now().names.contains_key(&other) {
            return self.move_over(name, &other);
        }
        self.perform(
            |state| {
                let (a, b) = (state.names[name], state.names[&other]);
                state.names.insert(name.into(), b);
                state.names.insert(other.clone(), a);
            },
            || {
                let (a, b) = (self.path(name), self.path(&other));
                sys::rename(&a, &b, libc::RENAME_EXCHANGE)
            },
        )
    }

    fn link(&mut self, name: &str) -> io::Result<()> {
        let other = self.name();
        if self.now().names.contains_key(&other) {
            return Ok(());
        }
        self.perform(
            |state| {
                state.names.insert(other.clone(), state.names[name]);
            },
            || fs::hard_link(self.path(name), self.path(&other)),
        )
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.perform(
            |state| state.unlink(name),
            || fs::remove_file(self.path(name)),
        )
    }

    fn truncate(&mut self, name: &str, len: usize) -> io::Result<()> {
        let size = match self.random.below(3) {
            0 => 0,
            1 => self.random.below(len + 1),
            _ => (len + self.random.length()).min(FILE_MAX),
        };
        let path = self.path(name);
        self.perform(
            self.content(name, |content| content.resize(size, 0)),
            || {
                let file = OpenOptions::new().write(true).open(path)?;
                file.set_len(size as u64)
            },
        )
    }

    fn punch(&mut self, name: &str, len: usize) -> io::Result<()> {
        let at = self.random.below(len + 1);
        let hole = 1 + self.random.length();
        let path = self.path(name);
        let end = (at + hole).min(len);
        self.perform(
            self.content(name, |content| content[at.min(end)..end].fill(0)),
            || {
                let file = OpenOptions::new().write(true).open(path)?;
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                sys::allocate(&file, mode, at as u64, hole as u64)
            },
        )
    }

    /// Copies a range into another file, often at the same place in a chunk.
    fn copy(&mut self, from: &str, state: &State) -> io::Result<()> {
        let to = self.name();
        let Some(target) = state.node(&to).filter(|node| !node.is_link) else {
            return Ok(());
        };
        if state.names[from] == state.names[&to] {
            return Ok(());
        }
        let source = &state.node(from).unwrap().content;
        let (at, len) = match self.random.below(2) {
            0 => (0, source.len()),
            _ => (self.random.below(source.len() + 1), self.random.length()),
        };
        let to_at = match self.random.below(2) {
            0 => at.min(target.content.len()),
            _ => self.random.below(target.content.len() + 1),
        };
        let data = source[at..(at + len).min(source.len())].to_vec();
        if data.is_empty() || to_at + data.len() > FILE_MAX {
            return Ok(());
        }
        let (source, target) = (self.path(from), self.path(&to));
        self.perform(
            self.content(&to, |content| put(content, to_at, &data)),
            || {
                let (from, to) = (
                    File::open(source)?,
                    OpenOptions::new().write(true).open(target)?,
                );
                let copied = sys::copy_range(&from, at as i64, &to, to_at as i64, data.len())?;
                assert_eq!(copied, data.len(), "a short copy");
                Ok(())
            },
        )
    }

    fn attributes(&mut self, name: &str, mode: u32) -> io::Result<()> {
        let number = self.fresh();
        let path = self.path(name);
        if number.is_multiple_of(2) {
            let mode = mode ^ 0o022;
            let change = |state: &mut State| {
                let mut node = Node::clone(state.node(name).unwrap());
                node.mode = mode;
                state.set(name, node);
            };
            return self.perform(change, || {
                fs::set_permissions(path, Permissions::from_mode(mode))
            });
        }
        let value = number.to_string().into_bytes();
        let change = |state: &mut State| {
            let mut node = Node::clone(state.node(name).unwrap());
            node.xattr = Some(value.clone());
            state.set(name, node);
        };
        self.perform(change, || sys::set_xattr(&path, XATTR, &value, 0))
    }

    /// As a database does: in place, and synced at once.
    fn overwrite(&mut self, name: &str, len: usize) -> io::Result<()> {
        let at = self.random.below(len + 1);
        let data = text(self.fresh(), self.random.length().min(len - at));
        let file = OpenOptions::new().write(true).open(self.path(name))?;
        self.perform(
            self.content(name, |content| put(content, at, &data)),
            || file.write_all_at(&data, at as u64),
        )?;
        self.sync(name, || file.sync_data())
    }
}

fn put(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    content.resize(content.len().max(end), 0);
    content[at..end].copy_from_slice(data);
}
