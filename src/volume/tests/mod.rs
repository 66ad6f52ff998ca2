//! Tests of the volume as a whole.

mod attributes;
mod check;
mod content;
mod directory;
mod faults;
mod handles;
mod model;
mod names;
mod policy;
mod repair;
mod snapshots;
mod xattr;

use std::collections::BTreeMap;

use super::*;
use crate::store::Store;
use crate::tier;
use crate::tier::tests::{CHUNK, Tape, memory, text};

const ME: Caller = Caller { uid: 7, gid: 8 };

/// A volume over a store, for a test.
struct Fixture {
    store: Arc<dyn Store>,
    volume: Arc<Volume>,
}

impl Fixture {
    fn new() -> Self {
        Self::on(memory())
    }

    /// Formats an empty store.
    fn on(store: Arc<dyn Store>) -> Self {
        let tier = open_tier(&store);
        Volume::format(&tier, 1, 2).unwrap();
        let volume = Volume::open(tier, Options::default()).unwrap();
        Self { store, volume }
    }

    /// Closes everything, looks whether all rows agree, and opens it again.
    fn reopen(&mut self, options: Options) {
        self.volume.close().unwrap();
        self.volume.tier().close().unwrap();
        assert_clean(&self.volume);
        self.volume = Volume::open(open_tier(&self.store), options).unwrap();
    }

    fn file(&self, name: &str) -> u64 {
        let attr = self.volume.make_node(ROOT, name.as_bytes(), 0o644, 0, ME);
        attr.unwrap().ino
    }

    fn dir(&self, parent: u64, name: &str) -> u64 {
        let attr = self.volume.make_dir(parent, name.as_bytes(), 0o755, ME);
        attr.unwrap().ino
    }

    fn write(&self, ino: u64, offset: u64, data: &[u8]) {
        let end = self
            .volume
            .write_file(ino, offset, data, WriteFlags::empty())
            .unwrap();
        assert_eq!(end, offset + data.len() as u64);
    }

    fn content(&self, ino: u64) -> Vec<u8> {
        self.volume.read_file(ino, 0, 1 << 24).unwrap()
    }

    /// Number of rows of a table, with everything committed.
    fn rows(&self, table: Table) -> usize {
        let tier = self.volume.tier();
        tier.run(|op| op.scan(table, b"", None, 1 << 20))
            .unwrap()
            .len()
    }
}

impl Drop for Fixture {
    /// Every test leaves rows that agree.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.volume.close().unwrap();
        assert_clean(&self.volume);
    }
}

fn open_tier(store: &Arc<dyn Store>) -> Arc<Tier> {
    let options = tier::tests::options();
    Tier::open(store.clone(), Arc::default(), options).unwrap()
}

fn assert_clean(volume: &Volume) {
    assert_eq!(volume.check().unwrap(), Vec::<String>::new());
}

/// `$result` is the error `$error`.
macro_rules! assert_err {
    ($result:expr, $error:pat) => {
        let result = $result;
        assert!(
            matches!(result, Err($error)),
            "{:?} is not {}",
            result.map(|_| "success"),
            stringify!($error)
        );
    };
}
use assert_err;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    ino: u64,
    file_type: FileType,
    mode: u32,
    nlink: u32,
    size: u64,
    /// Of a file, or the target of a link.
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Everything that has a name, by path.
type Tree = BTreeMap<Vec<u8>, Node>;

/// Reads the whole volume through its methods.
fn tree(volume: &Volume) -> Tree {
    tree_below(volume, ROOT)
}

/// The same below any directory.
fn tree_below(volume: &Volume, root: u64) -> Tree {
    let mut tree = Tree::new();
    let mut dirs = vec![(root, Vec::new())];
    while let Some((dir, path)) = dirs.pop() {
        let attr = volume.attr(dir).unwrap();
        tree.insert(path.clone(), node(volume, &attr));
        let mut cookie = 0;
        loop {
            let page = volume.read_dir_plus(dir, cookie, 3).unwrap();
            let Some((last, _)) = page.last() else { break };
            assert!(last.cookie > cookie && last.cookie < 1 << 63);
            cookie = last.cookie;
            for (entry, attr) in page {
                let looked_up = volume.lookup(dir, &entry.name).unwrap();
                // Reading the directory has changed its own.
                let atime = attr.atime;
                assert_eq!(Attr { atime, ..looked_up }, attr);
                assert_eq!((entry.ino, entry.file_type), (attr.ino, attr.file_type));
                if matches!(&*entry.name, b"." | b"..") {
                    continue;
                }
                let path = [&path[..], b"/", &entry.name].concat();
                match attr.file_type {
                    FileType::Directory => dirs.push((attr.ino, path)),
                    _ => assert!(tree.insert(path, node(volume, &attr)).is_none()),
                }
            }
        }
    }
    tree
}

fn node(volume: &Volume, attr: &Attr) -> Node {
    let ino = attr.ino;
    let names = volume.list_xattrs(ino, true).unwrap();
    let xattrs = names
        .split_terminator_nul()
        .map(|name| (name.to_vec(), volume.xattr(ino, name).unwrap()))
        .collect();
    Node {
        // The same in snapshots.
        ino: ino % crate::tier::SPACE,
        file_type: attr.file_type,
        mode: attr.mode,
        nlink: attr.nlink,
        size: attr.size,
        content: match attr.file_type {
            FileType::Regular => volume.read_file(ino, 0, 1 << 20).unwrap(),
            FileType::Symlink => volume.read_link(ino).unwrap(),
            _ => Vec::new(),
        },
        xattrs,
    }
}

trait SplitNul {
    /// The strings that each end with a NUL.
    fn split_terminator_nul(&self) -> impl Iterator<Item = &[u8]>;
}

impl SplitNul for Vec<u8> {
    fn split_terminator_nul(&self) -> impl Iterator<Item = &[u8]> {
        self.split_inclusive(|b| *b == 0)
            .map(|name| &name[..name.len() - 1])
    }
}
