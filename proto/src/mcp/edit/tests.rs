use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::mcp::{Body, Bounds, Message, parse};

const BOUNDS: Bounds = Bounds { depth_max: 8, batch_max: 1 };

fn message(json: &str) -> Message<'_> {
    match parse(json.as_bytes(), BOUNDS).unwrap() {
        Body::One(message) => message,
        Body::Batch(_) => panic!("{json} is a batch"),
    }
}

#[track_caller]
fn check_token(json: &str, expected: &str) {
    let Message::Request(request) = message(json) else { panic!("{json} is no request") };
    let edited = with_progress_token(json.as_bytes(), &request, "5");
    assert_eq!(String::from_utf8(edited).unwrap(), expected);
}

#[test]
fn a_progress_token_finds_its_place() {
    check_token(
        r#"{"id":1,"jsonrpc":"2.0","method":"ping"}"#,
        r#"{"id":1,"params":{"_meta":{"progressToken":5}},"jsonrpc":"2.0","method":"ping"}"#,
    );
    check_token(
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{ }}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToken":5} }}"#,
    );
    check_token(
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToken":5},"a":1}}"#,
    );
    check_token(
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":null}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToken":5}}}"#,
    );
    check_token(
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{ "a":1}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToken":5, "a":1}}}"#,
    );
    check_token(
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToken" : "x" }}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToken" : 5 }}}"#,
    );
    check_token(
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToken":null}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToken":5}}}"#,
    );
}

#[test]
fn an_answer_gets_another_id_even_if_it_had_none() {
    for (json, expected) in [
        (r#"{ "id" : "a", "jsonrpc":"2.0","result":{} }"#, r#"{ "id" : 9, "jsonrpc":"2.0","result":{} }"#),
        (
            r#"{"jsonrpc":"2.0","error":{"code":1,"message":"m","data":1e99}}"#,
            r#"{"jsonrpc":"2.0","id":9,"error":{"code":1,"message":"m","data":1e99}}"#,
        ),
        (
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}"#,
            r#"{"jsonrpc":"2.0","id":9,"error":{"code":1,"message":"m"}}"#,
        ),
    ] {
        let Message::Response(response) = message(json) else { panic!("{json} is no answer") };
        let edited = response_with_id(json.as_bytes(), &response, "9");
        assert_eq!(String::from_utf8(edited).unwrap(), expected);
    }
}

#[test]
fn what_is_built_is_read_back() {
    let raw: &RawValue = serde_json::from_str(r#"{"a":[1e999]}"#).unwrap();
    for (built, expected) in [
        (
            error(Some("1"), -5, "a \"b\"\n", None),
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-5,"message":"a \"b\"\n"}}"#,
        ),
        (
            error(None, -5, "é", Some(raw)),
            r#"{"jsonrpc":"2.0","error":{"code":-5,"message":"é","data":{"a":[1e999]}}}"#,
        ),
        (result(r#""x""#, raw), r#"{"jsonrpc":"2.0","id":"x","result":{"a":[1e999]}}"#),
        (request("1", "tools/list", None), r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#),
        (request("1", "a", Some(raw)), r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"a":[1e999]}}"#),
        (notification("a", Some(raw)), r#"{"jsonrpc":"2.0","method":"a","params":{"a":[1e999]}}"#),
    ] {
        let built = String::from_utf8(built).unwrap();
        assert_eq!(built, expected);
        message(&built);
    }
}

proptest! {
    #[test]
    fn a_splice_leaves_every_other_byte(
        parts in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>(), any::<Vec<u8>>()), 0..5),
        end in any::<Vec<u8>>(),
        backwards: bool,
    ) {
        let (mut bytes, mut edits, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        for (kept, old, new) in parts {
            bytes.extend(&kept);
            // Two edits at one place would need an order.
            bytes.push(0);
            edits.push((bytes.len()..bytes.len() + old.len(), new.clone()));
            bytes.extend(old);
            expected.extend(kept);
            expected.push(0);
            expected.extend(new);
        }
        bytes.extend(&end);
        expected.extend(end);
        if backwards {
            edits.reverse();
        }
        prop_assert_eq!(splice(&bytes, edits), expected);
    }
}
