//! A server of which a test says how it answers. Everything that reaches it is recorded.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::{Address, Direct, Http, Settings, Target};
use crate::body::Body;
use crate::exchange::{Ask, Asker};
use crate::limits::Limits;

/// Longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What reached the server.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// Null for what is no JSON.
    pub(crate) body: Value,
}

impl Seen {
    pub(crate) fn rpc(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// None is no answer at all.
pub(crate) type Script = dyn Fn(&Seen) -> Option<Response<Body>> + Send + Sync;

#[derive(Debug)]
pub(crate) struct Fake {
    address: SocketAddr,
    seen: Mutex<mpsc::UnboundedReceiver<Seen>>,
    accepting: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Fake {
    pub(crate) async fn start(
        script: impl Fn(&Seen) -> Option<Response<Body>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, seen) = mpsc::unbounded_channel();
        let script: Arc<Script> = Arc::new(script);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tell, script) = (tell.clone(), Arc::clone(&script));
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (tell, script) = (tell.clone(), Arc::clone(&script));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.map(|it| it.to_bytes()).unwrap_or_default();
                        let seen = Seen {
                            method: head.method,
                            path: head.uri.to_string(),
                            headers: head.headers,
                            body: serde_json::from_slice(&body).unwrap_or_default(),
                        };
                        let answer = script(&seen);
                        // The test may have ended.
                        _ = tell.send(seen);
                        match answer {
                            Some(answer) => Ok::<_, Infallible>(answer),
                            None => std::future::pending().await,
                        }
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, seen: Mutex::new(seen), accepting }
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn http(&self) -> Arc<dyn Http> {
        let address = Address::Tcp(self.address.to_string());
        Arc::new(Direct { address, connect_timeout: PATIENCE })
    }

    pub(crate) fn target(&self) -> Target {
        Target {
            path: "/mcp".to_owned(),
            host: HeaderValue::from_str(&self.address.to_string()).unwrap(),
            headers: HeaderMap::new(),
        }
    }

    /// The next that reached the server, passing over what is not meant.
    pub(crate) async fn next(&self, is_meant: impl Fn(&Seen) -> bool) -> Seen {
        let mut seen = self.seen.lock().await;
        let searching = async {
            loop {
                let next = seen.recv().await.unwrap();
                if is_meant(&next) {
                    return next;
                }
            }
        };
        tokio::time::timeout(PATIENCE, searching).await.expect("it did not reach the server in time")
    }

    /// What reached the server until now, each as its HTTP method and its method.
    pub(crate) async fn so_far(&self) -> Vec<String> {
        let mut seen = self.seen.lock().await;
        let mut all = Vec::new();
        while let Ok(next) = seen.try_recv() {
            all.push(format!("{} {}", next.method, next.rpc()));
        }
        all
    }
}

pub(crate) fn settings() -> Settings {
    Settings { event_bytes_max: 4096, answer_bytes_max: 4096, ..Settings::of(&Limits::default()) }
}

pub(crate) fn asker(caller: &str) -> Asker {
    Asker { caller: caller.into(), ..Asker::nobody() }
}

pub(crate) fn ask(caller: &str, message: &str) -> Ask {
    Ask { asker: asker(caller), message: Bytes::copy_from_slice(message.as_bytes()) }
}

pub(crate) fn status(status: u16) -> Response<Body> {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

pub(crate) fn json(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::full(body))
        .unwrap()
}

/// A stream that says this and ends.
pub(crate) fn events(text: &str) -> Response<Body> {
    stream(Body::full(text.to_owned()))
}

pub(crate) fn stream(body: Body) -> Response<Body> {
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

/// The event of a message.
pub(crate) fn event(message: &str) -> String {
    format!("data: {message}\n\n")
}

/// A stream that goes on for as long as the sender is kept.
pub(crate) fn open_stream() -> (mpsc::Sender<Bytes>, Response<Body>) {
    let (sender, body) = Body::channel(16);
    (sender, stream(body))
}

pub(crate) fn result(id: &Value, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

pub(crate) async fn within<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waiting).await.expect("it did not happen in time")
}
