//! What servers say may be kept of what is read of them, from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::pair::{Answer, Caller, Pair, modern};
use super::upstream::{self, Seen, Upstream};

/// A server of the modern era whose resources are good for a minute.
struct Story {
    pair: Pair,
    /// Reads and lists that came to the server.
    asked: Arc<AtomicUsize>,
    /// Whoever listens, as the server knows them.
    listeners: mpsc::Receiver<mpsc::Sender<Bytes>>,
    log: tempfile::TempDir,
}

fn answer(seen: &Seen, asked: &AtomicUsize, scope: &str) -> http::Response<upstream::Body> {
    if upstream::is_probe(seen) {
        return upstream::echo(seen);
    }
    let message = seen.json();
    let mut result = json!({ "resultType": "complete", "ttlMs": 60_000, "cacheScope": scope });
    match message["method"].as_str() {
        Some("resources/read") => {
            result["contents"] = json!([{ "uri": message["params"]["uri"], "text": "x" }])
        }
        Some("resources/list") => {
            result["resources"] =
                json!([{ "uri": "file:///a", "name": "a" }, { "uri": "file:///b", "name": "b" }]);
        }
        _ => return upstream::echo(seen),
    }
    asked.fetch_add(1, Ordering::Relaxed);
    upstream::document(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
}

impl Story {
    async fn start(scope: &'static str) -> Self {
        let asked: Arc<AtomicUsize> = Arc::default();
        let (sender, listeners) = mpsc::channel(4);
        let upstream = {
            let asked = Arc::clone(&asked);
            Upstream::with(move |seen| {
                let (asked, sender) = (Arc::clone(&asked), sender.clone());
                async move {
                    if upstream::is_probe(&seen) || seen.method_name() != "subscriptions/listen" {
                        return answer(&seen, &asked, scope);
                    }
                    let (events, response) = upstream::events();
                    sender.send(events).await.unwrap();
                    response
                }
            })
        };
        let log = tempfile::tempdir().unwrap();
        let pair = Pair::logging(upstream.await, &log.path().join("access.log")).await;
        Self { pair, asked, listeners, log }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    async fn caller(&self, account: &str) -> Caller {
        self.pair.caller("agents", account).await
    }
}

async fn read(caller: &mut Caller, uri: &str) -> Answer {
    Answer::read(caller.send(modern("resources/read", uri, json!({ "uri": uri }))).await).await
}

/// How many resources a caller is shown.
async fn listed(caller: &mut Caller) -> usize {
    let list = Answer::read(caller.send(modern("resources/list", "", json!({}))).await).await;
    list.json()["result"]["resources"].as_array().unwrap().len()
}

fn is_kept(answer: &Answer) -> bool {
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.headers.get("weft-cache").is_some_and(|value| value == "hit")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_is_given_again_to_whom_the_server_says_it_is_for() {
    for (scope, for_others, asked) in [("public", true, 1), ("private", false, 2)] {
        let story = Story::start(scope).await;
        let (mut one, mut other) = (story.caller("one").await, story.caller("other").await);
        let first = read(&mut one, "file:///a").await;
        let again = read(&mut one, "file:///a").await;
        assert_eq!((is_kept(&first), is_kept(&again)), (false, true), "{scope}");
        assert_eq!(again.json()["result"]["contents"], first.json()["result"]["contents"]);
        assert!(again.json()["result"]["ttlMs"].as_u64().unwrap() <= 60_000);
        assert_eq!(is_kept(&read(&mut other, "file:///a").await), for_others, "{scope}");
        assert_eq!(story.asked(), asked, "{scope}");
        let counted = format!("kept_reads_total{{server=\"research/files\",outcome=\"hit\"}} {}", 3 - asked);
        assert!(story.pair.inbound.metrics.text().contains(&counted), "{counted}");
        let log = story.log.path().join("access.log");
        story.pair.stop().await;
        let written = std::fs::read_to_string(log).unwrap();
        assert_eq!(written.matches("\"detail\":\"a kept answer\"").count(), 3 - asked, "{written}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_given_to_nobody_who_may_not_read_it_and_costs_what_a_read_costs() {
    let story = Story::start("public").await;
    let (mut one, mut other) = (story.caller("one").await, story.caller("other").await);
    read(&mut one, "file:///a").await;
    assert!(is_kept(&read(&mut other, "file:///a").await));
    story
        .pair
        .apply(
            "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: { namespace: research, name: one }\n\
             spec: { servers: { names: [files] }, rules: [{ action: deny, from: [{ serviceAccounts: [other] }], to: [{ resources: ['file:///a'] }] }, { action: allow }] }\n",
        )
        .await;
    assert_eq!(
        (read(&mut other, "file:///a").await.status, is_kept(&read(&mut one, "file:///a").await)),
        (403, true)
    );
    // What is kept of a list is cut for each caller.
    for _ in 0..2 {
        assert_eq!((listed(&mut one).await, listed(&mut other).await), (2, 1));
    }
    assert_eq!(story.asked(), 2);
    story
        .pair
        .apply(
            "apiVersion: weft.dev/v1alpha1\nkind: QuotaPolicy\nmetadata: { namespace: research, name: few }\n\
             spec: { servers: { names: [files] }, limits: [{ per: [caller], rate: 2/h, burst: 2 }] }\n",
        )
        .await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(read(&mut one, "file:///a").await.status);
    }
    assert_eq!((statuses, story.asked()), (vec![200, 200, 429], 2));
    story.pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_has_changed_is_asked_for_anew() {
    let mut story = Story::start("public").await;
    let (mut one, mut listener) = (story.caller("one").await, story.caller("other").await);
    read(&mut one, "file:///a").await;
    let wanted = json!({ "notifications": { "resourceSubscriptions": ["file:///a"] } });
    let stream = listener.send(modern("subscriptions/listen", "", wanted));
    let (stream, events) = tokio::join!(stream, story.listeners.recv());
    assert_eq!(stream.status(), 200);
    // Nobody has to read it for it to be heard.
    let reading = tokio::spawn(http_body_util::BodyExt::collect(stream.into_body()));
    assert!(is_kept(&read(&mut one, "file:///a").await));
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {
        "uri": "file:///a", "_meta": { "io.modelcontextprotocol/subscriptionId": 7 } } });
    events.unwrap().send(format!("data: {note}\n\n").into()).await.unwrap();
    let before = story.asked();
    let mut is_anew = false;
    for _ in 0..1000 {
        is_anew = !is_kept(&read(&mut one, "file:///a").await);
        if is_anew {
            break;
        }
    }
    assert!(is_anew && story.asked() == before + 1);
    reading.abort();
    story.pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_itself_hears_of_changes_without_anyone_who_listens() {
    let (sender, mut listeners) = mpsc::channel::<mpsc::Sender<Bytes>>(4);
    let asked: Arc<AtomicUsize> = Arc::default();
    let upstream = {
        let asked = Arc::clone(&asked);
        Upstream::with(move |seen| {
            let (asked, sender) = (Arc::clone(&asked), sender.clone());
            async move {
                match seen.method_name().as_str() {
                    "subscriptions/listen" => {
                        let id = seen.json()["id"].clone();
                        let (events, response) = upstream::events();
                        let agreed = json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                            "params": { "notifications": { "resourcesListChanged": true },
                                "_meta": { "io.modelcontextprotocol/subscriptionId": id } } });
                        events.send(format!("data: {agreed}\n\n").into()).await.unwrap();
                        sender.send(events).await.unwrap();
                        response
                    }
                    "server/discover" => {
                        upstream::document(&json!({ "jsonrpc": "2.0", "id": seen.json()["id"],
                        "result": { "resultType": "complete", "supportedVersions": ["2026-07-28"],
                            "capabilities": { "resources": { "listChanged": true } }, "ttlMs": 0, "cacheScope": "private" } }))
                    }
                    _ => answer(&seen, &asked, "public"),
                }
            }
        })
    };
    let pair = Pair::start(upstream.await).await;
    let mut one = pair.caller("agents", "one").await;
    let events = listeners.recv().await.unwrap();
    read(&mut one, "file:///a").await;
    assert!(is_kept(&read(&mut one, "file:///a").await));
    let note: Value =
        json!({ "jsonrpc": "2.0", "method": "notifications/resources/list_changed", "params": {} });
    events.send(format!("data: {note}\n\n").into()).await.unwrap();
    let mut is_anew = false;
    for _ in 0..1000 {
        is_anew = !is_kept(&read(&mut one, "file:///a").await);
        if is_anew {
            break;
        }
    }
    assert!(is_anew, "{}", asked.load(Ordering::Relaxed));
    pair.stop().await;
}
