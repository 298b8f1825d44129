//! Keeps one discovery stream open to the control plane, and puts into force what it says.
//!
//! A response is answered after what it changed is in force, so that what the control plane shows as taken is. Only
//! while everything is told for the first time on a stream, answers do not wait: that may take long.
//!
//! Not here: what the messages mean (`session`), and how certificates come and go; a new one counts from the next
//! connection and leaves the stream alone.

mod beside;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weft_certs::bundle::Bundle;
use weft_certs::rotation;
use weft_certs::tls::{self, CONTROL_PLANE_PATH};
use weft_certs::verifier::Expect;
use weft_proto::compile::{self as compiler, Snapshot};
use weft_proto::name::{HostPort, TrustDomain};
use weft_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_proto::wire::ResourceType;

use super::connect::{self, Connection, connect};
use super::identity::told;
use super::session::{Change, Reply, Session};
use super::timing::{Backoff, Ended, Settle};
use super::{Deps, Problem, Settings, State, keeper, node, store, trust};
use crate::bootstrap::{self, Listen};
use crate::clock;
use crate::state::{Current, Origin};

/// Largest response, in bytes. The largest resource is a quarter of it.
const RESPONSE_BYTES_MAX: usize = 16 << 20;
/// Answers that wait for the connection to take them.
const ANSWERS_MAX: usize = 4096;
/// Questions about what is held that wait for the link.
const LOOKS_MAX: usize = 4;
/// More parts than this are compiled where they hold nobody up.
const COMPILED_IN_PLACE_MAX: usize = 500;

/// Why a stream ended, or did not begin.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no connection to the control plane")]
    Connect(#[from] connect::Error),
    #[error("the control plane did not open the stream within {} s", .0.as_secs())]
    OpenTimeout(std::time::Duration),
    #[error("the control plane ended the stream: {} ({:?})", .0.message(), .0.code())]
    Ended(Box<Status>),
    #[error("the control plane said nothing for {} s before everything was told", .0.as_secs())]
    Silent(std::time::Duration),
    #[error("the control plane does not take answers")]
    Backlog,
    #[error("the stream could not be served")]
    Panicked,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Ended(Box::new(status))
    }
}

/// What a link is made of.
pub(super) struct Parts {
    pub(super) node: bootstrap::Node,
    pub(super) listen: Listen,
    pub(super) control_plane: HostPort,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) deps: Deps,
    pub(super) settings: Settings,
    pub(super) rotation: Arc<rotation::Handle>,
    pub(super) states: Arc<watch::Sender<State>>,
    pub(super) session: Session,
    /// The identity that what the session holds was told to.
    pub(super) owner: Option<String>,
}

/// The link.
pub(super) struct Link {
    parts: Parts,
    settle: Settle,
    /// Answers that wait for what they acknowledge to be in force.
    unsent: Vec<DeltaDiscoveryRequest>,
    /// Whether something was put into force on this stream.
    told_before: bool,
    answered: bool,
    /// What is to be stored goes here; none without a state folder.
    storing: Option<mpsc::Sender<store::Stored>>,
    unstored: bool,
    began: Instant,
}

