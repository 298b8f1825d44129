//! Headers that repeat what a message says.

use http::{HeaderMap, HeaderName, HeaderValue};
use weft_proto::mcp::{Body, Bounds, Message, header, parse};

const BOUNDS: Bounds = Bounds { depth_max: 32, batch_max: 1 };

/// Lines of headers, an empty line and a body; every line is tried as a value too. Headers that agree with a body must
/// say what the body says.
pub fn headers(data: &[u8]) {
    let (head, body) = match data.windows(2).position(|two| two == b"\n\n") {
        Some(end) => (&data[..end], &data[end + 2..]),
        None => (data, &data[data.len()..]),
    };
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n') {
        alone(line);
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let Ok(Body::One(Message::Request(request))) = parse(body, BOUNDS) else { return };
    if header::agree(&headers, &request).is_err() {
        return;
    }
    let only = |name: HeaderName| {
        let values: Vec<_> = headers.get_all(name).iter().collect();
        assert!(values.len() <= 1, "a header that comes twice agrees");
        values.first().map(|value| value.to_str().expect("what agrees is text").trim_matches([' ', '\t']))
    };
    assert_eq!(only(header::METHOD), Some(&*request.method));
    assert_eq!(only(header::PROTOCOL_VERSION), request.params.meta.protocol_version.as_deref());
    let name = only(header::NAME);
    if let Some(expected) = header::named(&request) {
        let name = header::decode(name.expect("what agrees is there")).expect("what agrees can be decoded");
        assert_eq!(name, expected);
    }
}

fn alone(line: &[u8]) {
    let Ok(text) = std::str::from_utf8(line) else { return };
    let encoded = header::encode(text);
    assert_eq!(header::decode(&encoded).as_deref(), Ok(text));
    assert!(HeaderValue::from_str(&encoded).is_ok(), "{encoded:?} cannot travel");
    if let Ok(decoded) = header::decode(text) {
        assert_eq!(header::decode(&header::encode(&decoded)).as_deref(), Ok(&*decoded));
    }
}
