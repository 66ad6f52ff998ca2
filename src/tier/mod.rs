//! The tier: chunks between memory and the store.
//!
//! A file's content is a sparse sequence of chunks of `chunk_size` bytes. A
//! chunk that was written rests, in this order, as
//!
//! 1. **dirty** bytes in the write buffer, under its inode and index;
//! 2. **in flight**: named by the hash of its bytes, immutable, on its way
//!    into the store with the next commit;
//! 3. a **hot** value in the store, coded fast;
//! 4. a **cold** value, coded as small as the codecs can, put in the hot
//!    one's place by the [drain](Tier::drain).
//!
//! Small writes into chunks of the last two kinds rest beside them for a while,
//! as *patches*.
//!
//! Rows (inodes, names, ...) live in the same commits: everything that one
//! operation ([`Tier::run`]) changes becomes durable together or not at all,
//! and operations become durable in their order. One thread commits; many
//! operations share a commit.
//!
//! Locks: `state` may be held while `ledger` or the store's locks are taken,
//! never the other way round.

mod cache;
mod check;
mod collect;
mod commit;
mod content;
mod copying;
mod drain;
mod frames;
mod handover;
mod idle;
mod jobs;
mod ledger;
mod op;
mod overlay;
mod patch;
mod read;
mod recode;
mod repair;
mod rows;
mod rules;
mod scrub;
mod stats;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::codec::{Codec, Policy};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::store::{ChunkId, Space, Store, Table};

pub use check::{Check, check};
pub use copying::{Cursor, SPACE, SPACE_TABLES, SPACES, base_of, space_of};
pub use drain::{DrainProgress, DrainState};
pub use frames::{Frame, chunks_of_row, model_of_frame};
pub use op::Op;
pub use recode::{RecodeFile, RecodeProgress};
pub use repair::{Repair, Writer, each_row, repair, strays};
pub use rows::{RUN, Run, parse_run_key, run_key};
pub use rules::{Hours, Rest, Rules};
pub use scrub::{Damage, Depth, scrub};
pub use stats::{ChunkStats, ChunkUse, Footprint, Stats};

use commit::Swap;
use ledger::Ledger;
use overlay::{Layer, View};
use patch::Patches;
use rows::Counters;

/// The plain bytes of a chunk, shared and never changed.
type Plain = Arc<Vec<u8>>;

/// How a tier works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Plain bytes of a chunk; a property of the store. A power of two.
    pub chunk_size: usize,
    /// Bound of the cache of plain chunks, in bytes.
    pub cache_bytes: usize,
    /// Bound of what waits for a commit, in bytes; writers wait beyond it.
    pub dirty_bytes: usize,
    /// Bound of small writes that are kept beside their chunks, in bytes; see
    /// `patch.rs`.
    pub patch_bytes: usize,
    /// How long a change waits at most before its commit begins.
    pub commit_every: Duration,
    /// When the drain works.
    pub rules: Rules,
    /// Threads that code chunks cold in the background; 0 leaves that to
    /// [`Tier::drain`].
    pub drain_threads: usize,
    /// Threads that decode ahead of readers.
    pub decode_threads: usize,
    /// Threads that decode at a time, readers included.
    pub decoders: usize,
    /// Nothing is changed: neither rows nor logs.
    pub read_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        let threads = crate::parallel::available();
        Self {
            chunk_size: 64 << 10,
            cache_bytes: 256 << 20,
            dirty_bytes: 64 << 20,
            patch_bytes: 64 << 20,
            commit_every: Duration::from_millis(300),
            rules: Rules::default(),
            drain_threads: threads,
            decode_threads: threads,
            decoders: threads.max(4),
            read_only: false,
        }
    }
}

/// Whether changes are still taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Fine,
    /// The last commit found no space: what is there can be read and freed,
    /// nothing may be added until a commit succeeds.
    Full,
    /// The store failed: nothing is written any more.
    Dead,
    Closed,
}

