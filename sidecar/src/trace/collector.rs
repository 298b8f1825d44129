//! A connection to a collector, and one export over it: OTLP over gRPC, or in bodies of HTTP. Not here: what is sent, and
//! what becomes of it if it cannot be.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weft_proto::name::CollectorUrl;
use weft_proto::pb::opentelemetry::proto::collector::trace::v1::ExportTraceServiceResponse;
use weft_proto::resource::kinds::OtlpProtocol;

/// Time for a connection with its handshakes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for an export, from its first byte to the end of the answer.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Where the roots of public certificates are, on the systems that there are.
const ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    /// The method of gRPC.
    const fn method(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }

    /// The usual path over HTTP.
    const fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
        }
    }
}

/// Where something is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub endpoint: CollectorUrl,
    pub protocol: OtlpProtocol,
    pub signal: Signal,
}

/// Why something was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the endpoint is no address")]
    Endpoint,
    #[error("the collector cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("no certificates are known to recognise the collector by")]
    NoRoots,
    #[error("no HTTP with the collector")]
    Http(#[source] hyper::Error),
    #[error("the collector took longer than {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the collector answered with status {0}")]
    Status(StatusCode),
    #[error("the collector answered with status {code} of gRPC: {message}")]
    Grpc { code: String, message: String },
    #[error("the answer of the collector broke off, or is too large")]
    Answer,
    /// For those to whom a part is not enough.
    #[error("the collector did not want {rejected} of what it was sent")]
    Rejected { rejected: u64 },
}

impl Error {
    /// Whether the same may be taken later, as the protocol has it.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Http(_) | Self::Timeout(_) | Self::Answer => true,
            Self::Endpoint | Self::NoRoots | Self::Rejected { .. } => false,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            // Cancelled, deadline exceeded, resource exhausted, aborted, out of range, unavailable, data loss.
            Self::Grpc { code, .. } => matches!(&**code, "1" | "4" | "8" | "10" | "11" | "14" | "15"),
        }
    }
}

/// An open connection. It ends with this.
pub struct Collector {
    place: Place,
    uri: Uri,
    host: HeaderValue,
    sender: Speaker,
    driver: JoinHandle<()>,
}

enum Speaker {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Collector {
    pub async fn connect(place: &Place) -> Result<Self, Error> {
        let connecting = Box::pin(Self::open(place));
        timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| Error::Timeout(CONNECT_TIMEOUT))?
    }

    async fn open(place: &Place) -> Result<Self, Error> {
        let base: Uri = place.endpoint.as_str().parse().map_err(|_| Error::Endpoint)?;
        let authority = base.authority().cloned().ok_or(Error::Endpoint)?;
        let is_tls = base.scheme_str() == Some("https");
        let is_grpc = place.protocol == OtlpProtocol::Grpc;
        let usual = match (is_grpc, is_tls) {
            (true, _) => 4317,
            (false, true) => 443,
            (false, false) => 4318,
        };
        let bare = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let stream = TcpStream::connect((&*bare, authority.port_u16().unwrap_or(usual))).await;
        let stream = stream.map_err(Error::Unreachable)?;
        stream.set_nodelay(true).map_err(Error::Unreachable)?;
        let (sender, driver) = match is_tls {
            false => speak(stream, is_grpc).await?,
            true => {
                let name = ServerName::try_from(bare).map_err(|_| Error::Endpoint)?;
                let config = Arc::new(tls(is_grpc).await?);
                let stream = TlsConnector::from(config).connect(name, stream).await;
                speak(stream.map_err(Error::Unreachable)?, is_grpc).await?
            }
        };
        let path = match (is_grpc, base.path()) {
            (true, _) => place.signal.method(),
            (false, "/" | "") => place.signal.path(),
            (false, path) => path,
        };
        let host = HeaderValue::try_from(authority.as_str()).map_err(|_| Error::Endpoint)?;
        let uri = match is_grpc {
            true => Uri::builder()
                .scheme(if is_tls { "https" } else { "http" })
                .authority(authority)
                .path_and_query(path)
                .build(),
            false => Uri::try_from(path).map_err(Into::into),
        };
        Ok(Self { place: place.clone(), uri: uri.map_err(|_| Error::Endpoint)?, host, sender, driver })
    }

