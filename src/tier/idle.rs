//! Priorities of threads.
