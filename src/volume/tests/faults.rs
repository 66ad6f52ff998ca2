//! The store fails at every single call that changes it, in every way: what a
//! sync acknowledged is there when the volume is opened again.

use super::*;
use crate::store::{Fault, FaultyStore, MemoryStore};

type Files = BTreeMap<String, Vec<u8>>;

/// Step `at` of a play: its change of `files`, the same for the volume.
fn step(volume: &Volume, files: &mut Files, at: u64) -> Result<()> {
    let name = format!("f{}", at % 4);
    match (at % 6, files.contains_key(&name)) {
        (4, true) => {
            let to = format!("f{}", (at + 1) % 4);
            let content = files.remove(&name).unwrap_or_default();
            files.insert(to.clone(), content);
            let flags = RenameFlags::empty();
            volume.rename(ROOT, name.as_bytes(), ROOT, to.as_bytes(), flags)?;
        }
        (5, true) => {
            files.remove(&name);
            volume.unlink(ROOT, name.as_bytes())?;
        }
        (_, there) => {
            let content = text(at, (at as usize * 577) % (3 * CHUNK));
            files.insert(name.clone(), content.clone());
            let ino = match there {
                true => volume.lookup(ROOT, name.as_bytes())?.ino,
                false => volume.make_node(ROOT, name.as_bytes(), 0o644, 0, ME)?.ino,
            };
            let cut = SetAttr {
                size: Some(content.len() as u64),
                ..SetAttr::default()
            };
            volume.set_attr(ino, &cut)?;
            volume.write_file(ino, 0, &content, WriteFlags::empty())?;
        }
    }
    volume.tier().sync()
}

/// Plays until the store fails. Returns what was acknowledged, and what would
/// have been next.
fn play(store: &Arc<dyn Store>) -> (Files, Files) {
    let volume = match Tier::open(store.clone(), Arc::default(), tier::tests::options())
        .and_then(|tier| Volume::open(tier, Options::default()))
    {
        Ok(volume) => volume,
        Err(_) => return Default::default(),
    };
    let (mut before, mut after) = (Files::new(), Files::new());
    for at in 0..14 {
        if step(&volume, &mut after, at).is_err() {
            break;
        }
        before = after.clone();
        if at == 7 {
            // Its failure changes no file.
            let _ = volume.tier().drain(&mut |_| true);
        }
    }
    let _ = volume.close();
    let _ = volume.tier().close();
    (before, after)
}

#[test]
fn a_fault_at_any_call_loses_nothing() {
    let errors: [fn() -> Error; 2] = [
        || Error::NoSpace,
        || Error::Io {
            context: "a test".into(),
            source: std::io::Error::from_raw_os_error(libc::EIO),
        },
    ];
    let mut tried = 0;
    for (error, after, for_ever) in [
        (errors[0], false, true),
        (errors[1], false, true),
        (errors[1], true, true),
        (errors[1], true, false),
    ] {
        let mut skip = 0;
        loop {
            let faulty = Arc::new(FaultyStore::new(MemoryStore::new(64)));
            let store: Arc<dyn Store> = faulty.clone();
            let tier = open_tier(&store);
            Volume::format(&tier, 1, 2).unwrap();
            tier.close().unwrap();
            let formatted = faulty.calls();
            faulty.arm(Some(Fault {
                call: None,
                skip,
                after,
                for_ever,
                error,
            }));
            let (acknowledged, next) = play(&store);
            faulty.arm(None);
            let calls = faulty.calls() - formatted;
            let volume = Volume::open(open_tier(&store), Options::default()).unwrap();
            assert_clean(&volume);
            let mut found = Files::new();
            for entry in volume.read_dir(ROOT, 2, 100).unwrap() {
                let content = volume.read_file(entry.ino, 0, 1 << 20).unwrap();
                found.insert(String::from_utf8(entry.name).unwrap(), content);
            }
            for name in found.keys().chain(acknowledged.keys()).chain(next.keys()) {
                // A step is several operations, each there or not.
                let (is, was, may) = (found.get(name), acknowledged.get(name), next.get(name));
                if was == may {
                    assert!(is == was, "{name} at {skip}");
                }
            }
            volume.close().unwrap();
            volume.tier().close().unwrap();
            if calls <= skip {
                break;
            }
            tried += 1;
            skip += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}
