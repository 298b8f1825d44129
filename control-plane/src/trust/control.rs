//! The mesh's trust, as the operator API asks for it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use weft_certs::bundle::Fingerprint;
use weft_certs::svid::Serial;
use weft_proto::resource::units::Span;

use super::rotation::{Action, State};
use super::{Error, RootStatus, Trust, TrustReport};
use crate::api::trust as api;
use crate::auth::timestamp;
use crate::xds::Hub;

/// Trust and the clients that its gates wait for.
#[derive(Clone, Debug)]
pub struct Control {
    trust: Arc<Trust>,
    hub: Arc<Hub>,
}

impl Control {
    pub const fn new(trust: Arc<Trust>, hub: Arc<Hub>) -> Self {
        Self { trust, hub }
    }

    fn report(&self) -> Result<api::TrustStatus, api::Error> {
        self.trust.report(&self.hub.status()).map(shown).map_err(told)
    }
}

impl api::TrustControl for Control {
    fn status(&self) -> BoxFuture<'_, Result<api::TrustStatus, api::Error>> {
        Box::pin(async { self.report() })
    }

    fn rotate(
        &self,
        action: api::RotationAction,
        force: bool,
    ) -> BoxFuture<'_, Result<api::TrustStatus, api::Error>> {
        Box::pin(async move {
            let action = match action {
                api::RotationAction::Start => Action::Start,
                api::RotationAction::Advance => Action::Advance,
                api::RotationAction::Abort => Action::Abort,
            };
            self.trust.rotate(action, force, "operator", &self.hub.status()).await.map_err(told)?;
            self.report()
        })
    }

    fn revoke(&self, serial: Serial) -> BoxFuture<'_, Result<(), api::Error>> {
        Box::pin(async move { self.trust.revoke(&serial).await.map_err(told) })
    }

    fn join_root(&self) -> BoxFuture<'_, Result<Fingerprint, api::Error>> {
        Box::pin(async { Ok(self.trust.root()) })
    }
}

/// What is the operator's to mend is told; the rest is ours.
fn told(error: Error) -> api::Error {
    match error {
        Error::Refused(_) | Error::External => api::Error::Refused(error.to_string()),
        other => api::Error::Failed(Box::new(other)),
    }
}

fn shown(report: TrustReport) -> api::TrustStatus {
    let issuer = api::Issuer {
        kind: if report.external { api::IssuerKind::External } else { api::IssuerKind::Builtin },
        not_after: timestamp(report.issuer_not_after),
        fingerprint: report
            .roots
            .iter()
            .find(|root| root.issuing)
            .map_or_else(String::new, |it| it.fingerprint.clone()),
    };
    let millis = u64::try_from(report.svid_lifetime.as_millis()).unwrap_or(u64::MAX);
    api::TrustStatus {
        trust_domain: report.trust_domain.to_string(),
        svid_lifetime: Span::from_millis(millis).to_string(),
        sequence: report.sequence,
        roots: report.roots.into_iter().map(root).collect(),
        issuer,
        rotation: api::Rotation {
            step: match report.rotation {
                State::Stable => api::RotationStep::Stable,
                State::Adding { .. } => api::RotationStep::Adding,
                State::Renewing { .. } => api::RotationStep::Renewing,
                State::Dropping { .. } => api::RotationStep::Dropping,
            },
            since: report.rotation.since().map(timestamp),
            gate: api::Gate {
                open: report.gate.is_open(),
                waiting_for: report
                    .gate
                    .waiting_for
                    .into_iter()
                    .map(|it| api::Waiting { node: it.node, why: it.why })
                    .collect(),
                opens_at: report.gate.opens_at.map(timestamp),
            },
        },
        revoked_serials: report.revoked,
    }
}

fn root(root: RootStatus) -> api::Root {
    api::Root {
        fingerprint: root.fingerprint,
        not_before: timestamp(root.not_before),
        not_after: timestamp(root.not_after),
        issuing: root.issuing,
        generation: root.generation.unwrap_or_default(),
    }
}
