use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use weft_proto::compile::compile;
use weft_proto::name::Namespace;
use weft_proto::pb::envoy::service::discovery::v3::{Resource, ResourceError, ResourceName};
use weft_proto::wire;

use super::*;

const SERVER: &str = "{ stdio: { command: x } }";
const POLICY: &str = "{ rules: [{ action: allow }] }";

fn object(kind: &str, name: &str, spec: &str) -> Resource {
    let (namespace, name) = name.split_once('/').unwrap();
    let yaml = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: {kind}\nmetadata: {{ namespace: {namespace}, name: {name} }}\nspec: {spec}\n"
    );
    let encoded = wire::encode(&weft_proto::resource::parse_one("test", &yaml).unwrap(), 1).unwrap();
    resource(encoded.ty, &encoded.name, encoded.bytes)
}

fn server(name: &str) -> Resource {
    object("McpServer", name, SERVER)
}

fn policy(name: &str) -> Resource {
    object("AccessPolicy", name, POLICY)
}

/// Its version is the digest of its bytes, as the control plane does it.
fn resource(ty: ResourceType, name: &str, bytes: Vec<u8>) -> Resource {
    let version = hex(&digest::digest(&digest::SHA256, &bytes).as_ref()[..8]);
    let content = prost_types::Any { type_url: ty.type_url().to_owned(), value: bytes };
    Resource { name: name.to_owned(), version, resource: Some(content), ..Resource::default() }
}

fn broken(ty: ResourceType, name: &str) -> Resource {
    resource(ty, name, vec![0xff; 3])
}

fn mesh() -> Resource {
    let domain = TrustDomain::parse("mesh.test").unwrap();
    let root = Namespace::parse(ROOT_NAMESPACE).unwrap();
    resource(ResourceType::Mesh, MESH_NAME, wire::encode_mesh(&domain, None, &root))
}

fn bundle(sequence: u64, root: &[u8]) -> Resource {
    let domain = TrustDomain::parse("mesh.test").unwrap();
    let bytes = wire::encode_trust_bundle(&domain, &[root], sequence, &[], &[]);
    resource(ResourceType::TrustBundle, "mesh.test", bytes)
}

