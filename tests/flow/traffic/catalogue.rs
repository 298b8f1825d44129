//! What servers offer, from the server through the sidecar beside it to the control plane's catalogue.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use weft_control_plane::catalog::{Catalogue, Known};
use weft_proto::mcp::lists::Listed;
use weft_proto::name::ServerName;

use super::pair::Pair;
use super::upstream::{self, Seen, Upstream};
use crate::mesh::{Mesh, eventually};

fn server() -> ServerName {
    "research/files".parse().unwrap()
}

/// Everything that a server can offer, in either era.
fn offered() -> Value {
    json!({
        "capabilities": { "tools": {}, "prompts": {}, "resources": {} },
        "tools": [{ "name": "read_file", "inputSchema": {} }],
        "prompts": [{ "name": "review", "arguments": [{ "name": "tone" }] }],
        "resources": [{ "uri": "file:///a", "name": "a" }, { "uri": "file:///b", "name": "b" }],
        "resourceTemplates": [{ "uriTemplate": "file:///{path}", "name": "any" }],
    })
}

/// Answers as a server of one era that offers this. Its resources are on two pages.
fn answer(seen: &Seen, offered: &Value, modern: bool) -> http::Response<upstream::Body> {
    let message: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    let page = |member: &str| json!({ "resultType": "complete", member: offered[member] });
    let result = match (message["method"].as_str().unwrap_or_default(), modern) {
        ("server/discover", true) => json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "instructions": "Be brief.",
            "capabilities": offered["capabilities"], "ttlMs": 0, "cacheScope": "private",
            "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "files", "version": "3" } } }),
        ("initialize", false) => json!({
            "protocolVersion": "2025-11-25", "capabilities": offered["capabilities"],
            "serverInfo": { "name": "files", "version": "3" }, "instructions": "Be brief." }),
        ("tools/list", _) => page("tools"),
        ("prompts/list", _) => page("prompts"),
        ("resources/templates/list", _) => page("resourceTemplates"),
        ("resources/list", _) => match message["params"]["cursor"].as_str() {
            None => json!({ "resources": [offered["resources"][0]], "nextCursor": "2" }),
            Some(_) => json!({ "resources": [offered["resources"][1]] }),
        },
        ("notifications/initialized", false) => return upstream::status(202),
        _ if message.get("id").is_some() => {
            return upstream::document(&json!({ "jsonrpc": "2.0", "id": message["id"],
                "error": { "code": -32601, "message": "no" } }));
        }
        _ => return upstream::status(405),
    };
    upstream::document(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
}

async fn serving(offered: &Arc<Mutex<Value>>, modern: bool) -> Upstream {
    let offered = Arc::clone(offered);
    Upstream::with(move |seen| {
        let offered = offered.lock().unwrap().clone();
        async move { answer(&seen, &offered, modern) }
    })
    .await
}

fn known(catalogue: &Catalogue) -> Option<Arc<Known>> {
    catalogue.known(&server())
}

fn names(known: &Known) -> Vec<&str> {
    known.offer.items().iter().map(|item| &*item.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_a_server_offers_is_known_in_either_era() {
    for (modern, revision) in [(true, "2026-07-28"), (false, "2025-11-25")] {
        let offered = Arc::new(Mutex::new(offered()));
        let pair = Pair::with(serving(&offered, modern).await, json!({ "toolsReadEvery": "1s" })).await;
        let catalogue = Arc::clone(&pair.mesh.running.catalogue);
        eventually("the offer is known", || known(&catalogue).is_some()).await;
        let first = known(&catalogue).unwrap();
        assert_eq!(names(&first), ["read_file", "review", "file:///a", "file:///b", "file:///{path}"]);
        let introduction = &first.offer.introduction;
        assert_eq!(introduction.instructions.as_deref(), Some("Be brief."));
        assert_eq!(introduction.server_info.as_deref(), Some(r#"{"name":"files","version":"3"}"#));
        assert_eq!(first.revisions, [revision]);

        // What changes is known with what it was before, and what did not change since when it is so.
        offered.lock().unwrap()["prompts"][0]["title"] = json!("A review");
        offered.lock().unwrap()["resources"][1] = json!({ "uri": "file:///c", "name": "c" });
        let is_new = || known(&catalogue).is_some_and(|now| names(&now)[3] == "file:///c");
        eventually("the change is known", is_new).await;
        let titled = || {
            let now = known(&catalogue).unwrap();
            now.offer.find(Listed::Prompt, "review").unwrap().definition.contains("A review")
        };
        eventually("the other one too", titled).await;
        let now = known(&catalogue).unwrap();
        let tool = (Listed::Tool, "read_file".into());
        assert_eq!(now.items[&tool], first.items[&tool]);
        let review = (Listed::Prompt, "review".into());
        catalogue.write().await;
        let versions = catalogue.versions(server(), review).await.unwrap();
        assert_eq!(versions.iter().map(|it| it.until.is_some()).collect::<Vec<_>>(), [false, true]);
        let found: Vec<_> = catalogue.search("review tone", 5, |_| true);
        assert_eq!(&*found[0].key.name, "review");
        pair.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_does_not_announce_is_not_asked_for_and_what_it_cannot_list_spoils_nothing() {
    let mut offers = offered();
    offers["capabilities"] = json!({ "tools": {}, "resources": {} });
    // No list at all.
    offers["resourceTemplates"] = json!(7);
    let offered = Arc::new(Mutex::new(offers));
    let pair = Pair::start(serving(&offered, true).await).await;
    let catalogue = Arc::clone(&pair.mesh.running.catalogue);
    eventually("the offer is known", || known(&catalogue).is_some()).await;
    assert_eq!(names(&known(&catalogue).unwrap()), ["read_file", "file:///a", "file:///b"]);
    assert_eq!(pair.upstream.seen_of("prompts/list"), Value::Null);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_known_outlives_the_sidecar_and_the_control_plane_until_the_server_is_deleted() {
    let offered = Arc::new(Mutex::new(offered()));
    let Pair { mesh, inbound, upstream } = Pair::start(serving(&offered, true).await).await;
    let catalogue = Arc::clone(&mesh.running.catalogue);
    eventually("the offer is known", || known(&catalogue).is_some()).await;
    assert_eq!(catalogue.entry(&server()).unwrap().away_since, None);
    inbound.stop().await;
    eventually("it is away", || catalogue.entry(&server()).is_some_and(|it| it.away_since.is_some())).await;
    drop((catalogue, upstream));
    let mesh = Mesh::again(mesh.stop().await, |_| {}).await;
    let catalogue = Arc::clone(&mesh.running.catalogue);
    let entry = catalogue.entry(&server()).unwrap();
    assert!(entry.away_since.is_some() && entry.replicas.is_empty());
    assert_eq!(names(&entry.known.unwrap()).len(), 5);
    assert_eq!(mesh.running.hub.exists(&server()), Some(true));
    mesh.stop().await;
}
