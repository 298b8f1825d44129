use std::sync::Mutex;

use http::Method;
use tokio::sync::mpsc;

use super::*;
use crate::body::Body;
use crate::exchange::http::fake::*;

const CALL: &str =
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t","_meta":{"progressToken":"p"}}}"#;
const DONE: &str = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[1.0]}}"#;

/// The streams that are open at a server, in the order in which they were opened.
#[derive(Clone, Debug, Default)]
struct Streams(Arc<Mutex<Vec<mpsc::Sender<Bytes>>>>);

impl Streams {
    fn open(&self) -> Response<Body> {
        let (sender, response) = open_stream();
        let mut all = self.0.lock().unwrap();
        let path = format!("event: endpoint\ndata: /messages?session={}\n\n", all.len());
        sender.try_send(path.into()).unwrap();
        all.push(sender);
        response
    }

    fn of(&self, seen: &Seen) -> mpsc::Sender<Bytes> {
        let number: usize = seen.path.rsplit('=').next().unwrap().parse().unwrap();
        self.0.lock().unwrap()[number].clone()
    }

    fn last(&self) -> mpsc::Sender<Bytes> {
        self.0.lock().unwrap().last().unwrap().clone()
    }

    /// Ends all.
    fn end(&self) {
        let closed = open_stream().0;
        self.0.lock().unwrap().iter_mut().for_each(|sender| *sender = closed.clone());
    }
}

/// A server that says these messages when a tool is called, on the caller's stream.
async fn server(
    script: impl Fn(&Seen, &Streams) -> (u16, Vec<String>) + Send + Sync + 'static,
) -> (Fake, HttpSse, Streams) {
    let streams = Streams::default();
    let opened = streams.clone();
    let fake = Fake::start(move |seen| {
        if seen.method == Method::GET {
            return Some(opened.open());
        }
        let (code, said) = match seen.rpc() {
            "initialize" => {
                let result = r#"{"protocolVersion":"2024-11-05","capabilities":{},"serverInfo":{"name":"f","version":"1"}}"#;
                (202, vec![result_of(seen, result)])
            }
            method if method.starts_with("notifications/") => (202, Vec::new()),
            _ => script(seen, &opened),
        };
        for message in said {
            opened.of(seen).try_send(event(&message).into()).unwrap();
        }
        Some(status(code))
    })
    .await;
    let peer = HttpSse::new(fake.http(), fake.target(), settings());
    (fake, peer, streams)
}

fn result_of(seen: &Seen, json: &str) -> String {
    result(&seen.body["id"], json)
}

async fn all(mut reply: Reply) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(said) = within(reply.0.recv()).await {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        all.push(match said {
            Ok(Said::Note(note)) => format!("note {}", text(note)),
            Ok(Said::Request(request)) => format!("request {}", text(request)),
            Ok(Said::Sign) => "sign".to_owned(),
            Ok(Said::Response(response)) => format!("response {}", text(response)),
            Err(refusal) => format!("refusal {}", refusal.told().reason),
        });
    }
    all
}

async fn call(peer: &HttpSse) -> Vec<String> {
    all(peer.call(ask("a", CALL)).await.unwrap()).await
}

#[test]
fn endpoints_lead_to_the_server_itself_and_nowhere_else() {
    let target = |path: &str| Target {
        path: path.to_owned(),
        host: HeaderValue::from_static("localhost:80"),
        headers: HeaderMap::new(),
    };
    for (told, expected) in [
        ("/messages?a=b", Some("/messages?a=b")),
        ("messages", Some("/x/messages")),
        ("?session=1", Some("/x/sse?session=1")),
        (" /m ", Some("/m")),
        ("http://localhost:80/m?a", Some("/m?a")),
        ("http://LOCALHOST:80?a", Some("/?a")),
        ("//localhost:80/m", Some("/m")),
        ("http://localhost/m", None),
        ("http://evil:80/m", None),
        ("http://localhost:80@evil/m", None),
        ("//evil/m", None),
        ("https://localhost:80/m", None),
        ("file:///etc", None),
        ("http:/m", None),
        ("", None),
        ("/a b", None),
    ] {
        let found = endpoint(&target("/x/sse?y=z"), told.as_bytes()).ok();
        assert_eq!(found.as_deref(), expected, "{told}");
    }
    assert!(endpoint(&target("/"), &vec![b'a'; ENDPOINT_BYTES_MAX + 1]).is_err());
    assert!(endpoint(&target("/"), b"\xff").is_err());
}

