//! That the reference names everything that an operator can set or watch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use weft_control_plane::metrics::{ApiLabels, Metrics, NamespaceLabel, ReasonLabel, ReplicaLabel, TypeLabel};

use crate::lexer;
use crate::source::tests_begin;
use crate::tree::File;

/// Where those who run a mesh find what there is: the documents beside each crate.
pub(crate) fn text(files: &[File]) -> String {
    let documents = files.iter().filter(|file| file.path.ends_with(".md") && file.path.contains("/docs/"));
    documents.map(|file| file.text.as_str()).collect()
}

/// The code and the literals of what an operator runs, without tests.
fn product(file: &File) -> Option<(String, String)> {
    let planes = ["control-plane/", "sidecar/"];
    if file.test || !planes.iter().any(|plane| file.path.starts_with(plane)) {
        return None;
    }
    let parts = lexer::split(&file.text);
    let lines = tests_begin(&parts.code).unwrap_or(usize::MAX);
    let cut = |text: &str| text.split_inclusive('\n').take(lines).collect();
    Some((cut(&parts.code), cut(&parts.literals)))
}

/// The environment variables that a file names.
pub(crate) fn variables(file: &File) -> Vec<String> {
    let Some((_, literals)) = product(file) else { return Vec::new() };
    words(&literals).filter(|word| word.strip_prefix("WEFT_").is_some_and(|name| !name.is_empty())).collect()
}

/// The default ports that a file names: Weft's lie between 7400 and 7599.
pub(crate) fn ports(file: &File) -> Vec<String> {
    let Some((code, literals)) = product(file) else { return Vec::new() };
    let is_port = |word: &String| {
        word.len() == 4
            && (word.starts_with("74") || word.starts_with("75"))
            && word.bytes().all(|b| b.is_ascii_digit())
    };
    words(&code).chain(words(&literals)).filter(is_port).collect()
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_owned)
}

