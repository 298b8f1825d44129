//! Who may do what with the interface.

use super::*;

#[tokio::test]
async fn every_operation_is_routed_and_its_scope_is_enforced() {
    let mesh = Mesh::start().await;
    let readonly = mesh.key("eyes", "readonly").await;
    let operator = mesh.key("hands", "operator").await;
    let document = weft_control_plane::api::openapi();
    let mut seen = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = method.to_uppercase();
            let path = path.replace("{plural}", "mcpservers").replace("{revision}", "1");
            let path = path.replace(['{', '}'], "");
            let scope = operation["x-weft-scope"].as_str();
            seen += 1;
            let Some(scope) = scope else {
                mesh.as_nobody(&method, &path).await.status(200);
                continue;
            };
            // Each from an address of its own: this is not about guessing keys.
            mesh.as_nobody_from(seen, &method, &path).await.refused(401, "unauthenticated");
            for (key, held) in [(&readonly, "readonly"), (&operator, "operator")] {
                let answer = mesh.as_key(key, &method, &path, "").await;
                let rank = |scope: &str| ["readonly", "operator", "admin"].iter().position(|it| *it == scope);
                match rank(held) < rank(scope) {
                    true => _ = answer.refused(403, "forbidden"),
                    false => assert!(
                        ![401, 403, 405].contains(&answer.status),
                        "{method} {path}: {}",
                        answer.status
                    ),
                }
            }
            let answer = mesh.admin(&method, &path, "").await;
            assert!(![401, 403, 405].contains(&answer.status), "{method} {path}: {}", answer.status);
            assert!(answer.json().is_none_or(|it| it["code"] != "unknown-route"), "{method} {path}");
        }
    }
    assert_eq!(seen, 50);
}

#[tokio::test]
async fn whatever_changes_something_takes_more_than_readonly() {
    let document = weft_control_plane::api::openapi();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            // A question that is too long for an address changes nothing.
            let asks = method == "get" || operation["operationId"] == "explainCall";
            assert!(asks || operation["x-weft-scope"] != "readonly", "{method} {path}");
        }
    }
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked() {
    let mesh = Mesh::start().await;
    let key = mesh.key("ci", "operator").await;
    mesh.as_key(&key, "GET", "/v1/version", "").await.ok();
    let list = mesh.admin("GET", "/v1/keys", "").await.ok();
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["admin", "ci"]);
    assert!(list["items"][1]["lastUsedAt"].is_string());
    assert!(!list.to_string().contains("hash") && !list.to_string().contains(&key));
    let body = json!({ "name": "ci", "scope": "admin" }).to_string();
    mesh.admin("POST", "/v1/keys", &body).await.refused(409, "name-taken");
    let id = |at: usize| format!("/v1/keys/{}", list["items"][at]["id"].as_str().unwrap());
    mesh.admin("DELETE", &id(0), "").await.refused(409, "last-admin-key");
    mesh.admin("DELETE", &id(1), "").await.status(204);
    mesh.as_key(&key, "GET", "/v1/version", "").await.refused(401, "unauthenticated");
    mesh.admin("DELETE", &id(1), "").await.refused(404, "not-found");
    for bad in ["{}", "{\"name\":\"x\",\"scope\":\"root\"}", "{\"name\":\"X\",\"scope\":\"admin\"}", "[", ""]
    {
        mesh.admin("POST", "/v1/keys", bad).await.refused(400, "bad-body");
    }
}

