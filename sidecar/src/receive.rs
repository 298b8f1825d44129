//! The head and the body of a request, within their limits, and the place that it asks for.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;
use weft_proto::catalogue::card::SUFFIX;
use weft_proto::name::{Namespace, ObjectName, ServerName};

use crate::identify::{Caller, Identified};
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::room::{Held, Room};

/// Methods that the endpoints have.
const ALLOW: &str = "POST, GET, DELETE";
/// Longest path and query.
const TARGET_BYTES_MAX: usize = 4096;

/// Most memory that is taken for a body before its bytes are there.
const AT_ONCE_BYTES_MAX: usize = 256 << 10;

/// How much is read on of a body that is too large, so that its sender hears why.
const DISCARD_BYTES_MAX: usize = 16 << 20;
/// For how long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// A request whose head may be read on and whose body is whole.
#[derive(Debug)]
pub struct Received {
    pub head: Parts,
    pub body: Bytes,
    pub place: Place,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// What is behind this listener: its one server, or everything that may be called.
    Only,
    Server(ServerName),
    /// One endpoint made of many servers.
    Virtual(ServerName),
}

/// Takes a request in.
pub async fn receive(
    request: Box<Request<Incoming>>,
    connection: &Identified,
    limits: &Limits,
    room: &Room,
) -> Result<Received, Refusal> {
    let (head, body) = request.into_parts();
    let place = place(&head)?;
    check_hosts(&head, &connection.caller)?;
    check_head(&head, limits)?;
    let body = match head.method {
        Method::POST if !is_json(&head.headers) => return Err(Refusal::MediaType),
        Method::POST => collect(body, declared_length(&head.headers)?, limits, room.hold()).await?,
        Method::GET | Method::DELETE => Bytes::new(),
        _ => return Err(Refusal::HttpMethod { allow: ALLOW }),
    };
    Ok(Received { head, body, place })
}

/// Paths are compared as they are written: whatever is not plainly one of ours leads nowhere, so that no other spelling
/// of a path means the same as one that is checked.
fn place(head: &Parts) -> Result<Place, Refusal> {
    let target = head.uri.path_and_query().map_or(0, |it| it.as_str().len());
    if target > TARGET_BYTES_MAX {
        return Err(Refusal::HeadTooLarge { max: TARGET_BYTES_MAX });
    }
    place_at(head.uri.path()).ok_or(Refusal::NoSuchPath)
}

/// The endpoint that a path speaks of: the path, without what asks for a card.
pub(crate) fn endpoint(path: &str) -> &str {
    path.strip_suffix(SUFFIX).filter(|endpoint| is_endpoint(endpoint)).unwrap_or(path)
}

/// Whether a request is about the card of an endpoint.
pub(crate) fn is_about_card<T>(request: &Request<T>) -> bool {
    let path = request.uri().path();
    endpoint(path).len() < path.len()
}

/// The place whose card a request asks for. It has no body that anybody would read.
pub(crate) fn card<T>(request: Request<T>, caller: &Caller, limits: &Limits) -> Result<Place, Refusal> {
    let (mut head, _) = request.into_parts();
    check_hosts(&head, caller)?;
    check_head(&head, limits)?;
    if head.method != Method::GET {
        return Err(Refusal::HttpMethod { allow: "GET" });
    }
    head.uri = Uri::try_from(endpoint(head.uri.path())).map_err(|_| Refusal::NoSuchPath)?;
    place(&head)
}

/// Whether a path is that of an endpoint.
pub(crate) fn is_endpoint(path: &str) -> bool {
    path.len() <= TARGET_BYTES_MAX && place_at(path).is_some()
}

fn place_at(path: &str) -> Option<Place> {
    if path == "/mcp" {
        return Some(Place::Only);
    }
    let named = |folder: &str| {
        let named = path.strip_prefix(folder)?.strip_suffix("/mcp")?;
        let (namespace, name) = named.split_once('/')?;
        let (namespace, name) = Namespace::parse(namespace).ok().zip(ObjectName::parse(name).ok())?;
        Some(ServerName { namespace, name })
    };
    let server = named("/servers/").map(Place::Server);
    server.or_else(|| named("/virtual/").map(Place::Virtual))
}

