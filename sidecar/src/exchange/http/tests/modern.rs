use serde_json::json as value;

use super::*;

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

fn call_of(arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"t","arguments":{arguments},{META}}}}}"#
    )
}

async fn server(
    script: impl Fn(&Seen) -> Option<Response<Body>> + Send + Sync + 'static,
) -> (Fake, ModernHttp) {
    let fake = Fake::start(move |seen| match seen.rpc() {
        "server/discover" => {
            let result = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"prompts":{}}}"#;
            Some(json(200, fake::result(&seen.body["id"], result)))
        }
        _ => script(seen),
    })
    .await;
    let peer = ModernHttp::new(fake.http(), fake.target(), settings());
    (fake, peer)
}

async fn call(peer: &ModernHttp) -> Vec<String> {
    all(peer.call(ask("a", &call_of("{}"))).await.unwrap()).await
}

fn is_call(seen: &Seen) -> bool {
    seen.rpc() == "tools/call"
}

#[tokio::test]
async fn a_request_stands_for_itself() {
    let (fake, peer) = server(|_| Some(json(200, DONE))).await;
    assert_eq!(call(&peer).await, [format!("response {DONE}")]);
    let seen = fake.next(|_| true).await;
    assert_eq!(seen.header("mcp-protocol-version"), "2026-07-28");
    assert_eq!(seen.header("mcp-method"), "tools/call");
    assert_eq!(seen.header("mcp-name"), "t");
    assert_eq!(seen.header("mcp-session-id"), "");
    assert_eq!(seen.header("accept"), "application/json, text/event-stream");
    assert!(fake.so_far().await.is_empty());
}

