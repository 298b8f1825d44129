//! Takes the streams of reports that stand beside discovery streams.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use weft_proto::name::{NodeId, ServerName, Workload};
use weft_proto::pb::weft::catalog::v1::catalog_server::Catalog as CatalogService;
use weft_proto::pb::weft::catalog::v1::{CapabilityReport, QueryRequest, QueryResponse, ReportAnswer};

use super::aggregate::Place;
use super::report::{self, Digest, Error, Told};
use super::{Advertised, Catalogue};
use crate::clock;
use crate::identity::{Bucket, Rate};
use crate::peer::Peer;
use crate::xds::Hub;

/// Reports of one stream at once, and each second after. A server takes two to begin with.
const RATE: Rate = Rate { burst: 1000.0, per_second: 10.0 };
/// An answer must be taken within this time.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Name
            | Error::Kind
            | Error::Digest
            | Error::Revisions
            | Error::Introduction(_)
            | Error::Offer(_)
            | Error::NoBeginning(_) => Self::invalid_argument(text),
            Error::Foreign(_) | Error::ForeignNode(_) => Self::permission_denied(text),
            Error::TooMany | Error::TooOften => Self::resource_exhausted(text),
            Error::Unknown(_) => Self::failed_precondition(text),
        }
    }
}

/// The service that takes reports.
#[derive(Clone, Debug)]
pub struct Catalog {
    hub: Arc<Hub>,
    catalogue: Arc<Catalogue>,
}

/// One stream of reports. What it told of goes with it.
struct Teller {
    of: Catalog,
    identity: Workload,
    stream: u64,
    /// The sidecar, once it said who it is.
    place: Option<Place>,
    /// Ends with the discovery stream that the reports stand beside.
    beside: CancellationToken,
    told: BTreeSet<ServerName>,
}

type Answers = mpsc::Sender<Result<ReportAnswer, Status>>;

impl Catalog {
    pub const fn new(hub: Arc<Hub>, catalogue: Arc<Catalogue>) -> Self {
        Self { hub, catalogue }
    }
}

impl Teller {
    async fn run(mut self, mut reports: Streaming<CapabilityReport>, answers: Answers) {
        let mut bucket = Bucket::new(RATE, Instant::now());
        loop {
            let report = tokio::select! {
                () = self.of.hub.stopping() => return,
                () = self.beside.cancelled() => return,
                report = reports.next() => report,
            };
            let Some(Ok(report)) = report else { return };
            let taken = match bucket.take(RATE, Instant::now()) {
                Ok(()) => self.take(&report),
                Err(_) => Err(Error::TooOften),
            };
            let is_over = taken.is_err();
            if let Err(error) = &taken {
                tracing::info!(identity = %self.identity, %error, "a report of what a server offers is not taken");
            }
            let answer = |wanted: Vec<Digest>| ReportAnswer {
                server: report.server.clone(),
                acknowledged_sequence: report.sequence,
                wanted_digests: wanted.into_iter().map(|digest| digest.to_vec().into()).collect(),
            };
            let answer = taken.map(answer).map_err(Status::from);
            if !matches!(timeout(SEND_TIMEOUT, answers.send(answer)).await, Ok(Ok(()))) || is_over {
                return;
            }
        }
    }

    fn take(&mut self, report: &CapabilityReport) -> Result<Vec<Digest>, Error> {
        let (node, server) = report::about(&self.identity, report)?;
        let told = report::read(report)?;
        let (place, catalogue) = (self.place(node)?, Arc::clone(&self.of.catalogue));
        let now = clock::now();
        if told == Told::Nothing {
            self.told.remove(&server);
            // The sidecar may not stand beside it any more.
            _ = self.of.hub.advertise(&place.0, &place.1, server.clone(), None);
            return catalogue.take((&place, self.stream), &server, told, now);
        }
        let beside = self.of.hub.beside(&place.0, &place.1, &server);
        self.beside = beside.ok_or_else(|| Error::Unknown(server.clone()))?;
        self.told.insert(server.clone());
        let wanted = catalogue.take((&place, self.stream), &server, told, now)?;
        if let Some(offer) = catalogue.read_by(&place, &server).filter(|_| wanted.is_empty()) {
            let tools = Arc::new(Advertised::of(&offer, now, self.of.hub.seen()));
            _ = self.of.hub.advertise(&place.0, &place.1, server, Some(tools));
        }
        Ok(wanted)
    }

    /// A stream is one sidecar's.
    fn place(&mut self, node: NodeId) -> Result<Place, Error> {
        let place = self.place.get_or_insert_with(|| (self.identity.id(), node.clone()));
        if place.1 == node { Ok(place.clone()) } else { Err(Error::ForeignNode(node)) }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            self.of.catalogue.leave((place, self.stream), &self.told, clock::now());
        }
    }
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
        let teller = Teller {
            of: self.clone(),
            identity,
            stream: self.catalogue.stream(),
            place: None,
            beside: CancellationToken::new(),
            told: BTreeSet::new(),
        };
        tokio::spawn(teller.run(request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    /// Operators ask over the API.
    async fn query(&self, _: Request<QueryRequest>) -> Result<Response<QueryResponse>, Status> {
        Err(Status::unimplemented("the catalogue is asked over the operator API"))
    }
}
