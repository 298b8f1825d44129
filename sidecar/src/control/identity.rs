//! How this sidecar gets its certificates: the first by a token, every later one by the one before.
//!
//! When to ask, with which key, and whether what comes back holds is `weft_certs::rotation`'s business. Tokens are
//! never logged.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tonic::{Code, Status};
use weft_certs::bundle::{self, Bundle, Fingerprint, TrustStore};
use weft_certs::join::{self, JoinToken};
use weft_certs::pem;
use weft_certs::rotation::{Grant, Issuer, Refusal};
use weft_certs::tls::{self, CONTROL_PLANE_PATH, LiveIdentity};
use weft_certs::verifier::Expect;
use weft_proto::name::{NodeId, SpiffeId};
use weft_proto::pb::weft::identity::v1::certify_request;
use weft_proto::pb::weft::identity::v1::identity_client::IdentityClient;
use weft_proto::pb::weft::identity::v1::{CertifyRequest, CertifyResponse, SessionKeys};
use zeroize::Zeroizing;

use super::connect::{self, Connection, connect};
use crate::bootstrap::{ControlPlane, Proof};
use crate::session_id::{KEY_LEN, Ring};

/// Time for the answer to one request, once there is a connection.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
/// Largest answer, in bytes: a chain, and the bundles of every trust domain.
pub const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Largest token, and largest file of roots.
pub const TOKEN_BYTES_MAX: u64 = 64 << 10;
pub const ROOTS_BYTES_MAX: u64 = 256 << 10;
/// The metadata key by which the control plane says when to come back.
const RETRY_AFTER: &str = "weft-retry-after-ms";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the file {path} cannot be read: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("the file {path} is longer than {max} bytes")]
    TooLong { path: PathBuf, max: u64 },
    #[error("the file {path} is not text")]
    NotText { path: PathBuf },
    #[error("{0}")]
    Token(#[from] join::Error),
    #[error("the roots in {path}: {source}")]
    Roots { path: PathBuf, source: pem::Error },
    #[error(
        "a service account token needs caFile, so that it is shown to the control plane and to nobody else"
    )]
    NoRoots,
    #[error("{}", told(.0))]
    Connect(#[from] connect::Error),
    #[error("the control plane refuses: {}", .0.message())]
    Refused(Box<Status>),
    #[error("the control plane did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    #[error("the answer holds trust that cannot be used: {0}")]
    Bundles(#[from] bundle::Error),
    #[error("the certificate is for {found}, which is not of this node's namespace ({node})")]
    OtherNamespace { found: String, node: NodeId },
}

/// An error with everything that it stems from.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

impl Error {
    /// Whether another proof than the present certificate could help.
    fn is_about_identity(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_about_identity(),
            // A certificate that is refused in the handshake shows only with the first answer, as a broken connection.
            Self::Refused(status) => {
                matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied | Code::Unknown)
            }
            _ => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        let Self::Refused(status) = self else { return None };
        let millis = status.metadata().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
        Some(Duration::from_millis(millis))
    }
}

/// The control plane as an issuer of certificates.
#[derive(Debug)]
pub struct ControlPlaneIssuer {
    node: NodeId,
    control_plane: ControlPlane,
    live: LiveIdentity,
    trust: TrustStore,
    ring: Ring,
}

impl ControlPlaneIssuer {
    /// Fails if the bootstrap says nothing by which the control plane can be known.
    pub fn new(
        node: NodeId,
        control_plane: ControlPlane,
        (live, trust): (LiveIdentity, TrustStore),
        ring: Ring,
    ) -> Result<Self, Error> {
        match &control_plane.proof {
            Proof::TokenFile(_) if control_plane.ca_file.is_none() => return Err(Error::NoRoots),
            // A mistake in what was typed is better told at once than at each attempt.
            Proof::JoinToken(text) => _ = JoinToken::parse(text.trim())?,
            Proof::TokenFile(_) | Proof::JoinTokenFile(_) => {}
        }
        Ok(Self { node, control_plane, live, trust, ring })
    }

