//! Traces: one span for each call, recorded in memory while the call runs and sent to a collector afterwards.
//!
//! Whether a call is recorded is decided when it begins; what is not, costs a few bytes in a record that is there
//! anyway. Nothing here ever waits for a collector: a span that finds the queue full is dropped and counted. What is
//! pure (contexts, sampling, what a message carries) is in `weft_proto::trace`.

pub mod collector;
mod content;
mod encode;
mod export;
mod onward;
mod open;
mod span;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_certs::tls::LiveIdentity;
use weft_proto::compile::ServerEntry;
use weft_proto::name::{Namespace, NodeId, ServerName};
use weft_proto::policy;
use weft_proto::resource::kinds::{Telemetry, Tracing};

use crate::metrics::{Metrics, ReasonLabel};
use crate::state::{Current, Live};

pub(crate) use content::show;
pub use encode::{Source, resource};
pub use onward::{Onward, onward};
pub use open::{Asked, Part, Trace};
use span::Span;

/// Spans of one service that wait to be sent. More are dropped.
pub const QUEUE_SPANS_MAX: usize = 2048;

/// What everything that is traced is made with. Clones are the same.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<Parts>);

/// What a tracer is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where spans are sent from, away from the traffic.
    pub runtime: Handle,
    pub live: Live,
    pub identity: LiveIdentity,
    pub metrics: Arc<Metrics>,
    pub node: NodeId,
    /// The node's own.
    pub namespace: Option<Namespace>,
    /// What is waited for no longer: spans that are there are sent at once, or never.
    pub closing: CancellationToken,
    pub sending: TaskTracker,
}

/// Somebody whose calls are traced: a server beside this sidecar, or the agent. Clones are the same; when the last is
/// gone, what waits is sent and that is the end.
#[derive(Clone, Debug)]
pub struct Service {
    spans: mpsc::Sender<Span>,
    metrics: Arc<Metrics>,
    kind: Kind,
}

/// Which side of a call is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Server,
    Client,
}

/// Whose calls they are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    /// A server's that stands beside this sidecar.
    Server(ServerName),
    /// Those that the workload beside this sidecar makes.
    Own,
}

impl Tracer {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// One of a sidecar without configuration, which therefore traces nothing. Needs a runtime.
    pub fn idle(node: NodeId, metrics: &Arc<Metrics>) -> Self {
        Self::new(Parts {
            runtime: Handle::current(),
            live: Live::empty(),
            identity: LiveIdentity::empty(),
            metrics: Arc::clone(metrics),
            node,
            namespace: None,
            closing: CancellationToken::new(),
            sending: TaskTracker::new(),
        })
    }

    /// A server beside this sidecar, for those who call it.
    pub fn serving(&self, server: &ServerName) -> Service {
        self.service(Whose::Server(server.clone()), Kind::Server)
    }

    /// The workload beside this sidecar, as it calls others.
    pub fn calling(&self) -> Service {
        self.service(Whose::Own, Kind::Client)
    }

    fn service(&self, whose: Whose, kind: Kind) -> Service {
        let (spans, waiting) = mpsc::channel(QUEUE_SPANS_MAX);
        let sender = export::Sender::new(Arc::clone(&self.0), whose);
        self.0.sending.spawn_on(sender.run(waiting), &self.0.runtime);
        Service { spans, metrics: Arc::clone(&self.0.metrics), kind }
    }

    /// Sends what waits, and waits for that for a while.
    pub async fn close(&self, patience: Duration) {
        self.0.closing.cancel();
        self.0.sending.close();
        if tokio::time::timeout(patience, self.0.sending.wait()).await.is_err() {
            tracing::warn!("the collector took too long for the last spans");
        }
    }

    /// What the calls of the workload beside this sidecar are traced by.
    pub fn own<'c>(&'c self, current: &'c Current) -> Option<&'c Tracing> {
        tracing_of(&Whose::Own, self.0.namespace.as_ref(), current)
    }

    /// The workload beside this sidecar, as policies know it.
    pub fn caller(&self) -> Option<policy::Caller> {
        let leaf = self.0.identity.leaf()?;
        leaf.spiffe_id.workload().map(policy::Caller::new)
    }

    /// What telemetry says of those calls, the first to decide first.
    pub fn telemetry<'c>(&'c self, current: &'c Current) -> impl Iterator<Item = &'c Telemetry> + use<'c> {
        at_large(self.0.namespace.as_ref(), current)
    }
}

impl Service {
    /// Never waits.
    fn keep(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.metrics.spans_dropped.get_or_create(&ReasonLabel { reason: "queue_full" }).inc();
        }
    }
}

/// What the calls to a server are traced by: the first telemetry that speaks of traces decides.
pub fn of(entry: &ServerEntry) -> Option<&Tracing> {
    entry.telemetry.iter().find_map(|it| it.spec.tracing.as_ref())
}

fn tracing_of<'c>(whose: &Whose, own: Option<&'c Namespace>, current: &'c Current) -> Option<&'c Tracing> {
    match whose {
        Whose::Server(server) => of(current.snapshot.server(server)?),
        Whose::Own => at_large(own, current).find_map(|it| it.tracing.as_ref()),
    }
}

fn at_large<'c>(
    own: Option<&'c Namespace>,
    current: &'c Current,
) -> impl Iterator<Item = &'c Telemetry> + use<'c> {
    // Most have none, and need not ask whose it would be.
    let own = own.filter(|_| !current.snapshot.telemetry.is_empty());
    own.into_iter().flat_map(|own| current.snapshot.telemetry_at_large(own)).map(|it| &it.spec)
}
