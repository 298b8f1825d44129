//! What is sent: calls as a modern client makes them, padded to the length that is asked for.

use serde_json::json;

/// The revision that the generator speaks, unless the system knows none of its era.
pub(crate) const REVISION: &str = "2026-07-28";
/// Events of one streamed answer, before the result.
pub(crate) const EVENTS: u32 = 20;

/// What a call looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Shape {
    /// A call of 300 bytes, answered as JSON.
    Small,
    /// 10 KiB, there and back.
    Medium,
    /// 256 KiB, there and back.
    Large,
    /// A call of 300 bytes, answered as an event stream.
    Sse,
    /// A subscription, whose stream stays open.
    Listen,
}

impl Shape {
    fn bytes(self) -> usize {
        match self {
            Self::Small | Self::Sse | Self::Listen => 300,
            Self::Medium => 10 << 10,
            Self::Large => 256 << 10,
        }
    }

    pub(crate) fn tool(self) -> Option<&'static str> {
        match self {
            Self::Small | Self::Medium | Self::Large => Some("echo"),
            Self::Sse => Some("stream"),
            Self::Listen => None,
        }
    }
}

/// Where calls go.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Place {
    /// Path of the endpoint.
    #[arg(long, default_value = "/mcp")]
    pub(crate) path: String,
    /// What stands before the names of tools.
    #[arg(long, default_value = "")]
    pub(crate) prefix: String,
    /// The revision of the protocol in the head. The message is the same.
    #[arg(long, default_value = REVISION)]
    pub(crate) revision: String,
    /// A token that callers show.
    #[arg(long)]
    pub(crate) bearer: Option<String>,
}

impl Place {
    pub(crate) fn at(path: &str, prefix: &str) -> Self {
        let revision = REVISION.to_owned();
        Self { path: path.to_owned(), prefix: prefix.to_owned(), revision, bearer: None }
    }
}

/// A whole request, head and body, ready to be written again and again. Ids differ between connections only: on one
/// connection a call is answered before the next one is sent.
pub(crate) fn http(shape: Shape, place: &Place, host: &str, id: usize) -> Vec<u8> {
    let body = body(shape, &place.prefix, id);
    let more = match (shape.tool(), place.revision == REVISION) {
        (Some(tool), true) => format!("mcp-method: tools/call\r\nmcp-name: {}{tool}\r\n", place.prefix),
        (None, true) => "mcp-method: subscriptions/listen\r\n".to_owned(),
        (_, false) => String::new(),
    };
    let bearer = place.bearer.as_ref().map(|token| format!("authorization: Bearer {token}\r\n"));
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\nmcp-protocol-version: {}\r\n{more}{}content-length: {}\r\n\r\n",
        place.path,
        place.revision,
        bearer.unwrap_or_default(),
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

/// The message alone.
pub(crate) fn body(shape: Shape, prefix: &str, id: usize) -> String {
    let bare = message(shape, prefix, id, 0);
    message(shape, prefix, id, shape.bytes().saturating_sub(bare.len()))
}

fn message(shape: Shape, prefix: &str, id: usize, padding: usize) -> String {
    let mut meta = json!({
        "io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    if shape == Shape::Sse {
        meta["progressToken"] = id.into();
    }
    let text = "x".repeat(padding);
    let (method, params) = match shape.tool() {
        Some("stream") => {
            let arguments = json!({ "events": EVENTS, "text": text });
            (
                "tools/call",
                json!({ "name": format!("{prefix}stream"), "arguments": arguments, "_meta": meta }),
            )
        }
        Some(tool) => {
            let arguments = json!({ "text": text });
            (
                "tools/call",
                json!({ "name": format!("{prefix}{tool}"), "arguments": arguments, "_meta": meta }),
            )
        }
        None => {
            let wanted = json!({ "toolsListChanged": true });
            ("subscriptions/listen", json!({ "notifications": wanted, "_meta": meta }))
        }
    };
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_length_that_they_are_named_after() {
        for shape in [Shape::Small, Shape::Medium, Shape::Large, Shape::Sse] {
            assert_eq!(body(shape, "", 1000).len(), shape.bytes(), "{shape:?}");
        }
        assert_eq!(body(Shape::Small, "bench/", 1000).len(), 300);
    }

    #[test]
    fn the_headers_say_what_the_body_says() {
        let place = Place::at("/mcp", "a/");
        let request = String::from_utf8(http(Shape::Small, &place, "h", 1)).unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nmcp-name: a/echo\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["params"]["name"], "a/echo");
        assert_eq!(body["method"], "tools/call");
    }
}
