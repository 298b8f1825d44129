//! Callers of a gateway are shown their part of the lists at an endpoint of many servers.

use std::time::Duration;

use serde_json::{Value, json};

use super::gateway::{Story, at, by, call, initialize};
use super::pair::{legacy, modern};
use super::scopes;

/// Who may use what of the tools `echo` and `other`.
const POLICY: &str = "apiVersion: weft.dev/v1alpha1
kind: AccessPolicy
metadata: { namespace: research, name: parts }
spec:
  servers: { names: [files] }
  rules:
    - { action: allow, from: [{ claims: { groups: [dev] } }] }
    - { action: allow, from: [{ claims: { groups: [ops] } }], to: [{ tools: [other] }] }
";

/// The tools that somebody is shown at `/mcp`.
async fn listed(story: &Story, token: &str) -> Vec<String> {
    let answer = story.answer(at(by(modern("tools/list", "", json!({})), token), "/mcp")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    names(&answer.json()["result"])
}

fn names(result: &Value) -> Vec<String> {
    let tools = result["tools"].as_array().unwrap().iter();
    tools.map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_is_shown_what_it_may_use_and_the_list_follows_the_policy() {
    let story = scopes::story(&["echo", "other"], POLICY).await;
    let in_groups = |sub: &str, groups: &[&str]| story.token(json!({ "sub": sub, "groups": groups }));
    let (ann, bob) = (in_groups("ann", &["dev"]), in_groups("bob", &["ops"]));
    assert_eq!(listed(&story, &ann).await, ["files_echo", "files_other"]);
    assert_eq!(listed(&story, &bob).await, ["files_other"]);
    assert_eq!(listed(&story, &in_groups("carol", &["guests"])).await, [""; 0]);
    assert_eq!(listed(&story, &bob).await, ["files_other"], "what is kept is the same");
    // The same caller with another token.
    assert_eq!(listed(&story, &in_groups("bob", &["dev"])).await, ["files_echo", "files_other"]);
    // What is not shown is refused as before, beside the server.
    let refused = story.answer(at(by(call("files_echo"), &bob), "/mcp")).await;
    assert_eq!((refused.status, refused.reason()), (403, "denied"));
    let opened = story.answer(at(by(legacy(&initialize(), None), &bob), "/mcp")).await;
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    let answer = story.answer(at(by(legacy(&list, Some(&session)), &bob), "/mcp")).await;
    assert_eq!(names(&answer.json()["result"]), ["files_other"]);
    story.apply(&POLICY.replace("[ops]", "[guests]")).await;
    // The sidecar beside the server is told, and the gateway after it or before.
    let follows = async {
        while listed(&story, &bob).await != [""; 0] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), follows).await.expect("the list follows the policy");
    assert_eq!(listed(&story, &in_groups("carol", &["guests"])).await, ["files_other"]);
    story.stop().await;
}
