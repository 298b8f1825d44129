//! The composition: a control plane that is one of several in a cluster, with everything that follows the API server.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config as ClientConfig};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_certs::bundle::Bundles;
use weft_certs::pem;
use weft_control_plane::app::{self as control_plane, Replica, Surroundings, Webhooks};
use weft_control_plane::check::{self, Observer};
use weft_control_plane::clock;
use weft_control_plane::listen;
use weft_control_plane::metrics::Metrics;
use weft_control_plane::trust::Trust;
use weft_proto::name::{Namespace, TrustDomain};

use crate::admission::mutate::Told;
use crate::admission::{self, Deps, Injector, Judge, Namespaces};
use crate::ca_bundle::{self, Kind};
use crate::cluster::{self, Accounts};
use crate::events::{self, Events};
use crate::follow::Followed;
use crate::inject::Settings;
use crate::inject::settings::REVISION_DEFAULT;
use crate::leader::{self, Campaign, Ended, Others, label};
use crate::roots;
use crate::secrets::{self, Secrets};
use crate::standby;
use crate::uninjected::{self, Uninjected};

/// The Service that sidecars and operators find the control plane by that leads.
pub const SERVICE: &str = "weft-control-plane";
/// The Service that the API server finds every control plane by.
pub const WEBHOOKS_SERVICE: &str = "weft-webhooks";
/// How long the API server may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence on a connection to it. An API server ends every watch after less than that, so that longer means that
/// nobody is there any more.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// How often the issuer is looked after.
const UPKEEP: Duration = Duration::from_secs(3600);

/// What a control plane in a cluster is started with.
#[derive(Debug)]
pub struct Config {
    pub control_plane: control_plane::Config,
    /// How to reach the API server, from outside of the cluster; inside, a pod knows.
    pub kubeconfig: Option<PathBuf>,
    /// Where the control plane is.
    pub namespace: Namespace,
    /// Where webhooks are answered.
    pub webhooks: SocketAddr,
    /// Whether the issuer is made by something else, so that it is waited for.
    pub issuer_is_given: bool,
    /// How sidecars are put into pods; none are without. One whose revision is not the default is tried beside the main
    /// control plane: it has names and a leader of its own.
    pub injector: Option<Settings>,
    /// The pod that this process is in.
    pub pod: String,
    pub accounts: cluster::Limits,
    pub leadership: leader::Timing,
}

