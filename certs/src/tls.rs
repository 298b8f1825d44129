//! TLS configurations of the mesh: TLS 1.3 only, mutual, post-quantum key exchange first, and an identity that can be
//! swapped while connections are open.
//!
//! Never here: session tickets, early data, key logging. Nothing reads the process-wide default provider.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwapOption;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, CommonState, NoKeyLog, ServerConfig, SignatureScheme};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use crate::bundle::{Fingerprint, TrustStore};
use crate::csr::Key;
use crate::svid::{self, Leaf};
use crate::verifier::{ClientVerifier, Expect, ServerVerifier};

/// The path of the control plane's own identity, in whatever trust domain it stands.
pub const CONTROL_PLANE_PATH: &str = "/ns/weft-system/sa/control-plane";

/// Why a chain and a key are not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the chain is empty")]
    EmptyChain,
    #[error("the chain's {0}")]
    Leaf(#[from] svid::Error),
    #[error("the certificate is for another key")]
    KeyMismatch,
}

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    leaf: Leaf,
}

impl Identity {
    /// Leaf first. The chain may end with the root: a server that others recognise by its root's fingerprint sends it.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: Key) -> Result<Self, Error> {
        let leaf = Leaf::inspect(chain.first().ok_or(Error::EmptyChain)?)?;
        let certified = CertifiedKey::new(chain, Arc::new(key));
        certified.keys_match().map_err(|_| Error::KeyMismatch)?;
        Ok(Self { certified: Arc::new(certified), leaf })
    }

    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Signs, and is never shown.
    pub(crate) fn key(&self) -> &dyn rustls::sign::SigningKey {
        &*self.certified.key
    }
}

/// The identity in force. Clones are the same; TLS configurations hold one and ask it at each handshake, so a swap
/// counts from the next handshake and leaves open connections alone.
#[derive(Clone)]
pub struct LiveIdentity(Arc<Live>);

struct Live {
    identity: ArcSwapOption<Identity>,
    changes: watch::Sender<Option<Leaf>>,
}

impl LiveIdentity {
    /// Nobody yet: servers refuse handshakes, clients send no certificate.
    pub fn empty() -> Self {
        Self(Arc::new(Live { identity: ArcSwapOption::empty(), changes: watch::Sender::new(None) }))
    }

    pub fn new(identity: Identity) -> Self {
        let live = Self::empty();
        live.swap(identity);
        live
    }

    pub fn swap(&self, identity: Identity) {
        let leaf = identity.leaf.clone();
        self.0.identity.store(Some(Arc::new(identity)));
        self.0.changes.send_replace(Some(leaf));
    }

    /// Gives the identity up, as when it has expired.
    pub fn clear(&self) {
        self.0.identity.store(None);
        self.0.changes.send_if_modified(|leaf| leaf.take().is_some());
    }

    pub fn load(&self) -> Option<Arc<Identity>> {
        self.0.identity.load_full()
    }

    pub fn leaf(&self) -> Option<Leaf> {
        self.load().map(|identity| identity.leaf.clone())
    }

    pub fn watch(&self) -> watch::Receiver<Option<Leaf>> {
        self.0.changes.subscribe()
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.load().map(|identity| Arc::clone(&identity.certified))
    }
}

impl fmt::Debug for LiveIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LiveIdentity").field(&self.leaf()).finish()
    }
}

impl ResolvesServerCert for LiveIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for LiveIdentity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.0.identity.load().is_some()
    }
}

/// What a server asks of its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuth {
    /// A certificate, from one of these.
    Required(Expect),
    /// A good certificate or none: the control plane admits those who come for their first one.
    Optional(Expect),
    /// None is asked for.
    None,
}

/// The provider of all our TLS: aws-lc with the hybrid post-quantum group first.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            kx_groups: vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
                aws_lc_rs::kx_group::SECP384R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    });
    Arc::clone(&PROVIDER)
}

const HAS_TLS13: &str = "the provider has cipher suites and groups for TLS 1.3";

pub fn server_config(
    live: &LiveIdentity,
    trust: &TrustStore,
    auth: ClientAuth,
    alpn: &[&[u8]],
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect(HAS_TLS13);
    let verifier = |expect, mandatory| Arc::new(ClientVerifier::new(trust.clone(), expect, mandatory));
    let builder = match auth {
        ClientAuth::Required(expect) => builder.with_client_cert_verifier(verifier(expect, true)),
        ClientAuth::Optional(expect) => builder.with_client_cert_verifier(verifier(expect, false)),
        ClientAuth::None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(live.clone()));
    // A resumed session skips the client's certificate: it would be believed after it expired or was revoked, and
    // after its root was dropped. Our connections live long, so full handshakes cost little.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.key_log = Arc::new(NoKeyLog {});
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// The client shows its live identity when it has one and the server asks.
pub fn client_config(
    live: &LiveIdentity,
    trust: &TrustStore,
    expect: Expect,
    alpn: &[&[u8]],
) -> ClientConfig {
    let verifier = Arc::new(ServerVerifier::new(trust.clone(), expect));
    let config = client_builder(verifier).with_client_cert_resolver(Arc::new(live.clone()));
    finish_client(config, alpn)
}

/// For the very first call of a workload, which holds neither a bundle nor a certificate: believes exactly the server
/// whose chain ends in the root with this fingerprint, and whose identity is admitted by `expect`. The server must
/// send that root along. No client certificate is shown.
pub fn bootstrap_client_config(root: Fingerprint, expect: Expect, alpn: &[&[u8]]) -> ClientConfig {
    let verifier = Arc::new(ServerVerifier::bootstrap(root, expect));
    finish_client(client_builder(verifier).with_no_client_auth(), alpn)
}

type ClientBuilder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn client_builder(verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>) -> ClientBuilder {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect(HAS_TLS13)
        .dangerous()
        .with_custom_certificate_verifier(verifier)
}

fn finish_client(mut config: ClientConfig, alpn: &[&[u8]]) -> ClientConfig {
    // The same as on the server: a resumed session would skip the server's certificate, and whom we expect.
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.key_log = Arc::new(NoKeyLog {});
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// Who is at the other end of an established connection. `None`: a stranger, where clients may come without a
/// certificate. With tokio-rustls: `peer(stream.get_ref().1)`.
pub fn peer(connection: &CommonState) -> Option<Leaf> {
    // The verifier read the same bytes during the handshake, so reading them again cannot fail.
    connection.peer_certificates()?.first().and_then(|leaf| Leaf::inspect(leaf).ok())
}

#[cfg(test)]
mod tests;
