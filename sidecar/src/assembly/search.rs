//! A handful of tools instead of thousands: an assembly in search mode lists `find_tools`, `describe_tool` and `call_tool`,
//! and everything else is found with the first, read with the second and called with the third.
//!
//! A call by `call_tool` is the call that it names: it leaves under that tool's own name and with its arguments, and what is
//! decided, limited and recorded is that. Not here: who may use what, which is settled by what is shown.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use weft_proto::catalogue::search::{Document, Index};
use weft_proto::mcp::lists::Listed;
use weft_proto::mcp::{Request, edit};
use weft_proto::offer::Offered;
use weft_proto::roster::{Roster, Shown};

use super::narrowed::Narrowed;

pub(super) const FIND: &str = "find_tools";
pub(super) const DESCRIBE: &str = "describe_tool";
pub(super) const CALL: &str = "call_tool";

/// Tools that one search finds, if nothing else is said, and at most.
const FOUND: usize = 10;
const FOUND_MAX: usize = 50;
/// Longest question.
const QUERY_BYTES_MAX: usize = 1024;
/// What is told of a description in a list of what was found.
const SUMMARY_CHARS_MAX: usize = 200;

/// The tools of a roster, to be found by words.
#[derive(Clone, Debug, Default)]
pub(super) struct Searchable {
    index: Index<Box<str>>,
    known: BTreeMap<Box<str>, Arc<Offered>>,
}

/// What is drawn, and which part of it whoever asks is shown.
type Of<'a> = (&'a Roster, Option<&'a Narrowed>);

