use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, header};
use http_body_util::BodyExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Notify, mpsc};

use super::testing::{Authority, echo, id, post, serve, soon, text, until};
use super::{ConnectError, Destination, Outgoing, Pool, SendError, Settings, Stats, Unsent, UpstreamBody};
use crate::body::Body;

async fn listener() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap()
}

fn pool(listener: &TcpListener, settings: Settings) -> Pool {
    Pool::new(Destination::Tcp(listener.local_addr().unwrap().into()), settings)
}

/// The head and the body of one request, as they came.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "the request broke off");
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .to_lowercase()
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        if body.len() == length {
            return text;
        }
    }
}

async fn write(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Waits until the other side has closed.
async fn closed(stream: &mut TcpStream) {
    let mut rest = [0; 64];
    match soon(stream.read(&mut rest)).await {
        Ok(0) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        Ok(_) => panic!("the connection is still used"),
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const PART: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart";
const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\n:a\n\r\n";

fn never_sent(outcome: Result<Response<UpstreamBody>, SendError>) -> (Outgoing, Unsent) {
    match outcome {
        Err(SendError::NeverSent { request, why }) => (request, why),
        Err(SendError::MaybeSent(error)) => panic!("it may have been sent: {error}"),
        Ok(_) => panic!("it was answered"),
    }
}

fn assert_maybe_sent(outcome: Result<Response<UpstreamBody>, SendError>) {
    match outcome {
        Err(SendError::MaybeSent(_)) => {}
        Err(SendError::NeverSent { why, .. }) => panic!("it was never sent: {why}"),
        Ok(_) => panic!("it was answered"),
    }
}

#[tokio::test]
async fn a_connection_serves_again_once_its_answer_was_read() {
    let server = serve(None, echo).await;
    let pool = server.pool(Settings::local());
    for body in ["one", "two", "three"] {
        assert_eq!(text(pool.send(post("/mcp", body)).await.unwrap()).await, body);
        until(|| pool.stats().idle == 1).await;
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_request_says_its_path_and_a_host_and_keeps_the_host_that_it_has() {
    let listener = listener().await;
    let (pool, address) = (pool(&listener, Settings::local()), listener.local_addr().unwrap());
    let answered = tokio::spawn({
        let pool = pool.clone();
        async move {
            let absolute = post("http://elsewhere.example/mcp?a=b", "x");
            text(pool.send(absolute).await.unwrap()).await;
            let mut own = post("/mcp", "x");
            Arc::make_mut(&mut own).headers_mut().insert(header::HOST, "own.example".parse().unwrap());
            text(pool.send(own).await.unwrap()).await;
        }
    });
    let (mut stream, _) = listener.accept().await.unwrap();
    let first = read_request(&mut stream).await;
    assert!(first.starts_with("POST /mcp?a=b HTTP/1.1\r\n"), "{first}");
    assert!(first.contains(&format!("host: {address}\r\n")), "{first}");
    write(&mut stream, OK).await;
    let second = read_request(&mut stream).await;
    assert!(second.contains("host: own.example\r\n"), "{second}");
    write(&mut stream, OK).await;
    answered.await.unwrap();
}

#[tokio::test]
async fn an_answer_without_a_body_frees_its_connection_at_once() {
    let server = serve(None, |_| async {
        let mut accepted = Response::new(Body::empty());
        *accepted.status_mut() = http::StatusCode::ACCEPTED;
        accepted
    });
    let server = server.await;
    let pool = server.pool(Settings::local());
    let response = pool.send(post("/mcp", "{}")).await.unwrap();
    until(|| pool.stats().idle == 1).await;
    drop(response);
    assert_eq!(pool.stats().idle, 1);
}

#[tokio::test]
async fn a_body_that_is_dropped_early_closes_the_connection() {
    let listener = listener().await;
    let pool = pool(&listener, Settings::local());
    for head in [STREAM, PART] {
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            write(&mut stream, head).await;
            stream
        };
        let (response, mut stream) = tokio::join!(pool.send(post("/mcp", "{}")), serving);
        let mut body = response.unwrap().into_body();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        drop(body);
        closed(&mut stream).await;
        until(|| pool.stats() == Stats::default()).await;
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_closes_the_connection() {
    let listener = listener().await;
    let pool = pool(&listener, Settings::local());
    let mut sending = Box::pin(pool.send(post("/mcp", "{}")));
    let mut stream = tokio::select! {
        _ = &mut sending => panic!("nobody answered"),
        stream = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            stream
        } => stream,
    };
    drop(sending);
    closed(&mut stream).await;
    until(|| pool.stats() == Stats::default()).await;
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_costs_no_request() {
    let listener = listener().await;
    let pool = pool(&listener, Settings::local());
    for _ in 0..3 {
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            write(&mut stream, OK).await;
        };
        let (response, ()) = tokio::join!(pool.send(post("/mcp", "{}")), serving);
        assert_eq!(text(response.unwrap()).await, "ok");
        until(|| pool.stats() == Stats::default()).await;
    }
}

/// Whoever wins the race between a request and the closing of its connection: the server sees the request once if it
/// was answered, and at most once if that is not known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_with_the_servers_closing_never_sends_a_request_twice() {
    let listener = listener().await;
    let pool = pool(&listener, Settings::local());
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let seen = Arc::clone(&counted);
            tokio::spawn(async move {
                // One answer, then the connection is closed while the next request is on its way.
                read_request(&mut stream).await;
                seen.fetch_add(1, Ordering::SeqCst);
                write(&mut stream, OK).await;
            });
        }
    });
    let (mut answered, mut unknown) = (0, 0);
    for _ in 0..300 {
        match soon(pool.send(post("/mcp", "{}"))).await {
            Ok(response) => {
                assert_eq!(text(response).await, "ok");
                answered += 1;
            }
            Err(SendError::MaybeSent(_)) => unknown += 1,
            Err(SendError::NeverSent { why, .. }) => panic!("it could have been sent: {why}"),
        }
    }
    let seen = seen.load(Ordering::SeqCst);
    assert!(answered <= seen && seen <= answered + unknown, "{answered} {seen} {unknown}");
    server.abort();
}

#[tokio::test]
async fn nothing_is_sent_where_nobody_listens_and_the_request_comes_back() {
    let address = listener().await.local_addr().unwrap();
    let pool = Pool::new(Destination::Tcp(address.into()), Settings::local());
    let (request, why) = never_sent(pool.send(post("/mcp", "body")).await);
    assert!(matches!(&why, Unsent::Connect(error) if matches!(**error, ConnectError::Reach { .. })), "{why}");
    assert_eq!(Arc::unwrap_or_clone(request).into_body().collect().await.unwrap().to_bytes(), "body");
    assert_eq!(pool.stats(), Stats::default());
}

#[tokio::test]
async fn a_server_that_never_shakes_hands_is_given_up() {
    let authority = Authority::new();
    let listener = listener().await;
    let config = authority.client(&id("server"), &[b"h2"]);
    let address = listener.local_addr().unwrap().into();
    let connect_timeout = Duration::from_millis(50);
    let settings = Settings { connect_timeout, ..Settings::peer() };
    let pool = Pool::new(Destination::Tls { address, config }, settings);
    // All of them wait for the one handshake, and are told of its failure at once.
    let sends = (0..20).map(|_| pool.send(post("/mcp", "{}")));
    for outcome in soon(futures_util::future::join_all(sends)).await {
        let (_, why) = never_sent(outcome);
        assert!(
            matches!(&why, Unsent::Connect(error) if matches!(**error, ConnectError::Timeout { .. })),
            "{why}"
        );
    }
    until(|| pool.stats() == Stats::default()).await;
}

#[tokio::test]
async fn a_request_that_was_written_may_have_been_sent_whatever_happens_to_the_connection() {
    let listener = listener().await;
    let pool = pool(&listener, Settings::local());
    for (reset, half) in [(false, false), (true, false), (false, true)] {
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            if reset {
                stream.set_zero_linger().unwrap();
            }
            if half {
                stream.shutdown().await.unwrap();
                closed(&mut stream).await;
            }
        };
        let (outcome, ()) = tokio::join!(pool.send(post("/mcp", "{}")), serving);
        assert_maybe_sent(outcome);
        until(|| pool.stats() == Stats::default()).await;
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_its_connection_is_closed() {
    let listener = listener().await;
    let pool = pool(&listener, Settings::local());
    for (head, reset) in [(PART, false), (PART, true), (STREAM, false), (STREAM, true)] {
        let (go, gone) = (Notify::new(), Notify::new());
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            write(&mut stream, head).await;
            go.notified().await;
            match reset {
                true => stream.set_zero_linger().unwrap(),
                // Only half: the server goes on listening.
                false => stream.shutdown().await.unwrap(),
            }
            if !reset {
                gone.notified().await;
            }
        };
        let reading = async {
            let mut body = pool.send(post("/mcp", "{}")).await.unwrap().into_body();
            assert!(body.frame().await.unwrap().unwrap().is_data());
            go.notify_one();
            assert!(soon(body.frame()).await.unwrap().is_err());
            gone.notify_one();
        };
        tokio::join!(serving, reading);
        until(|| pool.stats() == Stats::default()).await;
    }
}

#[tokio::test]
async fn whoever_waits_gets_the_next_connection_in_turn() {
    let listener = listener().await;
    let pool = pool(&listener, Settings { connections_max: 1, ..Settings::local() });
    let (mut first, second) = {
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            stream
        };
        let mut first = Box::pin(pool.send(post("/1", "{}")));
        let stream = tokio::select! {
            _ = &mut first => panic!("nobody answered"),
            stream = serving => stream,
        };
        (first, stream)
    };
    let mut stream = second;
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { text(pool.send(post("/2", "{}")).await.unwrap()).await }
    });
    until(|| pool.stats().pending == 1).await;
    // One who gives up is passed over.
    {
        let mut gives_up = Box::pin(pool.send(post("/3", "{}")));
        assert!(futures_util::poll!(&mut gives_up).is_pending());
        assert_eq!(pool.stats().pending, 2);
    }
    write(&mut stream, OK).await;
    assert_eq!(text((&mut first).await.unwrap()).await, "ok");
    assert!(read_request(&mut stream).await.starts_with("POST /2 "));
    write(&mut stream, OK).await;
    assert_eq!(waiting.await.unwrap(), "ok");
    until(|| pool.stats() == Stats { open: 1, idle: 1, pending: 0 }).await;
}

