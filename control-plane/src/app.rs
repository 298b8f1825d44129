//! The composition root: every part of a control plane, started in order and stopped together.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_certs::ca;
use weft_proto::name::TrustDomain;
use weft_telemetry::recent::Recent;

use crate::audit::{self, Own, Trails};
use crate::catalog::{self, Catalogue};
use crate::check::Observer;
use crate::feed::{self, Feed};
use crate::identity::attest::Attestor;
use crate::identity::kubernetes::Cluster;
use crate::identity::{self, IdentityService, SessionSecret};
use crate::metrics::Metrics;
use crate::plan::World;
use crate::quota::{self, Leases, Lender};
use crate::replica::Replication;
use crate::store::embedded::{self, EmbeddedStore};
use crate::store::{self, Expect, Retention, Store, Txn};
use crate::tokens::Tokens;
use crate::trust::{self, Trust};
use crate::xds::Hub;
use crate::{auth, clock};
use authority::open_trust;
pub use config::{Config, KekSource, Surroundings, Webhooks};
use doors::Places;
pub use replica::{Leading, Replica};

mod authority;
mod config;
mod doors;
mod replica;

/// The file in the data folder that holds the roots.
const ROOTS_FILE: &str = "ca.pem";
const TRUST_DOMAIN_KEY: &str = "mesh/trust-domain";
/// How often old history, old clients and old tokens are cleared away.
const SWEEP: Duration = Duration::from_secs(300);
/// Age of a connection to the health door: whoever asks there proves nothing, so nobody keeps a place for long.
pub const HEALTH_AGE_MAX: Duration = Duration::from_secs(60);

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
    #[error("the cluster's issuer cannot be used")]
    ClusterIssuer(#[source] Box<ca::external::Error>),
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
    /// Where webhooks are, if there are any.
    pub webhooks: Option<SocketAddr>,
    pub trust: Arc<Trust>,
    pub hub: Arc<Hub>,
    pub store: Arc<dyn Store>,
    pub tokens: Arc<Tokens>,
    /// Where it is one of several: how it follows, and how it begins to lead.
    pub replica: Option<Replica>,
    pub metrics: Arc<Metrics>,
    /// Lends shares of mesh-wide limits.
    pub lender: Arc<Lender>,
    pub trails: Trails,
    /// What servers offer.
    pub catalogue: Arc<Catalogue>,
    /// Only after the very first start: shown once, never again.
    pub admin_token: Option<auth::Secret>,
    fed: watch::Receiver<Option<store::Revision>>,
    /// The mesh's roots in PEM, kept up to date, for operators to believe.
    pub roots_file: PathBuf,
    /// Follows the files of an issuer that is kept outside; ends when dropped.
    _watching: Option<ca::external::Handle>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// Where its doors are.
struct Addresses {
    sidecars: SocketAddr,
    operators: SocketAddr,
    health: SocketAddr,
    webhooks: Option<SocketAddr>,
}

impl Running {
    fn of(
        parts: Parts,
        addresses: Addresses,
        admin_token: Option<auth::Secret>,
        fed: watch::Receiver<Option<store::Revision>>,
        (roots_file, watching, replica): (PathBuf, Option<ca::external::Handle>, Option<Replica>),
        tasks: TaskTracker,
    ) -> Self {
        let Parts { store, hub, trust, tokens, metrics, lender, trails, catalogue, shutdown, .. } = parts;
        let Addresses { sidecars, operators, health, webhooks } = addresses;
        Self {
            sidecars,
            operators,
            health,
            webhooks,
            trust,
            hub,
            store,
            tokens,
            replica,
            metrics,
            lender,
            trails,
            catalogue,
            admin_token,
            fed,
            roots_file,
            _watching: watching,
            shutdown,
            tasks,
        }
    }

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
    /// Whether objects are a cluster's, so that operators change them there.
    managed: bool,
    cluster: Option<Observer>,
    standing: Standing,
    /// How others follow, where there are others.
    replication: Option<Replication>,
    shutdown: CancellationToken,
}

/// How this control plane stands among several; one that is alone leads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    synced: Option<watch::Receiver<bool>>,
    leads: Option<watch::Receiver<bool>>,
}

