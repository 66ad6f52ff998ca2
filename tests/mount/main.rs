//! Real mounts, used as people and programs use them.
//!
//! Where the machine cannot mount, each test says why it was skipped and
//! passes.

mod acl;
mod crash;
mod crowd;
mod full;
mod harness;
mod killed;
mod lifecycle;
mod memory;
mod posix;
mod programs;
mod suites;
mod sys;
