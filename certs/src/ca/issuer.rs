//! One issuing certificate with its key, ready to sign: immutable, and safe to use from many threads at once.
//!
//! Every certificate that it signs has the same shape; nothing of the request but the public key gets in. What it
//! hands out has been read by the rules that the other side will apply.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SigningKey,
};
use rustls_pki_types::{CertificateDer, DnsName};
use weft_proto::name::{SpiffeId, TrustDomain};
use zeroize::Zeroize;

use super::request;
use crate::svid::{self, Leaf};
use crate::tls::CONTROL_PLANE_PATH;
use crate::x509;

/// Most DNS names in one certificate.
pub const DNS_NAMES_MAX: usize = 16;

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Request(#[from] request::Error),
    #[error("{id} lies outside the trust domain {trust_domain} that is signed for")]
    TrustDomain { id: SpiffeId, trust_domain: TrustDomain },
    #[error("only the control plane itself can have DNS names in its certificate")]
    DnsNamesRefused,
    #[error("DNS name {index} is not a host name without wildcards")]
    DnsName { index: usize },
    #[error("{count} DNS names; at most {DNS_NAMES_MAX} are allowed")]
    TooManyDnsNames { count: usize },
    #[error("the issuer's own certificate has less left than the shortest lifetime")]
    IssuerExpires { not_after: SystemTime },
    #[error("the issuer's own certificate is not valid yet")]
    IssuerNotYetValid { not_before: SystemTime },
    #[error("the certificate could not be signed")]
    Sign(#[source] rcgen::Error),
    #[error("the system has no random numbers")]
    Random,
    #[error("the signed certificate breaks the rules for leaves: {0}")]
    Leaf(#[from] svid::Error),
    #[error("the lifetimes are not {0}")]
    Limits(&'static str),
}

/// How long leaves live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    lifetime_min: Duration,
    lifetime_max: Duration,
    backdate: Duration,
}

impl Limits {
    /// `backdate` is how far in the past a leaf begins, so that clocks may differ: one to five minutes.
    pub fn new(lifetime_min: Duration, lifetime_max: Duration, backdate: Duration) -> Result<Self, Error> {
        if lifetime_min < Duration::from_secs(1) || lifetime_max < lifetime_min {
            return Err(Error::Limits("at least a second, the shortest not above the longest"));
        }
        if lifetime_max > Duration::from_secs(90 * 86_400) {
            return Err(Error::Limits("at most 90 days"));
        }
        if !(Duration::from_secs(60)..=Duration::from_secs(300)).contains(&backdate) {
            return Err(Error::Limits("backdated by one to five minutes"));
        }
        Ok(Self { lifetime_min, lifetime_max, backdate })
    }

    pub fn backdate(&self) -> Duration {
        self.backdate
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lifetime_min: Duration::from_secs(300),
            lifetime_max: Duration::from_secs(24 * 3600),
            backdate: Duration::from_secs(120),
        }
    }
}

/// What was signed.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first, then intermediates; never the root.
    pub chain: Vec<CertificateDer<'static>>,
    pub leaf: Leaf,
    /// The root that the chain leads to.
    pub root: CertificateDer<'static>,
}

/// A private key of an authority. The buffer that it was read from is cleared when it goes.
pub(crate) struct CaKey(KeyPair);

impl CaKey {
    pub(crate) fn new(pair: KeyPair) -> Self {
        Self(pair)
    }

    /// PKCS#8, DER: for the vault only.
    pub(crate) fn secret_der(&self) -> &[u8] {
        self.0.serialized_der()
    }
}

impl Drop for CaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// Signs leaves of one trust domain.
pub struct Issuer {
    trust_domain: TrustDomain,
    signer: rcgen::Issuer<'static, CaKey>,
    /// The issuing certificate and those above it, without the root.
    chain: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    not_before: SystemTime,
    /// The earliest end on the way up to the root.
    not_after: SystemTime,
    limits: Limits,
}

/// The certificates that an [`Issuer`] stands on.
pub(crate) struct Standing {
    /// What signs; the root itself, if `above` is empty.
    pub(crate) certificate: CertificateDer<'static>,
    /// Sent along with each leaf, the issuing certificate first; never the root.
    pub(crate) above: Vec<CertificateDer<'static>>,
    pub(crate) root: CertificateDer<'static>,
}