/// What operations have changed and the store does not have yet.
struct State {
    /// Changes since the last freeze.
    pending: Layer,
    /// Changes that the commit thread is writing now.
    frozen: Option<Arc<Layer>>,
    /// Chunks with changed bytes, by inode and index; trimmed after the last
    /// byte written.
    dirty: BTreeMap<(u64, u64), Plain>,
    /// Bytes allocated in `dirty`.
    dirty_bytes: usize,
    /// Chunks that rows in `frozen` name and that the store may lack.
    inflight: HashMap<ChunkId, Plain>,
    inflight_bytes: usize,
    /// What was written into chunks that rest.
    patches: Patches,
    /// See [`Options`].
    chunk_size: u64,
    /// What files want of their chunks, where that is not the default: of those
    /// in `dirty` and `patches` by inode, of those in `inflight` by name.
    wishes: HashMap<u64, Policy>,
    inflight_wishes: HashMap<ChunkId, Policy>,
    /// Chunks to be pointed at their new values.
    swaps: Vec<Swap>,
    /// When the oldest change of `pending` was made.
    since: Option<Instant>,
    /// Number of the next freeze, and the first that is not yet durable.
    epoch: u64,
    durable: u64,
    /// The store took a commit but said that it may not be durable: the next
    /// one has to prove it, even if nothing else is pending.
    unsure: bool,
    /// Someone waits for a commit.
    urgent: bool,
    /// A copy of all rows that is being made.
    copying: Option<copying::Copying>,
    /// One that shall begin with the next freeze: the first number of its
    /// space, and a row that its maker wants as it is at that moment.
    copy_wanted: Option<(u64, Table, Vec<u8>)>,
    /// It has begun; the row.
    copy_begun: Option<Option<Vec<u8>>>,
    /// Commits begun, and which of them failed last, why and when.
    attempts: u64,
    failed: u64,
    failure: Option<(Error, Instant)>,
    health: Health,
    /// The commit thread shall end.
    stop: bool,
    space: Space,
    space_taken: Instant,
    counters: Counters,
}

impl State {
    fn has_pending(&self) -> bool {
        let nothing = self.pending.is_empty() && self.dirty.is_empty() && self.swaps.is_empty();
        !nothing || self.patches.has_changed() || self.unsure || self.copy_wanted.is_some()
    }

    /// Bytes of memory that wait for a commit, without patches.
    fn waiting_bytes(&self) -> usize {
        let frozen = self.frozen.as_ref().map_or(0, |layer| layer.bytes());
        self.dirty_bytes + self.inflight_bytes + self.pending.bytes() + frozen
    }

    /// The last failure, for someone who waited.
    fn failure(&self) -> Error {
        match &self.failure {
            Some((error, _)) => repeat(error),
            None => Error::Other("the volume is closed".into()),
        }
    }
}

/// An error once more (`std::io::Error` cannot be cloned).
fn repeat(error: &Error) -> Error {
    match error {
        Error::NoSpace => Error::NoSpace,
        Error::Io { context, source } => Error::Io {
            context: context.clone(),
            source: match source.raw_os_error() {
                Some(code) => std::io::Error::from_raw_os_error(code),
                None => std::io::Error::new(source.kind(), source.to_string()),
            },
        },
        Error::Corrupt(what) => Error::Corrupt(what.clone()),
        other => Error::Other(other.to_string()),
    }
}

/// What all threads of a tier share.
struct Shared {
    store: Arc<dyn Store>,
    codec: Arc<Codec>,
    options: Options,
    state: Mutex<State>,
    /// To the commit thread: there is something to do.
    wake: Condvar,
    /// From the commit thread: a commit ended, well or not.
    done: Condvar,
    ledger: Mutex<Ledger>,
    cache: cache::Cache,
    readers: Mutex<read::Readers>,
    ahead: read::Pool,
    /// Chunks that did not verify when read: not to be trusted when the same
    /// bytes are written again.
    damaged: Mutex<HashSet<ChunkId>>,
    /// Logs that collecting could not empty, with their live bytes then. Held
    /// while logs are collected, by one thread at a time.
    stuck: Mutex<HashMap<u64, u64>>,
    drain: handover::Handover,
    jobs: Arc<drain::ChunkJobs>,
    /// Raised when the tier is closed.
    closing: Interrupt,
    /// What the drain does.
    working: Mutex<drain::Working>,
    /// One drain on demand at a time.
    demand: Mutex<()>,
    /// When space was last looked for in vain.
    futile: Mutex<Option<Instant>>,
    /// Held while chunks are coded again on demand.
    recoding: Mutex<()>,
    traffic: Traffic,
}

