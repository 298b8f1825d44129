//! Messages as a caller or a server sends them.

use serde_json::Value;
use weft_proto::mcp::{Body, Bounds, Message, Outcome, Request, Response, Target, edit, parse, span};

use crate::spiffe::MESSAGE_BYTES_MAX;

const BOUNDS: Bounds = Bounds { depth_max: 32, batch_max: 8 };

/// What is read must be what another reader reads, and an edit must change what it names and nothing else.
pub fn classify(data: &[u8]) {
    let body = match parse(data, BOUNDS) {
        Ok(body) => body,
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() <= MESSAGE_BYTES_MAX, "a message repeats too much: {message}");
            return;
        }
    };
    // Numbers beyond what a float can hold are JSON, but not for this reader.
    let whole: Option<Value> = match serde_json::from_slice(data) {
        Ok(value) => Some(value),
        Err(error) if error.to_string().starts_with("number out of range") => None,
        Err(error) => panic!("not for every reader: {error}"),
    };
    match body {
        Body::One(message) => one(data, &message, whole.as_ref()),
        Body::Batch(messages) => {
            assert!((1..=BOUNDS.batch_max).contains(&messages.len()));
            for (n, message) in messages.iter().enumerate() {
                check(data, message, whole.as_ref().map(|whole| &whole[n]));
            }
        }
    }
}

fn one(data: &[u8], message: &Message<'_>, value: Option<&Value>) {
    check(data, message, value);
    match message {
        Message::Request(request) => {
            let params = &request.params;
            for raw in [params.raw, params.arguments, params.meta.raw].into_iter().flatten() {
                assert_eq!(raw.value().get(), raw.get());
            }
            edited(data, request);
        }
        Message::Response(response) => answered(data, response),
        Message::Notification(_) => {}
    }
}

/// Compares a message with what another reader makes of it.
fn check(data: &[u8], message: &Message<'_>, value: Option<&Value>) {
    let Some(value) = value else { return };
    assert_eq!(value["jsonrpc"], "2.0");
    assert_eq!(message.method(), value["method"].as_str());
    match message {
        Message::Request(request) => {
            assert_eq!(&data[span(data, request.id.raw())], request.id.raw().as_bytes());
            assert_eq!(as_value(request.id.raw()), value["id"]);
            assert_eq!(as_value(&request.id.canonical()), unsigned_zero(&value["id"]));
            let params = &value["params"];
            match request.target() {
                Some(Target::Tool(name)) => assert_eq!(params["name"], name),
                Some(Target::Prompt(name)) => {
                    assert!(params["name"] == name || params["ref"]["name"] == name);
                }
                Some(Target::Resource(uri)) => assert!(params["uri"] == uri || params["ref"]["uri"] == uri),
                Some(Target::Task(id)) => assert_eq!(params["taskId"], id),
                None => {}
            }
        }
        Message::Notification(_) => assert!(value.get("id").is_none()),
        Message::Response(response) => {
            assert!(response.id.is_some() || value["id"].is_null());
            match &response.outcome {
                Outcome::Result(_) => assert!(value["result"].is_object()),
                Outcome::Error(fault) => assert_eq!(unsigned_zero(&value["error"]["code"]), fault.code),
            }
        }
    }
}

/// Minus zero, which a value keeps apart, is zero to whoever reads integers.
fn unsigned_zero(value: &Value) -> Value {
    if value.as_f64() == Some(0.0) { Value::from(0) } else { value.clone() }
}

fn edited(data: &[u8], request: &Request<'_>) {
    let renamed = edit::with_id(data, request, r#""other""#);
    let again = read(&renamed);
    assert_eq!((again.id.raw(), again.target()), (r#""other""#, request.target()));
    assert_eq!(edit::with_id(&renamed, &again, request.id.raw()), data, "an id was not all that changed");

    // Two objects more may be more than the bound on depth.
    let traced = edit::with_progress_token(data, request, "5");
    let again = read(&traced);
    assert_eq!((again.id.raw(), again.target()), (request.id.raw(), request.target()));
    assert_eq!(again.params.meta.progress_token.map(|token| token.get()), Some("5"));
    let (mut before, mut after) = (value(data), value(&traced));
    for value in [&mut before, &mut after].into_iter().flatten() {
        let params = value.as_object_mut().expect("a message").entry("params");
        let params = params.or_insert_with(|| Value::Object(serde_json::Map::new()));
        let meta = params.as_object_mut().expect("an object").entry("_meta").or_insert(Value::Null);
        if meta.is_null() {
            *meta = Value::Object(serde_json::Map::new());
        }
        meta.as_object_mut().expect("an object").insert("progressToken".to_owned(), Value::Null);
    }
    assert_eq!(before, after, "a progress token was not all that changed");
}

fn answered(data: &[u8], response: &Response<'_>) {
    let renamed = edit::response_with_id(data, response, "7");
    match parse(&renamed, BOUNDS) {
        Ok(Body::One(Message::Response(again))) => assert_eq!(again.id.map(|id| id.raw()), Some("7")),
        other => panic!("an answer became {other:?}"),
    }
}

fn read(bytes: &[u8]) -> Request<'_> {
    match parse(bytes, Bounds { depth_max: BOUNDS.depth_max + 2, ..BOUNDS }) {
        Ok(Body::One(Message::Request(request))) => request,
        other => panic!("a request became {other:?}"),
    }
}

fn value(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

fn as_value(json: &str) -> Value {
    serde_json::from_str(json).expect("a part of a message is JSON")
}
