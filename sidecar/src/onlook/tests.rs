use std::time::{Duration, SystemTime};

use weft_proto::pb::weft::ask::v1 as pb;
use weft_proto::spread::Spread;

use super::*;
use crate::metrics::method_index;

fn event(server: &str, target: &str, reason: &'static str) -> Event {
    Event {
        at: SystemTime::UNIX_EPOCH,
        listener: "inbound",
        caller: "spiffe://corp.example/ns/agents/sa/bot".into(),
        server: server.into(),
        http_method: http::Method::POST,
        method: method_index("tools/call"),
        target: Some(target.into()),
        rpc_id: None,
        era: "modern",
        status: 200,
        reason,
        detail: Some("what only the log may say".to_owned()),
        decided: Default::default(),
        limit: None,
        shadow_limit: None,
        tools: None,
        request_bytes: 7,
        response_bytes: 9,
        duration: Duration::from_micros(100),
        listens: false,
    }
}

#[test]
fn a_call_is_told_to_those_who_look_on_and_to_nobody_after() {
    let onlookers = Onlookers::default();
    let (tap, mut calls) = Tap::new(pb::Tap::default()).unwrap();
    onlookers.ended(&event("a/s", "before", "ok"));
    let looking = onlookers.add(tap).unwrap();
    onlookers.ended(&event("a/s", "while", "ok"));
    drop(looking);
    onlookers.ended(&event("a/s", "after", "ok"));
    assert_eq!(calls.try_recv().unwrap().target, "while");
    calls.try_recv().unwrap_err();
}

#[test]
fn no_more_look_on_than_may() {
    let onlookers = Onlookers::default();
    let tally = || Tally::new(&pb::Tally::default()).unwrap();
    let mut all: Vec<_> = (0..ONLOOKERS_MAX).map(|_| onlookers.add(tally()).unwrap()).collect();
    assert!(onlookers.add(tally()).is_none());
    all.pop();
    assert!(onlookers.add(tally()).is_some());
}

#[test]
fn a_call_is_counted_once_and_handshakes_only_where_they_went_wrong() {
    let check = |listener: &'static str, method: &str, reason: &'static str, expected: bool| {
        let event = Event { listener, method: method_index(method), ..event("a/s", "t", reason) };
        assert_eq!(is_counted(&event), expected, "{listener} {method} {reason}");
    };
    check("inbound", "tools/call", "ok", true);
    check("outbound", "tools/call", "ok", false);
    check("outbound", "tools/call", "server_error", false);
    check("outbound", "tools/call", "no_instance", true);
    check("inbound", "initialize", "ok", false);
    check("inbound", "initialize", "denied", true);
    check("inbound", "notifications/progress", "caller_left", false);
}

#[test]
fn a_tap_passes_on_what_matches_everything_that_is_asked_for() {
    let check = |wanted: pb::Tap, expected: &[&str]| {
        let onlookers = Onlookers::default();
        let (tap, mut calls) = Tap::new(wanted.clone()).unwrap();
        let _looking = onlookers.add(tap).unwrap();
        onlookers.ended(&event("research/files", "read", "ok"));
        onlookers.ended(&event("research/files", "write", "denied"));
        onlookers.ended(&event("payments/ledger", "read", "timed_out"));
        onlookers.ended(&event("", "x", "limited"));
        let mut told = Vec::new();
        while let Ok(call) = calls.try_recv() {
            told.push(format!("{} {} {}", call.server, call.target, call.outcome));
        }
        assert_eq!(told, expected, "{wanted:?}");
    };
    let texts = |texts: &[&str]| texts.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
    let (first, second) = ("research/files read ok", "research/files write refused");
    let (third, fourth) = ("payments/ledger read failed", " x refused");
    check(pb::Tap::default(), &[first, second, third, fourth]);
    check(pb::Tap { servers: texts(&["research/*"]), ..Default::default() }, &[first, second]);
    check(pb::Tap { targets: texts(&["read"]), ..Default::default() }, &[first, third]);
    check(pb::Tap { outcomes: texts(&["refused"]), ..Default::default() }, &[second, fourth]);
    check(pb::Tap { outcomes: texts(&["denied", "failed"]), ..Default::default() }, &[second, third]);
    check(
        pb::Tap { callers: texts(&["*/sa/bot"]), targets: texts(&["w*"]), ..Default::default() },
        &[second],
    );
    check(pb::Tap { callers: texts(&["*/sa/other"]), ..Default::default() }, &[]);
}

