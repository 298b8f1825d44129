//! The operator API: objects and their history, sidecars, trust, tokens, keys and the audit trail over HTTP.
//!
//! One table ([`operations`]) says what there is; it drives routing, authorization and the OpenAPI document, so that
//! these cannot differ. Every request takes one way ([`serve`]). Not here: TLS and the accept loop, and what the API
//! does not own — the store, the sidecars' streams, the certificate authority — which it is handed in [`Deps`].

mod access;
mod asked;
mod beside;
mod call;
mod cards;
mod catalogue;
mod changes;
mod checks;
mod dto;
mod error;
mod explain;
mod history;
mod objects;
mod openapi;
mod operations;
mod quotas;
mod registry;
mod serve;
mod sidecars;
mod tools;
mod trails;
pub mod trust;
mod watch;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::Request;
use axum::routing::on;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use weft_proto::name::TrustDomain;
use weft_telemetry::recent::Recent;

use crate::audit::Trails;
use crate::auth::Keys;
use crate::catalog::Catalogue;
use crate::check::Observer;
use crate::desired::Mesh;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::quota::Lender;
use crate::replica::Replication;
use crate::store::{self, Store};
use crate::tokens::Tokens;
pub use asked::config::{Difference, HeldResource, SidecarConfig};
pub use asked::counts::{CallCount, CallCounts, CountedBy, SilentSidecar};
pub use asked::logging::{LogLines, SidecarLogging};
pub use asked::tap::TapEvent;
pub use cards::{AiCatalogue, AiCatalogueEntry};
pub use catalogue::{
    Hint, ItemKind, OfferedItem, OfferedList, OfferedReplica, OfferedShown, OfferedVersion, OfferingList,
    OfferingReplica, OfferingServer,
};
pub use checks::CheckList;
pub use dto::*;
pub use error::{Code, Error, FieldError, Problem};
pub use explain::{ExplainRequest, Explained, IdentityMay, Led, PassedOver, RouteTold, ThroughTold, WhoCan};
pub use openapi::document as openapi;
use operations::{METHOD_NOT_ALLOWED, OPERATIONS, UNKNOWN_ROUTE};
pub use quotas::{QuotaCount, QuotaList, QuotaPart};
pub use registry::{RegistryMetadata, RegistryRemote, RegistryServer, RegistryServerDetail, RegistryServers};
pub use sidecars::{
    Nack, PlanCount, PlanStatus, Sidecar, SidecarCertificate, SidecarList, SidecarLosses, SidecarType,
    Sidecars,
};
pub(crate) use tools::judged as judged_tool;
pub use tools::{AdvertisedTool, GoneTool, ServerTools, ToolInstance, ToolList};
pub use trust::TrustControl;

/// The limit on everything that a request can take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest body of documents.
    pub documents_bytes_max: usize,
    /// Largest body of anything else.
    pub body_bytes_max: usize,
    /// A body must arrive within this time.
    pub body_timeout: Duration,
    /// A request must be answered within this time; watches only begin within it.
    pub request_timeout: Duration,
    /// Requests that are worked on at once; more are turned away.
    pub in_flight_max: usize,
    /// Requests that parse or compare documents at once; more wait.
    pub heavy_in_flight_max: usize,
    pub watchers_max: usize,
    /// Time between signs of life on a watch.
    pub heartbeat: Duration,
    /// A sidecar that is asked something must answer within this time.
    pub sidecar_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            documents_bytes_max: 16 << 20,
            body_bytes_max: 256 << 10,
            body_timeout: Duration::from_secs(20),
            request_timeout: Duration::from_secs(30),
            in_flight_max: 256,
            heavy_in_flight_max: 4,
            watchers_max: 256,
            heartbeat: Duration::from_secs(15),
            sidecar_timeout: Duration::from_secs(10),
        }
    }
}

/// What the API is handed.
#[derive(Clone)]
pub struct Deps {
    pub store: Arc<dyn Store>,
    pub metrics: Arc<Metrics>,
    pub sidecars: Arc<dyn Sidecars>,
    pub lender: Arc<Lender>,
    pub trails: Trails,
    pub catalogue: Arc<Catalogue>,
    pub trust: Arc<dyn TrustControl>,
    pub tokens: Arc<Tokens>,
    pub keys: Arc<Keys>,
    pub trust_domain: TrustDomain,
    /// Whose disk must have room; none where everything is kept elsewhere.
    pub data_dir: Option<PathBuf>,
    pub clock: store::Clock,
    /// The objects are those of a cluster: nobody changes them here.
    pub managed: bool,
    /// What checks ask about the cluster.
    pub cluster: Option<Observer>,
    /// How others follow, where there may be others.
    pub replication: Option<Replication>,
    /// The newest lines of the control plane's log.
    pub log: Recent,
    pub limits: Limits,
    /// Ends the watches.
    pub shutdown: CancellationToken,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// What all requests share.
#[derive(Debug)]
struct Api {
    deps: Deps,
    mesh: Mesh,
    objects: Objects,
    /// One change at a time in this process; other replicas are kept apart by the store.
    writing: Mutex<()>,
    in_flight: Semaphore,
    heavy: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
}

impl Api {
    fn now(&self) -> SystemTime {
        (self.deps.clock)()
    }
}

/// The whole API. Requests are expected to carry [`crate::peer::Peer`] as an extension.
pub fn router(deps: Deps) -> Router {
    let Limits { in_flight_max, heavy_in_flight_max, watchers_max, .. } = deps.limits;
    let api = Arc::new(Api {
        mesh: Mesh { trust_domain: deps.trust_domain.clone() },
        objects: Objects::new(Arc::clone(&deps.store)),
        writing: Mutex::default(),
        in_flight: Semaphore::new(in_flight_max),
        heavy: Arc::new(Semaphore::new(heavy_in_flight_max)),
        watchers: Arc::new(Semaphore::new(watchers_max)),
        deps,
    });
    let handler = |operation| {
        let api = Arc::clone(&api);
        move |request: Request| serve::serve(api, operation, request)
    };
    let route = |router: Router, operation: &'static operations::Operation| {
        router.route(operation.path, on(operation.method.filter(), handler(operation)))
    };
    OPERATIONS
        .iter()
        .fold(Router::new(), route)
        .method_not_allowed_fallback(handler(&METHOD_NOT_ALLOWED))
        .fallback(handler(&UNKNOWN_ROUTE))
}
