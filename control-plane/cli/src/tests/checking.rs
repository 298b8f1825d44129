//! `weft status` and `weft check`.

use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::fake::{Answer, Fake, command, context, ok, problem};
use crate::app;
use crate::failure::ExitCode;
use crate::terminal::Terminal;

fn sidecar(sync: &str) -> Value {
    json!({ "node": "research/files-0", "identity": "spiffe://d/ns/research/sa/files", "version": "0.1.0", "peer": "p",
        "connected": true, "connectedAt": "2026-05-01T10:00:00Z", "serves": [], "sync": sync, "seenRevision": 7,
        "types": [{ "type": "Server", "sync": sync, "resources": 2, "sentRevision": 7, "acknowledgedRevision": 6 }],
        "certificate": { "serial": "5e", "expiresAt": "2999-01-01T00:00:00Z", "root": "ab" } })
}

/// A mesh in which all is well but what the test says.
fn mesh(asked: &str, sync: &str, not_after: &str) -> Answer {
    ok(match asked {
        "GET /v1/version" => {
            json!({ "version": env!("CARGO_PKG_VERSION"), "apiVersion": "v1", "trustDomain": "d",
            "storeRevision": 9, "publishedRevision": 7 })
        }
        "GET /v1/history?limit=1" => json!({ "items": [{ "revision": 7 }], "next": 7 }),
        "GET /v1/trust" => json!({ "trustDomain": "d", "svidLifetime": "24h", "sequence": 1,
            "roots": [{ "fingerprint": "ab", "notBefore": "2026-01-01T00:00:00Z", "notAfter": not_after,
                        "issuing": true, "generation": 1 }],
            "issuer": { "kind": "builtin", "notAfter": "2999-01-01T00:00:00Z", "fingerprint": "cd" },
            "rotation": { "step": "stable", "gate": { "open": false, "waitingFor": [] } } }),
        "GET /v1/sidecars/research/files-0" => sidecar(sync),
        _ => json!({ "publishedRevision": 7, "items": [sidecar(sync)] }),
    })
}

const FAR: &str = "2999-01-01T00:00:00Z";

/// Answers every request with a status, without TLS.
async fn health(status: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(async |request: Request<_>| {
                assert_eq!(request.uri().path(), "/healthz/ready");
                Response::builder().status(status).body(Full::<bytes::Bytes>::default())
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    });
    url
}

#[tokio::test]
async fn the_status_is_a_table_or_everything_about_one() {
    let fake = Fake::start(|asked| mesh(&asked.line, "synced", FAR)).await;
    let ran = fake.run(&["status"]).await;
    assert!(
        ran.done().out.contains("research/files-0  spiffe://d/ns/research/sa/files  synced"),
        "{}",
        ran.out
    );
    let ran = fake.run(&["status", "research/files-0"]).await;
    assert!(ran.done().out.contains("certificate  5e\n"), "{}", ran.out);
    let ran = fake.run(&["status", "-n", "research", "-o", "yaml"]).await;
    assert!(ran.done().out.contains("publishedRevision: 7"), "{}", ran.out);
    let lines =
        ["GET /v1/sidecars", "GET /v1/sidecars/research/files-0", "GET /v1/sidecars?namespace=research"];
    assert_eq!(fake.lines(), lines);
}

#[tokio::test]
async fn the_status_only_fails_when_it_is_asked_to_check() {
    let fake = Fake::start(|asked| mesh(&asked.line, "rejected", FAR)).await;
    fake.run(&["status"]).await.done();
    let ran = fake.run(&["status", "--check"]).await;
    assert_eq!(ran.code, ExitCode::Failed);
    assert!(ran.out.contains("rejected"), "{}", ran.out);
}

#[tokio::test]
async fn sidecars_that_are_behind_are_given_time_to_follow() {
    let looks = AtomicU64::new(0);
    let fake = Fake::start(move |asked| {
        let is_look = asked.line.starts_with("GET /v1/sidecars");
        let behind = is_look && looks.fetch_add(1, Ordering::Relaxed) == 0;
        mesh(&asked.line, if behind { "waiting" } else { "synced" }, FAR)
    })
    .await;
    fake.run(&["status", "--check"]).await.done();
    assert_eq!(fake.lines(), ["GET /v1/history?limit=1", "GET /v1/sidecars", "GET /v1/sidecars"]);
    let never = Fake::start(|asked| mesh(&asked.line, "waiting", FAR)).await;
    assert_eq!(never.run(&["status", "--check", "--wait", "1ms"]).await.code, ExitCode::Failed);
}

