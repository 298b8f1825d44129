use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const BOUNDS: Bounds = Bounds { depth_max: 8, batch_max: 3 };

fn message(json: &str) -> Message<'_> {
    match parse(json.as_bytes(), BOUNDS).unwrap() {
        Body::One(message) => message,
        Body::Batch(_) => panic!("{json} is a batch"),
    }
}

fn request(json: &str) -> Request<'_> {
    match message(json) {
        Message::Request(request) => request,
        other => panic!("{other:?} is no request"),
    }
}

fn notification(json: &str) -> Notification<'_> {
    match message(json) {
        Message::Notification(notification) => notification,
        other => panic!("{other:?} is no notification"),
    }
}

fn response(json: &str) -> Response<'_> {
    match message(json) {
        Message::Response(response) => response,
        other => panic!("{other:?} is no response"),
    }
}

fn call(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{params}}}"#)
}

#[test]
fn a_call_is_read_with_everything_that_decides() {
    let json = r#" {"jsonrpc":"2.0","id":"a\u0031","method":"tools/call","params":{"name":"re\u0061d","arguments":{"n":1e999},
        "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},
        "progressToken":7,"traceparent":"00-a"},"inputResponses":{"k":{}},"requestState":"s"}} "#;
    let call = request(json);
    assert_eq!((call.id.raw(), &*call.method), (r#""a\u0031""#, "tools/call"));
    assert_eq!(call.target(), Some(Target::Tool("read")));
    assert_eq!(call.params.arguments.unwrap().get(), r#"{"n":1e999}"#);
    assert_eq!(call.params.meta.protocol_version.as_deref(), Some("2026-07-28"));
    assert_eq!(call.params.meta.progress_token.unwrap().get(), "7");
    assert_eq!(call.params.meta.traceparent.as_deref(), Some("00-a"));
    assert_eq!(call.params.request_state.unwrap().get(), r#""s""#);
    assert_eq!(call.require_modern_meta(), Ok(()));
    assert!(matches!(call.params.meta.protocol_version, Some(Cow::Borrowed(_))));
}

#[test]
fn each_method_has_its_target() {
    for (method, params, expected) in [
        ("tools/call", r#"{"name":"x"}"#, Some(Target::Tool("x"))),
        ("prompts/get", r#"{"name":"x"}"#, Some(Target::Prompt("x"))),
        ("resources/read", r#"{"uri":"x"}"#, Some(Target::Resource("x"))),
        ("resources/subscribe", r#"{"uri":"x"}"#, Some(Target::Resource("x"))),
        ("resources/unsubscribe", r#"{"uri":"x"}"#, Some(Target::Resource("x"))),
        ("tasks/get", r#"{"taskId":"x"}"#, Some(Target::Task("x"))),
        ("tasks/update", r#"{"taskId":"x"}"#, Some(Target::Task("x"))),
        ("tasks/cancel", r#"{"taskId":"x"}"#, Some(Target::Task("x"))),
        ("tasks/result", r#"{"taskId":"x"}"#, Some(Target::Task("x"))),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/prompt","name":"x","uri":"y"}}"#,
            Some(Target::Prompt("x")),
        ),
        ("completion/complete", r#"{"ref":{"type":"ref/resource","uri":"x"}}"#, Some(Target::Resource("x"))),
        ("tools/list", r#"{"name":"x","cursor":""}"#, None),
        ("skills/get", r#"{"name":{"any":1},"uri":5,"_meta":null}"#, None),
    ] {
        let json = call(method, params);
        assert_eq!(request(&json).target(), expected, "{json}");
    }
}

#[test]
fn params_of_the_wrong_type_are_refused_with_the_id() {
    for (method, params) in [
        ("tools/call", r#"{"name":5}"#),
        ("tools/call", r#"{"name":null}"#),
        ("tools/call", r#"{"name":"a\u0000"}"#),
        ("tools/call", r#"{}"#),
        ("tools/call", r#"{"uri":"x"}"#),
        ("tools/call", r#"{"name":"x","NAME":"y"}"#),
        ("tools/call", r#"{"name":"x","argumentſ":{}}"#),
        ("tools/call", r#"{"name":"x","arguments":[]}"#),
        ("tools/call", r#"{"name":"x","_meta":[]}"#),
        ("tools/call", r#"{"name":"x","_meta":{"progressToken":1.5}}"#),
        ("tools/call", r#"{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":2026}}"#),
        ("tools/call", r#"{"name":"x","_meta":{"io.modelcontextprotocol/clientCapabilities":true}}"#),
        ("tools/call", r#"["x"]"#),
        ("tools/list", "null"),
        ("tools/list", "[]"),
        ("tools/list", r#"{"cursor":5}"#),
        ("resources/read", r#"{"uri":{}}"#),
        ("tasks/get", r#"{"taskId":1}"#),
        ("initialize", r#"{"protocolVersion":1}"#),
        ("initialize", r#"{"capabilities":1}"#),
        ("logging/setLevel", r#"{"level":3}"#),
        ("subscriptions/listen", r#"{"notifications":[]}"#),
        ("subscriptions/listen", r#"{"notifications":{"resourceSubscriptions":"a:b"}}"#),
        ("subscriptions/listen", r#"{"notifications":{"resourceSubscriptions":["a:b",5]}}"#),
        ("subscriptions/listen", r#"{"notifications":{"ResourceSubscriptions":["a:b"]}}"#),
        ("completion/complete", r#"{}"#),
        ("completion/complete", r#"{"ref":"x"}"#),
        ("completion/complete", r#"{"ref":{"type":"ref/other","name":"x"}}"#),
        ("completion/complete", r#"{"ref":{"type":"ref/prompt","uri":"x"}}"#),
    ] {
        let json = call(method, params);
        let error = parse(json.as_bytes(), BOUNDS).unwrap_err();
        assert_eq!((error.code(), error.id()), (code::INVALID_PARAMS, Some("7")), "{json}: {error}");
    }
    let bare = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call"}"#;
    assert_eq!(parse(bare.as_bytes(), BOUNDS).unwrap_err().code(), code::INVALID_PARAMS);
    let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":[]}}"#;
    let error = parse(cancelled.as_bytes(), BOUNDS).unwrap_err();
    assert_eq!((error.code(), error.id()), (code::INVALID_PARAMS, None));
}

#[test]
fn a_listener_says_which_resources_it_subscribes_to() {
    let listen = |notifications: &str| {
        call("subscriptions/listen", &format!(r#"{{"notifications":{notifications}}}"#))
    };
    let json = listen(r#"{"toolsListChanged":true,"resourceSubscriptions":["a:b","\u0061:c"]}"#);
    assert_eq!(request(&json).params.subscribed_uris, ["a:b", "a:c"]);
    for none in ["{}", "null", r#"{"resourceSubscriptions":null}"#] {
        assert!(request(&listen(none)).params.subscribed_uris.is_empty());
    }
}

#[test]
fn errors_say_where() {
    let error = |json: &str| parse(json.as_bytes(), BOUNDS).unwrap_err().to_string();
    assert_eq!(error(&call("tools/call", r#"{"name": 5}"#)), "at byte 64: `name` is not a string");
    assert_eq!(error(r#"{"jsonrpc": "1.0"}"#), r#"at byte 12: `jsonrpc` is not "2.0""#);
    assert_eq!(error(r#" {"Jsonrpc":"2.0"}"#), "at byte 1: a key that is `jsonrpc` but for its case");
    assert_eq!(error(r#"{"a":1,"a":1}"#), "at byte 7: the object has this key twice");
}

#[test]
fn what_is_no_message_is_refused() {
    for json in [
        "5",
        "null",
        r#""tools/call""#,
        "{}",
        "[]",
        "[1]",
        r#"[[{"jsonrpc":"2.0","method":"a"}]]"#,
        r#"{"jsonrpc":"2.0"}"#,
        r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        r#"{"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1.0,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":5}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":null}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"pi\u0000ng"}"#,
        r#"{"jsonrpc":"2.0","id":1,"METHOD":"tools/call","method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","Params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","error":{"code":1,"message":""}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
        r#"{"jsonrpc":"2.0","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":[]}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":"x"}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1.5,"message":""}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#,
        r#"{"jsonrpc":"2.0","id":[],"error":{"code":1,"message":""}}"#,
    ] {
        let error = parse(json.as_bytes(), BOUNDS).unwrap_err();
        assert_eq!((error.code(), error.id()), (code::INVALID_REQUEST, None), "{json}: {error}");
    }
}

/// The cases of bad input that every proxy of messages must stand.
#[test]
fn what_two_readers_could_understand_differently_is_no_json() {
    let deep = call(
        "tools/call",
        &format!(r#"{{"name":"x","arguments":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000)),
    );
    let long =
        call("tools/call", &format!(r#"{{"name":"x","arguments":{{"a":"{}}}"#, "a".repeat(10_000_000)));
    let bad: [&[u8]; 17] = [
        b"",
        br#"{"jsonrpc":"2.0","id":1,"method":"tools/ca"#,
        br#"{"jsonrpc":"2.0","id":NaN,"method":"ping"}"#,
        br#"{"jsonrpc":"2.0","id":-Infinity,"method":"ping"}"#,
        br#"{"jsonrpc":"2.0","id":1,"method":"ping"}x"#,
        br#"{"jsonrpc":"2.0","id":1,"method":"ping"}{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\0\"}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\0",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}",
        br#"{"jsonrpc":"2.0","id":"\ud800","method":"ping"}"#,
        br#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#,
        br#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call"}"#,
        br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","name":"evil"}}"#,
        br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe"},"params":{"name":"evil"}}"#,
        br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":[{"b":1,"b":2}]}}}"#,
        deep.as_bytes(),
        long.as_bytes(),
    ];
    for json in bad {
        let error = parse(json, BOUNDS).unwrap_err();
        assert_eq!(
            error.code(),
            code::PARSE_ERROR,
            "{}: {error}",
            String::from_utf8_lossy(&json[..json.len().min(200)])
        );
    }
}

#[test]
fn batches_are_read_up_to_their_bound() {
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let done = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let batch = |messages: &[&str]| format!(" [{}] ", messages.join(" , "));
    let three = batch(&[ping, done, ping]);
    let Body::Batch(messages) = parse(three.as_bytes(), BOUNDS).unwrap() else {
        panic!("{three} is a batch")
    };
    let methods: Vec<_> = messages.iter().map(|it| it.method().unwrap()).collect();
    assert_eq!(methods, ["ping", "notifications/initialized", "ping"]);
    for bad in [batch(&[ping; 4]), batch(&[ping, "{}"])] {
        assert_eq!(parse(bad.as_bytes(), BOUNDS).unwrap_err().code(), code::INVALID_REQUEST, "{bad}");
    }
    let huge = format!("[{}1]", "1,".repeat(1_000_000));
    assert_eq!(parse(huge.as_bytes(), BOUNDS).unwrap_err().code(), code::INVALID_REQUEST);
}

#[test]
fn answers_are_read() {
    let result = response(r#"{"jsonrpc":"2.0","id":"x","result":{"n":12345678901234567890123}}"#);
    assert_eq!(result.id.unwrap().raw(), r#""x""#);
    assert!(
        matches!(result.outcome, Outcome::Result(raw) if raw.get() == r#"{"n":12345678901234567890123}"#)
    );
    for json in [
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"\u0061","data":[1]}}"#,
        r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"a","data":[1]}}"#,
    ] {
        let refused = response(json);
        assert!(refused.id.is_none());
        let Outcome::Error(fault) = refused.outcome else { panic!("{json} is an error") };
        assert_eq!((fault.code, &*fault.message, fault.data.unwrap().get()), (-32700, "a", "[1]"));
    }
}

#[test]
fn notifications_are_read() {
    let cancelled = notification(
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a","reason":"b"}}"#,
    );
    assert_eq!(cancelled.params.request_id, Id::parse(r#""a""#));
    let progress =
        notification(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t"}}"#);
    assert_eq!(progress.params.progress_token.unwrap().get(), r#""t""#);
    assert!(notification(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).params.raw.is_none());
}

#[test]
fn a_modern_request_must_say_its_version_and_what_the_client_can() {
    let version = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;
    for (meta, missing) in [
        (String::new(), "protocolVersion"),
        (r#""_meta":{}"#.to_owned(), "protocolVersion"),
        (format!(r#""_meta":{{{version}}}"#), "clientCapabilities"),
        (
            format!(r#""_meta":{{{version},"io.modelcontextprotocol/clientCapabilities":null}}"#),
            "clientCapabilities",
        ),
    ] {
        let json = call("tools/list", &format!("{{{meta}}}"));
        let error = request(&json).require_modern_meta().unwrap_err();
        assert_eq!(error.id(), Some("7"));
        assert!(error.to_string().contains(missing), "{error}");
    }
}

/// A JSON text without keys that stand twice.
fn member_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        "[ -~é😀]{0,6}".prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-zé]{0,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_call() -> impl Strategy<Value = Value> {
    let id = prop_oneof![any::<i64>().prop_map(Value::from), "[ -~é]{0,4}".prop_map(Value::from)];
    let name = "[ -~é😀]{0,8}";
    let others = proptest::collection::btree_map("x-[a-z\"é]{1,3}", member_value(), 0..3);
    let arguments = proptest::collection::btree_map("[ -~é]{0,4}", member_value(), 0..3);
    let meta = proptest::option::of(proptest::collection::btree_map("[x-z]{1,3}", member_value(), 0..3));
    (id, name, others, arguments, meta).prop_map(|(id, name, others, arguments, meta)| {
        let mut params = json!({"name": name, "arguments": arguments});
        let members = params.as_object_mut().unwrap();
        members.extend(others);
        members.extend(meta.map(|meta| ("_meta".to_owned(), json!(meta))));
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
    })
}

const WIDE: Bounds = Bounds { depth_max: 32, batch_max: 1 };

fn parsed(json: &[u8]) -> Request<'_> {
    match parse(json, WIDE).unwrap() {
        Body::One(Message::Request(request)) => request,
        other => panic!("{other:?} is no request"),
    }
}

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

proptest! {
    #[test]
    fn a_call_is_read_as_any_reader_would(call in any_call(), pretty: bool) {
        let json = if pretty { serde_json::to_vec_pretty(&call).unwrap() } else { call.to_string().into_bytes() };
        let read = parsed(&json);
        prop_assert_eq!(value(read.id.raw().as_bytes()), call["id"].clone());
        prop_assert_eq!(read.target(), Some(Target::Tool(call["params"]["name"].as_str().unwrap())));
        prop_assert_eq!(value(read.params.arguments.unwrap().get().as_bytes()), call["params"]["arguments"].clone());
        prop_assert_eq!(value(read.params.raw.unwrap().get().as_bytes()), call["params"].clone());
    }

    #[test]
    fn an_edit_changes_what_it_names_and_nothing_else(call in any_call(), pretty: bool) {
        let json = if pretty { serde_json::to_vec_pretty(&call).unwrap() } else { call.to_string().into_bytes() };
        let read = parsed(&json);
        let mut expected = call;

        let renamed = edit::with_id(&json, &read, r#""other""#);
        expected["id"] = json!("other");
        prop_assert_eq!(value(&renamed), expected.clone());
        let back = edit::with_id(&renamed, &parsed(&renamed), read.id.raw());
        prop_assert_eq!(&back, &json);

        let traced = edit::with_progress_token(&renamed, &parsed(&renamed), "5");
        expected["params"]["_meta"]["progressToken"] = json!(5);
        prop_assert_eq!(value(&traced), expected.clone());
        let again = edit::with_meta(&traced, &parsed(&traced), &[("progressToken", "6"), ("x", "{}"), ("new", "null")]);
        expected["params"]["_meta"]["progressToken"] = json!(6);
        expected["params"]["_meta"]["x"] = json!({});
        expected["params"]["_meta"]["new"] = Value::Null;
        prop_assert_eq!(value(&again), expected);
        prop_assert_eq!(parsed(&again).params.meta.progress_token.unwrap().get(), "6");
    }
}

#[test]
fn a_request_is_turned_to_something_else_of_its_kind_and_otherwise_stays_as_it_is() {
    let check = |method: &str, params: &str, expected: Option<&str>| {
        let message =
            |params: &str| format!(r#" {{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let before = message(params);
        let turned = edit::with_target(before.as_bytes(), &request(&before), "it\"s");
        assert_eq!(turned.map(|it| String::from_utf8(it).unwrap()), expected.map(message), "{method}");
    };
    check("tools/call", r#"{"x":1, "n\u0061me" : "a" }"#, Some(r#"{"x":1, "n\u0061me" : "it\"s" }"#));
    check("prompts/get", r#"{"name":"a","uri":"b"}"#, Some(r#"{"name":"it\"s","uri":"b"}"#));
    check("resources/read", r#"{"name":"a","uri":"b"}"#, Some(r#"{"name":"a","uri":"it\"s"}"#));
    check(
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"a"},"argument":{"name":"a","value":""}}"#,
        Some(r#"{"ref":{"type":"ref/prompt","name":"it\"s"},"argument":{"name":"a","value":""}}"#),
    );
    check(
        "completion/complete",
        r#"{"ref":{"type":"ref/resource","uri":"a"},"argument":{}}"#,
        Some(r#"{"ref":{"type":"ref/resource","uri":"it\"s"},"argument":{}}"#),
    );
    check("tools/list", r#"{"name":"a"}"#, None);
}

#[test]
fn a_call_is_turned_to_another_tool_with_other_arguments() {
    let check = |params: &str, expected: &str| {
        let message =
            |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let before = message(params);
        let turned = edit::with_call(before.as_bytes(), &request(&before), "b", r#"{"y":1.50}"#).unwrap();
        assert_eq!(String::from_utf8(turned).unwrap(), message(expected));
    };
    check(
        r#"{"name":"a","arguments":{"x":1},"_meta":{}}"#,
        r#"{"name":"b","arguments":{"y":1.50},"_meta":{}}"#,
    );
    check(r#"{"name":"a"}"#, r#"{"arguments":{"y":1.50},"name":"b"}"#);
}
