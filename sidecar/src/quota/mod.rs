//! What callers may take, counted here: limits of `scope: instance` exactly, mesh-wide ones as far as they are lent, each
//! call against every limit that matches it, all or nothing.
//!
//! What a limit means is in `weft_proto::policy::quota`; here are the counts, who waits for a place, and what is said
//! of it. The number of counts is bounded, and a count is forgotten only where a fresh one would be the same, so that no
//! flood of names makes a limit start anew; see [`table`]. A call that answers a question which this sidecar put for its
//! server is the call that waits here, and is not counted again. One that answers a modern server's own question
//! (`requestState`, `inputResponses`) is counted like any other: a state that the server made cannot be told from one
//! that the caller did.

mod borrowed;
mod held;
mod journal;
mod keeper;
mod key;
mod leased;
mod line;
mod plan;
mod table;

use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use smallvec::SmallVec;
use tokio_util::sync::CancellationToken;
use weft_proto::compile::ServerEntry;
use weft_proto::mcp::{Message, method};
use weft_proto::name::ServerName;
use weft_proto::pb::weft::quota::v1 as pb;
use weft_proto::policy::access::Call as Asked;
use weft_proto::policy::expr;
use weft_proto::policy::quota::lease::{Grant, Loan, Part, Timing};
use weft_proto::policy::quota::{Again, Facts, Gauge, Outcome, Verdict};

use crate::classify::Call;
use crate::clock;
use crate::identify::Caller;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::record::Event;
use crate::refusal::{Hit, Refusal};
use crate::servers::Local;

use journal::Journal;
use keeper::Keeper;
use key::{Key, Owner};
use leased::By;
use line::Line;
use plan::{Of, Ready, Series};
use table::{Claim, Claims, Table};

pub use held::{Held, Kept};
pub use journal::Error as JournalError;
pub use key::Mark;
pub use plan::Plans;

/// When a call is told to come again that waits for another to end, which may be any time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Time that a call waits until more of a budget is lent, at most.
const LENT_WAIT: Duration = Duration::from_secs(2);
/// A call that waits asks again so often, should what it asked have been lost.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often one call stands in line, at most.
const LINES_MAX: usize = 4;
/// How often counts that are idle are forgotten, and the fullest are written down.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// The counts of this sidecar. Clones are the same.
#[derive(Clone, Debug)]
pub struct Quotas(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: Table,
    line: Arc<Line>,
    series: Series,
    wait_max: Duration,
    /// Calls that wait until more is lent, and the most of them.
    wait_lent: AtomicUsize,
    wait_lent_max: usize,
    /// Taken by whoever keeps budgets.
    journal: Mutex<Option<Journal>>,
    metrics: Arc<Metrics>,
    session: u64,
    /// Of the last report of what is held of mesh-wide limits.
    sequence: AtomicU64,
}

/// One call that asks.
#[derive(Clone, Copy)]
struct Asking<'a> {
    limits: &'a Of,
    facts: &'a [Facts<'a>],
    owner: Owner,
}

/// A call that waits for a place, or for more of a budget.
type Later<'a> = Pin<Box<dyn Future<Output = (Outcome, Claims<'a>)> + Send + 'a>>;

impl Quotas {
    /// Budgets outlive this run where there is a folder to keep them in; elsewhere they are counted in memory.
    pub fn new(limits: &Limits, metrics: &Arc<Metrics>, folder: Option<&Path>) -> Result<Self, JournalError> {
        let now_secs = clock::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now_secs = i64::try_from(now_secs).unwrap_or(i64::MAX);
        let journal = folder.map(|folder| Journal::open(folder, now_secs)).transpose()?;
        let (keys_max, per_caller_max) = (limits.quota_keys_max, limits.quota_keys_per_caller_max);
        Ok(Self(Arc::new(Shared {
            table: Table::new(keys_max, per_caller_max, journal.is_some()),
            wait_lent: AtomicUsize::new(0),
            wait_lent_max: limits.quota_waiting_max,
            journal: Mutex::new(journal),
            line: Arc::new(Line::new(limits.quota_waiting_max, limits.quota_waiting_per_caller_max)),
            series: Series::new(metrics),
            wait_max: *limits.quota_wait_timeout,
            metrics: Arc::clone(metrics),
            session: rand::random(),
            sequence: AtomicU64::new(0),
        })))
    }