#[tokio::test]
async fn a_change_that_is_not_published_yet_is_waited_for() {
    let newer = |line: &str| match line.contains("/history") {
        true => ok(json!({ "items": [{ "revision": 8, "at": FAR, "author": "a", "changes": [] }] })),
        false => mesh(line, "synced", FAR),
    };
    let fake = Fake::start(move |asked| newer(&asked.line)).await;
    let ran = fake.run(&["status", "--check", "--wait", "1ms"]).await;
    ran.ended(ExitCode::Failed, &["not published"]);
    fake.run(&["status"]).await.done();
}

#[tokio::test]
async fn a_mesh_in_which_all_is_well_passes_every_check() {
    let fake = Fake::start(|asked| mesh(&asked.line, "synced", FAR)).await;
    let ran = fake.run(&["check", "--health-url", &health(200).await]).await;
    assert!(ran.done().out.ends_with("\nall is well\n"), "{}", ran.out);
    assert!(ran.out.contains("published revision: 7, with every change up to 7"), "{}", ran.out);
    let ran = fake.run(&["check", "-o", "json", "--health-url", &health(200).await]).await;
    let report: Value = serde_json::from_str(&ran.done().out).unwrap();
    let names: Vec<_> = report["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
    assert_eq!(names, ["configuration", "control plane", "state", "trust", "sidecars"]);
    let checks =
        report["groups"].as_array().unwrap().iter().flat_map(|group| group["checks"].as_array().unwrap());
    assert!(checks.clone().all(|check| check["outcome"] == "ok"), "{report:#}");
    assert_eq!(report["ok"], true);
}

#[tokio::test]
async fn warnings_do_not_fail_and_failures_do() {
    let soon =
        jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + 20 * 86_400).unwrap().to_string();
    let fake = Fake::start(move |asked| mesh(&asked.line, "synced", &soon)).await;
    let ran = fake.run(&["check"]).await;
    // The health port of a server on an unusual port is not known either.
    for part in
        ["less than 30 days are left", "weft trust rotate", "not looked at", "nothing failed; warnings: 2"]
    {
        assert!(ran.done().out.contains(part), "{part:?} is not in {}", ran.out);
    }
    let fake = Fake::start(|asked| mesh(&asked.line, "rejected", FAR)).await;
    let ran = fake.run(&["check", "--health-url", &health(503).await]).await;
    assert_eq!(ran.code, ExitCode::Failed);
    for part in
        ["✗ ready", "✗ accepted: refused: research/files-0", "do: read what they refused", "failed: 2"]
    {
        assert!(ran.out.contains(part), "{part:?} is not in {}", ran.out);
    }
}

#[tokio::test]
async fn what_rests_on_something_that_failed_is_skipped() {
    let check = async |ran: super::fake::Ran, failed: &str, skipped: &[&str]| {
        assert_eq!(ran.code, ExitCode::Failed);
        assert!(ran.out.contains(&format!("✗ {failed}: ")), "{failed} did not fail in {}", ran.out);
        for name in skipped {
            assert!(
                ran.out.contains(&format!("- {name}: a check before it failed")),
                "{name} in {}",
                ran.out
            );
        }
    };
    let all = ["version skew", "root certificate", "connected"];
    let fake = Fake::start(|_| problem(401, "unauthenticated", "no such key")).await;
    check(fake.run(&["check"]).await, "authenticated", &all).await;
    let fake = Fake::with_certificate_for("mesh.example", |_| ok(json!({}))).await;
    check(fake.run(&["check"]).await, "verified", &["authenticated", "version skew"]).await;

    let fake = Fake::start(|_| ok(json!({}))).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (terminal, out, err) = Terminal::captured("", false);
    let mut away = fake.context(terminal);
    away.given.server = Some(format!("https://{closed}").parse().unwrap());
    let code = app::run(command(&["check"]), &away).await;
    let ran = super::fake::Ran { code, out: out.text(), err: err.text() };
    check(ran, "reachable", &["verified", "authenticated"]).await;

    let empty = tempfile::tempdir().unwrap();
    let (terminal, out, err) = Terminal::captured("", false);
    let code = app::run(command(&["check"]), &context(empty.path(), terminal)).await;
    let ran = super::fake::Ran { code, out: out.text(), err: err.text() };
    check(ran, "operator.json", &["credentials", "reachable", "ready", "connected"]).await;
}

#[tokio::test]
async fn a_mesh_without_sidecars_says_how_to_get_one() {
    let fake = Fake::start(|_| ok(json!({ "publishedRevision": 1, "items": [] }))).await;
    let ran = fake.run(&["status"]).await;
    assert!(ran.done().err.contains("weft token create"), "{}", ran.err);
}
