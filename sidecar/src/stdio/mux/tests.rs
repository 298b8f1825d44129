use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use weft_proto::mcp::{Body, Bounds, Message};

use super::*;

const BOUNDS: Bounds = Bounds { depth_max: 16, batch_max: 8 };

fn asker(name: &str) -> Asker {
    let (caller, session) = name.split_once('/').map_or((name, None), |(caller, it)| (caller, Some(it)));
    Asker { caller: caller.into(), session: session.map(Into::into), ..Asker::nobody() }
}

fn parsed(message: &[u8]) -> Message<'_> {
    match mcp::parse(message, BOUNDS) {
        Ok(Body::One(message)) => message,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(message)),
    }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// A mux and what came out of it.
struct Bench {
    mux: Mux,
}

impl Bench {
    fn new() -> Self {
        Self { mux: Mux::new(100) }
    }

    fn try_ask(&mut self, who: &str, message: &Value) -> Result<Asked, Refusal> {
        let bytes = message.to_string();
        let Message::Request(request) = parsed(bytes.as_bytes()) else { panic!("no request") };
        self.mux.ask(&asker(who), bytes.as_bytes(), &request)
    }

    /// Asks; returns the call and what the server gets to see.
    fn ask(&mut self, who: &str, id: impl Into<Value>, method: &str, params: &Value) -> (u64, Value) {
        let message = json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params});
        match self.try_ask(who, &message) {
            Ok(Asked::Forward { call, line }) => {
                assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
                (call, json(&line))
            }
            other => panic!("{other:?}"),
        }
    }

    fn call(&mut self, who: &str) -> u64 {
        self.ask(who, 1, "tools/call", &json!({"name": "t"})).0
    }

    fn hear(&mut self, said: &Value) -> Vec<Effect> {
        self.hear_bytes(said.to_string().as_bytes())
    }

    fn hear_bytes(&mut self, said: &[u8]) -> Vec<Effect> {
        let mut effects = Vec::new();
        read(said, BOUNDS).into_iter().for_each(|heard| self.mux.hear(heard, &mut effects));
        effects
    }

    /// What the server is told of a request of its own.
    fn refused(&mut self, request: &Value) -> Value {
        match &self.hear(request)[..] {
            [Effect::Write(line)] => json(line),
            other => panic!("{other:?}"),
        }
    }

    fn notify(&mut self, who: &str, message: &Value) -> Option<Value> {
        let bytes = message.to_string();
        let Message::Notification(note) = parsed(bytes.as_bytes()) else { panic!("no notification") };
        self.mux.notify(&asker(who), bytes.as_bytes(), &note).map(|line| json(&line))
    }

    fn answer(&mut self, who: &str, message: &Value) -> Result<Value, Refusal> {
        let bytes = message.to_string();
        let Message::Response(response) = parsed(bytes.as_bytes()) else { panic!("no response") };
        self.mux.answer(&asker(who), bytes.as_bytes(), &response).map(|line| json(&line))
    }
}

