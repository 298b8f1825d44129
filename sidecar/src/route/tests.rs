use std::sync::Arc;

use weft_certs::bundle::{Bundles, TrustStore};
use weft_certs::tls::LiveIdentity;
use weft_proto::compile::compile;
use weft_proto::offer::{Introduction, Offer, Offered};
use weft_proto::resource::kinds::Era;
use weft_proto::resource::parse_one;
use weft_proto::resource::units::{Delay, Span};
use weft_proto::wire::{self, Part, ResourceType};

use super::*;
use crate::classify;
use crate::limits::Limits;
use crate::outbound::Config;
use crate::session_id::Key;

fn part(kind: &str, name: &str, spec: &str) -> Part {
    let text = format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: {kind}, metadata: {{namespace: n, name: {name}}}, spec: {spec}}}"
    );
    let encoded = wire::encode(&parse_one("f", &text).unwrap(), 1).unwrap();
    wire::decode(encoded.ty, &encoded.bytes).unwrap()
}

/// Of servers that are nowhere, with one route.
fn snapshot(rules: &str, more: &[(&str, &str, &str)]) -> Snapshot {
    let servers = ["s", "t", "m"].map(|name| part("McpServer", name, "{workload: {labels: {a: b}}}"));
    let route = part("Route", "r", &format!("{{server: n/s, rules: {rules}}}"));
    let more = more.iter().map(|(kind, name, spec)| part(kind, name, spec));
    compile(&servers.into_iter().chain([route]).chain(more).collect())
}

fn outbound(snapshot: &Snapshot) -> Outbound {
    let config = Config {
        identity: LiveIdentity::empty(),
        trust: TrustStore::new(Bundles::default()),
        key: Key::random(),
        locality: None,
        copies_max: 1,
        counts: crate::outbound::Counts::default(),
    };
    Outbound::new(config, snapshot)
}

/// The course of a call, as its servers, and who gets a copy after an arrow.
fn shown(snapshot: &Snapshot, body: &str, headers: &HeaderMap, draw: u64) -> String {
    let call = match body {
        "" => classify::again(b"", Era::Legacy, &Limits::default()),
        body => classify::again(body.as_bytes(), Era::Modern, &Limits::default()),
    };
    let call = call.unwrap();
    let asked = Asked::of(&call, headers, None);
    let entry = snapshot.server(&"n/s".parse().unwrap()).unwrap();
    let course = course(snapshot, entry, &asked, &outbound(snapshot), || draw);
    let name = |stop: &Stop| stop.server.name.to_string();
    let stops: Vec<_> = course.stops.iter().map(name).collect();
    let copy = course.copy.as_ref().map(|copy| format!(" > {}", name(copy)));
    stops.join(" ") + &copy.unwrap_or_default()
}

