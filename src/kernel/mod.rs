//! The integer arithmetic.

mod wide;

pub use wide::{Width, prefetch, wide};
