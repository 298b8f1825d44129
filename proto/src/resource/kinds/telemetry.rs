//! `Telemetry`: what is recorded, and where it goes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ServerSelector, is_default};
use crate::name::CollectorUrl;
use crate::policy::expr::Condition;
use crate::resource::bounded::{List, Text};
use crate::resource::units::Ratio;

/// What is recorded about calls, and where it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Telemetry {
    /// The servers it speaks about; every server of its scope if not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub servers: ServerSelector,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// How much of a call the audit trail keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditDetail>,
    /// Dimensions of the request metrics beyond the usual ones.
    #[serde(default, skip_serializing_if = "is_default")]
    pub metric_dimensions: List<Text<64>, 8>,
}

/// Traces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// Share of the calls that are traced, such as `1%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Ratio>,
    /// Where spans are sent over OTLP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<CollectorUrl>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: OtlpProtocol,
    /// Keep every failed and refused call, whatever the sampling.
    #[serde(default, skip_serializing_if = "is_default")]
    pub keep_failures: bool,
}

/// How spans are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OtlpProtocol {
    #[default]
    Grpc,
    Http,
}

/// The access log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessLog {
    #[serde(default, skip_serializing_if = "is_default")]
    pub off: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub format: LogFormat,
    /// Only calls for which this holds: a condition over `caller`, `request`, `args` and `claims`. What a rule audits is
    /// written all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Condition>,
}

/// How an event of the access log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    #[default]
    Json,
    Text,
}

/// How much of a call the audit trail keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuditDetail {
    None,
    /// Who, what, when and with what outcome.
    Metadata,
    /// Digests of arguments and result besides.
    Digests,
    /// Arguments and result, less what is redacted.
    Full,
}
