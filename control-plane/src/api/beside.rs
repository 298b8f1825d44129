//! What is looked at beside access when a call is explained: the limits that would count it and how they stand, and
//! whether the tool's definition is approved.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proto::compile::{ServerEntry, Snapshot};
use weft_proto::mcp::Target;
use weft_proto::name::ServerName;
use weft_proto::policy::Caller;
use weft_proto::policy::access::Call;
use weft_proto::policy::expr;
use weft_proto::policy::quota::{Facts, Limit, Plan};
use weft_proto::resource::kinds::LimitScope;

use super::tools::{self, AdvertisedTool};
use crate::catalog::Tool;
use crate::quota::{Lender, Standing};

/// A limit that would count a call.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitTold {
    /// `<namespace>/<policy>#<limit>`
    pub limit: String,
    /// As it is written: `10/min`, `500/day`, `64 at once`.
    pub amount: String,
    /// `instance`, where each sidecar counts for itself and the control plane does not know how it stands; or `mesh`.
    pub scope: String,
    /// Counted, and never refused by.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// How much the call would take of it.
    pub weighs: f64,
    /// How much is used for this caller, tool, or whatever else splits it; where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<f64>,
    /// How much is lent to sidecars and not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lent: Option<f64>,
    /// How much there is.
    pub capacity: f64,
}

/// Whether the definition of a tool is approved.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinTold {
    /// `approved`, `new`, `changed` or `unpinned`.
    pub state: String,
    /// `off`, `warn` or `enforce`
    pub pin: String,
    /// The policy that pins it, as `<namespace>/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    pub digest: String,
    /// It is in no list, and calls of it are refused.
    pub withheld: bool,
}

/// Which limits would count a call, and how they stand.
pub(super) fn limits(
    entry: &ServerEntry,
    server: &ServerName,
    caller: &Caller,
    call: Call<'_>,
    lender: &Lender,
) -> Vec<LimitTold> {
    let (plan, label, identity) = (Plan::new(&entry.quotas), server.to_string(), caller.id().to_string());
    let Call { method, target, arguments } = call;
    let over = Some(expr::Facts { caller, server, method, target, arguments });
    let tenant = Some(caller.workload().namespace.as_str());
    let facts = Facts { caller: &identity, tenant, server: &label, call, over };
    let told = |(_, limit): (usize, &Limit)| {
        let milli = |milli: u64| milli as f64 / 1000.0;
        let standing = (limit.scope == LimitScope::Mesh).then(|| standing(lender, limit, facts)).flatten();
        LimitTold {
            limit: format!("{}#{}", limit.policy, limit.name),
            amount: limit.amount(),
            scope: match limit.scope {
                LimitScope::Instance => "instance",
                LimitScope::Mesh => "mesh",
            }
            .to_owned(),
            shadow: limit.shadow,
            weighs: milli(limit.weight(facts)),
            used: standing.as_ref().map(|it| milli(it.used_milli)),
            lent: standing.as_ref().map(|it| milli(it.lent.capacity)),
            capacity: milli(limit.gauge.limit_milli()),
        }
    };
    plan.matching(call).map(told).collect()
}

/// How the count stands that this call would be counted by.
fn standing(lender: &Lender, limit: &Limit, facts: Facts<'_>) -> Option<Standing> {
    let values: Vec<Option<&str>> = limit.values(facts).collect();
    let is_of = |policy: &str, parts: &[(String, Option<String>)]| {
        *policy == *limit.policy && parts.iter().map(|(_, value)| value.as_deref()).eq(values.iter().copied())
    };
    lender.busiest(usize::MAX, is_of).0.into_iter().find(|standing| standing.limit == limit.name)
}

/// How policies see what instances advertise under a tool's name: of several definitions, one that is withheld.
pub(super) fn pin<'t>(
    server: &ServerName,
    call: Call<'_>,
    advertised: impl Iterator<Item = &'t Tool>,
    snapshot: &Snapshot,
) -> Option<PinTold> {
    let Some(Target::Tool(name)) = call.target else { return None };
    let name = name.parse().ok()?;
    let told = |tool: &Tool| {
        let AdvertisedTool { state, pin, policy, digest, .. } = tools::judged(server, &name, tool, snapshot);
        let withheld = pin == "enforce" && state != "approved";
        PinTold { state, pin, policy, digest, withheld }
    };
    advertised.map(told).max_by_key(|told| told.withheld)
}
