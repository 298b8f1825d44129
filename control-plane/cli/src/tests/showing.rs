//! Commands that show something.

use serde_json::{Value, json};
use weft_proto::resource;

use super::fake::{Fake, ok, problem};
use crate::failure::ExitCode;

fn server(name: &str, team: &str) -> Value {
    json!({ "apiVersion": "weft.dev/v1alpha1", "kind": "McpServer",
        "metadata": { "namespace": "research", "name": name, "labels": { "team": team }, "resourceVersion": "5" },
        "spec": { "stdio": { "command": "npx" } } })
}

#[tokio::test]
async fn a_listing_gathers_every_page() {
    let fake = Fake::start(|asked| match asked.line.contains("continue=next") {
        false => ok(json!({ "revision": 9, "items": [server("a", "x")], "continue": "next" })),
        true => ok(json!({ "revision": 9, "items": [server("b", "y")] })),
    })
    .await;
    let ran = fake.run(&["get", "servers", "-A"]).await;
    let expected = "\
NAMESPACE  NAME  WHERE       PROTOCOL  ACCOUNT
research   a     stdio: npx  auto      any
research   b     stdio: npx  auto      any
";
    assert_eq!(ran.done().out, expected);
    let lines = [
        "GET /v1/resources?kind=mcpservers&limit=500",
        "GET /v1/resources?kind=mcpservers&limit=500&continue=next",
    ];
    assert_eq!(fake.lines(), lines);
}

#[tokio::test]
async fn objects_are_shown_in_every_form() {
    let fake =
        Fake::start(|_| ok(json!({ "revision": 9, "items": [server("a", "x"), server("b", "y")] }))).await;
    let run =
        async |form: &str| fake.run(&["get", "all", "-n", "research", "-o", form]).await.done().out.clone();
    assert_eq!(run("name").await, "mcpserver/research/a\nmcpserver/research/b\n");
    assert!(
        run("wide")
            .await
            .starts_with("KIND       NAMESPACE  NAME  VERSION  LABELS\nmcpserver  research   a     5")
    );
    let yaml = run("yaml").await;
    assert_eq!(resource::parse("y", &yaml).unwrap().len(), 2, "{yaml}");
    let json: Value = serde_json::from_str(&run("json").await).unwrap();
    assert_eq!((&json["revision"], json["items"].as_array().unwrap().len()), (&json!(9), 2));
}

#[tokio::test]
async fn one_object_is_shown_by_its_name() {
    let fake = Fake::start(|_| ok(server("a", "x"))).await;
    let ran = fake.run(&["get", "mcpserver/research/a", "-o", "yaml"]).await;
    assert!(ran.done().out.starts_with("apiVersion: weft.dev/v1alpha1\nkind: McpServer\n"), "{}", ran.out);
    let ran = fake.run(&["get", "mcp", "a", "-n", "research"]).await;
    assert!(ran.done().out.contains("research   a     stdio: npx"), "{}", ran.out);
    assert_eq!(fake.lines(), ["GET /v1/namespaces/research/mcpservers/a"; 2]);
}

#[tokio::test]
async fn an_empty_namespace_says_how_to_look_elsewhere() {
    let fake = Fake::start(|_| ok(json!({ "revision": 9, "items": [] }))).await;
    let ran = fake.run(&["get", "routes"]).await;
    assert_eq!(ran.done().out, "");
    assert_eq!(
        ran.err,
        "there are no routes in the namespace default; -n names another, -A means every one\n"
    );
    fake.run(&["get", "routes", "-A", "-l", "a=b"]).await.done();
    assert_eq!(fake.lines()[1], "GET /v1/resources?kind=routes&labels=a%3Db&limit=500");
}

#[tokio::test]
async fn words_that_contradict_each_other_are_usage_errors() {
    let fake = Fake::start(|_| ok(json!({}))).await;
    let check = async |words: &[&str], said: &str| fake.run(words).await.ended(ExitCode::Usage, &[said]);
    check(&["get", "mcpsrver"], "did you mean \"mcpserver\"?").await;
    check(&["get", "route", "a", "-A"], "-A says nothing").await;
    check(&["get", "route", "a", "-l", "x=y"], "--selector says nothing").await;
    check(&["get", "route/x/a", "-n", "y"], "two namespaces").await;
    check(&["check", "--health-url", "ftp://x"], "the health URL").await;
}

