//! A sidecar before it is ready, and one that is about to end while the server beside it still has to call others.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Request;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;
use weft_sidecar::app::{self, Running, Surroundings};
use weft_sidecar::bootstrap::Bootstrap;
use weft_sidecar::logging::Logging;
use weft_sidecar::stdio::launch::Launcher;

use super::agent;
use super::doors;
use super::pair::{self, Answer, Caller, Pair, modern};
use super::upstream::{self, Upstream};
use crate::mesh::{Mesh, eventually};

/// A sidecar that is not waited for.
async fn started(bootstrap: serde_json::Value) -> Running {
    let bootstrap: Bootstrap = serde_json::from_value(bootstrap).unwrap();
    let around = Surroundings {
        workers: tokio::runtime::Handle::current(),
        launcher: Launcher::default(),
        access_log: weft_sidecar::access_log::Sink::Off,
        logging: Logging::new("info", Arc::new(|_| Ok(()))),
    };
    Box::pin(app::start(bootstrap, around)).await.unwrap()
}

fn call() -> Request<http_body_util::Full<bytes::Bytes>> {
    modern("tools/call", "echo", json!({ "name": "echo", "arguments": {} }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_called_before_it_knows_anything_says_so_and_when_to_come_back() {
    let upstream = Upstream::echo().await;
    let mesh = Mesh::start().await;
    mesh.apply(&pair::server(upstream.address, "")).await;
    // A control plane that is there and says nothing, for as long as nobody takes what waits.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = json!({ "inbound": "127.0.0.1:0", "outbound": "127.0.0.1:0" });
    let mut bootstrap = pair::joining(&mesh, "research", "files", listen, json!({})).await;
    bootstrap["source"]["controlPlane"]["address"] = json!(silent.local_addr().unwrap().to_string());
    let sidecar = started(bootstrap).await;
    let (inbound, outbound, health) =
        (sidecar.inbound.unwrap(), sidecar.outbound.unwrap(), sidecar.health.unwrap());

    let told = Answer::read(agent::send(outbound, call()).await.unwrap()).await;
    assert_eq!((told.status, told.code(), told.reason()), (503, 5032, "not_ready"));
    assert_eq!((&told.headers["retry-after"], &told.json()["id"]), (&"1".parse().unwrap(), &json!(7)));
    let stranger = mesh.workload("agents", "early").await;
    assert!(Caller::try_connect(inbound, stranger.clone()).await.is_err(), "it cannot prove yet who it is");
    let ready = doors::get(health, "/healthz/ready").await;
    assert_eq!((ready.status, &ready.body[..]), (503, &b"no certificate yet\n"[..]));
    assert_eq!(doors::get(health, "/healthz/live").await.status, 200);

    // The control plane is heard, by way of the address that was silent.
    let address = mesh.sidecars();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = silent.accept().await {
            tokio::spawn(async move {
                let mut to = tokio::net::TcpStream::connect(address).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    timeout(Duration::from_secs(20), sidecar.ready()).await.expect("it becomes ready by itself");
    let mut caller = Caller::connect(inbound, stranger).await;
    assert_eq!(caller.call("echo", json!({})).await.status, 200);
    assert_eq!(Answer::read(agent::send(outbound, call()).await.unwrap()).await.status, 200);
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_ready_knows_its_servers() {
    let folder = tempfile::tempdir().unwrap();
    let resources = folder.path().join("resources.yaml");
    std::fs::write(&resources, pair::server(std::net::SocketAddr::from(([127, 0, 0, 1], 1)), "")).unwrap();
    let any = "127.0.0.1:0";
    let file = json!({
        "node": { "id": "research/files-1", "servers": ["research/files"] },
        "source": { "file": { "resources": resources } },
        "listen": { "inbound": any, "outbound": null, "health": any, "admin": any },
    });
    for round in 0..20 {
        let sidecar = started(file.clone()).await;
        timeout(Duration::from_secs(20), sidecar.ready()).await.expect("it becomes ready");
        assert_eq!(
            sidecar.servers.all().len(),
            1,
            "round {round}: who called now would hear of no such server"
        );
        sidecar.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_finishes_its_calls_while_its_sidecar_drains_may_still_call_others() {
    // The server asks another one, through its own sidecar, before it answers.
    let own: Arc<OnceLock<std::net::SocketAddr>> = Arc::default();
    let (come, mut came) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>(8);
    let asking = {
        let own = Arc::clone(&own);
        Upstream::with(move |seen| {
            let (own, come) = (Arc::clone(&own), come.clone());
            async move {
                if upstream::is_probe(&seen) || seen.method_name() != "tools/call" {
                    return upstream::echo(&seen);
                }
                let (go_on, told) = tokio::sync::oneshot::channel();
                come.send(go_on).await.unwrap();
                told.await.unwrap();
                let mut request = call();
                *request.uri_mut() = "/servers/research/files/mcp".parse().unwrap();
                match agent::send(*own.get().unwrap(), request).await {
                    Ok(response) => {
                        let answer = Answer::read(response).await;
                        upstream::document(
                            &json!({ "jsonrpc": "2.0", "id": 7, "result": { "asked": answer.status } }),
                        )
                    }
                    Err(error) => upstream::document(
                        &json!({ "jsonrpc": "2.0", "id": 7, "result": { "asked": error.to_string() } }),
                    ),
                }
            }
        })
        .await
    };
    let pair = Pair::start(Upstream::echo().await).await;
    let declared = pair::server(asking.address, "").replace("files", "desk");
    pair.mesh.apply(&declared).await;
    let listen = json!({ "inbound": "127.0.0.1:0", "outbound": "127.0.0.1:0" });
    let desk = pair::sidecar(&pair.mesh, "research", "desk", listen, json!({})).await;
    eventually("it stands beside its server", || desk.servers.all().len() == 1).await;
    let (outbound, health) = (desk.outbound.unwrap(), desk.health.unwrap());
    own.set(outbound).unwrap();
    let workload = pair.mesh.workload("agents", "reviewer").await;
    let mut caller = Caller::connect(desk.inbound.unwrap(), workload).await;
    let mut request = call();
    *request.uri_mut() = "/servers/research/desk/mcp".parse().unwrap();
    let story = async {
        let go_on = came.recv().await.unwrap();
        let stopping = tokio::spawn(desk.stop());
        timeout(Duration::from_secs(20), async {
            while doors::get(health, "/healthz/ready").await.status == 200 {}
        })
        .await
        .expect("it drains");
        go_on.send(()).unwrap();
        // With the last call in, the way out closes, too.
        timeout(Duration::from_secs(10), stopping).await.expect("nothing is left").unwrap();
    };
    let (answer, ()) = tokio::join!(async { Answer::read(caller.send(request).await).await }, story);
    assert_eq!((answer.status, &answer.json()["result"]["asked"]), (200, &json!(200)), "{answer:?}");
    assert!(agent::send(outbound, call()).await.is_err());
    pair.stop().await;
}
