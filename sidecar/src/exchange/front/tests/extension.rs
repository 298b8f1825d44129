//! Tasks of a modern server for callers of the legacy era.

use serde_json::{Value, json};

use super::*;

const CAPABLE: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"extensions":{"io.modelcontextprotocol/tasks":{}}},"ttlMs":0,"cacheScope":"private"}"#;
const QUESTION: &str =
    r#"{"method":"elicitation/create","params":{"message":"Sure?","requestedSchema":{"type":"object"}}}"#;

fn stage() -> Stage {
    with(&Limits::default())
}

fn with(limits: &Limits) -> Stage {
    let stage = Stage::new(Era::Modern, limits);
    let introduction =
        Introduction { era: Era::Modern, revision: "2026-07-28".to_owned(), result: CAPABLE.into() };
    *stage.peer.introduction.lock().unwrap() = Ok(Arc::new(introduction));
    stage
}

async fn opened(stage: &Stage) -> String {
    let body =
        initialize("2025-11-25").replace(r#""capabilities":{}"#, r#""capabilities":{"elicitation":{}}"#);
    let answer = answered(stage.send("caller", Era::Legacy, "POST", &[], &body)).await;
    answer.headers()["mcp-session-id"].to_str().unwrap().to_owned()
}

fn ask(method: &str, params: Value) -> String {
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string()
}

fn about(method: &str, task: &str) -> String {
    ask(method, json!({ "taskId": task }))
}

fn run() -> String {
    ask("tools/call", json!({ "name": "t", "task": { "ttl": 60000 } }))
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

async fn said(answer: Answered) -> Value {
    value(&json(answered(answer).await).await)
}

/// Answers a request of the sidecar's under its own id.
async fn answer(called: Called, result: Value) {
    let id = value(&called.message)["id"].clone();
    called.respond(&json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string()).await;
}

async fn refuse(called: Called, code: i64) {
    let id = value(&called.message)["id"].clone();
    let error = json!({ "code": code, "message": "m" });
    called.respond(&json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string()).await;
}

fn task(status: &str, more: Value) -> Value {
    let mut task = json!({ "resultType": "complete", "taskId": "s", "status": status, "createdAt": "a",
        "lastUpdatedAt": "b", "ttlMs": null, "pollIntervalMs": 200 });
    for (key, value) in more.as_object().unwrap() {
        task[key] = value.clone();
    }
    task
}

/// The next request of the server's, about a task of its.
async fn asked(stage: &mut Stage, method: &str) -> Called {
    let called = stage.called().await;
    let message = value(&called.message);
    assert_eq!(
        (&message["method"], &message["params"]["taskId"]),
        (&json!(method), &json!("s")),
        "{message}"
    );
    assert!(knows_tasks(&message), "{message}");
    called
}

fn note_of(method: &str, params: Value) -> String {
    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string()
}

fn knows_tasks(message: &Value) -> bool {
    let declared = &message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"]["extensions"];
    declared.get("io.modelcontextprotocol/tasks").is_some()
}

/// The id of a task that was begun, and the stream by which the server is asked to tell of it.
async fn begun(stage: &mut Stage, session: &str) -> (String, Called) {
    let waiting = stage.legacy(session, &run());
    let called = stage.called().await;
    let message = value(&called.message);
    assert!(knows_tasks(&message) && message["params"].get("task").is_none(), "{message}");
    answer(called, task("working", json!({ "resultType": "task" }))).await;
    let said = said(waiting).await;
    let begun = &said["result"]["task"];
    assert_eq!((&said["id"], &begun["status"], &begun["ttl"]), (&json!(1), &json!("working"), &Value::Null));
    let listen = stage.called().await;
    let message = value(&listen.message);
    assert_eq!(message["params"]["notifications"], json!({ "taskIds": ["s"] }), "{message}");
    assert!(knows_tasks(&message), "{message}");
    let agreed = json!({ "notifications": { "taskIds": ["s"] } });
    listen.note(&note_of("notifications/subscriptions/acknowledged", agreed)).await;
    (begun["taskId"].as_str().unwrap().to_owned(), listen)
}

#[tokio::test(start_paused = true)]
async fn tasks_are_offered_to_callers_of_the_revision_that_has_them_and_to_no_others() {
    let mut stage = stage();
    for (revision, has_tasks) in [("2025-11-25", true), ("2025-06-18", false)] {
        let body = initialize(revision);
        let initialized = said(stage.send("caller", Era::Legacy, "POST", &[], &body)).await;
        let capabilities = &initialized["result"]["capabilities"];
        assert_eq!(
            capabilities["tasks"]["requests"]["tools"]["call"].is_object(),
            has_tasks,
            "{capabilities}"
        );
        assert!(capabilities.get("extensions").is_none(), "{capabilities}");
        let session = stage.open(revision).await;
        let listing = stage.legacy(&session, &ask("tools/list", json!({})));
        answer(stage.called().await, json!({ "resultType": "complete", "tools": [{ "name": "t" }] })).await;
        let listed = said(listing).await;
        let support = if has_tasks { json!("optional") } else { Value::Null };
        assert_eq!(listed["result"]["tools"][0]["execution"]["taskSupport"], support, "{listed}");
        let all = said(stage.legacy(&session, &ask("tasks/list", json!({})))).await;
        assert_eq!(all.get("error").is_none(), has_tasks, "{all}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_tasks_result_gets_it_when_the_server_has_it() {
    let mut stage = stage();
    let session = opened(&stage).await;
    let (id, _listen) = begun(&mut stage, &session).await;
    let waiting = stage.legacy(&session, &about("tasks/result", &id));
    for _ in 0..3 {
        answer(asked(&mut stage, "tasks/get").await, task("working", json!({}))).await;
    }
    let result = json!({ "resultType": "complete", "content": [], "isError": true });
    answer(asked(&mut stage, "tasks/get").await, task("completed", json!({ "result": result }))).await;
    let done = said(waiting).await;
    let related = json!({ "io.modelcontextprotocol/related-task": { "taskId": id } });
    assert_eq!(done["result"], json!({ "content": [], "isError": true, "_meta": related }));
    let standing = stage.legacy(&session, &about("tasks/get", &id));
    answer(asked(&mut stage, "tasks/get").await, task("completed", json!({ "result": result }))).await;
    let standing = said(standing).await;
    assert_eq!(
        (&standing["result"]["status"], &standing["result"]["pollInterval"]),
        (&json!("failed"), &json!(200))
    );
    assert!(standing["result"].get("result").is_none(), "{standing}");

    let waiting = stage.legacy(&session, &about("tasks/result", &id));
    let error = json!({ "code": -32020, "message": "m" });
    answer(asked(&mut stage, "tasks/get").await, task("failed", json!({ "error": error }))).await;
    assert_eq!(said(waiting).await["error"]["code"], -32603, "codes of the other era mislead");
    let waiting = stage.legacy(&session, &about("tasks/result", &id));
    answer(asked(&mut stage, "tasks/get").await, task("cancelled", json!({}))).await;
    assert_eq!(said(waiting).await["error"]["code"], -32602);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_told_when_that_takes_too_long_and_when_the_sidecar_stops() {
    let limits =
        Limits { task_wait_timeout: crate::limits::Limited(Duration::from_secs(1)), ..Limits::default() };
    let mut stage = with(&limits);
    let session = opened(&stage).await;
    let (id, _listen) = begun(&mut stage, &session).await;
    let waiting = stage.legacy(&session, &about("tasks/result", &id));
    for _ in 0..5 {
        answer(asked(&mut stage, "tasks/get").await, task("working", json!({}))).await;
    }
    assert_eq!(refused(waiting).await, Refusal::TimedOut { after: Duration::from_secs(1) });

    let waiting = stage.legacy(&session, &about("tasks/result", &id));
    let unanswered = asked(&mut stage, "tasks/get").await;
    stage.drain.cancel();
    let mut told = stream(answered(waiting).await);
    let mut last = String::new();
    while let Some(event) = next(&mut told).await {
        last = event;
    }
    assert!(last.contains(r#""id":1,"error""#) && last.contains("draining"), "{last}");
    unanswered.reply.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_takes_the_question_back_lets_the_server_alone() {
    let mut stage = stage();
    let session = opened(&stage).await;
    let (id, _listen) = begun(&mut stage, &session).await;
    let waiting = stage.legacy(&session, &about("tasks/result", &id));
    let called = asked(&mut stage, "tasks/get").await;
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    answered(stage.legacy(&session, cancel)).await;
    called.reply.closed().await;
    answered(waiting).await;
    pass(Duration::from_secs(30)).await;
    assert!(stage.calls.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_the_server_answers_at_once_is_kept_until_it_is_asked_for() {
    let mut stage = stage();
    let session = opened(&stage).await;
    let waiting = stage.legacy(&session, &run());
    let content = json!([{ "type": "text", "text": "x" }]);
    answer(stage.called().await, json!({ "resultType": "complete", "content": content })).await;
    let begun = said(waiting).await;
    let task = &begun["result"]["task"];
    assert_eq!((&task["status"], &task["ttl"]), (&json!("completed"), &json!(60000)), "{begun}");
    let id = task["taskId"].as_str().unwrap();
    for _ in 0..2 {
        let done = said(stage.legacy(&session, &about("tasks/result", id))).await;
        let related = json!({ "io.modelcontextprotocol/related-task": { "taskId": id } });
        assert_eq!(done["result"], json!({ "content": content, "_meta": related }));
    }
    assert_eq!(said(stage.legacy(&session, &about("tasks/get", id))).await["result"], *task);
    assert_eq!(said(stage.legacy(&session, &about("tasks/cancel", id))).await["error"]["code"], -32602);
    assert_eq!(
        said(stage.legacy(&session, &ask("tasks/list", json!({})))).await["result"]["tasks"],
        json!([task])
    );
    assert!(stage.calls.try_recv().is_err(), "the server is asked nothing");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(refused(stage.legacy(&session, &about("tasks/result", id))).await, Refusal::TaskUnknown);
    // An error is no task.
    let waiting = stage.legacy(&session, &run());
    refuse(stage.called().await, -32602).await;
    assert_eq!(said(waiting).await["error"]["code"], -32602);
    let none = said(stage.legacy(&session, &ask("tasks/list", json!({})))).await;
    assert_eq!(none["result"]["tasks"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn a_call_for_whose_result_there_is_no_room_is_refused_before_it_is_made() {
    let mut stage = with(&Limits { tasks_per_caller_max: 1, ..Limits::default() });
    let session = opened(&stage).await;
    let waiting = stage.legacy(&session, &run());
    answer(stage.called().await, json!({ "content": [] })).await;
    said(waiting).await;
    assert_eq!(refused(stage.legacy(&session, &run())).await, Refusal::TooManyTasks);
    assert!(stage.calls.try_recv().is_err());
    let plain = stage.legacy(&session, &call("2"));
    answer(stage.called().await, json!({ "content": [] })).await;
    assert_eq!(said(plain).await["result"], json!({ "content": [] }));
}

#[tokio::test(start_paused = true)]
async fn tasks_are_listed_that_the_server_still_knows_and_each_is_its_callers_alone() {
    let mut stage = stage();
    let session = opened(&stage).await;
    let (id, _listen) = begun(&mut stage, &session).await;
    let listing = stage.legacy(&session, &ask("tasks/list", json!({})));
    answer(asked(&mut stage, "tasks/get").await, task("working", json!({}))).await;
    let listed = said(listing).await;
    assert_eq!(listed["result"]["tasks"][0]["taskId"], json!(id), "{listed}");
    assert_eq!(
        refused(stage.legacy(&session, &ask("tasks/list", json!({ "cursor": "x" })))).await,
        Refusal::BadMeta("there is no such page".to_owned())
    );
    let body = initialize("2025-11-25");
    let thief = answered(stage.send("thief", Era::Legacy, "POST", &[], &body)).await;
    let thief = thief.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let steal = |body: &str| stage.send("thief", Era::Legacy, "POST", &[("mcp-session-id", &thief)], body);
    for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
        for other in [id.as_str(), "s", ""] {
            assert_eq!(refused(steal(&about(method, other))).await, Refusal::TaskUnknown);
        }
    }
    assert_eq!(said(steal(&ask("tasks/list", json!({})))).await["result"]["tasks"], json!([]));
    let listing = stage.legacy(&session, &ask("tasks/list", json!({})));
    refuse(asked(&mut stage, "tasks/get").await, -32602).await;
    assert_eq!(said(listing).await["result"]["tasks"], json!([]));
    assert_eq!(
        said(stage.legacy(&session, &ask("tasks/list", json!({})))).await["result"]["tasks"],
        json!([])
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_is_cancelled_and_one_that_has_ended_is_not() {
    let mut stage = stage();
    let session = opened(&stage).await;
    let (id, _listen) = begun(&mut stage, &session).await;
    let waiting = stage.legacy(&session, &about("tasks/cancel", &id));
    answer(asked(&mut stage, "tasks/get").await, task("working", json!({}))).await;
    answer(asked(&mut stage, "tasks/cancel").await, json!({ "resultType": "complete" })).await;
    answer(asked(&mut stage, "tasks/get").await, task("cancelled", json!({}))).await;
    assert_eq!(said(waiting).await["result"]["status"], "cancelled");
    let waiting = stage.legacy(&session, &about("tasks/cancel", &id));
    answer(asked(&mut stage, "tasks/get").await, task("cancelled", json!({}))).await;
    assert_eq!(said(waiting).await["error"]["code"], -32602);
    let waiting = stage.legacy(&session, &about("tasks/cancel", &id));
    refuse(asked(&mut stage, "tasks/get").await, -32602).await;
    let gone = said(waiting).await;
    assert_eq!((&gone["id"], &gone["error"]["code"]), (&json!(1), &json!(-32602)));
}

#[tokio::test(start_paused = true)]
async fn what_a_task_wants_to_know_is_asked_of_whoever_waits_for_its_result_once() {
    let mut stage = stage();
    let session = opened(&stage).await;
    let (id, _listen) = begun(&mut stage, &session).await;
    let waiting = stage.legacy(&session, &about("tasks/result", &id));
    let needs = json!({ "inputRequests": { "sure": value(QUESTION) } });
    answer(asked(&mut stage, "tasks/get").await, task("input_required", needs.clone())).await;
    let mut told = stream(answered(waiting).await);
    let mut question = next(&mut told).await.unwrap();
    while !question.contains("elicitation/create") {
        question = next(&mut told).await.unwrap();
    }
    let question = value(question.split("data: ").nth(1).unwrap());
    assert_eq!(question["params"]["_meta"]["io.modelcontextprotocol/related-task"]["taskId"], json!(id));
    let given = json!({ "action": "accept", "content": { "a": 1 } });
    let response = json!({ "jsonrpc": "2.0", "id": question["id"], "result": given });
    answered(stage.legacy(&session, &response.to_string())).await;
    let update = asked(&mut stage, "tasks/update").await;
    assert_eq!(value(&update.message)["params"]["inputResponses"], json!({ "sure": given }));
    answer(update, json!({ "resultType": "complete" })).await;
    // It takes the server a while to notice.
    answer(asked(&mut stage, "tasks/get").await, task("input_required", needs)).await;
    let result = json!({ "content": [] });
    answer(asked(&mut stage, "tasks/get").await, task("completed", json!({ "result": result }))).await;
    let done = next(&mut told).await.unwrap();
    assert!(done.contains(r#""id":1,"result""#), "{done}");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_said_that_they_could_be_asked_is_not_asked() {
    let mut stage = stage();
    let session = opened(&stage).await;
    let (id, _listen) = begun(&mut stage, &session).await;
    let waiting = stage.legacy(&session, &about("tasks/result", &id));
    let needs = json!({ "inputRequests": { "where": { "method": "roots/list" } } });
    answer(asked(&mut stage, "tasks/get").await, task("input_required", needs)).await;
    assert_eq!(refused(waiting).await, Refusal::InputNeeded);
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_told_how_its_task_gets_on_until_it_has_ended() {
    let mut stage = stage();
    let session = opened(&stage).await;
    let mut listening = stream(answered(stage.get(&session, None)).await);
    let (id, listen) = begun(&mut stage, &session).await;
    for (told, expected) in [
        (task("working", json!({ "statusMessage": "half" })), "working"),
        (task("completed", json!({ "result": { "isError": true } })), "failed"),
    ] {
        listen.note(&note_of("notifications/tasks", told)).await;
        let mut event = next(&mut listening).await.unwrap();
        while !event.contains("data: {") {
            event = next(&mut listening).await.unwrap();
        }
        let told = value(event.split("data: ").nth(1).unwrap());
        assert_eq!(told["method"], "notifications/tasks/status", "{told}");
        assert_eq!(
            (&told["params"]["taskId"], &told["params"]["status"]),
            (&json!(id), &json!(expected)),
            "{told}"
        );
    }
    // Nothing is left to be heard of.
    listen.reply.closed().await;
}
