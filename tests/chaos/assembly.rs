//! Many servers at one address, and agents of both eras that call each of them and list all of them without a pause, while
//! servers, the sidecars beside them and the control plane are killed one after the other and come back: whatever is
//! killed fails its own calls, with a reason, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_proto::resource::kinds::Era;
use weft_sidecar::app::Running;

use crate::agent;
use crate::mesh::eventually;
use crate::pair::{self, Answer, legacy, modern};
use crate::plane::{self, Plane};
use crate::process::Process;
use crate::upstream::{self, Seen, Upstream};

const TEST: &str =
    "assembly::whatever_is_killed_fails_its_own_calls_and_nothing_else_at_one_address_for_many";
const SERVERS: [(&str, Era); 3] = [("files", Era::Modern), ("notes", Era::Legacy), ("search", Era::Modern)];
/// So many calls, of each agent, show that a server is there or away.
const ENOUGH: usize = 10;
/// Starts of each sidecar.
const STARTS: usize = 4;
/// What a call may be told whose server, or the sidecar beside it, is away or goes.
const REASONS: [&str; 4] = ["no_instance", "upstream_broke", "upstream_unreachable", "draining"];

/// A server with a tool of its name, which answers with its arguments.
async fn server(name: &'static str, era: Era, address: SocketAddr) -> Upstream {
    Upstream::at(address, move |seen| async move { answer(name, era, &seen) }).await
}