    async fn certify(&self, csr: Vec<u8>) -> Result<Grant, Error> {
        if self.live.load().is_some() {
            match Box::pin(self.renew(csr.clone())).await {
                Err(error) if error.is_about_identity() => {
                    tracing::warn!(error = %error, "the present certificate does not renew itself; trying the token");
                }
                outcome => return outcome,
            }
        }
        match &self.control_plane.proof {
            Proof::JoinToken(text) => self.join(csr, text).await,
            Proof::JoinTokenFile(path) => self.join(csr, &text(path, TOKEN_BYTES_MAX).await?).await,
            Proof::TokenFile(path) => self.attest(csr, &text(path, TOKEN_BYTES_MAX).await?).await,
        }
    }

    async fn renew(&self, csr: Vec<u8>) -> Result<Grant, Error> {
        let expect = Expect::Path(CONTROL_PLANE_PATH);
        let config = tls::client_config(&self.live, &self.trust, expect, &[b"h2"]);
        let connection = self.connect(config).await?;
        self.ask(&connection, csr, None).await
    }

    async fn join(&self, csr: Vec<u8>, text: &str) -> Result<Grant, Error> {
        let token = JoinToken::parse(text.trim())?;
        let connection = self.connect(bootstrap(token.root())).await?;
        let proof = certify_request::Proof::JoinToken(token.to_string());
        self.ask(&connection, csr, Some(proof)).await
    }

