//! The identity service: whoever proves who it is gets a certificate that says so.
//!
//! `attest` decides who somebody is, `limits` how often anybody may ask, `queue` who is served first, `service` puts
//! them together behind gRPC. Not here: the keys and the signing (`weft_certs::ca`), and the exchange of roots (`trust`).

pub mod attest;
pub mod kubernetes;
mod limits;
mod queue;
mod service;
mod sessions;

pub(crate) use limits::Bucket;
pub use limits::Rate;
pub use queue::Priority;
pub use service::{Deps, IdentityService, Settings};
pub use sessions::{Error as SessionsError, SessionSecret};
