use super::*;

/// A server of the legacy era that answers everything but what it is said how to.
async fn server(
    script: impl Fn(&Seen) -> Option<Response<Body>> + Send + Sync + 'static,
) -> (Fake, LegacyHttp) {
    let sessions = AtomicUsize::new(0);
    let fake = Fake::start(move |seen| match seen.rpc() {
        "initialize" => {
            let session = sessions.fetch_add(1, Ordering::Relaxed) + 1;
            let result = r#"{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"f","version":"1"}}"#;
            let mut answer = json(200, fake::result(&seen.body["id"], result));
            let id = HeaderValue::from_str(&format!("s{session}")).unwrap();
            answer.headers_mut().insert("mcp-session-id", id);
            Some(answer)
        }
        method if method.starts_with("notifications/") => Some(status(202)),
        _ if seen.method == Method::DELETE => Some(status(200)),
        _ => script(seen),
    })
    .await;
    let peer = LegacyHttp::new(fake.http(), fake.target(), settings());
    (fake, peer)
}

async fn call(peer: &LegacyHttp) -> Vec<String> {
    all(peer.call(ask("a", CALL)).await.unwrap()).await
}

fn is_call(seen: &Seen) -> bool {
    seen.rpc() == "tools/call"
}

#[tokio::test]
async fn each_asker_has_one_session() {
    let (fake, peer) = server(|_| Some(json(200, DONE))).await;
    for _ in 0..2 {
        assert_eq!(call(&peer).await, [format!("response {DONE}")]);
    }
    let expected =
        ["POST initialize", "POST notifications/initialized", "POST tools/call", "POST tools/call"];
    assert_eq!(fake.so_far().await, expected);
    all(peer.call(ask("b", CALL)).await.unwrap()).await;
    assert_eq!(fake.so_far().await, expected[..3]);
}

#[tokio::test]
async fn requests_carry_what_the_transport_wants() {
    let (fake, peer) = server(|_| Some(json(200, DONE))).await;
    call(&peer).await;
    let first = fake.next(|_| true).await;
    assert_eq!((first.header("mcp-protocol-version"), first.header("mcp-session-id")), ("", ""));
    assert_eq!(first.body["params"]["protocolVersion"], "2025-11-25");
    assert_eq!(first.body["params"]["capabilities"], serde_json::json!({}));
    for _ in 0..2 {
        let seen = fake.next(|_| true).await;
        assert_eq!(seen.path, "/mcp");
        assert_eq!(seen.header("host"), fake.host());
        assert_eq!(seen.header("accept"), "application/json, text/event-stream");
        assert_eq!(seen.header("content-type"), "application/json");
        assert_eq!(seen.header("mcp-protocol-version"), "2025-06-18", "what was agreed on");
        assert_eq!(seen.header("mcp-session-id"), "s1");
    }
}

