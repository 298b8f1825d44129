//! Requests that another server takes than the one that they are addressed to.

use super::*;

fn name(text: &str) -> ServerName {
    ServerName::parse(&format!("research/{text}")).unwrap()
}

fn snapshot(servers: &[(&str, Vec<Endpoint>)]) -> Snapshot {
    let mut parts = Parts::default();
    for (server, endpoints) in servers {
        let text = format!(
            "{{apiVersion: weft.dev/v1alpha1, kind: McpServer, metadata: {{namespace: research, name: {server}}}, \
             spec: {{workload: {{labels: {{app: x}}}}, retries: {{attempts: 1}}}}}}"
        );
        let resource = parse_one("test", &text).unwrap();
        let meta = Meta::new(&resource.metadata, 1);
        let Spec::McpServer(spec) = resource.spec else { panic!("no server") };
        parts.insert(Part::Server(Arc::new(Object { meta, spec })));
        let endpoints = endpoints.iter().cloned().collect();
        parts.insert(Part::Endpoints(Arc::new(Endpoints { server: name(server), endpoints })));
    }
    compile(&parts)
}

fn course(stops: &[&str]) -> Course {
    let stop = |server: &&str| Stop { server: name(server), manner: Manner::default() };
    Course { stops: stops.iter().map(stop).collect(), copy: None }
}

fn copied(course: Course, copy: &str) -> Course {
    Course { copy: Some(Stop { server: name(copy), manner: Manner::default() }), ..course }
}

async fn send(outbound: &Arc<Outbound>, course: &Course) -> Result<(String, Answer), Refusal> {
    let answer = soon(outbound.forward(&name("a"), course, call("{}"))).await?;
    Ok((answer.server.name.to_string(), answer))
}

fn copies(outbound: &Outbound, server: &str, outcome: &'static str) -> u64 {
    let labels = ServerOutcomeLabels { server: name(server).to_string().into(), outcome };
    outbound.config.counts.copies.get_or_create(&labels).get()
}

#[tokio::test]
async fn the_next_server_is_asked_when_nothing_left_for_the_one_before() {
    let mesh = Mesh::new("");
    let there =
        mesh.instance(|request| async move { Response::new(Body::full(request.uri().path().to_owned())) });
    let there = there.await;
    let outbound = mesh.outbound([]);
    outbound.update(&snapshot(&[
        ("a", vec![]),
        ("b", vec![nowhere().await]),
        ("c", vec![Endpoint::from(&there)]),
    ]));
    let (server, answer) = send(&outbound, &course(&["a", "unknown", "b", "c"])).await.unwrap();
    assert_eq!((&*server, &*text(answer.response).await), ("c", "/servers/research/c/mcp"));
    assert_eq!(send(&outbound, &course(&["a"])).await.unwrap_err(), Refusal::NoInstance);
    assert_eq!(send(&outbound, &course(&["unknown"])).await.unwrap_err(), Refusal::NoInstance);
    assert_eq!(send(&outbound, &course(&[])).await.unwrap_err(), Refusal::NoInstance);
    let refused = send(&outbound, &course(&["b", "a"])).await.unwrap_err();
    assert_eq!(refused, Refusal::NoInstance);
    assert!(outbound.is_available(&name("c")) && !outbound.is_available(&name("a")));
}

#[tokio::test]
async fn what_may_have_been_done_by_one_server_is_asked_of_no_other() {
    let mesh = Mesh::new("");
    let breaks = mesh.instance(|_| async { panic!("the connection breaks") }).await;
    let other = mesh.instance(named("other")).await;
    let outbound = mesh.outbound([]);
    outbound.update(&snapshot(&[("a", vec![Endpoint::from(&breaks)]), ("b", vec![Endpoint::from(&other)])]));
    for manner in [Manner::default(), repeatable()] {
        let stops = ["a", "b"].map(|it| Stop { server: name(it), manner });
        let refused = send(&outbound, &Course { stops: stops.into(), copy: None }).await.unwrap_err();
        assert!(matches!(refused, Refusal::UpstreamBroke(_)), "{refused:?}");
    }
    assert_eq!(other.accepted(), 0);
}

