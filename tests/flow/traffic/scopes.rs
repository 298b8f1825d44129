//! Callers of a gateway whose token lacks a scope for one call are asked for it.

use std::time::Duration;

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use super::gateway::{Story, at, by, call, initialize};
use super::pair::{self, Answer, legacy, modern};
use super::upstream::{self, Upstream};
use crate::mesh::eventually;

/// Who may call `echo`, and who `other`, which takes no scope.
const POLICY: &str = "apiVersion: weft.dev/v1alpha1
kind: AccessPolicy
metadata: { namespace: research, name: writers }
spec:
  servers: { names: [files] }
  rules:
    - { action: allow, from: [{ claims: { scope: ['files:write'], groups: [dev] } }], to: [{ tools: [echo] }] }
    - { action: allow, from: [{ claims: { groups: [dev, ops] } }], to: [{ tools: [other] }] }
";

/// A gateway before a server with some tools, of which it has been told, and of a policy.
pub(super) async fn story(tools: &'static [&str], policy: &str) -> Story {
    let list = move |seen: &upstream::Seen| {
        let tools = tools.iter().map(|name| json!({ "name": name, "inputSchema": { "type": "object" } }));
        let mut answer = json!({ "jsonrpc": "2.0", "id": seen.json()["id"] });
        answer["result"] = json!({ "resultType": "complete", "ttlMs": 0, "cacheScope": "private" });
        answer["result"]["tools"] = tools.collect();
        upstream::document(&answer)
    };
    let upstream = Upstream::with(move |seen| async move {
        if seen.method_name() == "tools/list" { list(&seen) } else { upstream::echo(&seen) }
    });
    let story = Story::with(upstream.await, json!({}), json!({})).await;
    story.apply(policy).await;
    let files = "research/files".parse().unwrap();
    let offered = || {
        let current = story.gateway.live.load();
        current.snapshot.server(&files).is_some_and(|it| {
            !it.access.is_empty() && it.offer.as_ref().is_some_and(|it| it.items().len() == tools.len())
        })
    };
    eventually("the gateway knows what it may be asked for", offered).await;
    story
}

#[track_caller]
fn asks_for(answer: &Answer, scopes: &str, path: &str) {
    let expected = format!(
        "Bearer error=\"insufficient_scope\", error_description=\"the token lacks a scope that this needs\", \
         resource_metadata=\"https://mcp.test/.well-known/oauth-protected-resource{path}\", scope=\"{scopes}\""
    );
    assert_eq!((answer.status, answer.reason()), (403, "scope_needed"), "{answer:?}");
    assert_eq!(answer.headers["www-authenticate"], expected.as_str());
    assert_eq!(answer.code(), 4035);
    assert!(!answer.headers.contains_key("weft-scope"));
    let text = format!("{answer:?}");
    assert!(!text.contains("writers") && !text.contains("dev"), "nothing else of the rules: {text}");
}

