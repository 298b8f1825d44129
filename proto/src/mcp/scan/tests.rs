use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::*;
use crate::mcp::Raw;
use crate::mcp::written::Part;

const BOUNDS: Bounds = Bounds { depth_max: 4, batch_max: 3 };

#[track_caller]
fn check(json: impl AsRef<[u8]>, expected: Result<(), (usize, &str)>) {
    let found = scan(json.as_ref(), BOUNDS).map(drop);
    let found = found.map_err(|error| match error {
        Error::Syntax { at, what } => (at, what.to_owned()),
        other => panic!("{other:?} is no error of syntax"),
    });
    let text = String::from_utf8_lossy(json.as_ref()).into_owned();
    assert_eq!(found, expected.map_err(|(at, what)| (at, what.to_owned())), "{text}");
}

#[test]
fn json_is_let_through() {
    for json in [
        "{}",
        "[]",
        " \t\r\n[ ] ",
        "null",
        "-0.0e-0",
        "1E+999",
        "123456789012345678901234567890",
        r#""\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00""#,
        "\"é\u{7f}😀\"",
        r#"{"a":[{"b":{}}],"c":true,"":false,"d":[1,2,3,4,5]}"#,
        r#"{ "a" : 1 , "b" : [ 1 , "x" ] }"#,
        r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}"#,
        r#"{"a":1,"A":2}"#,
    ] {
        check(json, Ok(()));
    }
}

