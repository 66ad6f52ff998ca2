//! Random histories against a model of plain maps, crashes and power cuts.

use std::mem::discriminant;

use proptest::prelude::*;

use super::*;
use crate::store::{Call, Fault, FaultyStore, MemoryStore};

/// Names to choose from: ordinary, longest, not UTF-8.
fn name(number: usize) -> Vec<u8> {
    match number % 5 {
        3 => vec![b'n'; 255],
        4 => b"\xff\x01\n".to_vec(),
        number => vec![b'a' + number as u8],
    }
}

/// An operation. Numbers choose among what is there: directories, inodes and
/// files are counted in the order in which they were made.
#[derive(Clone, Debug)]
enum Step {
    Make(FileType, usize, usize),
    Link(usize, usize, usize),
    Unlink(usize, usize),
    RemoveDir(usize, usize),
    Rename(usize, usize, usize, usize, u32),
    Write(usize, u64, usize, u64),
    Append(usize, usize, u64),
    Size(usize, u64),
    Mode(usize, u32),
    Allocate(usize, u64, u64, i32),
    Copy(usize, u64, usize, u64, u64),
    SetXattr(usize, usize, usize, u32),
    RemoveXattr(usize, usize),
    Open(usize),
    Release(usize),
    Sync,
    Drain,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let at = prop_oneof![
        0..12 * CHUNK as u64,
        (0..12u64).prop_map(|i| i * CHUNK as u64)
    ];
    let len = prop_oneof![1..3 * CHUNK, (1..4usize).prop_map(|i| i * CHUNK)];
    let n = 0..20usize;
    let name = 0..5usize;
    let file_type = prop_oneof![
        4 => Just(FileType::Regular),
        3 => Just(FileType::Directory),
        1 => Just(FileType::Symlink),
        1 => Just(FileType::Fifo),
    ];
    let mode = prop_oneof![
        Just(0),
        Just(libc::FALLOC_FL_KEEP_SIZE),
        Just(libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE),
        Just(libc::FALLOC_FL_ZERO_RANGE),
        Just(libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_ZERO_RANGE),
    ];
    let entry = (n.clone(), name.clone());
    prop_oneof![
        6 => (file_type, n.clone(), name.clone()).prop_map(|(t, d, m)| Make(t, d, m)),
        2 => (n.clone(), n.clone(), name.clone()).prop_map(|(i, d, m)| Link(i, d, m)),
        2 => entry.clone().prop_map(|(d, m)| Unlink(d, m)),
        1 => entry.clone().prop_map(|(d, m)| RemoveDir(d, m)),
        4 => (entry.clone(), entry, 0..3u32)
            .prop_map(|((d, m), (e, k), f)| Rename(d, m, e, k, f)),
        4 => (n.clone(), at.clone(), len.clone(), 0..4u64)
            .prop_map(|(i, a, l, s)| Write(i, a, l, s)),
        1 => (n.clone(), len.clone(), 0..4u64).prop_map(|(i, l, s)| Append(i, l, s)),
        1 => (n.clone(), at.clone()).prop_map(|(i, s)| Size(i, s)),
        1 => (n.clone(), 0..0o10000u32).prop_map(|(i, m)| Mode(i, m)),
        2 => (n.clone(), at.clone(), len.clone(), mode)
            .prop_map(|(i, a, l, m)| Allocate(i, a, l as u64, m)),
        2 => (n.clone(), at.clone(), n.clone(), at, len)
            .prop_map(|(i, a, j, b, l)| Copy(i, a, j, b, l as u64)),
        2 => (n.clone(), name.clone(), 0..60usize, 0..3u32)
            .prop_map(|(i, m, l, f)| SetXattr(i, m, l, f)),
        1 => (n.clone(), name).prop_map(|(i, m)| RemoveXattr(i, m)),
        2 => n.clone().prop_map(Open),
        2 => n.prop_map(Release),
        2 => Just(Sync),
        1 => Just(Drain),
        1 => Just(Reopen),
    ]
}

#[derive(Clone)]
struct Thing {
    file_type: FileType,
    mode: u32,
    content: Vec<u8>,
    entries: BTreeMap<Vec<u8>, u64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A filesystem in maps. Link counts and parents follow from the entries.
#[derive(Clone)]
struct Model {
    things: BTreeMap<u64, Thing>,
    open: Vec<u64>,
}

impl Model {
    fn new() -> Self {
        let mut model = Model {
            things: BTreeMap::new(),
            open: Vec::new(),
        };
        model.add(ROOT, FileType::Directory, 0o755);
        model
    }

