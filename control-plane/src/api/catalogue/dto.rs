//! How the catalogue is told.

use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_proto::catalogue::digest::hex;
use weft_proto::mcp::lists::Listed;
use weft_proto::name::ServerName;
use weft_proto::offer::Offered;

use super::super::dto::DateTime;
use crate::auth::timestamp;
use crate::catalog::{Entry, Reading, Since, Version};

/// Characters of a description in a list.
const DESCRIPTION_CHARS: usize = 300;

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ItemKind {
    Tool,
    Prompt,
    Resource,
    Template,
}

impl From<ItemKind> for Listed {
    fn from(kind: ItemKind) -> Self {
        match kind {
            ItemKind::Tool => Self::Tool,
            ItemKind::Prompt => Self::Prompt,
            ItemKind::Resource => Self::Resource,
            ItemKind::Template => Self::ResourceTemplate,
        }
    }
}

impl From<Listed> for ItemKind {
    fn from(listed: Listed) -> Self {
        match listed {
            Listed::Tool => Self::Tool,
            Listed::Prompt => Self::Prompt,
            Listed::Resource => Self::Resource,
            Listed::ResourceTemplate => Self::Template,
        }
    }
}

pub(super) const fn word(listed: Listed) -> &'static str {
    match listed {
        Listed::Tool => "tool",
        Listed::Prompt => "prompt",
        Listed::Resource => "resource",
        Listed::ResourceTemplate => "template",
    }
}

/// What a tool says of itself, in its annotations. What it does not say is not supposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Hint {
    ReadOnly,
    Destructive,
    Idempotent,
    OpenWorld,
}

pub(super) fn hints(offered: &Offered) -> Vec<Hint> {
    if offered.kind != Listed::Tool {
        return Vec::new();
    }
    hints_in(&serde_json::from_str(&offered.definition).unwrap_or_default())
}

fn hints_in(definition: &Value) -> Vec<Hint> {
    let all = [
        ("readOnlyHint", Hint::ReadOnly),
        ("destructiveHint", Hint::Destructive),
        ("idempotentHint", Hint::Idempotent),
        ("openWorldHint", Hint::OpenWorld),
    ];
    let said = |(member, _): &(&str, Hint)| definition["annotations"][*member] == true;
    all.into_iter().filter(said).map(|(_, hint)| hint).collect()
}

/// A page of items.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OfferedList {
    pub items: Vec<OfferedItem>,
    /// Where the next page begins, if there is one.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Something that a server offers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferedItem {
    /// `<namespace>/<name>`
    pub server: String,
    pub kind: ItemKind,
    /// Its name, URI or URI template.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// How it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// SHA-256 over the canonical JSON of the whole definition.
    pub digest: String,
    /// Since when the definition is this one.
    #[schemars(with = "DateTime")]
    pub since: Timestamp,
    /// What a tool says of itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<Hint>,
    /// Sidecars that read the server, and how many of them found this definition.
    pub instances: usize,
    pub agreeing: usize,
    /// Since when no sidecar tells of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub away_since: Option<Timestamp>,
    /// Of a tool: `approved`, `new`, `changed` or `unpinned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Of a tool: `off`, `warn` or `enforce`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// The policy that pins the tool, as `<namespace>/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// How well it matches the words (BM25).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

impl OfferedItem {
    pub(super) fn of(server: &ServerName, offered: &Arc<Offered>, since: &Since) -> Self {
        let definition: Value = serde_json::from_str(&offered.definition).unwrap_or_default();
        let text = |member: &str| definition[member].as_str().map(str::to_owned);
        // What a resource is called besides its URI.
        let called = text("name").filter(|name| **name != *offered.name);
        Self {
            server: server.to_string(),
            kind: offered.kind.into(),
            name: offered.name.to_string(),
            title: text("title").or(called),
            description: text("description").map(|text| text.chars().take(DESCRIPTION_CHARS).collect()),
            digest: hex(&since.digest),
            since: timestamp(since.at),
            hints: hints_in(&definition),
            instances: 0,
            agreeing: 0,
            away_since: None,
            state: None,
            pin: None,
            policy: None,
            score: None,
        }
    }
}