/// A page in a browser must not reach a listener on loopback through a name that resolves there, and no page at all has
/// business with the others.
fn check_hosts(head: &Parts, caller: &Caller) -> Result<(), Refusal> {
    let named = named_host(head)?;
    // What a guest may name was looked at before it was known.
    if matches!(caller, Caller::Guest(_)) {
        return Ok(());
    }
    let on_loopback = !matches!(caller, Caller::Workload(_));
    if on_loopback && named.is_some_and(|host| !is_loopback(host)) {
        return Err(Refusal::ForeignHost);
    }
    for origin in head.headers.get_all(ORIGIN) {
        let origin = origin.to_str().ok().and_then(|it| it.split_once("://")).map(|(_, host)| host);
        if !origin.is_some_and(is_loopback) {
            return Err(Refusal::ForeignOrigin);
        }
    }
    Ok(())
}

/// The host that a request names, by its header or its target, where these do not contradict each other.
pub(crate) fn named_host(head: &Parts) -> Result<Option<&str>, Refusal> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next().map(|value| value.to_str().map_err(|_| Refusal::ForeignHost)).transpose()?;
    if hosts.next().is_some() {
        return Err(Refusal::Invalid("there are several Host headers".to_owned()));
    }
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    if let (Some(host), Some(authority)) = (host, authority)
        && !host.eq_ignore_ascii_case(authority)
    {
        return Err(Refusal::Invalid("the Host header is not the authority that was asked for".to_owned()));
    }
    let named = host.or(authority);
    if named.is_none() && head.version >= Version::HTTP_11 {
        return Err(Refusal::Invalid("the Host header is missing".to_owned()));
    }
    Ok(named)
}

/// Whether `host`, with or without a port, is this machine to itself.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map_or(v6, |(address, _)| address),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn check_head(head: &Parts, limits: &Limits) -> Result<(), Refusal> {
    let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > limits.header_bytes_max || head.headers.len() > limits.headers_max {
        return Err(Refusal::HeadTooLarge { max: limits.header_bytes_max });
    }
    Ok(())
}

/// A page may post plain text to anyone without asking; JSON it may not.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

fn declared_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| Refusal::Invalid("Content-Length is no length".to_owned()))
}

/// Reads a body to its end. The usual small body comes in one piece and is not copied.
async fn collect(
    mut body: Incoming,
    declared: Option<usize>,
    limits: &Limits,
    mut held: Held,
) -> Result<Bytes, Refusal> {
    let too_large = Refusal::BodyTooLarge { max: limits.body_bytes_max };
    if declared.is_some_and(|length| length > limits.body_bytes_max) {
        tokio::spawn(discard(body));
        return Err(too_large);
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while !body.is_end_stream() {
        let frame =
            timeout(*limits.body_idle_timeout, body.frame()).await.map_err(|_| Refusal::BodyTimeout)?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| Refusal::BodyBroken)?.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limits.body_bytes_max {
            tokio::spawn(discard(body));
            return Err(too_large);
        }
        if let Err(refusal) = held.grow(data.len()) {
            tokio::spawn(discard(body));
            return Err(refusal);
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            // No more than a little at a word: from there it grows with what really comes.
            rest.reserve(declared.unwrap_or(first.len() * 2).min(AT_ONCE_BYTES_MAX));
            rest.extend_from_slice(&first);
            first = Bytes::new();
        }
        rest.extend_from_slice(&data);
    }
    Ok(held.with(if rest.is_empty() { first } else { rest.freeze() }))
}