/// Why a control plane does not start in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the file {path} does not say how to reach the API server")]
    Kubeconfig {
        path: PathBuf,
        #[source]
        source: kube::config::KubeconfigError,
    },
    #[error("this is no pod of a cluster, and no kubeconfig was given")]
    NotInCluster(#[source] kube::config::InClusterError),
    #[error("the client of the API server cannot be made")]
    Client(#[source] Box<kube::Error>),
    #[error("no trust domain was given")]
    NoTrustDomain,
    #[error("sidecars would be put into pods for the trust domain {given}, and this is {own}")]
    OtherDomain { given: TrustDomain, own: TrustDomain },
    #[error("no randomness is to be had")]
    Random,
    #[error(transparent)]
    Secrets(#[from] secrets::Error),
    #[error(transparent)]
    ControlPlane(#[from] control_plane::Error),
}

/// A running control plane in a cluster.
pub struct Running {
    pub control_plane: control_plane::Running,
    pub client: Client,
    tasks: TaskTracker,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("control_plane", &self.control_plane).finish_non_exhaustive()
    }
}

impl Running {
    /// Stops everything; calls under way may finish.
    pub async fn stop(self) {
        self.control_plane.stop().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Starts a control plane in a cluster.
pub async fn start(config: Config) -> Result<Running, Error> {
    let trust_domain = config.control_plane.trust_domain.clone().ok_or(Error::NoTrustDomain)?;
    if let Some(given) = config.injector.as_ref().filter(|it| it.trust_domain != trust_domain) {
        return Err(Error::OtherDomain { given: given.trust_domain.clone(), own: trust_domain });
    }
    let client = connect(config.kubeconfig.as_deref()).await?;
    let namespace = config.namespace.as_str();
    let own_secrets = Api::namespaced(client.clone(), namespace);
    let secrets = Secrets::new(own_secrets, trust_domain.clone(), config.issuer_is_given);
    let shared = Box::pin(secrets.settle(clock::now())).await?;
    let issuer = watch::Sender::new(Arc::new(shared.issuer));
    let [synced, leads, seat, follows, stands] = std::array::from_fn(|_| watch::Sender::new(false));
    let leader = watch::Sender::new(None);
    let names = Names::new(namespace, config.injector.as_ref().map(|it| it.revision.as_str()));
    let followed = Followed::new(trust_domain.clone());
    let (namespaces, following) = admission::namespaces::follow(client.clone());
    let mut inner = config.control_plane;
    let events = Events::new(Arc::clone(&inner.metrics));
    let others = watch::Sender::new(None);
    let injector = config.injector.map(|it| injector(it, namespaces, &events));
    let uninjected = injector.clone().map(|it| Uninjected::new(it, Arc::clone(&events)));
    inner.hosts.extend(names.hosts());
    inner.cluster = Some(Surroundings {
        issuer: issuer.subscribe(),
        accounts: Arc::new(Accounts::new(client.clone(), config.accounts)),
        webhooks: Webhooks {
            address: config.webhooks,
            service: webhooks(&followed, injector, &inner.metrics),
            limits: webhook_limits(),
        },
        sessions: shared.sessions,
        admin: shared.admin,
        synced: stands.subscribe(),
        replica: config.pod.clone(),
        leader: leader.subscribe(),
        follows: follows.clone(),
        leads: leads.subscribe(),
        observer: observer(&followed, uninjected.as_ref(), others.subscribe()),
    });
    let mut control_plane = Box::pin(control_plane::start(inner)).await?;
    let (tasks, shutdown) = (TaskTracker::new(), control_plane.shutdown());
    let parts = Parts { client: client.clone(), names, leads: leads.subscribe(), shutdown: shutdown.clone() };
    tasks.spawn(until(shutdown.clone(), following));
    tasks.spawn(until(shutdown.clone(), secrets.clone().follow(issuer)));
    tasks.spawn(until(shutdown.clone(), look_after_issuer(secrets, leads.subscribe())));
    tasks.spawn(until(shutdown.clone(), events::write(events, client.clone(), config.pod.clone())));
    if let Some(uninjected) = uninjected {
        let metrics = Arc::clone(&control_plane.metrics);
        let work = uninjected::follow(uninjected, client.clone(), metrics, leads.subscribe());
        tasks.spawn(until(shutdown.clone(), work));
    }
    keep(&parts, &tasks, &control_plane.trust, (config.pod.clone(), others));
    let (copied, useful) = standby::known(&follows, &synced, &stands, &tasks, &shutdown);
    let source =
        followed.start(client.clone(), &control_plane, (synced.clone(), useful), leads.subscribe(), &tasks);
    if let Some(Replica { follower, leading }) = control_plane.replica.take() {
        tasks.spawn(until(shutdown.clone(), standby::follow(follower, shutdown.clone())));
        let standing = standby::Standing { seat: seat.subscribe(), leads, synced: synced.subscribe() };
        tasks.spawn(until(shutdown.clone(), standing.promote(leading, source, tasks.clone())));
    }
    let address = standby::address(&client, namespace, &config.pod, control_plane.sidecars).await;
    let others = Others { address, leader, copied };
    let leases = Api::namespaced(client.clone(), namespace);
    let me = format!("{}_{:016x}", config.pod, u64::from_be_bytes(random()?));
    let campaign = Campaign::new(leases, parts.names.lease, me, config.leadership, (seat, others));
    tasks.spawn(lead(campaign, shutdown));
    Ok(Running { control_plane, client, tasks })
}

/// What those need that follow the cluster.
struct Parts {
    client: Client,
    names: Names,
    leads: watch::Receiver<bool>,
    shutdown: CancellationToken,
}

/// What the one that leads keeps right in the cluster.
fn keep(
    parts: &Parts,
    tasks: &TaskTracker,
    trust: &Trust,
    (pod, others): (String, watch::Sender<label::Others>),
) {
    let Parts { client, names, leads, shutdown } = parts;
    let roots = watch::Sender::new(Arc::from(roots_of(trust)));
    let (namespace, bundles) = (names.namespace.clone(), roots.subscribe());
    tasks.spawn(until(
        shutdown.clone(),
        roots::keep(client.clone(), namespace.clone(), bundles.clone(), leads.clone()),
    ));
    for (kind, name) in [(Kind::Mutating, &names.injector), (Kind::Validating, &names.validator)] {
        let (client, name, namespace) = (client.clone(), name.clone(), namespace.clone());
        let kept = ca_bundle::keep(client, kind, name, namespace, bundles.clone(), leads.clone());
        tasks.spawn(until(shutdown.clone(), kept));
    }
    let pods = Api::namespaced(client.clone(), &namespace);
    let selector = format!("app.kubernetes.io/instance={}", names.service);
    tasks.spawn(label::follow(pods, pod, selector, (leads.clone(), others), shutdown.clone()));
    let (mut changes, domain) = (trust.bundles.watch(), trust.trust_domain().clone());
    // Whatever became of them since they were read.
    changes.mark_changed();
    let follow = async move {
        while changes.changed().await.is_ok() {
            let bundles = changes.borrow_and_update().clone();
            let text: Arc<str> = Arc::from(text_of(&bundles, &domain));
            roots.send_if_modified(|held| {
                let is_other = *held != text;
                *held = text;
                is_other
            });
        }
    };
    tasks.spawn(until(shutdown.clone(), follow));
}

/// The mesh's own roots: those that its control planes are known by.
fn roots_of(trust: &Trust) -> String {
    text_of(&trust.bundles.load(), trust.trust_domain())
}

fn text_of(bundles: &Bundles, domain: &TrustDomain) -> String {
    bundles.get(domain).map(|bundle| pem::encode(bundle.roots())).unwrap_or_default()
}

/// Campaigns until the end. Whoever was replaced ends.
async fn lead(campaign: Campaign, shutdown: CancellationToken) {
    if campaign.run(shutdown.clone()).await == Ended::Replaced {
        shutdown.cancel();
    }
}

fn random() -> Result<[u8; 8], Error> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

/// What everything is called that is found by its name.
#[derive(Clone, Debug)]
struct Names {
    namespace: String,
    service: String,
    webhooks: String,
    injector: String,
    validator: String,
    lease: String,
}

impl Names {
    fn new(namespace: &str, revision: Option<&str>) -> Self {
        let named = |name: &str| match revision {
            Some(revision) if revision != REVISION_DEFAULT => format!("{name}-{revision}"),
            _ => name.to_owned(),
        };
        Self {
            namespace: namespace.to_owned(),
            service: named(SERVICE),
            webhooks: named(WEBHOOKS_SERVICE),
            injector: named(ca_bundle::INJECTOR),
            validator: named(ca_bundle::VALIDATOR),
            lease: named(leader::NAME),
        }
    }

    /// Names under which other pods and the API server reach this one, in its certificate.
    fn hosts(&self) -> Vec<String> {
        let Self { namespace, service, webhooks, .. } = self;
        vec![
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
            format!("{webhooks}.{namespace}.svc"),
        ]
    }
}

/// A client of the API server: of the cluster that this pod is in, or of the one that a file names.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, Error> {
    let mut config = match kubeconfig {
        Some(path) => {
            let wrong = |source| Error::Kubeconfig { path: path.to_owned(), source };
            let file = Kubeconfig::read_from(path).map_err(wrong)?;
            let options = KubeConfigOptions::default();
            ClientConfig::from_custom_kubeconfig(file, &options).await.map_err(wrong)?
        }
        None => ClientConfig::incluster().map_err(Error::NotInCluster)?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))
}

/// What answers the API server.
fn webhooks(followed: &Followed, injector: Option<Injector>, metrics: &Arc<Metrics>) -> Router {
    let (followed, runtime) = (followed.clone(), Handle::current());
    let judge: Judge = Arc::new(move |request| followed.judge(&runtime, request).into());
    let (metrics, limits) = (Arc::clone(metrics), admission::Limits::default());
    admission::router(Deps { injector, judge: Some(judge), metrics, limits })
}

/// What puts sidecars into pods.
fn injector(settings: Settings, namespaces: Namespaces, events: &Arc<Events>) -> Injector {
    let (events, known, on_mistake) = (Arc::clone(events), Arc::clone(&namespaces), settings.on_mistake);
    let told = Arc::new(move |told: Told| {
        // Whoever reaches the door can ask about any namespace: nothing is written into one that there is not.
        let is_known = || known(&told.namespace).is_some();
        if let Some(event) = events::of(&told, on_mistake).filter(|_| is_known()) {
            events.tell(event);
        }
    });
    Injector { settings: Arc::new(settings), namespaces, told }
}

/// What checks ask about the cluster.
fn observer(
    followed: &Followed,
    uninjected: Option<&Uninjected>,
    others: watch::Receiver<label::Others>,
) -> Observer {
    let (ledger, pods) = (Arc::clone(&followed.ledger), uninjected.map(|it| Arc::clone(&it.known)));
    Observer(Arc::new(move || check::Cluster {
        kept_out: ledger.kept_out(),
        pods: pods.as_ref().map_or(check::Pods::NotInjected, |it| it.pods()),
        control_planes: others.borrow().clone(),
    }))
}

/// The API server keeps few connections and asks much on them.
fn webhook_limits() -> listen::Limits {
    listen::Limits {
        connections_max: 1000,
        streams_per_connection_max: 250,
        strangers_per_network_max: 250,
        ..listen::Limits::default()
    }
}

async fn until(shutdown: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

/// Renews the issuer, if it is ours to renew. One of several does so.
async fn look_after_issuer(secrets: Secrets, leads: watch::Receiver<bool>) {
    let mut every = tokio::time::interval(UPKEEP);
    loop {
        every.tick().await;
        if !*leads.borrow() {
            continue;
        }
        match secrets.renew(clock::now()).await {
            Ok(true) => tracing::info!("the issuer was renewed"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the issuer could not be looked after"
                );
            }
        }
    }
}
