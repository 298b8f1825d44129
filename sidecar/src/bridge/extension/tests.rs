use super::*;

const BOUNDS: Bounds = Bounds { depth_max: 32, batch_max: 1 };

fn raw(text: &str) -> &RawValue {
    serde_json::from_str(text).unwrap()
}

fn task(status: &str, more: &str) -> Task {
    let text = format!(
        r#"{{"resultType":"complete","taskId":"s","status":"{status}","createdAt":"a","lastUpdatedAt":"b","ttlMs":60000,"pollIntervalMs":500,"x":1{more}}}"#
    );
    Task::read(Raw::scan(&text, 8).unwrap()).unwrap()
}

fn value(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_task_has_the_names_of_the_legacy_era_and_the_id_of_its_caller() {
    let expected = json!({ "taskId": "c", "status": "working", "createdAt": "a", "lastUpdatedAt": "b",
        "ttl": 60000, "pollInterval": 500 });
    let working = task("working", "");
    assert_eq!(value(&working.standing("c")), expected);
    assert_eq!(value(&working.begun("c")), json!({ "task": expected }));
    let told = value(text(&working.told("c")));
    assert_eq!((&told["method"], &told["params"]), (&json!("notifications/tasks/status"), &expected));
    let bare = r#"{"taskId":"s","status":"input_required","createdAt":"a","ttlMs":null,"statusMessage":"m"}"#;
    let bare = Task::read(Raw::scan(bare, 8).unwrap()).unwrap();
    assert_eq!(
        value(&bare.standing("c")),
        json!({ "taskId": "c", "status": "input_required", "createdAt": "a", "lastUpdatedAt": "a",
            "ttl": null, "statusMessage": "m" })
    );
    for none in
        ["{}", r#"{"taskId":1}"#, r#"{"content":[]}"#, r#"{"taskId":"s","status":"new","createdAt":"a"}"#]
    {
        assert!(Task::read(Raw::scan(none, 8).unwrap()).is_none(), "{none}");
    }
}

#[test]
fn a_tool_that_failed_is_a_failed_task_and_its_result_is_what_there_is() {
    let check = |task: &Task, status: Status, end: Option<End>| {
        assert_eq!((task.status(), task.end()), (status, end));
    };
    let result = r#"{"content":[],"n":1.50}"#;
    let done = task("completed", &format!(r#","result":{result}"#));
    check(&done, Status::Completed, Some(End::Result(result.to_owned())));
    let result = r#"{"isError":true}"#;
    let wrong = task("completed", &format!(r#","result":{result}"#));
    check(&wrong, Status::Failed, Some(End::Result(result.to_owned())));
    let error = r#"{"code":-1,"message":"m"}"#;
    check(
        &task("failed", &format!(r#","error":{error}"#)),
        Status::Failed,
        Some(End::Error(error.to_owned())),
    );
    check(&task("cancelled", ""), Status::Cancelled, None);
    check(&task("working", r#","result":{}"#), Status::Working, None);
    assert!(task("completed", "").has_ended() && !task("input_required", "").has_ended());
}

#[test]
fn a_result_says_which_task_it_belongs_to_and_nothing_else_of_it_changes() {
    let check = |end: End, expected: &str| {
        assert_eq!(text(&related(&outcome("7", &end), "c", BOUNDS).unwrap()), expected);
    };
    let related = r#""io.modelcontextprotocol/related-task":{"taskId":"c"}"#;
    check(
        End::Result(r#"{"n": 1.50}"#.to_owned()),
        &format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"_meta":{{{related}}},"n": 1.50}}}}"#),
    );
    check(
        End::Result(r#"{"_meta":{"a":1}}"#.to_owned()),
        &format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"_meta":{{{related},"a":1}}}}}}"#),
    );
    let error = r#"{"code":-1,"message":"m"}"#;
    check(End::Error(error.to_owned()), &format!(r#"{{"jsonrpc":"2.0","id":7,"error":{error}}}"#));
}

#[test]
fn callers_who_know_tasks_are_told_that_there_are_some_and_others_are_told_of_none() {
    let check = |own: &str, latest: serde_json::Value, earlier: serde_json::Value| {
        let said = |revision| value(&capabilities(raw(own), &Object::parse(raw(own)).unwrap(), revision));
        assert_eq!(said(Revision::V2025_11_25), latest);
        assert_eq!(said(Revision::V2025_06_18), earlier);
    };
    let tasks = json!({ "list": {}, "cancel": {}, "requests": { "tools": { "call": {} } } });
    check(
        r#"{"tools":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#,
        json!({ "tools": {}, "tasks": tasks }),
        json!({ "tools": {} }),
    );
    check(
        r#"{"tasks":1,"extensions":{"x":1,"io.modelcontextprotocol/tasks":{}}}"#,
        json!({ "tasks": tasks, "extensions": { "x": 1 } }),
        json!({ "extensions": { "x": 1 } }),
    );
    // What has another meaning in its own era is not believed.
    check(r#"{"tools":{},"tasks":{"list":{}}}"#, json!({ "tools": {} }), json!({ "tools": {} }));
}

#[test]
fn every_tool_says_that_it_can_be_a_task_unless_it_says_something_else() {
    let list = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"},{"name":"b","execution":{}},{"name":"c","execution":{"taskSupport":"forbidden"}},{"name":"d","execution":null}],"x":1.0}}"#;
    let listed = with_support(&Bytes::from(list), BOUNDS).unwrap();
    let optional = r#""execution":{"taskSupport":"optional"}"#;
    assert_eq!(
        text(&listed),
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{{{optional},"name":"a"}},{{"name":"b",{optional}}},{{"name":"c","execution":{{"taskSupport":"forbidden"}}}},{{{optional},"name":"d"}}],"x":1.0}}}}"#
        )
    );
    for other in [
        r#"{"jsonrpc":"2.0","id":1,"result":{"tools":1}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}"#,
    ] {
        assert_eq!(text(&with_support(&Bytes::from(other), BOUNDS).unwrap()), other);
    }
}

#[test]
fn only_what_was_not_answered_is_asked_and_it_says_which_task_it_belongs_to() {
    let asks = r#","inputRequests":{"who":{"method":"elicitation/create","params":{"message":"?","_meta":{"a":1}}},"where":{"method":"roots/list"}}"#;
    let waiting = task("input_required", asks);
    let needs = waiting.needs("c", &HashSet::new()).unwrap().unwrap();
    let [(first, who), (second, roots)] = &needs.wishes[..] else { panic!("{needs:?}") };
    assert_eq!((first.as_str(), second.as_str()), ("who", "where"));
    let related = json!({ "taskId": "c" });
    assert_eq!(
        value(who.params.as_ref().unwrap()),
        json!({ "message": "?", "_meta": { "a": 1, "io.modelcontextprotocol/related-task": related } })
    );
    assert_eq!(
        value(roots.params.as_ref().unwrap()),
        json!({ "_meta": { "io.modelcontextprotocol/related-task": related } })
    );
    let answered = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
    let left = waiting.needs("c", &answered(&["who"])).unwrap().unwrap();
    assert_eq!(left.wishes.len(), 1);
    assert_eq!(waiting.needs("c", &answered(&["who", "where"])), Ok(None));
    assert_eq!(task("working", asks).needs("c", &HashSet::new()), Ok(None));
    let broken = task("input_required", r#","inputRequests":{"who":1}"#);
    assert!(matches!(broken.needs("c", &HashSet::new()), Err(Refusal::UpstreamBroke(_))));
}

#[test]
fn a_server_is_asked_as_often_as_it_says_within_bounds() {
    let pause = |interval: &str| {
        let text = format!(r#"{{"taskId":"s","status":"working","createdAt":"a"{interval}}}"#);
        Task::read(Raw::scan(&text, 8).unwrap()).unwrap().pause()
    };
    assert_eq!(pause(r#","pollIntervalMs":500"#), Duration::from_millis(500));
    for (interval, expected) in [
        ("", PAUSE),
        (r#","pollIntervalMs":0"#, PAUSE_MIN),
        (r#","pollIntervalMs":-5"#, PAUSE),
        (r#","pollIntervalMs":1e300"#, PAUSE),
        (r#","pollIntervalMs":3600000"#, PAUSE_MAX),
    ] {
        assert_eq!(pause(interval), expected, "{interval}");
    }
}

#[test]
fn a_request_about_a_task_says_that_its_caller_knows_them() {
    let abilities = crate::bridge::Abilities { roots: true, ..Default::default() };
    let caller = Caller { client_info: Some(r#"{"name":"c"}"#), abilities, ..Caller::default() };
    let message = value(text(&request(caller, "tasks/get", "\"i\"", &[("taskId", "\"s\"")])));
    assert_eq!(
        message,
        json!({ "jsonrpc": "2.0", "id": "i", "method": "tasks/get", "params": { "taskId": "s", "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities":
                { "extensions": { "io.modelcontextprotocol/tasks": {} }, "roots": {} },
            "io.modelcontextprotocol/clientInfo": { "name": "c" },
        } } })
    );
}

#[test]
fn a_call_is_wanted_as_a_task_where_it_says_so_in_an_object() {
    let check = |params: &str, expected: Option<Option<u64>>| {
        let message = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let message = Bytes::from(message);
        let parsed = mcp::parse(&message, BOUNDS).unwrap();
        let mcp::Body::One(Message::Request(request)) = parsed else { panic!("{params}") };
        assert_eq!(wanted(&request), expected, "{params}");
        let without = without_wish(&message, &request);
        assert!(!text(&without).contains("task") && text(&without).contains(r#""name":"t""#));
    };
    check(r#"{"name":"t"}"#, None);
    check(r#"{"name":"t","task":{}}"#, Some(None));
    check(r#"{"task":{"ttl":5,"x":1},"name":"t"}"#, Some(Some(5)));
    check(r#"{"task":{"ttl":"x"},"name":"t"}"#, Some(None));
    for odd in ["5", "null", "[]"] {
        check(&format!(r#"{{"name":"t","task":{odd}}}"#), None);
    }
}
