//! Injection, by what comes out of it.

mod files;
mod generated;
mod probing;
mod skipping;
mod stdio;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weft_proto::name::{HostPort, TrustDomain};

use super::settings::{Image, IpFamily, Revision};
use super::*;

fn settings() -> Settings {
    Settings::new(
        TrustDomain::parse("corp.example").unwrap(),
        HostPort::parse("weft-control-plane.weft-system.svc:7500").unwrap(),
        Image::parse("registry.example/weft-sidecar:1.0").unwrap(),
    )
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn facts(labels: &BTreeMap<String, String>) -> Facts<'_> {
    Facts { door: Door::Admission, namespace: Some("research"), labels: Some(labels) }
}

/// A pod as the API server shows it to a webhook.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "files-", "labels": { "app": "files" }, "creationTimestamp": null },
        "spec": {
            "serviceAccountName": "default",
            "containers": [{ "name": "server", "image": "files:1", "ports": [{ "containerPort": 9000, "name": "mcp", "protocol": "TCP" }] }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "unknownToUs": { "stays": [1, 2.5] },
        },
    })
}

fn with(mut pod: Value, at: &str, value: Value) -> Value {
    let (above, key) = at.rsplit_once('/').unwrap();
    match pod.pointer_mut(above).unwrap() {
        Value::Object(object) => _ = object.insert(key.replace("~1", "/"), value),
        Value::Array(list) => list.insert(key.parse().unwrap(), value),
        other => panic!("{other}"),
    }
    pod
}

fn annotated(pod: Value, annotations: Value) -> Value {
    with(pod, "/metadata/annotations", annotations)
}

#[track_caller]
fn put(pod: &Value) -> Injected {
    put_by(pod, &settings())
}

#[track_caller]
fn put_by(pod: &Value, settings: &Settings) -> Injected {
    let asks = labels(&[("weft.dev/inject", "enabled")]);
    let injected = inject(pod, &facts(&asks), settings).unwrap();
    assert_eq!(uninject(&injected.pod).unwrap(), *pod);
    assert_eq!(inject(&injected.pod, &facts(&asks), settings), Err(Skip::AlreadyInjected));
    injected
}

fn skipped(pod: &Value) -> Skip {
    inject(pod, &facts(&labels(&[("weft.dev/inject", "enabled")])), &settings()).unwrap_err()
}

/// The sidecar's file, as the cluster would expand it.
fn file_of(container: &Value) -> Value {
    let environment = container["env"].as_array().unwrap();
    let last = environment.last().unwrap();
    assert_eq!(last["name"], "WEFT_SIDECAR_YAML");
    let known = ["WEFT_POD_NAME", "WEFT_POD_NAMESPACE", "WEFT_POD_IP"];
    let values = ["files-0", "research", "10.0.0.5"];
    let (mut text, mut rest) = (String::new(), last["value"].as_str().unwrap());
    // As Kubernetes does it, for those variables that are known.
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            text.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|it| it.split_once(')')) {
            text.push_str(values[known.iter().position(|it| *it == name).unwrap()]);
            rest = after;
        } else {
            text.push('$');
        }
    }
    text.push_str(rest);
    let read: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), read, "it is no YAML: {text}");
    read
}

fn sidecar(pod: &Value) -> &Value {
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    lists.into_iter().flatten().flatten().find(|it| it["name"] == SIDECAR_CONTAINER).unwrap()
}