#[tokio::test]
async fn each_asker_has_one_stream() {
    let (fake, peer, _) = server(|_, _| (202, vec![DONE.to_owned()])).await;
    for _ in 0..2 {
        assert_eq!(call(&peer).await, [format!("response {DONE}")]);
    }
    let expected =
        ["GET ", "POST initialize", "POST notifications/initialized", "POST tools/call", "POST tools/call"];
    assert_eq!(fake.so_far().await, expected);
    let reply = peer.call(ask("b", CALL)).await.unwrap();
    let posted = fake.next(|seen| seen.rpc() == "tools/call").await;
    assert_eq!(posted.path, "/messages?session=1");
    assert_eq!(posted.header("content-type"), "application/json");
    assert_eq!(all(reply).await, [format!("response {DONE}")]);
}

#[tokio::test]
async fn whatever_is_said_on_a_callers_stream_is_said_in_the_callers_name_and_an_introduction_in_nobodys() {
    let ping = r#"{"jsonrpc":"2.0","id":"ping","method":"ping"}"#;
    let (fake, peer, _) = server(move |seen, _| match seen.rpc() {
        "tools/call" => (202, vec![ping.to_owned()]),
        _ => (202, Vec::new()),
    })
    .await;
    let caller = |seen: &Seen| seen.headers.get("weft-caller").cloned();
    peer.introduction().await.unwrap();
    for rpc in ["", "initialize", "notifications/initialized"] {
        let seen = fake.next(|seen| seen.rpc() == rpc).await;
        assert_eq!(caller(&seen), None, "{rpc}");
    }
    for name in ["a", "b"] {
        let reply = peer.call(ask(name, CALL)).await.unwrap();
        for rpc in ["", "initialize", "notifications/initialized", "tools/call"] {
            let seen = fake.next(|seen| seen.rpc() == rpc).await;
            assert_eq!(caller(&seen).unwrap(), name, "{rpc}");
        }
        let pong = fake.next(|seen| seen.body["id"] == "ping").await;
        assert_eq!(caller(&pong).unwrap(), name);
        drop(reply);
        let cancelled = fake.next(|seen| seen.rpc() == "notifications/cancelled").await;
        assert_eq!(caller(&cancelled).unwrap(), name);
    }
}

#[tokio::test]
async fn messages_go_to_those_they_belong_to() {
    let progress =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}"#;
    let stray =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"q","progress":1}}"#;
    let log = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
    let ping = r#"{"jsonrpc":"2.0","id":"ping","method":"ping"}"#;
    let foreign = r#"{"jsonrpc":"2.0","id":8,"result":{}}"#;
    let (fake, peer, _) = server(move |seen, _| match seen.rpc() {
        "tools/call" => {
            let all = [progress, stray, log, changed, request, ping, foreign, "no json", DONE, DONE];
            (202, all.map(str::to_owned).to_vec())
        }
        _ => (202, Vec::new()),
    })
    .await;
    let mut asides = peer.asides(&asker("a"));
    let expected = [
        format!("note {progress}"),
        format!("note {log}"),
        format!("request {request}"),
        format!("response {DONE}"),
    ];
    assert_eq!(call(&peer).await, expected);
    for aside in [stray, changed] {
        assert_eq!(within(asides.recv()).await, Ok(Aside::Note(Bytes::from(aside))));
    }
    fake.next(|seen| seen.body["id"] == "ping" && seen.body["result"].is_object()).await;
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_is_cancelled() {
    let (fake, peer, _) = server(|_, _| (202, Vec::new())).await;
    let reply = peer.call(ask("a", CALL)).await.unwrap();
    fake.next(|seen| seen.rpc() == "tools/call").await;
    drop(reply);
    let cancelled = fake.next(|seen| seen.rpc() == "notifications/cancelled").await;
    assert_eq!(cancelled.body["params"]["requestId"], 7);
    let again = peer.call(ask("a", CALL)).await.unwrap();
    fake.next(|seen| seen.rpc() == "tools/call").await;
    drop(again);
}

