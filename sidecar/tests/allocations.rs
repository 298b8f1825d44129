//! What a call may allocate to be counted, to be seen by nobody, and what its answer may to be recorded: every allocation
//! of this program is counted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use allocation_counter::measure;
use futures_util::FutureExt as _;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;
use weft_proto::compile::{ServerEntry, compile_resources};
use weft_proto::mcp::Bounds;
use weft_proto::name::{CollectorUrl, ServerName, TrustDomain};
use weft_proto::pb::weft::ask::v1 as pb;
use weft_proto::resource::kinds::{Era, Tracing};
use weft_proto::resource::parse;
use weft_proto::resource::units::Ratio;
use weft_sidecar::access_log::AccessLog;
use weft_sidecar::authorize::Decided;
use weft_sidecar::bootstrap::Node;
use weft_sidecar::classify;
use weft_sidecar::heard::Heard;
use weft_sidecar::identify::{Caller, Identified, Protocol};
use weft_sidecar::limits::Limits;
use weft_sidecar::metrics::{Metrics, ServerSeries, Verdict, calls, method_index};
use weft_sidecar::onlook::{Onlookers, Tap};
use weft_sidecar::quota::Quotas;
use weft_sidecar::record::{Event, Open};
use weft_sidecar::servers::{self, Local, Servers};
use weft_sidecar::session_id::{Key, Ring};
use weft_sidecar::state::{Current, Origin};
use weft_sidecar::stdio::launch::Launcher;
use weft_sidecar::trace::{Asked, Trace, Tracer};

const CALL: &[u8] =
    br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read","arguments":{}}}"#;

/// A server with these limits.
fn server(limits: &Arc<Limits>, metrics: &Arc<Metrics>, quota: &str) -> (Arc<Local>, Arc<ServerEntry>) {
    let text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: a, name: s }}\n\
         spec: {{ workload: {{ labels: {{ app: a }}, port: 1 }} }}\n---\n\
         apiVersion: weft.dev/v1alpha1\nkind: QuotaPolicy\nmetadata: {{ namespace: a, name: q }}\n\
         spec: {{ servers: {{ names: [s] }}, limits: [{quota}] }}\n"
    );
    let resources = parse("f.yaml", &text).unwrap();
    let domain = TrustDomain::parse("corp.example").unwrap();
    let snapshot = compile_resources(&domain, resources.iter().map(|(resource, _)| (resource, 1))).unwrap();
    let entry = Arc::clone(snapshot.server(&ServerName::parse("a/s").unwrap()).unwrap());
    let node: Node =
        serde_json::from_value(serde_json::json!({ "id": "a/n-0", "servers": ["a/s"] })).unwrap();
    let servers = Servers::new(servers::Parts {
        tracer: Tracer::idle(node.id.clone(), metrics),
        told: false,
        node,
        limits: Arc::clone(limits),
        metrics: Arc::clone(metrics),
        launcher: Launcher::default(),
        drain: CancellationToken::new(),
        ring: Ring::own(&Key::random()),
    });
    let (origin, version, since) = (Origin::File, "".into(), SystemTime::UNIX_EPOCH);
    servers.follow(&Current { snapshot, origin, version, since }, None);
    (servers.all().pop().unwrap(), entry)
}

fn event() -> Event {
    Event {
        at: SystemTime::UNIX_EPOCH,
        listener: "inbound",
        caller: "".into(),
        server: "".into(),
        http_method: http::Method::POST,
        method: 0,
        target: None,
        rpc_id: None,
        era: "",
        status: 0,
        reason: "",
        detail: None,
        decided: Decided::default(),
        limit: None,
        shadow_limit: None,
        tools: None,
        request_bytes: 0,
        response_bytes: 0,
        duration: Duration::ZERO,
        listens: false,
    }
}

/// Allocations of one further call against these limits.
fn of_one_call(quota: &str) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let (limits, metrics) = (Arc::new(Limits::default()), Arc::new(Metrics::new()));
    let (server, entry) = server(&limits, &metrics, quota);
    let quotas = Quotas::new(&limits, &metrics, None).unwrap();
    let call = classify::again(CALL, Era::Modern, &limits).unwrap();
    let mut event = event();
    let mut take = || {
        let taken = quotas.take(&server, &entry, &Caller::Local, &call, &mut event).now_or_never();
        let _ = std::hint::black_box(taken.unwrap().unwrap().keep());
    };
    take();
    measure(take).count_total
}

