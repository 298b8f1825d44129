//! `QuotaPolicy`: how much.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Patterns, ServerSelector, is_default};
use crate::name::{ObjectName, serde_as_text};
use crate::policy::expr::Weight;
use crate::resource::bounded::{Count, List, Text};
use crate::resource::units::{Budget, Rate, Span};

/// How much callers may take. A call takes from every limit that matches it, or is refused by one of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuotaPolicy {
    /// The servers it speaks about; every server of its scope if not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub servers: ServerSelector,
    pub limits: List<Limit, 64, 1>,
    /// Count and record, without refusing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shadow: bool,
}

/// One limit, kept for each combination of the values of `per`. Exactly one of `rate`, `budget` and `concurrency` says
/// how much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Raw", into = "Raw")]
#[schemars(with = "Raw")]
pub struct Limit {
    pub name: Option<ObjectName>,
    pub tools: Option<Patterns>,
    pub methods: Option<Patterns>,
    pub per: List<Dimension, 8>,
    pub amount: Amount,
    pub cost: Option<Weight>,
    pub scope: LimitScope,
    pub when_unavailable: WhenUnavailable,
}

/// What is counted.
#[derive(Clone, Debug, PartialEq)]
pub enum Amount {
    /// A token bucket.
    Rate { rate: Rate, burst: Option<Count<1, 1_000_000>> },
    /// A calendar window, kept over restarts.
    Budget { budget: Budget, zone: Option<Text<64>> },
    /// Calls under way at once.
    Concurrency(Count<1, 65536>),
}

/// What tells one counter from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimension {
    Caller,
    Tenant,
    Tool,
    Server,
    Claim(Text<128>),
}

/// Who keeps the count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LimitScope {
    /// Each sidecar for itself.
    #[default]
    Instance,
    /// All sidecars together, by leases.
    Mesh,
}

/// What a mesh-wide limit does where no lease can be had. Nothing becomes unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnavailable {
    /// A safe share: this much in the limit's own units, or what the control plane last computed as safe.
    Floor(Option<Count<0, 1_000_000>>),
    Deny,
    /// The last lease, for so long.
    Reuse(Span),
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Limit")]
pub(crate) struct Raw {
    /// What answers and records call it; its place in the list if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<ObjectName>,
    /// Tools it counts; with neither tools nor methods given, every call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tools: Option<Patterns>,
    /// Methods it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) methods: Option<Patterns>,
    /// One count for each of: `caller`, `tenant`, `tool`, `server`, `claim:<name>`. Empty: one count for all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) per: List<Dimension, 8>,
    /// So many per window, such as `10/min`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<Rate>,
    /// How many at once after a pause; the rate's amount if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) burst: Option<Count<1, 1_000_000>>,
    /// So many per calendar day or month, such as `500/day`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<Budget>,
    /// IANA time zone in which a budget's window begins; UTC if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<Text<64>>,
    /// So many calls under way at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) concurrency: Option<Count<1, 65536>>,
    /// An expression that weighs a call; 1 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cost: Option<Weight>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) scope: LimitScope,
    /// For `scope: mesh`: what holds while no lease can be had; `floor` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) when_unavailable: Option<Unavailable>,
    /// For `whenUnavailable: floor`: the safe share, in the limit's own units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) floor: Option<Count<0, 1_000_000>>,
    /// For `whenUnavailable: reuse`: for how long the last lease still counts; 1m if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reuse_for: Option<Span>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unavailable {
    /// A safe share.
    Floor,
    /// Nothing.
    Deny,
    /// The last lease.
    Reuse,
}

const REUSE_FOR: Span = Span::from_secs(60);

impl TryFrom<Raw> for Limit {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, &'static str> {
        let amount = match (raw.rate, raw.budget, raw.concurrency) {
            (Some(rate), None, None) => Amount::Rate { rate, burst: raw.burst },
            (None, Some(budget), None) => Amount::Budget { budget, zone: raw.zone.clone() },
            (None, None, Some(concurrency)) => Amount::Concurrency(concurrency),
            _ => return Err("exactly one of rate, budget and concurrency must be given"),
        };
        if raw.burst.is_some() && raw.rate.is_none() {
            return Err("burst belongs to a rate");
        }
        if raw.zone.is_some() && raw.budget.is_none() {
            return Err("zone belongs to a budget");
        }
        if raw.zone.as_ref().is_some_and(|zone| !is_zone(zone.as_str())) {
            return Err("zone is unknown; expected a name of the IANA database such as Europe/Vienna");
        }
        let mut seen = raw.per.to_vec();
        seen.sort();
        if seen.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("`per` names a dimension twice");
        }
        let when_unavailable = when_unavailable(&raw)?;
        Ok(Self {
            name: raw.name,
            tools: raw.tools,
            methods: raw.methods,
            per: raw.per,
            amount,
            cost: raw.cost,
            scope: raw.scope,
            when_unavailable,
        })
    }
}

