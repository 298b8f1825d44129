use http::StatusCode;
use tokio::time::Instant;

use super::*;

fn asker(session: &str) -> Asker {
    Asker { caller: "caller".into(), session: Some(session.into()), ..Asker::nobody() }
}

#[tokio::test(start_paused = true)]
async fn a_response_alone_is_json_and_every_byte_passes() {
    let mut stage = legacy();
    let id = stage.open("2025-06-18").await;
    let request = r#"{ "jsonrpc":"2.0", "method":"tools/call", "id":"\u0061", "params":{"name":"t"} }"#;
    let answer = stage.legacy(&id, request);
    let called = stage.called().await;
    assert_eq!((called.message.as_str(), &called.asker), (request, &asker(&id)));
    let response = r#"{"id":"\u0061",  "jsonrpc":"2.0","error":{"code":-32601,"message":"m"}}"#;
    called.respond(response).await;
    let answer = answered(answer).await;
    assert_eq!(answer.status(), StatusCode::OK, "errors have no status in this era");
    assert_eq!(json(answer).await, response);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_call_is_accepted() {
    let mut stage = legacy();
    let id = stage.open("2025-06-18").await;
    let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#;
    for message in [initialized, changed, &result("5")] {
        assert_eq!(answered(stage.legacy(&id, message)).await.status(), StatusCode::ACCEPTED);
    }
    assert_eq!(stage.told.recv().await.unwrap(), Told::Notified(asker(&id), changed.to_owned()));
    assert_eq!(stage.told.recv().await.unwrap(), Told::Answered(asker(&id), result("5")));
    *stage.peer.introduction.lock().unwrap() = Err(Refusal::NotReady);
    let ping = stage.legacy(&id, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    assert_eq!(json(answered(ping).await).await, result("1"));
    assert!(stage.calls.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_server_may_ask_back_on_the_stream_of_the_call() {
    let mut stage = legacy();
    let id = stage.open("2025-06-18").await;
    let answer = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    let question = r#"{"jsonrpc":"2.0","id":"s1","method":"elicitation/create","params":{}}"#;
    called.ask(question).await;
    let mut body = stream(answered(answer).await);
    assert_eq!(next(&mut body).await.unwrap(), event(Some("1-1"), question));
    let reply = r#"{"jsonrpc":"2.0","id":"s1","result":{"action":"accept"}}"#;
    assert_eq!(answered(stage.legacy(&id, reply)).await.status(), StatusCode::ACCEPTED);
    assert_eq!(stage.told.recv().await.unwrap(), Told::Answered(asker(&id), reply.to_owned()));
    called.note(&note(1)).await;
    called.respond(&result("1")).await;
    assert_eq!(next(&mut body).await.unwrap(), event(Some("1-2"), &note(1)));
    assert_eq!(next(&mut body).await.unwrap(), event(Some("1-3"), &result("1")));
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_silent_call_becomes_a_stream_that_is_kept_alive() {
    let mut stage = legacy();
    let id = stage.open("2025-11-25").await;
    let begun = Instant::now();
    let answer = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    let mut body = stream(answered(answer).await);
    assert_eq!(
        next(&mut body).await.unwrap(),
        "id: 1-0\ndata: \n\n",
        "it can be resumed from the first moment"
    );
    assert_eq!(begun.elapsed(), Duration::from_secs(15));
    assert_eq!(next(&mut body).await.unwrap(), ":\n\n");
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
    called.respond(&result("1")).await;
    assert_eq!(next(&mut body).await.unwrap(), event(Some("1-1"), &result("1")));
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_as_one_until_the_stream_has_begun() {
    let mut stage = legacy();
    let id = stage.open("2025-06-18").await;
    let answer = stage.legacy(&id, &call("1"));
    stage.called().await.reply.send(Err(Refusal::NotReady)).await.unwrap();
    assert_eq!(refused(answer).await, Refusal::NotReady);
    let answer = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    called.note(&note(1)).await;
    let mut body = stream(answered(answer).await);
    next(&mut body).await.unwrap();
    called.reply.send(Err(Refusal::NotReady)).await.unwrap();
    let told = next(&mut body).await.unwrap();
    assert!(told.contains(r#""id":1,"error":{"code":5032,"#), "{told}");
    assert_eq!(next(&mut body).await, None);
    assert!(body.refusal().is_some(), "for the record");
}

#[tokio::test(start_paused = true)]
async fn only_a_cancellation_of_the_same_session_cancels() {
    let mut stage = legacy();
    let (own, other) = (stage.open("2025-06-18").await, stage.open("2025-06-18").await);
    let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    let answer = stage.legacy(&own, &call("1"));
    let called = stage.called().await;
    assert_eq!(answered(stage.legacy(&other, cancelled)).await.status(), StatusCode::ACCEPTED);
    called.note(&note(1)).await;
    let mut body = stream(answered(answer).await);
    assert_eq!(next(&mut body).await.unwrap(), event(Some("1-1"), &note(1)));
    let begun = Instant::now();
    assert_eq!(answered(stage.legacy(&own, cancelled)).await.status(), StatusCode::ACCEPTED);
    called.reply.closed().await;
    assert_eq!(next(&mut body).await, None, "who cancelled waits for no response");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(matches!(refused(stage.get(&own, Some("1-1"))).await, Refusal::Invalid(_)));

    let answer = stage.legacy(&own, &call("1"));
    let called = stage.called().await;
    answered(stage.legacy(&own, cancelled)).await;
    called.reply.closed().await;
    assert_eq!(next(&mut stream(answered(answer).await)).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_id_stands_for_one_call_at_a_time_and_calls_have_a_limit() {
    let limits = Limits { calls_per_session_max: 2, ..Limits::default() };
    let mut stage = Stage::new(Era::Legacy, &limits);
    let id = stage.open("2025-06-18").await;
    let first = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    assert!(matches!(refused(stage.legacy(&id, &call("1"))).await, Refusal::Invalid(_)));
    let second = stage.legacy(&id, &call("\"1\""));
    let other = stage.called().await;
    assert!(matches!(refused(stage.legacy(&id, &call("2"))).await, Refusal::InFlight { .. }));
    let long = call(&format!("\"{}\"", "a".repeat(2000)));
    assert!(matches!(refused(stage.legacy(&id, &long)).await, Refusal::Invalid(_)));
    called.respond(&result("1")).await;
    answered(first).await;
    let third = stage.legacy(&id, &call("1"));
    stage.called().await.respond(&result("1")).await;
    answered(third).await;
    drop((other, second));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_answered_as_one_where_there_are_batches() {
    let mut stage = legacy();
    let id = stage.open("2025-03-26").await;
    let batch = format!(r#"[{}, {},{}]"#, call("1"), note(9), call(r#""b""#));
    let answer = stage.legacy(&id, &batch);
    let (first, second) = (stage.called().await, stage.called().await);
    assert_eq!((&first.message, &second.message), (&call("1"), &call(r#""b""#)));
    assert_eq!(stage.told.recv().await.unwrap(), Told::Notified(asker(&id), note(9)));
    second.respond(&result(r#""b""#)).await;
    first.reply.send(Err(Refusal::NotReady)).await.unwrap();
    let answer = json(answered(answer).await).await;
    assert!(
        answer.starts_with(&format!(r#"[{},{{"jsonrpc":"2.0","id":1,"error":"#, result(r#""b""#))),
        "{answer}"
    );

    let answer = stage.legacy(&id, &format!("[{}]", call("1")));
    stage.called().await.respond(&result("1")).await;
    assert_eq!(json(answered(answer).await).await, format!("[{}]", result("1")));

    let answer = stage.legacy(&id, &format!("[{}]", note(1)));
    assert_eq!(answered(answer).await.status(), StatusCode::ACCEPTED);
    let in_it = stage.legacy(&id, &format!("[{}]", initialize("2025-03-26")));
    assert!(matches!(refused(in_it).await, Refusal::Invalid(_)));
    let later = stage.open("2025-06-18").await;
    assert!(matches!(refused(stage.legacy(&later, &batch)).await, Refusal::Invalid(_)));
}

#[tokio::test(start_paused = true)]
async fn a_batch_becomes_a_stream_when_there_is_more_to_say() {
    let mut stage = legacy();
    let id = stage.open("2025-03-26").await;
    let answer = stage.legacy(&id, &format!("[{},{}]", call("1"), call("1")));
    let first = stage.called().await;
    first.note(&note(1)).await;
    let mut body = stream(answered(answer).await);
    let twice = next(&mut body).await.unwrap();
    assert!(
        twice.contains(r#""id":1,"error":{"code":-32600,"#),
        "the second has an id that is taken: {twice}"
    );
    assert_eq!(next(&mut body).await.unwrap(), event(Some("1-2"), &note(1)));
    first.respond(&result("1")).await;
    assert_eq!(next(&mut body).await.unwrap(), event(Some("1-3"), &result("1")));
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_holds_up_its_own_call_and_no_other() {
    let mut stage = legacy();
    let id = stage.open("2025-06-18").await;
    let slow = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    called.note(&note(0)).await;
    let mut body = stream(answered(slow).await);
    let mut sent = 1;
    let note_of = |n: u32| Ok(Said::Note(note(n).into()));
    while tokio::time::timeout(Duration::from_secs(1), called.reply.send(note_of(sent))).await.is_ok() {
        sent += 1;
        assert!(sent < 50, "nothing holds the server up");
    }
    let quick = stage.legacy(&id, &call("2"));
    stage.called().await.respond(&result("2")).await;
    answered(quick).await;
    for n in 0..sent {
        assert_eq!(next(&mut body).await.unwrap(), event(Some(&format!("1-{}", n + 1)), &note(n)));
    }
    called.respond(&result("1")).await;
    assert_eq!(next(&mut body).await.unwrap(), event(Some(&format!("1-{}", sent + 1)), &result("1")));
}

#[tokio::test(start_paused = true)]
async fn on_a_drain_calls_may_finish_and_listening_ends() {
    let mut stage = legacy();
    let id = stage.open("2025-06-18").await;
    let mut listening = stream(answered(stage.get(&id, None)).await);
    let (one, other) = (stage.legacy(&id, &call("1")), stage.legacy(&id, &call("2")));
    let (first, second) = (stage.called().await, stage.called().await);
    second.note(&note(1)).await;
    let mut body = stream(answered(other).await);
    next(&mut body).await.unwrap();
    let begun = Instant::now();
    stage.drain.cancel();
    assert_eq!(next(&mut listening).await, None);
    first.respond(&result("1")).await;
    assert_eq!(json(answered(one).await).await, result("1"));
    let mut last = String::new();
    while let Some(said) = next(&mut body).await {
        last = said;
    }
    assert!(last.contains(r#""id":2,"error":{"code":5031,"#), "{last}");
    assert_eq!(begun.elapsed(), Duration::from_secs(24));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_waits_for_the_caller_is_not_taken_for_silent() {
    let mut stage = legacy();
    let id = stage.open("2025-06-18").await;
    let answer = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    called.ask(r#"{"jsonrpc":"2.0","id":"s","method":"elicitation/create","params":{}}"#).await;
    let mut body = stream(answered(answer).await);
    next(&mut body).await.unwrap();
    tokio::time::advance(IDLE_TIMEOUT * 2).await;
    called.respond(&result("1")).await;
    let mut last = String::new();
    while let Some(said) = next(&mut body).await {
        last = said;
    }
    assert!(last.contains(&result("1")), "{last}");
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_caller_left_keeps_its_place_until_the_server_is_done_with_it() {
    let places = Places::new(&serde_json::from_str(r#"{"max":1,"queueMax":1}"#).unwrap(), 1);
    let counted = || Counted::new(prometheus_client::metrics::gauge::Gauge::default());
    let mut stage = legacy();
    let id = stage.open("2025-06-18").await;
    stage.admitted = places.admit(&"local".into(), counted()).await.unwrap();
    let answer = stage.legacy(&id, &call("1"));
    stage.admitted = Places::exempt();
    let called = stage.called().await;
    answer.abort();
    assert!(answer.await.unwrap_err().is_cancelled());
    let early = tokio::time::timeout(Duration::from_secs(10), places.admit(&"local".into(), counted())).await;
    assert!(early.is_err(), "the server is busy with the call");
    called.respond(&result("1")).await;
    places.admit(&"local".into(), counted()).await.unwrap();
}
