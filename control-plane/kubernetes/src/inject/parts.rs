//! What is put into a pod: containers and volumes, as Kubernetes writes them.

use serde_json::{Map, Value, json};

use super::annotations::Wishes;
use super::settings::Settings;
use super::{
    API_TOKEN_FOLDER, BINARY, BINARY_FOLDER, BINARY_VOLUME, CAPTURE_CONTAINER, COPY_CONTAINER, HEALTH_PORT,
    IDENTITY_FOLDER, IDENTITY_VOLUME, INBOUND_PORT, NOTHING_VOLUME, ROOTS, SIDECAR_CONTAINER, SIDECAR_USER,
    STATE_FOLDER, STATE_VOLUME, TOKEN_SECS,
};

/// How long a sidecar may take until it has a certificate and its configuration, in seconds. Containers behind it wait.
const START_SECS_MAX: u32 = 120;

/// The sidecar as a container of its own.
pub(super) fn sidecar(wishes: &Wishes, file: String) -> Value {
    let mut container = image(wishes);
    container.insert("name".to_owned(), json!(SIDECAR_CONTAINER));
    container.insert("args".to_owned(), json!(["run"]));
    container.insert("env".to_owned(), environment(wishes, file).into());
    container.insert("ports".to_owned(), ports().into());
    let mut mounted = mounts();
    mounted.push(no_token());
    container.insert("volumeMounts".to_owned(), mounted.into());
    container.insert("resources".to_owned(), resources(wishes));
    container.insert("securityContext".to_owned(), unprivileged());
    container.insert("readinessProbe".to_owned(), readiness());
    container.insert(
        "startupProbe".to_owned(),
        json!({ "httpGet": ready(), "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": START_SECS_MAX }),
    );
    // What it says last is why it ended, and `kubectl describe` shows it.
    container.insert("terminationMessagePolicy".to_owned(), json!("FallbackToLogsOnError"));
    if wishes.native {
        container.insert("restartPolicy".to_owned(), json!("Always"));
    }
    Value::Object(container)
}

/// The init container that copies the sidecar to where another container can start it.
pub(super) fn copy(wishes: &Wishes) -> Value {
    let mut container = image(wishes);
    container.insert("name".to_owned(), json!(COPY_CONTAINER));
    container.insert("args".to_owned(), json!(["copy", BINARY]));
    let writable = json!({ "name": BINARY_VOLUME, "mountPath": BINARY_FOLDER });
    container.insert("volumeMounts".to_owned(), json!([writable, no_token()]));
    container.insert("resources".to_owned(), requests(wishes));
    container.insert("securityContext".to_owned(), unprivileged());
    Value::Object(container)
}

