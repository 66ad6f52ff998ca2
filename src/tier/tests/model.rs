//! Random histories against a model of plain vectors, and power cuts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::{Properties, StoreDir};

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, usize, u64),
    Truncate(u64, u64),
    Punch(u64, u64, u64),
    Copy(u64, u64, u64, u64, u64),
    Fail(u64, u64, usize),
    Free(u64),
    Attribute(u8, usize),
    Sync,
    Drain,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let ino = 1..4u64;
    // Often at chunk boundaries.
    let at = prop_oneof![
        0..40 * CHUNK as u64,
        (0..40u64).prop_map(|i| i * CHUNK as u64)
    ];
    let len = prop_oneof![0..3 * CHUNK, (0..4usize).prop_map(|i| i * CHUNK)];
    let long = len.clone().prop_map(|len| len as u64);
    prop_oneof![
        8 => (ino.clone(), at.clone(), len.clone(), 0..6u64)
            .prop_map(|(i, a, l, s)| Step::Write(i, a, l, s)),
        2 => (ino.clone(), at.clone()).prop_map(|(i, a)| Step::Truncate(i, a)),
        2 => (ino.clone(), at.clone(), long.clone()).prop_map(|(i, a, l)| Step::Punch(i, a, l)),
        3 => (ino.clone(), at.clone(), ino.clone(), at.clone(), long)
            .prop_map(|(i, a, j, b, l)| Step::Copy(i, a, j, b, l)),
        1 => (ino.clone(), at, len).prop_map(|(i, a, l)| Step::Fail(i, a, l)),
        1 => ino.prop_map(Step::Free),
        1 => (0..3u8, 0..100usize).prop_map(|(key, len)| Step::Attribute(key, len)),
        3 => Just(Step::Sync),
        1 => Just(Step::Drain),
        1 => Just(Step::Reopen),
    ]
}

/// What files should hold: bytes, and how many chunks are stored.
#[derive(Clone, Default)]
struct Model {
    files: BTreeMap<u64, (Vec<u8>, i64)>,
    attributes: BTreeMap<u8, Vec<u8>>,
}

impl Model {
    fn put(&mut self, ino: u64, offset: u64, data: &[u8]) {
        let (file, _) = self.files.entry(ino).or_default();
        let end = offset as usize + data.len();
        if file.len() < end && !data.is_empty() {
            file.resize(end, 0);
        }
        if !data.is_empty() {
            file[offset as usize..end].copy_from_slice(data);
        }
    }

    fn get(&self, ino: u64, offset: u64, len: usize) -> Vec<u8> {
        let none = (Vec::new(), 0);
        let (file, _) = self.files.get(&ino).unwrap_or(&none);
        let at = (offset as usize).min(file.len());
        let end = (offset as usize + len).min(file.len());
        let mut out = file[at..end.max(at)].to_vec();
        out.resize(len, 0);
        out
    }

    fn count(&mut self, ino: u64, change: i64) {
        self.files.entry(ino).or_default().1 += change;
    }
}

fn verify(tier: &Tier, model: &Model) {
    for (key, value) in &model.attributes {
        let found = tier.run(|op| op.get_value(Table::Xattr, &[*key])).unwrap();
        let expected = (!value.is_empty()).then(|| (b"p".to_vec(), value.clone()));
        assert_eq!(found, expected, "attribute {key}");
    }
    for (ino, (file, chunks)) in &model.files {
        assert_eq!(
            tier.read(*ino, 0, file.len() + 100).unwrap()[..file.len()],
            *file
        );
        // Data and holes partition the file, and data counts as blocks do.
        let size = 64 * CHUNK as u64;
        let mut stored = 0;
        let mut at = 0;
        while let Some(data) = tier.run(|op| op.next_data(*ino, at, size)).unwrap() {
            at = tier.run(|op| op.next_hole(*ino, data, size)).unwrap();
            assert!(at > data);
            stored += (at - data) as i64 / CHUNK as i64;
        }
        assert_eq!(stored, *chunks, "stored chunks of {ino}");
    }
}