/// Bytes that went in and out since the tier was opened.
#[derive(Default)]
struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
}

/// See the module's description. Closes itself when dropped.
pub struct Tier {
    shared: Arc<Shared>,
    drain: Mutex<Option<JoinHandle<()>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Tier {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::error!("closing the volume: {error}");
        }
    }
}

impl Tier {
    /// Opens the tier over a store and starts its threads.
    pub fn open(store: Arc<dyn Store>, codec: Arc<Codec>, options: Options) -> Result<Arc<Tier>> {
        if !options.chunk_size.is_power_of_two() || options.chunk_size > 1 << 24 {
            return Err(Error::Invalid(
                "the chunk size must be a power of two up to 16 MiB",
            ));
        }
        let counters = match store.get(Table::Meta, rows::COUNTERS)? {
            Some(row) => Counters::decode(&row)?,
            None => Counters::default(),
        };
        let epoch = match store.get(Table::Meta, rows::EPOCH)? {
            Some(row) => rows::parse_epoch(&row)? + 1,
            None => 1,
        };
        let ledger = Ledger::load(&*store)?;
        let space = store.space()?;
        let (read_only, chunk_size) = (options.read_only, options.chunk_size as u64);
        let shared = Arc::new(Shared {
            cache: cache::Cache::new(options.cache_bytes, options.chunk_size, options.decoders),
            readers: Mutex::default(),
            ahead: read::Pool::new(options.decode_threads),
            drain: handover::Handover::new(),
            jobs: Arc::new(jobs::Jobs::new()),
            closing: Interrupt::default(),
            working: Mutex::default(),
            demand: Mutex::default(),
            recoding: Mutex::default(),
            traffic: Traffic::default(),
            store,
            codec,
            options,
            state: Mutex::new(State {
                pending: Layer::default(),
                frozen: None,
                dirty: BTreeMap::new(),
                dirty_bytes: 0,
                inflight: HashMap::new(),
                inflight_bytes: 0,
                patches: Patches::default(),
                chunk_size,
                wishes: HashMap::new(),
                inflight_wishes: HashMap::new(),
                swaps: Vec::new(),
                since: None,
                epoch,
                durable: epoch,
                unsure: false,
                urgent: false,
                copying: None,
                copy_wanted: None,
                copy_begun: None,
                attempts: 0,
                failed: 0,
                failure: None,
                health: Health::Fine,
                stop: false,
                space,
                space_taken: Instant::now(),
                counters,
            }),
            wake: Condvar::new(),
            done: Condvar::new(),
            ledger: Mutex::new(ledger),
            damaged: Mutex::default(),
            stuck: Mutex::default(),
            futile: Mutex::default(),
        });
        shared.load_patches()?;
        let tier = Arc::new(Tier {
            shared: shared.clone(),
            drain: Mutex::default(),
            threads: Mutex::default(),
        });
        for number in 0..shared.options.decode_threads {
            let thread = tier.spawn(&format!("decode-{number}"), read::decode_loop)?;
            tier.threads.lock().push(thread);
        }
        if !read_only {
            let thread = tier.spawn("commit", commit::commit_loop)?;
            tier.threads.lock().push(thread);
            *tier.drain.lock() = Some(tier.spawn("drain", drain::drain_loop)?);
        }
        Ok(tier)
    }