/// The text of metrics of which each shows itself once. A family is silent until one of its members was counted.
pub(crate) fn metrics_shown() -> String {
    let metrics = Metrics::new();
    let Metrics {
        xds_responses, xds_response_bytes, xds_acks, xds_nacks, xds_stale_nonces, resources, ..
    } = &metrics;
    for family in [xds_responses, xds_response_bytes, xds_acks, xds_nacks, xds_stale_nonces] {
        drop(family.get_or_create(&TypeLabel { r#type: "" }));
    }
    drop(resources.get_or_create(&TypeLabel { r#type: "" }));
    let Metrics { certificates_refused, handshakes_failed, .. } = &metrics;
    let Metrics { lease_streams_refused, lease_demands_refused, audit_refused, admissions, .. } = &metrics;
    let Metrics { cluster_events, cluster_namespace_pods_without_sidecar, .. } = &metrics;
    let Metrics { xds_streams_refused, xds_streams_ended, report_streams_ended, .. } = &metrics;
    let streams = [xds_streams_refused, xds_streams_ended, report_streams_ended];
    for family in streams.into_iter().chain([
        certificates_refused,
        handshakes_failed,
        lease_streams_refused,
        lease_demands_refused,
        audit_refused,
        admissions,
        cluster_events,
    ]) {
        drop(family.get_or_create(&ReasonLabel { reason: "" }));
    }
    let namespace = NamespaceLabel { namespace: String::new() };
    drop(cluster_namespace_pods_without_sidecar.get_or_create(&namespace));
    let replica = ReplicaLabel { replica: String::new() };
    drop(metrics.replica_behind_revisions.get_or_create(&replica));
    drop(metrics.replica_behind_seconds.get_or_create(&replica));
    drop(metrics.api_requests.get_or_create(&ApiLabels { operation: "", status: 0 }));
    metrics.text()
}

/// The names of the metrics that a file declares in its table: `metrics! { name: Kind = new(), "Help"; … }`.
pub(crate) fn declared(source: &str) -> BTreeSet<String> {
    let table = source.split_once("\nmetrics! {").and_then(|(_, table)| table.split_once("\n}"));
    let rows = table.map_or("", |(table, _)| table).split(';').filter_map(|row| row.split_once(':'));
    rows.map(|(name, _)| format!("weft_{}", name.trim())).collect()
}

/// The names of metrics that a reference has, without the suffix of counters.
pub(crate) fn described(reference: &str) -> BTreeSet<String> {
    let rows = reference.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split_once('`'));
    names.map(|(name, _)| name.trim_end_matches("_total").to_owned()).collect()
}

/// The reference of metrics, made from their Prometheus text.
pub(crate) fn metrics(prometheus: &str) -> String {
    let mut rows = BTreeMap::<&str, Row<'_>>::new();
    for line in prometheus.lines() {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", "HELP", name, text] => rows.entry(name).or_default().says = text.trim_end_matches('.'),
            ["#", "TYPE", name, kind] => rows.entry(name).or_default().kind = kind,
            _ => {
                let (name, labels) = line.split_once('{').unwrap_or((line, ""));
                let mut rows = rows.iter_mut();
                let Some((_, row)) = rows.find(|(metric, _)| name.trim_end_matches("_total") == **metric)
                else {
                    continue;
                };
                row.labels = labels
                    .split(',')
                    .filter_map(|pair| pair.split_once('='))
                    .map(|(label, _)| label)
                    .collect();
            }
        }
    }
    let mut made = "# Metrics of the control plane\n\n\
        On the health port, at `/metrics`, in the text form of OpenMetrics. Times are in seconds, sizes in bytes.\n\n\
        This file is made from the code: `WEFT_BLESS=1 cargo test -p weft-tests --test tidy metrics` writes it anew.\n\n\
        | metric | kind | labels | says |\n|---|---|---|---|\n"
        .to_owned();
    for (name, Row { kind, labels, says }) in rows {
        // Counters are asked for under this name.
        let suffix = if kind == "counter" { "_total" } else { "" };
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        writeln!(made, "| `{name}{suffix}` | {kind} | {labels} | {says} |")
            .expect("writing to a text cannot fail");
    }
    made
}

#[derive(Default)]
struct Row<'a> {
    kind: &'a str,
    labels: Vec<&'a str>,
    says: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned(), test: path.starts_with("tests/") }
    }

    #[test]
    fn what_the_product_names_is_found_and_what_its_tests_name_is_not() {
        let text = "const A: &str = \"WEFT_DATA\"; // WEFT_NOT\nlet b = [\"http://h:7501/x\"]; f(7502, 74020);\n\
            #[cfg(test)]\nmod tests {\n    const C: &str = \"WEFT_TEST 7503\";\n}\n";
        let found = file("control-plane/src/a.rs", text);
        assert_eq!(variables(&found), ["WEFT_DATA"]);
        assert_eq!(ports(&found), ["7502", "7501"]);
        assert!(variables(&file("tests/a.rs", text)).is_empty());
        assert!(ports(&file("proto/src/a.rs", text)).is_empty());
    }

    #[test]
    fn only_documents_count_as_reference() {
        let files = [file("a/docs/b.md", "x"), file("a/src/b.md", "y"), file("a/docs/c.rs", "z")];
        assert_eq!(text(&files), "x");
    }

    #[test]
    fn a_new_metric_changes_the_reference() {
        let one = "# HELP weft_a Apples.\n# TYPE weft_a counter\nweft_a_total{kind=\"b\",size=\"c\"} 0\n";
        let made = metrics(one);
        assert!(made.ends_with("|---|\n| `weft_a_total` | counter | `kind`, `size` | Apples |\n"), "{made}");
        assert_ne!(made, metrics(&format!("{one}# HELP weft_b Pears.\n# TYPE weft_b gauge\n")));
        assert_eq!(described(&made), BTreeSet::from(["weft_a".to_owned()]));
    }

    #[test]
    fn a_metric_is_found_where_it_is_declared() {
        let source = "macro_rules! metrics { }\n\nmetrics! {\n    a: A = A::b(), \"A\";\n    b: B = c(),\n        \"B\";\n}\n";
        assert_eq!(declared(source), BTreeSet::from(["weft_a".to_owned(), "weft_b".to_owned()]));
    }
}
