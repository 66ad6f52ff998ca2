//! Backup and moving: the contents of a volume to and from plain files.
//!
//! [`copy`] takes one [`Tree`] to another, whatever the two are: [`Plain`]
//! files, or the [`Stored`] ones of a volume that is not mounted. Both work
//! without FUSE; a mounted volume is a tree of plain files.
//!
//! [`send`] writes a snapshot as a [stream], and [`Stream`] takes it into
//! another store, chunks coded as they are.

mod copy;
mod plain;
mod receive;
mod send;
mod stored;
pub mod stream;
#[cfg(test)]
mod tests;
mod tree;

pub use copy::{Copied, CopyOptions, Failure, LeftOut, copy, measure};
pub use plain::Plain;
pub use receive::{CutOff, ReceiveOptions, Received, Stream};
pub use send::{SendOptions, Sent, send};
pub use stored::Stored;
pub use tree::{Meta, Tree};
