//! One endpoint made of many servers: what it shows, and where what is asked of it goes.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use weft_sidecar::app::Running;

use super::agent::Agent;
use super::pair::{self, Answer, legacy, modern};
use super::streams::until;
use super::upstream::{self, Seen, Upstream};
use crate::mesh::{Mesh, eventually};

/// What a server of these stories has, under the name of its list.
#[derive(Clone, Debug, Default)]
struct Has {
    tools: Vec<Value>,
    prompts: Vec<Value>,
    resources: Vec<Value>,
    templates: Vec<Value>,
}

fn tool(name: &str) -> Value {
    json!({ "name": name, "description": format!("Does {name}"), "inputSchema": { "type": "object" } })
}

fn tools(names: &[&str]) -> Has {
    Has { tools: names.iter().map(|name| tool(name)).collect(), ..Has::default() }
}

const CAPABILITIES: &str = r#"{"tools":{"listChanged":true},"prompts":{},"resources":{"subscribe":true}}"#;

/// A server that answers what it was asked by saying what that was.
async fn server(name: &'static str, has: Has) -> Upstream {
    Upstream::with(move |seen| {
        let has = has.clone();
        async move { answer(name, &has, &seen) }
    })
    .await
}

fn answer(name: &str, has: &Has, seen: &Seen) -> http::Response<upstream::Body> {
    if seen.method != http::Method::POST {
        return upstream::echo(seen);
    }
    let message = seen.json();
    let Some(id) = message.get("id") else { return upstream::status(202) };
    let params = &message["params"];
    let capabilities: Value = serde_json::from_str(CAPABILITIES).unwrap();
    let result = match message["method"].as_str().unwrap_or_default() {
        "server/discover" => json!({ "supportedVersions": ["2026-07-28"], "capabilities": capabilities,
            "instructions": format!("Ask {name} nicely.") }),
        "initialize" => return upstream::echo(seen),
        "tools/list" => json!({ "tools": has.tools }),
        "prompts/list" => json!({ "prompts": has.prompts }),
        "resources/list" => json!({ "resources": has.resources }),
        "resources/templates/list" => json!({ "resourceTemplates": has.templates }),
        "tools/call" => {
            let text = format!("{name} {} {}", params["name"], params["arguments"]);
            json!({ "content": [{ "type": "text", "text": text }] })
        }
        "prompts/get" => json!({ "messages": [], "description": format!("{name} {}", params["name"]) }),
        "resources/read" => json!({ "contents": [{ "uri": params["uri"], "text": name }] }),
        "completion/complete" => json!({ "completion": { "values": [format!("{name} {}", params["ref"])] } }),
        _ => json!({}),
    };
    let mut result = result;
    result["resultType"] = "complete".into();
    upstream::document(&json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

/// A server with a resource that it tells of; what is put on the streams that listen goes in at the other end.
async fn telling(uri: &'static str) -> (Upstream, mpsc::Receiver<mpsc::Sender<Bytes>>) {
    let (streams, opened) = mpsc::channel(8);
    let has = Has { resources: vec![json!({ "uri": uri, "name": "it" })], ..Has::default() };
    let upstream = Upstream::with(move |seen| {
        let (streams, has) = (streams.clone(), has.clone());
        async move {
            let is_about_one =
                || seen.json()["params"]["notifications"]["resourceSubscriptions"] == json!([uri]);
            if seen.method_name() != "subscriptions/listen" || !is_about_one() {
                return answer("telling", &has, &seen);
            }
            let (sender, response) = upstream::events();
            let agreed = json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                "params": { "notifications": { "resourceSubscriptions": [uri] } } });
            sender.send(format!("data: {agreed}\n\n").into()).await.unwrap();
            streams.send(sender).await.unwrap();
            response
        }
    });
    (upstream.await, opened)
}

fn updated(uri: &str) -> Bytes {
    let note =
        json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": uri } });
    format!("data: {note}\n\n").into()
}

/// Several servers, each with a sidecar beside it, and an agent.
pub(super) struct Many {
    pub(super) mesh: Mesh,
    pub(super) inbound: Vec<Running>,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) agent: Agent,
}

