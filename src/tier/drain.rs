//! The drain: coding chunks as small as the codecs can, in the background.
//!
//! One thread leads: it takes chunks from the queue (`Pend`), reads them,
//! hands them to coders, and appends what they return. The coders do nothing
//! but compute, so that their idle priority never delays a lock that others
//! wait for.

use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Scope;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::codec::{Kind, ModelId, TOGETHER, Wanted};
use crate::error::{Error, Result};
use crate::store::{ChunkId, Class, Table};

use super::commit::{Swap, now_ms};
use super::handover::Demand;
use super::rows::{self, ChunkRow};
use super::rules::{OwnLoad, Rest, Surroundings};
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
struct Job {
    name: ChunkId,
    row: ChunkRow,
    plain: Plain,
}

/// What became of it.
struct Coded {
    name: ChunkId,
    row: ChunkRow,
    /// The frame, and the model that was tried.
    frame: Result<(Vec<u8>, Option<ModelId>)>,
}

pub(super) fn drain_loop(shared: &Arc<Shared>) {
    std::thread::scope(|scope| Leader::new(shared, scope).lead());
}

fn code_loop(shared: &Shared, jobs: &Receiver<Job>, results: &Sender<Coded>) {
    while let Ok(first) = jobs.recv() {
        if shared.drain.stopped() {
            return;
        }
        // This coder's share of what waits: what was coded is decoded again to
        // compare, and several chunks side by side take less time.
        let share = (jobs.len() + 1).div_ceil(shared.coders()).min(TOGETHER);
        let mut taken = vec![first];
        taken.extend(jobs.try_iter().take(share - 1));
        let begun = Instant::now();
        let tried = shared.codec.model_id();
        let wanted: Vec<Wanted> = (taken.iter())
            .map(|job| Wanted {
                plain: &job.plain,
                policy: job.row.policy,
                model: tried,
            })
            .collect();
        // A coder that fails in an unforeseen way leaves the chunks as they
        // are; it only read shared state.
        let code = AssertUnwindSafe(|| shared.codec.encode_wanted(&wanted));
        let frames = catch_unwind(code).unwrap_or_else(|_| {
            let failed = || Err(Error::Other("the coder failed; please report this".into()));
            wanted.iter().map(|_| failed()).collect()
        });
        for (job, frame) in taken.into_iter().zip(frames) {
            let frame = frame.and_then(|frame| shared.compare(&job.name, &job.plain, frame));
            let Job { name, row, .. } = job;
            let model = tried.filter(|_| row.policy.uses_model());
            let frame = frame.map(|frame| (frame, model));
            if results.send(Coded { name, row, frame }).is_err() {
                return;
            }
        }
        shared.take_breath(begun.elapsed());
    }
}

impl Shared {
    /// Has a coder rest for what is not its share of the time, unless someone
    /// waits.
    fn take_breath(&self, worked: Duration) {
        self.drain.breathe(self.options.rules.pause_after(worked));
    }

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

    /// The codec has compared already. Where it is cheap, once more from
    /// outside, against the name that every reader will compare with.
    pub(super) fn compare(&self, name: &ChunkId, plain: &[u8], frame: Vec<u8>) -> Result<Vec<u8>> {
        if matches!(Kind::of(&frame)?, Kind::Raw | Kind::Zstd) {
            let decoded = self.codec.decode(&frame, plain.len())?;
            if ChunkId::of(&decoded) != *name {
                return Err(Error::Corrupt("the new coding decodes wrongly".into()));
            }
        }
        Ok(frame)
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
        loop {
            let ended = self.drain.outcome(demand, REPORT);
            let go_on = progress(&self.drain.progress(|progress| *progress));
            if let Some(result) = ended {
                result?;
                break;
            }
            if !go_on {
                self.drain.withdraw(demand);
                return Ok(());
            }
        }
        self.store.seal_logs()?;
        self.collect_all()
    }
}

/// Coders and what is given to them; none are started before there is work.
/// There are two pools, since a thread that has made itself idle may not take
/// its ordinary priority back.
struct Pool {
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    coders: usize,
}

impl Pool {
    fn new() -> Pool {
        let (jobs, queue) = unbounded();
        Pool {
            jobs,
            queue,
            coders: 0,
        }
    }
}

/// The thread that leads the coders.
struct Leader<'scope, 'env> {
    shared: &'env Shared,
    scope: &'scope Scope<'scope, 'env>,
    /// Works when nobody else wants the machine.
    background: Pool,
    /// Works for someone who waits.
    awaited: Pool,
    results: Receiver<Coded>,
    reply: Sender<Coded>,
    /// Chunks given to the coders.
    busy: usize,
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

impl<'scope, 'env> Leader<'scope, 'env> {
    fn new(shared: &'env Shared, scope: &'scope Scope<'scope, 'env>) -> Self {
        let (reply, results) = unbounded();
        Self {
            shared,
            scope,
            background: Pool::new(),
            awaited: Pool::new(),
            results,
            reply,
            busy: 0,
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
            let own = self
                .own_load
                .note(now, self.busy.min(self.background.coders));
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
        if self.busy > 0 {
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
        let mut next = None;
        let mut outcome = Ok(());
        let rest = loop {
            let upto = match demand {
                Some(demand) => demand.upto,
                None => now_ms().saturating_sub(quiet),
            };
            // When one thing fails, no more is begun, but what the coders have
            // is waited for.
            let stop = outcome.is_err()
                || self.shared.drain.stopped()
                || (demand.is_some() && self.shared.drain.demand() != demand);
            let rest = match demand {
                Some(_) => None,
                None => self.may_not(),
            };
            let stop = stop || rest.is_some();
            while !stop && self.busy < self.most_busy() {
                match self.next_job(upto) {
                    Ok(Next::Job(job)) => self.give(*job, demand.is_some()),
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
            if self.busy == 0 {
                break rest;
            }
            self.say(None);
            if self.collected.elapsed() > LOOK {
                self.collect();
            }
            match self.results.recv_timeout(REPORT) {
                Ok(coded) => {
                    self.busy -= 1;
                    let taken = self.take(coded);
                    outcome = outcome.and(taken);
                }
                // The coders leave without a word when they are told to stop.
                Err(RecvTimeoutError::Timeout) if self.shared.drain.stopped() => break rest,
                Err(_) => {}
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
        2 * group * self.background.coders.max(self.awaited.coders).max(1)
    }

    fn fail(&mut self, name: ChunkId) {
        self.failed.insert(name);
        self.shared.drain.progress(|progress| {
            progress.chunks_done = (progress.chunks_done + 1).min(progress.chunks_total);
        });
    }

    /// Has a job done, in the background or for someone who waits.
    fn give(&mut self, job: Job, awaited: bool) {
        let pool = match awaited {
            true => &mut self.awaited,
            false => &mut self.background,
        };
        while pool.coders < self.shared.coders() {
            let (shared, queue, reply) = (self.shared, pool.queue.clone(), self.reply.clone());
            self.scope.spawn(move || {
                if !awaited {
                    idle::be_idle();
                }
                code_loop(shared, &queue, &reply);
            });
            pool.coders += 1;
        }
        // The leader holds a receiver, so the channel is open.
        if pool.jobs.send(job).is_ok() {
            self.busy += 1;
        }
    }

    /// Appends what a coder made and has the chunk's row point at it.
    fn take(&mut self, coded: Coded) -> Result<()> {
        let Coded { name, row, frame } = coded;
        let (frame, model) = match frame {
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
