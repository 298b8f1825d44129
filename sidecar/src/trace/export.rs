//! Sends the spans of one service: in batches, tried again a few times, then dropped. Where to is asked of the
//! configuration each time, so that a change of it counts for what waits already.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use weft_proto::pb::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;

use super::collector::{Collector, Error, Place, Signal};
use super::encode::{Source, encode};
use super::span::Span;
use super::{Parts, Whose, tracing_of};
use crate::metrics::ReasonLabel;

/// Spans that are sent at once.
const BATCH_SPANS_MAX: usize = 512;
/// Bytes of arguments and results that are sent at once, unless one span has more: collectors take messages of gRPC of
/// up to 4 MiB.
const BATCH_CONTENT_BYTES_MAX: usize = 2 << 20;
/// How long spans wait for company.
const LINGER: Duration = Duration::from_secs(1);
/// How long is waited before spans are sent again; so often they are.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// What sends the spans of one service.
#[derive(Debug)]
pub(super) struct Sender {
    parts: Arc<Parts>,
    whose: Whose,
    collector: Option<Collector>,
    /// Whether it was told that spans are not taken.
    is_told: bool,
}

impl Sender {
    pub(super) const fn new(parts: Arc<Parts>, whose: Whose) -> Self {
        Self { parts, whose, collector: None, is_told: false }
    }

    /// Sends until the service is gone, or all is closed.
    pub(super) async fn run(mut self, mut waiting: mpsc::Receiver<Span>) {
        let closing = self.parts.closing.clone();
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled(), if !waiting.is_closed() => waiting.close(),
                count = waiting.recv_many(&mut batch, BATCH_SPANS_MAX) => if count == 0 { return },
            }
            if batch.is_empty() {
                continue;
            }
            let filling = fill(&mut waiting, &mut batch);
            tokio::select! {
                () = filling => {}
                () = closing.cancelled() => {}
            }
            for batch in batches(&batch, Span::content_bytes) {
                Box::pin(self.send(batch)).await;
            }
            // What one burst needed is not kept for good.
            batch = Vec::new();
        }
    }

    async fn send(&mut self, batch: &[Span]) {
        let message =
            ExportTraceServiceRequest { resource_spans: vec![encode(&self.source(), batch, rand::random)] };
        let spans = batch.len() as u64;
        let mut waits = AGAIN_AFTER.iter();
        loop {
            let Some(place) = self.place() else { return self.dropped("nowhere", spans) };
            let error = match self.try_once(&place, &message).await {
                Ok(rejected) => {
                    self.dropped("rejected", rejected.min(spans));
                    self.parts.metrics.spans_sent.inc_by(spans.saturating_sub(rejected));
                    self.is_told = false;
                    return;
                }
                Err(error) => error,
            };
            // Told once, until it works again.
            if !std::mem::replace(&mut self.is_told, true) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, endpoint = %place.endpoint, "the collector does not take spans");
            }
            let again = waits.next().filter(|_| error.is_passing());
            let Some(after) = again else { return self.dropped("not_taken", spans) };
            tokio::select! {
                () = sleep(*after) => {}
                () = self.parts.closing.cancelled() => {}
            }
        }
    }

    async fn try_once(&mut self, place: &Place, message: &ExportTraceServiceRequest) -> Result<u64, Error> {
        let mut collector = match self.collector.take().filter(|collector| collector.is_to(place)) {
            Some(open) => open,
            None => Collector::connect(place).await?,
        };
        // One that failed is not used again.
        let rejected = collector.export(message).await?;
        self.collector = Some(collector);
        Ok(rejected)
    }

    fn dropped(&self, reason: &'static str, spans: u64) {
        if spans > 0 {
            self.parts.metrics.spans_dropped.get_or_create(&ReasonLabel { reason }).inc_by(spans);
        }
    }

    fn place(&self) -> Option<Place> {
        let current = self.parts.live.load();
        let tracing = tracing_of(&self.whose, self.parts.namespace.as_ref(), &current)?;
        Some(Place {
            endpoint: tracing.endpoint.clone()?,
            protocol: tracing.protocol,
            signal: Signal::Traces,
        })
    }

    /// Who the spans are of: a server by its name in the mesh, a workload that calls by its account.
    fn source(&self) -> Source {
        let node = &self.parts.node;
        let workload = self.parts.identity.leaf().and_then(|leaf| leaf.spiffe_id.workload());
        let (namespace, name) = match (&self.whose, &workload) {
            (Whose::Server(server), _) => (server.namespace.to_string(), server.to_string()),
            (Whose::Own, Some(workload)) => {
                (workload.namespace.to_string(), format!("{}/{}", workload.namespace, workload.account))
            }
            (Whose::Own, None) => (node.namespace().to_owned(), node.to_string()),
        };
        Source { name, namespace, instance: node.to_string(), workload: workload.map(|it| it.to_string()) }
    }
}

/// Cut so that no part is too large for a message, if it can be helped.
fn batches<T>(mut all: &[T], content_bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut fits = |item: &T| {
            bytes += content_bytes(item);
            bytes <= BATCH_CONTENT_BYTES_MAX
        };
        let count = all.iter().take_while(|item| fits(item)).count().max(1);
        let batch;
        (batch, all) = all.split_at_checked(count)?;
        Some(batch)
    })
}

/// Waits for more spans, for a while.
async fn fill(waiting: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) {
    let more = async {
        while batch.len() < BATCH_SPANS_MAX {
            let room = BATCH_SPANS_MAX - batch.len();
            if waiting.recv_many(batch, room).await == 0 {
                return;
            }
        }
    };
    let _ = timeout(LINGER, more).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_with_much_to_carry_are_sent_in_parts() {
        let check = |sizes: &[usize], expected: &[usize]| {
            let counts: Vec<_> = batches(sizes, |size| *size).map(<[_]>::len).collect();
            assert_eq!(counts, expected, "{sizes:?}");
        };
        const HALF: usize = BATCH_CONTENT_BYTES_MAX / 2;
        check(&[], &[]);
        check(&[0; 512], &[512]);
        check(&[HALF, HALF, 1], &[2, 1]);
        // One that is too large for any goes alone.
        check(&[1, 3 * HALF, 1, 1], &[1, 1, 2]);
    }
}
