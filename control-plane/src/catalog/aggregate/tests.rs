use std::time::Duration;

use weft_proto::catalogue::digest;

use super::*;
use crate::catalog::report::Said;

fn server() -> ServerName {
    "research/files".parse().unwrap()
}

fn place(number: u8) -> Place {
    let id = "spiffe://corp.example/ns/research/sa/files".parse().unwrap();
    (id, NodeId::parse(&format!("research/files-{number}")).unwrap())
}

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

fn said(name: &str, description: &str, with_definition: bool) -> Said {
    let definition = format!(r#"{{"name":"{name}","description":"{description}"}}"#);
    let offered = Offered::parse(Listed::Tool, definition.as_str().into()).unwrap();
    Said {
        key: (Listed::Tool, name.into()),
        digest: digest(&definition).unwrap(),
        offered: with_definition.then(|| Arc::new(offered)),
    }
}

fn full(tools: &[(&str, &str)]) -> Something {
    let changed = tools.iter().map(|(name, description)| said(name, description, true)).collect();
    Something { full: true, changed, ..Something::default() }
}

/// What is known of the tool `a` after these reports, each by a sidecar at a second.
#[track_caller]
fn check(reports: &[(u8, u64, &str)], expected: &str) {
    let mut state = Server::default();
    for (number, secs, description) in reports {
        let place = place(*number);
        let told = full(&[("a", description)]);
        state.take(&server(), (&place, 1), told, at(*secs)).unwrap();
        state.settle(at(*secs));
    }
    let known = state.known.unwrap();
    let definition = &known.offer.find(Listed::Tool, "a").unwrap().definition;
    assert!(definition.contains(expected), "{reports:?}: {definition}");
}

#[test]
fn what_most_say_is_known_then_what_was_known_then_what_was_said_first() {
    check(&[(1, 0, "old")], "old");
    check(&[(1, 0, "old"), (2, 1, "new")], "old");
    check(&[(1, 0, "old"), (2, 1, "new"), (3, 2, "new")], "new");
    check(&[(1, 0, "old"), (2, 1, "new"), (3, 2, "new"), (4, 3, "old")], "new");
    check(&[(1, 0, "old"), (2, 1, "new"), (1, 2, "new"), (2, 3, "other")], "new");
}

#[test]
fn a_report_counts_once_all_definitions_are_here_and_none_is_sent_twice() {
    let mut state = Server::default();
    let bare = |description| Something {
        full: true,
        changed: vec![said("a", description, false)],
        ..Something::default()
    };
    let wanted = state.take(&server(), (&place(1), 1), bare("x"), at(0)).unwrap();
    assert_eq!(wanted, [said("a", "x", false).digest]);
    assert_eq!((state.settle(at(0)), state.known.is_none()), (Settled::Same, true));
    let definitions = Something { changed: vec![said("a", "x", true)], ..Something::default() };
    assert_eq!(state.take(&server(), (&place(1), 1), definitions, at(1)), Ok(Vec::new()));
    assert_eq!(state.settle(at(1)), Settled::Offer);
    assert_eq!(state.take(&server(), (&place(2), 2), bare("x"), at(2)), Ok(Vec::new()));
    assert_eq!(state.settle(at(2)), Settled::Same);
    // What nobody tells of any more is known as long as it is what was known last.
    state.leave(&place(1), 1);
    state.leave(&place(2), 2);
    assert_eq!((state.settle(at(3)), state.away_since), (Settled::Presence, Some(at(3))));
    assert_eq!(state.take(&server(), (&place(1), 3), bare("x"), at(4)), Ok(Vec::new()));
    assert_eq!((state.settle(at(4)), state.away_since), (Settled::Presence, None));
    assert_eq!(state.definitions.len(), 1);
}

#[test]
fn changes_are_of_what_the_same_stream_told_before() {
    let mut state = Server::default();
    let change = || Something {
        changed: vec![said("b", "", true)],
        removed: vec![(Listed::Tool, "a".into())],
        ..Something::default()
    };
    let refused = state.take(&server(), (&place(1), 1), change(), at(0));
    assert_eq!(refused, Err(Error::NoBeginning(server())));
    state.take(&server(), (&place(1), 1), full(&[("a", ""), ("c", "")]), at(0)).unwrap();
    state.settle(at(0));
    assert!(state.take(&server(), (&place(1), 2), change(), at(1)).is_err(), "another stream");
    state.take(&server(), (&place(1), 1), change(), at(1)).unwrap();
    assert_eq!(state.settle(at(1)), Settled::Offer);
    let known = state.known.clone().unwrap();
    let since: Vec<_> = known.items.iter().map(|((_, name), since)| (&**name, since.at)).collect();
    assert_eq!(since, [("b", at(1)), ("c", at(0))]);
    // The end of a stream that was replaced takes nothing away.
    state.take(&server(), (&place(1), 2), full(&[("b", ""), ("c", "")]), at(2)).unwrap();
    state.leave(&place(1), 1);
    assert_eq!((state.settle(at(2)), state.replicas.len()), (Settled::Same, 1));
}

#[test]
fn an_item_is_called_what_its_definition_says() {
    let mut state = Server::default();
    state.take(&server(), (&place(1), 1), full(&[("a", "")]), at(0)).unwrap();
    let renamed = Said { key: (Listed::Tool, "b".into()), ..said("a", "", false) };
    let told = Something { full: true, changed: vec![renamed], ..Something::default() };
    assert_eq!(state.take(&server(), (&place(1), 1), told, at(0)), Err(Error::Digest));
}

#[test]
fn what_the_server_says_of_itself_is_no_disagreement_but_news() {
    let mut state = Server::default();
    let told = |instructions: &str| {
        let said = offer::Introduction { instructions: Some(instructions.into()), ..Default::default() };
        Something { introduced: Some(Introduced { said, revisions: Vec::new() }), ..full(&[("a", "")]) }
    };
    state.take(&server(), (&place(1), 1), told("one"), at(0)).unwrap();
    state.settle(at(0));
    state.take(&server(), (&place(2), 2), told("two"), at(1)).unwrap();
    assert_eq!(state.settle(at(1)), Settled::Same);
    state.take(&server(), (&place(1), 1), told("three"), at(2)).unwrap();
    assert_eq!(state.settle(at(2)), Settled::Offer);
    let known = state.known.unwrap();
    assert_eq!(known.offer.introduction.instructions.as_deref(), Some("three"));
    assert_eq!(known.since, at(0));
}