#[test]
fn a_call_that_passes_four_limits_allocates_nothing() {
    let limits = "{ name: calls, per: [caller], rate: 1000/h }, \
                  { name: of-a-tool, per: [caller, tool], rate: 1000/h }, \
                  { name: reads, tools: ['read*'], per: [caller, server], rate: 1000/h }, \
                  { name: all-month, per: [caller, tenant], budget: 1000/month }";
    assert_eq!(of_one_call(limits), 0);
}

/// What would be counted is: else the test above could not fail.
#[test]
fn a_call_that_takes_a_place_is_seen_to_allocate() {
    assert!(of_one_call("{ name: at-once, concurrency: 10 }") > 0);
}

/// An answer that has the words of an error, so that it is read to find out whether it is one.
const ANSWER: &[u8] =
    br#"{"jsonrpc":"2.0","id":7,"result":{"structuredContent":{"error":{"at":1}},"isError":false}}"#;

#[test]
fn an_answer_is_looked_into_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let (limits, metrics) = (Arc::new(Limits::default()), Arc::new(Metrics::new()));
    let (server, _) = server(&limits, &metrics, "{ name: calls, rate: 1000/h }");
    let call = classify::again(CALL, Era::Modern, &limits).unwrap();
    let tracing = Tracing {
        endpoint: Some(CollectorUrl::parse("http://127.0.0.1:1").unwrap()),
        sampling: Some(Ratio::from_per_million(1_000_000).unwrap()),
        ..Tracing::default()
    };
    let connection = Identified {
        address: "127.0.0.1:1".parse().unwrap(),
        caller: Caller::Local,
        protocol: Protocol::Http1,
    };
    let headers = HeaderMap::new();
    let asked = Asked { call: &call, headers: &headers, connection: &connection };
    let mut open = Open::new(event(), Instant::now(), Arc::clone(&server.series), AccessLog::off());
    open.trace = Trace::begin(Some(&tracing), &server.traced, asked);
    assert!(open.trace.is_some());
    let once = measure(|| Heard::default().hear(ANSWER)).count_total;
    assert!(once > 0, "the answer is not looked into at all");
    assert_eq!(measure(|| open.heard(ANSWER)).count_total, once);
}

/// What nearly every answer is.
#[test]
fn an_answer_that_says_that_it_is_no_error_is_not_read() {
    let fine =
        br#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"x"}],"isError": false}}"#;
    assert_eq!(measure(|| Heard::default().hear(fine)).count_total, 0);
}

#[test]
fn a_call_that_has_a_series_allocates_nothing_to_be_counted_there() {
    let metrics = Arc::new(Metrics::new());
    let series = ServerSeries::new(&metrics, "inbound", "a/s".into());
    let list = br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read"}]}}"#;
    series.learn(list, Bounds { depth_max: 32, batch_max: 1 });
    let caller = "spiffe://corp.example/ns/agents/sa/a";
    let count = |tool| {
        series.called(&calls::Call {
            method: method_index("tools/call"),
            target: Some(tool),
            caller,
            verdict: Verdict::default(),
            reason: "ok",
            also: calls::Also { caller: Some(caller), era: Some("modern"), limit: None },
            at: SystemTime::UNIX_EPOCH,
            took: Duration::from_millis(1),
            span: None,
        });
    };
    assert!(measure(|| count("read")).count_total > 0, "what would be counted is");
    count("unheard-of");
    assert_eq!(measure(|| count("read")).count_total, 0);
    assert_eq!(measure(|| count("unheard-of-too")).count_total, 0);
}

/// Allocations of a call that ends, for those who look on.
fn of_those_who_look_on(onlookers: &Onlookers) -> u64 {
    let event = Event {
        listener: "inbound",
        method: method_index("tools/call"),
        target: Some("read".into()),
        reason: "ok",
        ..event()
    };
    onlookers.ended(&event);
    measure(|| onlookers.ended(std::hint::black_box(&event))).count_total
}

#[test]
fn a_call_that_ends_while_nobody_looks_on_allocates_nothing_for_it() {
    let onlookers = Onlookers::default();
    assert_eq!(of_those_who_look_on(&onlookers), 0);
    let (tap, _calls) = Tap::new(pb::Tap::default()).unwrap();
    let looking = onlookers.add(Arc::<Tap>::clone(&tap)).unwrap();
    assert!(of_those_who_look_on(&onlookers) > 0, "what would be told is seen to allocate");
    drop(looking);
    assert_eq!(of_those_who_look_on(&onlookers), 0);
    // What is not wanted, or finds no room, is not made.
    let servers = vec!["other/*".to_owned()];
    let (tap, _calls) = Tap::new(pb::Tap { servers, ..pb::Tap::default() }).unwrap();
    let _looking = onlookers.add(tap).unwrap();
    assert_eq!(of_those_who_look_on(&onlookers), 0);
}
