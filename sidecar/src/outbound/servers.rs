//! What is known of each server: its instances, with a pool of connections for each, and how to choose among them. Made
//! anew from each configuration; what stays the same is taken over, with its connections and all that was learnt.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use weft_certs::tls;
use weft_certs::verifier::Expect;
use weft_proto::compile::{ServerEntry, Snapshot};
use weft_proto::name::{HostPort, ServerName, SpiffeId};
use weft_proto::resource::kinds::{self, HealthCheck, McpServer};
use weft_proto::wire::Endpoint;

use super::Config;
use super::affinity::Affinity;
use super::balance::{Balancer, Ejection, Load, Member, stable_hash};
use super::breaker::{self, Breaker};
use super::budget::Budget;
use super::checks::Checks;
use super::pace::Pace;
use crate::refusal::Refusal;
use crate::session_id::{Tag, Whence};
use crate::upstream::{Address, Destination, Pool, Settings};

/// Either is fine; the peer chooses.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

const CALL_TIMEOUT: Duration = Duration::from_secs(60);
const RETRIES: u32 = 1;
const BUDGET_PERCENT: u32 = 20;

/// All servers that this sidecar may reach.
#[derive(Debug, Default)]
pub(super) struct Servers(HashMap<ServerName, Arc<Reach>>);

/// One server.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) server: ServerName,
    /// What all of this was made of.
    entry: Arc<ServerEntry>,
    pub(super) path: PathAndQuery,
    pub(super) instances: Vec<Arc<Instance>>,
    by_tag: HashMap<Tag, usize>,
    /// Where calls say that they wait, of the instances of which it is known what they are called.
    by_whence: HashMap<Whence, usize>,
    /// The same, for what was addressed to other servers.
    by_routed_tag: HashMap<Tag, usize>,
    pub(super) balancer: Balancer,
    pub(super) call_timeout: Duration,
    pub(super) try_timeout: Option<Duration>,
    pub(super) retries: u32,
    pub(super) budget_percent: u32,
    pub(super) budget: Arc<Budget>,
    /// How many second requests it is worth.
    pub(super) hedges: Arc<Budget>,
    /// How long its answers take, where that decides.
    pub(super) pace: Arc<Pace>,
    breaking: Option<breaker::Settings>,
    breaker: Arc<Breaker>,
}

/// One instance of a server.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) address: HostPort,
    identity: SpiffeId,
    limits: Limits,
    tls: Arc<rustls::ClientConfig>,
    pub(super) tag: Tag,
    /// What it is known by where the server itself is not addressed. It names the server, for a sidecar may stand beside
    /// several.
    pub(super) routed_tag: Tag,
    pub(super) pool: Pool,
    pub(super) load: Arc<Load>,
    /// Where callers are to check the way to it.
    pub(super) checks: Option<Checks>,
}

/// What a server's configuration says of connections.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limits {
    connect_timeout: Duration,
    connections_max: usize,
    pending_max: usize,
    /// Only where callers check.
    check: Option<HealthCheck>,
}

impl Limits {
    fn of(server: &McpServer) -> Self {
        let default = Settings::peer();
        let breaker = server.circuit_breaker.unwrap_or_default();
        Self {
            connect_timeout: server.timeouts.connect.map_or(default.connect_timeout, |span| span.duration()),
            connections_max: breaker.connections_max.map_or(default.connections_max, |it| it.get() as usize),
            pending_max: breaker.pending_max.map_or(default.pending_max, |it| it.get() as usize),
            check: server.health_check.filter(|check| check.by_callers),
        }
    }

    const fn settings(self) -> Settings {
        let Self { connect_timeout, connections_max, pending_max, check: _ } = self;
        Settings { connect_timeout, connections_max, pending_max, ..Settings::peer() }
    }
}

impl Servers {
    pub(super) fn reach(&self, server: &ServerName) -> Option<&Arc<Reach>> {
        self.0.get(server)
    }

    /// The server of an instance that opened something for a request addressed to a server. What a route led elsewhere
    /// goes on where it began, whatever the route says by now.
    pub(super) fn home<'a>(&'a self, addressed: &'a ServerName, instance: Tag) -> Option<&'a ServerName> {
        if self.reach(addressed)?.by_tag.contains_key(&instance) {
            return Some(addressed);
        }
        self.0.iter().find(|(_, reach)| reach.by_routed_tag.contains_key(&instance)).map(|(name, _)| name)
    }

