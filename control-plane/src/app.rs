//! The composition root: every part of a control plane, started in order and stopped together.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_certs::ca::{self, Ca, Kek, Signer};
use weft_certs::tls::{self, ClientAuth};
use weft_certs::verifier::Expect as ExpectPeer;
use weft_proto::name::TrustDomain;
use weft_proto::resource::kinds::Trust as TrustSpec;
use weft_telemetry::recent::Recent;

use crate::audit::{self, Own, Trails};
use crate::catalog::{self, Catalogue};
use crate::feed::{self, Feed};
use crate::identity::attest::Attestor;
use crate::identity::{self, IdentityService, SessionSecret};
use crate::listen::{Door, Limits};
use crate::metrics::Metrics;
use crate::plan::World;
use crate::quota::{self, Leases, Lender};
use crate::store::embedded::{self, EmbeddedStore};
use crate::store::{self, Expect, Retention, Store, Txn};
use crate::tokens::Tokens;
use crate::trust::{self, Trust};
use crate::xds::{self, Hub};
use crate::{api, auth, clock, grpc, health};

/// The file in the data folder that holds the roots.
const ROOTS_FILE: &str = "ca.pem";
const TRUST_DOMAIN_KEY: &str = "mesh/trust-domain";
/// How often old history, old clients and old tokens are cleared away.
const SWEEP: Duration = Duration::from_secs(300);
/// Age of a connection to the health door: whoever asks there proves nothing, so nobody keeps a place for long.
pub const HEALTH_AGE_MAX: Duration = Duration::from_secs(60);

/// Where the key comes from that the authority's keys rest under.
#[derive(Debug)]
pub enum KekSource {
    /// A file; made at first start if it may be.
    File { path: PathBuf, create: bool },
    /// The value of an environment variable.
    Value(String),
}

/// What a control plane is started with.
#[derive(Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    /// Needed at first start, and must agree later.
    pub trust_domain: Option<TrustDomain>,
    pub sidecars: SocketAddr,
    pub operators: SocketAddr,
    pub health: SocketAddr,
    pub kek: KekSource,
    /// A folder with `tls.crt`, `tls.key` and `ca.crt` of an intermediate that is kept by something else.
    pub issuer_dir: Option<PathBuf>,
    /// Names and addresses under which this control plane is reached.
    pub hosts: Vec<String>,
    pub retention: Retention,
    pub xds: xds::Settings,
    pub identity: identity::Settings,
    pub quota: quota::Settings,
    pub audit: audit::Settings,
    pub sidecar_limits: Limits,
    pub operator_limits: Limits,
    pub api_limits: api::Limits,
    /// Where whoever started the log keeps its newest lines.
    pub log: Recent,
}

impl Config {
    /// Safe settings on loopback with ports of the system's choice.
    pub fn local(data_dir: PathBuf) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            kek: KekSource::File { path: data_dir.join("ca.key"), create: true },
            data_dir,
            trust_domain: None,
            sidecars: any,
            operators: any,
            health: any,
            issuer_dir: None,
            hosts: Vec::new(),
            retention: Retention::default(),
            xds: xds::Settings::default(),
            identity: identity::Settings::default(),
            quota: quota::Settings::default(),
            audit: audit::Settings::default(),
            sidecar_limits: Limits::default(),
            operator_limits: Limits {
                connections_max: 1000,
                streams_per_connection_max: 100,
                ..Limits::default()
            },
            api_limits: api::Limits::default(),
            log: Recent::default(),
        }
    }
}

