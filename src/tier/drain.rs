//! The drain: coding chunks as small as the codecs can, in the background.
//!
//! One thread leads: it takes chunks from the queue (`Pend`), reads them,
//! hands them to [coders](super::jobs), and appends what they return. The
//! coders do nothing but compute, and nobody waits for those at idle priority:
//! when someone asks for a drain, or the volume is closed, what they have is
//! called back, and the queue has it as before.

use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::codec::{Codec, Kind, ModelId, TOGETHER, Wanted};
use crate::error::{Error, Result};
use crate::store::{ChunkId, Class, Table};

use super::commit::{Swap, now_ms};
use super::handover::Demand;
use super::jobs::{Coders, Jobs};
use super::rows::{self, ChunkRow};
use super::rules::{OwnLoad, Rest, Rules, Surroundings};
use super::{Health, Plain, Shared, idle};

/// How far a drain has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DrainProgress {
    pub chunks_done: u64,
    pub chunks_total: u64,
    /// Plain bytes.
    pub plain_done: u64,
    pub plain_total: u64,
    /// Bytes of the frames of the chunks done, before and after.
    pub stored_before: u64,
    pub stored_after: u64,
}

/// What the drain does, and what it has done since the store was opened. All
/// sizes are bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DrainState {
    /// Someone has told it to rest.
    pub paused: bool,
    /// Why it does nothing; `None` while it works.
    pub rest: Option<Rest>,
    /// Chunks coded, their plain bytes, and their frames before and after.
    pub chunks: u64,
    pub plain: u64,
    pub stored_before: u64,
    pub stored_after: u64,
    /// For how long it has worked.
    pub worked: Duration,
    /// Plain bytes a second of its last chunks, counting only the time in
    /// which it worked; `None` before it has done a few.
    pub rate: Option<f64>,
}

/// Chunks whose speed counts.
const RECENT: usize = 64;

/// Fewer say nothing about the speed.
const FEW: usize = 4;

/// How often the drain looks whether it may work.
const ASK: Duration = Duration::from_secs(2);

/// How often someone who waits for the drain hears of it.
const REPORT: Duration = Duration::from_millis(200);

/// How long the leader sleeps at most before it looks at the queue again, and
/// how often it looks for logs to collect.
const LOOK: Duration = Duration::from_secs(5);

/// A queue entry this far in the future (milliseconds) is taken at once.
const AHEAD: u64 = 3_600_000;

/// Plain bytes that a coder takes at a time, unless one chunk has more.
const GROUP_BYTES: usize = 1 << 20;

/// Rows read from the queue at a time.
const PAGE: usize = 64;

/// What the drain does, and what it has done.
#[derive(Default)]
pub(super) struct Working {
    /// Without `rate`, which follows from `recent`.
    now: DrainState,
    /// For how long the drain had worked when it had done each of its last
    /// chunks, and the chunk's plain bytes.
    recent: VecDeque<(Duration, u64)>,
}

/// A chunk to be coded.
pub(super) struct Job {
    name: ChunkId,
    row: ChunkRow,
    plain: Plain,
}

/// The frame, and the model that was tried.
pub(super) type Coded = Result<(Vec<u8>, Option<ModelId>)>;

pub(super) type ChunkJobs = Jobs<Job, Coded>;

pub(super) fn drain_loop(shared: &Arc<Shared>) {
    Leader::new(shared).lead();
}

/// What a coder has. It knows nothing of the store, which may be closed and
/// opened again before an idle thread comes to its end.
struct Coder {
    jobs: Arc<ChunkJobs>,
    kind: Coders,
    /// How many there are of its kind.
    count: usize,
    codec: Arc<Codec>,
    rules: Rules,
}

