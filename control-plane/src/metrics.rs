//! What the control plane counts, in one place. Labels take few values by construction: types, outcomes, reasons.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use weft_proto::wire::ResourceType;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TypeLabel {
    pub r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiLabels {
    pub operation: &'static str,
    pub status: u16,
}

/// Whoever sets it keeps the number of namespaces small.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NamespaceLabel {
    pub namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReplicaLabel {
    pub replica: String,
}

/// Declares the metrics: each is registered under the name of its field.
macro_rules! metrics {
    ($($field:ident: $kind:ty = $new:expr, $help:literal;)*) => {
        /// Every metric of the control plane.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            process: Registry,
            $(pub $field: $kind,)*
        }

        impl Metrics {
            fn registered() -> Self {
                let mut registry = Registry::with_prefix("weft");
                $(let $field: $kind = $new;
                registry.register(stringify!($field), $help, $field.clone());)*
                Self { registry, process: weft_telemetry::process::registry(), $($field,)* }
            }
        }
    };
}

fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 18))
}

metrics! {
    xds_clients: Gauge = Gauge::default(), "Sidecars connected";
    xds_streams_refused: Family<ReasonLabel, Counter> = Family::default(), "Streams refused";
    xds_streams_ended: Family<ReasonLabel, Counter> = Family::default(), "Streams ended";
    xds_responses: Family<TypeLabel, Counter> = Family::default(), "Responses sent";
    xds_response_bytes: Family<TypeLabel, Counter> = Family::default(), "Bytes of resources sent";
    xds_acks: Family<TypeLabel, Counter> = Family::default(), "Responses acknowledged";
    xds_nacks: Family<TypeLabel, Counter> = Family::default(), "Responses rejected by a sidecar";
    xds_stale_nonces: Family<TypeLabel, Counter> = Family::default(), "Answers to nothing outstanding";
    xds_unknown_types: Counter = Counter::default(), "Requests for unknown types";
    xds_push_seconds: Histogram = latency(), "From change to response, per sidecar";
    xds_convergence_seconds: Histogram = latency(), "From response to acknowledgement, per sidecar";
    lease_streams: Gauge = Gauge::default(), "Sidecars that borrow of mesh-wide limits";
    lease_streams_refused: Family<ReasonLabel, Counter> = Family::default(), "Streams of leases refused";
    lease_keys: Gauge = Gauge::default(), "Counts of mesh-wide limits that are lent";
    lease_grants: Counter = Counter::default(), "Grants of shares made";
    lease_demands_refused: Family<ReasonLabel, Counter> = Family::default(), "Demands of shares refused";
    reports: Counter = Counter::default(), "Reports of sidecars taken";
    report_streams_ended: Family<ReasonLabel, Counter> = Family::default(), "Streams of reports ended";
    plan_seconds: Histogram = latency(), "Time to plan one batch of changes";
    plan_changes: Counter = Counter::default(), "Changes planned";
    plan_revision: Gauge = Gauge::default(), "Revision that is published";
    resources: Family<TypeLabel, Gauge> = Family::default(), "Resources published, by type";
    certificates_issued: Counter = Counter::default(), "Certificates issued";
    certificates_refused: Family<ReasonLabel, Counter> = Family::default(), "Requests refused";
    certificate_queue: Gauge = Gauge::default(), "Signing requests waiting";
    certificate_seconds: Histogram = latency(), "Time to answer a signing request";
    issuer_expiry_timestamp_seconds: Gauge = Gauge::default(), "When the issuing certificate expires";
    trust_roots: Gauge = Gauge::default(), "Roots of this trust domain that are trusted";
    api_requests: Family<ApiLabels, Counter> = Family::default(), "Operator requests";
    api_seconds: Histogram = latency(), "Time to answer an operator request";
    handshakes_failed: Family<ReasonLabel, Counter> = Family::default(), "TLS handshakes that failed";
    connections: Gauge = Gauge::default(), "Connections from sidecars";
    store_revision: Gauge = Gauge::default(), "Last revision of the store";
    audit_lines: Counter = Counter::default(), "Lines of audit trails stored";
    audit_bytes: Gauge = Gauge::default(), "Bytes of lines of audit trails kept";
    audit_refused: Family<ReasonLabel, Counter> = Family::default(), "Streams of audit trails that were not taken further: broken, refused, denied, malformed, not_stored";
    audit_seals_unbelieved: Counter = Counter::default(), "Seals of audit trails that were not believed";
    audit_segments_removed: Counter = Counter::default(), "Segments of audit trails cleared away";
    audit_trails_removed: Counter = Counter::default(), "Audit trails forgotten with their anchors, long after their last segment went";
    admissions: Family<ReasonLabel, Counter> = Family::default(), "Questions of API servers before they keep an object, without dry runs: injected or for which reason not, valid, invalid, timed-out, panicked, unread";
    admission_seconds: Histogram = latency(), "Time to answer such a question";
    cluster_objects: Gauge = Gauge::default(), "Objects of the Kubernetes cluster that are followed";
    cluster_objects_kept_out: Gauge = Gauge::default(), "Objects of the cluster that are not in force, since they do not read or contradict others";
    cluster_pods_without_sidecar: Gauge = Gauge::default(), "Pods of the cluster that ask for a sidecar, could have one and have none, as whoever leads knows them";
    cluster_namespace_pods_without_sidecar: Family<NamespaceLabel, Gauge> = Family::default(), "Pods of the cluster without the sidecar that they ask for, by namespace, beyond 100 namespaces under an empty name";
    cluster_events: Family<ReasonLabel, Counter> = Family::default(), "Events about injection: written, dropped since too many waited, failed";
    cluster_watch_failures: Counter = Counter::default(), "Attempts to follow a kind of object in the cluster that failed";
    cluster_tellings: Counter = Counter::default(), "Times that the cluster was told what became of an object";
    replicas: Gauge = Gauge::default(), "Control planes that stand by and follow this one";
    replica_behind_revisions: Family<ReplicaLabel, Gauge> = Family::default(), "Revisions that a control plane which stands by lacks";
    replica_behind_seconds: Family<ReplicaLabel, Gauge<f64, AtomicU64>> = Family::default(), "For how long a control plane which stands by has lacked something";
    replica_lines_behind: Gauge = Gauge::default(), "Lines of audit trails that this control plane, which stands by, lacks of the leader's";
    replica_follows: Gauge = Gauge::default(), "Whether this control plane stands by with a copy of the leader's store that is up to date";
    panics: Counter = Counter::default(), "Tasks that ended in a panic";
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// What alerts look for is there from the beginning, as nothing: the first of it could not be told from a series
    /// that is new.
    pub fn new() -> Self {
        let metrics = Self::registered();
        for ty in ResourceType::ALL {
            drop(metrics.xds_nacks.get_or_create(&TypeLabel { r#type: ty.name() }));
        }
        metrics
    }

    /// The Prometheus text form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = encode_registry(&mut text, &self.registry);
        let _ = encode_registry(&mut text, &self.process);
        let _ = encode_eof(&mut text);
        text
    }

    /// Names and help texts of all metrics, for the reference that is checked against them.
    pub fn names(&self) -> Vec<(String, String)> {
        let text = self.text();
        let help = text.lines().filter_map(|line| line.strip_prefix("# HELP "));
        let pairs = help.filter_map(|line| line.split_once(' '));
        pairs.map(|(name, help)| (name.to_owned(), help.trim_end_matches('.').to_owned())).collect()
    }
}
