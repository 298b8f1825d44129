//! The reference of the sidecar is made from the code: limits, refusals, metrics and the fields of its file.

#![allow(clippy::unwrap_used, reason = "a reference that cannot be written is a failed test")]

use std::fmt::Write as _;
use std::path::Path;

use weft_sidecar::cli;
use weft_sidecar::limits::Limits;
use weft_sidecar::metrics::{
    DurationLabels, LimitLabels, ListenerLabel, Metrics, QuotaLabels, ReasonLabel, RefusedLabel,
    RequestLabels, ServerLabel, ServerOutcomeLabels, ToolCheckLabels, VersionLabel,
};
use weft_sidecar::refusal::Refusal;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference.md");
/// What stands before the tables, by hand.
const BEGINNING: &str = include_str!("reference/beginning.md");

#[test]
fn the_reference_is_as_the_code_has_it() {
    let mut made = BEGINNING.to_owned();
    limits(&mut made);
    refusals(&mut made);
    metrics(&mut made);
    if std::env::var_os("WEFT_BLESS").is_some() {
        std::fs::write(PATH, &made).unwrap();
    }
    let found = std::fs::read_to_string(PATH).unwrap_or_default();
    assert_eq!(found, made, "{PATH} is stale: run this test with WEFT_BLESS=1");
}

#[test]
fn the_files_that_show_how_a_sidecar_is_started_can_be_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/sidecar");
    for file in ["standalone.yaml", "joined.yaml", "gateway.yaml"] {
        cli::read(&Path::new(folder).join(file)).unwrap();
    }
}

fn limits(made: &mut String) {
    made.push_str("\n## Limits\n\nIn the section `limits` of the file; each in camelCase, as `bodyBytesMax`. Durations are written as `30s` or `5m`.\n\n| limit | default | bounds |\n|---|---|---|\n");
    for (name, default, meaning) in Limits::described() {
        writeln!(made, "| `{}` | {default} | {} |", camel(name), meaning.replace('\n', " ")).unwrap();
    }
}

fn refusals(made: &mut String) {
    made.push_str("\n## Refusals\n\nThe word stands in the header `weft-reason`, in the error's `data.reason` (but for `unsupported_version`, whose data are the protocol's own), in the access log and in the metrics. Codes below zero are the protocol's own.\n\n| word | status | code | again? | message |\n|---|---|---|---|---|\n");
    for refusal in Refusal::every() {
        let told = refusal.told();
        let again = if told.again { "yes" } else { "no" };
        let message = refusal.message();
        writeln!(made, "| `{}` | {} | {} | {again} | {message} |", told.reason, told.status, told.code)
            .unwrap();
    }
}

fn metrics(made: &mut String) {
    made.push_str("\n## Metrics\n\nOn the health port, at `/metrics`. Times are in seconds, sizes in bytes.\n\n| metric | kind | says |\n|---|---|---|\n");
    let text = metrics_shown();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("# ")).collect::<Vec<_>>();
    lines.sort_by_key(|line| line.split_once(' ').map(|(_, rest)| rest.to_owned()));
    let find = |kind: &str, name: &str| {
        let prefix = format!("{kind} {name} ");
        lines
            .iter()
            .find_map(|line| line.strip_prefix(prefix.as_str()))
            .unwrap_or_default()
            .trim_end_matches('.')
    };
    let names = lines.iter().filter_map(|line| line.strip_prefix("HELP ")?.split_once(' '));
    for (name, _) in names {
        let kind = find("TYPE", name);
        let suffix = if kind == "counter" { "_total" } else { "" };
        writeln!(made, "| `{name}{suffix}` | {kind} | {} |", find("HELP", name)).unwrap();
    }
}

/// The text of metrics of which each shows itself once. A family is silent until one of its members was counted.
fn metrics_shown() -> String {
    let metrics = Metrics::new();
    let Metrics { connections, request_bytes, response_bytes, streams, .. } = &metrics;
    drop(connections.get_or_create(&ListenerLabel { listener: "" }));
    drop(streams.get_or_create(&ListenerLabel { listener: "" }));
    for family in [request_bytes, response_bytes] {
        drop(family.get_or_create(&ListenerLabel { listener: "" }));
    }
    let Metrics { in_flight, upstream_up, server_healthy, child_restarts, child_garbage_lines, .. } =
        &metrics;
    drop(metrics.server_exposed.get_or_create(&ServerLabel { server: "".into() }));
    for family in [in_flight, upstream_up, server_healthy, child_restarts, child_garbage_lines] {
        drop(family.get_or_create(&ServerLabel { server: "".into() }));
    }
    for family in
        [&metrics.audit_dropped, &metrics.audit_failures, &metrics.spans_dropped, &metrics.metrics_exports]
    {
        drop(family.get_or_create(&ReasonLabel { reason: "" }));
    }
    drop(metrics.snapshot_info.get_or_create(&VersionLabel { version: "".into() }));
    drop(metrics.shadow_refusals.get_or_create(&ServerLabel { server: "".into() }));
    let labels = ToolCheckLabels { server: "".into(), check: "", outcome: "" };
    drop(metrics.tool_checks.get_or_create(&labels));
    for family in [&metrics.tool_readings, &metrics.kept_answers] {
        drop(family.get_or_create(&ServerOutcomeLabels { server: "".into(), outcome: "" }));
    }
    drop(metrics.connections_refused.get_or_create(&RefusedLabel { listener: "", reason: "" }));
    let labels = RequestLabels { listener: "", server: "".into(), method: "", reason: "" };
    drop(metrics.requests.get_or_create(&labels));
    let labels = DurationLabels { listener: "", server: "".into(), method: "" };
    drop(metrics.request_seconds.get_or_create(&labels));
    let labels = QuotaLabels { policy: "".into(), limit: "".into(), outcome: "" };
    drop(metrics.quota_decisions.get_or_create(&labels));
    drop(metrics.quota_fallback_active.get_or_create(&LimitLabels { policy: "".into(), limit: "".into() }));
    let ages = &metrics.quota_lease_age_seconds;
    for family in [&metrics.quota_limit, &metrics.quota_used, &metrics.quota_lease, ages] {
        drop(family.get_or_create(&LimitLabels { policy: "".into(), limit: "".into() }));
    }
    metrics.text()
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |made, word| {
        let (head, tail) = word.split_at(1);
        made + &head.to_uppercase() + tail
    })
}
