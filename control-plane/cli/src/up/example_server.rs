//! The server that a newcomer's mesh comes with: a small MCP server on stdin and stdout, of both eras, whose tools are
//! harmless. One of them sounds dangerous, so that there is something to refuse.
//!
//! Not here: anything that a real server would need. It is a peer for the sidecar, as any other command would be.

use std::io::{self, BufRead, Write};

use serde_json::{Value, json};

const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-11-25";
/// Longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Serves until its input ends.
pub(crate) fn serve(input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut input = input;
    loop {
        let mut line = Vec::new();
        if io::Read::take(&mut input, LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let said = match serde_json::from_slice(&line) {
            Ok(message) => answer(&message),
            Err(_) => vec![error(&Value::Null, -32700, "no JSON")],
        };
        for message in said {
            writeln!(output, "{message}")?;
        }
        output.flush()?;
    }
}

/// What there is to say to one message: nothing to notifications, and progress before some responses.
fn answer(message: &Value) -> Vec<Value> {
    let Some(id) = message.get("id") else { return Vec::new() };
    let params = &message["params"];
    match message["method"].as_str().unwrap_or_default() {
        "initialize" => vec![result(id, initialize())],
        "server/discover" => vec![result(id, discover())],
        "ping" => vec![result(id, json!({}))],
        "tools/list" => {
            vec![result(id, json!({ "tools": tools(), "ttlMs": 60_000, "cacheScope": "public" }))]
        }
        "tools/call" => call(id, params),
        _ => vec![error(id, -32601, "no such method")],
    }
}

fn initialize() -> Value {
    json!({ "protocolVersion": LEGACY, "capabilities": { "tools": {} }, "serverInfo": info() })
}

fn discover() -> Value {
    json!({
        "supportedVersions": [MODERN], "capabilities": { "tools": {} }, "ttlMs": 60_000, "cacheScope": "public",
        "instructions": "A small server to try a mesh with.",
        "_meta": { "io.modelcontextprotocol/serverInfo": info() },
    })
}

fn info() -> Value {
    json!({ "name": "weft-example", "version": env!("CARGO_PKG_VERSION") })
}

fn tools() -> Value {
    let tool = |name: &str, description: &str, properties: Value| {
        let required: Vec<_> = properties.as_object().into_iter().flat_map(|it| it.keys().cloned()).collect();
        json!({
            "name": name, "description": description,
            "inputSchema": { "type": "object", "properties": properties, "required": required },
        })
    };
    json!([
        tool("greet", "Greets somebody", json!({ "name": { "type": "string" } })),
        tool("add", "Adds two numbers", json!({ "a": { "type": "number" }, "b": { "type": "number" } })),
        tool(
            "count",
            "Counts, and reports its progress",
            json!({ "to": { "type": "integer", "maximum": 100 } })
        ),
        tool("delete_everything", "Sounds dangerous, and does nothing", json!({})),
    ])
}

fn call(id: &Value, params: &Value) -> Vec<Value> {
    let arguments = &params["arguments"];
    let text = match params["name"].as_str().unwrap_or_default() {
        "greet" => format!("Hello, {}!", arguments["name"].as_str().unwrap_or("stranger")),
        "add" => {
            let number = |name: &str| arguments[name].as_f64().unwrap_or_default();
            (number("a") + number("b")).to_string()
        }
        "count" => return count(id, params),
        "delete_everything" => "Nothing was deleted, but you were let through.".to_owned(),
        _ => return vec![error(id, -32602, "no such tool")],
    };
    vec![said(id, &text)]
}

fn count(id: &Value, params: &Value) -> Vec<Value> {
    let to = params["arguments"]["to"].as_u64().unwrap_or(3).min(100);
    let token = &params["_meta"]["progressToken"];
    let progress = (1..=to).filter(|_| !token.is_null()).map(|n| {
        let params = json!({ "progressToken": token, "progress": n, "total": to });
        json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params })
    });
    progress.chain([said(id, &format!("Counted to {to}."))]).collect()
}

fn said(id: &Value, text: &str) -> Value {
    result(id, json!({ "content": [{ "type": "text", "text": text }] }))
}

fn result(id: &Value, mut result: Value) -> Value {
    result["resultType"] = "complete".into();
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said_to(lines: &[Value]) -> Vec<Value> {
        let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut output = Vec::new();
        serve(input.as_bytes(), &mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn request(id: u64, method: &str, params: Value) -> Value {
        json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
    }

    #[test]
    fn both_eras_are_greeted_and_notifications_are_not_answered() {
        let said = said_to(&[
            request(1, "server/discover", json!({})),
            request(2, "initialize", json!({})),
            json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
            request(3, "tools/call", json!({ "name": "greet", "arguments": { "name": "Ada" } })),
        ]);
        assert_eq!(said[0]["result"]["supportedVersions"][0], MODERN);
        assert_eq!(said[1]["result"]["protocolVersion"], LEGACY);
        assert_eq!(said[2]["result"]["content"][0]["text"], "Hello, Ada!");
        assert_eq!(said.len(), 3);
    }

    #[test]
    fn counting_reports_progress_to_whoever_asks_for_it() {
        let params = json!({ "name": "count", "arguments": { "to": 2 }, "_meta": { "progressToken": "t" } });
        let said = said_to(&[request(1, "tools/call", params)]);
        let progress: Vec<_> = said.iter().map(|it| &it["params"]["progress"]).collect();
        assert_eq!(progress[..2], [&json!(1), &json!(2)]);
        assert_eq!(said[2]["result"]["content"][0]["text"], "Counted to 2.");
    }

    #[test]
    fn what_is_no_message_gets_an_error_and_the_next_is_served() {
        let mut output = Vec::new();
        serve(b"garbage\n{\"id\":1,\"method\":\"ping\"}\n".as_slice(), &mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        assert!(text.contains("-32700") && text.contains("\"id\":1"));
    }
}
