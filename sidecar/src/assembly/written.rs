//! What an assembly says: of itself, and in lists.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use weft_proto::mcp::Revision;
use weft_proto::mcp::lists::Listed;
use weft_proto::offer::Offer;
use weft_proto::resource::kinds::Era;
use weft_proto::roster::{PageLimits, Roster};

use crate::bridge::tasks;
use crate::exchange::Introduction;
use crate::task_id;

use super::narrowed::Narrowed;

/// A page of a list. Many clients ask for no second one, so that the first is large.
const PAGE: PageLimits = PageLimits { items_max: 1000, bytes_max: 2 << 20 };
/// Longest text that is made of what members say of themselves.
const INSTRUCTIONS_BYTES_MAX: usize = 16 << 10;
/// What each member has of that at least.
const INSTRUCTIONS_SHARE_BYTES_MIN: usize = 1 << 10;

/// What an assembly says of itself is made of this.
#[derive(Debug)]
pub(super) struct Said<'a> {
    pub(super) name: String,
    pub(super) instructions: Option<&'a str>,
    pub(super) offers: &'a [Arc<Offer>],
}

/// What an assembly says of itself.
pub(super) fn introduction(said: &Said<'_>) -> Introduction {
    let mut result = json!({
        "resultType": "complete",
        "supportedVersions": [Revision::LATEST.as_str()],
        "capabilities": capabilities(said.offers),
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {
            "io.modelcontextprotocol/serverInfo": {
                "name": said.name, "version": env!("CARGO_PKG_VERSION"),
            },
        },
    });
    let instructions = said.instructions.map_or_else(|| of_members(said.offers), str::to_owned);
    if !instructions.is_empty() {
        result["instructions"] = instructions.into();
    }
    let revision = Revision::LATEST.as_str().to_owned();
    Introduction { era: Era::Modern, revision, result: result.to_string().into() }
}

/// Members may come that have what the present ones have not, so that every list is announced. Extensions are those of
/// any member.
fn capabilities(offers: &[Arc<Offer>]) -> Value {
    let mut capabilities = json!({
        "tools": { "listChanged": true },
        "prompts": { "listChanged": true },
        "resources": { "listChanged": true, "subscribe": true },
    });
    for offer in offers {
        let own = offer.introduction.capabilities.as_deref();
        // A member's sidecar offers a legacy server's tasks as those of the modern era.
        let raw = own.and_then(|own| serde_json::from_str::<&RawValue>(own).ok());
        let are_translated = raw.is_some_and(tasks::are_taken);
        let Some(Value::Object(own)) = own.and_then(|own| serde_json::from_str(own).ok()) else { continue };
        if are_translated {
            capabilities["extensions"][task_id::EXTENSION] = json!({});
        }
        for key in ["completions", "logging"] {
            if own.contains_key(key) {
                capabilities[key] = json!({});
            }
        }
        for key in ["extensions", "experimental"] {
            let Some(Value::Object(theirs)) = own.get(key) else { continue };
            let all = capabilities.as_object_mut().map(|it| it.entry(key).or_insert_with(|| json!({})));
            let Some(Value::Object(all)) = all else { continue };
            for (name, value) in theirs {
                all.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    capabilities
}

/// Whether an introduction offers tasks.
pub(super) fn has_tasks(introduction: &Introduction) -> bool {
    let said = serde_json::from_slice::<Value>(&introduction.result).unwrap_or_default();
    said["capabilities"]["extensions"].get(task_id::EXTENSION).is_some()
}

/// What the members say, each under its name.
fn of_members(offers: &[Arc<Offer>]) -> String {
    let mut text = String::new();
    // Each has its share, so that nobody's leave no room for the others'.
    let share = INSTRUCTIONS_BYTES_MAX / offers.len().max(1);
    for offer in offers {
        let Some(own) = offer.introduction.instructions.as_deref().map(str::trim) else { continue };
        let heading = format!("{}# {}\n\n", if text.is_empty() { "" } else { "\n\n" }, offer.server.name);
        let fits = own.len() <= share.max(INSTRUCTIONS_SHARE_BYTES_MIN);
        if !own.is_empty() && fits && text.len() + heading.len() + own.len() <= INSTRUCTIONS_BYTES_MAX {
            text += &heading;
            text += own;
        }
    }
    text
}

/// A page of a list, as the response to the request of an id.
pub(super) fn list(
    (roster, part): (&Roster, Option<&Narrowed>),
    kind: Listed,
    id: &str,
    after: Option<&str>,
) -> Bytes {
    let page = roster.page(kind, after, PAGE, |at| part.is_none_or(|part| part.has(kind, at)));
    let bytes: usize = page.shown.iter().map(|it| it.own.definition.len() + it.name.len() + 1).sum();
    let mut text = String::with_capacity(bytes + 256);
    let member = kind.member();
    text += &format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","{member}":["#);
    for (at, shown) in page.shown.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        shown.write(&mut text);
    }
    text.push(']');
    if let Some(next) = page.next {
        text += &format!(r#","nextCursor":{}"#, Value::from(next));
    }
    text.push_str(r#","ttlMs":0,"cacheScope":"private"}}"#);
    text.into()
}
