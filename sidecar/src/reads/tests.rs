use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use weft_proto::name::SpiffeId;

use super::*;
use crate::body::Body;
use crate::classify;
use crate::identify::Proved;
use crate::metrics::Metrics;
use crate::receive::Place;

pub(crate) fn reads(limits: &Limits) -> Arc<Reads> {
    Reads::new(limits, ToolSeries::new(&Arc::new(Metrics::new()), "research/files".into()))
}

const READ: &str = "resources/read";

fn received(method: &str, params: Value, more: &[(&'static str, &str)]) -> Received {
    let mut params = params;
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params }).to_string();
    let mut head = Request::post("/mcp").body(()).unwrap().into_parts().0;
    head.headers = HeaderMap::new();
    head.headers.insert("mcp-protocol-version", "2026-07-28".parse().unwrap());
    head.headers.insert("mcp-method", method.parse().unwrap());
    if let Some(uri) = params["uri"].as_str() {
        head.headers.insert("mcp-name", uri.parse().unwrap());
    }
    for (name, value) in more {
        head.headers.insert(*name, value.parse().unwrap());
    }
    Received { head, body: body.into(), place: Place::Only }
}

fn read_of(uri: &str) -> Received {
    received(READ, json!({ "uri": uri }), &[])
}

fn caller(account: &str) -> Caller {
    let id = SpiffeId::parse(&format!("spiffe://mesh.test/ns/agents/sa/{account}")).unwrap();
    let serial = weft_certs::svid::Serial::parse("1").unwrap();
    Caller::Workload(Box::new(Proved::new(id.workload().unwrap(), serial)))
}

fn result(more: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"resultType":"complete",{more},"contents":[]}}}}"#)
}

const PUBLIC: &str = r#""ttlMs":5000,"cacheScope":"public""#;
const PRIVATE: &str = r#""ttlMs":5000,"cacheScope":"private""#;

/// Asks as the pipeline does: what is not kept is answered with this.
fn ask(reads: &Arc<Reads>, by: &Caller, received: &Received, kind: &str, answer: &str) -> (bool, Value) {
    let limits = Limits::default();
    let call = classify::classify(received, &limits).unwrap();
    let wanted = reads.wanted(received, &call, by);
    let kept = wanted.as_ref().and_then(|wanted| reads.kept(wanted, &call));
    let is_kept = kept.is_some();
    let response = kept.unwrap_or_else(|| {
        let mut response = Response::new(Answer::from(Body::full(answer.to_owned())));
        response.headers_mut().insert("content-type", kind.parse().unwrap());
        reads.listen(wanted, &call, response)
    });
    (is_kept, serde_json::from_slice(&read(response)).unwrap_or_default())
}

fn read(response: Response<Answer>) -> Bytes {
    response.into_body().collect().now_or_never().unwrap().unwrap().to_bytes()
}

const JSON: &str = "application/json";