/// Reads on in a body that was refused, for a while: a connection that is closed with bytes unread is reset, and a reset
/// may take the refusal away from a caller that is still sending.
pub(crate) async fn discard(mut body: Incoming) {
    let mut left = DISCARD_BYTES_MAX;
    let all = async {
        while let Some(Ok(frame)) = body.frame().await {
            let read = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(read) else { return };
            left = rest;
        }
    };
    let _ = timeout(DISCARD_TIMEOUT, all).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method("POST").uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_plain_paths_lead_somewhere() {
        let server = |namespace: &str, name: &str| {
            Place::Server(ServerName { namespace: namespace.parse().unwrap(), name: name.parse().unwrap() })
        };
        let check = |path: &str, expected| assert_eq!(place(&head(path, &[])), expected, "{path}");
        check("/mcp", Ok(Place::Only));
        check("/mcp?x=1", Ok(Place::Only));
        check("/servers/research/files/mcp", Ok(server("research", "files")));
        check("http://h:1/servers/research/files/mcp", Ok(server("research", "files")));
        for path in [
            "/",
            "//mcp",
            "/mcp/",
            "/MCP",
            "/%6dcp",
            "/mcp;x",
            "/mcp/..",
            "/./mcp",
            "/servers/a/b",
            "/servers/a/b/c/mcp",
            "/servers//b/mcp",
            "/servers/a%2fb/mcp",
            "/servers/../b/mcp",
            "/servers/a/b/mcp/",
            "/servers/A/b/mcp",
            "/mcp%00",
        ] {
            check(path, Err(Refusal::NoSuchPath));
        }
    }

    #[test]
    fn a_card_is_asked_for_by_get_below_an_endpoint_and_nowhere_else() {
        let asked = |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(path).header("host", "localhost");
            let request = request.body(()).unwrap();
            is_about_card(&request).then(|| card(request, &Caller::Local, &Limits::default()))
        };
        let files: ServerName = "research/files".parse().unwrap();
        assert_eq!(asked("GET", "/mcp/server-card?x=1"), Some(Ok(Place::Only)));
        assert_eq!(
            asked("GET", "/servers/research/files/mcp/server-card"),
            Some(Ok(Place::Server(files.clone())))
        );
        assert_eq!(asked("GET", "/virtual/research/files/mcp/server-card"), Some(Ok(Place::Virtual(files))));
        for method in ["POST", "DELETE", "HEAD", "OPTIONS"] {
            let refused = Some(Err(Refusal::HttpMethod { allow: "GET" }));
            assert_eq!(asked(method, "/mcp/server-card"), refused, "{method}");
        }
        for path in ["/server-card", "/mcp/server-card/", "/mcp//server-card", "/mcp/Server-Card", "/mcp"] {
            assert_eq!(asked("GET", path), None, "{path}");
        }
    }

    #[test]
    fn a_listener_on_loopback_answers_only_to_loopback_names() {
        let check = |host: &str, expected| {
            assert_eq!(check_hosts(&head("/mcp", &[("host", host)]), &Caller::Local), expected, "{host}");
        };
        for host in ["localhost", "LOCALHOST:7400", "127.0.0.1:1", "127.9.9.9", "[::1]:7400", "[::1]"] {
            check(host, Ok(()));
        }
        for host in ["example.com", "localhost.example.com:80", "10.0.0.1", "[::2]:1", "", "localhost:1:2"] {
            check(host, Err(Refusal::ForeignHost));
        }
    }

    #[test]
    fn foreign_origins_and_contradicting_hosts_are_refused() {
        let check = |path: &str, headers: &[(&str, &str)], expected| {
            assert_eq!(check_hosts(&head(path, headers), &Caller::Local), expected, "{headers:?}");
        };
        let host = ("host", "localhost");
        check("/mcp", &[host, ("origin", "http://localhost:3000")], Ok(()));
        check("/mcp", &[host, ("origin", "https://evil.example")], Err(Refusal::ForeignOrigin));
        check("/mcp", &[host, ("origin", "null")], Err(Refusal::ForeignOrigin));
        check(
            "/mcp",
            &[host, ("origin", "http://localhost"), ("origin", "http://evil.example")],
            Err(Refusal::ForeignOrigin),
        );
        let invalid = |result: Result<(), Refusal>| assert!(matches!(result, Err(Refusal::Invalid(_))));
        invalid(check_hosts(&head("http://localhost:1/mcp", &[host]), &Caller::Local));
        invalid(check_hosts(&head("/mcp", &[host, host]), &Caller::Local));
        invalid(check_hosts(&head("/mcp", &[]), &Caller::Local));
    }

    #[test]
    fn only_json_is_taken() {
        let check = |kind: &str, expected| {
            assert_eq!(is_json(&head("/mcp", &[("content-type", kind)]).headers), expected, "{kind}");
        };
        check("application/json", true);
        check("Application/JSON; charset=utf-8", true);
        for other in
            ["text/plain", "application/jsonp", "application/json-rpc", "", "text/plain; application/json"]
        {
            check(other, false);
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn a_head_past_its_limits_is_refused() {
        let limits = Limits { header_bytes_max: 64, headers_max: 2, ..Limits::default() };
        let large = Err(Refusal::HeadTooLarge { max: 64 });
        assert_eq!(check_head(&head("/mcp", &[("a", "b")]), &limits), Ok(()));
        assert_eq!(check_head(&head("/mcp", &[("a", &"b".repeat(64))]), &limits), large);
        assert_eq!(check_head(&head("/mcp", &[("a", "b"), ("c", "d"), ("e", "f")]), &limits), large);
        let long = format!("/mcp?{}", "x".repeat(TARGET_BYTES_MAX));
        assert!(matches!(place(&head(&long, &[])), Err(Refusal::HeadTooLarge { .. })));
    }
}
