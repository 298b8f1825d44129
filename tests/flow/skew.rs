//! A sidecar whose control plane, or whose own earlier self, is of a newer version: what it does not know is passed
//! over, and what it knows holds.

use prost::Message as _;
use serde_json::json;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use weft_proto::wire::ResourceType;
use weft_sidecar::control::store;
use weft_sidecar::state::Origin;

use crate::fake::{self, Fake};
use crate::mesh::eventually;

/// Magic, format, length and digest of a stored configuration.
const HEAD_BYTES: usize = 52;

/// What a later version may say beside what is known: a field, and a resource of another type.
#[derive(Clone, PartialEq, prost::Message)]
struct LaterBody {
    #[prost(message, repeated, tag = "4")]
    resources: Vec<LaterResource>,
    #[prost(string, tag = "18999")]
    word: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LaterResource {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    name: String,
}

/// A type that does not exist here.
const WEATHER: &str = "type.googleapis.com/weft.config.v9.Weather";

impl LaterBody {
    fn of_weather() -> Self {
        let weather = LaterResource { type_url: WEATHER.to_owned(), name: "sunny".to_owned() };
        Self { resources: vec![weather], word: "of a later version".to_owned() }
    }

    fn of_a_word() -> Self {
        Self { resources: Vec::new(), ..Self::of_weather() }
    }
}

/// A field that this version does not know, behind whatever a message says.
fn with_unknown_field(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(LaterBody::of_a_word().encode_to_vec());
    bytes
}

fn later(mut resource: Resource) -> Resource {
    let content = resource.resource.as_mut().unwrap();
    content.value = with_unknown_field(std::mem::take(&mut content.value));
    resource
}

/// A response as gRPC sends it, with a field that this version does not know.
fn later_response(ty: ResourceType, nonce: &str, resources: Vec<Resource>) -> Vec<u8> {
    let body = with_unknown_field(fake::response(ty, nonce, resources).encode_to_vec());
    let length = u32::try_from(body.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], &body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_control_plane_is_heard_and_what_it_says_beyond_is_passed_over_or_named() {
    let mut fake = Fake::start().await;
    let sidecar = fake.sidecar(|_, _| {}).await;
    let mut stream = fake.opened().await;
    // A type that does not exist here is refused by its name, and the stream goes on.
    let response = DeltaDiscoveryResponse {
        type_url: WEATHER.to_owned(),
        nonce: "weather".to_owned(),
        resources: vec![Resource {
            name: "sunny".to_owned(),
            version: "1".to_owned(),
            ..Resource::default()
        }],
        ..DeltaDiscoveryResponse::default()
    };
    stream.raw(fake::framed(&response)).await;
    let answer = stream.answer("weather").await.unwrap();
    assert_eq!(answer.type_url, WEATHER);
    assert!(answer.error_detail.unwrap().message.contains("not known here"));
    stream.tell(&[]).await;
    sidecar.is_told().await;
    // Fields that do not exist here, in the response and in what it carries.
    stream
        .raw(later_response(ResourceType::Server, "later", vec![later(fake::server("agents/files"))]))
        .await;
    let answer = stream.answer("later").await.unwrap();
    assert!(answer.error_detail.is_none(), "{answer:?}");
    assert_eq!(sidecar.servers(), ["agents/files"]);
    // What restricts is refused as a whole rather than enforced in part; the rest of its response holds.
    let policies = vec![later(fake::access_policy("agents/later")), fake::access_policy("agents/known")];
    stream.raw(later_response(ResourceType::AccessPolicy, "policies", policies)).await;
    let refused = stream.answer("policies").await.unwrap().error_detail.unwrap().message;
    assert!(refused.contains("agents/later") && refused.contains("newer one is needed"), "{refused}");
    assert!(!refused.contains("agents/known"), "{refused}");
    assert_eq!(sidecar.state().streams, 1, "it is one stream all along");
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_a_newer_version_stored_is_passed_over_until_the_control_plane_is_heard() {
    let mut fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let state = json!(folder.path());
    let sidecar = fake.sidecar(|bootstrap, _| bootstrap["stateDir"] = state.clone()).await;
    let stream = fake.opened().await;
    stream.tell(&["agents/files"]).await;
    sidecar.is_told().await;
    eventually("it is stored", || store::load(folder.path()).is_ok_and(|stored| stored.is_some())).await;
    sidecar.stop().await;
    drop(stream);
    let path = folder.path().join(store::FILE);
    let stored = std::fs::read(&path).unwrap();

    // The same format with fields and types that this version does not know: what it knows holds.
    let body = [&stored[HEAD_BYTES..], &LaterBody::of_weather().encode_to_vec()].concat();
    std::fs::write(&path, store::seal(&body)).unwrap();
    let sidecar = fake.sidecar(|bootstrap, _| bootstrap["stateDir"] = state.clone()).await;
    assert_eq!(sidecar.live.load().origin, Origin::Stored);
    assert_eq!(sidecar.servers(), ["agents/files"]);
    assert_eq!(sidecar.state().store.failures, 0);
    let stream = fake.opened().await;
    assert_eq!(stream.asked[ResourceType::Server.index()].initial_resource_versions.len(), 1);
    sidecar.stop().await;
    drop(stream);

    // Another format: nothing of it can be trusted to mean what it did.
    let mut newer = stored;
    newer[8..12].copy_from_slice(&(store::FORMAT + 1).to_be_bytes());
    std::fs::write(&path, newer).unwrap();
    let sidecar = fake.sidecar(|bootstrap, _| bootstrap["stateDir"] = state.clone()).await;
    let error = sidecar.state().store.error.unwrap().message;
    assert!(error.contains(&format!("format {}", store::FORMAT + 1)), "{error}");
    assert_eq!(sidecar.live.load().origin, Origin::Nothing);
    let stream = fake.opened().await;
    assert!(stream.asked.iter().all(|asked| asked.initial_resource_versions.is_empty()));
    stream.tell(&["agents/files"]).await;
    sidecar.is_told().await;
    eventually("a good one takes its place", || store::load(folder.path()).is_ok()).await;
    sidecar.stop().await;
}
