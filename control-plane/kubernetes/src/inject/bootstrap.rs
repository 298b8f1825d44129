//! The sidecar's file, as it stands in a variable of its container.
//!
//! The cluster expands `$(WEFT_POD_NAME)` and its like there, once the pod has a name. Text of the pod's own must not be
//! expanded: every dollar of it is doubled.

use serde_json::{Map, Value, json};

use super::annotations::Wishes;
use super::settings::{IpFamily, Settings};
use super::skip::Skip;
use super::{HEALTH_PORT, INBOUND_PORT, STATE_FOLDER};

/// Largest file, in bytes. Linux passes no variable of more than 128 KiB to a program.
pub const TEXT_BYTES_MAX: usize = 96 << 10;
/// Longest key of a label that the sidecar is told of. No cluster takes longer ones, and YAML has none of over 1,024.
const LABEL_KEY_BYTES_MAX: usize = 253 + "/".len() + 63;
/// How much longer a pod waits than its sidecar drains: what is cut then still has to end.
const BEYOND_DRAIN_SECS: u64 = 10;
/// How long nothing may be heard of an agent that was told to end, until a sidecar that was told so at the same moment
/// takes it for gone: longer than what an agent does between two calls, mostly.
const LINGER_MILLIS: u64 = 5_000;
/// How long Kubernetes waits for a pod that does not say it.
const GRACE_SECS_DEFAULT: u64 = 30;

const NAMESPACE: &str = "$(WEFT_POD_NAMESPACE)";

/// What goes into the file of one pod.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) settings: &'a Settings,
    pub(super) wishes: &'a Wishes,
    pub(super) labels: Vec<(&'a str, &'a str)>,
    pub(super) probes: Map<String, Value>,
    pub(super) grace_secs: Option<u64>,
}

/// The file; JSON, which is YAML.
pub(super) fn text(parts: Parts<'_>) -> Result<String, Skip> {
    let text = printable(&file(parts).to_string());
    match text.len() <= TEXT_BYTES_MAX {
        true => Ok(text),
        false => Err(Skip::TooLarge { bytes: text.len(), max: TEXT_BYTES_MAX }),
    }
}

fn file(parts: Parts<'_>) -> Value {
    let Parts { settings, wishes, labels, probes, grace_secs } = parts;
    let any = match settings.ip_family {
        IpFamily::Ipv4 => "0.0.0.0",
        IpFamily::Ipv6 | IpFamily::Dual => "[::]",
    };
    let address = match settings.ip_family {
        IpFamily::Ipv6 => format!("[$(WEFT_POD_IP)]:{INBOUND_PORT}"),
        IpFamily::Ipv4 | IpFamily::Dual => format!("$(WEFT_POD_IP):{INBOUND_PORT}"),
    };
    let mut file = json!({
        "node": {
            "id": format!("{NAMESPACE}/$(WEFT_POD_NAME)"),
            "address": address,
            "labels": labels
                .into_iter()
                .filter(|(key, _)| key.len() <= LABEL_KEY_BYTES_MAX)
                .map(|(key, value)| (doubled(key), doubled(value).into()))
                .collect::<Map<_, _>>(),
        },
        "source": { "controlPlane": {
            "address": settings.control_plane.as_str(),
            "proof": { "tokenFile": "/var/run/weft/token" },
            "caFile": "/var/run/weft/ca.crt",
        } },
        "listen": { "inbound": format!("{any}:{INBOUND_PORT}"), "health": format!("{any}:{HEALTH_PORT}") },
        "stateDir": STATE_FOLDER,
        "limits": {
            "drainTimeout": format!("{}ms", drain_millis(wishes, grace_secs)),
            // The other half is for the configuration, and for what is written before the limit is seen.
            "auditDiskBytesMax": settings.state_size.ceil() / 2,
        },
    });
    let node = &mut file["node"];
    let server = |name: &dyn std::fmt::Display| format!("{NAMESPACE}/{name}");
    if !wishes.servers.is_empty() {
        node["servers"] = wishes.servers.iter().map(|name| server(name)).collect();
    }
    let upstreams: Map<_, _> = wishes
        .servers
        .iter()
        .filter_map(|name| Some((server(name), format!("localhost:{}", wishes.ports.of(name)?).into())))
        .collect();
    if !upstreams.is_empty() {
        node["upstreams"] = Value::Object(upstreams);
    }
    // A native one is told to end once the other containers have, and the parent of a command has no agent beside it.
    if !wishes.native && wishes.stdio.is_none() {
        file["limits"]["lingerTimeout"] = format!("{LINGER_MILLIS}ms").into();
    }
    if !probes.is_empty() {
        file["probes"] = Value::Object(probes);
    }
    file
}

/// How long the sidecar drains: as wished, but so that it has ended before the pod is killed.
fn drain_millis(wishes: &Wishes, grace_secs: Option<u64>) -> u64 {
    let most = grace_secs.unwrap_or(GRACE_SECS_DEFAULT).saturating_sub(BEYOND_DRAIN_SECS).max(1);
    wishes.drain.as_millis().min(most.saturating_mul(1000)).max(1000)
}

/// A text that comes out of the cluster's expansion as it is.
fn doubled(text: &str) -> String {
    text.replace('$', "$$")
}

/// A value whose texts come out of the cluster's expansion as they are.
pub(super) fn literal(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(doubled(text)),
        Value::Array(items) => items.iter().map(literal).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, value)| (doubled(key), literal(value))).collect())
        }
        other => other.clone(),
    }
}

/// JSON without the characters that JSON may hold as they are, and YAML must not.
fn printable(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => text.push(character),
        }
    }
    text
}
