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

const ROUTE: &str = "{ server: research/files, rules: [\
     { match: { tools: [write], headers: { x-canary: ['1'] } }, to: [{ server: research/next }] },\
     { match: { tools: ['read_*'] }, to: [{ server: research/files, weight: 3 }, { server: research/next, weight: 1 }, \
     { server: research/idle, weight: 0 }], fallback: [research/old], mirror: { server: research/copy, percent: 10 } }] }";

/// A mesh in which the calls of `research/files` are shared with others.
async fn routed() -> Mesh {
    let mesh = Mesh::start().await;
    let servers: String =
        ["files", "next", "idle", "old", "copy"].iter().map(|name| server(name, "")).collect();
    let policy = "{ servers: { names: [next, copy] }, rules: [{ name: no, action: deny, to: [{ tools: [read_file] }] }] }";
    let read_only = "{ servers: { names: [copy] }, tools: ['read_*'], retry: read-only }";
    mesh.apply(
        &(servers
            + &document("Route", "research", "shared", ROUTE)
            + &document("AccessPolicy", "research", "next", policy)
            + &document("ToolPolicy", "research", "copies", read_only)),
    )
    .await;
    mesh
}

#[tokio::test]
async fn a_call_is_explained_along_its_route_and_decided_at_each_server() {
    let mesh = routed().await;
    let explain = async |more: Value| mesh.admin("POST", "/v1/explain", &question(&more)).await.ok();
    let told = explain(json!({})).await;
    let (route, led) = (&told["route"], &told["route"]["leadsTo"]);
    assert_eq!((&route["route"], &route["rule"]), (&json!("research/shared"), &json!(1)), "{told}");
    assert_eq!(route["passedOver"], json!([{ "rule": 0, "misses": ["tools", "headers"] }]));
    let shown =
        |led: &Value| json!([led["server"], led["as"], led["percent"], led["allowed"], led["reason"]]);
    assert_eq!(
        led.as_array().unwrap().iter().map(shown).collect::<Vec<_>>(),
        [
            json!(["research/files", "share", 75.0, true, "default"]),
            json!(["research/next", "share", 25.0, false, "research/next#no"]),
            json!(["research/idle", "share", 0.0, true, "default"]),
            json!(["research/old", "fallback", null, true, "default"]),
            json!(["research/copy", "mirror", 10.0, false, "research/next#no"]),
        ]
    );
    // A quarter of its calls would be refused, so that the whole is not told to be allowed.
    assert_eq!((&told["server"], &told["decidedAt"]), (&json!("research/files"), &json!("research/next")));
    assert_eq!((&told["allowed"], &told["reason"]), (&json!(false), &json!("research/next#no")));
    let other = explain(json!({ "tool": "read_mail" })).await;
    assert_eq!(
        (&other["allowed"], other.get("decidedAt")),
        (&json!(true), None),
        "the largest share decides"
    );
    let written = explain(json!({ "tool": "write", "headers": { "X-Canary": "1" } })).await;
    assert_eq!((&written["route"]["rule"], &written["decidedAt"]), (&json!(0), &json!("research/next")));
    let plain = explain(json!({ "tool": "write" })).await;
    assert_eq!(
        (plain["route"].get("rule"), plain.get("decidedAt")),
        (None, None),
        "the server itself is called"
    );
    assert_eq!(plain["route"]["passedOver"][0]["misses"], json!(["headers"]));
}

#[tokio::test]
async fn a_call_is_explained_through_a_virtual_server_by_the_name_that_is_shown() {
    let mesh = routed().await;
    catalogue::offers(&mesh, "files", r#"{"name":"read_file"}"#);
    let desk = "{ members: [{ server: research/files }], for: [{ namespaces: [agents] }] }";
    let policy =
        "{ virtualServers: [desk], rules: [{ name: no, action: deny, to: [{ tools: [files_wipe] }] }] }";
    mesh.apply(
        &(document("VirtualServer", "research", "desk", desk)
            + &document("AccessPolicy", "research", "desk", policy)),
    )
    .await;
    let explain = async |more: Value| mesh.admin("POST", "/v1/explain", &question(&more)).await.ok();
    let told = explain(json!({ "server": "research/desk", "tool": "files_read_file" })).await;
    let through = &told["through"];
    assert_eq!(
        (&through["virtualServer"], &through["server"], &through["name"]),
        (&json!("research/desk"), &json!("research/files"), &json!("read_file")),
        "{told}"
    );
    // From there it goes the way of any call of the member.
    assert_eq!((&told["route"]["rule"], &told["decidedAt"]), (&json!(1), &json!("research/next")));
    let reason = async |more: Value| explain(more).await["reason"].clone();
    assert_eq!(reason(json!({ "server": "research/desk", "tool": "files_wipe" })).await, "research/desk#no");
    assert_eq!(reason(json!({ "server": "research/desk", "tool": "read_file" })).await, "not-shown");
    let other = json!({ "server": "research/desk", "tool": "files_read_file", "as": "others/x" });
    assert_eq!(reason(other).await, "audience");
}
