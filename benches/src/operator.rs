//! The operator's door, as a script would use it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An authenticated connection.
#[derive(Debug)]
pub(crate) struct Operator {
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    sender: SendRequest<Full<Bytes>>,
    token: String,
}

impl Operator {
    pub(crate) async fn connect(
        address: SocketAddr,
        roots: &[CertificateDer<'static>],
        token: String,
    ) -> anyhow::Result<Self> {
        let mut store = rustls::RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        let config = rustls::ClientConfig::builder_with_provider(weft_certs::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(store)
            .with_no_client_auth();
        let config = Arc::new(config);
        let sender = open(address, Arc::clone(&config)).await?;
        Ok(Self { address, config, sender, token })
    }

    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: String,
    ) -> anyhow::Result<serde_json::Value> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {}", self.token))
            .body(Full::from(body))?;
        if self.sender.ready().await.is_err() {
            // The server lets go of connections on which nothing is asked for a while.
            self.sender = open(self.address, Arc::clone(&self.config)).await?;
        }
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).context("the answer is JSON")
    }

    pub(crate) async fn apply(&mut self, yaml: String) -> anyhow::Result<()> {
        self.call(Method::POST, "/v1/apply", yaml).await.map(|_| ())
    }

    pub(crate) async fn token(
        &mut self,
        namespace: &str,
        account: &str,
        uses: usize,
    ) -> anyhow::Result<String> {
        let body = serde_json::json!({
            "identity": { "namespace": namespace, "serviceAccount": account }, "uses": uses, "expiresIn": "1h",
        });
        let answer = self.call(Method::POST, "/v1/tokens", body.to_string()).await?;
        Ok(answer["token"].as_str().context("the answer holds a token")?.to_owned())
    }
}

async fn open(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(config).connect(ServerName::try_from("localhost")?, stream).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