fn root() -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn response(ty: ResourceType, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: ty.type_url().to_owned(),
        nonce: "n".to_owned(),
        resources,
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// Answers every type, those that are not given with nothing.
fn told(session: &mut Session, responses: Vec<DeltaDiscoveryResponse>) -> Vec<Reply> {
    session.connect(Node::default());
    let given: BTreeSet<String> = responses.iter().map(|it| it.type_url.clone()).collect();
    let silent = ResourceType::ALL.into_iter().filter(|ty| !given.contains(ty.type_url()));
    let all: Vec<_> = silent.map(|ty| response(ty, Vec::new(), &[])).chain(responses).collect();
    all.into_iter().map(|it| session.receive(it)).collect()
}

fn servers(change: &Change) -> Vec<String> {
    compile(&change.parts).servers.keys().map(ToString::to_string).collect()
}

#[track_caller]
fn rejected(session: &mut Session, response: DeltaDiscoveryResponse, why: &[&str]) {
    let reply = session.receive(response);
    let nack = reply.nack.expect("the response is refused");
    assert_eq!(reply.request.error_detail.unwrap().message, nack);
    assert_eq!(reply.request.response_nonce, "n");
    why.iter().for_each(|why| assert!(nack.contains(why), "{nack:?} should contain {why:?}"));
}

#[test]
fn a_stream_begins_with_the_wildcard_of_each_type_in_the_order_of_delivery() {
    let mut session = Session::new();
    let requests = session.connect(Node { id: "a/b".to_owned(), ..Node::default() });
    let types: Vec<_> =
        requests.iter().map(|it| ResourceType::from_type_url(&it.type_url).unwrap()).collect();
    assert_eq!(types, ResourceType::ALL);
    assert_eq!(requests.iter().filter(|it| it.node.is_some()).count(), 1);
    assert_eq!(requests[0].node.as_ref().unwrap().id, "a/b");
    for request in requests {
        let silent =
            request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty();
        assert!(silent && request.initial_resource_versions.is_empty() && request.response_nonce.is_empty());
    }
}

#[test]
fn nothing_is_put_into_force_until_every_type_was_answered() {
    let mut session = Session::new();
    session.connect(Node::default());
    for ty in ResourceType::ALL {
        assert!(!session.is_complete() && session.take_change().is_none(), "before {ty}");
        let resources = if ty == ResourceType::Server { vec![server("a/x")] } else { Vec::new() };
        assert_eq!(session.receive(response(ty, resources, &[])).nack, None);
    }
    let change = session.take_change().unwrap();
    assert_eq!(servers(&change), ["a/x"]);
    assert!(session.take_change().is_none(), "a change is told once");
}

#[test]
fn the_good_is_taken_and_every_bad_one_is_named() {
    let mut session = Session::new();
    told(&mut session, vec![response(ResourceType::Server, vec![server("a/x")], &[])]);
    let mut foreign = server("a/foreign");
    foreign.resource.as_mut().unwrap().type_url = ResourceType::Route.type_url().to_owned();
    let empty = Resource { name: "a/empty".to_owned(), ..Resource::default() };
    let short_lived =
        Resource { ttl: Some(prost_types::Duration { seconds: 1, nanos: 0 }), ..server("a/ttl") };
    let renamed = Resource { name: "a/renamed".to_owned(), ..server("b/own") };
    let unnamed = Resource { name: String::new(), ..server("a/unnamed") };
    let resources = vec![
        broken(ResourceType::Server, "a/x"),
        server("a/good"),
        foreign,
        empty,
        short_lived,
        renamed,
        unnamed,
        server("a/twice"),
        server("a/twice"),
    ];
    let why = [
        "a/x: Server is malformed",
        "a/foreign: its content is of the type",
        "a/empty: it carries no content",
        "a/ttl: a time to live",
        "a/renamed: its content calls itself \"b/own\"",
        "the name is 0 bytes long",
        "a/twice: it is named more than once",
    ];
    rejected(&mut session, response(ResourceType::Server, resources, &[]), &why);
    assert_eq!(servers(&session.take_change().unwrap()), ["a/good", "a/x"], "the last good one stays");
}

#[test]
fn what_is_sent_and_removed_at_once_is_left_as_it_was() {
    let mut session = Session::new();
    told(&mut session, vec![response(ResourceType::Server, vec![server("a/x")], &[])]);
    let torn = response(ResourceType::Server, vec![server("a/x"), server("a/y")], &["a/x", "a/y"]);
    rejected(&mut session, torn, &["a/x: it is named", "a/y: it is named"]);
    assert_eq!(session.count(ResourceType::Server), 1);
}

#[test]
fn removals_are_taken_under_either_field_and_whether_or_not_anything_is_there() {
    let mut session = Session::new();
    let three = vec![server("a/x"), server("a/y"), server("a/z")];
    told(&mut session, vec![response(ResourceType::Server, three, &[])]);
    session.take_change();
    let mut gone = response(ResourceType::Server, Vec::new(), &["a/x", "a/never"]);
    gone.removed_resource_names = vec![ResourceName { name: "a/y".to_owned() }];
    assert_eq!(session.receive(gone).nack, None);
    assert_eq!(servers(&session.take_change().unwrap()), ["a/z"]);
}

#[test]
fn a_type_that_is_not_known_is_refused_and_counts_for_nothing() {
    let mut session = Session::new();
    session.connect(Node::default());
    let mut unknown = response(ResourceType::Mesh, vec![server("a/x")], &["a/y"]);
    unknown.type_url = "type.example/Newer".to_owned();
    let reply = session.receive(unknown.clone());
    assert_eq!((reply.ty, reply.request.type_url.as_str()), (None, "type.example/Newer"));
    rejected(&mut session, unknown, &["not known"]);
    assert!(!session.is_complete());
}

#[test]
fn only_what_was_accepted_is_offered_again_and_comes_back_if_it_was_not() {
    let mut session = Session::new();
    let unversioned = Resource { version: String::new(), ..server("a/unversioned") };
    let resources = vec![server("a/x"), broken(ResourceType::Server, "a/bad"), unversioned];
    told(&mut session, vec![response(ResourceType::Server, resources, &[])]);
    session.take_change();
    let requests = session.connect(Node::default());
    let offered = &requests[ResourceType::Server.index()].initial_resource_versions;
    assert_eq!(offered.iter().collect::<Vec<_>>(), [(&"a/x".to_owned(), &server("a/x").version)]);
    // What was not offered is gone unless it is told again.
    told(&mut session, Vec::new());
    let other = response(ResourceType::Route, Vec::new(), &[]);
    assert_eq!(session.receive(other).nack, None);
    session.changed = true;
    assert_eq!(servers(&session.take_change().unwrap()), ["a/x"]);
}

#[test]
fn a_reconnect_without_news_changes_nothing() {
    let mut session = Session::new();
    told(&mut session, vec![response(ResourceType::Server, vec![server("a/x")], &[])]);
    let first = session.take_change().unwrap();
    told(&mut session, Vec::new());
    assert!(session.is_complete() && session.take_change().is_none());
    told(&mut session, vec![response(ResourceType::Server, vec![server("a/x")], &[])]);
    assert!(session.take_change().is_none(), "the same again is no change");
    told(&mut session, vec![response(ResourceType::Server, vec![server("a/y")], &[])]);
    assert_ne!(session.take_change().unwrap().version, first.version);
    told(&mut session, vec![response(ResourceType::Server, Vec::new(), &["a/y"])]);
    assert_eq!(session.take_change().unwrap().version, first.version, "the version is that of the content");
}

#[test]
fn a_server_stays_hidden_while_a_policy_that_may_guard_it_cannot_be_read() {
    let mut session = Session::new();
    told(&mut session, vec![response(ResourceType::Server, vec![server("a/old")], &[])]);
    session.take_change();
    rejected(
        &mut session,
        response(ResourceType::AccessPolicy, vec![broken(ResourceType::AccessPolicy, "a/p")], &[]),
        &["a/p"],
    );
    session.receive(response(ResourceType::Server, vec![server("a/new"), server("b/new")], &[]));
    let change = session.take_change().unwrap();
    assert_eq!((servers(&change), change.held_back), (vec!["a/old".to_owned(), "b/new".to_owned()], 1));
    assert!(!session.resources().iter().any(|it| &*it.name == "a/new"), "what is hidden is not stored");
    // A reconnect makes nothing of it readable.
    told(
        &mut session,
        vec![response(ResourceType::AccessPolicy, vec![broken(ResourceType::AccessPolicy, "a/p")], &[])],
    );
    session.receive(response(ResourceType::Server, vec![server("b/newer")], &[]));
    assert_eq!(session.take_change().unwrap().held_back, 1);
    session.receive(response(ResourceType::AccessPolicy, vec![policy("a/p")], &[]));
    let change = session.take_change().unwrap();
    assert_eq!((servers(&change).len(), change.held_back), (4, 0));
}

#[test]
fn a_policy_of_the_root_namespace_may_guard_every_server_and_its_end_frees_them() {
    let mut session = Session::new();
    let name = format!("{ROOT_NAMESPACE}/p");
    let bad = response(ResourceType::ToolPolicy, vec![broken(ResourceType::ToolPolicy, &name)], &[]);
    let good = response(ResourceType::Server, vec![server("a/x")], &[]);
    told(&mut session, vec![response(ResourceType::Mesh, vec![mesh()], &[]), bad, good]);
    assert_eq!(session.take_change().unwrap().held_back, 1);
    session.receive(response(ResourceType::ToolPolicy, Vec::new(), &[&name]));
    assert_eq!(servers(&session.take_change().unwrap()), ["a/x"]);
}

#[test]
fn a_policy_with_a_last_good_version_hides_nothing() {
    let mut session = Session::new();
    told(&mut session, vec![response(ResourceType::AccessPolicy, vec![policy("a/p")], &[])]);
    session.receive(response(
        ResourceType::AccessPolicy,
        vec![broken(ResourceType::AccessPolicy, "a/p")],
        &[],
    ));
    session.receive(response(ResourceType::Server, vec![server("a/x")], &[]));
    let change = session.take_change().unwrap();
    assert_eq!(change.held_back, 0);
    assert_eq!(compile(&change.parts).servers.values().next().unwrap().access.len(), 1);
}

#[test]
fn roots_are_read_strictly_and_never_go_backwards() {
    let mut session = Session::new();
    let (first, second) = (root(), root());
    let of = |resource| response(ResourceType::TrustBundle, vec![resource], &[]);
    told(&mut session, vec![of(bundle(2, &first))]);
    let domain = TrustDomain::parse("mesh.test").unwrap();
    let reply = session.receive(of(bundle(3, &second)));
    assert_eq!((reply.nack, reply.trust), (None, BTreeSet::from([domain.clone()])));
    rejected(&mut session, of(bundle(2, &first)), &["is older than"]);
    rejected(&mut session, of(bundle(4, &[48, 0])), &["root 0"]);
    assert_eq!(session.bundles().get(&domain).unwrap().roots()[0].as_ref(), second);
    let reply = session.receive(response(ResourceType::TrustBundle, Vec::new(), &["mesh.test"]));
    assert_eq!((reply.trust.len(), session.bundles().is_empty()), (1, true));
}

#[test]
fn what_was_stored_is_in_force_at_once_and_what_cannot_be_read_of_it_opens_nothing() {
    let mut session = Session::new();
    let policies = response(ResourceType::AccessPolicy, vec![policy("a/p")], &[]);
    told(
        &mut session,
        vec![policies, response(ResourceType::Server, vec![server("a/x"), server("b/x")], &[])],
    );
    let change = session.take_change().unwrap();
    let stored = session.resources();
    let (mut restored, lost) = Session::restored(stored.clone());
    assert!(lost.is_empty());
    assert_eq!(restored.restored_change(), change);
    told(&mut restored, Vec::new());
    assert_eq!(restored.take_change(), Some(change), "the control plane's word that it is still so is news");
    assert!(restored.take_change().is_none());
    let spoilt = stored.into_iter().map(|it| match it.ty {
        ResourceType::AccessPolicy => Accepted { bytes: Bytes::from_static(&[0xff]), ..it },
        _ => it,
    });
    let (mut restored, lost) = Session::restored(spoilt);
    assert_eq!(lost.len(), 1);
    assert_eq!(servers(&restored.restored_change()), ["b/x"]);
}

#[test]
fn errors_about_names_take_nothing_away() {
    let mut session = Session::new();
    told(&mut session, vec![response(ResourceType::Server, vec![server("a/x")], &[])]);
    let mut news = response(ResourceType::Server, Vec::new(), &[]);
    let name = Some(ResourceName { name: "a/x".to_owned() });
    news.resource_errors = vec![ResourceError { resource_name: name, error_detail: None }];
    assert_eq!(session.receive(news).nack, None);
    assert_eq!(session.count(ResourceType::Server), 1);
}

#[test]
fn a_refusal_is_never_longer_than_is_kept() {
    let mut session = Session::new();
    let bad = (0..200).map(|n| broken(ResourceType::Server, &format!("a/{}é{n}", "x".repeat(60)))).collect();
    let nack = session.receive(response(ResourceType::Server, bad, &[])).nack.unwrap();
    assert!(nack.len() <= NACK_BYTES_MAX + '…'.len_utf8(), "{}", nack.len());
}

/// One thing that a response says.
#[derive(Clone, Debug)]
enum Saying {
    Good(usize, usize),
    Bad(usize),
    Renamed(usize),
    Gone(usize),
}

fn saying() -> impl Strategy<Value = Saying> {
    let name = 0..4_usize;
    prop_oneof![
        4 => (name.clone(), 0..3_usize).prop_map(|(name, version)| Saying::Good(name, version)),
        1 => name.clone().prop_map(Saying::Bad),
        1 => name.clone().prop_map(Saying::Renamed),
        2 => name.prop_map(Saying::Gone),
    ]
}

const KINDS: [(ResourceType, &str); 2] =
    [(ResourceType::Server, "McpServer"), (ResourceType::AccessPolicy, "AccessPolicy")];

fn spec(ty: ResourceType, version: usize) -> String {
    match ty {
        ResourceType::Server => format!("{{ stdio: {{ command: x{version} }} }}"),
        _ => format!("{{ rules: [{{ action: allow, to: [{{ tools: [t{version}] }}] }}] }}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A model that knows nothing of the protocol's details: the last good version of each name that is said once.
    #[test]
    fn what_is_held_is_what_a_simple_model_says(
        rounds in proptest::collection::vec((0..2_usize, proptest::collection::vec(saying(), 0..5), any::<bool>()), 0..12)
    ) {
        let mut session = Session::new();
        session.connect(Node::default());
        let mut model: BTreeMap<(ResourceType, String), Vec<u8>> = BTreeMap::new();
        for (round, (kind, sayings, reconnect)) in rounds.into_iter().enumerate() {
            if reconnect {
                let requests = session.connect(Node::default());
                for ty in ResourceType::ALL {
                    let offered: BTreeSet<_> = requests[ty.index()].initial_resource_versions.keys().cloned().collect();
                    let expected: BTreeSet<_> =
                        model.keys().filter(|(of, _)| *of == ty).map(|(_, name)| name.clone()).collect();
                    prop_assert_eq!(offered, expected);
                }
            }
            let (ty, kind) = KINDS[kind];
            let name = |at: usize| format!("a/n{at}");
            let (mut resources, mut removed, mut bad) = (Vec::new(), Vec::new(), false);
            let mut said: BTreeMap<String, usize> = BTreeMap::new();
            for saying in &sayings {
                let at = match saying {
                    Saying::Good(at, version) => { resources.push(object(kind, &name(*at), &spec(ty, *version))); at }
                    Saying::Bad(at) => { resources.push(broken(ty, &name(*at))); bad = true; at }
                    Saying::Renamed(at) => {
                        resources.push(Resource { name: name(*at), ..object(kind, "a/other", &spec(ty, 0)) });
                        bad = true;
                        at
                    }
                    Saying::Gone(at) => { removed.push(name(*at)); at }
                };
                *said.entry(name(*at)).or_default() += 1;
            }
            bad |= said.values().any(|count| *count > 1);
            for saying in &sayings {
                match saying {
                    Saying::Good(at, version) if said[&name(*at)] == 1 => {
                        let resource = object(kind, &name(*at), &spec(ty, *version));
                        model.insert((ty, name(*at)), resource.resource.unwrap().value);
                    }
                    Saying::Gone(at) if said[&name(*at)] == 1 => _ = model.remove(&(ty, name(*at))),
                    _ => {}
                }
            }
            let nonce = round.to_string();
            let response = DeltaDiscoveryResponse {
                type_url: ty.type_url().to_owned(),
                nonce: nonce.clone(),
                resources,
                removed_resources: removed,
                ..DeltaDiscoveryResponse::default()
            };
            let reply = session.receive(response);
            prop_assert_eq!(&reply.request.response_nonce, &nonce);
            prop_assert_eq!(reply.request.type_url.as_str(), ty.type_url());
            prop_assert_eq!(reply.nack.is_some(), bad);
            prop_assert_eq!(reply.request.error_detail.is_some(), bad);
            let parts: Parts = model
                .iter()
                .map(|((ty, _), bytes)| wire::decode(*ty, bytes).unwrap())
                .collect();
            prop_assert_eq!(session.parts(), &parts);
            let bytes: usize = model.values().map(Vec::len).sum();
            prop_assert_eq!(session.bytes, bytes);
        }
    }
}
