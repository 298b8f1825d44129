//! Whether all is well: the facts are gathered here, and judged in [`crate::check`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::call::{Call, json};
use super::dto::DateTime;
use super::{Api, Error};
use crate::auth::timestamp;
use crate::check::{self, Audit, Disk, Facts, Finding, Group, Leases, Objects, Observer, Revisions};
use crate::metrics::{Metrics, ReasonLabel};
use crate::replica::Replication;
use crate::store::{Prefix, Revision};
use crate::{audit, desired};

/// How long the planner is given to publish what was just stored.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Counts of mesh-wide limits that are looked at, the most used first.
const LIMITS_MAX: usize = 10_000;
/// Policies in shadow of which it is found out when they were changed.
const SHADOWS_MAX: usize = 500;
/// For which reasons trails are not taken further.
const REFUSED_REASONS: [&str; 5] = ["broken", "refused", "denied", "malformed", "not_stored"];

/// Which checks are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChecksQuery {
    /// Only those of this group.
    group: Option<Group>,
}

/// What checks found, in the order in which one thing rests on another.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckList {
    /// The control plane's clock.
    #[schemars(with = "DateTime")]
    pub at: Timestamp,
    /// Nothing failed; there may be warnings.
    pub ok: bool,
    pub items: Vec<Finding>,
}

pub(super) async fn list(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let ChecksQuery { group } = call.query()?;
    let facts = facts(&api).await?;
    let items = api.heavy(move || check::run(&facts, group)).await?;
    let ok = !items.iter().any(|it| it.outcome == check::Outcome::Failed);
    Ok(json(&CheckList { at: timestamp(api.now()), ok, items }))
}

async fn facts(api: &Api) -> Result<Facts, Error> {
    let deps = &api.deps;
    let revisions = revisions(api).await?;
    let now = api.now();
    let (present, trust_domain) = (api.present().await?, api.mesh.trust_domain.clone());
    // What was let in was seen to survive the way to a sidecar.
    let objects = api.heavy(move || Objects::new(&trust_domain, present)).await?;
    let mut objects = objects.map_err(|error| Error::Internal(Box::new(error)))?;
    changed_at(api, &mut objects).await?;
    let lender = Arc::clone(&deps.lender);
    let limits = api.heavy(move || lender.busiest(LIMITS_MAX, |_, _| true).0).await?;
    let (keys, keys_max) = deps.lender.room();
    Ok(Facts {
        now: timestamp(now),
        version: env!("CARGO_PKG_VERSION"),
        revisions,
        signing_queue: u64::try_from(deps.metrics.certificate_queue.get()).unwrap_or(0),
        panics: deps.metrics.panics.get(),
        disk: deps.data_dir.as_deref().and_then(disk),
        keys: deps.keys.list().await?,
        tokens: deps.tokens.list(now).await?,
        trust: deps.trust.status().await?,
        sidecars: deps.sidecars.status(),
        objects,
        limits,
        leases: Leases { keys, keys_max },
        audit: trails(&deps.trails, &deps.metrics).await?,
        offers: deps.catalogue.entries(),
        cluster: deps.cluster.as_ref().map(|Observer(observe)| observe()),
        standbys: deps.replication.as_ref().map(Replication::followers).unwrap_or_default(),
    })
}

/// How far everything is, after the planner had its time.
async fn revisions(api: &Api) -> Result<Revisions, Error> {
    let newest = api.deps.store.history(&desired::prefix(), None, 1).await?;
    let changed = newest.first().map_or(0, |it| it.revision.0);
    let deadline = Instant::now() + PUBLISH_PATIENCE;
    loop {
        let published = api.deps.sidecars.published_revision();
        if published >= changed || Instant::now() >= deadline {
            return Ok(Revisions { changed, published });
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Finds out since when policies are tried out.
async fn changed_at(api: &Api, objects: &mut Objects) -> Result<(), Error> {
    let keys: Vec<_> = objects.in_shadow().take(SHADOWS_MAX).cloned().collect();
    for key in keys {
        let Some(object) = objects.present.object(&key) else { continue };
        let Revision(modified) = object.modified;
        let Ok(prefix) = Prefix::new(desired::store_key(&key).as_str()) else { continue };
        let found = api.deps.store.history(&prefix, Some(Revision(modified + 1)), 1).await?;
        if let Some(info) = found.first().filter(|info| info.revision.0 == modified) {
            objects.changed_at.insert(key, info.at);
        }
    }
    Ok(())
}

fn disk(folder: &Path) -> Option<Disk> {
    let about = rustix::fs::statvfs(folder).ok()?;
    Some(Disk {
        bytes_free: about.f_bavail.saturating_mul(about.f_frsize),
        bytes_total: about.f_blocks.saturating_mul(about.f_frsize),
    })
}

async fn trails(trails: &audit::Trails, metrics: &Metrics) -> Result<Audit, Error> {
    let failed = |error| Error::Internal(Box::new(error));
    let refused =
        |reason: &&'static str| metrics.audit_refused.get(&ReasonLabel { reason }).map(|it| it.get());
    let audit::Settings { lines_bytes_max, trails_max, .. } = trails.settings();
    Ok(Audit {
        heads: trails.heads().await.map_err(failed)?,
        trails_max,
        bytes: u64::try_from(metrics.audit_bytes.get()).unwrap_or(0),
        bytes_max: lines_bytes_max,
        refused: REFUSED_REASONS.iter().filter_map(refused).sum(),
        unbelieved: metrics.audit_seals_unbelieved.get(),
    })
}
