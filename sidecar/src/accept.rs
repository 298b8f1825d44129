//! Taking connections: handshakes, limits, and the watch over each connection while it lives. What stands behind a
//! listener is the pipeline's business.
//!
//! A connection ends gracefully: whatever streams on it goes on to its own end. Only a revoked certificate, or the end
//! of a drain, cuts.

mod open;
mod watch;

pub use open::Open;
pub use watch::Busy;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_certs::bundle::{Bundles, TrustStore};
use weft_certs::{tls, verifier};

use crate::answer::Answer;
use crate::clock;
use crate::gateway::{Share, Shares};
use crate::identify::{Caller, Identified, Protocol, Proved};
use crate::limits::Limits;
use crate::metrics::Metrics;
use watch::{Activity, Watched};

/// How long streams may go on after the certificate of their caller was revoked.
const REVOKED_DRAIN: Duration = Duration::from_millis(500);
/// Smallest buffer that hyper takes for a request's head.
const HEAD_BUFFER_MIN: usize = 8 << 10;
/// Most headers that hyper takes if nothing is said.
const HEADERS_USUAL: usize = 100;

/// A listener, and how it knows who connects.
pub struct Listener {
    /// How records and metrics call it.
    pub name: &'static str,
    pub tls: Option<Tls>,
    /// Whether whoever connects need not say who they are: each request does.
    pub is_public: bool,
    /// Connections of each client address.
    pub addresses: Shares<IpAddr>,
    /// Its connections, counted from the moment that they are accepted.
    pub open: Open,
    pub limits: Arc<Limits>,
    pub metrics: Arc<Metrics>,
    /// No new connections, and the open ones are asked to end.
    pub drain: CancellationToken,
    /// Whatever is still open is cut.
    pub stop: CancellationToken,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("name", &self.name).finish_non_exhaustive()
    }
}

/// TLS: the configuration of each handshake, and whom certificates are checked against while a connection lives.
#[derive(Clone)]
pub struct Tls {
    pub config: Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>,
    pub trust: TrustStore,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("trust", &self.trust).finish_non_exhaustive()
    }
}

/// What serves a request.
pub trait Service: Clone + Send + Sync + 'static {
    fn serve(
        &self,
        connection: Arc<Identified>,
        request: Box<Request<Incoming>>,
    ) -> impl Future<Output = Response<Answer>> + Send;
}

