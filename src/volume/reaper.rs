//! Giving back the space of inodes that have no name and that nobody holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::store::Table;
use crate::tier::SPACE;

use super::{Core, rows};

/// Orphans looked up at a time.
const PAGE: usize = 256;

/// Pieces that are still freed once the volume closes: those of ordinary
/// files. What is left then waits for the next open.
const PIECES_AT_CLOSE: usize = 256;

/// The thread that frees. Ends when dropped.
pub(super) struct Reaper {
    core: Arc<Core>,
    closing: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.close();
    }
}

impl Reaper {
    /// Starts the thread, which begins with what the last user left.
    pub fn start(core: Arc<Core>) -> Result<Arc<Reaper>> {
        let closing = Arc::new(AtomicBool::new(false));
        let mut thread = None;
        if !core.options.read_only {
            let (sender, jobs) = crossbeam_channel::unbounded();
            *core.reaper.lock() = Some(sender);
            let (core, closing) = (core.clone(), closing.clone());
            let body = move || match reap(&core, &jobs, &closing) {
                // The store failed or was closed before; whoever writes
                // hears of it.
                Ok(()) | Err(Error::ReadOnly) => {}
                Err(error) => log::warn!("freeing deleted files: {error}"),
            };
            let handle = std::thread::Builder::new()
                .name("reaper".into())
                .spawn(body)
                .map_err(Error::io("starting a thread"))?;
            thread = Some(handle);
        }
        Ok(Arc::new(Reaper {
            core,
            closing,
            thread: Mutex::new(thread),
        }))
    }

    /// Ends the thread once it has freed what it knows of, within reason.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        // Without a sender the queue ends.
        drop(self.core.reaper.lock().take());
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
        if let Some(sender) = &*self.reaper.lock() {
            // Only a thread that ended does not listen; its rows wait.
            let _ = sender.send(Job::Free(ino));
        }
    }

    /// Returns when the inodes are freed that had to be by now.
    pub fn wait_for_reaper(&self) {
        let (done, freed) = crossbeam_channel::bounded(1);
        if let Some(sender) = &*self.reaper.lock() {
            let _ = sender.send(Job::Tell(done));
        } else {
            return;
        }
        // An error means that the thread has ended.
        let _ = freed.recv();
    }
}

/// What the thread is asked for.
pub(super) enum Job {
    Free(u64),
    /// To answer when all earlier jobs are done.
    Tell(Sender<()>),
}

/// What the thread has to do.
pub(super) type Queue = Mutex<Option<Sender<Job>>>;

fn reap(core: &Core, jobs: &Receiver<Job>, closing: &AtomicBool) -> Result<()> {
    let mut left = PIECES_AT_CLOSE;
    let mut from = Vec::new();
    core.remove_dead_snapshots(&|| !closing.load(Ordering::SeqCst))?;
    loop {
        let tier = &core.tier;
        let page =
            tier.run(|op| op.scan(Table::Orphan, &from, Some(&SPACE.to_be_bytes()), PAGE))?;
        for (key, _) in &page {
            reap_one(core, rows::parse_ino(key)?, closing, &mut left);
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), &[0]].concat(),
            _ => break,
        }
    }
    for job in jobs {
        match job {
            Job::Free(ino) => reap_one(core, ino, closing, &mut left),
            Job::Tell(done) => drop(done.send(())),
        }
    }
    Ok(())
}

/// Frees one inode, if it may be. A failure concerns this one alone: it stays
/// in the table.
fn reap_one(core: &Core, ino: u64, closing: &AtomicBool, left: &mut usize) {
    loop {
        if closing.load(Ordering::SeqCst) {
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