#[tokio::test]
async fn whoever_waits_gets_a_new_connection_when_one_closes() {
    let listener = listener().await;
    let pool = pool(&listener, Settings { connections_max: 1, ..Settings::local() });
    let mut first = Box::pin(pool.send(post("/1", "{}")));
    tokio::select! {
        _ = &mut first => panic!("nobody answered"),
        accepted = listener.accept() => drop(accepted),
    }
    let (outcome, (second, ())) = tokio::join!(first, async {
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            write(&mut stream, OK).await;
        };
        tokio::join!(pool.send(post("/2", "{}")), serving)
    });
    assert_maybe_sent(outcome);
    assert_eq!(text(second.unwrap()).await, "ok");
}

#[tokio::test]
async fn no_more_wait_than_may() {
    let server = serve(None, |_| std::future::pending()).await;
    let settings = Settings { connections_max: 2, pending_max: 1, ..Settings::local() };
    let pool = server.pool(settings);
    let mut held: Vec<_> = (0..3).map(|_| Box::pin(pool.send(post("/", "{}")))).collect();
    for send in &mut held {
        assert!(futures_util::poll!(send).is_pending());
    }
    until(|| {
        for send in &mut held {
            let _ = futures_util::FutureExt::now_or_never(send);
        }
        server.accepted() == 2
    })
    .await;
    let (_, why) = never_sent(pool.send(post("/", "{}")).await);
    assert!(matches!(why, Unsent::Full { waiting: 1 }), "{why}");
    assert_eq!(pool.stats(), Stats { open: 2, idle: 0, pending: 1 });
    drop(held);
    until(|| pool.stats() == Stats::default()).await;
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed() {
    let listener = listener().await;
    let settings = Settings { idle_timeout: Duration::from_millis(20), ..Settings::local() };
    let pool = pool(&listener, settings);
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        write(&mut stream, OK).await;
        closed(&mut stream).await;
    };
    let asking = async { text(pool.send(post("/mcp", "{}")).await.unwrap()).await };
    tokio::join!(serving, asking);
    until(|| pool.stats() == Stats::default()).await;
}

