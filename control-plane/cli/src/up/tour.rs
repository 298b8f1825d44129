//! What a newcomer sees first: a call that succeeds and one that is refused, made as any client would make them.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// The server that comes with Weft.
pub(crate) const SERVER: &str = "demo/example";
const REVISION: &str = "2026-07-28";

/// Makes the two calls, and tells how they went.
pub(crate) async fn take(agent: SocketAddr) -> Option<String> {
    let greeted = call(agent, "greet", json!({ "name": "you" })).await?;
    let refused = call(agent, "delete_everything", json!({})).await?;
    let said = greeted["result"]["content"][0]["text"].as_str()?;
    let why = refused["error"]["message"].as_str()?;
    Some(format!(
        "A call through it:\n\
         \x20 greet {{\"name\": \"you\"}}       →  {said}\n\
         \x20 delete_everything {{}}         →  refused: {why}\n"
    ))
}

async fn call(agent: SocketAddr, tool: &str, arguments: Value) -> Option<Value> {
    let body = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {
            "name": tool, "arguments": arguments,
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": REVISION,
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    });
    let request = hyper::Request::post(format!("http://{agent}/servers/{SERVER}/mcp"))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", REVISION)
        .header("mcp-method", "tools/call")
        .header("mcp-name", tool)
        .body(Full::new(Bytes::from(body.to_string())))
        .ok()?;
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.ok()?;
    let body = response.into_body().collect().await.ok()?.to_bytes();
    serde_json::from_slice(&body).ok()
}
