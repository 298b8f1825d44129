//! `weft support-bundle`: what is in it, and that no secret is.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::{Value, json};
use weft_control_plane::check::CHECKS;

use super::fake::{Asked, Fake, TOKEN, ok, problem};
use crate::failure::ExitCode;

/// Stands wherever a secret could.
const SECRET: &str = "s3cr3t-Hunter2";

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "weft.dev/v1alpha1", "kind": kind, "spec": spec, "metadata": {
        "namespace": "research", "name": name, "annotations": { "name": SECRET }, "labels": { "team": "core" } } })
}

fn objects() -> Vec<Value> {
    let url = format!("https://user:{SECRET}@api.example:8443/{SECRET}?key={SECRET}#{SECRET}");
    vec![
        object(
            "McpServer",
            "files",
            json!({ "stdio": { "command": "npx", "args": ["--token", SECRET],
            "env": { "API_KEY": SECRET, "name": SECRET } }, "path": format!("/{SECRET}") }),
        ),
        object(
            "McpServer",
            "outside",
            json!({ "external": { "url": url, "headers": { "Authorization": SECRET } } }),
        ),
        object(
            "Telemetry",
            "spans",
            json!({ "tracing": { "endpoint": url, "sampling": "1%" },
            "accessLog": { "filter": format!("args.x == '{SECRET}'") } }),
        ),
        object(
            "AccessPolicy",
            "readers",
            json!({ "rules": [{ "action": "allow", "to": [{ "tools": ["read"],
            "resources": [format!("file:///{SECRET}")] }], "from": [{ "claims": { "name": [SECRET] } }],
            "when": format!("args.key == '{SECRET}'") }] }),
        ),
        object(
            "Authentication",
            "tokens",
            json!({ "jwt": [{ "issuer": url, "jwks": SECRET, "audiences": [SECRET] }],
            "apiKeys": { "name": SECRET } }),
        ),
        object(
            "Trust",
            "mesh",
            json!({ "trustDomain": "corp.example", "federated": [{ "trustDomain": "o.example",
            "roots": format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----") }] }),
        ),
        object("McpServer", "newer", json!({ "fieldOfTheFuture": { "name": { "text": SECRET } } })),
    ]
}

/// A control plane that says secrets wherever it can.
fn careless(asked: &Asked) -> super::fake::Answer {
    let key = format!("weft_ab12cd34_{}", "Zz9".repeat(15));
    let join = format!("weft1.id.{}.{}", "Yy8".repeat(15), "ab".repeat(32));
    let said = format!("no answer of http://u:{SECRET}@h.example/{SECRET}; Bearer {SECRET}; {key} {join}");
    let path = asked.line.trim_start_matches("GET ").split('?').next().unwrap();
    ok(match path {
        "/v1/version" => json!({ "version": env!("CARGO_PKG_VERSION"), "trustDomain": "corp.example" }),
        "/v1/checks" => {
            let items = CHECKS.iter().map(
                |it| json!({ "group": it.group, "name": it.name, "outcome": "warning", "detail": said }),
            );
            json!({ "at": "2026-05-01T10:00:00Z", "items": items.collect::<Vec<_>>() })
        }
        "/v1/resources" if asked.line.contains("continue=") => json!({ "items": objects()[3..] }),
        "/v1/resources" => json!({ "items": objects()[..3], "continue": "more" }),
        "/v1/history" => {
            json!({ "items": [{ "revision": 7, "author": "ann", "reason": SECRET, "changes": [] }] })
        }
        "/v1/audit" => json!({ "items": [
            { "sequence": 2, "who": "ann", "action": "apply", "object": "x", "outcome": "refused", "detail": SECRET },
            { "sequence": 1, "who": "bob", "action": "apply", "object": "y", "outcome": "done", "detail": SECRET },
        ] }),
        "/v1/audit/trails" => json!({ "items": [{ "node": "research/files-0", "trail": "t" }] }),
        "/v1/sidecars" => {
            json!({ "items": [{ "node": "research/files-0", "connected": true, "identity": "spiffe://corp.example/ns/a/sa/b",
            "types": [{ "nack": { "message": said } }], "report": { "servers": [{ "detail": said }] } }] })
        }
        "/debug/log" => json!({ "lines": [said] }),
        "/v1/sidecars/research/files-0/log" => {
            json!({ "node": "research/files-0", "lines": ["it began", said] })
        }
        "/debug/plan" => return problem(403, "forbidden", "the key may not do that"),
        _ => json!({ "items": [] }),
    })
}

fn unpack(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name.trim_start_matches("weft-support/").to_owned(), text);
    }
    files
}

#[tokio::test]
async fn the_bundle_has_what_is_needed_and_no_secret_from_anywhere() {
    let fake = Fake::start(careless).await;
    let path = fake.folder.path().join("fault.tar.gz");
    let output = path.display().to_string();
    let ran = fake.run(&["support-bundle", "--output", &output]).await;
    ran.done();
    let files = unpack(&std::fs::read(&path).unwrap());
    for (name, text) in &files {
        for secret in [SECRET, TOKEN, "Zz9Zz9", "Yy8Yy8", "user:", "u:s"] {
            assert!(!text.contains(secret), "{secret:?} is in {name}: {text}");
        }
    }
    let json = |name: &str| serde_json::from_str::<Value>(&files[name]).unwrap();
    assert_eq!(json("versions.json")["controlPlane"]["trustDomain"], "corp.example");
    let objects = json("objects.json");
    assert_eq!(objects["items"].as_array().unwrap().len(), 7, "those of every page");
    assert_eq!(objects["items"][0]["spec"]["stdio"]["command"], "npx");
    assert_eq!(objects["items"][0]["spec"]["stdio"]["env"]["API_KEY"], "withheld, 14 bytes");
    assert_eq!(objects["items"][1]["spec"]["external"]["url"], "https://api.example:8443…");
    assert_eq!(objects["items"][3]["spec"]["rules"][0]["to"][0]["tools"][0], "read");
    assert_eq!(json("refused.json")["items"].as_array().unwrap().len(), 1);
    assert!(files["sidecars.json"].contains("spiffe://corp.example/ns/a/sa/b"));
    assert!(files["checks.json"].contains("no answer of http://h.example…"));
    assert!(json("log.json")["lines"][0].as_str().unwrap().starts_with("no answer of http://h.example"));
    assert_eq!(json("logs.json")["items"][0]["lines"][0], "it began");
    let manifest = json("manifest.json");
    let listed: Vec<_> =
        manifest["files"].as_array().unwrap().iter().map(|it| it["file"].as_str().unwrap()).collect();
    assert_eq!(listed.len() + 1, files.len());
    let absent = manifest["absent"].to_string();
    assert!(absent.contains("plan.json") && absent.contains("metrics.txt"), "{absent}");
    let withheld =
        manifest["files"].as_array().unwrap().iter().find(|it| it["file"] == "objects.json").unwrap();
    assert!(withheld["valuesWithheld"].as_u64().unwrap() >= 15, "{withheld}");
}

#[tokio::test]
async fn a_file_that_is_there_is_not_written_over_and_a_new_one_is_its_owners() {
    use std::os::unix::fs::PermissionsExt as _;
    let fake = Fake::start(careless).await;
    let output = fake.file("there.tar.gz", "mine");
    let ran = fake.run(&["support-bundle", "--output", &output]).await;
    ran.ended(ExitCode::Failed, &["cannot be written", "--output"]);
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "mine");
    let path = fake.folder.path().join("new.tar.gz");
    fake.run(&["support-bundle", "--output", &path.display().to_string()]).await.done();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