    /// The servers of a configuration, with all that these have in common with it.
    pub(super) fn next(&self, snapshot: &Snapshot, config: &Config, now: Instant) -> Self {
        let reach = |(name, entry): (&ServerName, &Arc<ServerEntry>)| {
            let former = self.0.get(name);
            let reach = match former.filter(|former| former.is_of(entry)) {
                Some(former) => Arc::clone(former),
                None => Arc::new(Reach::new(name, entry, former.map(|former| &**former), config, now)),
            };
            (name.clone(), reach)
        };
        Self(snapshot.servers.iter().map(reach).collect())
    }

    /// Instances that are no longer there take no more requests.
    pub(super) fn retire_all_but(&self, present: &Self) {
        for (name, former) in &self.0 {
            let kept = present.0.get(name).map_or(&[][..], |reach| &reach.instances);
            let gone = former.instances.iter().filter(|it| !kept.iter().any(|kept| Arc::ptr_eq(kept, it)));
            gone.for_each(|instance| instance.pool.retire());
        }
    }
}

impl Reach {
    fn new(
        name: &ServerName,
        entry: &Arc<ServerEntry>,
        former: Option<&Self>,
        config: &Config,
        now: Instant,
    ) -> Self {
        let server = &entry.server.spec;
        let mut making = Making::new(name, former, Limits::of(server), config, now);
        let mut members = Vec::new();
        let (mut instances, mut by_whence) = (Vec::new(), HashMap::new());
        for endpoint in entry.endpoints.iter() {
            let Some(identity) = &endpoint.identity else {
                tracing::warn!(server = %name, address = %endpoint.address, "instance without identity left out");
                continue;
            };
            let instance = making.instance(endpoint, identity);
            by_whence.extend(endpoint.node.as_ref().map(|node| (Whence::of(node), instances.len())));
            members.push(member(endpoint, &instance, server.load_balancing, config));
            instances.push(instance);
        }
        let retries = server.retries.unwrap_or_default();
        let ejection = Ejection::from(server.outlier_ejection.as_ref());
        Self {
            path: path(name),
            by_tag: instances.iter().enumerate().map(|(at, it)| (it.tag, at)).collect(),
            by_whence,
            by_routed_tag: instances.iter().enumerate().map(|(at, it)| (it.routed_tag, at)).collect(),
            balancer: Balancer::new(server.load_balancing.policy, ejection, members, now)
                .starting_slowly(server.load_balancing.slow_start.map(|span| span.duration())),
            instances,
            call_timeout: server.timeouts.call.map_or(CALL_TIMEOUT, |span| span.duration()),
            try_timeout: retries.per_try_timeout.map(|span| span.duration()),
            retries: retries.attempts.map_or(RETRIES, |count| count.get()),
            budget_percent: retries.budget_percent.map_or(BUDGET_PERCENT, |count| count.get()),
            budget: former.map(|former| Arc::clone(&former.budget)).unwrap_or_default(),
            hedges: former.map(|former| Arc::clone(&former.hedges)).unwrap_or_default(),
            pace: former.map(|former| Arc::clone(&former.pace)).unwrap_or_default(),
            breaking: breaker::Settings::of(server.circuit_breaker.as_ref()),
            breaker: former.map(|former| Arc::clone(&former.breaker)).unwrap_or_default(),
            server: name.clone(),
            entry: Arc::clone(entry),
        }
    }

    /// Whether a configuration says the same of the server, as far as reaching it goes.
    fn is_of(&self, entry: &ServerEntry) -> bool {
        let same_server = Arc::ptr_eq(&self.entry.server, &entry.server);
        let same_endpoints = Arc::ptr_eq(&self.entry.endpoints, &entry.endpoints);
        (same_server || self.entry.server.spec == entry.server.spec)
            && (same_endpoints || self.entry.endpoints == entry.endpoints)
    }

    pub(super) fn keeps(&self, whence: Whence) -> bool {
        self.by_whence.contains_key(&whence)
    }

    /// Lets a call of a tool through, or says how long none is.
    pub(super) fn admit(&self, tool: Option<&str>) -> Result<(), Duration> {
        match (tool, self.breaking) {
            (Some(tool), Some(by)) => self.breaker.admit(tool, by, now()),
            _ => Ok(()),
        }
    }

    /// A call of a tool came to something, or to nothing.
    pub(super) fn note(&self, tool: Option<&str>, failed: bool) {
        let (Some(tool), Some(by)) = (tool, self.breaking) else { return };
        if self.breaker.note(tool, failed, by, now()) {
            tracing::warn!(server = %self.server, tool, "calls of the tool are refused for a while");
        }
    }

