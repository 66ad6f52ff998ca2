//! Kills and power cuts: whatever was committed is there afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

pub(super) type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// A play of commits, the same for the same seed.
pub(super) struct Play {
    dice: Dice,
    pub rows: Rows,
    pub number: u64,
}

impl Play {
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            rows: Rows::new(),
            number: 0,
        }
    }

    /// Brings the store to its next state, and `rows` with it.
    pub fn step(&mut self, store: &dyn Store) -> crate::Result<()> {
        self.number += 1;
        let mut batch = Batch::default();
        for _ in 0..self.dice.roll(30) {
            let table = Table::ALL[self.dice.roll(8) as usize];
            let key = noise(self.dice.roll(200), 20);
            match self.dice.roll(5) {
                0 => batch.delete(table, key),
                _ => {
                    let (seed, len) = (self.dice.roll(1 << 40), self.dice.roll(6000));
                    let class = [Class::Hot, Class::Cold][self.dice.roll(2) as usize];
                    let mut row = seed.to_be_bytes().to_vec();
                    store
                        .append(class, table, &key, &noise(seed, len as usize))?
                        .encode(&mut row);
                    batch.put(table, key, row);
                }
            }
        }
        batch.put(Table::Log, b"number", self.number.to_be_bytes());
        store.commit(batch.clone())?;
        for (table, key, value) in batch.changes {
            match value {
                Some(value) => self.rows.insert((table, key), value),
                None => self.rows.remove(&(table, key)),
            };
        }
        Ok(())
    }
}

/// Opens a copy of what a crash left. It must hold exactly `one_of` these
/// states, every value readable, and take further commits.
pub(super) fn verify(path: &Path, one_of: &[&Rows]) {
    let directory = StoreDir::open(path, Access::Write).unwrap();
    let store = directory.store();
    let found: Rows = rows(&*store)
        .unwrap()
        .into_iter()
        .map(|(table, (key, value))| ((table, key), value))
        .collect();
    assert!(
        one_of.contains(&&found),
        "{:?} is there",
        found.get(&(Table::Log, b"number".to_vec()))
    );
    for ((table, _), row) in &found {
        if *table == Table::Log {
            continue;
        }
        let value = ValueRef::decode(&row[8..]).unwrap();
        let payload = store.value(&value).unwrap();
        let seed = u64::from_be_bytes(row[..8].try_into().unwrap());
        assert_eq!(payload, noise(seed, payload.len()));
    }
    for info in store.logs().unwrap() {
        store.walk_log(info.log, &mut |_| Ok(())).unwrap();
    }
    let mut play = Play::new(99);
    play.step(&*store).unwrap();
}

/// What has been appended and not yet committed may be torn anywhere.
#[test]
fn torn_tails_of_logs_do_no_harm() {
    let (home, directory) = fresh();
    let store = directory.store();
    let mut play = Play::new(1);
    for round in 0..12u64 {
        for _ in 0..1 + play.dice.roll(4) {
            play.step(&*store).unwrap();
        }
        let sizes: BTreeMap<u64, u64> = store
            .logs()
            .unwrap()
            .iter()
            .map(|info| (info.log, info.bytes))
            .collect();
        for at in 0..play.dice.roll(5) {
            let len = play.dice.roll(9000) as usize;
            let class = [Class::Hot, Class::Cold][at as usize % 2];
            let value = store.append(class, Table::Chunk, b"torn", &noise(at, len));
            value.unwrap();
        }
        let copy = home.path().join(format!("copy{round}"));
        copy_directory(&home.path().join("store"), &copy);
        for info in store.logs().unwrap() {
            let name = crate::store::vlog::file_name(info.log, info.class);
            let file = std::fs::File::options()
                .write(true)
                .open(copy.join("logs").join(name))
                .unwrap();
            let synced = sizes.get(&info.log).copied().unwrap_or(0);
            let end = synced + play.dice.roll(info.bytes - synced + 1);
            file.set_len(end).unwrap();
            // Blocks beyond may be there without their content.
            if play.dice.roll(2) == 0 {
                file.set_len(info.bytes).unwrap();
            }
        }
        verify(&copy, &[&play.rows]);
    }
}

