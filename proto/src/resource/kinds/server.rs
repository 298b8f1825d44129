//! `McpServer`: a logical server and how to speak with it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stdio::Stdio;
use super::{Labels, is_default};
use crate::name::{HostPort, ObjectName, ServiceAccount, WebUrl};
use crate::resource::bounded::{Count, List, Text};
use crate::resource::units::Span;

/// A logical MCP server: where its instances are and how to speak with them. Exactly one of `workload`, `endpoints`,
/// `external` and `stdio` says where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Raw", into = "Raw")]
#[schemars(with = "Raw")]
pub struct McpServer {
    pub location: Location,
    pub service_account: Option<ServiceAccount>,
    pub aliases: List<ObjectName, 16>,
    pub path: Option<Text<1024>>,
    pub protocol: Protocol,
    pub eras: Option<List<Era, 2, 1>>,
    pub timeouts: Timeouts,
    pub in_flight: InFlight,
    pub load_balancing: LoadBalancing,
    pub outlier_ejection: Option<OutlierEjection>,
    pub circuit_breaker: Option<CircuitBreaker>,
    pub retries: Option<Retries>,
    pub health_check: Option<HealthCheck>,
}

/// Where the instances of a server are.
#[derive(Clone, Debug, PartialEq)]
pub enum Location {
    Workload(WorkloadInstances),
    Endpoints(List<StaticEndpoint, 1024, 1>),
    External(External),
    Stdio(Box<Stdio>),
}

/// The form in which a server is written; exactly one location.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "McpServer")]
pub(crate) struct Raw {
    /// Instances are the workloads with these labels, each with its own sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workload: Option<WorkloadInstances>,
    /// Instances are sidecars at these addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) endpoints: Option<List<StaticEndpoint, 1024, 1>>,
    /// The server is outside the mesh, at this URL. Sidecars whose file allows it stand before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) external: Option<External>,
    /// The server is a command that the sidecar starts and speaks with over stdin and stdout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stdio: Option<Stdio>,
    /// The account whose identity every instance holds. Without it, any workload of the namespace may be an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service_account: Option<ServiceAccount>,
    /// Other names under which callers may ask for this server, for instance its name before a move.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) aliases: List<ObjectName, 16>,
    /// Path of the MCP endpoint at the server; `/mcp` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<Text<1024>>,
    /// How the server is spoken to; found out by asking it if not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) protocol: Protocol,
    /// Which eras of the protocol callers are offered; both if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) eras: Option<List<Era, 2, 1>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) timeouts: Timeouts,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) in_flight: InFlight,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) load_balancing: LoadBalancing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outlier_ejection: Option<OutlierEjection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) circuit_breaker: Option<CircuitBreaker>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retries: Option<Retries>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health_check: Option<HealthCheck>,
}

const ONE_LOCATION: &str = "exactly one of workload, endpoints, external and stdio must be given";

impl TryFrom<Raw> for McpServer {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, &'static str> {
        let location = match (raw.workload, raw.endpoints, raw.external, raw.stdio) {
            (Some(workload), None, None, None) => Location::Workload(workload),
            (None, Some(endpoints), None, None) => Location::Endpoints(endpoints),
            (None, None, Some(external), None) => Location::External(external),
            (None, None, None, Some(stdio)) => Location::Stdio(Box::new(stdio)),
            _ => return Err(ONE_LOCATION),
        };
        if let Location::Workload(WorkloadInstances { port: Some(_), unix_socket: Some(_), .. }) = &location {
            return Err("a workload's server listens on a port or on a unixSocket, not on both");
        }
        if raw.eras.as_ref().is_some_and(|eras| matches!(**eras, [first, second] if first == second)) {
            return Err("eras names one era twice");
        }
        if raw.path.as_ref().is_some_and(|path| !path.as_str().starts_with('/')) {
            return Err("path must start with a slash");
        }
        if matches!(location, Location::Stdio(_)) && (raw.path.is_some() || raw.protocol != Protocol::Auto) {
            return Err("path and protocol say nothing about a stdio server; leave them out");
        }
        if let Location::Stdio(stdio) = &location {
            stdio.sandbox.paths_are_absolute()?;
        }
        Ok(Self {
            location,
            service_account: raw.service_account,
            aliases: raw.aliases,
            path: raw.path,
            protocol: raw.protocol,
            eras: raw.eras,
            timeouts: raw.timeouts,
            in_flight: raw.in_flight,
            load_balancing: raw.load_balancing,
            outlier_ejection: raw.outlier_ejection,
            circuit_breaker: raw.circuit_breaker,
            retries: raw.retries,
            health_check: raw.health_check,
        })
    }
}

