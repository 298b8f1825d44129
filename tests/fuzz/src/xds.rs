//! Discovery requests as a sidecar, or someone with a sidecar's certificate, sends them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use prost::Message;
use weft_control_plane::plan::{Change, Stances, Update, Viewer, World};
use weft_control_plane::xds::{View, fuzz};
use weft_proto::name::{NodeId, SpiffeId, TrustDomain};
use weft_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use weft_proto::pb::google::rpc::Status;
use weft_proto::resource::parse;
use weft_proto::wire::ResourceType;

/// A mesh with every kind of object, in two namespaces and the root.
const WORLD: &str = include_str!("../corpus/resources/mesh.yaml");
/// Most requests in one input.
const REQUESTS_MAX: usize = 64;
/// Names that mean something in [`WORLD`], and some that do not.
const NAMES: [&str; 16] = [
    "*",
    "mesh",
    "mesh.test",
    "research/files",
    "research/documents",
    "research/search",
    "research/readers",
    "research/fair",
    "research/canary",
    "payments/ledger",
    "payments/private",
    "weft-system/everywhere",
    "agents/later",
    "research/",
    "nowhere",
    "",
];

/// The first byte chooses who is connected. If the rest is a sequence of requests, each with its length before it,
/// these are sent; otherwise its bytes are read as instructions to make requests.
pub fn xds(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let (world, viewers) = mesh();
    let view = View { world, viewer: &viewers[usize::from(*choice) % viewers.len()] };
    let sent = delimited(rest).unwrap_or_else(|| instructed(rest));
    fuzz::requests(view, sent);
}

fn delimited(mut bytes: &[u8]) -> Option<Vec<DeltaDiscoveryRequest>> {
    let mut sent = Vec::new();
    while !bytes.is_empty() && sent.len() < REQUESTS_MAX {
        sent.push(DeltaDiscoveryRequest::decode_length_delimited(&mut bytes).ok()?);
    }
    Some(sent)
}

/// Each pair of bytes is an instruction and what it is about.
fn instructed(bytes: &[u8]) -> Vec<DeltaDiscoveryRequest> {
    let mut sent = Vec::new();
    let mut request = DeltaDiscoveryRequest::default();
    for pair in bytes.chunks_exact(2) {
        let (instruction, about) = (pair[0], pair[1]);
        let name = || NAMES[usize::from(about) % NAMES.len()].to_owned();
        match instruction % 8 {
            0 | 1 => request.resource_names_subscribe.push(name()),
            2 => request.resource_names_unsubscribe.push(name()),
            3 => _ = request.initial_resource_versions.insert(name(), about.to_string()),
            4 => request.response_nonce = about.to_string(),
            5 => {
                request.error_detail =
                    Some(Status { code: about.into(), message: name(), details: Vec::new() })
            }
            _ => {
                request.type_url = type_url(about);
                sent.push(std::mem::take(&mut request));
            }
        }
        if sent.len() == REQUESTS_MAX {
            break;
        }
    }
    sent
}

fn type_url(about: u8) -> String {
    match usize::from(about) % (ResourceType::ALL.len() + 2) {
        0 => format!("type.example/x.Newer{about}"),
        1 => String::new(),
        at => ResourceType::ALL[at - 2].type_url().to_owned(),
    }
}

/// One world, and those who look at it, for all inputs.
fn mesh() -> &'static (World, [Viewer; 4]) {
    static MESH: OnceLock<(World, [Viewer; 4])> = OnceLock::new();
    MESH.get_or_init(|| {
        let mut world = World::new(TrustDomain::parse("mesh.test").expect("a trust domain"));
        let parsed = parse("world.yaml", WORLD).unwrap_or_else(|errors| panic!("{errors:?}"));
        let changes = (1..).zip(parsed).map(|(created_revision, (resource, _))| Change::Put {
            resource: Box::new(resource),
            created_revision,
        });
        let changes: Vec<_> = changes.collect();
        world.apply(Update { revision: 100, changes });
        let viewers = [
            viewer("research", "files", Stances { inbound: true, outbound: false, gateway: false }),
            viewer("agents", "bot", Stances { inbound: false, outbound: true, gateway: false }),
            viewer("payments", "ledger", Stances { inbound: true, outbound: true, gateway: false }),
            viewer("edge", "gateway", Stances { inbound: false, outbound: false, gateway: true }),
        ];
        (world, viewers)
    })
}

fn viewer(namespace: &str, app: &str, stances: Stances) -> Viewer {
    let id = SpiffeId::parse(&format!("spiffe://mesh.test/ns/{namespace}/sa/{app}")).expect("an identity");
    Viewer {
        identity: id.workload().expect("the identity of a workload"),
        node: NodeId::parse(&format!("{namespace}/{app}-1")).expect("a node"),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        claims: Vec::new(),
        stances,
    }
}
