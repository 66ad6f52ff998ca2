//! The cache of plain chunks, and who decodes what is not in it.
//!
//! Of the threads that want a chunk one claims it and decodes it, and the others
//! wait for that one. Decoding takes memory, and so it takes a turn. Whoever has
//! a turn waits for nobody, and whoever has a claim waits for nothing but a
//! turn: none can wait for each other. The tests try schedules of threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::sync::{DefaultLifecycle, GuardResult, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::error::Result;
use crate::store::ChunkId;

use super::Plain;
use super::handover::{Monitor, Threads};

/// Chunks in memory, and claims to bring those that are not.
pub(super) trait Chunks {
    type Claim<'a>: Claim
    where
        Self: 'a;

    /// A chunk, if it is here. Counts as a use of it.
    fn get(&self, name: &ChunkId) -> Option<Plain>;

    /// Claims a chunk that is not here. Where another has the claim, waits for
    /// what comes of it, or does not.
    fn claim(&self, name: &ChunkId, wait: bool) -> Claimed<Self::Claim<'_>>;
}

pub(super) enum Claimed<C> {
    Here(Plain),
    Mine(C),
    Theirs,
}

/// Given up when it is dropped: another that waits gets it.
pub(super) trait Claim {
    fn fill(self, plain: Plain);
}

/// Plain chunks, bounded by their bytes. Generic over what keeps them and over
/// the lock.
pub(super) struct Cache<C = Bounded, M = Threads<usize>> {
    chunks: C,
    /// How many threads may begin to decode.
    turns: M,
    pub hits: AtomicU64,
    pub misses: AtomicU64,
}

impl Cache {
    /// For so many bytes of chunks, decoded by so many threads at a time.
    pub fn new(bytes: usize, chunk_size: usize, decoders: usize) -> Self {
        Self::over(Bounded::new(bytes, chunk_size), decoders)
    }

    pub fn contains(&self, name: &ChunkId) -> bool {
        self.chunks.0.contains_key(name)
    }

    pub fn insert(&self, name: ChunkId, plain: Plain) {
        self.chunks.0.insert(name, plain);
    }

    pub fn bytes(&self) -> u64 {
        self.chunks.0.weight()
    }
}

impl<C: Chunks, M: Monitor<usize>> Cache<C, M> {
    fn over(chunks: C, decoders: usize) -> Self {
        Self {
            chunks,
            turns: M::new(decoders.max(1)),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// A chunk, if it is here. Counts as a use of it.
    pub fn peek(&self, name: &ChunkId) -> Option<Plain> {
        self.chunks.get(name)
    }

    /// Waits for a turn to decode, which ends when the guard is dropped.
    pub fn turn(&self) -> Turn<'_, M> {
        let take = |free: &mut usize| {
            *free = free.checked_sub(1)?;
            Some(())
        };
        while self.turns.wait(Duration::from_secs(3600), take).is_none() {}
        Turn(&self.turns)
    }

    /// A chunk, which `bring` brings in a turn of its own if nobody has it.
    pub fn load(&self, name: &ChunkId, bring: impl FnOnce() -> Result<Plain>) -> Result<Plain> {
        match self.chunks.claim(name, true) {
            Claimed::Here(plain) => Ok(plain),
            Claimed::Mine(claim) => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                let plain = bring()?;
                claim.fill(plain.clone());
                Ok(plain)
            }
            // Nobody was to be waited for in vain; without the cache, then.
            Claimed::Theirs => bring(),
        }
    }

    /// Brings chunks side by side, but for those that are here or that another
    /// has claimed. `find` gives what is to be decoded, `decode` one result for
    /// each. What fails is left for whoever wants the chunk.
    pub fn load_many<F>(
        &self,
        names: &[ChunkId],
        find: impl Fn(&ChunkId) -> Option<F>,
        decode: impl FnOnce(&[(ChunkId, F)]) -> Vec<Option<Plain>>,
    ) {
        let (mut claims, mut found) = (Vec::new(), Vec::new());
        for name in names {
            // Never waits: two threads could wait for each other.
            if let Claimed::Mine(claim) = self.chunks.claim(name, false)
                && let Some(frame) = find(name)
            {
                claims.push(claim);
                found.push((*name, frame));
            }
        }
        if claims.is_empty() {
            return;
        }
        let plains = {
            let _turn = self.turn();
            decode(&found)
        };
        for (claim, plain) in claims.into_iter().zip(plains) {
            if let Some(plain) = plain {
                self.misses.fetch_add(1, Ordering::Relaxed);
                claim.fill(plain);
            }
        }
    }
}