/// The init container that makes ports lead to the sidecar.
pub(super) fn capture(wishes: &Wishes) -> Value {
    let mut args = vec!["capture".to_owned()];
    for port in wishes.ports.all() {
        args.extend(["--port".to_owned(), port.to_string()]);
    }
    args.extend(["--to".to_owned(), INBOUND_PORT.to_string(), "--uid".to_owned(), SIDECAR_USER.to_string()]);
    let mut container = image(wishes);
    container.insert("name".to_owned(), json!(CAPTURE_CONTAINER));
    container.insert("args".to_owned(), args.into());
    container.insert("volumeMounts".to_owned(), json!([no_token()]));
    container.insert("resources".to_owned(), requests(wishes));
    // A capability is in effect for root alone; it is all that this root has.
    container.insert(
        "securityContext".to_owned(),
        json!({
            "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        }),
    );
    Value::Object(container)
}

fn image(wishes: &Wishes) -> Map<String, Value> {
    let mut container = Map::new();
    container.insert("image".to_owned(), json!(wishes.image.as_str()));
    if let Some(policy) = wishes.image_pull_policy {
        container.insert("imagePullPolicy".to_owned(), json!(policy.word()));
    }
    container
}

/// The variables of a sidecar. Those that the file refers to stand before it.
pub(super) fn environment(wishes: &Wishes, file: String) -> Vec<Value> {
    let of_pod =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let is = |name: &str, value: &str| json!({ "name": name, "value": value });
    let mut environment = vec![
        of_pod("WEFT_POD_NAME", "metadata.name"),
        of_pod("WEFT_POD_NAMESPACE", "metadata.namespace"),
        of_pod("WEFT_POD_IP", "status.podIP"),
        is("WEFT_LOG", wishes.log_level.as_str()),
        is("WEFT_ACCESS_LOG", wishes.access_log.word()),
    ];
    if let Some(limit) = &wishes.resources.cpu_limit {
        environment.push(is("WEFT_WORKERS", &limit.ceil().to_string()));
    }
    environment.push(json!({ "name": "WEFT_SIDECAR_YAML", "value": file }));
    environment
}

pub(super) fn ports() -> Vec<Value> {
    vec![
        json!({ "name": "weft-mtls", "containerPort": INBOUND_PORT, "protocol": "TCP" }),
        json!({ "name": "weft-health", "containerPort": HEALTH_PORT, "protocol": "TCP" }),
    ]
}

pub(super) fn mounts() -> Vec<Value> {
    vec![
        json!({ "name": IDENTITY_VOLUME, "mountPath": IDENTITY_FOLDER, "readOnly": true }),
        json!({ "name": STATE_VOLUME, "mountPath": STATE_FOLDER }),
    ]
}

/// In the place of the account's token for the API server, which every container is given that has nothing there.
fn no_token() -> Value {
    json!({ "name": NOTHING_VOLUME, "mountPath": API_TOKEN_FOLDER, "readOnly": true })
}

pub(super) fn binary_mount() -> Value {
    json!({ "name": BINARY_VOLUME, "mountPath": BINARY_FOLDER, "readOnly": true })
}

fn ready() -> Value {
    json!({ "path": "/healthz/ready", "port": HEALTH_PORT })
}

pub(super) fn readiness() -> Value {
    json!({ "httpGet": ready(), "periodSeconds": 5, "timeoutSeconds": 2, "failureThreshold": 3 })
}

fn requests(wishes: &Wishes) -> Value {
    let own = &wishes.resources;
    json!({ "requests": { "cpu": own.cpu_request.as_str(), "memory": own.memory_request.as_str() } })
}

fn resources(wishes: &Wishes) -> Value {
    let mut resources = requests(wishes);
    let limits = [("cpu", &wishes.resources.cpu_limit), ("memory", &wishes.resources.memory_limit)];
    let limits: Map<_, _> = limits
        .into_iter()
        .filter_map(|(name, limit)| Some((name.to_owned(), json!(limit.as_ref()?.as_str()))))
        .collect();
    if !limits.is_empty() {
        resources["limits"] = Value::Object(limits);
    }
    resources
}

/// As little as a container can have; the Pod Security Standard `restricted` asks for most of it.
fn unprivileged() -> Value {
    json!({
        "runAsUser": SIDECAR_USER, "runAsGroup": SIDECAR_USER, "runAsNonRoot": true, "privileged": false,
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// The volumes of a sidecar: who it is, and what it keeps.
pub(super) fn volumes(settings: &Settings, with_binary: bool) -> Vec<Value> {
    let audience = format!("weft.{}", settings.trust_domain);
    let mut volumes = vec![
        json!({ "name": IDENTITY_VOLUME, "projected": { "defaultMode": 0o644, "sources": [
            { "serviceAccountToken": { "audience": audience, "expirationSeconds": TOKEN_SECS, "path": "token" } },
            { "configMap": { "name": ROOTS, "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
        ] } }),
        json!({ "name": STATE_VOLUME, "emptyDir": { "sizeLimit": settings.state_size.as_str() } }),
        json!({ "name": NOTHING_VOLUME, "emptyDir": { "sizeLimit": "4Ki" } }),
    ];
    if with_binary {
        volumes.push(json!({ "name": BINARY_VOLUME, "emptyDir": { "sizeLimit": "128Mi" } }));
    }
    volumes
}