    fn add(&mut self, ino: u64, file_type: FileType, mode: u32) -> &mut Thing {
        let thing = Thing {
            file_type,
            mode,
            content: Vec::new(),
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
        };
        self.things.entry(ino).or_insert(thing)
    }

    fn named(&self, ino: u64) -> u32 {
        let names = self.things.values().flat_map(|t| t.entries.values());
        names.filter(|named| **named == ino).count() as u32
    }

    fn choose(&self, number: usize, which: impl Fn(&Thing) -> bool) -> Option<u64> {
        let found = self.things.iter().filter(|(_, thing)| which(thing));
        let inos: Vec<u64> = found.map(|(ino, _)| *ino).collect();
        (!inos.is_empty()).then(|| inos[number % inos.len()])
    }

    fn dir(&self, number: usize) -> u64 {
        let dir = self.choose(number, |thing| thing.file_type == FileType::Directory);
        dir.unwrap()
    }

    fn file(&self, number: usize) -> Option<u64> {
        self.choose(number, |thing| thing.file_type == FileType::Regular)
    }

    fn thing(&mut self, ino: u64) -> &mut Thing {
        self.things.get_mut(&ino).unwrap()
    }

    fn is_dir(&self, ino: u64) -> bool {
        self.things[&ino].file_type == FileType::Directory
    }

    /// What is neither named nor open is gone.
    fn collect(&mut self) {
        let gone: Vec<u64> = self
            .things
            .keys()
            .copied()
            .filter(|ino| *ino != ROOT && self.named(*ino) == 0 && !self.open.contains(ino))
            .collect();
        for ino in gone {
            self.things.remove(&ino);
        }
    }

    fn is_removed(&self, dir: u64) -> bool {
        dir != ROOT && self.named(dir) == 0
    }

    fn find(&self, dir: u64, name: &[u8]) -> Result<u64> {
        if self.is_removed(dir) {
            return Err(Error::NotFound);
        }
        let found = self.things[&dir].entries.get(name);
        found.copied().ok_or(Error::NotFound)
    }

    /// Where a name can be added.
    fn free(&self, dir: u64, name: &[u8]) -> Result<()> {
        match self.find(dir, name) {
            _ if self.is_removed(dir) => Err(Error::NotFound),
            Ok(_) => Err(Error::Exists),
            Err(_) => Ok(()),
        }
    }

    fn is_below(&self, dir: u64, ino: u64) -> bool {
        dir == ino
            || self.is_dir(ino)
                && self.things[&ino]
                    .entries
                    .values()
                    .any(|entry| self.is_below(dir, *entry))
    }

    fn link(&mut self, ino: u64, dir: u64, name: &[u8]) -> Result<()> {
        if self.is_removed(dir) {
            return Err(Error::NotFound);
        }
        if self.is_dir(ino) {
            return Err(Error::NotPermitted);
        }
        if self.named(ino) == 0 {
            return Err(Error::NotFound);
        }
        self.free(dir, name)?;
        self.thing(dir).entries.insert(name.to_vec(), ino);
        Ok(())
    }

    fn remove(&mut self, dir: u64, name: &[u8], directory: bool) -> Result<()> {
        let ino = self.find(dir, name)?;
        match (directory, self.is_dir(ino)) {
            (true, false) => return Err(Error::NotDirectory),
            (false, true) => return Err(Error::IsDirectory),
            (true, true) if !self.things[&ino].entries.is_empty() => return Err(Error::NotEmpty),
            _ => {}
        }
        self.thing(dir).entries.remove(name);
        Ok(())
    }

    fn rename(&mut self, (d, n): (u64, &[u8]), (e, m): (u64, &[u8]), flags: u32) -> Result<()> {
        let from = self.find(d, n)?;
        if self.is_removed(e) {
            return Err(Error::NotFound);
        }
        let to = self.find(e, m).ok();
        let exchange = flags == 2;
        match to {
            None if exchange => return Err(Error::NotFound),
            Some(_) if flags == 1 => return Err(Error::Exists),
            Some(to) if to == from => return Ok(()),
            _ => {}
        }
        if self.is_dir(from) && self.is_below(e, from)
            || exchange && to.is_some_and(|to| self.is_dir(to) && self.is_below(d, to))
        {
            return Err(Error::Invalid(""));
        }
        if let Some(to) = to
            && !exchange
        {
            match (self.is_dir(from), self.is_dir(to)) {
                (true, false) => return Err(Error::NotDirectory),
                (false, true) => return Err(Error::IsDirectory),
                (true, true) if !self.things[&to].entries.is_empty() => {
                    return Err(Error::NotEmpty);
                }
                _ => {}
            }
        }
        self.thing(d).entries.remove(n);
        self.thing(e).entries.insert(m.to_vec(), from);
        if let Some(to) = to
            && exchange
        {
            self.thing(d).entries.insert(n.to_vec(), to);
        }
        Ok(())
    }