/// See [`Cache::turn`].
pub(super) struct Turn<'a, M: Monitor<usize> = Threads<usize>>(&'a M);

impl<M: Monitor<usize>> Drop for Turn<'_, M> {
    fn drop(&mut self) {
        self.0.with(|free| *free += 1);
        self.0.ring();
    }
}

/// The chunks of a running tier: the least useful ones make room.
pub(super) struct Bounded(quick_cache::sync::Cache<ChunkId, Plain, Bytes>);

#[derive(Clone)]
pub(super) struct Bytes;

impl Weighter<ChunkId, Plain> for Bytes {
    fn weight(&self, _: &ChunkId, plain: &Plain) -> u64 {
        // With what the cache itself needs for an entry.
        plain.capacity() as u64 + 128
    }
}

impl Bounded {
    fn new(bytes: usize, chunk_size: usize) -> Self {
        let items = (bytes / chunk_size).max(16);
        let options = OptionsBuilder::new()
            .shards(8)
            .estimated_items_capacity(items)
            .weight_capacity(bytes as u64)
            .build();
        Self(match options {
            Ok(options) => quick_cache::sync::Cache::with_options(
                options,
                Bytes,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            // Only when one of the two figures were missing.
            Err(_) => quick_cache::sync::Cache::with_weighter(items, bytes as u64, Bytes),
        })
    }
}

type Guard<'a> = PlaceholderGuard<
    'a,
    ChunkId,
    Plain,
    Bytes,
    DefaultHashBuilder,
    DefaultLifecycle<ChunkId, Plain>,
>;

impl Claim for Guard<'_> {
    fn fill(self, plain: Plain) {
        // Without a place in the cache it is given to those who wait all the same.
        let _ = self.insert(plain);
    }
}

impl Chunks for Bounded {
    type Claim<'a> = Guard<'a>;

    fn get(&self, name: &ChunkId) -> Option<Plain> {
        self.0.get(name)
    }

    fn claim(&self, name: &ChunkId, wait: bool) -> Claimed<Guard<'_>> {
        let within = (!wait).then_some(Duration::ZERO);
        match self.0.get_value_or_guard(name, within) {
            GuardResult::Value(plain) => Claimed::Here(plain),
            GuardResult::Guard(guard) => Claimed::Mine(guard),
            GuardResult::Timeout => Claimed::Theirs,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use shuttle::rand::{Rng, thread_rng};
    use shuttle::sync::atomic::{AtomicUsize, Ordering};
    use shuttle::{sync, thread};

    use super::super::handover::tests::Scheduled;
    use super::*;
    use crate::error::Error;

    /// Chunks in threads whose schedule is tried out. What is put in may be
    /// gone the next moment.
    #[derive(Default)]
    struct Tried {
        /// `None`: claimed.
        chunks: sync::Mutex<HashMap<ChunkId, Option<Plain>>>,
        bell: sync::Condvar,
    }

    struct Mine<'a>(&'a Tried, ChunkId);

