//! Children that behave and children that do not, through the real launcher. The server is `server.py`, which does what
//! the tests ask it to.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "in a test, whatever goes wrong is to be a panic"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{interval, timeout};
use weft_proto::name::ServerName;
use weft_proto::resource::kinds::{Era, Stdio};
use weft_sidecar::exchange::{Aside, Ask, Asker, Peer, Reply, Said};
use weft_sidecar::limits::Limits;
use weft_sidecar::refusal::Refusal;
use weft_sidecar::stdio::launch::{Launcher, SUBCOMMAND};
use weft_sidecar::stdio::{Phase, StdioPeer};

mod checks;
mod container;
mod processes;
mod sandbox;
mod talk;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn launcher() -> Launcher {
    Launcher { program: PathBuf::from(env!("CARGO_BIN_EXE_weft-sidecar")), args: vec![SUBCOMMAND.to_owned()] }
}

/// A server by its first arguments, with more that its resource says.
fn start(arguments: &[&str], more: Value, limits: &Limits) -> Arc<StdioPeer> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stdio/server.py");
    let args: Vec<&str> = [script.to_str().unwrap()].into_iter().chain(arguments.iter().copied()).collect();
    let mut stdio = json!({"command": "python3", "args": args});
    stdio.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let stdio: Stdio = serde_json::from_value(stdio).unwrap();
    StdioPeer::start(&stdio, ServerName::parse("test/server").unwrap(), limits, launcher())
}

fn legacy() -> Arc<StdioPeer> {
    start(&["legacy"], json!({}), &Limits::default())
}

fn asker(caller: &str) -> Asker {
    Asker { caller: caller.into(), ..Asker::nobody() }
}

async fn ask(peer: &StdioPeer, who: &str, message: &Value) -> Result<Reply, Refusal> {
    let ask = Ask { asker: asker(who), message: message.to_string().into() };
    timeout(PATIENCE, peer.call(ask)).await.expect("no call waits that long")
}

fn calling(id: impl Into<Value>, tool: &str, arguments: Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": "p"}});
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": params})
}

/// The same, as in the modern era.
fn enveloped(mut message: Value) -> Value {
    message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
    message
}

/// Everything that is said, up to the end.
async fn all(reply: &mut Reply) -> Vec<Result<Said, Refusal>> {
    let mut said = Vec::new();
    while let Some(next) = timeout(PATIENCE, reply.0.recv()).await.expect("no answer takes that long") {
        said.push(next);
    }
    said
}

/// The last that is said.
async fn end(peer: &StdioPeer, who: &str, message: &Value) -> Result<Value, Refusal> {
    let mut reply = ask(peer, who, message).await?;
    match all(&mut reply).await.pop().expect("there is an end") {
        Ok(Said::Response(response)) => Ok(serde_json::from_slice(&response).unwrap()),
        Err(refusal) => Err(refusal),
        Ok(other) => panic!("{other:?} is no end"),
    }
}

/// What a tool gave.
async fn call(peer: &StdioPeer, tool: &str, arguments: Value) -> Value {
    let message = match peer.introduction().await.unwrap().era {
        Era::Legacy => calling(1, tool, arguments),
        Era::Modern => enveloped(calling(1, tool, arguments)),
    };
    let response = end(peer, "a", &message).await.unwrap();
    let text = response["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{response}"));
    serde_json::from_str(text).unwrap()
}

/// Looks until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut looks = interval(Duration::from_millis(10));
    let looking = async {
        while !holds() {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Whether a process is there and runs. One that only waits to be reaped by whoever adopted it does not.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn pids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|pid| u32::try_from(pid.as_u64().unwrap()).unwrap()).collect()
}