fn response(call: u64, id: &str) -> Vec<Effect> {
    let response = format!(r#"{{"id":{id},"jsonrpc":"2.0","result":{{}}}}"#);
    vec![Effect::Say(call, Said::Response(response.into()))]
}

fn answer_to(call: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": call, "result": {}})
}

#[test]
fn answers_come_back_under_the_askers_own_ids() {
    let mut bench = Bench::new();
    let (first, seen) = bench.ask("a", 7, "tools/list", &json!({}));
    assert_eq!(seen["id"], 1);
    let (second, seen) = bench.ask("b", "7", "tools/list", &json!({}));
    assert_eq!(seen["id"], 2);
    assert_eq!(bench.hear(&answer_to(second)), response(second, r#""7""#));
    assert_eq!(bench.hear(&answer_to(first)), response(first, "7"));
    assert_eq!(bench.mux.in_flight(), 0);
}

#[test]
fn every_other_byte_stays() {
    let mut bench = Bench::new();
    let message = b"{ \"id\" : \"\\u0041\",\n \"params\":{\"_meta\":{\"x\":1.50, \"progressToken\":\"t\"},\r\n\"name\":\"n\\n\"},\"method\":\"tools/call\",\"jsonrpc\":\"2.0\"}";
    let Message::Request(request) = parsed(message) else { panic!("no request") };
    let Ok(Asked::Forward { line, .. }) = bench.mux.ask(&asker("a"), message, &request) else {
        panic!("refused")
    };
    let expected = b"{ \"id\" : 1,  \"params\":{\"_meta\":{\"x\":1.50, \"progressToken\":1},  \"name\":\"n\\n\"},\"method\":\"tools/call\",\"jsonrpc\":\"2.0\"}\n";
    assert_eq!(line, expected[..], "line breaks would end the message, so blanks stand for them");
    let said = b"{ \"result\":{\"n\":1e3 ,\"id\":1},\"id\" : 1 ,\"jsonrpc\":\"2.0\"}";
    let expected = b"{ \"result\":{\"n\":1e3 ,\"id\":1},\"id\" : \"\\u0041\" ,\"jsonrpc\":\"2.0\"}";
    assert_eq!(bench.hear_bytes(said), [Effect::Say(1, Said::Response(Bytes::from_static(expected)))]);
}

#[test]
fn progress_comes_back_under_the_askers_own_token() {
    let mut bench = Bench::new();
    let progress = |token: u64| json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}});
    let with = |token: Value| json!({"name": "t", "_meta": {"progressToken": token}});
    let (first, seen) = bench.ask("a", 1, "tools/call", &with(json!("x")));
    let (second, other) = bench.ask("b", 1, "tools/call", &with(json!(3)));
    assert_ne!(seen["params"]["_meta"]["progressToken"], other["params"]["_meta"]["progressToken"]);
    let plain = bench.call("c");
    let token_of = |effects: &[Effect], call: u64| match effects {
        [Effect::Say(it, Said::Note(note))] if *it == call => json(note)["params"]["progressToken"].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(token_of(&bench.hear(&progress(first)), first), "x");
    assert_eq!(token_of(&bench.hear(&progress(second)), second), 3);
    assert_eq!(bench.hear(&progress(plain)), [], "it asked for none");
    assert_eq!(bench.hear(&progress(99)), []);
    bench.hear(&answer_to(first));
    assert_eq!(bench.hear(&progress(first)), [], "it is over");
    assert_eq!(bench.mux.counts().strays, 3);
}

#[test]
fn answers_that_nobody_waits_for_are_counted_and_dropped() {
    let mut bench = Bench::new();
    let call = bench.call("a");
    assert_eq!(bench.hear(&answer_to(call)).len(), 1);
    assert_eq!(bench.hear(&answer_to(call)), [], "twice");
    assert_eq!(bench.hear(&answer_to(99)), [], "unknown");
    assert_eq!(bench.hear(&json!({"jsonrpc": "2.0", "id": "1", "result": {}})), [], "another type");
    assert_eq!(
        bench.hear(&json!({"jsonrpc": "2.0", "error": {"code": 1, "message": "m"}})),
        [],
        "without an id"
    );
    let call = bench.call("a");
    assert_eq!(bench.mux.cancel(call).len(), 1);
    assert_eq!(bench.hear(&answer_to(call)), [], "cancelled");
    assert_eq!(bench.mux.counts().strays, 5);
}

#[test]
fn an_answer_that_cannot_be_read_ends_its_call() {
    for bad in [json!({"id": 1, "result": {}}), json!({"jsonrpc": "2.0", "id": 1, "result": 3})] {
        let mut bench = Bench::new();
        bench.call("a");
        assert!(matches!(bench.hear(&bad)[..], [Effect::Refuse(1, Refusal::UpstreamBroke(_))]), "{bad}");
        assert_eq!(bench.mux.in_flight(), 0);
    }
}

#[test]
fn garbage_is_counted_and_does_no_harm() {
    let mut bench = Bench::new();
    let call = bench.call("a");
    for garbage in
        ["Listening on stdio", "{", "null", "3", "[]", "[1]", "\u{0}", "{\"id\":\"1\"}", "{\"method\":\"x\"}"]
    {
        assert_eq!(bench.hear_bytes(garbage.as_bytes()), [], "{garbage}");
    }
    assert_eq!(bench.hear_bytes(b"\xff{\"jsonrpc\":\"2.0\"}"), []);
    assert_eq!(bench.mux.counts().garbage, 9, "an empty batch is nothing");
    assert_eq!(bench.hear(&answer_to(call)).len(), 1);
}

#[test]
fn batches_are_taken_apart() {
    let mut bench = Bench::new();
    let calls = ["a", "b"].map(|who| bench.call(who));
    let heard = bench.hear(&json!([answer_to(calls[1]), 3, answer_to(calls[0])]));
    assert!(matches!(heard[..], [Effect::Say(2, _), Effect::Say(1, _)]), "{heard:?}");
    assert_eq!(bench.mux.counts().garbage, 1);
}

#[test]
fn a_cancellation_names_our_id_and_comes_once() {
    let mut bench = Bench::new();
    bench.call("b");
    let call = bench.call("a");
    let lines: Vec<Value> = bench.mux.cancel(call).iter().map(|line| json(line)).collect();
    assert!(
        matches!(&lines[..], [line] if line["method"] == "notifications/cancelled" && line["params"]["requestId"] == 2)
    );
    assert!(bench.mux.cancel(call).is_empty());
    let (own, _) = bench.mux.own("initialize", "{}");
    assert!(bench.mux.cancel(own).is_empty(), "the handshake is never cancelled");
}

#[test]
fn hands_are_shaken_only_by_us() {
    let mut bench = Bench::new();
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}}});
    assert!(matches!(bench.try_ask("a", &hello), Err(Refusal::Invalid(_))));
    assert_eq!(bench.notify("a", &json!({"jsonrpc": "2.0", "method": "notifications/initialized"})), None);
}

