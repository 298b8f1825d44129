use proptest::prelude::*;

use super::*;
use crate::mcp::{Body, Bounds, Message, parse};

#[test]
fn values_are_decoded_between_exact_markers_only() {
    for (value, expected) in [
        ("", Ok("")),
        ("read_file", Ok("read_file")),
        ("=?base64?w6k=?=", Ok("é")),
        ("=?base64??=", Ok("")),
        ("=?BASE64?w6k=?=", Ok("=?BASE64?w6k=?=")),
        ("=?base64?w6k=", Ok("=?base64?w6k=")),
        ("=?base64?=", Ok("=?base64?=")),
        ("=?base64?w6k?=", Err(Undecodable)),
        ("=?base64?w6 k=?=", Err(Undecodable)),
        ("=?base64?/w==?=", Err(Undecodable)),
        ("=?base64?-_-_?=", Err(Undecodable)),
    ] {
        assert_eq!(decode(value).as_deref(), expected.as_ref().map(|it| *it), "{value}");
    }
}

#[test]
fn values_are_encoded_only_where_they_must_be() {
    for plain in ["", "a", "a b", "=?base64?x", "~!\"", "=?BASE64?YQ==?="] {
        assert_eq!(encode(plain), plain);
    }
    for other in [" a", "a ", "\ta", "a\tb", "é", "a\nb", "\u{7f}", "=?base64?YQ==?="] {
        assert!(encode(other).starts_with("=?base64?"), "{other:?}");
        assert_eq!(decode(&encode(other)).unwrap(), other);
    }
}

fn call(method: &str, params: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}}}"#
    )
}

#[track_caller]
fn check(message: &str, headers: &[(&str, &[u8])], expected: Result<(), Mismatch>) {
    let bounds = Bounds { depth_max: 8, batch_max: 1 };
    let Ok(Body::One(Message::Request(request))) = parse(message.as_bytes(), bounds) else {
        panic!("{message} is no request")
    };
    let headers = headers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap()));
    let headers = headers.fold(HeaderMap::new(), |mut map, (name, value)| {
        map.append(name, value);
        map
    });
    assert_eq!(agree(&headers, &request), expected, "{headers:?}");
}

const VERSION: (&str, &[u8]) = ("MCP-Protocol-Version", b"2026-07-28");
const CALL: (&str, &[u8]) = ("Mcp-Method", b"tools/call");

#[test]
fn headers_agree_if_they_say_what_the_body_says() {
    let message = call("tools/call", r#""name":"r\u00e9ad","#);
    check(&message, &[VERSION, CALL, ("mcp-name", b"=?base64?csOpYWQ=?=")], Ok(()));
    check(&message, &[VERSION, CALL, ("MCP-NAME", b"\t =?base64?csOpYWQ=?= ")], Ok(()));
    check(&call("tools/call", r#""name":"","#), &[VERSION, CALL, ("mcp-name", b"")], Ok(()));
    check(&call("tools/list", ""), &[VERSION, ("mcp-method", b"tools/list")], Ok(()));
    let read = call("resources/read", r#""uri":"file:///a","#);
    check(&read, &[VERSION, ("mcp-method", b"resources/read"), ("mcp-name", b"file:///a")], Ok(()));
    let task = call("tasks/cancel", r#""taskId":"t","#);
    check(&task, &[VERSION, ("mcp-method", b"tasks/cancel"), ("mcp-name", b"t")], Ok(()));
    check(&task, &[VERSION, ("mcp-method", b"tasks/cancel")], Err(Mismatch::Missing(NAME)));
}

#[test]
fn headers_that_say_something_else_are_refused() {
    let message = call("tools/call", r#""name":"read","#);
    let name = ("Mcp-Name", &b"read"[..]);
    check(&message, &[CALL, name], Err(Mismatch::Missing(PROTOCOL_VERSION)));
    check(&message, &[VERSION, name], Err(Mismatch::Missing(METHOD)));
    check(&message, &[VERSION, CALL], Err(Mismatch::Missing(NAME)));
    let older = (VERSION.0, &b"2025-11-25"[..]);
    check(&message, &[older, CALL, name], Err(Mismatch::Differs(PROTOCOL_VERSION)));
    for method in ["Tools/call", "tools/list", ""] {
        check(&message, &[VERSION, (CALL.0, method.as_bytes()), name], Err(Mismatch::Differs(METHOD)));
    }
    for other in ["Read", "rea d", "", "=?base64?cmVhZA==", "=?Base64?cmVhZA==?="] {
        check(&message, &[VERSION, CALL, (NAME.as_str(), other.as_bytes())], Err(Mismatch::Differs(NAME)));
    }
    check(&message, &[VERSION, CALL, ("mcp-name", b"=?base64?cmVhZA?=")], Err(Mismatch::Undecodable(NAME)));
    check(&message, &[VERSION, CALL, ("mcp-name", b"r\xc3\xa9ad")], Err(Mismatch::Undecodable(NAME)));
    let bare = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    check(bare, &[VERSION, ("mcp-method", b"tools/list")], Err(Mismatch::Differs(PROTOCOL_VERSION)));
}

#[test]
fn a_header_that_comes_twice_is_refused_even_if_both_agree() {
    let message = call("tools/call", r#""name":"read","#);
    let name = ("Mcp-Name", &b"read"[..]);
    for (twice, header) in [(VERSION, PROTOCOL_VERSION), (CALL, METHOD), (name, NAME)] {
        check(&message, &[VERSION, CALL, name, twice], Err(Mismatch::Repeated(header)));
    }
    let list = call("tools/list", "");
    check(&list, &[VERSION, ("mcp-method", b"tools/list"), name, name], Err(Mismatch::Repeated(NAME)));
}

#[test]
fn arguments_in_headers_are_left_alone_unless_they_cannot_be_decoded() {
    let message = call("tools/call", r#""name":"read","#);
    let name = ("Mcp-Name", &b"read"[..]);
    for value in [&b"eu"[..], b"=?base64?w6k=?=", b"\xff", b"", b"=?base64?"] {
        check(&message, &[VERSION, CALL, name, ("Mcp-Param-Unknown", value)], Ok(()));
    }
    let region = HeaderName::from_static("mcp-param-region");
    let bad = ("Mcp-Param-Region", &b"=?base64?w6k?="[..]);
    check(&message, &[VERSION, CALL, name, bad], Err(Mismatch::Undecodable(region)));
}

proptest! {
    #[test]
    fn every_text_survives_encoding(text in any::<String>()) {
        let encoded = encode(&text);
        prop_assert_eq!(decode(&encoded).unwrap(), text.as_str());
        let value = HeaderValue::from_str(&encoded).unwrap();
        prop_assert_eq!(super::text(&value), Some(&*encoded));
    }

    #[test]
    fn decoding_never_panics(text in any::<String>()) {
        let _ = decode(&text);
        let _ = decode(&format!("=?base64?{text}?="));
    }
}
