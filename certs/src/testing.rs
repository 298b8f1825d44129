//! Certificates good and bad for the tests of this crate.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::DuplexStream;
use weft_proto::name::{SpiffeId, TrustDomain};

use crate::bundle::{Bundle, Bundles, TrustStore};
use crate::csr::Key;
use crate::tls::Identity;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// In the year 2027.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub(crate) fn domain(text: &str) -> TrustDomain {
    TrustDomain::parse(text).unwrap()
}

/// A certificate that signs others, as tests like it.
pub(crate) struct Authority {
    pub(crate) der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority_params(name);
        let der = params.self_signed(&key).unwrap().into();
        Self { der, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn under(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = authority_params(name);
        change(&mut params);
        let der = self.sign(&params, &key);
        Self { der, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> CertificateDer<'static> {
        params.signed_by(key, &self.issuer).unwrap().into()
    }

    #[cfg(feature = "ca")]
    pub(crate) fn key_der(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now() - DAY).into();
    params.not_after = (now() + 365 * DAY).into();
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

/// A leaf that breaks no rule.
pub(crate) fn leaf_params(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (now() - Duration::from_secs(120)).into();
    params.not_after = (now() + DAY).into();
    params
}

/// A trust domain with a root and an intermediate.
pub(crate) struct Mesh {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) root: Authority,
    pub(crate) intermediate: Authority,
}

impl Mesh {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let root = Authority::root(&format!("root of {trust_domain}"));
        let intermediate = root.under(&format!("intermediate of {trust_domain}"), |_| {});
        Self { trust_domain: domain(trust_domain), root, intermediate }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::new(self.trust_domain.clone(), vec![self.root.der.clone()], 1, BTreeSet::new()).unwrap()
    }

    pub(crate) fn bundles(&self) -> Bundles {
        Bundles::new([self.bundle()]).unwrap()
    }

    pub(crate) fn trust(&self) -> TrustStore {
        TrustStore::new(self.bundles())
    }

    pub(crate) fn leaf(
        &self,
        id: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        let mut params = leaf_params(id);
        change(&mut params);
        self.intermediate.sign(&params, &KeyPair::generate().unwrap())
    }

    pub(crate) fn identity(&self, id: &str) -> Identity {
        self.identity_with(id, |_| {})
    }

    pub(crate) fn identity_with(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = Key::generate().unwrap();
        let mut params = leaf_params(id);
        change(&mut params);
        let leaf = self.intermediate.sign(&params, &key);
        Identity::new(vec![leaf, self.intermediate.der.clone()], key).unwrap()
    }
}

/// Makes the clock of a TLS configuration stand still.
#[derive(Debug)]
pub(crate) struct Frozen(pub(crate) SystemTime);

impl TimeProvider for Frozen {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

pub(crate) type ServerStream = tokio_rustls::server::TlsStream<DuplexStream>;
pub(crate) type ClientStream = tokio_rustls::client::TlsStream<DuplexStream>;

/// Both ends of one handshake in memory, at the frozen time.
pub(crate) async fn handshake(
    mut server: rustls::ServerConfig,
    mut client: rustls::ClientConfig,
) -> (std::io::Result<ServerStream>, std::io::Result<ClientStream>) {
    server.time_provider = Arc::new(Frozen(now()));
    client.time_provider = Arc::new(Frozen(now()));
    handshake_shared(Arc::new(server), Arc::new(client)).await
}

pub(crate) async fn handshake_shared(
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
) -> (std::io::Result<ServerStream>, std::io::Result<ClientStream>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = rustls_pki_types::ServerName::try_from("peer.invalid").unwrap();
    tokio::join!(async { tokio_rustls::TlsAcceptor::from(server).accept(near).await }, async {
        tokio_rustls::TlsConnector::from(client).connect(name, far).await
    },)
}

/// Runs openssl in a folder and answers what it printed; fails the test if it failed.
#[track_caller]
pub(crate) fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl").current_dir(folder).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {text}{complaint}");
    text
}

/// An issuer that signs under the mesh's intermediate.
#[cfg(feature = "ca")]
pub(crate) fn issuer(mesh: &Mesh, limits: crate::ca::Limits) -> crate::ca::Issuer {
    use crate::ca::issuer::{CaKey, Standing};
    let key = CaKey::new(KeyPair::try_from(mesh.intermediate.key_der()).unwrap());
    let certificate = mesh.intermediate.der.clone();
    let standing = Standing { above: vec![certificate.clone()], certificate, root: mesh.root.der.clone() };
    crate::ca::Issuer::new(mesh.trust_domain.clone(), standing, key, limits).unwrap()
}
