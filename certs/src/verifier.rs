//! Whether to believe a peer: its leaf obeys the rules, its chain leads to a root of exactly the trust domain that it
//! names, it is valid now and not revoked, and it is who was expected.
//!
//! The verifiers plug into rustls and read the [`TrustStore`] anew for each handshake, so a changed bundle counts from
//! the next one. Not here: what the peer may do once it is known.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use weft_proto::name::{SpiffeId, TrustDomain};

use crate::bundle::{Bundle, Bundles, Fingerprint, TrustStore};
use crate::svid::{self, Leaf, Serial};
use crate::x509;

/// Most certificates between a leaf and its root, and the root itself where it is sent along.
pub const INTERMEDIATES_MAX: usize = 4;

/// Why a peer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("peer's {0}")]
    Leaf(#[from] svid::Error),
    #[error("peer's issuer certificate {index} {source}")]
    Issuer { index: usize, source: x509::Error },
    #[error("peer sent {len} certificates above its own; at most {INTERMEDIATES_MAX} are allowed")]
    ChainTooLong { len: usize },
    #[error("no trust bundle is held for the peer's trust domain {0}")]
    UnknownTrustDomain(TrustDomain),
    #[error("peer's chain leads to none of the roots of its trust domain")]
    UnknownRoot,
    #[error("peer did not send the root whose fingerprint was expected")]
    RootNotPresented,
    #[error("a signature in the peer's chain or handshake is wrong")]
    BadSignature,
    #[error("a signature in the peer's chain uses an algorithm that is not accepted")]
    UnsupportedSignature,
    #[error("a certificate in the peer's chain has expired")]
    Expired { not_after: SystemTime },
    #[error("a certificate in the peer's chain is not valid yet")]
    NotYetValid { not_before: SystemTime },
    #[error("a certificate in the peer's chain has been revoked")]
    Revoked,
    #[error("peer's chain is not meant for this side of a connection")]
    Purpose,
    #[error("peer's chain is longer than one of its issuers allows")]
    PathLength,
    #[error("peer's chain breaks the name constraints of one of its issuers")]
    NameConstraints,
    #[error("a certificate in the peer's chain carries a critical extension that is not understood")]
    CriticalExtension,
    #[error("peer's chain does not hold: {0}")]
    Path(#[source] webpki::Error),
    #[error("peer is {found}; expected {expected}")]
    Unexpected { found: SpiffeId, expected: Expect },
}

/// Whom a caller is willing to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Anyone whose trust domain has a bundle.
    AnyInMesh,
    Exactly(SpiffeId),
    OneOf(Arc<BTreeSet<SpiffeId>>),
    /// Anyone with this path, whatever the trust domain.
    Path(&'static str),
}

impl Expect {
    pub fn admits(&self, id: &SpiffeId) -> bool {
        match self {
            Self::AnyInMesh => true,
            Self::Exactly(expected) => id == expected,
            Self::OneOf(expected) => expected.contains(id),
            Self::Path(path) => id.path() == *path,
        }
    }
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AnyInMesh => f.write_str("anyone in the mesh"),
            Self::Exactly(id) => write!(f, "{id}"),
            Self::OneOf(ids) if ids.is_empty() => f.write_str("nobody"),
            Self::OneOf(ids) => write!(f, "one of {} identities", ids.len()),
            Self::Path(path) => write!(f, "the path {path} of any trust domain"),
        }
    }
}

/// On which side of the connection the peer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

/// Believes or refuses a chain: the leaf, then what the peer sent above it.
pub fn verify(
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    bundles: &Bundles,
    role: Role,
    now: SystemTime,
) -> Result<Leaf, Error> {
    let facts = inspect(leaf, above, now)?;
    let domain = facts.spiffe_id.trust_domain();
    let bundle = bundles.get(domain).ok_or_else(|| Error::UnknownTrustDomain(domain.clone()))?;
    check_path(leaf, above, bundle.anchors(), role, now)?;
    check_revoked(&facts, above, bundle)?;
    Ok(facts)
}