fn answer(name: &str, era: Era, seen: &Seen) -> http::Response<upstream::Body> {
    if seen.method != http::Method::POST {
        return upstream::status(405);
    }
    let message = seen.json();
    let is_modern = seen.headers.get("mcp-protocol-version").is_some_and(|it| it == "2026-07-28");
    let is_first = message["method"] == "initialize";
    if era == Era::Legacy && is_modern {
        return upstream::status(400);
    }
    if era == Era::Legacy && !is_first && !seen.headers.contains_key("mcp-session-id") {
        return upstream::status(400);
    }
    if message["method"] != "tools/list" {
        return upstream::echo(seen);
    }
    let tool = json!({ "name": name, "inputSchema": { "type": "object" } });
    let result = json!({ "resultType": "complete", "tools": [tool], "ttlMs": 0, "cacheScope": "private" });
    upstream::document(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
}

/// A server with its sidecar, either of which may be away.
struct Member {
    name: &'static str,
    era: Era,
    address: SocketAddr,
    upstream: Option<Upstream>,
    folder: PathBuf,
    file: Value,
    sidecar: Option<Process>,
}

impl Member {
    async fn start(plane: &Plane, folder: &Path, (name, era): (&'static str, Era)) -> Self {
        let upstream = server(name, era, SocketAddr::from(([127, 0, 0, 1], 0))).await;
        let (address, folder) = (upstream.address, folder.join(name));
        plane
            .apply(&format!(
                "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: research, name: {name} }}\n\
                 spec: {{ workload: {{ labels: {{ app: {name} }}, port: {} }} }}\n",
                address.port()
            ))
            .await;
        std::fs::create_dir(&folder).unwrap();
        let token = plane.token("research", name, STARTS).await;
        let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
        let mut file = joining(plane, ("research", name), &token, listen);
        file["stateDir"] = json!(folder.join("state"));
        let sidecar = Some(Process::start(&folder, &file).await);
        Self { name, era, address, upstream: Some(upstream), folder, file, sidecar }
    }

    async fn serve_again(&mut self) {
        self.upstream = Some(server(self.name, self.era, self.address).await);
    }

    async fn kill_sidecar(&mut self) {
        self.sidecar.take().unwrap().kill().await;
    }

    /// Whoever supervises it starts it as it was.
    async fn start_sidecar(&mut self) {
        self.sidecar = Some(Process::start(&self.folder, &self.file).await);
    }
}

fn joining(plane: &Plane, (namespace, account): (&str, &str), token: &str, mut listen: Value) -> Value {
    for door in ["health", "admin"] {
        listen[door] = json!("127.0.0.1:0");
    }
    json!({
        "node": { "id": format!("{namespace}/{account}-1"), "labels": { "app": account } },
        "source": { "controlPlane": { "address": plane.sidecars.to_string(), "proof": { "joinToken": token } } },
        "listen": listen,
    })
}

async fn agent(plane: &Plane) -> Running {
    let token = plane.token("agents", "reviewer", 1).await;
    let listen = json!({ "inbound": null, "outbound": "127.0.0.1:0" });
    pair::start(joining(plane, ("agents", "reviewer"), &token, listen)).await
}

/// What came of the calls of each server in each era: in their order, and nothing where all went well.
type Came = BTreeMap<(&'static str, &'static str), Vec<Option<String>>>;

/// How many of them there were at a moment.
type Mark = BTreeMap<(&'static str, &'static str), usize>;

/// Agents that go on until they are told to stop.
struct Agents {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    came: Arc<Mutex<Came>>,
    lists: Arc<Mutex<BTreeSet<Vec<String>>>>,
}

impl Agents {
    async fn start(address: SocketAddr) -> Self {
        let mut agents = Self {
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            came: Arc::default(),
            lists: Arc::default(),
        };
        for era in [Era::Modern, Era::Legacy] {
            for (server, _) in SERVERS {
                let mut caller = Caller::connect(address, era).await;
                let (stop, came) = (agents.stop.clone(), Arc::clone(&agents.came));
                agents.tasks.spawn(async move {
                    while !stop.is_cancelled() {
                        let outcome = caller.call(server).await;
                        came.lock().unwrap().entry((server, caller.era())).or_default().push(outcome);
                    }
                });
            }
            let mut caller = Caller::connect(address, era).await;
            let (stop, lists) = (agents.stop.clone(), Arc::clone(&agents.lists));
            agents.tasks.spawn(async move {
                while !stop.is_cancelled() {
                    let names = caller.list().await;
                    lists.lock().unwrap().insert(names);
                }
            });
        }
        agents
    }

    fn mark(&self) -> Mark {
        self.came.lock().unwrap().iter().map(|(key, came)| (*key, came.len())).collect()
    }

    /// What came of a server's calls since then, of each era.
    fn since(&self, mark: &Mark, server: &str) -> Vec<Vec<Option<String>>> {
        let came = self.came.lock().unwrap();
        let of_server = came.iter().filter(|((name, _), _)| *name == server);
        of_server.map(|(key, came)| came[mark.get(key).copied().unwrap_or(0)..].to_vec()).collect()
    }

    /// Waits until calls of all servers go well again.
    async fn all_is_well(&self, what: &str) {
        let mark = self.mark();
        let is_well = |came: &Vec<Option<String>>| {
            came.len() >= ENOUGH && came.iter().rev().take(ENOUGH).all(Option::is_none)
        };
        let holds = || SERVERS.iter().all(|(server, _)| self.since(&mark, server).iter().all(is_well));
        eventually(what, holds).await;
    }

    /// Something happens to a server for a while: its calls are told, all the others go well, as often as they like.
    async fn meanwhile_only(&self, victim: &str, mark: &Mark) {
        let told = |came: &Vec<Option<String>>| came.iter().flatten().count() >= ENOUGH;
        let others = || SERVERS.iter().filter(|(server, _)| *server != victim);
        eventually("each agent is told that it is away", || self.since(mark, victim).iter().all(told)).await;
        let go_on =
            || others().all(|(server, _)| self.since(mark, server).iter().all(|it| it.len() >= ENOUGH));
        eventually("the calls of the others go on", go_on).await;
    }

    /// Only the victim's calls have failed since then, and each was told why.
    fn check(&self, what: &str, victim: Option<&str>, mark: &Mark) {
        for (server, _) in SERVERS {
            let failed: BTreeSet<String> = self.since(mark, server).into_iter().flatten().flatten().collect();
            match victim {
                Some(victim) if victim == server => {
                    let known = failed.iter().all(|why| REASONS.contains(&why.as_str()));
                    assert!(known, "{what}: {server}: {failed:?}");
                }
                _ => assert_eq!(failed, BTreeSet::new(), "{what}: {server}"),
            }
        }
        let shown: Vec<String> = SERVERS.iter().map(|(name, _)| format!("{name}_{name}")).collect();
        assert_eq!(*self.lists.lock().unwrap(), BTreeSet::from([shown]), "{what}: the list");
    }

    async fn end(mut self) {
        self.stop.cancel();
        while let Some(task) = self.tasks.join_next().await {
            task.unwrap();
        }
    }
}

/// A caller at the address of all, on a connection of its own; with a session, if it is of the legacy era.
struct Caller {
    address: SocketAddr,
    session: Option<String>,
    sender: SendRequest<Full<Bytes>>,
}

impl Caller {
    async fn connect(address: SocketAddr, era: Era) -> Self {
        // One for each: in a session, no two calls under way may have the same id.
        let session = if era == Era::Legacy { Some(session(address).await) } else { None };
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { address, session, sender }
    }

    const fn era(&self) -> &'static str {
        if self.session.is_some() { "legacy" } else { "modern" }
    }

    fn request(&self, method: &str, name: &str, params: Value) -> Request<Full<Bytes>> {
        let mut request = match &self.session {
            None => modern(method, name, params),
            Some(session) => {
                let message = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
                legacy(&message, Some(session))
            }
        };
        *request.uri_mut() = http::Uri::from_static("/mcp");
        request.headers_mut().insert("host", self.address.to_string().parse().unwrap());
        request
    }

    async fn ask(&mut self, method: &str, name: &str, params: Value) -> Value {
        let request = self.request(method, name, params);
        let answer = async {
            self.sender.ready().await.unwrap();
            message(&Answer::read(self.sender.send_request(request).await.unwrap()).await)
        };
        tokio::time::timeout(Duration::from_secs(20), answer).await.expect("every call is answered")
    }

    /// Nothing if it went well, else the word for why not.
    async fn call(&mut self, server: &str) -> Option<String> {
        let tool = format!("{server}_{server}");
        let params = json!({ "name": tool, "arguments": { "to": server } });
        let answer = self.ask("tools/call", &tool, params).await;
        let said = json!({ "to": server }).to_string();
        if answer["result"]["content"][0]["text"] == said {
            return None;
        }
        Some(answer["error"]["data"]["reason"].as_str().map_or_else(|| answer.to_string(), ToOwned::to_owned))
    }

    async fn list(&mut self) -> Vec<String> {
        let answer = self.ask("tools/list", "", json!({})).await;
        let tools = answer["result"]["tools"].as_array().cloned().unwrap_or_default();
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }
}

async fn session(address: SocketAddr) -> String {
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "x", "version": "1" } });
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
    let mut request = legacy(&initialize, None);
    *request.uri_mut() = http::Uri::from_static("/mcp");
    let opened = agent::send(address, request).await.unwrap();
    opened.headers()["mcp-session-id"].to_str().unwrap().to_owned()
}