impl Coder {
    fn work(&self) {
        if self.kind == Coders::Background {
            idle::be_idle();
        }
        // Several chunks side by side take less time: what was coded is decoded
        // again to compare.
        while let Some(taken) = self.jobs.take(self.kind, self.count, TOGETHER) {
            let begun = Instant::now();
            let tried = self.codec.model_id();
            let wanted: Vec<Wanted> = (taken.jobs.iter())
                .map(|(_, job)| Wanted {
                    plain: &job.plain,
                    policy: job.row.policy,
                    model: tried,
                })
                .collect();
            // A coder that fails in an unforeseen way leaves the chunks as they
            // are; it only read shared state.
            let code = AssertUnwindSafe(|| {
                let frames = self.codec.encode_wanted(&wanted, &taken.interrupt);
                let pairs = taken.jobs.iter().zip(frames);
                let coded = pairs.map(|((_, job), frame)| self.checked(job, frame?, tried));
                coded.collect::<Vec<Coded>>()
            });
            let coded = catch_unwind(code).unwrap_or_else(|_| {
                let failed = || Err(Error::Other("the coder failed; please report this".into()));
                wanted.iter().map(|_| failed()).collect()
            });
            for ((ticket, job), coded) in taken.jobs.into_iter().zip(coded) {
                self.jobs.finish(ticket, job, coded);
            }
            // What is not its share of the time.
            if self.kind == Coders::Background && !taken.interrupt.is_raised() {
                self.jobs.breathe(self.rules.pause_after(begun.elapsed()));
            }
        }
    }

    fn checked(&self, job: &Job, frame: Vec<u8>, tried: Option<ModelId>) -> Coded {
        compare(&self.codec, &job.name, &job.plain, &frame)?;
        Ok((frame, tried.filter(|_| job.row.policy.uses_model())))
    }
}

/// The codec has compared already. Where it is cheap, once more from outside,
/// against the name that every reader will compare with.
pub(super) fn compare(codec: &Codec, name: &ChunkId, plain: &[u8], frame: &[u8]) -> Result<()> {
    if matches!(Kind::of(frame)?, Kind::Raw | Kind::Zstd) {
        let decoded = codec.decode(frame, plain.len())?;
        if ChunkId::of(&decoded) != *name {
            return Err(Error::Corrupt("the new coding decodes wrongly".into()));
        }
    }
    Ok(())
}

impl Shared {
    /// See [`Tier::pause_drain`](super::Tier::pause_drain).
    pub(super) fn pause_drain(&self, paused: bool) {
        self.working.lock().now.paused = paused;
        self.drain.ring();
    }

    /// See [`Tier::drain_state`](super::Tier::drain_state).
    pub(super) fn drain_state(&self) -> DrainState {
        let working = self.working.lock();
        let mut now = working.now.clone();
        if self.options.read_only {
            now.rest = Some(Rest::ReadOnly);
        }
        // The first of the last chunks only says when the others began.
        if let (Some((from, first)), Some((to, _))) =
            (working.recent.front(), working.recent.back())
            && working.recent.len() > FEW
            && to > from
        {
            let plain: u64 = working.recent.iter().map(|(_, plain)| plain).sum();
            now.rate = Some((plain - first) as f64 / (*to - *from).as_secs_f64());
        }
        now
    }

    /// Threads that code.
    pub(super) fn coders(&self) -> usize {
        match self.options.drain_threads {
            0 => crate::parallel::available().min(self.options.decoders),
            threads => threads,
        }
    }

    /// See [`Tier::drain`](super::Tier::drain).
    pub(super) fn drain(&self, progress: &mut dyn FnMut(&DrainProgress) -> bool) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        let _mine = loop {
            match self.demand.try_lock_for(REPORT) {
                Some(guard) => break guard,
                None if !progress(&DrainProgress::default()) => return Ok(()),
                None => {}
            }
        };
        self.fold_all()?;
        self.sync()?;
        let hot = self.state.lock().counters.class(Class::Hot);
        let begun = DrainProgress {
            chunks_total: hot.chunks,
            plain_total: hot.plain,
            ..DrainProgress::default()
        };
        let demand = self.drain.ask(now_ms(), begun);
        self.jobs.nudge();
        loop {
            let ended = self.drain.outcome(demand, REPORT);
            let go_on = progress(&self.drain.progress(|progress| *progress));
            if let Some(result) = ended {
                result?;
                break;
            }
            if !go_on {
                self.drain.withdraw(demand);
                self.jobs.nudge();
                return Ok(());
            }
        }
        self.store.seal_logs()?;
        self.collect_all()
    }
}

