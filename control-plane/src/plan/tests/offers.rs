use std::sync::Arc;

use weft_proto::mcp::lists::Listed;
use weft_proto::name::ServerName;
use weft_proto::offer::{Introduction, Offer, Offered};
use weft_proto::policy::tools;
use weft_proto::wire::{self, Part};

use super::*;

const TOOLS: [&str; 3] = ["delete", "read", "write"];

fn definition(name: &str, text: &str) -> String {
    format!(r#"{{"name":"{name}","description":"{text}","inputSchema":{{}}}}"#)
}

fn offer(text: &str) -> Offer {
    let tools = TOOLS.map(|name| (Listed::Tool, definition(name, text)));
    let others = [
        (Listed::Prompt, r#"{"name":"ask"}"#.to_owned()),
        (Listed::Resource, r#"{"uri":"notes://1","name":"one"}"#.to_owned()),
        (Listed::ResourceTemplate, r#"{"uriTemplate":"notes://{n}","name":"all"}"#.to_owned()),
    ];
    let items = tools.into_iter().chain(others);
    let items = items.map(|(kind, text)| Arc::new(Offered::parse(kind, text.into()).unwrap()));
    Offer::new(name("research/files"), Introduction::default(), items).unwrap()
}

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn say(world: &mut World, offer: Option<Offer>) -> Vec<Touched> {
    let server = name("research/files");
    let changes = vec![Change::Offered { server, offer: offer.map(Arc::new) }];
    world.apply(Update { revision: 0, changes })
}

/// The names of what a viewer is offered; none if it is not told of the server's offer.
fn offered(world: &World, viewer: &Viewer) -> Option<String> {
    let sent = world.concerning(viewer, &[], ResourceType::Offer);
    let [sent] = &sent[..] else { return None };
    let Ok(Part::Offer(offer)) = wire::decode(ResourceType::Offer, &sent.bytes) else { panic!("no offer") };
    let Lookup::Found(found) = world.lookup(viewer, &[], ResourceType::Offer, &sent.name) else {
        panic!("what concerns a viewer is found by its name")
    };
    assert_eq!((&found.version, &found.bytes), (&sent.version, &sent.bytes));
    Some(offer.items().iter().map(|item| &*item.name).collect::<Vec<_>>().join(" "))
}

#[track_caller]
fn check(policies: &str, expected: &[(&str, Option<&str>)]) {
    let mut world = world(&(server("research/files") + policies));
    say(&mut world, Some(offer("x")));
    for (caller, expected) in expected {
        assert_eq!(offered(&world, &viewer("agents", caller, OUTBOUND)).as_deref(), *expected, "{caller}");
    }
}

fn policy(rules: &str) -> String {
    object("AccessPolicy", "research/p", &format!("{{ servers: {{ names: [files] }}, rules: [{rules}] }}"))
}

const ALL: &str = "delete read write ask notes://1 notes://{n}";

#[test]
fn without_policies_everybody_who_calls_is_offered_all() {
    check("", &[("bot", Some(ALL)), ("other", Some(ALL))]);
    let mut world = world(&server("research/files"));
    say(&mut world, Some(offer("x")));
    assert_eq!(offered(&world, &viewer("agents", "bot", INBOUND)), None);
    assert_eq!(offered(&world, &viewer("research", "files", INBOUND)), None);
}

#[test]
fn each_is_offered_what_it_may_use() {
    let rules = "{ action: allow, from: [{ serviceAccounts: [agents/bot] }], to: [{ tools: [read, write] }] }, \
                 { action: allow, from: [{ serviceAccounts: [agents/clerk] }], to: [{ prompts: ['*'] }, { resources: ['notes://*'] }] }, \
                 { action: deny, to: [{ tools: [write] }] }";
    check(
        &policy(rules),
        &[("bot", Some("read")), ("clerk", Some("ask notes://1 notes://{n}")), ("other", None)],
    );
}

#[test]
fn what_may_be_used_with_some_arguments_is_offered() {
    let rules = "{ action: allow, to: [{ tools: [read] }], when: 'args.n < 3' }";
    check(&policy(rules), &[("bot", Some("read"))]);
}

#[test]
fn whoever_calls_itself_a_gateway_is_offered_no_more_than_its_identity_may_use() {
    let rules = "{ action: allow, from: [{ namespaces: [edge] }], to: [{ tools: [read] }] }";
    let mut world = world(&(server("research/files") + &policy(rules)));
    say(&mut world, Some(offer("x")));
    let gateway = Stances { inbound: false, outbound: false, gateway: true };
    assert_eq!(offered(&world, &viewer("edge", "gate", gateway)).as_deref(), Some("read"));
    assert_eq!(offered(&world, &viewer("agents", "gate", gateway)), None);
}

#[test]
fn a_gateway_that_the_mesh_names_is_told_by_which_policies_its_callers_are_judged() {
    let dev = "{ action: allow, from: [{ namespaces: [edge], claims: { groups: [dev] } }] }";
    let mut world = world(&(server("research/files") + &policy(dev) + &server("agents/other")));
    let gateway = Stances { inbound: false, outbound: false, gateway: true };
    let edge = viewer("edge", "gate", gateway);
    let told = |world: &World, viewer: &Viewer| {
        let found = world.concerning(viewer, &[], ResourceType::AccessPolicy);
        found.iter().map(|it| it.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(told(&world, &edge), [""; 0], "by its own word");
    let trust = |gateways: &str| {
        object("Trust", "weft-system/mesh", &format!("{{ trustDomain: mesh.test, gateways: [{gateways}] }}"))
    };
    let touched = put(&mut world, &trust("'spiffe://mesh.test/ns/edge/sa/*'"));
    assert!(touched.iter().any(|it| it.ty == ResourceType::AccessPolicy));
    assert_eq!(told(&world, &edge).len(), 1);
    assert_eq!(told(&world, &viewer("edge", "gate", OUTBOUND)), [""; 0], "it does not act as one");
    // Of servers that it may not reach it is told nothing, and again as soon as it may.
    let denied =
        object("AccessPolicy", "research/none", "{ servers: { names: [files] }, rules: [{ action: deny }] }");
    put(&mut world, &denied);
    assert_eq!(told(&world, &edge), [""; 0]);
    let touched = put(&mut world, &denied.replace("[files]", "[elsewhere]"));
    let is_about = |it: &Touched| &*it.name == "research/p" && it.audience == Audience::Calling;
    assert!(touched.iter().any(is_about));
    assert_eq!(told(&world, &edge).len(), 1);
}

#[test]
fn a_gateway_that_the_mesh_names_is_offered_what_its_callers_could_be_allowed() {
    let rules = "{ action: allow, from: [{ namespaces: [edge], claims: { groups: [dev] } }], to: [{ tools: [read] }] }, \
                 { action: allow, from: [{ namespaces: [agents] }], to: [{ tools: [ask] }] }, \
                 { action: allow, to: [{ tools: [write] }], when: 'claims.level > 3' }, \
                 { action: allow, to: [{ tools: [delete] }] }, { action: deny, from: [{ namespaces: [edge] }], to: [{ tools: \
                 [delete] }] }";
    let mut world = world(&(server("research/files") + &policy(rules)));
    say(&mut world, Some(offer("x")));
    let gateway = Stances { inbound: false, outbound: false, gateway: true };
    let edge = viewer("edge", "gate", gateway);
    assert_eq!(offered(&world, &edge).as_deref(), Some(""));
    let trust = |gateways: &str| {
        object("Trust", "weft-system/mesh", &format!("{{ trustDomain: mesh.test, gateways: [{gateways}] }}"))
    };
    let touched = put(&mut world, &trust("'spiffe://mesh.test/ns/edge/sa/*'"));
    assert!(touched.iter().any(|it| it.ty == ResourceType::Offer && it.audience == Audience::Calling));
    assert_eq!(offered(&world, &edge).as_deref(), Some("read write"));
    assert_eq!(
        offered(&world, &viewer("edge", "gate", OUTBOUND)).as_deref(),
        Some(""),
        "it does not act as one"
    );
    assert_eq!(offered(&world, &viewer("agents", "gate", gateway)).as_deref(), Some("delete"));
    put(&mut world, &trust(""));
    assert_eq!(offered(&world, &edge).as_deref(), Some(""));
}

#[test]
fn a_definition_that_is_pinned_is_offered_once_it_is_approved() {
    let approved = tools::digest(&definition("read", "x")).unwrap();
    let pin = |approved: &str| {
        object(
            "ToolPolicy",
            "research/pinned",
            &format!(
                "{{ servers: {{ names: [files] }}, tools: [read], pin: enforce, approved: {{ {approved} }} }}"
            ),
        )
    };
    let mut world = world(&(server("research/files") + &pin("")));
    let bot = viewer("agents", "bot", OUTBOUND);
    say(&mut world, Some(offer("x")));
    let without = "delete write ask notes://1 notes://{n}";
    assert_eq!(offered(&world, &bot).as_deref(), Some(without));
    let touched = put(&mut world, &pin(&format!("read: '{approved}'")));
    assert!(touched.iter().any(|it| it.ty == ResourceType::Offer && it.audience == Audience::Calling));
    assert_eq!(offered(&world, &bot).as_deref(), Some(ALL));
    say(&mut world, Some(offer("another text")));
    assert_eq!(offered(&world, &bot).as_deref(), Some(without));
}

#[test]
fn those_who_call_hear_of_whatever_changes_what_they_are_offered() {
    let mut world = world(&server("research/files"));
    let bot = viewer("agents", "bot", OUTBOUND);
    let hears = |touched: Vec<Touched>| {
        touched.iter().any(|it| it.ty == ResourceType::Offer && it.audience == Audience::Calling)
    };
    assert!(hears(say(&mut world, Some(offer("x")))));
    assert!(!hears(say(&mut world, Some(offer("x")))), "nothing is new");
    assert!(hears(say(&mut world, Some(offer("y")))));
    assert!(hears(put(&mut world, &policy("{ action: allow, to: [{ tools: [read] }] }"))));
    assert_eq!(offered(&world, &bot).as_deref(), Some("read"));
    assert!(hears(put(&mut world, &policy("{ action: allow, to: [{ tools: [write] }] }"))));
    assert_eq!(offered(&world, &bot).as_deref(), Some("write"));
    assert!(hears(delete(&mut world, "accesspolicies/research/p")));
    assert_eq!(offered(&world, &bot).as_deref(), Some(ALL));
    assert!(hears(put(
        &mut world,
        &object("Trust", "weft-system/mesh", "{ trustDomain: mesh.test, defaultAction: deny }")
    )));
    assert_eq!(offered(&world, &bot), None);
}

#[test]
fn an_offer_is_there_for_as_long_as_its_server_is() {
    let mut world = world("");
    let bot = viewer("agents", "bot", OUTBOUND);
    say(&mut world, Some(offer("x")));
    assert_eq!(offered(&world, &bot), None);
    put(&mut world, &server("research/files"));
    assert_eq!(offered(&world, &bot).as_deref(), Some(ALL));
    delete(&mut world, "mcpservers/research/files");
    assert_eq!(offered(&world, &bot), None);
    put(&mut world, &server("research/files"));
    say(&mut world, None);
    assert_eq!(offered(&world, &bot), None);
}
