//! Backup from outside: import, snapshots, streams and export, of stores that
//! are mounted and of stores that are not.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use laconicfs::filesystem::{FileSystem, Settings};
use laconicfs::lm::model::Model;
use laconicfs::volume::ROOT;
use serde_json::Value;
use tempfile::TempDir;

use program::{command, complaint, fuse, printed, text, works};

#[path = "backup/damaged.rs"]
mod damaged;
mod program;

fn run(args: &[&str], input: Option<&Path>) -> Output {
    let input = match input {
        Some(path) => Stdio::from(File::open(path).unwrap()),
        None => Stdio::null(),
    };
    command(args).stdin(input).output().unwrap()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    serde_json::from_str(&works(&[&["--json"], args].concat())).unwrap()
}

/// Runs a command that must end with one line of error, and returns that.
#[track_caller]
fn fails(args: &[&str], input: Option<&Path>, status: i32) -> String {
    complaint(args, run(args, input), status)
}

#[track_caller]
fn receives(store: &Path, stream: &Path) -> Value {
    let args = ["--json", "receive", text(store)];
    serde_json::from_slice(&printed(&args, run(&args, Some(stream)))).unwrap()
}

/// Path, mode, names, time and content of everything below a folder.
type Tree = BTreeMap<PathBuf, (u32, u64, (i64, i64), Vec<u8>)>;

fn tree(root: &Path) -> Tree {
    let walk = walkdir::WalkDir::new(root).min_depth(1);
    walk.into_iter()
        .map(|entry| {
            let path = entry.unwrap().into_path();
            let meta = path.symlink_metadata().unwrap();
            let content = match meta.file_type() {
                kind if kind.is_file() => fs::read(&path).unwrap(),
                kind if kind.is_symlink() => {
                    let target = fs::read_link(&path).unwrap();
                    target.into_os_string().into_encoded_bytes()
                }
                _ => Vec::new(),
            };
            let names = if meta.is_dir() { 0 } else { meta.nlink() };
            let time = (meta.mtime(), meta.mtime_nsec());
            let short = path.strip_prefix(root).unwrap().into();
            (short, (meta.mode(), names, time, content))
        })
        .collect()
}

/// Without the times: those of what was written last may be the kernel's own
/// for a while, some milliseconds from those that were stored.
fn timeless(mut tree: Tree) -> Tree {
    tree.values_mut().for_each(|entry| entry.2 = (0, 0));
    tree
}