impl Link {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            settle: Settle::default(),
            unsent: Vec::new(),
            told_before: false,
            answered: false,
            storing: None,
            unstored: false,
            began: Instant::now(),
        }
    }

    /// Goes on until it is cancelled.
    pub(super) async fn run(mut self) {
        let keeper = self.start_keeper();
        let cancel = self.parts.deps.cancel.clone();
        let mut backoff = Backoff::default();
        while !cancel.is_cancelled() {
            if !self.wait_for_certificate().await {
                break;
            }
            let began = Instant::now();
            self.answered = false;
            let run = AssertUnwindSafe(Box::pin(self.stream())).catch_unwind();
            let outcome = run.await.unwrap_or(Err(Error::Panicked));
            let ended = Ended { answered: self.answered, planned: outcome.is_ok(), lasted: began.elapsed() };
            let delay = backoff.after(ended, rand::random());
            self.ended(outcome, backoff.failures());
            self.store();
            tokio::select! {
                () = cancel.cancelled() => {}
                () = sleep(delay) => {}
            }
        }
        self.store();
        // Dropping the sender ends the keeper, after what is waiting is stored.
        self.storing = None;
        if let Some(keeper) = keeper {
            let _ = keeper.await;
        }
    }

    /// Without a certificate the control plane would tell nothing. Says whether to go on.
    async fn wait_for_certificate(&mut self) -> bool {
        let mut leaf = self.parts.deps.identity.watch();
        loop {
            let id = leaf.borrow_and_update().as_ref().map(|leaf| leaf.spiffe_id.to_string());
            if let Some(id) = id {
                self.belong_to(id);
                return true;
            }
            tokio::select! {
                () = self.parts.deps.cancel.cancelled() => return false,
                changed = leaf.changed() => if changed.is_err() { return false },
            }
        }
    }

    /// What was told to another identity is forgotten: this one may not know it.
    fn belong_to(&mut self, id: String) {
        if self.parts.owner.as_ref().is_some_and(|owner| *owner != id) {
            tracing::warn!(
                identity = id,
                former = self.parts.owner,
                "stored configuration is of another identity"
            );
            self.parts.session = Session::new();
            self.parts.deps.live.swap(crate::state::Live::empty().load().as_ref().clone());
            self.parts.states.send_modify(|state| {
                state.ready = false;
                state.types.clear();
            });
        }
        self.parts.owner = Some(id);
    }

    /// One stream, from the connection to its end; `Ok` if the end is in good order.
    async fn stream(&mut self) -> Result<(), Error> {
        self.settle.done();
        self.unsent.clear();
        self.told_before = false;
        let connection = self.connect().await?;
        let (answers, mut responses) = self.open(&connection).await?;
        let cancel = self.parts.deps.cancel.clone();
        let mut heard = Instant::now();
        let (asking, mut looks) = mpsc::channel(LOOKS_MAX);
        let mut beside = Vec::new();
        loop {
            let due = self.settle.due();
            let silence = self.parts.settings.silence_max;
            let complete = self.parts.session.is_complete();
            // Only a sidecar that is known by its discovery stream is heard.
            if complete && beside.is_empty() {
                beside = self.beside(&connection, &asking);
            }
            let store_again = self.unstored.then(|| Instant::now() + self.parts.settings.store_every);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                () = until(due), if due.is_some() => self.put_in_force(&answers).await?,
                response = responses.message() => match response? {
                    Some(response) => {
                        heard = Instant::now();
                        self.received(response, &answers)?;
                    }
                    None => return Ok(()),
                },
                Some(look) = looks.recv() => drop(look.send(self.parts.session.holdings())),
                () = sleep_until(heard + silence), if !complete => return Err(Error::Silent(silence)),
                () = until(store_again), if store_again.is_some() => self.store(),
            }
        }
    }

    async fn connect(&self) -> Result<Connection, Error> {
        let Deps { identity, trust, .. } = &self.parts.deps;
        let expect = Expect::Path(CONTROL_PLANE_PATH);
        let config = Arc::new(tls::client_config(identity, trust, expect, &[b"h2"]));
        let random = rand::random::<u16>().into();
        tokio::select! {
            connection = Box::pin(connect(&self.parts.control_plane, config, random)) => Ok(connection?),
            // Whatever is under way is of no use any more.
            () = self.parts.deps.cancel.cancelled() => Err(Error::Ended(Box::new(Status::cancelled("stopping")))),
        }
    }

    /// Opens the stream and asks for everything.
    async fn open(
        &mut self,
        connection: &Connection,
    ) -> Result<(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>), Error> {
        let Parts { node, listen, .. } = &self.parts;
        let node = node::describe(node, listen, self.address(connection).as_ref());
        let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
        for request in self.parts.session.connect(node) {
            send(&answers, request)?;
        }
        let mut client = AggregatedDiscoveryServiceClient::new(connection.channel.clone())
            .max_decoding_message_size(RESPONSE_BYTES_MAX);
        let after = self.parts.settings.open_timeout;
        let opening = client.delta_aggregated_resources(ReceiverStream::new(outgoing));
        let responses = timeout(after, opening).await.map_err(|_| Error::OpenTimeout(after))??.into_inner();
        tracing::info!(peer.address = %connection.peer, "connected to the control plane");
        self.parts.states.send_modify(|state| {
            state.connected = true;
            state.complete = false;
            state.since = Some(clock::now());
            state.streams += 1;
        });
        Ok((answers, responses))
    }

    /// Where others reach this sidecar.
    fn address(&self, connection: &Connection) -> Option<HostPort> {
        let Parts { node, deps, .. } = &self.parts;
        node::reached_at(node, deps.address.as_ref(), connection.local.ip())
    }

    fn received(
        &mut self,
        response: DeltaDiscoveryResponse,
        answers: &mpsc::Sender<DeltaDiscoveryRequest>,
    ) -> Result<(), Error> {
        self.answered = true;
        let revision = response.system_version_info.clone();
        let identifier = response.control_plane.as_ref().map(|it| it.identifier.clone());
        let was_complete = self.parts.session.is_complete();
        let reply = self.parts.session.receive(response);
        self.take_trust(&reply.trust);
        self.show(&reply, revision, identifier);
        self.unsent.push(reply.request);
        // What is stored is what the control plane says, versions included, even where nothing else changes.
        self.unstored |= self.storing.is_some();
        if self.parts.session.has_change() {
            let Settings { quiet, burst_max, first_quiet, first_burst_max, .. } = self.parts.settings;
            let (quiet, max) =
                if self.told_before { (quiet, burst_max) } else { (first_quiet, first_burst_max) };
            self.settle.changed(Instant::now(), quiet, max);
        }
        match was_complete && self.settle.due().is_some() {
            true => Ok(()),
            false => self.answer(answers),
        }
    }

    fn answer(&mut self, answers: &mpsc::Sender<DeltaDiscoveryRequest>) -> Result<(), Error> {
        self.unsent.drain(..).try_for_each(|request| send(answers, request))
    }

    /// Before the answer: the control plane counts who trusts a root by the answers.
    fn take_trust(&self, domains: &BTreeSet<TrustDomain>) {
        let Parts { deps, session, rotation, .. } = &self.parts;
        let identity = deps.identity.load();
        for domain in domains {
            let own = identity.as_ref().is_some_and(|it| it.leaf().spiffe_id.trust_domain() == domain);
            match session.bundles().get(domain) {
                Some(bundle) => {
                    if let Err(error) = deps.trust.update_newer([Bundle::clone(bundle)]) {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "trust bundle not taken on"
                        );
                    }
                }
                // Nobody could ever say otherwise again.
                None if own => tracing::warn!(%domain, "the own trust domain's roots are gone, and are kept"),
                None => _ = deps.trust.remove(domain),
            }
            let told = session.trust_bundle(domain);
            if let (Some(identity), Some(told)) = (&identity, told)
                && trust::is_due(identity, told, clock::now())
            {
                tracing::info!(%domain, "the certificate is to be under another root");
                rotation.renew_now();
            }
        }
    }

    fn show(&self, reply: &Reply, revision: String, identifier: Option<String>) {
        if let Some(nack) = &reply.nack {
            let ty = reply.ty.map_or("unknown", ResourceType::name);
            tracing::error!(resource.type = ty, nack, "configuration rejected");
        }
        self.parts.states.send_modify(|state| {
            state.complete = self.parts.session.is_complete();
            state.control_plane = identifier.or_else(|| state.control_plane.take());
            let Some(ty) = reply.ty else { return };
            let of_type = state.types.entry(ty).or_default();
            of_type.resources = self.parts.session.count(ty);
            of_type.nack = reply.nack.clone().map(Problem::now);
            match of_type.nack.is_none() {
                true => {
                    of_type.acknowledged += 1;
                    of_type.revision = Some(revision);
                }
                false => of_type.rejected += 1,
            }
        });
    }

    /// Compiles and swaps, then answers what waited for it.
    async fn put_in_force(&mut self, answers: &mpsc::Sender<DeltaDiscoveryRequest>) -> Result<(), Error> {
        self.settle.done();
        if let Some(change) = self.parts.session.take_change() {
            self.told_before = true;
            self.swap(change).await;
        }
        self.answer(answers)?;
        self.store();
        Ok(())
    }

    async fn swap(&self, change: Change) {
        let live = &self.parts.deps.live;
        let current = live.load();
        let Change { parts, version, held_back } = change;
        if held_back > 0 {
            tracing::error!(
                servers = held_back,
                "servers are held back, because a policy that may guard them cannot be read"
            );
        }
        // The same again is no news to whoever watches.
        let news = current.origin != Origin::ControlPlane || current.version != version;
        if news {
            let snapshot = compile(&parts).await;
            live.swap(Current { snapshot, origin: Origin::ControlPlane, version, since: clock::now() });
        }
        self.parts.states.send_modify(|state| {
            state.ready = true;
            state.held_back = held_back;
            state.swaps += u64::from(news);
        });
    }

    fn ended(&self, outcome: Result<(), Error>, failures: u32) {
        let error = outcome.err().map(|error| told(&error));
        let stopping = self.parts.deps.cancel.is_cancelled();
        match &error {
            Some(error) if !stopping => {
                tracing::warn!(
                    error,
                    failures,
                    "the control plane is away; the last good configuration stays in force"
                );
            }
            Some(_) | None => tracing::info!("stream to the control plane ended"),
        }
        self.parts.states.send_modify(|state| {
            if state.connected || state.since.is_none() {
                state.since = Some(clock::now());
            }
            state.connected = false;
            state.complete = false;
            state.failures = failures;
            if let Some(error) = error {
                state.last_error = Some(Problem::now(error));
            }
        });
    }

    /// Hands over what is to be stored, if all is settled and there is room; otherwise it is tried again.
    fn store(&mut self) {
        let (Some(storing), Some(owner)) = (&self.storing, &self.parts.owner) else { return };
        let settled = self.parts.session.is_settled();
        if let (true, true, Ok(permit)) = (self.unstored, settled, storing.try_reserve()) {
            permit.send(store::Stored {
                node: self.parts.node.id.as_str().to_owned(),
                identity: owner.clone(),
                at: clock::now(),
                resources: self.parts.session.resources(),
            });
            self.unstored = false;
        }
    }

    fn start_keeper(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        let folder = self.parts.state_dir.clone()?;
        let (storing, stored) = mpsc::channel(1);
        self.storing = Some(storing);
        let Parts { states, settings, deps, .. } = &self.parts;
        let (states, cancel) = (Arc::clone(states), deps.cancel.clone());
        Some(tokio::spawn(keeper::run(folder, stored, states, settings.store_every, cancel)))
    }
}

/// Compiles; much of it beside the runtime, which has streams to keep alive.
pub(super) async fn compile(parts: &Arc<compiler::Parts>) -> Snapshot {
    if parts.iter().nth(COMPILED_IN_PLACE_MAX).is_none() {
        return compiler::compile(parts);
    }
    let beside = Arc::clone(parts);
    match tokio::task::spawn_blocking(move || compiler::compile(&beside)).await {
        Ok(snapshot) => snapshot,
        Err(_) => compiler::compile(parts),
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Never waits: whoever waits here reads no responses, and the other end would wait for that in turn.
fn send(answers: &mpsc::Sender<DeltaDiscoveryRequest>, request: DeltaDiscoveryRequest) -> Result<(), Error> {
    match answers.try_send(request) {
        // A stream that is closed says why on its other half.
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        Err(mpsc::error::TrySendError::Full(_)) => Err(Error::Backlog),
    }
}
