//! Watching objects change.

use super::*;

#[tokio::test]
async fn a_watch_replays_stays_live_and_resumes() {
    let mesh = Mesh::start().await;
    let first = mesh.apply(&(server("a", "") + &server("b", ""))).await;
    let mut watch = mesh.watch("/v1/watch?after=1", None).await;
    assert_eq!(watch.next().await.name, "bookmark");
    let (one, two) = (watch.next().await, watch.next().await);
    assert_eq!((one.name.as_str(), &one.data["name"], one.id), ("put", &json!("a"), None));
    assert_eq!((&two.data["name"], two.id), (&json!("b"), Some(first)));
    assert_eq!(two.data["resource"]["metadata"]["resourceVersion"], first.to_string());
    mesh.admin("DELETE", "/v1/namespaces/research/mcpservers/a", "").await.ok();
    let gone = watch.next().await;
    assert_eq!((gone.name.as_str(), &gone.data["name"]), ("delete", &json!("a")));
    assert!(gone.data.get("resource").is_none());
    let mut resumed = mesh.watch("/v1/watch?after=0", Some(first)).await;
    assert_eq!(resumed.next().await.id, Some(first));
    assert_eq!(resumed.next().await.name, "delete");
}

#[tokio::test]
async fn a_watch_without_a_start_begins_now_and_shows_what_it_was_asked_for() {
    let mesh = Mesh::start().await;
    let head = mesh.apply(&server("a", "")).await;
    let mut watch = mesh.watch("/v1/watch?kind=Route&namespace=research", None).await;
    assert_eq!(watch.next().await.id, Some(head));
    mesh.apply(&server("b", "")).await;
    mesh.apply(&document(
        "Route",
        "research",
        "r",
        "{ server: research/a, rules: [{ to: [{ server: research/b }] }] }",
    ))
    .await;
    assert_eq!(watch.next().await.data["name"], "r");
}

#[tokio::test]
async fn a_quiet_watch_gives_signs_of_life_and_ends_with_its_key() {
    let mesh = Mesh::start_with(|limits| limits.heartbeat = Duration::from_millis(20)).await;
    let key = mesh.key("eyes", "readonly").await;
    let mut watch = mesh.watch_as(&key, "/v1/watch", None).await;
    watch.next().await;
    assert_eq!(watch.next_block().await.unwrap(), ": heartbeat");
    let id = key.split('_').nth(1).unwrap();
    mesh.admin("DELETE", &format!("/v1/keys/{id}"), "").await.status(204);
    let last = watch.next().await;
    assert_eq!((last.name.as_str(), &last.data["code"]), ("error", &json!("unauthenticated")));
    assert_eq!(watch.next_block().await, None);
}

#[tokio::test]
async fn watchers_are_bounded_and_their_places_given_back() {
    let mesh = Mesh::start_with(|limits| limits.watchers_max = 2).await;
    let first = mesh.watch("/v1/watch", None).await;
    let _second = mesh.watch("/v1/watch", None).await;
    let refused = mesh.admin("GET", "/v1/watch", "").await;
    assert!(refused.headers.contains_key("retry-after"));
    refused.refused(503, "too-many-watchers");
    drop(first);
    mesh.watch("/v1/watch", None).await;
    mesh.admin("GET", "/v1/watch?after=999", "").await.refused(404, "unknown-revision");
}

#[tokio::test]
async fn shutting_down_ends_watches() {
    let mesh = Mesh::start().await;
    let mut watch = mesh.watch("/v1/watch", None).await;
    watch.next().await;
    mesh.shutdown.cancel();
    assert_eq!(watch.next_block().await, None);
}