fn words(seed: u64, len: usize) -> Vec<u8> {
    let line = |n: u64| format!("{n}: the {} of {}\n", (n * n + seed) % 91, n % 13);
    (0..).flat_map(|n| line(n).into_bytes()).take(len).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

/// A folder with files, and another state of it.
fn folder(home: &Path) -> PathBuf {
    let folder = home.join("folder");
    fs::create_dir_all(folder.join("a/b")).unwrap();
    fs::write(folder.join("words"), words(1, 200_000)).unwrap();
    fs::write(folder.join("a/noise"), noise(150_000)).unwrap();
    fs::write(folder.join("a/b/small"), b"small").unwrap();
    fs::hard_link(folder.join("words"), folder.join("a/same")).unwrap();
    symlink("b/small", folder.join("a/link")).unwrap();
    fs::set_permissions(folder.join("a/noise"), fs::Permissions::from_mode(0o4750)).unwrap();
    for number in 0..300 {
        fs::write(folder.join(format!("a/b/{number}")), words(number, 50)).unwrap();
    }
    folder
}

fn change(folder: &Path) {
    fs::write(folder.join("words"), words(2, 190_000)).unwrap();
    fs::remove_file(folder.join("a/link")).unwrap();
    fs::rename(folder.join("a/noise"), folder.join("noise")).unwrap();
    fs::write(folder.join("new"), words(7, 90_000)).unwrap();
    for number in 100..150 {
        fs::remove_file(folder.join(format!("a/b/{number}"))).unwrap();
    }
}

/// A store that holds a folder.
fn store_of(home: &Path, folder: &Path) -> PathBuf {
    let store = home.join("store");
    works(&[
        "mkfs",
        text(&store),
        "--model",
        "none",
        "--chunk-size",
        "16k",
    ]);
    works(&["import", text(folder), text(&store)]);
    store
}

fn exported(home: &Path, from: &str) -> Tree {
    let out = home.join("out");
    let _ = fs::remove_dir_all(&out);
    let report = json(&["export", "--verify", from, text(&out)]);
    assert_eq!(report["failure_count"], 0);
    tree(&out)
}

fn check(store: &Path) {
    works(&["check", "--scrub", text(store)]);
}

#[test]
fn folders_go_in_and_out() {
    let home = TempDir::new().unwrap();
    let folder = folder(home.path());
    let store = store_of(home.path(), &folder);
    assert_eq!(exported(home.path(), text(&store)), tree(&folder));
    let again = json(&["import", text(&folder), text(&store)]);
    assert_eq!((&again["files"], &again["equal"]), (&0.into(), &303.into()));
    fs::remove_dir_all(home.path().join("out")).unwrap();
    change(&folder);
    let again = json(&["import", "--drain", text(&folder), text(&store)]);
    assert_eq!(again["files"], 3);
    let part = format!("{}:a/b", store.display());
    assert_eq!(exported(home.path(), &part).len(), 301);
    check(&store);
    let missing = format!("{}:none", store.display());
    let out = home.path().join("nothing");
    let error = fails(&["export", &missing, text(&out)], None, 1);
    assert!(error.contains("none"), "{error}");
    assert!(!out.exists());
    // What is in the way is said, and the rest is done.
    fs::create_dir_all(home.path().join("way/words/x")).unwrap();
    let way = home.path().join("way");
    let output = run(&["export", text(&store), text(&way)], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("words: a directory"));
    assert_eq!(fs::read(way.join("a/b/small")).unwrap(), b"small");
    // A store is not taken into itself.
    let report = json(&["import", text(home.path()), text(&store)]);
    assert_eq!(report["left_out"][0]["example"], "store");
    check(&store);
}

#[test]
fn snapshots_of_a_store_that_is_not_mounted() {
    let home = TempDir::new().unwrap();
    let folder = folder(home.path());
    let store = store_of(home.path(), &folder);
    let before = tree(&folder);
    let path = text(&store);
    let made = json(&["snapshot", "create", path, "one"]);
    assert_eq!(
        (&made["files"], &made["partial"]),
        (&303.into(), &false.into())
    );
    assert!(fails(&["snapshot", "create", path, "one"], None, 1).contains("already"));
    assert!(fails(&["snapshot", "create", path, ".x"], None, 1).contains("cannot name"));
    change(&folder);
    works(&["import", text(&folder), path]);
    works(&["drain", path]);
    assert_eq!(
        exported(home.path(), &format!("{path}:.snapshots/one")),
        before
    );
    let stat = json(&["stat", path]);
    assert_eq!(stat["snapshots"], 1);
    assert_eq!(stat["in_snapshots"], 365_005);
    check(&store);
    let done = json(&["snapshot", "rollback", path, "one"]);
    let kept = done["kept"].as_str().unwrap();
    assert_eq!(exported(home.path(), path), before);
    works(&["snapshot", "rollback", path, kept, "--discard"]);
    assert_ne!(exported(home.path(), path), before);
    assert!(fails(&["snapshot", "rollback", path, "none"], None, 1).contains("none"));
    check(&store);
    works(&["snapshot", "delete", path, "one"]);
    works(&["snapshot", "delete", path, kept]);
    assert_eq!(json(&["snapshot", "list", path]), Value::Array(Vec::new()));
    assert!(fails(&["snapshot", "delete", path, "one"], None, 1).contains("no snapshot"));
    check(&store);
}

/// Sends a snapshot into a file.
#[track_caller]
fn send(home: &Path, args: &[&str], to: &str) -> PathBuf {
    let stream = home.join(to);
    let args = [&["send"], args].concat();
    let mut command = command(&args);
    let output = command.stdout(File::create(&stream).unwrap()).output();
    printed(&args, output.unwrap());
    stream
}

/// A store with two snapshots, and their streams.
fn streams(home: &Path) -> (PathBuf, Tree, Tree, PathBuf, PathBuf) {
    let folder = folder(home);
    let store = store_of(home, &folder);
    let one = tree(&folder);
    works(&["snapshot", "create", text(&store), "one"]);
    change(&folder);
    works(&["import", text(&folder), text(&store)]);
    works(&["drain", text(&store)]);
    works(&["snapshot", "create", text(&store), "two"]);
    let two = exported(home, text(&store));
    let first = send(home, &[text(&store), "--snapshot", "one"], "first");
    let second = send(
        home,
        &[text(&store), "--snapshot", "two", "--from", "one"],
        "second",
    );
    (store, one, two, first, second)
}

#[test]
fn streams_make_stores_and_bring_them_up_to_date() {
    let home = TempDir::new().unwrap();
    let (store, one, two, first, second) = streams(home.path());
    let sizes = [&first, &second].map(|path| fs::metadata(path).unwrap().len());
    assert!(sizes[1] < sizes[0] / 2, "{sizes:?}");
    let copy = home.path().join("copy");
    let error = fails(&["receive", text(&copy)], Some(&second), 1);
    assert!(error.contains("not here"), "{error}");
    assert!(!copy.exists());
    let received = receives(&copy, &first);
    assert_eq!(received["filled"], true);
    assert_eq!(exported(home.path(), text(&copy)), one);
    let received = receives(&copy, &second);
    assert_eq!(received["filled"], false);
    assert_eq!(exported(home.path(), text(&copy)), one);
    let inside = format!("{}:.snapshots/two", copy.display());
    assert_eq!(exported(home.path(), &inside), two);
    works(&["snapshot", "rollback", text(&copy), "two"]);
    assert_eq!(exported(home.path(), text(&copy)), two);
    check(&copy);
    assert!(fails(&["receive", text(&copy)], Some(&first), 1).contains("already"));
    // A snapshot keeps its identity on the way.
    let ids = |store: &Path| -> Vec<Value> {
        let list = json(&["snapshot", "list", text(store)]);
        list.as_array()
            .unwrap()
            .iter()
            .map(|s| s["id"].clone())
            .collect()
    };
    assert_eq!(ids(&store)[..2], ids(&copy)[..2]);
    // And other chunks do not fit.
    let other = home.path().join("other");
    works(&["mkfs", text(&other), "--model", "none"]);
    let error = fails(&["receive", text(&other)], Some(&first), 1);
    assert!(error.contains("chunks of"), "{error}");
    // Without a name a snapshot is made.
    send(home.path(), &[text(&store)], "third");
    assert_eq!(ids(&store).len(), 3);
}

#[test]
fn streams_that_are_cut_go_on_and_damaged_ones_are_refused() {
    let home = TempDir::new().unwrap();
    let (store, one, _, first, _) = streams(home.path());
    let bytes = fs::read(&first).unwrap();
    let broken = home.path().join("broken");
    let copy = home.path().join("copy");
    let mut tokens = 0;
    for (at, part) in [2, 3, 5, 8].into_iter().enumerate() {
        let cut = bytes.len() - bytes.len() / part;
        fs::write(&broken, &bytes[..cut]).unwrap();
        let error = fails(&["receive", text(&copy)], Some(&broken), 1);
        assert!(error.contains("before its end"), "{error}");
        assert_eq!(json(&["stat", text(&copy)])["files"], 0);
        let list = json(&["snapshot", "list", text(&copy)]);
        assert_eq!(list[0]["partial"], true);
        // Damage beyond it: what is whole before it stays.
        let mut damaged = bytes.clone();
        damaged[cut + 100 * at] ^= 4;
        fs::write(&broken, damaged).unwrap();
        let error = fails(&["receive", text(&copy)], Some(&broken), 7);
        assert!(error.contains("record at byte"), "{error}");
        if at == 1 {
            check(&copy);
            let token = error.split("--resume ").nth(1).unwrap();
            let token = token.split('`').next().unwrap();
            let args = [text(&store), "--snapshot", "one", "--resume", token];
            let rest = send(home.path(), &args, "rest");
            assert!(fs::metadata(&rest).unwrap().len() < bytes.len() as u64);
            receives(&copy, &rest);
            tokens += 1;
            assert_eq!(exported(home.path(), text(&copy)), one);
            check(&copy);
            fs::remove_dir_all(&copy).unwrap();
        }
    }
    assert_eq!(tokens, 1);
    receives(&copy, &first);
    assert_eq!(exported(home.path(), text(&copy)), one);
    check(&copy);
    // Every byte counts.
    for step in 0..40 {
        let at = bytes.len() * step / 40;
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&broken, damaged).unwrap();
        let other = home.path().join("other");
        let output = run(&["receive", text(&other)], Some(&broken));
        assert!(!output.status.success(), "byte {at}");
        if other.exists() {
            assert_eq!(json(&["stat", text(&other)])["files"], 0);
            check(&other);
            fs::remove_dir_all(&other).unwrap();
        }
    }
    // A beginning that nobody wants is removed as a snapshot is.
    fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    let other = home.path().join("other");
    run(&["receive", text(&other)], Some(&broken));
    works(&["snapshot", "delete", text(&other), "one"]);
    check(&other);
    assert_eq!(json(&["stat", text(&other)])["references"], 0);
}

