//! Many connections and streams that come and go: what they took is given back.
//!
//! Without TLS, of which thousands of handshakes would be most of the time that this takes.

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;

use crate::pair;
use crate::process::{Process, at_last};
use crate::upstream::{self, Upstream};

const IDLE: usize = 2000;
const STREAMS: usize = 1000;
const STREAMS_EACH: usize = 100;
const CHURN: usize = 500;

/// A server that begins a stream for each call, and ends it when nobody reads it any more.
async fn streaming() -> Upstream {
    Upstream::with(async |seen| {
        if upstream::is_probe(&seen) || seen.method_name() != "tools/call" {
            return upstream::echo(&seen);
        }
        let (sender, response) = upstream::events();
        sender.send("data: 1\n\n".into()).await.unwrap();
        tokio::spawn(async move { sender.closed().await });
        response
    })
    .await
}

fn request(method: &str, name: &str) -> http::Request<Full<Bytes>> {
    let mut request = pair::modern(method, name, json!({ "name": name, "arguments": {} }));
    request.headers_mut().remove("host");
    *request.uri_mut() = format!("http://localhost{}", pair::PATH).parse().unwrap();
    request
}

struct Crowd<'a> {
    sidecar: &'a Process,
}

impl Crowd<'_> {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.sidecar.inbound()).await.unwrap()
    }

    async fn streams(&self) -> Vec<Response<Incoming>> {
        let (stream, tasks) = (TokioIo::new(self.connect().await), TokioExecutor::new());
        let (mut sender, connection) = http2::handshake::<_, _, Full<Bytes>>(tasks, stream).await.unwrap();
        tokio::spawn(connection);
        let mut open = Vec::new();
        for _ in 0..STREAMS_EACH {
            let response = sender.send_request(request("tools/call", "s")).await.unwrap();
            assert_eq!(response.status(), 200);
            open.push(response);
        }
        open
    }

    /// Calls once, on a connection of its own.
    async fn lists(&self) -> u16 {
        let stream = TokioIo::new(self.connect().await);
        let (mut sender, connection) =
            http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request("tools/list", "")).await.unwrap().status().as_u16()
    }

    /// Comes, stays until all are there, and goes.
    async fn comes_and_goes(&self) {
        let (mut idle, mut streams) = (Vec::new(), Vec::new());
        for _ in 0..IDLE {
            idle.push(self.connect().await);
        }
        let several = (0..STREAMS / STREAMS_EACH).map(|_| self.streams());
        for opened in futures_util::future::join_all(several).await {
            streams.extend(opened);
        }
        let open = async || self.sidecar.metric("connections{listener=\"inbound\"}").await;
        let under_way = async || self.sidecar.metric("in_flight{server=\"research/files\"}").await;
        let expected = i64::try_from(IDLE + STREAMS / STREAMS_EACH).unwrap();
        at_last("all are there", async || open().await == expected).await;
        assert_eq!(under_way().await, i64::try_from(STREAMS).unwrap());
        drop((idle, streams));
        for n in 0..CHURN {
            let stream = self.connect().await;
            if n % 10 == 0 {
                drop(stream);
                assert_eq!(self.lists().await, 200);
            }
        }
        at_last("all are gone", async || open().await == 0 && under_way().await == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_comes_and_goes_leaves_neither_descriptors_nor_memory_behind() {
    let upstream = streaming().await;
    let folder = tempfile::tempdir().unwrap();
    let resources = folder.path().join("resources.yaml");
    std::fs::write(&resources, pair::server(upstream.address, "inFlight: { max: 2000 }")).unwrap();
    let any = "127.0.0.1:0";
    let file = json!({
        "node": { "id": "research/files-1", "servers": ["research/files"] },
        "source": { "file": { "resources": resources } },
        "listen": { "inbound": any, "outbound": null, "health": any, "admin": any },
    });
    let sidecar = Process::start(folder.path(), &file).await;
    let crowd = Crowd { sidecar: &sidecar };
    assert_eq!(crowd.lists().await, 200);
    at_last("nobody is there", async || sidecar.metric("connections{listener=\"inbound\"}").await == 0).await;
    let (files, fresh) = (sidecar.open_files(), sidecar.resident_bytes());
    let mut after = Vec::new();
    for _ in 0..4 {
        crowd.comes_and_goes().await;
        at_last("descriptors are given back", async || sidecar.open_files() <= files + 2).await;
        after.push(sidecar.resident_bytes());
    }
    println!("resident: {} KiB, then {:?}", fresh >> 10, after.iter().map(|it| it >> 10).collect::<Vec<_>>());
    // The first crowds leave what an allocator keeps for the next; from then on it must be enough. How much it keeps at
    // one moment is chance: of the first two the larger counts, of the later ones the smaller. What is left of every
    // crowd makes both later ones larger.
    let (before, later) = (after[0].max(after[1]), after[2].min(after[3]));
    assert!(later <= before + before / 5, "it grows with each crowd: {after:?}");
    assert_eq!(crowd.lists().await, 200);
}
