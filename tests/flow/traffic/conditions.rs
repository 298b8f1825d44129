//! Conditions over arguments, from outside: what they let through, what they refuse, and what a policy in shadow only
//! says.

use serde_json::{Value, json};

use super::pair::{Answer, PATH, Pair};
use super::upstream::Upstream;

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{ namespace: research, name: {name} }}\n\
         spec: {{ servers: {{ names: [files] }}, {spec} }}\n"
    )
}

const PUBLIC: &str = "rules: [{ name: public, action: allow, when: 'args.path.startsWith(\"/data/\")' }]";

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_refused_by_its_arguments_and_whatever_hides_them() {
    let pair = Pair::start(Upstream::echo().await).await;
    pair.apply(&policy("public", PUBLIC)).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    assert_eq!(caller.call("read", json!({ "path": "/data/a" })).await.status, 200);
    for arguments in [
        json!({ "path": "/etc/shadow" }),
        json!({ "path": "/data/a", "Path": "/etc/shadow" }),
        json!({ "path": "/data/a\u{0}" }),
        json!({ "path": ["/data/a"] }),
        json!({}),
    ] {
        let refused = caller.call("read", arguments.clone()).await;
        assert_eq!((refused.status, refused.reason()), (403, "denied"), "{arguments}");
    }
    let twice = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"path":"/data/a","p\u0061th":"/etc"}}}"#;
    let request = http::Request::post(PATH)
        .header("host", "x")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    let refused = Answer::read(caller.send(request.body(twice.into()).unwrap()).await).await;
    assert_eq!((refused.status, refused.reason()), (400, "malformed"));
    assert_eq!(pair.upstream.seen().len(), 1, "what is refused never reaches the server");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_in_shadow_refuses_nothing_and_is_counted_and_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let pair = Pair::logging(Upstream::echo().await, &log).await;
    pair.apply(&policy("trial", &format!("shadow: true, {PUBLIC}"))).await;
    pair.apply(&policy("seen", "rules: [{ action: audit, to: [{ tools: [write] }] }]")).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    for (tool, path) in [("read", "/data/a"), ("read", "/etc/b"), ("write", "/data/c")] {
        assert_eq!(caller.call(tool, json!({ "path": path })).await.status, 200);
    }
    let counted = "weft_sidecar_shadow_refusals_total{server=\"research/files\"} 1";
    let metrics = pair.inbound.metrics.text();
    assert!(metrics.contains(counted), "{metrics}");
    pair.stop().await;
    let written = std::fs::read_to_string(&log).unwrap();
    let lines = written.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let calls = lines.filter(|line| line["method"] == "tools/call");
    let told: Vec<_> = calls.map(|line| (line["shadow"].clone(), line["audit"].clone())).collect();
    let expected = [
        (Value::Null, Value::Null),
        (json!("refuse research/trial"), Value::Null),
        (Value::Null, json!(true)),
    ];
    assert_eq!(told, expected);
}
