//! Taking connections: TLS, limits, and the service behind them. Both doors use it; what stands behind differs.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rand::Rng;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
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
use crate::peer::{self, Peer};

/// How long streams may go on after their certificate was revoked: long enough to be told that the connection ends.
const REVOKED_DRAIN: Duration = Duration::from_millis(500);

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
    /// The same for who shows no certificate where others do: there is only one to ask for.
    pub stranger_age_max: Duration,
    /// Connections at once without a certificate from one network (an IPv4 address, an IPv6 /64), those in their
    /// handshake included.
    pub strangers_per_network_max: usize,
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
            stranger_age_max: Duration::from_secs(30),
            strangers_per_network_max: 1024,
            drain: Duration::from_secs(5),
            keep_alive: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(10),
        }
    }
}

/// How long streams may go on after a door was shut: less than what lies between the moment from which one leads no more
/// and that from which another may.
const SHUT_DRAIN: Duration = Duration::from_secs(2);
/// Connections that wait to be taken.
const BACKLOG: u32 = 1024;

/// Where a door is.
#[derive(Debug)]
pub enum Place {
    Open(TcpListener),
    /// The address is taken already, but whoever connects is refused until this is true. Another program could take it
    /// meanwhile; then the door cannot be opened, and the control plane stops. While it is false again, the door is shut:
    /// who is inside has to go, and who comes is sent away.
    Later {
        socket: TcpSocket,
        opens: watch::Receiver<bool>,
    },
}

impl Place {
    /// Takes an address: to listen there, or to do so later.
    pub fn take(address: SocketAddr, opens: Option<watch::Receiver<bool>>) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // As every listener has it: what is left of connections from before is in nobody's way.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        match opens {
            Some(opens) => Ok(Self::Later { socket, opens }),
            None => socket.listen(BACKLOG).map(Self::Open),
        }
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Open(listener) => listener.local_addr(),
            Self::Later { socket, .. } => socket.local_addr(),
        }
    }

    /// Listens once it is time, and says whether it is; none if it never will be.
    async fn opened(self) -> Option<io::Result<(TcpListener, Opens)>> {
        match self {
            Self::Open(listener) => Some(Ok((listener, Opens(None)))),
            Self::Later { socket, mut opens } => {
                opens.wait_for(|opens| *opens).await.ok()?;
                Some(socket.listen(BACKLOG).map(|listener| (listener, Opens(Some(opens)))))
            }
        }
    }
}

/// Whether a door is open; one without a condition always is.
#[derive(Clone, Debug)]
struct Opens(Option<watch::Receiver<bool>>);

impl Opens {
    fn is_open(&self) -> bool {
        self.0.as_ref().is_none_or(|opens| *opens.borrow())
    }

