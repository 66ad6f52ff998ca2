//! TODO: being built.

/// Placeholder for the room that is being built.
pub struct Tier {}
