//! The catalogue: how what servers offer is told apart and found. Not here: who reads it, keeps it, or may use it.

pub mod card;
pub mod digest;
mod introduced;
pub mod search;

pub use digest::digest;
pub use introduced::{Introduced, REVISION_BYTES_MAX, REVISIONS_MAX};