/// The thread that leads the coders.
struct Leader<'a> {
    shared: &'a Shared,
    jobs: &'a ChunkJobs,
    /// Coders in the background and for those who wait; none are started before
    /// there is work.
    coders: [usize; 2],
    /// Chunks that no codec could take, or that are damaged: left as they are
    /// until the volume is opened again.
    failed: HashSet<ChunkId>,
    /// Keys of the queue read ahead, and where to read on.
    page: VecDeque<Vec<u8>>,
    from: Vec<u8>,
    /// Swaps were submitted since the last commit that was waited for.
    swapped: bool,
    collected: Instant,
    /// Why it may not work, and when it asked.
    forbidden: Option<Rest>,
    asked: Option<Instant>,
    own_load: OwnLoad,
    /// Since when the coders have been busy.
    busy_since: Option<Instant>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.jobs.close();
    }
}

impl<'a> Leader<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            jobs: &shared.jobs,
            coders: [0; 2],
            failed: HashSet::new(),
            page: VecDeque::new(),
            from: Vec::new(),
            swapped: false,
            collected: Instant::now(),
            forbidden: None,
            asked: None,
            own_load: OwnLoad::new(Instant::now()),
            busy_since: None,
        }
    }

    /// Why nothing may be begun in the background, if so.
    fn may_not(&mut self) -> Option<Rest> {
        if self.shared.options.drain_threads == 0 {
            return Some(Rest::Disabled);
        }
        if self.shared.working.lock().now.paused {
            return Some(Rest::Paused);
        }
        let now = Instant::now();
        if self.asked.is_none_or(|asked| now - asked > ASK) {
            self.asked = Some(now);
            let own = self.own_load.note(
                now,
                self.jobs
                    .busy()
                    .min(self.coders[Coders::Background as usize]),
            );
            let rules = &self.shared.options.rules;
            self.forbidden = rules.forbid(&Surroundings::look(), own);
        }
        self.forbidden.clone()
    }

    /// Notes what it does now, and the time in which it worked.
    fn say(&mut self, rest: Option<Rest>) {
        let mut working = self.shared.working.lock();
        let now = Instant::now();
        if let Some(since) = self.busy_since.take() {
            working.now.worked += now - since;
        }
        if self.jobs.busy() > 0 {
            self.busy_since = Some(now);
        }
        working.now.rest = rest;
    }

    fn lead(mut self) {
        while !self.shared.drain.stopped() {
            let demand = self.shared.drain.demand();
            let result = self.pass(demand);
            // Until the next pass the queue is read from its beginning.
            self.page.clear();
            self.from.clear();
            let mut wait = LOOK;
            match &result {
                Ok(Some(next)) => wait = wait.min(*next),
                Ok(None) => {}
                Err(error) => log::warn!("the drain pauses: {error}"),
            }
            if let Some(demand) = demand {
                self.shared.drain.answer(demand, result.map(drop));
            }
            if self.collected.elapsed() > LOOK {
                self.collect();
            }
            // Commits ring often; there is nothing new before `wait` is over
            // unless someone asks or the queue was empty.
            let within = wait.max(Duration::from_millis(50));
            self.shared.drain.rest(within, wait == LOOK);
        }
    }

    /// Codes all chunks that are due and waits until that is durable. Returns
    /// how long the next chunk in the queue will stay quiet.
    fn pass(&mut self, demand: Option<Demand>) -> Result<Option<Duration>> {
        let quiet = self.shared.options.rules.quiet.as_millis() as u64;
        let coders = match demand {
            Some(_) => Coders::Awaited,
            None => Coders::Background,
        };
        let mut next = None;
        let mut outcome = Ok(());
        let rest = loop {
            let upto = match demand {
                Some(demand) => demand.upto,
                None => now_ms().saturating_sub(quiet),
            };
            // What is wanted has changed: the coders' chunks stay in the queue.
            if self.shared.drain.stopped() || self.shared.drain.demand() != demand {
                for (job, coded) in self.jobs.call_back() {
                    let taken = self.take(job, coded);
                    outcome = outcome.and(taken);
                }
                break None;
            }
            let rest = match demand {
                Some(_) => None,
                None => self.may_not(),
            };
            // When one thing fails, no more is begun, but what the coders have
            // is waited for.
            let stop = outcome.is_err() || rest.is_some();
            while !stop && self.jobs.busy() < self.most_busy() {
                match self.next_job(upto) {
                    Ok(Next::Job(job)) => {
                        if let Err(error) = self.give(*job, coders) {
                            outcome = Err(error);
                            break;
                        }
                    }
                    Ok(Next::At(time)) => {
                        let due = time.saturating_add(quiet).saturating_sub(now_ms());
                        next = Some(Duration::from_millis(due));
                        break;
                    }
                    Ok(Next::End) => break,
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                }
            }
            if self.jobs.busy() == 0 {
                break rest;
            }
            self.say(None);
            if self.collected.elapsed() > LOOK {
                self.collect();
            }
            if let Some((job, coded)) = self.jobs.result(REPORT) {
                let taken = self.take(job, coded);
                outcome = outcome.and(taken);
            }
        };
        let rest = match (&outcome, rest, next) {
            (Err(Error::NoSpace), ..) => Rest::NoSpace,
            (_, Some(rest), _) => rest,
            (_, None, Some(due)) => Rest::Quiet {
                seconds: due.as_secs_f64().ceil() as u64,
            },
            (_, None, None) => Rest::Idle,
        };
        self.say(Some(rest));
        if std::mem::take(&mut self.swapped) {
            self.shared.sync()?;
        }
        outcome.map(|()| next)
    }

    /// The next chunk of the queue that is due.
    fn next_job(&mut self, upto: u64) -> Result<Next> {
        if !matches!(self.shared.state.lock().health, Health::Fine) {
            return Err(Error::NoSpace);
        }
        loop {
            if self.page.is_empty() {
                let store = &self.shared.store;
                let page = store.scan(Table::Pend, &self.from, None, PAGE)?;
                self.page = page.into_iter().map(|(key, _)| key).collect();
                if let Some(last) = self.page.back() {
                    self.from = [last.as_slice(), &[0]].concat();
                }
            }
            let Some(key) = self.page.front() else {
                return Ok(Next::End);
            };
            let (time, name) = rows::parse_pend_key(key)?;
            // A time far in the future comes from a clock that was set back.
            if time > upto && time < now_ms() + AHEAD {
                return Ok(Next::At(time));
            }
            let key = self.page.pop_front().unwrap_or_default();
            if self.failed.contains(&name) {
                continue;
            }
            match self.shared.hot_chunk(&name, time) {
                Ok(Some((row, plain))) => {
                    return Ok(Next::Job(Box::new(Job { name, row, plain })));
                }
                // Gone or cold already: only the queue does not know yet.
                Ok(None) => self.shared.run(|op| {
                    op.begin_change()?;
                    op.set_row(Table::Pend, key.clone(), None);
                    Ok(())
                })?,
                Err(Error::Stale) => {}
                Err(error @ Error::Corrupt(_)) => {
                    log::error!("{error}; it stays as it is");
                    self.fail(name);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Chunks that the coders may have: enough for two groups each, within a
    /// bound of memory, and never fewer than two.
    fn most_busy(&self) -> usize {
        let group = (GROUP_BYTES / self.shared.options.chunk_size).clamp(1, TOGETHER);
        2 * group * self.coders[0].max(self.coders[1]).max(1)
    }

    fn fail(&mut self, name: ChunkId) {
        self.failed.insert(name);
        self.shared.drain.progress(|progress| {
            progress.chunks_done = (progress.chunks_done + 1).min(progress.chunks_total);
        });
    }

    /// Has a job done.
    fn give(&mut self, job: Job, kind: Coders) -> Result<()> {
        let wanted = self.shared.coders();
        while self.coders[kind as usize] < wanted {
            let coder = Coder {
                jobs: self.shared.jobs.clone(),
                kind,
                count: wanted,
                codec: self.shared.codec.clone(),
                rules: self.shared.options.rules.clone(),
            };
            let name = match kind {
                Coders::Background => "code-idle",
                Coders::Awaited => "code",
            };
            let thread = thread::Builder::new().name(name.into());
            match thread.spawn(move || coder.work()) {
                Ok(_) => self.coders[kind as usize] += 1,
                // Fewer do as well.
                Err(_) if self.coders[kind as usize] > 0 => break,
                Err(error) => return Err(Error::io("starting a thread that codes")(error)),
            }
        }
        self.jobs.give(kind, job);
        Ok(())
    }

    /// Appends what a coder made and has the chunk's row point at it.
    fn take(&mut self, job: Job, coded: Coded) -> Result<()> {
        let Job { name, row, .. } = job;
        let (frame, model) = match coded {
            Ok(coded) => coded,
            Err(error) => {
                log::error!("chunk {name} could not be coded and stays as it is: {error}");
                self.fail(name);
                return Ok(());
            }
        };
        let swap = Swap {
            name,
            from: row.value.clone(),
            to: Some(self.shared.ledger.lock().append(
                &*self.shared.store,
                Class::Cold,
                Table::Chunk,
                &name.0,
                &frame,
            )?),
            kind: Kind::of(&frame)?,
            class: Class::Cold,
            policy: row.policy,
            model,
        };
        self.shared.submit(swap);
        self.swapped = true;
        let busy = self
            .busy_since
            .map_or(Duration::ZERO, |since| since.elapsed());
        let mut working = self.shared.working.lock();
        let now = &mut working.now;
        now.chunks += 1;
        now.plain += u64::from(row.plain_len);
        now.stored_before += row.stored_len();
        now.stored_after += frame.len() as u64;
        let when = now.worked + busy;
        working.recent.push_back((when, row.plain_len.into()));
        if working.recent.len() > RECENT {
            working.recent.pop_front();
        }
        drop(working);
        self.shared.drain.progress(|progress| {
            progress.stored_before += row.stored_len();
            progress.stored_after += frame.len() as u64;
            // Chunks that were written after the drain began do not count.
            progress.chunks_done = (progress.chunks_done + 1).min(progress.chunks_total);
            progress.plain_done =
                (progress.plain_done + u64::from(row.plain_len)).min(progress.plain_total);
        });
        Ok(())
    }

    fn collect(&mut self) {
        if let Err(error) = self.shared.collect_some() {
            log::warn!("collecting value logs: {error}");
        }
        self.collected = Instant::now();
    }
}

enum Next {
    Job(Box<Job>),
    /// Nothing before this time.
    At(u64),
    End,
}

impl Shared {
    /// A chunk that still waits in the queue since `time`, with its bytes.
    fn hot_chunk(&self, name: &ChunkId, time: u64) -> Result<Option<(ChunkRow, Plain)>> {
        let Some(row) = self.store.get(Table::Chunk, &name.0)? else {
            return Ok(None);
        };
        let row = ChunkRow::decode(&row)?;
        if row.class != Class::Hot || row.time != time {
            return Ok(None);
        }
        if let Some(plain) = self.cache.peek(name) {
            return Ok(Some((row, plain)));
        }
        let (row, plain) = self.fetch(name)?;
        Ok(Some((row, Arc::new(plain))))
    }

    /// Has the next commit point a chunk's row at its new value.
    pub(super) fn submit(&self, swap: Swap) {
        let mut state = self.state.lock();
        // A model that is on its way out of the store gets no new chunks.
        if swap.model.is_some_and(|id| self.codec.is_retired(id)) {
            if let Some(value) = &swap.to {
                self.ledger.lock().settle(value);
            }
            return;
        }
        state.swaps.push(swap);
        state.changed(self);
    }
}
