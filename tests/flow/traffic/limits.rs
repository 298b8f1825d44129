//! Limits of the data plane, from outside: what is too large, too slow or too much is told as such, and hurts nobody
//! else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_certs::tls;
use weft_certs::verifier::Expect;

use super::doors;
use super::pair::{Answer, PATH, Pair, legacy, modern};
use super::streams::{call, listen, rest, stream};
use super::upstream::{self, Upstream};
use crate::mesh::eventually;

const KIND: &str = "content-type: application/json";

/// A connection to the sidecar, below HTTP.
async fn connect(pair: &Pair, alpn: &[u8]) -> TlsStream<TcpStream> {
    let workload = pair.mesh.workload("agents", "raw").await;
    let config = tls::client_config(&workload.live, &workload.trust, Expect::AnyInMesh, &[alpn]);
    let stream = TcpStream::connect(pair.inbound.inbound.unwrap()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Everything that is said until the connection ends.
async fn said(stream: &mut TlsStream<TcpStream>) -> String {
    let mut bytes = Vec::new();
    let all = async { while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {} };
    timeout(Duration::from_secs(10), all).await.expect("the connection ends");
    String::from_utf8(bytes).unwrap()
}

fn large(bytes: usize) -> Request<Full<Bytes>> {
    modern("tools/call", "echo", json!({ "name": "echo", "arguments": { "x": "x".repeat(bytes) } }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_told_with_the_limit_whether_its_length_was_said_or_not() {
    let pair = Pair::with(Upstream::echo().await, json!({ "bodyBytesMax": 4096 })).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    // However much is still on its way, the caller hears why.
    for bytes in [5000, 8 << 20] {
        let mut caller = pair.caller("agents", "large").await;
        let told = Answer::read(caller.send(large(bytes)).await).await;
        assert_eq!((told.status, told.code(), told.reason()), (413, 4130, "body_too_large"));
        assert_eq!(told.json()["error"]["data"]["bytesMax"], 4096);
    }
    let mut raw = connect(&pair, b"http/1.1").await;
    let head = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\n{KIND}\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
    raw.write_all(&[head.as_bytes(), chunk.as_bytes(), chunk.as_bytes()].concat()).await.unwrap();
    let mut told = Vec::new();
    while !String::from_utf8_lossy(&told).contains("bytesMax") {
        assert!(timeout(Duration::from_secs(10), raw.read_buf(&mut told)).await.unwrap().unwrap() > 0);
    }
    assert!(told.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&told));
    drop(raw);
    assert_eq!(Answer::read(caller.send(large(1000)).await).await.status, 200);
    assert_eq!(pair.upstream.seen().len(), 1);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_much_together_are_refused_while_small_calls_pass() {
    let pair = Pair::with(Upstream::echo().await, json!({ "bodiesBytesMax": 200_000 })).await;
    let held = pair.inbound.metrics.bodies_held_bytes.clone();
    let mut raw = connect(&pair, b"http/1.1").await;
    let head = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\n{KIND}\r\ncontent-length: 160000\r\n\r\n");
    raw.write_all(&[head.as_bytes(), &[b' '; 150_000]].concat()).await.unwrap();
    eventually("the half of a body is held", || held.get() == 150_000).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let told = Answer::read(caller.send(large(100_000)).await).await;
    assert_eq!((told.status, told.code(), told.reason()), (503, 5036, "no_room"));
    assert!(told.headers.contains_key("retry-after"));
    let mut caller = pair.caller("agents", "small").await;
    assert_eq!(Answer::read(caller.send(large(1000)).await).await.status, 200);
    drop(raw);
    eventually("what was held is free again", || held.get() == 0).await;
    assert_eq!(Answer::read(caller.send(large(100_000)).await).await.status, 200);
    eventually("a body is free with its call", || held.get() == 0).await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_told_as_such() {
    let pair = Pair::with(Upstream::echo().await, json!({ "headerBytesMax": 16384, "headersMax": 40 })).await;
    for (count, bytes) in [(1, 16_200), (1, 20_000), (50, 10)] {
        let mut caller = pair.caller("agents", "large").await;
        let mut request = call();
        for n in 0..count {
            let name: http::HeaderName = format!("x-{n}").parse().unwrap();
            request.headers_mut().insert(name, "x".repeat(bytes).parse().unwrap());
        }
        assert_eq!(Answer::read(caller.send(request).await).await.status, 431, "{count} of {bytes}");
    }
    assert_eq!(pair.upstream.seen().len(), 0);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_too_deep_and_batches_where_there_are_none_are_refused() {
    let pair = Pair::with(Upstream::echo().await, json!({ "depthMax": 8 })).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let mut deep = json!({});
    for _ in 0..9 {
        deep = json!({ "x": deep });
    }
    let deep = modern("tools/call", "echo", json!({ "name": "echo", "arguments": deep }));
    let told = Answer::read(caller.send(deep).await).await;
    assert_eq!((told.status, told.code()), (400, -32700));
    let batch = json!([{ "jsonrpc": "2.0", "method": "notifications/initialized" }]);
    for (revision, status) in
        [("2025-03-26", 202), ("2025-06-18", 400), ("2025-11-25", 400), ("2026-07-28", 400)]
    {
        let mut request = legacy(&batch, None);
        request.headers_mut().insert("mcp-protocol-version", revision.parse().unwrap());
        let told = Answer::read(caller.send(request).await).await;
        assert_eq!(told.status, status, "{revision}");
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_beyond_the_places_of_a_server_is_told_when_to_try_again_and_handshakes_never_are() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::serving(upstream, "inFlight: { max: 1 }", json!({})).await;
    let (mut first, mut second) =
        (pair.caller("agents", "first").await, pair.caller("agents", "second").await);
    let (called, saying) = stream(&mut first, call(), &mut asked).await;
    let told = Answer::read(second.send(call()).await).await;
    assert_eq!((told.status, told.code(), told.reason()), (429, 4292, "in_flight"));
    assert_eq!((&told.headers["retry-after"], &told.json()["id"]), (&"1".parse().unwrap(), &json!(7)));
    let told = Answer::read(second.send(modern("server/discover", "", json!({}))).await).await;
    assert_eq!(told.status, 200);
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } });
    assert!(Answer::read(second.send(legacy(&initialize, None)).await).await.json()["result"].is_object());
    drop(saying);
    assert!(rest(called).await.1);
    let (called, saying) = stream(&mut second, call(), &mut asked).await;
    drop(saying);
    assert!(rest(called).await.1, "the place is free again");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_a_place_where_the_server_has_a_queue() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::serving(upstream, "inFlight: { max: 1, queueMax: 1 }", json!({})).await;
    let mut callers = Vec::new();
    for account in ["first", "second", "third"] {
        callers.push(pair.caller("agents", account).await);
    }
    let [first, second, third] = &mut callers[..] else { panic!() };
    let (_called, saying) = stream(first, call(), &mut asked).await;
    // Of two more, one finds room in the queue and the other is told at once.
    let refused = tokio::select! {
        told = second.send(call()) => told,
        told = third.send(call()) => told,
    };
    assert_eq!(refused.status(), 429);
    drop(saying);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_takes_all_it_can_get_leaves_places_to_another() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::serving(upstream, "inFlight: { max: 16, queueMax: 4 }", json!({})).await;
    let mut held = Vec::new();
    for _ in 0..15 {
        let mut greedy = pair.caller("agents", "greedy").await;
        held.push(stream(&mut greedy, call(), &mut asked).await);
    }
    // It may wait, four times. Who comes after it waits for nothing.
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let mut greedy = pair.caller("agents", "greedy").await;
        waiting.spawn(async move { Answer::read(greedy.send(call()).await).await });
    }
    let refused = waiting.join_next().await.unwrap().unwrap();
    assert_eq!((refused.status, refused.code(), refused.reason()), (429, 4295, "caller_share"));
    let mut modest = pair.caller("agents", "modest").await;
    let (_called, saying) = stream(&mut modest, call(), &mut asked).await;
    drop((saying, waiting, held));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slow_holds_up_its_own_server_answer_and_nobody_else() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    let (mut slow, mut other) = (pair.caller("agents", "slow").await, pair.caller("agents", "other").await);
    let (called, saying) = stream(&mut slow, call(), &mut asked).await;
    let chunk = Bytes::from_static(&[b'x'; 256 << 10]);
    let mut taken = 0;
    // Until nothing moves any more: the sidecar keeps little, the rest is in the buffers of sockets.
    while timeout(Duration::from_millis(500), saying.send(chunk.clone())).await.is_ok() {
        taken += chunk.len();
        assert!(taken < 256 << 20, "the server is never held up");
    }
    let told = Answer::read(other.send(modern("tools/list", "", json!({}))).await).await;
    assert_eq!(told.status, 200);
    drop(saying);
    let (text, whole) = rest(called).await;
    assert!(whole && text.len() >= taken);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_coming_is_told_and_a_head_that_never_ends_is_not_waited_for() {
    let limits = json!({ "bodyIdleTimeout": "200ms", "headerTimeout": "300ms" });
    let pair = Pair::with(Upstream::echo().await, limits).await;
    let mut raw = connect(&pair, b"http/1.1").await;
    let begun = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\n{KIND}\r\ncontent-length: 100\r\n\r\n{{");
    raw.write_all(begun.as_bytes()).await.unwrap();
    let told = said(&mut raw).await;
    assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("body_timeout"), "{told}");
    let mut raw = connect(&pair, b"http/1.1").await;
    raw.write_all(b"POST /mcp HTTP/1.1\r\nhost: ").await.unwrap();
    said(&mut raw).await;
    assert_eq!(pair.upstream.seen().len(), 0);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_come_and_go_leave_nothing_behind() {
    let pair = Pair::start(Upstream::echo().await).await;
    let address = pair.inbound.inbound.unwrap();
    let workload = pair.mesh.workload("agents", "flood").await;
    let config = tls::client_config(&workload.live, &workload.trust, Expect::AnyInMesh, &[b"http/1.1"]);
    let connector = TlsConnector::from(Arc::new(config));
    for n in 0..1000 {
        let stream = TcpStream::connect(address).await.unwrap();
        // Some end before the handshake, some after, some in a head.
        if n % 10 == 0 {
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = connector.connect(name, stream).await.unwrap();
            if n % 20 == 0 {
                stream.write_all(b"POST /mcp HT").await.unwrap();
            }
        }
    }
    let open = || doors::value(&pair.inbound, "connections{listener=\"inbound\"}");
    eventually("no connection is left", || open() == 0).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    assert_eq!(caller.call("echo", json!({})).await.status, 200);
    assert_eq!(open(), 1);
    drop(caller);
    pair.stop().await;
}

async fn multiplexed(pair: &Pair) -> http2::SendRequest<Full<Bytes>> {
    let stream = connect(pair, b"h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A request as HTTP/2 has it: the host is in the target.
fn in_full(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    request.headers_mut().remove("host");
    *request.uri_mut() = format!("https://files.research{PATH}").parse().unwrap();
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_connection_run_beside_each_other() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    let mut sender = multiplexed(&pair).await;
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..32 {
        answers.spawn(sender.send_request(in_full(call())));
    }
    let mut held = Vec::new();
    while held.len() < 32 {
        held.push(asked.recv().await.unwrap());
    }
    let answer: Value = json!({ "jsonrpc": "2.0", "id": 7, "result": {} });
    for waits in held {
        waits.answer.send(upstream::document(&answer)).unwrap();
    }
    while let Some(response) = answers.join_next().await {
        assert_eq!(Answer::read(response.unwrap().unwrap()).await.json(), answer);
    }
    drop(sender);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_opened_and_reset_hurt_no_other_call() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let mut sender = multiplexed(&pair).await;
    for _ in 0..1000 {
        let one = tokio::spawn(sender.send_request(in_full(call())));
        tokio::task::yield_now().await;
        one.abort();
        if sender.ready().await.is_err() {
            // It was told to calm down, which is the other way to be protected.
            sender = multiplexed(&pair).await;
        }
    }
    let listing = || modern("tools/list", "", json!({}));
    assert_eq!(Answer::read(caller.send(listing()).await).await.status, 200);
    while let Ok(waits) = asked.try_recv() {
        drop(waits);
    }
    let under_way = || doors::value(&pair.inbound, "in_flight{server=\"research/files\"}");
    eventually("no call is under way any more", || under_way() == 0).await;
    let mut sender = multiplexed(&pair).await;
    assert_eq!(Answer::read(sender.send_request(in_full(listing())).await.unwrap()).await.status, 200);
    drop((sender, caller));
    pair.stop().await;
}

/// What listens holds a connection to the server for as long as it lasts, and there may be more of it than of calls.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_listen_leave_calls_their_connections_and_one_caller_leaves_some_to_others() {
    // A caller gets no more once it has more than seven times what is left.
    const LISTENING_MAX: usize = 1200;
    const OF_ONE: usize = 1051;
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::with(upstream, json!({ "listeningMax": LISTENING_MAX })).await;
    let mut held = Vec::new();
    let mut sender = multiplexed(&pair).await;
    while held.len() < OF_ONE {
        if held.len() % 200 == 0 {
            sender = multiplexed(&pair).await;
        }
        let opened = tokio::spawn(sender.send_request(in_full(listen())));
        let (said, response) = upstream::events();
        asked.recv().await.unwrap().answer.send(response).unwrap();
        held.push((timeout(Duration::from_secs(10), opened).await.unwrap().unwrap().unwrap(), said));
    }
    let refused = Answer::read(sender.send_request(in_full(listen())).await.unwrap()).await;
    assert_eq!((refused.status, refused.code(), refused.reason()), (429, 4295, "caller_share"));
    let mut other = pair.caller("agents", "somebody-else").await;
    let (listening, saying) = stream(&mut other, listen(), &mut asked).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let listing = Answer::read(caller.send(modern("tools/list", "", json!({}))).await).await;
    assert_eq!(listing.status, 200);
    drop((held, sender, listening, saying));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_too_many_of_a_server_is_told() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::with(upstream, json!({ "listeningMax": 1 })).await;
    let mut first = pair.caller("agents", "first").await;
    let (_listening, _saying) = stream(&mut first, listen(), &mut asked).await;
    let mut second = pair.caller("agents", "second").await;
    let refused = Answer::read(second.send(listen()).await).await;
    assert_eq!((refused.status, refused.code(), refused.reason()), (503, 5038, "too_many_streams"));
    pair.stop().await;
}
