//! What outlives a run, in the state folder, and what is done without one.

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use weft_certs::tls::LiveIdentity;

use super::Error;
use crate::audit::{self, Audit};
use crate::bootstrap::Bootstrap;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::quota::Quotas;
use crate::{descriptors, session_id};

/// What is kept there is nobody else's to read.
pub(super) fn make_state_dir(bootstrap: &Bootstrap) -> Result<(), Error> {
    let Some(path) = &bootstrap.state_dir else { return Ok(()) };
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(error) if session_id::is_about_the_disk(&error) => {
            tracing::warn!(path = %path.display(), %error, "nothing can be kept; a restart would need the control plane");
            Ok(())
        }
        made => made.map_err(|source| Error::StateDir { path: path.clone(), source }),
    }
}

/// Budgets outlive a restart where there is a folder that can be written to.
pub(super) fn quotas(
    bootstrap: &Bootstrap,
    limits: &Limits,
    metrics: &Arc<Metrics>,
) -> Result<Quotas, Error> {
    match Quotas::new(limits, metrics, bootstrap.state_dir.as_deref()) {
        Err(error) if error.is_about_the_disk() => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "budgets cannot be kept; a restart would forget what was spent");
            Quotas::new(limits, metrics, None).map_err(Error::Budgets)
        }
        quotas => quotas.map_err(Error::Budgets),
    }
}

/// Calls are recorded where there is a folder that can be written to.
pub(super) fn audit(
    bootstrap: &Bootstrap,
    limits: &Arc<Limits>,
    metrics: &Arc<Metrics>,
    identity: &LiveIdentity,
) -> Result<Audit, Error> {
    let settings = bootstrap.audit.clone().within(bootstrap.state_dir.as_deref());
    let may_refuse = settings.when_full == audit::WhenFull::Refuse;
    if may_refuse && settings.folder.is_none() {
        return Err(Error::AuditNowhere);
    }
    match Audit::start(settings.clone(), &bootstrap.node.id, limits, metrics, identity.clone()) {
        Err(error) if error.is_about_the_disk() && !may_refuse => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "the audit trail cannot be written; calls that are to be recorded are only counted"
            );
            Ok(Audit::off(limits, metrics, settings))
        }
        audit => audit.map_err(Error::Audit),
    }
}

/// The limits, none beyond what the process may have open.
pub(super) fn within_descriptors(Bootstrap { limits, listen, .. }: &Bootstrap) -> Limits {
    let mut limits = limits.clone();
    let listeners = [listen.inbound.is_some(), listen.outbound.is_some(), listen.gateway.is_some()];
    let listeners = listeners.into_iter().filter(|it| *it).count();
    limits.connections_max = descriptors::at_most(limits.connections_max, "connections", listeners);
    limits.listening_max = descriptors::at_most(limits.listening_max, "streams that listen", listeners);
    limits
}

/// Sessions outlive a restart of the sidecar where its key does.
pub(super) fn session_keys(bootstrap: &Bootstrap) -> Result<(session_id::Key, session_id::Ring), Error> {
    let key = session_key(bootstrap)?;
    let ring = session_id::Ring::own(&key);
    Ok((key, ring))
}

fn session_key(bootstrap: &Bootstrap) -> Result<session_id::Key, Error> {
    let Some(folder) = &bootstrap.state_dir else { return Ok(session_id::Key::random()) };
    let path = folder.join("session.key");
    match session_id::Key::open_or_create(&path) {
        Err(error) if error.is_about_the_disk() => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the key of sessions cannot be kept; they end with this run");
            Ok(session_id::Key::random())
        }
        kept => kept.map_err(Error::SessionKey),
    }
}
