//! What servers want to know of callers of the other era.

use super::*;
use serde_json::{Value, json};

const ABLE: &str = r#"{"elicitation":{},"sampling":{},"roots":{}}"#;
const QUESTION: &str = r#"{"jsonrpc":"2.0","id":"s","method":"elicitation/create","params":{"message":"Sure?","requestedSchema":{"type":"object"}}}"#;

fn modern_call(id: u32, arguments: &Value, more: &Value) -> String {
    let mut params = json!({
        "name": "t", "arguments": arguments,
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": serde_json::from_str::<Value>(ABLE).unwrap(),
        },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        params[key] = value.clone();
    }
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string()
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn retry(state: &Value, response: Value) -> Value {
    json!({ "inputResponses": { "1": response }, "requestState": state })
}

/// A modern caller's call at a legacy server that asks something: what the server sees, and what the caller is answered.
async fn asked(stage: &mut Stage, caller: &str) -> (Called, Value) {
    let answer = stage.send(caller, Era::Modern, "POST", &[], &modern_call(1, &json!({"a": 1}), &json!({})));
    let called = stage.called().await;
    called.ask(QUESTION).await;
    let asked = value(&json(answered(answer).await).await);
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    (called, asked)
}

#[tokio::test(start_paused = true)]
async fn what_a_legacy_server_asks_a_modern_caller_is_told_in_an_answer_and_the_call_waits() {
    let mut stage = legacy();
    let (called, asked) = asked(&mut stage, "caller").await;
    assert_eq!(asked["id"], 1);
    assert_eq!(
        asked["result"]["inputRequests"]["1"],
        json!({
            "method": "elicitation/create",
            "params": { "message": "Sure?", "requestedSchema": { "type": "object" } },
        })
    );
    let more = retry(&asked["result"]["requestState"], json!({ "action": "accept", "content": {} }));
    let answer = stage.modern(&modern_call(2, &json!({"a": 1}), &more));
    let expected = r#"{"jsonrpc":"2.0","id":"s","result":{"action":"accept","content":{}}}"#;
    assert_eq!(stage.told.recv().await.unwrap(), Told::Answered(called.asker.clone(), expected.to_owned()));
    assert!(called.asker.abilities.form && called.asker.abilities.roots && !called.asker.abilities.url);
    called.respond(r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#).await;
    let answer = value(&json(answered(answer).await).await);
    assert_eq!((&answer["id"], &answer["result"]["resultType"]), (&json!(2), &json!("complete")));
    assert!(stage.calls.try_recv().is_err(), "for the server it was one call");
    assert_eq!(stage.front.parked.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_may_ask_several_times_and_while_the_caller_is_away() {
    let mut stage = legacy();
    let (called, first) = asked(&mut stage, "caller").await;
    called.ask(r#"{"jsonrpc":"2.0","id":9,"method":"roots/list"}"#).await;
    pass(Duration::from_millis(1)).await;
    let more = retry(&first["result"]["requestState"], json!({ "action": "decline" }));
    let second = value(&json(answered(stage.modern(&modern_call(2, &json!({"a": 1}), &more))).await).await);
    assert_eq!(second["result"]["inputRequests"]["1"], json!({ "method": "roots/list" }));
    let more = retry(&second["result"]["requestState"], json!({ "roots": [] }));
    let answer = stage.modern(&modern_call(3, &json!({"a": 1}), &more));
    for expected in [
        r#"{"jsonrpc":"2.0","id":"s","result":{"action":"decline"}}"#,
        r#"{"jsonrpc":"2.0","id":9,"result":{"roots":[]}}"#,
    ] {
        assert_eq!(
            stage.told.recv().await.unwrap(),
            Told::Answered(called.asker.clone(), expected.to_owned())
        );
    }
    called.respond(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    assert_eq!(value(&json(answered(answer).await).await)["id"], 3);
}

#[tokio::test(start_paused = true)]
async fn everything_that_a_server_asked_while_the_caller_was_away_is_asked_and_answered_once() {
    let mut stage = legacy();
    let (called, mut asked) = asked(&mut stage, "caller").await;
    for n in 0..8 {
        called.ask(&QUESTION.replace("\"s\"", &n.to_string())).await;
    }
    called.respond(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    pass(Duration::from_millis(1)).await;
    for id in 2..10 {
        let more = retry(&asked["result"]["requestState"], json!({ "action": "decline" }));
        asked = value(&json(answered(stage.modern(&modern_call(id, &json!({"a": 1}), &more))).await).await);
        assert_eq!(asked["result"]["resultType"], "input_required", "{id}: {asked}");
    }
    let more = retry(&asked["result"]["requestState"], json!({ "action": "decline" }));
    let last = value(&json(answered(stage.modern(&modern_call(10, &json!({"a": 1}), &more))).await).await);
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!(10), &json!("complete")), "{last}");
    let mut told = 0;
    while stage.told.try_recv().is_ok() {
        told += 1;
    }
    assert_eq!(told, 9, "each question is answered once");
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_comes_back_before_all_was_looked_at_loses_nothing_of_it() {
    let stage = legacy();
    let asker = Asker { caller: "caller".into(), ..Asker::nobody() };
    let known = conversation::Asked::Nobody(Bytes::from_static(b"{}"));
    let question = conversation::Question::as_it_is(asker, known, "1".to_owned(), None);
    let mut conversation = stage.front.conversation(question, PATIENCE, stage.admitted.clone());
    let note = |text: &'static str| conversation::Heard::Note(Bytes::from_static(text.as_bytes()));
    conversation.say_first([note("2"), note("3")].into());
    // Whoever kept it had looked at one more, and not at those.
    conversation.say_first([note("1")].into());
    for expected in ["1", "2", "3"] {
        assert_eq!(conversation.next().await, Some(note(expected)));
    }
}

#[tokio::test(start_paused = true)]
async fn progress_goes_on_under_the_token_that_the_caller_has_by_then() {
    let mut stage = legacy();
    let with = |token: u32| json!({ "progressToken": token });
    let meta = |token: u32, more: Value| {
        let mut call: Value = value(&modern_call(token, &json!({}), &more));
        call["params"]["_meta"]["progressToken"] = json!(token);
        call.to_string()
    };
    let answer = stage.modern(&meta(1, json!({})));
    let called = stage.called().await;
    called.ask(QUESTION).await;
    let asked = value(&json(answered(answer).await).await);
    let answer =
        stage.modern(&meta(2, retry(&asked["result"]["requestState"], json!({ "action": "accept" }))));
    stage.told.recv().await.unwrap();
    called.note(&note(1)).await;
    let mut stream = stream(answered(answer).await);
    let told = next(&mut stream).await.unwrap();
    assert!(told.contains(r#""progressToken":2"#), "{told} {}", with(2));
}

#[tokio::test(start_paused = true)]
async fn nobody_else_goes_on_with_a_call_and_nobody_with_another_or_twice() {
    let mut stage = legacy();
    let (called, asked) = asked(&mut stage, "caller").await;
    let state = &asked["result"]["requestState"];
    let accept = || json!({ "action": "accept" });
    let again = |arguments: &Value, more: &Value| modern_call(2, arguments, more);
    let same = again(&json!({"a": 1}), &retry(state, accept()));
    let stolen = stage.send("thief", Era::Modern, "POST", &[], &same);
    assert_eq!(refused(stolen).await, Refusal::InputUnknown);
    let other = stage.modern(&again(&json!({"a": 2}), &retry(state, accept())));
    assert_eq!(refused(other).await, Refusal::InputUnknown);
    let text = state.as_str().unwrap();
    let forged = format!("{}{}", &text[..text.len() - 1], if text.ends_with('0') { "1" } else { "0" });
    let forged = stage.modern(&again(&json!({"a": 1}), &retry(&json!(forged), accept())));
    assert_eq!(refused(forged).await, Refusal::InputUnknown);
    let nothing = stage.modern(&again(&json!({"a": 1}), &json!({ "requestState": state })));
    assert!(matches!(refused(nothing).await, Refusal::Invalid(_)), "and the call still waits");
    let answer = stage.modern(&same);
    assert!(matches!(stage.told.recv().await.unwrap(), Told::Answered(..)));
    assert_eq!(refused(stage.modern(&same)).await, Refusal::InputUnknown);
    called.respond(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    answered(answer).await;
    assert!(stage.calls.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_does_not_come_back_is_given_up_for_the_server_too() {
    let mut stage = legacy();
    let (called, asked) = asked(&mut stage, "caller").await;
    let given_up = r#"{"jsonrpc":"2.0","id":"s","result":{"action":"cancel"}}"#;
    assert_eq!(stage.told.recv().await.unwrap(), Told::Answered(called.asker.clone(), given_up.to_owned()));
    called.reply.closed().await;
    let late = modern_call(2, &json!({"a": 1}), &retry(&asked["result"]["requestState"], json!({})));
    assert_eq!(refused(stage.modern(&late)).await, Refusal::InputUnknown);
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_are_given_up_when_the_sidecar_is_to_stop() {
    let mut stage = legacy();
    let (called, _) = asked(&mut stage, "caller").await;
    stage.drain.cancel();
    assert!(matches!(stage.told.recv().await.unwrap(), Told::Answered(..)));
    called.reply.closed().await;
}

#[tokio::test(start_paused = true)]
async fn where_no_more_calls_may_wait_the_server_is_told_at_once_and_the_call_goes_on() {
    let limits = Limits { parked_per_caller_max: 1, ..Limits::default() };
    let mut stage = Stage::new(Era::Legacy, &limits);
    asked(&mut stage, "caller").await;
    asked(&mut stage, "another").await;
    let answer = stage.modern(&modern_call(5, &json!({}), &json!({})));
    let called = stage.called().await;
    called.ask(QUESTION).await;
    let expected = r#"{"jsonrpc":"2.0","id":"s","result":{"action":"cancel"}}"#;
    assert_eq!(stage.told.recv().await.unwrap(), Told::Answered(called.asker.clone(), expected.to_owned()));
    called.respond(r#"{"jsonrpc":"2.0","id":5,"result":{}}"#).await;
    assert_eq!(value(&json(answered(answer).await).await)["result"]["resultType"], "complete");
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_of_callers_who_are_away_has_a_limit_in_bytes() {
    let mut stage = Stage::new(Era::Legacy, &Limits { parked_bytes_max: 10, ..Limits::default() });
    let answer = stage.modern(&modern_call(5, &json!({}), &json!({})));
    let called = stage.called().await;
    called.ask(QUESTION).await;
    let expected = r#"{"jsonrpc":"2.0","id":"s","result":{"action":"cancel"}}"#;
    assert_eq!(stage.told.recv().await.unwrap(), Told::Answered(called.asker.clone(), expected.to_owned()));
    called.respond(r#"{"jsonrpc":"2.0","id":5,"result":{}}"#).await;
    assert_eq!(value(&json(answered(answer).await).await)["result"]["resultType"], "complete");
}

/// A session whose caller can be asked everything.
async fn open_able(stage: &Stage) -> String {
    let initialize = format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{ABLE},"clientInfo":{{"name":"c","version":"1"}}}}}}"#
    );
    let opened = stage.send("caller", Era::Legacy, "POST", &[], &initialize).await.unwrap();
    opened.unwrap().headers()["mcp-session-id"].to_str().unwrap().to_owned()
}

const NEEDS: &str = r#"{"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{"x":{"method":"sampling/createMessage","params":{"n":1}},"y":{"method":"elicitation/create","params":{}}},"requestState":"st"}}"#;

/// The message in an event.
fn told(event: &str) -> Value {
    value(event.lines().find_map(|line| line.strip_prefix("data: ")).filter(|it| !it.is_empty()).unwrap())
}

/// The next message on a stream.
async fn message(body: &mut Body) -> Value {
    loop {
        let event = next(body).await.unwrap();
        if event.contains("data: {") {
            return told(&event);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_modern_server_asks_a_legacy_caller_is_asked_by_requests_and_answered_by_the_same_call() {
    let mut stage = modern();
    let id = open_able(&stage).await;
    let answer = stage.legacy(&id, &call("2"));
    let called = stage.called().await;
    let declared =
        r#""io.modelcontextprotocol/clientCapabilities":{"elicitation":{},"sampling":{},"roots":{}}"#;
    assert!(called.message.contains(declared), "{}", called.message);
    called.respond(NEEDS).await;
    let mut stream = stream(answered(answer).await);
    let (first, second) = (message(&mut stream).await, message(&mut stream).await);
    assert_eq!((&first["method"], &first["params"]), (&json!("sampling/createMessage"), &json!({ "n": 1 })));
    assert_eq!(second["method"], "elicitation/create");
    for (question, result) in
        [(&second, json!({ "action": "accept" })), (&first, json!({ "role": "assistant" }))]
    {
        let given = json!({ "jsonrpc": "2.0", "id": question["id"], "result": result }).to_string();
        assert_eq!(answered(stage.legacy(&id, &given)).await.status(), 202);
    }
    let again = stage.called().await;
    let asked: Value = value(&again.message);
    assert_ne!(asked["id"], 2);
    assert_eq!(asked["params"]["requestState"], "st");
    assert_eq!(
        asked["params"]["inputResponses"],
        json!({ "x": { "role": "assistant" }, "y": { "action": "accept" } })
    );
    assert_eq!(asked["params"]["name"], "t");
    again.respond(&json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "content": [], "resultType": "complete" } }).to_string()).await;
    assert_eq!(message(&mut stream).await, json!({ "jsonrpc": "2.0", "id": 2, "result": { "content": [] } }));
}

#[tokio::test(start_paused = true)]
async fn a_caller_of_another_session_answers_nothing() {
    let mut stage = modern();
    let (id, other) = (open_able(&stage).await, open_able(&stage).await);
    let answer = stage.legacy(&id, &call("2"));
    stage.called().await.respond(NEEDS).await;
    let mut stream = stream(answered(answer).await);
    let first = message(&mut stream).await;
    let given = json!({ "jsonrpc": "2.0", "id": first["id"], "result": {} }).to_string();
    answered(stage.legacy(&other, &given)).await;
    // It went where answers go that are to nothing of ours: to the server, which knows nothing of it either.
    assert!(matches!(stage.told.recv().await.unwrap(), Told::Answered(..)));
    assert!(stage.calls.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_answers_with_an_error_or_not_at_all_ends_the_call() {
    for (answer_with, reason) in
        [(Some(json!({ "code": -1, "message": "no" })), "input_refused"), (None, "input_overdue")]
    {
        let mut stage = modern();
        let id = open_able(&stage).await;
        let answer = stage.legacy(&id, &call("2"));
        stage.called().await.respond(NEEDS).await;
        let mut stream = stream(answered(answer).await);
        let first = message(&mut stream).await;
        message(&mut stream).await;
        if let Some(error) = answer_with {
            let given = json!({ "jsonrpc": "2.0", "id": first["id"], "error": error }).to_string();
            answered(stage.legacy(&id, &given)).await;
        }
        let end = message(&mut stream).await;
        assert_eq!((&end["id"], &end["error"]["data"]["reason"]), (&json!(2), &json!(reason)));
        assert!(stage.calls.try_recv().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_form_that_is_answered_with_an_error_is_one_that_was_cancelled() {
    let mut stage = modern();
    let id = open_able(&stage).await;
    let answer = stage.legacy(&id, &call("2"));
    let needs = r#"{"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{"y":{"method":"elicitation/create","params":{}}}}}"#;
    stage.called().await.respond(needs).await;
    let mut stream = stream(answered(answer).await);
    let first = message(&mut stream).await;
    let given =
        json!({ "jsonrpc": "2.0", "id": first["id"], "error": { "code": -1, "message": "no" } }).to_string();
    answered(stage.legacy(&id, &given)).await;
    let again = value(&stage.called().await.message);
    assert_eq!(again["params"]["inputResponses"], json!({ "y": { "action": "cancel" } }));
    assert_eq!(again["params"].get("requestState"), None);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_again_and_again_is_broken() {
    let mut stage = modern();
    let id = open_able(&stage).await;
    let mut answer = stage.legacy(&id, &call("2"));
    let mut asked = 0;
    let end = loop {
        let called = tokio::select! {
            called = stage.calls.recv() => called.unwrap(),
            end = &mut answer => break end.unwrap(),
        };
        asked += 1;
        let id = value(&called.message)["id"].clone();
        let needs = json!({
            "jsonrpc": "2.0", "id": id, "result": { "resultType": "input_required", "requestState": "s" },
        });
        called.respond(&needs.to_string()).await;
    };
    assert_eq!(asked, 17);
    match end {
        Ok(stream) => {
            let end = message(&mut self::stream(stream)).await;
            assert_eq!(end["error"]["data"]["reason"], "upstream_broke");
        }
        Err(refusal) => assert!(matches!(refusal, Refusal::UpstreamBroke(_)), "{refusal:?}"),
    }
}
