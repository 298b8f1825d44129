//! What sidecars say when they are asked: what they hold and log, and which calls end.

use serde_json::{Value, json};

use super::fake::{Answer, Fake, command, ok, problem};
use crate::args::Command;
use crate::failure::ExitCode;

fn config(differences: &Value) -> Value {
    let differs = differences.as_array().is_some_and(|all| !all.is_empty());
    json!({
        "node": "research/files-0", "identity": "spiffe://t/ns/research/sa/files", "version": "0.1.0",
        "at": "2026-01-01T00:00:00Z", "publishedRevision": 7, "differs": differs, "differences": differences,
        "resources": [
            { "type": "Server", "name": "research/files", "version": "0123456789abcdef", "digest": "0123456789abcdef01" },
        ],
        "standing": { "version": "aa", "origin": "ControlPlane", "serving": ["research/files"], "warnings": [] },
        "snapshot": "mesh t\n\u{1b}[2J",
    })
}

#[tokio::test]
async fn what_a_sidecar_holds_is_shown_and_that_it_is_as_it_should_be() {
    let fake = Fake::start(|_| ok(config(&json!([])))).await;
    let ran = fake.run(&["config", "research/files-0", "--resources", "--snapshot"]).await;
    for part in [
        "in force   aa",
        "holds      1 Server",
        "it holds what it should",
        "0123456789abcdef…",
        "mesh t\n\\u{1b}[2J",
    ] {
        assert!(ran.done().out.contains(part), "{part:?} is not in {}", ran.out);
    }
    assert_eq!(fake.lines(), ["GET /v1/sidecars/research/files-0/config?snapshot=true"]);
}

#[tokio::test]
async fn a_difference_is_shown_with_its_reason_and_is_the_exit_code() {
    let differences = json!([
        { "type": "AccessPolicy", "name": "research/p", "what": "refused", "intended": "22", "why": "it is too new" },
        { "type": "Server", "name": "research/files", "what": "stale", "held": "11", "intended": "33" },
    ]);
    let told = config(&differences);
    let fake = Fake::start(move |_| ok(told.clone())).await;
    let ran = fake.run(&["config", "research/files-0"]).await;
    assert_eq!(ran.code, ExitCode::Failed);
    for part in [
        "2 resources are not as they should be",
        "AccessPolicy  research/p      refused  -     22        it is too new",
        "Server        research/files  stale    11    33        -",
    ] {
        assert!(ran.out.contains(part), "{part:?} is not in {}", ran.out);
    }
    let ran = fake.run(&["config", "research/files-0", "-o", "json"]).await;
    assert_eq!(ran.code, ExitCode::Failed);
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["differences"], differences);
}

#[tokio::test]
async fn a_sidecar_that_does_not_answer_is_no_success() {
    for (status, code) in [(504, "sidecar-silent"), (501, "sidecar-unasked"), (503, "sidecar-away")] {
        let fake = Fake::start(move |_| problem(status, code, "research/files-0: why")).await;
        for words in [&["config", "research/files-0"][..], &["logs", "research/files-0"]] {
            fake.run(words).await.ended(ExitCode::Failed, &["research/files-0: why", code]);
        }
    }
}

#[tokio::test]
async fn what_a_sidecar_logs_is_shown_and_set_for_a_while() {
    let fake = Fake::start(|asked| match asked.line.starts_with("PUT") {
        false => ok(json!({ "node": "a/s-0", "filter": "info" })),
        true => ok(json!({ "node": "a/s-0", "filter": "debug", "before": "info", "usual": "info", "returnsInSeconds": 600 })),
    })
    .await;
    assert_eq!(fake.run(&["logs", "a/s-0"]).await.done().out, "a/s-0 logs info\n");
    let ran = fake.run(&["logs", "a/s-0", "--level", "debug", "--for", "10m"]).await;
    assert_eq!(ran.done().out, "a/s-0 logs debug; before, it was info\nin 10m it logs info again\n");
    let asked = fake.asked();
    assert_eq!(asked[1].line, "PUT /v1/sidecars/a/s-0/logging");
    assert_eq!(
        serde_json::from_str::<Value>(&asked[1].body).unwrap(),
        json!({ "filter": "debug", "forSeconds": 600 })
    );
}

