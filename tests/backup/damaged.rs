//! Streams out of damaged stores and into them; snapshots under the commands
//! that look at files.

use std::fs::{self, File};
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::program::{command, complaint, fuse, text, works};
use super::{Mount, change, check, exported, fails, files_below, folder, json, noise, receives};
use super::{run, send, store_of, streams, tree};

/// Flips a bit in the value log that holds `bytes` as they are.
fn damage(store: &Path, bytes: &[u8]) {
    let mut found = 0;
    for file in files_below(&store.join("logs")) {
        let mut log = fs::read(&file).unwrap();
        for at in 0..(log.len() + 1).saturating_sub(bytes.len()) {
            if log[at..].starts_with(bytes) {
                log[at + bytes.len() / 2] ^= 1;
                found += 1;
            }
        }
        fs::write(&file, log).unwrap();
    }
    assert!(found > 0, "nothing to damage");
}

/// Sending says which file is damaged; what came stays, and goes on once the
/// damage is healed. Of a store that is not mounted, and of one that is.
#[test]
fn a_damaged_store_sends_what_can_be_read_and_goes_on_when_healed() {
    for mounted in [false, true] {
        if mounted && !fuse() {
            return;
        }
        let home = TempDir::new().unwrap();
        let folder = folder(home.path());
        let store = store_of(home.path(), &folder);
        works(&["snapshot", "create", text(&store), "one"]);
        let one = tree(&folder);
        damage(&store, &noise(150_000)[3 * 16384 + 100..][..64]);
        let dir = home.path().join("dir");
        let from = if mounted { &dir } else { &store };
        let mount = mounted.then(|| Mount::new(&store, &dir));
        let cut = home.path().join("cut");
        let args = ["send", text(from), "--snapshot", "one"];
        let output = command(&args).stdout(File::create(&cut).unwrap()).output();
        let error = complaint(&args, output.unwrap(), 7);
        let place = ".snapshots/one/a/noise from byte 49152 on";
        assert!(error.contains(place), "{error}");
        let copy = home.path().join("copy");
        let error = fails(&["receive", text(&copy)], Some(&cut), 1);
        assert_eq!(json(&["stat", text(&copy)])["files"], 0);
        let token = error.split("--resume ").nth(1).unwrap();
        let token = token.split('`').next().unwrap();
        // Nothing is healed by asking again.
        let args = ["send", text(from), "--snapshot", "one", "--resume", token];
        let output = command(&args).stdout(File::create(&cut).unwrap()).output();
        assert!(complaint(&args, output.unwrap(), 7).contains(place));
        works(&["import", "--checksum", text(&folder), text(from)]);
        let rest = send(home.path(), &args[1..], "rest");
        receives(&copy, &rest);
        assert_eq!(exported(home.path(), text(&copy)), one);
        if let Some(mount) = mount {
            mount.end();
        }
        check(&copy);
        check(&store);
    }
}

