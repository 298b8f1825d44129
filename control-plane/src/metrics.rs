//! What the control plane counts, in one place. Labels take few values by construction: types, outcomes, reasons.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

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

/// Every metric of the control plane.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub xds_clients: Gauge,
    pub xds_streams_refused: Family<ReasonLabel, Counter>,
    pub xds_streams_ended: Family<ReasonLabel, Counter>,
    pub xds_responses: Family<TypeLabel, Counter>,
    pub xds_response_bytes: Family<TypeLabel, Counter>,
    pub xds_acks: Family<TypeLabel, Counter>,
    pub xds_nacks: Family<TypeLabel, Counter>,
    pub xds_stale_nonces: Family<TypeLabel, Counter>,
    pub xds_unknown_types: Counter,
    pub xds_push_seconds: Histogram,
    pub xds_convergence_seconds: Histogram,
    pub plan_seconds: Histogram,
    pub plan_changes: Counter,
    pub plan_revision: Gauge,
    pub resources: Family<TypeLabel, Gauge>,
    pub certificates_issued: Counter,
    pub certificates_refused: Family<ReasonLabel, Counter>,
    pub certificate_queue: Gauge,
    pub certificate_seconds: Histogram,
    pub issuer_expiry_seconds: Gauge,
    pub trust_roots: Gauge,
    pub api_requests: Family<ApiLabels, Counter>,
    pub api_seconds: Histogram,
    pub handshakes_failed: Family<ReasonLabel, Counter>,
    pub connections: Gauge,
    pub store_revision: Gauge,
    pub panics: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("weft");
        let latency = || Histogram::new(exponential_buckets(0.000_25, 2.0, 18));
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        Self {
            xds_clients: register!("xds_clients", "Sidecars connected", Gauge::default()),
            xds_streams_refused: register!("xds_streams_refused", "Streams refused", Family::default()),
            xds_streams_ended: register!("xds_streams_ended", "Streams ended", Family::default()),
            xds_responses: register!("xds_responses", "Responses sent", Family::default()),
            xds_response_bytes: register!("xds_response_bytes", "Bytes of resources sent", Family::default()),
            xds_acks: register!("xds_acks", "Responses acknowledged", Family::default()),
            xds_nacks: register!("xds_nacks", "Responses rejected by a sidecar", Family::default()),
            xds_stale_nonces: register!(
                "xds_stale_nonces",
                "Answers to nothing outstanding",
                Family::default()
            ),
            xds_unknown_types: register!(
                "xds_unknown_types",
                "Requests for unknown types",
                Counter::default()
            ),
            xds_push_seconds: register!(
                "xds_push_seconds",
                "From change to response, per sidecar",
                latency()
            ),
            xds_convergence_seconds: register!(
                "xds_convergence_seconds",
                "From response to answer",
                latency()
            ),
            plan_seconds: register!("plan_seconds", "Time to plan one batch of changes", latency()),
            plan_changes: register!("plan_changes", "Changes planned", Counter::default()),
            plan_revision: register!("plan_revision", "Revision that is published", Gauge::default()),
            resources: register!("resources", "Resources published, by type", Family::default()),
            certificates_issued: register!("certificates_issued", "Certificates issued", Counter::default()),
            certificates_refused: register!("certificates_refused", "Requests refused", Family::default()),
            certificate_queue: register!("certificate_queue", "Signing requests waiting", Gauge::default()),
            certificate_seconds: register!(
                "certificate_seconds",
                "Time to answer a signing request",
                latency()
            ),
            issuer_expiry_seconds: register!(
                "issuer_expiry_timestamp_seconds",
                "When the issuing certificate expires",
                Gauge::default()
            ),
            trust_roots: register!(
                "trust_roots",
                "Roots of this trust domain that are trusted",
                Gauge::default()
            ),
            api_requests: register!("api_requests", "Operator requests", Family::default()),
            api_seconds: register!("api_seconds", "Time to answer an operator request", latency()),
            handshakes_failed: register!(
                "handshakes_failed",
                "TLS handshakes that failed",
                Family::default()
            ),
            connections: register!("connections", "Connections from sidecars", Gauge::default()),
            store_revision: register!("store_revision", "Last revision of the store", Gauge::default()),
            panics: register!("panics", "Tasks that ended in a panic", Counter::default()),
            registry,
        }
    }

    /// The Prometheus text form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = encode(&mut text, &self.registry);
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
