use std::time::{Duration, SystemTime};

use weft_proto::trace::TraceId;

use super::*;
use crate::authorize::Decided;
use crate::metrics::method_index;

fn event(method: &str, target: Option<&str>, reason: &'static str) -> Event {
    Event {
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        listener: "inbound",
        caller: "spiffe://mesh.test/ns/agents/sa/a".into(),
        server: "research/files".into(),
        http_method: http::Method::POST,
        method: method_index(method),
        target: target.map(Into::into),
        rpc_id: Some("\"a\"".into()),
        era: "modern",
        status: 200,
        reason,
        detail: None,
        decided: Decided::default(),
        limit: None,
        shadow_limit: None,
        tools: None,
        request_bytes: 1,
        response_bytes: 2,
        duration: Duration::from_micros(1500),
        listens: false,
    }
}

fn span(event: Event, is_client: bool, heard: Heard) -> Span {
    let own = Context::new(TraceId::new(1), SpanId::new(2), true);
    Span { own, parent: None, is_client, heard, more: None, event }
}

fn fault(code: i64) -> Heard {
    Heard::Fault { code, message: "no".into() }
}

#[track_caller]
fn says(told: &Told, key: &str) -> Option<String> {
    let found = told.attributes.iter().find(|it| it.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other @ (Value::BoolValue(_) | Value::DoubleValue(_)) => panic!("{other:?}"),
    }
}

#[test]
fn a_span_is_named_after_its_method_and_its_tool_or_prompt() {
    let check = |method: &str, target, name: &str| {
        assert_eq!(whole(&span(event(method, target, "ok"), false, Heard::Nothing)).name, name);
    };
    check("tools/call", Some("echo"), "tools/call echo");
    check("prompts/get", Some("greet"), "prompts/get greet");
    check("resources/read", Some("file:///a"), "resources/read");
    check("tools/list", None, "tools/list");
}

#[test]
fn what_a_call_is_about_stands_under_the_name_that_the_conventions_have() {
    let check = |method: &str, key: &str| {
        let told = whole(&span(event(method, Some("x"), "ok"), false, Heard::Nothing));
        assert_eq!(says(&told, key).as_deref(), Some("x"), "{method}");
        assert_eq!(says(&told, "gen_ai.operation.name").is_some(), method == "tools/call");
        assert_eq!(says(&told, "jsonrpc.request.id").as_deref(), Some("a"));
    };
    check("tools/call", "gen_ai.tool.name");
    check("prompts/get", "gen_ai.prompt.name");
    check("resources/read", "mcp.resource.uri");
}

#[test]
fn what_went_wrong_is_told_as_the_conventions_have_it() {
    let check = |reason, is_client, heard, error: Option<&str>, code: Option<&str>| {
        let event = Event { status: 502, ..event("tools/call", Some("echo"), reason) };
        let told = whole(&span(event, is_client, heard));
        assert_eq!(says(&told, "error.type").as_deref(), error, "{reason} {is_client}");
        assert_eq!(says(&told, "rpc.response.status_code").as_deref(), code, "{reason} {is_client}");
        assert_eq!(told.status.is_some(), error.is_some());
    };
    check("ok", false, Heard::Nothing, None, None);
    check("ok", false, Heard::ToolError, Some("tool_error"), None);
    check("ok", true, Heard::ToolError, Some("tool_error"), None);
    // What is the caller's own mistake is no error of a server.
    check("ok", false, fault(-32602), None, Some("-32602"));
    check("ok", true, fault(-32602), Some("-32602"), Some("-32602"));
    check("ok", false, fault(-32603), Some("-32603"), Some("-32603"));
    check("limited", false, fault(4290), Some("4290"), Some("4290"));
    check("timed_out", false, Heard::Nothing, Some("timed_out"), None);
    check("server_error", false, Heard::Nothing, Some("502"), None);
    check("client_error", false, Heard::Nothing, None, None);
    check("client_error", true, Heard::Nothing, Some("502"), None);
    // So a caller takes a call back.
    check("caller_left", false, Heard::Nothing, None, None);
}

#[test]
fn texts_that_callers_choose_are_clipped() {
    let long = "ü".repeat(500);
    let told = whole(&span(event("tools/call", Some(&long), "ok"), false, Heard::Nothing));
    assert_eq!(says(&told, "gen_ai.tool.name").unwrap().len(), TEXT_BYTES_MAX);
    assert!(told.name.len() < 2 * TEXT_BYTES_MAX);
}

#[test]
fn times_and_names_are_those_of_the_call() {
    let told = whole(&span(event("tools/list", None, "ok"), true, Heard::Nothing));
    assert_eq!((told.start_time_unix_nano, told.end_time_unix_nano), (1_000_000_000, 1_001_500_000));
    assert_eq!(told.kind(), SpanKind::Client);
    assert_eq!((told.trace_id.len(), told.span_id.len(), told.parent_span_id.len()), (16, 8, 0));
    assert_eq!(told.flags, 1);
}
