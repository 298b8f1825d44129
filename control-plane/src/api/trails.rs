//! The audit trails: records of calls and of what operators did, and everything it takes to verify them elsewhere.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proto::name::NodeId;

use super::call::{Call, json};
use super::objects::limit;
use super::{Api, Error};
use crate::audit::{self, Wanted, WantedTrails};

const LIMIT_DEFAULT: usize = 100;

/// Which records are wanted. Names may have `*` in them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordsQuery {
    /// Most records in the answer; 100 if not given, at most 1000.
    limit: Option<usize>,
    /// Only records before the one with this place.
    before: Option<u64>,
    /// Only what this node wrote: a sidecar, or `weft-system/control-plane`.
    node: Option<String>,
    /// Only what this caller, or this operator, did.
    caller: Option<String>,
    /// Only calls of this server; `control-plane` for what operators did.
    server: Option<String>,
    /// Only calls of this tool, or this action of operators.
    tool: Option<String>,
    /// Only what came out so: `begun`, `done`, `refused` or `failed`.
    outcome: Option<String>,
    /// Only from this time on.
    #[schemars(with = "Option<String>")]
    since: Option<Timestamp>,
    /// Only before this time.
    #[schemars(with = "Option<String>")]
    until: Option<Timestamp>,
}

/// Which trails are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TrailsQuery {
    /// Only those of this node.
    node: Option<String>,
    /// Most trails in the answer; 100 if not given, at most 1000.
    limit: Option<usize>,
    /// Only trails after the one with this place.
    after: Option<u64>,
}

/// Records, the newest first. Each `line` is as its node wrote it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RecordList {
    #[schemars(with = "Vec<serde_json::Value>")]
    items: Vec<audit::Found>,
    /// What to ask for the next page `before`.
    next: Option<u64>,
}

/// Trails, with their segments and anchors.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TrailList {
    #[schemars(with = "Vec<serde_json::Value>")]
    items: Vec<audit::Known>,
    /// Given if there may be more: the parameter `after` of the next request.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

fn failed(error: audit::Error) -> Error {
    Error::Internal(Box::new(error))
}

pub(super) async fn records(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: RecordsQuery = call.query()?;
    let limit = limit(query.limit, LIMIT_DEFAULT)?;
    let RecordsQuery { before, node, caller, server, tool, outcome, since, until, .. } = query;
    let wanted = Wanted { node, since, until, caller, server, tool, outcome, before, limit };
    let items = api.deps.trails.records(wanted).await.map_err(failed)?;
    let next = items.last().map(|it| it.place);
    Ok(json(&RecordList { items, next }))
}

pub(super) async fn list(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let TrailsQuery { node, limit: given, after } = call.query()?;
    let limit = limit(given, LIMIT_DEFAULT)?;
    let items = api.deps.trails.known(WantedTrails { node, after, limit }).await.map_err(failed)?;
    let next = items.last().filter(|_| items.len() == limit).map(|it| it.place);
    Ok(json(&TrailList { items, next }))
}

pub(super) async fn segment(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let (namespace, name): (String, String) = (call.part("ns")?, call.part("instance")?);
    let node = NodeId::parse(&format!("{namespace}/{name}"))
        .map_err(|error| Error::BadParameter { name: "instance", problem: error.to_string() })?;
    let (trail, number): (String, u64) = (call.part("trail")?, call.part("segment")?);
    let found = api.deps.trails.segment(node.as_str().to_owned(), trail, number).await.map_err(failed)?;
    let lines = found.ok_or(Error::UnknownRoute)?;
    Ok(([(CONTENT_TYPE, "application/jsonl")], lines).into_response())
}
