//! What the sidecar counts, in one place. Labels take few values by construction: listeners, servers of this sidecar,
//! methods of the protocol, reasons. What is told apart by tools and callers is in [`calls`], where that is bounded.

pub mod calls;
pub mod names;
pub mod otlp;
pub mod timings;
pub mod verdict;
mod written;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use weft_proto::mcp::Bounds;
use weft_proto::name::ServerName;
use weft_proto::resource::kinds::{MetricDimension, Telemetry};

use crate::onlook::Onlookers;
use crate::striped::Striped;

pub use verdict::Verdict;

use calls::{Calls, Side, Table, Told};
use timings::Durations;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ListenerLabel {
    pub listener: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabel {
    pub listener: &'static str,
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    pub reason: &'static str,
}

/// What a request was about. Never a tool's name: callers choose it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub listener: &'static str,
    pub server: Arc<str>,
    pub method: &'static str,
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DurationLabels {
    pub listener: &'static str,
    pub server: Arc<str>,
    pub method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServerLabel {
    pub server: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VersionLabel {
    pub version: Arc<str>,
}

/// A counter of what many threads count at once.
pub type Tally = Counter<u64, Striped>;

/// What a limit of a quota decided. Never a caller's or a tool's name: callers choose them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QuotaLabels {
    pub policy: Arc<str>,
    pub limit: Arc<str>,
    pub outcome: &'static str,
}

/// What became of a check of calls of tools.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ToolCheckLabels {
    pub server: Arc<str>,
    /// `pin`, `arguments` or `result`.
    pub check: &'static str,
    /// `refused`, `warned`, or `shadow` where it would have been refused.
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabels {
    pub policy: Arc<str>,
    pub limit: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServerOutcomeLabels {
    pub server: Arc<str>,
    pub outcome: &'static str,
}

/// Declares the metrics: each is registered under the name of its field.
macro_rules! metrics {
    ($($field:ident: $kind:ty = $new:expr, $help:literal;)*) => {
        /// Every metric of a sidecar.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            process: Registry,
            /// Calls that came.
            served: Calls,
            /// Calls of the workload beside this sidecar.
            made: Calls,
            /// Who is told of each request that ends, for as long as they look on.
            pub onlookers: Onlookers,
            $(pub $field: $kind,)*
        }

        impl Metrics {
            fn registered() -> Self {
                let mut registry = Registry::with_prefix("weft_sidecar");
                $(let $field: $kind = $new;
                registry.register(stringify!($field), $help, $field.clone());)*
                let (served, made) =
                    (Calls::new(Side::Server, Told::default()), Calls::new(Side::Client, Told::default()));
                let process = weft_telemetry::process::registry();
                Self { registry, process, served, made, onlookers: Onlookers::default(), $($field,)* }
            }
        }
    };
}

metrics! {
    connections: Family<ListenerLabel, Gauge> = Family::default(), "Connections open";
    connections_refused: Family<RefusedLabel, Counter> = Family::default(), "Connections that were not taken";
    requests: Family<RequestLabels, Counter> = Family::default(), "Requests that ended, by what became of them";
    request_seconds: Family<DurationLabels, Durations> = Family::default(), "From a request's head to the end of its answer; event streams that only listen are left out";
    request_bytes: Family<ListenerLabel, Counter> = Family::default(), "Bytes of bodies of requests";
    response_bytes: Family<ListenerLabel, Counter> = Family::default(), "Bytes of bodies of answers";
    bodies_held_bytes: Gauge = Gauge::default(), "Bytes of bodies of requests that are held";
    streams: Family<ListenerLabel, Gauge> = Family::default(), "Event streams open";
    in_flight: Family<ServerLabel, Gauge> = Family::default(), "Calls under way at a server";
    upstream_up: Family<ServerLabel, Gauge> = Family::default(), "Whether a server beside this sidecar answers: 1, or 0";
    server_healthy: Family<ServerLabel, Gauge> = Family::default(), "Whether a server with a health check is well: 1, or 0";
    server_exposed: Family<ServerLabel, Gauge> = Family::default(), "Whether a server that listens can be called past this sidecar: 1, or 0";
    child_restarts: Family<ServerLabel, Gauge> = Family::default(), "Starts of a stdio server after its first";
    child_garbage_lines: Family<ServerLabel, Gauge> = Family::default(), "Lines of a stdio server that were no messages";
    quota_decisions: Family<QuotaLabels, Tally> = Family::default(), "Calls that a limit of a quota counted, or would not: allowed, near (allowed, with four fifths taken), denied, shadow_denied";
    quota_limit: Family<LimitLabels, Gauge<f64, AtomicU64>> = Family::default(), "How much a limit of a quota allows at once: its burst, its budget, its calls under way";
    quota_used: Family<LimitLabels, Gauge<f64, AtomicU64>> = Family::default(), "How much of it is taken, where most is";
    quota_lease: Family<LimitLabels, Gauge<f64, AtomicU64>> = Family::default(), "How much of a mesh-wide limit may be used here in each window";
    quota_lease_age_seconds: Family<LimitLabels, Gauge<f64, AtomicU64>> = Family::default(), "Since when a lease of a rate or of calls under way was not confirmed, where that is longest; past the time of a lease (15 s) what is said of that holds";
    quota_fallback_active: Family<LimitLabels, Gauge> = Family::default(), "Counts of a mesh-wide limit for which there is no lease, so that what is said of that holds";
    quota_keys: Gauge = Gauge::default(), "Counts of quotas that are kept";
    quota_unkept: Counter = Counter::default(), "Times that budgets could not be written down, so that nothing more of them was set aside";
    tool_checks: Family<ToolCheckLabels, Counter> = Family::default(), "Calls of tools that were not as policies want them, by what was checked and what became of them";
    tool_readings: Family<ServerOutcomeLabels, Counter> = Family::default(), "Readings of the tools that a server advertises: ok, or failed";
    kept_answers: Family<ServerOutcomeLabels, Counter> = Family::default(), "Calls of tools whose answers are kept: hit, or miss";
    kept_reads: Family<ServerOutcomeLabels, Counter> = Family::default(), "Reads of resources and lists whose answers are kept as long as servers say: hit, or miss";
    copies: Family<ServerOutcomeLabels, Counter> = Family::default(), "Copies of calls by the server that was to have them, by what became of them: answered, failed, or no_room";
    hedges: Family<ServerOutcomeLabels, Counter> = Family::default(), "Calls that a second instance was to be asked for as well, by what became of that: won (it answered first), lost, or no_budget (it was not asked)";
    certificate_expiry_timestamp_seconds: Gauge = Gauge::default(), "When this sidecar's certificate expires";
    snapshot_age_seconds: Gauge = Gauge::default(), "Since when nothing was heard of the configuration in force";
    snapshot_info: Family<VersionLabel, Gauge> = Family::default(), "1, with the version of the configuration in force";
    snapshot_stored: Gauge = Gauge::default(), "Whether the configuration in force is one kept from an earlier run: 1, or 0";
    control_plane_connected: Gauge = Gauge::default(), "Whether the control plane is connected: 1, or 0";
    shadow_refusals: Family<ServerLabel, Counter> = Family::default(), "Requests that were let through and that a policy in shadow would have refused";
    access_log_dropped: Counter = Counter::default(), "Events that the access log had no room for";
    spans_sent: Counter = Counter::default(), "Spans of calls that a collector took";
    spans_dropped: Family<ReasonLabel, Counter> = Family::default(), "Spans that no collector took: the queue was full (queue_full), it could not be reached or would not have them (not_taken, rejected), or there is none any more (nowhere)";
    gateway_callers: Family<ReasonLabel, Counter> = Family::default(), "Requests at a gateway, by whether their caller was known: ok, or why not (unauthenticated, insufficient_scope, claims_too_large, issuer_away, invalid, not_ready)";
    issuer_keys: Family<ReasonLabel, Counter> = Family::default(), "Times that the keys of an issuer were fetched for a gateway: fetched, no_keys, failed";
    not_believed: Counter = Counter::default(), "Requests whose caller said that it calls for somebody else and is no gateway, which are refused";
    audit_records: Counter = Counter::default(), "Records of calls that the audit trail has on disk";
    audit_dropped: Family<ReasonLabel, Counter> = Family::default(), "Calls that were to be recorded and were not: queue_full, disk_full, disk_failed, no_state_dir";
    audit_bytes: Gauge = Gauge::default(), "Bytes of the audit trail on disk";
    audit_seals: Counter = Counter::default(), "Times that the audit trail was signed";
    audit_unshipped: Gauge = Gauge::default(), "Lines of the audit trail that the control plane has not";
    audit_failures: Family<ReasonLabel, Counter> = Family::default(), "Times that the audit trail could not be written, signed or shipped: write, no_identity, seal, read, ship, ship_refused";
    panics: Counter = Counter::default(), "Requests that ended in a panic";
    metrics_exports: Family<ReasonLabel, Counter> = Family::default(), "Times that metrics were sent to a collector: sent, rejected (in part), not_taken";
    call_series: Family<ListenerLabel, Gauge> = Family::default(), "Series of calls by server, method, tool or prompt and class of caller that are kept apart; at most 1000";
    call_series_folded: Family<ListenerLabel, Counter> = Family::default(), "Such series that were idle longest when there was no room, and are now part of `other`";
    calls_without_series: Family<ListenerLabel, Counter> = Family::default(), "Calls that were counted under `other` at once, for there was no room and no series was idle";
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Self::registered();
        metrics.served = Calls::new(Side::Server, metrics.told("inbound"));
        metrics.made = Calls::new(Side::Client, metrics.told("outbound"));
        metrics
    }

    fn told(&self, listener: &'static str) -> Told {
        let label = ListenerLabel { listener };
        Told {
            kept: self.call_series.get_or_create_owned(&label),
            folded: self.call_series_folded.get_or_create_owned(&label),
            without: self.calls_without_series.get_or_create_owned(&label),
        }
    }

    /// The calls that are seen at a listener.
    fn calls(&self, listener: &'static str) -> &Calls {
        if matches!(listener, "outbound" | "gateway") { &self.made } else { &self.served }
    }

    /// The text form of OpenMetrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = encode_registry(&mut text, &self.registry);
        self.served.write(&mut text);
        self.made.write(&mut text);
        let _ = encode_registry(&mut text, &self.process);
        let _ = encode_eof(&mut text);
        text
    }

    pub fn connection_refused(&self, listener: &'static str, reason: &'static str) {
        self.connections_refused.get_or_create(&RefusedLabel { listener, reason }).inc();
    }

    /// Counts a connection until the guard is dropped.
    pub fn connection_opened(&self, listener: &'static str) -> Counted {
        Counted::new(self.connections.get_or_create_owned(&ListenerLabel { listener }))
    }
}