    fn spawn(&self, name: &str, body: fn(&Arc<Shared>)) -> Result<JoinHandle<()>> {
        let shared = self.shared.clone();
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || body(&shared))
            .map_err(Error::io("starting a thread"))
    }

    /// Performs one operation: everything changed through [`Op`] becomes
    /// durable together or not at all, and nothing of it stays when `f` fails.
    ///
    /// The state lock is held while `f` runs. `f` may run several times:
    /// again from the start after a call of `Op` returned
    /// [`Error::NeedChunk`], which `f` must pass on.
    pub fn run<T>(&self, f: impl FnMut(&mut Op<'_>) -> Result<T>) -> Result<T> {
        self.shared.run(f)
    }

    /// As [`run`](Self::run), but gives up with `None` instead of waiting for
    /// a chunk to be read and decoded or for room in the write buffer.
    pub fn try_run<T>(&self, mut f: impl FnMut(&mut Op<'_>) -> Result<T>) -> Result<Option<T>> {
        let mut state = self.shared.state.lock();
        match Op::perform(&self.shared, &mut state, &HashMap::new(), &mut f).0 {
            Err(Error::NeedChunk(_)) => Ok(None),
            result => result.map(Some),
        }
    }

    /// Reads `[offset, offset + len)` of a file's content; what is not stored
    /// reads as zeros. Every chunk is verified against its name. Readers that
    /// go through a file in order find the next chunks decoded.
    pub fn read(&self, ino: u64, offset: u64, len: usize) -> Result<Vec<u8>> {
        let bytes = self.shared.read(ino, offset, len)?;
        self.shared.count_read(bytes.len());
        Ok(bytes)
    }

    /// The same if it needs neither disk nor decoder, else `None`.
    pub fn try_read(&self, ino: u64, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let bytes = self.shared.try_read(ino, offset, len)?;
        self.shared.count_read(bytes.as_ref().map_or(0, Vec::len));
        Ok(bytes)
    }

    /// Plain bytes of a chunk.
    pub fn chunk_size(&self) -> usize {
        self.shared.options.chunk_size
    }

    /// The store beneath, to be read only.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// Everything that finished before this call survives a power cut when it
    /// returns. Concurrent callers share one commit.
    pub fn sync(&self) -> Result<()> {
        self.shared.sync()
    }

    /// Begins a copy of all rows of inodes into an empty space (see
    /// [`SPACE`]); it will show them as they are at one moment during this
    /// call. Returns the row `key` of `table` as it was then. One copy at a
    /// time; [`copy_some`](Self::copy_some) must follow, and at last
    /// [`end_copy`](Self::end_copy).
    pub fn begin_copy(&self, space: u32, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.shared.begin_copy(space, (table, key))
    }

    /// Copies at most `limit` more rows and says how many; `None`: all are
    /// copied. After an error the copy is of no use.
    pub fn copy_some(&self, limit: usize) -> Result<Option<u64>> {
        self.shared.copy_some(limit)
    }

    /// Ends a copy, whole or not.
    pub fn end_copy(&self) {
        self.shared.end_copy();
    }

    /// The frame of a chunk as it rests; only the store's own checksum is
    /// looked at.
    pub fn frame(&self, name: &ChunkId) -> Result<Frame> {
        self.shared.frame(name)
    }

    /// Waits until every chunk that is stored by now is coded cold and the
    /// space of the hot ones is given back. Reports about five times a
    /// second, and stops early when the callback returns `false`.
    pub fn drain(&self, progress: &mut dyn FnMut(&DrainProgress) -> bool) -> Result<()> {
        self.shared.drain(progress)
    }

    /// Has the drain rest in the background until it is told to go on, or the
    /// store is opened again. A drain on demand works all the same.
    pub fn pause_drain(&self, paused: bool) {
        self.shared.pause_drain(paused);
    }

    pub fn is_read_only(&self) -> bool {
        self.shared.options.read_only
    }

    pub fn rules(&self) -> &Rules {
        &self.shared.options.rules
    }

    /// Threads that code in the background.
    pub fn drain_threads(&self) -> usize {
        self.shared.options.drain_threads
    }

    /// What the drain does, and why not, and what it has done.
    pub fn drain_state(&self) -> DrainState {
        self.shared.drain_state()
    }

    /// Gives back at once what was deleted, for someone who met
    /// [`Error::NoSpace`]. Says whether trying again is worth it.
    pub fn make_space(&self) -> bool {
        self.shared.make_space()
    }

    /// The tier in figures.
    pub fn stats(&self) -> Result<Stats> {
        self.shared.stats()
    }

    /// What the stored chunks of a file take; changes that wait for a commit
    /// do not count yet.
    pub fn footprint(&self, ino: u64) -> Result<Footprint> {
        self.shared.footprint(ino)
    }

    /// Calls `each` for every stored chunk of a file, in their order, as often
    /// as the file names it.
    pub fn each_chunk(&self, ino: u64, each: &mut dyn FnMut(&ChunkUse)) -> Result<()> {
        self.shared.each_chunk(ino, each)
    }

    /// Commits everything and stops the threads. Later changes are refused;
    /// what is in memory can still be read. May be called again.
    pub fn close(&self) -> Result<()> {
        let shared = &self.shared;
        let closed = shared.state.lock().health == Health::Closed;
        // What was written is safe before anything else.
        let mut result = if closed { Ok(()) } else { shared.sync() };
        shared.closing.raise();
        shared.drain.stop();
        shared.jobs.nudge();
        if let Some(drain) = self.drain.lock().take() {
            // The panic of a thread has been printed; what was acknowledged
            // is in the store either way.
            let _ = drain.join();
        }
        if !closed {
            // A patch that cannot be folded rests as it is.
            let folded = shared.fold_all();
            result = result.and(folded).and(shared.sync());
        }
        {
            let mut state = shared.state.lock();
            state.stop = true;
            if state.health != Health::Dead {
                state.health = Health::Closed;
            }
        }
        shared.ahead.stop();
        shared.wake.notify_all();
        shared.done.notify_all();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
        result
    }
}

impl Shared {
    fn count_read(&self, bytes: usize) {
        self.traffic.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// See [`Tier::run`].
    fn run<T>(&self, mut f: impl FnMut(&mut Op<'_>) -> Result<T>) -> Result<T> {
        let mut pins = HashMap::new();
        let mut lost = 0;
        loop {
            let mut state = self.state.lock();
            let (result, wants_room) = Op::perform(self, &mut state, &pins, &mut f);
            match result {
                Err(Error::NeedChunk(_)) if wants_room => self.wait_for_room(&mut state),
                Err(Error::NeedChunk(name)) => {
                    drop(state);
                    match self.load(&name) {
                        Ok(plain) => drop(pins.insert(name, plain)),
                        Err(Error::Stale) => {
                            lost += 1;
                            self.check_lost(lost, &name)?;
                        }
                        Err(error) => return Err(error),
                    }
                }
                result => return result,
            }
        }
    }

    /// See [`Tier::sync`].
    fn sync(&self) -> Result<()> {
        let mut state = self.state.lock();
        let wanted = if state.has_pending() {
            state.epoch
        } else if state.frozen.is_some() {
            state.epoch - 1
        } else {
            return Ok(());
        };
        let begun = state.attempts;
        state.urgent = true;
        self.wake.notify_one();
        loop {
            if state.durable > wanted {
                return Ok(());
            }
            // A commit that began before this call says nothing about space
            // that was freed meanwhile; but a dead store stays dead.
            if state.failed > begun || matches!(state.health, Health::Dead | Health::Closed) {
                return Err(state.failure());
            }
            self.done.wait(&mut state);
        }
    }

    fn view<'a>(&'a self, state: &'a State) -> View<'a> {
        View {
            layers: [Some(&state.pending), state.frozen.as_deref()],
            store: &*self.store,
        }
    }

    /// Whether a writer would have to wait.
    fn crowded(&self, state: &State) -> bool {
        state.health == Health::Fine && state.waiting_bytes() > self.options.dirty_bytes
    }

    fn wait_for_room(&self, state: &mut parking_lot::MutexGuard<'_, State>) {
        while self.crowded(state) {
            state.urgent = true;
            self.wake.notify_one();
            self.done.wait(state);
        }
    }

    /// A chunk's row may vanish between the look at the map and the look at
    /// the row, because a commit came between. It cannot do so for ever.
    fn check_lost(&self, times: u32, name: &ChunkId) -> Result<()> {
        if times < 32 {
            return Ok(());
        }
        Err(Error::Corrupt(format!(
            "chunk {name} is named by a file but not in the store"
        )))
    }
}
