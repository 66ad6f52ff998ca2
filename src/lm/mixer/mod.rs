//! Online mixing of the model's prediction with what the chunk has taught.
