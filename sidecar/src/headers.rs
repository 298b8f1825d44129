//! What becomes of headers on their way: those that speak of one hop stay behind, those that could be mistaken for ours
//! are taken away, and the caller's identity is put on.
//!
//! The headers that a server may believe, because nobody else can set them: `weft-caller` (the SPIFFE ID of the
//! caller), `weft-server` (the server's name in the mesh).

use http::HeaderMap;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, HeaderName, HeaderValue, ORIGIN, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// Everything with this prefix is ours.
pub const OURS: &str = "weft-";
/// The identity of the caller, as its certificate proved it.
pub const CALLER: HeaderName = HeaderName::from_static("weft-caller");
/// The server's name in the mesh.
pub const SERVER: HeaderName = HeaderName::from_static("weft-server");
/// Why a request was refused: the word of the table of refusals.
pub const REASON: HeaderName = HeaderName::from_static("weft-reason");
/// The session of the legacy era.
pub const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHENTICATE: HeaderName = HeaderName::from_static("proxy-authenticate");
const PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");

/// Headers that say where a request came from, which only a proxy may say.
const SPOOFABLE: [&str; 9] = [
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-client-cert",
    "x-real-ip",
    "x-client-cert",
    "x-original-url",
    "x-rewrite-url",
];

/// Takes away what speaks of this hop only.
pub fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    let ours =
        [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER];
    for name in ours.into_iter().chain([TRANSFER_ENCODING, UPGRADE]) {
        headers.remove(name);
    }
}

/// Makes the headers of a request those of the next hop. The length of the body is set by whoever sends it.
pub fn toward_server(headers: &mut HeaderMap, host: &HeaderValue) {
    strip_hop(headers);
    strip_ours(headers);
    for name in SPOOFABLE {
        headers.remove(name);
    }
    // Answers are looked into and streamed, so they are never compressed; the origin was checked here, and the server
    // would compare it with a name that it does not have.
    for name in [FORWARDED, ORIGIN, ACCEPT_ENCODING, CONTENT_LENGTH] {
        headers.remove(name);
    }
    headers.insert(HOST, host.clone());
}

/// Makes the headers of an answer those of the next hop.
pub fn toward_caller(headers: &mut HeaderMap) {
    strip_hop(headers);
}

/// Takes away what only we may say. Many servers take `_` in a name for `-`, so that both count.
pub fn strip_ours(headers: &mut HeaderMap) {
    let is_ours = |name: &&HeaderName| name.as_str().replace('_', "-").starts_with(OURS);
    let ours: Vec<HeaderName> = headers.keys().filter(is_ours).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    #[test]
    fn what_speaks_of_one_hop_or_could_be_ours_stays_behind() {
        let mut found = headers(&[
            ("connection", "close, X-One"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("weft-caller", "spiffe://mesh.test/ns/a/sa/b"),
            ("weft-anything", "x"),
            ("weft_caller", "spiffe://mesh.test/ns/a/sa/b"),
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("accept-encoding", "gzip"),
            ("origin", "http://localhost"),
            ("host", "research-files:7443"),
            ("mcp-param-region", "eu"),
            ("mcp-name", "echo"),
        ]);
        toward_server(&mut found, &HeaderValue::from_static("localhost:9000"));
        let expected = headers(&[
            ("x-two", "2"),
            ("mcp-param-region", "eu"),
            ("mcp-name", "echo"),
            ("host", "localhost:9000"),
        ]);
        assert_eq!(found, expected);
    }
}
