//! Commands that say what policies decide.

use serde_json::{Value, json};

use super::fake::{Fake, ok};
use crate::failure::ExitCode;

fn refused() -> Value {
    json!({ "revision": 7, "caller": "spiffe://d/ns/a/sa/b", "server": "research/files", "method": "tools/call",
        "allowed": false, "reason": "no-rule", "because": "none allows it", "audit": true,
        "shadow": ["allow a/p#1"], "moreRules": 2, "rules": [
            { "rule": "a/p#0", "action": "allow", "matches": false, "when": "false", "text": "{}" },
            { "rule": "a/p#1", "action": "allow", "matches": false, "who": "from[0]: namespaces", "what": "to[0]: tools", "text": "{}" }] })
}

#[tokio::test]
async fn an_explanation_shows_the_rules_that_almost_spoke_of_the_call() {
    let fake = Fake::start(|_| ok(refused())).await;
    let words =
        ["explain", "--as", "a/b", "--tool", "research/files/x/y", "--claim", "n=5", "--claim", "s=five"];
    let ran = fake.run(&[&words[..], &["--args", r#"{"a":1,"a":2}"#]].concat()).await;
    let expected = "\
refused: none allows it (no-rule)
it is recorded for an audit
a policy in shadow would allow a/p#1

RULE   ACTION  MATCHES  WHO   WHAT  WHEN   TEXT
a/p#0  allow   almost   fits  fits  false  {}

3 more rules speak of others; -o json shows them
";
    assert_eq!(ran.done().out, expected);
    let asked = &fake.asked()[0];
    assert_eq!((asked.line.as_str(), asked.kind.as_str()), ("POST /v1/explain", "application/json"));
    // What is odd about arguments is for the control plane to see.
    assert!(asked.body.ends_with(r#","args":{"a":1,"a":2}}"#), "{}", asked.body);
    let body: Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!((&body["server"], &body["tool"]), (&json!("research/files"), &json!("x/y")));
    assert_eq!(body["claims"], json!({ "n": 5, "s": "five" }));
    fake.run(&[&words[..], &["--exit-code"]].concat()).await.ended(ExitCode::Failed, &[]);
}

#[tokio::test]
async fn what_is_not_said_of_a_call_is_a_usage_error() {
    let fake = Fake::start(|_| ok(json!({}))).await;
    let check = async |words: &[&str], said: &str| fake.run(words).await.ended(ExitCode::Usage, &[said]);
    check(&["explain", "--as", "a/b"], "say what is called").await;
    check(&["who-can"], "say what is called").await;
    check(&["explain", "--as", "a/b", "--tool", "a/b/c", "--args", "{"], "--args is not JSON").await;
    assert!(fake.lines().is_empty());
}

#[tokio::test]
async fn who_can_shows_rules_and_identities() {
    let fake = Fake::start(|_| {
        ok(json!({ "others": false,
            "rules": [{ "rule": "a/p#0", "action": "allow", "callers": ["{\"namespaces\":[\"a\"]}", "everyone"], "when": "args.x == 1" }],
            "identities": [{ "identity": "spiffe://d/ns/a/sa/b", "may": "depends" }] }))
    })
    .await;
    let expected = "\
RULE   ACTION  CALLERS                           WHEN
a/p#0  allow   {\"namespaces\":[\"a\"]} or everyone  args.x == 1

IDENTITY              MAY
spiffe://d/ns/a/sa/b  with some arguments
";
    assert_eq!(fake.run(&["who-can", "research/files/x"]).await.done().out, expected);
    fake.run(&["who-can", "--of", "research/files", "--method", "tools/list"]).await.done();
    let lines = [
        "GET /v1/who-can?server=research%2Ffiles&tool=x",
        "GET /v1/who-can?server=research%2Ffiles&method=tools%2Flist",
    ];
    assert_eq!(fake.lines(), lines);
}

const RESOURCES: &str = "\
apiVersion: weft.dev/v1alpha1
kind: McpServer
metadata: { namespace: research, name: files }
spec: { stdio: { command: x } }
---
apiVersion: weft.dev/v1alpha1
kind: AccessPolicy
metadata: { namespace: research, name: readers }
spec:
  rules:
    - { name: public, action: allow, from: [{ namespaces: [agents] }], when: 'args.path.startsWith(\"/data/\")' }
";

#[tokio::test]
async fn a_file_of_tests_is_run_without_a_control_plane() {
    let fake = Fake::start(|_| ok(json!({}))).await;
    fake.file("mesh/all.yaml", RESOURCES);
    let tests = |more: &str| {
        format!(
            "resources: [mesh/]\ntests:\n  - {{ as: agents/a, tool: research/files/x, args: {{ path: /data/y }}, expect: allow, rule: research/readers#public }}\n{more}"
        )
    };
    let good = fake.file("good.yaml", &tests("  - { as: b/a, tool: research/files/x, expect: deny }\n"));
    let ran = fake.run(&["policy", "test", &good]).await;
    ran.done();
    assert!(ran.err.ends_with("2 of 2 decisions are as expected\n"), "{}", ran.err);
    let bad = "  - { name: odd, as: agents/a, tool: research/files/x, argsJson: '{\"path\": \"/data/y\", \"Path\": \"/etc\"}', expect: allow }\n";
    let bad = fake.file("bad.yaml", &tests(bad));
    let ran = fake.run(&["policy", "test", &bad, &good]).await;
    ran.ended(ExitCode::Failed, &["3 of 4 decisions are as expected"]);
    assert!(
        ran.out.contains("odd: expected to be allowed, is refused\n  refused: some rules allow"),
        "{}",
        ran.out
    );
    let json: Value =
        serde_json::from_str(&fake.run(&["policy", "test", &bad, "-o", "json"]).await.out).unwrap();
    assert_eq!((&json["passed"], &json["failed"]), (&json!(1), &json!(1)));
    assert_eq!(json["tests"][1]["explanation"]["reason"], "no-rule");
    assert!(fake.lines().is_empty());
}

#[tokio::test]
async fn a_file_of_tests_that_cannot_be_run_is_a_usage_error() {
    let fake = Fake::start(|_| ok(json!({}))).await;
    fake.file("mesh.yaml", RESOURCES);
    let check = async |text: &str, said: &str| {
        let file = fake.file("tests.yaml", text);
        fake.run(&["policy", "test", &file]).await.ended(ExitCode::Usage, &[said]);
    };
    let one = |test: &str| format!("resources: [mesh.yaml]\ntests: [{{ as: a/b, expect: deny, {test} }}]\n");
    check("tests: [", "is no file of tests").await;
    check("resources: [mesh.yaml]\ntests: []\n", "has 0 tests").await;
    check("resources: [none.yaml]\ntests: [{ as: a/b, tool: a/b/c, expect: deny }]\n", "there is no file")
        .await;
    check(&one("tool: research/files/x, expcet: allow"), "is no file of tests").await;
    check(&one("tool: research/none/x"), "there is no server research/none").await;
    check(&one("method: tools/list"), "expected exactly one of tool, prompt, resource and of").await;
    check(&one("tool: research/files/x, argsJson: '{\"a\":1,\"a\":2}'"), "the call cannot be read").await;
    fake.file("mesh.yaml", &RESOURCES.replace("args.path", "arg.path"));
    check(&one("tool: research/files/x"), "unknown name `arg`; did you mean `args`?").await;
}

#[tokio::test]
async fn an_explanation_says_where_a_route_leads_and_what_is_decided_there() {
    let mut told = refused();
    told["through"] = json!({ "virtualServer": "research/desk", "allowed": true, "because": "it allows it",
        "server": "research/files", "name": "x" });
    told["route"] = json!({ "route": "research/shared", "rule": 1,
        "passedOver": [{ "rule": 0, "misses": ["tools", "headers"] }],
        "leadsTo": [
            { "server": "research/files", "as": "share", "percent": 75.0, "allowed": true, "reason": "default", "because": "" },
            { "server": "research/old", "as": "fallback", "allowed": false, "reason": "no-rule", "because": "" }] });
    told["decidedAt"] = json!("research/next");
    let fake = Fake::start(move |_| ok(told.clone())).await;
    let words = ["explain", "--as", "a/b", "--tool", "research/desk/x", "--header", "x-canary=1=2"];
    let ran = fake.run(&words).await;
    let expected = "\
through research/desk to x at research/files: it allows it
the route research/shared: rule 0 asks for other tools, headers
the route research/shared: rule 1 matches

SERVER          AS        OF CALLS  DECISION  REASON
research/files  share     75%       allowed   default
research/old    fallback  -         refused   no-rule

what follows is decided at research/next
refused: none allows it (no-rule)
";
    let out = &ran.done().out;
    assert!(out.starts_with(expected), "{out}");
    let body: Value = serde_json::from_str(&fake.asked()[0].body).unwrap();
    assert_eq!(body["headers"], json!({ "x-canary": "1=2" }));
}