    /// Whether it leads there, and is open as far as is known.
    pub fn is_to(&self, place: &Place) -> bool {
        let open = match &self.sender {
            Speaker::Http1(sender) => !sender.is_closed(),
            Speaker::Http2(sender) => !sender.is_closed(),
        };
        open && self.place == *place
    }

    /// Sends the request of the signal; says how much of it the collector did not want.
    pub async fn export(&mut self, message: &impl prost::Message) -> Result<u64, Error> {
        let exporting = Box::pin(self.send(message));
        timeout(EXPORT_TIMEOUT, exporting).await.map_err(|_| Error::Timeout(EXPORT_TIMEOUT))?
    }

    async fn send(&mut self, message: &impl prost::Message) -> Result<u64, Error> {
        let mut request = Request::post(self.uri.clone());
        let length = message.encoded_len();
        let mut body = BytesMut::with_capacity(length + 5);
        if self.place.protocol == OtlpProtocol::Grpc {
            request = request.header(CONTENT_TYPE, "application/grpc").header(TE, "trailers");
            // Not compressed, and how long.
            body.put_u8(0);
            body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        } else {
            request = request.header(CONTENT_TYPE, "application/x-protobuf").header(HOST, self.host.clone());
        }
        // There is room for all of it.
        let _ = message.encode(&mut body);
        let request = request.body(Full::new(body.freeze())).map_err(|_| Error::Endpoint)?;
        let response = match &mut self.sender {
            Speaker::Http1(sender) => {
                sender.ready().await.map_err(Error::Http)?;
                sender.send_request(request).await
            }
            Speaker::Http2(sender) => {
                sender.ready().await.map_err(Error::Http)?;
                sender.send_request(request).await
            }
        };
        read(response.map_err(Error::Http)?, self.place.protocol).await
    }
}

async fn speak<S>(stream: S, is_grpc: bool) -> Result<(Speaker, JoinHandle<()>), Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = TokioIo::new(stream);
    if is_grpc {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .handshake(stream)
            .await
            .map_err(Error::Http)?;
        return Ok((Speaker::Http2(sender), tokio::spawn(async move { _ = connection.await })));
    }
    let (sender, connection) = http1::handshake(stream).await.map_err(Error::Http)?;
    Ok((Speaker::Http1(sender), tokio::spawn(async move { _ = connection.await })))
}

async fn read(response: Response<Incoming>, protocol: OtlpProtocol) -> Result<u64, Error> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    if head.status != StatusCode::OK {
        return Err(Error::Status(head.status));
    }
    let body = body.map_err(|_| Error::Answer)?;
    if protocol == OtlpProtocol::Grpc {
        // What has no message says how it went in its head.
        grpc_status(body.trailers().unwrap_or(&head.headers))?;
    }
    let bytes = body.to_bytes();
    let message = match protocol {
        OtlpProtocol::Grpc => bytes.get(5..).unwrap_or_default(),
        OtlpProtocol::Http => &bytes,
    };
    // The answers of all signals are alike. Whoever takes something and says so in other words has taken it.
    let answer = ExportTraceServiceResponse::decode(message).unwrap_or_default();
    let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
    Ok(u64::try_from(rejected).unwrap_or_default())
}

fn grpc_status(headers: &HeaderMap) -> Result<(), Error> {
    let text =
        |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "0" => Ok(()),
        "" => Err(Error::Answer),
        code => Err(Error::Grpc { code: code.to_owned(), message: text("grpc-message").to_owned() }),
    }
}

/// A collector is known as any public server is: the mesh's own roots say nothing of it.
async fn tls(is_grpc: bool) -> Result<rustls::ClientConfig, Error> {
    let read = tokio::task::spawn_blocking(roots).await;
    let roots = read.ok().flatten().ok_or(Error::NoRoots)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|_| Error::NoRoots)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![if is_grpc { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(config)
}

/// From the file that `SSL_CERT_FILE` names, or where systems have them.
pub(crate) fn roots() -> Option<rustls::RootCertStore> {
    let named = std::env::var_os("SSL_CERT_FILE");
    let paths = named.iter().map(Path::new).chain(ROOTS.iter().filter(|_| named.is_none()).map(Path::new));
    let mut roots = rustls::RootCertStore::empty();
    for path in paths {
        let Ok(found) = CertificateDer::pem_file_iter(path) else { continue };
        roots.add_parsable_certificates(found.filter_map(Result::ok));
        break;
    }
    (!roots.is_empty()).then_some(roots)
}
