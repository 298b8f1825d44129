//! A mesh's operator API in this process, with fakes for what the API does not own.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, Request, header};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use weft_certs::bundle::{Bundles, Fingerprint, TrustStore};
use weft_certs::svid::Serial;
use weft_control_plane::api::trust::{
    Error, Gate, Issuer, IssuerKind, Rotation, RotationAction, RotationStep, TrustStatus,
};
use weft_control_plane::api::{Deps, Limits, Sidecars, TrustControl, router};
use weft_control_plane::ask::{self, Answers, Whom};
use weft_control_plane::audit::Trails;
use weft_control_plane::auth::{Keys, bootstrap};
use weft_control_plane::catalog::{Advertised, Catalogue, Tool};
use weft_control_plane::check::{Cluster, Observer};
use weft_control_plane::clock;
use weft_control_plane::metrics::Metrics;
use weft_control_plane::peer::Peer;
use weft_control_plane::quota::{Lender, Settings};
use weft_control_plane::store::embedded::{EmbeddedStore, Options};
use weft_control_plane::store::{Store, audit};
use weft_control_plane::tokens::Tokens;
use weft_control_plane::xds::{ClientStatus, Intended, NackStatus, TypeStatus};
use weft_proto::name::{Digest, NodeId, SpiffeId, TrustDomain};
use weft_proto::pb::weft::ask::v1::question::Asks;
use weft_proto::policy::tools::digest;
use weft_proto::wire::ResourceType;
use weft_telemetry::recent::Recent;

/// A document of a kind, five lines long.
pub fn document(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    let metadata = format!("metadata: {{ namespace: {namespace}, name: {name} }}");
    format!("---\napiVersion: weft.dev/v1alpha1\nkind: {kind}\n{metadata}\nspec: {spec}\n")
}

pub fn server(name: &str, aliases: &str) -> String {
    let spec = format!("{{ external: {{ url: 'https://x.example/' }}, aliases: [{aliases}] }}");
    document("McpServer", "research", name, &spec)
}

/// The definition of the one tool that a server advertises here.
pub const DEFINITION: &str = r#"{"name":"read","description":"Reads."}"#;

fn advertised() -> Arc<Advertised> {
    let tool = Tool { digest: digest(DEFINITION).unwrap(), definition: Some(DEFINITION.into()) };
    Arc::new(Advertised { at: SystemTime::UNIX_EPOCH, tools: [("read".parse().unwrap(), tool)].into() })
}

#[derive(Debug)]
pub struct FakeSidecars;

impl Sidecars for FakeSidecars {
    fn status(&self) -> Vec<ClientStatus> {
        let nack = NackStatus { at: SystemTime::UNIX_EPOCH, message: "no".to_owned() };
        let status = TypeStatus { nack: Some(nack), ..TypeStatus::default() };
        vec![ClientStatus {
            node: NodeId::parse("research/files-1").unwrap(),
            identity: SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap(),
            version: "0.1.0".to_owned(),
            peer: "192.0.2.9:1".to_owned(),
            connected: true,
            connected_at: SystemTime::UNIX_EPOCH,
            disconnected_at: None,
            serves: Vec::new(),
            seen_revision: 7,
            told_revision: 7,
            types: [(ResourceType::Server, status)].into(),
            certificate_serial: "1".to_owned(),
            certificate_expires: SystemTime::UNIX_EPOCH,
            certificate_root: "aa".to_owned(),
            trust_bundle: None,
            report: None,
            tools: [("research/files".parse().unwrap(), advertised())].into(),
        }]
    }

    fn published_revision(&self) -> u64 {
        7
    }

    fn published(&self) -> Vec<(ResourceType, usize)> {
        vec![(ResourceType::Server, 1)]
    }

    fn intended(&self, _: &Whom) -> Option<Vec<Intended>> {
        Some(Vec::new())
    }

    fn ask(&self, _: &Whom, _: Asks) -> Result<Answers, ask::Error> {
        Err(ask::Error::Unasked)
    }

