//! Commands that change something.

use serde_json::{Value, json};

use super::fake::{Answer, Fake, ok, problem};
use crate::failure::ExitCode;

const OBJECT: &str = "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {namespace: research, name: NAME}\n\
                      spec: {stdio: {command: x}}\n";

fn object(name: &str) -> String {
    OBJECT.replace("NAME", name)
}

fn applied(dry_run: bool, results: &[(&str, &str)]) -> Value {
    let results: Vec<_> = results
        .iter()
        .map(|(name, action)| {
            let diff = format!("--- a\n+++ b\n@@ -1 +1 @@\n-old {name}\n+new {name}\n");
            json!({ "kind": "McpServer", "namespace": "research", "name": name, "action": action,
                    "diff": if *action == "unchanged" { String::new() } else { diff }, "warnings": [] })
        })
        .collect();
    json!({ "dryRun": dry_run, "revision": 18, "results": results, "warnings": [] })
}

#[tokio::test]
async fn applied_files_are_one_request_and_a_line_per_object() {
    let fake = Fake::start(|_| {
        let mut answer = applied(false, &[("a", "created"), ("b", "changed"), ("c", "unchanged")]);
        answer["warnings"] = json!(["two servers are called a"]);
        answer["results"][1]["warnings"] = json!(["nothing selects it"]);
        ok(answer)
    })
    .await;
    let folder = fake.file("mesh/a.yaml", &object("a"));
    fake.file("mesh/sub/b.yml", &object("b"));
    let other = fake.file("c.json", &object("c"));
    let folder = folder.trim_end_matches("/a.yaml");
    let ran = fake.run(&["apply", "-f", folder, "-f", &other, "--reason", "add a canary"]).await;
    let lines =
        "mcpserver/research/a created\nmcpserver/research/b changed\nmcpserver/research/c unchanged\n";
    assert_eq!(ran.done().out, lines);
    for part in [
        "warning: mcpserver/research/b: nothing selects it\n",
        "warning: two servers are called a\n",
        "2 objects changed; the mesh is at revision 18\n",
    ] {
        assert!(ran.err.contains(part), "{}", ran.err);
    }
    let asked = fake.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].line, "POST /v1/apply?reason=add%20a%20canary&file=3%20files");
    assert_eq!(asked[0].kind, "application/yaml");
    assert_eq!(asked[0].body, format!("---\n{}---\n{}---\n{}", object("a"), object("b"), object("c")));
}

#[tokio::test]
async fn applying_what_is_there_already_says_so() {
    let fake = Fake::start(|_| ok(applied(false, &[("a", "unchanged")]))).await;
    let ran = fake.run_with(&object("a"), false, &["apply", "-f", "-"]).await;
    assert_eq!(ran.done().out, "mcpserver/research/a unchanged\n");
    assert_eq!(ran.err, "nothing to change; the mesh is at revision 18\n");
    assert_eq!(fake.lines(), ["POST /v1/apply?file=stdin"]);
}

#[tokio::test]
async fn mistakes_are_found_before_anything_is_sent() {
    let fake = Fake::start(|_| ok(json!({}))).await;
    let good = fake.file("good.yaml", &object("a"));
    let bad = fake.file("bad.yaml", &object("b").replace("command", "comand"));
    let ran = fake.run(&["apply", "-f", &good, "-f", &bad]).await;
    ran.ended(ExitCode::Failed, &[&format!("{bad}:4:"), "did you mean \"command\"?", "nothing was sent"]);
    assert!(fake.asked().is_empty() && ran.out.is_empty());
}

#[tokio::test]
async fn mistakes_that_the_control_plane_finds_are_told_with_file_and_line() {
    let fake = Fake::start(|_| {
        let errors = json!([
            { "file": "2 files", "line": 9, "column": 7, "field": "spec.stdio", "message": "no such program" },
            { "file": "2 files", "line": 6, "column": 1, "field": "", "message": "b is called a already" },
        ]);
        let detail = "2 mistakes; nothing was changed";
        Answer::Problem(422, json!({ "status": 422, "code": "invalid", "detail": detail, "errors": errors }))
    })
    .await;
    let (a, b) = (fake.file("a.yaml", &object("a")), fake.file("b.yaml", &object("b")));
    let ran = fake.run(&["apply", "-f", &a, "-f", &b]).await;
    let (first, second) =
        (format!("  {b}:3:7: spec.stdio: no such program\n"), format!("  {b}:1:1: b is called a"));
    ran.ended(ExitCode::Failed, &["2 mistakes; nothing was changed (invalid)", &first, &second]);
}

#[tokio::test]
async fn a_conflict_is_refused_and_a_missing_file_is_usage() {
    let fake = Fake::start(|_| problem(409, "conflict", "mcpserver/research/a is at 5")).await;
    let a = fake.file("a.yaml", &object("a"));
    fake.run(&["apply", "-f", &a]).await.ended(ExitCode::Refused, &["is at 5 (conflict)", "weft diff"]);
    fake.run(&["apply", "-f", "/no/such/file"]).await.ended(ExitCode::Usage, &["there is no file or folder"]);
}

