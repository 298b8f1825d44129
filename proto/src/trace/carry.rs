//! Puts a context into a message, and leaves every other byte of it.

use std::borrow::Cow;

use crate::mcp::{Message, Meta, Params, edit, json_string};

use super::{Baggage, Context, State};

/// What goes on with a message.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'a> {
    pub parent: Context,
    pub state: Option<State<'a>>,
    pub baggage: Option<Baggage<'a>>,
}

/// The message with this context in `_meta`, in place of the one that it had. None where it has no place for it: in a
/// response, and in a notification without parameters.
pub fn carry(message: &[u8], of: &Message<'_>, carried: Carried<'_>) -> Option<Vec<u8>> {
    let Carried { parent, state, baggage } = carried;
    let parent = format!("\"{parent}\"");
    let state = state.map(|it| json_string(it.as_str()));
    let baggage = baggage.map(|it| json_string(it.as_str()));
    let mut members = vec![("traceparent", &*parent)];
    members.extend(state.as_deref().map(|it| ("tracestate", it)));
    members.extend(baggage.as_deref().map(|it| ("baggage", it)));
    // A state belongs to the trace that it came with.
    if state.is_none() && params(of)?.meta.tracestate.is_some() {
        members.push(("tracestate", "\"\""));
    }
    match of {
        Message::Request(request) => Some(edit::with_meta(message, request, &members)),
        Message::Notification(note) => edit::with_meta_in(message, note.params.raw?, &members).into(),
        Message::Response(_) => None,
    }
}

fn params<'m, 'a>(of: &'m Message<'a>) -> Option<&'m Params<'a>> {
    match of {
        Message::Request(request) => Some(&request.params),
        Message::Notification(note) => Some(&note.params),
        Message::Response(_) => None,
    }
}

impl Meta<'_> {
    /// The context that a message says it belongs to.
    pub fn context(&self) -> Option<Context> {
        Context::parse(self.traceparent.as_deref()?)
    }

    /// What applications send along with the message's trace.
    pub fn baggage(&self) -> Option<Cow<'_, str>> {
        self.raw?.find("baggage").ok()??.text()
    }
}

impl Message<'_> {
    /// What a message says besides what it asks; none of a response.
    pub fn meta(&self) -> Option<&Meta<'_>> {
        params(self).map(|params| &params.meta)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::{SpanId, TraceId};
    use super::*;
    use crate::mcp::{Body, Bounds, parse};

    const OURS: &str = "00-000000000000000000000000000000ab-00000000000000cd-01";

    fn ours() -> Context {
        Context::new(TraceId::new(0xab), SpanId::new(0xcd), true)
    }

    fn carried(message: &str, state: Option<&str>, baggage: Option<&str>) -> Option<String> {
        let bounds = Bounds { depth_max: 64, batch_max: 1 };
        let Body::One(of) = parse(message.as_bytes(), bounds).unwrap() else {
            panic!("{message} is a batch")
        };
        let (state, baggage) = (state.and_then(State::parse), baggage.and_then(Baggage::parse));
        let bytes = carry(message.as_bytes(), &of, Carried { parent: ours(), state, baggage })?;
        Some(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_context_takes_the_place_of_the_one_that_was_there() {
        let check = |params: &str, expected: &str| {
            let message = |params| format!(r#"{{ "id":1, "jsonrpc":"2.0","method":"ping"{params}}}"#);
            assert_eq!(carried(&message(params), None, None).unwrap(), message(expected));
        };
        check(
            r#","params":{"_meta":{ "traceparent" : "x", "a":1}}"#,
            &format!(r#","params":{{"_meta":{{ "traceparent" : "{OURS}", "a":1}}}}"#),
        );
        check(
            r#","params":{ "b":[1 ,2]}"#,
            &format!(r#","params":{{"_meta":{{"traceparent":"{OURS}"}}, "b":[1 ,2]}}"#),
        );
        check(
            r#","params":{"_meta":{"traceparent":"x","tracestate":"a=b"}}"#,
            &format!(r#","params":{{"_meta":{{"traceparent":"{OURS}","tracestate":""}}}}"#),
        );
    }

    #[test]
    fn what_came_in_headers_goes_on_in_the_message() {
        let message = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let found: Value =
            serde_json::from_str(&carried(message, Some("a=1"), Some("b=\"2\"")).unwrap()).unwrap();
        let expected = json!({ "traceparent": OURS, "tracestate": "a=1", "baggage": "b=\"2\"" });
        assert_eq!(found["params"]["_meta"], expected);
    }

    #[test]
    fn what_has_no_place_for_it_stays_as_it_is() {
        assert_eq!(carried(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, None, None), None);
        assert_eq!(carried(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, None, None), None);
        let note = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1}}"#;
        assert!(carried(note, None, None).unwrap().contains(OURS));
    }

    /// Any object, with keys that look like those that matter.
    fn object() -> impl Strategy<Value = Value> {
        let key = prop_oneof![
            Just("traceparent".to_owned()),
            Just("tracestate".to_owned()),
            Just("baggage".to_owned()),
            Just("arguments".to_owned()),
            r#"[a"\\{}é]{1,4}"#,
        ];
        let leaf =
            prop_oneof![any::<i32>().prop_map(Value::from), r#"[a"\\{}\n]{0,6}"#.prop_map(Value::from)];
        let values = leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|it| Value::Object(it.into_iter().collect())),
            ]
        });
        prop::collection::btree_map(key, values, 0..5).prop_map(|it| Value::Object(it.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn a_message_is_the_same_but_for_its_context(
            meta in proptest::option::of(object()),
            arguments in object(),
            pretty: bool,
        ) {
            let mut message = json!({ "jsonrpc": "2.0", "id": "a", "method": "tools/call",
                "params": { "name": "echo", "arguments": arguments } });
            if let Some(meta) = &meta {
                message["params"]["_meta"] = meta.clone();
            }
            let text = if pretty { serde_json::to_string_pretty(&message) } else { serde_json::to_string(&message) };
            let found = carried(&text.unwrap(), Some("a=1"), None).unwrap();
            let mut found: Value = serde_json::from_str(&found).unwrap();
            prop_assert_eq!(&found["params"]["_meta"]["traceparent"], OURS);
            prop_assert_eq!(&found["params"]["_meta"]["tracestate"], "a=1");
            let mut before = meta.unwrap_or_else(|| json!({}));
            for key in ["traceparent", "tracestate"] {
                before.as_object_mut().unwrap().remove(key);
                found["params"]["_meta"].as_object_mut().unwrap().remove(key);
            }
            prop_assert_eq!(&found["params"]["_meta"], &before);
            message["params"]["_meta"] = before;
            prop_assert_eq!(found, message);
        }
    }
}
