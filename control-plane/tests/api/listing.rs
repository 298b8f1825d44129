//! Objects that are listed.

use super::*;

#[tokio::test]
async fn pages_show_one_revision_and_filters_hold() {
    let mesh = Mesh::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        mesh.apply(&server(name, "")).await;
    }
    let labelled = server("f", "").replace("name: f", "name: f, labels: { team: papers, tier: gold }");
    mesh.apply(&labelled).await;
    mesh.apply(&document("Telemetry", "other", "t", "{ accessLog: { off: true } }")).await;
    let (mut names, mut path) = (Vec::new(), "/v1/resources?kind=servers&limit=2".to_owned());
    let mut revision = None;
    loop {
        let page = mesh.admin("GET", &path, "").await.ok();
        assert_eq!(page["revision"], *revision.get_or_insert_with(|| page["revision"].clone()));
        names.extend(page["items"].as_array().unwrap().iter().map(|it| it["metadata"]["name"].clone()));
        mesh.apply(&server("zz", &format!("n{}", names.len()))).await;
        let Some(token) = page["continue"].as_str() else { break };
        path = format!("/v1/resources?kind=servers&limit=2&continue={token}");
    }
    assert_eq!(names, ["a", "b", "c", "d", "e", "f"]);
    let count = async |query: &str| {
        mesh.admin("GET", &format!("/v1/resources?{query}"), "").await.ok()["items"].as_array().unwrap().len()
    };
    assert_eq!(count("labels=team=papers,tier=gold").await, 1);
    assert_eq!(count("labels=team%3Dpapers%2Ctier%3Dtin").await, 0);
    assert_eq!(count("namespace=other").await, 1);
    assert_eq!(count("namespace=research&kind=McpServer").await, 7);
    assert_eq!(count("").await, 8);
}

#[tokio::test]
async fn bad_questions_are_refused() {
    let mesh = Mesh::start().await;
    for query in [
        "kind=Nonsense",
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=",
        "namespace=Upper",
        "labels=x",
        "continue=nonsense",
        "continue=",
        "unknown=1",
        "limit=1&limit=2",
        "Kind=McpServer",
    ] {
        mesh.admin("GET", &format!("/v1/resources?{query}"), "").await.refused(400, "bad-parameter");
    }
    for path in [
        "/v1/version?x=1",
        "/v1/history?before=x",
        "/v1/watch?after=x",
        "/v1/audit?limit=-1",
        "/openapi.json?x",
    ] {
        mesh.admin("GET", path, "").await.refused(400, "bad-parameter");
    }
    mesh.admin("POST", "/v1/apply?dryrun=true", "").await.refused(400, "bad-parameter");
    mesh.admin("POST", "/v1/apply?dryRun=yes", "").await.refused(400, "bad-parameter");
}
