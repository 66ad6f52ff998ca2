//! What a store held on the days that it was open: one row a day.

use serde::{Deserialize, Serialize};

use super::*;
use crate::error::Error;
use crate::store::Table;

/// Names of the rows begin with this; the day follows as `u32`.
const PREFIX: &[u8] = b"v.day.";

const VERSION: u8 = 1;

/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;

/// A store as it was last seen on a day (UTC). All sizes are bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// Days since 1970.
    pub day: u32,
    pub files: u64,
    /// Sum of the sizes of the files.
    pub logical: u64,
    /// Plain bytes of the stored chunks, and their frames.
    pub plain: u64,
    pub stored: u64,
    /// What the store took on disk.
    pub disk: u64,
    /// Plain bytes that waited to be coded.
    pub waiting: u64,
}

impl Day {
    fn key(&self) -> Vec<u8> {
        [PREFIX, &self.day.to_be_bytes()].concat()
    }

    fn encode(&self) -> Vec<u8> {
        let mut row = vec![VERSION];
        for word in [
            self.files,
            self.logical,
            self.plain,
            self.stored,
            self.disk,
            self.waiting,
        ] {
            row.extend_from_slice(&word.to_be_bytes());
        }
        row
    }

    fn decode(key: &[u8], row: &[u8]) -> Result<Day> {
        let damaged = || Error::Corrupt("a row of the history is malformed".into());
        match row.first() {
            Some(&VERSION) => {}
            Some(&found) if found > VERSION => {
                return Err(Error::NewerFormat {
                    what: "the history of the store".into(),
                    found: found.into(),
                    known: VERSION.into(),
                });
            }
            _ => return Err(damaged()),
        }
        let day = key.strip_prefix(PREFIX).and_then(|day| day.try_into().ok());
        let (words, rest) = row[1..].as_chunks::<8>();
        let word = |at: usize| words.get(at).map(|word| u64::from_be_bytes(*word));
        match (day, words.len(), rest) {
            (Some(day), 6, []) => Ok(Day {
                day: u32::from_be_bytes(day),
                files: word(0).unwrap_or_default(),
                logical: word(1).unwrap_or_default(),
                plain: word(2).unwrap_or_default(),
                stored: word(3).unwrap_or_default(),
                disk: word(4).unwrap_or_default(),
                waiting: word(5).unwrap_or_default(),
            }),
            _ => Err(damaged()),
        }
    }
}

impl FileSystem {
    /// Notes what the store holds today, over what was noted earlier today.
    pub fn note_day(&self) -> Result<()> {
        if self.tier.is_read_only() {
            return Ok(());
        }
        let report = self.report()?;
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        let day = Day {
            day: u32::try_from(seconds / DAY).unwrap_or(u32::MAX),
            files: report.files,
            logical: report.logical,
            plain: report.chunks.iter().map(|row| row.plain).sum(),
            stored: report.chunks.iter().map(|row| row.stored).sum(),
            disk: report.disk.total,
            waiting: report.queue.plain,
        };
        let last = self.history()?.pop();
        // A store that nobody changed needs no rows that say so.
        let same = |last: &Day| {
            (last.files, last.logical, last.stored) == (day.files, day.logical, day.stored)
        };
        if last.as_ref().is_some_and(same) {
            return Ok(());
        }
        self.tier
            .run(|op| op.put(Table::Meta, day.key(), day.encode()))
    }

    /// The days that were noted, the oldest first.
    pub fn history(&self) -> Result<Vec<Day>> {
        let end = [&PREFIX[..PREFIX.len() - 1], b"/"].concat();
        let rows = self
            .tier
            .run(|op| op.scan(Table::Meta, PREFIX, Some(&end), usize::MAX))?;
        rows.iter()
            .map(|(key, row)| Day::decode(key, row))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::tests::fresh;

    #[test]
    fn rows_of_version_1() {
        let day = Day {
            day: 20_000,
            files: 1,
            logical: 2,
            plain: 3,
            stored: 4,
            disk: 5,
            waiting: 6,
        };
        assert_eq!(day.key(), b"v.day.\x00\x00\x4e\x20");
        let row = day.encode();
        assert_eq!(row.len(), 49);
        assert_eq!((row[0], row[8], row[48]), (1, 1, 6));
        assert_eq!(Day::decode(&day.key(), &row).unwrap(), day);
        assert!(Day::decode(&day.key(), &row[..48]).is_err());
        assert!(Day::decode(b"v.day.", &row).is_err());
        let newer = [&[2], &row[1..]].concat();
        assert!(matches!(
            Day::decode(&day.key(), &newer),
            Err(Error::NewerFormat { found: 2, .. })
        ));
    }

    #[test]
    fn a_day_is_noted_once_and_when_something_changed() {
        let (folder, fs) = fresh();
        assert_eq!(fs.history().unwrap(), []);
        fs.note_day().unwrap();
        fs.note_day().unwrap();
        let days = fs.history().unwrap();
        assert_eq!((days.len(), days[0].files), (1, 0));
        let me = crate::volume::Caller { uid: 0, gid: 0 };
        fs.volume()
            .make_node(crate::volume::ROOT, b"a", 0o644, 0, me)
            .unwrap();
        // Closing notes it too.
        fs.close().unwrap();
        drop(fs);
        let fs = FileSystem::open(&folder.path().join("store"), &Settings::look()).unwrap();
        let days = fs.history().unwrap();
        // Two if midnight came between.
        assert_eq!(days.last().unwrap().files, 1);
        assert!(days.len() <= 2);
        assert_eq!(fs.volume().check().unwrap(), Vec::<String>::new());
        fs.close().unwrap();
    }
}
