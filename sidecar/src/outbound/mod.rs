//! The way to other sidecars: for each server, which of its instances a request goes to, over which connection, and
//! what is tried again.
//!
//! A request is sent again only if it never left, or if whoever sends it says that repeating it does no harm. An
//! instance must prove the identity that the configuration names. Not here: what a request means, who may send it, and
//! the relaying of its answer.

mod affinity;
mod attempt;
pub mod balance;
mod begun;
mod breaker;
mod budget;
mod checks;
mod copies;
mod pace;
mod servers;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::uri::PathAndQuery;
use http::{Response, Uri};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::time::Instant;
use weft_certs::bundle::TrustStore;
use weft_certs::tls::LiveIdentity;
use weft_proto::compile::Snapshot;
use weft_proto::name::{HostPort, ServerName};
use weft_proto::resource::units::Delay;

use crate::metrics::ServerOutcomeLabels;
use crate::refusal::Refusal;
use crate::session_id::{Key, Tag, Whence};
use crate::state::Live;
use crate::upstream::{Outgoing, Stats, UpstreamBody};

pub use affinity::Affinity;
use attempt::{Time, Trying};
use begun::Begun;
pub use begun::Learning;
use copies::Copies;
use servers::{Reach, Servers};

/// How often a request starts anew because the instances were exchanged under it.
const RENEWALS_MAX: u32 = 3;

/// Calls that are asked of a second instance, among those that may be, in percent.
const HEDGES_PERCENT: u32 = 10;

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
    /// Copies of calls that may be under way at once.
    pub copies_max: usize,
    pub counts: Counts,
}

/// What is counted here. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// What became of copies of calls.
    pub copies: Family<ServerOutcomeLabels, Counter>,
    /// What became of second requests.
    pub hedges: Family<ServerOutcomeLabels, Counter>,
}

impl Counts {
    fn copy(&self, server: &ServerName, outcome: &'static str) {
        count(&self.copies, server, outcome);
    }

    fn hedge(&self, server: &ServerName, outcome: &'static str) {
        count(&self.hedges, server, outcome);
    }
}

fn count(family: &Family<ServerOutcomeLabels, Counter>, server: &ServerName, outcome: &'static str) {
    let labels = ServerOutcomeLabels { server: server.to_string().into(), outcome };
    family.get_or_create(&labels).inc();
}

/// One request, and what is known of it.
#[derive(Debug)]
pub struct Call<'a> {
    /// Its path is replaced by the server's own at the peer, unless `path` says another.
    pub request: Outgoing,
    pub path: Option<PathAndQuery>,
    pub affinity: Affinity<'a>,
    /// The tool that is called.
    pub tool: Option<&'a str>,
}

impl<'a> Call<'a> {
    pub fn new(request: Outgoing, affinity: Affinity<'a>) -> Self {
        Self { request, path: None, affinity, tool: None }
    }
}

/// How a request is sent to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Whether the server may be asked twice, should the connection break before there is an answer.
    pub repeatable: bool,
    /// Until the head of the answer, over all attempts; what the server's configuration says if not given.
    pub timeout: Option<Duration>,
    /// When another instance is asked as well; never if not given.
    pub hedge_after: Option<Delay>,
}

/// A server that may take a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub server: ServerName,
    pub manner: Manner,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    /// Tried one after the other, as long as nothing left for any of them.
    pub stops: Vec<Stop>,
    /// Who gets a copy.
    pub copy: Option<Stop>,
}

impl From<Stop> for Course {
    fn from(stop: Stop) -> Self {
        Self { stops: vec![stop], copy: None }
    }
}

/// The answer of an instance.
#[derive(Debug)]
pub struct Answer {
    /// The instance counts as busy until the body is read or dropped.
    pub response: Response<UpstreamBody>,
    /// Which server it was.
    pub server: ServerName,
    /// Which instance it was, for [`Outbound::stick`].
    pub instance: Tag,
    /// Where it is.
    pub address: HostPort,
    /// Whether it could have been another.
    pub was_chosen: bool,
}

/// Instances of servers and connections to them, as the configuration has it.
#[derive(Debug)]
pub struct Outbound {
    config: Config,
    servers: ArcSwap<Servers>,
    copies: Copies,
    begun: Begun,
    updating: Mutex<()>,
}

/// A request that a server did not answer.
struct Unserved {
    refusal: Refusal,
    /// The request, if nothing of it ever left.
    request: Option<Outgoing>,
}

impl Unserved {
    const fn of(refusal: Refusal) -> Self {
        Self { refusal, request: None }
    }
}