    /// Writes down what counts as spent of budgets before it is, until the stop.
    pub async fn keep(self, stop: CancellationToken) {
        let journal = self.0.journal.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(journal) = journal {
            Keeper::new(self, journal).run(stop).await;
        }
    }

    /// What is held of a request that costs nothing.
    pub fn nothing(&self) -> Held<'_> {
        Held::nothing(self)
    }

    /// Takes what a request costs from every limit of its server, or says which limit refuses.
    pub async fn take<'q>(
        &'q self,
        server: &Local,
        entry: &Arc<ServerEntry>,
        caller: &Caller,
        call: &Call<'_>,
        event: &mut Event,
    ) -> Result<Held<'q>, Refusal> {
        let matching = server.quotas.of(entry, &self.0.series, &self.0.table);
        let Some(limits) = matching.limits() else { return Ok(Held::nothing(self)) };
        let facts: SmallVec<[Facts<'_>; 1]> = requests(server, caller, call).collect();
        let asking = Asking { limits, facts: &facts, owner: owner(caller) };
        match self.decide(asking, event) {
            Ok(decided) => decided,
            Err(later) => {
                let (outcome, claims) = later.await;
                self.end(outcome, &claims, event)
            }
        }
    }

    /// Decides a call, unless it has to wait.
    fn decide<'q: 'a, 'a>(
        &'q self,
        asking: Asking<'a>,
        event: &mut Event,
    ) -> Result<Result<Held<'q>, Refusal>, Later<'a>> {
        let Asking { limits, facts, owner } = asking;
        let mut claims = Claims::new();
        for facts in facts {
            for ready in limits.matching(facts.call) {
                claims.push(Table::claim(ready, owner, facts));
            }
        }
        if claims.is_empty() {
            return Ok(Ok(Held::nothing(self)));
        }
        let (seen, lendings) = (self.0.line.ended(&claims), self.0.table.lendings());
        let outcome = match self.0.line.is_before(&claims) {
            // Whoever waits for the same place goes first.
            Some(by) => Outcome::Denied { by, again: Again::WhenOneEnds },
            None => self.0.table.take(&mut claims, owner, self.0.table.now()),
        };
        match outcome {
            Outcome::Denied { again: Again::WhenOneEnds | Again::WhenLent, .. } => {
                Err(Box::pin(self.take_later(claims, owner, outcome, (seen, lendings))))
            }
            Outcome::Denied { .. } | Outcome::Taken => Ok(self.end(outcome, &claims, event)),
        }
    }

    /// Takes once there is a place, and enough is lent.
    async fn take_later<'a>(
        &self,
        mut claims: Claims<'a>,
        owner: Owner,
        mut outcome: Outcome,
        (mut seen, lendings): (u64, u64),
    ) -> (Outcome, Claims<'a>) {
        let deadline = tokio::time::Instant::now() + LENT_WAIT;
        for _ in 0..LINES_MAX {
            outcome = match outcome {
                Outcome::Denied { by, again: Again::WhenOneEnds } => {
                    self.wait(&mut claims, owner, by, seen).await
                }
                Outcome::Denied { again: Again::WhenLent, .. } => {
                    self.wait_until_lent(&mut claims, owner, outcome, (deadline, lendings)).await
                }
                Outcome::Denied { .. } | Outcome::Taken => break,
            };
            seen = self.0.line.ended(&claims);
        }
        (outcome, claims)
    }

    /// Waits until enough is lent of a budget, a while.
    async fn wait_until_lent(
        &self,
        claims: &mut Claims<'_>,
        owner: Owner,
        mut outcome: Outcome,
        (deadline, mut seen): (tokio::time::Instant, u64),
    ) -> Outcome {
        let Some(_waits) = Waits::enter(&self.0) else { return outcome };
        while let Outcome::Denied { again: Again::WhenLent, .. } = outcome {
            let now = tokio::time::Instant::now();
            if now >= deadline {
                break;
            }
            // Each try asks for what it lacks, so it is tried again when there is news, or when the asking may be lost.
            let _ = tokio::time::timeout_at(deadline.min(now + ASK_AGAIN), self.0.table.is_lent(seen)).await;
            seen = self.0.table.lendings();
            outcome = self.0.table.take(claims, owner, self.0.table.now());
        }
        outcome
    }

    /// Waits in line for a place, a while.
    async fn wait(&self, claims: &mut Claims<'_>, owner: Owner, mut by: usize, mut seen: u64) -> Outcome {
        let deadline = tokio::time::Instant::now() + self.0.wait_max;
        let mut place = None;
        loop {
            let Some(mut waits) = self.0.line.join(claims, by, owner.number(), seen, place.take()) else {
                return Outcome::Denied { by, again: Again::WhenOneEnds };
            };
            // Nobody is called where a limit grows while no call of it runs, so there may be a place at the end, too.
            let is_late = tokio::time::timeout_at(deadline, waits.turn()).await.is_err();
            seen = self.0.line.ended(claims);
            match self.0.table.take(claims, owner, self.0.table.now()) {
                Outcome::Denied { by: other, again: Again::WhenOneEnds } if !is_late => by = other,
                Outcome::Taken => {
                    waits.took();
                    return Outcome::Taken;
                }
                outcome @ Outcome::Denied { .. } => return outcome,
            }
            place = Some(waits);
        }
    }

    fn end(&self, outcome: Outcome, claims: &[Claim<'_>], event: &mut Event) -> Result<Held<'_>, Refusal> {
        match outcome {
            Outcome::Taken => Ok(self.taken(claims, event)),
            Outcome::Denied { by, again } => Err(denied(claims[by].ready, again, event)),
        }
    }

    fn taken(&self, claims: &[Claim<'_>], event: &mut Event) -> Held<'_> {
        let mut held = Held::nothing(self);
        for claim in claims {
            let counted = &claim.ready.counted;
            match claim.verdict {
                Verdict::Allowed => counted.allowed.inc(),
                Verdict::Near => counted.near.inc(),
                // In shadow, and nobody knows yet what is left.
                Verdict::Denied(Again::WhenLent) => continue,
                Verdict::Denied(_) => {
                    event.shadow_limit = Some(Arc::clone(&claim.ready.label));
                    counted.shadow_denied.inc();
                    continue;
                }
            };
            held.add(claim);
        }
        held
    }

    /// By which the control plane knows this run.
    pub fn session(&self) -> u64 {
        self.0.session
    }

    /// Waits until there is something that the control plane is to hear at once.
    pub async fn asked(&self) {
        self.0.table.borrowed(By::ControlPlane).asked.notified().await;
    }

    /// What is held and wanted of mesh-wide limits, all or what is urgent, in messages of so many, each made when it is
    /// asked for; with when that was, by this run's own clock. There is one message at least where all is told.
    pub fn lease_reports(
        &self,
        all: bool,
        most: usize,
        timing: Timing,
    ) -> impl Iterator<Item = (pb::LeaseReport, u64)> + Send + use<> {
        let (quotas, mut keys, mut is_due) =
            (self.clone(), self.0.table.borrowed(By::ControlPlane).told(all).into_iter(), all);
        std::iter::from_fn(move || {
            let keys: Vec<Key> = keys.by_ref().take(most.max(1)).collect();
            let says_something = std::mem::take(&mut is_due) || !keys.is_empty();
            says_something.then(|| quotas.lease_report(&keys, timing))
        })
    }

    fn lease_report(&self, keys: &[Key], timing: Timing) -> (pb::LeaseReport, u64) {
        let sequence = self.0.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let now = self.0.table.now();
        let demand = |key: &Key| self.0.table.demand(*key, sequence, timing, now);
        let demands = keys.iter().filter_map(demand).collect();
        (pb::LeaseReport { session: self.0.session, sequence, demands, node: String::new() }, now.nanos)
    }

    /// Takes what the control plane granted. `asked_at` is when the report was made that it answers, if it answers one.
    pub fn take_leases(&self, message: &pb::LeaseGrant, asked_at: Option<u64>, timing: Timing) {
        let now = self.0.table.now();
        let mut has_lent = false;
        for lease in &message.leases {
            if lease.window_ends != 0 {
                let (ends, may) = (lease.window_ends, lease.capacity_milli);
                let loan = Loan { ends, may, number: lease.number, is_last: lease.is_last };
                self.0.table.lent(By::ControlPlane, lease.handle, message.epoch, loan);
                has_lent = true;
                continue;
            }
            let grant = Grant {
                epoch: message.epoch,
                number: lease.number,
                answers: (message.acknowledged_sequence > 0).then_some(message.acknowledged_sequence),
                part: Part { capacity: lease.capacity_milli, burst: lease.burst_milli },
                tokens: lease.tokens_milli,
                safe: lease.safe_milli,
            };
            self.0.table.granted(lease.handle, grant, asked_at, timing, now);
        }
        if has_lent {
            self.0.table.was_lent();
        }
    }

    /// Forgets idle counts and writes down the fullest of each limit, now and then until the stop.
    pub async fn sweep(self, stop: CancellationToken) {
        let mut every = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = every.tick() => {}
            }
            self.0.series.show(&self.0.table.sweep(self.0.table.now()));
            self.0.metrics.quota_keys.set(i64::try_from(self.0.table.len()).unwrap_or(i64::MAX));
        }
    }
}

fn denied(by: &Ready, again: Again, event: &mut Event) -> Refusal {
    by.counted.denied.inc();
    event.limit = Some(Arc::clone(&by.label));
    let after = match again {
        Again::WhenOneEnds | Again::WhenLent => Some(AGAIN_AFTER),
        // Whole seconds, and never too early.
        Again::After(after) => {
            Some(Duration::from_secs(after.as_nanos().div_ceil(1_000_000_000).max(1) as u64))
        }
        Again::Never => None,
    };
    let hit = Hit { limit: by.label.to_string(), window: by.limit.amount(), after };
    match by.limit.gauge {
        _ if again == Again::WhenLent => Refusal::NotLent(hit),
        Gauge::Budget { .. } | Gauge::Lent { .. } => Refusal::BudgetSpent(hit),
        Gauge::Rate(_) | Gauge::Slots(_) => Refusal::Limited(hit),
    }
}

/// What is known of each request of a call.
fn requests<'a>(
    server: &'a Local,
    caller: &'a Caller,
    call: &'a Call<'_>,
) -> impl Iterator<Item = Facts<'a>> {
    call.messages().iter().filter_map(move |message| {
        let Message::Request(request) = message else { return None };
        let arguments = method::has_arguments(&request.method).then_some(request.params.arguments).flatten();
        let asked = Asked { method: &request.method, target: request.target(), arguments };
        Some(Facts {
            caller: caller.name(),
            tenant: caller.tenant(),
            server: &server.label,
            call: asked,
            over: over(caller, &server.name, asked),
        })
    })
}

/// What is weighed by expressions.
fn over<'a>(caller: &'a Caller, server: &'a ServerName, call: Asked<'a>) -> Option<expr::Facts<'a>> {
    let Caller::Workload(proved) = caller else { return None };
    let Asked { method, target, arguments } = call;
    Some(expr::Facts { caller: &proved.caller, server, method, target, arguments })
}

/// Who calls, as digests.
fn owner(caller: &Caller) -> Owner {
    let make = || Owner::new(caller.name(), caller.tenant());
    match caller {
        Caller::Workload(proved) => proved.mark.owner(make),
        Caller::Local | Caller::Anonymous | Caller::Guest(_) => make(),
    }
}

/// One of the calls that wait until more is lent.
struct Waits<'a>(&'a Shared);

impl<'a> Waits<'a> {
    /// None where too many wait.
    fn enter(shared: &'a Shared) -> Option<Self> {
        let waiting = shared.wait_lent.fetch_add(1, Ordering::Relaxed);
        let waits = Self(shared);
        (waiting < shared.wait_lent_max).then_some(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.wait_lent.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
