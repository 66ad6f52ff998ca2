//! The drain: coding chunks as small as the codecs can, in the background.

use std::sync::Arc;

use super::Shared;
use super::commit::Swap;
use crate::error::Result;

/// How far a drain has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DrainProgress {
    pub chunks_done: u64,
    pub chunks_total: u64,
    /// Plain bytes.
    pub plain_done: u64,
    pub plain_total: u64,
    /// Bytes of the frames of the chunks done, before and after.
    pub stored_before: u64,
    pub stored_after: u64,
}

#[derive(Default)]
pub(super) struct Control {}

impl Control {
    pub fn stop(&self) {}
    pub fn committed(&self, _swaps: &[Swap]) {}
}

pub(super) fn drain_loop(_shared: &Arc<Shared>) {}

impl Shared {
    pub(super) fn drain(&self, progress: &mut dyn FnMut(&DrainProgress) -> bool) -> Result<()> {
        progress(&DrainProgress::default());
        self.sync()
    }
}