/// Believes or refuses a server's chain by its root alone, which must have the given fingerprint and be sent along.
fn verify_to_root(
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    root: Fingerprint,
    now: SystemTime,
) -> Result<Leaf, Error> {
    let facts = inspect(leaf, above, now)?;
    let index = above.iter().position(|der| Fingerprint::of(der) == root).ok_or(Error::RootNotPresented)?;
    let anchor = crate::bundle::anchor(&above[index]).map_err(|source| Error::Issuer { index, source })?;
    check_path(leaf, above, &[anchor], Role::Server, now)?;
    Ok(facts)
}

/// Everything that can be said without knowing whom to trust; cheap, so that it comes first.
fn inspect(leaf: &CertificateDer<'_>, above: &[CertificateDer<'_>], now: SystemTime) -> Result<Leaf, Error> {
    if above.len() > INTERMEDIATES_MAX {
        return Err(Error::ChainTooLong { len: above.len() });
    }
    let facts = Leaf::inspect(leaf)?;
    if now < facts.not_before {
        return Err(Error::NotYetValid { not_before: facts.not_before });
    }
    if facts.not_after < now {
        return Err(Error::Expired { not_after: facts.not_after });
    }
    // webpki does not look at the key usage of issuers.
    for (index, issuer) in above.iter().enumerate() {
        x509::check_issuer(issuer).map_err(|source| Error::Issuer { index, source })?;
    }
    Ok(facts)
}

fn check_path(
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    role: Role,
    now: SystemTime,
) -> Result<(), Error> {
    let usage = match role {
        Role::Server => KeyUsage::server_auth(),
        Role::Client => KeyUsage::client_auth(),
    };
    let algorithms = crate::tls::provider().signature_verification_algorithms.all;
    let leaf = EndEntityCert::try_from(leaf).map_err(Error::from_path)?;
    leaf.verify_for_usage(algorithms, anchors, above, unix(now), usage, None, None)
        .map(|_| ())
        .map_err(Error::from_path)
}

