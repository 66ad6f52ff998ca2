//! What the tier does when things go wrong, and beside each other.

use std::time::Instant;

use super::*;

fn tape() -> (Arc<Tape>, Arc<dyn Store>) {
    let tape = Arc::new(Tape::default());
    (tape.clone(), tape)
}

fn write(tier: &Tier, ino: u64, at: u64, data: &[u8]) -> Result<i64> {
    tier.run(|op| op.write(ino, at, data))
}

/// A drain that works whenever chunks have been quiet for so long.
fn after(quiet: Duration) -> Rules {
    Rules {
        quiet,
        ..Rules::default()
    }
}

fn wait_until(what: &str, mut true_now: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !true_now() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_disk_loses_nothing() {
    let (tape, store) = tape();
    let tier = open(&store);
    let old = text(1, 3000);
    write(&tier, 1, 0, &old).unwrap();
    tier.sync().unwrap();
    tape.full.store(true, Ordering::SeqCst);
    let new = text(2, 2000);
    write(&tier, 2, 100, &new).unwrap();
    assert!(matches!(tier.sync(), Err(Error::NoSpace)));
    // What was written is there, more is refused, freeing is allowed.
    assert_eq!(tier.read(2, 100, 2000).unwrap(), new);
    assert!(matches!(write(&tier, 3, 0, b"x"), Err(Error::NoSpace)));
    let name = tier.run(|op| op.put(Table::Dirent, b"n".to_vec(), b"".to_vec()));
    assert!(matches!(name, Err(Error::NoSpace)));
    tier.run(|op| op.truncate(1, 500)).unwrap();
    tier.run(|op| op.put(Table::Inode, b"1".to_vec(), b"500".to_vec()))
        .unwrap();
    assert!(matches!(tier.sync(), Err(Error::NoSpace)));
    assert_eq!(tier.read(1, 0, 600).unwrap()[..500], old[..500]);
    assert_eq!(tier.read(1, 500, 100).unwrap(), [0; 100]);

    tape.full.store(false, Ordering::SeqCst);
    tier.sync().unwrap();
    write(&tier, 3, 0, b"x").unwrap();
    tier.close().unwrap();
    assert_eq!(check(&*store).unwrap().problems, Vec::<String>::new());
    let tier = open(&store);
    assert_eq!(tier.read(2, 100, 2000).unwrap(), new);
    assert_eq!(tier.read(1, 0, 500).unwrap(), old[..500]);
    assert_eq!(tier.read(3, 0, 1).unwrap(), b"x");
}

#[test]
fn a_commit_is_tried_again_without_anyone_asking() {
    let (tape, store) = tape();
    let tier = open(&store);
    tape.full.store(true, Ordering::SeqCst);
    write(&tier, 1, 0, &text(1, 1000)).unwrap();
    assert!(matches!(tier.sync(), Err(Error::NoSpace)));
    tape.full.store(false, Ordering::SeqCst);
    wait_until("writes go on", || write(&tier, 1, 0, b"y").is_ok());
}

#[test]
fn a_commit_that_failed_but_was_applied_counts_once() {
    let (tape, store) = tape();
    let tier = open(&store);
    let data = text(1, 3 * CHUNK);
    tape.doubtful.store(true, Ordering::SeqCst);
    write(&tier, 1, 0, &data).unwrap();
    assert!(matches!(tier.sync(), Err(Error::NoSpace)));
    assert_eq!(tier.read(1, 0, data.len()).unwrap(), data);
    // Not durable before a commit has said so.
    let before = tape.commits.load(Ordering::SeqCst);
    tier.sync().unwrap();
    assert_eq!(tape.commits.load(Ordering::SeqCst), before + 1);
    tier.close().unwrap();
    assert_eq!(check(&*store).unwrap().problems, Vec::<String>::new());
    assert_eq!(open(&store).read(1, 0, data.len()).unwrap(), data);
}

#[test]
fn a_failed_store_can_be_read() {
    let (tape, store) = tape();
    let tier = open(&store);
    let old = text(1, 1000);
    write(&tier, 1, 0, &old).unwrap();
    tier.sync().unwrap();
    tape.dead.store(true, Ordering::SeqCst);
    let new = text(2, 1000);
    write(&tier, 2, 0, &new).unwrap();
    assert!(matches!(tier.sync(), Err(Error::Io { .. })));
    assert!(matches!(tier.sync(), Err(Error::Io { .. })));
    assert!(matches!(write(&tier, 3, 0, b"x"), Err(Error::ReadOnly)));
    assert_eq!(tier.read(1, 0, 1000).unwrap(), old);
    assert_eq!(tier.read(2, 0, 1000).unwrap(), new);
    assert!(tier.close().is_err());
    tape.dead.store(false, Ordering::SeqCst);
    assert_eq!(check(&*store).unwrap().problems, Vec::<String>::new());
    assert_eq!(open(&store).read(1, 0, 1000).unwrap(), old);
}

#[test]
fn damage_is_an_error_and_heals_when_written_again() {
    let (tape, store) = tape();
    let tier = open(&store);
    let data = text(1, CHUNK);
    write(&tier, 1, 0, &data).unwrap();
    tier.close().unwrap();
    let tier = open(&store);
    tape.damage.store(true, Ordering::SeqCst);
    let error = tier.read(1, 0, 10).unwrap_err();
    let name = ChunkId::of(&data).to_string();
    assert!(
        matches!(&error, Error::Corrupt(what) if what.contains(&name)),
        "{error}"
    );
    // Neither does it become part of something else, nor is it re-coded.
    assert!(matches!(write(&tier, 1, 3, b"x"), Err(Error::Corrupt(_))));
    tier.drain(&mut |_| true).unwrap();
    assert_eq!(tier.stats().unwrap().queue, 1);
    let before = tape.events.lock().len();
    write(&tier, 2, 0, &data).unwrap();
    tier.sync().unwrap();
    tape.damage.store(false, Ordering::SeqCst);
    let appended = |event: &Event| matches!(event, Event::Append(_, Table::Chunk, ..));
    assert_eq!(
        tape.events.lock()[before..]
            .iter()
            .filter(|e| appended(e))
            .count(),
        1
    );
    tier.close().unwrap();
    assert_eq!(check(&*store).unwrap().problems, Vec::<String>::new());
    let tier = open(&store);
    assert_eq!(tier.read(1, 0, CHUNK).unwrap(), data);
    assert_eq!(tier.read(2, 0, CHUNK).unwrap(), data);
}

#[test]
fn equal_chunks_are_stored_once() {
    let store = memory();
    let tier = open(&store);
    let data = text(1, 4 * CHUNK);
    for ino in 1..=5 {
        write(&tier, ino, 0, &data).unwrap();
        tier.sync().unwrap();
    }
    let stats = tier.stats().unwrap();
    assert_eq!(stats.chunks.iter().map(|c| c.chunks).sum::<u64>(), 4);
    assert_eq!(
        (stats.references, stats.referenced),
        (20, 5 * data.len() as u64)
    );
    for ino in 1..=5 {
        tier.run(|op| op.truncate(ino, 0)).unwrap();
    }
    tier.sync().unwrap();
    assert_eq!(tier.stats().unwrap().chunks, []);
}

#[test]
fn readers_see_the_same_bytes_during_a_drain() {
    let (tape, store) = tape();
    tape.slow.store(true, Ordering::SeqCst);
    let tier = Tier::open(
        store.clone(),
        Arc::default(),
        Options {
            // Nothing is served from the cache.
            cache_bytes: 0,
            rules: after(Duration::ZERO),
            drain_threads: 2,
            ..options()
        },
    )
    .unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (tier, stop) = (&tier, &stop);
        for ino in 1..=3u64 {
            write(tier, ino, 0, &text(ino, 20 * CHUNK)).unwrap();
            scope.spawn(move || {
                let expected = text(ino, 20 * CHUNK);
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(tier.read(ino, 0, expected.len()).unwrap(), expected);
                }
            });
        }
        scope.spawn(move || {
            for seed in 100.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let data = text(seed, 10 * CHUNK);
                write(tier, 9, 0, &data).unwrap();
                assert_eq!(tier.read(9, 0, data.len()).unwrap(), data);
            }
        });
        for _ in 0..8 {
            let mut last = DrainProgress::default();
            tier.drain(&mut |progress| {
                assert!(progress.chunks_done <= progress.chunks_total);
                assert!(progress.plain_done <= progress.plain_total);
                last = *progress;
                true
            })
            .unwrap();
        }
        stop.store(true, Ordering::SeqCst);
    });
    tier.close().unwrap();
    assert_eq!(check(&*store).unwrap().problems, Vec::<String>::new());
}

