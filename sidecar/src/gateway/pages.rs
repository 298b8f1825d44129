//! Pages in browsers: which hosts and origins may be named, and what a browser is told before it lets a page call.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue,
    ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};

use super::settings::{Gateway, normal};
use crate::answer::Answer;
use crate::body::Body;
use crate::receive;
use crate::refusal::Refusal;

/// Headers that a page may send.
const ALLOWED: [&str; 13] = [
    "accept",
    "authorization",
    "content-type",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "traceparent",
    "tracestate",
    "baggage",
    "x-api-key",
    "cache-control",
];
/// What of arguments is told in headers.
const ALLOWED_PREFIX: &str = "mcp-param-";
/// Most headers that a page is allowed at once.
const HEADERS_MAX: usize = 64;
/// Headers that a page may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "mcp-session-id, mcp-protocol-version, www-authenticate, weft-reason, retry-after",
);
const METHODS: HeaderValue = HeaderValue::from_static("POST, GET, DELETE");
/// For how long a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Whom a gateway answers.
#[derive(Clone, Debug)]
pub struct Pages {
    scheme: String,
    hosts: Vec<String>,
    /// All, or these.
    origins: Option<Vec<String>>,
}

impl Pages {
    pub fn new(gateway: &Gateway) -> Self {
        let url = &gateway.public_url;
        let scheme = url.scheme();
        let hosts = gateway.hosts.iter().map(|host| normal(host, scheme));
        let origins = gateway.origins.iter().map(|origin| normal_origin(origin));
        let all = gateway.origins.iter().any(|origin| origin == "*");
        Self {
            scheme: scheme.to_owned(),
            hosts: hosts.chain([url.host().to_owned()]).collect(),
            origins: (!all).then(|| origins.chain([url.base().to_owned()]).collect()),
        }
    }

    /// A name that leads here and is not ours may be a page's that was told of this address as its own. The origin, if
    /// there is one.
    pub fn check(&self, head: &Parts) -> Result<Option<HeaderValue>, Refusal> {
        let host = receive::named_host(head)?.ok_or(Refusal::ForeignHost)?;
        if !self.hosts.contains(&normal(host, &self.scheme)) {
            return Err(Refusal::ForeignHost);
        }
        let mut origins = head.headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(None) };
        let text = origin.to_str().map_err(|_| Refusal::ForeignOrigin)?;
        let may = self.origins.as_ref().is_none_or(|all| all.contains(&normal_origin(text)));
        match may && origins.next().is_none() {
            true => Ok(Some(origin.clone())),
            false => Err(Refusal::ForeignOrigin),
        }
    }
}

fn normal_origin(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, host)) => {
            let scheme = scheme.to_ascii_lowercase();
            format!("{scheme}://{}", normal(host.strip_suffix('/').unwrap_or(host), &scheme))
        }
        None => text.to_owned(),
    }
}

/// What a browser asks before it lets a page call.
pub fn is_preflight(head: &Parts) -> bool {
    head.method == Method::OPTIONS && head.headers.contains_key(ORIGIN)
}

/// What it is told: the methods and headers of the protocol, and no others.
pub fn preflight(headers: &HeaderMap) -> Response<Answer> {
    let asked = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let asked = asked.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let asked = asked.map(|name| name.trim().to_ascii_lowercase());
    let may = |name: &String| {
        ALLOWED.contains(&&**name)
            || name.starts_with(ALLOWED_PREFIX) && name.parse::<http::HeaderName>().is_ok()
    };
    let allowed: Vec<_> = asked.filter(may).take(HEADERS_MAX).collect();
    let mut response = Response::new(Answer::from(Body::empty()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let told = response.headers_mut();
    told.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    if let Ok(allowed) = HeaderValue::from_str(&allowed.join(", ")) {
        told.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    told.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

/// Lets the page read the answer.
pub fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn pages(origins: &str) -> Pages {
        let json = format!(
            r#"{{"address":"0.0.0.0:8443","publicUrl":"https://mcp.example.com","hosts":["other.example:8443"],
                 "origins":{origins}}}"#
        );
        Pages::new(&serde_json::from_str(&json).unwrap())
    }

    fn head(host: &str, origins: &[&str]) -> Parts {
        let mut request = Request::post("/mcp").header("host", host);
        for origin in origins {
            request = request.header("origin", *origin);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_its_own_names_lead_to_a_gateway() {
        let pages = pages("[]");
        for host in ["mcp.example.com", "MCP.example.com:443", "other.example:8443"] {
            assert_eq!(pages.check(&head(host, &[])), Ok(None), "{host}");
        }
        for host in ["", "localhost", "mcp.example.com.evil.example", "mcp.example.com:8443", "other.example"]
        {
            assert_eq!(pages.check(&head(host, &[])), Err(Refusal::ForeignHost), "{host}");
        }
    }

    #[test]
    fn only_origins_that_are_named_may_call() {
        let check = |pages: &Pages, origins: &[&str], expected: bool| {
            let checked = pages.check(&head("mcp.example.com", origins));
            assert_eq!(checked.is_ok(), expected, "{origins:?}: {checked:?}");
        };
        let some = pages(r#"["https://App.example", "http://localhost:3000"]"#);
        check(&some, &["https://app.example"], true);
        check(&some, &["https://app.example:443"], true);
        check(&some, &["http://localhost:3000"], true);
        check(&some, &["https://mcp.example.com"], true);
        for bad in
            ["http://app.example", "https://app.example.evil.example", "null", "https://app.example:8443", ""]
        {
            check(&some, &[bad], false);
        }
        check(&some, &["https://app.example", "https://evil.example"], false);
        check(&pages(r#"["*"]"#), &["https://any.example"], true);
        check(&pages("[]"), &["https://app.example"], false);
    }

    #[test]
    fn a_page_may_send_what_the_protocol_needs_and_nothing_of_ours() {
        let asked =
            "Authorization, mcp-param-Region,weft-on-behalf-of, cookie, MCP-Protocol-Version,mcp-param-\u{7}";
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_bytes(asked.replace('\u{7}', "(").as_bytes()).unwrap();
        headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, value);
        let response = preflight(&headers);
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let allowed = &response.headers()[ACCESS_CONTROL_ALLOW_HEADERS];
        assert_eq!(allowed, "authorization, mcp-param-region, mcp-protocol-version");
    }
}
