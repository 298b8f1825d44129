//! The fuzz targets as plain functions of bytes. A target panics when something that must hold does not; whatever it is
//! given, it must not panic otherwise, nor hang, nor take much memory.
//!
//! Not here: libFuzzer, which only the binaries in `targets/` know. The tests of this crate replay `corpus/`, so an
//! input that once broke something is added there and stays a test.

mod classify;
mod csr;
mod headers;
mod injection;
mod resources;
mod snapshot;
mod spiffe;
mod sse;
mod stdio;
mod trail;
mod wire;
mod xds;

pub use classify::classify;
pub use csr::csr;
pub use headers::headers;
pub use injection::injection;
pub use resources::resources;
pub use snapshot::snapshot;
pub use spiffe::spiffe;
pub use sse::sse;
pub use stdio::stdio;
pub use trail::trail;
pub use wire::wire;
pub use xds::xds;

#[cfg(test)]
mod tests;
