//! What tests and benchmarks share: connections as a sidecar makes them.
//!
//! Not here: tests. They stand in the tiers beside this folder.

pub mod link;
