//! Watching objects.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::fake::{Answer, Fake, ok, problem};
use crate::failure::ExitCode;

fn route(name: &str, to: &str) -> Value {
    json!({ "apiVersion": "weft.dev/v1alpha1", "kind": "Route",
        "metadata": { "namespace": "n", "name": name, "labels": { "to": to } },
        "spec": { "server": format!("n/{to}"), "rules": [{ "to": [{ "server": "n/x" }] }] } })
}

fn event(name: &str, id: Option<u64>, data: &Value) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {name}\n{id}data: {data}\n\n")
}

fn put(revision: u64, object: &Value) -> String {
    let name = &object["metadata"]["name"];
    let data =
        json!({ "revision": revision, "kind": "Route", "namespace": "n", "name": name, "resource": object });
    event("put", Some(revision), &data)
}

fn delete(revision: u64, name: &str) -> String {
    let data = json!({ "revision": revision, "kind": "Route", "namespace": "n", "name": name });
    event("delete", Some(revision), &data)
}

/// A listing of one route at revision 5, then these answers to the watches, the last of them for ever.
async fn fake(watches: Vec<Answer>) -> Fake {
    let next = AtomicUsize::new(0);
    Fake::start(move |asked| match asked.line.starts_with("GET /v1/watch") {
        true => watches[next.fetch_add(1, Ordering::Relaxed).min(watches.len() - 1)].clone(),
        false => ok(json!({ "revision": 5, "items": [route("old", "a")] })),
    })
    .await
}

fn over() -> Answer {
    problem(401, "unauthenticated", "the key has expired")
}

#[tokio::test]
async fn what_happens_is_shown_below_what_is_and_a_broken_stream_is_taken_up() {
    let first = event("bookmark", Some(5), &json!({ "revision": 5 })) + &put(6, &route("new", "a"));
    let second = format!(": heartbeat\n\n{}{}", put(7, &route("new", "b")), delete(8, "old"));
    let fake = fake(vec![Answer::Events(first), Answer::Events(second), over()]).await;
    let ran = fake.run(&["get", "routes", "-n", "n", "-w"]).await;
    let expected = "\
EVENT    NAMESPACE  NAME  SERVER  TO   RULES
is       n          old   n/a     n/x  1
created  n          new   n/a     n/x  1
changed  n          new   n/b     n/x  1
deleted  n          old
";
    assert_eq!(ran.out, expected);
    ran.ended(ExitCode::Refused, &["the key has expired"]);
    let watch = |after: u64| format!("GET /v1/watch?kind=routes&namespace=n&after={after}");
    assert_eq!(fake.lines()[1..], [watch(5), watch(6), watch(8)]);
}

#[tokio::test]
async fn programs_get_an_event_per_line() {
    let fake = fake(vec![Answer::Events(put(6, &route("new", "a"))), over()]).await;
    let ran = fake.run(&["get", "routes", "-n", "n", "-w", "-o", "json"]).await;
    let events: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events[0]["event"], &events[1]["event"]), (&json!("is"), &json!("created")));
    assert_eq!((&events[1]["revision"], &events[1]["object"]), (&json!(6), &route("new", "a")));
}

#[tokio::test]
async fn objects_that_cease_to_match_are_told_as_deleted_and_others_not_at_all() {
    let text = put(6, &route("old", "b")) + &put(7, &route("other", "b")) + &delete(8, "other");
    let fake = fake(vec![Answer::Events(text), over()]).await;
    let ran = fake.run(&["get", "routes", "-n", "n", "-w", "-l", "to=a", "-o", "name"]).await;
    assert_eq!(ran.out, "route/n/old is\nroute/n/old deleted\n");
}

#[tokio::test]
async fn history_that_is_gone_leads_to_a_fresh_listing() {
    let gone = problem(410, "compacted", "history before revision 9 has been compacted");
    let fake = fake(vec![gone, over()]).await;
    let ran = fake.run(&["get", "routes", "-n", "n", "-w", "-o", "name"]).await;
    assert_eq!(ran.out, "route/n/old is\nroute/n/old is\n");
    ran.ended(ExitCode::Refused, &["the key has expired"]);
}

#[tokio::test]
async fn the_last_event_says_why_the_stream_ended() {
    let end = json!({ "status": 401, "code": "unauthenticated", "detail": "the key has been revoked" });
    let fake = fake(vec![Answer::Events(event("error", None, &end))]).await;
    let ran = fake.run(&["get", "routes", "-n", "n", "-w"]).await;
    ran.ended(ExitCode::Refused, &["the key has been revoked (unauthenticated)"]);
}

#[tokio::test]
async fn a_control_plane_that_stays_away_is_given_up() {
    let fake = fake(vec![problem(503, "store-unavailable", "the store takes no requests now")]).await;
    let ran = fake.run(&["get", "routes", "-n", "n", "-w"]).await;
    ran.ended(ExitCode::Unreachable, &["the store takes no requests now"]);
    assert_eq!(fake.lines().len(), 6, "one listing and five attempts");
}

#[tokio::test]
async fn an_answer_that_is_no_stream_is_told() {
    let fake = fake(vec![ok(json!({}))]).await;
    fake.run(&["get", "routes", "-n", "n", "-w"])
        .await
        .ended(ExitCode::Failed, &["it is no stream of events"]);
}
