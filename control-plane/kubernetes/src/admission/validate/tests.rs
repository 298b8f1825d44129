use serde_json::json;
use weft_control_plane::desired::store_key;
use weft_control_plane::store::{Entry, Revision};
use weft_proto::name::TrustDomain;

use super::*;

fn mesh() -> Mesh {
    Mesh { trust_domain: TrustDomain::parse("corp.example").unwrap() }
}

/// The objects that there are: `files`, which answers to `old` as well, and a route to it.
fn present() -> Present {
    let objects = [
        (Kind::McpServer, "files", json!({ "stdio": { "command": "x" }, "aliases": ["old"] })),
        (
            Kind::Route,
            "canary",
            json!({ "server": "a/files", "rules": [{ "to": [{ "server": "a/files" }] }] }),
        ),
    ];
    let entries = objects.map(|(kind, name, spec)| {
        let key = source::key(kind, Some("a"), Some(name)).unwrap();
        let resource = source::read(&key, &json!({}), &spec, Some(1)).unwrap();
        Entry {
            key: store_key(&key),
            value: resource.canonical().into(),
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        }
    });
    Present::read(Revision(5), &entries)
}

fn request(operation: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "operation": operation,
        "kind": { "group": "weft.dev", "version": "v1alpha1", "kind": kind },
        "namespace": "a", "name": name,
        "object": { "metadata": { "name": name, "namespace": "a" }, "spec": spec },
        "oldObject": null,
    })
}

#[track_caller]
fn refused(request: &Value, expected: &str) {
    let message = judge(request, &mesh(), Some(&present())).refusal.expect("it is refused");
    assert!(message.contains(expected), "{message:?} should contain {expected:?}");
}

#[track_caller]
fn let_in(request: &Value, warnings: &[&str]) {
    let verdict = judge(request, &mesh(), Some(&present()));
    let warnings = warnings.iter().map(|text| (*text).to_owned()).collect();
    assert_eq!(verdict, Verdict { refusal: None, warnings });
}

#[test]
fn an_object_is_refused_in_the_words_of_apply() {
    refused(
        &request("CREATE", "QuotaPolicy", "q", json!({ "limits": [{ "rate": "10/fortnight" }] })),
        "10/fortnight",
    );
    let rule = json!({ "action": "allow", "when": "args.path + 1" });
    refused(&request("CREATE", "AccessPolicy", "p", json!({ "rules": [rule] })), "spec.rules[0].when: ");
    let root = json!({ "servers": { "namespaces": ["b"] }, "rules": [{ "action": "deny" }] });
    refused(
        &request("CREATE", "AccessPolicy", "p", root),
        "only objects of weft-system reach other namespaces",
    );
    refused(
        &request("CREATE", "McpServer", "x", json!({ "stdio": { "comand": "x" } })),
        "did you mean \"command\"?",
    );
    refused(&request("CREATE", "McpServer", "x", Value::Null), "spec: ");
}

#[test]
fn what_contradicts_other_objects_is_refused() {
    let server = json!({ "stdio": { "command": "y" } });
    refused(
        &request("CREATE", "McpServer", "old", server),
        "metadata.name: mcpservers/a/files is called \"old\" already",
    );
    let mut trust = request("CREATE", "Trust", "mesh", json!({ "trustDomain": "other.example" }));
    trust["namespace"] = "weft-system".into();
    refused(&trust, "spec.trustDomain: this mesh's trust domain is corp.example");
}

#[test]
fn probable_mistakes_are_warnings() {
    let policy = |server: &str| json!({ "servers": { "names": [server] }, "rules": [{ "action": "deny" }] });
    let_in(&request("CREATE", "AccessPolicy", "p", policy("files")), &[]);
    let_in(&request("CREATE", "AccessPolicy", "p", policy("nobody")), &["it selects no server that exists"]);
    let gone = request("DELETE", "McpServer", "files", Value::Null);
    let_in(&gone, &["it is still named by routes/a/canary"]);
    let_in(&request("DELETE", "McpServer", "never", Value::Null), &[]);
}

#[test]
fn before_anything_was_read_each_object_is_judged_alone() {
    let policy = json!({ "servers": { "names": ["nobody"] }, "rules": [{ "action": "deny" }] });
    let good = request("CREATE", "AccessPolicy", "p", policy);
    assert_eq!(judge(&good, &mesh(), None), Verdict::default());
    let bad = request("CREATE", "AccessPolicy", "p", json!({ "rules": [] }));
    assert!(judge(&bad, &mesh(), None).refusal.is_some());
    assert_eq!(
        judge(&request("DELETE", "McpServer", "files", Value::Null), &mesh(), None),
        Verdict::default()
    );
}

#[test]
fn notes_on_an_object_and_its_going_do_not_fail_for_what_it_says() {
    let bad = json!({ "limits": [{ "rate": "10/fortnight" }] });
    let mut update = request("UPDATE", "QuotaPolicy", "q", bad.clone());
    update["oldObject"] = json!({ "metadata": { "name": "q" }, "spec": bad });
    let_in(&update, &[]);
    update["oldObject"]["spec"] = json!({});
    refused(&update, "10/fortnight");
    update["object"]["metadata"]["deletionTimestamp"] = "2026-11-28T03:00:00Z".into();
    let_in(&update, &[]);
    let mut status = request("UPDATE", "QuotaPolicy", "q", json!({}));
    status["subResource"] = "status".into();
    let_in(&status, &[]);
}

#[test]
fn whatever_is_asked_there_is_an_answer() {
    let_in(&json!(null), &[]);
    let_in(&json!([]), &[]);
    let_in(&request("CREATE", "Pod", "x", json!({})), &[]);
    let_in(&request("CONNECT", "McpServer", "x", json!({})), &[]);
    let mut nameless = request("CREATE", "McpServer", "", json!({ "stdio": { "command": "x" } }));
    nameless["object"]["metadata"] = json!({ "generateName": "files-" });
    let_in(&nameless, &[]);
    nameless["object"]["metadata"] = json!({});
    refused(&nameless, "the name");
    let long = json!({ "rules": [{ "action": "x".repeat(100_000) }] });
    let verdict = judge(&request("CREATE", "AccessPolicy", "p", long), &mesh(), Some(&present()));
    assert!(verdict.refusal.is_some_and(|text| text.len() <= source::MESSAGE_BYTES_MAX));
}
