//! Quotas: how the limits stand that sidecars share. Limits of each instance are counted in the sidecars, and are told
//! by their metrics only.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proto::name::ServerName;
use weft_proto::resource::Kind;

use super::call::{Call, json};
use super::tools::snapshot;
use super::{Api, Error};
use crate::quota::Standing;

/// Counts that one answer has at most.
const COUNTS_MAX: usize = 500;

/// Which counts are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QuotasQuery {
    /// A QuotaPolicy, as `<namespace>/<name>`; every policy if not given.
    #[schemars(with = "Option<String>")]
    policy: Option<ServerName>,
    /// A server, as `<namespace>/<name>`: counts of policies that select it, but for those of another server.
    #[schemars(with = "Option<String>")]
    server: Option<ServerName>,
}

/// How mesh-wide limits stand, those of which most is used first.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaList {
    pub items: Vec<QuotaCount>,
    /// Counts beyond those that one answer has.
    pub left_out: usize,
}

/// How one limit stands for one caller, tool, or whatever else splits it. It is known as long as a sidecar counts by it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaCount {
    /// `<namespace>/<name>`
    pub policy: String,
    /// Its name, or its place in the policy.
    pub limit: String,
    /// What splits the limit, in the order of the policy.
    pub per: Vec<QuotaPart>,
    /// The limit as it is written: `10/min`, `64 at once`.
    pub amount: String,
    /// The same as a number: what may pass in a window, or run at once.
    pub capacity: f64,
    /// How much of it sidecars hold.
    pub lent: f64,
    /// How much of it is used. Of a rate, what passed within the last window, or within the last seconds where the
    /// window is shorter; a burst may be more than the limit. Of calls at once, the most that ran lately.
    pub used: f64,
    /// Calls that were let pass, since the control plane knows the count.
    pub allowed: u64,
    /// Calls that were refused, or would have been by a policy in shadow.
    pub denied: u64,
    /// Sidecars that hold of it.
    pub holders: usize,
    /// Of these, the ones that have not reported for half a lease.
    #[serde(default)]
    pub overdue: usize,
    /// The control plane began lately and lends nothing new yet, for what was lent before may still be in use.
    pub learning: bool,
}

/// One of the values that split a limit.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct QuotaPart {
    /// Such as `caller` or `tool`.
    pub dimension: String,
    /// Not there where the calls have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

pub(super) async fn list(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: QuotasQuery = call.query()?;
    let policy = query.policy.map(|policy| policy.to_string());
    let selected = match query.server {
        Some(server) => {
            let present = api.present().await?;
            let policies = api.heavy({
                let server = server.clone();
                move || {
                    let snapshot = snapshot(&present, Kind::QuotaPolicy);
                    let quotas = snapshot.server(&server).map(|entry| entry.quotas.as_slice());
                    let names = quotas.unwrap_or_default().iter().map(|it| it.meta.full_name().to_string());
                    names.collect::<BTreeSet<_>>()
                }
            });
            Some((server.to_string(), policies.await?))
        }
        None => None,
    };
    let lender = Arc::clone(&api.deps.lender);
    let told = move || {
        let (counts, left_out) = lender.busiest(COUNTS_MAX, |of, parts| {
            policy.as_ref().is_none_or(|policy| policy == of)
                && selected.as_ref().is_none_or(|(server, policies)| {
                    policies.contains(of) && parts.iter().all(|part| speaks_of(server, part))
                })
        });
        QuotaList { items: counts.into_iter().map(count).collect(), left_out }
    };
    Ok(json(&api.heavy(told).await?))
}

/// Whether a part is no other server's.
fn speaks_of(server: &str, (dimension, value): &(String, Option<String>)) -> bool {
    dimension != "server" || value.as_deref() == Some(server)
}

fn count(standing: Standing) -> QuotaCount {
    let Standing {
        policy,
        limit,
        amount,
        parts,
        whole,
        lent,
        holders,
        totals,
        used_milli,
        learns,
        overdue,
        ..
    } = standing;
    let whole_units = |milli: u64| milli as f64 / 1000.0;
    QuotaCount {
        policy,
        limit: limit.to_string(),
        per: parts.into_iter().map(|(dimension, value)| QuotaPart { dimension, value }).collect(),
        amount,
        capacity: whole_units(whole.capacity),
        lent: whole_units(lent.capacity),
        used: whole_units(used_milli),
        allowed: totals.allowed,
        denied: totals.denied,
        holders,
        overdue,
        learning: learns,
    }
}