#[test]
fn models_travel_with_chunks() {
    let home = TempDir::new().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model-v1.model");
    let model = Model::parse(fs::read(golden).unwrap()).unwrap();
    let file = home.path().join("model");
    // Its mixer section is not one.
    fs::write(&file, model.with_mixer_start(None).unwrap()).unwrap();
    let folder = home.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("words"), words(1, 20_000)).unwrap();
    let store = home.path().join("store");
    works(&[
        "mkfs",
        text(&store),
        "--model",
        text(&file),
        "--chunk-size",
        "8k",
    ]);
    works(&["import", "--drain", text(&folder), text(&store)]);
    works(&["snapshot", "create", text(&store), "one"]);
    let stat = json(&["stat", text(&store)]);
    let modelled = |stat: &Value| {
        let chunks = stat["chunks"].as_array().unwrap();
        chunks
            .iter()
            .any(|row| row["codec"] == "lm" || row["codec"] == "mix")
    };
    assert!(modelled(&stat), "{stat}");
    let stream = send(home.path(), &[text(&store), "--snapshot", "one"], "stream");
    let copy = home.path().join("copy");
    receives(&copy, &stream);
    assert_eq!(json(&["stat", text(&copy)])["model"], stat["model"]);
    assert!(modelled(&json(&["stat", text(&copy)])));
    assert_eq!(exported(home.path(), text(&copy)), tree(&folder));
    // A store without it gets it as well.
    let other = home.path().join("other");
    works(&[
        "mkfs",
        text(&other),
        "--model",
        "none",
        "--chunk-size",
        "8k",
    ]);
    let output = run(&["receive", "--verify", text(&other)], Some(&stream));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(exported(home.path(), text(&other)), tree(&folder));
    check(&other);
}

