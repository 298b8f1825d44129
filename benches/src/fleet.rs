//! Simulated sidecars: each holds a stream, acknowledges what it is sent, and notes when.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_proto::wire::ResourceType;

use weft_tests::link;

/// What every sidecar tells the benchmark.
#[derive(Debug)]
pub(crate) enum Event {
    /// It has heard of every type that it asked for.
    Synced,
    /// A policy came and was acknowledged.
    Policy {
        name: String,
        at: Instant,
    },
    Lost,
}

/// Resources received by all sidecars together.
pub(crate) static RECEIVED: AtomicUsize = AtomicUsize::new(0);

/// One sidecar and what it remembers between connections.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) namespace: String,
    pub(crate) app: String,
    pub(crate) instance: usize,
    pub(crate) config: Arc<rustls::ClientConfig>,
    pub(crate) held: HashMap<ResourceType, HashMap<String, String>>,
    /// Once it has heard of everything, it reads nothing more.
    pub(crate) stalls: bool,
}

impl Sidecar {
    /// Connects and serves one stream until it ends.
    pub(crate) async fn run(
        &mut self,
        address: SocketAddr,
        events: mpsc::UnboundedSender<Event>,
        turn: OwnedSemaphorePermit,
    ) -> anyhow::Result<()> {
        let channel = link::connect(address, Arc::clone(&self.config)).await?;
        drop(turn);
        let (requests, outgoing) = mpsc::channel(16);
        for (at, ty) in ResourceType::ALL.into_iter().enumerate() {
            let held = self.held.get(&ty).into_iter().flatten();
            requests
                .send(DeltaDiscoveryRequest {
                    node: (at == 0).then(|| self.node()),
                    type_url: ty.type_url().to_owned(),
                    initial_resource_versions: held
                        .map(|(name, version)| (name.clone(), version.clone()))
                        .collect(),
                    ..Default::default()
                })
                .await?;
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let mut responses =
            client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut waiting: std::collections::HashSet<ResourceType> = ResourceType::ALL.into();
        while let Some(response) = responses.message().await? {
            let Some(ty) = ResourceType::from_type_url(&response.type_url) else { continue };
            let policies = self.take(ty, &response);
            requests
                .send(DeltaDiscoveryRequest {
                    type_url: response.type_url,
                    response_nonce: response.nonce,
                    ..Default::default()
                })
                .await?;
            for name in policies {
                let _ = events.send(Event::Policy { name, at: Instant::now() });
            }
            if waiting.remove(&ty) && waiting.is_empty() {
                let _ = events.send(Event::Synced);
                if self.stalls {
                    std::future::pending::<()>().await;
                }
            }
        }
        let _ = events.send(Event::Lost);
        Ok(())
    }

    fn take(&mut self, ty: ResourceType, response: &DeltaDiscoveryResponse) -> Vec<String> {
        let held = self.held.entry(ty).or_default();
        RECEIVED.fetch_add(response.resources.len(), Ordering::Relaxed);
        for resource in &response.resources {
            held.insert(resource.name.clone(), resource.version.clone());
        }
        for name in &response.removed_resources {
            held.remove(name);
        }
        let policies = response.resources.iter().filter(|_| ty == ResourceType::AccessPolicy);
        policies.map(|resource| resource.name.clone()).collect()
    }

    fn node(&self) -> Node {
        use prost_types::value::Kind;
        use prost_types::{Struct, Value};
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let labels = Struct { fields: [("app".to_owned(), text(&self.app))].into() };
        let fields = [
            ("labels".to_owned(), Value { kind: Some(Kind::StructValue(labels)) }),
            ("address".to_owned(), text(&format!("10.0.0.1:{}", 1000 + self.instance))),
        ];
        Node {
            id: format!("{}/{}-{}", self.namespace, self.app, self.instance),
            metadata: Some(Struct { fields: fields.into() }),
            ..Node::default()
        }
    }
}
