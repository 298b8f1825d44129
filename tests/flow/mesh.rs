//! A control plane to tell stories about.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use weft_certs::bundle::Fingerprint;
use weft_certs::tls::{self, CONTROL_PLANE_PATH};
use weft_certs::verifier::Expect;
use weft_control_plane::app::{self, Config, Running};
use weft_control_plane::auth::Actor;
use weft_control_plane::clock;
use weft_control_plane::store::{Key, Txn};
use weft_control_plane::tokens;
use weft_proto::name::TrustDomain;
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_proto::resource;
use weft_proto::wire::ResourceType;
use weft_tests::link::{self, Channel, Workload};

pub(crate) struct Mesh {
    pub(crate) running: Running,
    pub(crate) folder: tempfile::TempDir,
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::again(folder, adjust).await
    }

    /// Starts in a folder that an earlier control plane left behind.
    pub(crate) async fn again(folder: tempfile::TempDir, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::local(folder.path().to_owned());
        config.trust_domain = Some(TrustDomain::parse("flow.test").unwrap());
        adjust(&mut config);
        let running = Box::pin(app::start(config)).await.unwrap();
        running.ready().await;
        Self { running, folder }
    }

    pub(crate) async fn stop(self) -> tempfile::TempDir {
        self.running.stop().await;
        self.folder
    }

    pub(crate) fn sidecars(&self) -> SocketAddr {
        self.running.sidecars
    }

    /// Puts objects into the store, as the API does.
    pub(crate) async fn apply(&self, yaml: &str) {
        let mut txn = Txn::new("flow", "story");
        for (object, _) in resource::parse("story.yaml", yaml).unwrap() {
            let key = Key::new(format!("resources/{}", object.key())).unwrap();
            txn = txn.put(key, object.canonical());
        }
        self.running.store.commit(txn).await.unwrap();
    }

    pub(crate) async fn token(&self, namespace: &str, account: &str, uses: u32) -> String {
        let wanted = tokens::Wanted {
            namespace: namespace.parse().unwrap(),
            account: account.parse().unwrap(),
            uses,
            expires_in: Duration::from_secs(3600),
            description: None,
        };
        let root = self.running.trust.root();
        let created =
            self.running.tokens.create(&wanted, root, &Actor::system(), clock::now()).await.unwrap();
        created.0.to_string()
    }

    /// A connection without a certificate.
    pub(crate) async fn stranger(&self) -> Channel {
        let root = self.running.trust.root();
        link::connect(self.sidecars(), bootstrap(root)).await.unwrap()
    }

    /// A workload that has joined.
    pub(crate) async fn workload(&self, namespace: &str, account: &str) -> Workload {
        let token = self.token(namespace, account, 1).await;
        Workload::join(self.stranger().await, &token).await.unwrap()
    }

    pub(crate) async fn connect(&self, workload: &Workload) -> anyhow::Result<Channel> {
        link::connect(self.sidecars(), workload.config()).await
    }
}

fn bootstrap(root: Fingerprint) -> Arc<rustls::ClientConfig> {
    Arc::new(tls::bootstrap_client_config(root, Expect::Path(CONTROL_PLANE_PATH), &[b"h2"]))
}

/// A discovery stream.
pub(crate) struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    /// Opens a stream and subscribes to everything of some types.
    pub(crate) async fn open(channel: Channel, node: &str, types: &[ResourceType]) -> Self {
        Self::with(channel, node, Struct::default(), types).await
    }

    /// The same for a sidecar that only makes calls.
    pub(crate) async fn calling(channel: Channel, node: &str, types: &[ResourceType]) -> Self {
        Self::with(channel, node, texts("stances", "outbound"), types).await
    }

    /// The same for a sidecar that stands beside a server.
    pub(crate) async fn serving(channel: Channel, node: &str, server: &str, types: &[ResourceType]) -> Self {
        Self::with(channel, node, texts("servers", server), types).await
    }

    /// The same for one that others reach at an address.
    pub(crate) async fn instance(
        channel: Channel,
        node: &str,
        server: &str,
        address: &str,
        types: &[ResourceType],
    ) -> Self {
        let mut metadata = texts("servers", server);
        let address = Value { kind: Some(Kind::StringValue(address.to_owned())) };
        metadata.fields.insert("address".to_owned(), address);
        Self::with(channel, node, metadata, types).await
    }

    async fn with(channel: Channel, node: &str, metadata: Struct, types: &[ResourceType]) -> Self {
        let (requests, outgoing) = mpsc::channel(64);
        for ty in types {
            let metadata = Some(metadata.clone());
            let request = DeltaDiscoveryRequest {
                node: Some(Node { id: node.to_owned(), metadata, ..Node::default() }),
                type_url: ty.type_url().to_owned(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(request).await.unwrap();
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses =
            client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    pub(crate) async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    /// The next response, left without an answer.
    pub(crate) async fn unanswered(&mut self) -> Result<DeltaDiscoveryResponse, tonic::Status> {
        self.responses.message().await?.ok_or_else(|| tonic::Status::cancelled("the stream ended"))
    }

    /// The next response, acknowledged.
    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, tonic::Status> {
        let response = self.unanswered().await?;
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.send(answer).await;
        Ok(response)
    }
}

/// Node metadata with one list of one text.
fn texts(field: &str, text: &str) -> Struct {
    let value = |kind| Value { kind: Some(kind) };
    let list = ListValue { values: vec![value(Kind::StringValue(text.to_owned()))] };
    Struct { fields: [(field.to_owned(), value(Kind::ListValue(list)))].into() }
}

/// Waits until something holds of the control plane, with a limit far beyond what it takes.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}