fn is_zone(name: &str) -> bool {
    crate::policy::quota::Calendar::new(crate::resource::units::CalendarWindow::Day, Some(name)).is_ok()
}

fn when_unavailable(raw: &Raw) -> Result<WhenUnavailable, &'static str> {
    let given = raw.when_unavailable.is_some() || raw.floor.is_some() || raw.reuse_for.is_some();
    if raw.scope == LimitScope::Instance {
        return match given {
            true => Err("whenUnavailable, floor and reuseFor belong to `scope: mesh`"),
            false => Ok(WhenUnavailable::Floor(None)),
        };
    }
    let choice = raw.when_unavailable.unwrap_or(Unavailable::Floor);
    if raw.floor.is_some() && choice != Unavailable::Floor {
        return Err("floor belongs to `whenUnavailable: floor`");
    }
    if raw.reuse_for.is_some() && choice != Unavailable::Reuse {
        return Err("reuseFor belongs to `whenUnavailable: reuse`");
    }
    if raw.budget.is_some() && (raw.floor.is_some() || choice == Unavailable::Reuse) {
        return Err(
            "a share of a budget is lent until it is spent: without the control plane nothing else may be, so \
                    that floor and `whenUnavailable: reuse` belong to rates and concurrency",
        );
    }
    Ok(match choice {
        Unavailable::Floor => WhenUnavailable::Floor(raw.floor),
        Unavailable::Deny => WhenUnavailable::Deny,
        Unavailable::Reuse => WhenUnavailable::Reuse(raw.reuse_for.unwrap_or(REUSE_FOR)),
    })
}

impl From<Limit> for Raw {
    fn from(limit: Limit) -> Self {
        let (mut rate, mut burst, mut budget, mut zone, mut concurrency) = (None, None, None, None, None);
        match limit.amount {
            Amount::Rate { rate: r, burst: b } => (rate, burst) = (Some(r), b),
            Amount::Budget { budget: b, zone: z } => (budget, zone) = (Some(b), z),
            Amount::Concurrency(c) => concurrency = Some(c),
        }
        let (when_unavailable, floor, reuse_for) = match (limit.scope, limit.when_unavailable) {
            (LimitScope::Instance, _) => (None, None, None),
            (LimitScope::Mesh, WhenUnavailable::Floor(floor)) => (Some(Unavailable::Floor), floor, None),
            (LimitScope::Mesh, WhenUnavailable::Deny) => (Some(Unavailable::Deny), None, None),
            (LimitScope::Mesh, WhenUnavailable::Reuse(span)) => (Some(Unavailable::Reuse), None, Some(span)),
        };
        Self {
            name: limit.name,
            tools: limit.tools,
            methods: limit.methods,
            per: limit.per,
            rate,
            burst,
            budget,
            zone,
            concurrency,
            cost: limit.cost,
            scope: limit.scope,
            when_unavailable,
            floor,
            reuse_for,
        }
    }
}

impl FromStr for Dimension {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "caller" => Self::Caller,
            "tenant" => Self::Tenant,
            "tool" => Self::Tool,
            "server" => Self::Server,
            _ => match text.strip_prefix("claim:") {
                Some(claim) => Self::Claim(claim.parse().map_err(|error| format!("claim: {error}"))?),
                None => return Err("expected caller, tenant, tool, server or claim:<name>".to_owned()),
            },
        })
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller => f.write_str("caller"),
            Self::Tenant => f.write_str("tenant"),
            Self::Tool => f.write_str("tool"),
            Self::Server => f.write_str("server"),
            Self::Claim(claim) => write!(f, "claim:{}", claim.as_str()),
        }
    }
}

serde_as_text!(Dimension, "^(caller|tenant|tool|server|claim:.+)$", 134);