impl Many {
    async fn start(servers: &[(&'static str, Has)]) -> Self {
        let mut all = Vec::new();
        for (name, has) in servers {
            all.push((*name, server(name, has.clone()).await));
        }
        Self::with(all).await
    }

    pub(super) async fn with(servers: Vec<(&'static str, Upstream)>) -> Self {
        let mesh = Mesh::start().await;
        let (mut inbound, mut upstreams, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for (name, upstream) in servers {
            mesh.apply(&declared(name, &upstream)).await;
            let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
            inbound.push(pair::sidecar(&mesh, "research", name, listen, json!({})).await);
            upstreams.push(upstream);
            all.push(name);
        }
        let agent = Agent::join_mesh(&mesh, "reviewer").await;
        let many = Self { mesh, inbound, upstreams, agent };
        eventually("the agent's sidecar knows every offer", || {
            let current = many.agent.sidecar.live.load();
            all.iter().all(|name| {
                let name = format!("research/{name}").parse().unwrap();
                current.snapshot.server(&name).is_some_and(|entry| entry.offer.is_some())
            })
        })
        .await;
        many
    }

    /// Applies objects, and waits until the agent's sidecar has something new.
    pub(super) async fn apply(&self, yaml: &str) {
        let mut changes = self.agent.sidecar.live.watch();
        changes.borrow_and_update();
        self.mesh.apply(yaml).await;
        tokio::time::timeout(std::time::Duration::from_secs(20), changes.changed()).await.unwrap().unwrap();
    }

    pub(super) async fn ask(&self, path: &str, request: Request<Full<Bytes>>) -> Answer {
        self.agent.answer(at(path, request)).await
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let answer = self.ask(path, modern("tools/list", "", json!({}))).await;
        names(&answer.json()["result"]["tools"], "name")
    }

    pub(super) async fn stop(self) {
        self.agent.sidecar.stop().await;
        for sidecar in self.inbound {
            sidecar.stop().await;
        }
        self.mesh.stop().await;
    }
}

pub(super) fn at(path: &str, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    *request.uri_mut() = path.parse().unwrap();
    request
}

fn names(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|it| it[key].as_str().unwrap().to_owned()).collect()
}

fn declared(name: &str, upstream: &Upstream) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: research, name: {name} }}\n\
         spec: {{ workload: {{ labels: {{ app: {name} }}, port: {} }} }}\n",
        upstream.address.port()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_shows_every_tool_and_leads_each_call_to_its_server() {
    let many = Many::start(&[("files", tools(&["read", "write"])), ("search", tools(&["read"]))]).await;
    assert_eq!(many.names("/mcp").await, ["files_read", "files_write", "search_read"]);
    let call = |name: &str| modern("tools/call", name, json!({ "name": name, "arguments": { "x": 1 } }));
    for (shown, expected) in
        [("files_read", r#"files "read" {"x":1}"#), ("search_read", r#"search "read" {"x":1}"#)]
    {
        let answer = many.ask("/mcp", call(shown)).await;
        assert_eq!(answer.json()["result"]["content"][0]["text"], expected, "{answer:?}");
    }
    let seen = many.upstreams[1].seen();
    assert_eq!(seen.last().unwrap().headers["mcp-name"], "read");
    assert_eq!(seen.last().unwrap().headers["weft-caller"], "spiffe://flow.test/ns/agents/sa/reviewer");
    let unknown = many.ask("/mcp", call("files_drop")).await;
    assert_eq!((unknown.status, unknown.code(), unknown.reason()), (403, 4030, "denied"));
    let discovered = many.ask("/mcp", modern("server/discover", "", json!({}))).await.json();
    let text = discovered["result"]["instructions"].as_str().unwrap();
    assert_eq!(text, "# files\n\nAsk files nicely.\n\n# search\n\nAsk search nicely.");
    many.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_resources_and_completions_lead_to_their_servers() {
    let files = Has {
        prompts: vec![json!({ "name": "ask" })],
        resources: vec![json!({ "uri": "file:///a", "name": "a" })],
        templates: vec![json!({ "uriTemplate": "file:///{path}", "name": "all" })],
        ..Has::default()
    };
    let many = Many::start(&[("files", files.clone()), ("search", files)]).await;
    let get = modern("prompts/get", "search_ask", json!({ "name": "search_ask" }));
    assert_eq!(many.ask("/mcp", get).await.json()["result"]["description"], "search \"ask\"");
    let listed = many.ask("/mcp", modern("resources/list", "", json!({}))).await;
    assert_eq!(
        names(&listed.json()["result"]["resources"], "uri"),
        ["file:///a", "weft://research/search/file:///a"]
    );
    for (uri, server, own) in [
        ("file:///a", "files", "file:///a"),
        ("weft://research/search/file:///a", "search", "file:///a"),
        ("file:///b/c", "files", "file:///b/c"),
        ("weft://research/search/file:///b/c", "search", "file:///b/c"),
    ] {
        let answer = many.ask("/mcp", modern("resources/read", uri, json!({ "uri": uri }))).await.json();
        let contents = &answer["result"]["contents"][0];
        assert_eq!((&contents["text"], &contents["uri"]), (&json!(server), &json!(own)), "{uri}");
    }
    let reference = json!({ "type": "ref/prompt", "name": "search_ask" });
    let complete = modern("completion/complete", "", json!({ "ref": reference, "argument": {} }));
    let values = &many.ask("/mcp", complete).await.json()["result"]["completion"]["values"];
    assert_eq!(values[0], r#"search {"name":"ask","type":"ref/prompt"}"#);
    many.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_the_legacy_era_has_a_session_over_all_servers() {
    let many = Many::start(&[("files", tools(&["read"])), ("search", tools(&["find"]))]).await;
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } });
    let opened = many.ask("/mcp", legacy(&initialize, None)).await;
    assert_eq!(opened.json()["result"]["protocolVersion"], "2025-06-18", "{opened:?}");
    assert_eq!(opened.json()["result"]["serverInfo"]["name"], "weft");
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let ask = async |id: u64, method: &str, params: Value| {
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        many.ask("/mcp", legacy(&message, Some(&session))).await.json()
    };
    let listed = ask(2, "tools/list", json!({})).await;
    assert_eq!(names(&listed["result"]["tools"], "name"), ["files_read", "search_find"]);
    assert!(listed["result"].get("resultType").is_none(), "{listed}");
    let called = ask(3, "tools/call", json!({ "name": "search_find", "arguments": { "q": 1 } })).await;
    assert_eq!(called["result"]["content"][0]["text"], r#"search "find" {"q":1}"#, "{called}");
    let refused = ask(4, "tools/call", json!({ "name": "search_drop", "arguments": {} })).await;
    assert_eq!(refused["error"]["code"], 4030, "{refused}");
    many.stop().await;
}

const READERS: &str = "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: { namespace: research, name: readers }\n\
    spec: { servers: { names: [files] }, rules: [{ action: allow, to: [{ tools: [read] }] }] }\n";

#[tokio::test(flavor = "multi_thread")]
async fn whoever_listens_hears_that_the_list_is_another_and_sees_what_it_may_call() {
    let many = Many::start(&[("files", tools(&["read", "write"])), ("search", tools(&["find"]))]).await;
    let wanted = json!({ "notifications": { "toolsListChanged": true } });
    let mut stream = many.agent.send(at("/mcp", modern("subscriptions/listen", "", wanted))).await;
    assert_eq!(stream.status(), 200);
    until(&mut stream, |text| text.contains("notifications/subscriptions/acknowledged")).await;
    many.apply(READERS).await;
    until(&mut stream, |text| text.contains("notifications/tools/list_changed")).await;
    assert_eq!(many.names("/mcp").await, ["files_read", "search_find"]);
    let call = modern("tools/call", "files_write", json!({ "name": "files_write", "arguments": {} }));
    let refused = many.ask("/mcp", call).await;
    assert_eq!((refused.status, refused.reason()), (403, "denied"));
    assert!(many.upstreams[0].seen().iter().all(|it| it.method_name() != "tools/call"));
    many.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_server_shows_its_members_as_it_says_and_only_to_those_it_is_for() {
    let many = Many::start(&[("files", tools(&["read", "write"])), ("search", tools(&["read"]))]).await;
    let yaml = "apiVersion: weft.dev/v1alpha1\nkind: VirtualServer\nmetadata: { namespace: research, name: desk }\n\
        spec:\n  members:\n  - { server: research/search, priority: 5 }\n  - { server: research/files, rename: { write: save } }\n  \
        prefix: on-conflict\n  instructions: A desk.\n  for: [{ serviceAccounts: [agents/reviewer] }]\n";
    many.apply(yaml).await;
    let path = "/virtual/research/desk/mcp";
    eventually("the virtual server is known", || {
        !many.agent.sidecar.live.load().snapshot.virtual_servers.is_empty()
    })
    .await;
    assert_eq!(many.names(path).await, ["files_read", "read", "save"]);
    let call = modern("tools/call", "save", json!({ "name": "save", "arguments": {} }));
    assert_eq!(many.ask(path, call).await.json()["result"]["content"][0]["text"], "files \"write\" {}");
    let discovered = many.ask(path, modern("server/discover", "", json!({}))).await.json();
    assert_eq!(discovered["result"]["instructions"], "A desk.");
    let nowhere = many.ask("/virtual/research/shelf/mcp", modern("tools/list", "", json!({}))).await;
    assert_eq!((nowhere.status, nowhere.reason()), (404, "unknown_server"));
    let other = Agent::join_mesh(&many.mesh, "other").await;
    let refused = other.answer(at(path, modern("tools/list", "", json!({})))).await;
    assert_eq!((refused.status, refused.reason()), (404, "unknown_server"));
    other.sidecar.stop().await;
    many.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_resources_of_many_servers_are_told_of_on_one_stream_even_after_one_was_away() {
    const URI: &str = "notes://1";
    let (one, mut to_one) = telling(URI).await;
    let (other, mut to_other) = telling(URI).await;
    let many = Many::with(vec![("files", one), ("search", other)]).await;
    let shown = "weft://research/search/notes://1";
    let wanted = json!({ "notifications": { "resourceSubscriptions": [URI, shown, "nobody://has"] } });
    let mut stream = many.agent.send(at("/mcp", modern("subscriptions/listen", "", wanted))).await;
    let agreed = until(&mut stream, |text| text.contains("acknowledged")).await;
    assert!(agreed.contains(&json!([URI, shown]).to_string()), "{agreed}");
    let (one, other) = (to_one.recv().await.unwrap(), to_other.recv().await.unwrap());
    other.send(updated(URI)).await.unwrap();
    let told = until(&mut stream, |text| text.contains("resources/updated")).await;
    assert!(told.contains(&format!("\"uri\":\"{shown}\"")), "{told}");
    one.send(updated(URI)).await.unwrap();
    let told = until(&mut stream, |text| text.contains("resources/updated")).await;
    assert!(told.contains(&format!("\"uri\":\"{URI}\"")), "{told}");
    // Whatever happens while nobody hears is told once it is heard again.
    drop(one);
    let one = to_one.recv().await.unwrap();
    until(&mut stream, |text| text.contains(&format!("\"uri\":\"{URI}\""))).await;
    drop(stream);
    tokio::time::timeout(std::time::Duration::from_secs(20), one.closed()).await.unwrap();
    many.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_for_a_virtual_server_holds_there_with_the_names_that_are_shown_and_the_arguments() {
    let many = Many::start(&[("files", tools(&["read", "write"]))]).await;
    let desk = |mode: &str| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: VirtualServer\nmetadata: {{ namespace: research, name: desk }}\n\
             spec: {{ mode: {mode}, members: [{{ server: research/files }}] }}\n"
        )
    };
    let policy = "---\napiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: { namespace: research, name: desk }\n\
        spec: { servers: { names: [none] }, virtualServers: [desk], rules: [\n\
        { action: allow, to: [{ tools: [files_read] }], when: 'args.x < 3' }] }\n";
    many.apply(&(desk("full") + policy)).await;
    let path = "/virtual/research/desk/mcp";
    let has_policy = || {
        let current = many.agent.sidecar.live.load();
        current.snapshot.virtual_servers.values().any(|it| !it.access.is_empty())
    };
    eventually("the virtual server is known, and its policy", has_policy).await;
    assert_eq!(many.names(path).await, ["files_read"]);
    let call = |tool: &str, arguments: Value| {
        modern("tools/call", tool, json!({ "name": tool, "arguments": arguments }))
    };
    assert_eq!(many.ask(path, call("files_read", json!({ "x": 2 }))).await.status, 200);
    let refused = many.ask(path, call("files_read", json!({ "x": 3 }))).await;
    assert_eq!((refused.status, refused.reason()), (403, "denied"));
    assert_eq!(many.ask("/mcp", call("files_read", json!({ "x": 3 }))).await.status, 200);
    many.apply(&desk("search")).await;
    let inner = |x: u64| call("call_tool", json!({ "name": "files_read", "arguments": { "x": x } }));
    assert_eq!(many.ask(path, inner(2)).await.status, 200);
    let refused = many.ask(path, inner(3)).await;
    assert_eq!((refused.status, refused.reason()), (403, "denied"));
    assert_eq!(many.ask(path, call("find_tools", json!({ "query": "read" }))).await.status, 200);
    // The one revision with batches: each call of one is judged for itself.
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } });
    let oldest = |body: &Value, session: Option<&str>| {
        let mut request = legacy(body, session);
        request.headers_mut().insert("mcp-protocol-version", "2025-03-26".parse().unwrap());
        request
    };
    let opened = many.ask(path, oldest(&initialize, None)).await;
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let batch = |x: u64| {
        let arguments = json!({ "name": "files_read", "arguments": { "x": x } });
        let params = json!({ "name": "call_tool", "arguments": arguments });
        json!([{ "jsonrpc": "2.0", "id": x, "method": "tools/call", "params": params }])
    };
    let called = many.ask(path, oldest(&batch(2), Some(&session))).await;
    assert_eq!(called.json()[0]["result"]["content"][0]["text"], "files \"read\" {\"x\":2}", "{called:?}");
    let refused = many.ask(path, oldest(&batch(3), Some(&session))).await;
    assert_eq!(refused.reason(), "denied", "{refused:?}");
    // Once by the address of all, and no more.
    let seen = many.upstreams[0].seen();
    assert_eq!(seen.iter().filter(|it| it.json()["params"]["arguments"]["x"] == 3).count(), 1, "{seen:?}");
    many.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_for_a_virtual_server_speaks_of_resources_as_their_servers_do_however_they_are_asked_for() {
    let has = Has {
        resources: vec![
            json!({ "uri": "file:///a", "name": "a" }),
            json!({ "uri": "file:///etc/x", "name": "x" }),
        ],
        templates: vec![json!({ "uriTemplate": "file:///{path}", "name": "all" })],
        ..Has::default()
    };
    let many = Many::start(&[("files", has.clone()), ("search", has)]).await;
    let yaml = "apiVersion: weft.dev/v1alpha1\nkind: VirtualServer\nmetadata: { namespace: research, name: desk }\n\
        spec: { members: [{ server: research/files }, { server: research/search }] }\n\
        ---\napiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: { namespace: research, name: desk }\n\
        spec: { servers: { names: [none] }, virtualServers: [desk], rules: [\n\
        { action: deny, to: [{ resources: ['file:///etc/*'] }] }] }\n";
    many.apply(yaml).await;
    let path = "/virtual/research/desk/mcp";
    eventually("the virtual server is known, and its policy", || {
        let current = many.agent.sidecar.live.load();
        current.snapshot.virtual_servers.values().any(|it| !it.access.is_empty())
    })
    .await;
    let listed = many.ask(path, modern("resources/list", "", json!({}))).await;
    let wrapped = "weft://research/search/file:///a";
    assert_eq!(names(&listed.json()["result"]["resources"], "uri"), ["file:///a", wrapped]);
    assert_eq!(
        many.ask(path, modern("resources/read", wrapped, json!({ "uri": wrapped }))).await.status,
        200
    );
    for uri in [
        "file:///etc/x",
        "file:///etc/other",
        "weft://research/files/file:///etc/x",
        "weft://research/search/file:///etc/x",
        "weft://research/search/file:///etc/other",
    ] {
        let refused = many.ask(path, modern("resources/read", uri, json!({ "uri": uri }))).await;
        assert_eq!((refused.status, refused.reason()), (403, "denied"), "{uri}");
    }
    let wanted =
        json!({ "notifications": { "resourceSubscriptions": ["weft://research/search/file:///etc/x"] } });
    let refused = many.ask(path, modern("subscriptions/listen", "", wanted)).await;
    assert_eq!((refused.status, refused.reason()), (403, "denied"));
    many.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_search_mode_a_tool_is_found_described_and_called_and_policy_holds_as_ever() {
    let many = Many::start(&[("files", tools(&["read", "write"])), ("search", tools(&["find"]))]).await;
    many.apply(READERS).await;
    let yaml = "apiVersion: weft.dev/v1alpha1\nkind: VirtualServer\nmetadata: { namespace: research, name: desk }\n\
        spec: { mode: search, members: [{ server: research/search }, { server: research/files }] }\n";
    many.apply(yaml).await;
    let path = "/virtual/research/desk/mcp";
    eventually("the virtual server is known, and the policy", || {
        let current = many.agent.sidecar.live.load();
        let offer = &current.snapshot.servers[&"research/files".parse().unwrap()].offer;
        let is_cut = offer.as_ref().is_some_and(|offer| offer.items().len() == 1);
        is_cut && !current.snapshot.virtual_servers.is_empty()
    })
    .await;
    assert_eq!(many.names(path).await, ["find_tools", "describe_tool", "call_tool"]);
    let call = |tool: &str, arguments: Value| {
        modern("tools/call", tool, json!({ "name": tool, "arguments": arguments }))
    };
    let found = many.ask(path, call("find_tools", json!({ "query": "does read or write" }))).await.json();
    let shown = &found["result"]["structuredContent"]["tools"];
    assert_eq!(names(shown, "name"), ["files_read", "search_find"], "{found}");
    let arguments = json!({ "name": "files_read", "arguments": { "x": [1, 2] } });
    let called = many.ask(path, call("call_tool", arguments)).await.json();
    assert_eq!(called["result"]["content"][0]["text"], r#"files "read" {"x":[1,2]}"#, "{called}");
    let refused = many.ask(path, call("call_tool", json!({ "name": "files_write" }))).await;
    assert_eq!((refused.status, refused.code()), (403, 4030), "{refused:?}");
    assert!(many.upstreams[0].seen().iter().all(|it| it.json()["params"]["name"] != "write"));
    many.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_takes_nothing_along_but_its_own_calls() {
    let mut many = Many::start(&[("files", tools(&["read"])), ("search", tools(&["find"]))]).await;
    many.inbound.remove(0).stop().await;
    many.upstreams.remove(0);
    let call = |name: &str| modern("tools/call", name, json!({ "name": name, "arguments": {} }));
    assert_eq!(many.names("/mcp").await, ["files_read", "search_find"]);
    let answer = many.ask("/mcp", call("search_find")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let failed = many.ask("/mcp", call("files_read")).await;
    assert_eq!(failed.status, 503, "{failed:?}");
    assert!(["no_instance", "upstream_unreachable"].contains(&failed.reason()), "{failed:?}");
    many.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_at_any_sidecar_of_its_callers_identity_and_at_no_other() {
    let many = Many::start(&[("files", tools(&["read"])), ("search", tools(&["find"]))]).await;
    let listen = json!({ "inbound": null, "outbound": "127.0.0.1:0" });
    let mut file = pair::joining(&many.mesh, "agents", "reviewer", listen, json!({})).await;
    file["node"]["id"] = json!("agents/reviewer-2");
    let second = Agent { sidecar: pair::start(file).await };
    let stranger = Agent::join_mesh(&many.mesh, "stranger").await;
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } });
    let opened = many.ask("/mcp", legacy(&initialize, None)).await;
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    many.agent.sidecar.stop().await;

    let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call",
        "params": { "name": "files_read", "arguments": { "x": 1 } } });
    let knows_offers = async |agent: &Agent| {
        let list = || at("/mcp", modern("tools/list", "", json!({})));
        while agent.answer(list()).await.json()["result"]["tools"].as_array().is_none_or(|it| it.len() != 2) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), knows_offers(&second)).await.unwrap();
    let answer = second.answer(at("/mcp", legacy(&call, Some(&session)))).await;
    assert_eq!(answer.json()["result"]["content"][0]["text"], r#"files "read" {"x":1}"#, "{answer:?}");
    let stolen = stranger.answer(at("/mcp", legacy(&call, Some(&session)))).await;
    assert_eq!((stolen.status, stolen.reason()), (404, "session_unknown"));

    for sidecar in many.inbound.into_iter().chain([second.sidecar, stranger.sidecar]) {
        sidecar.stop().await;
    }
    many.mesh.stop().await;
}
