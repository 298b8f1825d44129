//! Probes of the other containers, made by the sidecar: it reaches a server that listens on loopback alone, and answers
//! the kubelet where mutual TLS would not.
//!
//! Left alone are probes that run a command, and those of other hosts than the pod.

use serde_json::{Map, Value, json};

use super::HEALTH_PORT;
use super::edit::{Edit, Misshapen};
use super::pod::{Container, Pod};

/// The fields of a container that are probes, and what they are called in paths.
const KINDS: [(&str, &str); 3] =
    [("livenessProbe", "liveness"), ("readinessProbe", "readiness"), ("startupProbe", "startup")];
/// The ways to probe that the sidecar stands in for.
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// What the sidecar is to do in the kubelet's stead, by `<container>/<kind>`.
pub(super) type Probes = Map<String, Value>;

/// Rewrites the probes of all containers. What cannot be rewritten stays, and is told as a warning.
pub(super) fn rewrite(
    edit: &mut Edit,
    pod: &Pod<'_>,
    warnings: &mut Vec<String>,
) -> Result<Probes, Misshapen> {
    let mut probes = Probes::new();
    for container in pod.containers() {
        for (field, kind) in KINDS {
            let Some(probe) = container.fields.get(field).and_then(Value::as_object) else { continue };
            let Some(handler) = HANDLERS.into_iter().find(|handler| probe.contains_key(*handler)) else {
                continue;
            };
            match target(&container, probe, handler) {
                Ok(Some(target)) => {
                    edit.replace(
                        &format!("{}/{field}", container.at()),
                        Some(rewritten(&container, kind, probe)),
                    )?;
                    probes.insert(format!("{}/{kind}", container.name), target);
                }
                Ok(None) => {}
                Err(why) => {
                    warnings.push(format!("the {kind} probe of {} stays as it is: {why}", container.name));
                }
            }
        }
    }
    Ok(probes)
}

/// The probe as the kubelet is to make it: at the sidecar, all else unchanged.
fn rewritten(container: &Container<'_>, kind: &str, probe: &Map<String, Value>) -> Value {
    let mut probe = probe.clone();
    probe.retain(|field, _| !HANDLERS.contains(&field.as_str()));
    let path = format!("/app-probes/{}/{kind}", container.name);
    probe.insert("httpGet".to_owned(), json!({ "path": path, "port": HEALTH_PORT }));
    Value::Object(probe)
}

/// What the sidecar is to do; none if the probe is not of this pod.
fn target(
    container: &Container<'_>,
    probe: &Map<String, Value>,
    handler: &str,
) -> Result<Option<Value>, &'static str> {
    let given = probe[handler].as_object().ok_or("it has not the form of a probe")?;
    if given.get("host").is_some_and(|host| host.as_str() != Some("")) {
        return Ok(None);
    }
    let mut target = Map::new();
    target.insert("port".to_owned(), json!(port(container, given.get("port"))?));
    let copied: &[&str] = match handler {
        "httpGet" => &["path", "scheme", "httpHeaders"],
        "grpc" => &["service"],
        _ => &[],
    };
    for field in copied {
        if let Some(value) = given.get(*field).filter(|value| !value.is_null()) {
            target.insert((*field).to_owned(), super::bootstrap::literal(value));
        }
    }
    let mut made = Map::new();
    made.insert(handler.to_owned(), Value::Object(target));
    if let Some(timeout) = probe.get("timeoutSeconds").and_then(Value::as_u64).filter(|timeout| *timeout > 0)
    {
        made.insert("timeoutSeconds".to_owned(), json!(timeout));
    }
    Ok(Some(Value::Object(made)))
}

/// A port by number or, as the kubelet reads it, by its name in the same container.
fn port(container: &Container<'_>, port: Option<&Value>) -> Result<u16, &'static str> {
    let number = match port {
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(name)) => {
            let named = container.ports().find(|(_, _, found)| *found == Some(name.as_str()));
            named.map(|(number, ..)| number).or_else(|| name.parse().ok())
        }
        _ => None,
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    number.ok_or("its port is neither a number nor the name of a port of the container")
}
