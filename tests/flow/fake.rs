//! A control plane that does what the story wants: it is believed like a real one, and what it sends are the bytes that
//! it is given.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use weft_certs::bundle::{Bundles, TrustStore};
use weft_certs::ca::{Ca, Kek, Limits};
use weft_certs::csr;
use weft_certs::tls::{self, CONTROL_PLANE_PATH, ClientAuth, Identity, LiveIdentity};
use weft_certs::verifier::Expect;
use weft_control_plane::clock;
use weft_proto::name::{Namespace, SpiffeId, TrustDomain};
use weft_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use weft_proto::resource;
use weft_proto::wire::{self, ResourceType};
use weft_sidecar::control::Settings;

use crate::control::{Sidecar, beside, settings};

/// What a fake serves a connection with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// HTTP/2, with the streams handed to the story.
    Streams,
    /// Bytes that are nothing, once TLS is established.
    Garbage,
    /// Nothing at all: the connection is closed as soon as TLS is established.
    HangUp,
}

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    ca: Ca,
    streams: mpsc::Receiver<Opened>,
    manners: mpsc::Sender<Manner>,
    _folder: tempfile::TempDir,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kek = Kek::open_or_create(&folder.path().join("kek")).unwrap();
        let domain = TrustDomain::parse("fake.test").unwrap();
        let ca = Ca::open_or_create(&folder.path().join("ca"), kek, domain, Limits::default(), clock::now())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, streams) = mpsc::channel(16);
        let (manners, wanted) = mpsc::channel(64);
        let trust = TrustStore::new(Bundles::new([ca.bundle()]).unwrap());
        let live = LiveIdentity::new(identity(&ca, CONTROL_PLANE_PATH));
        let config = tls::server_config(&live, &trust, ClientAuth::Required(Expect::AnyInMesh), &[b"h2"]);
        tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), opened, wanted));
        Self { address, ca, streams, manners, _folder: folder }
    }

    /// How the next connection is served, those after it as before.
    pub(crate) async fn next(&self, manner: Manner) {
        self.manners.send(manner).await.unwrap();
    }

    /// A sidecar that has its certificate already.
    pub(crate) async fn sidecar(&self, adjust: impl FnOnce(&mut Value, &mut Settings)) -> Sidecar {
        let live = LiveIdentity::new(identity(&self.ca, "/ns/agents/sa/files"));
        let trust = TrustStore::new(Bundles::new([self.ca.bundle()]).unwrap());
        let mut bootstrap = beside(self.address, "agents/files", "");
        bootstrap["source"]["controlPlane"]["proof"] = json!({ "joinTokenFile": "/nowhere" });
        let mut settings = settings();
        adjust(&mut bootstrap, &mut settings);
        Sidecar::with(bootstrap, live, trust, settings).await
    }

    /// The next stream that a sidecar opens, with what it asked for first.
    pub(crate) async fn opened(&mut self) -> Opened {
        let mut opened = self.streams.recv().await.unwrap();
        for ty in ResourceType::ALL {
            let request = opened.request().await.expect("every type is asked for");
            assert_eq!(request.type_url, ty.type_url());
            opened.asked.push(request);
        }
        opened
    }
}

fn identity(ca: &Ca, path: &str) -> Identity {
    let id = SpiffeId::parse(&format!("spiffe://fake.test{path}")).unwrap();
    let request = csr::Request::generate().unwrap();
    let day = Duration::from_secs(86_400);
    let issued = ca.issue(request.der(), &id, &[], day, clock::now()).unwrap();
    Identity::new(issued.chain, request.into_key()).unwrap()
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    opened: mpsc::Sender<Opened>,
    mut wanted: mpsc::Receiver<Manner>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let manner = wanted.try_recv().unwrap_or(Manner::Streams);
        let Ok(stream) = tls.accept(stream).await else { continue };
        match manner {
            Manner::Streams => _ = tokio::spawn(serve(stream, opened.clone())),
            Manner::Garbage => {
                let mut stream = stream;
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &[0x5a; 4096]).await;
            }
            Manner::HangUp => drop(stream),
        }
    }
}

async fn serve(stream: TlsStream<TcpStream>, opened: mpsc::Sender<Opened>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let opened = opened.clone();
        async move {
            let (sender, answers) = mpsc::channel(64);
            let stream = Opened {
                requests: request.into_body(),
                unread: VecDeque::new(),
                answers: sender,
                asked: Vec::new(),
            };
            let _ = opened.send(stream).await;
            let response =
                Response::builder().header("content-type", "application/grpc").body(Answers(Some(answers)));
            Ok::<_, Infallible>(response.unwrap())
        }
    });
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// What is sent on one stream; it ends in good order.
struct Answers(Option<mpsc::Receiver<Bytes>>);

