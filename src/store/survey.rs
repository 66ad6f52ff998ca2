//! Looking at a journal: what is whole in it, and what that adds up to.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::digest::Stamp;
use super::frame::{self, Frames, Kind, Place};
use super::{Batch, Row, Table};
use crate::error::{Error, Result};

/// The ends of the names of the journal's files.
pub const CHANGES: &str = "changes";
pub const ROWS: &str = "rows";

/// A file of the journal.
#[derive(Clone, Debug)]
pub struct Part {
    pub path: PathBuf,
    pub place: Place,
}

impl Part {
    pub fn new(directory: &Path, uuid: &str, base: u64, extension: &'static str) -> Self {
        Self {
            path: directory.join(format!("{base:016x}.{extension}")),
            place: Place {
                uuid: uuid.into(),
                extension,
                base,
            },
        }
    }

    fn open(&self) -> Result<File> {
        File::open(&self.path).map_err(Error::io(format!("opening {}", self.path.display())))
    }
}

/// What a journal holds, after a look at every byte of it.
pub struct Survey {
    pub directory: PathBuf,
    pub uuid: String,
    /// The newest checkpoint that is whole, and the bytes that it takes.
    pub checkpoint: Option<(Part, u64)>,
    /// All checkpoints, the newest first; whole or not.
    pub checkpoints: Vec<Part>,
    /// The files of commits, by their numbers.
    pub segments: Vec<Part>,
    /// What follows from the checkpoint and the commits behind it, as far as
    /// they follow each other; `None` where that gives no whole state.
    pub last: Option<Stamp>,
    /// The highest epoch of any commit that is there.
    pub seen: u64,
    /// What is not as it should be, in words.
    pub problems: Vec<String>,
    /// The last file of commits ends with something that is none.
    pub torn: bool,
    /// Bytes of commits since the checkpoint.
    pub since: u64,
    /// The file to append to, and where.
    pub tail: Option<(Part, u64)>,
}

impl Survey {
    /// Looks at the journal in `directory`, which may be missing.
    pub fn take(directory: &Path, uuid: &str) -> Result<Self> {
        let mut survey = Self::listed(directory, uuid)?;
        for part in survey.checkpoints.clone() {
            match survey.check_checkpoint(&part)? {
                Some((end, bytes)) => {
                    survey.follow(part.place.base, end)?;
                    survey.checkpoint = Some((part, bytes));
                    return Ok(survey);
                }
                None => survey
                    .problems
                    .push(format!("{} is damaged", part.path.display())),
            }
        }
        survey.problems.push("there is no whole checkpoint".into());
        // For what can be salvaged.
        survey.follow(u64::MAX, Stamp::default())?;
        Ok(survey)
    }

    /// The files, not yet looked at.
    pub fn listed(directory: &Path, uuid: &str) -> Result<Self> {
        let mut survey = Self {
            directory: directory.to_owned(),
            uuid: uuid.into(),
            checkpoint: None,
            checkpoints: Vec::new(),
            segments: Vec::new(),
            last: None,
            seen: 0,
            problems: Vec::new(),
            torn: false,
            since: 0,
            tail: None,
        };
        survey.list()?;
        Ok(survey)
    }

