//! What a client did, what was acknowledged, and whether a volume that was
//! found after a crash may look as it does.
//!
//! Two promises are checked. Names, modes, links and attributes are as they
//! were at one moment between operations, not before the last fsync that
//! returned. So are contents when the kernel hands on every write at once. With
//! the kernel's cache of writes, pages reach the daemon in an order of the
//! kernel's own: then every page of a file is as it was at some moment since
//! that file was last synced.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::sys;

/// The kernel's unit of writing.
const PAGE: usize = 4096;

/// The attribute that the clients set.
pub const XATTR: &str = "user.round";

/// A file or a symbolic link, whose content is its target.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    pub is_link: bool,
    pub content: Vec<u8>,
    hash: blake3::Hash,
    pub mode: u32,
    pub xattr: Option<Vec<u8>>,
}

impl Node {
    pub fn new(is_link: bool, content: Vec<u8>, mode: u32) -> Self {
        Self {
            is_link,
            hash: blake3::hash(&content),
            content,
            mode,
            xattr: None,
        }
    }

    pub fn with_content(&self, content: Vec<u8>) -> Self {
        Self {
            hash: blake3::hash(&content),
            content,
            ..self.clone()
        }
    }

    /// All but the content.
    fn about(&self) -> (bool, u32, Option<&[u8]>) {
        (self.is_link, self.mode, self.xattr.as_deref())
    }
}

/// The files of one client at one moment.
#[derive(Clone, Default)]
pub struct State {
    /// Paths below the client's directory, and what they name.
    pub names: BTreeMap<String, u64>,
    pub nodes: BTreeMap<u64, Arc<Node>>,
}

impl State {
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(self.names.get(name)?)
    }

    pub fn set(&mut self, name: &str, node: Node) {
        let id = self.names[name];
        self.nodes.insert(id, Arc::new(node));
    }

    pub fn unlink(&mut self, name: &str) {
        if let Some(id) = self.names.remove(name)
            && !self.names.values().any(|other| *other == id)
        {
            self.nodes.remove(&id);
        }
    }

    /// Reads what is there, every byte.
    pub fn found(root: &Path, dirs: &[&str]) -> io::Result<State> {
        let mut state = State::default();
        for dir in dirs {
            for entry in fs::read_dir(root.join(dir))? {
                let path = entry?.path();
                let meta = fs::symlink_metadata(&path)?;
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                state.names.insert(name.into(), meta.ino());
                if state.nodes.contains_key(&meta.ino()) {
                    continue;
                }
                let content = match meta.is_symlink() {
                    true => fs::read_link(&path)?.as_os_str().as_bytes().to_vec(),
                    false => fs::read(&path)?,
                };
                let mut node = Node::new(meta.is_symlink(), content, meta.mode() & 0o7777);
                node.xattr = match sys::xattr(&path, XATTR) {
                    Ok(value) => Some(value),
                    Err(e) if e.raw_os_error() == Some(libc::ENODATA) => None,
                    // No such attributes on links.
                    Err(_) if node.is_link => None,
                    Err(e) => return Err(e),
                };
                state.nodes.insert(meta.ino(), Arc::new(node));
            }
        }
        Ok(state)
    }

    /// Whether the same names mean the same files in both.
    fn same_names(&self, other: &State) -> bool {
        let mut there = BTreeMap::new();
        self.names.len() == other.names.len()
            && self.nodes.len() == other.nodes.len()
            && self.names.iter().zip(&other.names).all(|(a, b)| {
                a.0 == b.0
                    && *there.entry(a.1).or_insert(b.1) == b.1
                    && self.nodes[a.1].about() == other.nodes[b.1].about()
            })
    }
}

/// The states of one client's files, one after each operation.
#[derive(Clone)]
pub struct Journal {
    history: Vec<State>,
    /// The file that was written to reach each state, if that is how.
    written: Vec<Option<u64>>,
    /// Every state before this one is overwritten for good.
    acknowledged: usize,
    /// The same for the content of single files.
    synced: BTreeMap<u64, usize>,
}

impl Journal {
    pub fn new(base: State) -> Self {
        Self {
            history: vec![base],
            written: vec![None],
            acknowledged: 0,
            synced: BTreeMap::new(),
        }
    }

