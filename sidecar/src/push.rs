//! Sends the metrics to a collector over OTLP, now and then, where the file of the sidecar says so: the same that
//! Prometheus is shown. What is sent are sums since the start, so an export that fails loses nothing but its moment: the
//! next one has it all, and nothing waits.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use weft_certs::tls::LiveIdentity;
use weft_proto::name::{CollectorUrl, NodeId};
use weft_proto::pb::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use weft_proto::pb::opentelemetry::proto::common::v1::InstrumentationScope;
use weft_proto::pb::opentelemetry::proto::metrics::v1::{ResourceMetrics, ScopeMetrics};
use weft_proto::resource::kinds::OtlpProtocol;
use weft_proto::resource::units::Span;

use crate::admin::Shown;
use crate::clock;
use crate::metrics::{Metrics, ReasonLabel, otlp};
use crate::trace::collector::{Collector, Error, Place, Signal};
use crate::trace::{Source, resource};

/// Shortest time between exports.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// Time for the last export.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Where metrics are sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    pub endpoint: CollectorUrl,
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// Time between exports.
    #[serde(default = "every")]
    pub every: Span,
}

fn every() -> Span {
    Span::from_secs(60)
}

/// What metrics are sent with.
pub struct Parts {
    pub settings: Settings,
    pub node: NodeId,
    pub identity: LiveIdentity,
    pub metrics: Arc<Metrics>,
    /// Who has the metrics as Prometheus is shown them.
    pub shown: Arc<dyn Shown>,
    pub stop: CancellationToken,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Sends until the end, and then once more.
pub async fn run(parts: Parts) {
    let mut pusher = Pusher { started: clock::now(), parts, collector: None, is_told: false };
    let every = pusher.parts.settings.every.duration().max(EVERY_MIN);
    loop {
        let stopped = timeout(every, pusher.parts.stop.cancelled()).await.is_ok();
        let patience = if stopped { LAST_PATIENCE } else { every };
        pusher.send(patience).await;
        if stopped {
            return;
        }
    }
}

struct Pusher {
    parts: Parts,
    started: SystemTime,
    collector: Option<Collector>,
    /// Whether it was told that metrics are not taken.
    is_told: bool,
}

impl Pusher {
    async fn send(&mut self, patience: Duration) {
        let sending = Box::pin(self.try_once());
        let sent = timeout(patience, sending).await.unwrap_or(Err(Error::Timeout(patience)));
        let reason = match sent {
            Ok(0) => "sent",
            Ok(_) => "rejected",
            Err(error) => {
                // Told once, until it works again.
                if !std::mem::replace(&mut self.is_told, true) {
                    let error = &error as &dyn std::error::Error;
                    let endpoint = &self.parts.settings.endpoint;
                    tracing::warn!(error, %endpoint, "the collector does not take metrics");
                }
                self.collector = None;
                "not_taken"
            }
        };
        if reason != "not_taken" {
            self.is_told = false;
        }
        self.parts.metrics.metrics_exports.get_or_create(&ReasonLabel { reason }).inc();
    }

    async fn try_once(&mut self) -> Result<u64, Error> {
        let Settings { endpoint, protocol, .. } = &self.parts.settings;
        let place = Place { endpoint: endpoint.clone(), protocol: *protocol, signal: Signal::Metrics };
        let mut collector = match self.collector.take().filter(|collector| collector.is_to(&place)) {
            Some(open) => open,
            None => Collector::connect(&place).await?,
        };
        // One that failed is not used again.
        let rejected = collector.export(&self.message()).await?;
        self.collector = Some(collector);
        Ok(rejected)
    }

    fn message(&self) -> ExportMetricsServiceRequest {
        let Parts { node, identity, shown, .. } = &self.parts;
        let workload = identity.leaf().and_then(|leaf| leaf.spiffe_id.workload());
        let source = Source {
            name: "weft-sidecar".to_owned(),
            namespace: node.namespace().to_owned(),
            instance: node.to_string(),
            workload: workload.map(|it| it.to_string()),
        };
        let span = otlp::Span { start: nanos(self.started), now: nanos(clock::now()) };
        let scope =
            InstrumentationScope { name: "weft".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let metrics = ScopeMetrics { scope: Some(scope), metrics: otlp::metrics(&shown.metrics(), span) };
        let of_this = ResourceMetrics { resource: Some(resource(&source)), scope_metrics: vec![metrics] };
        ExportMetricsServiceRequest { resource_metrics: vec![of_this] }
    }
}

fn nanos(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}
