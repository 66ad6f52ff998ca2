//! Threads for requests that may have to wait.
//!
//! The threads that take requests from the kernel never wait for a disk or a
//! decode: they hand such a request over together with its reply. The queues
//! need no bound of their own, because the kernel bounds what is under way:
//! one request for every thread that waits, and the background requests that
//! it agreed upon at the start.

use std::io;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::errno::Asked;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads that take jobs from one queue. Dropping it lets
/// the jobs in the queue finish and ends the threads.
pub(super) struct Pool {
    queue: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub fn new(name: &str, threads: usize) -> io::Result<Self> {
        let (queue, jobs) = unbounded();
        let mut pool = Self {
            queue: Some(queue),
            threads: Vec::with_capacity(threads),
        };
        for number in 0..threads.max(1) {
            let jobs = jobs.clone();
            pool.threads.push(
                std::thread::Builder::new()
                    .name(format!("{name}-{number}"))
                    .spawn(move || work(jobs))?,
            );
        }
        Ok(pool)
    }

    /// Queues a job under the [`guard`].
    pub fn submit(&self, asked: Asked, job: impl FnOnce() + Send + 'static) {
        // The queue is there until `drop`, and some thread receives until then.
        if let Some(queue) = &self.queue {
            let _ = queue.send(Box::new(move || guard(asked, job)));
        }
    }
}

fn work(jobs: Receiver<Job>) {
    for job in jobs {
        job();
    }
}

/// Runs `body`; a panic ends in the log instead of the thread. The reply that
/// `body` owned is dropped unused then, and fuser answers EIO for it.
pub(super) fn guard(asked: Asked, body: impl FnOnce()) {
    // Nothing that `body` leaves half changed is used afterwards without a
    // lock of its own, and those do not poison: the volume stays consistent by
    // committing whole operations.
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        let message = (panic.downcast_ref::<&str>().copied())
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        log::error!("{asked} panicked (please report this): {message}");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_panic_costs_one_job_and_dropping_finishes_the_rest() {
        let pool = Pool::new("test", 2).unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        for n in 0..100 {
            let done = Arc::clone(&done);
            pool.submit(Asked::of("test", n), move || {
                if n % 10 == 3 {
                    panic!("on purpose");
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), 90);
    }
}
