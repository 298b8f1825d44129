//! Taking connections: TLS, limits, and the service behind them. Both doors use it; what stands behind differs.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rand::Rng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use weft_certs::bundle::{Bundle, Bundles, Fingerprint, TrustStore};
use weft_certs::tls;
use weft_certs::verifier::{self, Role};

use crate::clock;
use crate::metrics::{Metrics, ReasonLabel};
use crate::peer::Peer;

/// What a door allows.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections_max: usize,
    pub handshake_timeout: Duration,
    pub header_timeout: Duration,
    pub header_bytes_max: u32,
    pub streams_per_connection_max: u32,
    /// Connections end after about this long, so that clients spread over replicas and prove themselves again.
    pub age_max: Duration,
    /// How long streams may go on after a connection was told to end.
    pub drain: Duration,
    pub keep_alive: Duration,
    pub keep_alive_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 50_000,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            header_bytes_max: 16 << 10,
            streams_per_connection_max: 16,
            age_max: Duration::from_secs(60 * 60),
            drain: Duration::from_secs(5),
            keep_alive: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(10),
        }
    }
}

/// A door: where it listens, how it knows whom it lets in, and what stands behind it.
#[derive(Debug)]
pub struct Door {
    pub name: &'static str,
    pub listener: TcpListener,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whom client certificates are checked against, to tell which root one leads to.
    pub trust: Option<TrustStore>,
    pub service: axum::Router,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
}

impl Door {
    /// Serves until shutdown, then lets open connections finish for a while.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Self { name, listener, tls, trust, service, limits, metrics } = self;
        let shared = Arc::new(Shared {
            name,
            tls: tls.map(TlsAcceptor::from),
            trust,
            service,
            limits,
            metrics,
            shutdown: shutdown.clone(),
        });
        let connections = Arc::new(Semaphore::new(shared.limits.connections_max));
        let tasks = TaskTracker::new();
        loop {
            let Ok(place) = Arc::clone(&connections).acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    let shared = Arc::clone(&shared);
                    tasks.spawn(async move {
                        shared.connection(stream, address).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(door = name, %error, "a connection could not be accepted");
                    // Out of descriptors, usually: trying again at once would only burn the processor.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        tasks.close();
        let _ = timeout(shared.limits.drain * 2, tasks.wait()).await;
    }
}

struct Shared {
    name: &'static str,
    tls: Option<TlsAcceptor>,
    trust: Option<TrustStore>,
    service: axum::Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
}

impl Shared {
    async fn connection(&self, stream: TcpStream, address: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = &self.tls else {
            let peer = Peer { address, leaf: None, root: "".into() };
            return self.http(TokioIo::new(stream), peer, None).await;
        };
        // Handshakes are not counted apart: whoever stalled as many as were allowed would lock everyone else out.
        match timeout(self.limits.handshake_timeout, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let peer = self.peer(&stream, address);
                let ends = peer.leaf.as_ref().map(|leaf| leaf.not_after);
                self.http(TokioIo::new(stream), peer, ends).await;
            }
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
        self.metrics.handshakes_failed.get_or_create(&ReasonLabel { reason }).inc();
        let text = refused.map_or_else(|| error.to_string(), |refused| refused.to_string());
        tracing::info!(door = self.name, peer.address = %address, reason, error = text, "handshake failed");
    }

    fn peer(&self, stream: &TlsStream<TcpStream>, address: SocketAddr) -> Peer {
        let connection = stream.get_ref().1;
        let leaf = tls::peer(connection).map(Arc::new);
        let root = match (&leaf, &self.trust, connection.peer_certificates()) {
            (Some(leaf), Some(trust), Some(chain)) => {
                trust.load().get(leaf.spiffe_id.trust_domain()).and_then(|bundle| root_of(chain, bundle))
            }
            _ => None,
        };
        Peer { address, leaf, root: root.unwrap_or_default().into() }
    }

    async fn http<S>(&self, stream: TokioIo<S>, peer: Peer, ends: Option<SystemTime>)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        self.metrics.connections.inc();
        let router = self.service.clone();
        let first = CancellationToken::new();
        let came = first.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            came.cancel();
            request.extensions_mut().insert(peer.clone());
            let router = router.clone();
            async move {
                let response: Result<Response<Body>, Infallible> =
                    router.oneshot(request.map(Body::new)).await;
                response
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        let limits = &self.limits;
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(64 << 10);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_per_connection_max)
            .max_header_list_size(limits.header_bytes_max)
            .max_pending_accept_reset_streams(Some(20))
            .keep_alive_interval(Some(limits.keep_alive))
            .keep_alive_timeout(limits.keep_alive_timeout)
            .max_send_buf_size(64 << 10);
        let connection = builder.serve_connection_with_upgrades(stream, service);
        let mut connection = std::pin::pin!(connection);
        let silent = async {
            // A connection on which nothing was ever asked only takes up a place.
            if timeout(limits.header_timeout, first.cancelled()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        let retired = tokio::select! {
            _ = connection.as_mut() => true,
            () = silent => true,
            () = self.shutdown.cancelled() => false,
            () = sleep_until(self.age(ends)) => false,
        };
        if !retired {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(limits.drain, connection).await;
        }
        self.metrics.connections.dec();
    }

    /// When a connection is to end: of age, or with the certificate that opened it.
    fn age(&self, ends: Option<SystemTime>) -> Instant {
        let age = self.limits.age_max.mul_f64(rand::rng().random_range(0.9..=1.1));
        let left = ends.map(|ends| ends.duration_since(clock::now()).unwrap_or_default());
        Instant::now() + left.map_or(age, |left| left.min(age))
    }
}

/// Which root of a bundle a verified chain leads to.
fn root_of(chain: &[rustls_pki_types::CertificateDer<'_>], bundle: &Arc<Bundle>) -> Option<String> {
    if let [only] = bundle.roots() {
        return Some(Fingerprint::of(only).to_string());
    }
    let (leaf, above) = chain.split_first()?;
    bundle.roots().iter().find_map(|root| {
        let alone =
            Bundle::new(bundle.trust_domain().clone(), vec![root.clone()], 0, BTreeSet::new()).ok()?;
        let bundles = Bundles::new([alone]).ok()?;
        verifier::verify(leaf, above, &bundles, Role::Client, clock::now()).ok()?;
        Some(Fingerprint::of(root).to_string())
    })
}
