//! The journal: checkpoints while commits go on, and its bounds.

use super::*;
use crate::store::recover::JOURNAL;

fn journal_bytes(path: &Path) -> u64 {
    let files = crate::store::files::files_below(&path.join(JOURNAL)).unwrap();
    files
        .iter()
        .map(|file| std::fs::metadata(file).unwrap().len())
        .sum()
}

/// Checkpoints are written while commits go on, and what they and the commits
/// behind them say is what the database holds.
#[test]
fn checkpoints_beside_commits_are_whole() {
    let (home, directory) = fresh();
    let path = home.path().join("store");
    let store = directory.store();
    store.pair().journal.as_ref().unwrap().set_due(20_000);
    let mut dice = Dice(9);
    for round in 0..400u64 {
        let mut batch = Batch::default();
        for _ in 0..20 {
            let table = Table::ALL[dice.roll(9) as usize];
            let key = noise(dice.roll(3000), 16);
            match dice.roll(4) {
                0 => batch.delete(table, key),
                _ => batch.put(table, key, noise(round, dice.roll(200) as usize)),
            }
        }
        store.commit(batch).unwrap();
        if round % 100 == 99 {
            let expected = rows(&*store).unwrap();
            let copy = home.path().join("copy");
            store.pair().wait();
            copy_directory(&path, &copy);
            std::fs::remove_dir_all(copy.join("db")).unwrap();
            let rebuilt = StoreDir::open(&copy, Access::Write).unwrap();
            assert!(
                rows(&*rebuilt.store()).unwrap() == expected,
                "round {round}"
            );
            drop(rebuilt);
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
    let written: u64 = 400 * 20 * 100;
    let bytes = journal_bytes(&path);
    assert!(bytes < written / 2, "{bytes}: nothing was ever deleted");
}

/// A power cut may leave the database ahead of its journal, or behind.
#[test]
fn database_and_journal_may_be_apart_by_a_commit() {
    let (home, directory) = fresh();
    let path = home.path().join("store");
    let store = directory.store();
    let mut states = Vec::new();
    for at in 0..3u64 {
        let mut batch = Batch::default();
        batch.put(Table::Inode, at.to_be_bytes(), noise(at, 50));
        store.commit(batch).unwrap();
        let copy = home.path().join(format!("copy{at}"));
        copy_directory(&path, &copy);
        states.push((copy, rows(&*store).unwrap()));
    }
    for (of_database, of_journal) in [(0, 1), (1, 0), (0, 2), (2, 0)] {
        let mixed = home.path().join("mixed");
        copy_directory(&states[of_database].0, &mixed);
        std::fs::remove_dir_all(mixed.join(JOURNAL)).unwrap();
        copy_directory(&states[of_journal].0.join(JOURNAL), &mixed.join(JOURNAL));
        for access in [Access::Read, Access::Write, Access::Read] {
            let opened = StoreDir::open(&mixed, access).unwrap();
            let expected = &states[of_database.max(of_journal)].1;
            assert!(&rows(&*opened.store()).unwrap() == expected);
        }
        // And the journal is whole again.
        std::fs::remove_dir_all(mixed.join("db")).unwrap();
        let opened = StoreDir::open(&mixed, Access::Write).unwrap();
        assert!(rows(&*opened.store()).unwrap() == states[of_database.max(of_journal)].1);
        drop(opened);
        std::fs::remove_dir_all(&mixed).unwrap();
    }
}

/// The journal of another store is none.
#[test]
fn journals_are_not_mixed_up() {
    let (home, directory) = fresh();
    let (other_home, other) = fresh();
    for (directory, value) in [(&directory, b"a"), (&other, b"b")] {
        let mut batch = Batch::default();
        batch.put(Table::Meta, b"k", value);
        directory.store().commit(batch).unwrap();
    }
    drop((directory, other));
    let (path, other) = (home.path().join("store"), other_home.path().join("store"));
    std::fs::remove_dir_all(path.join(JOURNAL)).unwrap();
    copy_directory(&other.join(JOURNAL), &path.join(JOURNAL));
    std::fs::remove_dir_all(path.join("db")).unwrap();
    let refused = StoreDir::open(&path, Access::Write).err();
    assert!(matches!(refused, Some(Error::Corrupt(_))), "{refused:?}");
}
