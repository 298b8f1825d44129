//! Whether a pod gets a sidecar: whether it is asked for, and whether it can be.

use std::collections::BTreeMap;

use serde_json::Value;

use super::annotations::{INJECT, Mistake, REVISION, STATUS, Wishes, clip};
use super::pod::Pod;
use super::settings::{REVISION_DEFAULT, Settings};
use super::skip::Skip;
use super::{CAPTURE_CONTAINER, COPY_CONTAINER, OWN_PORTS, SIDECAR_CONTAINER, SIDECAR_USER};

/// Namespaces of Kubernetes itself.
pub const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

const MIRROR: &str = "kubernetes.io/config.mirror";
const SOURCE: &str = "kubernetes.io/config.source";
const OS: &str = "kubernetes.io/os";

/// Where a pod comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The API server asks about a pod that is created.
    Admission,
    /// Somebody changes a file. That is to ask for a sidecar, unless the file says otherwise.
    File,
}

/// What is known of a pod besides itself.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub door: Door,
    /// The namespace that the pod is created in, if it is known.
    pub namespace: Option<&'a str>,
    /// The namespace's labels, if they are known. If not, whoever asks asks for a sidecar.
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// Whether a sidecar is asked for.
///
/// Asked of whatever comes, whether it has the form of a pod or not: what did not ask is none of our business.
pub(super) fn asked(pod: &Value, facts: &Facts<'_>, settings: &Settings) -> Result<(), Skip> {
    if let Some(namespace) = facts.namespace {
        if namespace == settings.namespace.as_str() {
            return Err(Skip::OwnNamespace(namespace.to_owned()));
        }
        if SYSTEM_NAMESPACES.contains(&namespace) {
            return Err(Skip::SystemNamespace(namespace.to_owned()));
        }
    }
    let of_namespace = |key: &str| facts.labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let of_pod = pod.get("metadata").and_then(|metadata| metadata.get("labels"));
    let label = |key: &str| of_pod.and_then(|it| it.get(key)?.as_str()).or_else(|| of_namespace(key));
    let trusted = facts.door == Door::File || facts.labels.is_none();
    match (label(INJECT), label(REVISION)) {
        (Some("disabled"), _) => return Err(Skip::Disabled),
        (Some("enabled"), _) | (None, Some(_)) => {}
        (Some(other), _) => {
            let why = format!("{:?} is neither enabled nor disabled", clip(other));
            return Err(Skip::Mistakes(vec![Mistake { name: INJECT.to_owned(), why }]));
        }
        (None, None) if trusted => {}
        (None, None) => return Err(Skip::NotAsked),
    }
    let (found, own) = (label(REVISION).unwrap_or(REVISION_DEFAULT), settings.revision.as_str());
    match found == own || (trusted && label(REVISION).is_none()) {
        true => Ok(()),
        false => Err(Skip::OtherRevision { found: clip(found), own: own.to_owned() }),
    }
}

/// Whether a pod can have a sidecar at all, whatever it wishes.
pub(super) fn possible(pod: &Pod<'_>, facts: &Facts<'_>) -> Result<(), Skip> {
    let is_ours = |name: &str| [SIDECAR_CONTAINER, COPY_CONTAINER, CAPTURE_CONTAINER].contains(&name);
    if pod.annotation(STATUS).is_some() && super::is_in(pod) {
        return Err(Skip::AlreadyInjected);
    }
    if let Some(taken) = pod.containers().find(|container| is_ours(container.name)) {
        return Err(Skip::NameTaken(taken.name.to_owned()));
    }
    if pod.has("hostNetwork") {
        return Err(Skip::HostNetwork);
    }
    let os = |value: Option<&Value>| value.and_then(Value::as_str) == Some("windows");
    let of_nodes = pod.spec.get("nodeSelector").and_then(|labels| labels.get(OS));
    if os(of_nodes) || os(pod.spec.get("os").and_then(|it| it.get("name"))) {
        return Err(Skip::Windows);
    }
    if pod.annotation(MIRROR).is_some() || pod.annotation(SOURCE).is_some_and(|source| source != "api") {
        return Err(Skip::MirrorPod);
    }
    // The API server has filled it in by then, unless that is switched off.
    if facts.door == Door::Admission && pod.text("serviceAccountName").is_none_or(str::is_empty) {
        return Err(Skip::NoServiceAccount);
    }
    users(pod)?;
    ports(pod)
}

/// What runs as the sidecar's user is taken for the sidecar where ports are captured, and may read its memory.
fn users(pod: &Pod<'_>) -> Result<(), Skip> {
    let user = |context: Option<&Value>| context?.get("runAsUser")?.as_i64();
    let of_pod = user(pod.spec.get("securityContext"));
    for container in pod.containers() {
        if user(container.fields.get("securityContext")).or(of_pod) == Some(SIDECAR_USER) {
            return Err(Skip::UserTaken { container: container.name.to_owned(), uid: SIDECAR_USER });
        }
    }
    Ok(())
}

fn ports(pod: &Pod<'_>) -> Result<(), Skip> {
    let is_own = |port: i64| OWN_PORTS.iter().any(|own| i64::from(*own) == port);
    for container in pod.containers() {
        let taken = container.ports().find(|(port, ..)| is_own(*port));
        if let Some((port, ..)) = taken {
            return Err(Skip::PortTaken { container: container.name.to_owned(), port });
        }
    }
    Ok(())
}

/// Whether a pod can have the sidecar that it wishes.
pub(super) fn possible_as_wished(pod: &Pod<'_>, wishes: &Wishes) -> Result<(), Skip> {
    for port in wishes.ports.all() {
        let protocols: Vec<&str> = pod
            .containers()
            .flat_map(|container| container.ports())
            .filter_map(|(found, protocol, _)| (found == i64::from(port)).then_some(protocol))
            .collect();
        if !protocols.is_empty() && protocols.iter().all(|protocol| *protocol == "UDP") {
            return Err(Skip::Udp(port));
        }
    }
    let ends = matches!(pod.text("restartPolicy"), Some("Never" | "OnFailure"));
    match ends && !wishes.native && wishes.stdio.is_none() {
        true => Err(Skip::NeverEnds),
        false => Ok(()),
    }
}
