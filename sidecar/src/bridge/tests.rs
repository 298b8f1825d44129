use proptest::prelude::*;
use serde_json::{Value, json};
use weft_proto::mcp::{Request, Revision};
use weft_proto::resource::kinds::Era;

use super::*;
use crate::exchange::Introduction;

const BOUNDS: Bounds = Bounds { depth_max: 64, batch_max: 1 };

fn legacy_server() -> ToLegacy {
    let result = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"tasks":{"list":{}},"resources":{"subscribe":true},"logging":{}},"serverInfo":{"name":"files","version":"1.0"},"instructions":"Be \"nice\"."}"#;
    let introduction =
        Introduction { era: Era::Legacy, revision: "2025-11-25".to_owned(), result: result.into() };
    ToLegacy::new(&introduction, BOUNDS).unwrap()
}

fn modern_server() -> ToModern {
    let result = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"extensions":{"io.modelcontextprotocol/tasks":{},"io.modelcontextprotocol/ui":{"x":1.0}},"logging":{}},"instructions":"Hi","ttlMs":5,"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"new","version":"2"}}}"#;
    let introduction =
        Introduction { era: Era::Modern, revision: "2026-07-28".to_owned(), result: result.into() };
    ToModern::new(&introduction, BOUNDS).unwrap()
}

fn with_request<T>(message: &str, then: impl FnOnce(&Bytes, &Request<'_>) -> T) -> T {
    let bytes = Bytes::copy_from_slice(message.as_bytes());
    match mcp::parse(&bytes, BOUNDS).unwrap() {
        mcp::Body::One(Message::Request(request)) => then(&bytes, &request),
        other => panic!("{other:?} is no request"),
    }
}

fn asked(method: &str) -> Asked {
    let message =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"name":"x","uri":"x"}}}}"#);
    with_request(&message, |_, request| Asked::of(request, Abilities::default()))
}

/// The same by a caller who can be asked everything.
fn able(method: &str) -> Asked {
    let all = r#"{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{}},"roots":{}}"#;
    let abilities = Abilities::of(Some(mcp::Raw::scan(all, 8).unwrap()));
    let message = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"name":"x"}}}}"#);
    with_request(&message, |_, request| Asked::of(request, abilities))
}

#[track_caller]
fn response_of(answered: Result<Answered, Refusal>) -> Bytes {
    match answered.unwrap() {
        Answered::Response(response) => response,
        Answered::Needs(needs) => panic!("{needs:?}"),
    }
}

fn to_legacy(message: &str) -> Result<Outgoing, Refusal> {
    with_request(message, |bytes, request| legacy_server().request(bytes, request))
}

