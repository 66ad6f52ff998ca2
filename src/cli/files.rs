//! The files below some paths.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A regular file that was found.
#[derive(Clone, Debug)]
pub struct FoundFile {
    pub path: PathBuf,
    pub len: u64,
}

/// The regular files among `paths` and in the directories among them, those
/// of a directory in the order of their names. Links in directories are not
/// followed.
pub fn below(paths: &[PathBuf]) -> Result<Vec<FoundFile>> {
    let mut found = Vec::new();
    for path in paths {
        let metadata =
            std::fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
        walk(path, &metadata, &mut found)?;
    }
    Ok(found)
}

fn walk(path: &Path, metadata: &std::fs::Metadata, found: &mut Vec<FoundFile>) -> Result<()> {
    if metadata.is_file() {
        found.push(FoundFile {
            path: path.into(),
            len: metadata.len(),
        });
    } else if metadata.is_dir() {
        let failed = || format!("reading the directory {}", path.display());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).with_context(failed)? {
            names.push(entry.with_context(failed)?.path());
        }
        names.sort();
        for name in names {
            let metadata = std::fs::symlink_metadata(&name)
                .with_context(|| format!("looking at {}", name.display()))?;
            walk(&name, &metadata, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_searched_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("d")).unwrap();
        for name in ["b", "d/c", "a"] {
            std::fs::write(at(name), name).unwrap();
        }
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        let found = below(&[dir.path().into(), at("link")]).unwrap();
        let paths: Vec<_> = found.iter().map(|file| file.path.clone()).collect();
        assert_eq!(paths, [at("a"), at("b"), at("d/c"), at("link")]);
        assert_eq!(found[2].len, 3);
        assert!(below(&[at("none")]).is_err());
    }
}