#[tokio::test]
async fn a_stream_is_heard_until_the_response_and_no_further() {
    let note =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
    let ping = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
    let foreign = r#"{"jsonrpc":"2.0","id":8,"result":{}}"#;
    let (fake, peer) = server(move |seen| {
        if is_call(seen) {
            let text: String = [note, changed, request, ping, foreign, DONE, DONE, note].map(event).concat();
            return Some(events(&format!(": hello\n\nid: 1\ndata:\n\nevent: other\ndata: x\n\n{text}")));
        }
        Some(status(if seen.method == Method::GET { 405 } else { 202 }))
    })
    .await;
    let mut asides = peer.asides(&asker("a"));
    let expected = [format!("note {note}"), format!("request {request}"), format!("response {DONE}")];
    assert_eq!(call(&peer).await, expected);
    assert_eq!(within(asides.recv()).await, Ok(Aside::Note(Bytes::from(changed))));
    let pong = fake.next(|seen| seen.body["id"] == "p").await;
    assert_eq!(pong.body, serde_json::json!({"jsonrpc": "2.0", "id": "p", "result": {}}));
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_is_cancelled() {
    let opened = Opened::default();
    let streams = opened.clone();
    let (fake, peer) = server(move |seen| match seen.body["id"].as_i64() {
        Some(7) => None,
        _ => Some(streams.stream()),
    })
    .await;
    let silent = peer.call(ask("a", CALL)).await.unwrap();
    fake.next(is_call).await;
    drop(silent);
    let cancelled = fake.next(|seen| seen.rpc() == "notifications/cancelled").await;
    assert_eq!(cancelled.body["params"]["requestId"], 7);
    assert_eq!(cancelled.header("mcp-session-id"), "s1");
    let endless = peer.call(ask("a", &CALL.replace(":7", ":\"x\""))).await.unwrap();
    fake.next(is_call).await;
    let sender = opened.last();
    drop(endless);
    let cancelled = fake.next(|seen| seen.rpc() == "notifications/cancelled").await;
    assert_eq!(cancelled.body["params"]["requestId"], "x");
    within(sender.closed()).await;
}

#[tokio::test]
async fn a_session_that_the_server_forgot_is_made_anew_and_the_request_repeated_once() {
    let (fake, peer) = server(|seen| {
        Some(match seen.header("mcp-session-id") {
            "s1" => status(404),
            _ => json(200, DONE),
        })
    })
    .await;
    assert_eq!(call(&peer).await, [format!("response {DONE}")]);
    let all = fake.so_far().await;
    assert_eq!(all.iter().filter(|it| *it == "POST initialize").count(), 2);
    assert_eq!(all.iter().filter(|it| *it == "POST tools/call").count(), 2);
}

#[tokio::test]
async fn a_request_is_not_repeated_a_second_time() {
    let (fake, peer) = server(|_| Some(status(404))).await;
    assert_eq!(call(&peer).await, ["refusal upstream_broke"]);
    let all = fake.so_far().await;
    assert_eq!(all.iter().filter(|it| *it == "POST tools/call").count(), 2);
}

#[tokio::test]
async fn a_stream_that_ends_without_the_response_is_broken_unless_it_can_be_followed() {
    let note =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
    let (_fake, peer) = server(move |_| Some(events(&event(note)))).await;
    assert_eq!(call(&peer).await, [format!("note {note}"), "refusal upstream_broke".to_owned()]);
}

#[tokio::test]
async fn a_stream_with_ids_is_followed_over_connections() {
    let (fake, peer) = server(move |seen| {
        Some(match (&seen.method, seen.header("last-event-id")) {
            (&Method::POST, _) => events("retry: 1\nid: one\ndata:\n\n"),
            (_, "one") => events("id: two\ndata:\n\n"),
            (_, "two") => events(&event(DONE)),
            _ => status(405),
        })
    })
    .await;
    assert_eq!(call(&peer).await, [format!("response {DONE}")]);
    let all = fake.so_far().await;
    assert_eq!(all.iter().filter(|it| *it == "POST tools/call").count(), 1, "never sent twice");
    assert_eq!(all.iter().filter(|it| *it == "GET ").count(), 2);
}

#[tokio::test]
async fn a_stream_whose_rest_is_not_to_be_had_is_broken() {
    let (_fake, peer) = server(move |seen| {
        Some(match seen.method {
            Method::POST => events("retry: 1\nid: one\ndata:\n\n"),
            _ => status(405),
        })
    })
    .await;
    assert_eq!(call(&peer).await, ["refusal upstream_broke"]);
}

#[tokio::test]
async fn a_stream_that_only_ever_ends_is_given_up() {
    let (fake, peer) = server(move |_| Some(events("retry: 1\nid: one\ndata:\n\n"))).await;
    assert_eq!(call(&peer).await, ["refusal upstream_broke"]);
    assert!(fake.so_far().await.iter().filter(|it| *it == "GET ").count() <= 16);
}

#[tokio::test]
async fn an_event_without_bounds_breaks_the_exchange() {
    let (_fake, peer) = server(|_| {
        let (sender, response) = open_stream();
        tokio::spawn(async move {
            _ = sender.send(Bytes::from_static(b"id: 1\ndata: ")).await;
            while sender.send(Bytes::from(vec![b'x'; 1024])).await.is_ok() {}
        });
        Some(response)
    })
    .await;
    assert_eq!(call(&peer).await, ["refusal upstream_broke"]);
}

#[tokio::test]
async fn an_answer_without_bounds_breaks_the_exchange() {
    let (_fake, peer) = server(|_| Some(json(200, DONE.replace("1.0", &"1".repeat(5000))))).await;
    assert_eq!(call(&peer).await, ["refusal upstream_broke"]);
}

#[tokio::test]
async fn what_is_no_answer_breaks_the_exchange() {
    for answer in [
        (200, ""),
        (200, "{"),
        (200, r#"{"jsonrpc":"2.0","id":8,"result":{}}"#),
        (500, r#"{"error":"oops"}"#),
    ] {
        let (_fake, peer) = server(move |_| Some(json(answer.0, answer.1))).await;
        assert_eq!(call(&peer).await, ["refusal upstream_broke"], "{answer:?}");
    }
    for code in [202, 401, 500] {
        let (_fake, peer) = server(move |_| Some(status(code))).await;
        assert_eq!(call(&peer).await, ["refusal upstream_broke"], "{code}");
    }
}

#[tokio::test]
async fn an_error_is_an_answer_whatever_its_status() {
    let own = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no"}}"#;
    let nobodys = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}"#;
    let (_fake, peer) = server(move |_| Some(json(400, own))).await;
    assert_eq!(call(&peer).await, [format!("response {own}")]);
    let (_fake, peer) = server(move |_| Some(json(400, nobodys))).await;
    assert_eq!(
        call(&peer).await,
        [r#"response {"jsonrpc":"2.0","id":7,"error":{"code":-32600,"message":"no"}}"#]
    );
}

#[tokio::test]
async fn answers_in_an_array_are_found() {
    let (_fake, peer) = server(|_| {
        let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
        Some(json(200, format!("[{note}, {DONE}]")))
    })
    .await;
    let all = call(&peer).await;
    assert_eq!(all.len(), 2);
    assert_eq!(all[1], format!("response {DONE}"));
}

#[tokio::test]
async fn what_the_server_says_of_its_own_accord_is_heard_while_someone_listens() {
    let opened = Opened::default();
    let streams = opened.clone();
    let (fake, peer) = server(move |_| Some(streams.stream())).await;
    let mut asides = peer.asides(&asker("a"));
    let get = fake.next(|seen| seen.method == Method::GET).await;
    assert_eq!(get.header("accept"), "text/event-stream");
    assert_eq!(get.header("mcp-session-id"), "s1");
    let sender = opened.last();
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
    sender.send(Bytes::from(event("no message") + &event(changed) + &event(request))).await.unwrap();
    assert_eq!(within(asides.recv()).await, Ok(Aside::Note(Bytes::from(changed))));
    assert_eq!(within(asides.recv()).await, Ok(Aside::Request(Bytes::from(request))));
    drop(asides);
    peer.end(&asker("a"));
    within(sender.closed()).await;
}

/// Some servers notice only when they next have something to say that a stream was closed, and lose that.
#[tokio::test]
async fn whoever_listens_after_another_left_hears_the_next_thing_said() {
    let opened = Opened::default();
    let streams = opened.clone();
    let (fake, peer) = server(move |_| Some(streams.stream())).await;
    let is_get = |seen: &Seen| seen.method == Method::GET;
    drop(peer.asides(&asker("a")));
    let mut asides = peer.asides(&asker("a"));
    fake.next(is_get).await;
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    opened.last().send(Bytes::from(event(changed))).await.unwrap();
    assert_eq!(within(asides.recv()).await, Ok(Aside::Note(Bytes::from(changed))));
    drop(asides);
    let mut asides = peer.asides(&asker("a"));
    opened.last().send(Bytes::from(event(changed))).await.unwrap();
    assert_eq!(within(asides.recv()).await, Ok(Aside::Note(Bytes::from(changed))));
    assert!(fake.so_far().await.is_empty(), "one stream is enough");
}

#[tokio::test]
async fn a_server_that_takes_another_stream_for_open_is_asked_again() {
    let opened = Opened::default();
    let (streams, tries) = (opened.clone(), AtomicUsize::new(0));
    let (fake, peer) = server(move |_| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => Some(status(409)),
        _ => Some(streams.stream()),
    })
    .await;
    let mut asides = peer.asides(&asker("a"));
    for _ in 0..2 {
        fake.next(|seen| seen.method == Method::GET).await;
    }
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    opened.last().send(Bytes::from(event(changed))).await.unwrap();
    assert_eq!(within(asides.recv()).await, Ok(Aside::Note(Bytes::from(changed))));
}

#[tokio::test]
async fn a_server_that_says_nothing_of_its_own_accord_is_left_alone() {
    let (fake, peer) = server(|_| Some(status(405))).await;
    let _asides = peer.asides(&asker("a"));
    fake.next(|seen| seen.method == Method::GET).await;
    let mut again = peer.asides(&asker("a"));
    assert!(again.try_recv().is_err());
    assert!(fake.so_far().await.is_empty());
}

#[tokio::test]
async fn sessions_are_ended_when_they_are_no_longer_needed() {
    let (fake, peer) = server(|_| Some(json(200, DONE))).await;
    call(&peer).await;
    peer.end(&asker("a"));
    let ended = fake.next(|seen| seen.method == Method::DELETE).await;
    assert_eq!(ended.header("mcp-session-id"), "s1");
    call(&peer).await;
    drop(peer);
    let ended = fake.next(|seen| seen.method == Method::DELETE).await;
    assert_eq!(ended.header("mcp-session-id"), "s2");
}

#[tokio::test]
async fn the_server_introduces_itself_once() {
    let (fake, peer) = server(|_| Some(status(500))).await;
    for _ in 0..2 {
        let introduction = peer.introduction().await.unwrap();
        assert_eq!(introduction.revision, "2025-06-18");
        assert!(introduction.result.starts_with(b"{\"protocolVersion\""));
    }
    let expected = ["POST initialize", "POST notifications/initialized", "DELETE "];
    assert_eq!(fake.so_far().await, expected);
}

#[tokio::test]
async fn notifications_and_answers_are_passed_on() {
    let (fake, peer) = server(|seen| Some(status(if seen.rpc().is_empty() { 202 } else { 500 }))).await;
    let note = r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#;
    peer.notify(&asker("a"), note.into()).await.unwrap();
    fake.next(|seen| seen.rpc() == "notifications/roots/list_changed").await;
    peer.answer(&asker("a"), r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.into()).await.unwrap();
    fake.next(|seen| seen.body["result"].is_object()).await;
    let refused = peer.notify(&asker("a"), r#"{"jsonrpc":"2.0","method":"x"}"#.into()).await;
    assert_eq!(refused.unwrap_err().told().reason, "upstream_broke");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let (fake, peer) = server(|_| None).await;
    let address = fake.host();
    drop(fake);
    within(async { while tokio::net::TcpStream::connect(&address).await.is_ok() {} }).await;
    assert_eq!(call(&peer).await, ["refusal upstream_unreachable"]);
    assert_eq!(peer.introduction().await.unwrap_err().told().reason, "upstream_unreachable");
}

#[tokio::test]
async fn a_handshake_that_comes_to_nothing_is_told() {
    let result = r#"{"jsonrpc":"2.0","id":"weft-initialize","result":{"protocolVersion":"1999-01-01"}}"#;
    for (code, body) in [(200, result), (400, "{}"), (200, DONE), (500, "")] {
        let fake = Fake::start(move |_| Some(json(code, body))).await;
        let peer = LegacyHttp::new(fake.http(), fake.target(), settings());
        assert_eq!(call(&peer).await, ["refusal upstream_broke"], "{body}");
    }
}

#[tokio::test]
async fn comments_on_a_stream_are_signs_that_the_server_is_at_work() {
    let opened = Opened::default();
    let streams = opened.clone();
    let (fake, peer) = server(move |_| Some(streams.stream())).await;
    let mut reply = peer.call(ask("a", CALL)).await.unwrap();
    fake.next(is_call).await;
    opened.last().send(Bytes::from_static(b": still there\n\n")).await.unwrap();
    assert_eq!(within(reply.0.recv()).await, Some(Ok(Said::Sign)));
    opened.last().send(Bytes::from(event(DONE))).await.unwrap();
    assert_eq!(all(reply).await, [format!("response {DONE}")]);
}