impl Listener {
    /// Serves until the drain begins, and then until the last connection ended or the stop.
    pub async fn serve(self, socket: TcpListener, service: impl Service) {
        let places = Arc::new(Semaphore::new(self.limits.connections_max));
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes_max));
        let tasks = TaskTracker::new();
        let listener = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                () = listener.drain.cancelled() => break,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    // Closed at once rather than left waiting: the caller's sidecar tries another instance.
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                        listener.metrics.connection_refused(listener.name, "connections");
                        continue;
                    };
                    let Some(share) = listener.share(address) else {
                        listener.metrics.connection_refused(listener.name, "address");
                        continue;
                    };
                    let (listener, service) = (Arc::clone(&listener), service.clone());
                    let (handshakes, one) = (Arc::clone(&handshakes), listener.open.one());
                    tasks.spawn(async move {
                        listener.connection(stream, address, &handshakes, service).await;
                        drop((place, share, one));
                    });
                }
                Err(error) => {
                    tracing::warn!(listener = listener.name, %error, "a connection could not be accepted");
                    // Out of descriptors, usually: trying again at once would only burn the processor.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        // Closed before the wait: a caller that came now would be kept in the backlog and never be served.
        drop(socket);
        tasks.close();
        tasks.wait().await;
    }

    /// A part of what one client address may have open; where clients are of this mesh there is no such limit.
    fn share(&self, address: SocketAddr) -> Option<Share<IpAddr>> {
        let max = if self.is_public { self.limits.connections_per_address_max } else { usize::MAX };
        self.addresses.take(&network(address.ip()), max)
    }

    async fn connection(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        handshakes: &Semaphore,
        service: impl Service,
    ) {
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            let caller = if self.name == "outbound" { Caller::Local } else { Caller::Anonymous };
            let identified = Identified { address, caller, protocol: Protocol::Http1 };
            return Box::pin(self.http(stream, identified, None, service)).await;
        };
        let Ok(handshaking) = handshakes.try_acquire() else {
            return self.metrics.connection_refused(self.name, "handshakes");
        };
        let acceptor = TlsAcceptor::from((tls.config)());
        let accepting = timeout(*self.limits.handshake_timeout, acceptor.accept(stream));
        let accepted = tokio::select! {
            accepted = accepting => accepted,
            // It would be asked to end before its first request; and whoever says nothing must not hold up the end.
            () = self.drain.cancelled() => return self.metrics.connection_refused(self.name, "draining"),
        };
        drop(handshaking);
        match accepted {
            Ok(Ok(stream)) => match identify(&stream, address) {
                Some((identified, ends)) => {
                    let ends = Ends { at: ends, trust: tls.trust.clone() };
                    // In a box, so that the room for the handshake is free again; and the stream in one of its own, as
                    // it would stand in what serves it twice.
                    Box::pin(self.http(Box::new(stream), identified, Some(ends), service)).await;
                }
                None if self.is_public => {
                    let protocol = protocol(&stream);
                    let identified = Identified { address, caller: Caller::Anonymous, protocol };
                    Box::pin(self.http(Box::new(stream), identified, None, service)).await;
                }
                None => self.metrics.connection_refused(self.name, "identity"),
            },
            Ok(Err(error)) => self.handshake_failed(address, &error),
            Err(_) => self.handshake_failed(address, &io::Error::from(io::ErrorKind::TimedOut)),
        }
    }

    fn handshake_failed(&self, address: SocketAddr, error: &io::Error) {
        let refused = verifier::Error::from_io(error);
        let reason = match (&refused, error.kind()) {
            (Some(_), _) => "certificate",
            (None, io::ErrorKind::TimedOut) => "timeout",
            (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => "closed",
            (None, _) => "protocol",
        };
        self.metrics.connection_refused(self.name, reason);
        let text = refused.map_or_else(|| error.to_string(), |refused| refused.to_string());
        tracing::info!(listener = self.name, peer.address = %address, reason, error = text, "handshake failed");
    }

    async fn http<S>(&self, stream: S, identified: Identified, ends: Option<Ends>, service: impl Service)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let open = self.metrics.connection_opened(self.name);
        let activity = Arc::new(Activity::new(identified.protocol));
        let identified = Arc::new(identified);
        let revoked = revoked(&identified, ends.as_ref());
        let age = self.age(ends.as_ref());
        let service = {
            let activity = Arc::clone(&activity);
            service_fn(move |request: Request<Incoming>| {
                let (service, identified) = (service.clone(), Arc::clone(&identified));
                let busy = activity.begin(request.version() == Version::HTTP_2);
                // In boxes: both are large and handed on often, and a connection keeps room for what is inline.
                let request = Box::new(request);
                Box::pin(async move {
                    let response = service.serve(identified, request).await;
                    Ok::<_, Infallible>(response.map(|answer| answer.holding(busy)))
                })
            })
        };
        let builder = self.builder();
        let connection =
            builder.serve_connection(TokioIo::new(Watched::new(stream, Arc::clone(&activity))), service);
        let mut connection = pin!(connection);
        let idle = activity.idle(*self.limits.header_timeout, *self.limits.keep_alive_timeout);
        let ended = async {
            tokio::select! {
                () = idle => Some(REVOKED_DRAIN),
                () = revoked => Some(REVOKED_DRAIN),
                () = self.drain.cancelled() => None,
                () = sleep_until(age) => None,
            }
        };
        // A set looks only at what was woken, and the connection wakes with every message.
        let mut ended = FuturesUnordered::from_iter([ended]);
        let cut = tokio::select! {
            biased;
            _ = connection.as_mut() => Some(Duration::ZERO),
            Some(cut) = ended.next() => cut,
        };
        if cut != Some(Duration::ZERO) {
            connection.as_mut().graceful_shutdown();
            let end = async {
                match cut {
                    Some(after) => tokio::time::sleep(after).await,
                    None => self.stop.cancelled().await,
                }
            };
            tokio::select! {
                _ = connection.as_mut() => {}
                () = end => {}
            }
        }
        drop(open);
    }

    fn builder(&self) -> auto::Builder<TokioExecutor> {
        let limits = &self.limits;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // The watch over the connection does this, with one timer for all requests.
            .header_read_timeout(None)
            .max_buf_size(limits.header_bytes_max.max(HEAD_BUFFER_MIN));
        // Room for as many as are usual is on the stack, and costs least.
        if limits.headers_max != HEADERS_USUAL {
            builder.http1().max_headers(limits.headers_max);
        }
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_per_connection_max)
            .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(Some(20))
            .max_local_error_reset_streams(Some(128))
            .initial_stream_window_size(Some(256 << 10))
            .initial_connection_window_size(Some(1 << 20))
            .max_send_buf_size(64 << 10)
            .keep_alive_interval(Some(Duration::from_secs(20)))
            .keep_alive_timeout(Duration::from_secs(10));
        builder
    }

    /// When a connection is asked to end: of age, or with the certificate that opened it.
    fn age(&self, ends: Option<&Ends>) -> Instant {
        let age = self.limits.connection_age_max.mul_f64(rand::rng().random_range(0.9..=1.1));
        let left = ends.map(|ends| ends.at.duration_since(clock::now()).unwrap_or_default());
        Instant::now() + left.map_or(age, |left| left.min(age))
    }
}

/// What ends the right of a connection to be.
struct Ends {
    at: std::time::SystemTime,
    trust: TrustStore,
}

/// Who a completed handshake proved, and until when.
fn identify(
    stream: &TlsStream<TcpStream>,
    address: SocketAddr,
) -> Option<(Identified, std::time::SystemTime)> {
    let connection = stream.get_ref().1;
    let leaf = tls::peer(connection)?;
    let workload = leaf.spiffe_id.workload()?;
    let protocol = protocol(stream);
    let proved = Proved::new(workload, leaf.serial);
    Some((Identified { address, caller: Caller::Workload(Box::new(proved)), protocol }, leaf.not_after))
}

fn protocol(stream: &TlsStream<TcpStream>) -> Protocol {
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

/// Whose an address is: of IPv6, everybody has a whole network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Ends once the certificate is revoked that opened the connection, or nobody vouches for its trust domain any more.
fn revoked(identified: &Arc<Identified>, ends: Option<&Ends>) -> impl Future<Output = ()> + use<> {
    let watched = ends.map(|ends| ends.trust.watch());
    let identified = Arc::clone(identified);
    async move {
        let gone = |bundles: &Arc<Bundles>| match &identified.caller {
            Caller::Workload(proved) => bundles
                .get(&proved.caller.workload().trust_domain)
                .is_none_or(|bundle| bundle.roots().is_empty() || bundle.revoked().contains(&proved.serial)),
            Caller::Local | Caller::Anonymous | Caller::Guest(_) => false,
        };
        if let Some(mut watched) = watched
            && watched.wait_for(gone).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}
