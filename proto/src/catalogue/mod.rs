//! The catalogue: how what servers offer is told apart and found. Not here: who reads it, keeps it, or may use it.

pub mod search;
