use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::name::IdentityPattern;
use crate::resource::bounded::List;
use crate::resource::kinds::DefaultAction;
use crate::testing;
use crate::wire::{Mesh, Object, TrustBundle};

/// What a message should read as, made without the codec.
fn part_of(resource: &Resource, created_revision: u64) -> Part {
    fn object<S: Clone>(resource: &Resource, created_revision: u64, spec: &S) -> Arc<Object<S>> {
        Arc::new(Object { meta: Meta::new(&resource.metadata, created_revision), spec: spec.clone() })
    }
    match &resource.spec {
        Spec::McpServer(spec) => Part::Server(object(resource, created_revision, spec)),
        Spec::VirtualServer(spec) => Part::VirtualServer(object(resource, created_revision, spec)),
        Spec::Route(spec) => Part::Route(object(resource, created_revision, spec)),
        Spec::AccessPolicy(spec) => Part::AccessPolicy(object(resource, created_revision, spec)),
        Spec::QuotaPolicy(spec) => Part::QuotaPolicy(object(resource, created_revision, spec)),
        Spec::ToolPolicy(spec) => Part::ToolPolicy(object(resource, created_revision, spec)),
        Spec::Authentication(spec) => Part::Authentication(object(resource, created_revision, spec)),
        Spec::Telemetry(spec) => Part::Telemetry(object(resource, created_revision, spec)),
        Spec::Trust(_) => unreachable!("trust does not travel"),
    }
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(resource in testing::traveller(), revision in any::<u64>()) {
        let encoded = encode(&resource, revision).unwrap();
        let part = decode(encoded.ty, &encoded.bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&part, &part_of(&resource, revision));
        prop_assert_eq!(part.ty(), encoded.ty);
        prop_assert_eq!(part.name(), encoded.name);
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over_but_in_what_restricts(resource in testing::traveller()) {
        let mut encoded = encode(&resource, 1).unwrap();
        // Field 18999, a length-delimited "x".
        encoded.bytes.extend([0xba, 0xa3, 0x09, 0x01, b'x']);
        let read = decode(encoded.ty, &encoded.bytes);
        match resource.spec {
            Spec::AccessPolicy(_) | Spec::QuotaPolicy(_) | Spec::ToolPolicy(_) | Spec::Authentication(_) => {
                prop_assert!(matches!(read, Err(Error::Newer { ty }) if ty == encoded.ty), "{read:?}");
            }
            _ => prop_assert_eq!(read.unwrap(), part_of(&resource, 1)),
        }
    }

    #[test]
    fn equal_objects_encode_to_equal_bytes(resource in testing::traveller(), revision in any::<u64>()) {
        // An equal object with a history of its own: through text, so that nothing is shared and every map is filled
        // anew.
        let mut copy = resource.clone();
        copy.metadata.resource_version = Some(crate::resource::ResourceVersion(7));
        copy.spec = serde_json::from_str::<serde_json::Value>(&resource.canonical())
            .map(|value| value["spec"].to_string())
            .map(|spec| reread(&resource, &spec))
            .unwrap();
        prop_assert_eq!(encode(&copy, revision), encode(&resource, revision));
    }

    #[test]
    fn endpoints_decode_to_the_same_and_their_order_does_not_matter(endpoints in testing::endpoints()) {
        let server = ServerName::parse("a/b").unwrap();
        let bytes = encode_endpoints(&server, &endpoints);
        let Part::Endpoints(found) = decode(ResourceType::Endpoints, &bytes).unwrap() else { unreachable!() };
        prop_assert_eq!(&found.server, &server);
        prop_assert_eq!(&*found.endpoints, &endpoints[..]);
        let reversed: Vec<_> = endpoints.iter().rev().cloned().collect();
        prop_assert_eq!(encode_endpoints(&server, &reversed), bytes);
    }

    #[test]
    fn no_bytes_panic(ty in proptest::sample::select(ResourceType::ALL.to_vec()), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(ty, &bytes);
    }

    #[test]
    fn no_damaged_message_panics(
        resource in testing::traveller(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let Encoded { ty, mut bytes, .. } = encode(&resource, 1).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decode(ty, &bytes);
        bytes.truncate(bytes.len() / 2);
        let _ = decode(ty, &bytes);
    }
}

fn reread(resource: &Resource, spec: &str) -> Spec {
    match resource.spec {
        Spec::McpServer(_) => Spec::McpServer(serde_json::from_str(spec).unwrap()),
        Spec::VirtualServer(_) => Spec::VirtualServer(serde_json::from_str(spec).unwrap()),
        Spec::Route(_) => Spec::Route(serde_json::from_str(spec).unwrap()),
        Spec::AccessPolicy(_) => Spec::AccessPolicy(serde_json::from_str(spec).unwrap()),
        Spec::QuotaPolicy(_) => Spec::QuotaPolicy(serde_json::from_str(spec).unwrap()),
        Spec::ToolPolicy(_) => Spec::ToolPolicy(serde_json::from_str(spec).unwrap()),
        Spec::Authentication(_) => Spec::Authentication(serde_json::from_str(spec).unwrap()),
        Spec::Telemetry(_) => Spec::Telemetry(serde_json::from_str(spec).unwrap()),
        Spec::Trust(_) => unreachable!("trust does not travel"),
    }
}

fn meta() -> Option<pb::Meta> {
    Some(pb::Meta { namespace: "a".into(), name: "b".into(), ..Default::default() })
}

fn good_server() -> pb::Server {
    pb::Server {
        meta: meta(),
        location: Some(pb::server::Location::External(pb::ExternalLocation { url: "https://h/".into() })),
        protocol: pb::Protocol::Auto.into(),
        ..Default::default()
    }
}

fn good_access() -> pb::AccessPolicy {
    let rule = pb::AccessRule { action: pb::AccessAction::Allow.into(), ..Default::default() };
    pb::AccessPolicy { meta: meta(), rules: vec![rule], ..Default::default() }
}

fn good_quota() -> pb::QuotaPolicy {
    let limit = pb::Limit {
        amount: Some(pb::limit::Amount::Concurrency(1)),
        scope: pb::LimitScope::Instance.into(),
        ..Default::default()
    };
    pb::QuotaPolicy { meta: meta(), limits: vec![limit], ..Default::default() }
}

#[track_caller]
fn refused<M: Message>(ty: ResourceType, good: &M, bad: &M, expected: &str) {
    assert!(decode(ty, &good.encode_to_vec()).is_ok(), "the message is good before it is spoilt");
    let found = decode(ty, &bad.encode_to_vec()).expect_err(expected).to_string();
    assert_eq!(found, expected);
}

#[test]
fn a_server_that_contradicts_itself_is_refused() {
    let check = |spoil: fn(&mut pb::Server), expected: &str| {
        let mut bad = good_server();
        spoil(&mut bad);
        refused(ResourceType::Server, &good_server(), &bad, expected);
    };
    check(|it| it.meta = None, "Server.meta: is not given");
    check(
        |it| it.meta.as_mut().unwrap().name = "B".into(),
        "Server.meta.name: name contains 'B' at byte 0; expected lower-case letters, digits, '-' and '.', starting \
         and ending with a letter or digit",
    );
    check(|it| it.location = None, "Server.location: is not given");
    check(|it| it.protocol = 0, "Server.protocol: is not given");
    check(|it| it.protocol = 17, "Server.protocol: 17 is not a value that is known");
    check(|it| it.eras = vec![1, 99], "Server.eras[1]: 99 is not a value that is known");
    check(|it| it.eras = vec![1, 1, 1], "Server.eras: has 3 items; expected 1 to 2");
    check(|it| it.path = "mcp".into(), "Server: path must start with a slash");
    check(
        |it| it.timeouts = Some(pb::Timeouts { call: Some(span(-1, 0)), ..Default::default() }),
        "Server.timeouts.call: is not a duration in whole milliseconds from 0 up",
    );
    check(
        |it| it.timeouts = Some(pb::Timeouts { call: Some(span(0, 1)), ..Default::default() }),
        "Server.timeouts.call: is not a duration in whole milliseconds from 0 up",
    );
    check(
        |it| it.timeouts = Some(pb::Timeouts { call: Some(span(i64::MAX, 0)), ..Default::default() }),
        "Server.timeouts.call: is longer than ten years",
    );
    check(
        |it| it.load_balancing = Some(pb::LoadBalancing::default()),
        "Server.load_balancing.policy: is not given",
    );
    check(
        |it| it.in_flight = Some(pb::InFlight { max: 65_537, queue_max: None }),
        "Server.in_flight.max: 65537 is out of range; expected 1 to 65536",
    );
    check(
        |it| it.location = Some(pb::server::Location::Workload(pb::WorkloadLocation::default())),
        "Server.workload.labels: at least one label is needed to find the instances",
    );
    check(
        |it| {
            it.path = "/mcp".into();
            let stdio = pb::StdioLocation { command: "npx".into(), ..Default::default() };
            it.location = Some(pb::server::Location::Stdio(stdio));
        },
        "Server: path and protocol say nothing about a stdio server; leave them out",
    );
}

fn span(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

#[test]
fn a_policy_that_could_mean_everyone_by_mistake_is_refused() {
    let check = |spoil: fn(&mut pb::AccessPolicy), expected: &str| {
        let mut bad = good_access();
        spoil(&mut bad);
        refused(ResourceType::AccessPolicy, &good_access(), &bad, expected);
    };
    check(|it| it.rules.clear(), "AccessPolicy.rules: has 0 items; expected 1 to 256");
    check(|it| it.rules[0].action = 0, "AccessPolicy.rules[0].action: is not given");
    check(|it| it.rules[0].action = 4, "AccessPolicy.rules[0].action: 4 is not a value that is known");
    check(
        |it| it.rules[0].from = vec![pb::CallerMatch::default()],
        "AccessPolicy.rules[0].from[0]: an empty match would be everyone; leave `from` out to mean that",
    );
    check(
        |it| it.rules[0].to = vec![pb::TargetMatch::default()],
        "AccessPolicy.rules[0].to[0]: an empty match would be everything; leave `to` out to mean that",
    );
    check(
        |it| {
            it.rules[0].from = vec![pb::CallerMatch { namespaces: vec!["a**".into()], ..Default::default() }]
        },
        "AccessPolicy.rules[0].from[0].namespaces[0]: pattern has two stars in a row; expected one '*' for any run of \
         characters",
    );
    check(
        |it| {
            let claims = BTreeMap::from([("groups".to_owned(), pb::Patterns::default())]);
            it.rules[0].from = vec![pb::CallerMatch { claims, ..Default::default() }];
        },
        "AccessPolicy.rules[0].from[0].claims[0].patterns: has 0 items; expected 1 to 256",
    );
    check(
        |it| {
            it.servers = Some(pb::ServerSelector { names: vec![String::new()], ..Default::default() });
        },
        "AccessPolicy.servers.names[0]: pattern is empty; expected printable characters, with '*' for any run of them",
    );
}

#[test]
fn a_limit_that_contradicts_itself_is_refused() {
    let check = |spoil: fn(&mut pb::Limit), expected: &str| {
        let mut bad = good_quota();
        spoil(&mut bad.limits[0]);
        refused(ResourceType::QuotaPolicy, &good_quota(), &bad, expected);
    };
    check(|it| it.amount = None, "QuotaPolicy.limits[0].amount: is not given");
    check(
        |it| it.amount = Some(pb::limit::Amount::Concurrency(0)),
        "QuotaPolicy.limits[0].concurrency: 0 is out of range; expected 1 to 65536",
    );
    check(
        |it| {
            let rate = pb::RateAmount { amount: 0, window: Some(span(1, 0)), burst: 0 };
            it.amount = Some(pb::limit::Amount::Rate(rate));
        },
        "QuotaPolicy.limits[0].rate: 0 in 1s is out of range; expected 1 to 1,000,000,000 in a window of 100ms to 7d",
    );
    check(
        |it| it.when_unavailable = pb::WhenUnavailable::Deny.into(),
        "QuotaPolicy.limits[0]: whenUnavailable, floor and reuseFor belong to `scope: mesh`",
    );
    check(
        |it| it.scope = pb::LimitScope::Mesh.into(),
        "QuotaPolicy.limits[0].when_unavailable: is not given",
    );
    check(
        |it| it.per = vec!["caller".into(), "caller".into()],
        "QuotaPolicy.limits[0]: `per` names a dimension twice",
    );
    check(
        |it| it.per = vec!["agent".into()],
        "QuotaPolicy.limits[0].per[0]: expected caller, tenant, tool, server or claim:<name>",
    );
}

#[test]
fn mesh_and_trust_decode_to_what_was_encoded() {
    let domain = TrustDomain::parse("corp.example").unwrap();
    let root = Namespace::parse("weft-system").unwrap();
    let Part::Mesh(mesh) = decode(ResourceType::Mesh, &encode_mesh(&domain, None, &root)).unwrap() else {
        unreachable!()
    };
    let expected = Mesh {
        trust_domain: domain.clone(),
        default_action: DefaultAction::Allow,
        svid_lifetime: Trust::SVID_LIFETIME_DEFAULT,
        root_namespace: root.clone(),
        gateways: List::default(),
        gateways_are_told: true,
    };
    assert_eq!(*mesh, expected);
    let gateway = IdentityPattern::parse("spiffe://corp.example/ns/edge/sa/*").unwrap();
    let trust: Trust =
        serde_json::from_value(serde_json::json!({ "trustDomain": domain, "gateways": [gateway] })).unwrap();
    let bytes = encode_mesh(&domain, Some(&trust), &root);
    let Part::Mesh(mesh) = decode(ResourceType::Mesh, &bytes).unwrap() else { unreachable!() };
    assert_eq!(mesh.gateways, trust.gateways);
    let id = |account: &str| format!("spiffe://corp.example/ns/edge/sa/{account}").parse().unwrap();
    assert!(mesh.is_gateway(&id("gateway")) && !expected.is_gateway(&id("gateway")));
    let (revoked, renew) = (["2".to_owned(), "10".to_owned()], ["0a".repeat(32)]);
    let bytes = encode_trust_bundle(&domain, &[b"one", b"two"], 3, &revoked, &renew);
    let Part::TrustBundle(bundle) = decode(ResourceType::TrustBundle, &bytes).unwrap() else {
        unreachable!()
    };
    let expected = TrustBundle {
        trust_domain: domain.clone(),
        roots: vec![b"one".to_vec(), b"two".to_vec()],
        sequence: 3,
        revoked_serials: vec!["10".to_owned(), "2".to_owned()],
        renew_unless_root: renew.to_vec(),
    };
    assert_eq!(*bundle, expected);
    let turned = [revoked[1].clone(), revoked[0].clone(), revoked[1].clone()];
    assert_eq!(encode_trust_bundle(&domain, &[b"one", b"two"], 3, &turned, &renew), bytes);
}

#[test]
fn a_mesh_or_bundle_that_says_too_little_is_refused() {
    let check = |ty, message: &dyn Fn() -> Vec<u8>, expected: &str| {
        assert_eq!(decode(ty, &message()).expect_err(expected).to_string(), expected);
    };
    check(
        ResourceType::Mesh,
        &Vec::new,
        "Mesh.trust_domain: trust domain is empty; expected lower-case letters, digits, '.', '-' and '_'",
    );
    let domain = TrustDomain::parse("d").unwrap();
    let bundle = |revoked: &[&str], roots: &[&[u8]]| {
        let revoked: Vec<_> = revoked.iter().map(|&it| it.to_owned()).collect();
        encode_trust_bundle(&domain, roots, 1, &revoked, &[])
    };
    let serial =
        "TrustBundle.revoked_serials[0]: is not a serial number in lower-case hex without leading zeros";
    for bad in ["", "0a", "A", "x", &"1".repeat(41)] {
        check(ResourceType::TrustBundle, &|| bundle(&[bad], &[]), serial);
    }
    check(ResourceType::TrustBundle, &|| bundle(&[], &[b""]), "TrustBundle.roots[0]: is empty");
}

#[test]
fn a_message_beyond_the_limit_is_not_read() {
    let error = decode(ResourceType::Route, &vec![0; MESSAGE_BYTES_MAX + 1]).unwrap_err();
    assert!(
        matches!(error, Error::TooLarge { ty: ResourceType::Route, len } if len == MESSAGE_BYTES_MAX + 1)
    );
    assert_eq!(error.to_string(), "Route is 4194305 bytes long; at most 4194304 are allowed");
}

#[test]
fn trust_does_not_travel_itself() {
    let text = "apiVersion: weft.dev/v1alpha1\nkind: Trust\nmetadata: {namespace: weft-system, name: mesh}\n\
                spec: {trustDomain: d}\n";
    let trust = crate::resource::parse_one("f", text).unwrap();
    assert_eq!(encode(&trust, 1), None);
}

#[test]
fn the_aliases_of_a_server_are_names_in_its_namespace() {
    let text = "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {namespace: a, name: b}\n\
                spec: {stdio: {command: x}, aliases: [c, d]}\n";
    let encoded = encode(&crate::resource::parse_one("f", text).unwrap(), 1).unwrap();
    assert_eq!((encoded.name.as_str(), encoded.aliases), ("a/b", vec!["a/c".to_owned(), "a/d".to_owned()]));
}
