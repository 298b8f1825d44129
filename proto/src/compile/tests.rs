use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::testing;
use crate::wire::{self, Part};

fn part(text: &str, revision: u64) -> Part {
    let text = format!("{{apiVersion: weft.dev/v1alpha1, {text}}}");
    let encoded = wire::encode(&crate::resource::parse_one("f", &text).unwrap(), revision).unwrap();
    wire::decode(encoded.ty, &encoded.bytes).unwrap()
}

fn server(namespace: &str, name: &str, more: &str, revision: u64) -> Part {
    let metadata = format!("metadata: {{namespace: {namespace}, name: {name}}}");
    part(&format!("kind: McpServer, {metadata}, spec: {{stdio: {{command: x}}{more}}}"), revision)
}

fn name(text: &str) -> ServerName {
    ServerName::parse(text).unwrap()
}

#[test]
fn an_alias_goes_to_the_oldest_claim_and_never_over_a_name() {
    let parts = Parts::from_iter([
        server("a", "young", ", aliases: [old-name, elder]", 3),
        server("a", "elder", ", aliases: [old-name, elder]", 2),
        server("b", "old-name", "", 1),
    ]);
    let snapshot = compile(&parts);
    assert_eq!(snapshot.aliases, BTreeMap::from([(name("a/old-name"), name("a/elder"))]));
    assert_eq!(snapshot.server(&name("a/old-name")).unwrap().server.meta.full_name(), name("a/elder"));
    let taken = |alias: &str| Concern::AliasTaken { alias: name(alias), by: name("a/elder") };
    let concerns: Vec<_> = snapshot.warnings.iter().map(|it| it.concern.clone()).collect();
    assert_eq!(concerns, [taken("a/elder"), taken("a/old-name")]);
}

#[test]
fn without_a_mesh_nothing_is_allowed_by_default() {
    assert_eq!(compile(&Parts::default()).default_action(), DefaultAction::Deny);
}

#[test]
fn a_tenant_cannot_take_in_or_reroute_another_s_servers() {
    let members = "spec: {members: [{server: a/x}, {server: b/y}]}";
    let route =
        |server: &str, to: &str| format!("spec: {{server: {server}, rules: [{{to: [{{server: {to}}}]}}]}}");
    // The door refuses these; a sidecar does not rely on whoever sends having used the door.
    let smuggled = |kind: &str, of: &str, spec: &str| {
        let own = part(&format!("kind: {kind}, metadata: {{namespace: weft-system, name: {of}}}, {spec}"), 1);
        move_to("a", own)
    };
    let parts = Parts::from_iter([
        server("a", "x", "", 1),
        server("b", "y", "", 1),
        smuggled("VirtualServer", "all", members),
        smuggled("Route", "out", &route("a/x", "b/y")),
        smuggled("Route", "in", &route("b/y", "a/x")),
    ]);
    let snapshot = compile(&parts);
    let members = &snapshot.virtual_servers[&name("a/all")].members;
    assert_eq!(members.iter().map(|it| it.server.clone()).collect::<Vec<_>>(), [name("a/x")]);
    assert!(snapshot.servers.values().all(|entry| entry.route.is_none()));
    assert!(snapshot.warnings.iter().all(|it| it.concern == Concern::OutOfScope(name("b/y"))));
    assert_eq!(snapshot.warnings.len(), 3);
}

fn move_to(namespace: &str, part: Part) -> Part {
    let namespace = Namespace::parse(namespace).unwrap();
    match part {
        Part::VirtualServer(it) => {
            let mut it = (*it).clone();
            it.meta.namespace = namespace;
            Part::VirtualServer(Arc::new(it))
        }
        Part::Route(it) => {
            let mut it = (*it).clone();
            it.meta.namespace = namespace;
            Part::Route(Arc::new(it))
        }
        other => panic!("{other:?} is not moved here"),
    }
}

#[test]
fn parts_are_replaced_and_removed_by_their_names() {
    let mut parts = Parts::default();
    assert_eq!(parts.insert(server("a", "x", "", 1)), None);
    assert_eq!(parts.insert(server("a", "x", ", aliases: [y]", 1)), Some(server("a", "x", "", 1)));
    assert_eq!(parts.count(ResourceType::Server), 1);
    assert_eq!(parts.remove(ResourceType::Route, "a/x"), None);
    assert_eq!(parts.remove(ResourceType::Server, "a/x"), Some(server("a", "x", ", aliases: [y]", 1)));
    assert_eq!(parts, Parts::default());
}

