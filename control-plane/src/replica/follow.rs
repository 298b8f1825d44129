//! One that follows: it finds the leader, takes what it is told, and says how far it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, stream};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};
use tower::util::BoxCloneSyncService;
use weft_certs::tls;
use weft_certs::verifier::Expect;
use weft_proto::pb::weft::replica::v1::replica_client::ReplicaClient;
use weft_proto::pb::weft::replica::v1::{Hello, Progress, Told};

use super::trails::Copier;
use super::wire::{self, Said};
use super::{MESSAGE_BYTES_MAX, RETRY, SILENCE_MAX};
use crate::audit::{self, Trails};
use crate::metrics::Metrics;
use crate::store::embedded::EmbeddedStore;
use crate::store::{self, Store as _};
use crate::trust::Trust;

/// Time for a connection, and for each handshake on it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes that may be under way before the leader must wait.
const WINDOW_BYTES: u32 = 1 << 20;

pub(super) type Channel = BoxCloneSyncService<Request<tonic::body::Body>, Response<Incoming>, hyper::Error>;

/// Why a control plane follows no more.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// What this one has, the leader has not. Its store was emptied, and whoever read it must begin anew.
    #[error("this store has diverged from the leader's, or lacks what that has forgotten")]
    BeganAnew,
    /// This one leads.
    #[error("this control plane leads")]
    Leads,
    #[error("the leader at {address} cannot be reached")]
    Unreachable {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("no HTTP/2 with the leader")]
    Http2(#[source] hyper::Error),
    #[error("the leader takes longer than is waited")]
    Silent,
    #[error("the leader ended it: {0}")]
    Ended(String),
    #[error(transparent)]
    Unreadable(wire::Unreadable),
    #[error("the copy cannot be written")]
    Store(#[source] store::Error),
    #[error("the copy of the audit trails cannot be written")]
    Trails(#[from] audit::Error),
    /// The leader does not know what it is asked.
    #[error("the leader is of an older version")]
    Unanswered,
}

impl From<store::Error> for Lost {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Leads => Self::Leads,
            error => Self::Store(error),
        }
    }
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        Self::Ended(status.message().to_owned())
    }
}

/// What follows.
#[derive(Debug)]
pub struct Follower {
    pub store: Arc<EmbeddedStore>,
    /// The audit trails, which are copied as well.
    pub trails: Trails,
    pub trust: Arc<Trust>,
    /// How this one is called, for people.
    pub name: String,
    /// Where the leader is, if another leads.
    pub leader: watch::Receiver<Option<SocketAddr>>,
    /// Told whether the copy is up to date, as far as is known here.
    pub follows: watch::Sender<bool>,
    pub metrics: Arc<Metrics>,
}

impl Follower {
    /// Follows whoever leads, until this one leads or must begin anew.
    pub async fn run(mut self) -> Lost {
        let (trails, trust, metrics) =
            (self.trails.clone(), Arc::clone(&self.trust), Arc::clone(&self.metrics));
        let copier = Copier { trails, trust, metrics };
        loop {
            let Ok(address) = self.leader.wait_for(Option::is_some).await.map(|it| *it) else {
                return std::future::pending().await;
            };
            let Some(address) = address else { continue };
            let mut elsewhere = self.leader.clone();
            let lost = tokio::select! {
                lost = self.follow(address) => Some(lost),
                never = copier.run(address) => match never {},
                _ = elsewhere.wait_for(|now| *now != Some(address)) => None,
            };
            self.show(false);
            self.metrics.replica_lines_behind.set(0);
            match lost {
                Some(lost @ (Lost::BeganAnew | Lost::Leads)) => return lost,
                Some(lost) => {
                    tracing::warn!(
                        error = &lost as &dyn std::error::Error,
                        leader.address = %address,
                        "the leader is not followed; trying again"
                    );
                    tokio::time::sleep(RETRY).await;
                }
                None => {}
            }
        }
    }

    fn show(&self, follows: bool) {
        self.metrics.replica_follows.set(i64::from(follows));
        self.follows.send_if_modified(|shown| std::mem::replace(shown, follows) != follows);
    }

    async fn follow(&self, address: SocketAddr) -> Lost {
        match self.take_all(address).await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    async fn take_all(&self, address: SocketAddr) -> Result<std::convert::Infallible, Lost> {
        let position = self.store.position().await?;
        if position.is_new() {
            // What came of a base that was cut off is sent again.
            self.store.wipe().await?;
        }
        let (channel, _driver) = connect(&self.trust, address).await?;
        let hello = Hello { replica: self.name.clone(), position: Some(wire::position(&position)) };
        let first = Progress { hello: Some(hello), ..Progress::default() };
        let taken = watch::Sender::new(first);
        let mut client = ReplicaClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answered =
            timeout(SILENCE_MAX, client.follow(words(&taken))).await.map_err(|_| Lost::Silent)??;
        let mut told = answered.into_inner();
        loop {
            let Told { number, says, .. } = next(&mut told).await?;
            match wire::read(says).map_err(Lost::Unreadable)? {
                Said::BeginAnew => {
                    self.store.wipe().await?;
                    return Err(Lost::BeganAnew);
                }
                Said::UpToDate => {
                    tracing::info!(leader.address = %address, "the copy of the leader's store is up to date");
                    self.show(true);
                }
                Said::Piece(piece) => self.store.take(piece).await?,
                Said::Life => {}
            }
            let revision = self.store.head().await?.revision.0;
            taken.send_replace(Progress { hello: None, revision, number });
        }
    }
}

/// The first word at once, and then the newest whenever there is another.
fn words(taken: &watch::Sender<Progress>) -> impl Stream<Item = Progress> + use<> {
    let mut words = taken.subscribe();
    words.mark_changed();
    stream::unfold(words, |mut words| async move {
        words.changed().await.ok()?;
        let word = words.borrow_and_update().clone();
        Some((word, words))
    })
}

async fn next(told: &mut Streaming<Told>) -> Result<Told, Lost> {
    let next = timeout(SILENCE_MAX, told.message()).await.map_err(|_| Lost::Silent)??;
    next.ok_or_else(|| Lost::Ended("without a word".to_owned()))
}

/// A connection to the leader, which must be the control plane itself. It ends with its handle.
pub(super) async fn connect(
    trust: &Trust,
    address: SocketAddr,
) -> Result<(Channel, AbortOnDropHandle<()>), Lost> {
    let unreachable = |source| Lost::Unreachable { address, source };
    let config = tls::client_config(&trust.live, &trust.bundles, Expect::Exactly(trust.own_id()), &[b"h2"]);
    let connected = async {
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let name = ServerName::from(address.ip());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(unreachable)
    };
    let stream = timeout(CONNECT_TIMEOUT, connected).await.map_err(|_| Lost::Silent)??;
    let handshake = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(Some(WINDOW_BYTES))
        .handshake::<_, tonic::body::Body>(TokioIo::new(stream));
    let (sender, connection) =
        timeout(CONNECT_TIMEOUT, handshake).await.map_err(|_| Lost::Silent)?.map_err(Lost::Http2)?;
    let driver = AbortOnDropHandle::new(tokio::spawn(connection.map(drop)));
    let service = tower::service_fn(move |mut request: Request<tonic::body::Body>| {
        let mut sender = sender.clone();
        // The generated clients leave out who is spoken to; HTTP/2 wants it said.
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTPS);
        parts.authority = Some(http::uri::Authority::from_static("control-plane"));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        sender.send_request(request)
    });
    Ok((BoxCloneSyncService::new(service), driver))
}
