//! The language model: vocabulary, integer transformer, mixer, entropy coder,
//! lanes.

mod chunk;
pub mod coder;
pub mod mixer;
pub mod model;
pub mod vocabulary;

pub use chunk::{ChunkCoder, Payload};
