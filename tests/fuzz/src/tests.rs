//! Replays the corpus, and keeps the part of it that is made from the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use serde_json::{Value, json};
use weft_proto::mcp::lists::Listed;
use weft_proto::name::{Namespace, NodeId, ServerName, SpiffeId, TrustDomain};
use weft_proto::offer::{Introduction, Offer, Offered};
use weft_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use weft_proto::resource::{Kind, ROOT_NAMESPACE, parse};
use weft_proto::wire::{self, Endpoint, ResourceType};
use weft_sidecar::control::session::Accepted;
use weft_sidecar::control::store::{self, Stored};

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 12] = [
    ("classify", crate::classify),
    ("csr", crate::csr),
    ("headers", crate::headers),
    ("injection", crate::injection),
    ("resources", crate::resources),
    ("snapshot", crate::snapshot),
    ("spiffe", crate::spiffe),
    ("sse", crate::sse),
    ("stdio", crate::stdio),
    ("trail", crate::trail),
    ("wire", crate::wire),
    ("xds", crate::xds),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The files of a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect()
}

#[track_caller]
fn replay(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let seeds = files(&folder("corpus").join(target));
    assert!(!seeds.is_empty(), "no seeds for {target}");
    for (name, bytes) in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| run(&bytes)) {
            eprintln!("corpus/{target}/{name} breaks its target");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_corpus_of_classify_breaks_nothing() {
    replay("classify");
}

#[test]
fn the_corpus_of_csr_breaks_nothing() {
    replay("csr");
}

#[test]
fn the_corpus_of_headers_breaks_nothing() {
    replay("headers");
}

#[test]
fn the_corpus_of_injection_breaks_nothing() {
    replay("injection");
}

/// Puts a value in the place of the one that is so many further on; whether there is one.
fn bend(value: &mut Value, left: &mut usize, with: &Value) -> bool {
    if *left == 0 {
        value.clone_from(with);
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| bend(item, left, with)),
        Value::Object(fields) => fields.values_mut().any(|field| bend(field, left, with)),
        _ => false,
    }
}

/// The pods of the corpus, in each of which one thing after the other is something else.
#[test]
fn pods_that_are_bent_somewhere_break_nothing() {
    let long = "$(X)\"\\\u{1b}é".repeat(2000);
    let odd = [
        json!(null),
        json!(-1),
        json!(65536),
        json!(1e300),
        json!(true),
        json!(""),
        json!("weft-state"),
        json!(long),
    ];
    let odd = odd.into_iter().chain([
        json!([]),
        json!([""]),
        json!({}),
        json!({ "name": "x" }),
        json!([{ "name": 7 }]),
    ]);
    let odd: Vec<Value> = odd.collect();
    for (_, bytes) in files(&folder("corpus/injection")) {
        let Ok(pod) = serde_json::from_slice::<Value>(&bytes) else { continue };
        for with in &odd {
            for at in 0.. {
                let mut bent = pod.clone();
                if !bend(&mut bent, &mut { at }, with) {
                    break;
                }
                crate::injection(bent.to_string().as_bytes());
            }
        }
    }
}

#[test]
fn the_corpus_of_resources_breaks_nothing() {
    replay("resources");
}

#[test]
fn the_corpus_of_snapshot_breaks_nothing() {
    replay("snapshot");
}

#[test]
fn the_corpus_of_spiffe_breaks_nothing() {
    replay("spiffe");
}

#[test]
fn the_corpus_of_stdio_breaks_nothing() {
    replay("stdio");
}

#[test]
fn the_corpus_of_sse_breaks_nothing() {
    replay("sse");
}

#[test]
fn the_corpus_of_trail_breaks_nothing() {
    replay("trail");
}

#[test]
fn the_corpus_of_wire_breaks_nothing() {
    replay("wire");
}

#[test]
fn the_corpus_of_xds_breaks_nothing() {
    replay("xds");
}

#[test]
fn every_target_has_a_function_a_binary_and_a_corpus() {
    let named: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let sources = files(&folder("targets")).into_keys();
    let binaries: BTreeSet<String> =
        sources.map(|name| name.strip_suffix(".rs").unwrap().to_owned()).collect();
    assert_eq!(binaries, named);
    let corpora = fs::read_dir(folder("corpus")).unwrap();
    let corpora: BTreeSet<String> =
        corpora.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(corpora, named);
}

#[test]
fn the_documents_of_the_corpus_are_read_and_show_every_kind() {
    let mut kinds = BTreeSet::new();
    for (name, bytes) in files(&folder("corpus/resources")) {
        let parsed = parse(&name, str::from_utf8(&bytes).unwrap());
        match name.as_str() {
            "wrong.yaml" => assert!(parsed.is_err(), "{name} is there to be refused"),
            found if found.starts_with("found-") => {}
            _ => kinds
                .extend(parsed.unwrap_or_else(|errors| panic!("{errors:?}")).iter().map(|(it, _)| it.kind())),
        }
    }
    assert_eq!(kinds, Kind::ALL.iter().copied().collect());
}

/// Files that begin with this are made; the others are written by hand, or were found.
const MADE: &str = "made-";