/// One more of something, until it is dropped.
#[derive(Debug)]
pub struct Counted(Gauge<i64, AtomicI64>);

impl Counted {
    pub fn new(gauge: Gauge<i64, AtomicI64>) -> Self {
        gauge.inner().fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.inner().fetch_sub(1, Ordering::Relaxed);
    }
}

/// Methods of the protocol, by which requests are counted. Whatever else a caller names is `other`.
pub const METHODS: [&str; 32] = [
    "other",
    "none",
    "tools/call",
    "tools/list",
    "initialize",
    "server/discover",
    "ping",
    "prompts/get",
    "prompts/list",
    "resources/read",
    "resources/list",
    "resources/templates/list",
    "resources/subscribe",
    "resources/unsubscribe",
    "completion/complete",
    "logging/setLevel",
    "subscriptions/listen",
    "tasks/get",
    "tasks/update",
    "tasks/cancel",
    "tasks/result",
    "tasks/list",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "response",
    "batch",
    "GET",
    "DELETE",
    "skills/list",
    "skills/get",
];

/// Where a method stands in [`METHODS`].
pub fn method_index(method: &str) -> usize {
    METHODS.iter().position(|known| *known == method).unwrap_or(0)
}

/// The series of one server behind one listener, found once.
#[derive(Debug)]
pub struct ServerSeries {
    metrics: Arc<Metrics>,
    listener: &'static str,
    server: Arc<str>,
    served: [std::sync::OnceLock<(Counter, Durations)>; METHODS.len()],
    /// None for requests about no server.
    calls: Option<Arc<Table>>,
    request_bytes: Counter,
    response_bytes: Counter,
    pub streams: Gauge,
}

