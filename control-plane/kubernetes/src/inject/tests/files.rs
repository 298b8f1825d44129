use super::documents::{self, Error};
use super::workload::{Fate, Outcome, Task};
use super::*;

fn run(text: &str) -> (String, Vec<Fate>) {
    let changed = documents::run(text, Task::Inject { settings: &settings(), namespace: None }).unwrap();
    (changed.text, changed.fates.into_iter().map(|(_, fate)| fate).collect())
}

fn back(text: &str) -> (String, Vec<Fate>) {
    let changed = documents::run(text, Task::Uninject).unwrap();
    (changed.text, changed.fates.into_iter().map(|(_, fate)| fate).collect())
}

fn values(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

const SERVICE: &str = "# A service, with odd  spacing\napiVersion: v1\nkind:   Service\nmetadata: {name: a}   # kept\nspec:\n  ports: [ {port: 80} ]\n";
const DEPLOYMENT: &str = "# What serves.\n\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: files\n  namespace: research\nspec:\n  template:\n    metadata:\n      labels: {app: files}\n    spec:\n      containers:\n      - name: server # the one\n        image: files:1\n        env:\n        - {name: MODE, value: 'yes'}\n        - {name: OCTAL, value: \"0644\"}\n";

#[test]
fn documents_in_which_nothing_changes_keep_every_byte() {
    let text = format!(
        "\u{feff}# top\n---\n{SERVICE}---\n{DEPLOYMENT}---  # empty\n---\n{SERVICE}...\n%YAML 1.1\n---\r\nkind: Strange\r\n"
    );
    let (changed, fates) = run(&text);
    let kinds: Vec<_> = fates.iter().map(|fate| (fate.kind.as_str(), fate.outcome.is_changed())).collect();
    assert_eq!(kinds, [("Service", false), ("Deployment", true), ("Service", false), ("Strange", false)]);
    let (before, rest) = changed.split_once("---\n# What serves.\n\n").unwrap();
    assert_eq!(before, format!("\u{feff}# top\n---\n{SERVICE}"));
    let (_, after) = rest.split_once("---  # empty\n").unwrap();
    assert_eq!(after, format!("---\n{SERVICE}...\n%YAML 1.1\n---\r\nkind: Strange\r\n"));
}

#[test]
fn a_changed_document_says_the_same_with_a_sidecar_in_it() {
    let (changed, fates) = run(DEPLOYMENT);
    assert_eq!((fates[0].namespace.as_deref(), fates[0].name.as_str()), (Some("research"), "files"));
    let object = values(&changed).remove(0);
    let template = &object["spec"]["template"];
    assert_eq!(
        template["spec"]["containers"][0]["env"],
        json!([{ "name": "MODE", "value": "yes" }, { "name": "OCTAL", "value": "0644" }])
    );
    assert_eq!(template["spec"]["initContainers"][0]["name"], "weft-sidecar");
    let (again, fates) = run(&changed);
    assert_eq!((again, &fates[0].outcome), (changed.clone(), &Outcome::Skipped(Skip::AlreadyInjected)));
    let (without, fates) = back(&changed);
    assert_eq!((values(&without), &fates[0].outcome), (values(DEPLOYMENT), &Outcome::Uninjected));
    assert_eq!(
        back(&without),
        (without.clone(), vec![Fate { outcome: Outcome::WithoutSidecar, ..fates[0].clone() }])
    );
}

#[test]
fn every_kind_that_makes_pods_is_known_and_no_other() {
    let template = json!({ "spec": { "containers": [{ "name": "c" }] } });
    let check = |version: &str, kind: &str, body: Value, at: &str| {
        let mut object = body;
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        object["metadata"] = json!({ "name": "n" });
        let (changed, fates) = run(&object.to_string());
        let changed: Value = serde_json::from_str(&changed).unwrap();
        assert!(fates[0].outcome.is_changed(), "{kind}: {:?}", fates[0].outcome);
        assert_eq!(changed.pointer(at).unwrap()["spec"]["initContainers"][0]["name"], "weft-sidecar");
        let (back, _) = back(&changed.to_string());
        assert_eq!(serde_json::from_str::<Value>(&back).unwrap(), object);
    };
    check("v1", "Pod", template.clone(), "");
    check("v1", "PodTemplate", json!({ "template": template }), "/template");
    check("v1", "ReplicationController", json!({ "spec": { "template": template } }), "/spec/template");
    for kind in ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"] {
        check("apps/v1", kind, json!({ "spec": { "template": template } }), "/spec/template");
    }
    check("batch/v1", "Job", json!({ "spec": { "template": template } }), "/spec/template");
    let cron = json!({ "spec": { "jobTemplate": { "spec": { "template": template } } } });
    check("batch/v1", "CronJob", cron, "/spec/jobTemplate/spec/template");
    for (version, kind) in
        [("example.com/v1", "Deployment"), ("v1", "Deployment"), ("v1", "Service"), ("", "")]
    {
        let object =
            json!({ "apiVersion": version, "kind": kind, "spec": { "template": template } }).to_string();
        let (same, fates) = run(&object);
        assert_eq!((same, &fates[0].outcome), (object, &Outcome::NoWorkload));
    }
}

