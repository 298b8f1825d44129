//! The limits of a server, made ready once for each change of what selects it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use weft_proto::compile::ServerEntry;
use weft_proto::policy::access::Call;
use weft_proto::policy::quota::{Limit, Plan};

use super::key::Seed;
use super::leased::By;
use super::table::{Shown, Table};
use crate::metrics::{LimitLabels, Metrics, QuotaLabels, Tally};

/// Limits whose series are kept apart; further ones are counted together. Operators choose their names, yet may choose
/// others every day.
const SERIES_MAX: usize = 1024;

/// The limits of one server as they were last asked for.
#[derive(Debug, Default)]
pub struct Plans(ArcSwapOption<Of>);

/// The limits of one server.
#[derive(Debug)]
pub(super) struct Of {
    /// Kept, so that no other can have its place in memory.
    entry: Arc<ServerEntry>,
    limits: Arc<[Arc<Ready>]>,
    plan: Plan,
}

/// A limit with what every look at it needs.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) limit: Limit,
    /// `<namespace>/<policy>#<limit>`.
    pub(super) label: Arc<str>,
    pub(super) seed: Seed,
    /// Who lends it; none if it is merely counted here.
    pub(super) by: Option<By>,
    pub(super) counted: Counters,
}

/// What was decided by a limit.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    pub(super) allowed: Tally,
    pub(super) near: Tally,
    pub(super) denied: Tally,
    pub(super) shadow_denied: Tally,
}

/// The series of limits.
#[derive(Debug)]
pub(super) struct Series {
    metrics: Arc<Metrics>,
    known: Mutex<HashSet<(Arc<str>, Arc<str>)>>,
}

/// The limits of one server as they are now.
#[derive(Debug)]
pub(super) struct Matching(Guard<Option<Arc<Of>>>);

impl Plans {
    pub(super) fn of(&self, entry: &Arc<ServerEntry>, series: &Series, table: &Table) -> Matching {
        // Merely looked at: were it counted who does, all calls would wait for each other to count.
        let found = self.0.load();
        if found.as_ref().is_some_and(|of| Arc::ptr_eq(&of.entry, entry)) {
            return Matching(found);
        }
        let plan = Plan::new(&entry.quotas);
        let ready = |limit: &Limit| {
            Arc::new(Ready {
                label: format!("{}#{}", limit.policy, limit.name).into(),
                seed: Seed::new(limit),
                by: table.by(limit),
                counted: series.of(limit),
                limit: limit.clone(),
            })
        };
        let limits = plan.limits().iter().map(ready).collect();
        let of = Some(Arc::new(Of { entry: Arc::clone(entry), limits, plan }));
        self.0.store(of.clone());
        Matching(Guard::from_inner(of))
    }
}

impl Matching {
    /// None where there are no limits.
    pub(super) fn limits(&self) -> Option<&Of> {
        self.0.as_deref().filter(|of| !of.plan.is_empty())
    }
}

impl Of {
    pub(super) fn matching<'a>(&'a self, call: Call<'a>) -> impl Iterator<Item = &'a Arc<Ready>> {
        self.plan.matching(call).filter_map(|(at, _)| self.limits.get(at))
    }
}

impl Series {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        Self { metrics: Arc::clone(metrics), known: Mutex::default() }
    }

    fn of(&self, limit: &Limit) -> Counters {
        let (policy, name) = self.names(limit);
        let outcome = |outcome| {
            let labels = QuotaLabels { policy: Arc::clone(&policy), limit: Arc::clone(&name), outcome };
            self.metrics.quota_decisions.get_or_create_owned(&labels)
        };
        Counters {
            allowed: outcome("allowed"),
            near: outcome("near"),
            denied: outcome("denied"),
            shadow_denied: outcome("shadow_denied"),
        }
    }

    fn names(&self, limit: &Limit) -> (Arc<str>, Arc<str>) {
        let names = (Arc::clone(&limit.policy), Arc::clone(&limit.name));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SERIES_MAX && !known.contains(&names) {
            return ("other".into(), "other".into());
        }
        known.insert(names.clone());
        names
    }

    /// Writes down the fullest count of each limit.
    pub(super) fn show(&self, fullest: &HashMap<Arc<str>, Shown>) {
        self.metrics.quota_used.clear();
        self.metrics.quota_limit.clear();
        self.metrics.quota_lease.clear();
        self.metrics.quota_lease_age_seconds.clear();
        self.metrics.quota_fallback_active.clear();
        for Shown { ready, used, lent, fallbacks, age } in fullest.values() {
            let (policy, limit) = self.names(&ready.limit);
            let labels = LimitLabels { policy, limit };
            #[expect(clippy::cast_precision_loss, reason = "a gauge need not be exact past 2^53")]
            let whole = |milli: u64| milli as f64 / 1000.0;
            self.metrics.quota_used.get_or_create(&labels).set(whole(*used));
            self.metrics.quota_limit.get_or_create(&labels).set(whole(ready.limit.gauge.limit_milli()));
            if ready.by == Some(By::ControlPlane) {
                self.metrics.quota_lease.get_or_create(&labels).set(whole(*lent));
                if let Some(age) = age {
                    let age = Duration::from_nanos(*age).as_secs_f64();
                    self.metrics.quota_lease_age_seconds.get_or_create(&labels).set(age);
                }
                let fallbacks = i64::try_from(*fallbacks).unwrap_or(i64::MAX);
                self.metrics.quota_fallback_active.get_or_create(&labels).set(fallbacks);
            }
        }
    }
}