    /// The control plane sends the root that it stands under along; any of those in the file is good.
    async fn attest(&self, csr: Vec<u8>, token: &str) -> Result<Grant, Error> {
        let path = self.control_plane.ca_file.as_deref().ok_or(Error::NoRoots)?;
        let roots = pem::certificates(&text(path, ROOTS_BYTES_MAX).await?)
            .map_err(|source| Error::Roots { path: path.to_owned(), source })?;
        let mut last = Error::NoRoots;
        for root in &roots {
            match self.connect(bootstrap(Fingerprint::of(root))).await {
                Ok(connection) => {
                    let proof = certify_request::Proof::KubernetesToken(token.trim().to_owned());
                    return self.ask(&connection, csr, Some(proof)).await;
                }
                Err(error) if error.is_about_identity() => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    async fn connect(&self, config: rustls::ClientConfig) -> Result<Connection, Error> {
        Ok(Box::pin(connect(&self.control_plane.address, Arc::new(config), rand::random::<u16>().into()))
            .await?)
    }

    async fn ask(
        &self,
        connection: &Connection,
        csr: Vec<u8>,
        proof: Option<certify_request::Proof>,
    ) -> Result<Grant, Error> {
        let request = CertifyRequest { csr, proof, ..CertifyRequest::default() };
        let mut client =
            IdentityClient::new(connection.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.certify(request))
            .await
            .map_err(|_| Error::Timeout)?;
        self.grant(answer.map_err(|status| Error::Refused(Box::new(status)))?.into_inner())
    }

    fn grant(&self, answer: CertifyResponse) -> Result<Grant, Error> {
        let workload = SpiffeId::parse(&answer.spiffe_id).ok().and_then(|id| id.workload());
        if workload.is_none_or(|it| it.namespace.as_str() != self.node.namespace()) {
            let found = answer.spiffe_id.chars().take(200).collect();
            return Err(Error::OtherNamespace { found, node: self.node.clone() });
        }
        if let Some(keys) = answer.session_keys {
            self.take(keys);
        }
        let bundles = answer.bundles.into_iter().map(Bundle::try_from).collect::<Result<_, _>>()?;
        Ok(Grant {
            chain: answer.chain.into_iter().map(CertificateDer::from).collect(),
            bundles,
            renew_at: answer.renew_at.and_then(|at| SystemTime::try_from(at).ok()),
        })
    }
}

impl ControlPlaneIssuer {
    /// A control plane that gives none, or none that can be used, leaves the keys as they are.
    fn take(&self, SessionKeys { current, keys }: SessionKeys) {
        let keys =
            keys.into_iter().filter_map(|it| Some((it.epoch, <[u8; KEY_LEN]>::try_from(it.key).ok()?)));
        if !self.ring.take(current, keys) {
            tracing::warn!("the control plane gave no keys of sessions that can be used");
        }
    }
}

impl Issuer for ControlPlaneIssuer {
    fn issue(&self, csr: Vec<u8>) -> Pin<Box<dyn Future<Output = Result<Grant, Refusal>> + Send + '_>> {
        Box::pin(async move {
            self.certify(csr)
                .await
                .map_err(|error| Refusal { retry_after: error.retry_after(), message: error.to_string() })
        })
    }
}

/// For whoever has neither a certificate nor trust: believes exactly the control plane under this root.
fn bootstrap(root: Fingerprint) -> rustls::ClientConfig {
    tls::bootstrap_client_config(root, Expect::Path(CONTROL_PLANE_PATH), &[b"h2"])
}

/// Read anew for each attempt: tokens and roots are exchanged while we run.
async fn text(path: &Path, max: u64) -> Result<Zeroizing<String>, Error> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Zeroizing::new(Vec::new());
        std::fs::File::open(&owned)?.take(max + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let failed = |source| Error::File { path: path.to_owned(), source };
    let bytes = read.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(Error::TooLong { path: path.to_owned(), max });
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::NotText { path: path.to_owned() })?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use weft_certs::bundle::Bundles;

    use super::*;

    fn issuer(proof: Proof, node: &str) -> Result<ControlPlaneIssuer, Error> {
        let control_plane = ControlPlane { address: "127.0.0.1:1".parse().unwrap(), proof, ca_file: None };
        let trust = TrustStore::new(Bundles::default());
        let ring = Ring::own(&crate::session_id::Key::random());
        let node = NodeId::parse(node).unwrap();
        ControlPlaneIssuer::new(node, control_plane, (LiveIdentity::empty(), trust), ring)
    }

    #[test]
    fn what_could_never_work_is_refused_at_the_start() {
        let error = issuer(Proof::TokenFile("/token".into()), "a/b").unwrap_err();
        assert!(matches!(error, Error::NoRoots), "{error}");
        let error = issuer(Proof::JoinToken("weft1.hush-hush".to_owned()), "a/b").unwrap_err();
        assert!(matches!(error, Error::Token(_)) && !error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn the_control_planes_advice_to_stay_away_is_passed_on() {
        let mut status = Status::resource_exhausted("too often");
        assert_eq!(Error::Refused(Box::new(status.clone())).retry_after(), None);
        status.metadata_mut().insert(RETRY_AFTER, "1500".parse().unwrap());
        assert_eq!(Error::Refused(Box::new(status.clone())).retry_after(), Some(Duration::from_millis(1500)));
        status.metadata_mut().insert(RETRY_AFTER, "soon".parse().unwrap());
        assert_eq!(Error::Refused(Box::new(status)).retry_after(), None);
    }

    #[test]
    fn certificates_of_another_namespace_and_of_nobody_are_refused() {
        let issuer = issuer(Proof::JoinTokenFile("/token".into()), "research/files-1").unwrap();
        let answer = |id: &str| CertifyResponse { spiffe_id: id.to_owned(), ..CertifyResponse::default() };
        assert!(issuer.grant(answer("spiffe://mesh.test/ns/research/sa/files")).is_ok());
        for id in ["", "spiffe://mesh.test/ns/payments/sa/files", "spiffe://mesh.test/control-plane"] {
            assert!(matches!(issuer.grant(answer(id)), Err(Error::OtherNamespace { .. })), "{id}");
        }
    }

    #[tokio::test]
    async fn a_token_that_is_not_there_and_a_control_plane_that_is_not_are_told() {
        let told = async |proof| {
            let issuer = issuer(proof, "a/b").unwrap();
            issuer.issue(Vec::new()).await.unwrap_err().message
        };
        assert!(told(Proof::JoinTokenFile("/nowhere/token".into())).await.contains("/nowhere/token"));
        let token =
            format!("weft1.abcdefghijkl.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8.{}", "0a".repeat(32));
        let away = told(Proof::JoinToken(token)).await;
        assert!(away.contains("127.0.0.1:1 cannot be reached") && !away.contains("AAEC"), "{away}");
    }
}
