//! The FUSE adapter: requests to and from the volume. Thin, no logic.
//!
//! Two threads take requests from the kernel. What works on rows alone they
//! answer themselves; what would have to wait for a disk, a decode or room in the
//! write buffer goes with its reply to a worker. We see every change that is
//! made to the volume, and so the kernel may keep names, attributes and pages
//! for as long as it likes.

mod adapter;
mod convert;
mod errno;
mod flags;
mod options;
mod pool;
mod remount;
mod reporter;
mod requests;
mod session;
mod table;
mod writers;

pub use errno::errno;
pub use options::{MountOptions, OPTIONS};
pub use remount::remount;
pub use session::{Session, mount, unmount};
pub use table::{FSTYPE, Mounted, flush, holding, mounted_on, resolve};
