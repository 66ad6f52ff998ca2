//! Reports, policies and the settings of a mount, from outside.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use laconicfs::filesystem::{FileSystem, Settings};
use laconicfs::lm::model::Model;
use laconicfs::volume::{Caller, ROOT, WriteFlags};
use serde_json::Value;
use tempfile::TempDir;

use program::{fuse, laconicfs, text, works};

mod program;

/// The attribute that holds a file's policy.
const CODEC: &str = "user.laconicfs.codec";

/// Runs a command that must end with this status; errors of the command line
/// take more than one line.
#[track_caller]
fn fails(args: &[&str], status: i32) -> String {
    let output = laconicfs(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    let mut args = args.to_vec();
    args.push("--json");
    let text = works(&args);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}\n{text}"))
}

fn words(len: usize, seed: usize) -> Vec<u8> {
    let line = |i: usize| format!("{i}: the {} of the {} in {seed}\n", i * i % 91, i % 13);
    (0..).flat_map(|i| line(i).into_bytes()).take(len).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

/// A small model that knows nothing, and another one.
fn models(folder: &Path) -> [PathBuf; 2] {
    let bytes = include_bytes!("golden/model-v1.model");
    let first = Model::parse(bytes.to_vec()).unwrap();
    let first = first.with_mixer_start(None).unwrap();
    let mut other = Model::parse(first.clone()).unwrap().info().name;
    // Another name of the same length makes another model.
    let old = other.clone();
    other.replace_range(0..1, if old.starts_with('x') { "y" } else { "x" });
    let second = renamed(&first, &old, &other);
    [("one.model", first), ("two.model", second)].map(|(name, bytes)| {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    })
}

fn renamed(model: &[u8], old: &str, new: &str) -> Vec<u8> {
    let at = model
        .windows(old.len() + 2)
        .position(|window| window == format!("\"{old}\"").as_bytes())
        .expect("the model's header holds its name");
    let mut model = model.to_vec();
    model[at + 1..at + 1 + new.len()].copy_from_slice(new.as_bytes());
    // A model file ends with the hash of what stands before.
    let body = model.len() - 32;
    let hash = blake3::hash(&model[..body]);
    model[body..].copy_from_slice(hash.as_bytes());
    model
}

/// A store with this model, and files in two folders.
fn store(model: Option<&Path>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let model = model.map_or("none", text);
    works(&["mkfs", text(&store), "--model", model, "--chunk-size", "4k"]);
    let fs = FileSystem::open(&store, &quiet()).unwrap();
    let volume = fs.volume();
    let me = Caller { uid: 0, gid: 0 };
    let put = |parent: u64, name: &str, data: &[u8]| {
        let ino = volume
            .make_node(parent, name.as_bytes(), 0o644, 0, me)
            .unwrap()
            .ino;
        volume
            .write_file(ino, 0, data, WriteFlags::empty())
            .unwrap();
        ino
    };
    let a = volume.make_dir(ROOT, b"a", 0o755, me).unwrap().ino;
    let b = volume.make_dir(ROOT, b"b", 0o755, me).unwrap().ino;
    put(a, "text", &words(20_000, 1));
    put(a, "same", &words(20_000, 1));
    let linked = put(b, "noise.bin", &noise(9_000));
    volume.link(linked, b, b"again").unwrap();
    fs.close().unwrap();
    (folder, store)
}

fn quiet() -> Settings {
    Settings {
        drain_threads: 0,
        ..Settings::default()
    }
}

/// A mounted store, unmounted in the end.
struct Mount {
    dir: PathBuf,
}

impl Mount {
    fn new(store: &Path, options: &[&str]) -> Mount {
        let dir = store.with_extension("mnt");
        let mut args = vec!["mount", text(store), text(&dir), "--create"];
        args.extend(options);
        works(&args);
        Mount { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        laconicfs(&["umount", "--lazy", text(&self.dir)]);
    }
}

#[track_caller]
fn setfattr(path: &Path, value: &str) {
    let set = Command::new("setfattr")
        .args(["-n", CODEC, "-v", value])
        .arg(path)
        .status();
    match set {
        Ok(status) => assert!(status.success(), "{value}"),
        // Without the program: what it would do.
        Err(_) => {
            let script =
                "import os,sys; os.setxattr(sys.argv[1], sys.argv[2], sys.argv[3].encode())";
            let done = Command::new("python3")
                .args(["-c", script, text(path), CODEC, value])
                .status()
                .expect("setfattr (package attr) or python3 is needed");
            assert!(done.success(), "{value}");
        }
    }
}

#[test]
fn du_adds_up_and_counts_shared_chunks_once() {
    let (_folder, store) = store(None);
    let s = text(&store);
    let all = json(&["du", "--files", s]);
    let lines = all["lines"].as_array().unwrap();
    let files = || lines.iter().filter(|line| line["directory"] == false);
    let sum = |key: &str| files().map(|line| line[key].as_u64().unwrap()).sum::<u64>();
    let total = &all["total"];
    for key in ["logical", "plain", "stored", "disk", "waiting"] {
        assert_eq!(total[key], sum(key), "{key}");
    }
    // Two names of one file, and two files with the same chunks.
    assert_eq!(total["files"], 3);
    assert_eq!(total["logical"], 49_000);
    assert_eq!(
        (&total["chunks"], &total["shared"]),
        (&13.into(), &5.into())
    );
    assert_eq!(total["waiting"], 29_000);
    let root = lines.iter().find(|line| line["path"] == s).unwrap();
    assert_eq!(root["disk"], total["disk"]);

    // The same by another way, and a part of it.
    let part = json(&["du", &format!("{s}:a")]);
    assert_eq!(part["total"]["logical"], 40_000);
    let one = json(&["du", "--depth", "0", s]);
    assert_eq!(one["lines"].as_array().unwrap().len(), 1);
    let sorted = json(&["du", "--files", "--sort", "logical", "-n", "2", s]);
    let sizes: Vec<u64> = sorted["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["logical"].as_u64().unwrap())
        .collect();
    assert_eq!(sizes, [49_000, 40_000]);
    assert_eq!(sorted["more"], 5);
    let human = works(&["du", "--files", s]);
    assert!(
        human.contains("5 of 13 chunks are named more than once"),
        "{human}"
    );
    fails(&["du", &format!("{s}:no/such")], 1);
    fails(&["du", "/no/such/place"], 3);
    fails(&["du", "--sort", "nothing", s], 2);
}

#[test]
fn a_mount_tells_the_same_as_its_store() {
    if !fuse() {
        return;
    }
    let (_folder, store) = store(None);
    let closed = json(&["du", text(&store)]);
    let mount = Mount::new(&store, &["--drain-threads", "0"]);
    let open = json(&["du", text(&mount.dir)]);
    assert_eq!(open["total"], closed["total"]);
    let file = json(&["du", text(&mount.path("a/text"))]);
    assert_eq!(file["total"]["logical"], 20_000);
    let both = json(&["du", text(&mount.path("a")), text(&mount.path("b"))]);
    assert_eq!(both["total"], closed["total"]);
    let (_other, second) = self::store(None);
    fails(&["du", text(&mount.dir), text(&second)], 2);
}

#[test]
fn policies_reach_what_is_stored_by_compress() {
    if !fuse() {
        return;
    }
    let (_folder, store) = store(None);
    let mount = Mount::new(&store, &["--drain-threads", "0"]);
    let codecs = |path: &Path| -> Vec<String> {
        let usage = json(&["du", text(path)]);
        let coded = usage["coded"].as_array().unwrap().iter();
        coded
            .map(|row| format!("{} {}", row["tier"], row["codec"]).replace('"', ""))
            .collect()
    };
    let new = mount.path("new");
    fs::create_dir(&new).unwrap();
    setfattr(&new, "none");
    fs::write(new.join("file"), words(30_000, 7)).unwrap();
    assert_eq!(codecs(&new), ["hot raw"]);
    let done = json(&["compress", text(&new)]);
    assert_eq!(
        (&done["files_done"], &done["chunks_coded"]),
        (&1.into(), &8.into())
    );
    assert_eq!(codecs(&new), ["cold raw"]);
    // Again: nothing is left to do.
    let done = json(&["compress", text(&new)]);
    assert_eq!(
        (&done["chunks_coded"], &done["chunks_kept"]),
        (&0.into(), &8.into())
    );
    setfattr(&new.join("file"), "zstd");
    works(&["drain", text(&mount.dir)]);
    assert_eq!(codecs(&new), ["cold raw"]);
    let done = json(&["compress", text(&new)]);
    assert!(done["stored_after"].as_u64() < done["stored_before"].as_u64());
    assert_eq!(codecs(&new), ["cold zstd"]);
    assert_eq!(fs::read(new.join("file")).unwrap(), words(30_000, 7));
    fails(&["compress", "/no/such/place"], 3);
    drop(mount);
    works(&["check", "--scrub", text(&store)]);
}

#[test]
fn a_store_moves_from_one_model_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = models(folder.path());
    let (_folder, store) = store(Some(&one));
    let s = text(&store);
    works(&["drain", s]);
    let list = || json(&["model", "list", s]);
    let first = list();
    assert_eq!(first.as_array().unwrap().len(), 1);
    assert_eq!(
        (&first[0]["default"], &first[0]["in_use"]),
        (&true.into(), &true.into())
    );
    let error = fails(&["recompress", "--model", "no-such", s], 6);
    assert!(error.contains("model list"), "{error}");

    let added = json(&["model", "add", s, text(&two)]);
    let (name, hash) = (
        added["name"].as_str().unwrap(),
        added["hash"].as_str().unwrap(),
    );
    assert_eq!(
        (&added["default"], &added["in_use"]),
        (&false.into(), &false.into())
    );
    let done = json(&["recompress", "--model", name, &format!("{s}:a")]);
    assert!(done["chunks_coded"].as_u64().unwrap() > 0, "{done}");
    assert_eq!(done["chunks_failed"], 0);
    let both = list();
    let both = both.as_array().unwrap();
    assert!(
        both.iter()
            .any(|model| model["hash"] == hash && model["in_use"] == true)
    );
    let again = json(&["recompress", "--model", &hash[..8], &format!("{s}:a")]);
    assert_eq!(again["chunks_coded"], 0, "{again}");

    // Only what no chunk needs is removed.
    json(&["recompress", "--model", name, s]);
    let kept = json(&["model", "gc", s]);
    assert_eq!(kept, Value::Array(Vec::new()), "the default stays");
    json(&["model", "default", s, name]);
    let removed = json(&["model", "gc", s]);
    assert_eq!(removed.as_array().unwrap().len(), 1);
    assert_eq!(list()[0]["hash"], hash);
    works(&["check", "--scrub", s]);
    fails(&["model", "add", s, text(folder.path())], 6);
}

#[test]
fn a_mounted_store_takes_models_too() {
    if !fuse() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = models(folder.path());
    let (_folder, store) = store(Some(&one));
    let mount = Mount::new(&store, &["--drain-threads", "0"]);
    let d = text(&mount.dir);
    let before = fs::read(mount.path("a/text")).unwrap();
    let added = json(&["model", "add", d, text(&two)]);
    let name = added["name"].as_str().unwrap();
    json(&["model", "default", d, name]);
    let done = json(&["compress", d]);
    assert!(done["chunks_coded"].as_u64().unwrap() > 0, "{done}");
    let removed = json(&["model", "gc", d]);
    assert_eq!(removed.as_array().unwrap().len(), 1);
    assert_eq!(json(&["stat", d])["model"]["name"], name);
    assert_eq!(fs::read(mount.path("a/text")).unwrap(), before);
    drop(mount);
    works(&["check", "--scrub", text(&store)]);
}

#[test]
fn the_drain_says_why_it_rests() {
    if !fuse() {
        return;
    }
    let (_folder, store) = store(None);
    fails(&["drain", "--pause", text(&store)], 10);
    fails(&["drain", "--pause", "--resume", text(&store)], 2);
    let options = [
        "--quiet",
        "3600",
        "--drain-cpu",
        "50",
        "--drain-hours",
        "00:00-23:59,23:59-00:00",
    ];
    let mount = Mount::new(&store, &options);
    let d = text(&mount.dir);
    let reason = |wanted: &str| {
        for _ in 0..200 {
            if json(&["stat", d])["drain"]["rest"]["reason"] == wanted {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{wanted}: {}", json(&["stat", d])["drain"]);
    };
    reason("quiet");
    let drain = json(&["stat", d])["drain"].clone();
    assert_eq!(
        (&drain["cpu_share"], &drain["quiet"]),
        (&50.into(), &3600.0.into())
    );
    assert_eq!(drain["hours"], "00:00-23:59,23:59-00:00");
    json(&["drain", "--pause", d]);
    reason("paused");
    assert!(works(&["stat", d]).contains("rests: paused"));
    json(&["drain", "--resume", d]);
    reason("quiet");
    works(&["drain", d]);
    reason("idle");
    for (flag, value) in [
        ("--drain-cpu", "0"),
        ("--drain-hours", "25:00-26:00"),
        ("--min-battery", "101"),
        ("--lm-margin", "101"),
        ("--metrics", "0.0.0.0:1"),
        ("--metrics", "example.org:80"),
    ] {
        fails(&["mount", "s", "d", flag, value], 2);
    }
}

#[test]
fn metrics_are_served_while_it_is_mounted() {
    if !fuse() {
        return;
    }
    let (folder, store) = store(None);
    let socket = folder.path().join("metrics");
    let listen = format!("unix:{}", socket.display());
    let mount = Mount::new(&store, &["--drain-threads", "0", "--metrics", &listen]);
    let ask = || {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    };
    assert!(ask().contains("laconicfs_files 3\n"));
    fs::write(mount.path("more"), "x").unwrap();
    assert!(ask().contains("laconicfs_files 4\n"));
    works(&["umount", text(&mount.dir)]);
    assert!(UnixStream::connect(&socket).is_err());
}

#[test]
fn top_streams_lines() {
    if !fuse() {
        return;
    }
    let (_folder, store) = store(None);
    fails(&["top", text(&store)], 10);
    let mount = Mount::new(&store, &["--drain-threads", "0"]);
    let d = text(&mount.dir);
    let mut child = Command::new(env!("CARGO_BIN_EXE_laconicfs"))
        .args(["top", "--json", "--interval", "0.1", d])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["rates"]["read"], 0.0);
    let written = next()["traffic"]["written"].as_u64().unwrap();
    fs::write(mount.path("more"), words(50_000, 3)).unwrap();
    File::open(mount.path("more")).unwrap().sync_all().unwrap();
    let seen = (0..100).any(|_| {
        let line = next();
        line["traffic"]["written"].as_u64().unwrap() >= written + 50_000
            && line["rates"]["written"].as_f64().unwrap() > 0.0
    });
    assert!(seen);
    child.kill().unwrap();
    child.wait().unwrap();
    let lines = works(&["top", "--json", "--count", "2", "--interval", "0.1", d]);
    assert_eq!(lines.lines().count(), 2);
    // Not a terminal, and not asked for JSON.
    fails(&["top", d], 2);
}

#[test]
fn a_page_is_written_whole_or_not_at_all() {
    let (folder, store) = store(None);
    let s = text(&store);
    let file = folder.path().join("page.html");
    let told = json(&["report", s, "--html", text(&file)]);
    let page = fs::read_to_string(&file).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    assert_eq!(told["survey"]["total"]["logical"], 49_000);
    assert_eq!(told["history"][0]["files"], 3);
    assert!(told["gains"].is_array());
    fails(&["report", s, "--html", text(folder.path())], 1);
    fails(&["report", s, "--html", "/no/such/folder/page.html"], 1);
    assert!(works(&["report", s]).contains(".bin"));
}
