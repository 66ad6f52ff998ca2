//! Telling in the log what a program sees as a bare `EIO`: what it asked for,
//! by path, and what went wrong.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fuser::Errno;

use super::errno::Asked;
use super::pool::Pool;
use crate::error::Error;
use crate::volume::Volume;

/// Reports that may wait for their paths; more are made without.
const WAITING: usize = 64;

pub(super) struct Reporter {
    volume: Arc<Volume>,
    /// Of its own, because looking for a path may take long.
    pool: Pool,
    waiting: Arc<AtomicUsize>,
}

impl Reporter {
    pub fn new(volume: Arc<Volume>) -> io::Result<Self> {
        Ok(Self {
            volume,
            pool: Pool::new("reporter", 1)?,
            waiting: Arc::default(),
        })
    }

    /// The errno to answer with. The log hears of the error if that says
    /// little.
    pub fn errno(&self, asked: Asked, error: Error) -> Errno {
        let errno = asked.errno(&error);
        if errno.code() == libc::EIO {
            self.report(asked, error);
        }
        errno
    }

    fn report(&self, asked: Asked, error: Error) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return log::error!("{asked}: {error}");
        }
        let (volume, waiting) = (Arc::clone(&self.volume), Arc::clone(&self.waiting));
        self.pool.submit(asked, move || {
            let path = volume.path(asked.ino()).ok().flatten();
            log::error!("{}: {error}", asked.describe(path.as_deref()));
            waiting.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
