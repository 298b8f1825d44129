//! Connections to the control plane: names, TCP, TLS and HTTP/2, each step with a limit on its time.
//!
//! Not here: when to connect again, and what is said over the connection.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use weft_proto::name::HostPort;

/// Most addresses of one name that are tried.
pub const ADDRESSES_MAX: usize = 16;
/// Time to find the addresses of a name.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a TCP connection to one address.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for the handshakes of TLS and HTTP/2 with one address.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which the other end is asked whether it is still there, and how long it has to say so.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that may be under way before the other end must wait.
const WINDOW_BYTES: u32 = 1 << 20;
/// Largest head of an answer.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// What the generated clients speak over.
pub type Channel = BoxCloneSyncService<Request<Body>, Response<Incoming>, hyper::Error>;

/// Why there is no connection: the last address's reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the addresses of {address} cannot be found")]
    Resolve {
        address: HostPort,
        #[source]
        source: io::Error,
    },
    #[error("{address} has no address")]
    NoAddress { address: HostPort },
    #[error("{address} cannot be reached")]
    Unreachable {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("no TLS with {address}")]
    Tls {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("no HTTP/2 with {address}")]
    Http2 {
        address: SocketAddr,
        #[source]
        source: hyper::Error,
    },
    #[error("{what} took longer than {} s", .after.as_secs())]
    Timeout { what: String, after: Duration },
}

impl Error {
    /// Whether somebody answered, and it was the proof of who they or we are that failed.
    pub const fn is_about_identity(&self) -> bool {
        matches!(self, Self::Tls { .. } | Self::Http2 { .. })
    }
}

/// A connection. It ends when this and every copy of its channel are dropped.
pub struct Connection {
    pub channel: Channel,
    /// This end's address.
    pub local: SocketAddr,
    pub peer: SocketAddr,
    driver: JoinHandle<()>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("local", &self.local)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Whoever drops it is done with every stream, and a peer that reads nothing must not keep it.
        self.driver.abort();
    }
}

/// Connects to the first address that answers, looked up anew each time. `random` says which is tried first.
pub async fn connect(
    address: &HostPort,
    config: Arc<rustls::ClientConfig>,
    random: usize,
) -> Result<Connection, Error> {
    let mut addresses = resolve(address).await?;
    let count = addresses.len().max(1);
    addresses.rotate_left(random % count);
    let mut last = Error::NoAddress { address: address.clone() };
    for found in addresses {
        match Box::pin(open(address, found, Arc::clone(&config))).await {
            Ok(connection) => return Ok(connection),
            // That nobody is there says less than what somebody said.
            Err(error) if last.is_about_identity() && !error.is_about_identity() => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn resolve(address: &HostPort) -> Result<Vec<SocketAddr>, Error> {
    let found =
        limited(RESOLVE_TIMEOUT, "finding the addresses", tokio::net::lookup_host(address.as_str())).await?;
    let found = found.map_err(|source| Error::Resolve { address: address.clone(), source })?;
    Ok(found.take(ADDRESSES_MAX).collect())
}

async fn open(
    name: &HostPort,
    peer: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> Result<Connection, Error> {
    let unreachable = |source| Error::Unreachable { address: peer, source };
    let stream =
        limited(CONNECT_TIMEOUT, "connecting", TcpStream::connect(peer)).await?.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let local = stream.local_addr().map_err(unreachable)?;
    let connector = TlsConnector::from(config);
    let stream =
        limited(HANDSHAKE_TIMEOUT, "the TLS handshake", connector.connect(server_name(name), stream));
    let stream = stream.await?.map_err(|source| Error::Tls { address: peer, source })?;
    let handshake = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(Some(WINDOW_BYTES))
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(Some(KEEP_ALIVE_EVERY))
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake::<_, Body>(TokioIo::new(stream));
    let (sender, connection) = limited(HANDSHAKE_TIMEOUT, "the HTTP/2 handshake", handshake)
        .await?
        .map_err(|source| Error::Http2 { address: peer, source })?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(peer.address = %peer, error = &error as &dyn std::error::Error, "connection to the control plane broke");
        }
    });
    Ok(Connection { channel: channel(sender), local, peer, driver })
}

async fn limited<T>(after: Duration, what: &str, work: impl Future<Output = T>) -> Result<T, Error> {
    timeout(after, work).await.map_err(|_| Error::Timeout { what: what.to_owned(), after })
}

/// Who answers is known by its certificate's identity; the name only helps proxies on the way.
fn server_name(address: &HostPort) -> ServerName<'static> {
    let host = address.host().trim_start_matches('[').trim_end_matches(']');
    let fallback = || ServerName::try_from("control-plane").expect("the name is a DNS name");
    ServerName::try_from(host.to_owned()).unwrap_or_else(|_| fallback())
}

fn channel(sender: SendRequest<Body>) -> Channel {
    BoxCloneSyncService::new(tower::service_fn(move |request| send(sender.clone(), request)))
}

/// The generated clients leave out who is spoken to; HTTP/2 wants it said.
async fn send(
    mut sender: SendRequest<Body>,
    mut request: Request<Body>,
) -> Result<Response<Incoming>, hyper::Error> {
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTPS);
    parts.authority = Some(http::uri::Authority::from_static("control-plane"));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    sender.send_request(request).await
}
