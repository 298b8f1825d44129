use http::StatusCode;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_handshake_opens_a_session_in_the_revision_that_both_have() {
    let stage = legacy();
    for (asked, expected) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("never", "2025-11-25"),
    ] {
        let answer = answered(stage.send("caller", Era::Legacy, "POST", &[], &initialize(asked))).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let id = answer.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        assert_eq!((id.len(), id.bytes().all(|byte| byte.is_ascii_hexdigit())), (32, true));
        let result = INITIALIZE_RESULT.replace("2025-11-25", expected);
        assert_eq!(json(answer).await, format!(r#"{{"jsonrpc":"2.0","id":0,"result":{result}}}"#));
    }
    assert_eq!(stage.front.sessions(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_server_of_an_older_revision_decides() {
    let stage = legacy();
    let result = INITIALIZE_RESULT.replace("2025-11-25", "2025-06-18");
    let introduction =
        Introduction { era: Era::Legacy, revision: "2025-06-18".to_owned(), result: result.clone().into() };
    *stage.peer.introduction.lock().unwrap() = Ok(Arc::new(introduction));
    let answer = answered(stage.send("caller", Era::Legacy, "POST", &[], &initialize("2025-11-25"))).await;
    assert_eq!(json(answer).await, format!(r#"{{"jsonrpc":"2.0","id":0,"result":{result}}}"#));
}

#[tokio::test(start_paused = true)]
async fn only_who_opened_a_session_has_it() {
    let stage = legacy();
    let id = stage.open("2025-06-18").await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let long = "a".repeat(50_000);
    for (caller, session, expected) in [
        ("caller", Some(&*id), None),
        ("caller", None, Some(Refusal::SessionMissing)),
        ("other", Some(&*id), Some(Refusal::SessionUnknown)),
        ("caller", Some(""), Some(Refusal::SessionUnknown)),
        ("caller", Some(&*long), Some(Refusal::SessionUnknown)),
        ("caller", Some("00000000000000000000000000000000"), Some(Refusal::SessionUnknown)),
    ] {
        let headers: Vec<_> = session
            .map(|id| ("mcp-session-id", id))
            .into_iter()
            .chain([("accept", "text/event-stream")])
            .collect();
        for method in ["POST", "GET", "DELETE"] {
            // Who may end it does so last.
            if method == "DELETE" && expected.is_none() {
                continue;
            }
            let outcome = stage.send(caller, Era::Legacy, method, &headers, ping).await.unwrap();
            assert_eq!(outcome.err(), expected, "{method} {caller} {session:?}");
        }
    }
    assert_eq!(stage.front.sessions(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_version_header_must_name_a_revision_that_has_sessions() {
    let stage = legacy();
    let id = stage.open("2025-06-18").await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for (version, is_right) in [
        ("2025-06-18", true),
        ("2025-11-25", true),
        ("2025-03-26", true),
        ("1999-01-01", false),
        ("2026-07-28", false),
        ("", false),
    ] {
        let headers = [("mcp-session-id", &*id), ("mcp-protocol-version", version)];
        let outcome = stage.send("caller", Era::Legacy, "POST", &headers, ping).await.unwrap();
        match outcome {
            Ok(_) => assert!(is_right, "{version}"),
            Err(refusal) => {
                assert!(!is_right, "{version}");
                // No code that would prove a server of the modern era.
                assert_eq!((refusal.told().status, refusal.told().code), (400, -32600));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_ended_once_and_all_of_it_ends() {
    let mut stage = legacy();
    let id = stage.open("2025-11-25").await;
    let answer = stage.legacy(&id, &call("1"));
    let called = stage.called().await;
    let mut listening = stream(answered(stage.get(&id, None)).await);
    assert_eq!(next(&mut listening).await.unwrap(), "id: 0-0\ndata: \n\n");
    let headers = [("mcp-session-id", &*id)];
    let ended = stage.send("caller", Era::Legacy, "DELETE", &headers, "");
    assert_eq!(answered(ended).await.status(), StatusCode::OK);
    assert_eq!(next(&mut listening).await, None);
    called.reply.closed().await;
    assert_eq!(refused(answer).await, Refusal::SessionUnknown);
    let asker = Asker { caller: "caller".into(), session: Some(id.as_str().into()), ..Asker::nobody() };
    assert_eq!(stage.told.recv().await.unwrap(), Told::Ended(asker));
    let ended = stage.send("caller", Era::Legacy, "DELETE", &headers, "");
    assert_eq!(refused(ended).await, Refusal::SessionUnknown);
    assert_eq!(stage.front.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_uses_is_forgotten() {
    let mut stage = legacy();
    let idle = stage.open("2025-06-18").await;
    let used = stage.open("2025-06-18").await;
    let listening = stream(answered(stage.get(&used, None)).await);
    pass(Duration::from_secs(3700)).await;
    assert_eq!(stage.front.sessions(), 1);
    let asker = Asker { caller: "caller".into(), session: Some(idle.as_str().into()), ..Asker::nobody() };
    assert_eq!(stage.told.recv().await.unwrap(), Told::Ended(asker));
    assert_eq!(refused(stage.legacy(&idle, &call("1"))).await, Refusal::SessionUnknown);
    drop(listening);
    pass(Duration::from_secs(3700)).await;
    assert_eq!(stage.front.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn there_are_only_so_many_sessions() {
    let limits = Limits { sessions_max: 3, sessions_per_caller_max: 2, ..Limits::default() };
    let mut stage = Stage::new(Era::Legacy, &limits);
    let open =
        |stage: &Stage, caller| stage.send(caller, Era::Legacy, "POST", &[], &initialize("2025-06-18"));
    let first = stage.open("2025-06-18").await;
    let second = stage.open("2025-06-18").await;
    assert_eq!(refused(open(&stage, "caller")).await, Refusal::TooManySessions, "nobody has been quiet");
    stage.told.recv().await.unwrap();
    let listening = stream(answered(stage.get(&first, None)).await);
    tokio::time::advance(Duration::from_secs(61)).await;
    let third = stage.open("2025-06-18").await;
    let ended = Asker { caller: "caller".into(), session: Some(second.into()), ..Asker::nobody() };
    assert_eq!(stage.told.recv().await.unwrap(), Told::Ended(ended), "the quiet one makes room");
    answered(open(&stage, "other")).await;
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(refused(open(&stage, "newcomer")).await, Refusal::TooManySessions, "others' sessions do not");
    drop((listening, third));
}

/// Another sidecar in front of the same kind of server; with the same keys if it has the same identity.
fn another(front: &Front, scope: &str, ring: Option<Ring>) -> Stage {
    let mut stage = modern();
    let ring = ring.unwrap_or_else(|| here().ring);
    let place = Place { scope: scope.into(), ring, ..here() };
    stage.front = Front::new(Arc::clone(&front.peer), &Limits::default(), CancellationToken::new(), place);
    stage
}

#[tokio::test(start_paused = true)]
async fn a_session_goes_on_at_another_sidecar_of_the_same_identity() {
    let mut stage = modern();
    let id = stage.open("2025-06-18").await;
    let other = another(&stage.front, "research/files", None);
    let answer = other.legacy(&id, &call("2"));
    let called = stage.called().await;
    assert!(called.message.contains(r#""io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"}"#));
    called.respond(r#"{"jsonrpc":"2.0","id":2,"result":{"content":[],"resultType":"complete"}}"#).await;
    assert!(json(answered(answer).await).await.contains(r#""content":[]"#));
    assert_eq!((stage.front.sessions(), other.front.sessions()), (1, 1));
    assert!(id.len() < 400, "{}", id.len());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_an_id_carries_is_nobody_elses_and_nothing_elses() {
    let stage = modern();
    let id = stage.open("2025-06-18").await;
    let unknown = async |stage: &Stage, caller: &str| {
        let headers = [("mcp-session-id", id.as_str())];
        refused(stage.send(caller, Era::Legacy, "POST", &headers, &call("2"))).await
    };
    let other = another(&stage.front, "research/files", None);
    assert_eq!(unknown(&other, "thief").await, Refusal::SessionUnknown);
    let elsewhere = another(&stage.front, "virtual server a/b", None);
    assert_eq!(unknown(&elsewhere, "caller").await, Refusal::SessionUnknown);
    let stranger = Ring::own(&crate::session_id::Key::random());
    let stranger = another(&stage.front, "research/files", Some(stranger));
    assert_eq!(unknown(&stranger, "caller").await, Refusal::SessionUnknown);
    assert_eq!(other.front.sessions() + elsewhere.front.sessions() + stranger.front.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_ended_does_not_come_back_where_that_is_known() {
    let stage = modern();
    let id = stage.open("2025-06-18").await;
    answered(stage.send("caller", Era::Legacy, "DELETE", &[("mcp-session-id", &id)], "")).await;
    assert_eq!(refused(stage.legacy(&id, &call("2"))).await, Refusal::SessionUnknown);
}

#[tokio::test(start_paused = true)]
async fn a_session_at_a_legacy_server_is_not_carried() {
    let stage = legacy();
    let id = stage.open("2025-06-18").await;
    assert_eq!(id.len(), 32);
    let other = another(&stage.front, "research/files", None);
    assert_eq!(refused(other.legacy(&id, &call("2"))).await, Refusal::SessionUnknown);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_too_old_opens_nothing() {
    let limits = Limits { session_age_max: crate::limits::Limited(Duration::ZERO), ..Limits::default() };
    let stage = Stage::new(Era::Modern, &limits);
    let id = stage.open("2025-06-18").await;
    let other = another(&stage.front, "research/files", None);
    assert_eq!(refused(other.legacy(&id, &call("2"))).await, Refusal::SessionUnknown);
}