fn to_modern(caller: Caller<'_>, message: &str) -> Result<Outgoing, Refusal> {
    with_request(message, |bytes, request| modern_server().request(caller, bytes, request))
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn value(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[track_caller]
fn forwarded(outgoing: Result<Outgoing, Refusal>) -> String {
    match outgoing.unwrap() {
        Outgoing::Forward(message) => text(&message).to_owned(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn answered(outgoing: Result<Outgoing, Refusal>) -> Value {
    match outgoing.unwrap() {
        Outgoing::Answer(message) => value(&message),
        other => panic!("{other:?}"),
    }
}

mod a_modern_caller_at_a_legacy_server {
    use super::*;

    #[track_caller]
    fn check_request(params: &str, expected: &str) {
        let request = |params| {
            format!(r#"{{"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": {params}}}"#)
        };
        assert_eq!(forwarded(to_legacy(&request(params))), request(expected));
    }

    #[test]
    fn requests_lose_only_what_their_era_added() {
        let modern = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{}},"io.modelcontextprotocol/clientInfo":{"name":"c"},"io.modelcontextprotocol/logLevel":"info""#;
        check_request(&format!(r#"{{"_meta":{{{modern}}},"name":"t"}}"#), r#"{"name":"t"}"#);
        check_request(
            &format!(r#"{{ "name":"t", "arguments": {{"a": 1.10}}, "_meta":{{{modern}}} }}"#),
            r#"{ "name":"t", "arguments": {"a": 1.10} }"#,
        );
        check_request(
            &format!(
                r#"{{"name":"t","_meta":{{"progressToken": 7,{modern},"traceparent":"00","com.example/x": [1]}}}}"#
            ),
            r#"{"name":"t","_meta":{"progressToken": 7,"traceparent":"00","com.example/x": [1]}}"#,
        );
        check_request(
            &format!(r#"{{"inputResponses":{{}},"name":"t","requestState":"s","_meta":{{{modern}}}}}"#),
            r#"{"name":"t"}"#,
        );
        check_request(r#"{"name":"t"}"#, r#"{"name":"t"}"#);
    }

    #[test]
    fn discovery_is_answered_from_the_handshake() {
        let answer = answered(to_legacy(r#"{"jsonrpc":"2.0","id":3,"method":"server/discover"}"#));
        let expected = json!({"jsonrpc": "2.0", "id": 3, "result": {
            "resultType": "complete",
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {"listChanged": true}, "resources": {"subscribe": true}, "logging": {}},
            "instructions": "Be \"nice\".",
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "files", "version": "1.0"}},
        }});
        assert_eq!(answer, expected);
    }

    #[test]
    fn listening_is_not_the_servers_to_answer() {
        let message =
            r#"{"jsonrpc":"2.0","id":3,"method":"subscriptions/listen","params":{"notifications":{}}}"#;
        assert_eq!(to_legacy(message), Ok(Outgoing::Listen));
    }

    #[test]
    fn methods_of_the_other_era_do_not_exist() {
        for method in
            ["initialize", "ping", "logging/setLevel", "resources/subscribe", "tasks/get", "tasks/list"]
        {
            let message = format!(
                r#"{{"jsonrpc":"2.0","id":3,"method":"{method}","params":{{"uri":"a","taskId":"b","level":"info"}}}}"#
            );
            assert_eq!(to_legacy(&message), Err(Refusal::MethodNotFound(method.to_owned())));
        }
        let unknown = r#"{"jsonrpc":"2.0","id":3,"method":"skills/list"}"#;
        assert_eq!(forwarded(to_legacy(unknown)), unknown, "what nobody knows may be an extension's");
    }

    #[track_caller]
    fn check_response(method: &str, response: &str, expected: &str) {
        let response = Bytes::copy_from_slice(response.as_bytes());
        let translated = legacy_server().response(asked(method), &response).unwrap();
        assert_eq!(text(&translated), expected);
    }

    const INFO: &str = r#""io.modelcontextprotocol/serverInfo":{"name":"files","version":"1.0"}"#;

    #[test]
    fn results_gain_what_their_era_needs() {
        check_response(
            "tools/call",
            r#"{"jsonrpc":"2.0","id":1,"result":{ "content":[{"type":"text","text":"1.0"}]}}"#,
            &format!(
                r#"{{"jsonrpc":"2.0","id":1,"result":{{"_meta":{{{INFO}}},"resultType":"complete", "content":[{{"type":"text","text":"1.0"}}]}}}}"#
            ),
        );
        check_response(
            "tools/list",
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"_meta":{"a":1}}}"#,
            &format!(
                r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[],"_meta":{{{INFO},"a":1}}}}}}"#
            ),
        );
        check_response(
            "resources/read",
            r#"{"jsonrpc":"2.0","id":1,"result":{"contents":[],"ttlMs":9,"resultType":"x","_meta":null}}"#,
            &format!(
                r#"{{"jsonrpc":"2.0","id":1,"result":{{"_meta":{{{INFO}}},"resultType":"complete","ttlMs":0,"cacheScope":"private","contents":[]}}}}"#
            ),
        );
        check_response(
            "skills/list",
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            &format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"_meta":{{{INFO}}},"resultType":"complete"}}}}"#),
        );
    }

    #[test]
    fn errors_get_the_codes_of_their_era() {
        let error = |code: i64| {
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"error":{{"message":"m","code":{code},"data":{{"a":1.0}}}}}}"#
            )
        };
        for (code, expected) in
            [(-32002, -32602), (-32602, -32602), (-32601, -32601), (-32020, -32603), (7, 7)]
        {
            check_response("tools/call", &error(code), &error(expected));
        }
        let response = Bytes::from(error(-32042));
        let translated = value(&legacy_server().response(asked("tools/call"), &response).unwrap());
        assert_eq!(translated["error"]["code"], 5022);
        assert_eq!(translated["id"], 1);
    }

    #[test]
    fn what_is_no_response_breaks_the_exchange() {
        for message in ["{}", "[", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#] {
            let refusal = legacy_server().response(asked("ping"), &Bytes::from(message)).unwrap_err();
            assert!(matches!(refusal, Refusal::UpstreamBroke(_)), "{refusal:?}");
        }
    }

    #[test]
    fn log_messages_come_from_the_asked_level_on() {
        let asked = |level: &str| {
            let message = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"x","_meta":{{{level}}}}}}}"#
            );
            with_request(&message, |_, request| Asked::of(request, Abilities::default()))
        };
        let note = |level: &str| {
            Bytes::from(format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"{level}","data":1}}}}"#
            ))
        };
        let server = legacy_server();
        let warned = asked(r#""io.modelcontextprotocol/logLevel":"warning""#);
        for (level, is_told) in
            [("debug", false), ("notice", false), ("warning", true), ("emergency", true), ("?", false)]
        {
            assert_eq!(server.note(warned, note(level)).is_some(), is_told, "{level}");
            assert_eq!(server.note(asked(""), note(level)), None);
        }
    }

    #[test]
    fn only_notifications_of_the_request_are_told_with_it() {
        let note = |method: &str| {
            let message = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{{"uri":"a","requestId":1}}}}"#
            );
            legacy_server().note(asked("tools/call"), Bytes::from(message)).is_some()
        };
        assert!(note("progress") && note("something/new"));
        for method in ["tools/list_changed", "resources/updated", "cancelled", "tasks/status"] {
            assert!(!note(method), "{method}");
        }
        assert!(legacy_server().note(asked("tools/call"), Bytes::from_static(b"no")).is_none());
    }

    #[test]
    fn a_server_that_asks_for_what_was_not_declared_is_told_that_there_is_nobody() {
        let request = |method: &str| format!(r#"{{"jsonrpc":"2.0","id":"s-1","method":"{method}"}}"#);
        let turn = |message: &str| legacy_server().request_of_server(asked("tools/call"), message.as_bytes());
        let answer = |method: &str| match turn(&request(method)) {
            Turn::Answer(answer) => value(&answer),
            other => panic!("{other:?}"),
        };
        assert_eq!(answer("ping"), json!({"jsonrpc": "2.0", "id": "s-1", "result": {}}));
        for method in ["roots/list", "elicitation/create", "sampling/createMessage"] {
            assert_eq!(answer(method)["error"]["code"], -32601);
        }
        assert_eq!(turn(r#"{"jsonrpc":"2.0","method":"x"}"#), Turn::Nothing);
    }

    #[test]
    fn what_a_server_asks_becomes_a_result_and_its_answer_the_servers_own() {
        let request = r#"{"jsonrpc":"2.0","id":"s\u002d1","method":"elicitation/create","params":{"message":"?", "requestedSchema":{"n":1.0}}}"#;
        let question = match legacy_server().request_of_server(able("tools/call"), request.as_bytes()) {
            Turn::Ask(question) => question,
            other => panic!("{other:?}"),
        };
        let asking = legacy_server().asking("7", std::slice::from_ref(&question.wish), Some("a\"b"));
        assert_eq!(
            text(&asking),
            r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required","inputRequests":{"1":{"method":"elicitation/create","params":{"message":"?", "requestedSchema":{"n":1.0}}}},"requestState":"a\"b","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"files","version":"1.0"}}}}"#
        );
        let given = serde_json::from_str(r#"{"action":"accept", "content":{"n":1.0}}"#).unwrap();
        assert_eq!(
            text(&question.answered(given)),
            r#"{"jsonrpc":"2.0","id":"s\u002d1","result":{"action":"accept", "content":{"n":1.0}}}"#
        );
        assert_eq!(value(&question.given_up())["result"], json!({"action": "cancel"}));
    }

    #[test]
    fn what_a_caller_has_to_do_elsewhere_is_asked_for_if_it_can_go_there() {
        let wanted = r#"{"mode":"url","elicitationId":"e","url":"https://a.example/","message":"Go"}"#;
        let fault = |data: &str| {
            Bytes::from(format!(
                r#"{{"jsonrpc":"2.0","id":3,"error":{{"code":-32042,"message":"m","data":{data}}}}}"#
            ))
        };
        let answer =
            |asked: Asked, data: &str| value(&legacy_server().response(asked, &fault(data)).unwrap());
        let data = format!(r#"{{"elicitations":[{wanted}]}}"#);
        let result = &answer(able("tools/call"), &data)["result"];
        assert_eq!(result["resultType"], "input_required");
        assert_eq!(result["inputRequests"]["1"]["params"]["url"], "https://a.example/");
        assert_eq!(result.get("requestState"), None);
        assert_eq!(answer(asked("tools/call"), &data)["error"]["data"]["reason"], "input_needed");
        for data in ["null", "{}", r#"{"elicitations":[]}"#, r#"{"elicitations":[5]}"#] {
            assert_eq!(answer(able("tools/call"), data)["error"]["data"]["reason"], "input_needed");
        }
    }

    #[test]
    fn a_handshake_that_says_nothing_usable_is_refused() {
        for result in ["", "[]", "{}", r#"{"capabilities":[],"serverInfo":{}}"#] {
            let introduction =
                Introduction { era: Era::Legacy, revision: "2025-11-25".to_owned(), result: result.into() };
            assert!(
                matches!(ToLegacy::new(&introduction, BOUNDS), Err(Refusal::UpstreamBroke(_))),
                "{result}"
            );
        }
    }
}

mod a_legacy_caller_at_a_modern_server {
    use super::*;

    const NONE: Abilities = Abilities {
        form: false,
        url: false,
        sampling: false,
        sampling_tools: false,
        sampling_context: false,
        roots: false,
    };
    const CALLER: Caller<'static> = Caller {
        client_info: Some(r#"{"name":"c","n":1.0}"#),
        log_level: None,
        abilities: NONE,
        knows_tasks: false,
    };

    #[test]
    fn the_handshake_is_answered_from_discovery() {
        let initialize = |version: &str| {
            let message = format!(
                r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{{}},"clientInfo":{{"name":"c"}}}}}}"#
            );
            answered(to_modern(CALLER, &message))
        };
        let expected = json!({"jsonrpc": "2.0", "id": 0, "result": {
            "protocolVersion": "2025-06-18",
            "capabilities": {
                "tools": {"listChanged": true},
                "extensions": {"io.modelcontextprotocol/ui": {"x": 1.0}},
                "logging": {},
            },
            "serverInfo": {"name": "new", "version": "2"},
            "instructions": "Hi",
        }});
        assert_eq!(initialize("2025-06-18"), expected);
        for (asked, given) in
            [("2024-11-05", "2024-11-05"), ("2026-07-28", "2025-11-25"), ("2099-01-01", "2025-11-25")]
        {
            assert_eq!(initialize(asked)["result"]["protocolVersion"], given);
        }
        assert_eq!(agreed(None), Revision::LATEST_LEGACY);
    }

    #[test]
    fn requests_gain_what_their_era_needs() {
        let message = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{ "name":"t","_meta":{"progressToken":"p"}}}"#;
        let expected = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{ "name":"t","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"c","n":1.0},"progressToken":"p"}}}"#;
        assert_eq!(forwarded(to_modern(CALLER, message)), expected);
        let bare = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let caller = Caller { client_info: None, log_level: Some(Level::Error), ..Caller::default() };
        let expected = r#"{"jsonrpc":"2.0","id":1,"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"error"}},"method":"tools/list"}"#;
        assert_eq!(forwarded(to_modern(caller, bare)), expected);
    }

    #[test]
    fn what_belongs_to_the_session_stays_here() {
        let ask = |method: &str, params: &str| {
            to_modern(CALLER, &format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#))
        };
        let done = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        assert_eq!(ask("ping", "{}"), Ok(Outgoing::Answer(done.clone())));
        for (method, params, change) in [
            ("logging/setLevel", r#"{"level":"alert"}"#, Change::LogLevel(Level::Alert)),
            ("resources/subscribe", r#"{"uri":"a:b"}"#, Change::Subscribe("a:b".to_owned())),
            ("resources/unsubscribe", r#"{"uri":"a:b"}"#, Change::Unsubscribe("a:b".to_owned())),
        ] {
            assert_eq!(ask(method, params), Ok(Outgoing::Remember(change, done.clone())));
        }
        assert_eq!(answered(ask("logging/setLevel", r#"{"level":"loud"}"#))["error"]["code"], -32602);
        for method in ["server/discover", "subscriptions/listen", "tasks/list"] {
            assert_eq!(ask(method, "{}"), Err(Refusal::MethodNotFound(method.to_owned())));
        }
    }

    #[test]
    fn notifications_of_the_handshake_are_kept_back() {
        let tell = |method: &str| {
            let message = Bytes::from(format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#));
            match mcp::parse(&message, BOUNDS).unwrap() {
                mcp::Body::One(Message::Notification(it)) => {
                    modern_server().notification(&message, &it).is_some()
                }
                other => panic!("{other:?}"),
            }
        };
        assert!(!tell("notifications/initialized") && !tell("notifications/roots/list_changed"));
        assert!(tell("notifications/com.example/x"));
    }

    #[track_caller]
    fn check_response(method: &str, response: &str, expected: &str) {
        let response = Bytes::copy_from_slice(response.as_bytes());
        let translated = response_of(modern_server().response(asked(method), &response));
        assert_eq!(text(&translated), expected);
    }

    #[test]
    fn results_lose_only_what_their_era_added() {
        check_response(
            "tools/list",
            r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","tools":[], "ttlMs":1,"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":{}}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#,
        );
        check_response(
            "tools/call",
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"ttlMs":1,"_meta":{"a":1}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"ttlMs":1,"_meta":{"a":1}}}"#,
        );
    }

    #[test]
    fn a_server_that_asks_for_input_is_asked_again_with_it() {
        let response = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"who":{"method":"elicitation/create","params":{"mode":"url","url":"https://a.example/"}},"say":{"method":"sampling/createMessage","params":{"n":1.0}}},"requestState":"s\u0065"}}"#;
        let needs = match modern_server().response(able("tools/call"), &Bytes::from(response)).unwrap() {
            Answered::Needs(needs) => needs,
            other @ Answered::Response(_) => panic!("{other:?}"),
        };
        let [(_, first), (_, second)] = &needs.wishes[..] else { panic!("{needs:?}") };
        assert_eq!(
            text(&second.clone().in_legacy("\"q\"").asked("\"q\"")),
            r#"{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{"n":1.0}}"#
        );
        assert_eq!(
            text(&first.clone().in_legacy("\"q\"").asked("\"q\"")),
            r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"elicitationId":"q","mode":"url","url":"https://a.example/"}}"#
        );
        let answers =
            [("who".to_owned(), r#"{"action":"accept"}"#.to_owned()), ("say".to_owned(), "{}".to_owned())];
        let message =
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t", "arguments":{"x":1.0}}}"#;
        let again =
            with_request(message, |bytes, request| needs.met(bytes, request, "\"new\"", &answers)).unwrap();
        assert_eq!(
            text(&again),
            r#"{"jsonrpc":"2.0","id":"new","method":"tools/call","params":{"inputResponses":{"who":{"action":"accept"},"say":{}},"requestState":"s\u0065","name":"t", "arguments":{"x":1.0}}}"#
        );
        let refused = response_of(modern_server().response(asked("tools/call"), &Bytes::from(response)));
        assert_eq!(value(&refused)["error"]["data"]["reason"], "input_needed", "the caller declared nothing");
    }

    #[test]
    fn what_asks_for_nothing_or_too_much_breaks_the_answer() {
        let ask = |result: &str| {
            let response =
                format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"input_required"{result}}}}}"#);
            modern_server().response(able("tools/call"), &Bytes::from(response))
        };
        let many: Vec<_> = (0..17).map(|n| format!(r#""{n}":{{"method":"roots/list"}}"#)).collect();
        for result in [
            String::new(),
            r#","inputRequests":{}"#.to_owned(),
            r#","inputRequests":[]"#.to_owned(),
            r#","inputRequests":{"a":{}}"#.to_owned(),
            r#","inputRequests":{"a":5}"#.to_owned(),
            format!(r#","inputRequests":{{{}}}"#, many.join(",")),
        ] {
            assert!(matches!(ask(&result), Err(Refusal::UpstreamBroke(_))), "{result}");
        }
        assert!(matches!(ask(r#","requestState":"s""#), Ok(Answered::Needs(_))));
    }

    #[test]
    fn a_server_that_answers_as_nobody_can_take_it_is_told_as_an_error() {
        for response in [
            r#"{"jsonrpc":"2.0","id":"x","result":{"resultType":"task","taskId":"s"}}"#,
            r#"{"jsonrpc":"2.0","id":"x","result":{"resultType":5}}"#,
            r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32021,"message":"m","data":{"requiredCapabilities":{}}}}"#,
        ] {
            let translated =
                value(&response_of(modern_server().response(asked("tools/call"), &Bytes::from(response))));
            assert_eq!(translated["id"], "x");
            assert_eq!(translated["error"]["code"], 5022);
            assert_eq!(translated["error"]["data"]["reason"], "input_needed");
        }
    }

    #[test]
    fn errors_about_headers_are_ours_and_the_others_stay() {
        let error =
            |code: i64| format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":"m"}}}}"#);
        for (code, expected) in [(-32020, -32603), (-32022, -32603), (-32602, -32602), (-32601, -32601)] {
            check_response("tools/call", &error(code), &error(expected));
        }
    }

    #[test]
    fn notifications_lose_the_name_of_their_stream() {
        let note = |message: &str| {
            modern_server().note(Bytes::copy_from_slice(message.as_bytes())).map(|it| text(&it).to_owned())
        };
        let id = r#""io.modelcontextprotocol/subscriptionId":"l""#;
        let updated = |meta: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"a"{meta}}}}}"#
            )
        };
        assert_eq!(note(&updated(&format!(r#","_meta":{{{id}}}"#))), Some(updated("")));
        assert_eq!(
            note(&updated(&format!(r#","_meta":{{"a":1,{id}}}"#))),
            Some(updated(r#","_meta":{"a":1}"#))
        );
        assert_eq!(note(&updated("")), Some(updated("")));
        let acknowledged = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"_meta":{{{id}}}}}}}"#
        );
        assert_eq!(note(&acknowledged), None);
    }
}

/// JSON as others write it: any key order, blanks, numbers of any precision, escapes.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("1.10".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
        Just("-0.0e+5".to_owned()),
        Just("null".to_owned()),
        Just(r#""\u00e9\/ü""#.to_owned()),
        "[a-z]{0,5}".prop_map(|text| format!("\"{text}\"")),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[ {}]", items.join(", "))),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..4).prop_map(|members| {
                let members: Vec<_> =
                    members.iter().rev().map(|(key, value)| format!("\"{key}\" :{value}")).collect();
                format!("{{{} }}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn an_ordinary_call_comes_through_both_translations_byte_by_byte(
        arguments in json_text(), extra in json_text(), token in 0..9_u32, blank in "[ \n]{0,2}", has_meta: bool,
    ) {
        let meta = if has_meta { format!(r#","_meta":{{"progressToken":{token}}}"#) } else { String::new() };
        let request = format!(
            r#"{{"jsonrpc":"2.0","id":{token},"method":"tools/call","params":{{{blank}"name":"t","arguments":{{"a":{arguments}}},"zz":{extra}{meta}}}}}"#
        );
        let caller = Caller { client_info: Some("{}"), log_level: Some(Level::Info), ..Caller::default() };
        let there = forwarded(to_modern(caller, &request));
        prop_assert_eq!(forwarded(to_legacy(&there)), request);

        let response = format!(
            r#"{{"jsonrpc":"2.0","id":{token},"result":{{{blank}"content":[{arguments}],"structuredContent":{extra}{meta}}}}}"#
        );
        let there = legacy_server().response(asked("tools/call"), &response.clone().into()).unwrap();
        let back = response_of(modern_server().response(asked("tools/call"), &there));
        prop_assert_eq!(text(&back), response);
    }
}