#[tokio::test]
async fn a_connection_that_is_old_or_worn_serves_no_more() {
    for settings in [
        Settings { age_max: Duration::ZERO, ..Settings::local() },
        Settings { requests_max: 1, ..Settings::local() },
        Settings { age_max: Duration::ZERO, http2_prior_knowledge: true, ..Settings::local() },
        Settings { requests_max: 1, http2_prior_knowledge: true, ..Settings::local() },
    ] {
        let server = serve(None, echo).await;
        let pool = server.pool(settings);
        for served in 1..4 {
            assert_eq!(text(pool.send(post("/mcp", "x")).await.unwrap()).await, "x");
            assert_eq!(server.accepted(), served);
        }
        until(|| pool.stats().open <= 1).await;
    }
}

/// Streams one chunk for each message, until the sender is dropped.
async fn streaming(
    tls: Option<Arc<rustls::ServerConfig>>,
) -> (super::testing::Server, mpsc::UnboundedReceiver<mpsc::Sender<Bytes>>) {
    let (opened, streams) = mpsc::unbounded_channel();
    let server = serve(tls, move |_| {
        let (sender, body) = Body::channel(4);
        opened.send(sender).unwrap();
        async move { Response::new(body) }
    });
    (server.await, streams)
}

#[tokio::test]
async fn a_retired_pool_lets_its_streams_live_and_takes_nothing_new() {
    for http2_prior_knowledge in [false, true] {
        let (server, mut streams) = streaming(None).await;
        let pool = server.pool(Settings { http2_prior_knowledge, ..Settings::local() });
        let mut body = pool.send(post("/", "{}")).await.unwrap().into_body();
        let stream = streams.recv().await.unwrap();
        pool.retire();
        let (_, why) = never_sent(pool.send(post("/", "{}")).await);
        assert!(matches!(why, Unsent::Retired), "{why}");
        drop(pool.clone());
        stream.send(Bytes::from_static(b"alive")).await.unwrap();
        assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "alive");
        drop(stream);
        assert_eq!(soon(body.collect()).await.unwrap().to_bytes(), "");
        until(|| pool.stats() == Stats::default()).await;
    }
}

