//! Checks of the way to instances.

use std::sync::atomic::AtomicBool;

use super::*;

/// An instance that does what it is called for, and answers questions of how it is as it is told to.
async fn asked(
    mesh: &Mesh,
    name: &'static str,
    is_well: &Arc<AtomicBool>,
    asked: &Arc<AtomicUsize>,
) -> Server {
    let (is_well, asked) = (Arc::clone(is_well), Arc::clone(asked));
    mesh.instance(move |request: Request<Incoming>| {
        let is_check = request.headers().get("mcp-method").is_some_and(|it| it == "server/discover");
        let (is_well, asked) = (Arc::clone(&is_well), Arc::clone(&asked));
        async move {
            let mut response = Response::new(Body::full(name));
            if is_check {
                assert_eq!(request.uri().path(), "/servers/research/files/mcp");
                asked.fetch_add(1, Ordering::SeqCst);
                if !is_well.load(Ordering::SeqCst) {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
            }
            response
        }
    })
    .await
}

#[tokio::test]
async fn an_instance_that_fails_its_checks_is_left_out_until_it_passes_one() {
    let mesh = Mesh::new(
        "healthCheck: {byCallers: true, interval: 100ms, unhealthyThreshold: 2}, \
         loadBalancing: {policy: round-robin}",
    );
    let (bad, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (bad_asked, good_asked) = (Arc::default(), Arc::default());
    let one = asked(&mesh, "bad", &bad, &bad_asked).await;
    let other = asked(&mesh, "good", &good, &good_asked).await;
    let outbound = mesh.outbound([Endpoint::from(&one), Endpoint::from(&other)]);
    assert_eq!((bad_asked.load(Ordering::SeqCst), good_asked.load(Ordering::SeqCst)), (0, 0));
    let both = async || {
        let mut names =
            [ask(&outbound, call("{}")).await.unwrap(), ask(&outbound, call("{}")).await.unwrap()];
        names.sort();
        names
    };
    assert_eq!(both().await, ["bad", "good"]);
    soon(async { while both().await != ["good", "good"] {} }).await;
    assert!(bad_asked.load(Ordering::SeqCst) >= 2);
    bad.store(true, Ordering::SeqCst);
    soon(async { while both().await != ["bad", "good"] {} }).await;
}

#[tokio::test]
async fn nobody_is_checked_where_the_server_does_not_say_that_callers_should() {
    let mesh = Mesh::new("healthCheck: {interval: 100ms}");
    let server = mesh.instance(named("x")).await;
    let outbound = mesh.outbound([Endpoint::from(&server)]);
    assert_eq!(ask(&outbound, call("{}")).await.unwrap(), "x");
    assert!(outbound.servers.load().reach(&server_name()).unwrap().instances[0].checks.is_none());
}