    fn write(&mut self, ino: u64, at: usize, data: &[u8]) {
        let content = &mut self.thing(ino).content;
        let end = at + data.len();
        content.resize(content.len().max(end), 0);
        content[at..end].copy_from_slice(data);
    }

    fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        let mut paths = vec![(Vec::new(), ROOT)];
        while let Some((path, ino)) = paths.pop() {
            let thing = &self.things[&ino];
            for (name, entry) in &thing.entries {
                paths.push(([&path[..], b"/", name].concat(), *entry));
            }
            let subdirs = thing.entries.values().filter(|e| self.is_dir(**e)).count();
            let node = Node {
                ino,
                file_type: thing.file_type,
                mode: thing.mode,
                nlink: match thing.file_type {
                    FileType::Directory => 2 + subdirs as u32,
                    _ => self.named(ino),
                },
                size: (thing.content.len() + thing.entries.len()) as u64,
                content: thing.content.clone(),
                xattrs: thing.xattrs.clone(),
            };
            tree.insert(path, node);
        }
        tree
    }
}

/// Both succeed or fail for the same reason.
fn compare<T>(step: &Step, found: Result<T>, expected: Result<()>) {
    let same = match (&found, &expected) {
        (Ok(_), Ok(())) => true,
        (Err(found), Err(expected)) => discriminant(found) == discriminant(expected),
        _ => false,
    };
    let found = found.map(|_| ());
    assert!(same, "{step:?}: {found:?}, expected {expected:?}");
}

