//! Second requests, and tools that are left alone.

use std::sync::atomic::{AtomicBool, Ordering};

use weft_proto::resource::units::{Delay, Span};

use super::*;

const SOON: Duration = Duration::from_millis(30);

fn hedged() -> Manner {
    let soon = Span::from_millis(SOON.as_millis().try_into().unwrap());
    Manner { hedge_after: Some(Delay::Given(soon)), ..repeatable() }
}

fn hedges(outbound: &Outbound, outcome: &'static str) -> u64 {
    let labels = ServerOutcomeLabels { server: server_name().to_string().into(), outcome };
    outbound.config.counts.hedges.get_or_create(&labels).get()
}

/// Tells when it is dropped.
struct Guard(mpsc::UnboundedSender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        _ = self.0.send(());
    }
}

/// An instance that never answers, and what tells of the requests that it was left with.
async fn silent(mesh: &Mesh) -> (Server, mpsc::UnboundedReceiver<()>) {
    let (left, told) = mpsc::unbounded_channel();
    let server = mesh.instance(move |_| {
        let guard = Guard(left.clone());
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    (server.await, told)
}

#[tokio::test]
async fn the_second_answer_is_taken_and_the_first_request_is_taken_back() {
    let mesh = Mesh::new("loadBalancing: {policy: round-robin}");
    let (silent, mut left) = silent(&mesh).await;
    let quick = mesh.instance(named("quick")).await;
    let outbound = mesh.outbound([Endpoint::from(&silent), Endpoint::from(&quick)]);
    for _ in 0..4 {
        assert_eq!(ask_so(&outbound, hedged(), call("{}")).await.unwrap(), "quick");
    }
    // A second request takes a turn, too: where the first went to the silent one, all do.
    let won = hedges(&outbound, "won");
    assert!(won >= 2 && hedges(&outbound, "lost") == 0, "{won}");
    for _ in 0..won {
        soon(left.recv()).await.unwrap();
    }
    let load =
        |at: usize| outbound.servers.load().reach(&server_name()).unwrap().instances[at].load.in_flight();
    assert_eq!((load(0), load(1)), (0, 0));
}

#[tokio::test]
async fn a_learnt_delay_is_that_of_the_tool_and_nobody_else_is_asked_before_it_is_known() {
    let mesh = Mesh::new("loadBalancing: {policy: round-robin}");
    let is_silent = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_silent);
    let at_times = mesh.instance(move |_| {
        let is_silent = asked.load(Ordering::Relaxed);
        async move {
            if is_silent {
                std::future::pending::<()>().await;
            }
            Response::new(Body::full("quick"))
        }
    });
    let (at_times, quick) = (at_times.await, mesh.instance(named("quick")).await);
    let outbound = mesh.outbound([Endpoint::from(&at_times), Endpoint::from(&quick)]);
    let manner = Manner { hedge_after: Some(Delay::P95), ..repeatable() };
    let read = |tool| ask_so(&outbound, manner, Call { tool: Some(tool), ..call("{}") });
    for _ in 0..32 {
        assert_eq!(read("read").await.unwrap(), "quick");
    }
    assert_eq!(["won", "lost", "no_budget"].map(|it| hedges(&outbound, it)), [0, 0, 0]);
    is_silent.store(true, Ordering::Relaxed);
    for _ in 0..4 {
        assert_eq!(read("read").await.unwrap(), "quick");
    }
    assert!(hedges(&outbound, "won") >= 2, "{}", hedges(&outbound, "won"));
    let reach = outbound.servers.load().reach(&server_name()).cloned().unwrap();
    assert!(reach.pace.delay("read").is_some() && reach.pace.delay("write").is_none());
}

#[tokio::test]
async fn second_requests_are_a_share_of_the_calls() {
    let mesh = Mesh::new("timeouts: {call: 200ms}");
    let ((one, _), (other, _)) = (silent(&mesh).await, silent(&mesh).await);
    let outbound = mesh.outbound([Endpoint::from(&one), Endpoint::from(&other)]);
    let asking = (0..30).map(|_| {
        let outbound = Arc::clone(&outbound);
        tokio::spawn(async move { ask_so(&outbound, hedged(), call("{}")).await })
    });
    for asked in asking.collect::<Vec<_>>() {
        assert!(asked.await.unwrap().is_err());
    }
    // Ten are there to begin with, and thirty calls bring in three more.
    assert_eq!(hedges(&outbound, "lost") + hedges(&outbound, "no_budget"), 30);
    assert!((10..=13).contains(&hedges(&outbound, "lost")), "{}", hedges(&outbound, "lost"));
}

#[tokio::test]
async fn a_failure_does_not_win_while_the_other_may_still_answer() {
    let mesh =
        Mesh::new("loadBalancing: {policy: round-robin}, outlierEjection: {consecutiveFailures: 1000}");
    let (release, waits) = tokio::sync::watch::channel(());
    let slow = mesh.instance(move |_| {
        let mut waits = waits.clone();
        waits.mark_unchanged();
        async move {
            waits.changed().await.unwrap();
            Response::new(Body::full("slow"))
        }
    });
    let failing = mesh.instance(move |_| {
        release.send_replace(());
        async {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    });
    let (slow, failing) = (slow.await, failing.await);
    let outbound = mesh.outbound([Endpoint::from(&slow), Endpoint::from(&failing)]);
    let (server, course) = (server_name(), to(&server_name(), hedged()));
    // At the second turn at the latest, the slow one is asked first.
    for _ in 0..2 {
        let before = hedges(&outbound, "lost");
        let answer = soon(outbound.forward(&server, &course, call("{}"))).await.unwrap();
        let status = answer.response.status();
        let expected = if hedges(&outbound, "lost") > before { "slow" } else { "" };
        assert_eq!(
            (text(answer.response).await.as_str(), status.is_success()),
            (expected, !expected.is_empty())
        );
    }
    assert!(hedges(&outbound, "lost") > 0);
    assert_eq!(hedges(&outbound, "won"), 0);
}

#[tokio::test]
async fn nobody_is_asked_twice_unless_that_is_wanted_and_somebody_else_is_there() {
    let mesh = Mesh::new("timeouts: {call: 150ms}");
    let (silent, _left) = silent(&mesh).await;
    let other = mesh.instance(named("other")).await;
    let outbound = mesh.outbound([Endpoint::from(&silent)]);
    assert!(ask_so(&outbound, hedged(), call("{}")).await.is_err());
    outbound.update(&mesh.snapshot([Endpoint::from(&silent), Endpoint::from(&other)]));
    let tag = outbound.servers.load().reach(&server_name()).unwrap().instances[0].tag;
    let bound = Call::new(post("/", "{}"), Affinity::Instance(tag));
    assert!(ask_so(&outbound, hedged(), bound).await.is_err());
    assert_eq!(["won", "lost", "no_budget"].map(|it| hedges(&outbound, it)), [0, 0, 0]);
    assert_eq!(other.accepted(), 0);
}

#[tokio::test]
async fn calls_of_a_tool_that_fails_again_and_again_are_not_sent_and_others_are() {
    let mesh = Mesh::new(
        "circuitBreaker: {toolFailures: 3, toolPause: 1h}, outlierEjection: {consecutiveFailures: 1000}, \
         retries: {attempts: 0}",
    );
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let failing = mesh.instance(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {
            // As a peer tells a caller of the legacy era.
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert(crate::headers::REASON, "timed_out".parse().unwrap());
            response
        }
    });
    let failing = failing.await;
    let outbound = mesh.outbound([Endpoint::from(&failing)]);
    let of = |tool| Call { tool, ..call("{}") };
    for _ in 0..3 {
        forward(&outbound, of(Some("slow"))).await.unwrap();
    }
    let refused = forward(&outbound, of(Some("slow"))).await.unwrap_err();
    assert!(
        matches!(refused, Refusal::ToolFailing { after } if after > Duration::from_secs(3000)),
        "{refused:?}"
    );
    assert_eq!(seen.load(Ordering::SeqCst), 3);
    for tool in [Some("other"), None, None, None, None] {
        forward(&outbound, of(tool)).await.unwrap();
    }
    // Another configuration of the server does not forget it.
    outbound.update(&mesh.snapshot([Endpoint::from(&failing), nowhere().await]));
    assert!(forward(&outbound, of(Some("slow"))).await.is_err());
    assert_eq!(seen.load(Ordering::SeqCst), 8);
}
