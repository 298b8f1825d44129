use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use weft_proto::compile::{Parts, compile};
use weft_proto::name::HostPort;
use weft_proto::resource::bounded::Text;
use weft_proto::resource::{Spec, parse_one};
use weft_proto::wire::{Endpoint, Endpoints, Meta, Object, Part};

use super::*;
use crate::body::Body;
use crate::upstream::testing::{Authority, Server, echo, id, post, serve, soon, text, until};

mod checked;
mod doubled;
mod kept;
mod routed;

fn server_name() -> ServerName {
    ServerName::parse("research/files").unwrap()
}

/// A mesh with one server, whose instances come and go.
struct Mesh {
    authority: Authority,
    /// The server's specification, without where it is.
    spec: String,
}

impl Mesh {
    fn new(spec: &str) -> Self {
        Self { authority: Authority::new(), spec: spec.to_owned() }
    }

    async fn instance<F, R>(&self, handler: F) -> Server
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        serve(Some(self.authority.server(&id("files"), &ALPN)), handler).await
    }

    fn snapshot(&self, endpoints: impl IntoIterator<Item = Endpoint>) -> Snapshot {
        let text = format!(
            "{{apiVersion: weft.dev/v1alpha1, kind: McpServer, metadata: {{namespace: research, name: files}}, \
             spec: {{workload: {{labels: {{app: files}}}}, {}}}}}",
            self.spec
        );
        let resource = parse_one("test", &text).unwrap();
        let meta = Meta::new(&resource.metadata, 1);
        let Spec::McpServer(spec) = resource.spec else { panic!("no server") };
        let mut parts = Parts::default();
        parts.insert(Part::Server(Arc::new(Object { meta, spec })));
        let endpoints = endpoints.into_iter().collect();
        parts.insert(Part::Endpoints(Arc::new(Endpoints { server: server_name(), endpoints })));
        compile(&parts)
    }

    fn outbound(&self, endpoints: impl IntoIterator<Item = Endpoint>) -> Arc<Outbound> {
        self.outbound_at(None, endpoints)
    }

    fn outbound_at(
        &self,
        zone: Option<&str>,
        endpoints: impl IntoIterator<Item = Endpoint>,
    ) -> Arc<Outbound> {
        let config = Config {
            identity: self.authority.identity(&id("caller")),
            trust: self.authority.trust(),
            key: Key::random(),
            locality: zone.map(str::to_owned),
            copies_max: 2,
            counts: Counts::default(),
        };
        Arc::new(Outbound::new(config, &self.snapshot(endpoints)))
    }
}

const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

fn endpoint(address: std::net::SocketAddr) -> Endpoint {
    Endpoint {
        address: HostPort::parse(&address.to_string()).unwrap(),
        node: None,
        weight: None,
        locality: None,
        identity: Some(id("files")),
    }
}

impl From<&Server> for Endpoint {
    fn from(server: &Server) -> Self {
        endpoint(server.address)
    }
}

/// Where nobody listens.
async fn nowhere() -> Endpoint {
    endpoint(TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap())
}

