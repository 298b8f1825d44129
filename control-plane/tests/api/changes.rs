//! Objects that are applied and deleted.

use super::*;

#[tokio::test]
async fn an_object_is_created_shown_changed_and_deleted() {
    let mesh = Mesh::start().await;
    let path = "/v1/namespaces/research/mcpservers/files";
    let made = mesh.admin("PUT", path, &server("files", "")).await.ok();
    assert_eq!(made["results"][0]["action"], "created");
    assert_eq!(made["results"][0]["kind"], "McpServer");
    let shown = mesh.admin("GET", path, "").await;
    let version = made["revision"].to_string();
    assert_eq!(shown.headers["etag"], format!("\"{version}\""));
    assert_eq!(shown.ok()["metadata"]["resourceVersion"], version);
    let changed = mesh.admin("PUT", path, &server("files", "old")).await.ok();
    assert_eq!(changed["results"][0]["action"], "changed");
    let diff = changed["results"][0]["diff"].as_str().unwrap();
    assert!(diff.starts_with("--- mcpservers/research/files\n+++ mcpservers/research/files\n"), "{diff}");
    assert!(diff.contains("\n+  - old\n"), "{diff}");
    let same = mesh.admin("PUT", path, &server("files", "old")).await.ok();
    assert_eq!(
        (&same["results"][0]["action"], &same["results"][0]["diff"]),
        (&json!("unchanged"), &json!(""))
    );
    let deleted = mesh.admin("DELETE", path, "").await.ok();
    assert_eq!(deleted["results"][0]["action"], "deleted");
    mesh.admin("GET", path, "").await.refused(404, "not-found");
    mesh.admin("DELETE", path, "").await.refused(404, "not-found");
}

#[tokio::test]
async fn the_path_and_the_document_must_name_the_same() {
    let mesh = Mesh::start().await;
    let path = "/v1/namespaces/research/mcpservers/other";
    let errors =
        mesh.admin("PUT", path, &server("files", "")).await.refused(422, "invalid")["errors"].clone();
    assert_eq!((&errors[0]["field"], &errors[0]["line"]), (&json!("metadata"), &json!(1)));
    mesh.admin("PUT", path, &(server("other", "") + &server("b", ""))).await.refused(422, "invalid");
    mesh.admin("GET", "/v1/namespaces/research/things/a", "").await.refused(404, "not-found");
    mesh.admin("GET", "/v1/namespaces/Research/mcpservers/a", "").await.refused(400, "bad-parameter");
    mesh.admin("GET", "/v1/namespaces/a%2Fb/mcpservers/a", "").await.refused(400, "bad-parameter");
    mesh.admin("GET", "/v1/namespaces/a/mcpservers/%FF", "").await.refused(404, "unknown-route");
}

#[tokio::test]
async fn of_an_apply_everything_is_done_or_nothing_and_every_mistake_has_its_place() {
    let mesh = Mesh::start().await;
    let broken = "---\napiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: { name: bad }\nspec:\n  external: { url: 'https://x.example/' }\n  tmeouts: {}\n";
    let input = server("a", "") + broken + &server("b", "");
    let problem = mesh.admin("POST", "/v1/apply?file=mesh.yaml", &input).await.refused(422, "invalid");
    let error = &problem["errors"][0];
    assert_eq!(error["file"], "mesh.yaml");
    assert_eq!((&error["line"], &error["column"]), (&json!(12), &json!(3)), "{error}");
    assert!(error["message"].as_str().unwrap().contains("did you mean \"timeouts\"?"), "{error}");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 1);
    assert_eq!(mesh.names().await, [""; 0]);
    let twice = mesh.admin("POST", "/v1/apply", &(server("a", "") + &server("a", ""))).await;
    let error = twice.refused(422, "invalid")["errors"][0].clone();
    assert_eq!((&error["line"], &error["field"]), (&json!(6), &json!("metadata.name")));
    mesh.apply(&(server("a", "") + &server("b", ""))).await;
    assert_eq!(mesh.names().await, ["a", "b"]);
}

#[tokio::test]
async fn json_is_taken_like_yaml() {
    let mesh = Mesh::start().await;
    let text = "{\n\t\"apiVersion\": \"weft.dev/v1alpha1\",\n\t\"kind\": \"McpServer\",\n\t\"metadata\": {\"namespace\": \"research\", \"name\": \"files\"},\n\t\"spec\": {\"external\": {\"url\": \"https://x.example/\"}}\n}";
    let request =
        mesh.request("POST", "/v1/apply", text).header("content-type", "application/json; charset=utf-8");
    mesh.send(request).await.ok();
    let shown = mesh.admin("GET", "/v1/namespaces/research/mcpservers/files", "").await.ok();
    mesh.admin("PUT", "/v1/namespaces/research/mcpservers/files", &shown.to_string()).await.ok();
}