#[test]
fn a_drain_rests_when_told_and_says_why() {
    let store = memory();
    let options = Options {
        rules: after(Duration::ZERO),
        drain_threads: 1,
        ..options()
    };
    let tier = Tier::open(store, Arc::default(), options).unwrap();
    let rest = || tier.drain_state().rest;
    tier.pause_drain(true);
    write(&tier, 1, 0, &text(1, 20 * CHUNK)).unwrap();
    tier.sync().unwrap();
    wait_until("it rests", || rest() == Some(Rest::Paused));
    assert_eq!(tier.drain_state().chunks, 0);
    // On demand it works all the same.
    tier.drain(&mut |_| true).unwrap();
    let state = tier.drain_state();
    assert_eq!((state.chunks, state.plain), (20, 20 * CHUNK as u64));
    assert!(state.paused && state.rate.is_some() && state.worked > Duration::ZERO);
    write(&tier, 2, 0, &text(2, 5 * CHUNK)).unwrap();
    tier.sync().unwrap();
    wait_until("it rests again", || rest() == Some(Rest::Paused));
    assert_eq!(tier.stats().unwrap().queue, 5);
    tier.pause_drain(false);
    wait_until("it goes on", || tier.stats().unwrap().queue == 0);
    wait_until("it is done", || rest() == Some(Rest::Idle));
    assert_eq!(tier.drain_state().chunks, 25);
}