    fn definition(&self, wanted: &Digest) -> Option<Arc<str>> {
        (digest(DEFINITION).unwrap() == *wanted).then(|| DEFINITION.into())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mood {
    #[default]
    Well,
    Hanging,
    Panicking,
}

#[derive(Debug)]
pub struct FakeTrust {
    mood: Mutex<Mood>,
    asked: Semaphore,
}

impl FakeTrust {
    pub fn hang(&self) {
        *self.mood.lock().unwrap() = Mood::Hanging;
    }

    pub fn panic(&self) {
        *self.mood.lock().unwrap() = Mood::Panicking;
    }

    /// Until somebody asks for the status.
    pub async fn asked(&self) {
        self.asked.acquire().await.unwrap().forget();
    }
}

fn trust_status() -> TrustStatus {
    let at = jiff::Timestamp::UNIX_EPOCH;
    TrustStatus {
        trust_domain: "corp.example".to_owned(),
        svid_lifetime: "24h".to_owned(),
        sequence: 1,
        roots: Vec::new(),
        issuer: Issuer { kind: IssuerKind::Builtin, not_after: at, fingerprint: "aa".to_owned() },
        rotation: Rotation { step: RotationStep::Stable, since: None, gate: Gate::default() },
        revoked_serials: Vec::new(),
    }
}

impl TrustControl for FakeTrust {
    fn status(&self) -> BoxFuture<'_, Result<TrustStatus, Error>> {
        self.asked.add_permits(1);
        let mood = *self.mood.lock().unwrap();
        Box::pin(async move {
            match mood {
                Mood::Well => Ok(trust_status()),
                Mood::Hanging => std::future::pending().await,
                Mood::Panicking => panic!("on purpose"),
            }
        })
    }

    fn rotate(&self, action: RotationAction, _: bool) -> BoxFuture<'_, Result<TrustStatus, Error>> {
        Box::pin(async move {
            match action {
                RotationAction::Start => Ok(trust_status()),
                RotationAction::Advance | RotationAction::Abort => Err(Error::Refused("not now".to_owned())),
            }
        })
    }

    fn revoke(&self, _: Serial) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn join_root(&self) -> BoxFuture<'_, Result<Fingerprint, Error>> {
        Box::pin(async { Ok(Fingerprint::parse(&"ab".repeat(32)).unwrap()) })
    }
}

#[derive(Clone)]
pub struct Mesh {
    router: Router,
    admin: String,
    pub store: Arc<dyn Store>,
    pub tokens: Arc<Tokens>,
    pub trust: Arc<FakeTrust>,
    pub metrics: Arc<Metrics>,
    pub lender: Arc<Lender>,
    pub catalogue: Arc<Catalogue>,
    pub log: Recent,
    pub shutdown: CancellationToken,
    _directory: Arc<tempfile::TempDir>,
}

impl Mesh {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        Self::of(limits, false).await
    }

    /// One whose objects are those of a cluster.
    pub async fn managed() -> Self {
        Self::of(Limits::default(), true).await
    }

    async fn of(limits: Limits, managed: bool) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let options = Options::new(directory.path(), Arc::new(clock::now));
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(options).await.unwrap());
        let admin = bootstrap(&*store, clock::now()).await.unwrap().unwrap().to_string();
        let trust_domain = TrustDomain::parse("corp.example").unwrap();
        let tokens = Arc::new(Tokens::new(Arc::clone(&store), trust_domain.clone()));
        let trust = Arc::new(FakeTrust { mood: Mutex::default(), asked: Semaphore::new(0) });
        let (metrics, shutdown) = (Arc::new(Metrics::new()), CancellationToken::new());
        let lender = Arc::new(Lender::new(Settings::default(), Arc::clone(&metrics)));
        let catalogue = Catalogue::open(None).unwrap();
        let log = Recent::default();
        let deps = Deps {
            store: Arc::clone(&store),
            metrics: Arc::clone(&metrics),
            sidecars: Arc::new(FakeSidecars),
            lender: Arc::clone(&lender),
            trails: Trails::open(
                None,
                weft_control_plane::audit::Settings::default(),
                TrustStore::new(Bundles::default()),
                Arc::clone(&metrics),
            )
            .unwrap(),
            catalogue: Arc::clone(&catalogue),
            trust: Arc::<FakeTrust>::clone(&trust),
            tokens: Arc::clone(&tokens),
            keys: Arc::new(Keys::new(Arc::clone(&store))),
            trust_domain,
            data_dir: Some(directory.path().to_owned()),
            clock: Arc::new(clock::now),
            managed,
            cluster: managed.then(|| Observer(Arc::new(Cluster::default))),
            replication: None,
            log: log.clone(),
            limits,
            shutdown: shutdown.clone(),
        };
        Self {
            router: router(deps),
            admin,
            store,
            tokens,
            trust,
            metrics,
            lender,
            catalogue,
            log,
            shutdown,
            _directory: directory,
        }
    }

    /// A request of the admin's.
    pub fn request(&self, method: &str, path: &str, body: impl Into<Body>) -> Call {
        Call::new(method, path, body).header("authorization", format!("Bearer {}", self.admin))
    }

    pub async fn send(&self, call: Call) -> Answer {
        Answer::of(self.raw(call).await).await
    }

    async fn raw(&self, call: Call) -> axum::response::Response {
        self.router.clone().oneshot(call.0).await.unwrap()
    }

    pub async fn admin(&self, method: &str, path: &str, body: &str) -> Answer {
        self.as_key(&self.admin, method, path, body).await
    }

    pub async fn as_key(&self, key: &str, method: &str, path: &str, body: &str) -> Answer {
        let call = Call::new(method, path, body.to_owned());
        self.send(call.header("authorization", format!("Bearer {key}"))).await
    }

    pub async fn as_nobody(&self, method: &str, path: &str) -> Answer {
        self.send(Call::new(method, path, "")).await
    }

    pub async fn as_nobody_from(&self, host: u8, method: &str, path: &str) -> Answer {
        let mut call = Call::new(method, path, "");
        call.0.extensions_mut().insert(peer(host));
        self.send(call).await
    }

    /// Applies documents; answers with the revision.
    pub async fn apply(&self, documents: &str) -> u64 {
        self.admin("POST", "/v1/apply", documents).await.ok()["revision"].as_u64().unwrap()
    }

    /// A new key.
    pub async fn key(&self, name: &str, scope: &str) -> String {
        let body = serde_json::json!({ "name": name, "scope": scope }).to_string();
        self.admin("POST", "/v1/keys", &body).await.status(201)["key"].as_str().unwrap().to_owned()
    }

    /// The names of all objects.
    pub async fn names(&self) -> Vec<String> {
        let list = self.admin("GET", "/v1/resources", "").await.ok();
        let name = |it: &Value| it["metadata"]["name"].as_str().unwrap().to_owned();
        list["items"].as_array().unwrap().iter().map(name).collect()
    }

    /// Whatever a change would leave behind.
    pub async fn traces(&self) -> (u64, usize) {
        let records = self.store.audit(audit::Filter::default()).await.unwrap().len();
        (self.store.head().await.unwrap().revision.0, records)
    }

    pub async fn watch(&self, path: &str, last_event_id: Option<u64>) -> Watch {
        self.watch_as(&self.admin, path, last_event_id).await
    }

    pub async fn watch_as(&self, key: &str, path: &str, last_event_id: Option<u64>) -> Watch {
        let mut call = Call::new("GET", path, "").header("authorization", format!("Bearer {key}"));
        if let Some(id) = last_event_id {
            call = call.header("last-event-id", id);
        }
        let response = self.raw(call).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Watch { body: response.into_body().into_data_stream(), text: String::new() }
    }
}

