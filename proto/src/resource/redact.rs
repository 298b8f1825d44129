//! Objects and texts as they may be shown to whoever looks into a fault and is not to know secrets.
//!
//! What is kept is listed and everything else is withheld, so that a field that is new is withheld until somebody has
//! thought about it. Names, choices, amounts and times are kept; values of environments and headers, arguments,
//! expressions and free texts are not. Not here: redaction of what tools are called with, which policies ask for.

use serde_json::Value;

/// Fields whose texts are names, choices, amounts or times.
const KEPT: &[&str] = &[
    "accessLog",
    "action",
    "address",
    "aliases",
    "apiVersion",
    "audit",
    "budget",
    "call",
    "command",
    "connect",
    "defaultAction",
    "digest",
    "ejectionTime",
    "eras",
    "federatedDomains",
    "format",
    "gateways",
    "identities",
    "idle",
    "interval",
    "kind",
    "loadBalancing",
    "locality",
    "max",
    "memoryMax",
    "metricDimensions",
    "methods",
    "mode",
    "name",
    "names",
    "namespace",
    "namespaces",
    "per",
    "perTryTimeout",
    "pin",
    "policy",
    "prefix",
    "prompts",
    "protocol",
    "rate",
    "readOnlyPaths",
    "readWritePaths",
    "redact",
    "rename",
    "resourceVersion",
    "resultMax",
    "retry",
    "reuseFor",
    "sampling",
    "scope",
    "separator",
    "server",
    "serviceAccount",
    "serviceAccounts",
    "servers",
    "sharing",
    "svidLifetime",
    "tenants",
    "timeout",
    "tools",
    "trustDomain",
    "ttl",
    "unixSocket",
    "validateArguments",
    "virtualServers",
    "whenUnavailable",
    "workingDirectory",
    "zone",
];
/// Maps whose values are kept, whatever their keys.
const KEPT_MAPS: &[&str] = &["approved", "labels"];
/// Maps and lists of which nothing is kept but keys, whatever these are.
const WITHHELD: &[&str] = &["annotations", "apiKeys", "args", "claims", "env", "headers", "jwks", "roots"];
/// Of these, scheme, host and port are kept.
const URLS: &[&str] = &["authorizationServers", "endpoint", "issuer", "jwksUrl", "url"];
/// How a token of the mesh begins; each holds more than an identifier.
const TOKENS: &[&str] = &["weft_", "weft1."];
const BEARER: &str = "bearer ";

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    ByField,
    Keep,
    Withhold,
}

/// Withholds what is not known to be harmless. Answers with how many values were.
pub fn redact(object: &mut Value) -> usize {
    walk(object, "", Mode::ByField)
}

fn walk(value: &mut Value, field: &str, mode: Mode) -> usize {
    let below = match field {
        _ if mode != Mode::ByField => mode,
        field if WITHHELD.contains(&field) => Mode::Withhold,
        field if KEPT_MAPS.contains(&field) => Mode::Keep,
        _ => Mode::ByField,
    };
    match value {
        Value::Object(fields) => fields.iter_mut().map(|(name, value)| walk(value, name, below)).sum(),
        Value::Array(items) => items.iter_mut().map(|item| walk(item, field, below)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) if below != Mode::Withhold => 0,
        Value::String(_) if below == Mode::Keep => 0,
        Value::String(text) if below == Mode::ByField && URLS.contains(&field) => {
            *text = scrub(text);
            0
        }
        Value::String(_) if below == Mode::ByField && KEPT.contains(&field) => 0,
        withheld => {
            let bytes = withheld.as_str().map_or_else(|| withheld.to_string().len(), str::len);
            *withheld = Value::String(format!("withheld, {bytes} bytes"));
            1
        }
    }
}

/// A text without what is usually secret in one: of addresses all but scheme, host and port, tokens, and private keys.
/// Identities are kept.
pub fn scrub(text: &str) -> String {
    without_keys(&without_tokens(&without_paths(text)))
}

fn is_scheme(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

/// What ends an address in a text.
fn is_end(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '\\' | '|' | ')' | '}')
}

fn without_paths(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let is_identity = before.trim_end_matches("://").rsplit(|c| !is_scheme(c)).next() == Some("spiffe");
        let (address, behind) = after.split_at(after.find(is_end).unwrap_or(after.len()));
        if is_identity {
            out.push_str(address);
        } else {
            let authority = address.split(['/', '?', '#']).next().unwrap_or_default();
            // A password may have any of these in it.
            let host = address
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host.split(['/', '?', '#']).next().unwrap_or_default());
            out.push_str(host);
            if host.len() < address.trim_end_matches('/').len() {
                out.push('…');
            }
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '/' | '=' | '.' | '~')
}

