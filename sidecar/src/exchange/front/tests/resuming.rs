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
    while stage.front.sessions.find(&"caller".into(), None, &id).unwrap().calls.count() > 0 {
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

#[tokio::test(start_paused = true)]
async fn who_came_back_is_told_too_that_the_sidecar_waits_no_longer() {
    let mut stage = legacy();
    let id = stage.open("2025-06-18").await;
    let answer = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    called.note(&note(1)).await;
    drop(answered(answer).await);
    let mut resumed = stream(answered(stage.get(&id, Some("1-1"))).await);
    stage.drain.cancel();
    let mut last = String::new();
    while let Some(said) = next(&mut resumed).await {
        last = said;
    }
    assert!(last.starts_with("id: 1-2\n"), "{last}");
    assert!(last.contains(r#""id":1,"error":{"code":5031,"#), "{last}");
}

/// However often and wherever the connection breaks, who resumes from the last event that it has seen sees each event
/// once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_told_twice_wherever_the_connection_breaks() {
    use crate::exchange::front::replay::{Bounds, Kept, Log, Manner};

    const EVENTS: u64 = 2000;
    let bounds = Bounds { events_max: 4000, bytes_max: 1 << 20, total_bytes_max: 1 << 20 };
    let log = Log::new(1, Arc::new(Kept::new(bounds, Arc::default())));
    let writer = Arc::clone(&log);
    let writing = tokio::spawn(async move {
        for n in 1..=EVENTS {
            writer.say(format!("{{\"n\":{n}}}").as_bytes()).await;
        }
        writer.end();
    });
    let manner = Manner { comment_every: Duration::from_secs(60), primed: false };
    let (mut seen, mut breaks) = (0, 0_u64);
    while seen < EVENTS {
        let mut body = log.read(Some(seen), manner, std::future::pending());
        // Anything that varies will do.
        for _ in 0..(breaks * 7 + seen) % 41 {
            let Some(said) = next(&mut body).await else { break };
            seen += 1;
            assert_eq!(said, event(Some(&format!("1-{seen}")), &format!("{{\"n\":{seen}}}")));
        }
        breaks += 1;
    }
    writing.await.unwrap();
    let mut rest = log.read(Some(seen), manner, std::future::pending());
    assert_eq!(next(&mut rest).await, None);
}