fn call(body: &'static str) -> Call<'static> {
    Call::new(post("/", body), Affinity::Any)
}

fn to(server: &ServerName, manner: Manner) -> Course {
    Course::from(Stop { server: server.clone(), manner })
}

async fn forward(outbound: &Arc<Outbound>, call: Call<'_>) -> Result<Answer, Refusal> {
    let server = server_name();
    soon(outbound.forward(&server, &to(&server, Manner::default()), call)).await
}

async fn ask(outbound: &Arc<Outbound>, call: Call<'_>) -> Result<String, Refusal> {
    Ok(text(forward(outbound, call).await?.response).await)
}

async fn ask_so(outbound: &Arc<Outbound>, manner: Manner, call: Call<'_>) -> Result<String, Refusal> {
    let answer = soon(outbound.forward(&server_name(), &to(&server_name(), manner), call)).await?;
    Ok(text(answer.response).await)
}

fn repeatable() -> Manner {
    Manner { repeatable: true, ..Manner::default() }
}

fn named(name: &'static str) -> impl Fn(Request<Incoming>) -> std::future::Ready<Response<Body>> + Clone {
    move |_| std::future::ready(Response::new(Body::full(name)))
}

#[tokio::test]
async fn a_request_reaches_the_server_at_its_path_on_the_peer() {
    let mesh = Mesh::new("");
    let server =
        mesh.instance(|request| async move { Response::new(Body::full(request.uri().to_string())) }).await;
    let outbound = mesh.outbound([Endpoint::from(&server)]);
    let at = server.address;
    for (path, expected) in [("/mcp", "mcp"), ("/?a=b", "mcp?a=b"), ("http://x.example/y?z", "mcp?z")] {
        let found = ask(&outbound, Call::new(post(path, "{}"), Affinity::Any)).await.unwrap();
        assert_eq!(found, format!("https://{at}/servers/research/files/{expected}"));
    }
    let path = Some(PathAndQuery::from_static("/servers/research/files/messages?s=1"));
    let found = ask(&outbound, Call { path, ..call("{}") }).await.unwrap();
    assert_eq!(found, format!("https://{at}/servers/research/files/messages?s=1"));
}

#[tokio::test]
async fn what_is_not_there_is_refused_for_what_it_is() {
    let mesh = Mesh::new("");
    let outbound = mesh.outbound([]);
    assert_eq!(ask(&outbound, call("{}")).await, Err(Refusal::NoInstance));
    let unknown = ServerName::parse("research/mail").unwrap();
    let course = to(&unknown, Manner::default());
    let refused = outbound.forward(&unknown, &course, call("{}")).await.unwrap_err();
    assert_eq!(refused, Refusal::UnknownServer("research/mail".to_owned()));
}

#[tokio::test]
async fn an_instance_that_need_not_prove_itself_is_not_called() {
    let mesh = Mesh::new("");
    let server = mesh.instance(echo).await;
    let outbound = mesh.outbound([Endpoint { identity: None, ..Endpoint::from(&server) }]);
    assert_eq!(ask(&outbound, call("{}")).await, Err(Refusal::NoInstance));
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn an_instance_with_another_identity_is_not_called() {
    let mesh = Mesh::new("retries: {attempts: 0}");
    let server = mesh.instance(|_| async { panic!("it was called") }).await;
    let outbound = mesh.outbound([Endpoint { identity: Some(id("mail")), ..Endpoint::from(&server) }]);
    let refused = ask(&outbound, call("{}")).await.unwrap_err();
    assert!(matches!(&refused, Refusal::UpstreamUnreachable(why) if why.contains("sa/files")), "{refused:?}");
    assert!(!refused.message().contains("sa/files"));
}

#[tokio::test]
async fn what_never_left_goes_to_another_instance() {
    let mesh = Mesh::new("");
    let server = mesh.instance(echo).await;
    let outbound = mesh.outbound([nowhere().await, Endpoint::from(&server)]);
    for _ in 0..20 {
        assert_eq!(ask(&outbound, call("hello")).await.unwrap(), "hello");
    }
}

#[tokio::test]
async fn what_never_left_goes_nowhere_else_where_that_is_not_wanted() {
    for spec in ["retries: {attempts: 0}", "retries: {budgetPercent: 0}"] {
        let mesh = Mesh::new(spec);
        let outbound = mesh.outbound([nowhere().await, nowhere().await]);
        let mut refused = 0;
        for _ in 0..12 {
            let refusal = ask(&outbound, call("{}")).await.unwrap_err();
            refused += usize::from(matches!(refusal, Refusal::UpstreamUnreachable(_)));
        }
        assert_eq!(refused, 12);
    }
}

#[tokio::test]
async fn what_never_reached_the_server_behind_a_peer_goes_to_another_instance() {
    let mesh = Mesh::new("outlierEjection: {consecutiveFailures: 1000}, retries: {budgetPercent: 100}");
    let says = |reason: &'static str| {
        mesh.instance(move |_| async move {
            let mut response = Response::new(Body::full(reason));
            response.headers_mut().insert(crate::headers::REASON, reason.parse().unwrap());
            response
        })
    };
    let (ends, begins) = (says("upstream_unreachable").await, says("not_ready").await);
    let whole = mesh.instance(echo).await;
    for other in [&ends, &begins] {
        let outbound = mesh.outbound([other, &whole].map(Endpoint::from));
        for _ in 0..20 {
            assert_eq!(ask(&outbound, call("hello")).await.unwrap(), "hello");
        }
    }
    let outbound = mesh.outbound([Endpoint::from(&ends)]);
    let answer = ask(&outbound, call("hello")).await.unwrap();
    assert_eq!(answer, "upstream_unreachable", "where there is no other, it is told as the peer tells it");
    let broke = says("upstream_broke").await;
    let outbound = mesh.outbound([&broke, &whole].map(Endpoint::from));
    let mut broken = 0;
    for _ in 0..20 {
        broken += usize::from(ask(&outbound, call("hello")).await.unwrap() == "upstream_broke");
    }
    assert!(broken > 0, "what may have been done is not done again");
}

#[tokio::test]
async fn what_may_have_been_done_is_done_once_unless_repeating_does_no_harm() {
    let mesh = Mesh::new("retries: {attempts: 3}");
    let seen = Arc::new(AtomicUsize::new(0));
    let breaks = {
        let seen = Arc::clone(&seen);
        move |_| {
            seen.fetch_add(1, Ordering::SeqCst);
            async { panic!("the connection breaks") }
        }
    };
    let broken = mesh.instance(breaks).await;
    let outbound = mesh.outbound([Endpoint::from(&broken)]);
    let refused = ask(&outbound, call("{}")).await.unwrap_err();
    assert!(matches!(refused, Refusal::UpstreamBroke(_)), "{refused:?}");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    let whole = mesh.instance(echo).await;
    outbound.update(&mesh.snapshot([Endpoint::from(&broken), Endpoint::from(&whole)]));
    for _ in 0..6 {
        assert_eq!(ask_so(&outbound, repeatable(), call("again")).await.unwrap(), "again");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_in_time() {
    let mesh = Mesh::new("timeouts: {call: 40ms}");
    let server = mesh.instance(|_| std::future::pending()).await;
    let outbound = mesh.outbound([Endpoint::from(&server)]);
    let after = Duration::from_millis(40);
    assert_eq!(ask(&outbound, call("{}")).await, Err(Refusal::TimedOut { after }));
    let timeout = Some(Duration::from_millis(20));
    let refused = ask_so(&outbound, Manner { timeout, ..Manner::default() }, call("{}")).await;
    assert_eq!(refused, Err(Refusal::TimedOut { after: Duration::from_millis(20) }));
}

#[tokio::test]
async fn a_try_has_its_own_time_where_the_server_may_be_asked_twice() {
    let mesh = Mesh::new("retries: {perTryTimeout: 300ms}, loadBalancing: {policy: round-robin}");
    let hangs = mesh.instance(|_| std::future::pending()).await;
    let answers = mesh.instance(echo).await;
    let outbound = mesh.outbound([Endpoint::from(&answers)]);
    // A connection is there, so that the time is not spent on that.
    assert_eq!(ask_so(&outbound, repeatable(), call("x")).await.unwrap(), "x");
    outbound.update(&mesh.snapshot([Endpoint::from(&hangs), Endpoint::from(&answers)]));
    for _ in 0..2 {
        assert_eq!(ask_so(&outbound, repeatable(), call("x")).await.unwrap(), "x");
    }
    assert!(hangs.accepted() > 0);
}

#[tokio::test]
async fn an_instance_that_fails_again_and_again_is_left_out() {
    let mesh = Mesh::new("outlierEjection: {consecutiveFailures: 3}, loadBalancing: {policy: round-robin}");
    let failing = mesh.instance(|_| async {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    });
    let (failing, working) = (failing.await, mesh.instance(named("working")).await);
    let outbound = mesh.outbound([Endpoint::from(&failing), Endpoint::from(&working)]);
    let mut failed = 0;
    for _ in 0..20 {
        let answer = forward(&outbound, call("{}")).await.unwrap();
        failed += usize::from(answer.response.status() == StatusCode::BAD_GATEWAY);
        drop(text(answer.response).await);
    }
    assert_eq!(failed, 3);
}

#[tokio::test]
async fn a_session_stays_with_the_instance_that_opened_it_until_that_is_gone() {
    let mesh = Mesh::new("");
    let (one, other) = (mesh.instance(named("one")).await, mesh.instance(named("other")).await);
    let both = [Endpoint::from(&one), Endpoint::from(&other)];
    let outbound = mesh.outbound(both.clone());
    let first = forward(&outbound, call("{}")).await.unwrap();
    let session = outbound.stick(&server_name(), first.instance, "its-own-id").unwrap();
    let name = text(first.response).await;
    let ask_in_session = || async {
        let (instance, own) = outbound.unstick(&server_name(), &session).unwrap();
        assert_eq!(own, "its-own-id");
        ask(&outbound, Call::new(post("/", "{}"), Affinity::Instance(instance))).await
    };
    for _ in 0..10 {
        assert_eq!(ask_in_session().await.unwrap(), name);
    }
    let (stays, goes) = if name == "one" { (&both[0], &both[1]) } else { (&both[1], &both[0]) };
    outbound.update(&mesh.snapshot([stays.clone()]));
    assert_eq!(ask_in_session().await.unwrap(), name);
    outbound.update(&mesh.snapshot([goes.clone()]));
    assert_eq!(ask_in_session().await, Err(Refusal::SessionUnknown));
    let other_server = ServerName::parse("research/mail").unwrap();
    assert_eq!(outbound.unstick(&other_server, &session), Err(Refusal::SessionUnknown));
    assert_eq!(outbound.unstick(&server_name(), "its-own-id"), Err(Refusal::SessionUnknown));
}

#[tokio::test]
async fn a_session_of_an_unreachable_instance_goes_nowhere_else() {
    let mesh = Mesh::new("retries: {attempts: 5}");
    let (gone, there) = (nowhere().await, mesh.instance(echo).await);
    let outbound = mesh.outbound([gone.clone(), Endpoint::from(&there)]);
    let instance = outbound.config.key.tag(&format!("{} {}", gone.address, id("files")));
    let refused = ask(&outbound, Call::new(post("/", "{}"), Affinity::Instance(instance))).await.unwrap_err();
    assert!(matches!(refused, Refusal::UpstreamUnreachable(_)), "{refused:?}");
    assert_eq!(there.accepted(), 0);
}

#[tokio::test]
async fn a_key_goes_to_the_same_instance() {
    let mesh = Mesh::new("");
    let servers =
        [mesh.instance(named("a")).await, mesh.instance(named("b")).await, mesh.instance(named("c")).await];
    let outbound = mesh.outbound(servers.iter().map(Endpoint::from));
    for key in ["task-1", "task-2", "task-3"] {
        let first = ask(&outbound, Call::new(post("/", "{}"), Affinity::Key(key))).await.unwrap();
        for _ in 0..5 {
            assert_eq!(ask(&outbound, Call::new(post("/", "{}"), Affinity::Key(key))).await.unwrap(), first);
        }
    }
}

#[tokio::test]
async fn the_own_zone_is_preferred_where_that_is_wanted() {
    for (spec, here) in [("loadBalancing: {preferLocal: true}", 12), ("", 0)] {
        let mesh = Mesh::new(spec);
        let (near, far) = (mesh.instance(named("near")).await, mesh.instance(named("far")).await);
        let at = |server, zone| Endpoint { locality: Text::parse(zone).ok(), ..Endpoint::from(server) };
        let outbound = mesh.outbound_at(Some("eu/a"), [at(&near, "eu/a"), at(&far, "eu/b")]);
        let mut served_near = 0;
        for _ in 0..12 {
            served_near += usize::from(ask(&outbound, call("{}")).await.unwrap() == "near");
        }
        assert!(served_near == 12 || (here == 0 && far.accepted() > 0), "{spec}: {served_near}");
    }
}

#[tokio::test]
async fn a_change_of_the_instances_breaks_no_stream_and_keeps_connections() {
    let mesh = Mesh::new("");
    let (opened, mut streams) = mpsc::unbounded_channel();
    let streaming = mesh.instance(move |_| {
        let (sender, body) = Body::channel(4);
        opened.send(sender).unwrap();
        async move { Response::new(body) }
    });
    let (streaming, other) = (streaming.await, mesh.instance(named("other")).await);
    let outbound = mesh.outbound([Endpoint::from(&streaming)]);
    let answer = forward(&outbound, call("{}")).await.unwrap();
    let (mut body, stream) = (answer.response.into_body(), streams.recv().await.unwrap());
    let mut alive = async |outbound: &Outbound, endpoints: Vec<Endpoint>| {
        outbound.update(&mesh.snapshot(endpoints));
        stream.send(Bytes::from_static(b"alive")).await.unwrap();
        assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "alive");
    };
    // Another comes, and what is said of this one changes.
    let weight = weft_proto::resource::bounded::Count::new(7);
    let changed = Endpoint { weight, ..Endpoint::from(&streaming) };
    alive(&outbound, vec![changed, Endpoint::from(&other)]).await;
    assert_eq!(streaming.accepted(), 1);
    drop(forward(&outbound, call("{}")).await.unwrap());
    assert!(streaming.accepted() == 1, "a connection that was there is used");
    // This one goes.
    alive(&outbound, vec![Endpoint::from(&other)]).await;
    for _ in 0..4 {
        assert_eq!(ask(&outbound, call("{}")).await.unwrap(), "other");
    }
    // The server itself goes.
    alive(&outbound, vec![]).await;
    assert_eq!(ask(&outbound, call("{}")).await, Err(Refusal::NoInstance));
}

#[tokio::test]
async fn a_request_that_waits_while_the_instances_are_exchanged_goes_to_the_new_ones() {
    let mesh = Mesh::new("retries: {attempts: 0}, circuitBreaker: {connectionsMax: 1}");
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    // HTTP/1.1: one connection is one request at a time.
    let tls = mesh.authority.server(&id("files"), &[b"http/1.1"]);
    let old = serve(Some(tls), {
        let (entered, leave) = (Arc::clone(&entered), Arc::clone(&leave));
        move |_| {
            let (entered, leave) = (Arc::clone(&entered), Arc::clone(&leave));
            async move {
                entered.notify_one();
                leave.notified().await;
                Response::new(Body::full("old"))
            }
        }
    });
    let (old, new) = (old.await, mesh.instance(named("new")).await);
    let outbound = mesh.outbound([Endpoint::from(&old)]);
    let asking = |outbound: &Arc<Outbound>| {
        let outbound = Arc::clone(outbound);
        tokio::spawn(async move { ask(&outbound, call("{}")).await })
    };
    let first = asking(&outbound);
    soon(entered.notified()).await;
    let waiting = asking(&outbound);
    until(|| outbound.stats(&server_name()).pending == 1).await;
    outbound.update(&mesh.snapshot([Endpoint::from(&new)]));
    assert_eq!(waiting.await.unwrap().unwrap(), "new");
    leave.notify_one();
    assert_eq!(first.await.unwrap().unwrap(), "old");
}

#[tokio::test]
async fn configurations_are_followed() {
    let mesh = Mesh::new("");
    let (one, other) = (mesh.instance(named("one")).await, mesh.instance(named("other")).await);
    let current = |snapshot| crate::state::Current {
        snapshot,
        origin: crate::state::Origin::File,
        version: "".into(),
        since: std::time::SystemTime::UNIX_EPOCH,
    };
    let live = Live::new(current(mesh.snapshot([Endpoint::from(&one)])));
    let outbound = mesh.outbound([]);
    let following = tokio::spawn({
        let (outbound, live) = (Arc::clone(&outbound), live.clone());
        async move { outbound.follow(&live).await }
    });
    for (server, name) in [(&one, "one"), (&other, "other")] {
        live.swap(current(mesh.snapshot([Endpoint::from(server)])));
        soon(async {
            while ask(&outbound, call("{}")).await.ok().as_deref() != Some(name) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    following.abort();
}

#[tokio::test]
async fn an_instance_counts_as_busy_until_its_answer_was_read() {
    let mesh = Mesh::new("");
    let server = mesh.instance(echo).await;
    let outbound = mesh.outbound([Endpoint::from(&server)]);
    let in_flight = || outbound.servers.load().reach(&server_name()).unwrap().instances[0].load.in_flight();
    let read = forward(&outbound, call("a")).await.unwrap();
    let dropped = forward(&outbound, call("b")).await.unwrap();
    assert_eq!(in_flight(), 2);
    text(read.response).await;
    assert_eq!(in_flight(), 1);
    drop(dropped);
    assert_eq!(in_flight(), 0);
}