impl Issuer {
    pub(crate) fn new(
        trust_domain: TrustDomain,
        standing: Standing,
        key: CaKey,
        limits: Limits,
    ) -> Result<Self, Unusable> {
        let Standing { certificate, above, root } = standing;
        let parsed = x509::parse(&certificate)?;
        x509::check_ca(&parsed)?;
        if *parsed.public_key().subject_public_key.data != *key.der_bytes() {
            return Err(Unusable::KeyMismatch);
        }
        let not_before = x509::time(parsed.validity().not_before);
        let mut not_after = x509::time(parsed.validity().not_after);
        for upper in above.iter().chain([&root]) {
            let upper = x509::parse(upper)?;
            x509::check_ca(&upper)?;
            not_after = not_after.min(x509::time(upper.validity().not_after));
        }
        let signer = rcgen::Issuer::from_ca_cert_der(&certificate, key).map_err(|_| Unusable::Name)?;
        Ok(Self { trust_domain, signer, chain: above, root, not_before, not_after, limits })
    }

    /// Signs the request's key for `id`. The lifetime is brought within the limits, and ends with the issuer at the
    /// latest. DNS names (and
    /// addresses among them) are for the control plane's own certificate only; they are never an identity.
    pub fn issue(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        dns_names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, Error> {
        self.certify(&request::check(csr)?, id, dns_names, lifetime, now)
    }

    /// The same for a request that was checked before, so that checking can come ahead of what costs the requester.
    pub fn certify(
        &self,
        request: &request::Checked,
        id: &SpiffeId,
        dns_names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, Error> {
        if *id.trust_domain() != self.trust_domain {
            return Err(Error::TrustDomain { id: id.clone(), trust_domain: self.trust_domain.clone() });
        }
        let names = names(id, dns_names)?;
        let not_after = self.end(lifetime, now)?;
        let not_before = (now - self.limits.backdate).max(self.not_before);
        let params = leaf_params(names, not_before, not_after)?;
        let signed = params.signed_by(&request.0, &self.signer).map_err(Error::Sign)?;
        let der = CertificateDer::from(signed);
        let leaf = Leaf::inspect(&der)?;
        let chain = std::iter::once(der).chain(self.chain.iter().cloned()).collect();
        Ok(Issued { chain, leaf, root: self.root.clone() })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When the last leaf of this issuer ends at the latest.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    fn end(&self, lifetime: Duration, now: SystemTime) -> Result<SystemTime, Error> {
        let Limits { lifetime_min, lifetime_max, backdate } = self.limits;
        if now + backdate < self.not_before {
            return Err(Error::IssuerNotYetValid { not_before: self.not_before });
        }
        if now + lifetime_min > self.not_after {
            return Err(Error::IssuerExpires { not_after: self.not_after });
        }
        Ok((now + lifetime.clamp(lifetime_min, lifetime_max)).min(self.not_after))
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("trust_domain", &self.trust_domain)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Why a certificate and a key cannot sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("certificate {0}")]
    Certificate(#[from] x509::Error),
    #[error("certificate is for another key")]
    KeyMismatch,
    #[error("certificate has a subject or an extension that cannot be carried over")]
    Name,
}

fn names(id: &SpiffeId, dns_names: &[String]) -> Result<Vec<SanType>, Error> {
    if !dns_names.is_empty() && id.path() != CONTROL_PLANE_PATH {
        return Err(Error::DnsNamesRefused);
    }
    if dns_names.len() > DNS_NAMES_MAX {
        return Err(Error::TooManyDnsNames { count: dns_names.len() });
    }
    let uri = Ia5String::try_from(id.as_str()).map_err(Error::Sign)?;
    let mut names = vec![SanType::URI(uri)];
    for (index, name) in dns_names.iter().enumerate() {
        if let Ok(address) = name.parse() {
            names.push(SanType::IpAddress(address));
            continue;
        }
        let refused = Error::DnsName { index };
        DnsName::try_from(name.as_str()).map_err(|_| refused.clone())?;
        names.push(SanType::DnsName(Ia5String::try_from(name.as_str()).map_err(|_| refused)?));
    }
    Ok(names)
}

fn leaf_params(
    names: Vec<SanType>,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.serial_number = Some(random_serial()?);
    Ok(params)
}

/// 128 random bits, never zero.
pub(crate) fn random_serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    bytes[15] |= u8::from(bytes == [0; 16]);
    Ok(SerialNumber::from_slice(&bytes))
}