impl Standing {
    fn of(cluster: Option<&Surroundings>) -> Self {
        Self { synced: cluster.map(|it| it.synced.clone()), leads: cluster.map(|it| it.leads.clone()) }
    }

    /// Whether it could lead at once, and another does.
    pub(crate) fn stands_by(&self) -> bool {
        let is = |it: &Option<watch::Receiver<bool>>| it.as_ref().is_none_or(|it| *it.borrow());
        !is(&self.leads) && is(&self.synced)
    }

    pub(crate) fn leads_now(&self) -> bool {
        self.leads.as_ref().is_none_or(|leads| *leads.borrow())
    }

    /// Ends once it leads.
    async fn leads(&self) {
        if let Some(leads) = &self.leads
            && leads.clone().wait_for(|leads| *leads).await.is_err()
        {
            std::future::pending().await
        }
    }
}

/// Starts a control plane.
pub async fn start(config: Config) -> Result<Running, Error> {
    let (shutdown, tasks, metrics) =
        (CancellationToken::new(), TaskTracker::new(), Arc::clone(&config.metrics));
    let copy = open_store(&config.data_dir.join("store"), config.cluster.is_some()).await?;
    let (store, standbys) = replica::kept(&copy, config.cluster.as_ref(), &metrics);
    let writes = config.cluster.is_none();
    let trust_domain = settle_trust_domain(&*store, config.trust_domain.clone(), writes).await?;
    let world = World::new(trust_domain.clone());
    let hub = Hub::start(config.xds.clone(), world, Arc::clone(&metrics), shutdown.clone());
    let (trust, watching) = open_trust(&config, trust_domain.clone(), &store, &hub, &metrics).await?;
    let tokens = Arc::new(Tokens::new(Arc::clone(&store), trust_domain));
    let roots_file = config.data_dir.join(ROOTS_FILE);
    trust::roots_file::write(&trust.bundles, &roots_file)
        .map_err(|source| Error::Roots { path: roots_file.clone(), source })?;
    let standing = Standing::of(config.cluster.as_ref());
    let places = [config.sidecars, config.operators, config.health];
    let places = Places::take(places, standing.leads.as_ref())?;
    let [sidecars, operators, health] = places.addresses()?;
    let admin_token = match &config.cluster {
        // Written by whoever leads.
        Some(_) => None,
        None => auth::bootstrap(&*store, clock::now()).await?,
    };

    let lender = Lender::new(config.quota, Arc::clone(&metrics)).lending_while(standing.leads.clone());
    let path = config.data_dir.join(audit::FILE);
    let trails = Trails::open(Some(&path), config.audit, trust.bundles.clone(), Arc::clone(&metrics))?;
    let catalogue = Catalogue::open(Some(&config.data_dir.join(catalog::FILE)))?;
    // Before the store is read, which lets sidecars in: none is told that what it shows is offered no more.
    hub.remembered(catalogue.offers()).await;
    let replication = replica::replication(&copy, standbys, (&trails, &trust), &shutdown);
    let replica = config
        .cluster
        .as_ref()
        .map(|it| replica::replica(copy, Arc::clone(&store), it, (&trails, &trust), &metrics));
    let parts = Parts {
        store,
        hub,
        trust,
        tokens,
        metrics,
        lender: Arc::new(lender),
        trails,
        catalogue,
        data_dir: config.data_dir,
        log: config.log,
        managed: config.cluster.is_some(),
        cluster: config.cluster.as_ref().map(|it| it.observer.clone()),
        standing,
        replication,
        shutdown,
    };
    let (sessions, accounts, hooks) = match config.cluster {
        Some(Surroundings { sessions, accounts, webhooks, .. }) => (sessions, Some(accounts), Some(webhooks)),
        None => (SessionSecret::open(&*parts.store).await?, None, None),
    };
    let identity = identity_service(&parts, sessions, config.identity, accounts)?;
    let limits = (config.sidecar_limits, config.operator_limits, config.api_limits);
    for door in doors::doors(&parts, identity, places, limits) {
        tasks.spawn(door.serve(parts.shutdown.clone()));
    }
    let webhooks = hooks.map(|hooks| doors::webhooks(&parts, hooks, &tasks)).transpose()?;
    let fed = keep(&parts, &tasks, config.retention, roots_file.clone());
    let addresses = Addresses { sidecars, operators, health, webhooks };
    Ok(Running::of(parts, addresses, admin_token, fed, (roots_file, watching, replica), tasks))
}

