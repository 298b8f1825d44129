//! The way to other sidecars: for each server, which of its instances a request goes to, over which connection, and
//! what is tried again.
//!
//! A request is sent again only if it never left, or if whoever sends it says that repeating it does no harm. An
//! instance must prove the identity that the configuration names. Not here: what a request means, who may send it, and
//! the relaying of its answer.

mod affinity;
pub mod balance;
mod budget;
mod servers;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::uri::PathAndQuery;
use http::{Response, StatusCode, Uri};
use tokio::time::{Instant, timeout_at};
use weft_certs::bundle::TrustStore;
use weft_certs::tls::LiveIdentity;
use weft_proto::compile::Snapshot;
use weft_proto::name::{HostPort, ServerName};

use crate::refusal::Refusal;
use crate::session_id::{Key, Tag};
use crate::state::Live;
use crate::upstream::{Outgoing, SendError, Stats, Unsent, UpstreamBody};

pub use affinity::Affinity;
use servers::{Instance, Reach, Servers};

/// How often a request starts anew because the instances were exchanged under it.
const RENEWALS_MAX: u32 = 3;

/// What the way to other sidecars is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this sidecar is to its peers.
    pub identity: LiveIdentity,
    pub trust: TrustStore,
    /// What session ids are tagged with.
    pub key: Key,
    /// Where this sidecar stands, as `region/zone`.
    pub locality: Option<String>,
}

/// One request, and what is known of it.
#[derive(Debug)]
pub struct Call<'a> {
    /// Its path is replaced by the server's own at the peer, unless `path` says another.
    pub request: Outgoing,
    pub path: Option<PathAndQuery>,
    pub affinity: Affinity<'a>,
    /// Until the head of the answer, over all attempts; what the server's configuration says if not given.
    pub timeout: Option<Duration>,
    /// Whether the server may be asked twice.
    pub repeatable: bool,
}

impl<'a> Call<'a> {
    pub fn new(request: Outgoing, affinity: Affinity<'a>) -> Self {
        Self { request, path: None, affinity, timeout: None, repeatable: false }
    }
}

/// The answer of an instance.
#[derive(Debug)]
pub struct Answer {
    /// The instance counts as busy until the body is read or dropped.
    pub response: Response<UpstreamBody>,
    /// Which instance it was, for [`Outbound::stick`].
    pub instance: Tag,
    /// Where it is.
    pub address: HostPort,
}

/// Instances of servers and connections to them, as the configuration has it.
#[derive(Debug)]
pub struct Outbound {
    config: Config,
    servers: ArcSwap<Servers>,
    updating: Mutex<()>,
}

/// A failed attempt.
struct Failure {
    refusal: Refusal,
    /// The request, if it never left.
    request: Option<Outgoing>,
    /// The instance was taken out of the configuration.
    retired: bool,
    /// The instance had no part in it.
    ours: bool,
}

impl Outbound {
    pub fn new(config: Config, snapshot: &Snapshot) -> Self {
        let outbound = Self { config, servers: ArcSwap::default(), updating: Mutex::new(()) };
        outbound.update(snapshot);
        outbound
    }

    /// Takes over where servers are. Connections to instances that stay are kept; streams to those that go live on.
    pub fn update(&self, snapshot: &Snapshot) {
        let _updating = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let former = self.servers.load_full();
        let next = former.next(snapshot, &self.config, Instant::now().into_std());
        self.servers.store(Arc::new(next));
        // Only now: a request that finds its instance retired looks for the present ones.
        former.retire_all_but(&self.servers.load());
    }

    /// Takes over each change of the configuration, for as long as there may be any.
    pub async fn follow(&self, live: &Live) {
        let mut changes = live.watch();
        loop {
            let current = Arc::clone(&changes.borrow_and_update());
            self.update(&current.snapshot);
            if changes.changed().await.is_err() {
                break;
            }
        }
    }

