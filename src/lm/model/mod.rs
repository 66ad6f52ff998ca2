//! The integer transformer and its file.
