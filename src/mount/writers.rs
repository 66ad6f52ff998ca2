//! Files of which the kernel may hold bytes that we have not seen.
//!
//! With the writeback cache a write ends in the kernel's pages first. The
//! kernel sends them before it asks for anything that depends on them, with
//! one exception: where the data of a file is (lseek(2) with `SEEK_DATA` and
//! `SEEK_HOLE`). There we have to ask the kernel for the pages.

use std::collections::HashMap;
use std::sync::OnceLock;

use fuser::{FileHandle, INodeNo, Notifier};
use parking_lot::Mutex;

/// Counts handles that may write, by inode.
#[derive(Default)]
pub(super) struct Writers {
    open: Mutex<HashMap<u64, u32>>,
    notifier: OnceLock<Notifier>,
}

impl Writers {
    /// To be called once the session is there.
    pub fn set_notifier(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// Counts a file just opened and returns the handle to give to the kernel.
    pub fn opened(&self, ino: u64, writes: bool) -> FileHandle {
        if writes {
            *self.open.lock().entry(ino).or_default() += 1;
        }
        FileHandle(u64::from(writes))
    }

    /// The end of a handle that [`opened`](Self::opened) returned. The kernel
    /// has sent every page by then.
    pub fn released(&self, ino: u64, handle: FileHandle) {
        if handle.0 != 0 {
            let mut open = self.open.lock();
            if let Some(count) = open.get_mut(&ino) {
                *count -= 1;
                if *count == 0 {
                    open.remove(&ino);
                }
            }
        }
    }

    pub fn any(&self, ino: u64) -> bool {
        self.open.lock().contains_key(&ino)
    }

    /// Has the kernel write and drop its pages of the file. Waits for requests
    /// that other threads have to answer: not for a thread that they need.
    pub fn collect(&self, ino: u64) -> std::io::Result<()> {
        match self.notifier.get() {
            Some(notifier) => notifier.inval_inode(INodeNo(ino), 0, 0),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_writers_until_the_last_of_their_handles_is_released() {
        let writers = Writers::default();
        let reads = writers.opened(7, false);
        assert!(!writers.any(7));
        let (first, second) = (writers.opened(7, true), writers.opened(7, true));
        writers.released(7, reads);
        writers.released(7, first);
        assert!(writers.any(7) && !writers.any(8));
        writers.released(7, second);
        assert!(!writers.any(7));
    }
}
