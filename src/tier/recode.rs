//! Coding again what is stored: on demand, with another policy or model.
//!
//! A chunk's row remembers under which policy it was coded and which model was
//! tried. What is settled is passed over, so a run that was interrupted goes on
//! where it ended when it is started again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::codec::{self, Kind, ModelId, Policy, Wanted};
use crate::error::{Error, Result};
use crate::parallel;
use crate::store::{ChunkId, Class, Table};

use super::commit::Swap;
use super::drain::compare;
use super::rows::{self, ChunkRow, Run};
use super::{Health, Shared, Tier};

/// Runs of chunks read at a time.
const PAGE: usize = 64;

/// After so many chunks what was done is committed.
const COMMIT_EVERY: usize = 1024;

/// A file to be coded again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecodeFile {
    pub ino: u64,
    pub policy: Policy,
    /// Its length, for the progress.
    pub size: u64,
}

/// How far it has come. All sizes are bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RecodeProgress {
    pub files_done: u64,
    pub files_total: u64,
    /// Plain bytes looked at.
    pub plain_done: u64,
    pub plain_total: u64,
    /// Chunks that were coded, that were settled already, and that could not
    /// be coded and stay as they are.
    pub chunks_coded: u64,
    pub chunks_kept: u64,
    pub chunks_failed: u64,
    /// Frames of the coded chunks, before and after.
    pub stored_before: u64,
    pub stored_after: u64,
    /// Someone stopped it.
    pub interrupted: bool,
}

/// What a run shares between its files.
struct Task {
    model: Option<ModelId>,
    /// What is wanted of chunks other than the default.
    wishes: HashMap<ChunkId, Policy>,
    /// Chunks that were done and whose rows do not say so yet.
    fresh: HashSet<ChunkId>,
}

/// What became of one chunk.
enum Outcome {
    /// It is as it shall be.
    Kept(ChunkRow),
    /// The row is to remember what the frame says.
    Noted(ChunkRow, Option<ModelId>),
    Coded(ChunkRow, Vec<u8>, Option<ModelId>),
}

impl Tier {
    /// Codes the chunks of these files as their policies say, with `model` or
    /// the default one, whatever they rest as; for `model`, `auto` chunks of
    /// other models are coded again too, so that these are no longer needed.
    /// Where files with different policies share a chunk, the one that reads
    /// fastest counts.
    ///
    /// Reports after every few chunks, and stops when the callback returns
    /// `false`; what was coded by then stays.
    pub fn recode(
        &self,
        files: &[RecodeFile],
        model: Option<ModelId>,
        progress: &mut dyn FnMut(&RecodeProgress) -> bool,
    ) -> Result<RecodeProgress> {
        self.shared.recode(files, model, progress)
    }

    /// The models that chunks need to be read.
    pub fn models_in_use(&self) -> Result<HashSet<ModelId>> {
        self.shared.sync()?;
        self.shared.models_in_use()
    }

    /// Runs `remove` for those of `candidates` that no chunk needs, while none
    /// can come to need them, and forgets them.
    pub fn drop_models(
        &self,
        candidates: &[ModelId],
        remove: &mut dyn FnMut(ModelId) -> Result<()>,
    ) -> Result<()> {
        let shared = &self.shared;
        let Some(_alone) = shared.recoding.try_lock() else {
            return Err(Error::Other(
                "chunks are being coded again just now: wait for that, or interrupt it".into(),
            ));
        };
        for id in candidates {
            shared.codec.retire(*id, true);
        }
        // What a coder finishes from now on with one of them is thrown away;
        // what it finished before is in the rows after this.
        let result = self.models_in_use().and_then(|used| {
            candidates.iter().try_for_each(|id| {
                if used.contains(id) {
                    return Ok(());
                }
                remove(*id)?;
                shared.codec.remove_model(*id);
                Ok(())
            })
        });
        for id in candidates {
            shared.codec.retire(*id, false);
        }
        result
    }
}

