//! The composition root: every part of a sidecar, started in order and drained together.

mod doors;
mod kept;
mod shown;
mod sockets;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_certs::bundle::{Bundles, TrustStore};
use weft_certs::tls::LiveIdentity;
use weft_proto::name::{HostPort, Namespace, Workload};

use crate::accept::Open;
use crate::access_log::{AccessLog, Sink};
use crate::admin::{self, Door};
use crate::assembly::{self, Assemblies, Audience};
use crate::audit::{self, Audit};
use crate::bootstrap::{Bootstrap, Source};
use crate::limits::Limits;
use crate::logging::Logging;
use crate::metrics::Metrics;
use crate::outbound::{self, Outbound};
use crate::probes::Prober;
use crate::quota::{self, Quotas};
use crate::room::Room;
use crate::servers::{self, Servers};
use crate::state::Live;
use crate::stdio::launch::Launcher;
use crate::trace::{self, Tracer};
use crate::{control, exposure, gateway, push, session_id};
use shown::Shown;
use sockets::Sockets;

/// How long the sink of the access log may take for the last lines.
const LOG_PATIENCE: Duration = Duration::from_secs(1);
/// How long a collector may take for the last spans.
const SPANS_PATIENCE: Duration = Duration::from_secs(2);
/// The part of the time to drain that is left to streams of the local agent, however long calls to the servers take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a sidecar is given by whoever starts it, besides its file.
pub struct Surroundings {
    /// Where traffic runs. The rest runs where [`start`] is called, so that neither starves the other.
    pub workers: Handle,
    /// Starts children.
    pub launcher: Launcher,
    pub access_log: Sink,
    pub logging: Logging,
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
    #[error(
        "the gateway on {address} has neither a certificate (tls) nor the word that TLS ends before it (plainHttp)"
    )]
    Plain { address: SocketAddr },
    #[error("the gateway has a certificate (tls), and TLS is said to end before it (plainHttp)")]
    PlainAndTls,
    #[error("the gateway's certificate cannot be taken")]
    Certificate(#[source] gateway::CertificateError),
    #[error("the access log cannot be opened")]
    AccessLog(#[source] std::io::Error),
    #[error("the folder {path} for the state cannot be made")]
    StateDir {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the key of sessions cannot be kept")]
    SessionKey(#[source] session_id::FileError),
    #[error("budgets cannot be kept")]
    Budgets(#[source] quota::JournalError),
    #[error("the audit trail cannot be kept")]
    Audit(#[source] audit::Error),
    #[error("calls cannot be refused for want of a record without a folder for the state")]
    AuditNowhere,
    #[error("configuration and identity cannot be obtained")]
    Control(#[from] control::Error),
}

/// A running sidecar.
pub struct Running {
    pub inbound: Option<SocketAddr>,
    pub outbound: Option<SocketAddr>,
    pub gateway: Option<SocketAddr>,
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
    /// What goes on until the stop, however long draining takes.
    lasting: TaskTracker,
    /// Ends with the last call to the servers beside this sidecar.
    serving: Option<JoinHandle<()>>,
    agents: Open,
    workers: Handle,
    log: AccessLog,
    tracer: Tracer,
    audit: Audit,
    drain_timeout: Duration,
    linger_timeout: Duration,
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
    /// The same for the agent or server beside this sidecar: whoever has calls to finish may need to call others.
    pub(crate) leave: CancellationToken,
    /// Whatever is still open is cut.
    pub(crate) stop: CancellationToken,
    /// The sidecar was asked to end.
    pub(crate) quit: CancellationToken,
}

/// Starts a sidecar. It is ready when [`Running::ready`] returns.
pub async fn start(bootstrap: Bootstrap, around: Surroundings) -> Result<Running, Error> {
    let Surroundings { workers, launcher, access_log, logging } = around;
    let sockets = Sockets::open(&bootstrap, &workers)?;
    let core = Core::new(bootstrap, launcher, &access_log)?;
    let public = core.public()?;
    let about = control::ask::About {
        shown: Arc::default(),
        logging: logging.clone(),
        onlookers: core.metrics.onlookers.clone(),
    };
    let deps = core.deps(sockets.inbound.as_ref(), &about);
    let control = Box::pin(control::start_with(&core.bootstrap, deps, control::Settings::default())).await?;
    let traffic = TaskTracker::new();
    let lasting = TaskTracker::new();
    lasting.spawn_on(core.follow(), &workers);
    lasting.spawn_on(core.quotas.clone().keep(core.tokens.stop.clone()), &workers);
    workers.spawn(core.quotas.clone().sweep(core.tokens.stop.clone()));
    let addresses = sockets.addresses();
    let serving = sockets.inbound.map(|socket| traffic.spawn_on(core.inbound(socket), &workers));
    if let Some(socket) = sockets.outbound {
        traffic.spawn_on(core.outbound(socket), &workers);
    }
    if let Some((socket, public)) = sockets.gateway.zip(public) {
        traffic.spawn_on(core.gateway(socket, public), &workers);
    }
    let shown = Arc::new(core.shown(control.state.clone(), logging));
    let _ = about.shown.set(Arc::<Shown>::clone(&shown));
    let stop = core.tokens.stop.clone();
    lasting.spawn(exposure::watch(core.servers.clone(), Arc::clone(&core.metrics), stop));
    if let Some(push) = core.push(&shown) {
        lasting.spawn(push);
    }
    let probes = Arc::new(Prober::new(&core.bootstrap.probes, core.bootstrap.node.address.as_ref()));
    // Readiness stays with the traffic, so that a starved data plane says so itself.
    for (door, socket) in [(Door::Health, sockets.health), (Door::Admin, sockets.admin)] {
        let Some(socket) = socket else { continue };
        let shown: Arc<dyn admin::Shown> = Arc::<Shown>::clone(&shown);
        workers.spawn(admin::serve(door, socket, shown, Arc::clone(&probes), core.tokens.stop.clone()));
    }
    let [inbound, outbound, gateway, health, admin] = addresses;
    Ok(Running {
        inbound,
        outbound,
        gateway,
        health,
        admin,
        drain_timeout: *core.limits.drain_timeout,
        linger_timeout: *core.limits.linger_timeout,
        agents: core.agents,
        live: core.live,
        metrics: core.metrics,
        servers: core.servers,
        identity: core.identity,
        tokens: core.tokens,
        control,
        shown,
        traffic,
        lasting,
        serving,
        workers,
        log: core.log,
        tracer: core.tracer,
        audit: core.audit,
    })
}

/// What the parts of a sidecar share.
struct Core {
    bootstrap: Bootstrap,
    limits: Arc<Limits>,
    room: Room,
    quotas: Quotas,
    metrics: Arc<Metrics>,
    log: AccessLog,
    audit: Audit,
    sessions: session_id::Key,
    ring: session_id::Ring,
    live: Live,
    identity: LiveIdentity,
    trust: TrustStore,
    servers: Servers,
    to: Arc<Outbound>,
    assemblies: Assemblies,
    /// The same for a gateway's callers.
    for_guests: Assemblies,
    /// Connections at the outbound listener.
    agents: Open,
    tokens: Tokens,
    tracer: Tracer,
}

impl Core {
    fn new(bootstrap: Bootstrap, launcher: Launcher, access_log: &Sink) -> Result<Self, Error> {
        let limits = Arc::new(kept::within_descriptors(&bootstrap));
        let metrics = Arc::new(Metrics::new());
        let room = Room::new(metrics.bodies_held_bytes.clone(), limits.bodies_bytes_max);
        let log = AccessLog::start(access_log, &metrics).map_err(Error::AccessLog)?;
        kept::make_state_dir(&bootstrap)?;
        let quotas = kept::quotas(&bootstrap, &limits, &metrics)?;
        let (sessions, ring) = kept::session_keys(&bootstrap)?;
        let (live, tokens) = (Live::empty(), Tokens::default());
        let (identity, trust) = (LiveIdentity::empty(), TrustStore::new(Bundles::default()));
        let audit = kept::audit(&bootstrap, &limits, &metrics, &identity)?;
        let tracer = tracer(&bootstrap, &live, &identity, &metrics);
        let servers = Servers::new(servers::Parts {
            node: bootstrap.node.clone(),
            limits: Arc::clone(&limits),
            metrics: Arc::clone(&metrics),
            launcher,
            drain: tokens.drain.clone(),
            ring: ring.clone(),
            tracer: tracer.clone(),
            told: matches!(bootstrap.source, Source::ControlPlane(_)),
        });
        let config = outbound::Config {
            identity: identity.clone(),
            trust: trust.clone(),
            key: sessions.clone(),
            locality: bootstrap.node.locality.as_ref().map(ToString::to_string),
            copies_max: limits.copies_max,
            counts: outbound::Counts { copies: metrics.copies.clone(), hedges: metrics.hedges.clone() },
        };
        let to = Arc::new(Outbound::new(config, &live.load().snapshot));
        let assemblies = |audience, drain: &CancellationToken| {
            Assemblies::new(assembly::Parts {
                live: live.clone(),
                identity: identity.clone(),
                to: Arc::clone(&to),
                limits: Arc::clone(&limits),
                drain: drain.clone(),
                here: session_id::Whence::of(&bootstrap.node.id),
                ring: ring.clone(),
                audience,
            })
        };
        let for_guests = assemblies(Audience::Guests, &tokens.drain);
        let assemblies = assemblies(Audience::Own, &tokens.leave);
        Ok(Self {
            bootstrap,
            limits,
            room,
            quotas,
            metrics,
            log,
            audit,
            sessions,
            ring,
            live,
            identity,
            trust,
            servers,
            to,
            assemblies,
            for_guests,
            agents: Open::default(),
            tokens,
            tracer,
        })
    }

    /// What configuration and identity are put into, once they come.
    fn deps(&self, inbound: Option<&TcpListener>, about: &control::ask::About) -> control::Deps {
        control::Deps {
            live: self.live.clone(),
            identity: self.identity.clone(),
            trust: self.trust.clone(),
            address: reached_at(&self.bootstrap, inbound),
            servers: Some(self.servers.clone()),
            losses: Some(control::Losses {
                metrics: Arc::clone(&self.metrics),
                state_dir: self.bootstrap.state_dir.clone(),
            }),
            quotas: Some(self.quotas.clone()),
            audit: Some(self.audit.clone()),
            about: Some(about.clone()),
            ring: self.ring.clone(),
            cancel: self.tokens.stop.clone(),
        }
    }

    /// Keeps what is made from the snapshot that of the one in force.
    fn follow(&self) -> impl Future<Output = ()> + use<> {
        let (live, identity) = (self.live.clone(), self.identity.clone());
        let (servers, to) = (self.servers.clone(), Arc::clone(&self.to));
        let (assemblies, for_guests) = (self.assemblies.clone(), self.for_guests.clone());
        let (stop, plain) = (self.tokens.stop.clone(), is_plain(&self.bootstrap));
        async move {
            let (mut snapshots, mut identities) = (live.watch(), identity.watch());
            loop {
                let workload: Option<Workload> = identity.leaf().and_then(|leaf| leaf.spiffe_id.workload());
                let current = live.load();
                to.update(&current.snapshot);
                for_guests.update();
                assemblies.update();
                // Before it is proved who this is, nothing is started in anybody's name; and a certificate that ended
                // meanwhile is no reason to end what runs. Last: with this done, the sidecar is ready.
                if plain || workload.is_some() {
                    servers.follow(&current, workload.as_ref());
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = snapshots.changed() => if changed.is_err() { return },
                    changed = identities.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    /// Sends metrics, if the file says where to.
    fn push(&self, shown: &Arc<Shown>) -> Option<impl Future<Output = ()> + use<>> {
        let settings = self.bootstrap.metrics.clone()?;
        Some(push::run(push::Parts {
            settings,
            node: self.bootstrap.node.id.clone(),
            identity: self.identity.clone(),
            metrics: Arc::clone(&self.metrics),
            shown: Arc::<Shown>::clone(shown),
            stop: self.tokens.stop.clone(),
        }))
    }

    fn shown(&self, control: watch::Receiver<control::State>, logging: Logging) -> Shown {
        Shown {
            live: self.live.clone(),
            needs_identity: !is_plain(&self.bootstrap),
            identity: self.identity.clone(),
            trust: self.trust.clone(),
            metrics: Arc::clone(&self.metrics),
            servers: self.servers.clone(),
            control,
            logging,
            tokens: self.tokens.clone(),
        }
    }
}

fn tracer(bootstrap: &Bootstrap, live: &Live, identity: &LiveIdentity, metrics: &Arc<Metrics>) -> Tracer {
    Tracer::new(trace::Parts {
        runtime: Handle::current(),
        live: live.clone(),
        identity: identity.clone(),
        metrics: Arc::clone(metrics),
        namespace: Namespace::parse(bootstrap.node.id.namespace()).ok(),
        node: bootstrap.node.id.clone(),
        closing: CancellationToken::new(),
        sending: TaskTracker::new(),
    })
}

/// Whether a sidecar has neither a control plane nor certificates.
fn is_plain(bootstrap: &Bootstrap) -> bool {
    matches!(&bootstrap.source, Source::File(file) if file.identity.is_none())
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

    /// What the doors for health and administration show.
    pub fn shown(&self) -> Arc<dyn admin::Shown> {
        Arc::<Shown>::clone(&self.shown)
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
    pub async fn stop(mut self) {
        self.tokens.drain.cancel();
        self.traffic.close();
        let finished = tokio::time::timeout(self.drain_timeout, self.drained()).await.is_ok();
        if !finished {
            tracing::warn!(after_secs = self.drain_timeout.as_secs(), "what was still in flight is cut");
        }
        self.tokens.leave.cancel();
        self.tokens.stop.cancel();
        let servers = self.servers.clone();
        let _ = self.workers.spawn(async move { servers.stop().await }).await;
        // What was told last is on disk when nobody writes there any more.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.control.ended()).await;
        self.lasting.close();
        let ended = async { tokio::join!(self.traffic.wait(), self.lasting.wait()) };
        let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
        self.tracer.close(SPANS_PATIENCE).await;
        let closing = self.workers.spawn_blocking(move || {
            self.log.close(LOG_PATIENCE);
            self.audit.close();
        });
        let _ = closing.await;
    }

    /// Calls to the servers beside this sidecar first: until they are over, their servers may call others. Then the agent,
    /// if it is to be waited for. The listeners' tasks end with their last connection.
    async fn drained(&mut self) {
        let (serving, agents, quiet) = (self.serving.take(), self.agents.clone(), self.linger_timeout);
        let needed = async move {
            if let Some(serving) = serving {
                let _ = serving.await;
            }
            agents.none_for(quiet).await;
        };
        let _ = tokio::time::timeout(self.drain_timeout.saturating_sub(LAST_WORDS), needed).await;
        self.tokens.leave.cancel();
        self.traffic.wait().await;
    }
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
