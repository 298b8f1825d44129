//! Tells the control plane what the servers beside this sidecar offer, as far as that was read, on a stream beside that
//! of discovery and over the same connection.
//!
//! Of a server everything is told once on a stream, and then what changed: by digests, and the definitions that the
//! control plane does not have when it asks for them. Trouble here leaves the other streams alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use weft_proto::catalogue::digest::BYTES;
use weft_proto::mcp::lists::Listed;
use weft_proto::name::NodeId;
use weft_proto::pb::weft::catalog::v1::catalog_client::CatalogClient;
use weft_proto::pb::weft::catalog::v1::{self as pb, CapabilityReport, ItemKind, ReportAnswer};

use super::connect::Channel;
use crate::servers::Servers;
use crate::tools::{Item, Offering};

/// Bytes of definitions in one report, unless there is only one.
const DEFINITIONS_BYTES_MAX: usize = 1 << 20;
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 512 << 10;
/// Time for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Between looks at what changed.
const GAP: Duration = Duration::from_millis(200);
/// Time until it is tried again, at least and at most.
const AGAIN_SECS: std::ops::Range<f64> = 5.0..15.0;

/// What is told of.
#[derive(Debug)]
pub(super) struct Teller {
    pub(super) node: NodeId,
    pub(super) servers: Servers,
}

/// What was told of each server on this stream.
type Told = HashMap<Arc<str>, Arc<Offering>>;

/// What is to be told next.
struct Untold {
    server: Arc<str>,
    /// None if nothing is known of it.
    offering: Option<Arc<Offering>>,
}

/// One stream.
struct Stream<'a> {
    node: &'a NodeId,
    reports: mpsc::Sender<CapabilityReport>,
    answers: Streaming<ReportAnswer>,
    sequence: u64,
    told: Told,
}

