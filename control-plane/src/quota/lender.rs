//! The limits that are lent, and to whom.

use std::cmp::{Ordering, Reverse};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use weft_proto::name::{NodeId, SpiffeId};
use weft_proto::pb::weft::quota::v1 as pb;
use weft_proto::policy::quota::lease::{Allocator, Grant, Part, Report, Terms, Timing};
use weft_proto::policy::quota::{Gauge, Limit};
use weft_proto::resource::Resource;
use weft_proto::resource::kinds::{Dimension, LimitScope};

use super::Settings;
use super::budgets::{Budgets, Who};
use super::lent::{Lent, Totals};
use super::limits::{Limits, Made};
use super::nodes::{Nodes, Refused};
use super::unanswered::Unanswered;
use crate::clock;
use crate::metrics::{Metrics, ReasonLabel};
use crate::store::{self, Store};

/// Grants that wait for a connection to take them, beside answers; one that is slower loses them, and is answered
/// with its next report.
const PUSHED_MAX: usize = 256;
/// Longest value that splits a limit, in bytes. Sidecars shorten those that callers choose.
const VALUE_BYTES_MAX: usize = 2304;
/// Where there is no room for another key, keys that nobody needs are looked for no more often than this.
const SEARCH_AGAIN_NANOS: u64 = 1_000_000_000;

/// Lends every limit of the mesh.
#[derive(Debug)]
pub struct Lender {
    pub(super) settings: Settings,
    timing: Timing,
    epoch: u64,
    began: Instant,
    /// Policies that there were when this one began to lend, and when that was: an earlier one may have lent of them. Not
    /// known yet at first.
    before: OnceLock<(HashSet<String>, u64)>,
    /// Whether it is this one that lends; always, where it is alone.
    lends: Option<watch::Receiver<bool>>,
    limits: Limits,
    metrics: Arc<Metrics>,
    budgets: Budgets,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    keys: HashMap<KeyOf, Lent>,
    nodes: Nodes,
    /// When keys were looked for that nobody needs.
    searched: u64,
}

/// A limit with the values that split it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct KeyOf {
    pub(super) policy: String,
    pub(super) limit: String,
    pub(super) parts: Vec<(String, Option<String>)>,
}

/// What a holder may ask for, and does.
struct Asked<'a, T = Option<Terms>> {
    demand: &'a pb::LeaseDemand,
    key: KeyOf,
    limit: Arc<Limit>,
    /// None of a budget.
    terms: T,
}

/// How one limit stands.
#[derive(Clone, Debug)]
pub struct Standing {
    pub policy: String,
    pub limit: Arc<str>,
    pub amount: String,
    pub parts: Vec<(String, Option<String>)>,
    pub whole: Part,
    pub lent: Part,
    pub holders: usize,
    pub totals: Totals,
    /// Of a rate, what passed lately, as of one window; of calls at once, the most that ran lately. In thousandths.
    pub used_milli: u64,
    /// Nothing new is lent yet, for what an earlier control plane lent may still be in use.
    pub learns: bool,
    pub is_budget: bool,
    /// Holders that have not reported for half a lease.
    pub overdue: usize,
}