#[test]
fn the_sidecar_is_the_first_init_container_and_stays() {
    let own = json!([{ "name": "migrate", "image": "m" }]);
    let Injected { pod, warnings, record } = put(&with(pod(), "/spec/initContainers", own));
    let first = &pod["spec"]["initContainers"][0];
    assert_eq!((&first["name"], &first["restartPolicy"]), (&json!("weft-sidecar"), &json!("Always")));
    assert_eq!(first["startupProbe"]["httpGet"], json!({ "path": "/healthz/ready", "port": 7401 }));
    assert_eq!(pod["spec"]["initContainers"][1]["name"], "migrate");
    assert_eq!(pod["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(pod["spec"]["unknownToUs"], json!({ "stays": [1, 2.5] }));
    assert_eq!(pod["metadata"]["labels"], json!({ "app": "files", "weft.dev/sidecar": "default" }));
    assert_eq!(pod["metadata"]["annotations"][DEFAULT_CONTAINER], "server");
    assert_eq!(pod["metadata"]["annotations"][SAFE_TO_EVICT], "weft-state,weft-nothing");
    assert!(warnings.is_empty(), "{warnings:?}");
    let status: Record =
        serde_json::from_str(pod["metadata"]["annotations"][STATUS].as_str().unwrap()).unwrap();
    assert_eq!(status, record);
    assert_eq!((status.revision.as_str(), status.digest.len()), ("default", 32));
}

/// JSON may hold some characters as they are that YAML must not; labels come here before the cluster has judged them.
#[test]
fn a_file_of_hostile_labels_and_words_is_still_yaml() {
    let odd: String =
        (0..=0x2ff_u32).chain(0x2000..0x2070).chain(0xfe00..=0xffff).filter_map(char::from_u32).collect();
    let long = "k".repeat(1100);
    let labels = json!({ "app": odd, odd.chars().take(200).collect::<String>(): "v", long: "never" });
    let hostile = with(pod(), "/metadata/labels", labels.clone());
    let file = file_of(sidecar(&put(&hostile).pod));
    let mut told = labels;
    told.as_object_mut().unwrap().remove(&"k".repeat(1100));
    assert_eq!(file["node"]["labels"], told);
}

#[test]
fn without_native_sidecars_it_is_the_first_container() {
    let settings = Settings { native: false, ..settings() };
    let injected = put_by(&with(pod(), "/spec/initContainers", json!([{ "name": "migrate" }])), &settings);
    let first = &injected.pod["spec"]["containers"][0];
    assert_eq!((&first["name"], &first["restartPolicy"]), (&json!("weft-sidecar"), &Value::Null));
    assert_eq!(injected.pod["metadata"]["annotations"][DEFAULT_CONTAINER], "server");
    assert_eq!(injected.pod["spec"]["initContainers"].as_array().unwrap().len(), 1);
    assert_eq!(
        injected.warnings,
        ["its init containers run before the sidecar, which is no native one here"]
    );
    // A pod may know better than the setting.
    let asks = annotated(pod(), json!({ "weft.dev/native": "enabled" }));
    assert_eq!(put_by(&asks, &settings).pod["spec"]["initContainers"][0]["name"], "weft-sidecar");
}

#[test]
fn the_file_says_who_the_sidecar_is_and_where_it_belongs() {
    let pod = annotated(pod(), json!({ "weft.dev/servers": "files, search", "weft.dev/port": "files=9000" }));
    let injected = put(&pod);
    let file = file_of(sidecar(&injected.pod));
    assert_eq!(
        file,
        json!({
            "node": {
                "id": "research/files-0", "address": "10.0.0.5:7443", "labels": { "app": "files" },
                "servers": ["research/files", "research/search"], "upstreams": { "research/files": "localhost:9000" },
            },
            "source": { "controlPlane": {
                "address": "weft-control-plane.weft-system.svc:7500", "caFile": "/var/run/weft/ca.crt",
                "proof": { "tokenFile": "/var/run/weft/token" },
            } },
            "listen": { "inbound": "0.0.0.0:7443", "health": "0.0.0.0:7401" },
            "stateDir": "/var/lib/weft",
            "limits": { "drainTimeout": "20000ms", "auditDiskBytesMax": 268_435_456 },
        })
    );
    let projected = &injected.pod["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(
        *projected,
        json!({ "audience": "weft.corp.example", "expirationSeconds": 3607, "path": "token" })
    );
}

#[test]
fn pods_of_either_family_are_reached_at_their_address() {
    for (family, address, inbound) in [
        (IpFamily::Ipv4, "10.0.0.5:7443", "0.0.0.0:7443"),
        (IpFamily::Ipv6, "[10.0.0.5]:7443", "[::]:7443"),
        (IpFamily::Dual, "10.0.0.5:7443", "[::]:7443"),
    ] {
        let settings = Settings { ip_family: family, ..settings() };
        let file = file_of(sidecar(&put_by(&pod(), &settings).pod));
        assert_eq!(
            (&file["node"]["address"], &file["listen"]["inbound"]),
            (&json!(address), &json!(inbound))
        );
    }
}

#[test]
fn a_sidecar_has_drained_before_its_pod_is_killed() {
    for (grace, wish, expected) in [
        (30, "20s", "20000ms"),
        (30, "5m", "20000ms"),
        (60, "5m", "50000ms"),
        (5, "20s", "1000ms"),
        (0, "1ms", "1000ms"),
    ] {
        let pod = with(pod(), "/spec/terminationGracePeriodSeconds", json!(grace));
        let pod = annotated(pod, json!({ "weft.dev/drain": wish }));
        assert_eq!(file_of(sidecar(&put(&pod).pod))["limits"]["drainTimeout"], expected, "{grace} {wish}");
    }
}

#[test]
fn annotations_set_what_the_sidecar_gets() {
    let injected = put(&annotated(
        pod(),
        json!({
            "weft.dev/cpu-request": "10m", "weft.dev/memory-request": "32Mi", "weft.dev/cpu-limit": "1500m",
            "weft.dev/memory-limit": "1Gi", "weft.dev/log-level": "debug", "weft.dev/access-log": "off",
            "weft.dev/image": "other:2", "weft.dev/image-pull-policy": "Never",
        }),
    ));
    let sidecar = sidecar(&injected.pod);
    assert_eq!(
        sidecar["resources"],
        json!({ "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "cpu": "1500m", "memory": "1Gi" } })
    );
    assert_eq!((&sidecar["image"], &sidecar["imagePullPolicy"]), (&json!("other:2"), &json!("Never")));
    let environment = sidecar["env"].as_array().unwrap();
    let value = |name: &str| environment.iter().find(|it| it["name"] == name).map(|it| it["value"].clone());
    assert_eq!(value("WEFT_LOG"), Some(json!("debug")));
    assert_eq!(value("WEFT_ACCESS_LOG"), Some(json!("off")));
    assert_eq!(value("WEFT_WORKERS"), Some(json!("2")));
}

/// The Pod Security Standard `restricted`, as far as it concerns what is put in.
fn breaks_the_restricted_standard(pod: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    for container in lists.into_iter().flatten().flatten() {
        let context = &container["securityContext"];
        let mut must = |holds: bool, what: &str| {
            if !holds {
                broken.push(format!("{}: {what}", container["name"]));
            }
        };
        must(context["allowPrivilegeEscalation"] == json!(false), "may gain privileges");
        must(context["runAsNonRoot"] == json!(true), "may be root");
        must(context["capabilities"]["drop"] == json!(["ALL"]), "keeps capabilities");
        must(context["capabilities"]["add"] == Value::Null, "adds capabilities");
        must(context["seccompProfile"]["type"] == "RuntimeDefault", "has no seccomp profile");
        must(context["privileged"] != json!(true), "is privileged");
    }
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let allowed = ["configMap", "emptyDir", "projected", "secret", "downwardAPI"];
        if !allowed.iter().any(|kind| volume[kind].is_object()) {
            broken.push(volume["name"].to_string());
        }
    }
    broken
}

#[test]
fn a_restricted_pod_stays_one() {
    let context = json!({ "allowPrivilegeEscalation": false, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" } });
    let pod = with(pod(), "/spec/containers/0/securityContext", context);
    assert_eq!(breaks_the_restricted_standard(&pod), [""; 0]);
    let injected = put(&pod);
    assert_eq!(breaks_the_restricted_standard(&injected.pod), [""; 0]);
    assert_eq!(sidecar(&injected.pod)["securityContext"]["readOnlyRootFilesystem"], true);
    let stdio = annotated(
        pod,
        json!({ "weft.dev/stdio": "server", "weft.dev/servers": "files", "weft.dev/stdio-command": "[\"a\"]" }),
    );
    assert_eq!(breaks_the_restricted_standard(&put(&stdio).pod), [""; 0]);
}

#[test]
fn capture_comes_first_and_is_all_that_has_a_capability() {
    let pod = annotated(pod(), json!({ "weft.dev/capture": "enabled", "weft.dev/port": "9000" }));
    let injected = put(&pod);
    let first = &injected.pod["spec"]["initContainers"];
    assert_eq!(first[0]["args"], json!(["capture", "--port", "9000", "--to", "7443", "--uid", "7443"]));
    assert_eq!(first[0]["securityContext"]["capabilities"], json!({ "drop": ["ALL"], "add": ["NET_ADMIN"] }));
    assert_eq!(first[1]["name"], "weft-sidecar");
    assert_eq!(file_of(&first[1])["node"].get("upstreams"), None);
    let broken = breaks_the_restricted_standard(&injected.pod);
    assert!(
        broken.iter().filter(|it| !it.starts_with("\"server\"")).all(|it| it.starts_with("\"weft-capture\""))
    );
}

#[test]
fn what_belongs_to_others_is_left_alone() {
    let lifecycle = json!({ "preStop": { "exec": { "command": ["sh", "-c", "echo $(A) $$"] } } });
    let pod = with(pod(), "/spec/containers/0/lifecycle", lifecycle.clone());
    let pod = with(pod, "/spec/ephemeralContainers", json!([{ "name": "debug", "image": "d" }]));
    let pod = annotated(pod, json!({ DEFAULT_CONTAINER: "other", SAFE_TO_EVICT: "mine" }));
    let injected = put(&pod);
    assert_eq!(injected.pod["spec"]["containers"][0]["lifecycle"], lifecycle);
    assert_eq!(injected.pod["spec"]["ephemeralContainers"], pod["spec"]["ephemeralContainers"]);
    assert_eq!(injected.pod["metadata"]["annotations"][DEFAULT_CONTAINER], "other");
    assert_eq!(injected.pod["metadata"]["annotations"][SAFE_TO_EVICT], "mine");
}

#[test]
fn text_of_a_pod_is_not_expanded_by_the_cluster() {
    let mut pod = pod();
    pod["metadata"]["labels"] = json!({ "a": "$(WEFT_POD_IP)", "b": "$$x $", "c\"": "\"}" });
    let file = file_of(sidecar(&put(&pod).pod));
    assert_eq!(file["node"]["labels"], pod["metadata"]["labels"]);
}

#[test]
fn shared_processes_are_warned_of() {
    let injected = put(&with(pod(), "/spec/shareProcessNamespace", json!(true)));
    assert!(
        injected.warnings[0].starts_with("its containers share their processes"),
        "{:?}",
        injected.warnings
    );
}

#[test]
fn an_annotation_that_nobody_knows_is_a_warning() {
    let injected = put(&annotated(pod(), json!({ "weft.dev/prot": "9000", "example.com/prot": "x" })));
    assert_eq!(injected.warnings.len(), 1);
    assert!(injected.warnings[0].starts_with("annotation weft.dev/prot is unknown; there are servers, port"));
}

#[test]
fn a_record_without_a_sidecar_is_a_leftover() {
    let left = annotated(pod(), json!({ STATUS: "{\"revision\":\"x\"}", DEFAULT_CONTAINER: "server" }));
    let asks = labels(&[("weft.dev/inject", "enabled")]);
    let injected = inject(&left, &facts(&asks), &settings()).unwrap();
    let mut without = left;
    without["metadata"]["annotations"].as_object_mut().unwrap().remove(STATUS);
    assert_eq!(uninject(&injected.pod).unwrap(), without);
}

#[test]
fn the_digest_tells_sidecars_apart() {
    let digest = |pod: &Value, settings: &Settings| put_by(pod, settings).record.digest;
    let one = digest(&pod(), &settings());
    assert_eq!(one, digest(&pod(), &settings()));
    let other = Settings { revision: Revision::parse("canary").unwrap(), ..settings() };
    let canary = with(pod(), "/metadata/labels/weft.dev~1revision", json!("canary"));
    assert_ne!(one, digest(&canary, &other));
    assert_ne!(one, digest(&annotated(pod(), json!({ "weft.dev/log-level": "debug" })), &settings()));
}

#[test]
fn what_has_no_sidecar_has_none_to_take_out() {
    assert!(matches!(uninject(&pod()), Err(NotOut::NotInjected)));
    assert!(matches!(uninject(&json!(7)), Err(NotOut::NotInjected)));
    assert!(matches!(uninject(&annotated(pod(), json!({ STATUS: "[]" }))), Err(NotOut::Record(_))));
}