#[tokio::test]
async fn a_dry_run_is_told_as_such() {
    let fake = Fake::start(|_| ok(applied(true, &[("a", "created")]))).await;
    let a = fake.file("a.yaml", &object("a"));
    let ran = fake.run(&["apply", "-f", &a, "--dry-run"]).await;
    assert_eq!(ran.done().out, "mcpserver/research/a created (dry run)\n");
    assert!(fake.lines()[0].starts_with("POST /v1/apply?dryRun=true&file="));
    let ran = fake.run(&["apply", "-f", &a, "--dry-run", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&ran.done().out).unwrap()["dryRun"], true);
    assert_eq!(fake.run(&["apply", "-f", &a, "-o", "name"]).await.done().out, "mcpserver/research/a\n");
}

#[tokio::test]
async fn a_diff_shows_what_would_change_and_changes_nothing() {
    let fake = Fake::start(|_| ok(applied(true, &[("a", "changed"), ("b", "unchanged")]))).await;
    let a = fake.file("a.yaml", &object("a"));
    let ran = fake.run(&["diff", "-f", &a]).await;
    let expected = "# mcpserver/research/a changed\n--- a\n+++ b\n@@ -1 +1 @@\n-old a\n+new a\n";
    assert_eq!(ran.done().out, expected);
    assert!(fake.lines()[0].starts_with("POST /v1/apply?dryRun=true"));
    assert_eq!(fake.run(&["diff", "-f", &a, "--exit-code"]).await.code, ExitCode::Failed);
}

#[tokio::test]
async fn objects_are_deleted_by_name_in_any_form() {
    let fake = Fake::start(|_| ok(applied(false, &[("a", "deleted")]))).await;
    let ran = fake.run(&["delete", "mcpserver/research/a"]).await;
    assert_eq!(ran.done().out, "mcpserver/research/a deleted\n");
    fake.run(&["delete", "servers", "a", "b", "-n", "research", "--reason", "x"]).await.done();
    let path = "DELETE /v1/namespaces/research/mcpservers";
    assert_eq!(
        fake.lines(),
        [format!("{path}/a"), format!("{path}/a?reason=x"), format!("{path}/b?reason=x")]
    );
    fake.run(&["delete", "servers"]).await.ended(ExitCode::Usage, &["which object"]);
}

#[tokio::test]
async fn an_object_that_is_not_there_fails_unless_that_is_allowed() {
    let fake = Fake::start(|_| problem(404, "not-found", "there is no object")).await;
    fake.run(&["delete", "route", "a"]).await.ended(ExitCode::Failed, &["there is no object (not-found)"]);
    let ran = fake.run(&["delete", "route", "a", "--ignore-missing"]).await;
    assert_eq!(ran.done().err, "route/default/a is not there\n");
}

#[tokio::test]
async fn documents_name_what_is_deleted_together() {
    let fake = Fake::start(|_| ok(applied(false, &[("a", "deleted")]))).await;
    let a = fake.file("a.yaml", &object("a"));
    fake.run(&["delete", "-f", &a]).await.done();
    assert_eq!(fake.asked()[0].line, "POST /v1/delete");
    assert_eq!(fake.asked()[0].body, object("a"));
}

#[tokio::test]
async fn a_rollback_without_a_terminal_asks_nobody() {
    let fake = Fake::start(|_| ok(applied(false, &[("a", "changed")]))).await;
    fake.run(&["rollback", "41", "--reason", "broke"]).await.done();
    assert_eq!(fake.lines(), ["POST /v1/rollback"]);
    let body: Value = serde_json::from_str(&fake.asked()[0].body).unwrap();
    assert_eq!(body, json!({ "to": 41, "dryRun": false, "reason": "broke" }));
}

#[tokio::test]
async fn a_rollback_on_a_terminal_shows_asks_and_holds_to_what_was_shown() {
    let fake = Fake::start(|asked| match asked.line.as_str() {
        "GET /v1/version" => ok(json!({ "storeRevision": 44, "publishedRevision": 44 })),
        _ => ok(applied(asked.body.contains("\"dryRun\":true"), &[("a", "changed")])),
    })
    .await;
    let ran = fake.run_with("n\n", true, &["rollback", "41"]).await;
    ran.ended(ExitCode::Failed, &["go back to revision 41? [y/N]", "nothing was changed"]);
    assert!(ran.out.contains("+new a"), "{}", ran.out);
    assert_eq!(fake.lines(), ["GET /v1/version", "POST /v1/rollback"]);
    fake.run_with("y\n", true, &["rollback", "41"]).await.done();
    let body: Value = serde_json::from_str(&fake.asked()[4].body).unwrap();
    assert_eq!(body, json!({ "to": 41, "dryRun": false, "expectRevision": 44 }));
}

