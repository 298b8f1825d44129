//! The composition root: every part of a sidecar, started in order and drained together.

mod shown;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_certs::bundle::{Bundles, TrustStore};
use weft_certs::tls::{self, ClientAuth, LiveIdentity};
use weft_certs::verifier::Expect;
use weft_proto::name::{HostPort, Workload};

use crate::accept::{Listener, Tls};
use crate::access_log::{AccessLog, Sink};
use crate::admin::{self, Door};
use crate::bootstrap::{Bootstrap, Listen, Source};
use crate::metrics::{Metrics, SeriesByServer, ServerSeries};
use crate::outbound::{self, Outbound};
use crate::servers::{self, Servers};
use crate::state::Live;
use crate::stdio::launch::Launcher;
use crate::{control, pipeline, session_id};
use shown::Shown;

/// Connections that wait to be taken.
const BACKLOG: u32 = 1024;
/// What the kinds of callers may speak, the better first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What a sidecar is given by whoever starts it, besides its file.
pub struct Surroundings {
    /// Where traffic runs. The rest runs where [`start`] is called, so that neither starves the other.
    pub workers: Handle,
    /// Starts children.
    pub launcher: Launcher,
    pub access_log: Sink,
    /// Changes what is logged.
    pub set_logging: Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// Why a sidecar does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the address {address} for {door} cannot be listened on")]
    Listen {
        door: &'static str,
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the {door} listener must be on a loopback address, not {address}")]
    NotLoopback { door: &'static str, address: SocketAddr },
    #[error("the access log cannot be opened")]
    AccessLog(#[source] std::io::Error),
    #[error("the key of sessions cannot be kept")]
    SessionKey(#[source] session_id::FileError),
    #[error("configuration and identity cannot be obtained")]
    Control(#[from] control::Error),
}

/// A running sidecar.
pub struct Running {
    pub inbound: Option<SocketAddr>,
    pub outbound: Option<SocketAddr>,
    pub health: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub live: Live,
    pub metrics: Arc<Metrics>,
    pub servers: Servers,
    pub identity: LiveIdentity,
    control: control::Handle,
    shown: Arc<Shown>,
    tokens: Tokens,
    traffic: TaskTracker,
    workers: Handle,
    drain_timeout: Duration,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

/// What ends what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    /// No new connections; what only listens ends.
    pub(crate) drain: CancellationToken,
    /// Whatever is still open is cut.
    pub(crate) stop: CancellationToken,
    /// The sidecar was asked to end.
    pub(crate) quit: CancellationToken,
}

/// Starts a sidecar. It is ready when [`Running::ready`] returns.
pub async fn start(bootstrap: Bootstrap, around: Surroundings) -> Result<Running, Error> {
    let bootstrap = Arc::new(bootstrap);
    let limits = Arc::new(bootstrap.limits.clone());
    let metrics = Arc::new(Metrics::new());
    let log = AccessLog::start(&around.access_log, &metrics).map_err(Error::AccessLog)?;
    let tokens = Tokens::default();
    let (live, identity) = (Live::empty(), LiveIdentity::empty());
    let trust = TrustStore::new(Bundles::default());
    let sockets = Sockets::open(&bootstrap, &around.workers)?;
    let sessions = session_key(&bootstrap)?;

    let address = reached_at(&bootstrap, sockets.inbound.as_ref());
    let deps = control::Deps {
        live: live.clone(),
        identity: identity.clone(),
        trust: trust.clone(),
        address,
        cancel: tokens.stop.clone(),
    };
    let control = Box::pin(control::start_with(&bootstrap, deps, control::Settings::default())).await?;
    let servers = Servers::new(servers::Parts {
        node: bootstrap.node.clone(),
        limits: Arc::clone(&limits),
        metrics: Arc::clone(&metrics),
        launcher: around.launcher,
        drain: tokens.drain.clone(),
    });
    let traffic = TaskTracker::new();
    let config = outbound::Config {
        identity: identity.clone(),
        trust: trust.clone(),
        key: sessions.clone(),
        locality: bootstrap.node.locality.as_ref().map(ToString::to_string),
    };
    let to = Arc::new(Outbound::new(config, &live.load().snapshot));
    traffic.spawn_on(
        follow(live.clone(), identity.clone(), servers.clone(), Arc::clone(&to), tokens.stop.clone()),
        &around.workers,
    );

    let listener = |name, socket, tls| Listener {
        name,
        socket,
        tls,
        limits: Arc::clone(&limits),
        metrics: Arc::clone(&metrics),
        drain: tokens.drain.clone(),
        stop: tokens.stop.clone(),
    };
    let nowhere = |listener| Arc::new(ServerSeries::new(&metrics, listener, "".into()));
    let addresses = sockets.addresses();
    let Sockets { inbound, outbound, health, admin } = sockets;
    if let Some(socket) = inbound {
        let service = pipeline::Inbound::new(pipeline::Parts {
            live: live.clone(),
            servers: servers.clone(),
            limits: Arc::clone(&limits),
            metrics: Arc::clone(&metrics),
            log: log.clone(),
            sessions: sessions.clone(),
            drain: tokens.drain.clone(),
            nowhere: nowhere("inbound"),
        });
        let tls = tls_of(&bootstrap, &identity, &trust);
        traffic.spawn_on(listener("inbound", socket, tls).serve(service), &around.workers);
    }
    if let Some(socket) = outbound {
        let service = pipeline::Outbound::new(pipeline::OutboundParts {
            to,
            series: SeriesByServer::new(&metrics, "outbound"),
            limits: Arc::clone(&limits),
            log,
            drain: tokens.drain.clone(),
            nowhere: nowhere("outbound"),
        });
        traffic.spawn_on(listener("outbound", socket, None).serve(service), &around.workers);
    }
    let shown = Arc::new(Shown {
        live: live.clone(),
        identity: identity.clone(),
        trust,
        metrics: Arc::clone(&metrics),
        servers: servers.clone(),
        control: control.state.clone(),
        set_logging: around.set_logging,
        tokens: tokens.clone(),
    });
    // Readiness stays with the traffic, so that a starved data plane says so itself.
    for (door, socket) in [(Door::Health, health), (Door::Admin, admin)] {
        let Some(socket) = socket else { continue };
        let serving = admin::serve(
            door,
            socket,
            Arc::<Shown>::clone(&shown) as Arc<dyn admin::Shown>,
            tokens.stop.clone(),
        );
        around.workers.spawn(serving);
    }
    Ok(Running {
        inbound: addresses[0],
        outbound: addresses[1],
        health: addresses[2],
        admin: addresses[3],
        live,
        metrics,
        servers,
        identity,
        control,
        shown,
        tokens,
        traffic,
        workers: around.workers,
        drain_timeout: *limits.drain_timeout,
    })
}

impl Running {
    /// Waits until calls can be served.
    pub async fn ready(&self) {
        let mut changes = self.live.watch();
        while admin::Shown::ready(&*self.shown).is_err() {
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    }

    /// How the control link stands.
    pub fn control(&self) -> watch::Receiver<control::State> {
        self.control.state.clone()
    }

    /// Ends when the sidecar was asked to end through its admin door.
    pub async fn asked_to_quit(&self) {
        self.tokens.quit.cancelled().await;
    }

    /// Drains: no new connections, what only listens ends, what is in flight finishes; then cuts what is left, and ends.
    pub async fn stop(self) {
        self.tokens.drain.cancel();
        self.traffic.close();
        let finished = tokio::time::timeout(self.drain_timeout, self.drained()).await.is_ok();
        if !finished {
            tracing::warn!(after_secs = self.drain_timeout.as_secs(), "what was still in flight is cut");
        }
        self.tokens.stop.cancel();
        let servers = self.servers.clone();
        let _ = self.workers.spawn(async move { servers.stop().await }).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), self.traffic.wait()).await;
    }

    /// The listeners' tasks end with their last connection; one more task follows the configuration until the stop.
    async fn drained(&self) {
        while self.traffic.len() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Keeps the servers beside this sidecar those of the snapshot.
async fn follow(
    live: Live,
    identity: LiveIdentity,
    servers: Servers,
    to: Arc<Outbound>,
    stop: CancellationToken,
) {
    let (mut snapshots, mut identities) = (live.watch(), identity.watch());
    loop {
        let workload: Option<Workload> = identity.leaf().and_then(|leaf| leaf.spiffe_id.workload());
        let current = live.load();
        servers.follow(&current, workload.as_ref());
        to.update(&current.snapshot);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = snapshots.changed() => if changed.is_err() { return },
            changed = identities.changed() => if changed.is_err() { return },
        }
    }
}

/// A sidecar that knows no certificates listens without TLS; its file was checked to keep it on loopback.
fn tls_of(bootstrap: &Bootstrap, identity: &LiveIdentity, trust: &TrustStore) -> Option<Tls> {
    if matches!(&bootstrap.source, Source::File(file) if file.identity.is_none()) {
        return None;
    }
    let auth = ClientAuth::Required(Expect::AnyInMesh);
    let config = Arc::new(tls::server_config(identity, trust, auth, &ALPN));
    Some(Tls { config, trust: trust.clone() })
}

/// Where other sidecars reach this one.
fn reached_at(bootstrap: &Bootstrap, inbound: Option<&TcpListener>) -> Option<HostPort> {
    let bound = inbound.and_then(|socket| socket.local_addr().ok());
    let bound = bound.filter(|address| !address.ip().is_unspecified());
    bootstrap
        .node
        .address
        .clone()
        .or_else(|| bound.and_then(|address| HostPort::parse(&address.to_string()).ok()))
}

/// Sessions outlive a restart of the sidecar where its key does.
fn session_key(bootstrap: &Bootstrap) -> Result<session_id::Key, Error> {
    let Some(folder) = &bootstrap.state_dir else { return Ok(session_id::Key::random()) };
    let path = folder.join("session.key");
    session_id::Key::open_or_create(&path).map_err(Error::SessionKey)
}

struct Sockets {
    inbound: Option<TcpListener>,
    outbound: Option<TcpListener>,
    health: Option<TcpListener>,
    admin: Option<TcpListener>,
}

impl Sockets {
    /// Opens everything before anything is served, so that a port that is taken is told at once.
    fn open(bootstrap: &Bootstrap, workers: &Handle) -> Result<Self, Error> {
        let _in_workers = workers.enter();
        let Listen { inbound, outbound, health, admin } = bootstrap.listen;
        let plain = matches!(&bootstrap.source, Source::File(file) if file.identity.is_none());
        let inbound = if plain { loopback("inbound", inbound)? } else { open("inbound", inbound)? };
        Ok(Self {
            inbound,
            outbound: loopback("outbound", outbound)?,
            health: open("health", health)?,
            admin: loopback("admin", admin)?,
        })
    }

    fn addresses(&self) -> [Option<SocketAddr>; 4] {
        [&self.inbound, &self.outbound, &self.health, &self.admin]
            .map(|socket| socket.as_ref().and_then(|socket| socket.local_addr().ok()))
    }
}

fn loopback(door: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, Error> {
    match address {
        Some(address) if !address.ip().is_loopback() => Err(Error::NotLoopback { door, address }),
        address => open(door, address),
    }
}

fn open(door: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, Error> {
    let Some(address) = address else { return Ok(None) };
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map(Some).map_err(|source| Error::Listen { door, address, source })
}
