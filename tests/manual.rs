//! The documents for users: every command in the guide runs, and every message
//! is explained.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use program::fuse;

mod program;

const GUIDE: &str = include_str!("../docs/guide.md");
const TROUBLESHOOTING: &str = include_str!("../docs/TROUBLESHOOTING.md");

/// What stands at the head of a block that needs more than a user has; it is
/// seen by readers as well.
const NEEDS: [&str; 2] = ["# as root", "# with systemd"];

/// The blocks of shell commands, each with its first line in the file.
fn blocks(document: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in document.lines().enumerate() {
        match (&mut open, line) {
            (None, "```sh") => open = Some((number + 2, String::new())),
            (None, line) => assert!(!line.starts_with("```"), "line {}: {line}", number + 1),
            (Some(_), "```") => blocks.extend(open.take()),
            (Some((_, block)), line) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a block does not end");
    blocks
}

fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !there {
        eprintln!("skipped: {program} is not installed");
    }
    there
}

/// A home with a few documents, whose mount goes when the test does.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let documents = home.path().join("Documents");
        fs::create_dir_all(documents.join("docs")).unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["README.md", "docs/format.md", "docs/backup.md"] {
            fs::copy(sources.join(name), documents.join(name)).unwrap();
        }
        Self(home)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = Command::new(env!("CARGO_BIN_EXE_laconicfs"))
            .args(["umount", "--lazy"])
            .arg(self.path().join("notes"))
            .stderr(Stdio::null())
            .status();
    }
}

/// One shell runs them in order, so that what one makes the next finds.
#[test]
fn every_command_of_the_guide_runs() {
    if !fuse() || !["bash", "setfattr", "diff"].iter().all(|name| have(name)) {
        return;
    }
    let mut script = String::from("set -eu -o pipefail\ncd ~\n");
    let mut run = 0;
    for (line, block) in blocks(GUIDE) {
        let needs = NEEDS.iter().find(|needs| block.starts_with(**needs));
        if let Some(needs) = needs {
            eprintln!(
                "skipped: the block at line {line} is to be run {}",
                &needs[2..]
            );
            continue;
        }
        run += 1;
        script.push_str(&format!("echo \"guide.md:{line}\" >&2\n{block}"));
    }
    assert!(run >= 10, "{run} blocks run");
    let home = Home::new();
    let program = Path::new(env!("CARGO_BIN_EXE_laconicfs"));
    let mut path = program.parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    // In a file: what a shell reads from its standard input its commands might.
    let file = home.path().join("guide.sh");
    fs::write(&file, &script).unwrap();
    let output = Command::new("bash")
        .arg(&file)
        .env("HOME", home.path())
        .env("PATH", path)
        .env("LACONICFS_ETC", home.path().join("etc"))
        .env_remove("LACONICFS_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(!said.contains("laconicfs: "), "{said}");
    // It ends as it says: the files are outside again, and nothing is mounted.
    let taken = fs::read(home.path().join("taken-out/docs/format.md")).unwrap();
    assert_eq!(
        taken,
        fs::read(home.path().join("Documents/docs/format.md")).unwrap()
    );
    assert!(!home.path().join("elsewhere/notes.store").exists());
    assert!(
        fs::read_dir(home.path().join("notes"))
            .unwrap()
            .next()
            .is_none()
    );
}

/// What needs root is at least shell, and names only commands that there are.
#[test]
fn blocks_that_are_not_run_can_be_read() {
    if !have("bash") {
        return;
    }
    for (line, block) in blocks(GUIDE) {
        let checked = Command::new("bash").args(["-n", "-c", &block]).status();
        assert!(checked.unwrap().success(), "line {line}");
        for call in block
            .lines()
            .filter_map(|line| line.strip_prefix("laconicfs "))
        {
            let command = call.split_whitespace().next().unwrap();
            let help = Command::new(env!("CARGO_BIN_EXE_laconicfs"))
                .args([command, "--help"])
                .output()
                .unwrap();
            assert!(help.status.success(), "line {line}: {command}");
        }
    }
}

/// Words with single spaces, so that line ends do not matter.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The longest part of a message that is the same each time.
fn constant(message: &str) -> String {
    let mut parts = vec![String::new()];
    let mut chars = message.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '{' => {
                while chars.next().is_some_and(|char| char != '}') {}
                parts.push(String::new());
            }
            char => parts.last_mut().unwrap().push(char),
        }
    }
    let trimmed = |part: String| {
        part.trim_matches(|c: char| c == ' ' || c == '`')
            .to_string()
    };
    let parts = parts.into_iter().map(trimmed);
    plain(&parts.max_by_key(String::len).unwrap_or_default())
}