fn request(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

fn calling(tool: &str) -> String {
    request("tools/call", &format!(r#"{{"name":"{tool}","arguments":{{}}}}"#))
}

#[test]
fn without_a_rule_that_matches_the_server_itself_is_called() {
    let snapshot = snapshot("[{match: {tools: [x]}, to: [{server: n/t}]}]", &[]);
    let none = HeaderMap::new();
    assert_eq!(shown(&snapshot, &calling("y"), &none, 0), "s");
    assert_eq!(shown(&snapshot, &calling("x"), &none, 0), "t");
    assert_eq!(shown(&snapshot, &request("ping", "{}"), &none, 0), "s");
}

#[test]
fn what_opens_a_stream_goes_where_a_session_would_be_opened() {
    let snapshot = snapshot("[{match: {methods: [initialize]}, to: [{server: n/t}]}]", &[]);
    assert_eq!(shown(&snapshot, "", &HeaderMap::new(), 0), "t");
}

#[test]
fn headers_match_by_any_of_their_values() {
    let snapshot = snapshot("[{match: {headers: {X-Preview: ['1']}}, to: [{server: n/t}]}]", &[]);
    let mut headers = HeaderMap::new();
    assert_eq!(shown(&snapshot, &calling("x"), &headers, 0), "s");
    headers.append("x-preview", "0".parse().unwrap());
    headers.append("x-preview", "1".parse().unwrap());
    assert_eq!(shown(&snapshot, &calling("x"), &headers, 0), "t");
}

#[test]
fn a_server_that_is_not_known_here_is_passed_over() {
    let rules = "[{to: [{server: n/unknown, weight: 9}, {server: n/t}], fallback: [n/other, n/s]}]";
    assert_eq!(shown(&snapshot(rules, &[]), &calling("x"), &HeaderMap::new(), 0), "t s");
    let nobody = snapshot("[{to: [{server: n/unknown}]}]", &[]);
    assert_eq!(shown(&nobody, &calling("x"), &HeaderMap::new(), 0), "");
}

#[test]
fn what_could_change_something_is_not_copied_unless_the_rule_says_so() {
    let policies = [
        ("ToolPolicy", "p", "{servers: {names: [m]}, tools: ['read_*'], retry: read-only}"),
        ("ToolPolicy", "q", "{servers: {names: [m]}, tools: [put], retry: idempotent}"),
        ("ToolPolicy", "o", "{servers: {names: [s]}, tools: [write], retry: read-only}"),
    ];
    let rules = |mirror: &str| format!("[{{to: [{{server: n/s}}], mirror: {{server: n/m{mirror}}}}}]");
    let none = HeaderMap::new();
    let mut session = HeaderMap::new();
    session.insert(SESSION, "x".parse().unwrap());
    let (careful, all) = (snapshot(&rules(""), &policies), snapshot(&rules(", calls: all"), &policies));
    for (body, expected, expected_of_all) in [
        (calling("read_file"), "s > m", "s > m"),
        (calling("put"), "s", "s > m"),
        // What another server's tool of that name does, says nothing about the mirror's.
        (calling("write"), "s", "s > m"),
        (request("tools/list", "{}"), "s > m", "s > m"),
        (request("prompts/get", r#"{"name":"p"}"#), "s > m", "s > m"),
        (request("resources/read", r#"{"uri":"a:b"}"#), "s > m", "s > m"),
        (request("x/y", "{}"), "s", "s > m"),
        (request("initialize", "{}"), "s", "s"),
        (request("tasks/get", r#"{"taskId":"1"}"#), "s", "s"),
        (request("subscriptions/listen", r#"{"notifications":{}}"#), "s", "s"),
        (r#"{"jsonrpc":"2.0","method":"notifications/x"}"#.to_owned(), "s", "s"),
        (String::new(), "s", "s"),
    ] {
        assert_eq!(shown(&careful, &body, &none, 0), expected, "{body}");
        assert_eq!(shown(&all, &body, &none, 0), expected_of_all, "{body}");
        assert_eq!(shown(&all, &body, &session, 0), "s", "{body}");
    }
    let few = snapshot(&rules(", percent: 5"), &policies);
    assert_eq!(shown(&few, &calling("read_file"), &none, 4), "s > m");
    assert_eq!(shown(&few, &calling("read_file"), &none, 5), "s");
}

#[test]
fn how_it_is_sent_is_said_by_the_policies_of_the_server_that_takes_it() {
    let policies = [(
        "ToolPolicy",
        "p",
        "{servers: {names: [t]}, tools: [x], timeout: 3s, retry: idempotent, hedgeAfter: 1s}",
    )];
    let snapshot = snapshot("[{to: [{server: n/t}], fallback: [n/s]}]", &policies);
    let entry = snapshot.server(&"n/s".parse().unwrap()).unwrap();
    let headers = HeaderMap::new();
    let asked = Asked {
        method: "tools/call",
        tool: Some("x"),
        is_single: true,
        headers: &headers,
        caller: None,
        waits: None,
    };
    let course = course(&snapshot, entry, &asked, &outbound(&snapshot), || 0);
    let timeout = Some(Duration::from_secs(3) + PEER_FIRST);
    let manners: Vec<_> = course.stops.iter().map(|it| it.manner).collect();
    assert_eq!(
        manners,
        [
            Manner { repeatable: true, timeout, hedge_after: Some(Delay::Given(Span::from_secs(1))) },
            Manner::default()
        ]
    );
}

#[test]
fn a_tool_that_says_it_may_be_repeated_is_believed_where_a_policy_does() {
    let tool = |definition: &str| Arc::new(Offered::parse(Listed::Tool, definition.into()).unwrap());
    let tools = [
        tool(r#"{"name":"read","annotations":{"readOnlyHint":true}}"#),
        tool(r#"{"name":"write","annotations":{"destructiveHint":true}}"#),
    ];
    let offer = Offer::new("n/s".parse().unwrap(), Introduction::default(), tools).unwrap();
    let offer = wire::decode(ResourceType::Offer, &wire::encode_offer(&offer)).unwrap();
    let manner = |policy: &str, tool: &str| {
        let server = part("McpServer", "s", "{workload: {labels: {a: b}}}");
        let snapshot =
            compile(&[server, part("ToolPolicy", "p", policy), offer.clone()].into_iter().collect());
        manner(&snapshot, snapshot.server(&"n/s".parse().unwrap()).unwrap(), method::TOOLS_CALL, Some(tool))
    };
    let believing = "{servers: {names: [s]}, trustHints: true, hedgeAfter: 1s}";
    let hedged = Some(Delay::Given(Span::from_secs(1)));
    let expected = Manner { repeatable: true, timeout: None, hedge_after: hedged };
    assert_eq!(manner(believing, "read"), expected);
    for tool in ["write", "nobody-knows"] {
        assert!(!manner(believing, tool).repeatable, "{tool}");
    }
    assert!(!manner("{servers: {names: [s]}, timeout: 3s}", "read").repeatable, "nobody said to believe it");
}