/// Something that a server offers, with all that is known of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferedShown {
    pub item: OfferedItem,
    pub definition: Value,
    /// The digest by which a tool is approved: it is of less than the whole definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    pub replicas: Vec<OfferedReplica>,
    /// The definitions that there were, the newest first; the first is the one that there is.
    pub versions: Vec<OfferedVersion>,
}

/// What a sidecar beside the server read under the name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OfferedReplica {
    pub node: String,
    /// When it reported last.
    #[schemars(with = "DateTime")]
    pub at: Timestamp,
    /// Not there where it found nothing of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub agrees: bool,
}

impl OfferedReplica {
    pub(super) fn of(reading: Reading, known: &str) -> Self {
        let digest = reading.digest.as_ref().map(hex);
        let agrees = digest.as_deref() == Some(known);
        Self { node: reading.node.to_string(), at: timestamp(reading.at), digest, agrees }
    }
}

/// A definition that there was, or is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OfferedVersion {
    pub digest: String,
    #[schemars(with = "DateTime")]
    pub from: Timestamp,
    /// Not there for the one that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub until: Option<Timestamp>,
    pub definition: Value,
}

impl OfferedVersion {
    pub(super) fn of(version: &Version) -> Self {
        Self {
            digest: hex(&version.digest),
            from: timestamp(version.from),
            until: version.until.map(timestamp),
            definition: serde_json::from_str(&version.definition).unwrap_or_default(),
        }
    }
}

/// A page of servers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OfferingList {
    pub items: Vec<OfferingServer>,
    /// Where the next page begins, if there is one.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A server, what it says of itself, and how much it offers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferingServer {
    /// `<namespace>/<name>`
    pub server: String,
    /// Who it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_info: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Revisions of the protocol that it says it speaks.
    pub revisions: Vec<String>,
    pub tools: usize,
    pub prompts: usize,
    pub resources: usize,
    pub templates: usize,
    /// Things that it advertises and that are not known: they have no name that everyone reads alike, or there is no
    /// room for them.
    pub left_out: u32,
    /// Since when it offers this; not there before the first whole report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub since: Option<Timestamp>,
    /// Since when no sidecar tells of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub away_since: Option<Timestamp>,
    pub replicas: Vec<OfferingReplica>,
}

/// A sidecar beside a server.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OfferingReplica {
    pub node: String,
    /// When it reported last.
    #[schemars(with = "DateTime")]
    pub at: Timestamp,
    pub items: usize,
    /// Whether it read what the server offers by the word of most; not there while its report is not whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agrees: Option<bool>,
    /// Some of the items in which it differs, as `<kind> <name>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differs: Vec<String>,
}

impl OfferingServer {
    pub(super) fn of(entry: &Entry) -> Self {
        let known = entry.known.as_deref();
        let introduction = known.map(|known| known.offer.introduction.clone()).unwrap_or_default();
        let object = |text: Option<Arc<str>>| serde_json::from_str(&text?).ok();
        let count = |listed| known.map_or(0, |known| known.offer.of(listed).len());
        let replica = |replica: &crate::catalog::Replica| OfferingReplica {
            node: replica.node.to_string(),
            at: timestamp(replica.at),
            items: replica.items,
            agrees: replica.agrees,
            differs: replica.differs.iter().map(|(kind, name)| format!("{} {name}", word(*kind))).collect(),
        };
        Self {
            server: entry.server.to_string(),
            server_info: object(introduction.server_info),
            capabilities: object(introduction.capabilities),
            instructions: introduction.instructions.map(|text| text.to_string()),
            revisions: known.map(|known| known.revisions.clone()).unwrap_or_default(),
            tools: count(Listed::Tool),
            prompts: count(Listed::Prompt),
            resources: count(Listed::Resource),
            templates: count(Listed::ResourceTemplate),
            left_out: known.map_or(0, |known| known.left_out),
            since: known.map(|known| timestamp(known.since)),
            away_since: entry.away_since.map(timestamp),
            replicas: entry.replicas.iter().map(replica).collect(),
        }
    }
}