impl Teller {
    /// Goes on until it is dropped, or the control plane turns out to have no catalogue.
    pub(super) async fn run(self, channel: Channel) {
        loop {
            let Err(status) = self.stream(channel.clone()).await else { return };
            match status.code() {
                Code::Unimplemented => {
                    tracing::info!("the control plane takes no reports of what servers offer");
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
        let mut client = CatalogClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let opening = timeout(ANSWER_TIMEOUT, client.report(ReceiverStream::new(outgoing))).await;
        let answers = opening.unwrap_or_else(|_| Err(late()))?.into_inner();
        let mut stream = Stream { node: &self.node, reports, answers, sequence: 0, told: Told::new() };
        loop {
            while let Some(untold) = self.untold(&stream.told) {
                stream.tell(untold).await?;
            }
            tokio::select! {
                changed = changes.changed() => changed.map_err(|_| Status::cancelled("stopping"))?,
                answer = stream.answers.message() => {
                    answer?.ok_or_else(|| Status::unavailable("the control plane ended the stream"))?;
                }
            }
            // Changes that come together are told together.
            sleep(GAP).await;
        }
    }

    /// A server of which something else is known than was told.
    fn untold(&self, told: &Told) -> Option<Untold> {
        let all = self.servers.all();
        let other = all.iter().find_map(|local| {
            let offering = local.tools.advertised.offering();
            let is_told = match (&offering, told.get(&local.label)) {
                (Some(now), Some(told)) => Arc::ptr_eq(now, told),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            (!is_told).then(|| Untold { server: Arc::clone(&local.label), offering })
        });
        // Of one that is not here any more nothing is known here.
        let gone = || told.keys().find(|server| !all.iter().any(|local| local.label == **server));
        other.or_else(|| Some(Untold { server: Arc::clone(gone()?), offering: None }))
    }
}

impl Stream<'_> {
    async fn tell(&mut self, untold: Untold) -> Result<(), Status> {
        let Untold { server, offering } = untold;
        let before = self.told.remove(&server);
        let Some(offering) = offering else {
            return self.ask(&server, nothing()).await.map(drop);
        };
        let mut wanted = self.ask(&server, news(&offering, before.as_deref())).await?;
        while !wanted.is_empty() {
            let batches = batches(&offering, &wanted);
            if batches.is_empty() {
                return Err(Status::internal("the control plane asks for what it was not told of"));
            }
            let mut still = Vec::new();
            for items in batches {
                let report = CapabilityReport {
                    changed: items,
                    left_out: left_out(&offering),
                    ..CapabilityReport::default()
                };
                still = self.ask(&server, report).await?;
            }
            // It has been sent everything that it asked for.
            if still == wanted {
                return Err(Status::internal("the control plane asks for the same again"));
            }
            wanted = still;
        }
        self.told.insert(server, offering);
        Ok(())
    }

    /// Sends a report. Returns the digests that are asked for.
    async fn ask(&mut self, server: &str, report: CapabilityReport) -> Result<Vec<[u8; BYTES]>, Status> {
        self.sequence += 1;
        let (server, node) = (server.to_owned(), self.node.as_str().to_owned());
        let report = CapabilityReport { server, node, sequence: self.sequence, ..report };
        self.reports.send(report).await.map_err(|_| Status::unavailable("the stream has ended"))?;
        loop {
            let answer =
                timeout(ANSWER_TIMEOUT, self.answers.message()).await.unwrap_or_else(|_| Err(late()))?;
            let answer = answer.ok_or_else(|| Status::unavailable("the control plane ended the stream"))?;
            if answer.acknowledged_sequence == self.sequence {
                let digest = |bytes: &[u8]| <[u8; BYTES]>::try_from(bytes).ok();
                return Ok(answer.wanted_digests.iter().filter_map(|bytes| digest(bytes)).collect());
            }
        }
    }
}

fn nothing() -> CapabilityReport {
    CapabilityReport { nothing: true, ..CapabilityReport::default() }
}

/// What there is, or what is another than before; without definitions.
fn news(offering: &Offering, before: Option<&Offering>) -> CapabilityReport {
    let keyed = |offering: &Offering| -> BTreeMap<(Listed, Box<str>), [u8; BYTES]> {
        let key = |item: &Arc<Item>| ((item.offered.kind, item.offered.name.clone()), item.digest);
        offering.items().iter().map(key).collect()
    };
    let known = before.map(keyed).unwrap_or_default();
    let now = keyed(offering);
    let is_news =
        |item: &&Arc<Item>| known.get(&(item.offered.kind, item.offered.name.clone())) != Some(&item.digest);
    let gone = known.keys().filter(|key| !now.contains_key(*key));
    let introduction =
        before.is_none_or(|before| before.introduced != offering.introduced).then(|| introduction(offering));
    CapabilityReport {
        full: before.is_none(),
        changed: offering.items().iter().filter(is_news).map(|item| told(item, false)).collect(),
        removed: gone.map(|(listed, name)| removed(*listed, name)).collect(),
        introduction,
        left_out: left_out(offering),
        ..CapabilityReport::default()
    }
}

fn left_out(offering: &Offering) -> u32 {
    u32::try_from(offering.left_out()).unwrap_or(u32::MAX)
}

fn introduction(offering: &Offering) -> pb::Introduction {
    let introduced = &offering.introduced;
    let text = |part: &Option<Arc<str>>| part.as_deref().unwrap_or_default().to_owned();
    pb::Introduction {
        capabilities: text(&introduced.said.capabilities),
        server_info: text(&introduced.said.server_info),
        instructions: text(&introduced.said.instructions),
        protocol_revisions: introduced.revisions.clone(),
    }
}

/// The items with these digests, with their definitions, as many at once as one report may have.
fn batches(offering: &Offering, wanted: &[[u8; BYTES]]) -> Vec<Vec<pb::Item>> {
    let wanted: HashSet<&[u8; BYTES]> = wanted.iter().collect();
    let (mut batches, mut bytes) = (Vec::<Vec<pb::Item>>::new(), usize::MAX);
    for item in offering.items().iter().filter(|item| wanted.contains(&item.digest)) {
        let with_it = bytes.saturating_add(item.offered.definition.len());
        if with_it > DEFINITIONS_BYTES_MAX {
            batches.push(Vec::new());
            bytes = item.offered.definition.len();
        } else {
            bytes = with_it;
        }
        if let Some(batch) = batches.last_mut() {
            batch.push(told(item, true));
        }
    }
    batches
}

fn told(item: &Item, with_definition: bool) -> pb::Item {
    let definition = if with_definition { item.offered.definition.as_bytes() } else { &[] };
    pb::Item {
        digest: item.digest.to_vec().into(),
        definition: definition.to_vec().into(),
        ..removed(item.offered.kind, &item.offered.name)
    }
}

fn removed(listed: Listed, name: &str) -> pb::Item {
    let kind = match listed {
        Listed::Tool => ItemKind::Tool,
        Listed::Prompt => ItemKind::Prompt,
        Listed::Resource => ItemKind::Resource,
        Listed::ResourceTemplate => ItemKind::ResourceTemplate,
    };
    pb::Item { kind: kind.into(), name: name.to_owned(), ..pb::Item::default() }
}

fn late() -> Status {
    Status::unavailable("the control plane does not answer reports")
}

#[cfg(test)]
mod tests {
    use weft_proto::catalogue;
    use weft_proto::offer::Offered;

    use super::*;

    fn offering(definitions: &[&str]) -> Offering {
        let item = |definition: &&str| {
            let offered = Offered::parse(Listed::Tool, (*definition).into()).unwrap();
            Arc::new(Item { offered, digest: catalogue::digest(definition).unwrap() })
        };
        Offering::with(definitions.iter().map(item).collect())
    }

    fn names(items: &[pb::Item]) -> Vec<&str> {
        items.iter().map(|item| item.name.as_str()).collect()
    }

    #[test]
    fn everything_is_told_once_and_then_what_changed_by_digests() {
        let before = offering(&[r#"{"name":"a"}"#, r#"{"name":"b"}"#, r#"{"name":"c"}"#]);
        let first = news(&before, None);
        assert_eq!((first.full, names(&first.changed)), (true, vec!["a", "b", "c"]));
        assert!(first.introduction.is_some() && first.changed.iter().all(|item| item.definition.is_empty()));
        let now = offering(&[r#"{"name":"a"}"#, r#"{"name":"b","x":1}"#, r#"{"name":"d"}"#]);
        let then = news(&now, Some(&before));
        assert_eq!(
            (then.full, names(&then.changed), names(&then.removed)),
            (false, vec!["b", "d"], vec!["c"])
        );
        assert_eq!(then.introduction, None);
    }

    #[test]
    fn definitions_that_are_asked_for_come_in_reports_that_are_not_too_large() {
        let large = |name: &str| format!(r#"{{"name":"{name}","x":"{}"}}"#, "x".repeat(200 << 10));
        let definitions: Vec<String> = ["a", "b", "c", "d", "e", "f", "g"].map(large).into();
        let offering = offering(&definitions.iter().map(String::as_str).collect::<Vec<_>>());
        let wanted: Vec<_> = offering.items().iter().skip(1).map(|item| item.digest).collect();
        let batches = batches(&offering, &wanted);
        assert_eq!(
            batches.iter().map(|batch| names(batch)).collect::<Vec<_>>(),
            [vec!["b", "c", "d", "e", "f"], vec!["g"]]
        );
        assert!(batches[0][0].definition.len() > 200 << 10);
    }
}
