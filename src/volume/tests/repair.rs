//! Whatever rows are lost, a repair leaves a volume that agrees with itself,
//! and no file reads wrongly.

use proptest::prelude::*;

use super::*;
use crate::codec::Codec;
use crate::store::Batch;
use crate::tier::Depth;

/// Files by path, and what they hold.
fn files() -> Vec<(String, Vec<u8>)> {
    let file = |at: usize| {
        let folder = ["", "d/", "d/e/"][at % 3];
        (format!("{folder}f{at}"), text(at as u64, at * CHUNK / 3))
    };
    (0..12).map(file).collect()
}

/// A closed volume with these files.
fn filled() -> Arc<dyn Store> {
    let f = Fixture::new();
    let d = f.dir(ROOT, "d");
    let e = f.dir(d, "e");
    for (path, content) in files() {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let parent = [("", ROOT), ("d", d), ("d/e", e)];
        let (_, parent) = parent
            .into_iter()
            .find(|(name, _)| *name == folder)
            .unwrap();
        let ino = f
            .volume
            .make_node(parent, name.as_bytes(), 0o644, 0, ME)
            .unwrap()
            .ino;
        f.write(ino, 0, &content);
        f.volume
            .set_xattr(
                ino,
                b"user.x",
                &content[..content.len().min(3000)],
                XattrFlags::empty(),
            )
            .unwrap();
    }
    // A hole.
    let holes = f.file("holes");
    f.write(holes, 40 * CHUNK as u64, b"behind");
    f.volume.close().unwrap();
    f.volume.tier().close().unwrap();
    f.store.clone()
}

fn repaired(store: &Arc<dyn Store>) -> Arc<Volume> {
    crate::volume::repair(&**store, CHUNK as u64).unwrap();
    let codec = Codec::default();
    tier::repair(&**store, &codec, Depth::Chunks, CHUNK, 1, &mut |_| ()).unwrap();
    crate::volume::repair(&**store, CHUNK as u64).unwrap();
    let volume = Volume::open(open_tier(store), Options::default()).unwrap();
    assert_clean(&volume);
    volume
}

fn find(volume: &Volume, path: &str) -> Option<u64> {
    path.split('/').try_fold(ROOT, |at, name| {
        volume.lookup(at, name.as_bytes()).ok().map(|attr| attr.ino)
    })
}

#[test]
fn a_sound_volume_is_left_alone() {
    let store = filled();
    assert_eq!(
        crate::volume::repair(&*store, CHUNK as u64).unwrap(),
        Vec::<String>::new()
    );
    let codec = Codec::default();
    let repair = tier::repair(&*store, &codec, Depth::Chunks, CHUNK, 1, &mut |_| ()).unwrap();
    assert!(
        repair.corrected.is_empty() && repair.lost.is_empty(),
        "{repair:?}"
    );
    let volume = repaired(&store);
    for (path, content) in files() {
        let ino = find(&volume, &path).unwrap();
        assert!(volume.read_file(ino, 0, 1 << 20).unwrap() == content);
    }
    volume.close().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Rows go or are garbled, anywhere.
    #[test]
    fn rows_lost_and_garbled(
        damage in proptest::collection::vec((0..9usize, any::<prop::sample::Index>(), 0..3u8), 1..6)
    ) {
        let store = filled();
        for (table, index, how) in damage {
            let rows = store.scan(Table::ALL[table], &[], None, usize::MAX).unwrap();
            if rows.is_empty() {
                continue;
            }
            let (key, mut row) = index.get(&rows).clone();
            let mut batch = Batch::default();
            match how {
                0 => batch.delete(Table::ALL[table], key),
                1 => {
                    row.truncate(row.len() / 2);
                    batch.put(Table::ALL[table], key, row);
                }
                // Garbage under a key that is none.
                _ => batch.put(Table::ALL[table], &key[..key.len() / 2], row),
            }
            store.commit(batch).unwrap();
        }
        let volume = repaired(&store);
        for (path, content) in files() {
            let Some(ino) = find(&volume, &path) else { continue };
            for at in (0..content.len()).step_by(CHUNK) {
                let end = content.len().min(at + CHUNK);
                if let Ok(read) = volume.read_file(ino, at as u64, end - at) {
                    prop_assert!(read == content[at..end], "{path} at {at}");
                }
            }
        }
        // It works again.
        let ino = volume.make_node(ROOT, b"new", 0o644, 0, ME).unwrap().ino;
        volume.write_file(ino, 0, b"new", WriteFlags::empty()).unwrap();
        volume.tier().sync().unwrap();
        assert_clean(&volume);
        volume.close().unwrap();
    }
}