/// What `call_tool` is asked to call.
#[derive(Debug, Deserialize)]
pub(super) struct Inner<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    /// An object; an empty one if not given.
    #[serde(borrow, default)]
    pub(super) arguments: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct Find {
    query: String,
    #[serde(default)]
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct Describe {
    name: String,
}

impl Searchable {
    /// The same for another roster: what is as it was is not read again.
    pub(super) fn of(roster: &Roster, before: Option<&Self>) -> Self {
        let mut next = before.cloned().unwrap_or_default();
        let tools = roster.of(Listed::Tool);
        let gone: Vec<_> =
            next.known.keys().filter(|name| roster.find(Listed::Tool, name).is_none()).cloned().collect();
        for name in gone {
            next.index.remove(&name);
            next.known.remove(&name);
        }
        for shown in tools {
            if next.known.get(&shown.name).is_some_and(|known| Arc::ptr_eq(known, &shown.own)) {
                continue;
            }
            next.index.put(shown.name.clone(), &Document::of(&shown.name, &shown.own.definition));
            next.known.insert(shown.name.clone(), Arc::clone(&shown.own));
        }
        next
    }

    /// Answers a call of one of the tools that are answered here; none for any other.
    pub(super) fn answer(&self, of: Of<'_>, request: &Request<'_>) -> Option<Bytes> {
        let arguments = request.params.arguments.map_or("{}", |raw| raw.get());
        let result = match request.params.name.as_deref()? {
            FIND => self.found(of, arguments),
            DESCRIBE => described(of, arguments),
            // What can be called is called elsewhere.
            CALL => Err(format!("{CALL} needs the `name` of a tool, and its `arguments` as an object")),
            _ => return None,
        };
        let result = result.unwrap_or_else(
            |problem| json!({ "content": [{ "type": "text", "text": problem }], "isError": true }),
        );
        Some(response(request, result))
    }

    fn found(&self, of @ (roster, part): Of<'_>, arguments: &str) -> Result<Value, String> {
        let Find { query, limit } = serde_json::from_str(arguments).map_err(|error| error.to_string())?;
        if query.len() > QUERY_BYTES_MAX {
            return Err(format!("the query is longer than {QUERY_BYTES_MAX} bytes"));
        }
        let limit = limit.unwrap_or(FOUND).clamp(1, FOUND_MAX);
        let all = part.map_or_else(|| roster.of(Listed::Tool).len(), Narrowed::tools);
        let hits = match all {
            // It would be looked through whole for nothing.
            0 => Vec::new(),
            _ => self.index.search(&query, limit, |name| is_shown(of, name)),
        };
        let tools = hits.iter().filter_map(|hit| roster.find(Listed::Tool, &hit.key)).map(summary);
        let tools: Vec<Value> = tools.collect();
        Ok(structured(&json!({ "tools": tools, "of": all })))
    }
}

fn is_shown((roster, part): Of<'_>, name: &str) -> bool {
    part.is_none_or(|part| part.has_tool(roster, name))
}

fn described(of @ (roster, _): Of<'_>, arguments: &str) -> Result<Value, String> {
    let Describe { name } = serde_json::from_str(arguments).map_err(|error| error.to_string())?;
    let shown = roster.find(Listed::Tool, &name).filter(|it| is_shown(of, &it.name));
    let shown = shown.ok_or_else(|| format!("there is no tool {name:?}"))?;
    let mut definition = String::new();
    shown.write(&mut definition);
    let definition: Value = serde_json::from_str(&definition).map_err(|error| error.to_string())?;
    Ok(structured(&definition))
}

fn summary(shown: &Shown) -> Value {
    #[derive(Deserialize)]
    struct Described {
        #[serde(default)]
        description: Option<String>,
    }
    let read = serde_json::from_str::<Described>(&shown.own.definition).ok();
    let description = read.and_then(|read| read.description).unwrap_or_default();
    let first: String = description.trim().chars().take(SUMMARY_CHARS_MAX).collect();
    json!({ "name": shown.name, "description": first })
}

/// A result that says the same as text and as a value.
fn structured(value: &Value) -> Value {
    json!({ "content": [{ "type": "text", "text": value.to_string() }], "structuredContent": value })
}

fn response(request: &Request<'_>, mut result: Value) -> Bytes {
    result["resultType"] = "complete".into();
    let result = serde_json::value::to_raw_value(&result).expect("a value is JSON");
    edit::result(request.id.raw(), &result).into()
}

/// Whether a call is of one of the tools that are listed here.
pub(super) fn is_ours(request: &Request<'_>) -> bool {
    request.params.name.as_deref().is_some_and(|name| [FIND, DESCRIBE, CALL].contains(&name))
}

/// The tool that a call of `call_tool` is about; none if it is none, or does not say.
pub(super) fn inner<'a>(request: &'a Request<'_>) -> Option<Inner<'a>> {
    if request.params.name.as_deref() != Some(CALL) {
        return None;
    }
    let inner: Inner<'_> = serde_json::from_str(request.params.arguments?.get()).ok()?;
    let is_object = inner.arguments.is_none_or(|raw| raw.get().starts_with('{'));
    is_object.then_some(inner)
}

/// The list of tools, as the response to the request of an id.
pub(super) fn list(id: &str) -> Bytes {
    let tools = json!([
        {
            "name": FIND,
            "title": "Find tools",
            "description": "Finds tools by words about what they do. Answers with names and short descriptions, the best \
                first. Use describe_tool for how to call one, and call_tool to call it.",
            "inputSchema": {
                "type": "object",
                "properties": {
                    "query": { "type": "string", "description": "Words about what is to be done" },
                    "limit": { "type": "integer", "minimum": 1, "maximum": FOUND_MAX, "default": FOUND },
                },
                "required": ["query"],
            },
            "annotations": { "readOnlyHint": true },
        },
        {
            "name": DESCRIBE,
            "title": "Describe a tool",
            "description": "Says what a tool does and which arguments it takes: its whole definition.",
            "inputSchema": {
                "type": "object",
                "properties": { "name": { "type": "string", "description": "A name from find_tools" } },
                "required": ["name"],
            },
            "annotations": { "readOnlyHint": true },
        },
        {
            "name": CALL,
            "title": "Call a tool",
            "description": "Calls a tool by its name, with the arguments that describe_tool says it takes.",
            "inputSchema": {
                "type": "object",
                "properties": {
                    "name": { "type": "string", "description": "A name from find_tools" },
                    "arguments": { "type": "object", "description": "The tool's own arguments" },
                },
                "required": ["name"],
            },
        },
    ]);
    let result = json!({ "resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private" });
    let result = serde_json::value::to_raw_value(&result).expect("a value is JSON");
    edit::result(id, &result).into()
}