impl Lender {
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let timing = settings.timing();
        let (epoch, began) = (rand::random(), Instant::now());
        let (before, limits, inner) = (OnceLock::new(), Limits::default(), Mutex::default());
        let budgets = Budgets::new(settings.keys_max, settings.keys_per_node_max);
        let lends = None;
        Self { settings, timing, epoch, began, before, lends, limits, metrics, budgets, inner }
    }

    /// Lends only while this says so: of several, each would lend the whole.
    pub fn lending_while(self, lends: Option<watch::Receiver<bool>>) -> Self {
        Self { lends, ..self }
    }

    /// Whether it may lend now.
    pub(super) fn lends(&self) -> bool {
        self.lends.as_ref().is_none_or(|lends| *lends.borrow())
    }

    /// Ends once it may lend no more.
    pub(super) async fn lends_no_more(&self) {
        if let Some(lends) = &self.lends
            && lends.clone().wait_for(|lends| !lends).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// Reads what is spent of budgets, without which none is lent.
    pub async fn read_budgets(&self, store: &dyn Store) -> store::Result<()> {
        self.budgets.read(store).await
    }

    /// Makes an answer one that may be given: what counts as spent because of it is written down, or it lends nothing of
    /// budgets.
    pub(super) async fn write_budgets(&self, store: &dyn Store, answer: &mut pb::LeaseGrant) {
        if answer.leases.iter().all(|lease| lease.window_ends == 0) {
            return;
        }
        if let Err(error) = self.budgets.write(store).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "what is lent of budgets cannot be written down, so that nothing is lent");
            answer.leases.retain(|lease| lease.window_ends == 0);
        }
    }

    /// These policies were there before this one lends, which it does from now on. Of others nothing can have been lent
    /// yet, so that what they limit is lent at once; but for one that was deleted just before and is made anew just after.
    pub(crate) fn began_with(&self, policies: HashSet<String>) {
        let _ = self.before.set((policies, self.now()));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Until when what is lent now is counted.
    fn ends(&self, now: u64) -> u64 {
        now.saturating_add(self.timing.counted_nanos())
    }

    /// A stream of a session begins; an earlier one of its node gets no more grants.
    pub fn open(
        &self,
        identity: &SpiffeId,
        node: &NodeId,
        session: u64,
    ) -> Result<(u64, mpsc::Receiver<pb::LeaseGrant>), Refused> {
        let now = self.now();
        let (grants, receiver) = mpsc::channel(PUSHED_MAX);
        let mut inner = self.lock();
        let (streams_max, times) = (self.settings.streams_max, (now, self.ends(now)));
        let opened = inner.nodes.open((identity, node), session, grants, streams_max, times);
        self.show(&inner);
        drop(inner);
        if let Err(refused) = opened {
            let reason = refused.reason();
            self.metrics.lease_streams_refused.get_or_create(&ReasonLabel { reason }).inc();
        }
        opened.map(|holder| (holder, receiver))
    }

    /// The stream ended. What is lent stays so until its time is over.
    pub(super) fn close(&self, holder: u64, stream: &mpsc::Receiver<pb::LeaseGrant>) {
        let mut inner = self.lock();
        // One that took over is left alone: then this one's sender is gone already.
        if stream.sender_strong_count() > 0 {
            inner.nodes.close(holder);
        }
        self.show(&inner);
    }

    fn show(&self, inner: &Inner) {
        let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.lease_streams.set(whole(inner.nodes.streams()));
        self.metrics.lease_keys.set(whole(inner.keys.len() + self.budgets.len()));
    }

    /// Takes a report of a holder, and answers it. `policy` finds a policy by its name, if the holder may ask for it, on
    /// behalf of a server if one is given.
    pub fn report(
        &self,
        holder: u64,
        report: &pb::LeaseReport,
        policy: impl Fn(&str, Option<&str>) -> Option<Arc<Resource>>,
    ) -> pb::LeaseGrant {
        // What limits say is found out before anybody else has to wait.
        let asked: Vec<_> = report.demands.iter().map(|demand| self.asked(demand, &policy)).collect();
        let now = self.now();
        let mut inner = self.lock();
        let Some(node) = inner.nodes.heard(holder, self.ends(now)) else {
            return self.message(report.sequence, Vec::new());
        };
        let (mut answer, mut budgets) = (Vec::new(), Vec::new());
        for asked in asked {
            match asked {
                Ok(Asked { terms: Some(terms), demand, key, limit }) => {
                    let found = self.has_room(&mut inner, node, &key, now);
                    let asked = Asked { terms, demand, key, limit };
                    let lend =
                        |()| self.lend(&mut inner, (node, holder), report.sequence, asked, &policy, now);
                    match found.map(lend) {
                        Ok(grant) => answer.extend(grant),
                        Err(why) => self.unanswered(why),
                    }
                }
                Ok(budget) => budgets.push(budget),
                Err(why) => self.unanswered(why),
            }
        }
        let who = Who { node, holder };
        let now_secs = now_secs();
        for Asked { demand, key, limit, .. } in budgets {
            match self.budgets.report(who, &key, &limit, (report.sequence, demand), now_secs) {
                Ok(lease) => answer.extend(lease),
                Err(why) => self.unanswered(why.into()),
            }
        }
        self.show(&inner);
        self.metrics.lease_grants.inc_by(answer.len() as u64);
        self.message(report.sequence, answer)
    }

    fn unanswered(&self, why: Unanswered) {
        self.metrics.lease_demands_refused.get_or_create(&ReasonLabel { reason: why.reason() }).inc();
    }

    /// What a demand asks for.
    fn asked<'a>(
        &self,
        demand: &'a pb::LeaseDemand,
        policy: impl Fn(&str, Option<&str>) -> Option<Arc<Resource>>,
    ) -> Result<Asked<'a>, Unanswered> {
        let key = demand.key.as_ref().and_then(KeyOf::read).ok_or(Unanswered::Key)?;
        let found = policy(&key.policy, key.server()).ok_or(Unanswered::Policy)?;
        let limit = self.limits.of(&key.policy, &found).get(key.limit.as_str()).cloned();
        let limit = limit.filter(|limit| key.is_of(limit)).ok_or(Unanswered::Limit)?;
        let terms = match (limit.scope, &limit.gauge) {
            (LimitScope::Mesh, Gauge::Budget { .. }) => None,
            (LimitScope::Mesh | LimitScope::Instance, _) => Some(terms(&limit).ok_or(Unanswered::Limit)?),
        };
        Ok(Asked { demand, key, limit, terms })
    }

    fn lend(
        &self,
        inner: &mut Inner,
        (node, holder): (u64, u64),
        sequence: u64,
        Asked { demand, key, limit, terms }: Asked<'_, Terms>,
        policy: impl Fn(&str, Option<&str>) -> Option<Arc<Resource>>,
        now: u64,
    ) -> Option<pb::Lease> {
        let lent = inner.keys.entry(key.clone()).or_insert_with(|| {
            // As of when this one began: whatever an earlier one lent is over by the same time for every limit.
            let known = match self.before.get() {
                Some((before, since)) => before.contains(&key.policy).then_some(*since),
                // Alone, it began with its run; one of several begins when it leads, which is not before now.
                None => Some(if self.lends.is_some() { now } else { 0 }),
            };
            let (may_be_known, began) = (known.is_some(), known.unwrap_or(now));
            Lent::new(&limit, Allocator::new(terms, self.timing, self.epoch, may_be_known, began))
        });
        let mut grants = Vec::new();
        // Found before the policy changed, it must not go back to what was.
        if lent.allocator.terms() != terms
            && let Ok(Asked { limit, terms: Some(terms), .. }) = self.asked(demand, policy)
        {
            grants.extend(lent.change(&limit, terms, now));
        }
        grants.extend(lent.allocator.report(holder, read(sequence, demand), now));
        let change = lent.count((node, holder), demand, now);
        inner.nodes.named(node, change);
        let (own, others): (Vec<_>, Vec<_>) = grants.into_iter().partition(|(to, _)| *to == holder);
        self.push(inner, &key, others);
        own.into_iter().last().map(|(_, grant)| lease(demand.handle, grant))
    }

    /// Whether a node may name this key: there is room, and it has not named too many.
    fn has_room(&self, inner: &mut Inner, node: u64, key: &KeyOf, now: u64) -> Result<(), Unanswered> {
        let known = inner.keys.get(key);
        if known.is_some_and(|lent| lent.is_named_by(node)) {
            return Ok(());
        }
        if inner.nodes.keys(node) >= self.settings.keys_per_node_max {
            return Err(Unanswered::KeysOfNode);
        }
        let full = inner.keys.len() >= self.settings.keys_max;
        if known.is_none() && full && now >= inner.searched.saturating_add(SEARCH_AGAIN_NANOS) {
            self.forget_idle(inner, now);
        }
        let fits = inner.keys.len() < self.settings.keys_max || inner.keys.contains_key(key);
        fits.then_some(()).ok_or(Unanswered::Keys)
    }

    /// Forgets what nobody needs.
    pub(super) fn sweep(&self) {
        let now = self.now();
        let mut inner = self.lock();
        self.forget_idle(&mut inner, now);
        inner.nodes.sweep(now);
        self.budgets.sweep(now_secs());
        self.show(&inner);
    }

    fn forget_idle(&self, inner: &mut Inner, now: u64) {
        inner.searched = now;
        let nodes = &mut inner.nodes;
        inner.keys.retain(|_, lent| {
            for node in lent.lapse(self.timing, now) {
                nodes.named(node, -1);
            }
            !lent.allocator.is_idle(now)
        });
    }

    /// Looks at every limit that is lent: what is another by now is called back, without anybody's asking.
    pub(super) fn limits_changed(&self, policy: impl Fn(&str) -> Option<Arc<Resource>>) {
        let names: HashSet<String> = self.lock().keys.keys().map(|key| key.policy.clone()).collect();
        let made = |name: &String| Some((name.clone(), self.limits.of(name, &policy(name)?)));
        let made: HashMap<String, Arc<Made>> = names.iter().filter_map(made).collect();
        self.limits.keep(&made.keys().cloned().collect());
        let now = self.now();
        let mut inner = self.lock();
        let mut moved = Vec::new();
        for (key, lent) in &mut inner.keys {
            // A limit that is no more is nobody's concern: sidecars drop it by themselves.
            let limit = made.get(&key.policy).and_then(|made| made.get(key.limit.as_str()));
            let Some((limit, terms)) = limit.and_then(|limit| Some((limit, terms(limit)?))) else { continue };
            let grants = lent.change(limit, terms, now);
            if !grants.is_empty() {
                moved.push((key.clone(), grants));
            }
        }
        for (key, grants) in moved {
            self.push(&inner, &key, grants);
        }
    }

    fn push(&self, inner: &Inner, key: &KeyOf, grants: Vec<(u64, Grant)>) {
        for (holder, grant) in grants {
            let Some(node) = inner.nodes.of(holder) else { continue };
            let handle = inner.keys.get(key).and_then(|lent| lent.handle((node, holder)));
            let (Some(handle), Some(to)) = (handle, inner.nodes.grants(holder)) else { continue };
            let _ = to.try_send(self.message(0, vec![lease(handle, grant)]));
            self.metrics.lease_grants.inc();
        }
    }

    fn message(&self, answers: u64, leases: Vec<pb::Lease>) -> pb::LeaseGrant {
        pb::LeaseGrant {
            acknowledged_sequence: answers,
            epoch: self.epoch,
            leases,
            valid_for: prost_types::Duration::try_from(self.settings.lease).ok(),
            refresh_after: prost_types::Duration::try_from(self.settings.refresh).ok(),
        }
    }

    /// How many counts there are, and how many there may be.
    pub fn room(&self) -> (usize, usize) {
        (self.lock().keys.len() + self.budgets.len(), self.settings.keys_max)
    }

    /// How every limit that is lent stands.
    pub fn standing(&self) -> Vec<Standing> {
        self.busiest(usize::MAX, |_, _| true).0
    }

    /// How the limits stand that are lent and wanted, by policy and the values that split them: those of which most is
    /// used first, at most so many, and how many were left out.
    pub fn busiest(
        &self,
        counts_max: usize,
        wanted: impl Fn(&str, &[(String, Option<String>)]) -> bool,
    ) -> (Vec<Standing>, usize) {
        let budgets = self.budgets.standing(&wanted);
        let (now, inner) = (self.now(), self.lock());
        let wanted = inner.keys.iter().filter(|(key, _)| wanted(&key.policy, &key.parts));
        let ordered = |(key, lent): (_, &Lent)| (Reverse(lent.used_per_million(self.timing, now)), key);
        let mut found: Vec<_> = wanted.map(ordered).collect();
        let mut left_out = found.len().saturating_sub(counts_max);
        if left_out > 0 {
            found.select_nth_unstable(counts_max);
            found.truncate(counts_max);
        }
        let standing = found
            .iter()
            .filter_map(|(_, key)| inner.keys.get(*key).map(|lent| lent.standing(key, self.timing, now)));
        let mut standing: Vec<Standing> = standing.chain(budgets).collect();
        standing.sort_by(Standing::busier);
        left_out += standing.len().saturating_sub(counts_max);
        standing.truncate(counts_max);
        (standing, left_out)
    }
}

