//! A large catalogue at one address: a control plane that knows what a thousand servers offer, and the sidecar of one agent
//! that may use all of it, in one process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use weft_control_plane::app::{self as plane, Config};
use weft_control_plane::auth::Actor;
use weft_control_plane::clock;
use weft_control_plane::store::{Key, Txn};
use weft_control_plane::tokens;
use weft_proto::mcp::lists::Listed;
use weft_proto::name::ServerName;
use weft_proto::offer::{Introduction, Offer, Offered};
use weft_proto::resource;
use weft_sidecar::access_log::Sink;
use weft_sidecar::app::{self as sidecar, Surroundings};
use weft_sidecar::logging::Logging;
use weft_sidecar::stdio::launch::Launcher;

use crate::table::{Quantiles, Table};

pub(crate) const SERVERS: usize = 1000;
pub(crate) const TOOLS: usize = 20;
const PAGES: usize = 500;
const CHANGES: usize = 50;
/// What a thing may take before the run is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A control plane of so many servers, each of which offers its tools.
pub(crate) async fn plane(folder: &Path, servers: usize) -> anyhow::Result<plane::Running> {
    let mut config = Config::local(folder.to_owned());
    config.trust_domain = Some("bench.test".parse()?);
    for door in [&mut config.sidecars, &mut config.operators, &mut config.health] {
        *door = SocketAddr::from(([127, 0, 0, 1], 0));
    }
    let plane = Box::pin(plane::start(config)).await?;
    plane.ready().await;
    apply(&plane, (0..servers).map(declared)).await?;
    for n in 0..servers {
        plane.hub.offered(name(n)?, Some(Arc::new(offer(n, "")?))).await;
    }
    Ok(plane)
}

/// Puts objects into the store, all at once.
pub(crate) async fn apply(plane: &plane::Running, texts: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut txn = Txn::new("bench", "a large catalogue");
    for text in texts {
        for (object, _) in resource::parse("bench.yaml", &text).ok().context("the object is one")? {
            txn = txn.put(Key::new(format!("resources/{}", object.key()))?, object.canonical());
        }
    }
    plane.store.commit(txn).await?;
    Ok(())
}

pub(crate) async fn run(table: &mut Table) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let plane = plane(folder.path(), SERVERS).await?;
    let started = Instant::now();
    let agent = agent(&plane).await?;
    let address = agent.outbound.context("the agent's listener")?;

    let mut known = agent.live.watch();
    let all =
        known.wait_for(|it| it.snapshot.servers.values().filter(|it| it.offer.is_some()).count() == SERVERS);
    tokio::time::timeout(PATIENCE, all).await??;
    table.row(
        format!("{SERVERS} servers × {TOOLS} tools known to an agent's sidecar that joins"),
        format!("{:.1} s", started.elapsed().as_secs_f64()),
        "",
    );
    let mut client = connect(address).await?;
    let began = Instant::now();
    ensure!(page(&mut client).await? == 1000, "the first page is full");
    table.row("the first list of all, which is drawn then", millis(began.elapsed()), "");
    let mut took = Vec::new();
    for _ in 0..PAGES {
        let began = Instant::now();
        page(&mut client).await?;
        took.push(began.elapsed());
    }
    let took = Quantiles::new(took);
    let figure = format!("p50 {}, p99 {}", millis(took.at(0.5)), millis(took.at(0.99)));
    table.row("tools/list, the first page of 1,000 tools, over HTTP", figure, "≤ 5 ms");

    let mut heard = listen(address).await?;
    let mut took = Vec::new();
    for n in 0..CHANGES {
        let began = Instant::now();
        plane.hub.offered(name(n)?, Some(Arc::new(offer(n, " now")?))).await;
        until_changed(&mut heard).await?;
        took.push(began.elapsed());
    }
    let took = Quantiles::new(took);
    let figure = format!("p50 {}, p99 {}", millis(took.at(0.5)), millis(took.at(0.99)));
    table.row("a changed tool: from its report to the client's being told", figure, "≤ 1 s");
    agent.stop().await;
    plane.stop().await;
    Ok(())
}

pub(crate) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

pub(crate) fn name(n: usize) -> anyhow::Result<ServerName> {
    Ok(ServerName::parse(&format!("ns-{}/server-{n}", n / 100))?)
}

fn declared(n: usize) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: ns-{}, name: server-{n} }}\n\
         spec: {{ workload: {{ labels: {{ app: s-{n} }} }} }}\n",
        n / 100
    )
}

