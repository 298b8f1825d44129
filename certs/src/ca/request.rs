//! A signing request as a stranger sends it, reduced to the one thing that is taken from it: a public key whose holder
//! signed the request.
//!
//! Names, extensions and attributes in a request are never looked at.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::x509;

/// Longest accepted request: an RSA key of 4096 bits with names to spare.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024;
/// Longest RSA key that is certified; checking longer ones is work that a stranger should not be able to order.
pub const RSA_BITS_MAX: usize = 4096;

/// Why a request is not fulfilled. All of these are the requester's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("signing request is {len} bytes long; at most {REQUEST_BYTES_MAX} are allowed")]
    TooLong { len: usize },
    #[error("signing request is not well-formed PKCS#10")]
    Malformed,
    #[error("signing request is followed by other bytes")]
    TrailingBytes,
    #[error("signing request {0}")]
    Key(#[source] x509::Error),
    #[error("signing request is not signed by the key that it carries")]
    BadSignature,
}

/// A public key whose holder asked for a certificate. Only [`check`] makes one.
#[derive(Debug)]
pub struct Checked(pub(crate) SubjectPublicKeyInfo);

/// Reads a request (DER) and proves that whoever made it holds the key.
pub fn check(der: &[u8]) -> Result<Checked, Error> {
    if der.len() > REQUEST_BYTES_MAX {
        return Err(Error::TooLong { len: der.len() });
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| Error::Malformed)?;
    if !rest.is_empty() {
        return Err(Error::TrailingBytes);
    }
    let key = &request.certification_request_info.subject_pki;
    x509::check_key(key, RSA_BITS_MAX).map_err(Error::Key)?;
    x509::check_signature_algorithm(&request.signature_algorithm).map_err(Error::Key)?;
    request.verify_signature().map_err(|_| Error::BadSignature)?;
    let key = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| Error::Key(x509::Error::UnsupportedKey))?;
    Ok(Checked(key))
}
