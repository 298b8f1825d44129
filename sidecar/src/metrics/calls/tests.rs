use super::*;
use crate::metrics::method_index;

const ALICE: &str = "spiffe://mesh.test/ns/research/sa/alice";
const BOUNDS: Bounds = Bounds { depth_max: 32, batch_max: 1 };

fn calls(series_max: usize) -> Calls {
    Calls { series_max, ..Calls::new(Side::Server, Told::default()) }
}

fn table(calls: &Calls, names: &[&str]) -> Arc<Table> {
    let table = calls.of(&"a/files".into());
    table.know(names.iter().copied());
    table
}

fn call(tool: &str, second: u64) -> Call<'_> {
    Call {
        method: method_index("tools/call"),
        target: Some(tool),
        caller: ALICE,
        verdict: Verdict::default(),
        reason: "ok",
        also: Also::default(),
        at: UNIX_EPOCH + Duration::from_secs(second),
        took: Duration::from_millis(3),
        span: None,
    }
}

fn text(calls: &Calls) -> String {
    let mut text = String::new();
    calls.write(&mut text);
    text
}

/// The number of calls of a tool, wherever it is told.
fn count(calls: &Calls, tool: &str) -> u64 {
    let text = text(calls);
    let tool = format!("gen_ai_tool_name=\"{tool}\"");
    let lines = text.lines().filter(|line| line.contains("_count{") && line.contains(&tool));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

#[test]
fn a_call_is_told_in_the_words_of_the_conventions() {
    let calls = calls(10);
    let table = table(&calls, &["read"]);
    calls.count(&table, &call("read", 1));
    let verdict = Verdict { error: Some("tool_error"), code: None };
    calls.count(&table, &Call { verdict, ..call("read", 1) });
    let text = text(&calls);
    let labels = "server=\"a/files\",mcp_method_name=\"tools/call\",gen_ai_tool_name=\"read\",caller_namespace=\"research\"";
    for line in [
        "# TYPE mcp_server_operation_duration_seconds histogram".to_owned(),
        format!("mcp_server_operation_duration_seconds_sum{{{labels},reason=\"ok\"}} 0.003"),
        format!(
            "mcp_server_operation_duration_seconds_count{{{labels},error_type=\"tool_error\",reason=\"ok\"}} 1"
        ),
        format!("mcp_server_operation_duration_seconds_bucket{{{labels},reason=\"ok\",le=\"0.001\"}} 0"),
        format!("mcp_server_operation_duration_seconds_bucket{{{labels},reason=\"ok\",le=\"0.005\"}} 1"),
        format!("mcp_server_operation_duration_seconds_bucket{{{labels},reason=\"ok\",le=\"+Inf\"}} 1"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_tool_is_told_apart_only_once_its_server_has_advertised_it() {
    let calls = calls(10);
    let table = table(&calls, &[]);
    for tool in ["read", "made-up", "read\"} 1\nevil{x=\""] {
        calls.count(&table, &call(tool, 1));
    }
    assert_eq!((count(&calls, "other"), count(&calls, "read")), (3, 0));
    let list = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read"},{"name":"w\"ite"}]}}"#;
    table.learn(list.as_bytes(), BOUNDS);
    for tool in ["read", "made-up", "w\"ite"] {
        calls.count(&table, &call(tool, 1));
    }
    assert_eq!((count(&calls, "other"), count(&calls, "read"), count(&calls, "w\\\"ite")), (4, 1, 1));
}

#[test]
fn prompts_are_told_apart_as_tools_are_and_neither_passes_for_the_other() {
    let calls = calls(10);
    let table = table(&calls, &["read"]);
    let list = r#"{"jsonrpc":"2.0","id":1,"result":{"prompts":[{"name":"greet"}]}}"#;
    table.learn(list.as_bytes(), BOUNDS);
    let get = |prompt| Call { method: method_index("prompts/get"), ..call(prompt, 1) };
    for call in [get("greet"), get("read"), get("made-up"), call("greet", 1)] {
        calls.count(&table, &call);
    }
    let text = text(&calls);
    for (labels, times) in [
        ("mcp_method_name=\"prompts/get\",gen_ai_prompt_name=\"greet\"", 1),
        ("mcp_method_name=\"prompts/get\",gen_ai_prompt_name=\"other\"", 2),
        ("mcp_method_name=\"tools/call\",gen_ai_tool_name=\"other\"", 1),
    ] {
        let line = format!("_count{{server=\"a/files\",{labels},");
        let found =
            text.lines().find(|found| found.contains(&line)).unwrap_or_else(|| panic!("{line}: {text}"));
        assert!(found.ends_with(&format!(" {times}")), "{found}");
    }
}

#[test]
fn callers_of_gateways_are_of_one_class_whatever_their_names_hold() {
    for guest in [
        "https://idp.test#/ns/research/sa/alice",
        "spiffe://partner.test#/ns/research/sa/alice",
        "api-keys/a/b#c",
    ] {
        assert_eq!(key::namespace(guest), Some("#guest"), "{guest}");
    }
    assert_eq!(key::namespace(ALICE), Some("research"));
    assert_eq!(key::namespace("local"), None);
}

