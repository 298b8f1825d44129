//! The languages that Weft speaks: wire messages, names and identities, the resource model, and the pure functions
//! that both planes decide with.
//!
//! Never here: IO, an async runtime, clocks, randomness. Whatever a function needs to know it is handed.

pub mod audit;
pub mod catalogue;
pub mod compile;
pub mod mcp;
pub mod name;
pub mod offer;
pub mod pb;
pub mod policy;
pub mod resource;
pub mod roster;
pub mod spread;
pub mod trace;
pub mod wire;

#[cfg(test)]
mod testing;