impl Body for Answers {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(answers) = &mut self.0 else { return Poll::Ready(None) };
        let next = std::task::ready!(answers.poll_recv(context));
        Poll::Ready(Some(Ok(match next {
            Some(bytes) => Frame::data(bytes),
            None => {
                self.0 = None;
                let status = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
                Frame::trailers(HeaderMap::from_iter([status]))
            }
        })))
    }
}

/// One stream of a sidecar. It ends in good order when this is dropped.
pub(crate) struct Opened {
    requests: Incoming,
    unread: VecDeque<u8>,
    answers: mpsc::Sender<Bytes>,
    /// The first request of each type.
    pub(crate) asked: Vec<DeltaDiscoveryRequest>,
}

impl Opened {
    /// The next request; none at the stream's end.
    pub(crate) async fn request(&mut self) -> Option<DeltaDiscoveryRequest> {
        loop {
            if let Some(request) = self.whole() {
                return Some(request);
            }
            let frame =
                std::future::poll_fn(|context| Pin::new(&mut self.requests).poll_frame(context)).await?;
            self.unread.extend(frame.ok()?.into_data().unwrap_or_default());
        }
    }

    fn whole(&mut self) -> Option<DeltaDiscoveryRequest> {
        const HEAD: usize = 5;
        let bytes = self.unread.make_contiguous();
        let length = u32::from_be_bytes(bytes.get(1..HEAD)?.try_into().unwrap()) as usize;
        let request = DeltaDiscoveryRequest::decode(bytes.get(HEAD..HEAD + length)?).unwrap();
        self.unread.drain(..HEAD + length);
        Some(request)
    }

    /// The answer to one response, by its nonce; none at the stream's end.
    pub(crate) async fn answer(&mut self, nonce: &str) -> Option<DeltaDiscoveryRequest> {
        loop {
            let request = self.request().await?;
            if request.response_nonce == nonce {
                return Some(request);
            }
        }
    }

    pub(crate) async fn raw(&self, bytes: impl Into<Bytes>) {
        // A sidecar that has gone already is what some stories are about.
        let _ = self.answers.send(bytes.into()).await;
    }

    pub(crate) async fn respond(&self, ty: ResourceType, nonce: &str, resources: Vec<Resource>) {
        self.raw(framed(&response(ty, nonce, resources))).await;
    }

    /// Tells everything: the mesh, some servers, and nothing of the other types.
    pub(crate) async fn tell(&self, servers: &[&str]) {
        for ty in ResourceType::ALL {
            let resources = match ty {
                ResourceType::Mesh => vec![mesh()],
                ResourceType::Server => servers.iter().map(|name| server(name)).collect(),
                _ => Vec::new(),
            };
            self.respond(ty, ty.name(), resources).await;
        }
    }
}

pub(crate) fn response(ty: ResourceType, nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: ty.type_url().to_owned(),
        nonce: nonce.to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

/// A message as gRPC sends it.
pub(crate) fn framed(response: &DeltaDiscoveryResponse) -> Vec<u8> {
    let body = response.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], &body].concat()
}

pub(crate) fn server(name: &str) -> Resource {
    let (namespace, name) = name.split_once('/').unwrap();
    let yaml = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: {namespace}, name: {name} }}\n\
         spec: {{ stdio: {{ command: x }} }}\n"
    );
    let encoded = wire::encode(&resource::parse_one("fake", &yaml).unwrap(), 1).unwrap();
    resource_of(encoded.ty, &encoded.name, encoded.bytes)
}

/// A policy that lets everyone call every tool of its namespace.
pub(crate) fn access_policy(name: &str) -> Resource {
    let (namespace, name) = name.split_once('/').unwrap();
    let yaml = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{ namespace: {namespace}, name: {name} }}\n\
         spec: {{ rules: [{{ action: allow, to: [{{ tools: [\"*\"] }}] }}] }}\n"
    );
    let encoded = wire::encode(&resource::parse_one("fake", &yaml).unwrap(), 1).unwrap();
    resource_of(encoded.ty, &encoded.name, encoded.bytes)
}

pub(crate) fn mesh() -> Resource {
    let domain = TrustDomain::parse("fake.test").unwrap();
    let root = Namespace::parse(resource::ROOT_NAMESPACE).unwrap();
    resource_of(ResourceType::Mesh, wire::MESH_NAME, wire::encode_mesh(&domain, None, &root))
}

pub(crate) fn resource_of(ty: ResourceType, name: &str, value: Vec<u8>) -> Resource {
    let content = prost_types::Any { type_url: ty.type_url().to_owned(), value };
    Resource {
        name: name.to_owned(),
        version: "1".to_owned(),
        resource: Some(content),
        ..Resource::default()
    }
}
