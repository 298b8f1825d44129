//! What the doors for whoever runs a sidecar show, and whom.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use weft_sidecar::app::Running;

use super::pair::{Answer, Pair, modern};
use super::streams::{call, stream};
use super::upstream::Upstream;
use crate::mesh::eventually;

pub(crate) async fn get(door: SocketAddr, path: &str) -> Answer {
    ask(door, Method::GET, path, "localhost").await
}

pub(crate) async fn post(door: SocketAddr, path: &str) -> Answer {
    ask(door, Method::POST, path, "localhost").await
}

async fn ask(door: SocketAddr, method: Method, path: &str, host: &str) -> Answer {
    let stream = TcpStream::connect(door).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", host);
    let request = request.body(Full::<Bytes>::default()).unwrap();
    Answer::read(sender.send_request(request).await.unwrap()).await
}

/// The value of a series, named with its labels.
pub(crate) fn value(sidecar: &Running, series: &str) -> i64 {
    let text = sidecar.metrics.text();
    let value = text.lines().find_map(|line| line.strip_prefix("weft_sidecar_")?.strip_prefix(series));
    value.map_or(0, |value| value.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_door_shows_no_secret_changes_nothing_by_reading_and_knows_its_own_name() {
    let pair = Pair::start(Upstream::echo().await).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    assert_eq!(caller.call("echo", json!({ "x": 1 })).await.status, 200);
    let (admin, health) = (pair.inbound.admin.unwrap(), pair.inbound.health.unwrap());
    let dump = get(admin, "/config_dump").await;
    assert_eq!(dump.json()["serving"], json!(["research/files"]));
    let certificates = get(admin, "/certs").await;
    assert_eq!(certificates.json()["identity"]["spiffeId"], "spiffe://flow.test/ns/research/sa/files");
    let metrics = get(admin, "/metrics").await;
    for shown in [&dump, &certificates, &metrics] {
        let text = String::from_utf8(shown.body.to_vec()).unwrap();
        assert_eq!(shown.status, 200);
        for secret in ["PRIVATE", "token", "Token", "privateKey"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    for path in ["/config_dump", "/certs", "/metrics", "/healthz/ready", "/drain", "/logging?level=info"] {
        assert_eq!(ask(admin, Method::GET, path, "evil.example").await.status, 403, "{path}");
        assert_eq!(ask(admin, Method::POST, path, "evil.example").await.status, 403, "{path}");
    }
    for path in ["/drain", "/quitquitquit", "/logging?level=info"] {
        assert_eq!(get(admin, path).await.status, 405, "{path}");
        assert_eq!(ask(health, Method::POST, path, "localhost").await.status, 404, "{path}");
    }
    assert_eq!(get(health, "/config_dump").await.status, 404);
    assert_eq!(ask(admin, Method::POST, "/logging?level=info", "localhost").await.status, 200);
    assert_eq!(get(health, "/healthz/ready").await.status, 200, "nothing drains yet");
    assert_eq!(ask(admin, Method::POST, "/drain", "localhost").await.status, 202);
    assert_eq!(get(health, "/healthz/ready").await.status, 503);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_a_request_stands_in_the_log_and_is_counted() {
    let (upstream, mut asked) = Upstream::asking().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let pair = Pair::logging(upstream, &file).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let listing = modern("tools/list", "", json!({}));
    assert_eq!(Answer::read(caller.send(listing).await).await.status, 200);
    let mismatch = modern("tools/call", "safe", json!({ "name": "evil", "arguments": { "key": "hush" } }));
    assert_eq!(Answer::read(caller.send(mismatch).await).await.status, 400);
    let (response, said) = stream(&mut caller, call(), &mut asked).await;
    drop((response, caller));
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    eventually("three requests are written down", || lines().len() == 3).await;
    let told: Vec<_> = lines()
        .iter()
        .map(|it| (it["reason"].clone(), it["status"].clone(), it["method"].clone(), it["target"].clone()))
        .collect();
    let line = |reason: &str, status: u16, method: &str, target: Value| {
        (json!(reason), json!(status), json!(method), target)
    };
    assert_eq!(told[0], line("ok", 200, "tools/list", Value::Null));
    assert_eq!((&told[1].0, &told[1].1), (&json!("header_mismatch"), &json!(400)));
    assert_eq!(told[2], line("caller_left", 200, "tools/call", json!("slow")));
    for it in lines() {
        assert_eq!(it["caller"], "spiffe://flow.test/ns/agents/sa/reviewer");
        assert_eq!(it["id"], "7");
    }
    assert!(!std::fs::read_to_string(&file).unwrap().contains("hush"), "arguments are nobody's business");
    let text = pair.inbound.metrics.text();
    for series in ["requests_total{", "request_seconds_bucket{", "connections{", "in_flight{", "streams{"] {
        assert!(text.contains(&format!("weft_sidecar_{series}")), "{series} in {text}");
    }
    for reason in ["ok", "header_mismatch", "caller_left"] {
        assert!(text.contains(&format!("reason=\"{reason}\"")), "{reason} in {text}");
    }
    drop(said);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_says_which_calls_the_log_is_to_have() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let pair = Pair::logging(Upstream::echo().await, &file).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let say = |kind: &str, spec: &str| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: {kind}\nmetadata: {{ namespace: research, name: log }}\nspec: {spec}\n"
        )
    };
    pair.apply(&say("Telemetry", "{ accessLog: { filter: args.keep } }")).await;
    caller.call("left_out", json!({ "keep": false })).await;
    caller.call("kept", json!({ "keep": true })).await;
    caller.call("not_to_be_said", json!({})).await;
    pair.apply(&say("Telemetry", "{ accessLog: { off: true } }")).await;
    caller.call("off", json!({ "keep": true })).await;
    let audit = "{ rules: [{ action: audit, to: [{ tools: [audited] }] }] }";
    pair.apply(&say("AccessPolicy", audit)).await;
    caller.call("off", json!({})).await;
    caller.call("audited", json!({})).await;
    let targets = || -> Vec<String> {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let target =
            |line| serde_json::from_str::<Value>(line).unwrap()["target"].as_str().map(str::to_owned);
        whole.lines().filter_map(target).collect()
    };
    eventually("the last is written down", || targets().last().is_some_and(|it| it == "audited")).await;
    assert_eq!(targets(), ["kept", "not_to_be_said", "audited"]);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_calls_that_go_well_a_share_is_written_and_of_others_all_and_in_words_where_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let pair = Pair::logging(Upstream::echo().await, &file).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    pair.apply(
        "apiVersion: weft.dev/v1alpha1\nkind: Telemetry\nmetadata: { namespace: research, name: log }\n\
         spec: { accessLog: { sample: 0%, format: text } }\n---\n\
         apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: { namespace: research, name: log }\n\
         spec: { rules: [{ action: allow, to: [{ tools: [echo, seen] }] }, { action: audit, to: [{ tools: [seen] }] }] }\n",
    )
    .await;
    assert_eq!(caller.call("echo", json!({})).await.status, 200);
    assert_eq!(caller.call("no reason=ok", json!({})).await.status, 403);
    assert_eq!(caller.call("seen", json!({})).await.status, 200);
    let written = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the last is written down", || written().contains("audit=true")).await;
    let text = written();
    let lines: Vec<&str> = text.lines().collect();
    let [refused, seen] = lines[..] else { panic!("{text}") };
    assert!(refused.contains(" reason=denied method=tools/call era=modern status=403 "), "{refused}");
    assert!(refused.contains(" target=\"no reason=ok\" "), "{refused}");
    assert!(seen.contains(" reason=ok ") && seen.contains(" target=seen "), "{seen}");
    pair.stop().await;
}
