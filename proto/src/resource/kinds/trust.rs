//! `Trust`: what holds for the whole mesh.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::name::{IdentityPattern, TrustDomain};
use crate::resource::bounded::{List, Text};
use crate::resource::units::Span;

/// The mesh's trust domain, how long certificates live, what holds where no policy speaks, and whom else it trusts. There
/// is one, named `mesh`, in the root namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trust {
    /// Must be the one that the control plane was started with.
    pub trust_domain: TrustDomain,
    /// How long a workload's certificate lives; 24h if not given.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "svid_lifetime")]
    pub svid_lifetime: Option<Span>,
    /// What happens to calls of servers that no allow rule selects.
    #[serde(default, skip_serializing_if = "is_default")]
    pub default_action: DefaultAction,
    /// Other trust domains whose identities are believed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub federated: List<FederatedDomain, 64>,
    /// Workloads that are gateways, as SPIFFE IDs; a `*` stays within its segment. What these say of whom they call for
    /// is believed, and where any are named, only they are sent an `Authentication`. Nobody is believed if not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gateways: List<IdentityPattern, 64>,
}

impl Trust {
    /// Shortest certificate lifetime: renewal at half of it must leave time for a control plane's restart.
    pub const SVID_LIFETIME_MIN: Span = Span::from_secs(30);
    pub const SVID_LIFETIME_MAX: Span = Span::from_secs(90 * 86_400);
    pub const SVID_LIFETIME_DEFAULT: Span = Span::from_secs(86_400);
}

fn svid_lifetime<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Span>, D::Error> {
    checked_svid_lifetime(Span::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

pub(crate) fn checked_svid_lifetime(span: Span) -> Result<Span, String> {
    match (Trust::SVID_LIFETIME_MIN..=Trust::SVID_LIFETIME_MAX).contains(&span) {
        true => Ok(span),
        false => Err(format!(
            "{span} is out of range; expected {} to {}",
            Trust::SVID_LIFETIME_MIN,
            Trust::SVID_LIFETIME_MAX
        )),
    }
}

/// What happens to calls of servers that no allow rule selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DefaultAction {
    /// Callers of the mesh may.
    #[default]
    Allow,
    /// Callers of the mesh may, and it is recorded.
    Audit,
    Deny,
}

/// Another trust domain and its roots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FederatedDomain {
    pub trust_domain: TrustDomain,
    /// Root certificates in PEM.
    pub roots: Text<65536>,
}
