//! What one message says, once it was read: the values that a snapshot is compiled from.

use std::sync::Arc;

use crate::name::{
    HostPort, IdentityPattern, Namespace, NodeId, ObjectName, ServerName, SpiffeId, TrustDomain,
};
use crate::offer::Offer;
use crate::resource::Metadata;
use crate::resource::bounded::{Count, List, Text};
use crate::resource::kinds::{
    AccessPolicy, Authentication, DefaultAction, Labels, McpServer, QuotaPolicy, Route, Telemetry,
    ToolPolicy, VirtualServer,
};
use crate::resource::units::Span;

use super::ResourceType;

/// The name of the one resource that speaks for the whole mesh.
pub const MESH_NAME: &str = "mesh";

/// What travels of an object's metadata. Annotations stay behind: nothing may be decided by them.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    pub namespace: Namespace,
    pub name: ObjectName,
    pub labels: Labels,
    /// The store's revision that created the object: older objects win conflicts.
    pub created_revision: u64,
}

impl Meta {
    pub fn new(metadata: &Metadata, created_revision: u64) -> Self {
        let Metadata { namespace, name, labels, annotations: _, resource_version: _ } = metadata;
        Self { namespace: namespace.clone(), name: name.clone(), labels: labels.clone(), created_revision }
    }

    /// The name by which servers and virtual servers are asked for.
    pub fn full_name(&self) -> ServerName {
        ServerName { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// An object as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Object<S> {
    pub meta: Meta,
    pub spec: S,
}

/// What holds for the whole mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    pub trust_domain: TrustDomain,
    pub default_action: DefaultAction,
    pub svid_lifetime: Span,
    pub root_namespace: Namespace,
    /// Workloads whose word on whom they call for is believed.
    pub gateways: List<IdentityPattern, 64>,
    /// Whether those of them that are gateways know every access policy of the servers that they may reach. A control plane
    /// that is older does not tell them.
    pub gateways_are_told: bool,
}

impl Mesh {
    /// Whether what a workload says of whom it calls for is believed.
    pub fn is_gateway(&self, id: &SpiffeId) -> bool {
        self.gateways.iter().any(|pattern| pattern.matches(id))
    }
}

/// The roots of one trust domain.
#[derive(Clone, Debug, PartialEq)]
pub struct TrustBundle {
    pub trust_domain: TrustDomain,
    /// DER. Without any, no identity of the domain is believed.
    pub roots: Vec<Vec<u8>>,
    pub sequence: u64,
    /// Serial numbers in lower-case hex without leading zeros.
    pub revoked_serials: Vec<String>,
    /// SHA-256 fingerprints of roots in lower-case hex: what chains to none of them is due for renewal.
    pub renew_unless_root: Vec<String>,
}

impl TrustBundle {
    /// Most roots of one trust domain.
    pub const ROOTS_MAX: usize = 64;
    /// Largest root certificate.
    pub const ROOT_BYTES_MAX: usize = 64 << 10;
    /// Most certificates refused before they expire.
    pub const REVOKED_MAX: usize = 65_536;
}

/// Where the instances of a server are now.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoints {
    pub server: ServerName,
    pub endpoints: Arc<[Endpoint]>,
}

impl Endpoints {
    /// Most instances of one server.
    pub const ENDPOINTS_MAX: usize = 16_384;
}

/// One instance of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: HostPort,
    /// Who it is on the xDS stream, if it has a sidecar that the control plane saw.
    pub node: Option<NodeId>,
    /// Share of the calls, against the other endpoints; 1 if not given.
    pub weight: Option<Count<1, 1000>>,
    /// Where it stands, as `region/zone`.
    pub locality: Option<Text<128>>,
    /// The identity that the peer must prove; none for servers outside the mesh.
    pub identity: Option<SpiffeId>,
}

/// What one resource says. Objects are shared: a snapshot points at them.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Mesh(Arc<Mesh>),
    TrustBundle(Arc<TrustBundle>),
    AccessPolicy(Arc<Object<AccessPolicy>>),
    QuotaPolicy(Arc<Object<QuotaPolicy>>),
    ToolPolicy(Arc<Object<ToolPolicy>>),
    Authentication(Arc<Object<Authentication>>),
    Telemetry(Arc<Object<Telemetry>>),
    Server(Arc<Object<McpServer>>),
    Endpoints(Arc<Endpoints>),
    Route(Arc<Object<Route>>),
    Offer(Arc<Offer>),
    VirtualServer(Arc<Object<VirtualServer>>),
}

impl Part {
    pub const fn ty(&self) -> ResourceType {
        match self {
            Self::Mesh(_) => ResourceType::Mesh,
            Self::TrustBundle(_) => ResourceType::TrustBundle,
            Self::AccessPolicy(_) => ResourceType::AccessPolicy,
            Self::QuotaPolicy(_) => ResourceType::QuotaPolicy,
            Self::ToolPolicy(_) => ResourceType::ToolPolicy,
            Self::Authentication(_) => ResourceType::Authentication,
            Self::Telemetry(_) => ResourceType::Telemetry,
            Self::Server(_) => ResourceType::Server,
            Self::Endpoints(_) => ResourceType::Endpoints,
            Self::Route(_) => ResourceType::Route,
            Self::Offer(_) => ResourceType::Offer,
            Self::VirtualServer(_) => ResourceType::VirtualServer,
        }
    }

    /// The name that the resource must travel under, by what it says itself. Whoever receives it compares: a policy
    /// under another's name would replace the other.
    pub fn name(&self) -> String {
        match self {
            Self::Mesh(_) => MESH_NAME.to_owned(),
            Self::TrustBundle(bundle) => bundle.trust_domain.to_string(),
            Self::AccessPolicy(it) => it.meta.full_name().to_string(),
            Self::QuotaPolicy(it) => it.meta.full_name().to_string(),
            Self::ToolPolicy(it) => it.meta.full_name().to_string(),
            Self::Authentication(it) => it.meta.full_name().to_string(),
            Self::Telemetry(it) => it.meta.full_name().to_string(),
            Self::Server(it) => it.meta.full_name().to_string(),
            Self::Endpoints(it) => it.server.to_string(),
            Self::Route(it) => it.meta.full_name().to_string(),
            Self::Offer(it) => it.server.to_string(),
            Self::VirtualServer(it) => it.meta.full_name().to_string(),
        }
    }
}
