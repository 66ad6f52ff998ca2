//! The journal: every commit once more, beside the database, so that the
//! database is an index that can be rebuilt (`docs/format-store.md`).
//!
//! `journal/EPOCH.changes` hold commits, the first of them with the number in
//! the name; `journal/EPOCH.rows` is a checkpoint, a copy of all rows. A
//! checkpoint is written while commits go on: rows that change meanwhile are
//! in it as they were before or after, and the commits that follow the epoch
//! in its name make them what they are. Nothing in the journal is ever
//! overwritten but what is not a whole record at its end.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use super::digest::Stamp;
use super::frame::{self, Kind, Place};
use super::survey::{CHANGES, Part, ROWS, Survey};
use super::{Batch, Table, durable};
use crate::error::{Error, Result};

/// Commits since the last checkpoint may take this much before the next one is
/// due, or as much as that one took.
const CHECKPOINT_MIN: u64 = 4 << 20;

/// Blocks kept in hand behind the last commit, for when the disk is full.
const RESERVE: u64 = 256 << 10;

/// Plain bytes of a checkpoint's block: what a damaged byte costs.
const BLOCK: usize = 128 << 10;

/// The checkpoint that is being written.
const UNFINISHED: &str = ".new-rows";

/// A journal that is appended to. Commits come one after the other.
pub struct Journal {
    directory: PathBuf,
    uuid: String,
    state: Mutex<State>,
    syncer: Syncer,
}

struct State {
    open: Option<Open>,
    packer: zstd::bulk::Compressor<'static>,
    /// Bytes of commits since the last checkpoint, and of that one.
    since: u64,
    checkpoint: u64,
    /// See [`CHECKPOINT_MIN`]; smaller for tests.
    due: u64,
}

struct Open {
    place: Place,
    file: Arc<File>,
    end: u64,
    /// Up to where blocks are set aside.
    reserved: u64,
}

impl Journal {
    /// Goes on where a whole journal ends. What is torn behind it is cut off.
    pub fn resume(survey: &Survey) -> Result<Self> {
        let journal = Self::new(&survey.directory, &survey.uuid)?;
        let base = survey
            .checkpoint
            .as_ref()
            .map_or(0, |(part, _)| part.place.base);
        {
            let mut state = journal.state.lock();
            state.since = survey.since;
            state.checkpoint = survey.checkpoint.as_ref().map_or(0, |(_, bytes)| *bytes);
            if let Some((part, end)) = &survey.tail {
                let context = || format!("opening {}", part.path.display());
                let file = OpenOptions::new().write(true).read(true).open(&part.path);
                let file = file.map_err(Error::io(context()))?;
                let size = file.metadata().map_err(Error::io(context()))?.len();
                if size > *end {
                    file.set_len(*end)
                        .and_then(|()| file.sync_all())
                        .map_err(Error::io(context()))?;
                }
                state.open = Some(Open {
                    place: part.place.clone(),
                    file: Arc::new(file),
                    end: *end,
                    reserved: 0,
                });
            }
        }
        journal.remove_before(base)?;
        Ok(journal)
    }

    /// A journal in the place of whatever is in `directory`; of use once its
    /// first checkpoint has ended.
    pub fn start(directory: &Path, uuid: &str) -> Result<Self> {
        match std::fs::create_dir(directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => {
                made.map_err(Error::io(format!("creating {}", directory.display())))?;
                durable::sync_directory(directory.parent().unwrap_or(directory))?;
            }
        }
        Self::new(directory, uuid)
    }

    fn new(directory: &Path, uuid: &str) -> Result<Self> {
        let packer = zstd::bulk::Compressor::new(1).map_err(Error::io("starting zstd"))?;
        Ok(Self {
            directory: directory.to_owned(),
            uuid: uuid.into(),
            state: Mutex::new(State {
                open: None,
                packer,
                since: 0,
                checkpoint: 0,
                due: CHECKPOINT_MIN,
            }),
            syncer: Syncer::start()?,
        })
    }

