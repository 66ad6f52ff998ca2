//! Tests of the tier as a whole.

mod behaviour;
mod model;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::store::{Batch, Class, LogInfo, LogRecord, MemoryStore, Row, ValueRef};

pub(crate) const CHUNK: usize = 256;

/// Values above this rest in logs.
const INLINE: usize = 16;

pub(crate) fn options() -> Options {
    Options {
        chunk_size: CHUNK,
        cache_bytes: 64 << 10,
        dirty_bytes: 1 << 20,
        patch_bytes: 8 << 10,
        commit_every: Duration::from_millis(5),
        rules: Rules {
            quiet: Duration::from_secs(3600),
            ..Rules::default()
        },
        drain_threads: 0,
        decode_threads: 2,
        decoders: 2,
        read_only: false,
    }
}

fn open(store: &Arc<dyn Store>) -> Arc<Tier> {
    Tier::open(store.clone(), Arc::default(), options()).unwrap()
}

pub(crate) fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(INLINE))
}

/// `len` bytes that compress a little; the same seed, the same bytes.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        b'a' + (x % 20) as u8
    };
    (0..len).map(|_| next()).collect()
}

enum Event {
    Append(Class, Table, Vec<u8>, Vec<u8>),
    Commit(Batch),
    Seal,
    Remove(u64),
    /// Everything up to this step was acknowledged as durable.
    Synced(u64),
}

/// A store in memory that remembers what was done to it, and fails on demand.
pub(crate) struct Tape {
    inner: MemoryStore,
    events: Mutex<Vec<Event>>,
    pub(crate) full: AtomicBool,
    dead: AtomicBool,
    /// The next commit is applied but reports a full disk.
    doubtful: AtomicBool,
    /// Commits take a while, so that more happens beside them.
    slow: AtomicBool,
    /// Commits wait for this.
    gate: Mutex<()>,
    commits: AtomicU64,
    /// Values read are damaged.
    damage: AtomicBool,
    loads: AtomicU64,
}

impl Default for Tape {
    fn default() -> Self {
        Self {
            inner: MemoryStore::new(INLINE),
            events: Mutex::default(),
            full: AtomicBool::default(),
            dead: AtomicBool::default(),
            doubtful: AtomicBool::default(),
            slow: AtomicBool::default(),
            gate: Mutex::default(),
            commits: AtomicU64::default(),
            damage: AtomicBool::default(),
            loads: AtomicU64::default(),
        }
    }
}

impl Tape {
    pub(crate) fn mark(&self, step: u64) {
        self.events.lock().push(Event::Synced(step));
    }

    fn fail(&self) -> Result<()> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(Error::Io {
                context: "writing".into(),
                source: std::io::Error::from_raw_os_error(libc::EIO),
            });
        }
        match self.full.load(Ordering::SeqCst) {
            true => Err(Error::NoSpace),
            false => Ok(()),
        }
    }

    /// The store as a power cut after each of its changes would leave it,
    /// with the last step that was acknowledged by then.
    pub(crate) fn replay(&self, each: &mut dyn FnMut(&Arc<dyn Store>, u64)) {
        let events = self.events.lock();
        for cut in 0..=events.len() {
            if cut > 0 && matches!(events[cut - 1], Event::Append(..) | Event::Seal) {
                continue; // Nothing that a reader could see.
            }
            let store: Arc<dyn Store> = memory();
            let mut synced = 0;
            for event in &events[..cut] {
                match event {
                    Event::Append(class, table, key, payload) => {
                        drop(store.append(*class, *table, key, payload).unwrap());
                    }
                    Event::Commit(batch) => store.commit(batch.clone()).unwrap(),
                    Event::Seal => store.seal_logs().unwrap(),
                    Event::Remove(log) => store.remove_log(*log).unwrap(),
                    Event::Synced(step) => synced = *step,
                }
            }
            each(&store, synced);
        }
    }
}

impl Store for Tape {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        self.inner.scan(table, start, end, limit)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        self.fail()?;
        drop(self.gate.lock());
        if self.slow.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.commits.fetch_add(1, Ordering::SeqCst);
        let mut events = self.events.lock();
        events.push(Event::Commit(batch.clone()));
        self.inner.commit(batch)?;
        match self.doubtful.swap(false, Ordering::SeqCst) {
            true => Err(Error::NoSpace),
            false => Ok(()),
        }
    }

    fn append(
        &self,
        class: Class,
        owner_table: Table,
        owner_key: &[u8],
        payload: &[u8],
    ) -> Result<ValueRef> {
        self.fail()?;
        let mut events = self.events.lock();
        events.push(Event::Append(
            class,
            owner_table,
            owner_key.to_vec(),
            payload.to_vec(),
        ));
        self.inner.append(class, owner_table, owner_key, payload)
    }

    fn value(&self, value: &ValueRef) -> Result<Vec<u8>> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let mut payload = self.inner.value(value)?;
        if self.damage.load(Ordering::SeqCst)
            && let Some(last) = payload.last_mut()
        {
            *last ^= 1;
        }
        Ok(payload)
    }

    fn logs(&self) -> Result<Vec<LogInfo>> {
        self.inner.logs()
    }

    fn walk_log(&self, log: u64, each: &mut dyn FnMut(LogRecord) -> Result<()>) -> Result<u64> {
        self.inner.walk_log(log, each)
    }

    fn seal_logs(&self) -> Result<()> {
        let mut events = self.events.lock();
        events.push(Event::Seal);
        self.inner.seal_logs()
    }

    fn remove_log(&self, log: u64) -> Result<()> {
        let mut events = self.events.lock();
        events.push(Event::Remove(log));
        self.inner.remove_log(log)
    }

    fn space(&self) -> Result<Space> {
        self.inner.space()
    }
}
