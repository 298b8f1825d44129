use super::*;

fn changed(what: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/{what}/list_changed"}}"#)
}

fn say(stage: &Stage, message: &str) {
    stage.peer.asides.send(Aside::Note(message.to_owned().into())).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_server_says_of_its_own_accord_is_told_in_order() {
    let stage = legacy();
    let id = stage.open("2025-06-18").await;
    say(&stage, &changed("tools"));
    let mut body = stream(answered(stage.get(&id, None)).await);
    assert_eq!(next(&mut body).await.unwrap(), event(Some("0-1"), &changed("tools")), "also from before");
    let question = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
    stage.peer.asides.send(Aside::Request(question.into())).unwrap();
    say(&stage, &changed("prompts"));
    assert_eq!(next(&mut body).await.unwrap(), event(Some("0-2"), question));
    assert_eq!(next(&mut body).await.unwrap(), event(Some("0-3"), &changed("prompts")));
    assert_eq!(next(&mut body).await.unwrap(), ":\n\n");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_take_event_streams_gets_none() {
    let stage = legacy();
    let id = stage.open("2025-06-18").await;
    for (accept, is_right) in [
        ("text/event-stream", true),
        ("application/json, Text/Event-Stream;q=0.5", true),
        ("*/*", true),
        ("application/json", false),
    ] {
        let headers = [("mcp-session-id", &*id), ("accept", accept)];
        let outcome = stage.send("caller", Era::Legacy, "GET", &headers, "").await.unwrap();
        assert_eq!(outcome.err(), (!is_right).then_some(Refusal::NotAcceptable), "{accept}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_message_is_told_on_one_stream_the_newest_that_is_there() {
    let stage = legacy();
    let id = stage.open("2025-06-18").await;
    let mut old = stream(answered(stage.get(&id, None)).await);
    say(&stage, &changed("tools"));
    assert_eq!(next(&mut old).await.unwrap(), event(Some("0-1"), &changed("tools")));
    let mut new = stream(answered(stage.get(&id, None)).await);
    say(&stage, &changed("prompts"));
    assert_eq!(next(&mut new).await.unwrap(), event(Some("0-2"), &changed("prompts")));
    assert!(is_silent(&mut old).await);
    drop(new);
    tokio::task::yield_now().await;
    say(&stage, &changed("resources"));
    assert_eq!(next(&mut old).await.unwrap(), event(Some("0-3"), &changed("resources")));
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(stream(answered(stage.get(&id, None)).await));
    }
    assert_eq!(next(&mut old).await, None, "there are only so many at once");
    assert!(is_silent(&mut others[0]).await);
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_told_to_who_comes_back() {
    let stage = legacy();
    let id = stage.open("2025-11-25").await;
    let mut body = stream(answered(stage.get(&id, None)).await);
    assert_eq!(next(&mut body).await.unwrap(), "id: 0-0\ndata: \n\n");
    say(&stage, &changed("tools"));
    say(&stage, &changed("prompts"));
    assert_eq!(next(&mut body).await.unwrap(), event(Some("0-1"), &changed("tools")));
    drop(body);
    tokio::task::yield_now().await;
    say(&stage, &changed("resources"));
    let mut resumed = stream(answered(stage.get(&id, Some("0-1"))).await);
    assert_eq!(next(&mut resumed).await.unwrap(), "id: 0-1\ndata: \n\n");
    assert_eq!(next(&mut resumed).await.unwrap(), event(Some("0-2"), &changed("prompts")));
    assert_eq!(next(&mut resumed).await.unwrap(), event(Some("0-3"), &changed("resources")));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_sent_away_and_may_come_back() {
    let limits = Limits { stream_queue_max: 4, replay_events_max: 4, ..Limits::default() };
    let stage = Stage::new(Era::Legacy, &limits);
    let id = stage.open("2025-06-18").await;
    let mut body = stream(answered(stage.get(&id, None)).await);
    for n in 0..40 {
        say(&stage, &note(n));
        pass(Duration::from_millis(1)).await;
    }
    let mut told = 0;
    while let Some(said) = next(&mut body).await {
        told += 1;
        assert_eq!(said, event(Some(&format!("0-{told}")), &note(told - 1)));
    }
    assert!(told < 40);
    let mut again = stream(answered(stage.get(&id, Some(&format!("0-{told}")))).await);
    assert_eq!(next(&mut again).await.unwrap(), event(Some("0-37"), &note(36)), "the last are kept");
}

#[tokio::test(start_paused = true)]
async fn who_missed_something_is_told_that_everything_changed() {
    let stage = legacy();
    let id = stage.open("2025-06-18").await;
    // Nobody listens yet, and no more than so much waits.
    for n in 0..100 {
        say(&stage, &note(n));
    }
    let mut body = stream(answered(stage.get(&id, None)).await);
    assert_eq!(next(&mut body).await.unwrap(), event(Some("0-1"), &changed("tools")));
    assert_eq!(next(&mut body).await.unwrap(), event(Some("0-2"), &changed("resources")));
    assert_eq!(next(&mut body).await.unwrap(), event(Some("0-3"), &note(36)));
}