impl Shared {
    fn recode(
        &self,
        files: &[RecodeFile],
        model: Option<ModelId>,
        progress: &mut dyn FnMut(&RecodeProgress) -> bool,
    ) -> Result<RecodeProgress> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        let Some(_alone) = self.recoding.try_lock() else {
            return Err(Error::Other(
                "chunks are being coded again already: wait for that, or interrupt it".into(),
            ));
        };
        self.fold_all()?;
        self.sync()?;
        let mut now = RecodeProgress {
            files_total: files.len() as u64,
            plain_total: files.iter().map(|file| file.size).sum(),
            ..RecodeProgress::default()
        };
        let mut task = Task {
            model,
            wishes: self.wishes_of(files)?,
            fresh: HashSet::new(),
        };
        for file in files {
            let before = now.plain_done;
            self.recode_file(file, &mut task, &mut now, progress)?;
            if now.interrupted {
                break;
            }
            now.files_done += 1;
            // Holes and the ends of chunks count as done.
            now.plain_done = before + file.size;
        }
        self.sync()?;
        if now.chunks_coded > 0 {
            self.store.seal_logs()?;
            self.collect_all()?;
        }
        progress(&now);
        Ok(now)
    }

    /// What is wanted of chunks other than the default.
    fn wishes_of(&self, files: &[RecodeFile]) -> Result<HashMap<ChunkId, Policy>> {
        let mut wishes = HashMap::<ChunkId, Policy>::new();
        for file in files.iter().filter(|file| file.policy != Policy::Auto) {
            self.each_run(file.ino, &mut |names| {
                for name in names {
                    let wish = wishes.entry(*name).or_default();
                    *wish = (*wish).max(file.policy);
                }
                Ok(true)
            })?;
        }
        Ok(wishes)
    }

    /// Calls `each` with the chunks of a file, some at a time, until it says
    /// `false`.
    fn each_run(&self, ino: u64, each: &mut dyn FnMut(&[ChunkId]) -> Result<bool>) -> Result<()> {
        let (mut from, end) = (rows::run_key(ino, 0), rows::runs_end(ino));
        loop {
            let page = self.store.scan(Table::Cmap, &from, end.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            from = rows::run_key(ino, rows::parse_run_key(last)?.1.saturating_add(1));
            for (_, row) in &page {
                let names: Vec<ChunkId> = Run::decode(row)?.names().collect();
                if !each(&names)? {
                    return Ok(());
                }
            }
        }
    }

    fn recode_file(
        &self,
        file: &RecodeFile,
        task: &mut Task,
        now: &mut RecodeProgress,
        progress: &mut dyn FnMut(&RecodeProgress) -> bool,
    ) -> Result<()> {
        let threads = self.coders();
        self.each_run(file.ino, &mut |names| {
            for some in names.chunks(2 * threads) {
                if !matches!(self.state.lock().health, Health::Fine) {
                    return Err(Error::NoSpace);
                }
                if task.fresh.len() >= COMMIT_EVERY {
                    self.sync()?;
                    task.fresh.clear();
                }
                let given = some.len();
                let some: Vec<ChunkId> = some
                    .iter()
                    .copied()
                    .filter(|name| task.fresh.insert(*name))
                    .collect();
                now.chunks_kept += (given - some.len()) as u64;
                let outcomes = parallel::map(threads, &some, |name| {
                    let policy = task.wishes.get(name).copied().unwrap_or_default();
                    (policy, self.recode_chunk(name, policy, task.model))
                });
                for (name, (policy, outcome)) in some.iter().zip(outcomes) {
                    self.note_outcome(*name, policy, outcome, now)?;
                }
                if self.closing.is_raised() || !progress(now) {
                    now.interrupted = true;
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    fn recode_chunk(
        &self,
        name: &ChunkId,
        policy: Policy,
        model: Option<ModelId>,
    ) -> Result<Outcome> {
        let row = self.store.get(Table::Chunk, &name.0)?.ok_or(Error::Stale)?;
        let row = ChunkRow::decode(&row)?;
        let wanted = model
            .or_else(|| self.codec.model_id())
            .filter(|_| policy.uses_model());
        if row.class == Class::Cold && row.policy == policy {
            if !policy.uses_model() || row.model == wanted {
                return Ok(Outcome::Kept(row));
            }
            // Coded before rows said with which model: its frame does.
            if row.model.is_none() && matches!(row.kind, Kind::Mix | Kind::Lm) {
                let frame = self.store.value(&row.value)?;
                if codec::model_of(&frame) == wanted {
                    return Ok(Outcome::Noted(row, wanted));
                }
            }
        }
        let plain = match self.cache.peek(name) {
            Some(plain) => plain,
            None => Arc::new(self.fetch(name)?.1),
        };
        let wanted_of = Wanted {
            plain: &plain,
            policy,
            model: wanted,
        };
        let frame = self.codec.encode_wanted(&[wanted_of], &self.closing).pop();
        let frame = frame.unwrap_or_else(|| Err(Error::Other("nothing was coded".into())))?;
        compare(&self.codec, name, &plain, &frame)?;
        Ok(Outcome::Coded(row, frame, wanted))
    }

    fn note_outcome(
        &self,
        name: ChunkId,
        policy: Policy,
        outcome: Result<Outcome>,
        now: &mut RecodeProgress,
    ) -> Result<()> {
        let (row, frame, model) = match outcome {
            Ok(Outcome::Kept(row)) => {
                now.chunks_kept += 1;
                now.plain_done += u64::from(row.plain_len);
                return Ok(());
            }
            Ok(Outcome::Noted(row, model)) => (row, None, model),
            Ok(Outcome::Coded(row, frame, model)) => (row, Some(frame), model),
            // Its file was changed meanwhile: no longer what was asked for. Or
            // the volume is being closed.
            Err(Error::Stale | Error::Interrupted) => return Ok(()),
            Err(error @ (Error::Corrupt(_) | Error::Model(_))) => {
                log::error!("chunk {name} stays as it is: {error}");
                now.chunks_failed += 1;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        now.plain_done += u64::from(row.plain_len);
        let Some(frame) = frame else {
            now.chunks_kept += 1;
            self.submit(Swap {
                name,
                to: None,
                from: row.value,
                kind: row.kind,
                class: row.class,
                policy,
                model,
            });
            return Ok(());
        };
        now.chunks_coded += 1;
        now.stored_before += row.stored_len();
        now.stored_after += frame.len() as u64;
        let to =
            self.ledger
                .lock()
                .append(&*self.store, Class::Cold, Table::Chunk, &name.0, &frame)?;
        self.submit(Swap {
            name,
            from: row.value,
            to: Some(to),
            kind: Kind::of(&frame)?,
            class: Class::Cold,
            policy,
            model,
        });
        Ok(())
    }

    fn models_in_use(&self) -> Result<HashSet<ModelId>> {
        let mut used = HashSet::new();
        let mut from = Vec::new();
        loop {
            let page = self.store.scan(Table::Chunk, &from, None, 1024)?;
            let Some((last, _)) = page.last() else {
                return Ok(used);
            };
            from = [last.as_slice(), &[0]].concat();
            for (key, row) in &page {
                let row = ChunkRow::decode(row)?;
                if !matches!(row.kind, Kind::Mix | Kind::Lm) {
                    continue;
                }
                let id = match row.model {
                    Some(id) => Some(id),
                    None => match self.frame_now(key, row)? {
                        Some(frame) => codec::model_of(&frame),
                        None => continue,
                    },
                };
                used.extend(id);
            }
        }
    }

    /// The frame of a chunk, read again if it has moved; `None` if it is gone.
    fn frame_now(&self, key: &[u8], mut row: ChunkRow) -> Result<Option<Vec<u8>>> {
        loop {
            match self.store.value(&row.value) {
                Err(Error::Stale) => match self.store.get(Table::Chunk, key)? {
                    Some(again) => row = ChunkRow::decode(&again)?,
                    None => return Ok(None),
                },
                frame => return frame.map(Some),
            }
        }
    }
}