#[tokio::test]
async fn an_id_is_used_only_once_at_a_time() {
    let (fake, peer, streams) = server(|_, _| (202, Vec::new())).await;
    let first = peer.call(ask("a", CALL)).await.unwrap();
    fake.next(|seen| seen.rpc() == "tools/call").await;
    assert_eq!(call(&peer).await, ["refusal invalid"]);
    streams.last().try_send(event(DONE).into()).unwrap();
    assert_eq!(all(first).await, [format!("response {DONE}")]);
}

#[tokio::test]
async fn a_stream_that_ends_takes_its_calls_with_it_and_is_opened_anew() {
    let (fake, peer, streams) = server(|_, _| (202, Vec::new())).await;
    let first = peer.call(ask("a", CALL)).await.unwrap();
    fake.next(|seen| seen.rpc() == "tools/call").await;
    streams.end();
    assert_eq!(all(first).await, ["refusal upstream_broke"]);
    let second = peer.call(ask("a", CALL)).await.unwrap();
    let posted = fake.next(|seen| seen.rpc() == "tools/call").await;
    assert_eq!(posted.path, "/messages?session=1");
    streams.last().try_send(event(DONE).into()).unwrap();
    assert_eq!(all(second).await, [format!("response {DONE}")]);
}

#[tokio::test]
async fn a_message_that_the_server_has_no_stream_for_is_repeated_once() {
    let (fake, peer, _) = server(|seen, _| match seen.path.ends_with("=0") {
        true => (404, Vec::new()),
        false => (202, vec![DONE.to_owned()]),
    })
    .await;
    assert_eq!(call(&peer).await, [format!("response {DONE}")]);
    assert_eq!(fake.so_far().await.iter().filter(|it| *it == "POST tools/call").count(), 2);
    let (_fake, peer, _) = server(|_, _| (404, Vec::new())).await;
    assert_eq!(call(&peer).await, ["refusal session_unknown"]);
    let (_fake, peer, _) = server(|_, _| (500, Vec::new())).await;
    assert_eq!(call(&peer).await, ["refusal upstream_broke"]);
}

#[tokio::test]
async fn an_event_without_bounds_ends_the_stream() {
    let (_fake, peer, _) = server(|seen, streams| {
        let sender = streams.of(seen);
        tokio::spawn(async move { while sender.send(Bytes::from(vec![b'x'; 1024])).await.is_ok() {} });
        (202, Vec::new())
    })
    .await;
    assert_eq!(call(&peer).await, ["refusal upstream_broke"]);
}

#[tokio::test]
async fn a_session_that_ends_closes_its_stream() {
    let (_fake, peer, streams) = server(|_, _| (202, vec![DONE.to_owned()])).await;
    call(&peer).await;
    peer.end(&asker("a"));
    within(streams.last().closed()).await;
    call(&peer).await;
    drop(peer);
    within(streams.last().closed()).await;
}

#[tokio::test]
async fn the_server_introduces_itself_once() {
    let (fake, peer, streams) = server(|_, _| (500, Vec::new())).await;
    for _ in 0..2 {
        assert_eq!(peer.introduction().await.unwrap().revision, "2024-11-05");
    }
    within(streams.last().closed()).await;
    assert_eq!(fake.so_far().await, ["GET ", "POST initialize", "POST notifications/initialized"]);
}

#[tokio::test]
async fn what_does_not_begin_with_an_endpoint_is_no_such_server() {
    let foreign = "event: endpoint\ndata: http://evil.test/messages\n\n";
    for text in ["data: {}\n\n", "event: endpoint\ndata: \n\n", "", foreign] {
        let fake = Fake::start(move |_| Some(events(text))).await;
        let peer = HttpSse::new(fake.http(), fake.target(), settings());
        assert_eq!(call(&peer).await, ["refusal upstream_broke"], "{text}");
        assert_eq!(fake.so_far().await, ["GET "], "nothing is posted anywhere");
    }
    let fake = Fake::start(|_| Some(status(405))).await;
    let peer = HttpSse::new(fake.http(), fake.target(), settings());
    assert_eq!(call(&peer).await, ["refusal upstream_broke"]);
}
