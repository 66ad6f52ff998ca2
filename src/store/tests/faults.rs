//! A fault at every single write and sync: what was acknowledged is there.

use super::crash::{Play, Rows, verify};
use super::*;
use crate::store::durable::faults;

/// Opens a store, commits a few times with checkpoints between, closes it.
/// Returns the rows that were acknowledged, those of the commit that failed,
/// and the failure.
fn play(path: &Path) -> (Rows, Rows, Option<Error>) {
    let mut play = Play::new(17);
    let run = |play: &mut Play| -> crate::Result<()> {
        let directory = StoreDir::open(path, Access::Write)?;
        let store = directory.store();
        // So small that every second commit or so makes one due.
        store.pair().journal.as_ref().unwrap().set_due(900);
        for _ in 0..5 {
            play.step(&*store)?;
            store.pair().wait();
        }
        Ok(())
    };
    let failed = run(&mut play).err();
    let acknowledged = play.rows.clone();
    // What the step that failed may have brought about: values rest in the
    // same places when the steps are played again.
    let mut again = Play::new(17);
    let home = TempDir::new().unwrap();
    let scratch = StoreDir::create(&home.path().join("s"), &properties()).unwrap();
    while failed.is_some() && again.number < play.number.max(1) {
        again.step(&*scratch.store()).unwrap();
    }
    let next = match failed {
        Some(_) => again.rows,
        None => acknowledged.clone(),
    };
    (acknowledged, next, failed)
}

#[test]
fn a_fault_at_any_write_or_sync_loses_nothing() {
    let home = TempDir::new().unwrap();
    let origin = home.path().join("origin");
    drop(StoreDir::create(&origin, &properties()).unwrap());
    // All of them take minutes: `LACONICFS_TEST_ALL=1`.
    let step = match std::env::var_os("LACONICFS_TEST_ALL") {
        Some(_) => 1,
        None => 5,
    };
    let (mut at, mut tried, mut failures) = (0, 0, 0);
    loop {
        let path = home.path().canonicalize().unwrap().join("store");
        copy_directory(&origin, &path);
        faults::arm(&path, at, (at as usize * 97) % 257);
        let (acknowledged, next, failed) = play(&path);
        let seen = faults::disarm(&path);
        failures += u64::from(failed.is_some());
        // What the failing call left, as the next process finds it.
        let directory = StoreDir::open(&path, Access::Read).unwrap();
        let found: Vec<_> = rows(&*directory.store()).unwrap();
        drop(directory);
        assert!(found.len() >= acknowledged.len().min(next.len()), "at {at}");
        verify(&path, &[&acknowledged, &next]);
        std::fs::remove_dir_all(&path).unwrap();
        if seen <= at {
            // Nothing failed any more: all of them have been tried.
            assert!(failed.is_none(), "{failed:?}");
            break;
        }
        at += step;
        tried += 1;
    }
    eprintln!("{at} writes and syncs, {tried} tried, {failures} of these reported");
    assert!(
        at > 30 && failures * 2 > tried,
        "{at} operations, {failures} failures"
    );
}