#[tokio::test]
async fn requests_over_http2_share_a_connection_until_its_streams_run_out() {
    let (server, mut streams) = streaming(None).await;
    let settings =
        Settings { http2_prior_knowledge: true, streams_per_connection_max: 2, ..Settings::local() };
    let pool = server.pool(settings);
    let opening = (0..5).map(|_| pool.send(post("/", "{}")));
    let responses = soon(futures_util::future::try_join_all(opening)).await.unwrap();
    assert_eq!(server.accepted(), 3);
    let held: Vec<_> = [streams.recv().await, streams.recv().await].into_iter().flatten().collect();
    drop((responses, held));
    until(|| pool.stats().pending == 0).await;
    let again = (0..6).map(|_| pool.send(post("/", "{}")));
    let responses = soon(futures_util::future::try_join_all(again)).await.unwrap();
    assert_eq!((responses.len(), server.accepted()), (6, 3));
}

#[tokio::test]
async fn a_body_dropped_early_ends_its_stream_and_no_other() {
    let (server, mut streams) = streaming(None).await;
    let pool = server.pool(Settings { http2_prior_knowledge: true, ..Settings::local() });
    let first = pool.send(post("/", "{}")).await.unwrap();
    let first_stream = streams.recv().await.unwrap();
    let mut second = pool.send(post("/", "{}")).await.unwrap().into_body();
    let second_stream = streams.recv().await.unwrap();
    drop(first);
    soon(first_stream.closed()).await;
    second_stream.send(Bytes::from_static(b"alive")).await.unwrap();
    assert_eq!(soon(second.frame()).await.unwrap().unwrap().into_data().unwrap(), "alive");
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_servers_goodbye_moves_new_requests_and_lets_streams_live() {
    for http2_prior_knowledge in [false, true] {
        let (server, mut streams) = streaming(None).await;
        let pool = server.pool(Settings { http2_prior_knowledge, ..Settings::local() });
        let mut body = pool.send(post("/", "{}")).await.unwrap().into_body();
        let stream = streams.recv().await.unwrap();
        server.goodbye.notify_waiters();
        stream.send(Bytes::from_static(b"alive")).await.unwrap();
        assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "alive");
        let other = soon(pool.send(post("/", "{}"))).await.unwrap();
        assert_eq!(server.accepted(), 2);
        drop((other, stream));
        assert_eq!(soon(body.collect()).await.unwrap().to_bytes(), "");
    }
}

#[tokio::test]
async fn what_http2_refuses_was_never_sent() {
    let listener = listener().await;
    let settings = Settings { http2_prior_knowledge: true, ..Settings::local() };
    let pool = pool(&listener, settings);
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    });
    let (request, why) = never_sent(soon(pool.send(post("/mcp", "body"))).await);
    assert!(matches!(why, Unsent::Refused), "{why}");
    assert_eq!(request.uri().path(), "/mcp");
    server.abort();
}

#[tokio::test]
async fn a_stream_that_http2_resets_may_have_been_served() {
    let listener = listener().await;
    let settings = Settings { http2_prior_knowledge: true, ..Settings::local() };
    let pool = pool(&listener, settings);
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    });
    assert_maybe_sent(soon(pool.send(post("/mcp", "body"))).await);
    server.abort();
}