#[tokio::test]
async fn tokens_and_keys_go_to_stdout_alone() {
    let fake = Fake::start(|asked| match asked.line.as_str() {
        "POST /v1/tokens" => Answer::Json(201, json!({ "token": "join-me", "id": "t1" })),
        "POST /v1/keys" => Answer::Json(201, json!({ "key": "weft_k", "id": "k1" })),
        _ => Answer::Json(204, Value::Null),
    })
    .await;
    let ran = fake.run(&["token", "create", "research/files", "--uses", "3", "--expires-in", "2h"]).await;
    assert_eq!(ran.done().out, "join-me\n");
    assert_eq!(ran.err, "token t1 lets research/files join 3 times within 2h; it is not shown again\n");
    let ran = fake.run(&["key", "create", "ci", "--scope", "operator", "--expires-in", "90d"]).await;
    assert_eq!(ran.done().out, "weft_k\n");
    fake.run(&["token", "revoke", "t1"]).await.done();
    fake.run(&["key", "revoke", "k1"]).await.done();
    let bodies: Vec<Value> =
        fake.asked()[..2].iter().map(|asked| serde_json::from_str(&asked.body).unwrap()).collect();
    let identity = json!({ "namespace": "research", "serviceAccount": "files" });
    assert_eq!(bodies[0], json!({ "identity": identity, "uses": 3, "expiresIn": "2h" }));
    assert_eq!(bodies[1], json!({ "name": "ci", "scope": "operator", "expiresIn": "90d" }));
    assert_eq!(fake.lines()[2..], ["DELETE /v1/tokens/t1", "DELETE /v1/keys/k1"]);
}

fn trust(step: &str, open: bool) -> Value {
    let waiting = if open { json!([]) } else { json!([{ "node": "a/0", "why": "has not said so" }]) };
    json!({ "trustDomain": "d", "svidLifetime": "24h", "sequence": 2, "revokedSerials": [],
        "roots": [{ "fingerprint": "ab", "notBefore": "2026-01-01T00:00:00Z", "notAfter": "2036-01-01T00:00:00Z",
                    "issuing": true, "generation": 1 }],
        "issuer": { "kind": "builtin", "notAfter": "2027-01-01T00:00:00Z", "fingerprint": "cd" },
        "rotation": { "step": step, "gate": { "open": open, "waitingFor": waiting } } })
}

#[tokio::test]
async fn a_rotation_waits_for_its_gate() {
    let looks = std::sync::atomic::AtomicU32::new(0);
    let fake = Fake::start(move |asked| match asked.line.as_str() {
        "POST /v1/trust/rotation" => ok(trust("adding", false)),
        _ => ok(trust("adding", looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0)),
    })
    .await;
    let ran = fake.run(&["trust", "rotate", "--start", "--wait"]).await;
    assert!(ran.done().out.contains("open: take the next step"), "{}", ran.out);
    assert_eq!(ran.err, "adding: waiting for a/0 (has not said so)\n");
    assert_eq!(fake.lines(), ["POST /v1/trust/rotation", "GET /v1/trust", "GET /v1/trust"]);
    let body: Value = serde_json::from_str(&fake.asked()[0].body).unwrap();
    assert_eq!(body, json!({ "action": "start", "force": false }));
}

#[tokio::test]
async fn a_gate_that_does_not_open_in_time_is_a_failure_that_names_who_is_in_the_way() {
    let fake = Fake::start(|_| ok(trust("renewing", false))).await;
    let ran = fake.run(&["trust", "rotate", "--advance", "--wait=1ms"]).await;
    ran.ended(ExitCode::Failed, &["did not open within 1ms", "a/0 (has not said so)"]);
    assert!(fake.lines().iter().all(|line| line == "GET /v1/trust"), "{:?}", fake.lines());
    let ran = fake.run(&["trust", "rotate"]).await;
    assert!(ran.done().out.contains("WAITING FOR"), "{}", ran.out);
}

#[tokio::test]
async fn a_step_that_is_refused_is_a_refusal() {
    let fake = Fake::start(|_| problem(409, "rotation-refused", "no rotation is under way; start one")).await;
    let ran = fake.run(&["trust", "rotate", "--advance", "--force"]).await;
    ran.ended(ExitCode::Refused, &["no rotation is under way"]);
    assert_eq!(fake.asked()[0].body, r#"{"action":"advance","force":true}"#);
}

#[tokio::test]
async fn a_certificate_is_refused_by_its_serial() {
    let fake = Fake::start(|_| Answer::Json(204, Value::Null)).await;
    fake.run(&["trust", "revoke", "5e0c"]).await.done();
    assert_eq!(fake.asked()[0].line, "POST /v1/trust/revocations");
    assert_eq!(fake.asked()[0].body, r#"{"serial":"5e0c"}"#);
}
