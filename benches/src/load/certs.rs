//! Certificates for a run: an authority, a server and a client, as PEM files that every peer can read.
//!
//! The product never writes a workload's key; a benchmark must, since other people's proxies read theirs from files.
//! The keys live as long as the temporary folder that they are in.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use weft_certs::bundle::{Bundle, Bundles, TrustStore};
use weft_certs::ca::{Ca, Kek, Limits};
use weft_certs::clock;
use weft_certs::verifier::{ClientVerifier, Expect, ServerVerifier};
use weft_proto::name::{SpiffeId, TrustDomain};

pub(crate) const DOMAIN: &str = "bench.test";
/// Who the caller is.
pub(crate) const CLIENT: &str = "spiffe://bench.test/ns/agents/sa/load";
const SERVER: &str = "spiffe://bench.test/ns/bench/sa/server";
/// Whose word on whom it calls for is believed.
pub(crate) const GATEWAY: &str = "spiffe://bench.test/ns/edge/sa/gateway";
const LIFETIME: Duration = Duration::from_secs(86_400);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the files go.
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    Files::create(&args.folder).map(drop)
}

/// Where the files of one run are.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    folder: PathBuf,
}

impl Files {
    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Founds an authority and writes everything that it signs.
    pub(crate) fn create(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let files = Self::at(folder);
        let kek = Kek::open_or_create(&folder.join("kek"))?;
        let domain = TrustDomain::parse(DOMAIN)?;
        let ca = Ca::open_or_create(&folder.join("ca"), kek, domain, Limits::default(), clock::wall()())?;
        fs::write(files.roots(), weft_certs::pem::encode(ca.bundle().roots()))?;
        files.issue(&ca, "server", SERVER)?;
        files.issue(&ca, "client", CLIENT)?;
        files.issue(&ca, "gateway", GATEWAY)?;
        Ok(files)
    }

    fn issue(&self, ca: &Ca, name: &str, id: &str) -> anyhow::Result<()> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let request = CertificateParams::default().serialize_request(&key)?;
        let issued = ca.issue(request.der(), &SpiffeId::parse(id)?, &[], LIFETIME, clock::wall()())?;
        let (chain, key) = (weft_certs::pem::encode(&issued.chain), key.serialize_pem());
        // HAProxy wants both in one file.
        fs::write(self.path(name, "both"), format!("{chain}{key}"))?;
        fs::write(self.path(name, "key"), key)?;
        fs::write(self.path(name, "crt"), chain)?;
        Ok(())
    }

    pub(crate) fn path(&self, name: &str, ending: &str) -> PathBuf {
        self.folder.join(format!("{name}.{ending}"))
    }

    pub(crate) fn roots(&self) -> PathBuf {
        self.folder.join("roots.crt")
    }

    fn trust(&self) -> anyhow::Result<TrustStore> {
        let roots = weft_certs::pem::certificates(&fs::read_to_string(self.roots())?)?;
        let bundle = Bundle::new(TrustDomain::parse(DOMAIN)?, roots, 1, BTreeSet::new())?;
        Ok(TrustStore::new(Bundles::new([bundle])?))
    }

    fn identity(&self, name: &str) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let path = self.path(name, "crt");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let key = PrivateKeyDer::from_pem_file(self.path(name, "key"))?;
        Ok((weft_certs::pem::certificates(&text)?, key))
    }

    /// For the generator. It offers one suite and one group, so that every proxy does the same cryptography.
    pub(crate) fn client(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let (chain, key) = self.identity("client")?;
        let verifier = Arc::new(ServerVerifier::new(self.trust()?, Expect::AnyInMesh));
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key)?;
        Ok(Arc::new(config))
    }

    /// For the relay: a client's certificate is required, as everywhere.
    pub(crate) fn server(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let (chain, key) = self.identity("server")?;
        let verifier = Arc::new(ClientVerifier::new(self.trust()?, Expect::AnyInMesh, true));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    let ours = weft_certs::tls::provider();
    Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![rustls::crypto::aws_lc_rs::kx_group::X25519],
        ..CryptoProvider::clone(&ours)
    })
}
