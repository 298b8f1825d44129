//! Questions about policies.

use super::*;

const POLICY: &str = "{ servers: { names: [files] }, rules: [\
     { name: readers, action: allow, from: [{ namespaces: [agents] }], to: [{ tools: ['read_*'] }], when: 'args.path.startsWith(\"/data/\")' },\
     { name: never, action: deny, from: [{ claims: { groups: [banned] } }] }] }";

async fn mesh() -> Mesh {
    let mesh = Mesh::start().await;
    mesh.apply(&(server("files", "old") + &document("AccessPolicy", "research", "readers", POLICY))).await;
    mesh
}

fn question(more: &Value) -> String {
    let mut question = json!({ "as": "agents/reviewer", "server": "research/files", "tool": "read_file" });
    for (key, value) in more.as_object().into_iter().flatten() {
        question[key] = value.clone();
    }
    question.to_string()
}

#[tokio::test]
async fn a_call_is_explained_by_the_rules_as_they_are_now() {
    let mesh = mesh().await;
    let explain = async |more: Value| mesh.admin("POST", "/v1/explain", &question(&more)).await.ok();
    let allowed = explain(json!({ "args": { "path": "/data/x" } })).await;
    assert_eq!((&allowed["allowed"], &allowed["reason"]), (&json!(true), &json!("research/readers#readers")));
    assert_eq!(allowed["caller"], "spiffe://corp.example/ns/agents/sa/reviewer");
    let refused = explain(json!({ "args": { "path": "/etc" }, "server": "research/old" })).await;
    assert_eq!((&refused["allowed"], &refused["reason"]), (&json!(false), &json!("no-rule")));
    assert_eq!(
        (&refused["rules"][0]["when"], &refused["server"]),
        (&json!("false"), &json!("research/files"))
    );
    let banned = json!({ "args": { "path": "/data/x" }, "claims": { "groups": ["banned"] } });
    assert_eq!(explain(banned).await["reason"], "research/readers#never");
    let foreign = json!({ "as": "spiffe://other.example/ns/agents/sa/reviewer" });
    assert_eq!(explain(foreign).await["reason"], "federation");
    let all = "{ rules: [{ action: allow }] }";
    mesh.apply(&document("AccessPolicy", "research", "all", all)).await;
    assert_eq!(explain(json!({})).await["reason"], "research/all#0");
}

#[tokio::test]
async fn a_question_that_is_none_is_refused_with_what_is_wrong() {
    let mesh = mesh().await;
    for more in [
        json!({ "as": "nobody" }),
        json!({ "as": "spiffe://corp.example/other" }),
        json!({ "prompt": "x" }),
        json!({ "tool": null }),
        json!({ "method": "tools/list", "args": {} }),
        json!({ "args": [] }),
        json!({ "claims": "x" }),
    ] {
        mesh.admin("POST", "/v1/explain", &question(&more)).await.refused(400, "bad-parameter");
    }
    let twice = r#"{"as":"a/b","server":"research/files","tool":"x","args":{"a":1,"\u0061":2}}"#;
    mesh.admin("POST", "/v1/explain", twice).await.refused(400, "bad-parameter");
    mesh.admin("POST", "/v1/explain", &question(&json!({ "unknown": 1 }))).await.refused(400, "bad-body");
    mesh.admin("POST", "/v1/explain", &question(&json!({ "server": "research/none" })))
        .await
        .refused(404, "not-found");
}

#[tokio::test]
async fn who_can_names_the_rules_and_the_identities_that_are_known() {
    let mesh = mesh().await;
    let who = mesh.admin("GET", "/v1/who-can?server=research/files&tool=read_file", "").await.ok();
    assert_eq!(who["rules"][0]["callers"], json!([r#"{"namespaces":["agents"]}"#]));
    assert_eq!((&who["rules"][1]["action"], &who["others"]), (&json!("deny"), &json!(false)));
    let identity = json!({ "identity": "spiffe://corp.example/ns/research/sa/files", "may": "no" });
    assert_eq!(who["identities"], json!([identity]));
    let all = "{ rules: [{ action: allow, when: 'args.x == 1' }] }";
    mesh.apply(&document("AccessPolicy", "research", "all", all)).await;
    let who = mesh.admin("GET", "/v1/who-can?server=research/files&tool=read_file", "").await.ok();
    assert_eq!(who["identities"][0]["may"], "depends");
    mesh.admin("GET", "/v1/who-can?server=research/files", "").await.refused(400, "bad-parameter");
}

#[tokio::test]
async fn a_bad_expression_is_refused_with_its_place_and_an_idle_policy_warned_of() {
    let mesh = Mesh::start().await;
    let spec = "\n  rules:\n    - action: allow\n      when: 'caller.nmaespace == \"a\"'";
    let input = server("files", "") + &document("AccessPolicy", "research", "p", spec);
    let problem = mesh.admin("POST", "/v1/apply", &input).await.refused(422, "invalid");
    let error = &problem["errors"][0];
    assert_eq!((&error["line"], &error["column"]), (&json!(13), &json!(13)), "{error}");
    assert_eq!(error["field"], "spec.rules[0].when");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("line 1, column 8 of the expression: unknown field `nmaespace`"),
        "{message}"
    );
    let idle = document("AccessPolicy", "other", "p", "{ rules: [{ action: deny }] }");
    let applied = mesh.admin("POST", "/v1/apply", &idle).await.ok();
    assert_eq!(applied["results"][0]["warnings"], json!(["it selects no server that exists"]));
}