/// Everything counts right, once nothing is pending.
fn verify_counts(store: &dyn Store) {
    let check = check(store).unwrap();
    assert_eq!(check.problems, Vec::<String>::new());
}

/// Performs one step on the tier and on the model.
fn perform(tier: &Tier, model: &mut Model, step: &Step, number: u64) {
    let count = |op: &mut Op<'_>| op.put(Table::Inode, b"step".to_vec(), number.to_be_bytes());
    match *step {
        Step::Write(ino, at, len, seed) => {
            let data = text(seed, len);
            let change =
                tier.run(|op| op.write(ino, at, &data).and_then(|n| count(op).map(|()| n)));
            model.put(ino, at, &data);
            model.count(ino, change.unwrap());
        }
        Step::Truncate(ino, size) => {
            let change = tier.run(|op| op.truncate(ino, size).and_then(|n| count(op).map(|()| n)));
            let (file, _) = model.files.entry(ino).or_default();
            file.truncate(size as usize);
            model.count(ino, change.unwrap());
        }
        Step::Punch(ino, at, len) => {
            let change = tier.run(|op| op.punch(ino, at, len).and_then(|n| count(op).map(|()| n)));
            let (file, _) = model.files.entry(ino).or_default();
            let end = ((at + len) as usize).min(file.len());
            file[(at as usize).min(end)..end].fill(0);
            model.count(ino, change.unwrap());
        }
        Step::Copy(from, at, to, to_at, len) => {
            if from == to && at.abs_diff(to_at) < len {
                return;
            }
            let change = tier.run(|op| {
                let change = op.copy(from, at, to, to_at, len)?;
                count(op).map(|()| change)
            });
            let data = model.get(from, at, len as usize);
            model.put(to, to_at, &data);
            model.count(to, change.unwrap());
        }
        Step::Fail(ino, at, len) => {
            // Everything an operation did before it failed is undone.
            let failed = tier.run(|op| {
                op.write(ino, at, &text(9, len))?;
                op.write(ino, at + 7, &text(8, len))?;
                op.truncate(ino, at + len as u64 / 2)?;
                op.copy(ino, 0, ino + 1, CHUNK as u64, 3 * CHUNK as u64)?;
                op.punch(ino, at, 900)?;
                op.put(Table::Inode, b"x".to_vec(), b"y".to_vec())?;
                op.put_value(Table::Xattr, b"x".to_vec(), b"", &text(1, 100))?;
                op.free_some(ino, 1)?;
                Err::<(), _>(Error::NotEmpty)
            });
            assert!(matches!(failed, Err(Error::NotEmpty)));
            assert_eq!(tier.run(|op| op.get(Table::Inode, b"x")).unwrap(), None);
        }
        Step::Free(ino) => {
            let free = |op: &mut Op<'_>| {
                let all = op.free_some(ino, 100)?;
                count(op).map(|()| all)
            };
            assert!(tier.run(free).unwrap());
            model.files.remove(&ino);
        }
        Step::Attribute(key, len) => {
            tier.run(|op| {
                match len {
                    0 => op.delete(Table::Xattr, vec![key])?,
                    _ => op.put_value(Table::Xattr, vec![key], b"p", &text(key.into(), len))?,
                }
                count(op)
            })
            .unwrap();
            model.attributes.insert(key, text(key.into(), len));
        }
        Step::Sync => tier.sync().unwrap(),
        Step::Drain => tier.drain(&mut |_| true).unwrap(),
        Step::Reopen => {}
    }
}

