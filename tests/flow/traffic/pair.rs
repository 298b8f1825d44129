//! A mesh with a server, the sidecar beside it, and callers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_certs::tls;
use weft_certs::verifier::Expect;
use weft_sidecar::access_log::Sink;
use weft_sidecar::app::{self, Running, Surroundings};
use weft_sidecar::bootstrap::Bootstrap;
use weft_sidecar::logging::Logging;
use weft_sidecar::stdio::launch::Launcher;
use weft_tests::link::Workload;

use super::upstream::Upstream;
use crate::mesh::Mesh;

/// Where the server of these stories is reached.
pub(crate) const PATH: &str = "/servers/research/files/mcp";

/// A mesh in which `research/files` stands beside a sidecar.
pub(crate) struct Pair {
    pub(crate) mesh: Mesh,
    pub(crate) inbound: Running,
    pub(crate) upstream: Upstream,
}

impl Pair {
    /// Everyone may call everything, as long as nothing else is said.
    pub(crate) async fn start(upstream: Upstream) -> Self {
        Self::with(upstream, json!({})).await
    }

    /// The same, with limits of the sidecar's.
    pub(crate) async fn with(upstream: Upstream, limits: Value) -> Self {
        Self::serving(upstream, "", limits).await
    }

    /// The same, with more said of the server.
    pub(crate) async fn serving(upstream: Upstream, more: &str, limits: Value) -> Self {
        Self::made(upstream, more, limits, Sink::Off).await
    }

    /// The same, with an access log.
    pub(crate) async fn logging(upstream: Upstream, file: &Path) -> Self {
        Self::logging_with(upstream, "", json!({}), file).await
    }

    /// With everything.
    pub(crate) async fn logging_with(upstream: Upstream, more: &str, limits: Value, file: &Path) -> Self {
        Self::made(upstream, more, limits, Sink::File(file.to_owned())).await
    }

    async fn made(upstream: Upstream, more: &str, limits: Value, access_log: Sink) -> Self {
        let mesh = Mesh::start().await;
        mesh.apply(&server(upstream.address, more)).await;
        let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
        let bootstrap = joining(&mesh, "research", "files", listen, limits).await;
        let inbound = start_with(bootstrap, access_log).await;
        Self { mesh, inbound, upstream }
    }

    /// A caller with an identity of its own, connected to the sidecar.
    pub(crate) async fn caller(&self, namespace: &str, account: &str) -> Caller {
        let workload = self.mesh.workload(namespace, account).await;
        Caller::connect(self.inbound.inbound.unwrap(), workload).await
    }

    /// Adds objects, and waits until the sidecar has them.
    pub(crate) async fn apply(&self, yaml: &str) {
        let mut changes = self.inbound.live.watch();
        changes.borrow_and_update();
        self.mesh.apply(yaml).await;
        tokio::time::timeout(Duration::from_secs(20), changes.changed()).await.unwrap().unwrap();
    }

    pub(crate) async fn stop(self) {
        self.inbound.stop().await;
        self.mesh.stop().await;
    }
}

/// The server of these stories, as it is declared. `more` are fields of its specification.
pub(crate) fn server(address: SocketAddr, more: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: research, name: files }}\n\
         spec: {{ workload: {{ labels: {{ app: files }}, port: {} }}, {more} }}\n",
        address.port()
    )
}

/// A log whose only line is this one.
pub(crate) const LINE: &str = "INFO it begins";

fn logging() -> Logging {
    let logging = Logging::new("info", Arc::new(|_| Ok(())));
    logging.recent().add(LINE);
    logging
}

/// Starts a sidecar that joins the mesh as `namespace/account`, and waits until it is ready.
pub(crate) async fn sidecar(
    mesh: &Mesh,
    namespace: &str,
    account: &str,
    listen: Value,
    limits: Value,
) -> Running {
    start(joining(mesh, namespace, account, listen, limits).await).await
}

/// The file of a sidecar that joins the mesh.
pub(crate) async fn joining(
    mesh: &Mesh,
    namespace: &str,
    account: &str,
    mut listen: Value,
    limits: Value,
) -> Value {
    let token = mesh.token(namespace, account, 1).await;
    for door in ["health", "admin"] {
        listen[door] = json!("127.0.0.1:0");
    }
    json!({
        "node": { "id": format!("{namespace}/{account}-1"), "labels": { "app": account } },
        "source": { "controlPlane": { "address": mesh.sidecars().to_string(), "proof": { "joinToken": token } } },
        "listen": listen,
        "limits": limits,
    })
}

/// Starts a sidecar from its file.
pub(crate) async fn start(bootstrap: Value) -> Running {
    start_with(bootstrap, Sink::Off).await
}

async fn start_with(bootstrap: Value, access_log: Sink) -> Running {
    let bootstrap: Bootstrap = serde_json::from_value(bootstrap).unwrap();
    let around = Surroundings {
        workers: tokio::runtime::Handle::current(),
        launcher: Launcher::default(),
        access_log,
        logging: logging(),
    };
    let running = Box::pin(app::start(bootstrap, around)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), running.ready()).await.expect("the sidecar becomes ready");
    running
}

/// One connection of somebody who calls.
pub(crate) struct Caller {
    sender: SendRequest<Full<Bytes>>,
    pub(crate) workload: Workload,
}

impl Caller {
    pub(crate) async fn connect(address: SocketAddr, workload: Workload) -> Self {
        Self::try_connect(address, workload).await.unwrap()
    }

    pub(crate) async fn try_connect(address: SocketAddr, workload: Workload) -> anyhow::Result<Self> {
        let config = tls::client_config(&workload.live, &workload.trust, Expect::AnyInMesh, &[b"http/1.1"]);
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, workload })
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        self.sender.ready().await.unwrap();
        self.sender.send_request(request).await.unwrap()
    }

    pub(crate) async fn try_send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Calls a tool in the modern way.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Answer {
        let response =
            self.send(modern("tools/call", tool, json!({ "name": tool, "arguments": arguments }))).await;
        Answer::read(response).await
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn read(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn code(&self) -> i64 {
        self.json()["error"]["code"].as_i64().unwrap()
    }

    pub(crate) fn reason(&self) -> &str {
        self.headers.get("weft-reason").map_or("", |value| value.to_str().unwrap())
    }
}

/// A request of the modern era. `name` goes into the header where the method has one.
pub(crate) fn modern(method: &str, name: &str, params: Value) -> Request<Full<Bytes>> {
    modern_by(method, name, params, json!({}))
}

/// The same of a caller that declares what it can.
pub(crate) fn modern_by(
    method: &str,
    name: &str,
    mut params: Value,
    capabilities: Value,
) -> Request<Full<Bytes>> {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    });
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
    let mut request = post(&body).header("mcp-protocol-version", "2026-07-28").header("mcp-method", method);
    if !name.is_empty() {
        request = request.header("mcp-name", name);
    }
    request.body(Full::new(body.to_string().into())).unwrap()
}

/// A request of the legacy era.
pub(crate) fn legacy(body: &Value, session: Option<&str>) -> Request<Full<Bytes>> {
    let mut request = post(body).header("mcp-protocol-version", "2025-11-25");
    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }
    request.body(Full::new(body.to_string().into())).unwrap()
}

fn post(_: &Value) -> http::request::Builder {
    Request::post(PATH)
        .header("host", "files.research")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
}
