//! What becomes of headers on their way: those that speak of one hop stay behind, those that could be mistaken for ours
//! are taken away, and the caller's identity is put on.
//!
//! The headers that a server may believe, because nobody else can set them: `weft-caller` (the SPIFFE ID of the
//! caller), `weft-server` (the server's name in the mesh).

use http::HeaderMap;
use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, HOST, HeaderName, HeaderValue, ORIGIN, SET_COOKIE, WWW_AUTHENTICATE,
};
use weft_proto::policy::access::is_scope;

/// The identity of the caller, as its certificate proved it.
pub const CALLER: HeaderName = HeaderName::from_static("weft-caller");
/// The server's name in the mesh.
pub const SERVER: HeaderName = HeaderName::from_static("weft-server");
/// For whom a gateway calls, as it says to the sidecars beside servers. Nobody else is believed.
pub const ON_BEHALF_OF: HeaderName = HeaderName::from_static("weft-on-behalf-of");
/// A key by which a gateway knows a caller.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Why a request was refused: the word of the table of refusals.
pub const REASON: HeaderName = HeaderName::from_static("weft-reason");
/// The scope for want of which a call was refused, as the sidecar beside the server tells a gateway. It ends there.
pub const SCOPE: HeaderName = HeaderName::from_static("weft-scope");
/// Whether the answer is one that was kept: `hit`, or absent.
pub const CACHE: HeaderName = HeaderName::from_static("weft-cache");
/// The session of the legacy era.
pub const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The headers of a request as the next hop gets them, in one pass: a copy is cheaper than taking one name after the
/// other away. The length of the body is set by whoever sends it.
pub fn toward_server(headers: &HeaderMap, host: Option<&HeaderValue>) -> HeaderMap {
    let named = named_by_connection(headers);
    // Room for the host, the session and what is signed.
    let mut onward = HeaderMap::with_capacity(headers.len() + 4);
    if let Some(host) = host {
        onward.append(HOST, host.clone());
    }
    for (name, value) in headers {
        let text = name.as_str();
        if !(is_of_hop(text) || is_ours(text) || is_for_us(text) || named.contains(name)) {
            onward.append(name.clone(), value.clone());
        }
    }
    onward
}

/// Takes away what a gateway knew a caller by: it ends there.
pub fn without_credentials(headers: &mut HeaderMap) {
    for name in [AUTHORIZATION, API_KEY, COOKIE, ORIGIN] {
        headers.remove(name);
    }
}

/// Makes the headers of another sidecar's answer those of ours.
pub fn toward_caller(headers: &mut HeaderMap) {
    let mut named = named_by_connection(headers);
    named.extend(headers.keys().filter(|name| is_of_hop(name.as_str())).cloned());
    for name in named {
        headers.remove(name);
    }
}

/// The scope for want of which another sidecar refused, taken from its answer.
pub fn take_scope(headers: &mut HeaderMap) -> Option<String> {
    let scope = headers.remove(SCOPE)?;
    scope.to_str().ok().filter(|scope| is_scope(scope)).map(ToOwned::to_owned)
}

/// Makes the headers of a server's answer ours. It cannot speak for us.
pub fn toward_mesh(headers: &mut HeaderMap) {
    toward_caller(headers);
    let ours: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Makes the headers of an answer those of a gateway: where to get a token and which pages may call is its own to say,
/// and what a server would have kept by a client would come back to all of them.
pub fn toward_public(headers: &mut HeaderMap) {
    let is_others = |name: &HeaderName| {
        let of_pages = name.as_str().starts_with("access-control-");
        of_pages || *name == WWW_AUTHENTICATE || *name == SET_COOKIE
    };
    let others: Vec<HeaderName> = headers.keys().filter(|name| is_others(name)).cloned().collect();
    for name in others {
        headers.remove(name);
    }
}

/// Headers that a message calls its own hop's.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}

/// What speaks of one hop only.
fn is_of_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What only we may say. Many servers take `_` in a name for `-`, so that both count.
fn is_ours(name: &str) -> bool {
    name.strip_prefix("weft").is_some_and(|rest| rest.starts_with(['-', '_']))
}

/// What of a request is not for the server: where it came from, which only a proxy may say; the origin, which was
/// checked here and which the server would compare with a name that it does not have; and that the answer may be
/// compressed, which is looked into and streamed.
fn is_for_us(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "origin"
            | "accept-encoding"
            | "content-length"
            | "forwarded"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-proto"
            | "x-forwarded-port"
            | "x-forwarded-client-cert"
            | "x-real-ip"
            | "x-client-cert"
            | "x-original-url"
            | "x-rewrite-url"
    )
}

/// Headers that say how a request comes, or what its body says too. All others may decide what a server answers, and
/// whom: an agent may call in the name of many.
pub fn is_of_the_way(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("weft-")
        || matches!(
            name,
            "host" | "accept" | "accept-encoding" | "content-type" | "content-length" | "transfer-encoding"
        )
        || matches!(name, "connection" | "te" | "user-agent" | "traceparent" | "tracestate")
        || matches!(name, "mcp-protocol-version" | "mcp-method" | "mcp-name")
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
        let found = headers(&[
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
        let found = toward_server(&found, Some(&HeaderValue::from_static("localhost:9000")));
        let expected = headers(&[
            ("x-two", "2"),
            ("mcp-param-region", "eu"),
            ("mcp-name", "echo"),
            ("host", "localhost:9000"),
        ]);
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_taken_for_a_scope_is_one() {
        let check = |value: &str, expected: Option<&str>| {
            let mut found = headers(&[("weft-scope", value)]);
            assert_eq!(take_scope(&mut found).as_deref(), expected, "{value}");
            assert!(found.is_empty(), "it goes nowhere else");
        };
        check("files:write", Some("files:write"));
        check("a b", None);
        check("a\", error=\"x", None);
        check("", None);
        check(&"a".repeat(129), None);
    }

    #[test]
    fn an_answer_keeps_what_is_the_servers_own() {
        let mut found = headers(&[
            ("connection", "x-one"),
            ("x-one", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("weft-reason", "denied"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
        ]);
        toward_caller(&mut found);
        assert_eq!(found, headers(&[("weft-reason", "denied"), ("set-cookie", "a"), ("set-cookie", "b")]));
        toward_mesh(&mut found);
        assert_eq!(found, headers(&[("set-cookie", "a"), ("set-cookie", "b")]));
    }

    #[test]
    fn an_answer_of_a_gateway_says_nothing_that_only_the_gateway_may() {
        let mut found = headers(&[
            ("www-authenticate", "Bearer resource_metadata=\"https://evil.example\""),
            ("set-cookie", "a"),
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("mcp-session-id", "s"),
        ]);
        toward_public(&mut found);
        assert_eq!(found, headers(&[("mcp-session-id", "s")]));
        let mut brought =
            headers(&[("authorization", "Bearer t"), ("x-api-key", "k"), ("cookie", "c"), ("accept", "a")]);
        without_credentials(&mut brought);
        assert_eq!(brought, headers(&[("accept", "a")]));
    }
}