#[test]
fn a_drain_keeps_to_its_hours() {
    let store = memory();
    let now = jiff::ZonedDateTime::now();
    let text_of = |hours: i64| {
        let time = now.datetime() + jiff::SignedDuration::from_hours(hours);
        format!("{:02}:{:02}", time.hour(), time.minute())
    };
    // From four hours on for four hours: not now.
    let hours = format!("{}-{}", text_of(4), text_of(8));
    let options = Options {
        rules: Rules {
            hours: hours.parse().unwrap(),
            ..after(Duration::ZERO)
        },
        drain_threads: 1,
        ..options()
    };
    let tier = Tier::open(store, Arc::default(), options).unwrap();
    write(&tier, 1, 0, &text(1, 3 * CHUNK)).unwrap();
    tier.sync().unwrap();
    let until = text_of(4);
    wait_until("it rests", || {
        tier.drain_state().rest
            == Some(Rest::Hours {
                until: until.clone(),
            })
    });
    assert_eq!(tier.stats().unwrap().queue, 3);
    tier.drain(&mut |_| true).unwrap();
    assert_eq!(tier.stats().unwrap().queue, 0);
}

#[test]
fn quiet_chunks_become_cold_by_themselves() {
    let store = memory();
    let tier = Tier::open(
        store.clone(),
        Arc::default(),
        Options {
            rules: after(Duration::from_millis(100)),
            drain_threads: 1,
            ..options()
        },
    )
    .unwrap();
    write(&tier, 1, 0, &text(1, 9 * CHUNK)).unwrap();
    tier.sync().unwrap();
    assert_eq!(tier.stats().unwrap().queue, 9);
    wait_until("the queue is empty", || tier.stats().unwrap().queue == 0);
    tier.close().unwrap();
    assert_eq!(check(&*store).unwrap().problems, Vec::<String>::new());
}

/// Does something that must end. The bound finds what hangs; it measures nothing.
fn ends<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let (said, heard) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || said.send(act()));
    let ended = heard.recv_timeout(Duration::from_secs(300));
    ended.unwrap_or_else(|_| panic!("{what} hangs"))
}

