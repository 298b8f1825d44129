//! Far more calls than a server takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsConnector;
use weft_certs::tls;
use weft_certs::verifier::Expect;

use crate::mesh::eventually;
use crate::pair::{self, Answer, Pair};
use crate::process::PATIENCE;
use crate::upstream::{self, Upstream};

/// Calls at once at the server, and how long each takes there: 20 calls a second are all it can do. So few that what
/// is measured are places and not the processor's speed.
const PLACES: usize = 4;
const WORK: Duration = Duration::from_millis(200);
/// Ten times as many come, whatever becomes of those before.
const PER_TICK: usize = 2;
const TICK: Duration = Duration::from_millis(10);
const LASTS: Duration = Duration::from_secs(2);

/// A connection for many calls at once.
async fn multiplexed(pair: &Pair, account: &str) -> Sender {
    let workload = pair.mesh.workload("agents", account).await;
    let config = tls::client_config(&workload.live, &workload.trust, Expect::AnyInMesh, &[b"h2"]);
    let stream = TcpStream::connect(pair.inbound.inbound.unwrap()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn call(server: &str) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let mut request = pair::modern("tools/call", "work", json!({ "name": "work", "arguments": {} }));
    request.headers_mut().remove("host");
    *request.uri_mut() = format!("https://sidecar/servers/research/{server}/mcp").parse().unwrap();
    request
}

/// A server that needs its time, and cannot do more at once than it has places.
async fn slow() -> Upstream {
    Upstream::with(async |seen| {
        if !upstream::is_probe(&seen) {
            let mut work = interval(WORK);
            work.tick().await;
            work.tick().await;
        }
        upstream::echo(&seen)
    })
    .await
}

type Sender = http2::SendRequest<http_body_util::Full<bytes::Bytes>>;

/// How many calls a second the server does if nobody asks for more.
async fn peak(senders: &[Sender]) -> f64 {
    let (mut done, began) = (JoinSet::new(), Instant::now());
    for mut sender in senders.iter().cloned().cycle().take(PLACES) {
        done.spawn(async move {
            let mut calls = 0;
            while began.elapsed() < LASTS / 2 {
                let answer = Answer::read(sender.send_request(call("files")).await.unwrap()).await;
                assert_eq!(answer.status, 200);
                calls += 1;
            }
            calls
        });
    }
    let calls: i32 = done.join_all().await.into_iter().sum();
    f64::from(calls) / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_more_calls_than_a_server_takes_are_told_so_and_those_it_takes_are_as_quick_as_ever() {
    let pair = Pair::serving(slow().await, &format!("inFlight: {{ max: {PLACES} }}"), json!({})).await;
    let other = Upstream::echo().await;
    pair.apply(&pair::server(other.address, "").replace("name: files", "name: notes")).await;
    eventually("both servers are known", || pair.inbound.servers.all().len() == 2).await;
    let mut flood = [multiplexed(&pair, "flood-1").await, multiplexed(&pair, "flood-2").await];
    let mut beside = multiplexed(&pair, "beside").await;
    let peak = peak(&flood).await;

    let (mut answers, mut ticks, began) = (JoinSet::new(), interval(TICK), Instant::now());
    let mut looked = 0;
    while began.elapsed() < LASTS {
        ticks.tick().await;
        for n in 0..PER_TICK {
            let (sent, at) = (flood[n % 2].send_request(call("files")), Instant::now());
            answers.spawn(async move { (Answer::read(sent.await.unwrap()).await, at.elapsed()) });
        }
        if looked * 10 < began.elapsed().as_millis() / 20 {
            looked += 1;
            // Who asks how it goes, and who calls another server beside the same sidecar, are answered meanwhile.
            for door in [pair.inbound.health.unwrap(), pair.inbound.admin.unwrap()] {
                let request =
                    http::Request::get("/healthz/ready").body(http_body_util::Full::default()).unwrap();
                let ready = timeout(PATIENCE, crate::agent::send(door, request)).await;
                assert_eq!(ready.expect("it answers").unwrap().status(), 200);
            }
            let answer = timeout(PATIENCE, beside.send_request(call("notes"))).await;
            assert_eq!(answer.expect("it is served").unwrap().status(), 200);
        }
    }
    let lasted = began.elapsed();
    let (mut outcomes, mut taken) = (BTreeMap::<_, usize>::new(), Vec::new());
    while let Some(answered) = answers.join_next().await {
        let (answer, took) = answered.unwrap();
        *outcomes.entry((answer.status, answer.reason().to_owned())).or_default() += 1;
        match answer.status {
            200 => taken.push(took),
            _ => {
                assert_eq!((answer.status, answer.code(), answer.reason()), (429, 4292, "in_flight"));
                assert_eq!(answer.headers["retry-after"], "1");
            }
        }
    }
    println!("{outcomes:?} in {lasted:?}");
    let goodput = taken.len() as f64 / lasted.as_secs_f64();
    assert!(goodput >= peak * 0.8, "{goodput:.0} calls a second were served of {peak:.0} that can be");
    taken.sort_unstable();
    let p99 = taken[taken.len() * 99 / 100];
    assert!(p99 < WORK * 5, "of those that were served the slowest took {p99:?}");
    assert!(outcomes.len() == 2, "{outcomes:?}");
    drop((flood, beside));
    pair.stop().await;
}
