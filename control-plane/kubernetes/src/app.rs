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
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_control_plane::app::{self as control_plane, Surroundings, Webhooks};
use weft_control_plane::clock;
use weft_control_plane::listen;
use weft_proto::name::{Namespace, TrustDomain};

use crate::cluster::{self, Accounts};
use crate::secrets::{self, Secrets};

/// The Service that sidecars and operators find the control plane by that leads.
pub const SERVICE: &str = "weft-control-plane";
/// The Service that the API server finds every control plane by.
pub const WEBHOOKS_SERVICE: &str = "weft-webhooks";
/// How long the API server may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
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
    pub accounts: cluster::Limits,
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
    let Config { control_plane: mut inner, kubeconfig, namespace, webhooks, issuer_is_given, accounts } = config;
    let trust_domain = inner.trust_domain.clone().ok_or(Error::NoTrustDomain)?;
    let client = connect(kubeconfig.as_deref()).await?;
    let secrets = Secrets::new(Api::namespaced(client.clone(), namespace.as_str()), trust_domain.clone());
    let shared = Box::pin(secrets.settle(issuer_is_given, clock::now())).await?;
    let issuer = watch::Sender::new(Arc::new(shared.issuer));
    let (synced, leads) = (watch::Sender::new(true), watch::Sender::new(true));
    inner.hosts.extend(own_hosts(&namespace));
    inner.cluster = Some(Surroundings {
        issuer: issuer.subscribe(),
        accounts: Arc::new(Accounts::new(client.clone(), accounts)),
        webhooks: Webhooks {
            address: webhooks,
            service: webhook_router(&trust_domain),
            limits: webhook_limits(),
        },
        sessions: shared.sessions,
        admin: shared.admin,
        synced: synced.subscribe(),
        leads: leads.subscribe(),
    });
    let control_plane = Box::pin(control_plane::start(inner)).await?;
    let (tasks, shutdown) = (TaskTracker::new(), control_plane.shutdown());
    tasks.spawn(until(shutdown.clone(), secrets.clone().follow(issuer)));
    tasks.spawn(until(shutdown, look_after_issuer(secrets, leads.subscribe())));
    drop((synced, leads));
    Ok(Running { control_plane, client, tasks })
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
    Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))
}

/// Names under which other pods and the API server reach this one, in its certificate.
fn own_hosts(namespace: &Namespace) -> Vec<String> {
    [SERVICE, WEBHOOKS_SERVICE]
        .iter()
        .flat_map(|service| {
            ["svc", "svc.cluster.local"].map(|suffix| format!("{service}.{namespace}.{suffix}"))
        })
        .collect()
}

/// What answers the API server.
fn webhook_router(_: &TrustDomain) -> Router {
    Router::new()
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
                tracing::error!(error = &error as &dyn std::error::Error, "the issuer could not be looked after");
            }
        }
    }
}