impl ServerSeries {
    pub fn new(metrics: &Arc<Metrics>, listener: &'static str, server: Arc<str>) -> Self {
        let label = ListenerLabel { listener };
        Self {
            request_bytes: metrics.request_bytes.get_or_create_owned(&label),
            response_bytes: metrics.response_bytes.get_or_create_owned(&label),
            streams: metrics.streams.get_or_create_owned(&label),
            calls: (!server.is_empty()).then(|| metrics.calls(listener).of(&server)),
            metrics: Arc::clone(metrics),
            listener,
            server,
            served: Default::default(),
        }
    }

    /// How the server is called.
    pub fn server(&self) -> Arc<str> {
        Arc::clone(&self.server)
    }

    /// Which side of calls is seen here.
    pub fn side(&self) -> Side {
        self.metrics.calls(self.listener).side()
    }

    /// Who is told of requests that ended, besides.
    pub fn onlookers(&self) -> &Onlookers {
        &self.metrics.onlookers
    }

    /// Counts a request that ended. Without `took` its duration says nothing, as with streams that only listen.
    pub fn ended(&self, method: usize, reason: &'static str, took: Option<Duration>, bytes: (u64, u64)) {
        self.request_bytes.inc_by(bytes.0);
        self.response_bytes.inc_by(bytes.1);
        let (served, histogram) = self.served[method].get_or_init(|| self.series(method));
        match reason {
            "ok" => _ = served.inc(),
            _ => _ = self.metrics.requests.get_or_create(&self.labels(method, reason)).inc(),
        }
        if let Some(took) = took {
            histogram.observe(took);
        }
    }

