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

use crate::codec::Kind;
use crate::error::{Error, Result};
use crate::store::{ChunkId, Class, Table};

use super::commit::{Swap, now_ms};
use super::handover::Demand;
use super::rows::{self, ChunkRow};
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

/// How often someone who waits for the drain hears of it.
const REPORT: Duration = Duration::from_millis(200);

/// How long the leader sleeps at most before it looks at the queue again, and
/// how often it looks for logs to collect.
const LOOK: Duration = Duration::from_secs(5);

/// A queue entry this far in the future (milliseconds) is taken at once.
const AHEAD: u64 = 3_600_000;

/// Rows read from the queue at a time.
const PAGE: usize = 64;

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
    frame: Result<Vec<u8>>,
}

pub(super) fn drain_loop(shared: &Arc<Shared>) {
    std::thread::scope(|scope| Leader::new(shared, scope).lead());
}

fn code_loop(shared: &Shared, jobs: &Receiver<Job>, results: &Sender<Coded>) {
    idle::be_idle();
    for Job { name, row, plain } in jobs {
        if shared.drain.stopped() {
            return;
        }
        // A coder that fails in an unforeseen way leaves the chunk as it is;
        // it only read shared state.
        let code = AssertUnwindSafe(|| shared.encode_cold(&name, &plain));
        let frame = catch_unwind(code)
            .unwrap_or_else(|_| Err(Error::Other("the coder failed; please report this".into())));
        if results.send(Coded { name, row, frame }).is_err() {
            return;
        }
    }
}

impl Shared {
    /// The smallest frame of a chunk, known to decode to it.
    fn encode_cold(&self, name: &ChunkId, plain: &[u8]) -> Result<Vec<u8>> {
        let frame = self.codec.encode_cold(plain)?;
        // The codec has compared already. Where it is cheap, once more from
        // outside, against the name that every reader will compare with.
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

/// The thread that leads the coders.
struct Leader<'scope, 'env> {
    shared: &'env Shared,
    scope: &'scope Scope<'scope, 'env>,
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    results: Receiver<Coded>,
    reply: Sender<Coded>,
    coders: usize,
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
}

impl<'scope, 'env> Leader<'scope, 'env> {
    fn new(shared: &'env Shared, scope: &'scope Scope<'scope, 'env>) -> Self {
        let (jobs, queue) = unbounded();
        let (reply, results) = unbounded();
        Self {
            shared,
            scope,
            jobs,
            queue,
            results,
            reply,
            coders: 0,
            busy: 0,
            failed: HashSet::new(),
            page: VecDeque::new(),
            from: Vec::new(),
            swapped: false,
            collected: Instant::now(),
        }
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
        let quiet = self.shared.options.quiet.as_millis() as u64;
        if demand.is_none() && self.shared.options.drain_threads == 0 {
            return Ok(None);
        }
        let mut next = None;
        let mut outcome = Ok(());
        loop {
            let upto = match demand {
                Some(demand) => demand.upto,
                None => now_ms().saturating_sub(quiet),
            };
            // When one thing fails, no more is begun, but what the coders have
            // is waited for.
            let stop = outcome.is_err()
                || self.shared.drain.stopped()
                || (demand.is_some() && self.shared.drain.demand() != demand);
            while !stop && self.busy < 2 * self.coders.max(1) {
                match self.next_job(upto) {
                    Ok(Next::Job(job)) => self.give(*job),
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
                break;
            }
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
                Err(RecvTimeoutError::Timeout) if self.shared.drain.stopped() => break,
                Err(_) => {}
            }
        }
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

    fn fail(&mut self, name: ChunkId) {
        self.failed.insert(name);
        self.shared.drain.progress(|progress| {
            progress.chunks_done = (progress.chunks_done + 1).min(progress.chunks_total);
        });
    }

    fn give(&mut self, job: Job) {
        if self.coders == 0 {
            let wanted = match self.shared.options.drain_threads {
                0 => crate::parallel::available().min(self.shared.options.decoders),
                threads => threads,
            };
            for _ in 0..wanted {
                let (shared, queue, reply) = (self.shared, self.queue.clone(), self.reply.clone());
                self.scope.spawn(move || code_loop(shared, &queue, &reply));
            }
            self.coders = wanted;
        }
        // The leader holds a receiver, so the channel is open.
        if self.jobs.send(job).is_ok() {
            self.busy += 1;
        }
    }

    /// Appends what a coder made and has the chunk's row point at it.
    fn take(&mut self, coded: Coded) -> Result<()> {
        let Coded { name, row, frame } = coded;
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                log::error!("chunk {name} could not be coded and stays as it is: {error}");
                self.fail(name);
                return Ok(());
            }
        };
        let swap = Swap {
            name,
            from: row.value.clone(),
            to: self.shared.ledger.lock().append(
                &*self.shared.store,
                Class::Cold,
                Table::Chunk,
                &name.0,
                &frame,
            )?,
            kind: Kind::of(&frame)?,
            class: Class::Cold,
        };
        self.shared.submit(swap);
        self.swapped = true;
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
        state.swaps.push(swap);
        state.changed(self);
    }
}