/// What a receiver has and cannot read any more is an error in all snapshots
/// that name it, and nowhere else, until it is written anew.
#[test]
fn a_damaged_store_receives_and_loses_no_more() {
    for mounted in [false, true] {
        if mounted && !fuse() {
            return;
        }
        let home = TempDir::new().unwrap();
        let (_, _, two, first, second) = streams(home.path());
        let copy = home.path().join("copy");
        receives(&copy, &first);
        damage(&copy, &noise(150_000)[3 * 16384 + 100..][..64]);
        let dir = home.path().join("dir");
        let to = if mounted { &dir } else { &copy };
        let mount = mounted.then(|| Mount::new(&copy, &dir));
        receives(to, &second);
        // `two` has it under another name.
        let out = home.path().join("of two");
        let path = format!("{}:.snapshots/two", text(&copy));
        let from = match mounted {
            true => text(&dir.join(".snapshots/two")).to_string(),
            false => path,
        };
        let output = run(&["--json", "export", &from, text(&out)], None);
        assert!(!output.status.success(), "{mounted} {output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        // In the folder it was in, and where it was moved to.
        assert_eq!(report["failure_count"], 2, "{report}");
        let mut found = tree(&out);
        let mut expected = two.clone();
        for tree in [&mut found, &mut expected] {
            tree.retain(|path, entry| {
                !path.ends_with("noise") && entry.0 & libc::S_IFMT != libc::S_IFDIR
            });
        }
        assert_eq!(found, expected);
        // The first stream brings it once more, but the snapshot is there.
        assert!(fails(&["receive", text(to)], Some(&first), 1).contains("already"));
        // The volume is as the first was; its folder has the bytes.
        let healing = home.path().join("healing");
        fs::create_dir_all(healing.join("a")).unwrap();
        fs::write(healing.join("a/again"), noise(150_000)).unwrap();
        works(&["import", text(&healing), text(to)]);
        if mounted {
            // Until then they are in the write buffer, and heal nothing.
            File::open(to.join("a/again")).unwrap().sync_all().unwrap();
        }
        fs::remove_dir_all(&out).unwrap();
        works(&["export", "--verify", &from, text(&out)]);
        assert_eq!(tree(&out), two);
        if let Some(mount) = mount {
            mount.end();
        }
        check(&copy);
    }
}

/// `du`, `compress` and policies on what lies in a snapshot.
#[test]
fn snapshots_are_measured_and_coded_again_like_files() {
    for mounted in [false, true] {
        if mounted && !fuse() {
            return;
        }
        let home = TempDir::new().unwrap();
        let folder = folder(home.path());
        let store = store_of(home.path(), &folder);
        let dir = home.path().join("dir");
        let mount = mounted.then(|| Mount::new(&store, &dir));
        let at = |path: &str| match mounted {
            true => text(&dir.join(path)).to_string(),
            false => format!("{}:{path}", text(&store)),
        };
        works(&["drain", text(&store)]);
        works(&["snapshot", "create", text(&store), "one"]);
        let one = tree(&folder);
        let du = |path: &str| json(&["du", &at(path)]);
        // The same files, the same sums, by whichever name.
        let (live, kept) = (du(""), du(".snapshots/one"));
        assert_eq!(live["total"], kept["total"]);
        assert_eq!(live["coded"], kept["coded"]);
        assert!(
            live["total"]["logical"].as_u64().unwrap() > 300_000,
            "{live}"
        );
        assert_eq!(du("words")["total"], du(".snapshots/one/words")["total"]);
        // Both at once: chunks count once, files as often as they are named.
        let both = json(&["du", &at(""), &at(".snapshots/one")]);
        assert_eq!(both["total"]["disk"], live["total"]["disk"], "{both}");
        let doubled = 2 * live["total"]["logical"].as_u64().unwrap();
        assert_eq!(both["total"]["logical"], doubled);

        // Other bytes in the volume: those of the snapshot are its own now.
        change(&folder);
        works(&[
            "import",
            text(&folder),
            text(if mounted { &dir } else { &store }),
        ]);
        assert_eq!(
            du(".snapshots/one")["total"]["logical"],
            kept["total"]["logical"]
        );
        let codecs = |path: &str| {
            let coded = du(path)["coded"].clone();
            let coded = coded.as_array().unwrap().clone();
            let name = |coded: &Value| coded["codec"].as_str().unwrap().to_string();
            coded.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(codecs(".snapshots/one/words"), ["zstd"]);
        // Chunks that were coded and are as they shall be are passed over.
        let done = json(&["compress", &at(".snapshots/one/words")]);
        assert_eq!(done["chunks_coded"], 0, "{done}");
        assert_eq!(done["files_done"], 1, "{done}");
        // A snapshot is of before the policy, and nothing can give it another.
        if mounted {
            let set = |path: &str| {
                rustix::fs::setxattr(
                    dir.join(path),
                    "user.laconicfs.codec",
                    b"none",
                    rustix::fs::XattrFlags::empty(),
                )
            };
            assert_eq!(set(".snapshots/one/words"), Err(rustix::io::Errno::ROFS));
            assert_eq!(set("words"), Ok(()));
            works(&["snapshot", "create", text(&dir), "two"]);
            let chattr = command_of("chattr", &["+c", &at(".snapshots/two/words")]);
            assert_ne!(chattr, Some(true));
            works(&["compress", &at(".snapshots/one")]);
            assert_eq!(codecs(".snapshots/one/words"), ["zstd"]);
            // This one has it.
            let done = json(&["compress", &at(".snapshots/two/words")]);
            assert!(done["chunks_coded"].as_u64().unwrap() > 0, "{done}");
            assert_eq!(codecs(".snapshots/two/words"), ["raw"]);
            assert_eq!(codecs("words"), ["raw"]);
        }
        let status = if mounted { 3 } else { 1 };
        let error = fails(&["du", &at(".snapshots/none")], None, status);
        assert!(error.contains("none"), "{error}");
        let out = home.path().join("out");
        let _ = fs::remove_dir_all(&out);
        works(&["export", "--verify", &at(".snapshots/one"), text(&out)]);
        assert_eq!(tree(&out), one);
        if let Some(mount) = mount {
            mount.end();
        }
        check(&store);
    }
}

/// Whether another program works; `None` where it is missing.
fn command_of(program: &str, args: &[&str]) -> Option<bool> {
    let output = std::process::Command::new(program).args(args).output();
    output.ok().map(|output| output.status.success())
}
