//! The corpus of the fuzz targets, run once more: whatever was found, or worth
//! keeping, does no harm. `tests/suites/fuzz` looks for more.

#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

#[test]
fn every_file_of_the_corpus_is_survived() {
    for (name, target) in targets::ALL {
        let mut files = 0;
        for entry in fs::read_dir(corpus(name)).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::read(&path).unwrap();
            let run = std::panic::AssertUnwindSafe(|| target(&data));
            assert!(std::panic::catch_unwind(run).is_ok(), "{}", path.display());
            files += 1;
        }
        assert!(files > 0, "{name} has no corpus");
    }
}

/// The golden files and their like, each with every third bit of its first
/// bytes flipped, and cut at some places.
#[test]
fn seeds_with_flipped_bits_are_survived() {
    let mut harmful = Vec::new();
    for (name, target) in targets::ALL {
        for ((_, seed), bytes) in seeds().into_iter().filter(|(of, _)| of.0 == name) {
            let flips = (0..(bytes.len() * 8).min(1500)).step_by(3).map(|bit| {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                (format!("bit {bit} flipped"), bytes)
            });
            let cuts = (0..bytes.len()).step_by(1 + bytes.len() / 16);
            let cuts = cuts.map(|len| (format!("cut after {len}"), bytes[..len].to_vec()));
            for (what, input) in flips.chain(cuts) {
                let run = std::panic::AssertUnwindSafe(|| target(&input));
                if std::panic::catch_unwind(run).is_err() {
                    harmful.push(format!("{name}/{seed}, {what}"));
                }
            }
        }
    }
    assert!(harmful.is_empty(), "{harmful:#?}");
}

type Seed = ((&'static str, &'static str), Vec<u8>);

/// Inputs that get far, by target and name.
fn seeds() -> Vec<Seed> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let read = |name: &str| fs::read(golden.join(name)).unwrap();
    let unpacked = |name: &str| zstd::decode_all(&read(name)[..]).unwrap();
    let with = |head: &[u8], body: &[u8]| [head, body].concat();
    let len = 5000_u16.to_le_bytes();
    let mut seeds: Vec<Seed> = Vec::new();
    for (name, file) in [
        ("raw", "frame-v0.raw"),
        ("zstd", "frame-v0.zstd"),
        ("mix", "frame-v0.mix"),
        ("lm", "frame-v0.lm"),
    ] {
        seeds.push((("frame", name), with(&len, &read(file))));
    }
    // What to do, the length, then the payload behind codec byte and model.
    let short = |what: u8, len: u16| [what, len.to_le_bytes()[0], len.to_le_bytes()[1]];
    let payload = |file: &str| read(file)[5..].to_vec();
    seeds.push((
        ("chunk", "mix"),
        with(&short(0, 500), &payload("frame-v0.mix")),
    ));
    seeds.push((
        ("chunk", "lm"),
        with(&short(1, 500), &payload("frame-v0.lm")),
    ));
    let words = b"a store of few words, a store of few words\n1;2;3\n1;2;4\n\xff\xfe caf\xc3\xa9";
    for (what, name) in [
        (2, "encode-mix"),
        (3, "encode-lm"),
        (6, "flip-mix"),
        (7, "flip-lm"),
    ] {
        seeds.push((("chunk", name), with(&short(what, 77), words)));
    }
    let model = read("model-v1.model");
    seeds.push((("model", "golden"), model[..model.len() - 32].to_vec()));
    // Changes of rows: what, table, row, length, bytes.
    for (name, change) in [
        ("none", vec![]),
        ("no-inode", vec![2, 1, 1, 0]),
        ("size", vec![3, 1, 2, 5, 8, 0xff, 0xff, 0xff, 0xff]),
        ("entry", vec![0, 2, 0, 3, 0, 0, 9]),
        ("run", vec![3, 3, 0, 4, 4, 1, 2, 3]),
        ("chunk", vec![3, 4, 0, 3, 1, 0xff, 0xff]),
        ("counter", vec![0, 0, 1, 2, 1, 1, 2, 5, 0, 0]),
        (
            "more",
            vec![4, 3, 0, 14, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 1],
        ),
    ] {
        seeds.push((("rows", name), change));
    }
    let superblock = unpacked("store-1/superblock.zst");
    seeds.push((("store", "superblock"), with(&[0], &superblock)));
    seeds.push((("store", "superblock-as-it-is"), with(&[2], &superblock)));
    let log = unpacked("store-1/logs/0000000000000001.cold.zst");
    let log = &log[..log.len().min(16 << 10)];
    seeds.push((("store", "log"), with(&[1], log)));
    seeds.push((("store", "log-cut"), with(&[3], &log[..log.len() / 2])));
    // What to do; then places and bytes, or frames.
    seeds.push((("journal", "as-it-is"), vec![0]));
    seeds.push((("journal", "half"), vec![2]));
    seeds.push((("journal", "changed"), vec![0, 0, 60, 1, 0, 130, 9]));
    let mut commit = vec![1, 1, 6, 0, 48];
    commit.extend([9; 40]);
    commit.extend([1, 0, 1, 0, 2, 7, 8, 9]);
    seeds.push((("journal", "commit"), commit));
    seeds.push((
        ("journal", "rows"),
        vec![3, 2, 0, 0, 8, 1, 0, 1, 0, 2, 7, 8, 9],
    ));
    seeds.push((("journal", "end"), vec![3, 3, 1, 0, 4, 1, 2, 3, 4]));
    seeds
}

#[test]
#[ignore = "writes the corpus that fuzzing begins with"]
fn write_seeds() {
    for ((target, name), bytes) in seeds() {
        fs::create_dir_all(corpus(target)).unwrap();
        fs::write(corpus(target).join(name), bytes).unwrap();
    }
}