#[test]
fn a_ping_is_answered_at_once() {
    let mut bench = Bench::new();
    bench.call("a");
    let pong = bench.refused(&json!({"jsonrpc": "2.0", "id": "p", "method": "ping"}));
    assert_eq!(pong, json!({"jsonrpc": "2.0", "id": "p", "result": {}}));
}

fn sampling(id: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "sampling/createMessage", "params": {"messages": []}})
}

fn asked(effects: &[Effect]) -> (u64, Value) {
    match effects {
        [Effect::Say(call, Said::Request(request))] => (*call, json(request)["id"].clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_server_asks_goes_to_the_only_one_it_can_be_for() {
    let mut bench = Bench::new();
    let refused = bench.refused(&sampling("s"));
    assert_eq!(
        (&refused["id"], &refused["error"]["code"]),
        (&json!("s"), &json!(-32603)),
        "nobody asked anything"
    );
    // Only one asks for anything; their latest call is meant.
    bench.call("a");
    let second = bench.call("a");
    let (call, id) = asked(&bench.hear(&sampling("s")));
    assert_eq!(call, second);
    let answer = json!({"jsonrpc": "2.0", "id": id, "result": {"x": 1}});
    assert!(bench.answer("b", &answer).is_err(), "it is not theirs");
    assert_eq!(bench.answer("a", &answer).unwrap(), json!({"jsonrpc": "2.0", "id": "s", "result": {"x": 1}}));
    assert!(bench.answer("a", &answer).is_err(), "once is enough");
    // Another one who only looks is not meant.
    bench.ask("b", 1, "tools/list", &json!({}));
    assert_eq!(asked(&bench.hear(&sampling(8))).0, second);
    // Another one for whom work is done may be.
    bench.call("b");
    assert_eq!(bench.refused(&sampling(9))["error"]["message"], "which caller is meant cannot be told");
    // Two sessions of one caller are two.
    let mut bench = Bench::new();
    bench.call("a/1");
    bench.call("a/2");
    bench.refused(&sampling(1));
    assert_eq!(bench.mux.counts().unplaced, 1);
}

#[test]
fn a_server_whose_question_nobody_will_answer_is_told() {
    let mut bench = Bench::new();
    let call = bench.call("a");
    asked(&bench.hear(&sampling("s")));
    let lines: Vec<Value> = bench.mux.cancel(call).iter().map(|line| json(line)).collect();
    assert!(
        matches!(&lines[..], [_, error] if error["id"] == "s" && error["error"]["message"] == "the caller is gone")
    );
    bench.call("a");
    asked(&bench.hear(&sampling("t")));
    assert_eq!(bench.mux.end(&asker("a")).len(), 1);
    assert!(bench.mux.end(&asker("a")).is_empty());
}

#[test]
fn a_question_that_the_server_takes_back_is_taken_back_from_who_was_asked() {
    let mut bench = Bench::new();
    let call = bench.call("a");
    let (_, id) = asked(&bench.hear(&sampling("s")));
    let cancelled = |id: &Value| json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    match &bench.hear(&cancelled(&json!("s")))[..] {
        [Effect::Say(it, Said::Note(note))] if *it == call => assert_eq!(json(note), cancelled(&id)),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.hear(&cancelled(&json!("s"))), []);
}

#[test]
fn a_log_message_is_seen_by_one_caller_only() {
    let mut bench = Bench::new();
    let log = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}});
    let aside = || Aside::Note(log.to_string().into());
    assert_eq!(bench.hear(&log), [Effect::Aside(Audience::OneCaller, aside())]);
    let call = bench.call("a/1");
    assert_eq!(bench.hear(&log), [Effect::Say(call, Said::Note(log.to_string().into()))]);
    bench.call("a/2");
    match &bench.hear(&log)[..] {
        [Effect::Aside(Audience::Askers(askers), it)] if askers.len() == 2 => assert_eq!(*it, aside()),
        other => panic!("{other:?}"),
    }
    bench.call("b");
    assert_eq!(bench.hear(&log), []);
    assert_eq!(bench.mux.counts().unplaced, 1);
}