#[test]
fn lists_are_looked_into() {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c" }] } });
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" } });
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [service, pod, { "apiVersion": "v1", "kind": "List", "items": [pod] }] });
    let (changed, fates) = run(&format!("{list:#}\n"));
    assert_eq!(fates.iter().map(|fate| fate.kind.as_str()).collect::<Vec<_>>(), ["Service", "Pod", "Pod"]);
    assert_eq!(back(&changed).0, format!("{list:#}\n"));
    let bare = json!({ "apiVersion": "v1", "kind": "PodList", "items": [{ "spec": { "containers": [{ "name": "c" }] } }] });
    assert!(run(&bare.to_string()).1[0].outcome.is_changed());
    let deep = (0..10).fold(pod, |inner, _| json!({ "apiVersion": "v1", "kind": "List", "items": [inner] }));
    assert_eq!(run(&deep.to_string()).1[0].outcome, Outcome::NoWorkload);
}

#[test]
fn a_pod_of_a_forbidden_namespace_is_skipped_wherever_that_is_said() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\n";
    let settings = settings();
    let task = Task::Inject { settings: &settings, namespace: Some("kube-system") };
    let changed = documents::run(pod, task).unwrap();
    assert_eq!(changed.text, pod);
    assert_eq!(changed.fates[0].1.outcome, Outcome::Skipped(Skip::SystemNamespace("kube-system".to_owned())));
    assert!(run(pod).1[0].outcome.is_changed());
    let own = pod.replace("name: p", "name: p, namespace: research");
    assert!(documents::run(&own, task).unwrap().fates[0].1.outcome.is_changed());
}

#[test]
fn numbers_and_switches_are_read_as_kubectl_reads_them() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  automountServiceAccountToken: no\n  containers: [{name: c}]\n  \
               volumes:\n  - name: v\n    secret: {secretName: s, defaultMode: 0640}\n";
    let object = values(&run(pod).0).remove(0);
    assert_eq!(object["spec"]["volumes"][0]["secret"]["defaultMode"], 0o640);
    assert_eq!(object["spec"]["automountServiceAccountToken"], false);
}

#[test]
fn texts_that_look_like_something_else_stay_texts() {
    let odd = [
        "yes",
        "no",
        "on",
        "y",
        "null",
        "~",
        "1e3",
        "0x10",
        "0o7",
        "1_000",
        "12:30:45",
        "2001-01-01",
        "true",
        "",
        " a ",
        "a: b",
        "# c",
        "- d",
        "line\nline\n",
        "tab\t",
        "%x",
        "@x",
        "`x",
        "'",
        "\"",
        "\\",
        "{{ .Values.x }}",
        "=",
        "<<",
        "\u{85}\u{2028}",
        "🦀",
        ".inf",
        "-.5",
        "+1",
        "0644",
        "1.",
        "!x",
        "&x",
        "*x",
        "?",
        "|",
        ">",
    ];
    let env: Vec<_> = odd.iter().map(|text| json!({ "name": "X", "value": text })).collect();
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "env": env }] } });
    // In YAML, with the markers of flow and block both.
    let (changed, _) = run(&format!("---\n{}", serde_saphyr::to_string(&pod).unwrap()));
    assert_eq!(values(&changed)[0]["spec"]["containers"][0]["env"], json!(env));
    let (flow, _) = run(&format!("--- {pod}\n"));
    assert!(flow.starts_with("---\napiVersion"), "{flow}");
    assert_eq!(values(&flow), values(&changed));
}

#[test]
fn what_cannot_be_read_is_told_with_its_line_and_nothing_is_changed() {
    let task = Task::Uninject;
    let error = documents::run(&format!("{SERVICE}---\na: [b\n"), task).unwrap_err();
    assert!(matches!(error, Error::Syntax { line: 7, .. }), "{error}");
    let bomb = "a: &a [x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c]\n";
    assert!(documents::run(bomb, task).is_ok());
    let deep = "[".repeat(5000);
    assert!(matches!(documents::run(&deep, task), Err(Error::Syntax { line: 1, .. })));
    assert!(matches!(documents::run(&"---\n".repeat(DOCUMENTS_MAX_TESTED), task), Err(Error::TooMany)));
    assert!(documents::run("", task).unwrap().fates.is_empty());
    assert_eq!(documents::run("# only a remark\n", task).unwrap().text, "# only a remark\n");
}

const DOCUMENTS_MAX_TESTED: usize = documents::DOCUMENTS_MAX + 2;

#[test]
fn a_record_that_cannot_be_read_is_told() {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "annotations": { STATUS: "{" } } });
    let (same, fates) = back(&pod.to_string());
    assert_eq!(same, pod.to_string());
    assert!(matches!(fates[0].outcome, Outcome::NoRecord(_)), "{fates:?}");
}
