//! How a sidecar ends: nothing new is taken, what is under way comes to its end, and what does not end is cut.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::agent::Agent;
use super::doors;
use super::pair::{self, Answer, Pair};
use super::streams::{call, legacy_listen, listen, rest, stream};
use super::upstream::{self, Upstream};
use crate::mesh::eventually;

fn refuses_connections(address: SocketAddr) -> bool {
    // Refused, and not merely left waiting in a backlog that this itself fills.
    std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_sidecar_takes_nothing_new_ends_what_listens_and_lets_calls_finish() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    let mut callers = Vec::new();
    for account in ["calling", "waiting", "listening", "old"] {
        callers.push(pair.caller("agents", account).await);
    }
    let [calling, waiting, listening, old] = &mut callers[..] else { panic!() };
    let (called, said) = stream(calling, call(), &mut asked).await;
    let (listened, _listener) = stream(listening, listen(), &mut asked).await;
    let (old_listened, _old_listener) = stream(old, legacy_listen(), &mut asked).await;
    let (address, health) = (pair.inbound.inbound.unwrap(), pair.inbound.health.unwrap());
    assert_eq!(doors::get(health, "/healthz/ready").await.status, 200);
    let Pair { mesh, inbound, upstream: _upstream } = pair;

    let story = async {
        let late = asked.recv().await.unwrap();
        let stopping = tokio::spawn(inbound.stop());
        let (events, whole) = rest(listened).await;
        let last: Value = serde_json::from_str(
            events.trim_end().rsplit_once("data: ").expect("a stream that listens is told that it ends").1,
        )
        .unwrap();
        assert!(whole);
        assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!(7), &json!("complete")));
        assert_eq!(last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 7);
        assert_eq!(rest(old_listened).await, (String::new(), true));

        let ready = doors::get(health, "/healthz/ready").await;
        assert_eq!((ready.status, &ready.body[..]), (503, &b"draining\n"[..]));
        assert_eq!(doors::get(health, "/healthz/live").await.status, 200);
        eventually("new connections are refused", || refuses_connections(address)).await;

        assert!(!stopping.is_finished(), "calls are still under way");
        said.send("data: 1\n\n".into()).await.unwrap();
        drop(said);
        assert_eq!(rest(called).await, ("data: 1\n\n".to_owned(), true));
        assert!(!stopping.is_finished(), "a call has no answer yet");
        let answer = json!({ "jsonrpc": "2.0", "id": 7, "result": { "late": true } });
        late.answer.send(upstream::document(&answer)).unwrap();
        tokio::time::timeout(Duration::from_secs(10), stopping).await.expect("nothing is left").unwrap();
    };
    let (answer, ()) = tokio::join!(async { Answer::read(waiting.send(call()).await).await }, story);
    assert_eq!((answer.status, &answer.json()["result"]["late"]), (200, &json!(true)));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_is_cut_when_the_drain_has_lasted_long_enough_and_not_before() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::with(upstream, json!({ "drainTimeout": "500ms" })).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let (called, said) = stream(&mut caller, call(), &mut asked).await;
    said.send("data: 1\n\n".into()).await.unwrap();
    let Pair { mesh, inbound, upstream: _upstream } = pair;
    let began = Instant::now();
    let stopping = tokio::spawn(inbound.stop());
    assert_eq!(rest(called).await, ("data: 1\n\n".to_owned(), false), "a stream that was cut is not whole");
    assert!(began.elapsed() >= Duration::from_millis(500), "cut after {:?}", began.elapsed());
    tokio::time::timeout(Duration::from_secs(5), said.closed()).await.expect("the server is told");
    tokio::time::timeout(Duration::from_secs(5), stopping).await.expect("the sidecar ends").unwrap();
    mesh.stop().await;
}

/// As a container of its own that is told to end at the same moment as its agent.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_lingers_serves_its_agent_until_that_is_gone() {
    let pair = Pair::start(Upstream::echo().await).await;
    let listen = json!({ "inbound": "127.0.0.1:0", "outbound": "127.0.0.1:0" });
    let limits = json!({ "lingerTimeout": "300ms" });
    let agent = Agent { sidecar: pair::sidecar(&pair.mesh, "agents", "reviewer", listen, limits).await };
    assert_eq!(agent.call("read", json!({})).await.status, 200);
    let [inbound, outbound] = [agent.sidecar.inbound, agent.sidecar.outbound].map(Option::unwrap);
    let connected = std::net::TcpStream::connect(outbound).unwrap();
    let stopping = tokio::spawn(agent.sidecar.stop());
    eventually("nobody else is let in", || refuses_connections(inbound)).await;
    for _ in 0..2 {
        let again = pair::modern("tools/call", "read", json!({ "name": "read", "arguments": {} }));
        let answer = Answer::read(super::agent::send(outbound, again).await.unwrap()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        // Longer than it lingers for an agent that is not connected.
        let began = Instant::now();
        eventually("time passes", || began.elapsed() > Duration::from_millis(400)).await;
        assert!(!stopping.is_finished(), "the agent is still connected");
    }
    drop(connected);
    tokio::time::timeout(Duration::from_secs(10), stopping).await.expect("the agent is gone").unwrap();
    assert!(refuses_connections(outbound));
    pair.stop().await;
}
