//! `Telemetry`: what is recorded, and where it goes.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ServerSelector, is_default};
use crate::name::CollectorUrl;
use crate::policy::expr::Condition;
use crate::resource::bounded::List;
use crate::resource::units::Ratio;

/// What is recorded about calls, and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// What calls are told apart by in metrics, besides server, method, tool, namespace of the caller and outcome. Each
    /// multiplies the series, of which a sidecar keeps only so many.
    #[serde(default, skip_serializing_if = "is_default")]
    pub metric_dimensions: List<MetricDimension, 8>,
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
    /// What of calls of tools stands in the spans of the sidecar beside the server; nothing if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<TracedContent>,
}

/// What of calls of tools stands in spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TracedContent {
    /// Arguments, less what is redacted.
    Arguments,
    /// Results besides, of tools of which no argument is redacted.
    Full,
}

/// What calls can be told apart by in metrics, besides what they always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MetricDimension {
    /// The identity of the caller.
    Caller,
    /// Which era of the protocol the caller speaks.
    Era,
    /// The limit of a quota that refused the call.
    Limit,
}

impl MetricDimension {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Caller, "caller"), (Self::Era, "era"), (Self::Limit, "limit")];
}

impl fmt::Display for MetricDimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(dimension, _)| dimension == self).map(|(_, name)| *name);
        f.write_str(name.unwrap_or_default())
    }
}

impl FromStr for MetricDimension {
    type Err = UnknownDimension;

    fn from_str(text: &str) -> Result<Self, UnknownDimension> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(dimension, _)| *dimension).ok_or_else(|| UnknownDimension(text.to_owned()))
    }
}

/// A dimension of metrics that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown dimension {0:?}; expected `caller`, `era` or `limit`")]
pub struct UnknownDimension(String);

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
    /// Share of the calls that went well that is written, such as `10%`. What was refused or failed is always written,
    /// and so is what a rule audits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<Ratio>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dimension_is_called_the_same_in_documents_and_between_programs() {
        for (dimension, name) in MetricDimension::ALL {
            assert_eq!(dimension.to_string(), name);
            assert_eq!(name.parse(), Ok(dimension));
            assert_eq!(serde_json::to_value(dimension).ok(), Some(name.into()));
        }
        let unknown = "session".parse::<MetricDimension>().map_err(|error| error.to_string());
        assert_eq!(
            unknown,
            Err("unknown dimension \"session\"; expected `caller`, `era` or `limit`".to_owned())
        );
    }
}
