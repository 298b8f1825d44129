//! What servers advertise, as the sidecars beside them read it: a stream of reports beside each discovery stream, and
//! the definitions that were seen lately.
//!
//! What a sidecar reports is kept with what else is known of it and goes with its connection. Nothing is decided here:
//! approving a definition is a change of a policy like any other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weft_proto::name::{Digest, NodeId, ServerName, ToolName, Workload};
use weft_proto::pb::weft::catalog::v1::catalog_server::Catalog as CatalogService;
use weft_proto::pb::weft::catalog::v1::{
    CapabilityReport, Item, ItemKind, QueryRequest, QueryResponse, ReportAnswer,
};
use weft_proto::policy::tools::Definition;

use crate::clock;
use crate::identity::{Bucket, Rate};
use crate::peer::Peer;
use crate::xds::Hub;

/// Tools in one report.
const ITEMS_MAX: usize = 4096;
/// Reports of one stream at once, and each second after.
const RATE: Rate = Rate { burst: 300.0, per_second: 5.0 };
/// An answer must be taken within this time.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of definitions of all servers beside one sidecar; beyond, only digests are kept.
const SIDECAR_BYTES_MAX: usize = 16 << 20;
/// Bytes of definitions that are remembered, whether or not they are still advertised.
const SEEN_BYTES_MAX: usize = 64 << 20;

/// What one server advertises, by the word of one sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    pub at: SystemTime,
    pub tools: BTreeMap<ToolName, Tool>,
}

impl Advertised {
    fn bytes(&self) -> usize {
        self.tools.values().filter_map(|tool| tool.definition.as_deref()).map(str::len).sum()
    }

    /// The same beside what other servers of the sidecar advertise: without definitions, if there is no room for them.
    pub(crate) fn beside<'a>(self: Arc<Self>, others: impl Iterator<Item = &'a Arc<Self>>) -> Arc<Self> {
        let others: usize = others.map(|it| it.bytes()).sum();
        if others + self.bytes() <= SIDECAR_BYTES_MAX {
            return self;
        }
        let bare = |tool: &Tool| Tool { digest: tool.digest.clone(), definition: None };
        let tools = self.tools.iter().map(|(name, tool)| (name.clone(), bare(tool)));
        Arc::new(Self { at: self.at, tools: tools.collect() })
    }
}

/// A tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    pub digest: Digest,
    /// None where there was no room for it.
    pub definition: Option<Arc<str>>,
}

/// Definitions that were advertised lately, by what they hash to. The oldest go first.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    by_digest: HashMap<Digest, Arc<str>>,
    order: VecDeque<Digest>,
    bytes: usize,
}

impl Seen {
    pub fn find(&self, digest: &Digest) -> Option<Arc<str>> {
        self.lock().by_digest.get(digest).cloned()
    }

    /// The definition, of which all who have it share one.
    fn keep(&self, digest: &Digest, definition: &str) -> Arc<str> {
        let mut seen = self.lock();
        if let Some(known) = seen.by_digest.get(digest) {
            return Arc::clone(known);
        }
        let definition: Arc<str> = definition.into();
        seen.bytes += definition.len();
        seen.by_digest.insert(digest.clone(), Arc::clone(&definition));
        seen.order.push_back(digest.clone());
        while seen.bytes > SEEN_BYTES_MAX {
            let Some(oldest) = seen.order.pop_front() else { break };
            seen.bytes -= seen.by_digest.remove(&oldest).map_or(0, |it| it.len());
        }
        definition
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a report is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Error {
    #[error("the report's node or server is none")]
    Name,
    #[error("the report is about {0}, which is not in the namespace of the certificate")]
    Foreign(ServerName),
    #[error("the report is of the node {0}, which is not in the namespace of the certificate")]
    ForeignNode(NodeId),
    #[error("the report has {0} tools; at most {ITEMS_MAX} are taken")]
    TooMany(usize),
    #[error("the digest of a tool is none, or not that of its definition")]
    Digest,
    #[error("no discovery stream of this sidecar serves {0}; reports come beside one")]
    Unknown(ServerName),
    #[error("more reports than are taken")]
    TooOften,
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Name | Error::Digest => Self::invalid_argument(text),
            Error::Foreign(_) | Error::ForeignNode(_) => Self::permission_denied(text),
            Error::TooMany(_) | Error::TooOften => Self::resource_exhausted(text),
            Error::Unknown(_) => Self::failed_precondition(text),
        }
    }
}

/// The service that takes reports.
#[derive(Clone, Debug)]
pub struct Catalog {
    hub: Arc<Hub>,
}

impl Catalog {
    pub const fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    async fn take_all(
        self,
        identity: Workload,
        mut reports: Streaming<CapabilityReport>,
        answers: mpsc::Sender<Result<ReportAnswer, Status>>,
    ) {
        let mut bucket = Bucket::new(RATE, Instant::now());
        loop {
            let report = tokio::select! {
                () = self.hub.stopping() => return,
                report = reports.next() => report,
            };
            let Some(Ok(report)) = report else { return };
            let answer = ReportAnswer {
                server: report.server.clone(),
                acknowledged_sequence: report.sequence,
                wanted_digests: Vec::new(),
            };
            let taken = match bucket.take(RATE, Instant::now()) {
                Ok(()) => self.take(&identity, &report),
                Err(_) => Err(Error::TooOften),
            };
            let is_over = taken.is_err();
            if let Err(error) = &taken {
                tracing::info!(%identity, %error, "a report of what a server advertises is not taken");
            }
            let answer = taken.map(|()| answer).map_err(Status::from);
            if !matches!(timeout(SEND_TIMEOUT, answers.send(answer)).await, Ok(Ok(()))) || is_over {
                return;
            }
        }
    }