    fn list(&mut self) -> Result<()> {
        let listing = || format!("listing {}", self.directory.display());
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(());
            }
            entries => entries.map_err(Error::io(listing()))?,
        };
        for entry in entries {
            let name = entry.map_err(Error::io(listing()))?.file_name();
            let parsed = name.to_str().and_then(|name| name.split_once('.'));
            let Some((digits, extension)) = parsed else {
                continue;
            };
            let Some(extension) = [CHANGES, ROWS].into_iter().find(|e| *e == extension) else {
                continue;
            };
            let Ok(base) = u64::from_str_radix(digits, 16) else {
                continue;
            };
            let part = Part::new(&self.directory, &self.uuid, base, extension);
            if part.path.file_name() == Some(&name) {
                match extension {
                    ROWS => self.checkpoints.push(part),
                    _ => self.segments.push(part),
                }
            }
        }
        self.checkpoints
            .sort_by_key(|part| std::cmp::Reverse(part.place.base));
        self.segments.sort_by_key(|part| part.place.base);
        Ok(())
    }

    /// The stamp that a whole checkpoint ends with, and its bytes.
    fn check_checkpoint(&self, part: &Part) -> Result<Option<(Stamp, u64)>> {
        let file = part.open()?;
        let mut frames = Frames::new(&file, part.place.clone())?;
        let mut blocks = 0;
        while let Some(frame) = frames.next()? {
            match frame.kind {
                Kind::Rows if frame.number == blocks => blocks += 1,
                Kind::End if frame.number == blocks => {
                    let stamp = Stamp::decode(&frame.body()?);
                    return Ok(stamp.map(|stamp| (stamp, frames.offset)));
                }
                _ => break,
            }
        }
        Ok(None)
    }

    /// Goes through the commits behind epoch `base`, to which a checkpoint
    /// belongs that is whole with the commits up to `end`.
    fn follow(&mut self, base: u64, end: Stamp) -> Result<()> {
        let (mut next, mut last, mut broken) = (base.wrapping_add(1), None, false);
        for part in self.segments.clone() {
            let file = part.open()?;
            let mut frames = Frames::new(&file, part.place.clone())?;
            let old = base != u64::MAX && part.place.base <= base;
            loop {
                let before = frames.offset;
                let (frame, damaged) = match frames.next()? {
                    None if frames.left() == 0 => break,
                    None => (frames.skip()?, true),
                    frame => (frame, false),
                };
                let Some(frame) = frame else {
                    // Torn by a crash, if nothing follows.
                    self.torn |= !old;
                    if !old && !broken {
                        self.tail = Some((part.clone(), before));
                    }
                    break;
                };
                self.seen = self.seen.max(frame.number);
                if old {
                    continue;
                }
                let follows = frame.number == next && frame.kind == Kind::Commit;
                if (damaged || !follows) && !broken {
                    let path = part.path.display();
                    self.problems
                        .push(format!("{path} is damaged at byte {before}"));
                }
                broken |= !follows;
                if broken {
                    self.tail = None;
                } else {
                    last = Some(frame::commit_stamp(&frame.body()?)?);
                    next += 1;
                    self.since += frame.len;
                    self.tail = Some((part.clone(), frames.offset));
                }
            }
        }
        if base == u64::MAX {
            self.tail = None;
            return Ok(());
        }
        self.seen = self.seen.max(end.epoch);
        let reached = next - 1;
        if reached < end.epoch {
            self.problems.push(format!(
                "the commits {next} to {} are missing or damaged",
                end.epoch
            ));
            return Ok(());
        }
        self.last = match last {
            // Without commits behind it the checkpoint's own.
            None => Some(end),
            last => last,
        };
        Ok(())
    }

    /// Whether a database that holds the rows of `epoch` can be brought to
    /// the last one.
    pub fn continues(&self, epoch: u64) -> bool {
        let base = self.checkpoint.as_ref().map(|(part, _)| part.place.base);
        base.is_some_and(|base| base <= epoch) && self.last.is_some_and(|last| epoch <= last.epoch)
    }

    /// Whether every commit that is there follows from it.
    pub fn is_whole(&self) -> bool {
        self.last.is_some_and(|last| last.epoch >= self.seen)
    }

    /// Calls `each` for the rows of the checkpoint, in pieces.
    pub fn rows(&self, each: &mut dyn FnMut(Vec<(Table, Row)>) -> Result<()>) -> Result<()> {
        let Some((part, _)) = &self.checkpoint else {
            return Err(Error::Corrupt("the journal has no whole checkpoint".into()));
        };
        let file = part.open()?;
        let mut frames = Frames::new(&file, part.place.clone())?;
        while let Some(frame) = frames.next()? {
            match frame.kind {
                Kind::Rows => each(frame::decode_block(&frame.body()?)?)?,
                _ => return Ok(()),
            }
        }
        Err(Error::Corrupt(
            "a checkpoint has changed while it was read".into(),
        ))
    }

    /// Calls `each` for the commits behind `epoch`, in their order, as far as
    /// they follow each other.
    pub fn commits(
        &self,
        epoch: u64,
        each: &mut dyn FnMut(Stamp, Batch) -> Result<()>,
    ) -> Result<()> {
        let last = self.last.map_or(0, |last| last.epoch);
        for part in &self.segments {
            let file = part.open()?;
            let mut frames = Frames::new(&file, part.place.clone())?;
            while let Some(frame) = frames.next()? {
                if frame.kind == Kind::Commit && frame.number > epoch && frame.number <= last {
                    let (stamp, batch) = frame::decode_commit(&frame.body()?)?;
                    each(stamp, batch)?;
                }
            }
        }
        Ok(())
    }

    /// What can be read of a journal that is not whole: rows of the newest
    /// checkpoint, then commits, whatever is missing between them; only commits behind `after`, if given. Says how
    /// many pieces could not be read.
    pub fn salvage(
        &self,
        after: Option<u64>,
        each: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<u64> {
        let mut lost = 0;
        let newest = self.checkpoint.as_ref().map(|(part, _)| part);
        let newest = newest.or(self.checkpoints.first());
        let newest = newest.filter(|_| after.is_none());
        for part in newest.into_iter().chain(&self.segments) {
            let file = part.open()?;
            let mut frames = Frames::new(&file, part.place.clone())?;
            loop {
                let frame = match frames.next()? {
                    None if frames.left() == 0 => break,
                    None => {
                        lost += 1;
                        frames.skip()?
                    }
                    frame => frame,
                };
                let Some(frame) = frame else { break };
                if frame.kind == Kind::Commit && after.is_some_and(|after| frame.number <= after) {
                    continue;
                }
                let batch = frame.body().and_then(|body| match frame.kind {
                    Kind::Commit => Ok(frame::decode_commit(&body)?.1),
                    Kind::End => Ok(Batch::default()),
                    Kind::Rows => {
                        let mut batch = Batch::default();
                        for (table, (key, value)) in frame::decode_block(&body)? {
                            batch.put(table, key, value);
                        }
                        Ok(batch)
                    }
                });
                match batch {
                    Ok(batch) => each(batch)?,
                    Err(Error::Corrupt(_)) => lost += 1,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(lost)
    }
}