/// Performs one step on the volume and on the model.
fn perform(f: &mut Fixture, model: &mut Model, step: &Step) {
    let v = &f.volume;
    match *step {
        Step::Make(file_type, dir, number) => {
            let (dir, name) = (model.dir(dir), name(number));
            let made = match file_type {
                FileType::Directory => v.make_dir(dir, &name, 0o750, ME),
                FileType::Symlink => v.symlink(dir, &name, &name, ME),
                _ => v.make_node(dir, &name, ((file_type as u32) << 12) | 0o640, 0, ME),
            };
            let expected = model.free(dir, &name);
            if let (Ok(attr), Ok(())) = (&made, &expected) {
                let thing = model.add(attr.ino, file_type, attr.mode);
                if file_type == FileType::Symlink {
                    thing.content = name.clone();
                }
                model.thing(dir).entries.insert(name, attr.ino);
            }
            compare(step, made, expected);
        }
        Step::Link(thing, dir, number) => {
            let ino = model.choose(thing, |_| true).unwrap();
            let (dir, name) = (model.dir(dir), name(number));
            compare(step, v.link(ino, dir, &name), model.link(ino, dir, &name));
        }
        Step::Unlink(dir, number) => {
            let (dir, name) = (model.dir(dir), name(number));
            compare(step, v.unlink(dir, &name), model.remove(dir, &name, false));
        }
        Step::RemoveDir(dir, number) => {
            let (dir, name) = (model.dir(dir), name(number));
            let expected = model.remove(dir, &name, true);
            compare(step, v.remove_dir(dir, &name), expected);
        }
        Step::Rename(d, n, e, m, flags) => {
            let (d, n, e, m) = (model.dir(d), name(n), model.dir(e), name(m));
            let expected = model.rename((d, &n), (e, &m), flags);
            let flags = RenameFlags::from_bits(flags).unwrap();
            compare(step, v.rename(d, &n, e, &m, flags), expected);
        }
        Step::Write(file, at, len, seed) => {
            if let Some(ino) = model.file(file) {
                let data = text(seed, len);
                f.write(ino, at, &data);
                model.write(ino, at as usize, &data);
            }
        }
        Step::Append(file, len, seed) => {
            if let Some(ino) = model.file(file) {
                let data = text(seed, len);
                let end = v.write_file(ino, 0, &data, WriteFlags::APPEND).unwrap();
                model.thing(ino).content.extend_from_slice(&data);
                assert_eq!(end, model.thing(ino).content.len() as u64);
            }
        }
        Step::Size(file, size) => {
            if let Some(ino) = model.file(file) {
                let set = SetAttr {
                    size: Some(size),
                    ..SetAttr::default()
                };
                v.set_attr(ino, &set).unwrap();
                model.thing(ino).content.resize(size as usize, 0);
            }
        }
        Step::Mode(thing, mode) => {
            let ino = model.choose(thing, |_| true).unwrap();
            let set = SetAttr {
                mode: Some(mode),
                ..SetAttr::default()
            };
            v.set_attr(ino, &set).unwrap();
            model.thing(ino).mode = mode;
        }
        Step::Allocate(file, at, len, mode) => {
            if let Some(ino) = model.file(file) {
                v.allocate(ino, at, len, mode, false).unwrap();
                let content = &mut model.thing(ino).content;
                let end = (at + len) as usize;
                if mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
                    content.resize(content.len().max(end), 0);
                }
                if mode & !libc::FALLOC_FL_KEEP_SIZE != 0 {
                    let end = end.min(content.len());
                    content[(at as usize).min(end)..end].fill(0);
                }
            }
        }
        Step::Copy(from, at, to, to_at, len) => {
            if let (Some(from), Some(to)) = (model.file(from), model.file(to)) {
                if from == to && at.abs_diff(to_at) < len {
                    return;
                }
                let copied = v.copy_range(from, at, to, to_at, len, false).unwrap();
                let content = &model.thing(from).content;
                let end = ((at + len) as usize).min(content.len());
                let data = content[(at as usize).min(end)..end].to_vec();
                assert_eq!(copied, data.len() as u64);
                if copied > 0 {
                    model.write(to, to_at as usize, &data);
                }
            }
        }
        Step::SetXattr(thing, number, len, flags) => {
            let ino = model.choose(thing, |_| true).unwrap();
            let name = format!("trusted.{number}").into_bytes();
            let value = text(number as u64, len);
            let xattrs = &mut model.thing(ino).xattrs;
            let expected = match (flags, xattrs.contains_key(&name)) {
                (1, true) => Err(Error::Exists),
                (2, false) => Err(Error::NoAttribute),
                _ => Ok(()),
            };
            if expected.is_ok() {
                xattrs.insert(name.clone(), value.clone());
            }
            let flags = XattrFlags::from_bits(flags).unwrap();
            compare(step, v.set_xattr(ino, &name, &value, flags), expected);
        }
        Step::RemoveXattr(thing, number) => {
            let ino = model.choose(thing, |_| true).unwrap();
            let name = format!("trusted.{number}").into_bytes();
            let removed = model.thing(ino).xattrs.remove(&name);
            let expected = removed.map(drop).ok_or(Error::NoAttribute);
            compare(step, v.remove_xattr(ino, &name), expected);
        }
        Step::Open(thing) => {
            let ino = model.choose(thing, |_| true).unwrap();
            match model.things[&ino].file_type {
                FileType::Regular => v.open_file(ino, OpenFlags::WRITE).unwrap(),
                FileType::Directory => v.open_dir(ino).unwrap(),
                _ => return,
            }
            model.open.push(ino);
        }
        Step::Release(number) => {
            if !model.open.is_empty() {
                let ino = model.open.remove(number % model.open.len());
                v.release(ino);
            }
        }
        Step::Sync => v.sync().unwrap(),
        Step::Drain => v.tier().drain(&mut |_| true).unwrap(),
        Step::Reopen => {
            model.open.clear();
            f.reopen(Options::default());
        }
    }
    model.collect();
}

fn verify(f: &Fixture, model: &Model) {
    assert_eq!(tree(&f.volume), model.tree());
    // What is open lives, named or not.
    for ino in &model.open {
        let thing = &model.things[ino];
        assert_eq!(f.volume.attr(*ino).unwrap().mode, thing.mode);
        if thing.file_type == FileType::Regular {
            assert_eq!(f.content(*ino), thing.content);
        }
    }
}

