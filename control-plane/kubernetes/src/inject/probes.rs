//! Probes of the other containers, made by the sidecar: it reaches a server that listens on loopback alone, and answers
//! the kubelet where mutual TLS would not.
//!
//! Left alone are probes that run a command, and those of other hosts than the pod.

use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::HEALTH_PORT;
use super::edit::{Edit, Misshapen};
use super::pod::{Container, Pod};

/// The fields of a container that are probes, and what they are called in paths.
const KINDS: [(&str, &str); 3] =
    [("livenessProbe", "liveness"), ("readinessProbe", "readiness"), ("startupProbe", "startup")];
/// The ways to probe that the sidecar stands in for.
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

// What the sidecar's own file may hold of probes: one that it would not read would keep it from starting.
const PROBES_MAX: usize = 192;
const PATH_BYTES_MAX: usize = 4096;
const SERVICE_BYTES_MAX: usize = 1024;
const HEADERS_BYTES_MAX: usize = 16 << 10;

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
                Ok(Some(_)) if probes.len() == PROBES_MAX => {
                    warnings.push(format!(
                        "the {kind} probe of {} stays as it is: there are too many",
                        container.name
                    ));
                }
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
    if given.get("host").is_some_and(|host| !host.is_null() && host.as_str() != Some("")) {
        return Ok(None);
    }
    let text = |field: &str, bytes_max: usize| match given.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= bytes_max => Ok(Some(text.as_str())),
        Some(_) => Err("its path, scheme or service is no text, or longer than is taken"),
    };
    let mut target = Map::new();
    target.insert("port".to_owned(), json!(port(container, given.get("port"))?));
    let mut insert = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            target.insert(field.to_owned(), super::bootstrap::literal(&value));
        }
    };
    match handler {
        "httpGet" => {
            let scheme = text("scheme", PATH_BYTES_MAX)?;
            if scheme.is_some_and(|scheme| !["HTTP", "HTTPS"].contains(&scheme)) {
                return Err("its scheme is neither HTTP nor HTTPS");
            }
            insert("scheme", scheme.map(Value::from));
            insert("path", text("path", PATH_BYTES_MAX)?.map(Value::from));
            insert("httpHeaders", headers(given.get("httpHeaders"))?);
        }
        "grpc" => insert("service", text("service", SERVICE_BYTES_MAX)?.map(Value::from)),
        _ => {}
    }
    let mut made = Map::new();
    made.insert(handler.to_owned(), Value::Object(target));
    match probe.get("timeoutSeconds") {
        // Kubernetes takes nought for one.
        None | Some(Value::Null) => {}
        Some(timeout) => match timeout.as_u64().and_then(|timeout| u32::try_from(timeout).ok()) {
            Some(0) => {}
            Some(timeout) => _ = made.insert("timeoutSeconds".to_owned(), json!(timeout)),
            None => return Err("its timeout is no number of seconds"),
        },
    }
    Ok(Some(Value::Object(made)))
}

/// The headers of a probe, if they can be sent.
fn headers(given: Option<&Value>) -> Result<Option<Value>, &'static str> {
    const WRONG: &str = "its headers cannot be sent";
    let Some(given) = given.filter(|given| !given.is_null()) else { return Ok(None) };
    let (mut bytes, mut headers) = (0, Vec::new());
    for header in given.as_array().ok_or(WRONG)? {
        let name = header.get("name").and_then(Value::as_str).ok_or(WRONG)?;
        let value = match header.get("value") {
            None | Some(Value::Null) => "",
            Some(value) => value.as_str().ok_or(WRONG)?,
        };
        bytes += name.len() + value.len();
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| WRONG)?;
        HeaderValue::from_str(value).map_err(|_| WRONG)?;
        headers.push(json!({ "name": name, "value": value }));
    }
    match bytes <= HEADERS_BYTES_MAX {
        true => Ok(Some(headers.into())),
        false => Err("its headers are more than are sent"),
    }
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
