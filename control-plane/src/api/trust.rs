//! Trust: what the mesh's authority says of itself, and what operators may ask of it. The authority is behind
//! [`TrustControl`].

use std::fmt;
use std::sync::Arc;

use axum::response::Response;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_certs::bundle::Fingerprint;
use weft_certs::svid::Serial;

use super::call::{Call, json, no_content};
use super::dto::DateTime;
use super::{Api, Error as Refusal};

/// The part of the control plane that keeps the roots.
pub trait TrustControl: fmt::Debug + Send + Sync {
    /// How things stand.
    fn status(&self) -> BoxFuture<'_, Result<TrustStatus, Error>>;

    /// Takes a step of a rotation; `force` passes a closed gate.
    fn rotate(&self, action: RotationAction, force: bool) -> BoxFuture<'_, Result<TrustStatus, Error>>;

    /// Refuses a certificate from now on.
    fn revoke(&self, serial: Serial) -> BoxFuture<'_, Result<(), Error>>;

    /// The root that the control plane's own certificate leads to, for new join tokens.
    fn join_root(&self) -> BoxFuture<'_, Result<Fingerprint, Error>>;
}

/// Why the authority did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not now; the text says why, for the operator.
    #[error("{0}")]
    Refused(String),
    #[error("the certificate authority failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How the mesh's trust stands.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustStatus {
    pub trust_domain: String,
    /// How long a workload's certificate lives.
    pub svid_lifetime: String,
    /// Grows with every change of the bundle.
    pub sequence: u64,
    pub roots: Vec<Root>,
    pub issuer: Issuer,
    pub rotation: Rotation,
    pub revoked_serials: Vec<String>,
}

/// A root that the mesh trusts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// SHA-256 of the certificate in hexadecimal.
    pub fingerprint: String,
    #[schemars(with = "DateTime")]
    pub not_before: Timestamp,
    #[schemars(with = "DateTime")]
    pub not_after: Timestamp,
    /// Whether certificates are issued under it now.
    pub issuing: bool,
    pub generation: u32,
}

/// Whoever signs certificates.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Issuer {
    pub kind: IssuerKind,
    #[schemars(with = "DateTime")]
    pub not_after: Timestamp,
    pub fingerprint: String,
}

/// Where the signing key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IssuerKind {
    Builtin,
    External,
}

/// Where a rotation of the root stands.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    pub step: RotationStep,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub since: Option<Timestamp>,
    pub gate: Gate,
}

/// The steps of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RotationStep {
    Stable,
    Adding,
    Switching,
    Renewing,
    Dropping,
}

/// Whether the next step may be taken.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    pub open: bool,
    pub waiting_for: Vec<Waiting>,
    /// When time alone opens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub opens_at: Option<Timestamp>,
}

/// A sidecar that is in the way of the next step.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    pub node: String,
    pub why: String,
}

/// A step that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RotationAction {
    Start,
    Advance,
    Abort,
}

impl RotationAction {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Advance => "advance",
            Self::Abort => "abort",
        }
    }
}

/// What is asked of a rotation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RotationRequest {
    pub action: RotationAction,
    /// Pass a closed gate: sidecars that are not ready may lose their connections.
    #[serde(default)]
    pub force: bool,
}

/// A certificate that is to be refused.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevocationRequest {
    /// In lower-case hexadecimal without leading zeros.
    pub serial: String,
}

pub(super) async fn status(api: Arc<Api>, call: Call) -> Result<Response, Refusal> {
    call.no_query()?;
    Ok(json(&api.deps.trust.status().await?))
}

pub(super) async fn rotate(api: Arc<Api>, call: Call) -> Result<Response, Refusal> {
    call.no_query()?;
    let RotationRequest { action, force } = call.json()?;
    let status = api.deps.trust.rotate(action, force).await?;
    let reason = format!("{}{}", action.word(), if force { " (forced)" } else { "" });
    api.deps.store.append_audit(call.actor().did("trust.rotation", "trust", reason)).await?;
    Ok(json(&status))
}

pub(super) async fn revoke(api: Arc<Api>, call: Call) -> Result<Response, Refusal> {
    call.no_query()?;
    let RevocationRequest { serial } = call.json()?;
    let serial = Serial::parse(&serial).map_err(|_| Refusal::BadBody {
        problem: "serial: expected up to 40 lower-case hexadecimal digits without leading zeros".to_owned(),
        line: 0,
        column: 0,
    })?;
    api.deps.trust.revoke(serial.clone()).await?;
    let object = format!("certificates/{serial}");
    api.deps.store.append_audit(call.actor().did("trust.revocation", object, "")).await?;
    Ok(no_content())
}
