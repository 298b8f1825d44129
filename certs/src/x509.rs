//! What holds for every certificate of the mesh, be it a leaf, an issuer or a root: it is one well-formed version 3
//! certificate with a strong key and a strong signature algorithm.
//!
//! Not here: whether a signature is right. Paths are verified by webpki, in [`crate::verifier`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::oid;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry as registry;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Version};

/// Longest accepted certificate.
pub const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// Shortest accepted RSA key.
pub const RSA_BITS_MIN: usize = 2048;
/// Longest accepted RSA key: longer ones only make the other side work.
pub const RSA_BITS_MAX: usize = 8192;

/// Why a certificate is not one that the mesh looks at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("is {len} bytes long; at most {CERTIFICATE_BYTES_MAX} are allowed")]
    TooLong { len: usize },
    #[error("is not a well-formed X.509 certificate: {0}")]
    Malformed(&'static str),
    #[error("is not an X.509 version 3 certificate")]
    Version,
    #[error("carries the same extension twice")]
    DuplicateExtension,
    #[error("has a serial number that is not a positive number of at most 20 bytes")]
    Serial,
    #[error("becomes valid after it expires")]
    ValidityReversed,
    #[error("is signed with the broken algorithm {0}")]
    WeakSignature(&'static str),
    #[error("is signed with an algorithm that is not accepted")]
    UnsupportedSignature,
    #[error("has an RSA key of {bits} bits; expected {RSA_BITS_MIN} to {RSA_BITS_MAX}")]
    RsaKeySize { bits: usize },
    #[error("has a key that is none of ECDSA P-256, ECDSA P-384, Ed25519, RSA")]
    UnsupportedKey,
    #[error("is not a CA certificate (basicConstraints CA=true)")]
    NotACa,
    #[error("is a CA certificate whose key usage does not allow to sign certificates")]
    NoKeyCertSign,
}

/// A certificate's serial number: lower-case hexadecimal without leading zeros.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Arc<str>);

impl Serial {
    /// Longest serial number, in hexadecimal digits.
    pub const DIGITS_MAX: usize = 40;

    pub fn parse(text: &str) -> Result<Self, Error> {
        let digits = text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        if text.is_empty() || text.len() > Self::DIGITS_MAX || !digits || text.starts_with('0') {
            return Err(Error::Serial);
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a certificate and holds it to what every certificate of the mesh obeys.
/// From when until when a certificate holds.
pub fn validity(der: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), Error> {
    let certificate = parse(der)?;
    Ok((time(certificate.validity().not_before), time(certificate.validity().not_after)))
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(Error::TooLong { len: der.len() });
    }
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| Error::Malformed("its DER cannot be read"))?;
    if !rest.is_empty() {
        return Err(Error::Malformed("bytes follow it"));
    }
    if certificate.version() != X509Version::V3 {
        return Err(Error::Version);
    }
    if certificate.extensions_map().is_err() {
        return Err(Error::DuplicateExtension);
    }
    if certificate
        .extensions()
        .iter()
        .any(|e| matches!(e.parsed_extension(), ParsedExtension::ParseError { .. }))
    {
        return Err(Error::Malformed("an extension cannot be read"));
    }
    if certificate.validity().not_before > certificate.validity().not_after {
        return Err(Error::ValidityReversed);
    }
    check_signature_algorithm(&certificate.signature_algorithm)?;
    check_key(certificate.public_key(), RSA_BITS_MAX)?;
    Ok(certificate)
}

/// Whether this is a certificate that may issue others; its signature and time are not looked at.
pub(crate) fn check_issuer(der: &CertificateDer<'_>) -> Result<(), Error> {
    check_ca(&parse(der)?)
}

pub(crate) fn check_ca(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    if !certificate.is_ca() {
        return Err(Error::NotACa);
    }
    let usage = certificate.key_usage().map_err(|_| Error::Malformed("its key usage cannot be read"))?;
    match usage {
        Some(usage) if usage.value.key_cert_sign() => Ok(()),
        Some(_) | None => Err(Error::NoKeyCertSign),
    }
}

pub(crate) fn serial(certificate: &X509Certificate<'_>) -> Result<Serial, Error> {
    let raw = certificate.raw_serial();
    if raw.first().is_none_or(|first| first & 0x80 != 0) {
        return Err(Error::Serial);
    }
    Serial::parse(crate::hex::encode(raw).trim_start_matches('0'))
}

pub(crate) fn time(time: ASN1Time) -> SystemTime {
    let secs = time.timestamp();
    let distance = Duration::from_secs(secs.unsigned_abs());
    let moved = if secs < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    moved.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Known broken algorithms are named, since that is what an operator must mend; the rest is simply not accepted.
pub(crate) fn check_signature_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> Result<(), Error> {
    let id = &algorithm.algorithm;
    let accepted = [
        registry::OID_SIG_ECDSA_WITH_SHA256,
        registry::OID_SIG_ECDSA_WITH_SHA384,
        registry::OID_SIG_ECDSA_WITH_SHA512,
        registry::OID_SIG_ED25519,
        registry::OID_PKCS1_SHA256WITHRSA,
        registry::OID_PKCS1_SHA384WITHRSA,
        registry::OID_PKCS1_SHA512WITHRSA,
        registry::OID_PKCS1_RSASSAPSS,
    ];
    if accepted.contains(id) {
        return Ok(());
    }
    let broken = [
        (registry::OID_PKCS1_SHA1WITHRSA, "RSA with SHA-1"),
        (registry::OID_SHA1_WITH_RSA, "RSA with SHA-1"),
        (registry::OID_PKCS1_MD5WITHRSAENC, "RSA with MD5"),
        (oid!(1.2.840.10045.4.1), "ECDSA with SHA-1"),
    ];
    match broken.into_iter().find(|(oid, _)| oid == id) {
        Some((_, name)) => Err(Error::WeakSignature(name)),
        None => Err(Error::UnsupportedSignature),
    }
}

pub(crate) fn check_key(key: &SubjectPublicKeyInfo<'_>, rsa_bits_max: usize) -> Result<(), Error> {
    let id = &key.algorithm.algorithm;
    if *id == registry::OID_SIG_ED25519 {
        return Ok(());
    }
    if *id == registry::OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        return match curve {
            Some(curve) if curve == registry::OID_EC_P256 || curve == registry::OID_NIST_EC_P384 => Ok(()),
            Some(_) | None => Err(Error::UnsupportedKey),
        };
    }
    if *id == registry::OID_PKCS1_RSAENCRYPTION {
        let Ok(PublicKey::RSA(rsa)) = key.parsed() else { return Err(Error::UnsupportedKey) };
        let bits = bits(rsa.modulus);
        if !(RSA_BITS_MIN..=rsa_bits_max).contains(&bits) {
            return Err(Error::RsaKeySize { bits });
        }
        return Ok(());
    }
    Err(Error::UnsupportedKey)
}

/// Length of an unsigned big-endian number.
fn bits(number: &[u8]) -> usize {
    match number.iter().position(|byte| *byte != 0) {
        Some(start) => (number.len() - start) * 8 - number[start].leading_zeros() as usize,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_have_one_spelling() {
        assert_eq!(Serial::parse("1f").expect("valid").as_str(), "1f");
        for bad in ["", "0", "01", "1F", "0x1", "1 ", "-1", &"f".repeat(41)] {
            assert_eq!(Serial::parse(bad), Err(Error::Serial), "{bad}");
        }
    }

    #[test]
    fn bits_are_counted_without_leading_zeros() {
        assert_eq!(bits(&[0, 0x80, 0]), 16);
        assert_eq!(bits(&[0x01, 0]), 9);
        assert_eq!(bits(&[0, 0]), 0);
    }
}