fn refused(answer: &Answer) {
    assert_eq!((answer.status, answer.reason()), (403, "denied"), "{answer:?}");
    assert!(!answer.headers.contains_key("www-authenticate") && !answer.headers.contains_key("weft-scope"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_lacks_a_scope_for_one_call_is_asked_for_it() {
    let story = story(&["echo"], POLICY).await;
    let token = |claims: Value| story.token(claims);
    let reads = token(json!({ "sub": "ann", "groups": ["dev"], "scope": "openid files:read" }));
    let writes = token(json!({ "sub": "ann", "groups": ["dev"], "scope": "openid files:read files:write" }));
    for (path, tool) in [(pair::PATH, "echo"), ("/mcp", "files_echo")] {
        let answer = story.answer(at(by(call(tool), &reads), path)).await;
        asks_for(&answer, "files:write openid files:read", path);
        assert_eq!(story.answer(at(by(call(tool), &writes), path)).await.status, 200, "{path}");
        // No scope would do.
        let ops = token(json!({ "sub": "bob", "groups": ["ops"], "scope": "openid" }));
        refused(&story.answer(at(by(call(tool), &ops), path)).await);
    }
    // A workload of the mesh has no token that could be another.
    let mut agent = story.pair.caller("agents", "a").await;
    refused(&Answer::read(agent.send(call("echo")).await).await);
    story.stop().await;
}

/// The tools that somebody is shown.
async fn listed(story: &Story, token: &str, path: &str) -> Vec<String> {
    let answer = story.answer(at(by(modern("tools/list", "", json!({})), token), path)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let tools = answer.json()["result"]["tools"].as_array().unwrap().clone();
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_scope_is_missing_for_is_listed_so_that_it_can_be_called_and_asked_for() {
    let story = story(&["echo", "other"], POLICY).await;
    let token =
        |sub: &str, groups: &str| story.token(json!({ "sub": sub, "groups": [groups], "scope": "openid" }));
    let (ann, bob) = (token("ann", "dev"), token("bob", "ops"));
    for (path, prefix) in [(pair::PATH, ""), ("/mcp", "files_")] {
        let named = |names: &[&str]| names.iter().map(|it| format!("{prefix}{it}")).collect::<Vec<_>>();
        assert_eq!(listed(&story, &ann, path).await, named(&["echo", "other"]), "{path}");
        asks_for(
            &story.answer(at(by(call(&named(&["echo"])[0]), &ann), path)).await,
            "files:write openid",
            path,
        );
        // Whom no scope would help is shown no more than before.
        assert_eq!(listed(&story, &bob, path).await, named(&["other"]), "{path}");
    }
    // Nobody is told of a scope that stands in a condition, so that what needs it is not listed.
    let condition = "from: [{ claims: { groups: [dev] } }], when: '\"files:write\" in claims.scope'";
    story
        .apply(&POLICY.replace("from: [{ claims: { scope: ['files:write'], groups: [dev] } }]", condition))
        .await;
    for (path, expected) in [(pair::PATH, "other"), ("/mcp", "files_other")] {
        let follows = async {
            while listed(&story, &ann, path).await != [expected] {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), follows).await.expect("the list follows the policy");
    }
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_sessions_are_asked_by_the_same_status() {
    let story = story(&["echo"], POLICY).await;
    let reads = story.token(json!({ "sub": "ann", "groups": ["dev"], "scope": "openid" }));
    let writes = story.token(json!({ "sub": "ann", "groups": ["dev"], "scope": "files:write" }));
    for (path, tool) in [(pair::PATH, "echo"), ("/mcp", "files_echo")] {
        let opened = story.answer(at(by(legacy(&initialize(), None), &reads), path)).await;
        let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
        let called = json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call",
            "params": { "name": tool, "arguments": {} } });
        let calls = |token: &str| -> Request<Full<bytes::Bytes>> {
            at(by(legacy(&called, Some(&session)), token), path)
        };
        asks_for(&story.answer(calls(&reads)).await, "files:write openid", path);
        // With the new token the session goes on.
        let answer = story.answer(calls(&writes)).await;
        assert!(answer.status == 200 && !answer.body.is_empty(), "{path}: {answer:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("error"), "{path}: {answer:?}");
    }
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_of_scopes_is_not_heard() {
    let upstream = Upstream::with(|seen| async move {
        let mut answer = upstream::echo(&seen);
        *answer.status_mut() = http::StatusCode::FORBIDDEN;
        answer.headers_mut().insert("weft-scope", "admin".parse().unwrap());
        answer
    });
    let story = Story::with(upstream.await, json!({}), json!({})).await;
    let answer = story.answer(by(call("echo"), &story.ann())).await;
    assert!(!answer.headers.contains_key("www-authenticate"), "{answer:?}");
    assert!(!answer.headers.contains_key("weft-scope") && answer.reason() == "", "{answer:?}");
    story.stop().await;
}
