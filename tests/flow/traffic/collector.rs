//! A collector of traces: it takes spans over gRPC and over HTTP, as OTLP has them, or does not, as a story wants it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_proto::pb::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weft_proto::pb::opentelemetry::proto::common::v1::KeyValue;
use weft_proto::pb::opentelemetry::proto::common::v1::any_value::Value;
use weft_proto::pb::opentelemetry::proto::trace::v1::Span;

use super::pair::Pair;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How a collector takes spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Takes,
    /// It says that it cannot for now.
    Busy,
    /// It never answers.
    Hangs,
}

/// A span, with what was said of whoever recorded it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) service: String,
    pub(crate) span: Span,
}

impl Found {
    /// An attribute as a text; empty if there is none.
    pub(crate) fn says(&self, key: &str) -> String {
        text(&self.span.attributes, key)
    }

    pub(crate) fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    pub(crate) fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    pub(crate) fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }
}

/// It ends with this.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    found: watch::Receiver<Vec<Found>>,
    bytes: Arc<Mutex<Vec<u8>>>,
    manner: Arc<Mutex<Manner>>,
    /// Exports that came, whatever became of them.
    pub(crate) asked: watch::Receiver<usize>,
    _task: JoinSet<()>,
}

#[derive(Clone)]
struct Shared {
    found: watch::Sender<Vec<Found>>,
    bytes: Arc<Mutex<Vec<u8>>>,
    asked: watch::Sender<usize>,
    manner: Arc<Mutex<Manner>>,
}

impl Collector {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let manner = Arc::new(Mutex::new(manner));
        let shared = Shared {
            found: watch::Sender::default(),
            bytes: Arc::default(),
            asked: watch::Sender::new(0),
            manner: Arc::clone(&manner),
        };
        let bytes = Arc::clone(&shared.bytes);
        let (found, asked) = (shared.found.subscribe(), shared.asked.subscribe());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(shared.clone(), request));
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, found, bytes, manner, asked, _task: task }
    }

    pub(crate) fn becomes(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// Waits until there are so many spans of calls and parts of them that a story is about.
    pub(crate) async fn wait(&self, what: &str, enough: impl Fn(&[Found]) -> bool) -> Vec<Found> {
        let mut found = self.found.clone();
        let waited =
            tokio::time::timeout(Duration::from_secs(20), found.wait_for(|found| enough(found))).await;
        match waited {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("{what}; there are: {:#?}", self.found.borrow().clone()),
        }
    }

    pub(crate) fn found(&self) -> Vec<Found> {
        self.found.borrow().clone()
    }

    /// All that it was sent.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    /// Telemetry for the whole mesh that sends spans here.
    pub(crate) fn telemetry(&self, more: &str) -> String {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Telemetry\nmetadata: {{ namespace: weft-system, name: traces }}\n\
             spec: {{ tracing: {{ endpoint: 'http://{}', {more} }} }}\n",
            self.address
        )
    }

    /// Has the calls of a server traced here.
    pub(crate) async fn follow(&self, pair: &Pair, more: &str) {
        pair.apply(&self.telemetry(more)).await;
    }
}

async fn answer(shared: Shared, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let is_grpc = match head.uri.path() {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => true,
        "/v1/traces" => false,
        other => panic!("{other} is no place for spans"),
    };
    let kind = if is_grpc { "application/grpc" } else { "application/x-protobuf" };
    assert_eq!(head.headers["content-type"], kind);
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    shared.bytes.lock().unwrap().extend_from_slice(&body);
    let manner = *shared.manner.lock().unwrap();
    shared.asked.send_modify(|asked| *asked += 1);
    if manner == Manner::Hangs {
        std::future::pending::<()>().await;
    }
    if manner == Manner::Takes {
        let message = if is_grpc { body.slice(5..) } else { body };
        let export = ExportTraceServiceRequest::decode(message).unwrap();
        shared.found.send_modify(|found| found.extend(read(export)));
    }
    Ok(match is_grpc {
        true => grpc(if manner == Manner::Takes { "0" } else { "14" }),
        false => {
            let status = if manner == Manner::Takes { 200 } else { 503 };
            let body = Full::new(Bytes::new()).boxed_unsync();
            Response::builder().status(status).header("content-type", kind).body(body).unwrap()
        }
    })
}

/// An empty message, and how it went.
fn grpc(status: &'static str) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let frames = [Frame::data(Bytes::from_static(&[0; 5])), Frame::trailers(trailers)];
    let body = StreamBody::new(tokio_stream::iter(frames.map(Ok))).boxed_unsync();
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn read(export: ExportTraceServiceRequest) -> Vec<Found> {
    let mut found = Vec::new();
    for resource in export.resource_spans {
        let service = text(&resource.resource.unwrap_or_default().attributes, "service.name");
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            found.push(Found { service: service.clone(), span });
        }
    }
    found
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(it)) => it.to_string(),
        Some(Value::DoubleValue(it)) => it.to_string(),
        None => String::new(),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
