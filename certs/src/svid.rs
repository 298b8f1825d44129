//! The leaf certificate of a workload, read by the rules of SPIFFE: its one identity and its facts.
//!
//! Not here: whether anyone trusts it. A [`Leaf`] says what a certificate claims; [`crate::verifier`] says whether the
//! claim holds. The common name is never looked at for identity, and neither are DNS names.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use weft_proto::name::{self, SpiffeId};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::x509;
pub use crate::x509::Serial;

/// What a well-formed workload certificate claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    pub spiffe_id: SpiffeId,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub serial: Serial,
}

impl Leaf {
    /// Reads a certificate and holds it to every rule for leaves. Signatures and the time are not looked at.
    pub fn inspect(der: &CertificateDer<'_>) -> Result<Self, Error> {
        let certificate = x509::parse(der)?;
        check_constraints(&certificate)?;
        check_key_usage(&certificate)?;
        check_extended_key_usage(&certificate)?;
        Ok(Self {
            spiffe_id: identity(&certificate)?,
            not_before: x509::time(certificate.validity().not_before),
            not_after: x509::time(certificate.validity().not_after),
            serial: x509::serial(&certificate)?,
        })
    }

    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// Which rule a leaf certificate breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("certificate {0}")]
    Certificate(#[from] x509::Error),
    #[error("certificate carries no URI name, so it has no identity")]
    NoUriName,
    #[error("certificate carries only a common name, which is never an identity")]
    CommonNameOnly,
    #[error("certificate carries {count} URI names; expected exactly one")]
    SeveralUriNames { count: usize },
    #[error("certificate has an empty subject, and its subject alternative names are not critical")]
    NamesNotCritical,
    #[error("certificate carries a name with a NUL byte")]
    NulInName,
    #[error("certificate carries a name with characters outside ASCII")]
    NonAsciiName,
    #[error("certificate carries a name that cannot be read")]
    UnreadableName,
    #[error("certificate carries a wildcard as its URI name")]
    WildcardUri,
    #[error("certificate carries a wildcard as a DNS name")]
    WildcardDns,
    #[error("certificate's URI name is not a SPIFFE ID: {0}")]
    SpiffeId(#[source] name::Error),
    #[error("certificate is a CA certificate, which is never an identity")]
    Ca,
    #[error("certificate carries no key usage")]
    NoKeyUsage,
    #[error("certificate's key usage is not critical")]
    KeyUsageNotCritical,
    #[error("certificate's key usage does not hold digitalSignature")]
    NoDigitalSignature,
    #[error("certificate's key usage holds keyCertSign")]
    KeyCertSign,
    #[error("certificate's key usage holds cRLSign")]
    CrlSign,
    #[error("certificate's extended key usage does not hold serverAuth")]
    NoServerAuth,
    #[error("certificate's extended key usage does not hold clientAuth")]
    NoClientAuth,
}

const UNREADABLE: Error = Error::Certificate(x509::Error::Malformed("an extension cannot be read"));

fn check_constraints(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    match certificate.basic_constraints().map_err(|_| UNREADABLE)? {
        Some(constraints) if constraints.value.ca => Err(Error::Ca),
        Some(_) | None => Ok(()),
    }
}

fn check_key_usage(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    let usage = certificate.key_usage().map_err(|_| UNREADABLE)?.ok_or(Error::NoKeyUsage)?;
    if !usage.critical {
        return Err(Error::KeyUsageNotCritical);
    }
    if usage.value.key_cert_sign() {
        return Err(Error::KeyCertSign);
    }
    if usage.value.crl_sign() {
        return Err(Error::CrlSign);
    }
    if !usage.value.digital_signature() {
        return Err(Error::NoDigitalSignature);
    }
    Ok(())
}

fn check_extended_key_usage(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    let Some(usage) = certificate.extended_key_usage().map_err(|_| UNREADABLE)? else { return Ok(()) };
    if !usage.value.server_auth {
        return Err(Error::NoServerAuth);
    }
    if !usage.value.client_auth {
        return Err(Error::NoClientAuth);
    }
    Ok(())
}

fn identity(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Error> {
    let Some(names) = certificate.subject_alternative_name().map_err(|_| UNREADABLE)? else {
        let named = certificate.subject().iter_common_name().next().is_some();
        return Err(if named { Error::CommonNameOnly } else { Error::NoUriName });
    };
    if !names.critical && certificate.subject().iter().next().is_none() {
        return Err(Error::NamesNotCritical);
    }
    let mut uris = Vec::new();
    for name in &names.value.general_names {
        check_name(name)?;
        if let GeneralName::URI(uri) = name {
            uris.push(*uri);
        }
    }
    match uris[..] {
        [] => Err(Error::NoUriName),
        [uri] if uri.contains('*') => Err(Error::WildcardUri),
        [uri] => SpiffeId::parse(uri).map_err(Error::SpiffeId),
        _ => Err(Error::SeveralUriNames { count: uris.len() }),
    }
}

/// Every name is held to the characters that a name can have, not only the one that becomes the identity: other
/// software may look at the others.
fn check_name(name: &GeneralName<'_>) -> Result<(), Error> {
    let check_text = |text: &[u8]| {
        if text.contains(&0) {
            return Err(Error::NulInName);
        }
        if !text.is_ascii() {
            return Err(Error::NonAsciiName);
        }
        Ok(())
    };
    match name {
        GeneralName::DNSName(name) => {
            check_text(name.as_bytes())?;
            if name.contains('*') { Err(Error::WildcardDns) } else { Ok(()) }
        }
        GeneralName::RFC822Name(name) | GeneralName::URI(name) => check_text(name.as_bytes()),
        GeneralName::Invalid(_, bytes) => check_text(bytes).and(Err(Error::UnreadableName)),
        GeneralName::OtherName(..)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::IPAddress(_)
        | GeneralName::RegisteredID(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
