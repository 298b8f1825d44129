use super::*;

const BOUNDS: Bounds = Bounds { depth_max: 32, batch_max: 1 };

fn raw(text: &str) -> &RawValue {
    serde_json::from_str(text).unwrap()
}

fn task(status: &str) -> Task {
    let text = format!(
        r#"{{"task":{{"taskId":"s","status":"{status}","createdAt":"a","lastUpdatedAt":"b","ttl":60000,"pollInterval":500,"x":1}}}}"#
    );
    Task::read(Raw::scan(&text, 8).unwrap()).unwrap()
}

#[track_caller]
fn same(text: &str, expected: serde_json::Value) {
    assert_eq!(serde_json::from_str::<serde_json::Value>(text).unwrap(), expected);
}

#[test]
fn a_task_that_begins_has_the_names_of_the_modern_era_and_the_id_of_its_caller() {
    same(
        &task("working").begun("c"),
        json!({ "resultType": "task", "taskId": "c", "status": "working", "createdAt": "a",
            "lastUpdatedAt": "b", "ttlMs": 60000, "pollIntervalMs": 500 }),
    );
    let bare = r#"{"taskId":"s","status":"working","createdAt":"a","ttl":null,"statusMessage":"m"}"#;
    let bare = Task::read(Raw::scan(bare, 8).unwrap()).unwrap();
    same(
        &bare.begun("c"),
        json!({ "resultType": "task", "taskId": "c", "status": "working", "createdAt": "a",
            "lastUpdatedAt": "a", "ttlMs": null, "statusMessage": "m" }),
    );
    for none in ["{}", r#"{"task":1}"#, r#"{"content":[]}"#, r#"{"task":{"taskId":1}}"#] {
        assert_eq!(Task::read(Raw::scan(none, 8).unwrap()), None, "{none}");
    }
}

#[test]
fn a_call_that_came_out_as_a_result_is_complete_also_where_the_tool_failed() {
    let check = |status: &str, end: Option<End>, expected: &str, member: &str| {
        let standing = task(status).standing("c", end.as_ref());
        let it: serde_json::Value = serde_json::from_str(&standing).unwrap();
        assert_eq!((&it["status"], &it["resultType"]), (&json!(expected), &json!("complete")));
        assert_eq!(it.get(member).is_some(), !member.is_empty(), "{standing}");
    };
    let result = || Some(End::Result(r#"{"isError":true,"n":1.50}"#.to_owned()));
    let error = || Some(End::Error(r#"{"code":-32603,"message":"x"}"#.to_owned()));
    check("completed", result(), "completed", "result");
    check("failed", result(), "completed", "result");
    check("failed", error(), "failed", "error");
    check("completed", error(), "failed", "error");
    check("working", None, "working", "");
    check("cancelled", None, "cancelled", "");
    assert!(task("completed").standing("c", result().as_ref()).contains("1.50"), "numbers stay");
}

#[test]
fn the_end_of_a_task_is_what_the_call_would_have_been_answered_with() {
    let response = br#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"s"}}}}"#;
    assert_eq!(End::read(response, BOUNDS), Ok(End::Result(r#"{"content":[]}"#.to_owned())));
    let response = br#"{"jsonrpc":"2.0","id":1,"result":{"_meta":{"a":1,"io.modelcontextprotocol/related-task":{"taskId":"s"}}}}"#;
    assert_eq!(End::read(response, BOUNDS), Ok(End::Result(r#"{"_meta":{"a":1}}"#.to_owned())));
    let response = br#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}"#;
    assert_eq!(End::read(response, BOUNDS), Ok(End::Error(r#"{"code":1,"message":"m"}"#.to_owned())));
}

#[test]
fn tasks_are_offered_where_calls_of_tools_can_be_and_nowhere_else() {
    let check = |own: &str, expected: serde_json::Value| {
        let offered = offered(raw(own), &Object::parse(raw(own)).unwrap());
        same(&offered, expected);
    };
    let extension = || json!({ "io.modelcontextprotocol/tasks": {} });
    check(r#"{"tasks":{"requests":{"tools":{"call":{}}}}}"#, json!({ "extensions": extension() }));
    check(
        r#"{"tools":{},"tasks":{"list":{},"requests":{"tools":{"call":{}}}},"extensions":{"x":1}}"#,
        json!({ "tools": {}, "extensions": { "x": 1, "io.modelcontextprotocol/tasks": {} } }),
    );
    check(r#"{"tools":{},"tasks":{"list":{},"requests":{"sampling":{}}}}"#, json!({ "tools": {} }));
    check(r#"{"tasks":{}}"#, json!({}));
    check(
        r#"{"extensions":{"io.modelcontextprotocol/tasks":{},"x":1}}"#,
        json!({ "extensions": { "x": 1 } }),
    );
}

#[test]
fn which_tools_can_be_tasks_is_learnt_page_by_page() {
    let mut known = HashMap::new();
    let page = br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","execution":{"taskSupport":"required"}},{"name":"b","execution":{"taskSupport":"optional"}},{"name":"c","execution":{"taskSupport":"forbidden"}},{"name":"d"},{"name":"e","execution":{"taskSupport":"new"}},{"name":"f","execution":{}}],"nextCursor":"2"}}"#;
    assert_eq!(learn(&mut known, page, BOUNDS).unwrap().as_deref(), Some("2"));
    assert_eq!(
        known,
        HashMap::from([("a".to_owned(), Support::Required), ("b".to_owned(), Support::Optional)])
    );
    let last = br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#;
    assert_eq!(learn(&mut known, last, BOUNDS), Ok(None));
    let none = br#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#;
    assert!(learn(&mut known, none, BOUNDS).is_err());
}

#[test]
fn a_call_becomes_a_task_whatever_its_caller_says_of_it() {
    let call = |params: &str| {
        Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#))
    };
    let as_task = |params: &str| as_task(&call(params), BOUNDS);
    assert_eq!(as_task(r#"{"name":"t"}"#), Some(call(r#"{"task":{},"name":"t"}"#)));
    assert_eq!(as_task(r#"{"task":{"ttl":1},"name":"t"}"#), Some(call(r#"{"task":{},"name":"t"}"#)));
}
