//! What a sidecar logs: what it is, and setting it, for good or for a while.

use std::sync::Arc;

use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proto::pb::weft::ask::v1::answer::Says;
use weft_proto::pb::weft::ask::v1::question::Asks;
use weft_proto::pb::weft::ask::v1::{self as pb, LogLinesWhat, Logs, LogsWhat};

use super::{all_answers, whom};
use crate::api::call::{Call, json};
use crate::api::serve::clip;
use crate::api::sidecars::named;
use crate::api::{Api, Error};
use crate::ask;
use crate::store::limits::AUDIT_FIELD_BYTES_MAX;

/// Longest filter, in bytes.
const FILTER_BYTES_MAX: usize = 1024;
/// Longest that a filter is set for a while, in seconds.
const FOR_SECS_MAX: u32 = 24 * 3600;

/// What a sidecar is to log.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct LoggingRequest {
    /// `error`, `warn`, `info`, `debug` or `trace`, also per module as in `info,weft_sidecar::quota=debug`.
    pub filter: String,
    /// After so long, what was logged before is again. For good, if not given.
    #[serde(default)]
    pub for_seconds: u32,
}

/// What a sidecar logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarLogging {
    pub node: String,
    pub filter: String,
    /// What it was until now, if it was set just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What it returns to by itself, and in how many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returns_in_seconds: Option<u32>,
}

/// The newest lines of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogLines {
    /// The sidecar's node; left out of the control plane's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The oldest first.
    pub lines: Vec<String>,
}

/// The lines of a sidecar. One that is a part of `weft up` has none of its own.
pub(in crate::api) async fn lines(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let status = named(&api, &call)?;
    let answers = all_answers(&api, &whom(&status), Asks::LogLinesWhat(LogLinesWhat {})).await;
    let node = status.node.clone();
    let answers = answers.map_err(|source| Error::Sidecar { node, source })?;
    let lines = answers.into_iter().filter_map(|says| match says {
        Says::LogLines(pb::LogLines { lines }) => Some(lines),
        _ => None,
    });
    Ok(json(&LogLines { node: Some(status.node.to_string()), lines: lines.flatten().collect() }))
}

/// The control plane's own.
pub(in crate::api) async fn own_lines(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    Ok(json(&LogLines { node: None, lines: api.deps.log.lines() }))
}

pub(in crate::api) async fn show(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    Ok(json(&ask(&api, &call, LogsWhat::default()).await?))
}

pub(in crate::api) async fn set(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let LoggingRequest { filter, for_seconds } = call.json()?;
    let refused = |problem: String| Error::BadBody { problem, line: 0, column: 0 };
    if !(1..=FILTER_BYTES_MAX).contains(&filter.len()) {
        return Err(refused(format!("filter: 1 to {FILTER_BYTES_MAX} bytes are taken")));
    }
    if for_seconds > FOR_SECS_MAX {
        return Err(refused(format!("forSeconds: at most {FOR_SECS_MAX} are taken")));
    }
    let what = LogsWhat { filter: Some(filter.clone()), for_secs: for_seconds };
    let now = ask(&api, &call, what).await?;
    let reason = match for_seconds {
        0 => format!("{filter:?} instead of {:?}", now.before.as_deref().unwrap_or_default()),
        secs => format!("{filter:?} instead of {:?} for {secs} s", now.before.as_deref().unwrap_or_default()),
    };
    let object = format!("sidecar/{}", now.node);
    api.deps
        .store
        .append_audit(call.actor().did("sidecar.logging", object, clip(&reason, AUDIT_FIELD_BYTES_MAX)))
        .await?;
    Ok(json(&now))
}

async fn ask(api: &Api, call: &Call, what: LogsWhat) -> Result<SidecarLogging, Error> {
    let status = named(api, call)?;
    let answers = all_answers(api, &whom(&status), Asks::LogsWhat(what)).await;
    let logs = answers.and_then(|answers| {
        let logs = answers.into_iter().find_map(|says| match says {
            Says::Logs(logs) => Some(logs),
            _ => None,
        });
        logs.ok_or_else(|| ask::Error::Refused("it did not say what it logs".to_owned()))
    });
    let node = status.node.clone();
    let Logs { filter, before, usual, returns_in_secs } =
        logs.map_err(|source| Error::Sidecar { node, source })?;
    let some = |text: String| (!text.is_empty()).then_some(text);
    let usual = some(usual);
    Ok(SidecarLogging {
        node: status.node.to_string(),
        filter,
        before: some(before),
        returns_in_seconds: usual.is_some().then_some(returns_in_secs),
        usual,
    })
}
