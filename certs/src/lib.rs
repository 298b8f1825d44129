//! Identity made cryptographic: what a certificate says ([`svid`]), whom to trust ([`bundle`]), who the peer may be
//! ([`verifier`]), the TLS configurations made of these ([`tls`]), how a workload gets its certificate and keeps it
//! fresh ([`csr`], [`join`], [`rotation`]), what it signs besides ([`audit`]), and, behind the feature `ca`, who signs
//! (`ca`).
//!
//! Never here: what an identity may do (that is policy), any transport of its own (an issuer is reached through
//! [`rotation::Issuer`]), and signing of other people's certificates without the feature `ca`. There is one
//! cryptographic provider, aws-lc-rs, always passed explicitly and never taken from the process.

pub mod audit;
pub mod bundle;
#[cfg(feature = "ca")]
pub mod ca;
pub mod clock;
pub mod csr;
mod hex;
pub mod join;
pub mod pem;
pub mod rotation;
pub mod svid;
pub mod tls;
pub mod verifier;
pub mod x509;

#[cfg(test)]
mod testing;