#[tokio::test]
async fn a_stream_is_heard_until_the_response() {
    let note =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
    let foreign = r#"{"jsonrpc":"2.0","id":8,"result":{}}"#;
    let (_fake, peer) =
        server(move |_| Some(events(&[note, request, foreign, DONE, DONE].map(event).concat()))).await;
    assert_eq!(call(&peer).await, [format!("note {note}"), format!("response {DONE}")]);
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_loses_its_connection() {
    let opened = Opened::default();
    let streams = opened.clone();
    let (fake, peer) = server(move |_| Some(streams.stream())).await;
    let reply = peer.call(ask("a", &call_of("{}"))).await.unwrap();
    fake.next(is_call).await;
    let sender = opened.last();
    drop(reply);
    within(sender.closed()).await;
    assert!(fake.so_far().await.is_empty(), "nothing else is said about it");
}

#[tokio::test]
async fn what_is_no_answer_breaks_the_exchange() {
    for (code, body) in
        [(200, ""), (200, r#"{"jsonrpc":"2.0","id":8,"result":{}}"#), (500, "{}"), (400, "<p>")]
    {
        let (_fake, peer) = server(move |_| Some(json(code, body))).await;
        assert_eq!(call(&peer).await, ["refusal upstream_broke"], "{body}");
    }
    let (_fake, peer) = server(|_| Some(events("id: 1\ndata:\n\n"))).await;
    assert_eq!(call(&peer).await, ["refusal upstream_broke"], "there is no resuming in this era");
    let (_fake, peer) = server(|_| Some(status(503))).await;
    assert_eq!(call(&peer).await, ["refusal upstream_broke"]);
}

#[tokio::test]
async fn an_error_is_an_answer_whatever_its_status() {
    let error = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"no"}}"#;
    let (_fake, peer) = server(move |_| Some(json(404, error))).await;
    assert_eq!(call(&peer).await, [format!("response {error}")]);
}

#[tokio::test]
async fn a_message_without_its_revision_is_not_sent() {
    let (fake, peer) = server(|_| Some(json(200, DONE))).await;
    let refusal = peer.call(ask("a", CALL)).await.unwrap_err();
    assert_eq!(refusal.told().reason, "bad_meta");
    assert!(fake.so_far().await.is_empty());
}

#[tokio::test]
async fn tools_that_want_arguments_in_headers_get_them_once_that_is_known() {
    let (fake, peer) = server(|seen| {
        Some(match seen.rpc() {
            "tools/list" => {
                let schema = value!({"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}});
                let (cursor, name) = match seen.body["params"]["cursor"].as_str() {
                    None => (value!("next"), "other"),
                    Some(_) => (value!(null), "t"),
                };
                let list = value!({"tools": [{"name": name, "inputSchema": schema}], "nextCursor": cursor});
                json(200, result(&seen.body["id"], &list.to_string()))
            }
            _ if seen.header("mcp-param-region") == "eu" => json(200, DONE),
            _ => json(400, r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32020,"message":"no"}}"#),
        })
    })
    .await;
    let call = call_of(r#"{"region":"eu"}"#);
    for _ in 0..2 {
        let reply = peer.call(ask("a", &call)).await.unwrap();
        assert_eq!(all(reply).await, [format!("response {DONE}")]);
    }
    let expected =
        ["POST tools/call", "POST tools/list", "POST tools/list", "POST tools/call", "POST tools/call"];
    assert_eq!(fake.so_far().await, expected);
}

#[tokio::test]
async fn a_call_refused_for_its_headers_is_repeated_only_once() {
    let refused = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32020,"message":"no"}}"#;
    let (fake, peer) = server(move |seen| {
        Some(match seen.rpc() {
            "tools/list" => json(200, result(&seen.body["id"], r#"{"tools":[]}"#)),
            _ => json(400, refused),
        })
    })
    .await;
    assert_eq!(call(&peer).await, [format!("response {refused}")]);
    assert_eq!(fake.so_far().await, ["POST tools/call", "POST tools/list", "POST tools/call"]);
}

#[tokio::test]
async fn lists_that_pass_by_are_learnt_from() {
    let (fake, peer) = server(|seen| {
        Some(match seen.rpc() {
            "tools/list" => {
                let schema = value!({"properties": {"n": {"type": "integer", "x-mcp-header": "N"}}});
                let list = value!({"tools": [{"name": "t", "inputSchema": schema}]});
                json(200, result(&seen.body["id"], &list.to_string()))
            }
            _ => json(200, DONE),
        })
    })
    .await;
    let list = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{META}}}}}"#);
    all(peer.call(ask("a", &list)).await.unwrap()).await;
    all(peer.call(ask("b", &call_of(r#"{"n":5}"#))).await.unwrap()).await;
    assert_eq!(fake.next(is_call).await.header("mcp-param-n"), "5");
}

#[tokio::test]
async fn tools_whose_annotations_break_the_rules_are_not_offered() {
    let (_fake, peer) = server(|seen| {
        let schema = value!({"properties": {"n": {"type": "number", "x-mcp-header": "N"}}});
        let list = value!({"tools": [{"name": "bad", "inputSchema": schema}, {"name": "good"}]});
        Some(json(200, result(&seen.body["id"], &list.to_string())))
    })
    .await;
    let list = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{META}}}}}"#);
    let heard = all(peer.call(ask("a", &list)).await.unwrap()).await;
    assert_eq!(heard, [r#"response {"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"good"}]}}"#]);
}

#[tokio::test]
async fn changes_are_listened_for_while_someone_wants_to_hear() {
    let opened = Opened::default();
    let streams = opened.clone();
    let (fake, peer) = server(move |_| Some(streams.stream())).await;
    let mut first = peer.asides(&asker("a"));
    let mut second = peer.asides(&asker("b"));
    let listen = fake.next(|seen| seen.rpc() == "subscriptions/listen").await;
    assert_eq!(listen.body["params"]["notifications"], value!({"toolsListChanged": true}));
    let sender = opened.last();
    let acknowledged = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{}}"#;
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    sender.send(Bytes::from(event(acknowledged) + &event(changed))).await.unwrap();
    assert_eq!(within(first.recv()).await, Ok(Aside::Note(Bytes::from(changed))));
    assert_eq!(within(second.recv()).await, Ok(Aside::Note(Bytes::from(changed))));
    drop(first);
    drop(second);
    within(sender.closed()).await;
}

#[tokio::test]
async fn a_stream_of_changes_can_be_asked_for_as_any_request() {
    let updated = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a"}}"#;
    let (_fake, peer) = server(move |seen| {
        let end = result(&seen.body["id"], "{}");
        Some(events(&[updated, &end].map(event).concat()))
    })
    .await;
    let listen = format!(
        r#"{{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{{"notifications":{{}},{META}}}}}"#
    );
    let all = all(peer.call(ask("a", &listen)).await.unwrap()).await;
    assert_eq!(all.len(), 2);
    assert_eq!(all[0], format!("note {updated}"));
}

#[tokio::test]
async fn the_server_introduces_itself_once() {
    let (fake, peer) = server(|_| None).await;
    for _ in 0..2 {
        assert_eq!(peer.introduction().await.unwrap().revision, "2026-07-28");
    }
    assert_eq!(fake.so_far().await, ["POST server/discover"]);
}

#[tokio::test]
async fn notifications_are_posted_and_answers_have_no_place() {
    let (fake, peer) = server(|_| Some(status(202))).await;
    peer.notify(&asker("a"), r#"{"jsonrpc":"2.0","method":"notifications/x"}"#.into()).await.unwrap();
    assert_eq!(fake.next(|_| true).await.header("mcp-method"), "notifications/x");
    assert!(peer.answer(&asker("a"), Bytes::new()).await.is_err());
}
