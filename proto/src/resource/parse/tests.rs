use proptest::prelude::*;

use super::*;
use crate::resource::Spec;

const EXAMPLE: &str = r#"
apiVersion: weft.dev/v1alpha1
kind: McpServer
metadata: { namespace: research, name: files, labels: { team: papers } }
spec:
  stdio: { command: npx, args: [-y, "@modelcontextprotocol/server-filesystem", /data] }
  timeouts: { call: 60s, idle: 5m }
  inFlight: { max: 64 }
---
apiVersion: weft.dev/v1alpha1
kind: AccessPolicy
metadata: { namespace: research, name: readers }
spec:
  servers: { names: [files] }
  rules:
    - action: allow
      from: [{ namespaces: [agents] }, { identities: ["spiffe://corp.example/ns/*/sa/reviewer"] }]
      to: [{ tools: ["read_*", "list_*"] }]
      when: 'args.path.startsWith("/data/public/")'
---
# A comment alone is no document.
---
apiVersion: weft.dev/v1alpha1
kind: QuotaPolicy
metadata: { namespace: research, name: fair }
spec:
  servers: { names: [files] }
  limits:
    - { tools: ["search_files"], per: [caller, tool], rate: 10/min, burst: 5 }
    - { per: [tenant], rate: 2000/min, scope: mesh, whenUnavailable: floor }
    - { tools: ["generate_*"], per: [caller], budget: 500/day, scope: mesh, whenUnavailable: deny }
    - { per: [server], concurrency: 64 }
...
"#;

/// The one message for a document, without its file.
#[track_caller]
fn message(text: &str) -> String {
    let errors = parse("f.yaml", text).expect_err("the document is wrong");
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].to_string().strip_prefix("f.yaml").unwrap().to_owned()
}

fn server(spec: &str) -> String {
    format!("apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ name: a }}\nspec:\n  {spec}\n")
}

#[test]
fn several_documents_are_read_in_order_with_their_lines() {
    let parsed = parse("example.yaml", EXAMPLE).unwrap();
    let found: Vec<_> = parsed.iter().map(|(resource, line)| (resource.key().to_string(), *line)).collect();
    let expected = [
        ("mcpservers/research/files", 1),
        ("accesspolicies/research/readers", 9),
        ("quotapolicies/research/fair", 22),
    ];
    assert_eq!(found, expected.map(|(key, line)| (key.to_owned(), line)));
}

#[test]
fn json_is_read_by_the_same_reader() {
    let json = r#"{"apiVersion":"weft.dev/v1alpha1","kind":"McpServer","metadata":{"namespace":"a","name":"b"},
        "spec":{"endpoints":[{"address":"127.0.0.1:7443"}]}}"#;
    let resource = parse_one("f.json", json).unwrap();
    assert_eq!(resource.key().to_string(), "mcpservers/a/b");
}

#[test]
fn what_is_written_out_reads_back_as_the_same_object() {
    for (resource, _) in parse("example.yaml", EXAMPLE).unwrap() {
        assert_eq!(parse_one("y", &resource.to_yaml()).unwrap(), resource, "{}", resource.to_yaml());
        assert_eq!(parse_one("j", &resource.canonical()).unwrap(), resource);
    }
}

#[test]
fn an_unknown_field_is_named_with_its_place_and_the_nearest_valid_one() {
    assert_eq!(
        message(&server("stdio: { command: npx }\n  timeout: { call: 60s }")),
        ":6:3: spec.timeout: unknown field \"timeout\"; did you mean \"timeouts\"? (expected one of: workload, \
         endpoints, external, stdio, serviceAccount, aliases, path, protocol, eras, timeouts, inFlight, \
         loadBalancing, outlierEjection, circuitBreaker, retries, healthCheck)"
    );
    let text = message(&server("stdio: { comand: npx }"));
    assert!(text.contains("did you mean \"command\"?"), "{text}");
}

#[test]
fn mistakes_are_told_with_line_column_field_and_expectation() {
    let check = |text: &str, expected: &str| {
        let found = message(text);
        assert!(found.contains(expected), "{found:?} should contain {expected:?}");
    };
    check("kind: McpServer", ":1:1: apiVersion: the field \"apiVersion\" is missing");
    check(
        "apiVersion: weft.dev/v1\nkind: Route",
        ":1:13: apiVersion: unknown value \"weft.dev/v1\" (expected weft.dev/v1alpha1)",
    );
    check(
        "apiVersion: weft.dev/v1alpha1\nkind: McpSever",
        ":2:7: kind: unknown value \"McpSever\"; did you mean \"McpServer\"?",
    );
    check(
        "apiVersion: weft.dev/v1alpha1\nkind: Trust\nmetadata: {name: a}\nspec: {trustDomain: d}",
        "weft-system/mesh",
    );
    check(&server("{}"), "exactly one of workload, endpoints, external and stdio");
    check(&server("stdio: { command: npx }\n  external: { url: https://h/ }"), "exactly one of");
    check(
        &server("stdio: { command: npx }\n  timeouts: { call: 60 }"),
        ":6:21: spec.timeouts.call: \"60\" is not a duration",
    );
    check(
        &server("stdio: { command: npx }\n  inFlight: { max: 0 }"),
        "spec.inFlight.max: 0 is out of range; expected 1 to 65536",
    );
    check(&server("stdio: { command: npx }\n  inFlight: { max: -1 }"), "spec.inFlight.max");
    check(&server("endpoints: []"), "spec.endpoints: the list is empty");
    check(
        &server("endpoints: [{ address: localhost }]"),
        ":5:26: spec.endpoints[0].address: address has no port",
    );
    check(&server("external: { url: http://example.com }"), "URL is not encrypted");
    check(&server("stdio: { command: npx }\n  stdio: { command: npx }"), "given twice");
    check(&server("stdio: &a { command: npx }"), "anchor");
    check(&server("stdio: { command: npx"), ":");
    check(&server("stdio: npx"), "spec.stdio");
    check(&server("stdio: { command: npx, sharing: some }"), "spec.stdio.sharing");
    check(
        &server("stdio: { command: npx, sandbox: { openFilesMax: 3 } }"),
        "spec.stdio.sandbox.openFilesMax",
    );
    check(
        &server("stdio: { command: npx, sandbox: { readWritePaths: [data] } }"),
        "the paths of a sandbox must start with a slash",
    );
    check(
        &server("stdio: { command: npx }").replace("name: a", "name: A"),
        "metadata.name: name contains 'A' at byte 0",
    );
    check(&server("stdio: { command: npx }").replace("spec", "sepc"), "did you mean \"spec\"?");
    check("- a\n- b", ":1:1");
    check("just text", ":1:1");
}

