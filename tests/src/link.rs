//! Connections as a sidecar makes them: TLS, HTTP/2, and the generated clients on top.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use weft_certs::bundle::{Bundle, Bundles, Fingerprint, TrustStore};
use weft_certs::csr;
use weft_certs::tls::{self, CONTROL_PLANE_PATH, Identity, LiveIdentity};
use weft_certs::verifier::Expect;
use weft_proto::pb::weft::identity::v1::CertifyRequest;
use weft_proto::pb::weft::identity::v1::certify_request::Proof;
use weft_proto::pb::weft::identity::v1::identity_client::IdentityClient;

pub type Channel = BoxCloneSyncService<Request<Body>, Response<Incoming>, hyper::Error>;

/// Opens an HTTP/2 connection.
pub async fn connect(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> anyhow::Result<Channel> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(Some(1 << 20))
        .handshake::<_, Body>(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    let origin: Uri = "http://localhost".parse()?;
    Ok(BoxCloneSyncService::new(tower::service_fn(move |request| {
        send(sender.clone(), origin.clone(), request)
    })))
}

async fn send(
    mut sender: SendRequest<Body>,
    origin: Uri,
    mut request: Request<Body>,
) -> Result<Response<Incoming>, hyper::Error> {
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = origin.scheme().cloned();
    parts.authority = origin.authority().cloned();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    sender.send_request(request).await
}

/// For the first certificate: trusts the root by its fingerprint, as a join token would say.
pub fn bootstrap(root: &CertificateDer<'_>) -> Arc<rustls::ClientConfig> {
    let expect = Expect::Path(CONTROL_PLANE_PATH);
    Arc::new(tls::bootstrap_client_config(Fingerprint::of(root), expect, &[b"h2"]))
}

/// A workload's certificate and whom it trusts, as they live in a sidecar.
#[derive(Clone, Debug)]
pub struct Workload {
    pub live: LiveIdentity,
    pub trust: TrustStore,
}

impl Workload {
    /// Joins the mesh with a token.
    pub async fn join(channel: Channel, token: &str) -> anyhow::Result<Self> {
        let (identity, bundles) = certify(channel, Some(Proof::JoinToken(token.to_owned()))).await?;
        Ok(Self { live: LiveIdentity::new(identity), trust: TrustStore::new(bundles) })
    }

    /// Gets another certificate by the one that is held, over a connection that shows it.
    pub async fn renew(&self, channel: Channel) -> anyhow::Result<()> {
        let (identity, bundles) = certify(channel, None).await?;
        self.live.swap(identity);
        self.trust.update_newer(bundles.iter().map(|bundle| Bundle::clone(bundle)))?;
        Ok(())
    }

    /// For connections to the control plane that show the certificate.
    pub fn config(&self) -> Arc<rustls::ClientConfig> {
        let expect = Expect::Path(CONTROL_PLANE_PATH);
        Arc::new(tls::client_config(&self.live, &self.trust, expect, &[b"h2"]))
    }
}

async fn certify(channel: Channel, proof: Option<Proof>) -> anyhow::Result<(Identity, Bundles)> {
    let request = csr::Request::generate()?;
    let asked = CertifyRequest { csr: request.der().to_vec(), proof, ..Default::default() };
    let response = IdentityClient::new(channel).certify(asked).await?.into_inner();
    let chain = response.chain.into_iter().map(CertificateDer::from).collect();
    Ok((Identity::new(chain, request.into_key())?, Bundles::from_wire(response.bundles)?))
}
