//! Crashes at random moments: a daemon that is killed, a disk whose power is
//! cut. After each the store must mount and check clean, everything that
//! fsync acknowledged must be there, and nothing may be torn.
//!
//! Few rounds by default. `LACONICFS_KILLS` and `LACONICFS_CUTS` say how many,
//! `LACONICFS_SEED` repeats a run's choices (not its timing).

mod daemon;
mod disk;
mod journal;
mod workload;

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::harness::{have, obstacle, skip};
use daemon::{Daemon, laconicfs};
use disk::{Blocks, Disk, Keeps};
use journal::{Journal, State};
use workload::{Client, DIRS};

/// Splitmix64: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A length as files have them: mostly small, sometimes of several chunks.
    pub fn length(&mut self) -> usize {
        let most = [200, 5000, 70_000, 200_000][self.below(4)];
        1 + self.below(most)
    }
}

const CLIENTS: usize = 3;
/// Of the disk whose power is cut.
const DISK: u64 = 1 << 30;

/// How long the clients work before the crash.
#[derive(Clone, Copy, Debug)]
enum Moment {
    After(Duration),
    /// Right after so many acknowledged syncs.
    Acknowledged(u64),
}

impl Moment {
    fn choose(random: &mut Random) -> Self {
        match random.below(3) {
            0 => Self::Acknowledged(1 + random.below(40) as u64),
            _ => Self::After(Duration::from_millis(random.below(700) as u64)),
        }
    }

    fn wait(self, acknowledged: &AtomicU64, failed: impl Fn() -> bool) {
        match self {
            Self::After(time) => std::thread::sleep(time),
            Self::Acknowledged(count) => {
                while acknowledged.load(Ordering::Relaxed) < count && !failed() {
                    std::thread::yield_now();
                }
            }
        }
    }
}

/// What the rounds come to.
#[derive(Default)]
struct Figures {
    rounds: u64,
    operations: u64,
    acknowledged: u64,
}

impl Figures {
    fn print(&self, what: &str, seed: u64, begun: Instant, more: &str) {
        let _ = writeln!(
            std::io::stderr(),
            "{what}: {} rounds, {} operations, {} acknowledged syncs, 0 losses, {:.0} s, \
             seed {seed}{more}",
            self.rounds,
            self.operations,
            self.acknowledged,
            begun.elapsed().as_secs_f64()
        );
    }
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value}: not a number")),
    )
}

fn seed() -> u64 {
    setting("LACONICFS_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_nanos() as u64 % 1_000_000
    })
}

/// What the crash of one round does while the clients work. Returns what they
/// had written down by then, if what comes after does not count.
type Crash<'a> = dyn FnMut(&mut Daemon, &[Mutex<Journal>]) -> Option<Vec<Journal>> + 'a;

/// One life of a daemon: checks what an earlier one left, has the clients
/// work, crashes.
struct Round<'a> {
    store: &'a Path,
    dir: &'a Path,
    random: &'a mut Random,
    figures: &'a mut Figures,
    label: String,
}

