//! What each kind of object says. A value of these types is complete and consistent: whatever could contradict itself
//! was refused when it was read.

mod access;
mod authentication;
mod quota;
mod route;
mod selector;
mod server;
mod stdio;
mod telemetry;
mod tool;
mod trust;
mod virtual_server;

pub use access::{AccessPolicy, AccessRule, Action, CallerMatch, TargetMatch};
pub use authentication::{ApiKey, Authentication, Jwks, JwtIssuer, ProtectedResource};
pub use quota::{Amount, Dimension, Limit, LimitScope, QuotaPolicy, WhenUnavailable};
pub use route::{Mirror, MirroredCalls, Route, RouteMatch, RouteRule, WeightedServer};
pub use selector::ServerSelector;
pub use server::{
    Balancer, CircuitBreaker, Era, External, HealthCheck, InFlight, LoadBalancing, Location, McpServer,
    OutlierEjection, Protocol, Retries, StaticEndpoint, Timeouts, WorkloadInstances,
};
pub use stdio::{Sandbox, Sharing, Stdio};
pub use telemetry::{
    AccessLog, AuditDetail, LogFormat, MetricDimension, OtlpProtocol, Telemetry, TracedContent, Tracing,
};
pub use tool::{CacheScope, ResponseCache, RetryClass, Strictness, ToolPolicy};
pub use trust::{DefaultAction, FederatedDomain, Trust};
pub use virtual_server::{ListMode, Member, Prefixing, VirtualServer};

/// The forms in which objects are written, before what must agree was seen to agree. Every door makes its values from
/// these, so that no door can make one that another refuses.
pub(crate) mod raw {
    pub(crate) use super::access::{RawCaller, RawTarget};
    pub(crate) use super::authentication::{Raw as RawAuthentication, RawJwt};
    pub(crate) use super::quota::{Raw as RawLimit, Unavailable};
    pub(crate) use super::server::{Raw as RawServer, some_labels};
    pub(crate) use super::trust::checked_svid_lifetime;
}

use super::bounded::{List, Map};
use crate::name::{Glob, LabelKey, LabelValue};

/// Labels of an object or a workload.
pub type Labels = Map<LabelKey, LabelValue, 64>;
/// Patterns of which one must match; never empty.
pub type Patterns = List<Glob, 256, 1>;

/// Serde's test for leaving out what says nothing.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