#[test]
fn a_changed_list_is_told_to_everyone() {
    let mut bench = Bench::new();
    for what in ["tools", "prompts", "resources"] {
        let changed = json!({"jsonrpc": "2.0", "method": format!("notifications/{what}/list_changed")});
        let aside = Aside::Note(changed.to_string().into());
        assert_eq!(bench.hear(&changed), [Effect::Aside(Audience::Everyone, aside)]);
    }
}

fn about(method: &str, uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 5, "method": format!("resources/{method}"), "params": {"uri": uri}})
}

fn told_of(bench: &mut Bench, uri: &str) -> Vec<Asker> {
    let updated =
        json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}});
    match &bench.hear(&updated)[..] {
        [] => Vec::new(),
        [Effect::Aside(Audience::Askers(askers), _)] => askers.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_changed_resource_is_told_to_who_asked_for_it() {
    let mut bench = Bench::new();
    let (first, _) = bench.ask("a", 5, "resources/subscribe", &json!({"uri": "f://x"}));
    assert_eq!(told_of(&mut bench, "f://x"), [asker("a")]);
    assert!(
        matches!(bench.try_ask("b", &about("subscribe", "f://x")), Ok(Asked::Forward { .. })),
        "no yes yet"
    );
    bench.hear(&answer_to(first));
    let third = bench.try_ask("c", &about("subscribe", "f://x"));
    assert!(
        matches!(third, Ok(Asked::Answered(answer)) if json(&answer) == json!({"jsonrpc": "2.0", "id": 5, "result": {}}))
    );
    assert_eq!(told_of(&mut bench, "f://x"), ["a", "b", "c"].map(asker));
    assert_eq!(told_of(&mut bench, "f://x/part").len(), 3);
    assert_eq!(told_of(&mut bench, "f://xy").len(), 0);
    for who in ["a", "c"] {
        assert!(matches!(bench.try_ask(who, &about("unsubscribe", "f://x")), Ok(Asked::Answered(_))));
    }
    assert_eq!(told_of(&mut bench, "f://x"), [asker("b")]);
    assert!(
        matches!(bench.try_ask("b", &about("unsubscribe", "f://x")), Ok(Asked::Forward { .. })),
        "the last"
    );
    assert!(told_of(&mut bench, "f://x").is_empty());
}

#[test]
fn a_subscription_that_the_server_refuses_is_none() {
    let mut bench = Bench::new();
    let (call, _) = bench.ask("a", 5, "resources/subscribe", &json!({"uri": "f://x"}));
    bench.hear(&json!({"jsonrpc": "2.0", "id": call, "error": {"code": -32602, "message": "no"}}));
    assert!(told_of(&mut bench, "f://x").is_empty());
}

#[test]
fn subscriptions_outlive_the_server_and_end_with_who_asked() {
    let mut bench = Bench::new();
    let (call, _) = bench.ask("a", 5, "resources/subscribe", &json!({"uri": "f://\"x"}));
    bench.hear(&answer_to(call));
    let lost = bench.call("a");
    assert_eq!(bench.mux.lost(), [lost]);
    let again: Vec<Value> = bench.mux.resume().iter().map(|line| json(line)).collect();
    assert!(
        matches!(&again[..], [line] if line["method"] == "resources/subscribe" && line["params"]["uri"] == "f://\"x")
    );
    assert_eq!(told_of(&mut bench, "f://\"x"), [asker("a")]);
    let ended: Vec<Value> = bench.mux.end(&asker("a")).iter().map(|line| json(line)).collect();
    assert!(matches!(&ended[..], [line] if line["method"] == "resources/unsubscribe"));
    assert!(bench.mux.resume().is_empty());
}

#[test]
fn what_a_listener_hears_carries_the_listeners_own_id() {
    let mut bench = Bench::new();
    let (call, _) =
        bench.ask("a", "L", "subscriptions/listen", &json!({"notifications": {"toolsListChanged": true}}));
    bench.call("b");
    let meta = |id: Value| json!({"io.modelcontextprotocol/subscriptionId": id});
    let note = |id: Value| json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": meta(id)}});
    assert_eq!(
        bench.hear(&note(call.into())),
        [Effect::Say(call, Said::Note(note("L".into()).to_string().into()))]
    );
    assert_eq!(bench.hear(&note(99.into())), []);
    let end = |id: Value| json!({"jsonrpc": "2.0", "id": id, "result": {"_meta": meta(id)}});
    assert_eq!(
        bench.hear(&end(call.into())),
        [Effect::Say(call, Said::Response(end("L".into()).to_string().into()))]
    );
}

#[test]
fn no_more_calls_are_taken_than_may_be_under_way() {
    let mut bench = Bench { mux: Mux::new(2) };
    let calls = [bench.call("a"), bench.call("a")];
    let more = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list"});
    assert!(matches!(bench.try_ask("a", &more), Err(Refusal::InFlight { .. })));
    assert!(matches!(bench.try_ask("a", &about("subscribe", "f://x")), Err(Refusal::InFlight { .. })));
    assert!(told_of(&mut bench, "f://x").is_empty());
    bench.mux.cancel(calls[0]);
    bench.try_ask("a", &more).unwrap();
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    Ask { who: u8, id: u8, as_text: bool },
    Answer { call: u64 },
    Progress { call: u64 },
    Cancel { call: u64 },
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, 0..3_u8, any::<bool>()).prop_map(|(who, id, as_text)| Step::Ask { who, id, as_text }),
        3 => (0..20_u64).prop_map(|call| Step::Answer { call }),
        2 => (0..20_u64).prop_map(|call| Step::Progress { call }),
        1 => (0..20_u64).prop_map(|call| Step::Cancel { call }),
        1 => Just(Step::Lose),
    ]
}