impl Round<'_> {
    /// `known` is what the clients of the last round wrote down, and whether
    /// the kernel kept their writes; then what those of this round did.
    fn run(
        &mut self,
        known: &mut Option<(Vec<Journal>, bool)>,
        scrub: bool,
        crash: &mut Crash<'_>,
    ) {
        if known.is_some() {
            let checked = daemon::check(self.store, scrub);
            checked.unwrap_or_else(|why| panic!("{}: {why}", self.label));
        }
        let cached = self.random.below(2) == 0;
        let mut daemon = Daemon::start(self.store, self.dir, cached);
        let roots: Vec<_> = (0..CLIENTS).map(|n| self.dir.join(n.to_string())).collect();
        let found: Vec<State> = match known.take() {
            None => {
                for dir in DIRS {
                    for root in &roots {
                        std::fs::create_dir_all(root.join(dir)).unwrap();
                    }
                }
                std::fs::File::open(self.dir).unwrap().sync_all().unwrap();
                vec![State::default(); CLIENTS]
            }
            Some((journals, cached)) => {
                let look = |root| State::found(root, &DIRS);
                let found: Result<Vec<_>, _> = roots.iter().map(|root| look(root)).collect();
                let found = found.unwrap_or_else(|e| panic!("{}: reading: {e}", self.label));
                for (number, (journal, found)) in journals.iter().zip(&found).enumerate() {
                    if let Err(why) = journal.explains(found, !cached) {
                        panic!("{}: client {number} (cached: {cached}): {why}", self.label);
                    }
                }
                found
            }
        };
        let journals: Vec<_> = (found.into_iter().map(Journal::new).map(Mutex::new)).collect();
        let moment = Moment::choose(self.random);
        let acknowledged = AtomicU64::new(0);
        let over = AtomicBool::new(false);
        let judged = std::thread::scope(|threads| {
            let clients: Vec<_> = (roots.iter().zip(&journals))
                .map(|(root, journal)| {
                    let client =
                        Client::new(root, self.random.next() >> 34, journal, &acknowledged);
                    let over = &over;
                    threads.spawn(move || {
                        let error = client.work();
                        let alive = !over.load(Ordering::SeqCst);
                        assert!(!alive, "an operation failed on a living mount: {error}");
                    })
                })
                .collect();
            // Codes what was just written, over and over.
            let drain = threads.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let _ = laconicfs(&["drain".as_ref(), self.dir.as_os_str()]);
                }
            });
            moment.wait(&acknowledged, || clients.iter().any(|c| c.is_finished()));
            let failed = clients.iter().any(|client| client.is_finished());
            over.store(true, Ordering::SeqCst);
            let judged = crash(&mut daemon, &journals);
            daemon.kill();
            drain.join().unwrap();
            for client in clients {
                if let Err(panic) = client.join() {
                    std::panic::resume_unwind(panic);
                }
            }
            assert!(!failed, "{}: a client ended by itself", self.label);
            judged
        });
        drop(daemon);
        self.figures.rounds += 1;
        self.figures.acknowledged += acknowledged.into_inner();
        self.figures.operations += journals.iter().map(|j| j.lock().len() as u64).sum::<u64>();
        let judged =
            judged.unwrap_or_else(|| journals.into_iter().map(Mutex::into_inner).collect());
        *known = Some((judged, cached));
    }
}

/// After the last round: everything is there, and every chunk decodes.
fn finish(store: &Path, dir: &Path, known: &(Vec<Journal>, bool)) {
    daemon::check(store, true).unwrap_or_else(|why| panic!("at the end: {why}"));
    let daemon = Daemon::start(store, dir, false);
    for (number, journal) in known.0.iter().enumerate() {
        let found = State::found(&dir.join(number.to_string()), &DIRS).unwrap();
        let explained = journal.explains(&found, !known.1);
        explained.unwrap_or_else(|why| panic!("at the end: client {number}: {why}"));
    }
    daemon.unmount();
    daemon::check(store, false).unwrap_or_else(|why| panic!("closed in order: {why}"));
}

#[test]
fn kills_at_random_moments_lose_nothing() {
    if let Some(why) = obstacle() {
        return skip(&why);
    }
    let (rounds, seed) = (setting("LACONICFS_KILLS").unwrap_or(8), seed());
    let begun = Instant::now();
    let mut random = Random::new(seed);
    let mut figures = Figures::default();
    let disk = daemon::Kept::new();
    let dir = tempfile::tempdir().unwrap();
    let store = disk.path().join("store");
    daemon::make(&store);
    let mut known = None;
    for round in 1..=rounds {
        // Also while it mounts, and while it unmounts.
        if known.is_some() && random.below(8) == 0 {
            Daemon::spawn(&store, dir.path(), true)
                .kill_within(Duration::from_millis(random.below(120) as u64));
        }
        let unmounting = (random.below(6) == 0).then(|| random.below(400) as u64);
        let mut next = Round {
            store: &store,
            dir: dir.path(),
            random: &mut random,
            figures: &mut figures,
            label: format!("seed {seed}, kill {round}"),
        };
        next.run(&mut known, round % 20 == 0, &mut |daemon, _| {
            if let Some(wait) = unmounting {
                daemon.terminate();
                std::thread::sleep(Duration::from_millis(wait));
            }
            daemon.kill();
            None
        });
    }
    finish(&store, dir.path(), &known.unwrap());
    figures.print("killed daemons", seed, begun, "");
    disk.remove();
}

