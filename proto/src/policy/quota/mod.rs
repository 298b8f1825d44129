//! How much callers may take: which limits count a call, what tells one count from another, and the arithmetic of each
//! kind of limit.
//!
//! A call takes from every limit that matches it, all or nothing. Time is an argument; where the counts are kept, and
//! who waits for what, is not here.

mod bucket;
mod calendar;
pub mod lease;
mod meter;

use std::collections::HashMap;
use std::sync::Arc;

use crate::mcp::{Target, method};
use crate::resource::kinds::{Amount, Dimension, LimitScope, Patterns, QuotaPolicy, WhenUnavailable};
use crate::resource::units::Budget;
use crate::wire::Object;

use super::access::Call;
use super::expr::{self, Weight};

pub use bucket::{Bucket, Flow};
pub use calendar::{Calendar, UnknownZone, Window};
pub use meter::{Again, Cost, Gauge, Meter, Now, Outcome, Taking, Verdict, take_all};

/// Amounts are counted in thousandths, so that a call may weigh less than one.
pub const MILLI: u64 = 1000;
/// More than any limit has.
const TOO_HEAVY: u64 = (Budget::AMOUNT_MAX + 1) * MILLI;

/// The limits of one server, made ready from the policies that select it.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    limits: Vec<Limit>,
}

/// A limit of a policy, made ready.
#[derive(Clone, Debug)]
pub struct Limit {
    /// `<namespace>/<name>` of the policy.
    pub policy: Arc<str>,
    /// What answers and records call it: its name, or its place in the policy.
    pub name: Arc<str>,
    /// What stays the same as long as its counts do; see [`identity`].
    pub identity: Arc<str>,
    pub gauge: Gauge,
    pub per: Arc<[Dimension]>,
    pub shadow: bool,
    pub scope: LimitScope,
    pub when_unavailable: WhenUnavailable,
    tools: Option<Patterns>,
    methods: Option<Patterns>,
    cost: Option<Weight>,
}

/// What is known of a call that is to be counted.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub caller: &'a str,
    /// The namespace of the caller, if it proved one.
    pub tenant: Option<&'a str>,
    pub server: &'a str,
    pub call: Call<'a>,
    /// The same, as expressions have it; none where nobody proved who calls.
    pub over: Option<expr::Facts<'a>>,
}

impl Plan {
    /// Whatever cannot be made ready was refused when it was read.
    pub fn new(policies: &[Arc<Object<QuotaPolicy>>]) -> Self {
        Self { limits: policies.iter().flat_map(|policy| limits(policy)).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// The limits that count a call, with their places among [`Self::limits`]. Handshakes, probes and notifications are
    /// never counted: a handshake that is turned away makes callers fall back to another era.
    pub fn matching<'p>(&'p self, call: Call<'p>) -> impl Iterator<Item = (usize, &'p Limit)> {
        let counted = is_counted(call.method);
        self.limits.iter().enumerate().filter(move |(_, limit)| counted && limit.matches(call))
    }
}

/// Whether quotas speak of a method at all.
pub fn is_counted(method: &str) -> bool {
    let exempt = matches!(method, method::INITIALIZE | method::PING | method::SERVER_DISCOVER);
    !exempt && !method.starts_with("notifications/")
}

impl Limit {
    /// With tools given, only calls of tools; with methods given, these must match too.
    fn matches(&self, call: Call<'_>) -> bool {
        if self.methods.as_ref().is_some_and(|methods| !methods.iter().any(|it| it.matches(call.method))) {
            return false;
        }
        // A stream that only listens may last for ever, so it is none of the calls that are under way.
        if matches!(self.gauge, Gauge::Slots(_)) && call.method == method::SUBSCRIPTIONS_LISTEN {
            return false;
        }
        match (&self.tools, call.target) {
            (None, _) => true,
            (Some(tools), Some(Target::Tool(name))) => tools.iter().any(|it| it.matches(name)),
            // A call that says of no tool which it is could be of any.
            (Some(_), None) => call.method == method::TOOLS_CALL,
            (Some(_), Some(Target::Prompt(_) | Target::Resource(_) | Target::Task(_))) => false,
        }
    }