impl Standing {
    /// Of which most is used first; then by name.
    fn busier(&self, other: &Self) -> Ordering {
        let used = |it: &Self| u128::from(it.used_milli) * 1_000_000 / u128::from(it.whole.capacity.max(1));
        let name = |it: &Self| (it.policy.clone(), Arc::clone(&it.limit), it.parts.clone());
        used(other).cmp(&used(self)).then_with(|| name(self).cmp(&name(other)))
    }
}

impl KeyOf {
    /// None if it is larger than any that a sidecar sends.
    fn read(key: &pb::LimitKey) -> Option<Self> {
        let parts = key.parts.iter().map(|part| (part.dimension.clone(), part.value.clone()));
        let fits =
            |part: &pb::KeyPart| part.value.as_ref().is_none_or(|value| value.len() <= VALUE_BYTES_MAX);
        key.parts.iter().all(fits).then(|| Self {
            policy: key.policy.clone(),
            limit: key.limit.clone(),
            parts: parts.collect(),
        })
    }

    /// Whether it is of this limit of this policy: by no other name of the policy, for each name would be a limit of its
    /// own; and with a value for each that splits the limit, and no other.
    fn is_of(&self, limit: &Limit) -> bool {
        let names = limit.per.iter().map(ToString::to_string);
        *self.policy == *limit.policy && names.eq(self.parts.iter().map(|(dimension, _)| dimension.clone()))
    }

