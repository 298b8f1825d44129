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
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
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

    /// The method of its message, or of HTTP where there is none.
    pub(crate) fn method_name(&self) -> String {
        let message: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        message["method"].as_str().unwrap_or(self.method.as_str()).to_owned()
    }
}

/// A request that waits for its answer. The sender notices when nobody waits for it any more.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) answer: oneshot::Sender<Response<Body>>,
}

/// What becomes of a connection after the bytes of a script.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Close,
    Reset,
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
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), answer).await
    }

    /// The same, at an address.
    pub(crate) async fn at<F, A>(address: SocketAddr, answer: F) -> Self
    where
        F: Fn(Seen) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
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

    /// A server whose answers to calls and listeners a story gives, one by one.
    pub(crate) async fn asking() -> (Self, mpsc::Receiver<Asked>) {
        let (sender, asked) = mpsc::channel(64);
        let upstream = Self::with(move |seen| {
            let sender = sender.clone();
            async move {
                let is_held =
                    ["GET", "tools/call", "subscriptions/listen"].contains(&seen.method_name().as_str());
                if is_probe(&seen) || !is_held {
                    return echo(&seen);
                }
                let (answer, given) = oneshot::channel();
                sender.send(Asked { answer }).await.unwrap();
                given.await.unwrap_or_else(|_| status(500))
            }
        });
        (upstream.await, asked)
    }

    /// A server that answers callers with bytes, by the tool that they call, and then does something to the connection.
    pub(crate) async fn raw(script: fn(&str) -> (&'static [u8], End)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve_raw(listener, Arc::clone(&seen), script));
        Self { address, seen, task }
    }

    /// Whatever does something with each connection by itself, and with what it is told of requests.
    pub(crate) async fn by_hand<F, C>(serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<Mutex<Vec<Seen>>>) -> C + Send + 'static,
        C: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&told)));
            }
        });
        Self { address, seen, task }
    }

    /// A server that somebody else runs, or nobody.
    pub(crate) fn elsewhere(address: SocketAddr) -> Self {
        Self { address, seen: Arc::default(), task: tokio::spawn(std::future::pending()) }
    }

    /// What was asked so far, handshakes of the sidecar itself left out.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|it| !is_probe(it)).cloned().collect()
    }
}

impl Upstream {
    /// The last message of a method, whoever it was asked by: the sidecar speaks for itself to a server of the other era.
    pub(crate) fn seen_of(&self, method: &str) -> Value {
        let seen = self.seen.lock().unwrap();
        seen.iter().rfind(|it| it.method_name() == method).map(Seen::json).unwrap_or_default()
    }
}

/// The sidecar asks what the server is; stories are about callers.
pub(crate) fn is_probe(seen: &Seen) -> bool {
    !seen.headers.contains_key("weft-caller")
}

/// Answers `tools/call` by its arguments, and everything else by an empty list or result.
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
        "tools/list" => {
            json!({ "resultType": "complete", "tools": [], "ttlMs": 0, "cacheScope": "private" })
        }
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
    // Its connections end with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let (seen, answering) = (Arc::clone(&seen), Arc::clone(&answering));
        connections.spawn(async move {
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

async fn serve_raw(
    listener: TcpListener,
    seen: Arc<Mutex<Vec<Seen>>>,
    script: fn(&str) -> (&'static [u8], End),
) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Some(it) = read_raw(&mut stream).await {
                seen.lock().unwrap().push(it.clone());
                if is_probe(&it) {
                    stream.write_all(&written(echo(&it)).await).await.unwrap();
                    continue;
                }
                let tool = it.json()["params"]["name"].as_str().unwrap_or_default().to_owned();
                let (bytes, end) = script(&tool);
                stream.write_all(bytes).await.unwrap();
                match end {
                    End::Close => {}
                    End::Reset => stream.set_zero_linger().unwrap(),
                }
                return;
            }
        });
    }
}

/// An answer as it is written.
pub(crate) async fn written(answer: Response<Body>) -> Vec<u8> {
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}

/// One request with a length, as a server reads it that knows nothing else.
pub(crate) async fn read_raw(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ').map(ToOwned::to_owned);
    let (method, path) = (first.next()?.parse().unwrap(), first.next()?);
    let headers: HeaderMap = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| {
            (name.parse::<http::HeaderName>().unwrap(), value.parse::<http::HeaderValue>().unwrap())
        })
        .collect();
    let length = headers.get("content-length").map_or(0, |it| it.to_str().unwrap().parse().unwrap());
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(Seen { method, path, headers, body: Bytes::copy_from_slice(&bytes[end..end + length]) })
}
