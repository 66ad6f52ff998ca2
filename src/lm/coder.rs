//! The binary arithmetic coder.
