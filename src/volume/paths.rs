//! From an inode back to a path: for messages about errors.

use super::rows::Dirent;
use super::*;
use crate::tier::SPACE;

/// Entries looked through by one operation.
const PAGE: usize = 1024;

/// No path has more names than this; more would be a circle.
const DEEPEST: usize = 1 << 16;

/// Where a name stands.
#[derive(Clone)]
pub(super) struct Place {
    ino: u64,
    parent: u64,
    name: Vec<u8>,
}

impl Volume {
    /// A path from the root, beginning with `/`, that leads to an inode; `None`
    /// for one without a name. A directory is found by its parents, for
    /// anything else all directories may have to be searched: this is for
    /// when something went wrong. What is renamed meanwhile may be missed.
    pub fn path(&self, ino: u64) -> Result<Option<Vec<u8>>> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT {
            let Some(place) = self.place(at)? else {
                return Ok(None);
            };
            names.push(place.name);
            at = place.parent;
            if names.len() > DEEPEST {
                return Err(Error::Corrupt(format!(
                    "inode {ino} does not hang on the root"
                )));
            }
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(Some(path))
    }

    fn place(&self, ino: u64) -> Result<Option<Place>> {
        if snapshots::is_fixed(ino) && ino % SPACE <= ROOT {
            let found = self.look(|change| change.snapshot_path(ino))?;
            return Ok(found.map(|name| Place {
                ino,
                parent: ROOT,
                name,
            }));
        }
        let parent = self.look(|change| match change.inode(ino) {
            Ok(inode) => Ok((inode.nlink > 0).then_some(inode.parent)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        })?;
        match parent {
            None => Ok(None),
            Some(0) => self.place_of_file(ino),
            Some(parent) => self.search(ino, Some(parent)),
        }
    }

    fn place_of_file(&self, ino: u64) -> Result<Option<Place>> {
        // Errors come in rows: the rest of the same file is most likely.
        let last = self.core.placed.lock().clone();
        if let Some(last) = last.filter(|last| last.ino == ino) {
            let found = self.look(|change| change.find(last.parent, &last.name))?;
            if found.is_some_and(|entry| entry.ino == ino) {
                return Ok(Some(last));
            }
        }
        let found = self.search(ino, None)?;
        if found.is_some() {
            self.core.placed.lock().clone_from(&found);
        }
        Ok(found)
    }

    /// The first entry that leads to an inode, in one directory or all.
    fn search(&self, ino: u64, parent: Option<u64>) -> Result<Option<Place>> {
        let mut from = parent.map_or(Vec::new(), |dir| rows::inode_key(dir).to_vec());
        let end = parent
            .and_then(|dir| dir.checked_add(1))
            .map(rows::inode_key);
        let end = end.as_ref().map(|key| key.as_slice());
        loop {
            let page = self.look(|change| change.op.scan(Table::Dirent, &from, end, PAGE))?;
            for (key, row) in &page {
                // What cannot be read leads nowhere.
                if let Ok(entry) = Dirent::decode(key, row)
                    && entry.ino == ino
                {
                    return Ok(Some(Place {
                        ino,
                        parent: rows::parse_ino(key)?,
                        name: entry.name,
                    }));
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), &[0]].concat(),
                _ => return Ok(None),
            }
        }
    }
}