/// A coder in the background that takes a chunk and gets no time any more:
/// nobody waits for it, and what it returns in the end counts for nothing.
#[test]
fn nobody_waits_for_a_coder_that_gets_no_time() {
    let store = memory();
    let options = Options {
        rules: after(Duration::ZERO),
        drain_threads: 1,
        ..options()
    };
    let tier = Tier::open(store.clone(), Arc::default(), options).unwrap();
    let jobs = tier.shared.jobs.clone();
    let mut written = 0;
    // Beside the tier's own coder, which may be faster.
    let mut hold = || {
        let jobs = jobs.clone();
        let holder =
            std::thread::spawn(move || jobs.take(jobs::Coders::Background, usize::MAX, 1).unwrap());
        while !holder.is_finished() {
            write(&tier, 1, written, &text(written, CHUNK)).unwrap();
            tier.sync().unwrap();
            written += CHUNK as u64;
        }
        holder.join().unwrap()
    };

    let first = hold();
    let drained = tier.clone();
    ends("drain", move || drained.drain(&mut |_| true)).unwrap();
    assert!(first.interrupt.is_raised());
    assert_eq!(tier.stats().unwrap().queue, 0);
    let before = store.scan(Table::Chunk, &[], None, 10_000).unwrap();
    for (ticket, job) in first.jobs {
        jobs.finish(ticket, job, Ok((b"anything".to_vec(), None)));
    }
    tier.drain(&mut |_| true).unwrap();
    assert_eq!(store.scan(Table::Chunk, &[], None, 10_000).unwrap(), before);

    let second = hold();
    let closed = tier.clone();
    ends("close", move || closed.close()).unwrap();
    assert!(second.interrupt.is_raised());
    assert!(jobs.take(jobs::Coders::Background, 1, 1).is_none());
    drop(tier);
    assert_eq!(check(&*store).unwrap().problems, Vec::<String>::new());
    // What it had is where it was.
    let tier = open(&store);
    assert!(tier.stats().unwrap().queue > 0);
    tier.drain(&mut |_| true).unwrap();
    assert_eq!(tier.stats().unwrap().queue, 0);
    for at in (0..written).step_by(CHUNK) {
        assert_eq!(tier.read(1, at, CHUNK).unwrap(), text(at, CHUNK));
    }
}

#[test]
fn a_drain_can_be_stopped() {
    let store = memory();
    let tier = open(&store);
    write(&tier, 1, 0, &text(1, 100 * CHUNK)).unwrap();
    tier.drain(&mut |_| false).unwrap();
    tier.drain(&mut |_| true).unwrap();
    assert_eq!(tier.stats().unwrap().queue, 0);
}

#[test]
fn sequential_readers_find_the_next_chunks_decoded() {
    let (tape, store) = tape();
    let tier = open(&store);
    let data = text(1, 40 * CHUNK);
    write(&tier, 1, 0, &data).unwrap();
    tier.close().unwrap();
    let tier = open(&store);
    for chunk in 0..4 {
        let at = chunk * CHUNK;
        let found = tier.read(1, at as u64, CHUNK).unwrap();
        assert_eq!(found, data[at..at + CHUNK]);
    }
    wait_until("the next chunks are there", || {
        let next = tier.try_read(1, 4 * CHUNK as u64, 2 * CHUNK).unwrap();
        next.is_some_and(|next| next == data[4 * CHUNK..6 * CHUNK])
    });
    // Whoever jumps about gets nothing that was not asked for. The first tier
    // may still be decoding ahead: its loads must not be counted.
    tier.close().unwrap();
    let tier = open(&store);
    let before = tape.loads.load(Ordering::SeqCst);
    for chunk in [30, 3, 17, 9, 25] {
        tier.read(1, chunk * CHUNK as u64, CHUNK).unwrap();
    }
    assert_eq!(tape.loads.load(Ordering::SeqCst) - before, 5);
}

