//! Connections: TCP, then TLS 1.3 with a server whose certificate leads to the one file that is believed.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::Endpoint;
use super::error::Error;

pub(super) type Secured = TlsStream<TcpStream>;

/// Whom to believe: the certificates of one file, and none of the system's.
#[derive(Clone)]
pub(crate) struct Trusted(Arc<ClientConfig>, Arc<[CertificateDer<'static>]>);

impl Trusted {
    /// Reads certificates in PEM. The message says what is wrong with them.
    pub(crate) fn read(pem: &[u8]) -> Result<Self, String> {
        let (mut roots, mut certificates) = (RootCertStore::empty(), Vec::new());
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
            certificates.push(certificate.clone());
            roots
                .add(certificate)
                .map_err(|error| format!("it holds a certificate that is none: {error}"))?;
        }
        if roots.is_empty() {
            return Err("it holds no certificate".to_owned());
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider speaks TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config), certificates.into()))
    }

    /// The certificates of the file.
    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        &self.1
    }
}

impl fmt::Debug for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trusted")
    }
}

pub(super) async fn secured(endpoint: &Endpoint, trusted: &Trusted) -> Result<Secured, Error> {
    let server = || endpoint.to_string();
    let stream = tcp(endpoint.host(), endpoint.port())
        .await
        .map_err(|source| Error::Unreachable { server: server(), source })?;
    let connector = TlsConnector::from(Arc::clone(&trusted.0));
    let secured = connector.connect(endpoint.server_name(), stream).await;
    secured.map_err(|source| Error::Untrusted { server: server(), host: endpoint.host().to_owned(), source })
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request on a connection, up to the head of its answer.
pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Error> {
    converse(stream, request).await.map_err(|error| Error::Broken(chain(&error)))
}

async fn converse<B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<B>,
) -> Result<Response<Incoming>, hyper::Error>
where
    B: Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer's last byte, or when the answer is dropped.
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// The status of a path that is served without TLS and without credentials, as health is.
pub(crate) async fn plain_status(
    host: &str,
    port: u16,
    path: &str,
    patience: Duration,
) -> Result<StatusCode, String> {
    within(patience, async { Ok(plain(host, port, path).await?.status()) }).await
}

/// What is served there, if it is no longer than that.
pub(crate) async fn plain_text(
    host: &str,
    port: u16,
    path: &str,
    patience: Duration,
    bytes_max: usize,
) -> Result<String, String> {
    let reading = async {
        let response = plain(host, port, path).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("it answers {status}"));
        }
        let body = Limited::new(response.into_body(), bytes_max).collect().await;
        let bytes = body.map_err(|error| chain(&*error))?.to_bytes();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    within(patience, reading).await
}

async fn plain(host: &str, port: u16, path: &str) -> Result<Response<Incoming>, String> {
    let stream = tcp(host.trim_start_matches('[').trim_end_matches(']'), port).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let request = Request::get(path)
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    converse(stream, request).await.map_err(|error| chain(&error))
}

async fn within<T>(patience: Duration, asking: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(patience, asking).await.map_err(|_| format!("no answer within {} s", patience.as_secs()))?
}

/// An error with what it rests on.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        source = error.source();
    }
    text
}
