//! A root and an intermediate as pairs of texts, for where something else keeps them and seals them at rest: secrets of a
//! cluster, in the form that cert-manager gives them.
//!
//! Not here: the authority that keeps its own folder ([`super::own`]), and reading the pairs again, which is
//! [`super::external`]'s.

use std::fmt;
use std::time::SystemTime;

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use weft_proto::name::TrustDomain;
use zeroize::Zeroizing;

use super::issuer::{self, Limits, Unusable};
use super::own::{self, INTERMEDIATE_LIFETIME, ROOT_LIFETIME, authority_params, pem};
use crate::x509;

/// Why there is no pair.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a certificate of the authority could not be signed")]
    Sign(#[from] issuer::Error),
    #[error("a certificate of the authority could not be described")]
    Params(#[source] Box<own::Error>),
    #[error("the root's certificate and key are not well-formed PEM")]
    Pem,
    #[error("the root's certificate and its key cannot sign")]
    Unusable(#[from] Unusable),
}

/// A certificate with its private key, as PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: Zeroizing<String>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Makes a root of ten years.
pub fn root(trust_domain: &TrustDomain, now: SystemTime) -> Result<Pair, Error> {
    let key = new_key()?;
    let begins = now - Limits::default().backdate();
    let name = format!("Weft root of {trust_domain}");
    let params = authority_params(&name, 1, begins, now + ROOT_LIFETIME).map_err(described)?;
    let signed = params.self_signed(&key).map_err(issuer::Error::Sign)?;
    Ok(pair(&CertificateDer::from(signed), &key))
}

/// Makes an intermediate of a year under a root, or of what is left of the root.
pub fn intermediate(root: &Pair, trust_domain: &TrustDomain, now: SystemTime) -> Result<Pair, Error> {
    let certificate = CertificateDer::from_pem_slice(root.certificate.as_bytes()).map_err(|_| Error::Pem)?;
    let parsed = x509::parse(&certificate).map_err(Unusable::from)?;
    x509::check_ca(&parsed).map_err(Unusable::from)?;
    let root_key = KeyPair::from_pem(&root.key).map_err(|_| Error::Pem)?;
    if *parsed.public_key().subject_public_key.data != *rcgen::PublicKeyData::der_bytes(&root_key) {
        return Err(Unusable::KeyMismatch.into());
    }
    let not_after = (now + INTERMEDIATE_LIFETIME).min(x509::time(parsed.validity().not_after));
    let signer = rcgen::Issuer::from_ca_cert_der(&certificate, root_key).map_err(|_| Unusable::Name)?;
    let key = new_key()?;
    let begins = now - Limits::default().backdate();
    let name = format!("Weft issuer of {trust_domain}");
    let params = authority_params(&name, 0, begins, not_after).map_err(described)?;
    let signed = params.signed_by(&key, &signer).map_err(issuer::Error::Sign)?;
    Ok(pair(&CertificateDer::from(signed), &key))
}

fn new_key() -> Result<KeyPair, issuer::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(issuer::Error::Sign)
}

fn described(error: own::Error) -> Error {
    Error::Params(Box::new(error))
}

fn pair(certificate: &CertificateDer<'_>, key: &KeyPair) -> Pair {
    Pair { certificate: pem(certificate), key: Zeroizing::new(key.serialize_pem()) }
}

#[cfg(test)]
mod tests {
    use super::super::external::{self, Files};
    use super::*;
    use crate::testing::{DAY, domain, now};

    fn files(issuer: &Pair, root: &Pair) -> Files {
        Files {
            certificate: issuer.certificate.clone().into_bytes(),
            key: Zeroizing::new(issuer.key.as_bytes().to_vec()),
            roots: root.certificate.clone().into_bytes(),
        }
    }

    #[test]
    fn a_founded_issuer_is_one_that_files_could_hold() {
        let domain = domain("mesh.test");
        let root = root(&domain, now()).unwrap();
        let issuer = intermediate(&root, &domain, now()).unwrap();
        external::load(&files(&issuer, &root), &domain, Limits::default(), now()).unwrap();
        assert!(!format!("{issuer:?}").contains("PRIVATE"));
    }

    #[test]
    fn an_intermediate_under_another_root_or_key_is_none() {
        let domain = domain("mesh.test");
        let (one, other) = (root(&domain, now()).unwrap(), root(&domain, now()).unwrap());
        let issuer = intermediate(&one, &domain, now()).unwrap();
        external::load(&files(&issuer, &other), &domain, Limits::default(), now()).unwrap_err();
        let mixed = Pair { key: other.key, ..one };
        let refused = intermediate(&mixed, &domain, now()).unwrap_err();
        assert!(matches!(refused, Error::Unusable(Unusable::KeyMismatch)), "{refused}");
    }

    #[test]
    fn an_intermediate_ends_with_its_root_at_the_latest() {
        let domain = domain("mesh.test");
        let root = root(&domain, now()).unwrap();
        let issuer = intermediate(&root, &domain, now() + ROOT_LIFETIME - DAY).unwrap();
        let end = |pair: &Pair| {
            let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
            x509::time(x509::parse(&der).unwrap().validity().not_after)
        };
        assert_eq!(end(&issuer), end(&root));
    }
}