    /// The server that it names.
    fn server(&self) -> Option<&str> {
        let server = Dimension::Server.to_string();
        self.parts.iter().find(|(dimension, _)| *dimension == server)?.1.as_deref()
    }
}

fn read(sequence: u64, demand: &pb::LeaseDemand) -> Report {
    Report {
        sequence,
        epoch: demand.epoch,
        acknowledged: demand.number,
        in_use: demand.in_use_milli.unwrap_or(demand.has_milli),
        has: Part { capacity: demand.has_milli, burst: demand.has_burst_milli },
        wants: demand.wants_milli,
        release: demand.release,
    }
}

const fn lease(handle: u64, grant: Grant) -> pb::Lease {
    pb::Lease {
        handle,
        number: grant.number,
        capacity_milli: grant.part.capacity,
        burst_milli: grant.part.burst,
        tokens_milli: grant.tokens,
        safe_milli: grant.safe,
        window_ends: 0,
        is_last: false,
    }
}

/// Windows of budgets are those of the calendar.
fn now_secs() -> i64 {
    let since = clock::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn terms(limit: &Limit) -> Option<Terms> {
    match (&limit.scope, &limit.gauge) {
        (LimitScope::Mesh, Gauge::Rate(flow)) => {
            Some(Terms::rate(flow.amount_milli, flow.burst_milli, flow.window_nanos))
        }
        (LimitScope::Mesh, Gauge::Slots(calls)) => Some(Terms::slots(*calls)),
        (LimitScope::Mesh, Gauge::Budget { .. } | Gauge::Lent { .. }) | (LimitScope::Instance, _) => None,
    }
}

#[cfg(test)]
mod tests;