/// Whether each of these finds what was kept before, all asking for the same.
fn found(reads: &Arc<Reads>, asking: &[(&Caller, Received)], answer: &str) -> Vec<bool> {
    asking.iter().map(|(by, received)| ask(reads, by, received, JSON, answer).0).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_public_is_for_everyone_and_what_is_private_for_who_asked() {
    let (one, other) = (caller("one"), caller("other"));
    let asking = || [(&one, read_of("a:b")), (&one, read_of("a:b")), (&other, read_of("a:b"))];
    for (said, expected) in [
        (PUBLIC, [false, true, true]),
        (PRIVATE, [false, true, false]),
        (r#""ttlMs":5000"#, [false, true, false]),
        (r#""ttlMs":0,"cacheScope":"public""#, [false, false, false]),
        (r#""cacheScope":"public""#, [false, false, false]),
    ] {
        let reads = reads(&Limits::default());
        assert_eq!(found(&reads, &asking(), &result(said)), expected, "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_question_is_not_answered_by_it() {
    let reads = reads(&Limits::default());
    let one = caller("one");
    ask(&reads, &one, &read_of("a:b"), JSON, &result(PUBLIC));
    let others = [
        read_of("a:c"),
        received(READ, json!({ "uri": "a:b", "more": 1 }), &[]),
        received(READ, json!({ "uri": "a:b" }), &[("authorization", "Bearer x")]),
        received("resources/list", json!({ "uri": "a:b" }), &[]),
        received(READ, json!({ "uri": "a:b", "requestState": "x" }), &[]),
    ];
    for other in others {
        assert!(!ask(&reads, &one, &other, JSON, "").0, "{:?}", other.body);
    }
    let same = received(READ, json!({ "uri": "a:b", "_meta": { "progressToken": 1 } }), &[]);
    assert!(ask(&reads, &one, &same, JSON, "").0);
    let tools = received("tools/list", json!({}), &[]);
    ask(&reads, &one, &tools, JSON, &result(PUBLIC));
    assert!(!ask(&reads, &one, &tools, JSON, "").0);
}

#[tokio::test(start_paused = true)]
async fn claims_by_which_a_guest_is_known_are_a_part_of_who_it_is() {
    let reads = reads(&Limits::default());
    let one = caller("one");
    let said = |claims| received(READ, json!({ "uri": "a:b" }), &[("weft-on-behalf-of", claims)]);
    let asking = [(&one, said("x")), (&one, said("x")), (&one, said("y")), (&one, read_of("a:b"))];
    assert_eq!(found(&reads, &asking, &result(PRIVATE)), [false, true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn it_is_told_with_what_is_left_of_its_time_and_under_the_id_that_asks() {
    let reads = reads(&Limits {
        kept_reads_age_max: crate::limits::Limited(Duration::from_secs(4)),
        ..Limits::default()
    });
    let one = caller("one");
    let answer =
        r#"{"jsonrpc":"2.0","id":7,"result":{ "cacheScope":"public","ttlMs": 5000 ,"contents":[1.0]}}"#;
    let (_, first) = ask(&reads, &one, &read_of("a:b"), JSON, answer);
    assert_eq!(first["result"]["ttlMs"], 5000);
    tokio::time::advance(Duration::from_secs(3)).await;
    let mut asked = read_of("a:b");
    asked.body = String::from_utf8(asked.body.to_vec()).unwrap().replace("\"id\":7", "\"id\":\"8\"").into();
    let (kept, second) = ask(&reads, &one, &asked, JSON, "");
    assert!(kept);
    let expected = json!({ "cacheScope": "public", "ttlMs": 1000, "contents": [1.0] });
    assert_eq!((&second["id"], &second["result"]), (&json!("8"), &expected));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!ask(&reads, &one, &read_of("a:b"), JSON, "").0);
}

#[tokio::test(start_paused = true)]
async fn only_a_whole_and_good_answer_is_kept() {
    let limits = Limits { kept_answer_bytes_max: 256, ..Limits::default() };
    let good = result(PUBLIC);
    let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
    let long = result(&format!(r#"{PUBLIC},"x":"{}""#, "x".repeat(256)));
    for (kind, answer, expected) in [
        (JSON, good.clone(), true),
        ("text/event-stream", format!(": hello\n\ndata: {note}\n\ndata: {good}\n\n"), true),
        ("text/event-stream", format!("data: {good}\n\ndata: {good}\n\n"), false),
        ("text/event-stream", format!("data: {good}\n"), false),
        ("text/event-stream", format!("data: {note}\n\n"), false),
        (JSON, long, false),
        (JSON, good[..good.len() - 1].to_owned(), false),
        (JSON, r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no"}}"#.to_owned(), false),
        (JSON, result(&format!(r#"{PUBLIC},"requestState":"x""#)), false),
    ] {
        let (reads, one) = (reads(&limits), caller("one"));
        ask(&reads, &one, &read_of("a:b"), kind, &answer);
        assert_eq!(ask(&reads, &one, &read_of("a:b"), JSON, "").0, expected, "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_caller_left_is_not_kept() {
    let (reads, one) = (reads(&Limits::default()), caller("one"));
    let (asked, limits) = (read_of("a:b"), Limits::default());
    let call = classify::classify(&asked, &limits).unwrap();
    let response = Response::new(Answer::from(Body::full(result(PUBLIC))));
    drop(reads.listen(reads.wanted(&asked, &call, &one), &call, response));
    assert!(!ask(&reads, &one, &asked, JSON, "").0);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_to_have_changed_is_forgotten() {
    let note = |method: &str, uri: &str| json!({ "jsonrpc": "2.0", "method": format!("notifications/{method}"), "params": { "uri": uri } });
    let all = ["a:b", "a:b/c", "a:d"];
    for (said, expected) in [
        (note("resources/updated", "a:b"), [false, false, true]),
        (note("resources/updated", "a:b/c"), [false, false, true]),
        (note("resources/updated", "a:d"), [true, true, false]),
        (note("resources/list_changed", ""), [false; 3]),
        (note("prompts/list_changed", ""), [false; 3]),
        (note("tools/list_changed", ""), [true; 3]),
        (note("message", "a:b"), [true; 3]),
    ] {
        let (reads, one) = (reads(&Limits::default()), caller("one"));
        all.iter().for_each(|uri| _ = ask(&reads, &one, &read_of(uri), JSON, &result(PUBLIC)));
        let listening = received("subscriptions/listen", json!({ "notifications": {} }), &[]);
        ask(&reads, &one, &listening, "text/event-stream", &format!("data: {said}\n\n"));
        let kept = all.map(|uri| ask(&reads, &one, &read_of(uri), JSON, "").0);
        assert_eq!(kept, expected, "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_before_a_change_is_not_kept_after_it() {
    let (reads, one) = (reads(&Limits::default()), caller("one"));
    let (asked, limits) = (read_of("a:b"), Limits::default());
    let call = classify::classify(&asked, &limits).unwrap();
    let wanted = reads.wanted(&asked, &call, &one);
    let response = Response::new(Answer::from(Body::full(result(PUBLIC))));
    let response = reads.listen(wanted, &call, response);
    reads.changed(Some("a:other"));
    read(response);
    assert!(!ask(&reads, &one, &asked, JSON, "").0);
}

#[test]
fn with_no_time_nothing_is_kept() {
    let reads =
        reads(&Limits { kept_reads_age_max: crate::limits::Limited(Duration::ZERO), ..Limits::default() });
    let (asked, limits) = (read_of("a:b"), Limits::default());
    let call = classify::classify(&asked, &limits).unwrap();
    assert!(reads.wanted(&asked, &call, &caller("one")).is_none());
}