/// Everything that goes on by itself: following the store and the roots, looking after certificates, clearing away.
fn keep(
    parts: &Parts,
    tasks: &TaskTracker,
    retention: Retention,
    roots_file: PathBuf,
) -> watch::Receiver<Option<store::Revision>> {
    let Parts { store, hub, trust, tokens, metrics, lender, trails, catalogue, standing, shutdown, .. } =
        parts.clone();
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
    let budgets = quota::read_budgets(Arc::clone(&lender), Arc::clone(&store), shutdown.clone());
    tasks.spawn(once_it_leads(standing.clone(), budgets, shutdown.clone()));
    let feed = Feed::new(feed::Deps {
        store: Arc::clone(&store),
        intake: hub.intake(),
        trust: Arc::clone(&trust),
        metrics,
    });
    let fed = feed.fed();
    tasks.spawn(feed.run(shutdown.clone()));
    tasks.spawn(open_when_fed(Arc::clone(&hub), lender, fed.clone(), standing.clone(), shutdown.clone()));
    tasks.spawn(Arc::clone(&trust).run(shutdown.clone()));
    tasks.spawn(trust::roots_file::follow(trust.bundles.clone(), roots_file, shutdown.clone()));
    tasks.spawn(sweep((store, standing), hub, tokens, retention, shutdown));
    fed
}

/// What an earlier leader wrote down is all there only once this one leads.
async fn once_it_leads(standing: Standing, work: impl Future<Output = ()>, shutdown: CancellationToken) {
    tokio::select! {
        () = standing.leads() => work.await,
        () = shutdown.cancelled() => {}
    }
}

fn identity_service(
    parts: &Parts,
    sessions: SessionSecret,
    settings: identity::Settings,
    cluster: Option<Arc<dyn Cluster>>,
) -> Result<Arc<IdentityService>, Error> {
    let trust_domain = parts.trust.trust_domain().clone();
    let attestor = Attestor {
        audience: format!("weft.{trust_domain}"),
        trust_domain,
        tokens: Arc::clone(&parts.tokens),
        cluster,
    };
    let (trust, hub, metrics) =
        (Arc::clone(&parts.trust), Arc::clone(&parts.hub), Arc::clone(&parts.metrics));
    let deps = identity::Deps { attestor, trust, hub, metrics, sessions };
    IdentityService::start(deps, settings).map(Arc::new).map_err(Error::Threads)
}

async fn open_store(path: &Path, follows: bool) -> Result<Arc<EmbeddedStore>, Error> {
    let options = embedded::Options { follows, ..embedded::Options::new(path, Arc::new(clock::now)) };
    let store = EmbeddedStore::open(options).await;
    Ok(Arc::new(store.map_err(|source| Error::OpenStore { path: path.to_owned(), source })?))
}

/// The trust domain is settled at first start: changing it later would orphan every identity. A store that follows is not
/// written to.
async fn settle_trust_domain(
    store: &dyn Store,
    asked: Option<TrustDomain>,
    writes: bool,
) -> Result<TrustDomain, Error> {
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
        (None, Some(asked)) if !writes => Ok(asked),
        (None, Some(asked)) => {
            let txn = Txn::new("weft", "first start").expect(key.clone(), Expect::Absent);
            let txn = SessionSecret::with_one(txn);
            store.commit(txn.put(key, asked.as_str().to_owned())).await.map_err(wrong)?;
            Ok(asked)
        }
        (None, None) => Err(Error::NoTrustDomain),
    }
}

/// Sidecars are let in once all that is stored is published; before, they would be told that there is nothing.
async fn open_when_fed(
    hub: Arc<Hub>,
    lender: Arc<Lender>,
    mut fed: watch::Receiver<Option<store::Revision>>,
    standing: Standing,
    shutdown: CancellationToken,
) {
    let ready = async {
        // What comes in meanwhile is published as it comes.
        standing.leads().await;
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
    (store, standing): (Arc<dyn Store>, Standing),
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
        if !standing.leads_now() {
            continue;
        }
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