fn peer(host: u8) -> Peer {
    Peer { address: SocketAddr::from(([192, 0, 2, host], 4711)), leaf: None, root: "".into() }
}

pub struct Call(Request<Body>);

impl Call {
    fn new(method: &str, path: &str, body: impl Into<Body>) -> Self {
        let mut request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
        request.extensions_mut().insert(peer(1));
        Self(request)
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.headers_mut().insert(name, value.to_string().parse().unwrap());
        self
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: String,
}

impl Answer {
    async fn of(response: axum::response::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        assert!(headers.contains_key("weft-request-id"));
        // A watch has no end.
        let body = match headers.get(header::CONTENT_TYPE).is_some_and(|it| it == "text/event-stream") {
            true => String::new(),
            false => {
                let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
                String::from_utf8(bytes.to_vec()).unwrap()
            }
        };
        Self { status, headers, body }
    }

    pub fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.body).ok()
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        self.status(200)
    }

    #[track_caller]
    pub fn status(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.json().unwrap_or_default()
    }

    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json", "{}", self.body);
        let problem = self.json().unwrap_or_default();
        assert_eq!((self.status, problem["code"].as_str()), (status, Some(code)), "{}", self.body);
        assert_eq!(
            (&problem["status"], &problem["type"]),
            (&status.into(), &format!("https://weft.dev/errors/{code}").into())
        );
        problem
    }
}

/// Server-sent events as they arrive.
pub struct Watch {
    body: BodyDataStream,
    text: String,
}

#[derive(Debug, Default)]
pub struct Event {
    pub name: String,
    pub id: Option<u64>,
    pub data: Value,
}

impl Watch {
    /// The next event, comments passed over.
    pub async fn next(&mut self) -> Event {
        loop {
            let block = self.next_block().await.expect("the watch goes on");
            if !block.starts_with(':') {
                let mut event = Event::default();
                for (field, value) in block.lines().filter_map(|line| line.split_once(": ")) {
                    match field {
                        "event" => event.name = value.to_owned(),
                        "id" => event.id = value.parse().ok(),
                        "data" => event.data = serde_json::from_str(value).unwrap(),
                        _ => panic!("{block}"),
                    }
                }
                return event;
            }
        }
    }

    /// The next event or comment as it stands; none at the end.
    pub async fn next_block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let next = tokio::time::timeout(Duration::from_secs(60), self.body.next());
            let bytes = next.await.expect("an event comes in time")?.unwrap();
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
}
