//! What it costs a replica to go on with a session that another opened: the same message twice, first by a client that the
//! replica does not know, then by the same one that it does. The difference is the session's id read and the session begun.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::catalogue::{Client, agent, connect, plane};
use crate::table::{Quantiles, Table};

/// Sessions that are gone on with. No more than a sidecar keeps for one caller are open at once.
const SESSIONS: usize = 5_000;
const BEFORE: usize = 500;
const REVISION: &str = "2025-06-18";

pub(crate) async fn run(table: &mut Table) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let plane = plane(&folder.path().join("plane"), 1).await?;
    let (opens, goes_on) = (agent(&plane).await?, agent(&plane).await?);
    let mut first = connect(opens.outbound.context("the first one listens")?).await?;
    let mut second = connect(goes_on.outbound.context("the second one listens")?).await?;
    let (mut anew, mut known) = (Vec::with_capacity(SESSIONS), Vec::with_capacity(SESSIONS));
    for n in 0..BEFORE + SESSIONS {
        let id = open(&mut first).await?;
        let (resumed, again) = (ping(&mut second, &id).await?, ping(&mut second, &id).await?);
        if n >= BEFORE {
            anew.push(resumed);
            known.push(again);
        }
        for client in [&mut first, &mut second] {
            let ended = send(client, Method::DELETE, Some(&id), Value::Null).await?;
            ensure!(ended.status().is_success(), "a session ends: {}", ended.status());
            ended.into_body().collect().await?;
        }
    }
    let (anew, known) = (Quantiles::new(anew), Quantiles::new(known));
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let (with, without) = (micros(anew.at(0.5)), micros(known.at(0.5)));
    let figure = format!("{:.1} µs ({with:.1} against {without:.1} µs, p50)", with - without);
    table.row("a session that another replica opened: added to its first message", figure, "≤ 5 µs");
    opens.stop().await;
    goes_on.stop().await;
    plane.stop().await;
    Ok(())
}

/// The id of a new session.
async fn open(client: &mut Client) -> anyhow::Result<String> {
    let params = json!({
        "protocolVersion": REVISION,
        "capabilities": {},
        "clientInfo": { "name": "bench", "version": "1" },
    });
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
    let answer = send(client, Method::POST, None, message).await?;
    ensure!(answer.status() == 200, "a session is opened: {}", answer.status());
    let id = answer.headers().get("mcp-session-id").context("it has an id")?.to_str()?.to_owned();
    answer.into_body().collect().await?;
    Ok(id)
}

async fn ping(client: &mut Client, id: &str) -> anyhow::Result<Duration> {
    let message = json!({ "jsonrpc": "2.0", "id": 2, "method": "ping" });
    let began = Instant::now();
    let answer = send(client, Method::POST, Some(id), message).await?;
    let status = answer.status();
    answer.into_body().collect().await?;
    ensure!(status == 200, "the session is known: {status}");
    Ok(began.elapsed())
}

async fn send(
    client: &mut Client,
    method: Method,
    id: Option<&str>,
    message: Value,
) -> anyhow::Result<Response<Incoming>> {
    client.ready().await?;
    let request = Request::builder().method(method).uri("/mcp").header("host", "localhost");
    let request = request.header("content-type", "application/json");
    let request = request.header("accept", "application/json, text/event-stream");
    let request = match id {
        Some(id) => request.header("mcp-session-id", id).header("mcp-protocol-version", REVISION),
        None => request,
    };
    let body = if message.is_null() { String::new() } else { message.to_string() };
    Ok(client.send_request(request.body(Full::new(body.into()))?).await?)
}
