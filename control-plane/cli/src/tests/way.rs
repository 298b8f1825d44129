//! The way to the control plane, and what is said where it ends.

use serde_json::json;
use tokio::net::TcpListener;

use super::fake::{Answer, Fake, TOKEN, command, context, ok, problem};
use crate::app;
use crate::credentials::Secret;
use crate::failure::ExitCode;
use crate::terminal::Terminal;

#[tokio::test]
async fn a_request_carries_the_token_and_is_told_with_details_only_when_asked_for() {
    let fake =
        Fake::start(|_| ok(json!({ "version": "0.1.0", "apiVersion": "v1", "trustDomain": "d" }))).await;
    let ran = fake.run(&["version"]).await;
    assert!(ran.done().out.contains("server  0.1.0\n"), "{}", ran.out);
    assert_eq!(ran.err, "");
    assert_eq!(fake.asked()[0].token, format!("Bearer {TOKEN}"));
    let (terminal, _, err) = Terminal::captured("", false);
    let context = fake.context(terminal.verbose());
    assert_eq!(app::run(command(&["version"]), &context).await, ExitCode::Done);
    let err = err.text();
    assert!(
        err.contains("> GET /v1/version at https://127.0.0.1:") && err.contains("request req-1"),
        "{err}"
    );
    assert!(!err.contains(TOKEN) && !format!("{context:?}").contains(TOKEN), "{err}");
}

#[tokio::test]
async fn a_control_plane_that_does_not_run_is_unreachable() {
    let fake = Fake::start(|_| ok(json!({}))).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (terminal, _, err) = Terminal::captured("", false);
    let mut context = fake.context(terminal);
    context.given.server = Some(format!("https://{closed}").parse().unwrap());
    assert_eq!(app::run(command(&["get", "servers"]), &context).await, ExitCode::Unreachable);
    let err = err.text();
    assert!(err.contains("cannot reach the control plane at https://127.0.0.1:"), "{err}");
    assert!(err.contains("is the control plane running? start one with `weft up`"), "{err}");
}

#[tokio::test]
async fn a_server_that_proves_to_be_somebody_else_gets_no_token() {
    let (real, other) = (Fake::start(|_| ok(json!({}))).await, Fake::start(|_| ok(json!({}))).await);
    let (terminal, _, err) = Terminal::captured("", false);
    let mut context = real.context(terminal);
    context.given.server = Some(other.server.parse().unwrap());
    assert_eq!(app::run(command(&["get", "servers"]), &context).await, ExitCode::Unreachable);
    assert!(err.text().contains("does not prove to be the control plane"), "{}", err.text());
    assert!(other.asked().is_empty());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_believed() {
    let fake = Fake::with_certificate_for("mesh.example", |_| ok(json!({}))).await;
    let ran = fake.run(&["get", "servers"]).await;
    ran.ended(ExitCode::Unreachable, &["is not for 127.0.0.1", "--public-host"]);
}

#[tokio::test]
async fn a_server_without_tls_is_told_as_such() {
    let fake = Fake::start(|_| ok(json!({}))).await;
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("https://{}", plain.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let (terminal, _, err) = Terminal::captured("", false);
    let mut context = fake.context(terminal);
    context.given.server = Some(server.parse().unwrap());
    assert_eq!(app::run(command(&["get", "servers"]), &context).await, ExitCode::Unreachable);
    assert!(err.text().contains("does not speak TLS"), "{}", err.text());
}

#[tokio::test]
async fn a_control_plane_that_does_not_answer_in_time_is_unreachable() {
    let fake = Fake::start(|_| Answer::Silence).await;
    let (terminal, _, err) = Terminal::captured("", false);
    let mut context = fake.context(terminal);
    context.patience = std::time::Duration::from_millis(100);
    assert_eq!(app::run(command(&["get", "servers"]), &context).await, ExitCode::Unreachable);
    assert!(err.text().contains("gave no answer in time"), "{}", err.text());
}

#[tokio::test]
async fn refusals_of_the_control_plane_have_their_codes() {
    let check = async |status, code: &'static str, expected, said: &[&str]| {
        let fake = Fake::start(move |_| problem(status, code, "the detail")).await;
        fake.run(&["get", "servers"]).await.ended(expected, &[said, &["the detail", code, "req-1"]].concat());
    };
    check(401, "unauthenticated", ExitCode::Refused, &["unknown, expired or revoked"]).await;
    check(403, "forbidden", ExitCode::Refused, &["wider scope"]).await;
    check(404, "not-found", ExitCode::Failed, &[]).await;
    check(409, "conflict", ExitCode::Refused, &["what is there now"]).await;
    check(409, "rotation-refused", ExitCode::Refused, &["weft trust rotate"]).await;
    check(409, "last-admin-key", ExitCode::Refused, &["make another admin key first"]).await;
    check(429, "too-many-attempts", ExitCode::Refused, &["repeat in a moment"]).await;
    check(500, "internal", ExitCode::Failed, &["the control plane's log"]).await;
    check(503, "overloaded", ExitCode::Unreachable, &["repeat"]).await;
    check(503, "contended", ExitCode::Refused, &["repeat"]).await;
}

#[tokio::test]
async fn an_answer_that_is_not_understood_names_the_versions_as_suspects() {
    let fake = Fake::start(|_| ok(json!({ "items": 7 }))).await;
    fake.run(&["get", "servers"]).await.ended(ExitCode::Failed, &["could not be understood", "weft version"]);
}

#[tokio::test]
async fn without_credentials_the_next_step_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (terminal, _, err) = Terminal::captured("", false);
    let code = app::run(command(&["get", "servers"]), &context(folder.path(), terminal)).await;
    assert_eq!(code, ExitCode::Failed);
    assert!(
        err.text().contains("no control plane is known") && err.text().contains("weft up"),
        "{}",
        err.text()
    );
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_error() {
    let fake = Fake::start(|_| ok(json!({ "revision": 1, "items": [{ "kind": "Route" }] }))).await;
    let code = app::run(command(&["get", "routes"]), &fake.context(Terminal::closed())).await;
    assert_eq!(code, ExitCode::Done);
}

#[tokio::test]
async fn a_token_that_cannot_be_sent_is_a_usage_error() {
    let fake = Fake::start(|_| ok(json!({}))).await;
    let (terminal, _, err) = Terminal::captured("", false);
    let mut context = fake.context(terminal);
    context.given.token = Some(Secret::from("a\nb"));
    assert_eq!(app::run(command(&["get", "servers"]), &context).await, ExitCode::Usage);
    assert!(err.text().contains("the token cannot be used"), "{}", err.text());
}
