//! The language model: vocabulary, integer transformer, mixer, entropy coder,
//! lanes.

pub mod coder;
pub mod mixer;
pub mod model;
pub mod vocabulary;