#[tokio::test]
async fn the_newest_lines_of_its_log_are_shown_without_what_would_speak_to_a_terminal() {
    let fake = Fake::start(|asked| match &*asked.line {
        "GET /v1/sidecars/a/s-0/log" => {
            ok(json!({ "node": "a/s-0", "lines": ["INFO one", "WARN \u{1b}[2Jtwo"] }))
        }
        _ => ok(json!({ "node": "a/up", "lines": [] })),
    })
    .await;
    let ran = fake.run(&["logs", "a/s-0", "--lines"]).await;
    let lines: Vec<_> = ran.done().out.lines().collect();
    assert!(
        lines[0] == "INFO one" && lines[1].starts_with("WARN ") && lines[1].ends_with("[2Jtwo"),
        "{lines:?}"
    );
    assert!(!ran.out.contains('\u{1b}'));
    let ran = fake.run(&["logs", "a/up", "--lines"]).await;
    assert!(ran.done().out.is_empty() && ran.err.contains("keeps no lines"), "{ran:?}");
}

fn events(events: &[(&str, Value)]) -> Answer {
    Answer::Events(events.iter().map(|(name, data)| format!("event: {name}\ndata: {data}\n\n")).collect())
}

fn call(target: &str, outcome: &str, reason: &str) -> Value {
    json!({
        "at": "2026-01-01T10:11:12.345Z", "sidecar": "research/files-0", "listener": "inbound",
        "caller": "spiffe://t/ns/agents/sa/bot", "server": "research/files", "method": "tools/call", "target": target,
        "status": 200, "outcome": outcome, "reason": reason, "micros": 1234, "requestBytes": 10, "responseBytes": 20,
    })
}

#[tokio::test]
async fn calls_are_shown_as_they_come_with_what_was_lost_and_who_left() {
    let told = [
        ("begun", json!({ "count": 1 })),
        ("joined", json!({ "sidecar": "research/files-0" })),
        ("call", call("read", "ok", "ok")),
        ("lost", json!({ "count": 3 })),
        ("lost", json!({ "count": 4 })),
        ("left", json!({ "sidecar": "research/files-0", "why": "the sidecar left" })),
        ("novelty", json!({})),
        ("call", call("drop\u{1b}[2J", "refused", "denied")),
        ("end", json!({ "why": "the time is over" })),
    ];
    let fake = Fake::start(move |_| events(&told)).await;
    let words =
        ["tap", "--of", "research/*", "--tool", "read,drop*", "--outcome", "ok", "--max", "2", "--for", "1m"];
    let ran = fake.run(&words).await;
    let lines: Vec<_> = ran.done().out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ran.out);
    assert!(lines[0].starts_with("AT            SERVER"), "{}", ran.out);
    assert!(
        lines[1].starts_with("10:11:12.345  research/files") && lines[1].contains("agents/bot"),
        "{}",
        ran.out
    );
    assert!(lines[1].contains("1.2ms") && lines[1].contains("10/20"), "{}", ran.out);
    assert!(lines[2].contains("drop\\u{1b}[2J") && lines[2].contains("denied"), "{}", ran.out);
    ran.ended(
        ExitCode::Done,
        &["3 calls came faster", "4 calls came faster than they were taken; 7 so far", "tells no more"],
    );
    let query = "server=research%2F%2A&tool=read%2Cdrop%2A&outcome=ok&max=2&forSeconds=60";
    assert_eq!(fake.lines(), [format!("GET /v1/tap?{query}")]);
}

#[tokio::test]
async fn programs_read_a_line_of_json_for_each_call() {
    let told = [("begun", json!({ "count": 0 })), ("call", call("read", "ok", "ok")), ("end", json!({}))];
    let fake = Fake::start(move |_| events(&told)).await;
    let ran = fake.run(&["tap", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&ran.done().out).unwrap(), call("read", "ok", "ok"));
    ran.ended(ExitCode::Done, &["no sidecar that is connected is meant"]);
}