/// Nothing but the model's things is left, once nobody has anything open.
fn verify_totals(f: &mut Fixture, model: &mut Model) {
    perform(f, model, &Step::Reopen);
    f.volume.close().unwrap();
    verify(f, model);
    let count = |which: fn(FileType) -> bool| {
        let things = model.things.values();
        things.filter(|thing| which(thing.file_type)).count() as u64
    };
    let is_file = |thing: &&Thing| thing.file_type == FileType::Regular;
    let files = model.things.values().filter(is_file);
    let expected = Totals {
        files: count(|t| t == FileType::Regular),
        directories: count(|t| t == FileType::Directory),
        others: count(|t| !matches!(t, FileType::Regular | FileType::Directory)),
        bytes: files.map(|thing| thing.content.len() as u64).sum(),
    };
    assert_eq!(f.volume.totals().unwrap(), expected);
    assert_eq!(f.rows(Table::Orphan), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_volume_equals_a_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut f = Fixture::new();
        let mut model = Model::new();
        for step in &steps {
            perform(&mut f, &mut model, step);
        }
        verify(&f, &model);
        verify_totals(&mut f, &mut model);
    }
}

impl Fixture {
    /// Ends as a process that is killed does: of what the store is still asked
    /// for, `skip` changes succeed, and of the next one the caller does not
    /// hear whether it took effect.
    fn crash(&mut self, faulty: &FaultyStore<MemoryStore>, skip: u64, after: bool) {
        faulty.arm(Some(Fault {
            call: None::<Call>,
            skip,
            after,
            for_ever: true,
            error: || Error::Other("the process was killed, says the test".into()),
        }));
        self.volume.close().unwrap();
        // Fails unless nothing was to be written any more.
        let _ = self.volume.tier().close();
        faulty.arm(None);
        self.volume = Volume::open(open_tier(&self.store), Options::default()).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// After every crash the volume is as it was after some operation, not
    /// earlier than the last one synced, and life goes on from there.
    #[test]
    fn a_volume_equals_a_model_across_crashes(
        steps in prop::collection::vec(
            prop_oneof![
                9 => step().prop_map(Ok),
                1 => (0..5u64, any::<bool>()).prop_map(Err),
            ],
            1..70,
        ),
    ) {
        let faulty = Arc::new(FaultyStore::new(MemoryStore::new(16)));
        let mut f = Fixture::on(faulty.clone());
        let mut model = Model::new();
        // States that a crash may lead to, the latest last.
        let mut possible = vec![model.clone()];
        for step in &steps {
            match step {
                Ok(step) => {
                    perform(&mut f, &mut model, step);
                    if matches!(step, Step::Sync | Step::Drain | Step::Reopen) {
                        possible.clear();
                    }
                }
                Err((skip, after)) => {
                    f.crash(&faulty, *skip, *after);
                    let found = tree(&f.volume);
                    let state = possible.iter().rposition(|state| state.tree() == found);
                    let Some(state) = state else {
                        panic!("{found:#?} was never there since the last sync");
                    };
                    model = possible.swap_remove(state);
                    model.open.clear();
                    model.collect();
                    possible.clear();
                }
            }
            possible.push(model.clone());
        }
        verify(&f, &model);
        verify_totals(&mut f, &mut model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Cuts the power after every single change of the store: each time the
    /// rows agree, and the volume is as it was after some operation, not
    /// earlier than the last one synced. Where every operation is synced, each
    /// is seen alone; otherwise they share commits.
    #[test]
    fn power_cuts_leave_a_state_between_operations(
        steps in prop::collection::vec(step(), 1..30),
        alone in any::<bool>(),
    ) {
        let tape = Arc::new(Tape::default());
        let mut f = Fixture::on(tape.clone());
        let mut model = Model::new();
        let mut history = vec![model.tree()];
        tape.mark(1);
        for step in &steps {
            perform(&mut f, &mut model, step);
            history.push(model.tree());
            if alone {
                f.volume.sync().unwrap();
            }
            if alone || matches!(step, Step::Sync | Step::Drain | Step::Reopen) {
                tape.mark(history.len() as u64);
            }
        }
        f.volume.sync().unwrap();
        tape.mark(history.len() as u64);
        tape.replay(&mut |store, synced| {
            if synced == 0 {
                return; // Before there was a volume.
            }
            let volume = Volume::open(open_tier(store), Options::default()).unwrap();
            volume.close().unwrap();
            let found = tree(&volume);
            let possible = &history[synced as usize - 1..];
            assert!(possible.contains(&found), "{found:#?} after {synced} steps");
            assert_clean(&volume);
        });
    }
}
