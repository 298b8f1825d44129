//! A workload's key and the signing request for it.
//!
//! The key is made inside aws-lc and stays there: it is never serialized, so it reaches neither a file nor a log nor
//! any buffer of ours, and aws-lc clears its memory when the last handle goes. The request carries the public key and
//! nothing else, because whoever signs decides the name. Where something else keeps a workload's certificate, its key
//! is read from a file instead ([`Key::from_pem`]), and stays here from then on.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData};
use rustls::SignatureScheme;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use zeroize::Zeroizing;

/// Why there is no key, or no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no key could be generated")]
    Generate,
    #[error("the signing request could not be built")]
    Build(#[source] rcgen::Error),
    #[error("the text does not hold an ECDSA P-256 private key in PEM")]
    Load,
}

/// A fresh key and the request to certify it.
#[derive(Debug)]
pub struct Request {
    key: Key,
    der: Vec<u8>,
}

impl Request {
    pub fn generate() -> Result<Self, Error> {
        let key = Key::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let der = params.serialize_request(&key).map_err(Error::Build)?.der().to_vec();
        Ok(Self { key, der })
    }

    /// PKCS#10, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub fn into_key(self) -> Key {
        self.key
    }
}

/// An ECDSA P-256 key that can sign and cannot be read. Clones are the same key.
#[derive(Clone)]
pub struct Key(Arc<EcdsaKeyPair>);

impl Key {
    pub fn generate() -> Result<Self, Error> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| Error::Generate)?;
        Ok(Self(Arc::new(pair)))
    }

    /// Reads a key that something else made: PKCS#8 (`PRIVATE KEY`) or SEC 1 (`EC PRIVATE KEY`).
    pub fn from_pem(text: &[u8]) -> Result<Self, Error> {
        let der = PrivateKeyDer::from_pem_slice(text).map(Zeroizing::new).map_err(|_| Error::Load)?;
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pair = match &*der {
            PrivateKeyDer::Pkcs8(der) => EcdsaKeyPair::from_pkcs8(algorithm, der.secret_pkcs8_der()),
            PrivateKeyDer::Sec1(der) => EcdsaKeyPair::from_private_key_der(algorithm, der.secret_sec1_der()),
            _ => return Err(Error::Load),
        };
        pair.map(|pair| Self(Arc::new(pair))).map_err(|_| Error::Load)
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.0.sign(&SystemRandom::new(), message).ok().map(|signature| signature.as_ref().to_vec())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(ECDSA P-256)")
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Self::sign(self, message).ok_or(rcgen::Error::RemoteKeyError)
    }
}

impl rustls::sign::SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(self.clone()) as Box<dyn rustls::sign::Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.subject_public_key_info()))
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ECDSA
    }
}

impl rustls::sign::Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Self::sign(self, message).ok_or_else(|| rustls::Error::General("signing failed".to_owned()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    use super::*;

    #[test]
    fn a_request_is_signed_by_its_own_key_and_names_nobody() {
        let request = Request::generate().unwrap();
        let (rest, parsed) = X509CertificationRequest::from_der(request.der()).unwrap();
        assert!(rest.is_empty());
        parsed.verify_signature().unwrap();
        assert_eq!(parsed.certification_request_info.subject.iter().count(), 0);
        assert!(parsed.requested_extensions().is_none());
        let public = parsed.certification_request_info.subject_pki.raw;
        assert_eq!(public, request.key.subject_public_key_info());
    }

    #[test]
    fn every_request_has_a_new_key() {
        let public = || Request::generate().unwrap().into_key().subject_public_key_info();
        assert_ne!(public(), public());
    }

    #[test]
    fn a_key_that_something_else_made_is_read_in_either_form() {
        let made = rcgen::KeyPair::generate().unwrap();
        let key = Key::from_pem(made.serialize_pem().as_bytes()).unwrap();
        assert_eq!(key.der_bytes(), made.der_bytes());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, made.serialize_pem()).unwrap();
        let mut openssl = std::process::Command::new("openssl");
        let sec1 = openssl.args(["pkey", "-traditional", "-in"]).arg(&path).output().unwrap();
        assert!(sec1.stdout.starts_with(b"-----BEGIN EC PRIVATE KEY"), "{sec1:?}");
        assert_eq!(Key::from_pem(&sec1.stdout).unwrap().der_bytes(), made.der_bytes());
    }

    #[test]
    fn other_keys_and_other_texts_are_refused() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        let cut = rcgen::KeyPair::generate().unwrap().serialize_pem().replace("END", "FIN");
        for text in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", &p384, &cut] {
            assert!(matches!(Key::from_pem(text.as_bytes()), Err(Error::Load)), "{text}");
        }
    }

    #[test]
    fn debug_never_shows_the_key() {
        let request = Request::generate().unwrap();
        assert_eq!(format!("{:?}", request.key), "Key(ECDSA P-256)");
    }
}