proptest! {
    #[test]
    fn compiling_never_panics_and_does_not_depend_on_the_order_of_arrival(
        objects in proptest::collection::vec(testing::traveller(), 0..12),
        seed in any::<u64>(),
    ) {
        let parts: Vec<Part> = objects
            .iter()
            .zip(1..)
            .map(|(object, revision)| {
                let encoded = wire::encode(object, revision % 3).unwrap();
                wire::decode(encoded.ty, &encoded.bytes).unwrap()
            })
            .collect();
        // Of several parts with one name, only the last would stay.
        let unique: BTreeMap<_, _> = parts.into_iter().map(|part| ((part.ty(), part.name()), part)).collect();
        let parts: Vec<Part> = unique.into_values().collect();
        let mut shuffled = parts.clone();
        shuffled.sort_by_key(|part| (seed ^ part.name().len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let snapshot = compile(&parts.into_iter().collect());
        prop_assert_eq!(&compile(&shuffled.into_iter().collect()), &snapshot);
        prop_assert!(!snapshot.to_string().is_empty());
    }

    /// The index is only a way to ask fewer questions: asking every policy about every server gives the same.
    #[test]
    fn the_index_finds_what_asking_everything_finds(
        objects in proptest::collection::vec(testing::resource(crate::resource::Kind::AccessPolicy), 0..8),
        servers in proptest::collection::vec(testing::resource(crate::resource::Kind::McpServer), 1..5),
        root in "[a-d]",
    ) {
        let root = Namespace::parse(&root).unwrap();
        let domain = TrustDomain::parse("d").unwrap();
        let mesh = wire::decode(ResourceType::Mesh, &wire::encode_mesh(&domain, None, &root)).unwrap();
        let objects = objects.iter().chain(&servers).map(|object| {
            let encoded = wire::encode(object, 1).unwrap();
            wire::decode(encoded.ty, &encoded.bytes).unwrap()
        });
        let parts: Parts = objects.chain([mesh]).collect();
        let snapshot = compile(&parts);
        for entry in snapshot.servers.values() {
            let asked = parts.iter().filter(|part| match part {
                Part::AccessPolicy(it) => selects(&it.spec.servers, &it.meta.namespace, &root, &entry.server.meta),
                _ => false,
            });
            prop_assert_eq!(asked.count(), entry.access.len());
            let specificities: Vec<_> = entry
                .access
                .iter()
                .map(|it| specificity(&it.spec.servers, &it.meta.namespace, &root, &entry.server.meta))
                .collect();
            prop_assert!(specificities.iter().all(Option::is_some));
            prop_assert!(specificities.is_sorted_by(|a, b| a >= b));
        }
    }
}

#[test]
fn a_nearer_telemetry_cannot_silence_what_the_mesh_marks() {
    let telemetry = |namespace: &str, audit: &str, more: &str| {
        let metadata = format!("metadata: {{namespace: {namespace}, name: t-{audit}}}");
        part(&format!("kind: Telemetry, {metadata}, spec: {{audit: {audit}{more}}}"), 1)
    };
    let check = |telemetry: &[Part], expected: (AuditDetail, AuditDetail)| {
        let parts = telemetry.iter().cloned().chain([server("a", "x", "", 1)]);
        let snapshot = compile(&parts.collect());
        let entry = snapshot.server(&name("a/x")).unwrap();
        let root = snapshot.root_namespace();
        assert_eq!((entry.audit_detail(&root, false), entry.audit_detail(&root, true)), expected);
    };
    use AuditDetail::{Digests, Full, Metadata, None};
    let root = ROOT_NAMESPACE;
    check(&[], (Digests, Digests));
    check(&[telemetry("a", "full", "")], (Full, Full));
    check(&[telemetry("a", "none", "")], (None, Digests));
    check(&[telemetry("a", "none", ""), telemetry(root, "metadata", "")], (None, Metadata));
    // The mesh may silence its own.
    check(&[telemetry(root, "none", "")], (None, None));
    let nearest = ", servers: {names: [x]}";
    check(&[telemetry("a", "none", nearest), telemetry("a", "full", "")], (None, Full));
}
