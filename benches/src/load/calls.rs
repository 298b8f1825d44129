//! What the server of a run answers, over HTTP and over pipes alike: `echo`, `text` and `stream`, in both eras.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest text that `text` makes, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 20;
/// Most events that `stream` sends.
const EVENTS_MAX: u32 = 100_000;

#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Debug, Default, Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    arguments: Option<Arguments<'a>>,
}

#[derive(Debug, Default, Deserialize)]
struct Arguments<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    bytes: Option<usize>,
    events: Option<u32>,
}

/// How a message is answered.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// Not at all: it was a notification.
    Nothing,
    Json(String),
    /// An error because there is no such method.
    Unknown(String),
    /// So many events, then the result.
    Stream {
        event: String,
        events: u32,
        result: String,
    },
    /// One event, then nothing for as long as the caller wishes.
    Open(String),
}

const SERVER: &str = r#""serverInfo":{"name":"weft-load","version":"1"}"#;
const CAPABILITIES: &str = r#""capabilities":{"tools":{"listChanged":true}}"#;
const SCHEMA: &str = r#""inputSchema":{"type":"object","properties":{"text":{"type":"string","maxLength":1000000},"bytes":{"type":"integer","minimum":0},"events":{"type":"integer","minimum":0,"maximum":100000}},"additionalProperties":true}"#;

/// Answers one message; `None` if it is none.
pub(crate) fn answer(bytes: &[u8]) -> Option<Answer> {
    let message: Message<'_> = serde_json::from_slice(bytes).ok()?;
    let Some(id) = message.id.map(RawValue::get) else { return Some(Answer::Nothing) };
    let params = message.params.unwrap_or_default();
    Some(match message.method.as_deref() {
        Some("tools/call") => call(id, params),
        Some("subscriptions/listen") => Answer::Open(format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{{"toolsListChanged":true}},"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
        )),
        Some("server/discover") => result(
            id,
            &format!(
                r#""supportedVersions":["2026-07-28"],{CAPABILITIES},"ttlMs":60000,"cacheScope":"public","_meta":{{"io.modelcontextprotocol/serverInfo":{{"name":"weft-load","version":"1"}}}}"#
            ),
        ),
        Some("initialize") => {
            result(id, &format!(r#""protocolVersion":"2025-11-25",{CAPABILITIES},{SERVER}"#))
        }
        Some("ping") => result(id, r#""_meta":{}"#),
        Some("tools/list") => {
            let tools = ["echo", "text", "stream"].map(|name| format!(r#"{{"name":"{name}",{SCHEMA}}}"#));
            result(id, &format!(r#""tools":[{}],"ttlMs":60000,"cacheScope":"public""#, tools.join(",")))
        }
        _ => Answer::Unknown(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"no such method"}}}}"#
        )),
    })
}

fn call(id: &str, params: Params<'_>) -> Answer {
    let arguments = params.arguments.unwrap_or_default();
    let text = arguments.text.map_or("\"\"", RawValue::get);
    match params.name.as_deref() {
        Some("echo") => content(id, text),
        Some("text") => {
            let bytes = arguments.bytes.unwrap_or_default().min(TEXT_BYTES_MAX);
            content(id, &format!("\"{}\"", "x".repeat(bytes)))
        }
        Some("stream") => Answer::Stream {
            event: format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{id},"progress":1,"message":{text}}}}}"#
            ),
            events: arguments.events.unwrap_or_default().min(EVENTS_MAX),
            result: match content(id, text) {
                Answer::Json(text) => text,
                other => unreachable!("content is JSON, not {other:?}"),
            },
        },
        _ => Answer::Json(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32602,"message":"no such tool"}}}}"#
        )),
    }
}

fn content(id: &str, text: &str) -> Answer {
    result(id, &format!(r#""content":[{{"type":"text","text":{text}}}]"#))
}

fn result(id: &str, fields: &str) -> Answer {
    let mut json = String::with_capacity(fields.len() + id.len() + 64);
    let _ = write!(json, r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete",{fields}}}}}"#);
    Answer::Json(json)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::message::{self, Shape};

    fn json(answer: Answer) -> Value {
        let Answer::Json(text) = answer else { panic!("{answer:?}") };
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn echo_says_what_it_was_told() {
        let said = json(answer(br#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"echo","arguments":{"text":"h\u0069\n"}}}"#).unwrap());
        assert_eq!(said["id"], "a");
        assert_eq!(said["result"]["content"][0]["text"], "hi\n");
    }

    #[test]
    fn every_call_of_the_generator_is_understood() {
        for shape in [Shape::Small, Shape::Medium, Shape::Large] {
            let sent = message::body(shape, "", 7);
            let said = json(answer(sent.as_bytes()).unwrap());
            let sent: Value = serde_json::from_str(&sent).unwrap();
            assert_eq!(said["result"]["content"][0]["text"], sent["params"]["arguments"]["text"]);
        }
        let stream = answer(message::body(Shape::Sse, "", 7).as_bytes()).unwrap();
        let Answer::Stream { event, events, result } = stream else { panic!("{stream:?}") };
        assert_eq!(events, message::EVENTS);
        assert!(
            serde_json::from_str::<Value>(&event).is_ok() && serde_json::from_str::<Value>(&result).is_ok()
        );
        let open = answer(message::body(Shape::Listen, "", 7).as_bytes()).unwrap();
        assert!(matches!(open, Answer::Open(text) if serde_json::from_str::<Value>(&text).is_ok()));
    }

    #[test]
    fn both_eras_begin_as_they_should() {
        for method in ["server/discover", "initialize", "tools/list", "ping"] {
            let said = json(
                answer(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#).as_bytes()).unwrap(),
            );
            assert_eq!(said["result"]["resultType"], "complete", "{method}");
        }
        let told = answer(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        assert_eq!(told, Some(Answer::Nothing));
        assert!(matches!(answer(br#"{"id":1,"method":"none"}"#), Some(Answer::Unknown(_))));
        assert_eq!(answer(b"nonsense"), None);
    }
}