/// A power cut leaves what was synced and any blocks of what was written
/// since. Whatever they are, the commit is there wholly or not at all.
#[test]
fn power_cuts_leave_a_commit_whole_or_undone() {
    const BLOCK: usize = 4096;
    let (home, directory) = fresh();
    let path = directory.path().to_owned();
    let store = directory.store();
    let watched = path.join("db/db");
    durable::witness::watch(&watched);
    let mut play = Play::new(5);
    let (mut doubtful, mut cuts) = (0, 0);
    for round in 0..60u64 {
        let mut states = vec![std::fs::read(path.join("db/db")).unwrap()];
        let old = play.rows.clone();
        play.step(&*store).unwrap();
        states.extend(durable::witness::states(&watched));
        if round % 5 != 4 {
            continue;
        }
        for pair in states.windows(2) {
            let mut torn = pair[1].clone();
            for (at, block) in torn.chunks_mut(BLOCK).enumerate() {
                let was = pair[0].get(at * BLOCK..).unwrap_or(&[]);
                let mut was = was[..was.len().min(block.len())].to_vec();
                was.resize(block.len(), 0);
                if block != was {
                    doubtful += 1;
                    if play.dice.roll(2) == 0 {
                        block.copy_from_slice(&was);
                    }
                }
            }
            cuts += 1;
            let copy = home.path().join(format!("copy{cuts}"));
            copy_directory(&path, &copy);
            std::fs::write(copy.join("db/db"), torn).unwrap();
            verify(&copy, &[&old, &play.rows]);
            std::fs::remove_dir_all(copy).unwrap();
        }
        // And what the commit acknowledged is durable.
        let copy = home.path().join("copy");
        copy_directory(&path, &copy);
        std::fs::write(copy.join("db/db"), states.last().unwrap()).unwrap();
        verify(&copy, &[&play.rows]);
        std::fs::remove_dir_all(copy).unwrap();
    }
    assert!(
        cuts >= 12 && doubtful > 12,
        "{cuts} cuts, {doubtful} blocks"
    );
}

/// sled takes a snapshot that it began for a whole one and gives up.
#[test]
fn a_snapshot_half_written_does_no_harm() {
    let (_home, directory) = fresh();
    let path = directory.path().to_owned();
    let mut play = Play::new(8);
    for _ in 0..5 {
        play.step(&*directory.store()).unwrap();
    }
    let copy = path.with_file_name("copy");
    copy_directory(&path, &copy);
    let half = copy.join("db/snap.00000000FFFFFFFF.generating");
    std::fs::write(half, [0; 7]).unwrap();
    verify(&copy, &[&play.rows]);
}

/// After a sync that failed nobody knows what the disk holds: nothing more is
/// taken until the store is opened again, and what is there can be read.
#[test]
fn a_failed_sync_is_not_forgotten() {
    for of_log in [false, true] {
        let (_home, directory) = fresh();
        let path = directory.path().to_owned();
        let store = directory.store();
        let mut play = Play::new(6);
        for _ in 0..3 {
            play.step(&*store).unwrap();
        }
        let old = play.rows.clone();
        let value = store.append(Class::Hot, Table::Chunk, b"k", &noise(1, 500));
        let mut batch = Batch::default();
        batch.put(Table::Log, b"new", b"row"); // `verify` reads no value there
        match of_log {
            true => store.value_logs().pretend_broken(),
            false => durable::witness::fail(&path.join("db/db")),
        }
        let failed = store.commit(batch.clone());
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        durable::witness::forget(&path.join("db/db"));
        // The kernel would say yes now.
        let again = store.commit(batch);
        assert!(matches!(again, Err(Error::Io { .. })), "{again:?}");
        assert_eq!(store.value(&value.unwrap()).unwrap(), noise(1, 500));
        if of_log {
            assert!(store.logs().unwrap().iter().all(|info| info.sealed));
            assert_eq!(store.get(Table::Log, b"new").unwrap(), None);
        }
        assert!(rows(&*store).unwrap().len() >= old.len());
        drop((store, directory));
        assert!(!path.join("db.seal").exists());
        let mut new = old.clone();
        new.insert((Table::Log, b"new".to_vec()), b"row".to_vec());
        verify(&path, &[&old, &new]);
    }
}

