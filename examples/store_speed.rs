//! Speed and size of a store on the disk that holds the temporary directory
//! (`TMPDIR`): `cargo run --release --example store_speed`.

use std::sync::Arc;
use std::time::Instant;

use laconicfs::store::{Access, Batch, Class, Properties, Store, StoreDir, Table};

/// Commits until this much has been written.
const PAYLOAD: usize = 128 << 20;
const VALUE: usize = 64 << 10;

fn main() -> laconicfs::Result<()> {
    println!("what                                   per second    ms a commit");
    for per_commit in [1, 16, 64] {
        values(per_commit)?;
    }
    for per_commit in [64, 512] {
        rows(per_commit)?;
    }
    Ok(())
}

fn fresh() -> laconicfs::Result<(tempfile::TempDir, StoreDir)> {
    let home =
        tempfile::TempDir::new().map_err(laconicfs::Error::io("creating a temporary directory"))?;
    let directory = StoreDir::create(&home.path().join("store"), &Properties::default())?;
    Ok((home, directory))
}

/// Bytes that differ from value to value.
fn payload(seed: u64) -> Vec<u8> {
    let mut out = vec![0; VALUE];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_be_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

fn values(per_commit: usize) -> laconicfs::Result<()> {
    let (home, directory) = fresh()?;
    let store: Arc<dyn Store> = directory.store();
    let payloads: Vec<_> = (0..64).map(payload).collect();
    let total = if per_commit == 1 {
        PAYLOAD / 8
    } else {
        PAYLOAD
    };
    let count = total / VALUE;
    let begun = Instant::now();
    let mut batch = Batch::default();
    for at in 0..count {
        let key = blake3::hash(&at.to_be_bytes());
        let key = key.as_bytes();
        let mut row = vec![0; 27];
        store
            .append(Class::Hot, Table::Chunk, key, &payloads[at % 64])?
            .encode(&mut row);
        batch.put(Table::Chunk, key, row);
        if (at + 1) % per_commit == 0 {
            store.commit(std::mem::take(&mut batch))?;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let commits = count as f64 / per_commit as f64;
    println!(
        "64 KiB values, {per_commit:>3} a commit          {:>10.1} MB {:>10.2}",
        total as f64 / 1e6 / seconds,
        seconds * 1e3 / commits
    );
    let space = store.space()?;
    let all = space.database + space.logs + space.other;
    println!(
        "    {:.4} bytes of disk a byte of payload, {:.4} of them in logs",
        all as f64 / total as f64,
        space.logs as f64 / total as f64
    );
    let begun = Instant::now();
    for (key, row) in store.scan(Table::Chunk, &[], None, usize::MAX)? {
        let value = laconicfs::store::ValueRef::decode(&row[27..])?;
        assert_eq!(store.value(&value)?.len(), VALUE, "{key:?}");
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("    read back at {:.0} MB/s", total as f64 / 1e6 / seconds);
    drop((store, directory));
    drop(home);
    Ok(())
}

fn rows(per_commit: usize) -> laconicfs::Result<()> {
    const ROWS: usize = 60_000;
    let (home, directory) = fresh()?;
    let store = directory.store();
    let begun = Instant::now();
    let mut bytes = 0;
    let mut batch = Batch::default();
    for at in 0..ROWS {
        let key = *blake3::hash(&at.to_be_bytes()).as_bytes();
        bytes += 32 + 48;
        batch.put(Table::Chunk, key, [at as u8; 48]);
        if (at + 1) % per_commit == 0 {
            store.commit(std::mem::take(&mut batch))?;
        }
    }
    store.commit(batch)?;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "rows of 80 bytes, {per_commit:>3} a commit       {:>10.0}    {:>10.2}",
        ROWS as f64 / seconds,
        seconds * 1e3 / (ROWS as f64 / per_commit as f64)
    );
    let disk = store.space()?.database as f64;
    println!(
        "    {:.0} bytes of disk a row, {:.1} a byte",
        disk / ROWS as f64,
        disk / bytes as f64
    );
    drop((store, directory));
    let begun = Instant::now();
    let path = home.path().join("store");
    let directory = StoreDir::open(&path, Access::Write)?;
    println!(
        "    opened in {:.0} ms, then {:.0} bytes of disk a row",
        begun.elapsed().as_secs_f64() * 1e3,
        directory.store().space()?.database as f64 / ROWS as f64
    );
    Ok(())
}