#[test]
fn readers_of_one_chunk_share_a_load() {
    let (tape, store) = tape();
    let tier = open(&store);
    write(&tier, 1, 0, &text(1, CHUNK)).unwrap();
    tier.close().unwrap();
    let tier = open(&store);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| tier.read(1, 0, CHUNK).unwrap());
        }
    });
    assert_eq!(tape.loads.load(Ordering::SeqCst), 1);
}

#[test]
fn the_dispatcher_does_not_wait() {
    let store = memory();
    let tier = open(&store);
    write(&tier, 1, 0, &text(1, 2 * CHUNK)).unwrap();
    assert!(tier.try_read(1, 0, 10).unwrap().is_some());
    tier.close().unwrap();
    let tier = open(&store);
    assert_eq!(tier.try_read(1, 0, 10).unwrap(), None);
    assert_eq!(tier.try_run(|op| op.truncate(1, 3)).unwrap(), None);
    // A small write needs nothing of the chunk, nor does it to be read.
    assert_eq!(tier.try_run(|op| op.write(1, 3, b"abc")).unwrap(), Some(0));
    assert_eq!(tier.try_read(1, 3, 3).unwrap(), Some(b"abc".to_vec()));
    assert_eq!(tier.try_read(1, 3, 4).unwrap(), None);
    let large = text(3, CHUNK - 1);
    assert_eq!(tier.try_run(|op| op.write(1, 0, &large)).unwrap(), None);
    assert_eq!(
        tier.try_run(|op| op.write(1, 0, &text(2, CHUNK))).unwrap(),
        Some(0)
    );
    tier.read(1, 0, 2 * CHUNK).unwrap();
    assert!(tier.try_read(1, 0, 2 * CHUNK).unwrap().is_some());
    assert_eq!(tier.try_run(|op| op.write(1, 3, b"abc")).unwrap(), Some(0));
}

#[test]
fn writers_wait_and_memory_stays_bounded() {
    let store = memory();
    let limit = 64 << 10;
    let tier = Tier::open(
        store.clone(),
        Arc::default(),
        Options {
            dirty_bytes: limit,
            ..options()
        },
    )
    .unwrap();
    for at in 0..100u64 {
        write(&tier, at, 0, &text(at, 16 << 10)).unwrap();
        // One operation may go over the limit, a second may not begin.
        let dirty = tier.stats().unwrap().dirty;
        assert!(dirty <= (limit + (32 << 10)) as u64, "{dirty}");
    }
    for at in 0..100u64 {
        assert_eq!(tier.read(at, 0, 16 << 10).unwrap(), text(at, 16 << 10));
    }
}

#[test]
fn syncs_share_a_commit() {
    let (tape, store) = tape();
    let tier = Tier::open(
        store,
        Arc::default(),
        Options {
            commit_every: Duration::from_secs(3600),
            ..options()
        },
    )
    .unwrap();
    std::thread::scope(|scope| {
        for ino in 0..64 {
            let tier = &tier;
            scope.spawn(move || {
                write(tier, ino, 0, b"abc").unwrap();
                tier.sync().unwrap();
            });
        }
    });
    assert!(tape.commits.load(Ordering::SeqCst) <= 64);
    let before = tape.commits.load(Ordering::SeqCst);
    tier.sync().unwrap();
    assert_eq!(tape.commits.load(Ordering::SeqCst), before);
}

