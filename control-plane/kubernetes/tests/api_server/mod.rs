//! As much of an API server as a watch and a status need, and every fault that a test asks for.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch};
use axum::{Json, Router};
use futures_util::stream;
use kube::{Client, Config};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

const PATIENCE: Duration = Duration::from_secs(30);

/// One kind of object.
#[derive(Default)]
struct Kind {
    objects: BTreeMap<String, Value>,
    watchers: Vec<mpsc::UnboundedSender<String>>,
    events: Vec<(u64, String)>,
    lists: usize,
    fails: bool,
    silent: bool,
    gone: bool,
}

#[derive(Default)]
struct Inner {
    version: u64,
    told: usize,
    kinds: BTreeMap<String, Kind>,
}

#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Mutex<Inner>>,
    moved: watch::Sender<u64>,
    address: SocketAddr,
}

#[derive(Deserialize)]
struct Asked {
    watch: Option<bool>,
    limit: Option<usize>,
    #[serde(rename = "continue")]
    next: Option<usize>,
    #[serde(rename = "resourceVersion")]
    version: Option<String>,
}

impl ApiServer {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { inner: Arc::default(), moved: watch::Sender::new(0), address };
        let objects = "/apis/weft.dev/v1alpha1/{plural}";
        let status = "/apis/weft.dev/v1alpha1/namespaces/{namespace}/{plural}/{name}/status";
        let router =
            Router::new().route(objects, get(answer)).route(status, patch(tell)).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    pub fn client(&self) -> Client {
        // More than one test may be the first of its process.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Client::try_from(Config::new(format!("http://{}", self.address).parse().unwrap())).unwrap()
    }

    fn with<T>(&self, plural: &str, change: impl FnOnce(&mut u64, &mut Kind) -> T) -> T {
        let mut inner = self.inner.lock().unwrap();
        let Inner { version, kinds, .. } = &mut *inner;
        let done = change(version, kinds.entry(plural.to_owned()).or_default());
        drop(inner);
        self.moved.send_modify(|moved| *moved += 1);
        done
    }

    fn happens(&self, plural: &str, name: &str, event: &str, change: impl FnOnce(&mut Value)) {
        self.with(plural, |version, kind| {
            *version += 1;
            let object = kind.objects.entry(name.to_owned()).or_insert_with(|| {
                json!({
                    "apiVersion": "weft.dev/v1alpha1", "kind": "Thing",
                    "metadata": {
                        "name": name, "namespace": "a", "uid": format!("uid-{version}"), "generation": 1,
                        "creationTimestamp": "2026-11-28T03:00:00Z",
                    },
                })
            });
            object["metadata"]["resourceVersion"] = version.to_string().into();
            change(object);
            let line = format!("{}\n", json!({ "type": event, "object": object }));
            if event == "DELETED" {
                kind.objects.remove(name);
            }
            kind.events.push((*version, line.clone()));
            if !kind.silent {
                kind.watchers.retain(|watcher| watcher.send(line.clone()).is_ok());
            }
        });
    }

    pub fn put(&self, plural: &str, name: &str, spec: Value) {
        self.happens(plural, name, "MODIFIED", |object| object["spec"] = spec);
    }

    pub fn delete(&self, plural: &str, name: &str) {
        self.happens(plural, name, "DELETED", |_| {});
    }

    /// Lists of this kind fail.
    pub fn fails(&self, plural: &str, fails: bool) {
        self.with(plural, |_, kind| kind.fails = fails);
    }

    /// What happens reaches no watch.
    pub fn silent(&self, plural: &str, silent: bool) {
        self.with(plural, |_, kind| kind.silent = silent);
    }

    /// Every watch is told that its place in the history is gone.
    pub fn says_gone(&self, plural: &str) {
        let status = json!({ "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old" });
        let line = format!("{}\n", json!({ "type": "ERROR", "object": status }));
        self.with(plural, |_, kind| {
            kind.gone = true;
            kind.watchers.drain(..).for_each(|watcher| _ = watcher.send(line.clone()));
        });
    }

    /// Every watch ends without a word.
    pub fn breaks_off(&self, plural: &str) {
        self.with(plural, |_, kind| kind.watchers.clear());
    }

    pub fn lists(&self, plural: &str) -> usize {
        self.with(plural, |_, kind| kind.lists)
    }

    pub fn told(&self) -> usize {
        self.inner.lock().unwrap().told
    }

    pub fn status(&self, plural: &str, name: &str) -> Value {
        self.with(plural, |_, kind| kind.objects[name]["status"].clone())
    }

    pub async fn until_lists(&self, plural: &str, lists: usize) {
        self.until(|inner| inner.kinds.get(plural).is_some_and(|kind| kind.lists >= lists)).await;
    }

    pub async fn until_told(&self, told: usize) {
        self.until(|inner| inner.told >= told).await;
    }

    async fn until(&self, reached: impl Fn(&Inner) -> bool) {
        let mut moved = self.moved.subscribe();
        let waited = async {
            while !reached(&self.inner.lock().unwrap()) {
                moved.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.expect("it comes in time");
    }
}

async fn answer(
    State(server): State<ApiServer>,
    Path(plural): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    match asked.watch {
        Some(true) => follow(&server, &plural, asked.version.as_deref()),
        _ => list(&server, &plural, &asked),
    }
}

fn list(server: &ApiServer, plural: &str, asked: &Asked) -> Response {
    server.with(plural, |version, kind| {
        kind.lists += 1;
        if kind.fails {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        kind.gone = false;
        let (start, limit) = (asked.next.unwrap_or_default(), asked.limit.unwrap_or(usize::MAX));
        let items: Vec<_> = kind.objects.values().skip(start).take(limit).cloned().collect();
        let end = start + items.len();
        let next = if end < kind.objects.len() { end.to_string() } else { String::new() };
        let metadata = json!({ "resourceVersion": version.to_string(), "continue": next });
        Json(json!({ "apiVersion": "weft.dev/v1alpha1", "kind": "List", "metadata": metadata, "items": items })).into_response()
    })
}

fn follow(server: &ApiServer, plural: &str, after: Option<&str>) -> Response {
    let after: u64 = after.and_then(|text| text.parse().ok()).unwrap_or_default();
    server.with(plural, |_, kind| {
        let (sender, receiver) = mpsc::unbounded_channel();
        for (_, line) in kind.events.iter().filter(|(at, _)| *at > after) {
            sender.send(line.clone()).unwrap();
        }
        kind.watchers.push(sender);
        let lines = stream::unfold(receiver, async |mut receiver| {
            let line = receiver.recv().await?;
            Some((Ok::<_, Infallible>(Bytes::from(line)), receiver))
        });
        Body::from_stream(lines).into_response()
    })
}

async fn tell(
    State(server): State<ApiServer>,
    Path((_, plural, name)): Path<(String, String, String)>,
    body: Bytes,
) -> Response {
    let patch: Value = serde_json::from_slice(&body).unwrap();
    server.inner.lock().unwrap().told += 1;
    let uid = server.with(&plural, |_, kind| kind.objects.get(&name).map(|it| it["metadata"]["uid"].clone()));
    if uid.is_none_or(|uid| uid != patch["metadata"]["uid"]) {
        return StatusCode::NOT_FOUND.into_response();
    }
    server.happens(&plural, &name, "MODIFIED", |object| object["status"] = patch["status"].clone());
    Json(server.with(&plural, |_, kind| kind.objects[&name].clone())).into_response()
}