    fn take(&self, identity: &Workload, report: &CapabilityReport) -> Result<(), Error> {
        let node = NodeId::parse(&report.node).map_err(|_| Error::Name)?;
        let server = ServerName::parse(&report.server).map_err(|_| Error::Name)?;
        if node.namespace() != identity.namespace.as_str() {
            return Err(Error::ForeignNode(node));
        }
        if server.namespace != identity.namespace {
            return Err(Error::Foreign(server));
        }
        let tools = report.full.then(|| read(&report.changed, self.hub.seen())).transpose()?;
        let tools = tools.map(|tools| Arc::new(Advertised { at: clock::now(), tools }));
        let known = self.hub.advertise(&identity.id(), &node, server.clone(), tools);
        known.ok_or(Error::Unknown(server))
    }
}

/// The tools of a report. One whose name no policy could have is left out: it cannot be approved.
fn read(items: &[Item], seen: &Seen) -> Result<BTreeMap<ToolName, Tool>, Error> {
    if items.len() > ITEMS_MAX {
        return Err(Error::TooMany(items.len()));
    }
    let mut tools = BTreeMap::new();
    for item in items.iter().filter(|item| item.kind() == ItemKind::Tool) {
        let Ok(name) = ToolName::parse(&item.name) else { continue };
        let hex: String = item.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = Digest::parse(&format!("sha256:{hex}")).map_err(|_| Error::Digest)?;
        let definition = match item.definition.is_empty() {
            true => None,
            false => {
                let text = std::str::from_utf8(&item.definition).map_err(|_| Error::Digest)?;
                let read = Definition::read(text).map_err(|_| Error::Digest)?;
                // Whatever people approve by looking at it is what they looked at.
                if read.digest() != digest || read.name != item.name {
                    return Err(Error::Digest);
                }
                Some(seen.keep(&digest, text))
            }
        };
        tools.insert(name, Tool { digest, definition });
    }
    Ok(tools)
}

#[tonic::async_trait]
impl CatalogService for Catalog {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<ReportAnswer, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<CapabilityReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let peer = Peer::of(&request)?;
        let identity = peer
            .workload()
            .ok_or_else(|| Status::unauthenticated("a client certificate of a workload is needed"))?;
        if identity.trust_domain != self.hub.trust_domain() {
            return Err(Status::permission_denied("the certificate's trust domain is not this mesh's"));
        }
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(self.clone().take_all(identity, request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    /// Operators ask over the API.
    async fn query(&self, _: Request<QueryRequest>) -> Result<Response<QueryResponse>, Status> {
        Err(Status::unimplemented("the catalogue is asked over the operator API"))
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::policy::tools::digest;

    use super::*;

    fn item(name: &str, definition: &str) -> Item {
        let digest = digest(&format!("{{\"name\":\"{name}\"}}")).unwrap();
        let bytes = digest.hex().as_bytes().chunks(2);
        let bytes = bytes.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
        Item {
            kind: ItemKind::Tool.into(),
            name: name.to_owned(),
            digest: bytes.collect::<Vec<_>>().into(),
            definition: definition.to_owned().into(),
        }
    }

    #[test]
    fn a_definition_is_taken_only_with_its_own_digest_and_name() {
        let seen = Seen::default();
        let tools = read(&[item("a", "{\"name\":\"a\"}"), item("b", "")], &seen).unwrap();
        let a = &tools[&"a".parse::<ToolName>().unwrap()];
        assert_eq!(seen.find(&a.digest).as_deref(), Some("{\"name\":\"a\"}"));
        assert_eq!(tools[&"b".parse::<ToolName>().unwrap()].definition, None);
        for wrong in
            [item("a", "{\"name\":\"b\"}"), item("a", "{\"name\":\"a\",\"title\":\"x\"}"), item("a", "{")]
        {
            assert_eq!(read(&[wrong], &seen), Err(Error::Digest));
        }
        let short = Item { digest: vec![1].into(), ..item("a", "") };
        assert_eq!(read(&[short], &seen), Err(Error::Digest));
        assert!(read(&vec![item("a", ""); ITEMS_MAX + 1], &seen).is_err());
    }

    #[test]
    fn definitions_that_are_remembered_are_bounded() {
        let seen = Seen::default();
        let digest = |n: u8| Digest::parse(&format!("sha256:{}", format!("{n:02x}").repeat(32))).unwrap();
        let large = "x".repeat(SEEN_BYTES_MAX / 2);
        for n in 0..3 {
            seen.keep(&digest(n), &large);
        }
        assert_eq!([0, 1, 2].map(|n| seen.find(&digest(n)).is_some()), [false, true, true]);
    }
}