/// The first string literal behind each place where `opening` stands, unless a
/// statement ends before it.
fn literals(source: &str, opening: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in source.match_indices(opening) {
        let rest = &source[at + opening.len()..];
        let Some(start) = rest.find('"') else {
            continue;
        };
        // The next error begins, a function is called, or none is written here.
        if rest[..start].contains(';') || rest[..start].contains("=>") || start > 120 {
            continue;
        }
        let mut text = String::new();
        let mut chars = rest[start + 1..].chars();
        while let Some(char) = chars.next() {
            match char {
                '"' => break,
                '\\' => match chars.next() {
                    // A line that goes on.
                    Some('\n') => {
                        let left = chars.as_str().trim_start();
                        chars = left.chars();
                    }
                    Some(other) => text.push(other),
                    None => break,
                },
                char => text.push(char),
            }
        }
        found.push(text);
    }
    found
}

/// All source files but tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

#[test]
fn every_message_is_explained() {
    let document = plain(TROUBLESHOOTING);
    let errors = include_str!("../src/error.rs");
    let mut messages: BTreeSet<String> = literals(errors, "#[error(").into_iter().collect();
    assert!(messages.len() > 25, "{messages:?}");
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let code = source.split("#[cfg(test)]\nmod tests").next().unwrap();
        for opening in [
            "log::warn!(",
            "log::error!(",
            "failure(",
            "Error::Other(",
            "Error::Model(",
            "Error::Config(",
        ] {
            messages.extend(literals(code, opening));
        }
    }
    assert!(messages.len() > 100);
    let missing: Vec<_> = messages
        .iter()
        .map(|message| (constant(message), message))
        // What is only another error tells itself.
        .filter(|(constant, _)| constant.len() > 8 && !document.contains(constant.as_str()))
        .map(|(_, message)| message)
        .collect();
    assert!(
        missing.is_empty(),
        "docs/TROUBLESHOOTING.md does not explain: {missing:#?}"
    );
}

/// With the number, the words of `--help`, and what to do.
#[test]
fn every_exit_status_is_explained() {
    let help = Command::new(env!("CARGO_BIN_EXE_laconicfs"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, statuses) = help.split_once("Exit status:\n").unwrap();
    let mut known = 0;
    for line in statuses.lines() {
        let Some((number, meaning)) = line.trim().split_once("  ") else {
            continue;
        };
        let Ok(number) = number.parse::<u8>() else {
            continue;
        };
        known += 1;
        let row = format!("| {number} | {} |", meaning.trim());
        let row = TROUBLESHOOTING.lines().find(|line| line.starts_with(&row));
        let row = row.unwrap_or_else(|| panic!("no row for {number}, {meaning:?}"));
        assert!(number == 0 || row.len() > row.rfind("| ").unwrap() + 10 || row.contains(" | "));
    }
    assert!(known >= 12);
}

/// Links within the documents lead somewhere.
#[test]
fn links_lead_to_files_and_headings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("README.md")];
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        documents.push(entry.unwrap().path());
    }
    documents.retain(|path| path.extension().is_some_and(|suffix| suffix == "md"));
    let mut links = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            links += 1;
            assert!(file.exists(), "{}: {target}", document.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&file).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|line| anchor(line) == heading);
                assert!(found, "{}: {target}", document.display());
            }
        }
    }
    assert!(links > 20, "{links} links");
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words.chars().filter_map(|char| match char {
        ' ' => Some('-'),
        char if char.is_alphanumeric() || char == '-' || char == '_' => Some(char),
        _ => None,
    });
    kept.collect()
}
