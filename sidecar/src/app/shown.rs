//! What a running sidecar shows of itself, and what it can be told, behind the health and admin doors.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;
use weft_certs::bundle::TrustStore;
use weft_certs::tls::LiveIdentity;

use super::Tokens;
use crate::health::{Health, Told};
use crate::logging::Logging;
use crate::metrics::{Metrics, ServerLabel, VersionLabel};
use crate::servers::Servers;
use crate::state::{Live, Origin};
use crate::{admin, clock, control};

pub(super) struct Shown {
    pub(super) live: Live,
    /// Whether nothing can be served without a certificate.
    pub(super) needs_identity: bool,
    pub(super) identity: LiveIdentity,
    pub(super) trust: TrustStore,
    pub(super) metrics: Arc<Metrics>,
    pub(super) servers: Servers,
    pub(super) control: watch::Receiver<control::State>,
    pub(super) logging: Logging,
    pub(super) tokens: Tokens,
}

impl Shown {
    /// Sets what is measured only when somebody looks.
    fn measure(&self) {
        let current = self.live.load();
        let age = clock::now().duration_since(current.since).unwrap_or_default();
        let metrics = &self.metrics;
        metrics.snapshot_age_seconds.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        metrics.snapshot_info.clear();
        let version = VersionLabel { version: Arc::clone(&current.version) };
        metrics.snapshot_info.get_or_create(&version).set(1);
        metrics.snapshot_stored.set((current.origin == Origin::Stored).into());
        metrics.control_plane_connected.set(self.control.borrow().connected.into());
        let expiry = self.identity.leaf().map(|leaf| leaf.not_after);
        let expiry = expiry.and_then(|at| at.duration_since(std::time::SystemTime::UNIX_EPOCH).ok());
        let expiry = expiry.and_then(|at| i64::try_from(at.as_secs()).ok());
        metrics.certificate_expiry_timestamp_seconds.set(expiry.unwrap_or_default());
        // Only those that are checked now.
        metrics.server_healthy.clear();
        for local in self.servers.all() {
            let label = ServerLabel { server: Arc::clone(&local.label) };
            let backend = local.backend.seen();
            metrics.upstream_up.get_or_create(&label).set(backend.up.into());
            if local.checked.is_some() {
                let is_well = local.health() == Health::Serving;
                metrics.server_healthy.get_or_create(&label).set(is_well.into());
            }
            if let Some(child) = backend.child {
                metrics.child_restarts.get_or_create(&label).set(child.restarts);
                metrics.child_garbage_lines.get_or_create(&label).set(child.garbage_lines);
            }
        }
    }
}

/// How the source of configuration stands.
fn control(state: &control::State) -> Value {
    let problem = |it: &Option<control::Problem>| {
        it.as_ref().map(|it| json!({ "at": at(it.at), "message": it.message }))
    };
    let types = state.types.iter().map(|(ty, it)| {
        let of_type = json!({
            "resources": it.resources,
            "acknowledged": it.acknowledged,
            "rejected": it.rejected,
            "revision": it.revision,
            "nack": problem(&it.nack),
        });
        (ty.name().to_owned(), of_type)
    });
    json!({
        "connected": state.connected,
        "complete": state.complete,
        "since": state.since.map(at),
        "controlPlane": state.control_plane,
        "streams": state.streams,
        "lastError": problem(&state.last_error),
        "heldBack": state.held_back,
        "storedAt": state.store.stored_at.map(at),
        "storeError": problem(&state.store.error),
        "types": types.collect::<serde_json::Map<_, _>>(),
    })
}

fn health(told: &Told) -> (String, Value) {
    (told.server.to_string(), json!({ "health": told.health.word(), "detail": told.health.detail() }))
}

/// That calls can be served, and which servers cannot answer them at the moment. The sidecar is no less ready for it: it
/// tells callers what is wrong, and the control plane that they go elsewhere.
fn ready_with(told: &[Told]) -> String {
    let unwell = told.iter().filter(|it| it.health != Health::Serving);
    unwell.fold("ready".to_owned(), |text, it| {
        let why = it.health.detail();
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        format!("{text}\n{} is {}{why}", it.server, it.health.word())
    })
}

fn at(time: std::time::SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|at| at.to_string()).unwrap_or_default()
}

impl admin::Shown for Shown {
    fn ready(&self) -> Result<String, String> {
        if self.tokens.drain.is_cancelled() {
            return Err("draining".to_owned());
        }
        if self.needs_identity && self.identity.leaf().is_none() {
            return Err("no certificate yet".to_owned());
        }
        if !self.live.is_ready() {
            return Err(match &self.control.borrow().last_error {
                Some(error) => format!("no configuration yet: {}", error.message),
                None => "no configuration yet".to_owned(),
            });
        }
        // For a moment after the configuration came.
        if !self.servers.are_made() {
            return Err("the configuration is being put into force".to_owned());
        }
        Ok(ready_with(&self.servers.told()))
    }

    fn metrics(&self) -> String {
        self.measure();
        self.metrics.text()
    }

    fn config_dump(&self) -> Value {
        let current = self.live.load();
        let snapshot = &current.snapshot;
        json!({
            "origin": format!("{:?}", current.origin),
            "version": &*current.version,
            "since": at(current.since),
            "control": control(&self.control.borrow()),
            "health": self.servers.told().iter().map(health).collect::<serde_json::Map<_, _>>(),
            "serving": self.servers.all().iter().map(|local| local.label.to_string()).collect::<Vec<_>>(),
            "warnings": snapshot.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "snapshot": snapshot.to_string(),
        })
    }

    fn certificates(&self) -> Value {
        let bundles = self.trust.load();
        let bundles = bundles.iter().map(|bundle| {
            json!({
                "trustDomain": bundle.trust_domain().as_str(),
                "sequence": bundle.sequence(),
                "roots": bundle.fingerprints().map(|it| it.to_string()).collect::<Vec<_>>(),
                "revoked": bundle.revoked().len(),
            })
        });
        json!({
            "identity": self.identity.leaf().as_ref().map(admin::certificate),
            "bundles": bundles.collect::<Vec<_>>(),
        })
    }

    fn set_logging(&self, filter: &str) -> Result<(), String> {
        self.logging.set(filter).map(|_| ()).map_err(|error| error.to_string())
    }

    fn drain(&self, quit: bool) {
        self.tokens.drain.cancel();
        if quit {
            self.tokens.quit.cancel();
        }
    }
}
