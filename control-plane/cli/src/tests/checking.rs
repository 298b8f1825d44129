//! `weft status` and `weft check`.

use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use weft_control_plane::check::CHECKS;

use super::fake::{Answer, Fake, command, context, ok, problem};
use crate::app;
use crate::commands::check::Group;
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
                let status = match request.uri().path() {
                    "/healthz/ready" | "/metrics" => status,
                    _ => 404,
                };
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

/// What the control plane says of all its checks, which pass but for one.
fn judged(but: &str, outcome: &str) -> Value {
    let items = CHECKS.iter().map(|check| {
        let is_other = check.name == but;
        let (why, remedy) = if is_other { (check.why, check.remedy) } else { ("", "") };
        json!({ "group": check.group, "name": check.name, "outcome": if is_other { outcome } else { "ok" },
            "detail": "as it was found", "why": why, "remedy": remedy })
    });
    json!({ "at": jiff::Timestamp::now().to_string(), "ok": outcome != "failed", "items": items.collect::<Vec<_>>() })
}

async fn judging(but: &'static str, outcome: &'static str) -> Fake {
    Fake::start(move |asked| match asked.line.starts_with("GET /v1/checks") {
        true => ok(judged(but, outcome)),
        false => mesh(&asked.line, "synced", FAR),
    })
    .await
}

#[tokio::test]
async fn a_mesh_in_which_all_is_well_passes_every_check() {
    let fake = judging("", "ok").await;
    let ran = fake.run(&["check", "--health-url", &health(200).await]).await;
    assert!(ran.done().out.ends_with("\nall is well\n"), "{}", ran.out);
    assert_eq!(fake.lines(), ["GET /v1/version", "GET /v1/checks"]);
    let ran = fake.run(&["check", "-o", "json", "--health-url", &health(200).await]).await;
    let report: Value = serde_json::from_str(&ran.done().out).unwrap();
    let groups = report["groups"].as_array().unwrap();
    let names: Vec<_> = groups.iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!(names, Group::ALL.map(Group::word));
    // Whatever is listed is made, and nothing else.
    for (group, listed) in groups.iter().zip(Group::ALL) {
        let made = group["checks"].as_array().unwrap();
        assert!(made.iter().all(|check| check["outcome"] == "ok"), "{group:#}");
        let made: Vec<_> = made.iter().map(|check| check["name"].as_str().unwrap()).collect();
        assert_eq!(made, listed.checks().into_iter().map(|(name, _)| name).collect::<Vec<_>>());
    }
    assert_eq!(report["ok"], true);
}

#[tokio::test]
async fn warnings_do_not_fail_unless_one_is_strict_and_failures_do() {
    let fake = judging("root certificates", "warning").await;
    let ran = fake.run(&["check"]).await;
    // The health port of a server on an unusual port is not known, so that nothing can be said of it.
    for part in [
        "! root certificates: as it was found",
        "do: exchange it",
        "- ready: ",
        "nothing failed; warnings: 1; skipped: 2",
    ] {
        assert!(ran.done().out.contains(part), "{part:?} is not in {}", ran.out);
    }
    assert_eq!(fake.run(&["check", "--strict"]).await.code, ExitCode::Failed);
    let fake = judging("accepted", "failed").await;
    let ran = fake.run(&["check", "--health-url", &health(503).await]).await;
    assert_eq!(ran.code, ExitCode::Failed);
    for part in [
        "\u{2717} ready",
        "\u{2717} accepted: as it was found",
        "why: they refused",
        "failed: 2; warnings: 1",
    ] {
        assert!(ran.out.contains(part), "{part:?} is not in {}", ran.out);
    }
}

#[tokio::test]
async fn some_groups_are_looked_at_alone() {
    let fake = judging("", "ok").await;
    let ran = fake.run(&["check", "--only", "policy"]).await;
    assert!(ran.done().out.starts_with("policy\n"), "{}", ran.out);
    assert_eq!(fake.lines(), ["GET /v1/version", "GET /v1/checks?group=policy"]);
    let ran = fake.run(&["check", "--only", "quota", "--only", "trust"]).await;
    assert!(ran.done().out.starts_with("trust\n") && ran.out.contains("\nquota\n"), "{}", ran.out);
    assert!(!ran.out.contains("sidecars\n"), "{}", ran.out);
    // What they rest on is shown where it fails.
    let fake = Fake::start(|_| problem(401, "unauthenticated", "no such key")).await;
    let ran = fake.run(&["check", "--only", "policy"]).await;
    assert_eq!(ran.code, ExitCode::Failed);
    assert!(
        ran.out.contains("\u{2717} authenticated") && ran.out.contains("- open servers: "),
        "{}",
        ran.out
    );
}

#[tokio::test]
async fn what_fails_is_given_time_to_become_well() {
    let looks = AtomicU64::new(0);
    let fake = Fake::start(move |asked| match asked.line.starts_with("GET /v1/checks") {
        true if looks.fetch_add(1, Ordering::Relaxed) == 0 => ok(judged("connected", "failed")),
        true => ok(judged("", "ok")),
        false => mesh(&asked.line, "synced", FAR),
    })
    .await;
    fake.run(&["check", "--wait", "1m"]).await.done();
    let never = judging("connected", "failed").await;
    assert_eq!(never.run(&["check", "--wait", "1ms"]).await.code, ExitCode::Failed);
}

#[tokio::test]
async fn a_control_plane_that_makes_no_checks_or_cannot_is_no_mesh_in_which_all_is_well() {
    let without = |status| {
        Fake::start(move |asked| match asked.line.starts_with("GET /v1/checks") {
            true => problem(status, "not-found", "there is nothing here"),
            false => mesh(&asked.line, "synced", FAR),
        })
    };
    let ran = without(404).await.run(&["check"]).await;
    assert!(ran.done().out.contains("- connected: this control plane is older"), "{}", ran.out);
    assert!(!ran.out.contains("\nall is well"), "{}", ran.out);
    let ran = without(500).await.run(&["check"]).await;
    assert_eq!(ran.code, ExitCode::Failed);
    assert!(ran.out.contains("\u{2717} checks: ") && ran.out.contains("- connected: "), "{}", ran.out);
}

#[tokio::test]
async fn the_checks_are_listed_without_a_control_plane() {
    let empty = tempfile::tempdir().unwrap();
    let run = async |words: &[&str]| {
        let (terminal, out, _) = Terminal::captured("", false);
        assert_eq!(app::run(command(words), &context(empty.path(), terminal)).await, ExitCode::Done);
        out.text()
    };
    let text = run(&["check", "--list"]).await;
    assert!(text.contains("open servers: every server has a rule that allows"), "{text}");
    let listed: Value =
        serde_json::from_str(&run(&["check", "--list", "-o", "json", "--only", "connection"]).await).unwrap();
    assert_eq!(listed["groups"][0]["checks"][0]["name"], "reachable");
    assert_eq!(listed["groups"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_rests_on_something_that_failed_is_skipped() {
    let check = async |ran: super::fake::Ran, failed: &str, skipped: &[&str]| {
        assert_eq!(ran.code, ExitCode::Failed);
        assert!(ran.out.contains(&format!("\u{2717} {failed}: ")), "{failed} did not fail in {}", ran.out);
        for name in skipped {
            assert!(ran.out.contains(&format!("- {name}: ")), "{name} in {}", ran.out);
        }
    };
    let all = ["version skew", "root certificates", "connected"];
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