    /// Counts it by what it was about, and by whom.
    pub fn called(&self, call: &calls::Call<'_>) {
        if let Some(table) = &self.calls {
            self.metrics.calls(self.listener).count(table, call);
        }
    }

    /// Takes the names of tools and prompts from a message of the server, if it lists any.
    pub fn learn(&self, message: &[u8], bounds: Bounds) {
        if let Some(table) = &self.calls {
            table.learn(message, bounds);
        }
    }

    pub fn refused_in_shadow(&self) {
        let label = ServerLabel { server: Arc::clone(&self.server) };
        self.metrics.shadow_refusals.get_or_create(&label).inc();
    }

    fn series(&self, method: usize) -> (Counter, Durations) {
        let labels = DurationLabels {
            listener: self.listener,
            server: Arc::clone(&self.server),
            method: METHODS[method],
        };
        let served = self.metrics.requests.get_or_create_owned(&self.labels(method, "ok"));
        (served, self.metrics.request_seconds.get_or_create_owned(&labels))
    }

    fn labels(&self, method: usize, reason: &'static str) -> RequestLabels {
        let server = Arc::clone(&self.server);
        RequestLabels { listener: self.listener, server, method: METHODS[method], reason }
    }
}

/// The series of what is done about the tools of one server.
#[derive(Clone, Debug)]
pub struct ToolSeries {
    metrics: Arc<Metrics>,
    server: Arc<str>,
}

impl ToolSeries {
    pub fn new(metrics: &Arc<Metrics>, server: Arc<str>) -> Self {
        Self { metrics: Arc::clone(metrics), server }
    }

    pub fn checked(&self, check: &'static str, outcome: &'static str) {
        let server = Arc::clone(&self.server);
        self.metrics.tool_checks.get_or_create(&ToolCheckLabels { server, check, outcome }).inc();
    }