fn play(store: Arc<dyn Store>, steps: Vec<Step>) {
    let mut tier = open(&store);
    let mut model = Model::default();
    for step in steps {
        perform(&tier, &mut model, &step, 0);
        if let Step::Reopen = step {
            tier.close().unwrap();
            verify_counts(&*store);
            tier = open(&store);
        }
    }
    verify(&tier, &model);
    tier.close().unwrap();
    verify(&tier, &model);
    verify_counts(&*store);
    let tier = open(&store);
    verify(&tier, &model);
    tier.drain(&mut |_| true).unwrap();
    let stats = tier.stats().unwrap();
    assert_eq!(stats.queue, 0);
    // Nothing but cold values is left, and hardly any garbage.
    for info in store.logs().unwrap() {
        assert!(
            info.class == crate::store::Class::Cold || info.bytes == 0,
            "{info:?}"
        );
    }
    verify(&tier, &model);
    tier.close().unwrap();
    verify_counts(&*store);
}

/// Performs the steps, then cuts the power after every single change of the
/// store: each time the store must check clean and hold exactly the state
/// after some operation, not earlier than the last one synced.
fn crash(steps: Vec<Step>) {
    let tape = Arc::new(Tape::default());
    let store: Arc<dyn Store> = tape.clone();
    let mut tier = open(&store);
    let mut model = Model::default();
    let mut history = vec![model.clone()];
    for step in steps {
        let number = history.len() as u64;
        perform(&tier, &mut model, &step, number);
        match step {
            Step::Sync | Step::Drain => tape.mark(number - 1),
            Step::Reopen => {
                tier.close().unwrap();
                tape.mark(number - 1);
                tier = open(&store);
            }
            Step::Fail(..) => {}
            Step::Copy(from, at, to, to_at, len) if from == to && at.abs_diff(to_at) < len => {}
            _ => history.push(model.clone()),
        }
    }
    tier.close().unwrap();
    tape.mark(history.len() as u64 - 1);
    tape.replay(&mut |store, synced| {
        verify_counts(&**store);
        let tier = open(store);
        let row = tier.run(|op| op.get(Table::Inode, b"step")).unwrap();
        let reached = row.map_or(0, |row| rows::parse_u64(&row).unwrap());
        assert!(
            reached >= synced,
            "step {synced} was synced, {reached} is there"
        );
        verify(&tier, &history[reached as usize]);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn content_equals_a_model(steps in prop::collection::vec(step(), 1..60)) {
        play(memory(), steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn content_on_a_disk_equals_a_model(steps in prop::collection::vec(step(), 1..30)) {
        let home = tempfile::TempDir::new().unwrap();
        let properties = Properties {
            inline_max: INLINE as u32,
            log_size: 64 << 10,
            ..Properties::default()
        };
        let directory = StoreDir::create(&home.path().join("store"), &properties).unwrap();
        play(directory.store(), steps);
    }

    #[test]
    fn power_cuts_leave_a_state_between_operations(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        crash(steps);
    }

    #[test]
    fn rows_equal_a_model(
        steps in prop::collection::vec((0..40u8, 0..4u8, any::<bool>()), 1..120),
    ) {
        let store = memory();
        let tier = open(&store);
        let mut model = BTreeMap::new();
        for (at, (key, action, sync)) in steps.into_iter().enumerate() {
            let (key, value) = (vec![key], vec![at as u8; 3]);
            match action {
                0 => {
                    tier.run(|op| op.delete(Table::Dirent, key.clone())).unwrap();
                    model.remove(&key);
                }
                1 => {
                    // Pages of three, as a reader of a directory takes them.
                    let mut seen = Vec::new();
                    let mut from = key.clone();
                    loop {
                        let page = tier.run(|op| op.scan(Table::Dirent, &from, Some(&[35]), 3));
                        let page = page.unwrap();
                        let Some((last, _)) = page.last() else { break };
                        from = [last.as_slice(), &[0]].concat();
                        seen.extend(page);
                    }
                    let expected: Vec<_> = match key < vec![35] {
                        true => model.range(key..vec![35]).collect(),
                        false => Vec::new(),
                    };
                    prop_assert!(seen.iter().map(|(k, v)| (k, v)).eq(expected));
                }
                _ => {
                    tier.run(|op| op.put(Table::Dirent, key.clone(), value.clone())).unwrap();
                    model.insert(key, value);
                }
            }
            if sync {
                tier.sync().unwrap();
            }
        }
    }
}
