//! The mesh as an MCP registry, for clients that read one: the registry's API v0.1, as far as it is reading.
//!
//! A server is called `<namespace>/<name>` here too. There is one version of each: what runs. Its remote is where a
//! sidecar beside an agent has it, on the port that sidecars listen on by default.

use std::sync::Arc;

use axum::response::Response;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proto::catalogue::card::About;
use weft_proto::name::ServerName;

use super::call::{Call, json};
use super::dto::DateTime;
use super::{Api, Error, catalogue};
use crate::auth::timestamp;
use crate::catalog::Entry;

/// The form that servers are told in.
const SCHEMA: &str = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json";
/// Where a sidecar listens for the agent beside it, unless its file says otherwise.
const OUTBOUND: &str = "http://localhost:7400";
const LIMIT_DEFAULT: usize = 30;
const LIMIT_MAX: usize = 100;

/// Which servers are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Where the page before said to go on.
    cursor: Option<String>,
    /// Most servers in the answer; 30 if not given, at most 100.
    limit: Option<usize>,
    /// A part of the name.
    search: Option<String>,
    /// Only those that changed since.
    #[schemars(with = "Option<DateTime>")]
    updated_since: Option<Timestamp>,
    /// `latest`, or an exact version.
    version: Option<String>,
    /// What was deleted is never told.
    #[serde(rename = "include_deleted")]
    _include_deleted: Option<bool>,
}

/// Nothing that changes the answer.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VersionsQuery {
    /// What was deleted is never told.
    #[serde(rename = "include_deleted")]
    _include_deleted: Option<bool>,
}

/// A page of servers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RegistryServers {
    pub servers: Vec<RegistryServer>,
    pub metadata: RegistryMetadata,
}

/// About a page.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryMetadata {
    pub count: usize,
    /// Where the next page begins, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A server, and what the registry says of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RegistryServer {
    pub server: RegistryServerDetail,
    #[serde(rename = "_meta")]
    pub meta: RegistryMeta,
}

/// What the registry says of a server.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RegistryMeta {
    #[serde(rename = "io.modelcontextprotocol.registry/official")]
    pub official: RegistryStatus,
    #[serde(rename = "dev.weft/catalogue")]
    pub catalogue: RegistryCatalogue,
}

/// How a server stands.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStatus {
    /// `active`
    pub status: String,
    #[schemars(with = "DateTime")]
    pub status_changed_at: Timestamp,
    /// Since when it offers what it offers now.
    #[schemars(with = "DateTime")]
    pub published_at: Timestamp,
    #[schemars(with = "DateTime")]
    pub updated_at: Timestamp,
    pub is_latest: bool,
}

/// How much a server offers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryCatalogue {
    pub items: usize,
    /// Revisions of the protocol that it says it speaks.
    pub revisions: Vec<String>,
    /// Since when no sidecar tells of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub away_since: Option<Timestamp>,
}

/// A server, in the form of `server.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RegistryServerDetail {
    #[serde(rename = "$schema")]
    pub schema: String,
    /// `<namespace>/<name>`
    pub name: String,
    pub description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    pub version: String,
    pub remotes: Vec<RegistryRemote>,
}

/// Where a server is reached.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RegistryRemote {
    /// `streamable-http`
    #[serde(rename = "type")]
    pub kind: String,
    pub url: String,
}

pub(super) async fn list(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: ListQuery = call.query()?;
    let limit = match query.limit {
        None => LIMIT_DEFAULT,
        Some(limit @ 1..) => limit.min(LIMIT_MAX),
        Some(0) => {
            return Err(Error::BadParameter { name: "limit", problem: "expected at least 1".to_owned() });
        }
    };
    let after = query.cursor.filter(|it| !it.is_empty()).map(|it| name("cursor", &it)).transpose()?;
    let search = query.search.unwrap_or_default().to_lowercase();
    let entries = catalogue::known(&api).await?;
    let rest = entries.iter().filter(|entry| after.as_ref().is_none_or(|after| entry.server > *after));
    let told = rest.filter_map(RegistryServer::of).filter(|it| {
        it.server.name.contains(&search)
            && query.updated_since.is_none_or(|since| it.meta.official.updated_at >= since)
            && query.version.as_deref().is_none_or(|version| it.is(version))
    });
    let mut servers: Vec<RegistryServer> = told.take(limit + 1).collect();
    let has_more = servers.len() > limit;
    servers.truncate(limit);
    let next_cursor = servers.last().filter(|_| has_more).map(|it| it.server.name.clone());
    Ok(json(&RegistryServers { metadata: RegistryMetadata { count: servers.len(), next_cursor }, servers }))
}

pub(super) async fn versions(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.query::<VersionsQuery>()?;
    let servers = vec![find(&api, &call).await?];
    Ok(json(&RegistryServers {
        metadata: RegistryMetadata { count: servers.len(), next_cursor: None },
        servers,
    }))
}

pub(super) async fn version(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.query::<VersionsQuery>()?;
    let version: String = call.part("version")?;
    let found = find(&api, &call).await?;
    match found.is(&version) {
        true => Ok(json(&found)),
        false => Err(Error::NotInRegistry { what: format!("version {version:?} of {}", found.server.name) }),
    }
}

async fn find(api: &Api, call: &Call) -> Result<RegistryServer, Error> {
    let name = named(call)?;
    let entries = catalogue::known(api).await?;
    let entry = entries.iter().find(|entry| entry.server == name);
    entry.and_then(RegistryServer::of).ok_or_else(|| unknown(&name.to_string()))
}

/// The server that a path names. What is no name of the mesh's is the name of nothing here, not a mistake.
pub(super) fn named(call: &Call) -> Result<ServerName, Error> {
    let text: String = call.part("server")?;
    text.parse().map_err(|_| unknown(&text))
}

pub(super) fn unknown(server: &str) -> Error {
    Error::NotInRegistry { what: format!("server {server:?}") }
}

fn name(parameter: &'static str, text: &str) -> Result<ServerName, Error> {
    ServerName::parse(text)
        .map_err(|error| Error::BadParameter { name: parameter, problem: error.to_string() })
}

/// Where the agent beside a sidecar reaches a server.
pub(super) fn url(server: &ServerName) -> String {
    format!("{OUTBOUND}/servers/{server}/mcp")
}

impl RegistryServer {
    fn of(entry: &Entry) -> Option<Self> {
        let known = entry.known.as_ref()?;
        let about = About::of(&entry.server, Some(&known.offer.introduction));
        let at = timestamp(known.since);
        Some(Self {
            server: RegistryServerDetail {
                schema: SCHEMA.to_owned(),
                name: entry.server.to_string(),
                description: about.description,
                title: about.title,
                version: about.version,
                remotes: vec![RegistryRemote { kind: "streamable-http".to_owned(), url: url(&entry.server) }],
            },
            meta: RegistryMeta {
                official: RegistryStatus {
                    status: "active".to_owned(),
                    status_changed_at: at,
                    published_at: at,
                    updated_at: at,
                    is_latest: true,
                },
                catalogue: RegistryCatalogue {
                    items: known.items.len(),
                    revisions: known.revisions.clone(),
                    away_since: entry.away_since.map(timestamp),
                },
            },
        })
    }

    fn is(&self, version: &str) -> bool {
        version == "latest" || version == self.server.version
    }
}
