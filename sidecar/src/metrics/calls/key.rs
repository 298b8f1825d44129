//! What tells series of calls apart, and how that is written as labels.

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::BuildHasher as _;

use weft_proto::mcp::method::{PROMPTS_GET, TOOLS_CALL};

use super::super::METHODS;
use super::super::verdict::{OTHER_ERROR, Verdict};
use super::{Call, OTHER};

/// What is told apart only where telemetry says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Also<'a> {
    pub caller: Option<&'a str>,
    pub era: Option<&'static str>,
    pub limit: Option<&'a str>,
}

/// What tells series of a server apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key<'a> {
    pub(super) method: usize,
    /// A tool or a prompt, as the method has it.
    pub(super) target: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
    pub(super) verdict: Verdict,
    pub(super) reason: &'static str,
    pub(super) also: Also<'a>,
}

/// The same, kept.
#[derive(Debug)]
pub(super) struct Owned {
    method: usize,
    target: Option<Box<str>>,
    namespace: Option<Box<str>>,
    verdict: Verdict,
    reason: &'static str,
    caller: Option<Box<str>>,
    era: Option<&'static str>,
    limit: Option<Box<str>>,
}

impl<'a> Key<'a> {
    pub(super) fn of(call: &Call<'a>) -> Self {
        Self {
            method: call.method,
            target: call.target.filter(|_| is_about_names(call.method)),
            namespace: namespace(call.caller),
            verdict: call.verdict,
            reason: call.reason,
            also: call.also,
        }
    }

    pub(super) fn other(method: usize, failed: bool) -> Self {
        let error = failed.then_some(OTHER_ERROR);
        Self {
            method,
            target: is_about_names(method).then_some(OTHER),
            namespace: Some(OTHER),
            verdict: Verdict { error, code: None },
            reason: OTHER,
            also: Also::default(),
        }
    }

    pub(super) fn failed(&self) -> bool {
        self.verdict.error.is_some()
    }

    pub(super) fn hash(&self, hasher: &RandomState) -> u64 {
        hasher.hash_one((
            self.method,
            self.target,
            self.namespace,
            self.reason,
            self.verdict.error,
            self.also.caller,
        ))
    }

    pub(super) fn own(&self) -> Owned {
        Owned {
            method: self.method,
            target: self.target.map(Into::into),
            namespace: self.namespace.map(Into::into),
            verdict: self.verdict,
            reason: self.reason,
            caller: self.also.caller.map(Into::into),
            era: self.also.era,
            limit: self.also.limit.map(Into::into),
        }
    }

    /// As Prometheus has them. What is not known is left out.
    pub(super) fn labels(&self, server: &str) -> String {
        let method = METHODS[self.method];
        let pairs = [
            ("server", Some(server)),
            ("mcp_method_name", Some(if method == OTHER { OTHER_ERROR } else { method })),
            (if method == PROMPTS_GET { "gen_ai_prompt_name" } else { "gen_ai_tool_name" }, self.target),
            ("caller_namespace", self.namespace),
            ("error_type", self.verdict.error),
            ("rpc_response_status_code", self.verdict.code),
            ("reason", Some(self.reason)),
            ("caller", self.also.caller),
            ("era", self.also.era),
            ("limit", self.also.limit),
        ];
        let mut text = String::new();
        for (name, value) in pairs {
            let Some(value) = value else { continue };
            let comma = if text.is_empty() { "" } else { "," };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // Writing to a text cannot fail.
            let _ = write!(text, "{comma}{name}=\"{value}\"");
        }
        text
    }
}

impl Owned {
    pub(super) fn borrowed(&self) -> Key<'_> {
        let also = Also { caller: self.caller.as_deref(), era: self.era, limit: self.limit.as_deref() };
        Key {
            method: self.method,
            target: self.target.as_deref(),
            namespace: self.namespace.as_deref(),
            verdict: self.verdict,
            reason: self.reason,
            also,
        }
    }
}

/// Whether it is about something of which a server has few, each with a name.
fn is_about_names(method: usize) -> bool {
    matches!(METHODS[method], TOOLS_CALL | PROMPTS_GET)
}

/// The class of those for whom gateways call. No namespace is written like it.
const GUESTS: &str = "#guest";

/// The class of a caller. The agent beside the sidecar has none to tell it from others, and those from outside the mesh
/// are all of one: what stands in their names, they may have chosen.
pub(super) fn namespace(caller: &str) -> Option<&str> {
    if caller.contains('#') {
        return Some(GUESTS);
    }
    let (_, path) = caller.split_once("/ns/")?;
    path.split('/').next()
}
