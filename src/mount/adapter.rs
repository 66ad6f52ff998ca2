//! The volume behind a mount, and the threads that serve it.

use std::sync::Arc;

use fuser::{InitFlags, KernelConfig, ReplyEmpty};

use super::convert::Refuse;
use super::errno::Asked;
use super::options::MountOptions;
use super::pool::{Pool, guard};
use super::reporter::Reporter;
use super::writers::Writers;
use crate::error::{Error, Result};
use crate::volume::Volume;

/// Bytes of the largest write.
const MAX_WRITE: u32 = 1 << 20;
/// Threads that wait for the disk.
const WAITERS: usize = 16;

pub(super) struct Adapter {
    pub volume: Arc<Volume>,
    /// The same volume, which answers [`Error::WouldBlock`] instead of waiting.
    pub now: Arc<Volume>,
    /// Wait for a value or a decode: about as many as there are processors.
    pub readers: Pool,
    /// Wait for the disk or for room: many, so that they share commits.
    pub waiters: Pool,
    /// Asks the kernel for its dirty pages. One of its own, because the
    /// answer may need every other thread.
    pub flusher: Pool,
    pub writeback: bool,
    /// Whether the kernel enforces access control lists.
    pub lists: bool,
    /// See [`MountOptions::background`].
    pub background: u16,
    pub writers: Arc<Writers>,
    pub reporter: Arc<Reporter>,
}

impl Adapter {
    pub fn new(volume: Arc<Volume>, options: &MountOptions, writers: Arc<Writers>) -> Result<Self> {
        let processors = crate::parallel::available();
        let reporter =
            Reporter::new(Arc::clone(&volume)).map_err(Error::io("starting a thread"))?;
        let volume = volume.counting();
        let pool = |name, threads| Pool::new(name, threads).map_err(Error::io("starting a thread"));
        Ok(Self {
            now: volume.now(),
            volume,
            readers: pool("reader", processors.max(4))?,
            waiters: pool("waiter", WAITERS)?,
            flusher: pool("flusher", 1)?,
            writeback: options.writeback_cache,
            lists: options.default_permissions,
            background: options.background.max(1),
            writers,
            reporter: Arc::new(reporter),
        })
    }

    /// Agrees with the kernel on how to work together.
    pub fn agree(&mut self, config: &mut KernelConfig) {
        // Not `FUSE_ATOMIC_O_TRUNC`: with it the kernel has O_RDONLY | O_TRUNC
        // empty a program that is running before it answers ETXTBSY.
        let mut wanted = vec![
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            // Else each write would cost a request for the capabilities.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_HAS_IOCTL_DIR,
        ];
        if self.writeback {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        // Without these a list would be kept but not obeyed.
        let lists = InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK;
        self.lists &= config.capabilities().contains(lists);
        if self.lists {
            wanted.push(lists);
        }
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                log::debug!("this kernel lacks {flag:?}");
            }
        }
        self.writeback &= config
            .capabilities()
            .contains(InitFlags::FUSE_WRITEBACK_CACHE);
        // Refused values leave what the kernel offered.
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(self.background);
    }

    /// Answers a request: at once if `op` need not wait, else from a thread
    /// of `pool`. A panic ends in the log, and the reply, dropped unused, in
    /// an EIO.
    pub fn serve<R: Refuse, T>(
        &self,
        pool: &Pool,
        asked: Asked,
        reply: R,
        op: impl Fn(&Volume) -> Result<T> + Send + 'static,
        send: impl FnOnce(R, T) + Send + 'static,
    ) {
        let reporter = Arc::clone(&self.reporter);
        let answer = move |reply: R, result| match result {
            Ok(value) => send(reply, value),
            Err(error) => reply.refuse(reporter.errno(asked, error)),
        };
        guard(asked, || match op(&self.now) {
            Err(Error::WouldBlock) => {
                let volume = Arc::clone(&self.volume);
                pool.submit(asked, move || answer(reply, op(&volume)));
            }
            result => answer(reply, result),
        });
    }

    /// As [`serve`](Self::serve), for what waits for the disk in any case.
    pub fn wait<R: Refuse, T>(
        &self,
        asked: Asked,
        reply: R,
        op: impl FnOnce(&Volume) -> Result<T> + Send + 'static,
        send: impl FnOnce(R, T) + Send + 'static,
    ) {
        let (volume, reporter) = (Arc::clone(&self.volume), Arc::clone(&self.reporter));
        self.waiters.submit(asked, move || match op(&volume) {
            Ok(value) => send(reply, value),
            Err(error) => reply.refuse(reporter.errno(asked, error)),
        });
    }

    pub fn close(&self, ino: u64, reply: ReplyEmpty) {
        guard(Asked::of("release", ino), || {
            self.volume.release(ino);
            reply.ok();
        });
    }

    pub fn sync(&self, what: &'static str, ino: u64, reply: ReplyEmpty) {
        let op = move |volume: &Volume| volume.sync_file(ino);
        self.wait(Asked::of(what, ino), reply, op, |reply, ()| reply.ok());
    }

    /// Has `list` add what follows `cookie` to the reply, and sends it.
    pub fn list<R: Refuse>(
        &self,
        asked: Asked,
        cookie: u64,
        mut reply: R,
        list: fn(&Volume, u64, u64, &mut R) -> Result<()>,
        send: fn(R),
    ) {
        let ino = asked.ino();
        guard(asked, || match list(&self.now, ino, cookie, &mut reply) {
            Ok(()) => send(reply),
            // Nothing was added.
            Err(Error::WouldBlock) => {
                let (volume, reporter) = (Arc::clone(&self.volume), Arc::clone(&self.reporter));
                self.waiters.submit(asked, move || {
                    match list(&volume, ino, cookie, &mut reply) {
                        Ok(()) => send(reply),
                        Err(error) => reply.refuse(reporter.errno(asked, error)),
                    }
                });
            }
            Err(error) => reply.refuse(self.reporter.errno(asked, error)),
        });
    }
}
