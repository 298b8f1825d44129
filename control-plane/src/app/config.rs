//! What a control plane is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use tokio::sync::watch;
use weft_certs::ca::external::Files;
use weft_proto::name::TrustDomain;
use weft_telemetry::recent::Recent;

use crate::check::Observer;
use crate::identity::kubernetes::Cluster;
use crate::identity::{self, SessionSecret};
use crate::listen::Limits;
use crate::metrics::Metrics;
use crate::store::Retention;
use crate::{api, audit, auth, quota, xds};

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
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// The cluster that this control plane runs in, if it is one of several there.
    pub cluster: Option<Surroundings>,
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
            metrics: Arc::new(Metrics::new()),
            cluster: None,
        }
    }
}

/// What a cluster gives to the control planes in it, one of which leads while the others stand by.
#[derive(Debug)]
pub struct Surroundings {
    /// The issuer, as it is kept there; instead of an authority of this control plane's own.
    pub issuer: watch::Receiver<Arc<Files>>,
    /// Whom service account tokens are shown to.
    pub accounts: Arc<dyn Cluster>,
    /// Webhooks, behind a door of their own with the control plane's certificate.
    pub webhooks: Webhooks,
    /// The same on every replica, so that a session goes on wherever its sidecar gets its certificate.
    pub sessions: SessionSecret,
    /// The admin token, the same on every replica.
    pub admin: auth::Secret,
    /// Whether everything is read that the cluster says. Before, this one is of no use to anybody.
    pub synced: watch::Receiver<bool>,
    /// How this one is called among several.
    pub replica: String,
    /// Where the one is that leads, if that is another.
    pub leader: watch::Receiver<Option<SocketAddr>>,
    /// Told whether this one follows the leader with a copy of its store that is up to date.
    pub follows: watch::Sender<bool>,
    /// Whether this one leads. Sidecars and operators are let in once it does; limits are lent only while it does.
    pub leads: watch::Receiver<bool>,
    /// What checks ask about the cluster.
    pub observer: Observer,
}

/// What answers the API server, and where.
#[derive(Debug)]
pub struct Webhooks {
    pub address: SocketAddr,
    pub service: Router,
    pub limits: Limits,
}
