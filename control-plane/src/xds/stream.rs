//! One client's stream, from its first request to its end.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt};
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use weft_proto::name::ServerName;
use weft_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use weft_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use weft_proto::wire::ResourceType;

use super::hub::{Client, Hub, lock};
use super::node::{self, Admitted};
use super::session::{self, Heard, Outgoing, Session, View};
use super::status::{ClientStatus, NackStatus};
use crate::clock;
use crate::metrics::{ReasonLabel, TypeLabel};
use crate::peer::Peer;
use crate::plan::Instance;

/// Responses that wait for the connection to take them.
const OUTGOING_MAX: usize = 1;
/// Requests answered in a row before changes get their turn, and the other way round.
const REQUESTS_PER_PUSH: u32 = 2;

/// The discovery service.
#[derive(Clone, Debug)]
pub struct Discovery {
    hub: Arc<Hub>,
}

impl Discovery {
    pub const fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(
            "this control plane speaks the delta variant: call DeltaAggregatedResources",
        ))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        if !self.hub.is_ready() {
            // An empty world would be an outage for whoever believed it.
            return Err(
                self.refuse("not_ready", Status::unavailable("the control plane is still reading its store"))
            );
        }
        let peer = Peer::of(&request)?;
        let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
        let stream = ClientStream { hub: Arc::clone(&self.hub), peer, sender };
        tokio::spawn(stream.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Discovery {
    fn refuse(&self, reason: &'static str, status: Status) -> Status {
        self.hub.metrics.xds_streams_refused.get_or_create(&ReasonLabel { reason }).inc();
        status
    }
}

/// Why a stream ended, for the client and for the metric.
struct End {
    reason: &'static str,
    status: Option<Status>,
}

impl End {
    fn quietly(reason: &'static str) -> Self {
        Self { reason, status: None }
    }

    fn with(reason: &'static str, status: Status) -> Self {
        Self { reason, status: Some(status) }
    }
}

struct ClientStream {
    hub: Arc<Hub>,
    peer: Peer,
    sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl ClientStream {
    async fn run(self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let end = match self.admit(&mut requests).await {
            Ok((first, admitted)) => self.serve(first, admitted, requests).await,
            Err(end) => {
                self.hub.metrics.xds_streams_refused.get_or_create(&ReasonLabel { reason: end.reason }).inc();
                tracing::info!(peer.address = %self.peer.address, reason = end.reason,
                    error = end.status.as_ref().map(Status::message), "xds stream refused");
                end
            }
        };
        self.hub.metrics.xds_streams_ended.get_or_create(&ReasonLabel { reason: end.reason }).inc();
        if let Some(status) = end.status {
            let _ = timeout(self.hub.settings.send_timeout, self.sender.send(Err(status))).await;
        }
    }

    /// Waits for the first request and checks who sends it.
    async fn admit(
        &self,
        requests: &mut Streaming<DeltaDiscoveryRequest>,
    ) -> Result<(DeltaDiscoveryRequest, Admitted), End> {
        let identity = self.peer.workload().ok_or_else(|| {
            End::with("no_identity", Status::unauthenticated("a client certificate of a workload is needed"))
        })?;
        let first = match timeout(self.hub.settings.first_request_timeout, requests.next()).await {
            Ok(Some(Ok(first))) => first,
            Ok(Some(Err(status))) => return Err(broken_off(status)),
            Ok(None) => return Err(End::quietly("closed")),
            Err(_) => return Err(End::with("silent", Status::deadline_exceeded("no request came in time"))),
        };
        let mesh = self.hub.world().trust_domain().clone();
        let admitted = node::admit(first.node.as_ref(), &identity, &mesh).map_err(|error| {
            let (reason, code) = match &error {
                node::Error::Namespace { .. } | node::Error::TrustDomain { .. } => {
                    ("denied", Code::PermissionDenied)
                }
                node::Error::NoNode | node::Error::Id(_) | node::Error::Metadata { .. } => {
                    ("malformed", Code::InvalidArgument)
                }
            };
            End::with(reason, Status::new(code, error.to_string()))
        })?;
        Ok((first, admitted))
    }

    async fn serve(
        &self,
        first: DeltaDiscoveryRequest,
        admitted: Admitted,
        requests: Streaming<DeltaDiscoveryRequest>,
    ) -> End {
        let status = self.first_status(&admitted);
        let identity = status.identity.clone();
        let Admitted { viewer, address, locality, .. } = admitted;
        let node = viewer.node.clone();
        let inbound = viewer.stances.inbound;
        let instance = address.filter(|_| inbound).map(|address| Instance {
            node: viewer.node.clone(),
            address,
            identity: identity.clone(),
            locality,
        });
        let Some(client) = self.hub.register(viewer, instance, status) else {
            let status = Status::resource_exhausted(
                "this control plane has as many clients, or as many of this identity, as it takes",
            );
            return End::with("too_many", status);
        };
        tracing::info!(%node, %identity, peer.address = %self.peer.address, "sidecar connected");
        let mut connection = Connection::new(self, Arc::clone(&client));
        let run = AssertUnwindSafe(connection.run(first, requests)).catch_unwind();
        let end = run.await.unwrap_or_else(|_| {
            self.hub.metrics.panics.inc();
            tracing::error!(%node, %identity, "a stream ended in a panic");
            End::with("panic", Status::internal("the stream could not be served"))
        });
        self.hub.unregister(&client, &connection.served);
        tracing::info!(%node, %identity, reason = end.reason, "sidecar disconnected");
        end
    }

    fn first_status(&self, admitted: &Admitted) -> ClientStatus {
        let leaf = self.peer.leaf.as_ref();
        let now = clock::now();
        ClientStatus {
            node: admitted.viewer.node.clone(),
            identity: admitted.viewer.identity.id(),
            version: admitted.version.clone(),
            peer: self.peer.address.to_string(),
            connected: true,
            connected_at: now,
            disconnected_at: None,
            serves: Vec::new(),
            seen_revision: 0,
            told_revision: 0,
            types: Default::default(),
            certificate_serial: leaf.map(|leaf| leaf.serial.as_str().to_owned()).unwrap_or_default(),
            certificate_expires: leaf.map_or(now, |leaf| leaf.not_after),
            certificate_root: self.peer.root.to_string(),
            trust_bundle: None,
            report: None,
            tools: Default::default(),
        }
    }
}

/// The loop of one connected client.
struct Connection<'a> {
    stream: &'a ClientStream,
    client: Arc<Client>,
    session: Session,
    served: Vec<ServerName>,
    /// Whether the hub knows that this client asks for things by name.
    hears_of_all: bool,
    /// When the oldest response that is not answered yet was sent, by type.
    unanswered_since: [Option<Instant>; ResourceType::ALL.len()],
}

impl<'a> Connection<'a> {
    fn new(stream: &'a ClientStream, client: Arc<Client>) -> Self {
        let hub = &stream.hub;
        let session = {
            let world = hub.world();
            Session::new(Arc::clone(&hub.settings.identifier), View { world: &world, viewer: &client.viewer })
        };
        let mut connection = Self {
            stream,
            client,
            session,
            served: Vec::new(),
            hears_of_all: false,
            unanswered_since: Default::default(),
        };
        // Even that it serves nothing is news: an older stream may have said otherwise.
        connection.served = connection.session.served().to_vec();
        hub.serves(&connection.client, &[], &connection.served);
        connection
    }

    async fn run(
        &mut self,
        first: DeltaDiscoveryRequest,
        mut requests: Streaming<DeltaDiscoveryRequest>,
    ) -> End {
        let hub = Arc::clone(&self.stream.hub);
        let client = Arc::clone(&self.client);
        let age = jittered(hub.settings.age_max);
        let ends = Instant::now() + age;
        if let Err(end) = self.request(first).await {
            return end;
        }
        let mut in_a_row = 0;
        loop {
            let answer_due = self.answer_due();
            tokio::select! {
                biased;
                () = client.replaced.cancelled() => {
                    return End::with("replaced", Status::aborted("a newer stream of this client took over"));
                }
                () = hub.shutdown.cancelled() => return End::quietly("shutdown"),
                // Requests come first, but not so long that changes starve.
                request = requests.next(), if in_a_row < REQUESTS_PER_PUSH => {
                    in_a_row += 1;
                    let result = match request {
                        Some(Ok(request)) => self.request(request).await,
                        Some(Err(status)) => Err(broken_off(status)),
                        None => Err(End::quietly("closed")),
                    };
                    if let Err(end) = result {
                        return end;
                    }
                }
                () = client.wake.notified() => {
                    in_a_row = 0;
                    if let Err(end) = self.push().await {
                        return end;
                    }
                }
                () = sleep_until(ends) => return End::quietly("age"),
                () = sleep_until(answer_due) => {
                    return End::with("unanswered", Status::deadline_exceeded("a response was not answered in time"));
                }
                () = std::future::ready(()), if in_a_row >= REQUESTS_PER_PUSH => in_a_row = 0,
            }
        }
    }

    async fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<(), End> {
        let (result, revision) = {
            let world = self.stream.hub.world();
            let view = View { world: &world, viewer: &self.client.viewer };
            (self.session.request(request, view), world.revision())
        };
        let (heard, outgoing) = result.map_err(|error| {
            let code = match &error {
                session::Error::TooManyNames(_)
                | session::Error::TooManySubscriptions
                | session::Error::TooManyBrought(_)
                | session::Error::TooManyUnknownTypes => Code::ResourceExhausted,
                session::Error::NoType
                | session::Error::LongName(_)
                | session::Error::EmptyName
                | session::Error::Locators => Code::InvalidArgument,
            };
            tracing::warn!(node = %self.client.viewer.node, %error, "request refused");
            End::with("malformed", Status::new(code, error.to_string()))
        })?;
        self.heard(heard);
        self.note_denied(&outgoing);
        // Only what was asked for was looked at: what else changed is still to be compared, but for a new client.
        let seen = lock(&self.client.status).seen_revision;
        self.send(outgoing, revision, if seen == 0 { revision } else { seen }).await?;
        if self.session.names_any() && !self.hears_of_all {
            self.hears_of_all = true;
            self.stream.hub.hears_of_all(&self.client);
            // A change that came in between would not have woken this client.
            self.compare_everything().await?;
        }
        Ok(())
    }

    fn note_denied(&self, outgoing: &[Outgoing]) {
        let mut denied = outgoing.iter().flat_map(Outgoing::denied).peekable();
        if let Some(first) = denied.peek().copied() {
            let count = denied.count();
            tracing::warn!(node = %self.client.viewer.node, identity = %self.client.viewer.identity, resource = first,
                count, "subscription denied");
        }
    }

    async fn compare_everything(&mut self) -> Result<(), End> {
        let (outgoing, revision) = {
            let world = self.stream.hub.world();
            let outgoing = self.session.resync(View { world: &world, viewer: &self.client.viewer });
            (outgoing, world.revision())
        };
        self.send(outgoing, revision, revision).await
    }

    async fn push(&mut self) -> Result<(), End> {
        let pending = self.client.take_pending();
        let (outgoing, revision) = {
            let world = self.stream.hub.world();
            let view = View { world: &world, viewer: &self.client.viewer };
            let outgoing = match pending.resync {
                true => self.session.resync(view),
                false => self.session.changed(pending.batches.iter().flat_map(|batch| batch.iter()), view),
            };
            (outgoing, world.revision())
        };
        if let Some(since) = pending.since {
            self.stream.hub.metrics.xds_push_seconds.observe(since.elapsed().as_secs_f64());
        }
        self.send(outgoing, revision, revision).await?;
        if self.note_served() {
            // A change that came between the comparison and the note would not have woken this client.
            self.compare_everything().await?;
        }
        Ok(())
    }

    /// Tells the hub which servers the client stands beside, if that changed.
    fn note_served(&mut self) -> bool {
        if self.session.served() == self.served {
            return false;
        }
        let now = self.session.served().to_vec();
        self.stream.hub.serves(&self.client, &self.served, &now);
        self.served = now;
        true
    }

    /// Sends what a look at the mesh at a revision came to. Everything was compared up to `seen`.
    async fn send(&mut self, outgoing: Vec<Outgoing>, revision: u64, seen: u64) -> Result<(), End> {
        self.note_sent(&outgoing, revision, seen);
        let metrics = &self.stream.hub.metrics;
        for response in outgoing {
            let label = TypeLabel { r#type: response.ty.map_or("unknown", ResourceType::name) };
            let bytes = response.resource_bytes();
            let message = response.into_message();
            metrics.xds_responses.get_or_create(&label).inc();
            metrics.xds_response_bytes.get_or_create(&label).inc_by(bytes as u64);
            match timeout(self.stream.hub.settings.send_timeout, self.stream.sender.send(Ok(message))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(End::quietly("closed")),
                Err(_) => {
                    tracing::warn!(node = %self.client.viewer.node, "sidecar does not take its configuration");
                    return Err(End::with(
                        "slow",
                        Status::deadline_exceeded("a response was not taken in time"),
                    ));
                }
            }
        }
        Ok(())
    }

    fn note_sent(&mut self, outgoing: &[Outgoing], revision: u64, seen: u64) {
        let now = clock::now();
        let mut status = lock(&self.client.status);
        status.seen_revision = seen;
        for ty in outgoing.iter().filter_map(|it| it.ty) {
            self.unanswered_since[ty.index()].get_or_insert_with(Instant::now);
            let of_type = status.types.entry(ty).or_default();
            of_type.sent_revision = revision;
            of_type.sent_at = Some(now);
            of_type.waiting = self.session.unanswered(ty);
            of_type.resources = self.session.holds(ty).unwrap_or_default();
        }
    }

    fn heard(&mut self, heard: Heard) {
        let metrics = &self.stream.hub.metrics;
        let label = |ty: ResourceType| TypeLabel { r#type: ty.name() };
        match heard {
            Heard::Spontaneous => {}
            Heard::UnknownType { type_url } => {
                metrics.xds_unknown_types.inc();
                tracing::debug!(node = %self.client.viewer.node, type_url, "sidecar asks for an unknown type");
            }
            Heard::Stale { ty } => {
                metrics.xds_stale_nonces.get_or_create(&label(ty)).inc();
            }
            Heard::Acknowledged { ty } => {
                metrics.xds_acks.get_or_create(&label(ty)).inc();
                self.answered(ty, None);
            }
            Heard::Rejected { ty, message, stale } => {
                metrics.xds_nacks.get_or_create(&label(ty)).inc();
                tracing::error!(node = %self.client.viewer.node, resource.type = ty.name(), nack = message, stale,
                    "sidecar rejects its configuration");
                // An invented nonce answers nothing, so it says nothing about what the client holds.
                if !stale {
                    self.answered(ty, Some(message));
                }
            }
        }
    }

    fn answered(&mut self, ty: ResourceType, nack: Option<String>) {
        let waiting = self.session.unanswered(ty);
        if let Some(since) = self.unanswered_since[ty.index()].take() {
            self.stream.hub.metrics.xds_convergence_seconds.observe(since.elapsed().as_secs_f64());
        }
        if waiting > 0 {
            self.unanswered_since[ty.index()] = Some(Instant::now());
        }
        let now = clock::now();
        let domain = self.client.viewer.identity.trust_domain.as_str();
        let bundle = self.session.version(ResourceType::TrustBundle, domain);
        let mut status = lock(&self.client.status);
        if ty == ResourceType::TrustBundle && nack.is_none() && waiting == 0 {
            status.trust_bundle = bundle;
        }
        let of_type = status.types.entry(ty).or_default();
        of_type.waiting = waiting;
        of_type.resources = self.session.holds(ty).unwrap_or_default();
        of_type.acknowledged_at = Some(now);
        of_type.nack = nack.map(|message| NackStatus { at: now, message });
        if of_type.nack.is_none() && waiting == 0 {
            of_type.acknowledged_revision = of_type.sent_revision;
        }
    }

    /// When the client must have answered what it was sent.
    fn answer_due(&self) -> Instant {
        let oldest = self.unanswered_since.iter().flatten().min();
        // Far enough away to mean never within the age of a stream.
        let never = self.stream.hub.settings.age_max * 2;
        oldest
            .map_or_else(|| Instant::now() + never, |since| *since + self.stream.hub.settings.answer_timeout)
    }
}

/// The end of a stream whose request could not be read. Too large a message is the client's to mend, so it is told.
fn broken_off(status: Status) -> End {
    match status.code() {
        Code::Cancelled | Code::Unknown | Code::Unavailable => End::quietly("broken"),
        Code::OutOfRange => End::with("too_large", Status::resource_exhausted(status.message())),
        _ => End::with("malformed", status),
    }
}

/// A tenth more or less, so that clients that came together do not go together.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.9..=1.1))
}