/// A mount that ends with its test.
struct Mount(PathBuf);

impl Mount {
    fn new(store: &Path, dir: &Path) -> Mount {
        works(&["mount", text(store), text(dir), "--create"]);
        Mount(dir.to_owned())
    }

    fn end(self) {
        works(&["umount", text(&self.0)]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run(&["umount", "--lazy", text(&self.0)], None);
    }
}

#[test]
fn everything_on_a_mounted_store() {
    if !fuse() {
        return;
    }
    let home = TempDir::new().unwrap();
    let folder = folder(home.path());
    let (store, dir) = (home.path().join("store"), home.path().join("dir"));
    works(&[
        "mkfs",
        text(&store),
        "--model",
        "none",
        "--chunk-size",
        "16k",
    ]);
    let mounted = Mount::new(&store, &dir);
    works(&["import", text(&folder), text(&dir)]);
    let before = tree(&folder);
    assert_eq!(tree(&dir), before);
    let inside = dir.join(".snapshots/one");
    assert!(!inside.exists());
    works(&["snapshot", "create", text(&dir), "one"]);
    assert_eq!(tree(&inside), before);
    let kind = fs::write(inside.join("x"), b"").unwrap_err();
    assert_eq!(kind.raw_os_error(), Some(libc::EROFS));
    let kind = fs::remove_file(inside.join("words")).unwrap_err();
    assert_eq!(kind.raw_os_error(), Some(libc::EROFS));
    assert!(fs::create_dir(dir.join(".snapshots")).is_err());
    let names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(!names.contains(&".snapshots".into()));
    // Changes, some of them still in the kernel.
    change(&dir);
    works(&["snapshot", "create", text(&store), "two"]);
    let two = tree(&dir);
    fs::write(dir.join("new"), b"later").unwrap();
    assert_eq!(tree(&inside), before);
    let later = tree(&dir.join(".snapshots/two"));
    assert_eq!(timeless(later), timeless(two.clone()));
    assert_eq!(
        json(&["snapshot", "list", text(&dir)])
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let error = fails(&["snapshot", "rollback", text(&dir), "one"], None, 5);
    assert!(error.contains("unmount"), "{error}");
    let out = home.path().join("out");
    works(&["export", "--verify", text(&dir), text(&out)]);
    assert_eq!(tree(&out), tree(&dir));
    let first = send(home.path(), &[text(&dir), "--snapshot", "one"], "first");
    let args = [text(&store), "--snapshot", "two", "--from", "one"];
    let second = send(home.path(), &args, "second");
    let output = run(&["send", text(&dir), "--snapshot", "none"], None);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no whole snapshot"));
    assert!(!output.status.success());
    // And into a store that is mounted.
    let (copy, there) = (home.path().join("copy"), home.path().join("there"));
    works(&[
        "mkfs",
        text(&copy),
        "--model",
        "none",
        "--chunk-size",
        "16k",
    ]);
    let other = Mount::new(&copy, &there);
    fs::write(there.join("own"), b"own").unwrap();
    receives(&there, &first);
    receives(&copy, &second);
    assert_eq!(tree(&there.join(".snapshots/one")), before);
    let received = tree(&there.join(".snapshots/two"));
    assert_eq!(timeless(received), timeless(two));
    assert_eq!(fs::read(there.join("own")).unwrap(), b"own");
    assert!(fails(&["receive", text(&there)], Some(&first), 1).contains("already"));
    works(&["snapshot", "delete", text(&there), "one"]);
    assert!(!there.join(".snapshots/one").exists());
    for mount in [other, mounted] {
        mount.end();
    }
    for store in [&store, &copy] {
        check(store);
    }
    works(&["snapshot", "rollback", text(&store), "one"]);
    assert_eq!(exported(home.path(), text(&store)), before);
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// What the golden streams bring: a small folder, and another state of it.
fn golden_states() -> [BTreeMap<&'static str, Vec<u8>>; 2] {
    let one = BTreeMap::from([
        ("words", words(3, 9000)),
        ("noise", noise(5000)),
        ("empty", Vec::new()),
    ]);
    let mut two = one.clone();
    two.remove("noise");
    two.insert("words", words(4, 9500));
    two.insert("more", words(5, 100));
    [one, two]
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(dir).into_iter();
    let files = walk
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().is_file());
    files.map(|entry| entry.into_path()).collect()
}

#[test]
#[ignore = "writes the golden streams and the golden volume of a new format"]
fn write_golden_streams() {
    let home = TempDir::new().unwrap();
    let store = home.path().join("store");
    works(&[
        "mkfs",
        text(&store),
        "--model",
        "none",
        "--chunk-size",
        "4k",
    ]);
    for (name, files) in ["one", "two"].into_iter().zip(golden_states()) {
        let folder = home.path().join(name);
        fs::create_dir(&folder).unwrap();
        for (file, content) in &files {
            fs::write(folder.join(file), content).unwrap();
        }
        works(&["import", "--drain", text(&folder), text(&store)]);
        if name == "two" {
            // Importing removes nothing.
            let fs = FileSystem::open(&store, &Settings::default()).unwrap();
            fs.volume().unlink(ROOT, b"noise").unwrap();
            fs.close().unwrap();
        }
        works(&["snapshot", "create", text(&store), name]);
    }
    let path = text(&store);
    // Those that are there stay as they are.
    assert!(!golden("stream-1.full").exists() && !golden("stream-1.next").exists());
    send(&golden(""), &[path, "--snapshot", "one"], "stream-1.full");
    let args = [path, "--snapshot", "two", "--from", "one"];
    send(&golden(""), &args, "stream-1.next");
    // The first snapshot in a volume that shows the second.
    works(&["snapshot", "delete", path, "two"]);
    let _ = fs::remove_file(store.join("lock"));
    for file in files_below(&store) {
        let name = file.strip_prefix(&store).unwrap();
        let packed = zstd::encode_all(File::open(&file).unwrap(), 19).unwrap();
        let target = golden("volume-2").join(format!("{}.zst", name.display()));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let mut file = File::create_new(target).unwrap();
        file.write_all(&packed).unwrap();
    }
}

#[test]
fn the_golden_volume_with_a_snapshot_is_read() {
    let home = TempDir::new().unwrap();
    let store = home.path().join("store");
    for file in files_below(&golden("volume-2")) {
        let name = file.strip_prefix(golden("volume-2")).unwrap();
        let target = store.join(name.with_extension(""));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let plain = zstd::decode_all(File::open(&file).unwrap()).unwrap();
        fs::write(target, plain).unwrap();
    }
    // Nothing is in it, and so it is not among the files.
    fs::create_dir_all(store.join("models")).unwrap();
    check(&store);
    let [one, two] = golden_states();
    for (from, files) in [("", two), (":.snapshots/one", one)] {
        let found = exported(home.path(), &format!("{}{from}", store.display()));
        assert_eq!(contents(&found), files);
    }
    works(&["snapshot", "rollback", text(&store), "one", "--discard"]);
    works(&["snapshot", "delete", text(&store), "one"]);
    check(&store);
}

fn contents(tree: &Tree) -> BTreeMap<&str, Vec<u8>> {
    let files = tree.iter();
    files
        .map(|(path, (.., content))| (text(path), content.clone()))
        .collect()
}

#[test]
fn the_golden_streams_of_version_1_are_received() {
    let home = TempDir::new().unwrap();
    let copy = home.path().join("copy");
    receives(&copy, &golden("stream-1.full"));
    receives(&copy, &golden("stream-1.next"));
    for (name, files) in ["one", "two"].into_iter().zip(golden_states()) {
        let from = format!("{}:.snapshots/{name}", copy.display());
        let found = exported(home.path(), &from);
        assert_eq!(contents(&found), files);
    }
    check(&copy);
}

#[test]
fn the_commands_teach_themselves() {
    for command in ["import", "export", "send", "receive"] {
        let help = works(&[command, "--help"]);
        assert!(help.contains("Example"), "{command} teaches nothing");
    }
    for command in ["create", "list", "rollback", "delete"] {
        let help = works(&["snapshot", command, "--help"]);
        assert!(help.contains("Example"), "{command} teaches nothing");
    }
    let nonsense = golden("frame-v0.raw");
    let home = TempDir::new().unwrap();
    let store = home.path().join("store");
    let error = fails(&["receive", text(&store)], Some(&nonsense), 1);
    assert!(error.contains("no stream"), "{error}");
    assert!(!store.exists());
}