#[test]
fn what_a_tap_has_no_room_for_is_counted_and_holds_nobody_up() {
    let onlookers = Onlookers::default();
    let (tap, mut calls) = Tap::new(pb::Tap::default()).unwrap();
    let _looking = onlookers.add(Arc::<Tap>::clone(&tap)).unwrap();
    (0..3000).for_each(|_| onlookers.ended(&event("a/s", "t", "ok")));
    let mut told = 0;
    while calls.try_recv().is_ok() {
        told += 1;
    }
    let lost = tap.take_lost();
    assert!(lost > 0, "the queue is bounded");
    assert_eq!(told + lost, 3000);
    assert_eq!(tap.take_lost(), 0);
}

#[test]
fn texts_of_a_callers_choice_are_clipped_and_what_only_the_log_may_say_is_not_told() {
    let onlookers = Onlookers::default();
    let (tap, mut calls) = Tap::new(pb::Tap::default()).unwrap();
    let _looking = onlookers.add(tap).unwrap();
    onlookers.ended(&event("a/s", &"é".repeat(1000), "denied"));
    let call = calls.try_recv().unwrap();
    assert_eq!(call.target.len(), 256);
    assert!(!format!("{call:?}").contains("what only the log may say"));
}

#[test]
fn a_tally_counts_every_call_in_the_row_that_it_belongs_to() {
    let count = |wanted: pb::Tally| {
        let onlookers = Onlookers::default();
        let tally = Tally::new(&wanted).unwrap();
        let looking = onlookers.add(Arc::<Tally>::clone(&tally)).unwrap();
        for (target, reason) in
            [("read", "ok"), ("read", "denied"), ("write", "timed_out"), ("write", "caller_left")]
        {
            onlookers.ended(&event("a/s", target, reason));
        }
        onlookers.ended(&event("b/t", "read", "ok"));
        drop(looking);
        tally.take()
    };
    let short = |rows: &[pb::Row]| {
        let short = |it: &pb::Row| {
            format!("{} {} {}/{}/{}/{}", it.server, it.target, it.calls, it.refused, it.failed, it.left)
        };
        rows.iter().map(short).collect::<Vec<_>>()
    };
    let (rows, crowded) = count(pb::Tally::default());
    assert_eq!(short(&rows), ["a/s  4/1/1/1", "b/t  1/0/0/0"]);
    assert_eq!(crowded, 0);
    let took = Spread::read(&rows[0].places, &rows[0].counts).unwrap();
    assert_eq!(took.total(), 4);
    assert!(took.percentile(50).unwrap().abs_diff(100) <= 100 / 16);
    let (rows, _) =
        count(pb::Tally { by_target: true, servers: vec!["a/*".to_owned()], ..Default::default() });
    assert_eq!(short(&rows), ["a/s read 2/1/0/0", "a/s write 2/0/1/1"]);
    let (rows, _) = count(pb::Tally { by_caller: true, ..Default::default() });
    assert_eq!(rows[0].caller, "spiffe://corp.example/ns/agents/sa/bot");
}

#[test]
fn callers_who_name_ever_more_targets_fill_no_memory_and_no_call_is_left_out() {
    let onlookers = Onlookers::default();
    let tally = Tally::new(&pb::Tally { by_target: true, ..Default::default() }).unwrap();
    let _looking = onlookers.add(Arc::<Tally>::clone(&tally)).unwrap();
    (0..5000).for_each(|n| onlookers.ended(&event("a/s", &format!("t{n}"), "ok")));
    let (rows, crowded) = tally.take();
    assert_eq!((rows.len(), crowded), (1001, 4000));
    assert_eq!(rows.iter().map(|row| row.calls).sum::<u64>(), 5000);
}

#[test]
fn a_question_with_too_many_or_broken_patterns_is_none() {
    assert!(Tap::new(pb::Tap { servers: vec!["a**b".to_owned()], ..Default::default() }).is_err());
    assert!(Tap::new(pb::Tap { outcomes: vec!["ok".to_owned(); 17], ..Default::default() }).is_err());
    assert!(Tally::new(&pb::Tally { servers: vec!["a".to_owned(); 17], ..Default::default() }).is_err());
}
