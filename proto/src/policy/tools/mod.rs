//! How calls of tools are treated: what tool policies say about one tool, what its definition hashes to and whether it
//! is one that was approved, and what of its arguments is not for logs.
//!
//! Not here: reading definitions of a server, schemas, clocks, and whatever is kept between calls.

pub mod answer;
pub mod canonical;
pub mod definition;
pub mod redact;
mod treatment;

pub use definition::{Definition, digest};
pub use redact::Redaction;
pub use treatment::{Pin, Speaking, Treatment, Treatments};

/// How deep definitions and arguments may be nested. Both come in messages, which have a bound of their own that is no
/// greater by default.
pub const DEPTH_MAX: usize = 64;
