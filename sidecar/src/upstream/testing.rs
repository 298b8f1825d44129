//! Servers and identities for tests of what speaks to servers.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use weft_certs::bundle::{Bundles, TrustStore};
use weft_certs::ca::{Ca, Kek, Limits};
use weft_certs::csr;
use weft_certs::tls::{self, ClientAuth, Identity, LiveIdentity};
use weft_certs::verifier::Expect;
use weft_proto::name::{SpiffeId, TrustDomain};

use super::{Address, Destination, Outgoing, Pool, Settings, UpstreamBody};
use crate::body::Body;
use crate::clock;

const PATIENCE: Duration = Duration::from_secs(20);

/// What must happen soon, or the test fails.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("this happens soon")
}

/// Looks until something holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    soon(async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// An authority with its own trust domain.
pub(crate) struct Authority {
    ca: Ca,
    _folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kek = Kek::from_text(&"0a".repeat(32)).unwrap();
        let domain = TrustDomain::parse("mesh.example").unwrap();
        let ca = Ca::open_or_create(&folder.path().join("ca"), kek, domain, Limits::default(), clock::now());
        Self { ca: ca.unwrap(), _folder: folder }
    }

    pub(crate) fn trust(&self) -> TrustStore {
        TrustStore::new(Bundles::new([self.ca.bundle()]).unwrap())
    }

    pub(crate) fn identity(&self, id: &SpiffeId) -> LiveIdentity {
        let request = csr::Request::generate().unwrap();
        let hour = Duration::from_secs(3600);
        let issued = self.ca.issue(request.der(), id, &[], hour, clock::now()).unwrap();
        LiveIdentity::new(Identity::new(issued.chain, request.into_key()).unwrap())
    }

    /// How a server with this identity speaks TLS, to anyone in the mesh.
    pub(crate) fn server(&self, id: &SpiffeId, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        let auth = ClientAuth::Required(Expect::AnyInMesh);
        Arc::new(tls::server_config(&self.identity(id), &self.trust(), auth, alpn))
    }

    pub(crate) fn client(&self, expected: &SpiffeId, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
        let own = self.identity(&id("caller"));
        Arc::new(tls::client_config(&own, &self.trust(), Expect::Exactly(expected.clone()), alpn))
    }
}

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://mesh.example/ns/a/sa/{account}")).unwrap()
}

/// A server on a port of its own, which ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) accepted: Arc<AtomicUsize>,
    /// Says goodbye on the connections that there are.
    pub(crate) goodbye: Arc<Notify>,
    _end: tokio_util::sync::DropGuard,
}

impl Server {
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn pool(&self, settings: Settings) -> Pool {
        Pool::new(Destination::Tcp(self.address.into()), settings)
    }

    pub(crate) fn tls_pool(&self, config: Arc<rustls::ClientConfig>) -> Pool {
        let address = Address::from(self.address);
        Pool::new(Destination::Tls { address, config }, Settings::peer())
    }
}

/// Serves HTTP/1.1 and HTTP/2.
pub(crate) async fn serve<F, R>(tls: Option<Arc<rustls::ServerConfig>>, handler: F) -> Server
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let (goodbye, end) = (Arc::new(Notify::new()), CancellationToken::new());
    let server = Server {
        address,
        accepted: Arc::clone(&accepted),
        goodbye: goodbye.clone(),
        _end: end.clone().drop_guard(),
    };
    tokio::spawn(end.run_until_cancelled_owned(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            accepted.fetch_add(1, Ordering::SeqCst);
            let (handler, goodbye, tls) = (handler.clone(), goodbye.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => connection(stream, handler, goodbye).await,
                    Some(tls) => {
                        if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                            connection(stream, handler, goodbye).await;
                        }
                    }
                }
            });
        }
    }));
    server
}

async fn connection<F, R>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    handler: F,
    goodbye: Arc<Notify>,
) where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = goodbye.notified() => {
            connection.as_mut().graceful_shutdown();
            drop(connection.await);
        }
    }
}

pub(crate) fn post(path: &str, body: &'static str) -> Outgoing {
    Arc::new(Request::post(path).body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap())
}

pub(crate) async fn text(response: Response<UpstreamBody>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) async fn echo(request: Request<Incoming>) -> Response<Body> {
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    Response::new(Body::full(bytes))
}