/// Why a control plane does not start. Each message says which part, and what about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the store in {path} cannot be used")]
    Store {
        path: PathBuf,
        #[source]
        source: store::Error,
    },
    #[error(transparent)]
    Sessions(#[from] identity::SessionsError),
    #[error("the store in {path} cannot be opened")]
    OpenStore {
        path: PathBuf,
        #[source]
        source: embedded::Error,
    },
    #[error("no trust domain is known yet: give one at first start")]
    NoTrustDomain,
    #[error("the mesh in this folder has the trust domain {found}, not {asked}")]
    OtherTrustDomain { found: String, asked: TrustDomain },
    #[error("the stored trust domain cannot be read")]
    StoredTrustDomain,
    #[error("the key-encryption key cannot be used")]
    Kek(#[source] ca::vault::Error),
    #[error("the authority in {path} cannot be used")]
    Authority {
        path: PathBuf,
        #[source]
        source: Box<ca::own::Error>,
    },
    #[error("the issuer in {path} cannot be used")]
    Issuer {
        path: PathBuf,
        #[source]
        source: Box<ca::external::Error>,
    },
    #[error("the limits of certificates contradict each other")]
    CertificateLimits(#[source] ca::issuer::Error),
    #[error("the audit trails cannot be kept")]
    Audit(#[from] audit::Error),
    #[error("trust cannot be set up")]
    Trust(#[from] trust::Error),
    #[error("the address {address} for {door} cannot be listened on")]
    Listen {
        door: &'static str,
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the roots cannot be written to {path}")]
    Roots {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("threads cannot be started")]
    Threads(#[source] std::io::Error),
    #[error("the catalogue cannot be opened")]
    Catalogue(#[from] catalog::Error),
    #[error("operator authentication cannot be set up")]
    Auth(#[from] auth::Error),
}

/// A running control plane.
#[derive(Debug)]
pub struct Running {
    pub sidecars: SocketAddr,
    pub operators: SocketAddr,
    pub health: SocketAddr,
    pub trust: Arc<Trust>,
    pub hub: Arc<Hub>,
    pub store: Arc<dyn Store>,
    pub tokens: Arc<Tokens>,
    pub metrics: Arc<Metrics>,
    /// Lends shares of mesh-wide limits.
    pub lender: Arc<Lender>,
    pub trails: Trails,
    /// What servers offer.
    pub catalogue: Arc<Catalogue>,
    /// Only after the very first start: shown once, never again.
    pub admin_token: Option<auth::Secret>,
    fed: tokio::sync::watch::Receiver<Option<store::Revision>>,
    /// The mesh's roots in PEM, kept up to date, for operators to believe.
    pub roots_file: PathBuf,
    /// Follows the files of an issuer that is kept outside; ends when dropped.
    _watching: Option<ca::external::Handle>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    /// Waits until everything that is stored is published.
    pub async fn ready(&self) {
        let mut revision = self.fed.clone();
        let _ = revision.wait_for(Option::is_some).await;
        while !self.hub.is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Stops taking connections, lets what is open finish for a while, and ends.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ends when something asks the control plane to.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }
}

/// The parts that the doors and the keepers share.
#[derive(Clone)]
struct Parts {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    trust: Arc<Trust>,
    tokens: Arc<Tokens>,
    metrics: Arc<Metrics>,
    lender: Arc<Lender>,
    trails: Trails,
    catalogue: Arc<Catalogue>,
    data_dir: PathBuf,
    log: Recent,
    shutdown: CancellationToken,
}

/// Starts a control plane.
pub async fn start(config: Config) -> Result<Running, Error> {
    let (shutdown, tasks, metrics) = (CancellationToken::new(), TaskTracker::new(), Arc::new(Metrics::new()));
    let store = open_store(&config.data_dir.join("store")).await?;
    let trust_domain = settle_trust_domain(&*store, config.trust_domain).await?;
    let world = World::new(trust_domain.clone());
    let hub = Hub::start(config.xds, world, Arc::clone(&metrics), shutdown.clone());
    let shortest = TrustSpec::SVID_LIFETIME_MIN.duration().min(config.identity.lifetime_max);
    let lives = ca::Limits::new(shortest, TrustSpec::SVID_LIFETIME_MAX.duration(), Duration::from_secs(120))
        .map_err(Error::CertificateLimits)?;
    let (signer, watching) =
        open_signer(&config.data_dir, config.kek, config.issuer_dir, trust_domain.clone(), lives).await?;
    let trust = Trust::open(trust::Deps {
        signer,
        trust_domain: trust_domain.clone(),
        dns_names: own_names(&config.hosts),
        store: Arc::clone(&store),
        intake: hub.intake(),
        metrics: Arc::clone(&metrics),
    });
    let trust = trust.await?;
    let tokens = Arc::new(Tokens::new(Arc::clone(&store), trust_domain));
    let roots_file = config.data_dir.join(ROOTS_FILE);
    trust::roots_file::write(&trust.bundles, &roots_file)
        .map_err(|source| Error::Roots { path: roots_file.clone(), source })?;
    let listeners = [
        listen("sidecars", config.sidecars).await?,
        listen("operators", config.operators).await?,
        listen("health", config.health).await?,
    ];
    let [sidecars, operators, health] = [listeners[0].1, listeners[1].1, listeners[2].1];
    let admin_token = auth::bootstrap(&*store, clock::now()).await?;

    let lender = Arc::new(Lender::new(config.quota, Arc::clone(&metrics)));
    let path = config.data_dir.join(audit::FILE);
    let trails = Trails::open(Some(&path), config.audit, trust.bundles.clone(), Arc::clone(&metrics))?;
    let catalogue = Catalogue::open(Some(&config.data_dir.join(catalog::FILE)))?;
    // Before the store is read, which lets sidecars in: none is told that what it shows is offered no more.
    hub.remembered(catalogue.offers()).await;
    let data_dir = config.data_dir;
    let log = config.log;
    let parts =
        Parts { store, hub, trust, tokens, metrics, lender, trails, catalogue, data_dir, log, shutdown };
    let sessions = SessionSecret::open(&*parts.store).await?;
    let identity = identity_service(&parts, sessions, config.identity)?;
    let limits = (config.sidecar_limits, config.operator_limits, config.api_limits);
    for door in doors(&parts, identity, listeners.map(|(listener, _)| listener), limits) {
        tasks.spawn(door.serve(parts.shutdown.clone()));
    }
    let fed = keep(&parts, &tasks, config.retention, roots_file.clone());
    let Parts { store, hub, trust, tokens, metrics, lender, trails, catalogue, shutdown, .. } = parts;
    Ok(Running {
        lender,
        catalogue,
        trails,
        sidecars,
        operators,
        health,
        trust,
        hub,
        store,
        tokens,
        metrics,
        admin_token,
        roots_file,
        fed,
        _watching: watching,
        shutdown,
        tasks,
    })
}

/// Everything that goes on by itself: following the store and the roots, looking after certificates, clearing away.
fn keep(
    parts: &Parts,
    tasks: &TaskTracker,
    retention: Retention,
    roots_file: PathBuf,
) -> tokio::sync::watch::Receiver<Option<store::Revision>> {
    let Parts { store, hub, trust, tokens, metrics, lender, trails, catalogue, shutdown, .. } = parts.clone();
    let (to, knows) = (Arc::clone(&hub), Arc::clone(&hub));
    let hand_over: catalog::HandOver = Box::new(move |server, offer| {
        let hub = Arc::clone(&to);
        Box::pin(async move { hub.offered(server, offer).await })
    });
    tasks.spawn(catalogue.run(hand_over, move |server| knows.exists(server), shutdown.clone()));
    let own = Own::new(trails.clone(), Arc::clone(&store), trust.live.clone());
    tasks.spawn(own.run(shutdown.clone()));
    tasks.spawn(trails.retain(shutdown.clone()));
    tasks.spawn(Leases::new(Arc::clone(&hub), Arc::clone(&lender), Arc::clone(&store)).follow());
    tasks.spawn(quota::read_budgets(Arc::clone(&lender), Arc::clone(&store), shutdown.clone()));
    let feed = Feed::new(feed::Deps {
        store: Arc::clone(&store),
        intake: hub.intake(),
        trust: Arc::clone(&trust),
        metrics,
    });
    let fed = feed.fed();
    tasks.spawn(feed.run(shutdown.clone()));
    tasks.spawn(open_when_fed(Arc::clone(&hub), lender, fed.clone(), shutdown.clone()));
    tasks.spawn(Arc::clone(&trust).run(shutdown.clone()));
    tasks.spawn(trust::roots_file::follow(trust.bundles.clone(), roots_file, shutdown.clone()));
    tasks.spawn(sweep(store, hub, tokens, retention, shutdown));
    fed
}

fn identity_service(
    parts: &Parts,
    sessions: SessionSecret,
    settings: identity::Settings,
) -> Result<Arc<IdentityService>, Error> {
    let trust_domain = parts.trust.trust_domain().clone();
    let attestor = Attestor {
        audience: format!("weft.{trust_domain}"),
        trust_domain,
        tokens: Arc::clone(&parts.tokens),
        cluster: None,
    };
    let (trust, hub, metrics) =
        (Arc::clone(&parts.trust), Arc::clone(&parts.hub), Arc::clone(&parts.metrics));
    let deps = identity::Deps { attestor, trust, hub, metrics, sessions };
    IdentityService::start(deps, settings).map(Arc::new).map_err(Error::Threads)
}

/// The three doors. Only the sidecars' asks for client certificates, and only health is without TLS.
fn doors(
    parts: &Parts,
    identity: Arc<IdentityService>,
    [sidecars, operators, plain]: [TcpListener; 3],
    (sidecar_limits, operator_limits, api_limits): (Limits, Limits, api::Limits),
) -> [Door; 3] {
    let Parts { store, hub, trust, tokens, metrics, lender, trails, catalogue, data_dir, log, shutdown } =
        parts.clone();
    let leases = Leases::new(Arc::clone(&hub), Arc::clone(&lender), Arc::clone(&store));
    let tls =
        |auth, alpn: &[&[u8]]| Some(Arc::new(tls::server_config(&trust.live, &trust.bundles, auth, alpn)));
    let api = api::Deps {
        keys: Arc::new(auth::Keys::new(Arc::clone(&store))),
        store,
        sidecars: Arc::clone(&hub) as Arc<dyn api::Sidecars>,
        lender,
        trails: trails.clone(),
        catalogue: Arc::clone(&catalogue),
        trust: Arc::new(trust::Control::new(Arc::clone(&trust), Arc::clone(&hub))),
        tokens,
        metrics: Arc::clone(&metrics),
        trust_domain: trust.trust_domain().clone(),
        data_dir: Some(data_dir),
        clock: Arc::new(clock::now),
        managed: false,
        log,
        limits: api_limits,
        shutdown,
    };
    [
        Door {
            name: "sidecars",
            listener: sidecars,
            tls: tls(ClientAuth::Optional(ExpectPeer::AnyInMesh), &[b"h2"]),
            trust: Some(trust.bundles.clone()),
            service: grpc::router(&hub, identity, catalogue, leases, trails, trust.bundles.clone()),
            limits: sidecar_limits,
            metrics: Arc::clone(&metrics),
        },
        Door {
            name: "operators",
            listener: operators,
            tls: tls(ClientAuth::None, &[b"h2", b"http/1.1"]),
            trust: None,
            service: api::router(api),
            limits: operator_limits.clone(),
            metrics: Arc::clone(&metrics),
        },
        Door {
            name: "health",
            listener: plain,
            tls: None,
            trust: None,
            service: health::router(hub, Arc::clone(&metrics)),
            limits: Limits { age_max: HEALTH_AGE_MAX, ..operator_limits },
            metrics,
        },
    ]
}

async fn open_store(path: &Path) -> Result<Arc<dyn Store>, Error> {
    let options = embedded::Options::new(path, Arc::new(clock::now));
    let store = EmbeddedStore::open(options).await;
    Ok(Arc::new(store.map_err(|source| Error::OpenStore { path: path.to_owned(), source })?))
}

/// The trust domain is settled at first start: changing it later would orphan every identity.
async fn settle_trust_domain(store: &dyn Store, asked: Option<TrustDomain>) -> Result<TrustDomain, Error> {
    let wrong = |source| Error::Store { path: PathBuf::from(TRUST_DOMAIN_KEY), source };
    let key = store::Key::new(TRUST_DOMAIN_KEY).expect("the key is short and plain");
    match (store.get(&key).await.map_err(wrong)?, asked) {
        (Some(entry), asked) => {
            let text = std::str::from_utf8(&entry.value).map_err(|_| Error::StoredTrustDomain)?;
            let found = TrustDomain::parse(text).map_err(|_| Error::StoredTrustDomain)?;
            match asked {
                Some(asked) if asked != found => {
                    Err(Error::OtherTrustDomain { found: found.to_string(), asked })
                }
                _ => Ok(found),
            }
        }
        (None, Some(asked)) => {
            let txn = Txn::new("weft", "first start").expect(key.clone(), Expect::Absent);
            let txn = SessionSecret::with_one(txn);
            store.commit(txn.put(key, asked.as_str().to_owned())).await.map_err(wrong)?;
            Ok(asked)
        }
        (None, None) => Err(Error::NoTrustDomain),
    }
}

async fn open_signer(
    data_dir: &Path,
    kek: KekSource,
    issuer_dir: Option<PathBuf>,
    trust_domain: TrustDomain,
    limits: ca::Limits,
) -> Result<(Signer, Option<ca::external::Handle>), Error> {
    if let Some(path) = issuer_dir {
        let paths = ca::external::Paths::in_folder(&path);
        let started = ca::external::start(paths, trust_domain, limits, weft_certs::clock::wall()).await;
        let (external, watching) =
            started.map_err(|source| Error::Issuer { path, source: Box::new(source) })?;
        return Ok((Signer::External(external), Some(watching)));
    }
    let kek = match kek {
        KekSource::File { path, create: true } => Kek::open_or_create(&path),
        KekSource::File { path, create: false } => Kek::from_file(&path),
        KekSource::Value(text) => Kek::from_text(&text),
    };
    let path = data_dir.join("ca");
    let authority = Ca::open_or_create(&path, kek.map_err(Error::Kek)?, trust_domain, limits, clock::now());
    let authority = authority.map_err(|source| Error::Authority { path, source: Box::new(source) })?;
    Ok((Signer::Own(Arc::new(authority)), None))
}

/// Every name under which somebody on this machine, or one that an operator named, reaches the control plane.
fn own_names(hosts: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(hosts.iter().cloned());
    names.dedup();
    names
}

async fn listen(door: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let wrong = |source| Error::Listen { door, address, source };
    let listener = TcpListener::bind(address).await.map_err(wrong)?;
    let bound = listener.local_addr().map_err(wrong)?;
    Ok((listener, bound))
}

/// Sidecars are let in once all that is stored is published; before, they would be told that there is nothing.
async fn open_when_fed(
    hub: Arc<Hub>,
    lender: Arc<Lender>,
    mut fed: tokio::sync::watch::Receiver<Option<store::Revision>>,
    shutdown: CancellationToken,
) {
    let ready = async {
        let first = fed.wait_for(Option::is_some).await.ok().and_then(|revision| *revision);
        let mut published = hub.revision();
        let _ = published.wait_for(|published| first.is_some_and(|first| *published >= first.0)).await;
        lender.began_with(hub.quota_policies());
        hub.set_ready();
        tracing::info!("ready: everything that is stored is published");
    };
    tokio::select! {
        () = ready => {}
        () = shutdown.cancelled() => {}
    }
}

async fn sweep(
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    tokens: Arc<Tokens>,
    retention: Retention,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => {}
        }
        let now = clock::now();
        hub.sweep(now);
        if let Err(error) = tokens.sweep(now).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "old join tokens could not be cleared away"
            );
        }
        if let Err(error) = store::retain(&*store, retention).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "old history could not be cleared away");
        }
    }
}
