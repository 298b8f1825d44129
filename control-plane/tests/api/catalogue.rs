//! What servers offer: listed, searched, shown, and read by clients of a registry.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use weft_control_plane::catalog::{Introduced, Said, Something, Told};
use weft_proto::catalogue::digest;
use weft_proto::mcp::lists::Listed;
use weft_proto::offer::{Introduction, Offered};

use super::*;

fn said(listed: Listed, definition: &str) -> Said {
    let offered = Offered::parse(listed, definition.into()).unwrap();
    Said {
        key: (listed, offered.name.clone()),
        digest: digest(definition).unwrap(),
        offered: Some(Arc::new(offered)),
    }
}

/// A sidecar of a server tells what it offers, at a second.
fn tell(mesh: &Mesh, server: &str, number: u64, secs: u64, items: &[(Listed, &str)]) {
    let said_of = Introduction {
        server_info: Some(r#"{"name":"files","title":"Files","version":"1.2.3"}"#.into()),
        instructions: Some("Read before you write.\nAlways.".into()),
        capabilities: Some(r#"{"tools":{}}"#.into()),
    };
    let told = Something {
        full: true,
        changed: items.iter().map(|(listed, definition)| said(*listed, definition)).collect(),
        introduced: Some(Introduced { said: said_of, revisions: vec!["2026-07-28".to_owned()] }),
        ..Something::default()
    };
    let id = "spiffe://corp.example/ns/research/sa/files".parse().unwrap();
    let place = (id, format!("research/{server}-{number}").parse().unwrap());
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
    let server = format!("research/{server}").parse().unwrap();
    mesh.catalogue.take((&place, number), &server, Told::Something(told), at).unwrap();
}

const READ: &str = r#"{"name":"read_file","description":"Reads.","annotations":{"readOnlyHint":true},
    "inputSchema":{"properties":{"path":{}}}}"#;
const WIPE: &str = r#"{"name":"wipe","description":"Deletes files.","annotations":{"destructiveHint":true}}"#;
const REVIEW: &str = r#"{"name":"review"}"#;
const LOG: &str = r#"{"uri":"file:///log","name":"The log"}"#;
const ANY: &str = r#"{"uriTemplate":"file:///{path}","name":"Any file"}"#;
const MAIL: &str = r#"{"name":"send_mail","description":"Sends a file to somebody."}"#;

/// A sidecar tells that a server offers one tool.
pub(super) fn offers(mesh: &Mesh, server: &str, tool: &str) {
    tell(mesh, server, 1, 1, &[(Listed::Tool, tool)]);
}

async fn mesh() -> Mesh {
    let mesh = Mesh::start().await;
    mesh.apply(&server("files", "")).await;
    let labelled = server("mail", "").replace("name: mail", "name: mail, labels: { team: post }");
    mesh.apply(&labelled).await;
    let items = [
        (Listed::Tool, READ),
        (Listed::Tool, WIPE),
        (Listed::Prompt, REVIEW),
        (Listed::Resource, LOG),
        (Listed::ResourceTemplate, ANY),
    ];
    tell(&mesh, "files", 1, 1, &items);
    tell(&mesh, "mail", 2, 2, &[(Listed::Tool, MAIL)]);
    mesh
}

async fn names(mesh: &Mesh, query: &str) -> Vec<String> {
    let list = mesh.admin("GET", &format!("/v1/catalogue/items?{query}"), "").await.ok();
    let items = list["items"].as_array().unwrap().clone();
    items.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn items_are_found_by_what_they_are_and_whose() {
    let mesh = mesh().await;
    let all = ["read_file", "wipe", "review", "file:///log", "file:///{path}", "send_mail"];
    for (query, expected) in [
        ("", &all[..]),
        ("kind=tool", &["read_file", "wipe", "send_mail"]),
        ("kind=template", &["file:///{path}"]),
        ("server=research/mail", &["send_mail"]),
        ("namespace=other", &[]),
        ("labels=team%3Dpost", &["send_mail"]),
        ("hint=read-only", &["read_file"]),
        ("hint=destructive", &["wipe"]),
        ("era=modern&kind=prompt", &["review"]),
        ("era=legacy", &[]),
        ("words=file&kind=tool&server=research/files", &["read_file", "wipe"]),
        ("words=path&kind=tool", &["read_file"]),
        ("words=send+file&kind=tool&limit=1", &["send_mail"]),
    ] {
        assert_eq!(names(&mesh, query).await, expected, "{query}");
    }
    for wrong in ["kind=thing", "era=old", "limit=0", "labels=x", "continue=x", "hint=nice", "other=1"] {
        let path = format!("/v1/catalogue/items?{wrong}");
        mesh.admin("GET", &path, "").await.refused(400, "bad-parameter");
    }
}

#[tokio::test]
async fn pages_go_on_where_the_one_before_ended() {
    let mesh = mesh().await;
    let (mut found, mut next) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/catalogue/items?limit=2{next}");
        let page = mesh.admin("GET", &path, "").await.ok();
        found.extend(page["items"].as_array().unwrap().iter().map(|it| it["name"].to_string()));
        match page["continue"].as_str() {
            Some(token) => next = format!("&continue={token}"),
            None => break,
        }
    }
    assert_eq!(found.len(), 6);
    let first = mesh.admin("GET", "/v1/catalogue/servers?limit=1", "").await.ok();
    let next = format!("/v1/catalogue/servers?limit=1&continue={}", first["continue"].as_str().unwrap());
    let second = mesh.admin("GET", &next, "").await.ok();
    assert_eq!((&second["items"][0]["server"], &second["continue"]), (&json!("research/mail"), &Value::Null));
}

#[tokio::test]
async fn an_item_is_shown_with_its_history_and_what_each_sidecar_found() {
    let mesh = mesh().await;
    mesh.catalogue.write().await;
    let changed = READ.replace("Reads.", "Reads, or so it says.");
    for number in [1, 3] {
        tell(&mesh, "files", number, 10, &[(Listed::Tool, &changed)]);
    }
    tell(&mesh, "files", 4, 11, &[(Listed::Tool, READ)]);
    mesh.catalogue.write().await;
    let path = "/v1/catalogue/item?server=research/files&name=read_file";
    let shown = mesh.admin("GET", path, "").await.ok();
    let item = &shown["item"];
    assert_eq!((&item["since"], &item["state"]), (&json!("1970-01-01T00:00:10Z"), &json!("unpinned")));
    assert_eq!((&item["instances"], &item["agreeing"]), (&json!(3), &json!(2)));
    assert_eq!(shown["definition"]["description"], "Reads, or so it says.");
    let agree: Vec<_> = shown["replicas"].as_array().unwrap().iter().map(|it| &it["agrees"]).collect();
    assert_eq!(agree, [&json!(true), &json!(true), &json!(false)]);
    let versions = shown["versions"].as_array().unwrap();
    assert_eq!((versions.len(), &versions[1]["until"]), (2, &json!("1970-01-01T00:00:10Z")));
    assert_eq!(versions[1]["definition"]["description"], "Reads.");
    let approval = weft_proto::policy::tools::digest(&changed).unwrap();
    assert_eq!(shown["approval"], approval.as_str());
    let servers = mesh.admin("GET", "/v1/catalogue/servers?server=research/files", "").await.ok();
    let files = &servers["items"][0];
    assert_eq!((&files["tools"], &files["serverInfo"]["version"]), (&json!(1), &json!("1.2.3")));
    assert_eq!(files["replicas"][2]["differs"], json!(["tool read_file"]));
    for missing in [
        "server=research/files&name=wipe",
        "server=research/none&name=x",
        "server=research/files&name=read_file&kind=prompt",
    ] {
        let path = format!("/v1/catalogue/item?{missing}");
        mesh.admin("GET", &path, "").await.refused(404, "not-found");
    }
}

#[tokio::test]
async fn what_is_no_object_any_more_is_not_shown() {
    let mesh = mesh().await;
    mesh.admin("DELETE", "/v1/namespaces/research/mcpservers/mail", "").await.ok();
    assert_eq!(names(&mesh, "kind=tool").await, ["read_file", "wipe"]);
    assert_eq!(names(&mesh, "words=mail").await, [""; 0]);
}

#[tokio::test]
async fn clients_of_a_registry_find_the_servers() {
    let mesh = mesh().await;
    let list = mesh.admin("GET", "/v0.1/servers", "").await.ok();
    assert_eq!(list["metadata"], json!({ "count": 2 }));
    let files = &list["servers"][0];
    assert_eq!(
        files["server"],
        json!({
            "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
            "name": "research/files", "title": "Files", "version": "1.2.3",
            "description": "Read before you write.",
            "remotes": [{ "type": "streamable-http", "url": "http://localhost:7400/servers/research/files/mcp" }],
        })
    );
    let official = &files["_meta"]["io.modelcontextprotocol.registry/official"];
    assert_eq!((&official["status"], &official["isLatest"]), (&json!("active"), &json!(true)));
    let page = mesh.admin("GET", "/v0.1/servers?limit=1&include_deleted=false", "").await.ok();
    assert_eq!(page["metadata"], json!({ "count": 1, "nextCursor": "research/files" }));
    let rest = mesh.admin("GET", "/v0.1/servers?limit=1&cursor=research%2Ffiles", "").await.ok();
    assert_eq!(rest["servers"][0]["server"]["name"], "research/mail");
    for (query, count) in [
        ("search=FILE", 1),
        ("version=latest", 2),
        ("version=9", 0),
        ("updated_since=1970-01-01T00:00:02Z", 1),
        ("cursor=", 2),
    ] {
        let list = mesh.admin("GET", &format!("/v0.1/servers?{query}"), "").await.ok();
        assert_eq!(list["metadata"]["count"], count, "{query}");
    }
    let of = |rest: &str| format!("/v0.1/servers/research%2Ffiles/versions{rest}");
    assert_eq!(mesh.admin("GET", &of(""), "").await.ok()["servers"], json!([files]));
    for version in ["/latest", "/1.2.3"] {
        assert_eq!(mesh.admin("GET", &of(version), "").await.ok(), *files);
    }
    mesh.admin("GET", &of("/2.0.0"), "").await.refused(404, "not-found");
    let other = mesh.admin("GET", "/v0.1/servers/io.example%2Fother/versions/latest", "").await;
    assert_eq!(other.refused(404, "not-found")["error"], "there is no server \"io.example/other\"");
    mesh.as_nobody("GET", "/v0.1/servers").await.refused(401, "unauthenticated");
}

#[tokio::test]
async fn each_server_has_a_card_and_the_catalogue_has_all_of_them() {
    let mesh = mesh().await;
    let answer = mesh.admin("GET", "/v0.1/servers/research%2Ffiles/server-card", "").await;
    assert_eq!(answer.headers["content-type"], "application/mcp-server-card+json");
    assert_eq!(answer.headers["cache-control"], "private, max-age=3600", "it was shown for a key");
    let card = answer.ok();
    let url = "http://localhost:7400/servers/research/files/mcp";
    let versions = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];
    assert_eq!(
        card,
        json!({
            "$schema": "https://static.modelcontextprotocol.io/schemas/v2/server-card.schema.json",
            "name": "research/files", "title": "Files", "version": "1.2.3",
            "description": "Read before you write.",
            "remotes": [{ "type": "streamable-http", "url": url, "supportedProtocolVersions": versions }],
        })
    );
    let answer = mesh.admin("GET", "/.well-known/ai-catalog.json", "").await;
    assert_eq!(answer.headers["content-type"], "application/ai-catalog+json");
    let all = answer.ok();
    assert_eq!((&all["specVersion"], all["entries"].as_array().unwrap().len()), (&json!("1.0"), 2));
    assert_eq!(
        all["entries"][0],
        json!({
            "identifier": "urn:air:corp.example:research:files", "displayName": "Files",
            "type": "application/mcp-server-card+json", "data": card,
        })
    );
    mesh.admin("DELETE", "/v1/namespaces/research/mcpservers/mail", "").await.ok();
    for gone in ["research%2Fmail", "io.example%2Fother", "files"] {
        mesh.admin("GET", &format!("/v0.1/servers/{gone}/server-card"), "").await.refused(404, "not-found");
    }
    for path in ["/v0.1/servers/research%2Ffiles/server-card", "/.well-known/ai-catalog.json"] {
        mesh.as_nobody("GET", path).await.refused(401, "unauthenticated");
        mesh.admin("GET", &format!("{path}?x=1"), "").await.refused(400, "bad-parameter");
    }
}