    impl Claim for Mine<'_> {
        fn fill(self, plain: Plain) {
            if thread_rng().gen_bool(0.7) {
                let mut chunks = self.0.chunks.lock().unwrap();
                chunks.insert(self.1, Some(plain));
            }
        }
    }

    impl Drop for Mine<'_> {
        fn drop(&mut self) {
            let mut chunks = self.0.chunks.lock().unwrap();
            if let Some(None) = chunks.get(&self.1) {
                chunks.remove(&self.1);
            }
            drop(chunks);
            self.0.bell.notify_all();
        }
    }

    impl Chunks for Tried {
        type Claim<'a> = Mine<'a>;

        fn get(&self, name: &ChunkId) -> Option<Plain> {
            self.chunks.lock().unwrap().get(name).cloned().flatten()
        }

        fn claim(&self, name: &ChunkId, wait: bool) -> Claimed<Mine<'_>> {
            let mut chunks = self.chunks.lock().unwrap();
            loop {
                match chunks.get(name) {
                    Some(Some(plain)) => return Claimed::Here(plain.clone()),
                    Some(None) if wait => chunks = self.bell.wait(chunks).unwrap(),
                    Some(None) => return Claimed::Theirs,
                    None => {
                        chunks.insert(*name, None);
                        return Claimed::Mine(Mine(self, *name));
                    }
                }
            }
        }
    }

    const CHUNKS: usize = 3;

    struct World {
        cache: Cache<Tried, Scheduled<usize>>,
        turns: usize,
        /// Threads that decode, in all and by chunk.
        decoding: AtomicUsize,
        by_chunk: [AtomicUsize; CHUNKS],
    }

    fn name(chunk: usize) -> ChunkId {
        ChunkId([chunk as u8; 32])
    }

    impl World {
        /// Decodes some chunks in a turn, or fails.
        fn decode(&self, chunks: &[usize]) -> Vec<Option<Plain>> {
            assert!(self.decoding.fetch_add(1, Ordering::SeqCst) < self.turns);
            for chunk in chunks {
                let before = self.by_chunk[*chunk].fetch_add(1, Ordering::SeqCst);
                assert_eq!(before, 0, "two decode {chunk}");
            }
            thread::yield_now();
            for chunk in chunks {
                self.by_chunk[*chunk].fetch_sub(1, Ordering::SeqCst);
            }
            self.decoding.fetch_sub(1, Ordering::SeqCst);
            let plain = |chunk: &usize| Arc::new(vec![*chunk as u8]);
            let good = |_: &&usize| thread_rng().gen_bool(0.8);
            let plains = chunks.iter().map(|chunk| Some(chunk).filter(good));
            plains.map(|chunk| chunk.map(plain)).collect()
        }

        /// As a reader, which may meet a damage.
        fn read(&self) {
            for _ in 0..2 {
                let chunk = thread_rng().gen_range(0..CHUNKS);
                let read = self.cache.load(&name(chunk), || {
                    let _turn = self.cache.turn();
                    let plain = self.decode(&[chunk]).remove(0);
                    plain.ok_or_else(|| Error::Corrupt("on purpose".into()))
                });
                if let Ok(plain) = read {
                    assert_eq!(*plain, [chunk as u8]);
                }
            }
        }

        /// As those who decode ahead, or a reader of several chunks.
        fn ahead(&self) {
            let mut chunks: Vec<usize> = (0..CHUNKS).collect();
            chunks.rotate_left(thread_rng().gen_range(0..CHUNKS));
            let names: Vec<ChunkId> = chunks.iter().map(|chunk| name(*chunk)).collect();
            let find = |name: &ChunkId| {
                Some(usize::from(name.0[0])).filter(|_| thread_rng().gen_bool(0.9))
            };
            self.cache.load_many(&names, find, |found| {
                let chunks: Vec<usize> = found.iter().map(|(_, chunk)| *chunk).collect();
                self.decode(&chunks)
            });
        }
    }

    /// Nobody waits for ever, no two decode one chunk, and no more than may.
    fn crowd() {
        let turns = thread_rng().gen_range(1..3);
        let world = Arc::new(World {
            cache: Cache::over(Tried::default(), turns),
            turns,
            decoding: AtomicUsize::new(0),
            by_chunk: Default::default(),
        });
        let spawn = |work: fn(&World)| {
            let world = world.clone();
            thread::spawn(move || work(&world))
        };
        let threads = [
            spawn(World::read),
            spawn(World::ahead),
            spawn(World::read),
            spawn(World::ahead),
        ];
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        // All turns and claims were given back.
        world.cache.turns.with(|free| assert_eq!(*free, turns));
        let chunks = world.cache.chunks.chunks.lock().unwrap();
        assert!(chunks.values().all(Option::is_some));
    }

    #[test]
    fn chunks_are_decoded_once_and_nobody_waits_for_ever() {
        shuttle::check_random(crowd, 3000);
        shuttle::check_pct(crowd, 3000, 3);
    }
}
