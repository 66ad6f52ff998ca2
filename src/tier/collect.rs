//! Collecting value logs.