proptest! {
    /// Whatever happens in whatever order: nobody hears what is not theirs, every call ends once and only once, and
    /// nothing is remembered of what is over.
    #[test]
    fn no_message_goes_astray(steps in proptest::collection::vec(step(), 0..60)) {
        let mut bench = Bench::new();
        let mut waiting: HashMap<u64, (u8, Value)> = HashMap::new();
        for step in steps {
            match step {
                Step::Ask { who, id, as_text } => {
                    let id = if as_text { json!(id.to_string()) } else { json!(id) };
                    let params = json!({"name": "t", "arguments": {"who": who}, "_meta": {"progressToken": id}});
                    let (call, seen) = bench.ask(&who.to_string(), id.clone(), "tools/call", &params);
                    prop_assert_eq!(&seen["id"], &json!(call));
                    prop_assert!(waiting.insert(call, (who, id)).is_none(), "an id was used twice");
                }
                Step::Answer { call } => {
                    let expected = waiting.remove(&call);
                    match (&bench.hear(&answer_to(call))[..], expected) {
                        ([], None) => {}
                        ([Effect::Say(it, Said::Response(response))], Some((_, id))) => {
                            prop_assert_eq!((*it, &json(response)["id"]), (call, &id));
                        }
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Step::Progress { call } => {
                    let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": call}});
                    match (&bench.hear(&progress)[..], waiting.get(&call)) {
                        ([], None) => {}
                        ([Effect::Say(it, Said::Note(note))], Some((_, token))) => {
                            prop_assert_eq!((*it, &json(note)["params"]["progressToken"]), (call, token));
                        }
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Step::Cancel { call } => {
                    let is_waiting = waiting.remove(&call).is_some();
                    prop_assert_eq!(bench.mux.cancel(call).len(), usize::from(is_waiting));
                }
                Step::Lose => {
                    let mut lost: Vec<u64> = waiting.drain().map(|(call, _)| call).collect();
                    lost.sort_unstable();
                    prop_assert_eq!(bench.mux.lost(), lost);
                }
            }
            prop_assert_eq!(bench.mux.in_flight(), waiting.len());
            prop_assert_eq!(bench.mux.under_way.values().map(BTreeSet::len).sum::<usize>(), waiting.len());
        }
    }
}
