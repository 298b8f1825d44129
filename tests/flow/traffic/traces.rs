//! Traces, from outside: what a collector is sent of calls, what the server is told, and that a collector that does not
//! work costs nobody a call.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use weft_proto::pb::opentelemetry::proto::trace::v1::span::SpanKind;
use weft_proto::pb::opentelemetry::proto::trace::v1::status::StatusCode;
use weft_sidecar::metrics::ReasonLabel;
use weft_sidecar::trace::QUEUE_SPANS_MAX;

use super::agent::Agent;
use super::bridged::Unknown;
use super::collector::{Collector, Found, Manner};
use super::pair::{PATH, Pair};
use super::streams::{call, rest, stream};
use super::upstream::Upstream;
use crate::mesh::eventually;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// A call of `echo` that says in which trace it is, in its message and in its headers.
fn traced(meta: Value, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut meta = meta;
    meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {
        "name": "echo", "arguments": { "text": "hello" }, "_meta": meta } });
    let mut request = Request::post(PATH)
        .header("host", "files.research")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", "echo");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.to_string().into())).unwrap()
}

fn parent(span: &str, flags: &str) -> String {
    format!("00-{TRACE}-{span}-{flags}")
}

/// Spans of whole calls.
fn of_kind(found: &[Found], kind: SpanKind) -> Vec<Found> {
    found.iter().filter(|it| it.span.kind() == kind).cloned().collect()
}