#[test]
fn every_wrong_document_is_told_at_once_and_none_is_taken() {
    let text = format!("{}---\n{}---\n{}", server("a: 1"), server("stdio: { command: x }"), server("b: 2"));
    let errors = parse("f", &text).unwrap_err();
    assert_eq!(errors.iter().map(|error| error.place.line).collect::<Vec<_>>(), [5, 17]);
}

#[test]
fn limits_and_scopes_of_policies_are_checked() {
    let quota = |limit: &str| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: QuotaPolicy\nmetadata: {{name: q}}\nspec:\n  limits: [{limit}]\n"
        )
    };
    let check = |text: String, expected: &str| {
        let found = message(&text);
        assert!(found.contains(expected), "{found:?} should contain {expected:?}");
    };
    check(quota("{per: [caller]}"), "spec.limits[0]: exactly one of rate, budget and concurrency");
    check(quota("{rate: 5/s, budget: 1/day}"), "exactly one of rate, budget and concurrency");
    check(quota("{budget: 1/day, burst: 2}"), "burst belongs to a rate");
    check(quota("{rate: 5/s, whenUnavailable: deny}"), "belong to `scope: mesh`");
    check(quota("{rate: 5/s, per: [caller, caller]}"), "names a dimension twice");
    check(quota("{rate: 5/s, per: [agent]}"), "expected caller, tenant, tool, server or claim:<name>");
    check(quota("{rate: 0/s}"), "out of range");
    let access =
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: p, namespace: a}\nspec:\n";
    check(
        format!("{access}  servers: {{namespaces: [b]}}\n  rules: [{{action: allow}}]\n"),
        "only objects of weft-system",
    );
    check(format!("{access}  rules: [{{action: allow, from: []}}]\n"), "the list is empty");
    check(
        format!("{access}  rules: [{{action: allow, from: [{{}}]}}]\n"),
        "an empty match would be everyone",
    );
    check(format!("{access}  rules: [{{action: alow}}]\n"), "did you mean \"allow\"?");
}

#[test]
fn a_hostile_document_is_refused_before_it_grows() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse("f", &deep).is_err());
    let bomb = "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n";
    assert!(parse("f", bomb).is_err());
    let errors = parse("f", &" ".repeat(INPUT_BYTES_MAX + 1)).unwrap_err();
    assert!(matches!(errors[0].problem, Problem::TooLarge(_)));
    let errors = parse("f", &"--- a\n".repeat(DOCUMENTS_MAX + 1)).unwrap_err();
    assert!(matches!(errors[0].problem, Problem::TooLarge(_)));
    let long = server(&format!("{}: 1", "x".repeat(10_000)));
    assert!(message(&long).len() < 1000);
}

#[test]
fn defaults_say_nothing_when_written() {
    let resource =
        parse_one("f", &server("stdio: { command: npx }\n  protocol: auto\n  timeouts: {}")).unwrap();
    assert!(!resource.canonical().contains("protocol"), "{}", resource.canonical());
    assert!(matches!(resource.spec, Spec::McpServer(_)));
}

proptest! {
    #[test]
    fn no_input_panics(text in "(apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: )?[-a-z:{}\\[\\]\"'|>&*!#%@`,.~ \n\t0-9é]{0,200}") {
        let _ = parse("f", &text);
    }
}

#[test]
fn the_filter_of_the_access_log_is_checked_where_it_is_written() {
    let telemetry = |filter: &str| {
        message(&format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Telemetry\nmetadata: {{ name: a }}\nspec:\n  accessLog: {{ filter: '{filter}' }}\n"
        ))
    };
    let untyped = telemetry("request.tool");
    assert!(
        untyped.starts_with(":5:") && untyped.contains("this is a text, expected true or false"),
        "{untyped}"
    );
    let unknown = telemetry("response.status >= 400");
    assert!(unknown.starts_with(":5:") && unknown.contains("unknown name `response`"), "{unknown}");
}

#[test]
fn a_dimension_of_metrics_that_there_is_not_is_told_with_those_that_there_are() {
    let told = message(
        "apiVersion: weft.dev/v1alpha1\nkind: Telemetry\nmetadata: { name: a }\nspec:\n  metricDimensions: [era, session]\n",
    );
    assert!(
        told.contains("unknown value \"session\"") && told.contains("expected one of: caller, era, limit"),
        "{told}"
    );
}
