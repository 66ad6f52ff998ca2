//! The integer transformer and its file.

mod engine;
mod file;
mod import;
#[cfg(test)]
mod tests;

pub use engine::State;
pub use file::{Model, ModelInfo, Shape};
pub use import::{ImportOptions, import, import_with};
