use std::time::Duration;

use super::*;

const AT: SystemTime = SystemTime::UNIX_EPOCH;

fn last(outcome: Outcome, reason: &'static str, why: &str) -> Last {
    Last {
        at: AT,
        server: Some("demo/a".into()),
        outcome,
        reason,
        what: "tools/call greet".to_owned(),
        why: why.to_owned(),
    }
}

fn row(name: &str, state: State) -> Row {
    Row {
        name: name.to_owned(),
        speaks: "stdio, 2026-07-28".to_owned(),
        state,
        counts: Counts::default(),
        in_flight: Some(0),
    }
}

fn told(teller: &mut Teller, rows: &[Row]) -> Vec<String> {
    teller.news(rows, |name| format!("http://agent/{name}"))
}

#[test]
fn a_table_says_how_each_server_stands_and_what_became_of_the_last_calls() {
    let mut good = row("demo/a", State::Ready);
    good.counts = Counts {
        calls: 2,
        refused: 1,
        last_refused: Some(last(Outcome::Refused, "denied", "by demo/p#1")),
        ..Counts::default()
    };
    let bad = Row { in_flight: None, ..row("demo/b", State::Failing("it exited\nwith 1".to_owned())) };
    let calls = [last(Outcome::Answered, "ok", ""), last(Outcome::Refused, "denied", "by demo/p#1")];
    let expected = "\
SERVER  SPEAKS             STATE                       CALLS  REFUSED  ERRORS  IN FLIGHT  LAST REFUSAL
demo/a  stdio, 2026-07-28  ready                       2      1        0       0          3s ago: denied, tools/call greet
demo/b  stdio, 2026-07-28  failing: it exited with 1  0      0        0       -          -

LAST CALLS  SERVER  OUTCOME  CALL              WHY
3s ago      demo/a  ok       tools/call greet  -
3s ago      demo/a  refused  tools/call greet  denied: by demo/p#1
";
    let shown = table(&[good, bad], &calls, AT + Duration::from_secs(3), false);
    let squeezed = |text: &str| {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(squeezed(&shown), squeezed(expected), "{shown}");
}

#[test]
fn a_mesh_without_servers_says_how_to_get_one() {
    assert!(table(&[], &[], AT, false).contains("weft apply"));
}

#[test]
fn changes_of_state_are_told_once_and_in_one_line() {
    let mut teller = Teller::default();
    let steps = [
        (State::Starting, vec!["demo/a: starting"]),
        (State::Starting, vec![]),
        (State::Ready, vec!["demo/a: ready (stdio, 2026-07-28) http://agent/demo/a"]),
        (State::Failing("one\ntwo".to_owned()), vec!["demo/a: failing: one two"]),
        (State::LeftOut("no room".to_owned()), vec!["demo/a: not here: no room"]),
    ];
    for (state, expected) in steps {
        assert_eq!(told(&mut teller, &[row("demo/a", state)]), expected);
    }
    assert_eq!(told(&mut teller, &[]), ["demo/a: gone"]);
    assert!(told(&mut teller, &[]).is_empty());
}

#[test]
fn calls_that_were_not_served_are_told_with_the_last_reason_and_their_number() {
    let mut teller = Teller::default();
    let mut now = row("demo/a", State::Ready);
    now.counts.refused = 7;
    assert_eq!(told(&mut teller, &[now.clone()]).len(), 1, "what was before is not news");
    now.counts = Counts {
        refused: 10,
        failed: 1,
        last_refused: Some(last(Outcome::Refused, "denied", "by demo/p#1")),
        last_failed: Some(last(Outcome::Failed, "timed_out", "too late")),
        ..Counts::default()
    };
    assert_eq!(
        told(&mut teller, &[now.clone()]),
        [
            "demo/a: refused tools/call greet: denied: by demo/p#1 (and 2 more)",
            "demo/a: failed tools/call greet: timed_out: too late",
        ]
    );
    assert!(told(&mut teller, &[now]).is_empty());
}

#[test]
fn whoever_fails_is_failing_until_it_is_ready() {
    let name = "demo/a".parse().unwrap();
    let seen = Seen { servers: [(name, Standing::Starting)].into(), ..Seen::default() };
    let before = [row("demo/a", State::Failing("no".to_owned()))];
    let state = |before: &[Row]| rows(&seen, &Tally::default(), before)[0].state.clone();
    assert_eq!(state(&before), State::Failing("no".to_owned()));
    assert_eq!(state(&[]), State::Starting);
}