    /// Appends a commit. Durable after the [`sync`](Self::sync) that follows.
    /// After [`Error::NoSpace`] nothing is there; after another error, which
    /// must be the journal's last, the commit may be there or not.
    pub fn append(&self, stamp: Stamp, batch: &Batch) -> Result<()> {
        let mut state = self.state.lock();
        let body = frame::encode_commit(stamp, batch);
        let packed = state
            .packer
            .compress(&body)
            .map_err(Error::io("compressing a commit"))?;
        let mut open = match state.open.take() {
            Some(open) => open,
            None => self.create(stamp.epoch)?,
        };
        let plain = body.len();
        let bytes = open
            .place
            .frame(open.end, Kind::Commit, stamp.epoch, plain, &packed);
        let written = open
            .reserve(bytes.len() as u64)
            .map_err(Error::io("appending to the journal"))
            .and_then(|()| {
                durable::write_at(&open.file, &bytes, open.end).map_err(|source| Error::Io {
                    context: "appending to the journal".into(),
                    // Never `NoSpace`: something may have been written.
                    source: std::io::Error::other(source),
                })
            });
        if written.is_ok() {
            open.end += bytes.len() as u64;
            state.since += bytes.len() as u64;
        }
        state.open = Some(open);
        written
    }

    fn create(&self, epoch: u64) -> Result<Open> {
        let part = Part::new(&self.directory, &self.uuid, epoch, CHANGES);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&part.path)
            .map_err(Error::io(format!("creating {}", part.path.display())))?;
        durable::sync_directory(&self.directory)?;
        Ok(Open {
            place: part.place,
            file: Arc::new(file),
            end: 0,
            reserved: 0,
        })
    }

    /// Begins to make what was appended durable; [`Syncing::wait`] ends it.
    pub fn sync(&self) -> Syncing<'_> {
        let file = self
            .state
            .lock()
            .open
            .as_ref()
            .map(|open| open.file.clone());
        let asked = file.is_some_and(|file| self.syncer.ask(file));
        Syncing(asked.then_some(&self.syncer))
    }

    /// Whether commits have grown beyond what a checkpoint costs.
    pub fn wants_checkpoint(&self) -> bool {
        let need = {
            let state = self.state.lock();
            if state.since <= state.checkpoint.max(state.due) {
                return false;
            }
            state.since + state.checkpoint
        };
        // It frees space, but takes some first.
        durable::disk_space(&self.directory).is_ok_and(|(available, ..)| available > 2 * need)
    }

    #[cfg(test)]
    pub fn set_due(&self, bytes: u64) {
        self.state.lock().due = bytes;
    }

    /// Sets blocks aside, so that a test can fill the disk.
    #[cfg(test)]
    pub fn pretend_room(&self) {
        if let Some(open) = &mut self.state.lock().open {
            open.reserve(4 << 20).unwrap();
        }
    }

    /// Begins a checkpoint of the rows as of `epoch`, the last commit: no
    /// commit is under way.
    pub fn begin_checkpoint(&self, epoch: u64) -> Result<Checkpoint<'_>> {
        let path = self.directory.join(UNFINISHED);
        let file =
            File::create(&path).map_err(Error::io(format!("creating {}", path.display())))?;
        let mut state = self.state.lock();
        // Further commits go to a file of their own.
        if let Some(open) = state.open.take() {
            open.trim();
        }
        let before = std::mem::take(&mut state.since);
        Ok(Checkpoint {
            journal: self,
            file,
            path,
            part: Part::new(&self.directory, &self.uuid, epoch, ROWS),
            end: 0,
            blocks: 0,
            block: Vec::with_capacity(BLOCK + 8192),
            before,
            done: false,
        })
    }

    /// Deletes what a checkpoint as of `epoch` makes superfluous.
    fn remove_before(&self, epoch: u64) -> Result<()> {
        let listed = Survey::listed(&self.directory, &self.uuid)?;
        for part in listed.checkpoints.iter().chain(&listed.segments) {
            let old = match part.place.extension {
                ROWS => part.place.base != epoch,
                _ => part.place.base <= epoch,
            };
            if old {
                remove(&part.path)?;
            }
        }
        remove(&self.directory.join(UNFINISHED))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.syncer.stop();
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

impl Open {
    /// Sets blocks aside for `len` bytes and some more.
    fn reserve(&mut self, len: u64) -> std::io::Result<()> {
        if self.reserved >= self.end + len {
            return Ok(());
        }
        for spare in [RESERVE, RESERVE / 8, 0] {
            let want = len + spare;
            match durable::set_aside(&self.file, self.end, want) {
                Ok(true) => {
                    self.reserved = self.end + want;
                    return Ok(());
                }
                // The write itself will tell, and then nobody knows more.
                Ok(false) => return Ok(()),
                Err(error) if spare == 0 => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Gives back what was set aside.
    fn trim(&self) {
        if let Err(error) = self.file.set_len(self.end) {
            log::debug!("cutting the journal's reserve: {error}");
        }
    }
}

/// A checkpoint that is being written.
pub struct Checkpoint<'a> {
    journal: &'a Journal,
    file: File,
    path: PathBuf,
    part: Part,
    end: u64,
    blocks: u64,
    block: Vec<u8>,
    /// Bytes of commits when it began.
    before: u64,
    done: bool,
}

impl Checkpoint<'_> {
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        frame::encode_row(&mut self.block, table, key, Some(value));
        match self.block.len() >= BLOCK {
            true => self.write_block(),
            false => Ok(()),
        }
    }

    fn write_block(&mut self) -> Result<()> {
        let block = std::mem::take(&mut self.block);
        self.write(Kind::Rows, &block)?;
        self.blocks += 1;
        self.block = block;
        self.block.clear();
        Ok(())
    }

    fn write(&mut self, kind: Kind, body: &[u8]) -> Result<()> {
        let packed = zstd::bulk::compress(body, 3).map_err(Error::io("compressing rows"))?;
        let place = &self.part.place;
        let bytes = place.frame(self.end, kind, self.blocks, body.len(), &packed);
        durable::write_at(&self.file, &bytes, self.end)
            .map_err(Error::io("writing a checkpoint of the journal"))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Ends it: with the commits up to `stamp`, which are durable, it is the
    /// whole of all rows. Then deletes what came before.
    pub fn finish(mut self, stamp: Stamp) -> Result<()> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        self.write(Kind::End, &stamp.encode())?;
        let context = || format!("writing {}", self.part.path.display());
        durable::sync_file(&self.file).map_err(Error::io(context()))?;
        durable::rename(&self.path, &self.part.path).map_err(Error::io(context()))?;
        durable::sync_directory(&self.journal.directory)?;
        self.journal.state.lock().checkpoint = self.end;
        self.done = true;
        self.journal.remove_before(self.part.place.base)
    }
}

impl Drop for Checkpoint<'_> {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.journal.state.lock();
            state.since += self.before;
            // Not at once again.
            state.due = state.due.max(2 * state.since);
            drop(state);
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A thread that syncs the journal while another syncs the database.
struct Syncer {
    ask: Mutex<Option<Sender<Arc<File>>>>,
    done: Receiver<std::io::Result<()>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Syncer {
    fn start() -> Result<Self> {
        let (ask, asked) = crossbeam_channel::bounded::<Arc<File>>(1);
        let (tell, done) = crossbeam_channel::bounded(1);
        let body = move || {
            for file in asked {
                if tell.send(durable::sync_file(&file)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(body)
            .map_err(Error::io("starting a thread"))?;
        Ok(Self {
            ask: Mutex::new(Some(ask)),
            done,
            thread: Mutex::new(Some(thread)),
        })
    }

    fn ask(&self, file: Arc<File>) -> bool {
        let ask = self.ask.lock();
        ask.as_ref().is_some_and(|ask| ask.send(file).is_ok())
    }

    fn stop(&self) {
        self.ask.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of it has been printed.
            let _ = thread.join();
        }
    }
}

/// A sync under way.
#[must_use]
pub struct Syncing<'a>(Option<&'a Syncer>);

impl Syncing<'_> {
    pub fn wait(self) -> Result<()> {
        let result = match self.0 {
            None => Err(std::io::Error::other("the journal is closed")),
            Some(syncer) => syncer
                .done
                .recv()
                .unwrap_or_else(|_| Err(std::io::Error::other("its thread has ended"))),
        };
        result.map_err(|source| Error::Io {
            context: "syncing the journal".into(),
            source,
        })
    }
}