fn without_tokens(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, length)) = next_token(rest) {
        out.push_str(&rest[..at]);
        out.push('…');
        rest = &rest[at + length..];
    }
    out.push_str(rest);
    out
}

/// Where the next token is, and how long.
fn next_token(text: &str) -> Option<(usize, usize)> {
    let lower = text.to_ascii_lowercase();
    let length = |at: usize| text[at..].find(|c| !is_token(c)).unwrap_or(text.len() - at);
    let of_mesh = TOKENS.iter().flat_map(|token| lower.match_indices(token)).map(|(at, _)| at);
    // Metrics of the mesh are called `weft_…` too.
    let of_mesh = of_mesh.filter(|at| {
        let word = &text[*at..*at + length(*at)];
        word.len() > 40 && word.chars().any(|c| c.is_ascii_digit() || c.is_ascii_uppercase())
    });
    let bearers = lower.match_indices(BEARER).map(|(at, _)| at + BEARER.len()).filter(|at| length(*at) > 0);
    of_mesh.chain(bearers).min().map(|at| (at, length(at)))
}

fn without_keys(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN";
    const KEY: &str = "PRIVATE KEY-----";
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(BEGIN) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let end = after.find(KEY).filter(|end| *end < 64);
        let Some(end) = end else {
            out.push_str(BEGIN);
            rest = &after[BEGIN.len()..];
            continue;
        };
        out.push_str("a private key, withheld");
        let body = &after[end + KEY.len()..];
        rest = body.find(KEY).map_or("", |end| &body[end + KEY.len()..]);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_amounts_are_kept_and_values_are_not() {
        let mut object = json!({
            "apiVersion": "weft.dev/v1alpha1",
            "kind": "McpServer",
            "metadata": { "namespace": "a", "name": "b", "labels": { "token": "shown" }, "annotations": { "name": "hidden" } },
            "spec": {
                "stdio": { "command": "npx", "args": ["--key", "hidden"], "env": { "name": "hidden", "PORT": "hidden" } },
                "inFlight": { "max": 3 },
                "newField": "hidden",
            },
        });
        assert_eq!(redact(&mut object), 6);
        let text = object.to_string();
        assert!(!text.contains("hidden") && text.contains("shown") && text.contains("\"max\":3"), "{text}");
        assert_eq!(object["spec"]["stdio"]["env"]["PORT"], "withheld, 6 bytes");
        assert_eq!(object["spec"]["stdio"]["command"], "npx");
    }

    #[test]
    fn of_addresses_only_the_host_is_kept() {
        let check = |text: &str, expected: &str| assert_eq!(scrub(text), expected);
        check("https://user:pa/ss@h.example:8443/p?key=s#f", "https://h.example:8443…");
        check("at http://h/hook/secret, then", "at http://h… then");
        check("http://h/ and http://h", "http://h and http://h");
        check("{\"url\":\"grpc://k@h:1\"}", "{\"url\":\"grpc://h:1…\"}");
        check("spiffe://d/ns/a/sa/b of xspiffe://d/x", "spiffe://d/ns/a/sa/b of xspiffe://d…");
        check("nothing :// here", "nothing :// here");
    }

    #[test]
    fn tokens_and_private_keys_are_withheld_and_metrics_are_not() {
        let check = |text: &str, expected: &str| assert_eq!(scrub(text), expected);
        let secret = "A1".repeat(22);
        check(&format!("key weft_abc_{secret}, end"), "key …, end");
        check(&format!("weft1.id.{secret}.ab12"), "…");
        check("authorization: Bearer abc.def-1 end", "authorization: Bearer … end");
        check("weft_sidecar_requests_total{a=\"b\"} 1", "weft_sidecar_requests_total{a=\"b\"} 1");
        check(
            "x -----BEGIN EC PRIVATE KEY-----\nMIIB\n-----END EC PRIVATE KEY----- y",
            "x a private key, withheld y",
        );
        check("-----BEGIN CERTIFICATE-----\nMIIB", "-----BEGIN CERTIFICATE-----\nMIIB");
        check("-----BEGIN PRIVATE KEY-----\nMIIB", "a private key, withheld");
    }

    #[test]
    fn no_field_is_in_two_lists() {
        let mut all: Vec<_> = [KEPT, KEPT_MAPS, WITHHELD, URLS].concat();
        all.sort_unstable();
        let doubled: Vec<_> = all.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(doubled.is_empty(), "{doubled:?}");
    }
}