#[test]
fn what_is_no_json_is_refused_where_it_goes_wrong() {
    let value = "expected a value";
    for (json, at, what) in [
        ("", 0, "the message ends early"),
        ("{", 1, "the message ends early"),
        (r#"{"a"#, 3, "the message ends early"),
        (r#"{"a":"#, 5, "the message ends early"),
        (r#"{"a":1"#, 6, "the message ends early"),
        (r#"{"a":1,"#, 7, "the message ends early"),
        ("[1", 2, "the message ends early"),
        ("tru", 3, "the message ends early"),
        ("-", 1, "the message ends early"),
        ("1.", 2, "the message ends early"),
        (r#""\"#, 2, "the message ends early"),
        (r#""\u00"#, 5, "the message ends early"),
        ("[1,]", 3, value),
        ("[,1]", 1, value),
        ("NaN", 0, value),
        ("[Infinity]", 1, value),
        ("+1", 0, value),
        ("trux", 0, value),
        ("'a'", 0, value),
        ("\u{feff}{}", 0, value),
        ("\0{}", 0, value),
        (r#"{"a":1,}"#, 7, "expected a key"),
        ("{a:1}", 1, "expected a key"),
        (r#"{"a" 1}"#, 5, "expected `:`"),
        (r#"{"a":1 "b":2}"#, 7, "expected `,` or `}`"),
        ("{\"a\":1]", 6, "expected `,` or `}`"),
        ("[1}", 2, "expected `,` or `]`"),
        ("[01]", 2, "expected `,` or `]`"),
        ("-x", 0, "a number that is none"),
        ("[1.x]", 1, "a number that is none"),
        ("[1e]", 1, "a number that is none"),
        ("{} {}", 3, "the message goes on after its end"),
        ("{}\0", 2, "the message goes on after its end"),
        ("[1]]", 3, "the message goes on after its end"),
        ("\"a\0b\"", 2, "a control character in a string"),
        ("\"a\nb\"", 2, "a control character in a string"),
        (r#""\x""#, 1, "an unknown escape"),
        (r#""\u00g0""#, 1, "an escape of other than four hexadecimal digits"),
    ] {
        check(json, Err((at, what)));
    }
    check(b"{\"a\":\"\xff\"}", Err((6, "the bytes are not UTF-8")));
    check(b"\"\xed\xa0\x80\"", Err((1, "the bytes are not UTF-8")));
}

#[test]
fn half_of_a_surrogate_pair_is_refused() {
    for json in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800\ud800""#,
        r#""\ud800a""#,
        r#""\ud800\n""#,
        r#""\udc00\ud800""#,
    ] {
        check(json, Err((1, "half of a surrogate pair")));
    }
    check(r#"{"\ud800":1}"#, Err((2, "half of a surrogate pair")));
}

#[test]
fn a_key_that_comes_twice_is_refused_however_it_is_written() {
    let twice = "the object has this key twice";
    check(r#"{"a":1,"a":1}"#, Err((7, twice)));
    check(r#"{"a":1,"\u0061":2}"#, Err((7, twice)));
    check(r#"{"\u0061":1,"a":2}"#, Err((12, twice)));
    check(r#"{"\/":1,"b":[],"/":2}"#, Err((15, twice)));
    check(r#"[{"x":{"":0,"":0}}]"#, Err((12, twice)));
    check(r#"{"a":{"c":1},"b":{"c":1},"a":0}"#, Err((25, twice)));
    check(r#"{"😀":1,"\ud83d\ude00":2}"#, Err((10, twice)));
}

#[test]
fn a_key_that_comes_twice_is_found_among_many() {
    let keys = |n: usize| (0..n).map(|n| format!(r#""key{n}":{n},"#)).collect::<String>();
    check(format!("{{{}\"z\":0}}", keys(5000)), Ok(()));
    let many = format!("{{{}", keys(5000));
    check(format!("{many}\"key77\":0}}"), Err((many.len(), "the object has this key twice")));
    check(format!("{many}\"k\\u0065y77\":0}}"), Err((many.len(), "the object has this key twice")));
}

#[test]
fn a_key_with_nul_is_refused() {
    check(r#"{"a\u0000":1}"#, Err((1, "the key contains NUL")));
    check(r#"{"a":"\u0000"}"#, Ok(()));
}

#[test]
fn a_key_that_a_reader_takes_for_an_instruction_is_refused() {
    let reserved = Err((6, "the key is one that readers take for an instruction"));
    check(r#"{"a":{"$serde_json::private::RawValue":"{}"}}"#, reserved);
    check(r#"{"a":{"\u0024serde_json::private::Number":"1"}}"#, reserved);
    check(r#"{"a":{"$serde_json":"$serde_json::private::RawValue"}}"#, Ok(()));
}

#[test]
fn nesting_is_bounded_without_recursion() {
    check("[[[[]]]]", Ok(()));
    check("[[[[[]]]]]", Err((4, "the message is nested too deeply")));
    check(r#"{"a":{"a":{"a":{"a":{}}}}}"#, Err((20, "the message is nested too deeply")));
    check("[".repeat(100_000), Err((4, "the message is nested too deeply")));
    let deep = Bounds { depth_max: 100_000, batch_max: 3 };
    assert_eq!(
        scan(format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).as_bytes(), deep).map(drop),
        Ok(())
    );
}

#[test]
fn a_batch_that_is_too_long_is_refused_before_its_end() {
    check("[1,2,3]", Ok(()));
    let endless = "[1,2,3,".to_owned() + &"1,".repeat(1_000_000);
    let error = scan(endless.as_bytes(), BOUNDS).unwrap_err();
    assert_eq!(error, Error::NotAMessage { at: 7, what: "the batch is too long".into() });
    check("[[1,2,3,4,5]]", Ok(()));
}

/// Any value, with keys and texts that need escapes.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no other numbers", |it| it.is_finite()).prop_map(Value::from),
        "[ -~\n\té\u{0}😀]{0,5}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 12, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[ -~é😀]{0,3}", inner, 0..12)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

const WIDE: Bounds = Bounds { depth_max: 100, batch_max: 1000 };

/// The key as another writer might write it.
fn escaped(key: &str) -> String {
    let units: Vec<_> = key.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    format!("\"{}\"", units.concat())
}

/// The value, with one key of the `nth` non-empty object given twice. None if there are fewer.
fn with_a_key_twice(value: &Value, nth: &mut usize, escape: bool) -> (String, bool) {
    match value {
        Value::Object(map) => {
            let here = !map.is_empty() && *nth == 0;
            *nth = nth.wrapping_sub(usize::from(!map.is_empty()));
            let mut done = here;
            let mut members: Vec<_> = map
                .iter()
                .map(|(key, value)| {
                    let (text, inner) = with_a_key_twice(value, nth, escape);
                    done |= inner;
                    format!("{}:{text}", Value::from(key.as_str()))
                })
                .collect();
            if let (true, Some(key)) = (here, map.keys().next()) {
                let key = if escape { escaped(key) } else { Value::from(key.as_str()).to_string() };
                members.push(format!("{key}:0"));
            }
            (format!("{{{}}}", members.join(",")), done)
        }
        Value::Array(items) => {
            let mut done = false;
            let items: Vec<_> = items
                .iter()
                .map(|item| {
                    let (text, inner) = with_a_key_twice(item, nth, escape);
                    done |= inner;
                    text
                })
                .collect();
            (format!("[{}]", items.join(",")), done)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (value.to_string(), false),
    }
}

proptest! {
    #[test]
    fn every_value_that_was_written_is_let_through(value in value()) {
        prop_assert_eq!(scan(value.to_string().as_bytes(), WIDE).map(drop), Ok(()));
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        prop_assert_eq!(scan(&pretty, WIDE).map(drop), Ok(()));
    }

    #[test]
    fn a_key_given_twice_anywhere_is_refused(value in value(), nth in 0..6_usize, escape: bool) {
        let value = serde_json::json!({"outermost": value});
        let (mut text, done) = with_a_key_twice(&value, &mut nth.clone(), escape);
        if !done {
            (text, _) = with_a_key_twice(&value, &mut 0, escape);
        }
        let refused = scan(text.as_bytes(), WIDE);
        prop_assert!(matches!(refused, Err(Error::Syntax { what: "the object has this key twice", .. })), "{text}");
    }

    /// Everything else that is refused is refused by serde_json too, and nothing is let through that it refuses.
    #[test]
    fn a_damaged_message_is_let_through_if_it_is_json(
        value in value(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), "[\\]\\[{}\",:\\\\u0-9a-ftrn.eE+ -]{0,3}", 0..3_usize), 1..4),
    ) {
        let mut text = value.to_string().into_bytes();
        for (at, inserted, removed) in edits {
            let at = at.index(text.len() + 1);
            let end = text.len().min(at + removed);
            text.splice(at..end, inserted.bytes());
        }
        let own = ["the object has this key twice", "the key contains NUL", "half of a surrogate pair"];
        let readable = serde_json::from_slice::<IgnoredAny>(&text).is_ok() && std::str::from_utf8(&text).is_ok();
        match scan(&text, WIDE) {
            Ok(_) => prop_assert!(readable, "{}", String::from_utf8_lossy(&text)),
            Err(Error::Syntax { what, .. }) if own.contains(&what) => {}
            Err(error) => prop_assert!(!readable, "{error}: {}", String::from_utf8_lossy(&text)),
        }
    }
}

/// What a walk finds and what was written down must be the same, as deep as anyone looks.
fn is_written_as_walked(part: Part<'_, '_>, depth: usize) {
    const KEYS: [&str; 6] = ["params", "_meta", "ref", "notifications", "x", "é\""];
    let walked = part.raw.members(&KEYS).map(|found| found.map(|it| it.map(Raw::get)));
    let written = part.members(&KEYS);
    assert_eq!(written.clone().map(|found| found.map(|it| it.map(|it| it.raw.get()))), walked);
    let Ok([params, meta, reference, notifications, x, _]) = written else { return };
    for found in [params, meta, reference, notifications, x].into_iter().flatten() {
        assert_eq!(found.text(), found.raw.text());
        assert_eq!(found.name(), found.raw.name());
    }
    let inner = if depth < WRITTEN_DEPTH { [params, x] } else { [None, None] };
    for part in
        [meta, reference, notifications].into_iter().chain(inner).flatten().filter(|_| depth <= WRITTEN_DEPTH)
    {
        is_written_as_walked(part, depth + 1);
    }
}

fn message() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("params".to_owned()),
        Just("_meta".to_owned()),
        Just("ref".to_owned()),
        Just("notifications".to_owned()),
        Just("x".to_owned()),
        Just("é\"".to_owned()),
        Just("Ref".to_owned()),
    ];
    let text = r#"[ab"\\{}\[\],: é\n\u{0}]{0,20}"#;
    let leaf = prop_oneof![Just(Value::Null), any::<i64>().prop_map(Into::into), text.prop_map(Value::from)];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        let object = proptest::collection::btree_map(key.clone(), inner.clone(), 0..5);
        prop_oneof![
            1 => proptest::collection::vec(inner, 0..3).prop_map(Value::from),
            3 => object.prop_map(|it| it.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_down_is_what_a_walk_finds(message in message(), pretty in any::<bool>()) {
        let json = if pretty { serde_json::to_string_pretty(&message) } else { serde_json::to_string(&message) };
        let json = format!(" {} ", json.unwrap().replace("\"_meta\"", r#""\u005fmeta""#));
        let scanned = scan(json.as_bytes(), Bounds { depth_max: 16, batch_max: 16 }).unwrap();
        prop_assert_eq!(scanned.whole().raw.get(), json.trim());
        is_written_as_walked(scanned.whole(), 1);
    }
}

#[test]
fn a_string_of_any_length_ends_where_it_ends() {
    for length in 0..200 {
        let plain = "é".repeat(length / 2) + &"a".repeat(length % 2);
        check(format!("[\"{plain}\",1]"), Ok(()));
        check(format!("\"{plain}"), Err((plain.len() + 1, "the message ends early")));
        check(format!("\"{plain}\u{1f}{plain}\""), Err((plain.len() + 1, "a control character in a string")));
        check(format!("[\"{plain}\\n{plain}\\\\\"]"), Ok(()));
        check(format!("\"{plain}\\x\""), Err((plain.len() + 1, "an unknown escape")));
    }
}