    /// What tells the count for this call from others of the limit. What a call lacks is a value of its own.
    pub fn values<'a>(&'a self, facts: Facts<'a>) -> impl Iterator<Item = Option<&'a str>> {
        self.per.iter().map(move |dimension| match dimension {
            Dimension::Caller => Some(facts.caller),
            Dimension::Tenant => facts.tenant,
            Dimension::Server => Some(facts.server),
            Dimension::Tool => match facts.call.target {
                Some(Target::Tool(name)) => Some(name),
                Some(Target::Prompt(_) | Target::Resource(_) | Target::Task(_)) | None => None,
            },
            // No caller of the mesh has claims: these come with tokens, at gateways.
            Dimension::Claim(_) => None,
        })
    }

    /// Whether callers choose what tells its counts apart, so that one alone could make any number of them.
    pub fn is_split_by_choice(&self) -> bool {
        self.per.contains(&Dimension::Tool)
    }

    /// Whether each caller has counts of its own.
    pub fn is_of_callers(&self) -> bool {
        self.per.contains(&Dimension::Caller)
    }

    /// What a call weighs, in thousandths. One that cannot be weighed is heavier than any limit: arguments that no
    /// expression fits must not be the ones that cost nothing.
    pub fn weight(&self, facts: Facts<'_>) -> u64 {
        let Some(cost) = &self.cost else { return MILLI };
        let weighed = facts.over.and_then(|over| cost.evaluate(&over, &expr::Meter::default()).ok());
        weighed.map_or(TOO_HEAVY, |weight| weight * MILLI)
    }

    /// The limit and its window, as a refused caller reads it: `10/min`.
    pub fn amount(&self) -> String {
        self.gauge.to_string()
    }
}

fn limits(policy: &Object<QuotaPolicy>) -> Vec<Limit> {
    let full_name: Arc<str> = policy.meta.full_name().to_string().into();
    let mut alike: HashMap<String, usize> = HashMap::new();
    let made = policy.spec.limits.iter().enumerate().filter_map(|(index, limit)| {
        let gauge = Gauge::new(&limit.amount).ok()?;
        let known_by = identity(&full_name, limit);
        let nth = alike.entry(known_by.clone()).or_default();
        let identity = format!("{known_by}#{nth}").into();
        *nth += 1;
        let name = limit.name.as_ref().map_or_else(|| index.to_string(), ToString::to_string);
        Some(Limit {
            policy: Arc::clone(&full_name),
            name: name.into(),
            identity,
            gauge,
            per: limit.per.to_vec().into(),
            shadow: policy.spec.shadow,
            scope: limit.scope,
            when_unavailable: limit.when_unavailable,
            tools: limit.tools.clone(),
            methods: limit.methods.clone(),
            cost: limit.cost.clone(),
        })
    });
    made.collect()
}

/// What a limit is known by, so that an edit elsewhere resets no count: a limit with a name by that and by its kind and
/// window, so that even a change of its amount leaves what was taken taken; one without by all that it says.
fn identity(policy: &str, limit: &crate::resource::kinds::Limit) -> String {
    let kind = match &limit.amount {
        Amount::Rate { rate, .. } => format!("rate/{}", rate.window),
        Amount::Budget { budget, zone } => {
            let zone = zone.as_ref().map_or("UTC", |zone| zone.as_str());
            format!("budget/{:?}/{zone}", budget.window)
        }
        Amount::Concurrency(_) => "concurrency".to_owned(),
    };
    let per = limit.per.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    match &limit.name {
        Some(name) => format!("{policy}/{name} {kind} per {per} {:?}", limit.scope),
        // A limit that was read can be written.
        None => format!("{policy} {}", serde_json::to_string(limit).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests;