#[tokio::test]
async fn the_server_picks_the_version_of_http() {
    let authority = Authority::new();
    for alpn in [&[&b"h2"[..], b"http/1.1"][..], &[b"http/1.1"]] {
        let tls = authority.server(&id("server"), alpn);
        let server = serve(Some(tls), |request| async move {
            Response::new(Body::full(format!("{:?} {}", request.version(), request.uri().path())))
        });
        let server = server.await;
        let pool = server.tls_pool(authority.client(&id("server"), &[b"h2", b"http/1.1"]));
        let answers = (0..8).map(|_| async { text(pool.send(post("/a/b", "{}")).await.unwrap()).await });
        let answers = soon(futures_util::future::join_all(answers)).await;
        let expected = if alpn.len() == 2 { "HTTP/2.0 /a/b" } else { "HTTP/1.1 /a/b" };
        assert!(answers.iter().all(|answer| answer == expected), "{answers:?}");
        assert_eq!(server.accepted() == 1, alpn.len() == 2);
    }
}

#[tokio::test]
async fn a_server_with_another_identity_is_told_nothing() {
    let authority = Authority::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let tls = authority.server(&id("somebody-else"), &[b"h2", b"http/1.1"]);
    let server = serve(Some(tls), move |request| {
        counted.fetch_add(1, Ordering::SeqCst);
        echo(request)
    });
    let server = server.await;
    let pool = server.tls_pool(authority.client(&id("server"), &[b"h2", b"http/1.1"]));
    let (_, why) = never_sent(pool.send(post("/", "{}")).await);
    assert!(matches!(&why, Unsent::Connect(error) if matches!(**error, ConnectError::Tls { .. })), "{why}");
    assert!(why.to_string().contains("somebody-else"), "{why}");
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_server_may_listen_on_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mcp.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"{}") {
            stream.read_buf(&mut read).await.unwrap();
        }
        stream.write_all(OK.as_bytes()).await.unwrap();
        String::from_utf8(read).unwrap()
    };
    let pool = Pool::new(Destination::Unix(path.as_path().into()), Settings::local());
    let asking = async { text(pool.send(post("/mcp", "{}")).await.unwrap()).await };
    let (request, answer) = tokio::join!(serving, asking);
    assert_eq!(answer, "ok");
    assert!(request.contains("host: localhost\r\n"), "{request}");
}

/// What a client of the storm does with its request.
async fn at_random(pool: &Pool, random: &mut StdRng) {
    let path = ["/echo", "/close", "/break", "/hang"][random.random_range(0..4)];
    let patience = random.random_range(0..60);
    let mut sending = Box::pin(pool.send(post(path, "some bytes")));
    let mut polls = 0;
    let outcome = std::future::poll_fn(|context| {
        polls += 1;
        if let Poll::Ready(outcome) = sending.as_mut().poll(context) {
            return Poll::Ready(Some(outcome));
        }
        context.waker().wake_by_ref();
        if polls > patience { Poll::Ready(None) } else { Poll::Pending }
    })
    .await;
    drop(sending);
    match outcome {
        Some(Ok(response)) if random.random() => assert_eq!(text(response).await, "some bytes"),
        Some(Ok(response)) => drop(response),
        Some(Err(SendError::MaybeSent(_))) => assert_ne!(path, "/echo"),
        Some(Err(SendError::NeverSent { why, .. })) => panic!("{why}"),
        None => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_place_is_lost_whatever_becomes_of_requests() {
    for http2_prior_knowledge in [false, true] {
        let server = serve(None, |request| async move {
            match request.uri().path() {
                "/break" => panic!("the connection breaks"),
                "/hang" => std::future::pending().await,
                path => {
                    let close = path == "/close";
                    let mut response = echo(request).await;
                    if close && response.version() != http::Version::HTTP_2 {
                        response.headers_mut().insert(header::CONNECTION, "close".parse().unwrap());
                    }
                    response
                }
            }
        });
        let server = server.await;
        let settings = Settings {
            connections_max: 3,
            streams_per_connection_max: 2,
            http2_prior_knowledge,
            ..Settings::local()
        };
        let pool = server.pool(settings);
        let storm = (0..8).map(|seed| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                for _ in 0..200 {
                    at_random(&pool, &mut random).await;
                }
            })
        });
        soon(futures_util::future::try_join_all(storm)).await.unwrap();
        until(|| pool.stats().pending == 0).await;
        // All places can be had at once. That the storm broke a connection may show only when it is used again.
        let calm = (0..12).map(|_| async {
            loop {
                match pool.send(post("/echo", "x")).await {
                    Ok(response) => return text(response).await,
                    Err(SendError::MaybeSent(_)) => {}
                    Err(SendError::NeverSent { why, .. }) => panic!("{why}"),
                }
            }
        });
        assert_eq!(soon(futures_util::future::join_all(calm)).await, ["x"; 12]);
        assert!(pool.stats().open <= 3);
        pool.retire();
        until(|| pool.stats() == Stats::default()).await;
    }
}
