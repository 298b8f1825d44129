//! `ToolPolicy`: how calls of particular tools are treated.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Patterns, ServerSelector, is_default};
use crate::name::{Digest, ToolName};
use crate::resource::bounded::{List, Map, Text};
use crate::resource::units::{ByteSize, Delay, Span};

/// How calls of the tools it names are treated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolPolicy {
    /// The servers it speaks about; every server of its scope if not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub servers: ServerSelector,
    /// The tools it speaks about; every tool if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Patterns>,
    /// Time to the first byte of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Arguments against the tool's advertised input schema.
    #[serde(default, skip_serializing_if = "is_default")]
    pub validate_arguments: Strictness,
    /// Definitions against those approved. Of several policies that speak about a tool the strictest holds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pin: Strictness,
    /// Approved definitions: tool name to digest.
    #[serde(default, skip_serializing_if = "is_default")]
    pub approved: Map<ToolName, Digest, 1024>,
    /// Largest answer passed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_max: Option<ByteSize>,
    /// Answers kept and given again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<ResponseCache>,
    /// Which calls the caller's sidecar may repeat if the connection breaks before there is an answer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retry: RetryClass,
    /// After this long without an answer the caller's sidecar asks another instance as well, and takes the answer that
    /// comes first; never if not given. With `p95` it learns for each tool how long nineteen of twenty answers take, and
    /// asks nobody else before it has seen enough of them. Only for tools whose `retry` is `read-only` or `idempotent`, or
    /// that say so themselves and are believed (`trustHints`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge_after: Option<Delay>,
    /// Believe the server's own hints about its tools: where no policy gives a `retry`, what says of itself that it is
    /// read-only or idempotent (`annotations.readOnlyHint`, `idempotentHint`) may be repeated as if a policy said so.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trust_hints: bool,
    /// Arguments that are never logged, audited or traced, as dotted paths from the outermost argument inwards.
    #[serde(default, skip_serializing_if = "is_default")]
    pub redact: List<Text<256>, 64>,
    /// Evaluate and record, without enforcing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shadow: bool,
}

impl ToolPolicy {
    /// Whether it says something that whoever calls has to know: what may be repeated or asked twice, and how long to
    /// wait.
    pub fn is_for_callers(&self) -> bool {
        !self.shadow
            && (self.retry != RetryClass::Never
                || self.timeout.is_some()
                || self.hedge_after.is_some()
                || self.trust_hints)
    }
}

/// How a check is meant, the milder first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strictness {
    #[default]
    Off,
    Warn,
    Enforce,
}

/// Answers kept and given again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResponseCache {
    /// For how long.
    pub ttl: Span,
    /// To whom.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scope: CacheScope,
}

/// Who is given a kept answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CacheScope {
    /// Only the caller that asked first.
    #[default]
    Caller,
    /// Every caller that may call the tool.
    Shared,
}

/// Which calls may be repeated after they left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RetryClass {
    #[default]
    Never,
    ReadOnly,
    Idempotent,
}
