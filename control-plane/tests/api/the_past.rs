//! What was: the history of objects, and revisions that are gone.

use super::*;

#[tokio::test]
async fn history_says_who_changed_what_when_and_why() {
    let mesh = Mesh::start().await;
    mesh.apply(&server("a", "")).await;
    let key = mesh.key("ci", "operator").await;
    let path = "/v1/apply?reason=because%20of%20it";
    let made = mesh.as_key(&key, "POST", path, &(server("a", "x") + &server("b", ""))).await.ok();
    let list = mesh.admin("GET", "/v1/history", "").await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "keys are no part of it: {list}");
    let newest = &list["items"][0];
    assert_eq!((&newest["author"], &newest["reason"]), (&json!("ci"), &json!("because of it")));
    assert_eq!(
        newest["changes"][0],
        json!({ "kind": "McpServer", "namespace": "research", "name": "a", "action": "changed" })
    );
    assert_eq!(newest["changes"][1]["action"], "created");
    let one = mesh.admin("GET", &format!("/v1/history/{}", made["revision"]), "").await.ok();
    assert!(one["changes"][0]["diff"].as_str().unwrap().contains("\n+  - x\n"), "{one}");
    let of_b = mesh.admin("GET", "/v1/history?kind=server&namespace=research&name=b", "").await.ok();
    assert_eq!(of_b["items"].as_array().unwrap().len(), 1);
    let first_page = mesh.admin("GET", "/v1/history?limit=1", "").await.ok();
    let next = format!("/v1/history?limit=1&before={}", first_page["next"]);
    assert_eq!(mesh.admin("GET", &next, "").await.ok()["items"][0]["changes"][0]["action"], "created");
    mesh.admin("GET", "/v1/history/999", "").await.refused(404, "unknown-revision");
    mesh.admin("GET", "/v1/history/1", "").await.refused(404, "unknown-revision");
    mesh.admin("GET", "/v1/history/x", "").await.refused(400, "bad-parameter");
}

#[tokio::test]
async fn a_rollback_restores_objects_and_nothing_else() {
    let mesh = Mesh::start().await;
    let then = mesh.apply(&(server("a", "") + &server("b", ""))).await;
    let now = mesh.apply(&(server("a", "x") + &server("c", ""))).await;
    mesh.admin("DELETE", "/v1/namespaces/research/mcpservers/b", "").await.ok();
    let key = mesh.key("later", "readonly").await;
    let stale = json!({ "to": then, "expectRevision": now }).to_string();
    mesh.admin("POST", "/v1/rollback", &stale).await.refused(409, "conflict");
    let told = mesh.admin("POST", "/v1/rollback", &json!({ "to": then }).to_string()).await.ok();
    let mut actions: Vec<_> = told["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| format!("{} {}", it["name"].as_str().unwrap(), it["action"].as_str().unwrap()))
        .collect();
    actions.sort();
    assert_eq!(actions, ["a changed", "b created", "c deleted"]);
    assert_eq!(mesh.names().await, ["a", "b"]);
    mesh.as_key(&key, "GET", "/v1/version", "").await.ok();
    let newest = mesh.admin("GET", "/v1/history?limit=1", "").await.ok();
    assert_eq!(newest["items"][0]["reason"], format!("rollback to revision {then}"));
    mesh.admin("POST", "/v1/rollback", "{\"to\": 999}").await.refused(404, "unknown-revision");
    mesh.admin("POST", "/v1/rollback", "{\"to\": 1, \"x\": 1}").await.refused(400, "bad-body");
}

#[tokio::test]
async fn what_was_compacted_is_gone() {
    let mesh = Mesh::start().await;
    let first = mesh.apply(&server("a", "")).await;
    let mut last = 0;
    for number in 0..5 {
        last = mesh.apply(&server("a", &format!("x{number}"))).await;
    }
    mesh.store.compact(weft_control_plane::store::Revision(last)).await.unwrap();
    mesh.admin("GET", &format!("/v1/watch?after={first}"), "").await.refused(410, "compacted");
    mesh.admin("GET", &format!("/v1/history/{first}"), "").await.refused(410, "compacted");
    mesh.admin("POST", "/v1/rollback", &json!({ "to": first }).to_string()).await.refused(410, "compacted");
    let token = "MSByZXNvdXJjZXMvbWNwc2VydmVycy9yZXNlYXJjaC9h";
    mesh.admin("GET", &format!("/v1/resources?continue={token}"), "").await.refused(410, "compacted");
}
