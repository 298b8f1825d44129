//! Tells the control plane what the servers beside this sidecar advertise, as far as that was read, on a stream beside
//! that of discovery and over the same connection.
//!
//! A server is told of in one report whenever its definitions are others than before. Trouble here leaves the other
//! streams alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use weft_proto::name::NodeId;
use weft_proto::pb::weft::catalog::v1::catalog_client::CatalogClient;
use weft_proto::pb::weft::catalog::v1::{CapabilityReport, Item, ItemKind, ReportAnswer};

use super::connect::Channel;
use crate::servers::Servers;
use crate::tools::{Known, Tool};

/// Tools in one report; more are not told.
const ITEMS_MAX: usize = 4096;
/// Bytes of definitions in one report. The others are told by their digests.
const DEFINITIONS_BYTES_MAX: usize = 3 << 20;
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Time for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Between looks at what changed.
const GAP: Duration = Duration::from_secs(1);
/// Time until it is tried again, at least and at most.
const AGAIN_SECS: std::ops::Range<f64> = 5.0..15.0;

/// What is told of.
#[derive(Debug)]
pub(super) struct Teller {
    pub(super) node: NodeId,
    pub(super) servers: Servers,
}

/// What was told of each server.
type Told = HashMap<Arc<str>, Arc<Known>>;

impl Teller {
    /// Goes on until it is dropped, or the control plane turns out to have no catalogue.
    pub(super) async fn run(self, channel: Channel) {
        loop {
            let Err(status) = self.stream(channel.clone()).await else { return };
            match status.code() {
                Code::Unimplemented => {
                    tracing::info!("the control plane takes no reports of what servers advertise");
                    return;
                }
                code => tracing::debug!(error = status.message(), ?code, "stream to the catalogue ended"),
            }
            let again = rand::rng().random_range(AGAIN_SECS);
            sleep(Duration::from_secs_f64(again)).await;
        }
    }

    async fn stream(&self, channel: Channel) -> Result<(), Status> {
        let mut changes = self.servers.changes();
        let (reports, outgoing) = mpsc::channel(1);
        let (mut told, mut sequence) = (Told::new(), 0);
        let mut client = CatalogClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let opening = timeout(ANSWER_TIMEOUT, client.report(ReceiverStream::new(outgoing))).await;
        let mut answers = opening.unwrap_or_else(|_| Err(late()))?.into_inner();
        loop {
            while let Some((server, known)) = self.untold(&told) {
                sequence += 1;
                let report = report(&self.node, &server, known.as_deref(), sequence);
                reports.send(report).await.map_err(|_| Status::unavailable("the stream has ended"))?;
                while answered(&mut answers).await? != sequence {}
                match known {
                    Some(known) => _ = told.insert(server, known),
                    None => _ = told.remove(&server),
                }
            }
            tokio::select! {
                changed = changes.changed() => changed.map_err(|_| Status::cancelled("stopping"))?,
                answer = answers.message() => {
                    answer?.ok_or_else(|| Status::unavailable("the control plane ended the stream"))?;
                }
            }
            // Changes that come together are told together.
            sleep(GAP).await;
        }
    }

    /// A server of which something else is known than was told; none known if that is what is to be told.
    fn untold(&self, told: &Told) -> Option<(Arc<str>, Option<Arc<Known>>)> {
        // One that is not here any more is not served here either, and what was told of it went with that.
        self.servers.all().iter().find_map(|local| {
            let known = local.tools.advertised.now();
            let is_told = match (&known, told.get(&local.label)) {
                (Some(known), Some(told)) => Arc::ptr_eq(known, told),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            (!is_told).then(|| (Arc::clone(&local.label), known))
        })
    }
}

fn report(node: &NodeId, server: &str, known: Option<&Known>, sequence: u64) -> CapabilityReport {
    let mut room = DEFINITIONS_BYTES_MAX;
    let tools = known.map(Known::tools).unwrap_or_default();
    let items = tools.into_iter().filter_map(|tool| item(tool, &mut room));
    CapabilityReport {
        server: server.to_owned(),
        sequence,
        full: known.is_some(),
        changed: items.take(ITEMS_MAX).collect(),
        node: node.as_str().to_owned(),
        ..CapabilityReport::default()
    }
}

/// A tool; one that is advertised twice is none that could be approved.
fn item(tool: &Tool, room: &mut usize) -> Option<Item> {
    let hex = tool.digest.as_ref()?.hex().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let digest: Vec<u8> = hex.chunks(2).map(byte).collect::<Option<_>>()?;
    let definition = match room.checked_sub(tool.raw.len()) {
        Some(left) => {
            *room = left;
            tool.raw.as_bytes().to_vec()
        }
        None => Vec::new(),
    };
    Some(Item {
        kind: ItemKind::Tool.into(),
        name: tool.name.clone(),
        digest: digest.into(),
        definition: definition.into(),
    })
}

/// The number of the next answer, within the time for one.
async fn answered(answers: &mut Streaming<ReportAnswer>) -> Result<u64, Status> {
    let answer = timeout(ANSWER_TIMEOUT, answers.message()).await.unwrap_or_else(|_| Err(late()))?;
    let answer = answer.ok_or_else(|| Status::unavailable("the control plane ended the stream"))?;
    Ok(answer.acknowledged_sequence)
}

fn late() -> Status {
    Status::unavailable("the control plane does not answer reports")
}
