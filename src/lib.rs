//! laconicfs keeps files as chunks coded by a language model.
//!
//! The rooms, each knowing only those below it:
//!
//! | room | what it does |
//! |---|---|
//! | [`mount`] | the FUSE adapter: requests to and from the volume |
//! | [`volume`] | POSIX: inodes, names, ranges, xattrs; runs without FUSE |
//! | [`tier`] | chunks: write buffer, commits, hot tier, drain, cache, readahead |
//! | [`codec`] | raw, zstd, mix, lm; the choice between them; the chunk frame |
//! | [`lm`] | vocabulary, integer transformer, mixer, entropy coder, lanes |
//! | [`kernel`] | the integer arithmetic, scalar and SIMD |
//! | [`store`] | atomic key-value batches and value logs |
//!
//! [`filesystem`] puts them together, told by [`config`]; [`usage`] says what files take; the commands of the binary live in
//! [`cli`], and talk to a mounted store through [`control`].

pub mod backup;
pub mod cli;
pub mod codec;
pub mod config;
pub mod control;
pub mod error;
pub mod filesystem;
pub mod interrupt;
pub mod kernel;
pub mod lm;
pub mod memory;
pub mod metrics;
pub mod mount;
pub mod parallel;
pub mod store;
pub mod tier;
pub mod usage;
pub mod volume;

pub use error::{Error, Result};
