//! Tests of the volume as a whole.
