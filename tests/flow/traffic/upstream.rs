//! A server to stand beside: it does what a story tells it to, and keeps what it was sent.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request as the server got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

type Answering = dyn Fn(Seen) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync;

/// A running server. It ends with this.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Upstream {
    /// A server that answers as a function says.
    pub(crate) async fn with<F, A>(answer: F) -> Self
    where
        F: Fn(Seen) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let answering: Arc<Answering> = Arc::new(move |seen| Box::pin(answer(seen)));
        let task = tokio::spawn(serve(listener, Arc::clone(&seen), answering));
        Self { address, seen, task }
    }

    /// A server of both eras with a tool `echo`, which answers with its arguments as text.
    pub(crate) async fn echo() -> Self {
        Self::with(async |seen| echo(&seen)).await
    }

    /// What was asked so far, handshakes of the sidecar itself left out.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|it| !is_probe(it)).cloned().collect()
    }
}

/// The sidecar asks what the server is; stories are about callers.
fn is_probe(seen: &Seen) -> bool {
    !seen.headers.contains_key("weft-caller")
}

/// Answers `tools/call` by its arguments, and everything else by an empty result.
pub(crate) fn echo(seen: &Seen) -> Response<Body> {
    if seen.method != Method::POST {
        return status(405);
    }
    let message: Value = serde_json::from_slice(&seen.body).unwrap();
    let Some(id) = message.get("id") else { return status(202) };
    let result = match message["method"].as_str().unwrap_or_default() {
        "tools/call" => {
            let text = message["params"]["arguments"].to_string();
            json!({ "resultType": "complete", "content": [{ "type": "text", "text": text }] })
        }
        "server/discover" => json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} },
            "ttlMs": 0, "cacheScope": "private",
        }),
        "initialize" => json!({
            "protocolVersion": "2025-11-25", "capabilities": { "tools": {} },
            "serverInfo": { "name": "echo", "version": "1" },
        }),
        _ => json!({ "resultType": "complete" }),
    };
    let mut response = document(&json!({ "jsonrpc": "2.0", "id": id, "result": result }));
    if message["method"] == "initialize" {
        response.headers_mut().insert("mcp-session-id", http::HeaderValue::from_static("session-1"));
    }
    response
}

pub(crate) fn document(value: &Value) -> Response<Body> {
    Response::builder()
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(value.to_string())).boxed_unsync())
        .unwrap()
}

pub(crate) fn status(status: u16) -> Response<Body> {
    Response::builder().status(status).body(Full::new(Bytes::new()).boxed_unsync()).unwrap()
}

/// An event stream, written by whoever holds the sender. The sender notices when nobody reads any more.
pub(crate) fn events() -> (mpsc::Sender<Bytes>, Response<Body>) {
    let (sender, chunks) = mpsc::channel(16);
    let frames = ReceiverStream::new(chunks).map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
    let response = Response::builder().header("content-type", "text/event-stream");
    (sender, response.body(StreamBody::new(frames).boxed_unsync()).unwrap())
}

async fn serve(listener: TcpListener, seen: Arc<Mutex<Vec<Seen>>>, answering: Arc<Answering>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (seen, answering) = (Arc::clone(&seen), Arc::clone(&answering));
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (seen, answering) = (Arc::clone(&seen), Arc::clone(&answering));
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let it =
                        Seen { method: head.method, path: head.uri.to_string(), headers: head.headers, body };
                    seen.lock().unwrap().push(it.clone());
                    Ok::<_, hyper::Error>(answering(it).await)
                }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