async fn joined(pair: &Pair, account: &str) -> Agent {
    let agent = Agent::join(pair, account).await;
    let told = || !agent.sidecar.live.load().snapshot.telemetry.is_empty();
    eventually("the agent's sidecar hears where spans go", told).await;
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_crosses_from_the_agent_to_the_server() {
    for protocol in ["grpc", "http"] {
        let collector = Collector::start(Manner::Takes).await;
        let pair = Pair::start(Upstream::echo().await).await;
        collector.follow(&pair, &format!("sampling: 0%, protocol: {protocol}")).await;
        let agent = joined(&pair, "one").await;
        let meta = json!({ "traceparent": parent(SPAN, "01"), "tracestate": "a=1", "baggage": "b=2" });
        assert_eq!(agent.answer(traced(meta, &[])).await.status, 200);
        let found = collector.wait("a span on each side", |found| {
            let both = [SpanKind::Client, SpanKind::Server];
            both.iter().all(|kind| found.iter().any(|it| it.span.kind() == *kind))
        });
        let found = found.await;
        let (client, server) = (of_kind(&found, SpanKind::Client), of_kind(&found, SpanKind::Server));
        let ([client], [server]) = (&client[..], &server[..]) else { panic!("{found:#?}") };
        assert_eq!((client.trace(), server.trace()), (TRACE.to_owned(), TRACE.to_owned()));
        assert_eq!((client.parent(), server.parent()), (SPAN.to_owned(), client.id()));
        assert_eq!((&*client.service, &*server.service), ("agents/one", "research/files"));
        assert_eq!((&*client.span.trace_state, &*server.span.trace_state), ("a=1", "a=1"));
        for span in [client, server] {
            assert_eq!(span.span.name, "tools/call echo");
            assert_eq!(span.span.status, None);
            for (key, value) in [
                ("mcp.method.name", "tools/call"),
                ("gen_ai.tool.name", "echo"),
                ("gen_ai.operation.name", "execute_tool"),
                ("mcp.protocol.version", "2026-07-28"),
                ("mcp.session.id", ""),
                ("jsonrpc.request.id", "7"),
                ("error.type", ""),
                ("weft.reason", "ok"),
            ] {
                assert_eq!(span.says(key), value, "{key}");
            }
        }
        assert_eq!(server.says("weft.caller"), "spiffe://flow.test/ns/agents/sa/one");
        assert_eq!(client.says("server.port"), pair.inbound.inbound.unwrap().port().to_string());
        let answers =
            |whole: &Found| found.iter().any(|it| it.span.name == "upstream" && it.parent() == whole.id());
        assert!(answers(client) && answers(server), "both waited for an answer: {found:#?}");
        // The server's own spans hang below ours, however it looks for them.
        let seen = pair.upstream.seen().pop().unwrap();
        let ours = format!("00-{TRACE}-{}-01", server.id());
        let meta = &seen.json()["params"]["_meta"];
        assert_eq!((&meta["traceparent"], &meta["tracestate"]), (&json!(ours), &json!("a=1")));
        assert_eq!(meta["baggage"], "b=2");
        assert_eq!(seen.headers["traceparent"], ours);
        assert_eq!(seen.headers["tracestate"], "a=1");
        assert_eq!(seen.headers["baggage"], "b=2");
        assert_eq!(seen.json()["params"]["arguments"], json!({ "text": "hello" }));
        agent.sidecar.stop().await;
        pair.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_and_results_are_told_where_they_are_asked_for_and_never_what_is_redacted() {
    const ARGUMENTS: &str = "gen_ai.tool.call.arguments";
    const RESULT: &str = "gen_ai.tool.call.result";
    let collector = Collector::start(Manner::Takes).await;
    let pair = Pair::start(Upstream::echo().await).await;
    pair.apply(
        "apiVersion: weft.dev/v1alpha1\nkind: ToolPolicy\nmetadata: { namespace: research, name: hides }\n\
         spec: { tools: [login], redact: [password] }\n",
    )
    .await;
    let mut caller = pair.caller("agents", "one").await;
    let mut calls = 0;
    for (content, arguments, result) in
        [("", false, false), (", content: arguments", true, false), (", content: full", true, true)]
    {
        collector.follow(&pair, &format!("sampling: 100%{content}")).await;
        let long = "long".repeat(2000);
        for (tool, arguments) in [
            ("echo", json!({ "text": "seen" })),
            ("login", json!({ "user": "u", "password": "hunter2" })),
            ("large", json!({ "text": long })),
        ] {
            assert_eq!(caller.call(tool, arguments).await.status, 200);
            calls += 1;
        }
        let found =
            collector.wait("every call", |found| of_kind(found, SpanKind::Server).len() == calls).await;
        let spans = of_kind(&found, SpanKind::Server);
        let [echo, login, large] = &spans[calls - 3..] else { panic!("{spans:#?}") };
        let told = |of: bool, what: &str| if of { what.to_owned() } else { String::new() };
        assert_eq!(echo.says(ARGUMENTS), told(arguments, r#"{"text":"seen"}"#), "{content}");
        assert_eq!(echo.says(RESULT).is_empty(), !result, "{content}");
        assert_eq!(echo.says(RESULT).contains("content"), result, "{content}: {}", echo.says(RESULT));
        let hidden: Value = serde_json::from_str(&login.says(ARGUMENTS)).unwrap_or_default();
        let expected = json!({ "user": "u", "password": "[redacted]" });
        assert_eq!(hidden, if arguments { expected } else { Value::Null }, "{content}");
        assert_eq!(
            (login.says(RESULT), login.says("weft.result.left_out")),
            (String::new(), told(result, "redacted"))
        );
        assert_eq!(
            (large.says(ARGUMENTS), large.says("weft.arguments.left_out")),
            (String::new(), told(arguments, "too_long"))
        );
    }
    let all = collector.bytes();
    let has = |text: &str| all.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(has("login") && has("seen") && has("[redacted]"), "it is looked for in what was sent");
    assert!(!has("hunter2") && !has("longlong"));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_is_believed_before_the_header_and_both_are_told() {
    let collector = Collector::start(Manner::Takes).await;
    let pair = Pair::start(Upstream::echo().await).await;
    collector.follow(&pair, "sampling: 0%").await;
    let mut caller = pair.caller("agents", "one").await;
    let ambient = parent("00000000000000aa", "01");
    let said = json!({ "traceparent": parent(SPAN, "01") });
    for (meta, headers) in
        [(said, vec![("traceparent", &*ambient)]), (json!({}), vec![("traceparent", &*ambient)])]
    {
        assert_eq!(caller.send(traced(meta, &headers)).await.status(), 200);
    }
    let found =
        collector.wait("two spans of calls", |found| of_kind(found, SpanKind::Server).len() == 2).await;
    let spans = of_kind(&found, SpanKind::Server);
    let link = |at: usize| {
        spans[at].span.links.iter().map(|it| super::collector::hex(&it.span_id)).collect::<Vec<_>>()
    };
    assert_eq!((spans[0].parent(), link(0)), (SPAN.to_owned(), vec!["00000000000000aa".to_owned()]));
    assert_eq!((spans[1].parent(), link(1)), ("00000000000000aa".to_owned(), vec![]));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sampled_passes_as_it_came() {
    let collector = Collector::start(Manner::Takes).await;
    let pair = Pair::start(Upstream::echo().await).await;
    collector.follow(&pair, "sampling: 100%").await;
    let mut caller = pair.caller("agents", "one").await;
    let unsampled = traced(json!({ "traceparent": parent(SPAN, "00") }), &[("traceparent", "nothing")]);
    assert_eq!(caller.send(unsampled).await.status(), 200);
    let seen = pair.upstream.seen().pop().unwrap();
    assert_eq!(seen.json()["params"]["_meta"]["traceparent"], parent(SPAN, "00"));
    assert_eq!(seen.headers["traceparent"], "nothing");
    // What comes after it is seen, and it is not.
    assert_eq!(caller.send(traced(json!({}), &[])).await.status(), 200);
    let found =
        collector.wait("a span of a call", |found| !of_kind(found, SpanKind::Server).is_empty()).await;
    assert_eq!(of_kind(&found, SpanKind::Server)[0].parent(), "");
    assert!(found.iter().all(|it| it.trace() != TRACE), "{found:#?}");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_failures_are_kept_whatever_the_sampling() {
    let failing = async |seen: super::upstream::Seen| {
        let message: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        if message["params"]["name"] == "echo" {
            let result = json!({ "resultType": "complete", "content": [], "isError": true });
            return super::upstream::document(
                &json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }),
            );
        }
        super::upstream::echo(&seen)
    };
    let collector = Collector::start(Manner::Takes).await;
    let pair = Pair::start(Upstream::with(failing).await).await;
    pair.apply(&super::quotas::policy("", "{ name: calls, tools: [limited], rate: 1/h }")).await;
    collector.follow(&pair, "sampling: 0%, keepFailures: true").await;
    let mut caller = pair.caller("agents", "one").await;
    assert_eq!(caller.call("echo", json!({})).await.status, 200);
    assert_eq!(caller.call("limited", json!({})).await.status, 200);
    assert_eq!(caller.call("limited", json!({})).await.status, 429);
    let found = collector.wait("two spans", |found| found.len() >= 2).await;
    let [failed, refused] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(
        (failed.says("error.type"), failed.says("gen_ai.tool.name")),
        ("tool_error".into(), "echo".into())
    );
    assert_eq!(failed.span.status.as_ref().unwrap().code(), StatusCode::Error);
    for (key, value) in [
        ("error.type", "4290"),
        ("rpc.response.status_code", "4290"),
        ("weft.reason", "limited"),
        ("weft.quota.limit", "research/fair#calls"),
        ("gen_ai.tool.name", "limited"),
    ] {
        assert_eq!(refused.says(key), value, "{key}");
    }
    let status = refused.span.status.as_ref().unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert!(!status.message.is_empty());
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_costs_spans_and_no_calls() {
    let collector = Collector::start(Manner::Hangs).await;
    let pair = Pair::start(Upstream::echo().await).await;
    collector.follow(&pair, "sampling: 100%").await;
    let mut caller = pair.caller("agents", "one").await;
    // What may wait, what is being sent, and more.
    let calls = QUEUE_SPANS_MAX + 1200;
    for _ in 0..calls {
        assert_eq!(caller.call("echo", json!({})).await.status, 200);
    }
    let mut asked = collector.asked.clone();
    assert!(*asked.wait_for(|asked| *asked > 0).await.unwrap() > 0, "it was really asked");
    let dropped = dropped(&pair, "queue_full");
    assert!(dropped > 0 && dropped < calls as u64, "{dropped} of {calls} were dropped");
    // It does not keep the sidecar from ending either.
    let began = Instant::now();
    pair.inbound.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    pair.mesh.stop().await;
}

fn dropped(pair: &Pair, reason: &'static str) -> u64 {
    pair.inbound.metrics.spans_dropped.get_or_create(&ReasonLabel { reason }).get()
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_go_where_the_configuration_says_by_the_time_they_are_sent() {
    let (busy, other) = (Collector::start(Manner::Busy).await, Collector::start(Manner::Takes).await);
    let pair = Pair::start(Upstream::echo().await).await;
    busy.follow(&pair, "sampling: 100%").await;
    let mut caller = pair.caller("agents", "one").await;
    assert_eq!(caller.call("echo", json!({})).await.status, 200);
    busy.asked.clone().wait_for(|asked| *asked > 0).await.unwrap();
    other.follow(&pair, "sampling: 100%, protocol: http").await;
    let found = other.wait("the span that the first one would not have", |found| !found.is_empty()).await;
    assert_eq!(found[0].says("gen_ai.tool.name"), "echo");
    assert!(busy.found().is_empty());
    assert_eq!(dropped(&pair, "not_taken"), 0);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_busy_is_asked_again_and_what_waits_is_sent_at_the_end() {
    let collector = Collector::start(Manner::Busy).await;
    let pair = Pair::start(Upstream::echo().await).await;
    collector.follow(&pair, "sampling: 100%").await;
    let mut caller = pair.caller("agents", "one").await;
    assert_eq!(caller.call("echo", json!({})).await.status, 200);
    collector.asked.clone().wait_for(|asked| *asked > 0).await.unwrap();
    collector.becomes(Manner::Takes);
    collector.wait("the span after all", |found| !of_kind(found, SpanKind::Server).is_empty()).await;
    assert_eq!(caller.call("echo", json!({})).await.status, 200);
    pair.inbound.stop().await;
    assert_eq!(of_kind(&collector.found(), SpanKind::Server).len(), 2, "the second did not wait for company");
    pair.mesh.stop().await;
}

/// The part of a call that is called so, and how long it took.
fn part(found: &[Found], of: &Found, name: &str) -> Option<Duration> {
    let part = found.iter().find(|it| it.span.name == name && it.parent() == of.id())?;
    let (start, end) = (part.span.start_time_unix_nano, part.span.end_time_unix_nano);
    assert!(start >= of.span.start_time_unix_nano && end <= of.span.end_time_unix_nano);
    assert_eq!(part.trace(), of.trace());
    Some(Duration::from_nanos(end - start))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_that_a_call_waits_for_its_turn_is_a_part_of_it() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::with(upstream, json!({ "quotaWaitTimeout": "200ms" })).await;
    pair.apply(&super::quotas::policy("", "{ name: few, concurrency: 1 }")).await;
    let collector = Collector::start(Manner::Takes).await;
    collector.follow(&pair, "sampling: 100%").await;
    let (mut first, mut second) = (pair.caller("agents", "a").await, pair.caller("agents", "b").await);
    let (called, saying) = stream(&mut first, call(), &mut asked).await;
    assert_eq!(second.send(call()).await.status(), 429);
    drop(saying);
    assert!(rest(called).await.1);
    let found = collector.wait("both calls", |found| of_kind(found, SpanKind::Server).len() == 2).await;
    for whole in of_kind(&found, SpanKind::Server) {
        let waited = part(&found, &whole, "queue").unwrap_or_default();
        let refused = whole.says("weft.reason") == "limited";
        assert_eq!(waited >= Duration::from_millis(150), refused, "{waited:?} {found:#?}");
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_translated_call_keeps_its_trace_and_tells_of_the_bridge() {
    let upstream =
        Upstream::with(async |seen| super::bridged::legacy_only(&seen, Unknown::Status(400))).await;
    let pair = Pair::start(upstream).await;
    let collector = Collector::start(Manner::Takes).await;
    collector.follow(&pair, "sampling: 0%").await;
    let mut caller = pair.caller("agents", "one").await;
    assert_eq!(caller.send(traced(json!({ "traceparent": parent(SPAN, "01") }), &[])).await.status(), 200);
    let found = collector.wait("the call", |found| !of_kind(found, SpanKind::Server).is_empty()).await;
    let whole = of_kind(&found, SpanKind::Server).remove(0);
    assert_eq!((whole.trace(), whole.parent()), (TRACE.to_owned(), SPAN.to_owned()));
    assert!(part(&found, &whole, "bridge").is_some(), "{found:#?}");
    let seen = pair.upstream.seen_of("tools/call");
    let ours = format!("00-{TRACE}-{}-01", whole.id());
    assert_eq!(seen["params"]["_meta"]["traceparent"], ours, "{seen}");
    pair.stop().await;
}