    pub fn now(&self) -> &State {
        &self.history[self.history.len() - 1]
    }

    /// Notes an operation before it begins: it may be seen from then on.
    pub fn begin(&mut self, next: State) {
        self.history.push(next);
        self.written.push(None);
    }

    /// The same for a write, which the kernel may hand on in parts.
    pub fn begin_write(&mut self, next: State, name: &str) {
        self.written.push(Some(next.names[name]));
        self.history.push(next);
    }

    /// An fsync of `file`, or of a directory, returned; it was called when
    /// `len` states were known.
    pub fn acknowledge(&mut self, len: usize, file: Option<u64>) {
        self.acknowledged = self.acknowledged.max(len - 1);
        if let Some(file) = file {
            let synced = self.synced.entry(file).or_default();
            *synced = (*synced).max(len - 1);
        }
    }

    pub fn len(&self) -> usize {
        self.history.len()
    }

    /// As it was when `earlier` was taken, but with what began since: a cut
    /// in between may show that.
    pub fn acknowledged_as(mut self, earlier: &Marks) -> Self {
        self.acknowledged = earlier.0;
        self.synced.clone_from(&earlier.1);
        self
    }

    pub fn marks(&self) -> Marks {
        Marks(self.acknowledged, self.synced.clone())
    }

    /// Whether `found` may be there after a crash. `strict` when every write
    /// went to the daemon at once.
    pub fn explains(&self, found: &State, strict: bool) -> Result<(), String> {
        let mut complaint = None;
        for at in self.acknowledged..self.history.len() {
            if self.history[at].same_names(found) {
                match self.same_contents(at, found, strict) {
                    Ok(()) => return Ok(()),
                    Err(why) => complaint = Some(format!("state {at}: {why}")),
                }
            }
        }
        let why = complaint.unwrap_or("no moment since the last fsync has these names".into());
        Err(format!(
            "{why}; of {} states the first that may be seen is {}\n found        {}\n \
             acknowledged {}\n last         {}",
            self.history.len(),
            self.acknowledged,
            describe(found),
            describe(&self.history[self.acknowledged]),
            describe(self.now())
        ))
    }

    fn same_contents(&self, at: usize, found: &State, strict: bool) -> Result<(), String> {
        let state = &self.history[at];
        for (name, id) in &found.names {
            let node = &found.nodes[id];
            let known = state.names[name];
            let expected = &state.nodes[&known];
            if node.hash == expected.hash {
                continue;
            }
            if self.written[at] == Some(known)
                && let Some(before) = self.history[at - 1].nodes.get(&known)
                && is_begun(&node.content, &before.content, &expected.content)
            {
                continue;
            }
            if strict || node.is_link {
                return Err(format!(
                    "{name} has {} bytes, {} expected, and they differ from byte {} on",
                    node.content.len(),
                    expected.content.len(),
                    first_difference(&node.content, &expected.content)
                ));
            }
            let since = self.synced.get(&known).copied().unwrap_or(0);
            let versions: Vec<&Node> = self.history[since..]
                .iter()
                .filter_map(|state| state.nodes.get(&known).map(|node| &**node))
                .collect();
            pages_of_versions(&node.content, &versions)
                .map_err(|why| format!("{name}: {why}; {} versions", versions.len()))?;
        }
        Ok(())
    }
}

/// What was acknowledged at one moment.
pub struct Marks(usize, BTreeMap<u64, usize>);

/// Whether a write that makes `after` of `before` may have come as far as this.
fn is_begun(found: &[u8], before: &[u8], after: &[u8]) -> bool {
    (0..=after.len()).step_by(PAGE).any(|done| {
        let rest = before.get(done..).unwrap_or(&[]);
        found.len() == done + rest.len() && found[..done] == after[..done] && &found[done..] == rest
    })
}

