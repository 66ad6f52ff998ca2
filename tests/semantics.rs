//! `docs/SEMANTICS.md` names the tests behind its promises: each of them is there.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text() -> String {
    fs::read_to_string(root().join("docs/SEMANTICS.md")).unwrap()
}

/// The spans of code in a text, their white space made single blanks.
fn spans(text: &str) -> Vec<String> {
    let spans = text.split('`').skip(1).step_by(2);
    spans
        .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

fn sources_below(path: &Path, found: &mut String) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sources_below(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|end| end == "rs") {
        found.push_str(&fs::read_to_string(path).unwrap());
    }
}

/// What a span calls a file or a directory of tests.
fn place(name: &str) -> Option<PathBuf> {
    let places = [root().join(name), root().join("tests").join(name)];
    places.into_iter().find(|path| path.exists())
}

/// Words that are no names of tests, in the same dress.
const OTHERS: [&str; 1] = ["copy_file_range"];

fn is_test_name(word: &str) -> bool {
    let word = word.trim_end_matches("...");
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    word.chars().all(letters) && word.matches('_').count() >= 2 && !OTHERS.contains(&word)
}

/// Whether the sources have a test of that name, or, with dots behind it, one
/// that begins so.
fn has_test(sources: &str, name: &str) -> bool {
    match name.strip_suffix("...") {
        Some(start) => sources.contains(&format!("fn {start}")),
        // What proptest runs has arguments.
        None => sources.contains(&format!("fn {name}(")),
    }
}

/// What a span names that is not there, and how many tests and files it names.
fn missing(span: &str) -> (Vec<String>, usize) {
    let (path, names) = match span.split_once(": ") {
        Some((path, names)) => (Some(path), names),
        None if is_test_name(span) => (None, span),
        None if span.starts_with("tests/")
            || span.starts_with("mount/")
            || span.ends_with(".rs") =>
        {
            (Some(span), "")
        }
        None => return (Vec::new(), 0),
    };
    let mut sources = String::new();
    match path.map(place) {
        Some(None) => return (vec![span.into()], 1),
        Some(Some(path)) => sources_below(&path, &mut sources),
        None => {
            for below in ["src", "tests"] {
                sources_below(&root().join(below), &mut sources);
            }
        }
    }
    let names: Vec<&str> = names.split(", ").filter(|name| !name.is_empty()).collect();
    let gone = names.iter().filter(|name| !has_test(&sources, name));
    (
        gone.map(|name| (*name).into()).collect(),
        names.len().max(1),
    )
}

#[test]
fn every_test_that_a_promise_names_is_there() {
    let mut count = 0;
    let mut gone = Vec::new();
    // What stands before the first heading explains how they are named.
    for span in spans(text().split_once("\n## ").unwrap().1) {
        let (lost, named) = missing(&span);
        count += named;
        gone.extend(lost);
    }
    assert_eq!(gone, Vec::<String>::new());
    // The spans were understood.
    assert!(count > 60, "{count}");
}

#[test]
fn every_row_of_operations_and_limits_names_a_test() {
    let text = text();
    let mut rows = 0;
    for section in ["## Operations", "## Limits"] {
        let (_, after) = text.split_once(section).unwrap();
        let table = after.split("\n## ").next().unwrap();
        for row in table.lines().filter(|line| line.starts_with('|')).skip(2) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
            let named: usize = spans(cells[2]).iter().map(|span| missing(span).1).sum();
            assert!(named > 0, "{row}");
            rows += 1;
        }
    }
    assert!(rows > 15, "{rows}");
}

#[test]
fn a_name_that_is_gone_is_found_out() {
    for span in [
        "a_test_that_nobody_wrote_".to_owned() + "here",
        "mount/crash: no_such_test".into(),
        "mount/nowhere.rs".into(),
        "src/tier/tests/behaviour.rs: speeds, syncs_share_a_commit".into(),
        "nothing_begins_like_this".to_owned() + "_...",
    ] {
        assert_eq!(missing(&span).0.len(), 1, "{span}");
    }
    assert_eq!(
        missing("mount/crash: a_disk_that_lies_is_found_out"),
        (Vec::new(), 1)
    );
}
