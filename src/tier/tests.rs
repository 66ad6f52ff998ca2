//! Tests of the tier as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::store::MemoryStore;

const CHUNK: usize = 256;

fn options() -> Options {
    Options {
        chunk_size: CHUNK,
        cache_bytes: 64 << 10,
        dirty_bytes: 1 << 20,
        commit_every: Duration::from_millis(5),
        quiet: Duration::from_secs(3600),
        drain_threads: 0,
        decode_threads: 2,
        read_only: false,
    }
}

fn open(store: &Arc<dyn Store>) -> Arc<Tier> {
    Tier::open(store.clone(), Arc::default(), options()).unwrap()
}

fn memory() -> Arc<dyn Store> {
    // Chunks rest in logs, not in rows.
    Arc::new(MemoryStore::new(16))
}

/// A file's content: `len` bytes that compress a little.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        b'a' + (x % 20) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, usize, u64),
    Truncate(u64, u64),
    Punch(u64, u64, u64),
    Copy(u64, u64, u64, u64, u64),
    Fail(u64, u64, usize),
    Free(u64),
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
        3 => Just(Step::Sync),
        1 => Just(Step::Drain),
        1 => Just(Step::Reopen),
    ]
}

/// What files should hold: bytes, and how many chunks are stored.
#[derive(Default)]
struct Model {
    files: BTreeMap<u64, (Vec<u8>, i64)>,
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

fn play(steps: Vec<Step>) {
    let store = memory();
    let mut tier = open(&store);
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Write(ino, at, len, seed) => {
                let data = text(seed, len);
                let change = tier.run(|op| op.write(ino, at, &data)).unwrap();
                model.put(ino, at, &data);
                model.count(ino, change);
            }
            Step::Truncate(ino, size) => {
                let change = tier.run(|op| op.truncate(ino, size)).unwrap();
                let (file, _) = model.files.entry(ino).or_default();
                file.truncate(size as usize);
                model.count(ino, change);
            }
            Step::Punch(ino, at, len) => {
                let change = tier.run(|op| op.punch(ino, at, len)).unwrap();
                let (file, _) = model.files.entry(ino).or_default();
                let end = ((at + len) as usize).min(file.len());
                file[(at as usize).min(end)..end].fill(0);
                model.count(ino, change);
            }
            Step::Copy(from, at, to, to_at, len) => {
                if from == to && at.abs_diff(to_at) < len {
                    continue;
                }
                let change = tier.run(|op| op.copy(from, at, to, to_at, len)).unwrap();
                let data = model.get(from, at, len as usize);
                model.put(to, to_at, &data);
                model.count(to, change);
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
                    op.free_some(ino, 1)?;
                    Err::<(), _>(Error::NotEmpty)
                });
                assert!(matches!(failed, Err(Error::NotEmpty)));
                assert_eq!(tier.run(|op| op.get(Table::Inode, b"x")).unwrap(), None);
            }
            Step::Free(ino) => {
                while !tier.run(|op| op.free_some(ino, 1)).unwrap() {}
                model.files.remove(&ino);
            }
            Step::Sync => tier.sync().unwrap(),
            Step::Drain => tier.drain(&mut |_| true).unwrap(),
            Step::Reopen => {
                tier.close().unwrap();
                tier = open(&store);
            }
        }
    }
    verify(&tier, &model);
    tier.close().unwrap();
    verify(&tier, &model);
    verify(&open(&store), &model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn content_equals_a_model(steps in prop::collection::vec(step(), 1..60)) {
        play(steps);
    }
}
