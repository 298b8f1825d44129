//! What is said, and by whom it is heard.

use super::*;

#[tokio::test]
async fn the_era_of_a_server_is_learned() {
    for (argument, era, revision) in [
        ("legacy", Era::Legacy, "2025-06-18"),
        ("modern", Era::Modern, "2026-07-28"),
        ("fragile", Era::Legacy, "2025-06-18"),
    ] {
        let peer = start(&[argument], json!({}), &Limits::default());
        let introduction = timeout(PATIENCE, peer.introduction()).await.unwrap().unwrap();
        assert_eq!((introduction.era, introduction.revision.as_str()), (era, revision), "{argument}");
        let result: Value = serde_json::from_slice(&introduction.result).unwrap();
        assert!(result["capabilities"]["tools"].is_object());
        peer.stop(Duration::from_secs(3)).await;
        assert!(matches!(*peer.phase().borrow(), Phase::Stopped));
    }
}

#[tokio::test]
async fn a_hundred_callers_with_the_same_ids_get_each_their_own() {
    let peer = legacy();
    let callers = (0..100).map(|n| {
        let peer = Arc::clone(&peer);
        tokio::spawn(async move {
            for round in 0..10 {
                let id = if n % 2 == 0 { json!(round) } else { json!(round.to_string()) };
                let arguments = json!({"n": n, "round": round});
                let mut reply =
                    ask(&peer, &format!("caller-{n}"), &calling(id.clone(), "echo", arguments.clone()))
                        .await
                        .unwrap();
                let said = all(&mut reply).await;
                let [Ok(Said::Note(note)), Ok(Said::Response(response))] = &said[..] else {
                    panic!("{said:?}")
                };
                let note: Value = serde_json::from_slice(note).unwrap();
                assert_eq!(note["params"]["progressToken"], "p");
                let response: Value = serde_json::from_slice(response).unwrap();
                assert_eq!(response["id"], id);
                let text = response["result"]["content"][0]["text"].as_str().unwrap();
                assert_eq!(serde_json::from_str::<Value>(text).unwrap()["arguments"], arguments);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    assert_eq!(peer.state().in_flight, 0);
    assert_eq!(peer.state().strays, 0);
}

#[tokio::test]
async fn answers_that_come_twice_or_under_wrong_ids_harm_nobody() {
    let peer = legacy();
    assert_eq!(call(&peer, "twice", json!({})).await, 1);
    assert_eq!(call(&peer, "wrong", json!({})).await, 3);
    assert_eq!(peer.state().strays, 3);
}

#[tokio::test]
async fn garbage_and_floods_harm_nobody() {
    let limits = Limits { line_bytes_max: 10_000, stderr_lines_per_second_max: 5, ..Limits::default() };
    let peer = start(&["legacy"], json!({}), &limits);
    assert_eq!(call(&peer, "garbage", json!({})).await, "after");
    assert_eq!(peer.state().garbage_lines, 4);
    assert_eq!(call(&peer, "flood", json!({})).await, "after");
    assert_eq!(peer.state().garbage_lines, 20_004);
    assert_eq!(call(&peer, "stderr", json!({})).await, "after");
    until("a flood is not logged", || peer.state().stderr_suppressed > 19_000).await;
    assert_eq!(peer.state().restarts, 0);
}

#[tokio::test]
async fn who_does_not_take_what_is_said_loses_the_call_and_nobody_else_does() {
    let peer = legacy();
    let mut slow = ask(&peer, "slow", &calling(1, "notes", json!({}))).await.unwrap();
    assert_eq!(call(&peer, "echo", json!({"n": 1})).await["arguments"]["n"], 1);
    let said = all(&mut slow).await;
    assert_eq!(said.len(), Limits::default().stream_queue_max + 1);
    assert!(matches!(said.last(), Some(Err(Refusal::UpstreamBroke(_)))));
    assert_eq!(call(&peer, "cancelled", json!({})).await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_dropped_reply_cancels_at_the_server() {
    let peer = legacy();
    let reply = ask(&peer, "a", &calling(77, "never", json!({}))).await.unwrap();
    assert_eq!(call(&peer, "cancelled", json!({})).await, json!([]));
    drop(reply);
    until("the call is forgotten", || peer.state().in_flight == 0).await;
    let cancelled = call(&peer, "cancelled", json!({})).await;
    assert!(matches!(&cancelled.as_array().unwrap()[..], [id] if id.is_u64() && *id != 77), "{cancelled}");
}

#[tokio::test]
async fn what_the_server_asks_is_answered_by_who_called() {
    let peer = legacy();
    let mut reply = ask(&peer, "a", &calling(1, "sample", json!({}))).await.unwrap();
    let Ok(Said::Request(request)) = timeout(PATIENCE, reply.0.recv()).await.unwrap().unwrap() else {
        panic!("no request")
    };
    let request: Value = serde_json::from_slice(&request).unwrap();
    assert_eq!(request["method"], "sampling/createMessage");
    let answer = json!({"jsonrpc": "2.0", "id": request["id"], "result": {"text": "yes"}}).to_string();
    assert!(peer.answer(&asker("b"), answer.clone().into()).await.is_err());
    peer.answer(&asker("a"), answer.into()).await.unwrap();
    let said = all(&mut reply).await;
    let [Ok(Said::Response(response))] = &said[..] else { panic!("{said:?}") };
    assert!(String::from_utf8_lossy(response).contains("yes"));
}

#[tokio::test]
async fn a_changed_resource_is_told_to_who_subscribed() {
    let peer = legacy();
    let (mut subscribed, mut other) = (peer.asides(&asker("a")), peer.asides(&asker("b")));
    let subscribe =
        json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "f://x"}});
    assert!(end(&peer, "a", &subscribe).await.unwrap()["result"].is_object());
    let Aside::Note(note) = timeout(PATIENCE, subscribed.recv()).await.unwrap().unwrap() else {
        panic!("no note")
    };
    assert!(String::from_utf8_lossy(&note).contains("f://x"));
    assert!(other.try_recv().is_err());
    peer.end(&asker("a"));
    let heard = call(&peer, "heard", json!({})).await;
    assert_eq!(heard, json!(["notifications/initialized", "resources/subscribe", "resources/unsubscribe"]));
}

#[tokio::test]
async fn each_session_may_have_a_child_of_its_own() {
    let limits = Limits { children_max: 2, ..Limits::default() };
    let peer = start(&["legacy"], json!({"sharing": "per-session"}), &limits);
    let session = |name: &str| Asker { caller: "a".into(), session: Some(name.into()), ..Asker::nobody() };
    let mut pids = Vec::new();
    for name in ["1", "2", "1"] {
        let message = calling(1, "fork", json!({})).to_string().into();
        let mut reply = peer.call(Ask { asker: session(name), message }).await.unwrap();
        let Some(Ok(Said::Response(response))) = all(&mut reply).await.pop() else { panic!("no response") };
        let response: Value = serde_json::from_slice(&response).unwrap();
        let found: Value =
            serde_json::from_str(response["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
        pids.push(super::pids(&found));
    }
    assert_ne!(pids[0][0], pids[1][0]);
    assert_eq!(pids[0][0], pids[2][0]);
    assert_eq!(peer.state().children, 2);
    let third =
        peer.call(Ask { asker: session("3"), message: calling(1, "echo", json!({})).to_string().into() });
    assert!(matches!(third.await, Err(Refusal::TooManySessions)));
    peer.end(&session("1"));
    until("a session's child ends with it", || !is_alive(pids[0][0]) && !is_alive(pids[0][1])).await;
    assert!(is_alive(pids[1][0]));
    peer.introduction().await.expect("the server is known still");
    peer.stop(Duration::from_secs(1)).await;
    assert!(pids.iter().flatten().all(|pid| !is_alive(*pid)));
}