    /// Takes names of tools that were read from the server.
    pub fn know<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) {
        self.metrics.served.of(&self.server).know(names);
    }

    pub fn read(&self, well: bool) {
        let outcome = if well { "ok" } else { "failed" };
        let labels = ServerOutcomeLabels { server: Arc::clone(&self.server), outcome };
        self.metrics.tool_readings.get_or_create(&labels).inc();
    }

    pub fn looked_up(&self, hit: bool) {
        let outcome = if hit { "hit" } else { "miss" };
        let labels = ServerOutcomeLabels { server: Arc::clone(&self.server), outcome };
        self.metrics.kept_answers.get_or_create(&labels).inc();
    }

    pub fn read_looked_up(&self, hit: bool) {
        let outcome = if hit { "hit" } else { "miss" };
        let labels = ServerOutcomeLabels { server: Arc::clone(&self.server), outcome };
        self.metrics.kept_reads.get_or_create(&labels).inc();
    }
}

/// What calls are told apart by, besides what they always are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dimensions {
    pub caller: bool,
    pub era: bool,
    pub limit: bool,
}

impl Dimensions {
    /// The first telemetry that speaks of dimensions decides.
    pub fn of<'t>(mut telemetry: impl Iterator<Item = &'t Telemetry>) -> Self {
        let said = telemetry.find(|it| !it.metric_dimensions.is_empty());
        let has = |one| said.is_some_and(|it| it.metric_dimensions.contains(&one));
        Self {
            caller: has(MetricDimension::Caller),
            era: has(MetricDimension::Era),
            limit: has(MetricDimension::Limit),
        }
    }
}

/// Most servers whose series are kept apart. A name that is not known is no server, so this many are called by one
/// agent.
const SERVERS_MAX: usize = 4096;

/// The series of the servers that an agent calls, found by name.
#[derive(Debug)]
pub struct SeriesByServer {
    metrics: Arc<Metrics>,
    listener: &'static str,
    found: RwLock<HashMap<ServerName, Arc<ServerSeries>>>,
}

impl SeriesByServer {
    pub fn new(metrics: &Arc<Metrics>, listener: &'static str) -> Self {
        Self { metrics: Arc::clone(metrics), listener, found: RwLock::default() }
    }

    /// The series of a server that is known to exist.
    pub fn of(&self, server: &ServerName) -> Arc<ServerSeries> {
        if let Some(series) = self.found.read().unwrap_or_else(PoisonError::into_inner).get(server) {
            return Arc::clone(series);
        }
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        let name = if found.len() < SERVERS_MAX { server.to_string() } else { "other".to_owned() };
        let make = || Arc::new(ServerSeries::new(&self.metrics, self.listener, name.into()));
        Arc::clone(found.entry(server.clone()).or_insert_with(make))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_under_what_became_of_it() {
        let metrics = Arc::new(Metrics::new());
        let series = ServerSeries::new(&metrics, "inbound", "research/files".into());
        series.ended(method_index("tools/call"), "ok", Some(Duration::from_millis(10)), (10, 20));
        series.ended(method_index("tools/call"), "denied", Some(Duration::from_millis(10)), (10, 20));
        series.ended(method_index("no/such"), "ok", None, (0, 0));
        let text = metrics.text();
        for line in [
            "weft_sidecar_requests_total{listener=\"inbound\",server=\"research/files\",method=\"tools/call\",reason=\"ok\"} 1",
            "weft_sidecar_requests_total{listener=\"inbound\",server=\"research/files\",method=\"tools/call\",reason=\"denied\"} 1",
            "weft_sidecar_requests_total{listener=\"inbound\",server=\"research/files\",method=\"other\",reason=\"ok\"} 1",
            "weft_sidecar_request_bytes_total{listener=\"inbound\"} 20",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_counted_while_it_lasts_goes_back_when_it_ends() {
        let metrics = Metrics::new();
        let open = metrics.connection_opened("inbound");
        assert!(metrics.text().contains("connections{listener=\"inbound\"} 1"));
        drop(open);
        assert!(metrics.text().contains("connections{listener=\"inbound\"} 0"));
    }

    #[test]
    fn no_method_stands_twice() {
        let mut names = METHODS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METHODS.len());
    }
}
