//! Callers from outside the mesh: how a gateway knows them, what it says of them to the sidecars beside servers, and what
//! it tells clients and browsers before they call.
//!
//! Whoever is known here may do nothing yet: what they may is decided beside each server, by policies that speak of
//! their claims and tenants. A token ends here; no server is ever shown it.

mod authenticate;
mod certificate;
mod fetch;
pub mod guest;
mod keys;
pub(crate) mod known;
mod metadata;
mod pages;
mod settings;
mod shares;
#[cfg(test)]
mod testing;
mod token;

pub use authenticate::{Authenticator, Parts, Verified};
pub use certificate::{Certificate, Error as CertificateError};
pub use guest::{Guest, is_of_token};
pub use metadata::asked;
pub use pages::{Pages, allow, is_preflight, preflight};
pub use settings::{Gateway, KeyFetching, PublicUrl, TlsFiles};
pub use shares::{Share, Shares};
