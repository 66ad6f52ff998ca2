//! Giving back the space of inodes that have no name and that nobody holds.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::store::Table;
use crate::tier::SPACE;

use super::{Core, rows};

/// Orphans looked up at a time.
const PAGE: usize = 256;

/// Pieces that are still freed once the volume closes: those of ordinary
/// files. What is left then waits for the next open.
const PIECES_AT_CLOSE: usize = 256;

/// How long inodes are gathered before they are freed, unless someone waits:
/// waking the thread up for each of many files that are removed one by one
/// costs more than freeing them.
const GATHER: Duration = Duration::from_millis(5);

/// How long one operation frees inodes, one after the other: others wait for
/// its end.
const HOLD: Duration = Duration::from_micros(500);

/// The thread that frees. Ends when dropped.
pub(super) struct Reaper {
    core: Arc<Core>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the thread has to do.
#[derive(Default)]
pub(super) struct Queue {
    jobs: Mutex<Jobs>,
    /// To the thread: there is something to do, or to hurry for.
    wake: Condvar,
    /// From the thread: something was done.
    done: Condvar,
}

#[derive(Default)]
struct Jobs {
    /// Inodes to be freed.
    inodes: Vec<u64>,
    /// How many were ever asked for, and how many of them are done.
    asked: u64,
    freed: u64,
    /// Someone waits.
    hurry: bool,
    /// The thread takes what it is given.
    open: bool,
    /// It has ended.
    ended: bool,
}

impl Queue {
    /// The next inodes; `None` when the queue is closed and empty.
    fn take(&self) -> Option<Vec<u64>> {
        let mut jobs = self.jobs.lock();
        while jobs.inodes.is_empty() {
            if !jobs.open {
                return None;
            }
            self.wake.wait(&mut jobs);
        }
        let until = Instant::now() + GATHER;
        while jobs.open && !jobs.hurry && !self.wake.wait_until(&mut jobs, until).timed_out() {}
        jobs.hurry = false;
        Some(std::mem::take(&mut jobs.inodes))
    }

    fn is_closing(&self) -> bool {
        !self.jobs.lock().open
    }

    fn close(&self) {
        self.jobs.lock().open = false;
        self.wake.notify_one();
    }
}

/// Tells those who wait that the thread has ended, however that came.
struct Ending<'a>(&'a Queue);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut jobs = self.0.jobs.lock();
        (jobs.open, jobs.ended) = (false, true);
        self.0.done.notify_all();
    }
}

impl Reaper {
    /// Starts the thread, which begins with what the last user left.
    pub fn start(core: Arc<Core>) -> Result<Arc<Reaper>> {
        let mut thread = None;
        if !core.options.read_only {
            core.reaper.jobs.lock().open = true;
            let core = core.clone();
            let body = move || {
                let _ending = Ending(&core.reaper);
                match reap(&core) {
                    // The store failed or was closed before; whoever writes
                    // hears of it.
                    Ok(()) | Err(Error::ReadOnly) => {}
                    Err(error) => log::warn!("freeing deleted files: {error}"),
                }
            };
            let handle = std::thread::Builder::new()
                .name("reaper".into())
                .spawn(body)
                .map_err(Error::io("starting a thread"))?;
            thread = Some(handle);
        }
        Ok(Arc::new(Reaper {
            core,
            thread: Mutex::new(thread),
        }))
    }

    /// Ends the thread once it has freed what it knows of, within reason.
    pub fn close(&self) {
        self.core.reaper.close();
        if let Some(thread) = self.thread.lock().take() {
            // The panic of a thread has been printed.
            let _ = thread.join();
        }
    }
}

impl Core {
    /// Has the space of an inode given back if it still is without a name and
    /// not held by then.
    pub fn reap_later(&self, ino: u64) {
        let mut jobs = self.reaper.jobs.lock();
        // When the thread has ended the inode's row waits for the next open.
        if jobs.open {
            jobs.inodes.push(ino);
            jobs.asked += 1;
            if jobs.inodes.len() == 1 {
                self.reaper.wake.notify_one();
            }
        }
    }

    /// Returns when the inodes are freed that had to be by now.
    pub fn wait_for_reaper(&self) {
        let mut jobs = self.reaper.jobs.lock();
        let wanted = jobs.asked;
        while jobs.freed < wanted && !jobs.ended {
            jobs.hurry = true;
            self.reaper.wake.notify_one();
            self.reaper.done.wait(&mut jobs);
        }
    }
}

fn reap(core: &Core) -> Result<()> {
    let mut left = PIECES_AT_CLOSE;
    let mut from = Vec::new();
    core.remove_dead_snapshots(&|| !core.reaper.is_closing())?;
    loop {
        let tier = &core.tier;
        let page =
            tier.run(|op| op.scan(Table::Orphan, &from, Some(&SPACE.to_be_bytes()), PAGE))?;
        let inodes = page.iter().map(|(key, _)| rows::parse_ino(key));
        reap_all(core, &inodes.collect::<Result<Vec<_>>>()?, &mut left);
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), &[0]].concat(),
            _ => break,
        }
    }
    while let Some(inodes) = core.reaper.take() {
        reap_all(core, &inodes, &mut left);
        core.reaper.jobs.lock().freed += inodes.len() as u64;
        core.reaper.done.notify_all();
    }
    Ok(())
}

/// Frees inodes that may be freed, several in an operation.
fn reap_all(core: &Core, inodes: &[u64], left: &mut usize) {
    let mut at = 0;
    while let Some(rest) = inodes.get(at..).filter(|rest| !rest.is_empty()) {
        if core.reaper.is_closing() {
            match *left {
                0 => return,
                _ => *left -= 1,
            }
        }
        let some = core.tier.run(|op| {
            let mut change = core.change(op);
            let begun = Instant::now();
            for (done, ino) in rest.iter().enumerate() {
                match change.reap(*ino)? {
                    // Freed in part: it comes again.
                    false => return Ok(done),
                    true if begun.elapsed() > HOLD => return Ok(done + 1),
                    true => {}
                }
            }
            Ok(rest.len())
        });
        match some {
            Ok(done) => at += done,
            Err(Error::ReadOnly) => return,
            // One of them alone is to blame: it stays in the table.
            Err(_) => {
                reap_one(core, rest[0], left);
                at += 1;
            }
        }
    }
}

fn reap_one(core: &Core, ino: u64, left: &mut usize) {
    loop {
        if core.reaper.is_closing() {
            match *left {
                0 => return,
                _ => *left -= 1,
            }
        }
        match core.tier.run(|op| core.change(op).reap(ino)) {
            Ok(false) => {}
            Ok(true) | Err(Error::ReadOnly) => return,
            Err(error) => return log::warn!("freeing inode {ino}: {error}"),
        }
    }
}