impl Outbound {
    pub fn new(config: Config, snapshot: &Snapshot) -> Self {
        let copies = Copies::new(config.copies_max);
        let (servers, begun) = (ArcSwap::default(), Begun::default());
        let outbound = Self { config, servers, copies, begun, updating: Mutex::new(()) };
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

    /// Sends a request that is addressed to a server to an instance of the first server on its course, to another
    /// instance if it never left, and to the next server if it left for none.
    pub async fn forward(
        self: &Arc<Self>,
        addressed: &ServerName,
        course: &Course,
        call: Call<'_>,
    ) -> Result<Answer, Refusal> {
        if let Some(copy) = &course.copy {
            self.copy(copy, &call.request);
        }
        let Call { mut request, path, affinity, tool } = call;
        let (mut time, mut last) = (None, Refusal::NoInstance);
        for Stop { server, manner } in &course.stops {
            let reach = match self.reach(server) {
                Ok(reach) => reach,
                // Whether it exists for others is not told.
                Err(_) if server != addressed => continue,
                Err(refusal) => return Err(refusal),
            };
            let time =
                time.get_or_insert_with(|| Time::beginning(manner.timeout.unwrap_or(reach.call_timeout)));
            if let Err(after) = reach.admit(tool) {
                last = Refusal::ToolFailing { after };
                continue;
            }
            let call = Call { request, path: path.clone(), affinity, tool };
            match self.to_one(reach, *manner, call, *time).await {
                Ok((at, reach, response)) => {
                    let instance = &reach.instances[at];
                    let is_addressed = server == addressed;
                    let tag = if is_addressed { instance.tag } else { instance.routed_tag };
                    let (server, address) = (server.clone(), instance.address.clone());
                    let was_chosen = course.stops.len() > 1 || reach.instances.len() > 1;
                    return Ok(Answer { response, server, instance: tag, address, was_chosen });
                }
                Err(Unserved { refusal, request: Some(unsent) }) if !time.is_over() => {
                    (request, last) = (unsent, refusal);
                }
                Err(unserved) => return Err(unserved.refusal),
            }
        }
        Err(last)
    }

    /// Sends a request to an instance of a server, and to another if it never left, or never reached the server there: an
    /// instance that ends is still told of for a moment.
    async fn to_one(
        &self,
        mut reach: Arc<Reach>,
        manner: Manner,
        call: Call<'_>,
        time: Time,
    ) -> Result<(usize, Arc<Reach>, Response<UpstreamBody>), Unserved> {
        reach.budget.call(reach.budget_percent);
        let Call { request, path, affinity, tool } = call;
        let trying = Trying { affinity, time, hedge_after: manner.hedge_after, tool };
        let mut request = reach.addressed(request, path);
        let (mut tried, mut retries, mut renewals) = (Vec::new(), reach.retries, RENEWALS_MAX);
        let (mut last, mut left, mut chosen) = (Refusal::NoInstance, false, None);
        loop {
            let next = match chosen.take() {
                Some(at) => Some(at),
                None => reach.choose(affinity, &tried).map_err(Unserved::of)?,
            };
            let Some(at) = next else {
                return Err(Unserved { refusal: last, request: (!left).then_some(request) });
            };
            let is_kept = retries > 0 && (manner.repeatable || reach.instances.len() > 1);
            let spare = is_kept.then(|| Arc::clone(&request));
            let failure = match self.try_one(&reach, (at, &tried), request, trying).await {
                Ok((at, response)) => {
                    reach.note(tool, attempt::is_failure(&response));
                    let Some(again) = spare.filter(|_| attempt::never_arrived(&response)) else {
                        return Ok((at, reach, response));
                    };
                    tried.push(at);
                    chosen = reach.another(&trying, &tried);
                    if chosen.is_none() {
                        return Ok((at, reach, response));
                    }
                    retries -= 1;
                    (request, last) = (again, attempt::not_arrived());
                    continue;
                }
                Err(failure) => failure,
            };
            left |= failure.request.is_none();
            if failure.request.is_none() {
                reach.note(tool, true);
            }
            let spare = spare.filter(|_| manner.repeatable);
            let Some(again) = failure.request.or(spare) else { return Err(Unserved::of(failure.refusal)) };
            if failure.retired && renewals > 0 {
                renewals -= 1;
                (reach, tried) = (self.reach(&reach.server).map_err(Unserved::of)?, Vec::new());
            } else {
                let in_vain = affinity.is_bound() || time.is_over();
                if in_vain || retries == 0 || !reach.budget.retry() {
                    return Err(Unserved { refusal: failure.refusal, request: (!left).then_some(again) });
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

    /// Whether a server is known here and has an instance that is not left out.
    pub fn is_available(&self, server: &ServerName) -> bool {
        let now = Instant::now().into_std();
        self.servers.load().reach(server).is_some_and(|reach| reach.balancer.is_available(now))
    }

    /// Whether calls can wait at an instance of a server that says that it is this one.
    pub fn keeps(&self, server: &ServerName, whence: Whence) -> bool {
        self.servers.load().reach(server).is_some_and(|reach| reach.keeps(whence))
    }

    /// The server of the instance that a request addressed to a server belongs to.
    pub fn home(&self, addressed: &ServerName, instance: Tag) -> Result<ServerName, Refusal> {
        self.servers.load().home(addressed, instance).cloned().ok_or(Refusal::SessionUnknown)
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

impl Reach {
    /// The request as the peer expects it.
    fn addressed(&self, mut request: Outgoing, path: Option<PathAndQuery>) -> Outgoing {
        let path = path.unwrap_or_else(|| match request.uri().query() {
            None => self.path.clone(),
            Some(query) => format!("{}?{query}", self.path).parse().unwrap_or_else(|_| self.path.clone()),
        });
        *Arc::make_mut(&mut request).uri_mut() = Uri::from(path);
        request
    }
}

#[cfg(test)]
mod tests;
