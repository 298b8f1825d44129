//! What a table shows of an object, by its kind. Read from the object's JSON, so that an object of a newer version of
//! the model shows what is still known of it.

use serde_json::Value;
use weft_proto::resource::Kind;

use crate::table::Cell;

type Read = fn(&Value) -> String;

/// The headers of a table of one kind, or of every kind.
pub(crate) fn headers(kind: Option<Kind>, wide: bool) -> Vec<&'static str> {
    let mut headers = match kind {
        None => vec!["KIND", "NAMESPACE", "NAME"],
        Some(_) => vec!["NAMESPACE", "NAME"],
    };
    headers.extend(columns(kind).iter().map(|(header, _)| *header));
    if wide {
        headers.extend(["VERSION", "LABELS"]);
    }
    headers
}

/// The row of an object.
pub(crate) fn row(kind: Option<Kind>, wide: bool, object: &Value) -> Vec<Cell> {
    let text = |pointer: &str| show(object.pointer(pointer));
    let mut row = match kind {
        None => vec![Cell::new(text("/kind").to_lowercase())],
        Some(_) => Vec::new(),
    };
    row.extend([Cell::new(text("/metadata/namespace")), Cell::new(text("/metadata/name"))]);
    let spec = object.get("spec").unwrap_or(&Value::Null);
    row.extend(columns(kind).iter().map(|(_, read)| Cell::new(read(spec))));
    if wide {
        row.extend([Cell::new(text("/metadata/resourceVersion")), Cell::new(text("/metadata/labels"))]);
    }
    row
}

fn columns(kind: Option<Kind>) -> &'static [(&'static str, Read)] {
    match kind {
        None => &[],
        Some(Kind::McpServer) => &[
            ("WHERE", location),
            ("PROTOCOL", |spec| or(spec, "protocol", "auto")),
            ("ACCOUNT", |spec| or(spec, "serviceAccount", "any")),
        ],
        Some(Kind::VirtualServer) => &[
            ("MEMBERS", |spec| list(spec, "members", |member| field(member, "server"))),
            ("PREFIX", |spec| or(spec, "prefix", "always")),
            ("MODE", |spec| or(spec, "mode", "full")),
        ],
        Some(Kind::Route) => &[
            ("SERVER", |spec| field(spec, "server")),
            ("TO", destinations),
            ("RULES", |spec| count(spec, "rules")),
        ],
        Some(Kind::AccessPolicy) => &[
            ("SERVERS", servers),
            ("RULES", |spec| list(spec, "rules", |rule| field(rule, "action"))),
            ("MODE", mode),
        ],
        Some(Kind::QuotaPolicy) => {
            &[("SERVERS", servers), ("LIMITS", |spec| list(spec, "limits", amount)), ("MODE", mode)]
        }
        Some(Kind::ToolPolicy) => &[
            ("SERVERS", servers),
            ("TOOLS", |spec| or(spec, "tools", "all")),
            ("ARGUMENTS", |spec| or(spec, "validateArguments", "off")),
            ("PIN", |spec| or(spec, "pin", "off")),
            ("MODE", mode),
        ],
        Some(Kind::Authentication) => &[
            ("GATEWAYS", |spec| or(spec, "gateways", "all")),
            ("ISSUERS", |spec| list(spec, "jwt", |issuer| field(issuer, "issuer"))),
            ("KEYS", |spec| count(spec, "apiKeys")),
            ("DOMAINS", |spec| field(spec, "federatedDomains")),
        ],
        Some(Kind::Telemetry) => &[
            ("SERVERS", servers),
            ("SAMPLING", |spec| show(spec.pointer("/tracing/sampling"))),
            ("SPANS TO", |spec| show(spec.pointer("/tracing/endpoint"))),
            ("AUDIT", |spec| field(spec, "audit")),
        ],
        Some(Kind::Trust) => &[
            ("TRUST DOMAIN", |spec| field(spec, "trustDomain")),
            ("LIFETIME", |spec| or(spec, "svidLifetime", "1d")),
            ("DEFAULT", |spec| or(spec, "defaultAction", "allow")),
            ("FEDERATED", |spec| list(spec, "federated", |domain| field(domain, "trustDomain"))),
        ],
    }
}

fn location(spec: &Value) -> String {
    let words = |command: &Value| {
        let args = command.get("args").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let words: Vec<_> =
            command.get("command").into_iter().chain(args).map(|word| show(Some(word))).collect();
        clip(&words.join(" "), COMMAND_CHARS_MAX)
    };
    if let Some(stdio) = spec.get("stdio") {
        format!("stdio: {}", words(stdio))
    } else if let Some(workload) = spec.get("workload") {
        format!("workloads: {}", field(workload, "labels"))
    } else if let Some(external) = spec.get("external") {
        field(external, "url")
    } else {
        list(spec, "endpoints", |endpoint| field(endpoint, "address"))
    }
}

const COMMAND_CHARS_MAX: usize = 48;
const LIST_ITEMS_MAX: usize = 3;

fn servers(spec: &Value) -> String {
    let parts: Vec<_> = ["namespaces", "names", "labels"]
        .iter()
        .filter_map(|part| spec.get("servers")?.get(part))
        .map(|part| show(Some(part)))
        .collect();
    if parts.is_empty() { "all".to_owned() } else { parts.join(" ") }
}

fn mode(spec: &Value) -> String {
    let shadow = spec.get("shadow").and_then(Value::as_bool).unwrap_or_default();
    if shadow { "shadow".to_owned() } else { "enforced".to_owned() }
}

fn amount(limit: &Value) -> String {
    let calls = || limit.get("concurrency").map(|calls| format!("{} at once", show(Some(calls))));
    let amount = ["rate", "budget"].iter().find_map(|name| limit.get(name)).map(|amount| show(Some(amount)));
    amount.or_else(calls).unwrap_or_default()
}

fn destinations(spec: &Value) -> String {
    let rules = spec.get("rules").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let named = rules.iter().filter_map(|rule| rule.get("to")?.as_array()).flatten();
    let mut names: Vec<String> = Vec::new();
    for name in named.map(|to| field(to, "server")) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    some_of(names)
}

fn field(value: &Value, name: &str) -> String {
    show(value.get(name))
}

fn or(value: &Value, name: &str, default: &str) -> String {
    value.get(name).map_or_else(|| default.to_owned(), |value| show(Some(value)))
}

fn count(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_array).map_or(0, Vec::len).to_string()
}

fn list(value: &Value, name: &str, item: fn(&Value) -> String) -> String {
    value.get(name).map(|items| list_of(items, item)).unwrap_or_default()
}

fn list_of(items: &Value, item: fn(&Value) -> String) -> String {
    some_of(items.as_array().map(|items| items.iter().map(item).collect()).unwrap_or_default())
}

/// The first of many.
pub(crate) fn some_of(mut texts: Vec<String>) -> String {
    let more = texts.len().saturating_sub(LIST_ITEMS_MAX);
    texts.truncate(LIST_ITEMS_MAX);
    match more {
        0 => texts.join(", "),
        _ => format!("{}, +{more} more", texts.join(", ")),
    }
}

fn show(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => some_of(items.iter().map(|item| show(Some(item))).collect()),
        Some(Value::Object(map)) => {
            some_of(map.iter().map(|(key, value)| format!("{key}={}", show(Some(value)))).collect())
        }
        Some(other) => other.to_string(),
    }
}

pub(crate) fn clip(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "tests/columns.rs"]
mod tests;