/// What this machine lacks for cutting the power, if anything.
fn no_disk() -> Option<String> {
    obstacle().or_else(|| match have("losetup") && have("mkfs.ext4") {
        true => None,
        false => Some("no disk can be made".into()),
    })
}

/// Rounds that end in a power cut. `honest` when the disk keeps what it
/// flushes. Returns what reached it.
fn cut_power(
    rounds: u64,
    seed: u64,
    honest: bool,
    figures: &mut Figures,
) -> Result<String, String> {
    let mut random = Random::new(seed);
    let (mut written, mut flushes) = (0, 0);
    let mut disk = Disk::attach(Blocks::default(), DISK)?;
    let dir = tempfile::tempdir().unwrap();
    daemon::make(&disk.root().join("store"));
    let mut known = None;
    for round in 1..=rounds {
        let keeps = match random.below(4) {
            _ if !honest => Keeps::Nothing,
            0 => Keeps::All,
            1 => Keeps::Nothing,
            _ => Keeps::Some,
        };
        if !honest && round > 1 {
            disk.lie();
        }
        let mut cut = None;
        let store = disk.root().join("store");
        let saved = honest.then(|| {
            let blocks = disk.snapshot();
            daemon::OnPanic::new(move |path| blocks.save(path, DISK))
        });
        let mut next = Round {
            store: &store,
            dir: dir.path(),
            random: &mut random,
            figures,
            label: format!("seed {seed}, power cut {round}"),
        };
        next.run(&mut known, round % 20 == 0, &mut |_, journals| {
            // What is acknowledged now must be there after the cut; what
            // begins before the cut is over may.
            let marks: Vec<_> = journals.iter().map(|j| j.lock().marks()).collect();
            cut = Some(disk.snapshot());
            let judged = journals.iter().zip(&marks);
            Some(
                judged
                    .map(|(j, marks)| j.lock().clone().acknowledged_as(marks))
                    .collect(),
            )
        });
        drop(saved);
        let blocks = cut.unwrap();
        written += blocks.written;
        flushes += blocks.flushes;
        drop(disk);
        disk = Disk::attach(blocks.cut(keeps, &mut random), DISK)
            .unwrap_or_else(|why| panic!("seed {seed}, power cut {round}, kept {keeps:?}: {why}"));
    }
    finish(&disk.root().join("store"), dir.path(), &known.unwrap());
    Ok(format!(
        "; {} MB reached the disk in {flushes} flushes",
        written / 1_000_000
    ))
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    if let Some(why) = no_disk() {
        return skip(&why);
    }
    let (rounds, seed) = (setting("LACONICFS_CUTS").unwrap_or(3), seed());
    let begun = Instant::now();
    let mut figures = Figures::default();
    match cut_power(rounds, seed, true, &mut figures) {
        Ok(more) => figures.print("power cuts", seed, begun, &more),
        Err(why) => skip(&why),
    }
}

/// The harness can fail: nothing survives a disk that acknowledges flushes and
/// forgets.
#[test]
fn a_disk_that_lies_is_found_out() {
    if let Some(why) = no_disk() {
        return skip(&why);
    }
    let rounds = || cut_power(8, seed(), false, &mut Figures::default());
    match std::panic::catch_unwind(rounds) {
        Err(_) => {}
        Ok(Err(why)) => skip(&why),
        Ok(Ok(_)) => panic!("everything survived a disk that forgets what it flushed"),
    }
}