#[tokio::test]
async fn tokens_are_made_listed_redeemed_and_revoked() {
    let mesh = Mesh::start().await;
    let wish =
        json!({ "identity": { "namespace": "research", "serviceAccount": "files" }, "description": "first" });
    let made = mesh.admin("POST", "/v1/tokens", &wish.to_string()).await.status(201);
    let token: weft_certs::join::JoinToken = made["token"].as_str().unwrap().parse().unwrap();
    assert_eq!((&made["usesLeft"], &made["state"]), (&json!(1), &json!("active")));
    let now = weft_control_plane::clock::now();
    let tries = (0..16).map(|_| mesh.tokens.redeem(&token, now));
    let granted = futures_util::future::join_all(tries).await.into_iter().filter_map(Result::ok);
    assert_eq!(
        granted.map(|it| it.to_string()).collect::<Vec<_>>(),
        ["spiffe://corp.example/ns/research/sa/files"]
    );
    let list = mesh.admin("GET", "/v1/tokens", "").await.ok();
    assert_eq!(
        (&list["items"][0]["state"], &list["items"][0]["createdBy"]),
        (&json!("used"), &json!("admin"))
    );
    assert!(!list.to_string().contains("hash"));
    let path = format!("/v1/tokens/{}", token.id());
    mesh.admin("DELETE", &path, "").await.status(204);
    assert_eq!(mesh.admin("GET", "/v1/tokens", "").await.ok()["items"][0]["state"], "revoked");
    mesh.admin("DELETE", "/v1/tokens/nobody", "").await.refused(404, "not-found");
    let long = json!({ "identity": wish["identity"], "expiresIn": "365d" }).to_string();
    mesh.admin("POST", "/v1/tokens", &long).await.refused(422, "limit-exceeded");
}

#[tokio::test]
async fn what_was_done_and_what_was_refused_is_in_the_audit_trail() {
    let mesh = Mesh::start().await;
    let eyes = mesh.key("eyes", "readonly").await;
    mesh.as_nobody("POST", "/v1/apply").await.refused(401, "unauthenticated");
    mesh.as_key(&eyes, "POST", "/v1/apply", "").await.refused(403, "forbidden");
    mesh.admin("POST", "/v1/apply", "kind: Nonsense").await.refused(422, "invalid");
    let revision = mesh.apply(&server("a", "")).await;
    let stale = server("a", "").replace("name: a", "name: a, resourceVersion: '1'");
    mesh.admin("POST", "/v1/apply", &stale).await.refused(409, "conflict");
    mesh.admin("POST", "/v1/trust/rotation", "{\"action\":\"start\"}").await.ok();
    mesh.admin("POST", "/v1/trust/rotation", "{\"action\":\"abort\"}").await.refused(409, "rotation-refused");
    mesh.admin("POST", "/v1/trust/revocations", "{\"serial\":\"abc\"}").await.status(204);
    let list = mesh.admin("GET", "/v1/audit", "").await.ok();
    let told: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| ["who", "action", "outcome"].map(|field| it[field].as_str().unwrap()).join(" "))
        .collect();
    assert_eq!(
        told,
        [
            "admin trust.revocation done",
            "admin trust.rotation refused",
            "admin trust.rotation done",
            "admin apply refused",
            "admin apply done",
            "admin apply refused",
            "eyes apply refused",
            "anonymous apply refused",
            "admin key.create done",
            "control-plane key.create done",
        ]
    );
    let done = &list["items"][4];
    assert_eq!((&done["revision"], &done["object"]), (&json!(revision), &json!("mcpservers/research/a")));
    assert_eq!(done["from"], "192.0.2.1:4711");
    assert!(list["items"][3]["detail"].as_str().unwrap().starts_with("conflict: "));
    let filtered = mesh.admin("GET", "/v1/audit?who=admin&action=trust.&limit=2", "").await.ok();
    assert_eq!(filtered["items"].as_array().unwrap().len(), 2);
    let next = format!("/v1/audit?who=admin&action=trust.&limit=2&before={}", filtered["next"]);
    let rest = mesh.admin("GET", &next, "").await.ok();
    assert_eq!((rest["items"].as_array().unwrap().len(), rest.get("next")), (1, None));
}

#[tokio::test]
async fn whoever_guesses_is_slowed_down_and_floods_no_trail() {
    let mesh = Mesh::start().await;
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(mesh.as_nobody("POST", "/v1/apply").await);
    }
    assert!(answers[0].headers.contains_key("www-authenticate"));
    let throttled = answers.pop().unwrap();
    assert!(throttled.headers.contains_key("retry-after"));
    throttled.refused(429, "too-many-attempts");
    let list = mesh.admin("GET", "/v1/audit?who=anonymous", "").await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 10);
}