#[tokio::test]
async fn a_tap_that_breaks_off_or_is_not_allowed_is_no_success() {
    let fake = Fake::start(|_| events(&[("begun", json!({ "count": 1 }))])).await;
    fake.run(&["tap"]).await.ended(ExitCode::Unreachable, &["the control plane ended the tap"]);
    let fake = Fake::start(|_| problem(403, "forbidden", "this takes the scope operator")).await;
    fake.run(&["tap"]).await.ended(ExitCode::Refused, &["this takes the scope operator"]);
}

fn counts() -> Value {
    let count = |server: &str, calls: u64, refused: u64| {
        json!({ "server": server, "calls": calls, "callsPerSecond": calls as f64 / 10.0, "refused": refused, "failed": 0,
            "left": 0, "success": 1.0 - refused as f64 / calls as f64, "p50Micros": 900, "p95Micros": 1500, "p99Micros": 2_500_000 })
    };
    json!({
        "at": "2026-01-01T00:00:00.5Z", "by": "server", "windowMillis": 10000, "sidecars": 2, "leftOut": 1, "crowded": 5,
        "silent": [{ "node": "research/slow-0", "why": "the sidecar did not answer in time" }],
        "total": count("", 400, 1), "items": [count("research/files", 300, 0), count("research/web", 100, 1)],
    })
}

const TABLE: &str = "\
SERVER          CALLS/S  SUCCESS  CALLS  REFUSED  FAILED  LEFT  P50    P95    P99
research/files  30.0     100.00%  300    0        0       0     900µs  1.5ms  2.5s
research/web    10.0     99.00%   100    1        0       0     900µs  1.5ms  2.5s
all             40.0     99.75%   400    1        0       0     900µs  1.5ms  2.5s
";

#[tokio::test]
async fn the_golden_signals_are_shown_with_their_sum_and_with_who_is_not_in_it() {
    let fake = Fake::start(|_| events(&[("counts", counts())])).await;
    let ran = fake.run(&["stat"]).await;
    assert_eq!(ran.done().out, TABLE);
    ran.ended(ExitCode::Done, &["research/slow-0 is not counted", "5 calls are only counted", "1 more rows"]);
    assert_eq!(fake.lines(), ["GET /v1/calls?by=server&windowMillis=10000"]);
    let ran = fake.run(&["stat", "--by", "tool", "--of", "a/b", "--window", "1m", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&ran.done().out).unwrap(), counts());
    assert_eq!(fake.lines()[1], "GET /v1/calls?by=tool&server=a%2Fb&windowMillis=60000");
}

#[tokio::test]
async fn the_top_is_drawn_over_until_it_ends_and_once_is_a_table() {
    let fake = Fake::start(|_| events(&[("counts", counts()), ("counts", counts())])).await;
    let ran = fake.run(&["top"]).await;
    ran.ended(ExitCode::Unreachable, &["ended the stream of counts"]);
    let line = "2026-01-01T00:00:00Z  40.0 calls/s  99.75% ok  1 refused  0 failed  p50 900µs  p95 1.5ms  p99 2.5s  2 sidecars  1 sidecars silent";
    assert!(ran.out.contains(line) && ran.out.contains("research/web"), "{}", ran.out);
    assert_eq!(fake.run(&["top", "--once"]).await.done().out, TABLE);
    assert_eq!(fake.lines()[1], "GET /v1/calls?by=server&windowMillis=2000");
}

#[test]
fn a_level_for_a_while_needs_a_level() {
    let parse = |words: &[&str]| {
        <crate::args::Cli as clap::Parser>::try_parse_from(["weft"].iter().chain(words)).is_ok()
    };
    assert!(!parse(&["logs", "a/b", "--for", "1m"]));
    assert!(!parse(&["tap", "--max", "0"]));
    assert!(matches!(command(&["top", "--once"]), Command::Top(_)));
}