#[tokio::test]
async fn a_dry_run_tells_everything_and_leaves_no_trace() {
    let mesh = Mesh::start().await;
    mesh.apply(&server("a", "")).await;
    let before = mesh.traces().await;
    let path = "/v1/namespaces/research/mcpservers/a";
    for (method, path, body) in [
        ("POST", "/v1/apply?dryRun=true", server("a", "x") + &server("b", "")),
        ("POST", "/v1/delete?dryRun=true", server("a", "")),
        ("PUT", &format!("{path}?dryRun=true"), server("a", "x")),
        ("DELETE", &format!("{path}?dryRun=true"), String::new()),
        ("POST", "/v1/rollback", json!({ "to": 1, "dryRun": true }).to_string()),
    ] {
        let told = mesh.admin(method, path, &body).await.ok();
        assert_eq!(told["dryRun"], true);
        assert!(!told["results"][0]["diff"].as_str().unwrap().is_empty(), "{path}");
    }
    assert_eq!(mesh.traces().await, before);
    mesh.admin("POST", "/v1/apply?dryRun=true", "kind: Nonsense").await.refused(422, "invalid");
}

#[tokio::test]
async fn a_change_based_on_an_old_version_conflicts_and_names_both() {
    let mesh = Mesh::start().await;
    let first = mesh.apply(&server("a", "")).await;
    let second = mesh.apply(&server("a", "x")).await;
    let versioned =
        |version: u64| server("a", "y").replace("name: a", &format!("name: a, resourceVersion: '{version}'"));
    let problem = mesh.admin("POST", "/v1/apply", &versioned(first)).await.refused(409, "conflict");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains(&format!("version {first}")) && detail.contains(&format!("version {second}")),
        "{detail}"
    );
    let stale = format!("/v1/namespaces/research/mcpservers/a?resourceVersion={first}");
    mesh.admin("DELETE", &stale, "").await.refused(409, "conflict");
    mesh.apply(&versioned(second)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_lose_no_update() {
    let mesh = Mesh::start().await;
    mesh.apply(&server("shared", "")).await;
    // Each writer adds an alias to what it read, and begins anew when somebody was faster.
    let writers = (0..8).map(|number| {
        let mesh = mesh.clone();
        tokio::spawn(async move {
            let path = "/v1/namespaces/research/mcpservers/shared";
            loop {
                let mut object = mesh.admin("GET", path, "").await.ok();
                let aliases = &mut object["spec"]["aliases"];
                let mut list = aliases.as_array().cloned().unwrap_or_default();
                list.push(format!("alias-{number}").into());
                *aliases = list.into();
                match mesh.admin("PUT", path, &object.to_string()).await.status {
                    200 => break,
                    status => assert_eq!(status, 409),
                }
            }
        })
    });
    let others = (0..8).map(|number| {
        let mesh = mesh.clone();
        tokio::spawn(async move { _ = mesh.apply(&server(&format!("own-{number}"), "")).await })
    });
    for done in futures_util::future::join_all(writers.chain(others)).await {
        done.unwrap();
    }
    let shared = mesh.admin("GET", "/v1/namespaces/research/mcpservers/shared", "").await.ok();
    assert_eq!(shared["spec"]["aliases"].as_array().unwrap().len(), 8);
    assert_eq!(mesh.names().await.len(), 9);
}

#[tokio::test]
async fn objects_that_documents_name_are_deleted_together() {
    let mesh = Mesh::start().await;
    mesh.apply(&(server("a", "") + &server("b", ""))).await;
    let told = mesh.admin("POST", "/v1/delete?reason=done", &(server("a", "") + &server("z", ""))).await.ok();
    let actions: Vec<_> = told["results"].as_array().unwrap().iter().map(|it| &it["action"]).collect();
    assert_eq!(actions, ["deleted", "unchanged"]);
    assert_eq!(told["results"][1]["warnings"], json!(["it was not there"]));
    assert_eq!(mesh.names().await, ["b"]);
}

#[tokio::test]
async fn nonsense_between_objects_is_refused_and_probable_mistakes_are_warned_of() {
    let mesh = Mesh::start().await;
    mesh.apply(&server("a", "x")).await;
    mesh.admin("POST", "/v1/apply", &server("b", "x")).await.refused(422, "invalid");
    let trust = document("Trust", "weft-system", "mesh", "{ trustDomain: other.example }");
    mesh.admin("POST", "/v1/apply", &trust).await.refused(422, "invalid");
    let policy =
        document("AccessPolicy", "research", "p", "{ servers: { names: [z] }, rules: [{ action: deny }] }");
    let told = mesh.admin("POST", "/v1/apply", &policy).await.ok();
    assert_eq!(told["results"][0]["warnings"], json!(["it selects no server that exists"]));
}

#[tokio::test]
async fn objects_of_a_cluster_are_not_changed_here_but_what_would_come_of_it_is_told() {
    let mesh = Mesh::managed().await;
    let (path, document) = ("/v1/namespaces/research/mcpservers/files", server("files", ""));
    for (method, path, body) in [
        ("POST", "/v1/apply", &*document),
        ("PUT", path, &*document),
        ("POST", "/v1/delete", &*document),
        ("DELETE", path, ""),
        ("POST", "/v1/rollback", "{\"to\": 1}"),
    ] {
        let problem = mesh.admin(method, path, body).await.refused(409, "managed");
        assert!(problem["detail"].as_str().unwrap().contains("kubectl apply"), "{problem}");
    }
    mesh.admin("POST", "/v1/apply", "kind: Nonsense").await.refused(422, "invalid");
    let told = mesh.admin("POST", "/v1/apply?dryRun=true", &document).await.ok();
    assert_eq!(told["results"][0]["action"], "created");
    assert!(mesh.names().await.is_empty());
}