#[test]
fn callers_are_told_apart_by_their_namespace_and_only_where_it_is_wanted_by_their_identity() {
    let calls = calls(10);
    let table = table(&calls, &["read"]);
    let bob = "spiffe://mesh.test/ns/research/sa/bob";
    for caller in [ALICE, bob, "local", "anonymous"] {
        calls.count(&table, &Call { caller, ..call("read", 1) });
    }
    let text = text(&calls);
    assert!(text.contains("caller_namespace=\"research\",reason=\"ok\"} 2"), "{text}");
    assert!(!text.contains("bob") && !text.contains("local"), "{text}");
    let also = Also { caller: Some(bob), era: Some("modern"), limit: None };
    calls.count(&table, &Call { also, caller: bob, ..call("read", 1) });
    let text = self::text(&calls);
    assert!(text.contains(&format!("reason=\"ok\",caller=\"{bob}\",era=\"modern\"}} 1")), "{text}");
}

#[test]
fn what_was_idle_longest_is_folded_and_nothing_is_lost() {
    let calls = calls(4);
    let tools = ["a", "b", "c", "d", "e"];
    let table = table(&calls, &tools);
    for (second, tool) in tools[..4].iter().enumerate() {
        calls.count(&table, &call(tool, second as u64));
    }
    // It is not idle any more.
    calls.count(&table, &call("a", IDLE_SECS));
    calls.count(&table, &call("e", IDLE_SECS + 2));
    let found = ["a", "b", "c", "d", "e", "other"].map(|tool| count(&calls, tool));
    assert_eq!(found, [2, 0, 1, 1, 1, 1]);
    assert_eq!((calls.told.kept.get(), calls.told.folded.get(), calls.told.without.get()), (4, 1, 0));
    // It comes back, and what was folded stays where it is.
    calls.count(&table, &call("b", IDLE_SECS + 5));
    assert_eq!((count(&calls, "b"), count(&calls, "other")), (1, 2));
}

#[test]
fn where_none_is_idle_a_newcomer_is_counted_with_the_others_at_once() {
    let calls = calls(2);
    let table = table(&calls, &["a", "b", "c"]);
    for tool in ["a", "b", "c", "c"] {
        calls.count(&table, &call(tool, 1000));
    }
    assert_eq!(["a", "b", "c", "other"].map(|tool| count(&calls, tool)), [1, 1, 0, 2]);
    assert_eq!((calls.told.kept.get(), calls.told.without.get()), (2, 2));
}

#[test]
fn a_series_that_is_folded_while_somebody_counts_in_it_loses_nothing() {
    let calls = calls(1);
    let table = table(&calls, &["a", "b"]);
    calls.count(&table, &call("a", 0));
    let key = Key::of(&call("a", 0));
    let held = Arc::clone(
        table.series.load().find(key.hash(&calls.hasher), |it| it.key.borrowed() == key).unwrap_or_else(
            || {
                panic!("the series is there");
            },
        ),
    );
    calls.count(&table, &call("b", 2 * IDLE_SECS));
    assert_eq!(count(&calls, "other"), 1);
    held.timings.observe(Duration::from_millis(1));
    assert_eq!(count(&calls, "other"), 2);
    drop(held);
    assert_eq!(count(&calls, "other"), 2);
    assert!(table.leaving.lock().is_ok_and(|leaving| leaving.is_empty()));
    assert_eq!(count(&calls, "other"), 2);
}

#[test]
fn threads_that_count_while_series_come_and_go_lose_nothing() {
    let calls = calls(3);
    let tools = ["a", "b", "c", "d", "e", "f"];
    let table = table(&calls, &tools);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (calls, table) = (&calls, &table);
            scope.spawn(move || {
                for round in 0..500 {
                    let tool = tools[usize::try_from(round + thread).unwrap_or_default() % tools.len()];
                    calls.count(table, &call(tool, round * IDLE_SECS));
                }
            });
        }
    });
    let sum: u64 = tools.iter().chain(&["other"]).map(|tool| count(&calls, tool)).sum();
    assert_eq!(sum, 2000);
    assert!(calls.told.folded.get() > 0);
    assert!(calls.told.kept.get() <= 3);
}

#[test]
fn a_call_of_a_trace_is_the_example_of_its_bucket() {
    let calls = calls(10);
    let table = table(&calls, &["read"]);
    let span = Some((TraceId::new(0xab), SpanId::new(0xcd)));
    calls.count(&table, &Call { span, ..call("read", 1) });
    calls.count(&table, &call("read", 1));
    let text = text(&calls);
    let expected = "le=\"0.005\"} 2 # {trace_id=\"000000000000000000000000000000ab\",span_id=\"00000000000000cd\"} 0.003 1.003";
    assert!(text.lines().any(|line| line.ends_with(expected)), "{text}");
    assert_eq!(text.matches(" # {").count(), 1);
}

#[test]
fn what_belongs_to_the_transport_is_no_operation() {
    let calls = calls(10);
    let table = table(&calls, &[]);
    for method in ["GET", "DELETE", "none", "response", "batch"] {
        calls.count(&table, &Call { method: method_index(method), ..call("", 1) });
    }
    assert!(!text(&calls).contains("_count"));
    calls.count(&table, &Call { method: method_index("no/such"), ..call("", 1) });
    assert!(text(&calls).contains("mcp_method_name=\"_OTHER\""));
}