    /// Ends once it is shut.
    async fn shut(&self) {
        if let Some(opens) = &self.0
            && opens.clone().wait_for(|opens| !*opens).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// A door: where it listens, how it knows whom it lets in, and what stands behind it.
#[derive(Debug)]
pub struct Door {
    pub name: &'static str,
    pub place: Place,
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
        let Self { name, place, tls, trust, service, limits, metrics } = self;
        let opened = tokio::select! {
            () = shutdown.cancelled() => return,
            opened = place.opened() => opened,
        };
        let (listener, opens) = match opened {
            Some(Ok(opened)) => opened,
            Some(Err(error)) => {
                tracing::error!(door = name, %error, "a door cannot be opened; the control plane stops");
                return shutdown.cancel();
            }
            None => return,
        };
        let shared = Arc::new(Shared {
            name,
            tls: tls.map(TlsAcceptor::from),
            trust,
            service,
            strangers: Strangers::default(),
            limits,
            metrics,
            opens,
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
                Ok((stream, _)) if !shared.opens.is_open() => drop(stream),
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
    strangers: Strangers,
    limits: Limits,
    metrics: Arc<Metrics>,
    opens: Opens,
    shutdown: CancellationToken,
}

impl Shared {
    async fn connection(&self, stream: TcpStream, address: SocketAddr) {
        let network = peer::network(address.ip());
        let Some(share) = self.strangers.enter(network, self.limits.strangers_per_network_max) else {
            self.metrics.handshakes_failed.get_or_create(&ReasonLabel { reason: "share" }).inc();
            // Not louder: whoever floods the door must not flood the log.
            tracing::debug!(door = self.name, peer.address = %address, reason = "share", "connection refused");
            return;
        };
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
                // Many sidecars may stand behind one address: who proved a certificate is no stranger any more.
                let _share = ends.is_none().then_some(share);
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
        let (age, revoked) = (self.age(&peer, ends), self.revoked(&peer));
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
        let drain = tokio::select! {
            _ = connection.as_mut() => None,
            () = silent => None,
            () = revoked => Some(REVOKED_DRAIN.min(limits.drain)),
            () = self.opens.shut() => Some(SHUT_DRAIN.min(limits.drain)),
            () = self.shutdown.cancelled() => Some(limits.drain),
            () = sleep_until(age) => Some(limits.drain),
        };
        if let Some(drain) = drain {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(drain, connection).await;
        }
        self.metrics.connections.dec();
    }

    /// When a connection is to end: of age, or with the certificate that opened it.
    fn age(&self, peer: &Peer, ends: Option<SystemTime>) -> Instant {
        let stranger = self.trust.is_some() && peer.leaf.is_none();
        let age_max = if stranger { self.limits.stranger_age_max } else { self.limits.age_max };
        let age = age_max.mul_f64(rand::rng().random_range(0.9..=1.1));
        let left = ends.map(|ends| ends.duration_since(clock::now()).unwrap_or_default());
        Instant::now() + left.map_or(age, |left| left.min(age))
    }

    /// Ends once the certificate is revoked that opened the connection.
    fn revoked(&self, peer: &Peer) -> impl Future<Output = ()> + use<> {
        let watched = self.trust.as_ref().map(TrustStore::watch).filter(|_| peer.leaf.is_some());
        let peer = peer.clone();
        async move {
            if let Some(mut bundles) = watched
                && bundles.wait_for(|bundles| peer.is_revoked(bundles)).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        }
    }
}

/// How many connections without a certificate each network has, so that none takes every place.
#[derive(Clone, Debug, Default)]
struct Strangers(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Strangers {
    /// Counts one more until the share is dropped, or says that there are too many.
    fn enter(&self, network: IpAddr, at_once_max: usize) -> Option<Share> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&network).copied().unwrap_or_default();
        if count >= at_once_max {
            return None;
        }
        counts.insert(network, count + 1);
        drop(counts);
        Some(Share { strangers: self.clone(), network })
    }
}

/// One connection's part of what its network may have.
#[derive(Debug)]
struct Share {
    strangers: Strangers,
    network: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.strangers.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.network) {
            Some(count) if *count > 1 => *count -= 1,
            // Forgotten, so that the map never outgrows the open connections.
            _ => drop(counts.remove(&self.network)),
        }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_door_that_opens_later_refuses_until_then_and_keeps_its_address() {
        let opens = watch::Sender::new(false);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let place = Place::take(any, Some(opens.subscribe())).unwrap();
        let address = place.address().unwrap();
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        opens.send_replace(true);
        let (_listener, opens) = place.opened().await.unwrap().unwrap();
        assert!(opens.is_open());
        TcpStream::connect(address).await.unwrap();
    }

    #[tokio::test]
    async fn a_door_that_is_shut_sends_everybody_away_and_opens_again() {
        let (opens, shutdown) = (watch::Sender::new(true), CancellationToken::new());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let place = Place::take(any, Some(opens.subscribe())).unwrap();
        let address = place.address().unwrap();
        let door = Door {
            name: "test",
            place,
            tls: None,
            trust: None,
            service: axum::Router::new().route("/", axum::routing::get(async || "here")),
            limits: Limits::default(),
            metrics: Arc::default(),
        };
        let serving = tokio::spawn(door.serve(shutdown.clone()));
        let ask = async |stream: &mut TcpStream| {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.ok()?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.ok().map(|_| answer)
        };
        let connect = async || {
            loop {
                match TcpStream::connect(address).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let mut inside = connect().await;
        assert_eq!(&ask(&mut inside).await.unwrap(), b"HTTP/1.1 200");
        opens.send_replace(false);
        // The rest of the answer, and then the end.
        inside.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(ask(&mut connect().await).await, None);
        opens.send_replace(true);
        assert_eq!(&ask(&mut connect().await).await.unwrap(), b"HTTP/1.1 200");
        shutdown.cancel();
        serving.await.unwrap();
    }

    #[test]
    fn a_network_has_its_share_and_no_more() {
        let strangers = Strangers::default();
        let [one, other] = ["192.0.2.1", "2001:db8::"].map(|text| text.parse().unwrap());
        let first = strangers.enter(one, 2).unwrap();
        let second = strangers.enter(one, 2).unwrap();
        assert!(strangers.enter(one, 2).is_none());
        assert!(strangers.enter(other, 2).is_some(), "another network has a share of its own");
        drop(first);
        let third = strangers.enter(one, 2).unwrap();
        assert!(strangers.enter(one, 2).is_none());
        drop((second, third));
        assert!(strangers.0.lock().unwrap().is_empty(), "nothing is remembered of who left");
    }
}