    /// Sends a request to an instance of a server, and to another if it never left.
    pub async fn forward(&self, server: &ServerName, call: Call<'_>) -> Result<Answer, Refusal> {
        let mut reach = self.reach(server)?;
        let after = call.timeout.unwrap_or(reach.call_timeout);
        let until = Instant::now() + after;
        reach.budget.call(reach.budget_percent);
        let mut request = reach.addressed(call.request, call.path);
        let (mut tried, mut retries, mut renewals) = (Vec::new(), reach.retries, RENEWALS_MAX);
        let mut last = Refusal::NoInstance;
        loop {
            let Some(at) = reach.choose(call.affinity, &tried)? else { return Err(last) };
            let spare = (call.repeatable && retries > 0).then(|| request.clone());
            let failure = match self.attempt(&reach, at, request, until, after).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let Some(again) = failure.request.or(spare) else { return Err(failure.refusal) };
            if failure.retired && renewals > 0 {
                renewals -= 1;
                (reach, tried) = (self.reach(server)?, Vec::new());
            } else {
                let in_vain = call.affinity.is_bound() || Instant::now() >= until;
                if in_vain || retries == 0 || !reach.budget.retry() {
                    return Err(failure.refusal);
                }
                retries -= 1;
                tried.push(at);
            }
            (request, last) = (again, failure.refusal);
        }
    }

    fn reach(&self, server: &ServerName) -> Result<Arc<Reach>, Refusal> {
        let servers = self.servers.load();
        servers.reach(server).cloned().ok_or_else(|| Refusal::UnknownServer(server.to_string()))
    }

    async fn attempt(
        &self,
        reach: &Reach,
        at: usize,
        request: Outgoing,
        until: Instant,
        after: Duration,
    ) -> Result<Answer, Failure> {
        let instance = &reach.instances[at];
        let in_flight = instance.load.begin();
        let began = Instant::now();
        let try_until = reach.try_timeout.map_or(until, |each| until.min(began + each));
        let sent = timeout_at(try_until, instance.pool.send(request)).await;
        let now = Instant::now();
        let judge = |failed: bool| match failed {
            true => self.failed(reach, instance, now),
            false => instance.load.answered(now - began, now.into_std()),
        };
        match sent {
            Ok(Ok(response)) => {
                judge(is_failure(response.status()));
                let response = response.map(|body| body.hold(in_flight));
                Ok(Answer { response, instance: instance.tag, address: instance.address.clone() })
            }
            Ok(Err(error)) => {
                let failure = Failure::from(error);
                if !failure.ours {
                    judge(true);
                }
                Err(failure)
            }
            Err(_) => {
                judge(true);
                let after = if try_until == until { after } else { try_until - began };
                Err(Failure::of(Refusal::TimedOut { after }))
            }
        }
    }

    /// Judged by the instances as they are now, which may be others than when the request began.
    fn failed(&self, reach: &Reach, instance: &Instance, now: Instant) {
        let servers = self.servers.load();
        let Some(current) = servers.reach(&reach.server) else { return };
        if current.balancer.failed(&instance.load, now.into_std()) {
            tracing::warn!(server = %reach.server, address = %instance.address, "instance left out for a while");
        }
    }

    /// Connections of all instances of a server.
    pub fn stats(&self, server: &ServerName) -> Stats {
        let reach = self.servers.load().reach(server).cloned();
        let pools = reach.iter().flat_map(|reach| &reach.instances).map(|instance| instance.pool.stats());
        pools.fold(Stats::default(), |sum, one| Stats {
            open: sum.open + one.open,
            idle: sum.idle + one.idle,
            pending: sum.pending + one.pending,
        })
    }
}

/// Statuses by which a peer says that the server behind it does not work.
const fn is_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let failure = Self::of(error.refusal());
        match error {
            SendError::NeverSent { request, why } => Self {
                retired: matches!(why, Unsent::Retired),
                ours: matches!(why, Unsent::Retired | Unsent::Full { .. }),
                request: Some(request),
                ..failure
            },
            SendError::MaybeSent(_) => failure,
        }
    }
}

impl Failure {
    /// Of a request that the instance may have seen.
    const fn of(refusal: Refusal) -> Self {
        Self { refusal, request: None, retired: false, ours: false }
    }
}

impl Reach {
    /// The request as the peer expects it.
    fn addressed(&self, mut request: Outgoing, path: Option<PathAndQuery>) -> Outgoing {
        let path = path.unwrap_or_else(|| match request.uri().query() {
            None => self.path.clone(),
            Some(query) => format!("{}?{query}", self.path).parse().unwrap_or_else(|_| self.path.clone()),
        });
        *request.uri_mut() = Uri::from(path);
        request
    }
}

#[cfg(test)]
mod tests;
