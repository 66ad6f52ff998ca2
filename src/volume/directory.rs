//! Reading directories.

use super::rows::{Dirent, FIRST_COOKIE};
use super::*;

impl Change<'_, '_> {
    /// Entries with cookies above `cookie`, and whether the reader began.
    fn entries(&self, ino: u64, cookie: u64, limit: usize) -> Result<Vec<Dirent>> {
        let dir = self.dir(ino)?;
        if dir.nlink == 0 {
            return Ok(Vec::new());
        }
        let dots = [(&b"."[..], ino), (b"..", dir.parent)];
        let mut entries: Vec<Dirent> = (1..)
            .zip(dots)
            .filter(|(number, _)| *number > cookie)
            .take(limit)
            .map(|(number, (name, ino))| Dirent {
                cookie: number,
                name: name.to_vec(),
                ino,
                file_type: FileType::Directory,
            })
            .collect();
        if ino == SNAPSHOTS {
            let left = limit - entries.len();
            entries.extend(self.snapshot_entries(cookie.saturating_add(1), left)?);
            return Ok(entries);
        }
        let start = rows::dirent_place(ino, cookie.saturating_add(1).max(FIRST_COOKIE));
        let end = ino.checked_add(1).map(rows::inode_key);
        let end = end.as_ref().map(|key| key.as_slice());
        if entries.len() < limit {
            let wanted = limit - entries.len();
            for (key, row) in self.op.scan(Table::Dirent, &start, end, wanted)? {
                entries.push(Dirent::decode(&key, &row)?);
            }
        }
        Ok(entries)
    }
}

impl From<Dirent> for Entry {
    fn from(dirent: Dirent) -> Self {
        Entry {
            name: dirent.name,
            ino: dirent.ino,
            file_type: dirent.file_type,
            cookie: dirent.cookie,
        }
    }
}

impl Volume {
    /// At most `limit` entries behind `cookie` (0: from the start), `.` and
    /// `..` first. An entry that is there all the time is seen exactly once by
    /// a reader who goes on with the cookie of the last entry it took.
    /// No entries: the end.
    ///
    /// The directory should be open (see [`open_dir`](Self::open_dir)); it
    /// reads as empty once it was removed.
    pub fn read_dir(&self, ino: u64, cookie: u64, limit: usize) -> Result<Vec<Entry>> {
        let entries = self.look(|change| change.entries(ino, cookie, limit))?;
        self.looked_into(ino, cookie);
        Ok(entries.into_iter().map(Entry::from).collect())
    }

    /// The same with the attributes of each entry's inode.
    pub fn read_dir_plus(&self, ino: u64, cookie: u64, limit: usize) -> Result<Vec<(Entry, Attr)>> {
        let entries = self.look(|change| {
            let entries = change.entries(ino, cookie, limit)?;
            let entries = entries
                .into_iter()
                .map(|entry| Ok((change.entry_inode(&entry)?, entry)))
                .collect::<Result<Vec<_>>>()?;
            // Nothing fails from here on, and so every lookup is answered.
            let answer = |(inode, entry): (Inode, Dirent)| {
                let attr = match &*entry.name {
                    b"." | b".." => self.core.attr(entry.ino, &inode),
                    _ => self.answer(entry.ino, &inode),
                };
                (Entry::from(entry), attr)
            };
            Ok(entries.into_iter().map(answer).collect::<Vec<_>>())
        })?;
        self.looked_into(ino, cookie);
        Ok(entries)
    }

    /// The same for reports: nothing is noted, neither times nor lookups.
    pub fn list_dir(&self, ino: u64, cookie: u64, limit: usize) -> Result<Vec<(Entry, Attr)>> {
        self.look(|change| {
            let entries = change.entries(ino, cookie, limit)?.into_iter();
            entries
                .map(|entry| {
                    let inode = change.entry_inode(&entry)?;
                    let attr = self.core.attr(entry.ino, &inode);
                    Ok((Entry::from(entry), attr))
                })
                .collect()
        })
    }

    /// A reader that begins changes the access time.
    fn looked_into(&self, ino: u64, cookie: u64) {
        if cookie == 0 {
            self.touch(ino);
        }
    }
}