#[tokio::test]
async fn a_session_stays_with_the_server_that_opened_it_whatever_the_route_says_by_then() {
    let mesh = Mesh::new("");
    // The same sidecar stands beside both servers.
    let instance =
        mesh.instance(|request| async move { Response::new(Body::full(request.uri().path().to_owned())) });
    let instance = instance.await;
    let both = Endpoint::from(&instance);
    let outbound = mesh.outbound([]);
    outbound.update(&snapshot(&[("a", vec![both.clone()]), ("b", vec![both.clone()])]));
    for opened in ["a", "b"] {
        let (_, answer) = send(&outbound, &course(&[opened])).await.unwrap();
        let session = outbound.stick(&name("a"), answer.instance, "s-1").unwrap();
        let (instance, own) = outbound.unstick(&name("a"), &session).unwrap();
        assert_eq!(own, "s-1");
        let home = outbound.home(&name("a"), instance).unwrap();
        assert_eq!(home, name(opened));
        let bound = Call::new(post("/", "{}"), Affinity::Instance(instance));
        let answer = soon(outbound.forward(&name("a"), &course(&[opened]), bound)).await.unwrap();
        assert_eq!(text(answer.response).await, format!("/servers/research/{opened}/mcp"));
    }
    let (_, answer) = send(&outbound, &course(&["b"])).await.unwrap();
    outbound.update(&snapshot(&[("a", vec![both.clone()]), ("b", vec![])]));
    assert_eq!(outbound.home(&name("a"), answer.instance), Err(Refusal::SessionUnknown));
}

#[tokio::test]
async fn a_copy_is_never_waited_for() {
    let mesh = Mesh::new("");
    let (copied_to, mut arrived) = mpsc::unbounded_channel();
    let mirror = mesh.instance(move |_| {
        copied_to.send(()).unwrap();
        std::future::pending()
    });
    let (mirror, server) = (mirror.await, mesh.instance(named("a")).await);
    let outbound = mesh.outbound([]);
    outbound.update(&snapshot(&[("a", vec![Endpoint::from(&server)]), ("m", vec![Endpoint::from(&mirror)])]));
    let course = copied(course(&["a"]), "m");
    for _ in 0..5 {
        let (_, answer) = send(&outbound, &course).await.unwrap();
        assert_eq!(text(answer.response).await, "a");
    }
    // As many as there may be under way, and no more.
    soon(arrived.recv()).await.unwrap();
    soon(arrived.recv()).await.unwrap();
    assert_eq!(copies(&outbound, "m", "no_room"), 3);
    assert!(arrived.try_recv().is_err());
}

#[tokio::test]
async fn a_copy_is_read_to_its_end_and_thrown_away() {
    let mesh = Mesh::new("");
    let server = mesh.instance(named("a")).await;
    let mirror = mesh.instance(|request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "{}");
        Response::new(Body::full("what nobody reads"))
    });
    let mirror = mirror.await;
    let outbound = mesh.outbound([]);
    let servers = |mirror| [("a", vec![Endpoint::from(&server)]), ("m", vec![mirror])];
    outbound.update(&snapshot(&servers(Endpoint::from(&mirror))));
    send(&outbound, &copied(course(&["a"]), "m")).await.unwrap();
    until(|| copies(&outbound, "m", "answered") == 1).await;
    // One that cannot be reached changes nothing.
    outbound.update(&snapshot(&servers(nowhere().await)));
    let (_, answer) = send(&outbound, &copied(course(&["a"]), "m")).await.unwrap();
    assert_eq!(text(answer.response).await, "a");
    until(|| copies(&outbound, "m", "failed") == 1).await;
    // One that is not known here gets none.
    send(&outbound, &copied(course(&["a"]), "unknown")).await.unwrap();
}
