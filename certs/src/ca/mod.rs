//! Who signs: the mesh's own authority ([`own`]), or an issuer that something else keeps in files ([`external`]).
//!
//! Both sign through an [`issuer::Issuer`], which takes nothing but the public key from a request ([`request`]); the
//! name comes from whoever calls. Private keys rest encrypted ([`vault`]). Compiled only with the feature `ca`, so
//! that no sidecar holds code that could sign. Not here: who may have which name.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use weft_proto::name::SpiffeId;

use crate::bundle::{Bundle, Fingerprint};

pub mod external;
mod files;
pub mod founding;
pub mod issuer;
mod manifest;
pub mod own;
pub mod request;
pub mod vault;

pub use external::External;
pub use issuer::{Issued, Issuer, Limits};
pub use own::Ca;
pub use vault::Kek;

/// Whichever authority signs for this mesh.
#[derive(Debug, Clone)]
pub enum Signer {
    Own(Arc<Ca>),
    External(Arc<External>),
}

impl Signer {
    /// The issuer in force.
    pub fn issuer(&self) -> Arc<Issuer> {
        match self {
            Self::Own(ca) => ca.issuer(),
            Self::External(external) => external.issuer(),
        }
    }

    /// The roots to trust from now on, with what is revoked.
    pub fn bundle(&self) -> Bundle {
        match self {
            Self::Own(ca) => ca.bundle(),
            Self::External(external) => external.bundle(),
        }
    }

    /// The fingerprint that join tokens carry: of the root that the issuer in force leads to.
    pub fn root(&self) -> Fingerprint {
        Fingerprint::of(self.issuer().root())
    }

    /// See [`Issuer::issue`].
    pub fn issue(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        dns_names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, issuer::Error> {
        self.issuer().issue(csr, id, dns_names, lifetime, now)
    }
}

/// A chain with its root at the end, as servers send it to those who know only the root's fingerprint.
pub fn with_root(
    chain: &[CertificateDer<'static>],
    root: &CertificateDer<'static>,
) -> Vec<CertificateDer<'static>> {
    chain.iter().chain([root]).cloned().collect()
}

#[cfg(test)]
mod tests;
