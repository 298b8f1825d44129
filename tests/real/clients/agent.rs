//! An agent on the official Rust SDK: connects to a server, takes the steps it is told, and prints what came of each. Its
//! siblings are `agent.cjs` and `agents.py`.
//!
//! ```text
//! rmcp-agent '{"url": …, "mode": "legacy" | "auto", "steps": [["tools"], ["call", <name>, {…}], …]}'
//! ```
//!
//! The SDK's client for TCP is built on reqwest, which this repository does without. Its client for Unix sockets is the
//! same but for that, so it is that one, and each of its connections is carried on to the server as it is. It is told
//! only the path, so that it asks for that as a client of a server does, and not for a URL as a client of a proxy.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rmcp::model::{CallToolRequestParams, ContentBlock, ProgressNotificationParam, ProtocolVersion};
use rmcp::service::{NotificationContext, RunningService, ServiceError};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::{StreamableHttpClientTransport, UnixSocketHttpClient};
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixListener};
use tokio::time::timeout;

const STEP_SECS_MAX: u64 = 30;

type Client = RunningService<RoleClient, Heard>;

/// How far calls have come, as the server told.
#[derive(Clone, Debug, Default)]
struct Heard(Arc<Mutex<Vec<f64>>>);

impl Heard {
    fn take(&self) -> Vec<f64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientHandler for Heard {
    async fn on_progress(&self, told: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(told.progress);
    }
}

// On one thread the SDK hands on what it hears in the order in which it came.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let script = std::env::args().nth(1).context("there is no script")?;
    let script: Value = serde_json::from_str(&script)?;
    let url = script["url"].as_str().context("there is no url")?;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("socket");
    carry_on(&socket, url)?;
    let client = connected(&socket, url, &script["mode"]).await?;
    let mut answers = Vec::new();
    for step in script["steps"].as_array().context("there are no steps")? {
        let answer = timeout(Duration::from_secs(STEP_SECS_MAX), take(&client, step)).await;
        answers.push(answer.unwrap_or_else(|_| Ok(json!({"error": "no answer"})))?);
    }
    let version = client.peer().peer_info().context("the server did not introduce itself")?;
    let version = version.protocol_version.to_string();
    client.cancel().await?;
    writeln!(std::io::stdout(), "{}", json!({"version": version, "answers": answers}))?;
    Ok(())
}

/// Carries what comes in at the socket to the server of the URL.
fn carry_on(socket: &Path, url: &str) -> Result<()> {
    let url: http::Uri = url.parse()?;
    let server = url.authority().context("the url names no server")?.to_string();
    let listener = UnixListener::bind(socket)?;
    tokio::spawn(async move {
        while let Ok((mut agent, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(server).await {
                    // That either side hangs up is nothing that the other cannot see.
                    _ = tokio::io::copy_bidirectional(&mut agent, &mut server).await;
                }
            });
        }
    });
    Ok(())
}

async fn connected(socket: &Path, url: &str, mode: &Value) -> Result<Client> {
    let lifecycle = match mode.as_str() {
        Some("legacy") => ClientLifecycleMode::Initialize,
        Some("auto") => ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: None,
        },
        _ => bail!("there is no mode {mode}"),
    };
    let path = socket.to_str().context("the socket's path is no text")?;
    let http = UnixSocketHttpClient::new(path, url);
    let config = StreamableHttpClientTransportConfig::with_uri(url.parse::<http::Uri>()?.path());
    let transport = StreamableHttpClientTransport::with_client(http, config);
    Ok(Heard::default().serve_with_lifecycle(transport, lifecycle).await?)
}

async fn take(client: &Client, step: &Value) -> Result<Value> {
    let answer = match step[0].as_str() {
        Some("tools") => client.list_all_tools().await.map(|mut tools| {
            tools.sort_by(|a, b| a.name.cmp(&b.name));
            tools.iter().map(|tool| json!(tool.name)).collect()
        }),
        Some("call") => call(client, step).await,
        _ => bail!("there is no step {step}"),
    };
    match answer {
        Ok(answer) => Ok(answer),
        Err(ServiceError::McpError(error)) => Ok(json!({"error": error.code.0})),
        Err(error) => Ok(json!({"error": error.to_string()})),
    }
}

async fn call(client: &Client, step: &Value) -> Result<Value, ServiceError> {
    let name = step[1].as_str().unwrap_or_default().to_owned();
    let arguments = step[2].as_object().cloned().unwrap_or_default();
    client.service().take();
    let result = client.call_tool(CallToolRequestParams::new(name).with_arguments(arguments)).await?;
    let content: Vec<_> = result.content.iter().map(spoken).collect();
    let is_error = result.is_error.unwrap_or(false);
    Ok(json!({"content": content, "isError": is_error, "progress": client.service().take()}))
}

fn spoken(content: &ContentBlock) -> String {
    match (content.as_text(), content.as_image()) {
        (Some(text), _) => text.text.clone(),
        (_, Some(image)) => format!("image of {}", image.data.len()),
        _ => "something else".to_owned(),
    }
}