fn check_revoked(facts: &Leaf, above: &[CertificateDer<'_>], bundle: &Bundle) -> Result<(), Error> {
    if bundle.revoked().is_empty() {
        return Ok(());
    }
    let refuse = |serial: &Serial| {
        tracing::info!(spiffe_id = %facts.spiffe_id, %serial, "revoked certificate presented");
        Err(Error::Revoked)
    };
    if bundle.revoked().contains(&facts.serial) {
        return refuse(&facts.serial);
    }
    for (index, issuer) in above.iter().enumerate() {
        let serial = x509::parse(issuer).and_then(|issuer| x509::serial(&issuer));
        let serial = serial.map_err(|source| Error::Issuer { index, source })?;
        if bundle.revoked().contains(&serial) {
            return refuse(&serial);
        }
    }
    Ok(())
}

fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

fn system(time: UnixTime) -> SystemTime {
    let since = Duration::from_secs(time.as_secs());
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Error {
    fn from_path(error: webpki::Error) -> Self {
        use webpki::Error as Path;
        match error {
            Path::UnknownIssuer => Self::UnknownRoot,
            Path::InvalidSignatureForPublicKey => Self::BadSignature,
            Path::UnsupportedSignatureAlgorithmContext(_)
            | Path::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | Path::SignatureAlgorithmMismatch => Self::UnsupportedSignature,
            Path::CertExpired { not_after, .. } => Self::Expired { not_after: system(not_after) },
            Path::CertNotValidYet { not_before, .. } => Self::NotYetValid { not_before: system(not_before) },
            Path::CertRevoked => Self::Revoked,
            Path::RequiredEkuNotFoundContext(_) | Path::EmptyEkuExtension => Self::Purpose,
            Path::PathLenConstraintViolated | Path::MaximumPathDepthExceeded => Self::PathLength,
            Path::NameConstraintViolation => Self::NameConstraints,
            Path::UnsupportedCriticalExtension => Self::CriticalExtension,
            other => Self::Path(other),
        }
    }

    /// As rustls wants to hear it: its own code where it has one, because the alert that the peer receives hangs on
    /// it; otherwise this error as it is.
    fn into_rustls(self, now: UnixTime) -> rustls::Error {
        let code = match self {
            Self::Expired { not_after } => {
                CertificateError::ExpiredContext { time: now, not_after: unix(not_after) }
            }
            Self::NotYetValid { not_before } => {
                CertificateError::NotValidYetContext { time: now, not_before: unix(not_before) }
            }
            Self::Revoked => CertificateError::Revoked,
            Self::UnknownRoot => CertificateError::UnknownIssuer,
            Self::BadSignature => CertificateError::BadSignature,
            Self::Purpose => CertificateError::InvalidPurpose,
            Self::CriticalExtension => CertificateError::UnhandledCriticalExtension,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        };
        rustls::Error::InvalidCertificate(code)
    }

    /// The refusal inside an error of rustls, if a verifier of this module refused.
    pub fn from_rustls(error: &rustls::Error) -> Option<Self> {
        let rustls::Error::InvalidCertificate(code) = error else { return None };
        match code {
            CertificateError::ExpiredContext { not_after, .. } => {
                Some(Self::Expired { not_after: system(*not_after) })
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                Some(Self::NotYetValid { not_before: system(*not_before) })
            }
            CertificateError::Revoked => Some(Self::Revoked),
            CertificateError::UnknownIssuer => Some(Self::UnknownRoot),
            CertificateError::BadSignature => Some(Self::BadSignature),
            CertificateError::InvalidPurpose => Some(Self::Purpose),
            CertificateError::UnhandledCriticalExtension => Some(Self::CriticalExtension),
            CertificateError::Other(OtherError(other)) => other.downcast_ref::<Self>().cloned(),
            _ => None,
        }
    }

    /// The refusal inside an error of a stream, however deep it is wrapped.
    pub fn from_io(error: &io::Error) -> Option<Self> {
        let mut source: Option<&(dyn StdError + 'static)> = error.get_ref().map(|inner| inner as _);
        while let Some(inner) = source {
            if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
                return Self::from_rustls(tls);
            }
            source = match inner.downcast_ref::<io::Error>() {
                Some(nested) => nested.get_ref().map(|inner| inner as _),
                None => inner.source(),
            };
        }
        None
    }
}

/// Believes servers. The server's DNS name plays no part: its identity is its SPIFFE ID.
#[derive(Debug)]
pub struct ServerVerifier {
    trust: Trust,
    expect: Expect,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Trust {
    Bundles(TrustStore),
    /// Exactly this root, which the server must send along.
    Root(Fingerprint),
}

impl ServerVerifier {
    pub fn new(trust: TrustStore, expect: Expect) -> Self {
        Self { trust: Trust::Bundles(trust), expect, provider: crate::tls::provider() }
    }

    /// For a workload that holds no bundle yet and recognises its control plane by the fingerprint of its root.
    pub fn bootstrap(root: Fingerprint, expect: Expect) -> Self {
        Self { trust: Trust::Root(root), expect, provider: crate::tls::provider() }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = match &self.trust {
            Trust::Bundles(trust) => {
                verify(end_entity, intermediates, &trust.load(), Role::Server, system(now))
            }
            Trust::Root(root) => verify_to_root(end_entity, intermediates, *root, system(now)),
        };
        verified
            .and_then(|leaf| expected(&self.expect, leaf))
            .map(|_| ServerCertVerified::assertion())
            .map_err(|error| error.into_rustls(now))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Believes clients of the mesh.
#[derive(Debug)]
pub struct ClientVerifier {
    trust: TrustStore,
    expect: Expect,
    mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientVerifier {
    /// With `mandatory` unset a client without a certificate is let through as a stranger; one with a bad certificate
    /// is refused all the same.
    pub fn new(trust: TrustStore, expect: Expect, mandatory: bool) -> Self {
        Self { trust, expect, mandatory, provider: crate::tls::provider() }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// No hints: a workload has one certificate, and the names of our roots are nobody's business before it is known.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        verify(end_entity, intermediates, &self.trust.load(), Role::Client, system(now))
            .and_then(|leaf| expected(&self.expect, leaf))
            .map(|_| ClientCertVerified::assertion())
            .map_err(|error| error.into_rustls(now))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn expected(expect: &Expect, leaf: Leaf) -> Result<Leaf, Error> {
    if expect.admits(&leaf.spiffe_id) {
        return Ok(leaf);
    }
    Err(Error::Unexpected { found: leaf.spiffe_id, expected: expect.clone() })
}

fn only_tls13() -> rustls::Error {
    PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into()
}

#[cfg(test)]
mod tests;
