use serde_json::json;

use super::*;
use crate::table::Table;

/// The table of one object as text, without its header.
fn line(kind: Kind, spec: Value) -> String {
    let mut table = Table::new(headers(Some(kind), false));
    table.push(row(
        Some(kind),
        false,
        &json!({ "metadata": { "namespace": "n", "name": "a" }, "spec": spec }),
    ));
    let words: Vec<_> = table.render_bare(false).split("  ").map(str::trim).map(str::to_owned).collect();
    words.into_iter().filter(|word| !word.is_empty()).skip(2).collect::<Vec<_>>().join(" | ")
}

#[test]
fn each_kind_shows_what_matters_of_it() {
    let check = |kind, spec, expected| assert_eq!(line(kind, spec), expected);
    check(
        Kind::McpServer,
        json!({ "stdio": { "command": "npx", "args": ["-y", "x"] } }),
        "stdio: npx -y x | auto | any",
    );
    check(
        Kind::McpServer,
        json!({ "endpoints": (1..=5).map(|n| json!({ "address": format!("h:{n}") })).collect::<Vec<_>>() }),
        "h:1, h:2, h:3, +2 more | auto | any",
    );
    check(
        Kind::McpServer,
        json!({ "workload": { "labels": { "app": "files" } }, "serviceAccount": "files", "protocol": "http-sse" }),
        "workloads: app=files | http-sse | files",
    );
    check(Kind::McpServer, json!({ "external": { "url": "https://h/" } }), "https://h/ | auto | any");
    check(
        Kind::VirtualServer,
        json!({ "members": [{ "server": "n/a" }], "mode": "search" }),
        "n/a | always | search",
    );
    check(
        Kind::Route,
        json!({ "server": "n/a", "rules": [{ "to": [{ "server": "n/b" }] }, { "to": [{ "server": "n/b" }] }] }),
        "n/a | n/b | 2",
    );
    check(
        Kind::AccessPolicy,
        json!({ "servers": { "names": ["a", "b"] }, "rules": [{ "action": "allow" }], "shadow": true }),
        "a, b | allow | shadow",
    );
    check(
        Kind::QuotaPolicy,
        json!({ "limits": [{ "rate": "10/min" }, { "budget": "5/day" }, { "concurrency": 8 }] }),
        "all | 10/min, 5/day, 8 at once | enforced",
    );
    check(Kind::ToolPolicy, json!({ "tools": ["r_*"], "pin": "warn" }), "all | r_* | off | warn | enforced");
    check(Kind::Authentication, json!({ "jwt": [{ "issuer": "https://l/" }] }), "all | https://l/ | 0 | -");
    check(
        Kind::Telemetry,
        json!({ "tracing": { "sampling": "1%", "endpoint": "http://o:4317" }, "audit": "full" }),
        "all | 1% | http://o:4317 | full",
    );
    check(Kind::Trust, json!({ "trustDomain": "d", "defaultAction": "deny" }), "d | 1d | deny | -");
}

#[test]
fn rows_and_headers_are_of_one_length_for_every_kind() {
    for kind in Kind::ALL.iter().copied().map(Some).chain([None]) {
        for wide in [false, true] {
            for object in [json!({}), json!({ "metadata": [], "spec": 7, "kind": null })] {
                assert_eq!(headers(kind, wide).len(), row(kind, wide, &object).len(), "{kind:?}");
            }
        }
    }
}
