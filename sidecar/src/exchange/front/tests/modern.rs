use http::StatusCode;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_response_alone_is_json_and_every_byte_passes() {
    let mut stage = modern();
    let request = r#"{ "jsonrpc":"2.0", "method":"tools/call", "id":"\u0061", "params":{"name":"t"} }"#;
    let answer = stage.modern(request);
    let called = stage.called().await;
    assert_eq!(called.message, request);
    assert_eq!(called.asker, Asker { caller: "caller".into(), ..Asker::nobody() });
    let response = r#"{"id":"\u0061",  "jsonrpc":"2.0","result":{"n":1.0e0}}"#;
    called.respond(response).await;
    let answer = answered(answer).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(json(answer).await, response);
}

#[tokio::test(start_paused = true)]
async fn with_the_first_note_it_is_a_stream_of_one_event_for_each_message() {
    let mut stage = modern();
    let answer = stage.modern(&call("1"));
    let called = stage.called().await;
    called.note(&note(1)).await;
    let answer = answered(answer).await;
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    let mut body = stream(answer);
    assert_eq!(next(&mut body).await.unwrap(), event(None, &note(1)));
    called.note(&note(2)).await;
    assert_eq!(next(&mut body).await.unwrap(), event(None, &note(2)));
    called.respond(&result("1")).await;
    assert_eq!(next(&mut body).await.unwrap(), event(None, &result("1")));
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_silent_call_becomes_a_stream_that_is_kept_alive() {
    let mut stage = modern();
    let begun = Instant::now();
    let answer = stage.modern(&call("1"));
    let called = stage.called().await;
    let mut body = stream(answered(answer).await);
    assert_eq!(begun.elapsed(), Duration::from_secs(15));
    assert_eq!(next(&mut body).await.unwrap(), ":\n\n");
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
    called.respond(&result("1")).await;
    assert_eq!(next(&mut body).await.unwrap(), event(None, &result("1")));
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_takes_the_call_back_at_once() {
    let mut stage = modern();
    let answer = stage.modern(&call("1"));
    let called = stage.called().await;
    let left = Instant::now();
    answer.abort();
    called.reply.closed().await;

    let answer = stage.modern(&call("1"));
    let called = stage.called().await;
    called.note(&note(1)).await;
    let body = stream(answered(answer).await);
    drop(body);
    called.reply.closed().await;
    assert_eq!(left.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_protocol_have_its_status_and_others_none() {
    let mut stage = modern();
    for (code, expected) in [
        (-32601, 404),
        (-32020, 400),
        (-32021, 400),
        (-32022, 400),
        (-32600, 400),
        (-32602, 200),
        (-32603, 200),
        (7, 200),
    ] {
        let answer = stage.modern(&call("1"));
        let error = format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":"m"}}}}"#);
        stage.called().await.respond(&error).await;
        assert_eq!(answered(answer).await.status(), expected, "{code}");
    }
    let answer = stage.modern(&call("1"));
    stage.called().await.respond(r#"{"jsonrpc":"2.0","id":1,"result":{"error":{"code":-32601}}}"#).await;
    assert_eq!(answered(answer).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_as_one_until_the_stream_has_begun() {
    let mut stage = modern();
    let answer = stage.modern(&call("1"));
    stage.called().await.reply.send(Err(Refusal::ChildExited("status 1".to_owned()))).await.unwrap();
    assert_eq!(refused(answer).await, Refusal::ChildExited("status 1".to_owned()));

    let answer = stage.modern(&call("\"a\""));
    let called = stage.called().await;
    called.note(&note(1)).await;
    let mut body = stream(answered(answer).await);
    next(&mut body).await.unwrap();
    assert_eq!(body.refusal(), None);
    called.reply.send(Err(Refusal::ChildExited("status 1".to_owned()))).await.unwrap();
    let told = next(&mut body).await.unwrap();
    assert!(told.contains(r#""id":"a","error":{"code":5021,"#), "{told}");
    assert!(told.contains(r#""data":{"reason":"child_exited"}"#), "{told}");
    assert_eq!(next(&mut body).await, None);
    assert_eq!(body.refusal(), Some(&Refusal::ChildExited("status 1".to_owned())), "for the record");

    let answer = stage.modern(&call("1"));
    drop(stage.called().await);
    assert!(matches!(refused(answer).await, Refusal::UpstreamBroke(_)));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let mut stage = modern();
    let begun = Instant::now();
    let answer = stage.modern(&call("1"));
    let called = stage.called().await;
    let mut body = stream(answered(answer).await);
    let mut last = String::new();
    while let Some(said) = next(&mut body).await {
        last = said;
    }
    assert!(last.contains(r#""id":1,"error":{"code":5040,"#), "{last}");
    assert_eq!(begun.elapsed(), CALL_TIMEOUT);
    called.reply.closed().await;
}

#[tokio::test(start_paused = true)]
async fn two_processes_of_one_caller_may_use_the_same_id() {
    let mut stage = modern();
    let one = stage.modern(&call(r#""\u0061""#));
    let first = stage.called().await;
    let other = stage.modern(&call(r#""a""#));
    let second = stage.called().await;
    let id = second.message.split(r#""id":"#).nth(1).unwrap().split(',').next().unwrap().to_owned();
    assert_ne!(id, r#""a""#);
    assert_eq!(second.message, call(&id));
    second.respond(&result(&id)).await;
    assert_eq!(json(answered(other).await).await, result(r#""a""#));
    first.respond(&result(r#""\u0061""#)).await;
    assert_eq!(json(answered(one).await).await, result(r#""\u0061""#));

    let third = stage.modern(&call(r#""a""#));
    let called = stage.called().await;
    assert_eq!(called.message, call(r#""a""#), "the id is free again");
    drop((called, third));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_call_is_accepted_or_refused() {
    let mut stage = modern();
    let progress = note(1);
    assert_eq!(answered(stage.modern(&progress)).await.status(), StatusCode::ACCEPTED);
    let asker = Asker { caller: "caller".into(), ..Asker::nobody() };
    assert_eq!(stage.told.recv().await.unwrap(), Told::Notified(asker, progress));
    let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    assert_eq!(answered(stage.modern(cancelled)).await.status(), StatusCode::ACCEPTED);
    assert!(stage.told.try_recv().is_err(), "over HTTP a cancellation is the end of the connection");
    let invalid = |refusal: Refusal| matches!(refusal, Refusal::Invalid(_));
    assert!(invalid(refused(stage.modern(&result("1"))).await));
    assert!(invalid(refused(stage.modern(&format!("[{}]", call("1")))).await));
    assert!(invalid(refused(stage.modern(&call(&format!("\"{}\"", "a".repeat(2000))))).await));
    for method in ["GET", "DELETE"] {
        let refusal = refused(stage.send("caller", Era::Modern, method, &[], "")).await;
        assert_eq!(refusal, Refusal::HttpMethod { allow: "POST" });
    }
}

const DISCOVER: &str = r#"{"jsonrpc":"2.0","id":7,"method":"server/discover","params":{}}"#;

fn discovered(result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":7,"result":{result}}}"#)
}

#[tokio::test(start_paused = true)]
async fn discovery_is_answered_anew_only_once_what_is_known_is_too_old() {
    let mut stage = modern();
    let own = DISCOVER_RESULT.replace("\"m\"", "\"for you\"");
    let answer = stage.modern(DISCOVER);
    stage.called().await.respond(&discovered(&own)).await;
    assert_eq!(json(answered(answer).await).await, discovered(&own));
    assert_eq!(json(answered(stage.modern(DISCOVER)).await).await, discovered(&own));
    assert!(stage.calls.try_recv().is_err());

    let other = stage.send("other", Era::Modern, "POST", &[], DISCOVER);
    let called = stage.called().await;
    assert_eq!(&*called.asker.caller, "other", "what one is told is not told to another");
    called.respond(&discovered(DISCOVER_RESULT)).await;
    assert_eq!(json(answered(other).await).await, discovered(DISCOVER_RESULT));

    tokio::time::advance(Duration::from_millis(1000)).await;
    let answer = stage.modern(DISCOVER);
    stage.called().await.respond(&discovered(DISCOVER_RESULT)).await;
    assert_eq!(json(answered(answer).await).await, discovered(DISCOVER_RESULT));
}

#[tokio::test(start_paused = true)]
async fn discovery_never_fails_where_something_is_known() {
    let mut stage = modern();
    let answer = stage.modern(DISCOVER);
    stage.called().await.reply.send(Err(Refusal::ChildBusy("full".to_owned()))).await.unwrap();
    assert_eq!(
        json(answered(answer).await).await,
        discovered(DISCOVER_RESULT),
        "what it introduced itself with"
    );

    let own = DISCOVER_RESULT.replace("\"m\"", "\"for you\"");
    let answer = stage.modern(DISCOVER);
    stage.called().await.respond(&discovered(&own)).await;
    answered(answer).await;
    tokio::time::advance(Duration::from_secs(2)).await;
    *stage.peer.introduction.lock().unwrap() = Err(Refusal::ChildBusy("restarting".to_owned()));
    assert_eq!(
        json(answered(stage.modern(DISCOVER)).await).await,
        discovered(&own),
        "old is better than none"
    );
    let other = stage.send("other", Era::Modern, "POST", &[], DISCOVER);
    assert_eq!(refused(other).await, Refusal::ChildBusy("restarting".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn calls_that_outlast_the_drain_are_told_that_they_do() {
    let mut stage = modern();
    let answer = stage.modern(&call("1"));
    let called = stage.called().await;
    called.note(&note(1)).await;
    let mut body = stream(answered(answer).await);
    next(&mut body).await.unwrap();
    let begun = Instant::now();
    stage.drain.cancel();
    let mut last = String::new();
    while let Some(said) = next(&mut body).await {
        last = said;
    }
    assert!(last.contains(r#""id":1,"error":{"code":5031,"#), "{last}");
    assert_eq!(begun.elapsed(), Duration::from_secs(24));
    called.reply.closed().await;
}

/// Reads to the end; the last that was said.
async fn last_said(body: &mut Body) -> String {
    let mut last = String::new();
    while let Some(said) = next(body).await {
        last = said;
    }
    last
}

#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_is_not_waited_for_for_ever() {
    let mut stage = modern();
    let answer = stage.modern(&call("1"));
    let called = stage.called().await;
    called.note(&note(1)).await;
    let begun = Instant::now();
    let mut body = stream(answered(answer).await);
    let last = last_said(&mut body).await;
    assert!(last.contains(r#""id":1,"error":{"code":5041,"#), "{last}");
    assert!(last.contains(r#""data":{"reason":"idle"}"#), "{last}");
    assert_eq!(begun.elapsed(), IDLE_TIMEOUT);
    called.reply.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_shows_it_is_at_work_is_waited_for() {
    let mut stage = modern();
    let answer = stage.modern(&call("1"));
    let called = stage.called().await;
    called.note(&note(1)).await;
    let mut body = stream(answered(answer).await);
    let begun = Instant::now();
    let telling = tokio::spawn(async move { last_said(&mut body).await });
    for _ in 0..3 {
        tokio::time::advance(IDLE_TIMEOUT - Duration::from_secs(1)).await;
        called.reply.send(Ok(Said::Sign)).await.unwrap();
    }
    called.reply.closed().await;
    assert!(begun.elapsed() >= IDLE_TIMEOUT * 3, "{:?}", begun.elapsed());
    assert!(telling.await.unwrap().contains("5041"));
}

#[tokio::test(start_paused = true)]
async fn signs_alone_are_no_answer() {
    let mut stage = modern();
    let answer = stage.modern(&call("1"));
    let called = stage.called().await;
    called.reply.send(Ok(Said::Sign)).await.unwrap();
    let mut body = stream(answered(answer).await);
    let last = last_said(&mut body).await;
    assert!(last.contains(r#""code":5040,"#), "{last}");
}
