//! What travels in bodies and queries, as the OpenAPI document describes it.

use std::borrow::Cow;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_proto::name::{Namespace, ObjectName, ServiceAccount};
use weft_proto::resource::units::Span;
use weft_proto::resource::{API_VERSION, Kind, Metadata};

use crate::auth::Scope;
use crate::desired;

/// The schema of a point in time.
pub(super) struct DateTime;

impl JsonSchema for DateTime {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "DateTime".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// The schema of an object of any kind.
pub(super) struct Object;

impl JsonSchema for Object {
    fn schema_name() -> Cow<'static, str> {
        "Object".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kinds: Vec<_> = Kind::ALL
            .iter()
            .map(|kind| {
                let spec = kind.spec_schema(generator);
                let metadata = generator.subschema_for::<Metadata>();
                json_schema!({
                    "title": kind.name(),
                    "type": "object",
                    "properties": {
                        "apiVersion": { "const": API_VERSION },
                        "kind": { "const": kind.name() },
                        "metadata": metadata,
                        "spec": spec,
                    },
                    "required": ["apiVersion", "kind", "metadata", "spec"],
                    "additionalProperties": false,
                })
            })
            .collect();
        json_schema!({ "oneOf": kinds })
    }
}

/// Which control plane this is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    pub version: String,
    pub api_version: String,
    pub trust_domain: String,
    /// The newest revision.
    pub store_revision: u64,
    /// The revision that sidecars are told.
    pub published_revision: u64,
}

/// One page of objects.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ObjectList {
    /// All pages of one listing show the objects as of this revision.
    pub revision: u64,
    #[schemars(with = "Vec<Object>")]
    pub items: Vec<Value>,
    /// Given if there are more: the parameter `continue` of the next request.
    #[serde(rename = "continue", default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Created,
    Changed,
    Unchanged,
    Deleted,
}

impl From<desired::Action> for Action {
    fn from(action: desired::Action) -> Self {
        match action {
            desired::Action::Created => Self::Created,
            desired::Action::Changed => Self::Changed,
            desired::Action::Unchanged => Self::Unchanged,
            desired::Action::Deleted => Self::Deleted,
        }
    }
}

/// What a change did, or would do.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplyResult {
    pub dry_run: bool,
    /// The revision that the change made; of a dry run, the one that it was tried on.
    pub revision: u64,
    pub results: Vec<ObjectResult>,
    /// Probable mistakes that no single object is to blame for.
    pub warnings: Vec<String>,
}

/// What a change did to one object.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ObjectResult {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub action: Action,
    /// The object as YAML before and after, as a unified diff.
    pub diff: String,
    /// Probable mistakes.
    pub warnings: Vec<String>,
}

/// One page of the history, the newest first.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HistoryList {
    pub items: Vec<HistoryItem>,
    /// Given if there may be more: the parameter `before` of the next request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// A revision that changed objects.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HistoryItem {
    pub revision: u64,
    #[schemars(with = "DateTime")]
    pub at: Timestamp,
    pub author: String,
    pub reason: String,
    /// At most 100 in a list; all of them where one revision is asked for.
    pub changes: Vec<HistoryChange>,
}

/// What a revision did to one object.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HistoryChange {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub action: Action,
    /// Only where one revision is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// A past state that is wanted back.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RollbackRequest {
    /// The revision whose objects are wanted.
    pub to: u64,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub dry_run: bool,
    /// The newest revision that was taken into account; if objects changed since, nothing is done.
    #[serde(default)]
    pub expect_revision: Option<u64>,
}

/// What `put` and `delete` events of a watch carry.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WatchEvent {
    pub revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Object>")]
    pub resource: Option<Value>,
}

/// The workload that a join token is for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    pub namespace: Namespace,
    pub service_account: ServiceAccount,
}

/// A join token that is wanted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    pub identity: Identity,
    /// How many workloads may join with it; 1 if not given.
    #[serde(default = "one")]
    pub uses: u32,
    /// 1h if not given.
    #[serde(default)]
    pub expires_in: Option<Span>,
    #[serde(default)]
    pub description: Option<String>,
}

const fn one() -> u32 {
    1
}

/// Whether a join token can still be used, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenState {
    Active,
    Expired,
    Used,
    Revoked,
}

/// A join token, less its secret.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenItem {
    pub id: String,
    pub identity: Identity,
    pub uses: u32,
    pub uses_left: u32,
    #[schemars(with = "DateTime")]
    pub expires_at: Timestamp,
    #[schemars(with = "DateTime")]
    pub created_at: Timestamp,
    pub created_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub state: TokenState,
}

/// A new join token.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TokenCreated {
    /// The token itself; shown this once.
    pub token: String,
    #[serde(flatten)]
    pub item: TokenItem,
}

/// Join tokens, the newest first.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TokenList {
    pub items: Vec<TokenItem>,
}

/// An API key that is wanted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRequest {
    pub name: ObjectName,
    pub scope: Scope,
    /// Never if not given.
    #[serde(default)]
    pub expires_in: Option<Span>,
}

/// An API key, less its secret.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyItem {
    pub id: String,
    pub name: String,
    pub scope: Scope,
    #[schemars(with = "DateTime")]
    pub created_at: Timestamp,
    pub created_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub expires_at: Option<Timestamp>,
    /// When it was last used with this replica, since it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub last_used_at: Option<Timestamp>,
    pub expired: bool,
}

/// A new API key.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct KeyCreated {
    /// The key itself; shown this once.
    pub key: String,
    #[serde(flatten)]
    pub item: KeyItem,
}

/// API keys by name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct KeyList {
    pub items: Vec<KeyItem>,
}

/// One page of the audit trail, the newest first.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AuditList {
    pub items: Vec<AuditItem>,
    /// Given if there may be more: the parameter `before` of the next request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// One act.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AuditItem {
    pub sequence: u64,
    #[schemars(with = "DateTime")]
    pub at: Timestamp,
    pub who: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub action: String,
    pub object: String,
    /// `done`, `refused` or `failed`.
    pub outcome: String,
    /// Why it was done, or why it was refused.
    pub detail: String,
    /// The revision that it made, if it made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}