#[test]
fn a_panic_inside_an_operation_takes_it_back() {
    let store = memory();
    let tier = open(&store);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        tier.run(|op| -> Result<()> {
            op.write(1, 0, b"half")?;
            std::panic::resume_unwind(Box::new(()))
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(tier.read(1, 0, 4).unwrap(), [0; 4]);
    write(&tier, 1, 0, b"whole").unwrap();
    tier.sync().unwrap();
}

#[test]
fn many_small_logs_are_merged() {
    let store = memory();
    let mut values = HashMap::new();
    for round in 0..20u64 {
        let tier = open(&store);
        write(&tier, round, 0, &text(round, 3 * CHUNK)).unwrap();
        values.insert(round, text(round, 3 * CHUNK));
        tier.drain(&mut |_| true).unwrap();
        tier.close().unwrap();
        store.seal_logs().unwrap();
    }
    assert!(store.logs().unwrap().len() < 12, "{:?}", store.logs());
    let tier = open(&store);
    for (ino, data) in values {
        assert_eq!(tier.read(ino, 0, data.len()).unwrap(), data);
    }
}

#[test]
fn values_on_their_way_into_a_commit_are_not_garbage() {
    let (tape, store) = tape();
    let tier = open(&store);
    let data = text(1, CHUNK);
    let gate = tape.gate.lock();
    write(&tier, 1, 0, &data).unwrap();
    wait_until("the value is appended", || store.logs().unwrap().len() == 1);
    store.seal_logs().unwrap();
    tier.shared.collect_some().unwrap();
    drop(gate);
    tier.close().unwrap();
    assert_eq!(check(&*store).unwrap().problems, Vec::<String>::new());
    assert_eq!(open(&store).read(1, 0, CHUNK).unwrap(), data);
}

#[test]
fn a_read_only_tier_changes_nothing() {
    let (tape, store) = tape();
    let tier = open(&store);
    write(&tier, 1, 0, b"abc").unwrap();
    tier.close().unwrap();
    let before = tape.events.lock().len();
    let tier = Tier::open(
        store,
        Arc::default(),
        Options {
            read_only: true,
            ..options()
        },
    )
    .unwrap();
    assert_eq!(tier.read(1, 0, 3).unwrap(), b"abc");
    assert!(matches!(write(&tier, 1, 0, b"x"), Err(Error::ReadOnly)));
    assert!(matches!(tier.drain(&mut |_| true), Err(Error::ReadOnly)));
    tier.sync().unwrap();
    tier.close().unwrap();
    assert_eq!(tape.events.lock().len(), before);
}

/// Not a test of correctness: `cargo test --lib tier -- --ignored --nocapture`.
#[test]
#[ignore = "measures speed"]
fn speed() {
    let words: Vec<u8> = std::iter::repeat_n(text(1, 4000), 300).flatten().collect();
    for (step, dirty) in [
        (4 << 10, 1 << 30),
        (1 << 20, 1 << 30),
        (4 << 10, 64 << 20),
        (1 << 20, 64 << 20),
    ] {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let tier = Tier::open(
            store,
            Arc::default(),
            Options {
                chunk_size: 64 << 10,
                dirty_bytes: dirty,
                commit_every: Duration::from_millis(300),
                ..options()
            },
        )
        .unwrap();
        let total = 256u64 << 20;
        let begun = Instant::now();
        for at in (0..total).step_by(step) {
            let from = (at as usize / 7) % (words.len() - step);
            write(&tier, 1, at, &words[from..from + step]).unwrap();
        }
        let buffered = begun.elapsed();
        tier.sync().unwrap();
        let synced = begun.elapsed();
        let rate = |time: Duration| total as f64 / 1e6 / time.as_secs_f64();
        println!(
            "writes of {} KiB, buffer {} MiB: {:.0} MB/s, with sync {:.0} MB/s",
            step >> 10,
            dirty >> 20,
            rate(buffered),
            rate(synced),
        );
    }
}

#[test]
fn small_writes_rest_beside_their_chunk_until_they_are_folded() {
    let (tape, store) = tape();
    let tier = Tier::open(
        store.clone(),
        Arc::default(),
        Options {
            commit_every: Duration::from_secs(3600),
            ..options()
        },
    )
    .unwrap();
    let mut data = text(1, 3 * CHUNK);
    write(&tier, 1, 0, &data).unwrap();
    tier.sync().unwrap();
    let before = tape.events.lock().len();
    for (at, bytes) in [(3, &b"abc"[..]), (90, &[7; 60]), (CHUNK - 5, &[8; 10])] {
        write(&tier, 1, at as u64, bytes).unwrap();
        data[at..at + bytes.len()].copy_from_slice(bytes);
    }
    tier.sync().unwrap();
    let count = |table| {
        let events = tape.events.lock();
        let of = |event: &&Event| matches!(event, Event::Append(_, of, ..) if *of == table);
        events[before..].iter().filter(of).count()
    };
    assert_eq!((count(Table::Patch), count(Table::Chunk)), (2, 0));
    let rows = || store.scan(Table::Patch, &[], None, 9).unwrap().len();
    assert_eq!(rows(), 2);
    assert_eq!(check(&*store).unwrap().problems, Vec::<String>::new());
    // As a crash would leave it, and for someone who only reads.
    let reader = Tier::open(
        store.clone(),
        Arc::default(),
        Options {
            read_only: true,
            ..options()
        },
    )
    .unwrap();
    assert_eq!(reader.read(1, 0, data.len()).unwrap(), data);
    reader.close().unwrap();
    // Removed with what it lies over, and folded into the rest.
    tier.run(|op| op.truncate(1, CHUNK as u64)).unwrap();
    data.truncate(CHUNK);
    tier.sync().unwrap();
    assert_eq!(rows(), 1);
    tier.drain(&mut |_| true).unwrap();
    assert_eq!(rows(), 0);
    assert_eq!(tier.read(1, 0, CHUNK).unwrap(), data);
    let row = store.get(Table::Chunk, &ChunkId::of(&data).0).unwrap();
    assert!(row.is_some());
    tier.close().unwrap();
    assert_eq!(check(&*store).unwrap().problems, Vec::<String>::new());
}

#[test]
fn a_patch_that_cannot_be_read_is_an_error() {
    let (tape, store) = tape();
    let tier = open(&store);
    let data = text(1, 2 * CHUNK);
    write(&tier, 1, 0, &data).unwrap();
    tier.sync().unwrap();
    write(&tier, 1, 10, &[9; 90]).unwrap();
    tier.sync().unwrap();
    // Not closed: what follows finds what a crash left.
    tape.damage.store(true, Ordering::SeqCst);
    let value = store.scan(Table::Patch, &[], None, 1).unwrap();
    let value = patch::PatchRow::decode(&value[0].1).unwrap().value;
    assert!(matches!(value, ValueRef::Log { .. }));
    let copy = memory();
    // A copy of the store whose patch lies where there is nothing.
    for table in Table::ALL {
        for (key, row) in store.scan(table, &[], None, usize::MAX).unwrap() {
            let mut batch = Batch::default();
            batch.put(table, key, row);
            copy.commit(batch).unwrap();
        }
    }
    tape.damage.store(false, Ordering::SeqCst);
    let ValueRef::Log { log, .. } = value else {
        unreachable!()
    };
    for info in store.logs().unwrap() {
        store
            .walk_log(info.log, &mut |record| {
                let payload = match record.owner_table {
                    Table::Patch => b"nothing that a patch could be".to_vec(),
                    _ => store.value(&record.value).unwrap(),
                };
                let value = copy
                    .append(info.class, record.owner_table, &record.owner_key, &payload)
                    .unwrap();
                if record.owner_table != Table::Patch {
                    assert_eq!(value, record.value);
                }
                Ok(())
            })
            .unwrap();
    }
    assert!(copy.logs().unwrap().iter().any(|info| info.log == log));
    let tier_ = open(&copy);
    let error = tier_.read(1, 0, 5).unwrap_err();
    assert!(error.to_string().contains("last written"), "{error}");
    assert!(matches!(write(&tier_, 1, 0, b"x"), Err(Error::Corrupt(_))));
    assert_eq!(tier_.read(1, CHUNK as u64, CHUNK).unwrap(), data[CHUNK..]);
    // A snapshot would not be what the volume is.
    assert!(tier_.begin_copy(1, Table::Meta, b"v.x").is_err());
    tier_.drain(&mut |_| true).unwrap();
    assert!(tier_.read(1, 0, 5).is_err());
    let whole = text(2, CHUNK);
    write(&tier_, 1, 0, &whole).unwrap();
    assert_eq!(tier_.read(1, 0, CHUNK).unwrap(), whole);
    tier_.close().unwrap();
    assert_eq!(copy.scan(Table::Patch, &[], None, 1).unwrap(), []);
}
