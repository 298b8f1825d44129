use proptest::prelude::*;

use super::names::NAME_BYTES_MAX;
use super::*;
use crate::offer::Introduction;

fn offer(server: &str, items: &[(Listed, &str)]) -> Offer {
    let item = |(kind, name): &(Listed, &str)| {
        let key = kind.key();
        let definition = serde_json::json!({ key: name, "of": server }).to_string();
        Arc::new(Offered::parse(*kind, definition.into()).unwrap())
    };
    Offer::new(server.parse().unwrap(), Introduction::default(), items.iter().map(item)).unwrap()
}

fn tools(server: &str, names: &[&str]) -> Offer {
    offer(server, &names.iter().map(|name| (Listed::Tool, *name)).collect::<Vec<_>>())
}

fn part(offer: &Offer) -> Part<'_> {
    Part { offer, prefix: offer.server.name.as_str(), tools: None, rename: None }
}

fn roster(parts: &[Part<'_>], prefix: Prefixing) -> Roster {
    Roster::new(parts.iter().copied(), Naming { prefix, separator: "_" }, |_, _| true)
}

/// What is shown, as `name=server/own`.
fn names(roster: &Roster, kind: Listed) -> Vec<String> {
    roster.of(kind).iter().map(|it| format!("{}={}/{}", it.name, it.server, it.own.name)).collect()
}

#[test]
fn with_prefixes_every_name_begins_with_its_server() {
    let (a, b) = (tools("x/a", &["read", "write"]), tools("x/b", &["read"]));
    let roster = roster(&[part(&a), part(&b)], Prefixing::Always);
    assert_eq!(names(&roster, Listed::Tool), ["a_read=x/a/read", "a_write=x/a/write", "b_read=x/b/read"]);
    assert_eq!(roster.find(Listed::Tool, "b_read").unwrap().server.to_string(), "x/b");
    assert!(roster.find(Listed::Tool, "read").is_none());
    assert!(roster.find(Listed::Prompt, "b_read").is_none());
}

#[test]
fn on_conflict_the_first_keeps_its_name_and_the_others_get_a_prefix() {
    let (a, b, c) =
        (tools("x/a", &["read", "c_read"]), tools("x/b", &["read", "only"]), tools("x/c", &["read"]));
    let roster = roster(&[part(&a), part(&b), part(&c)], Prefixing::OnConflict);
    let shown = names(&roster, Listed::Tool);
    assert_eq!(shown[..2], ["b_read=x/b/read", "c_read=x/a/c_read"]);
    assert!(shown[2].starts_with("c_read_") && shown[2].ends_with("=x/c/read"), "{shown:?}");
    assert_eq!(shown[3..], ["only=x/b/only", "read=x/a/read"]);
    assert_eq!(roster.hidden(Listed::Tool), 0);
}

#[test]
fn without_prefixes_the_first_keeps_its_name_and_the_others_are_hidden() {
    let (a, b) = (tools("x/a", &["read"]), tools("x/b", &["read", "only"]));
    let roster = roster(&[part(&a), part(&b)], Prefixing::Never);
    assert_eq!(names(&roster, Listed::Tool), ["only=x/b/only", "read=x/a/read"]);
    assert_eq!(roster.hidden(Listed::Tool), 1);
}

#[test]
fn members_of_one_name_in_two_namespaces_neither_hide_each_other_nor_take_a_name() {
    let (a, b) = (tools("x/a", &["read"]), tools("y/a", &["read"]));
    let roster = roster(&[part(&a), part(&b)], Prefixing::Always);
    let shown = names(&roster, Listed::Tool);
    assert!(shown.iter().all(|it| it.starts_with("a_read_")), "{shown:?}");
    let mut servers: Vec<_> = shown.iter().filter_map(|it| it.split_once('=')).map(|(_, it)| it).collect();
    servers.sort_unstable();
    assert_eq!(servers, ["x/a/read", "y/a/read"]);
}

#[test]
fn nobody_takes_a_name_by_making_up_another_ones_prefix() {
    let (a, b) = (tools("x/a", &["b_read", "write"]), tools("x/a-b", &["read"]));
    let crafted = Part { prefix: "a_b", ..part(&b) };
    for parts in [[part(&a), crafted], [crafted, part(&a)]] {
        let roster = roster(&parts, Prefixing::Always);
        assert!(roster.find(Listed::Tool, "a_b_read").is_none());
        assert_eq!(roster.of(Listed::Tool).len(), 3);
    }
}

#[test]
fn a_member_says_which_of_its_tools_are_shown_and_as_what() {
    let a = offer("x/a", &[(Listed::Tool, "read"), (Listed::Tool, "write"), (Listed::Prompt, "ask")]);
    let patterns: Patterns = serde_json::from_str(r#"["r*"]"#).unwrap();
    let rename = BTreeMap::from([("read".parse().unwrap(), "look".parse().unwrap())]);
    let part = Part { tools: Some(&patterns), rename: Some(&rename), prefix: "my", ..part(&a) };
    let roster = roster(&[part], Prefixing::Always);
    assert_eq!(names(&roster, Listed::Tool), ["look=x/a/read"]);
    assert_eq!(names(&roster, Listed::Prompt), ["my_ask=x/a/ask"]);
}

#[test]
fn names_are_such_as_every_client_takes() {
    let long = "n".repeat(100);
    let a = tools("x/a", &["files.read", "files/read", "größe", &long, &format!("{long}2")]);
    let roster = roster(&[part(&a)], Prefixing::Never);
    for shown in roster.of(Listed::Tool) {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        assert!(
            (1..=NAME_BYTES_MAX).contains(&shown.name.len()) && shown.name.chars().all(is_plain),
            "{shown:?}"
        );
        let mut written = String::new();
        shown.write(&mut written);
        let written: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!(written["name"], *shown.name);
        assert_eq!(written["of"], "x/a");
    }
    assert_eq!(roster.of(Listed::Tool).len(), 4, "one of two that only dots tell apart is hidden");
}

#[test]
fn uris_stay_as_they_are_unless_another_server_has_the_same() {
    let resources = [(Listed::Resource, "file:///a"), (Listed::ResourceTemplate, "file:///{path}")];
    let (a, b) = (offer("x/a", &resources), offer("x/b", &resources));
    let roster = roster(&[part(&a), part(&b)], Prefixing::Always);
    assert_eq!(
        names(&roster, Listed::Resource),
        ["file:///a=x/a/file:///a", "weft://x/b/file:///a=x/b/file:///a"]
    );
    assert_eq!(
        names(&roster, Listed::ResourceTemplate),
        ["file:///{path}=x/a/file:///{path}", "weft://x/b/file:///{path}=x/b/file:///{path}"]
    );
    let check = |uri: &str, expected: &str| {
        let lead = roster.resource(uri).map(|(server, own)| format!("{server} {own}"));
        assert_eq!(lead.unwrap_or_default(), expected, "{uri}");
    };
    check("file:///a", "x/a file:///a");
    check("weft://x/b/file:///a", "x/b file:///a");
    check("file:///other", "x/a file:///other");
    check("weft://x/b/file:///other", "x/b file:///other");
    check("weft://x/c/file:///other", "");
    check("http://elsewhere", "");
    check("", "");
    let server = |name: &str| name.parse::<ServerName>().unwrap();
    assert_eq!(roster.uri_shown(&server("x/a"), "file:///a"), None);
    assert_eq!(roster.uri_shown(&server("x/b"), "file:///a").as_deref(), Some("weft://x/b/file:///a"));
}

#[test]
fn of_templates_that_fit_the_one_that_says_most_leads_and_one_without_a_scheme_leads_nowhere() {
    let a = offer("x/a", &[(Listed::ResourceTemplate, "{+x}"), (Listed::ResourceTemplate, "notes://{a}")]);
    let b = offer("x/b", &[(Listed::ResourceTemplate, "notes://b/{n}"), (Listed::Resource, "ui://b")]);
    let c = offer("x/c", &[(Listed::ResourceTemplate, "notes://{z}")]);
    let roster = roster(&[part(&c), part(&a), part(&b)], Prefixing::Always);
    let server = |uri: &str| roster.resource(uri).map(|(server, _)| server.to_string()).unwrap_or_default();
    assert_eq!(server("notes://b/1"), "x/b");
    assert_eq!(server("notes://1"), "x/c", "of equals the first member");
    assert_eq!(server("notes://{a}"), "x/a", "as it is written, a template is its server's");
    assert_eq!(server("ui://other"), "x/b");
}

#[test]
fn a_uri_that_was_never_listed_leads_to_the_only_server_with_its_scheme() {
    let a = offer("x/a", &[(Listed::Resource, "notes://1"), (Listed::Resource, "http://a/1")]);
    let b = offer("x/b", &[(Listed::Resource, "ui://panel"), (Listed::Resource, "http://b/1")]);
    let roster = roster(&[part(&a), part(&b)], Prefixing::Always);
    let server = |uri: &str| roster.resource(uri).map(|(server, _)| server.to_string()).unwrap_or_default();
    assert_eq!(server("notes://2"), "x/a");
    assert_eq!(server("ui://other"), "x/b");
    assert_eq!(server("http://a/2"), "");
}

#[test]
fn a_servers_own_uris_are_never_taken_for_ours() {
    let a = offer("x/a", &[(Listed::Resource, "weft://x/b/secret")]);
    let b = offer("x/b", &[(Listed::Resource, "secret:1")]);
    let roster = roster(&[part(&a), part(&b)], Prefixing::Always);
    assert_eq!(names(&roster, Listed::Resource)[1], "weft://x/a/weft://x/b/secret=x/a/weft://x/b/secret");
    let (server, own) = roster.resource("weft://x/a/weft://x/b/secret").unwrap();
    assert_eq!((server.to_string().as_str(), own), ("x/a", "weft://x/b/secret"));
    assert_eq!(roster.resource("weft://x/b/secret").unwrap().0.to_string(), "x/b");
}

#[test]
fn resources_are_shown_or_not_by_their_own_uris() {
    let resources = [(Listed::Resource, "file:///a"), (Listed::Resource, "file:///b")];
    let (a, b) = (offer("x/a", &resources), offer("x/b", &resources));
    let roster = Roster::new([part(&a), part(&b)], Naming::default(), |_, uri| uri == "file:///a");
    assert_eq!(
        names(&roster, Listed::Resource),
        ["file:///a=x/a/file:///a", "weft://x/b/file:///a=x/b/file:///a"]
    );
    assert_eq!(own_uri("weft://x/b/file:///a"), "file:///a");
    assert_eq!(own_uri("file:///a"), "file:///a");
}

#[test]
fn what_may_not_be_shown_keeps_its_name() {
    let (a, b) = (tools("x/a", &["read"]), tools("x/b", &["read"]));
    let naming = Naming { prefix: Prefixing::Never, separator: "_" };
    let roster = Roster::new([part(&a), part(&b)], naming, |_, name| name != "read");
    assert_eq!(names(&roster, Listed::Tool), [""; 0]);
}

fn paged(roster: &Roster, limits: PageLimits) -> Vec<usize> {
    let (mut pages, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = roster.page(Listed::Tool, after.as_deref(), limits, |_| true);
        pages.push(page.shown.len());
        match page.next {
            Some(next) => after = Some(next.to_owned()),
            None => return pages,
        }
    }
}

#[test]
fn pages_are_bounded_by_items_and_bytes_and_none_is_empty_but_the_only_one() {
    let a = tools("x/a", &["a", "b", "c", "d", "e"]);
    let roster = roster(&[part(&a)], Prefixing::Never);
    assert_eq!(paged(&roster, PageLimits { items_max: 2, bytes_max: 1 << 20 }), [2, 2, 1]);
    assert_eq!(paged(&roster, PageLimits { items_max: 5, bytes_max: 1 << 20 }), [5]);
    assert_eq!(paged(&roster, PageLimits { items_max: 5, bytes_max: 1 }), [1, 1, 1, 1, 1]);
    assert_eq!(paged(&Roster::default(), PageLimits { items_max: 5, bytes_max: 1 }), [0]);
}

proptest! {
    #[test]
    fn every_name_that_is_shown_leads_back_to_what_it_stands_for(
        servers in proptest::collection::btree_map(
            "[ab]/[a-c]",
            proptest::collection::btree_set("[a-c._]{1,3}|c{70,72}", 0..6),
            1..5,
        ),
        prefix in prop_oneof![Just(Prefixing::Always), Just(Prefixing::OnConflict), Just(Prefixing::Never)],
    ) {
        let offers: Vec<_> = servers
            .iter()
            .map(|(server, names)| tools(server, &names.iter().map(String::as_str).collect::<Vec<_>>()))
            .collect();
        let parts: Vec<_> = offers.iter().map(part).collect();
        let roster = roster(&parts, prefix);
        let shown = roster.of(Listed::Tool);
        prop_assert!(shown.windows(2).all(|pair| pair[0].name < pair[1].name), "each name once, in order");
        for it in shown {
            prop_assert_eq!(roster.find(Listed::Tool, &it.name), Some(it));
        }
        let all: usize = servers.values().map(|names| names.len()).sum();
        prop_assert_eq!(shown.len() + roster.hidden(Listed::Tool), all);
        if prefix != Prefixing::Never {
            prop_assert_eq!(roster.hidden(Listed::Tool), 0);
        }
    }

    #[test]
    fn a_uri_within_one_of_ours_is_read_again(own in "\\PC{0,20}") {
        let server: ServerName = "x/a".parse().unwrap();
        let wrapped = uris::wrapped(&server, &own);
        prop_assert_eq!(uris::unwrapped(&wrapped), Some((server, &*own)));
    }
}
