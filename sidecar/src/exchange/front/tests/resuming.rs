use super::*;

#[tokio::test(start_paused = true)]
async fn who_loses_the_connection_gets_the_rest_and_the_call_goes_on() {
    let mut stage = legacy();
    let id = stage.open("2025-06-18").await;
    let answer = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    called.note(&note(1)).await;
    called.note(&note(2)).await;
    let mut body = stream(answered(answer).await);
    assert_eq!(next(&mut body).await.unwrap(), event(Some("1-1"), &note(1)));
    drop(body);
    called.note(&note(3)).await;
    assert!(!called.reply.is_closed());
    let mut resumed = stream(answered(stage.get(&id, Some("1-1"))).await);
    assert_eq!(next(&mut resumed).await.unwrap(), event(Some("1-2"), &note(2)));
    assert_eq!(next(&mut resumed).await.unwrap(), event(Some("1-3"), &note(3)));
    called.respond(&result("1")).await;
    assert_eq!(next(&mut resumed).await.unwrap(), event(Some("1-4"), &result("1")));
    assert_eq!(next(&mut resumed).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_response_is_kept_for_a_caller_who_comes_back_and_not_for_ever() {
    let mut stage = legacy();
    let id = stage.open("2025-11-25").await;
    let answer = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    let mut body = stream(answered(answer).await);
    assert_eq!(next(&mut body).await.unwrap(), "id: 1-0\ndata: \n\n");
    drop(body);
    called.respond(&result("1")).await;
    for _ in 0..2 {
        let mut resumed = stream(answered(stage.get(&id, Some("1-0"))).await);
        assert_eq!(next(&mut resumed).await.unwrap(), "id: 1-0\ndata: \n\n");
        assert_eq!(next(&mut resumed).await.unwrap(), event(Some("1-1"), &result("1")));
        assert_eq!(next(&mut resumed).await, None);
    }
    pass(Duration::from_secs(320)).await;
    assert!(matches!(refused(stage.get(&id, Some("1-0"))).await, Refusal::Invalid(_)));
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_left_before_the_stream_began_costs_nothing_and_the_call_goes_on() {
    let mut stage = legacy();
    let id = stage.open("2025-06-18").await;
    let answer = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    answer.abort();
    assert!(answer.await.unwrap_err().is_cancelled());
    for n in 0..100 {
        called.note(&note(n)).await;
    }
    called.respond(&result("1")).await;
    let again = stage.legacy(&id, &call("1"));
    stage.called().await.respond(&result("1")).await;
    answered(again).await;
    assert!(matches!(refused(stage.get(&id, Some("1-0"))).await, Refusal::Invalid(_)));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_not_of_this_session_cannot_be_resumed_from() {
    let stage = legacy();
    let id = stage.open("2025-06-18").await;
    for last in ["", "1-1", "x", "1", "0-x", &"9".repeat(10_000)] {
        let refusal = refused(stage.get(&id, Some(last))).await;
        assert!(matches!(refusal, Refusal::Invalid(_)), "{last}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_reader_only_the_latest_is_kept() {
    let limits = Limits { replay_events_max: 3, ..Limits::default() };
    let mut stage = Stage::new(Era::Legacy, &limits);
    let id = stage.open("2025-06-18").await;
    let answer = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    called.note(&note(1)).await;
    drop(answered(answer).await);
    for n in 2..=10 {
        called.note(&note(n)).await;
    }
    called.respond(&result("1")).await;
    while stage.front.sessions.find("caller", &id).unwrap().calls.count() > 0 {
        tokio::task::yield_now().await;
    }
    let mut resumed = stream(answered(stage.get(&id, Some("1-1"))).await);
    assert_eq!(next(&mut resumed).await.unwrap(), event(Some("1-9"), &note(9)));
    assert_eq!(next(&mut resumed).await.unwrap(), event(Some("1-10"), &note(10)));
    assert_eq!(next(&mut resumed).await.unwrap(), event(Some("1-11"), &result("1")));
    assert_eq!(next(&mut resumed).await, None);
}

#[tokio::test(start_paused = true)]
async fn all_sessions_together_keep_only_so_much_but_always_the_last() {
    let limits = Limits { replay_total_bytes_max: 1, ..Limits::default() };
    let mut stage = Stage::new(Era::Legacy, &limits);
    let id = stage.open("2025-06-18").await;
    let answer = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    called.note(&note(1)).await;
    called.note(&note(2)).await;
    let mut body = stream(answered(answer).await);
    assert_eq!(next(&mut body).await.unwrap(), event(Some("1-1"), &note(1)));
    drop(body);
    called.note(&note(3)).await;
    called.note(&note(4)).await;
    let mut resumed = stream(answered(stage.get(&id, Some("1-1"))).await);
    assert_eq!(next(&mut resumed).await.unwrap(), event(Some("1-4"), &note(4)));
    called.respond(&result("1")).await;
    assert_eq!(next(&mut resumed).await.unwrap(), event(Some("1-5"), &result("1")));
}
