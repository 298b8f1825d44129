use serde_json::{Map, json};
use weft_proto::compile::{Parts, Snapshot, compile};
use weft_proto::name::Workload;
use weft_proto::offer::{Introduction, Offer, Offered};
use weft_proto::resource::kinds::DefaultAction;
use weft_proto::resource::units::Span;
use weft_proto::resource::{Spec, parse_one};
use weft_proto::wire::{Mesh, Meta, Object, Part};

use super::super::Audience;
use super::*;
use crate::gateway::guest::Said;

fn gateway() -> Workload {
    "spiffe://mesh.test/ns/edge/sa/gateway".parse::<weft_proto::name::SpiffeId>().unwrap().workload().unwrap()
}

/// A server `x/a` with the tools `read` and `write`, and what is said of it.
fn snapshot(default_action: DefaultAction, gateways_are_told: bool, policy: Option<&str>) -> Snapshot {
    let mesh = Mesh {
        trust_domain: "mesh.test".parse().unwrap(),
        default_action,
        svid_lifetime: Span::from_secs(3600),
        root_namespace: "weft-system".parse().unwrap(),
        gateways: serde_json::from_value(json!(["spiffe://mesh.test/ns/edge/sa/gateway"])).unwrap(),
        gateways_are_told,
    };
    let server = "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: { namespace: x, name: a }\n\
                  spec: { workload: { labels: { app: a } } }\n";
    let rules = policy.map(|rules| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{ namespace: x, name: p }}\n\
             spec: {{ rules: [{rules}] }}\n"
        )
    });
    let mut parts = Parts::default();
    parts.insert(Part::Mesh(Arc::new(mesh)));
    for text in std::iter::once(server).chain(rules.as_deref()) {
        let resource = parse_one("test", text).unwrap();
        let meta = Meta::new(&resource.metadata, 1);
        match resource.spec {
            Spec::McpServer(spec) => parts.insert(Part::Server(Arc::new(Object { meta, spec }))),
            Spec::AccessPolicy(spec) => parts.insert(Part::AccessPolicy(Arc::new(Object { meta, spec }))),
            other => panic!("{other:?}"),
        };
    }
    let tool = |name: &str| {
        Arc::new(Offered::parse(Listed::Tool, json!({ "name": name }).to_string().into()).unwrap())
    };
    let offer = Offer::new("x/a".parse().unwrap(), Introduction::default(), ["read", "write"].map(tool));
    parts.insert(Part::Offer(Arc::new(offer.unwrap())));
    compile(&parts)
}

/// What somebody is shown of whom the gateway says this.
fn shown(snapshot: &Snapshot, said: &HeaderValue) -> Vec<String> {
    let drawn = Drawn::new(snapshot, None, (&gateway(), Audience::Guests), None).unwrap();
    let part = drawn.part_of(Some(said)).unwrap();
    let tools = drawn.roster.of(Listed::Tool).iter().enumerate();
    tools.filter(|(at, _)| part.has(Listed::Tool, *at)).map(|(_, it)| it.own.name.to_string()).collect()
}

fn said(issuer: &str, scopes: &[&str]) -> HeaderValue {
    let mut claims = Map::new();
    claims.insert("scope".to_owned(), json!(scopes));
    let said = Said { iss: issuer.to_owned(), sub: "ann".to_owned(), tenant: None, claims };
    Guest::new(&said, gateway(), 4096).unwrap().said
}

#[test]
fn a_member_without_policies_is_shown_as_the_default_says_once_policies_are_told() {
    let ann = said("https://idp.test", &[]);
    for (default_action, is_told, expected) in [
        (DefaultAction::Allow, true, &["read", "write"][..]),
        (DefaultAction::Audit, true, &["read", "write"]),
        (DefaultAction::Deny, true, &[]),
        // There may be policies that were not told.
        (DefaultAction::Deny, false, &["read", "write"]),
    ] {
        assert_eq!(
            shown(&snapshot(default_action, is_told, None), &ann),
            expected,
            "{default_action:?} {is_told}"
        );
    }
    let allows = "{ action: allow, to: [{ tools: [read] }] }";
    for is_told in [true, false] {
        assert_eq!(shown(&snapshot(DefaultAction::Deny, is_told, Some(allows)), &ann), ["read"]);
    }
}

#[test]
fn what_only_a_scope_is_missing_for_is_shown_to_whoever_came_with_a_token() {
    let rules = "{ action: allow, to: [{ tools: [read] }] }, \
                 { action: allow, from: [{ claims: { scope: [w] } }], to: [{ tools: [write] }] }";
    let snapshot = snapshot(DefaultAction::Allow, true, Some(rules));
    assert_eq!(shown(&snapshot, &said("https://idp.test", &["r"])), ["read", "write"]);
    assert_eq!(shown(&snapshot, &said("api-keys/edge/public", &["r"])), ["read"]);
}

#[test]
fn callers_are_told_apart_by_all_that_is_said_of_them() {
    let snapshot =
        snapshot(DefaultAction::Allow, true, Some("{ action: allow, from: [{ claims: { scope: [w] } }] }"));
    let drawn = Drawn::new(&snapshot, None, (&gateway(), Audience::Guests), None).unwrap();
    let tools = |said: &HeaderValue| drawn.part_of(Some(said)).unwrap().tools();
    // A header need not be text; nothing can be read of these, and they are not the same.
    let odd = [HeaderValue::from_bytes(b"\xff").unwrap(), HeaderValue::from_bytes(b"\xfe").unwrap()];
    assert_eq!(odd.each_ref().map(tools), [0, 0]);
    assert_ne!(digest(&odd[0]), digest(&odd[1]));
    assert_eq!(tools(&said("api-keys/edge/public", &["w"])), 2);
    assert_eq!(tools(&said("api-keys/edge/public", &["r"])), 0);
}

#[test]
fn callers_of_the_same_rules_are_judged_once_unless_conditions_tell_them_apart() {
    let shares = |rules: &str, one: &HeaderValue, other: &HeaderValue| {
        let snapshot = snapshot(DefaultAction::Allow, true, Some(rules));
        let drawn = Drawn::new(&snapshot, None, (&gateway(), Audience::Guests), None).unwrap();
        let [one, other] = [one, other].map(|it| drawn.part_of(Some(it)).unwrap());
        (one.tools(), other.tools(), Arc::ptr_eq(&one, &other))
    };
    let readers = "{ action: allow, from: [{ claims: { scope: [r] } }], to: [{ tools: [read] }] }";
    let (r, both) = (said("api-keys/a/b", &["r"]), said("api-keys/a/b", &["r", "w"]));
    assert_eq!(shares(readers, &r, &both), (1, 1, true));
    assert_eq!(shares(readers, &r, &said("api-keys/a/b", &["w"])), (1, 0, false));
    // One who came with a token could ask for what the other has.
    assert_eq!(
        shares(readers, &said("api-keys/a/b", &["w"]), &said("https://idp.test", &["w"])),
        (0, 1, false)
    );
    let conditional =
        "{ action: allow, to: [{ tools: [read] }] }, { action: allow, when: '\"w\" in claims.scope' }";
    assert_eq!(shares(conditional, &r, &both), (1, 2, false));
}