/// Tools as they are usually described, about 600 bytes each.
pub(crate) fn offer(n: usize, more: &str) -> anyhow::Result<Offer> {
    let tool = |at: usize| {
        let definition = json!({
            "name": format!("operation_{at}"),
            "description": format!("Does the operation {at} of the server {n}{more}: reads a record by its key, checks it \
                against what is known of it, and says what has changed since it was last looked at by anybody."),
            "inputSchema": { "type": "object", "required": ["key"], "properties": {
                "key": { "type": "string", "description": "Which record" },
                "since": { "type": "string", "format": "date-time", "description": "Changes since then only" },
                "limit": { "type": "integer", "minimum": 1, "maximum": 100, "default": 10 },
            } },
            "annotations": { "readOnlyHint": true },
        });
        Ok(Arc::new(Offered::parse(Listed::Tool, definition.to_string().into())?))
    };
    let tools: anyhow::Result<Vec<_>> = (0..TOOLS).map(tool).collect();
    Ok(Offer::new(name(n)?, Introduction::default(), tools?)?)
}

/// The file of an agent's sidecar.
pub(crate) async fn joining(plane: &plane::Running) -> anyhow::Result<Value> {
    let listen = json!({ "inbound": null, "outbound": "127.0.0.1:0", "health": null, "admin": null });
    joining_as(plane, ("agents", "agent"), listen).await
}

/// The file of the sidecar of a workload.
pub(crate) async fn joining_as(
    plane: &plane::Running,
    (namespace, account): (&str, &str),
    listen: Value,
) -> anyhow::Result<Value> {
    let wanted = tokens::Wanted {
        namespace: namespace.parse()?,
        account: account.parse()?,
        uses: 1,
        expires_in: Duration::from_secs(600),
        description: None,
    };
    let created = plane.tokens.create(&wanted, plane.trust.root(), &Actor::system(), clock::now()).await?;
    let token = created.0.to_string();
    Ok(json!({
        "node": { "id": format!("{namespace}/{account}-1") },
        "source": { "controlPlane": { "address": plane.sidecars.to_string(), "proof": { "joinToken": token } } },
        "listen": listen,
    }))
}

pub(crate) async fn agent(plane: &plane::Running) -> anyhow::Result<sidecar::Running> {
    start(joining(plane).await?).await
}

/// Starts a sidecar in this process.
pub(crate) async fn start(file: Value) -> anyhow::Result<sidecar::Running> {
    let around = Surroundings {
        workers: tokio::runtime::Handle::current(),
        launcher: Launcher::default(),
        access_log: Sink::Off,
        logging: Logging::new("warn", Arc::new(|_| Ok(()))),
    };
    let running = Box::pin(sidecar::start(serde_json::from_value(file)?, around)).await?;
    tokio::time::timeout(PATIENCE, running.ready()).await?;
    Ok(running)
}

pub(crate) type Client = SendRequest<Full<bytes::Bytes>>;

pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Client> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

pub(crate) fn request(method: &str, more: &Value) -> anyhow::Result<http::Request<Full<bytes::Bytes>>> {
    let mut params = more.clone();
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
    let request = http::Request::post("/mcp")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method);
    Ok(request.body(Full::new(body.into()))?)
}

/// How many tools are on the first page.
pub(crate) async fn page(client: &mut Client) -> anyhow::Result<usize> {
    client.ready().await?;
    let response = client.send_request(request("tools/list", &json!({}))?).await?;
    ensure!(response.status() == 200, "{}", response.status());
    let body = response.into_body().collect().await?.to_bytes();
    let marks = body.windows(8).filter(|it| it == b"\"name\":\"");
    Ok(marks.count())
}

pub(crate) async fn listen(address: SocketAddr) -> anyhow::Result<hyper::body::Incoming> {
    let mut client = connect(address).await?;
    let wanted = json!({ "notifications": { "toolsListChanged": true } });
    let response = client.send_request(request("subscriptions/listen", &wanted)?).await?;
    let mut body = response.into_body();
    until(&mut body, "acknowledged").await?;
    // The connection goes on for as long as its body is read.
    Ok(body)
}

pub(crate) async fn until_changed(body: &mut hyper::body::Incoming) -> anyhow::Result<()> {
    until(body, "tools/list_changed").await
}

async fn until(body: &mut hyper::body::Incoming, word: &str) -> anyhow::Result<()> {
    let reading = async {
        let mut text = String::new();
        while !text.contains(word) {
            let frame = body.frame().await.context("the stream goes on")??;
            text += &String::from_utf8_lossy(frame.data_ref().map_or(&[][..], |data| data));
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, reading).await?
}