impl From<McpServer> for Raw {
    fn from(server: McpServer) -> Self {
        let (mut workload, mut endpoints, mut external, mut stdio) = (None, None, None, None);
        match server.location {
            Location::Workload(it) => workload = Some(it),
            Location::Endpoints(it) => endpoints = Some(it),
            Location::External(it) => external = Some(it),
            Location::Stdio(it) => stdio = Some(*it),
        }
        Self {
            workload,
            endpoints,
            external,
            stdio,
            service_account: server.service_account,
            aliases: server.aliases,
            path: server.path,
            protocol: server.protocol,
            eras: server.eras,
            timeouts: server.timeouts,
            in_flight: server.in_flight,
            load_balancing: server.load_balancing,
            outlier_ejection: server.outlier_ejection,
            circuit_breaker: server.circuit_breaker,
            retries: server.retries,
            health_check: server.health_check,
        }
    }
}

/// Workloads of the server's namespace that carry these labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadInstances {
    /// Labels that a workload must carry to be an instance; at least one.
    #[serde(deserialize_with = "at_least_one_label")]
    pub labels: Labels,
    /// Port on which the server listens beside its sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Count<1, 65535>>,
    /// Socket on which the server listens beside its sidecar, instead of a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_socket: Option<Text<107>>,
}

/// No labels would make every workload of the namespace an instance.
fn at_least_one_label<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    some_labels(Labels::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

pub(crate) fn some_labels(labels: Labels) -> Result<Labels, &'static str> {
    match labels.is_empty() {
        true => Err("at least one label is needed to find the instances"),
        false => Ok(labels),
    }
}

/// A sidecar at a fixed address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticEndpoint {
    /// Where the sidecar listens, `host:port`.
    pub address: HostPort,
    /// Share of the calls, against the other endpoints; 1 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Count<1, 1000>>,
    /// Where it stands, as `region/zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Text<128>>,
}

/// A server outside the mesh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct External {
    /// Where its MCP endpoint is.
    pub url: WebUrl,
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Found out by asking.
    #[default]
    Auto,
    /// One endpoint, answers as JSON or as an event stream.
    StreamableHttp,
    /// The transport of 2024-11-05: an event stream and a message endpoint.
    HttpSse,
}

/// An era of the protocol, as callers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Era {
    /// Revisions up to 2025-11-25, with a handshake.
    Legacy,
    /// Revision 2026-07-28 and later, without sessions.
    Modern,
}

/// How long things may take. No limit holds for the length of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// To a connection; 5s if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Span>,
    /// From a call to the first byte of its answer; 60s if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Span>,
    /// Without a byte on a connection or stream; 5m if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Span>,
}

/// How many calls may be under way at one instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InFlight {
    /// Calls under way; 256 if not given. No caller takes all of them: of 256, one alone has up to 225.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Count<1, 65536>>,
    /// Calls waiting beyond those; 0 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_max: Option<Count<0, 65536>>,
}

/// How a caller's sidecar chooses among the instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancing {
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: Balancer,
    /// Prefer instances in the caller's own zone while they are healthy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prefer_local: bool,
    /// For this long an instance that is new to a caller's sidecar gets less than its share, and more and more of it;
    /// its share at once if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Span>,
}

/// A way to choose an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Balancer {
    /// The less loaded of two drawn at random.
    #[default]
    LeastRequest,
    /// The one of two drawn at random that promises the earlier answer: by how long it took lately, where a peak counts
    /// at once and fades slowly, and by what is under way there.
    PeakEwma,
    RoundRobin,
    Random,
    /// The same instance for the same session, task or name.
    ConsistentHash,
}

/// When an instance that fails is left out for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierEjection {
    /// Failures in a row that eject; 5 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<Count<1, 1000>>,
    /// How often instances are judged; 10s if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// How long the first ejection lasts; 30s if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection_time: Option<Span>,
    /// Most instances ejected at once, in percent; 50 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected_percent_max: Option<Count<0, 100>>,
}

/// How much one caller's sidecar may ask of the server at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitBreaker {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<Count<1, 65536>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_max: Option<Count<0, 65536>>,
    /// Failures in a row of one tool, at whatever instances, after which calls of it are refused for a while without
    /// being sent; never if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_failures: Option<Count<1, 1000>>,
    /// How long calls of such a tool are refused before one is let through to see whether it works again; 30s if not
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_pause: Option<Span>,
}

/// Retries of calls that never left, of those that are safe to repeat, and, at another instance, of any call of which the
/// sidecar there says that it sent nothing on to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retries {
    /// Attempts after the first; 1 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Count<0, 10>>,
    /// Time for each attempt; the call's own if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Span>,
    /// Retries among all calls, in percent; 20 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_percent: Option<Count<0, 100>>,
}

/// Active checks of each instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// Time between checks; 10s if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// Time for one check; 2s if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Successes in a row that make an instance healthy; 1 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_threshold: Option<Count<1, 100>>,
    /// Failures in a row that make it unhealthy; 3 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy_threshold: Option<Count<1, 100>>,
    /// Whether the sidecars of callers check the way to each instance that they use as well.
    #[serde(default, skip_serializing_if = "is_default")]
    pub by_callers: bool,
}