/// The last message of an answer, whichever form it came in.
fn message(answer: &Answer) -> Value {
    let text = std::str::from_utf8(&answer.body).unwrap();
    let last = text.trim_end().rsplit_once("data: ").map_or(text, |(_, data)| data);
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_fails_its_own_calls_and_nothing_else_at_one_address_for_many() {
    if plane::play().await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut plane = Plane::start(TEST, &folder.path().join("plane"), Duration::from_secs(3)).await;
    let mut members = Vec::new();
    for server in SERVERS {
        members.push(Member::start(&plane, folder.path(), server).await);
    }
    let agent = agent(&plane).await;
    let knows = || {
        let current = agent.live.load();
        SERVERS.iter().all(|(name, _)| {
            let entry = current.snapshot.server(&format!("research/{name}").parse().unwrap());
            entry.is_some_and(|it| it.offer.is_some() && !it.endpoints.is_empty())
        })
    };
    eventually("the agent's sidecar knows what each offers, and where", knows).await;
    let agents = Agents::start(agent.outbound.unwrap()).await;
    agents.all_is_well("all servers are called").await;

    for member in &mut members {
        let mark = agents.mark();
        member.upstream = None;
        agents.meanwhile_only(member.name, &mark).await;
        member.serve_again().await;
        agents.all_is_well("a server that came back is called").await;
        agents.check("a server was killed", Some(member.name), &mark);

        let mark = agents.mark();
        member.kill_sidecar().await;
        agents.meanwhile_only(member.name, &mark).await;
        member.start_sidecar().await;
        agents.all_is_well("a server whose sidecar came back is called").await;
        agents.check("a sidecar was killed", Some(member.name), &mark);
    }

    let mark = agents.mark();
    plane.kill().await;
    eventually("the end is noticed", || !agent.control().borrow().connected).await;
    agents.all_is_well("calls go on without a control plane").await;
    plane.restart().await;
    eventually("the agent's sidecar is back", || agent.control().borrow().complete).await;
    agents.all_is_well("calls go on with another control plane").await;
    agents.check("the control plane was killed", None, &mark);

    // For half a minute a new control plane leaves callers the addresses that they had, so this one keeps its own.
    let (victim, mark) = (members[0].name, agents.mark());
    members[0].file["listen"]["inbound"] = json!(members[0].sidecar.as_ref().unwrap().inbound().to_string());
    plane.kill().await;
    members[0].kill_sidecar().await;
    agents.meanwhile_only(victim, &mark).await;
    plane.restart().await;
    members[0].start_sidecar().await;
    agents.all_is_well("the server is called whose sidecar came back with the control plane").await;
    agents.check("a sidecar and the control plane were killed", Some(victim), &mark);

    agents.end().await;
    agent.stop().await;
}