fn offer(server: ServerName) -> Offer {
    let items = [
        (Listed::Tool, r#"{"name":"read","inputSchema":{"type":"object"}}"#),
        (Listed::Prompt, r#"{"name":"ask"}"#),
        (Listed::Resource, r#"{"uri":"file:///a","name":"a"}"#),
        (Listed::ResourceTemplate, r#"{"uriTemplate":"file:///{path}","name":"all"}"#),
    ];
    let items = items.map(|(kind, text)| Arc::new(Offered::parse(kind, text.into()).unwrap()));
    let introduction = Introduction {
        capabilities: Some(r#"{"tools":{}}"#.into()),
        server_info: Some(r#"{"name":"files"}"#.into()),
        instructions: Some("Ask.".into()),
    };
    Offer::new(server, introduction, items).unwrap()
}

/// Messages of every type, as the target reads them.
fn messages() -> BTreeMap<String, Vec<u8>> {
    let trust_domain = TrustDomain::parse("mesh.test").unwrap();
    let root = Namespace::parse(ROOT_NAMESPACE).unwrap();
    let server = ServerName::parse("research/files").unwrap();
    let endpoint = Endpoint {
        address: "10.0.0.5:9000".parse().unwrap(),
        node: Some(NodeId::parse("research/files-1").unwrap()),
        weight: None,
        locality: Some("eu/a".parse().unwrap()),
        identity: Some(SpiffeId::parse("spiffe://mesh.test/ns/research/sa/files").unwrap()),
    };
    let (serials, roots) = (["0a1b".to_owned()], ["0a".repeat(32)]);
    let bundle = wire::encode_trust_bundle(&trust_domain, &[[48, 0]], 7, &serials, &roots);
    let mut made = vec![
        (ResourceType::Mesh, "mesh".to_owned(), wire::encode_mesh(&trust_domain, None, &root)),
        (ResourceType::TrustBundle, "mesh.test".to_owned(), bundle),
        (ResourceType::Endpoints, "files".to_owned(), wire::encode_endpoints(&server, &[endpoint])),
        (ResourceType::Offer, "files".to_owned(), wire::encode_offer(&offer(server))),
    ];
    for (file, bytes) in files(&folder("corpus/resources")) {
        let parsed = parse(&file, str::from_utf8(&bytes).unwrap_or_default()).unwrap_or_default();
        for (resource, _) in parsed {
            let Some(encoded) = wire::encode(&resource, 1) else { continue };
            let (file, _) = file.split_once('.').unwrap();
            made.push((encoded.ty, format!("{file}-{}", resource.metadata.name), encoded.bytes));
        }
    }
    let file = |(ty, name, bytes): (ResourceType, String, Vec<u8>)| {
        let choice = u8::try_from(ty.index()).unwrap();
        (format!("{MADE}{ty}-{name}"), [&[choice], bytes.as_slice()].concat())
    };
    made.into_iter().map(file).collect()
}

/// A conversation as it travels.
fn conversations() -> BTreeMap<String, Vec<u8>> {
    let asks = |ty: ResourceType, names: &[&str], nonce: &str| DeltaDiscoveryRequest {
        type_url: ty.type_url().to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let requests = [
        asks(ResourceType::Server, &["research/files", "research/documents"], ""),
        asks(ResourceType::Server, &[], "1"),
        asks(ResourceType::Route, &["*"], ""),
        asks(ResourceType::Endpoints, &["research/files"], ""),
        asks(ResourceType::Route, &[], "2"),
    ];
    let mut bytes = vec![1];
    requests.iter().for_each(|request| request.encode_length_delimited(&mut bytes).unwrap());
    BTreeMap::from([(format!("{MADE}conversation"), bytes)])
}

/// With `WEFT_BLESS=1` the made files are written; otherwise they must be as they would be made.
#[track_caller]
fn agrees_with_the_tree(target: &str, made: BTreeMap<String, Vec<u8>>) {
    let folder = folder("corpus").join(target);
    let mut present = files(&folder);
    present.retain(|name, _| name.starts_with(MADE));
    if std::env::var_os("WEFT_BLESS").is_some() {
        present.keys().for_each(|name| fs::remove_file(folder.join(name)).unwrap());
        made.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
    } else {
        let differs = made.keys().chain(present.keys()).filter(|name| made.get(*name) != present.get(*name));
        let differs: BTreeSet<_> = differs.collect();
        assert!(
            differs.is_empty(),
            "corpus/{target} is stale in {differs:?}: run this test with WEFT_BLESS=1"
        );
    }
}

#[test]
fn the_messages_of_the_corpus_are_what_its_documents_encode_to() {
    agrees_with_the_tree("wire", messages());
}

#[test]
fn the_conversations_of_the_corpus_are_as_they_travel() {
    agrees_with_the_tree("xds", conversations());
}

/// A stored configuration with a message of every type, and the body of one.
fn snapshots() -> BTreeMap<String, Vec<u8>> {
    let resources = messages().into_values().filter_map(|bytes| {
        let (ty, bytes) = (ResourceType::ALL[usize::from(*bytes.first()?)], bytes.get(1..)?.to_vec());
        let name = wire::decode(ty, &bytes).ok()?.name();
        Some(Accepted { ty, name: name.into(), version: "1".into(), bytes: Bytes::from(bytes) })
    });
    let stored = Stored {
        node: "research/files-1".to_owned(),
        identity: "spiffe://mesh.test/ns/research/sa/files".to_owned(),
        at: std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000),
        resources: resources.collect(),
    };
    let file = store::encode(&stored);
    let body = file[file.len() - body_length(&file)..].to_vec();
    BTreeMap::from([(format!("{MADE}file"), file), (format!("{MADE}body"), body)])
}

/// The length of the body, as the head states it.
fn body_length(file: &[u8]) -> usize {
    usize::try_from(u64::from_be_bytes(file[12..20].try_into().unwrap())).unwrap()
}

#[test]
fn the_stored_configurations_of_the_corpus_are_as_a_sidecar_stores_them() {
    agrees_with_the_tree("snapshot", snapshots());
}
