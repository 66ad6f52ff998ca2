//! The integer transformer and its file.

mod engine;
mod file;
mod import;
#[cfg(test)]
mod tests;

pub use engine::{MAX_LANES, State};
pub use file::{Model, ModelInfo, Shape};
pub use import::{Comparison, ImportOptions, Imported, import, import_calibrated, import_with};

/// The model that ships with the program: `laconic-s`. A build without it
/// (an empty file) still codes with zstd.
#[inline(never)] // Inlined, its megabytes would stand in the program once for every caller.
pub fn embedded() -> Option<&'static [u8]> {
    const SHIPPED: &[u8] = include_bytes!("../../../models/laconic-s/laconic-s.model");
    (!SHIPPED.is_empty()).then_some(SHIPPED)
}