#[tokio::test]
async fn the_history_is_listed_with_what_each_revision_changed() {
    let fake = Fake::start(|_| {
        let change =
            |name: &str| json!({ "kind": "Route", "namespace": "n", "name": name, "action": "created" });
        let changes: Vec<_> = ["a", "b", "c", "d"].iter().map(|name| change(name)).collect();
        ok(json!({ "items": [{ "revision": 42, "at": "2026-05-01T12:00:00.5Z", "author": "admin",
                               "reason": "first\nline", "changes": changes }], "next": 42 }))
    })
    .await;
    let ran = fake.run(&["history", "--kind", "route/n/a", "--limit", "1"]).await;
    let expected = "\
REVISION  AT                    AUTHOR  CHANGES                                                           REASON
42        2026-05-01T12:00:00Z  admin   route/n/a created, route/n/b created, route/n/c created, +1 more  first line
";
    assert_eq!(ran.done().out, expected);
    assert_eq!(ran.err, "there may be earlier changes: weft history --before 42\n");
    assert_eq!(fake.lines(), ["GET /v1/history?limit=1&kind=routes&namespace=n&name=a"]);
}

#[tokio::test]
async fn one_revision_is_shown_with_its_diff() {
    let fake = Fake::start(|_| {
        ok(json!({ "revision": 42, "at": "2026-05-01T12:00:00Z", "author": "admin", "reason": "why not",
            "changes": [{ "kind": "Route", "namespace": "n", "name": "a", "action": "changed", "diff": "-x\n+y\n" }] }))
    })
    .await;
    let ran = fake.run(&["history", "42"]).await;
    let expected = "revision 42  2026-05-01T12:00:00Z  by admin\nwhy not\n\n# route/n/a changed\n-x\n+y\n";
    assert_eq!(ran.done().out, expected);
    assert_eq!(fake.lines(), ["GET /v1/history/42"]);
}

#[tokio::test]
async fn the_audit_trail_is_listed_and_filtered() {
    let fake = Fake::start(|_| {
        ok(json!({ "items": [{ "sequence": 7, "at": "2026-05-01T12:00:00Z", "who": "ci", "from": "10.0.0.1:5",
            "action": "apply", "object": "12 objects", "outcome": "refused", "detail": "scope\u{1b}[31m" }] }))
    })
    .await;
    let ran = fake.run(&["audit", "--who", "ci", "--action", "apply"]).await;
    assert!(
        ran.done().out.contains("ci   10.0.0.1:5  apply   12 objects  refused  scope\\u{1b}[31m\n"),
        "{}",
        ran.out
    );
    assert_eq!(fake.lines(), ["GET /v1/audit?limit=50&who=ci&action=apply"]);
}

#[tokio::test]
async fn tokens_and_keys_are_listed_without_secrets() {
    let fake = Fake::start(|asked| match asked.line.as_str() {
        "GET /v1/tokens" => ok(json!({ "items": [{ "id": "t1", "identity": { "namespace": "a", "serviceAccount": "b" },
            "uses": 2, "usesLeft": 1, "expiresAt": "2020-01-01T00:00:00Z", "createdAt": "2020-01-01T00:00:00Z",
            "createdBy": "admin", "state": "expired" }] })),
        _ => ok(json!({ "items": [{ "id": "k1", "name": "ci", "scope": "operator", "createdAt": "2020-01-01T00:00:00Z",
            "createdBy": "admin", "expired": false }] })),
    })
    .await;
    let ran = fake.run(&["token", "list"]).await;
    assert!(ran.done().out.contains("t1  a/b       expired  1          expired "), "{}", ran.out);
    let ran = fake.run(&["key", "list"]).await;
    assert!(ran.done().out.contains("k1  ci    operator  never    -"), "{}", ran.out);
}

#[tokio::test]
async fn the_version_of_the_command_is_known_without_a_control_plane() {
    let fake = Fake::start(|_| problem(503, "overloaded", "busy")).await;
    let ran = fake.run(&["version", "--client"]).await;
    assert_eq!(ran.done().out, format!("client  {}\n", env!("CARGO_PKG_VERSION")));
    assert!(fake.asked().is_empty());
    let ran = fake.run(&["version"]).await;
    ran.ended(ExitCode::Unreachable, &["busy"]);
    assert!(ran.out.starts_with("client  "));
}

#[tokio::test]
async fn every_shell_gets_its_script() {
    let fake = Fake::start(|_| ok(json!({}))).await;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = fake.run(&["completion", shell]).await;
        assert!(ran.done().out.contains("rollback"), "{shell}");
    }
}