    /// Whether an instance is not left out.
    pub(super) fn is_fit(&self, at: usize) -> bool {
        self.balancer.is_fit(at, now())
    }

    /// The instance that a request goes to; none if none is left to try.
    pub(super) fn choose(&self, affinity: Affinity<'_>, tried: &[usize]) -> Result<Option<usize>, Refusal> {
        let key = match affinity {
            Affinity::Instance(tag) => {
                let at = self.by_tag.get(&tag).or_else(|| self.by_routed_tag.get(&tag));
                return at.copied().map(Some).ok_or(Refusal::SessionUnknown);
            }
            Affinity::Rather(tag, key) => {
                let at = self.by_tag.get(&tag).or_else(|| self.by_routed_tag.get(&tag)).copied();
                if let Some(at) = at.filter(|at| !tried.contains(at) && self.is_fit(*at)) {
                    return Ok(Some(at));
                }
                key.map(stable_hash)
            }
            Affinity::Key(key) => Some(stable_hash(key)),
            Affinity::Waits(whence) => {
                let at = self.by_whence.get(&whence).copied();
                if let Some(at) = at.filter(|at| !tried.contains(at)) {
                    return Ok(Some(at));
                }
                None
            }
            Affinity::Any => None,
        };
        Ok(self.balancer.pick(key, tried, now(), &mut rand::rng()))
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn member(
    endpoint: &Endpoint,
    instance: &Instance,
    balancing: kinds::LoadBalancing,
    config: &Config,
) -> Member {
    let zone = endpoint.locality.as_ref().map(|zone| zone.as_str());
    Member {
        load: Arc::clone(&instance.load),
        weight: endpoint.weight.map_or(1, |weight| weight.get()),
        hash: stable_hash(endpoint.address.as_str()),
        local: balancing.prefer_local && zone.is_some() && zone == config.locality.as_deref(),
    }
}

/// Where a sidecar serves the servers that it stands beside.
fn path(server: &ServerName) -> PathAndQuery {
    let path = format!("/servers/{}/{}/mcp", server.namespace, server.name);
    path.parse().expect("names are of characters that may stand in a path")
}

/// The making of a server's instances, out of the former ones where they stay.
struct Making<'a> {
    server: &'a ServerName,
    former: HashMap<(&'a HostPort, &'a SpiffeId), &'a Arc<Instance>>,
    tls: HashMap<SpiffeId, Arc<rustls::ClientConfig>>,
    limits: Limits,
    config: &'a Config,
    now: Instant,
}

impl<'a> Making<'a> {
    fn new(
        server: &'a ServerName,
        former: Option<&'a Reach>,
        limits: Limits,
        config: &'a Config,
        now: Instant,
    ) -> Self {
        let instances = || former.into_iter().flat_map(|former| &former.instances);
        Self {
            server,
            former: instances().map(|it| ((&it.address, &it.identity), it)).collect(),
            tls: instances().map(|it| (it.identity.clone(), Arc::clone(&it.tls))).collect(),
            limits,
            config,
            now,
        }
    }

    fn instance(&mut self, endpoint: &Endpoint, identity: &SpiffeId) -> Arc<Instance> {
        let former = self.former.get(&(&endpoint.address, identity)).copied();
        if let Some(same) = former.filter(|former| former.limits == self.limits) {
            return Arc::clone(same);
        }
        let tls = self.tls(identity);
        let destination =
            Destination::Tls { address: Address::from(&endpoint.address), config: Arc::clone(&tls) };
        let pool = Pool::new(destination, self.limits.settings());
        let load = former.map_or_else(|| Load::new(self.now), |former| Arc::clone(&former.load));
        // Whoever is checked otherwise, or not any more, begins anew.
        load.be_unwell(false);
        let checks = self.limits.check.map(|check| {
            Checks::new(check, pool.clone(), Arc::clone(&load), path(self.server).as_str().to_owned())
        });
        let key = &self.config.key;
        Arc::new(Instance {
            address: endpoint.address.clone(),
            identity: identity.clone(),
            limits: self.limits,
            tls,
            tag: key.tag(&format!("{} {identity}", endpoint.address)),
            routed_tag: key.tag(&format!("{} {} {identity}", self.server, endpoint.address)),
            pool,
            load,
            checks,
        })
    }

    fn tls(&mut self, identity: &SpiffeId) -> Arc<rustls::ClientConfig> {
        let Config { identity: own, trust, .. } = self.config;
        let make = || Arc::new(tls::client_config(own, trust, Expect::Exactly(identity.clone()), &ALPN));
        Arc::clone(self.tls.entry(identity.clone()).or_insert_with(make))
    }
}