/// sled may stop within a batch, at a page that it cannot read: rows are then
/// seen as they were before, and never written.
#[test]
fn half_a_batch_is_never_seen() {
    let (_home, directory) = fresh();
    let store = directory.store();
    let mut batch = Batch::default();
    for at in [1u8, 3, 5] {
        batch.put(Table::Inode, [at], [at]);
    }
    store.commit(batch).unwrap();
    let before = rows(&*store).unwrap();
    let mut half = Batch::default();
    half.put(Table::Inode, [3], [9]);
    half.put(Table::Inode, [4], [9]);
    half.delete(Table::Inode, [5]);
    store.commit(half).unwrap();
    let raw = |at: u8| vec![Table::Inode as u8, at];
    store.database().pretend_torn(
        [
            (raw(3), Some(vec![3])),
            (raw(4), None),
            (raw(5), Some(vec![5])),
        ]
        .into(),
    );
    assert_eq!(rows(&*store).unwrap(), before);
    for at in 0..7 {
        let expected = before.iter().find(|(_, (key, _))| key == &[at]);
        let found = store.get(Table::Inode, &[at]).unwrap();
        assert_eq!(found.as_ref(), expected.map(|(_, (_, value))| value));
    }
    assert_eq!(
        store.scan(Table::Inode, &[2], Some(&[5]), 1).unwrap(),
        [(vec![3], vec![3])]
    );
    assert!(store.commit(Batch::default()).is_err());
}

/// The process that [`kills_lose_nothing_committed`] kills.
#[test]
#[ignore = "runs as a child of another test"]
fn victim() {
    let Some(path) = std::env::var_os("LACONICFS_TEST_VICTIM") else {
        return;
    };
    let directory = StoreDir::open(Path::new(&path), Access::Write).unwrap();
    let mut play = Play::new(3);
    loop {
        play.step(&*directory.store()).unwrap();
        eprintln!("committed {}", play.number);
    }
}

#[test]
fn kills_lose_nothing_committed() {
    for round in 0..4u64 {
        let (home, directory) = fresh();
        drop(directory);
        let path = home.path().join("store");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::crash::victim"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .env("LACONICFS_TEST_VICTIM", &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let number =
            |line: String| -> Option<u64> { line.strip_prefix("committed ")?.parse().ok() };
        let wanted = 10 + round * 17;
        let mut acknowledged = 0;
        while acknowledged < wanted {
            let line = lines.next().expect("the victim died by itself").unwrap();
            acknowledged = number(line).unwrap_or(acknowledged);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died.
        for line in lines {
            acknowledged = number(line.unwrap()).unwrap_or(acknowledged);
        }
        let mut play = Play::new(3);
        let scratch = MemoryStore::default();
        while play.number < acknowledged {
            play.step(&scratch).unwrap();
        }
        let last = seeds(&play.rows);
        play.step(&scratch).unwrap();
        let next = seeds(&play.rows);
        let directory = StoreDir::open(&path, Access::Write).unwrap();
        let store = directory.store();
        let mut found = Rows::new();
        for (table, (key, row)) in rows(&*store).unwrap() {
            if table != Table::Log {
                let value = ValueRef::decode(&row[8..]).unwrap();
                let payload = store.value(&value).unwrap();
                let seed = u64::from_be_bytes(row[..8].try_into().unwrap());
                assert_eq!(payload, noise(seed, payload.len()));
            }
            found.insert((table, key), row);
        }
        let found = seeds(&found);
        assert!(found == last || found == next, "after {acknowledged}");
    }
}

/// Rows up to their seeds: where values rest is the store's affair.
fn seeds(rows: &Rows) -> Rows {
    rows.iter()
        .map(|(key, row)| (key.clone(), row[..8].to_vec()))
        .collect()
}