/// Whether each page of `found` is that of one of the versions.
fn pages_of_versions(found: &[u8], versions: &[&Node]) -> Result<(), String> {
    let lengths = || versions.iter().map(|version| version.content.len());
    let (min, max) = (lengths().min().unwrap_or(0), lengths().max().unwrap_or(0));
    if !(min..=max).contains(&found.len()) {
        return Err(format!(
            "{} bytes, not {min} to {max} as since its last fsync",
            found.len()
        ));
    }
    for (number, page) in found.chunks(PAGE).enumerate() {
        let at = number * PAGE;
        let fits = |version: &&Node| {
            let content = &version.content;
            let there = &content[at.min(content.len())..(at + page.len()).min(content.len())];
            let (same, rest) = page.split_at(there.len());
            same == there && rest.iter().all(|byte| *byte == 0)
        };
        if !versions.iter().any(fits) {
            return Err(format!("the page at {at} is of no version since its fsync"));
        }
    }
    Ok(())
}

fn first_difference(a: &[u8], b: &[u8]) -> usize {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b);
    same.count()
}

fn describe(state: &State) -> String {
    let entries = state.names.iter().map(|(name, id)| {
        let node = &state.nodes[id];
        let kind = if node.is_link { "->" } else { "" };
        let xattr = node.xattr.as_deref().map(String::from_utf8_lossy);
        format!(
            "{name}={kind}{}:{:o}:{}:{}",
            node.content.len(),
            node.mode,
            xattr.unwrap_or_default(),
            &node.hash.to_hex()[..6]
        )
    });
    entries.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_journal_explains_what_may_be_and_nothing_else() {
    let state = |content: &[u8], name: &str| State {
        names: BTreeMap::from([(name.into(), 1)]),
        nodes: BTreeMap::from([(1, Arc::new(Node::new(false, content.to_vec(), 0o644)))]),
    };
    let old = [vec![1; PAGE], vec![2; PAGE]].concat();
    let new = [vec![3; PAGE], vec![4; PAGE], vec![5; 10]].concat();
    let mixed = [vec![1; PAGE], vec![4; PAGE]].concat();
    let mut journal = Journal::new(state(&old, "d0/a"));
    journal.begin(state(&new, "d0/a"));
    journal.begin(state(&new, "d0/b"));
    for content in [&old, &new] {
        journal.explains(&state(content, "d0/a"), true).unwrap();
    }
    // A later name with an earlier content: only pages may be late.
    assert!(journal.explains(&state(&old, "d0/b"), true).is_err());
    journal.explains(&state(&old, "d0/b"), false).unwrap();
    assert!(journal.explains(&state(&mixed, "d0/a"), true).is_err());
    journal.explains(&state(&mixed, "d0/a"), false).unwrap();
    // Neither a torn page, nor a name that never was, nor two at once.
    let mut torn = mixed.clone();
    torn[100] = 3;
    assert!(journal.explains(&state(&torn, "d0/a"), false).is_err());
    assert!(journal.explains(&state(&old, "d0/c"), false).is_err());
    let mut both = state(&new, "d0/a");
    both.names.insert("d0/b".into(), 1);
    assert!(journal.explains(&both, false).is_err());
    // What was acknowledged stays.
    let before = journal.marks();
    journal.acknowledge(2, Some(1));
    assert!(journal.explains(&state(&old, "d0/a"), false).is_err());
    assert!(journal.explains(&state(&mixed, "d0/a"), false).is_err());
    journal.explains(&state(&new, "d0/a"), true).unwrap();
    journal.acknowledge(3, None);
    assert!(journal.explains(&state(&new, "d0/a"), false).is_err());
    let earlier = journal.acknowledged_as(&before);
    earlier.explains(&state(&old, "d0/a"), true).unwrap();
    // A write may be seen as far as it had come, but nothing else may.
    let begun = [vec![3; PAGE], vec![2; PAGE]].concat();
    assert!(earlier.explains(&state(&begun, "d0/a"), true).is_err());
    let mut journal = Journal::new(state(&old, "d0/a"));
    journal.begin_write(state(&new, "d0/a"), "d0/a");
    journal.explains(&state(&begun, "d0/a"), true).unwrap();
    journal
        .explains(&state(&new[..2 * PAGE], "d0/a"), true)
        .unwrap();
    assert!(journal.explains(&state(&mixed, "d0/a"), true).is_err());
    assert!(
        journal
            .explains(&state(&new[..PAGE], "d0/a"), true)
            .is_err()
    );
}
