use super::*;

const META: &str = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

fn modern_call(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"t","_meta":{META}}}}}"#)
}

#[tokio::test(start_paused = true)]
async fn a_modern_caller_is_served_by_a_legacy_server() {
    let mut stage = legacy();
    let answer = stage.modern(&modern_call("1"));
    let called = stage.called().await;
    assert!(!called.message.contains("_meta"), "{}", called.message);
    let question = r#"{"jsonrpc":"2.0","id":"s","method":"sampling/createMessage","params":{}}"#;
    called.ask(question).await;
    match stage.told.recv().await.unwrap() {
        Told::Answered(asker, answer) => {
            assert_eq!(asker, called.asker);
            assert!(answer.contains(r#""id":"s","error":{"code":-32601,"#), "{answer}");
        }
        other => panic!("{other:?}"),
    }
    called.respond(r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#).await;
    let answer = json(answered(answer).await).await;
    assert!(answer.contains(r#""resultType":"complete""#), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_legacy_server_is_discovered_without_being_asked() {
    let mut stage = legacy();
    let discover = r#"{"jsonrpc":"2.0","id":7,"method":"server/discover","params":{}}"#;
    let answer = json(answered(stage.modern(discover)).await).await;
    assert!(answer.contains(r#""supportedVersions":["2026-07-28"]"#), "{answer}");
    assert!(stage.calls.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn ids_that_meet_at_a_legacy_server_are_kept_apart() {
    let mut stage = legacy();
    let one = stage.modern(&modern_call("1"));
    let first = stage.called().await;
    let other = stage.modern(&modern_call("1"));
    let second = stage.called().await;
    let id = second.message.split(r#""id":"#).nth(1).unwrap().split(',').next().unwrap().to_owned();
    assert!(id.starts_with("\"weft-"), "{id}");
    second.respond(&result(&id)).await;
    assert!(json(answered(other).await).await.contains(r#""id":1,"#));
    first.respond(&result("1")).await;
    answered(one).await;
}

#[tokio::test(start_paused = true)]
async fn a_legacy_caller_is_served_by_a_modern_server() {
    let mut stage = modern();
    let id = stage.open("2025-06-18").await;
    let level = r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"warning"}}"#;
    assert_eq!(json(answered(stage.legacy(&id, level)).await).await, result("1"));
    assert!(stage.calls.try_recv().is_err(), "a modern server hears it with each call");
    let answer = stage.legacy(&id, &call("2"));
    let called = stage.called().await;
    for said in [
        r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#,
        r#""io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"}"#,
        r#""io.modelcontextprotocol/logLevel":"warning""#,
    ] {
        assert!(called.message.contains(said), "{}", called.message);
    }
    called.respond(r#"{"jsonrpc":"2.0","id":2,"result":{"content":[],"resultType":"complete"}}"#).await;
    let answer = json(answered(answer).await).await;
    assert!(!answer.contains("resultType"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn resources_that_a_legacy_caller_names_are_heard_of_from_a_modern_server() {
    let mut stage = modern();
    let id = stage.open("2025-06-18").await;
    let about = |method: &str, uri: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"resources/{method}","params":{{"uri":"{uri}"}}}}"#)
    };
    let agreed = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["a"]}}}"#;
    let mut listening = stream(answered(stage.get(&id, None)).await);
    assert_eq!(json(answered(stage.legacy(&id, &about("subscribe", "a"))).await).await, result("1"));
    let upstream = stage.called().await;
    assert!(
        upstream.message.contains(r#""notifications":{"resourceSubscriptions":["a"]}"#),
        "{}",
        upstream.message
    );
    upstream.note(agreed).await;
    upstream
        .note(r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"x"},"uri":"a"}}"#)
        .await;
    let updated = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a"}}"#;
    assert_eq!(next(&mut listening).await.unwrap(), event(Some("0-1"), updated));

    answered(stage.legacy(&id, &about("subscribe", "b"))).await;
    let both = stage.called().await;
    assert!(both.message.contains(r#"["a","b"]"#), "{}", both.message);
    assert!(!upstream.reply.is_closed(), "the one before goes on until there is another");
    both.note(agreed).await;
    upstream.reply.closed().await;

    answered(stage.legacy(&id, &about("unsubscribe", "a"))).await;
    answered(stage.legacy(&id, &about("unsubscribe", "b"))).await;
    both.reply.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_method_that_cannot_be_carried_over_costs_no_session() {
    let stage = modern();
    let id = stage.open("2025-06-18").await;
    let tasks = r#"{"jsonrpc":"2.0","id":1,"method":"tasks/list"}"#;
    let answer = answered(stage.legacy(&id, tasks)).await;
    assert_eq!(answer.status(), 200);
    assert!(json(answer).await.contains(r#""error":{"code":-32601,"#));
}
