//! An object of the cluster, read by the parser that reads every other document.

use jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use weft_control_plane::desired::MADE_AT;
use weft_control_plane::store::limits::VALUE_BYTES_MAX;
use weft_proto::name::{Namespace, ObjectName};
use weft_proto::resource::{API_VERSION, Key, Kind, Resource, parse_one};

/// Longest message about an object, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 2048;

/// What was seen of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub key: Key,
    pub uid: String,
    pub generation: i64,
    /// In seconds since 1970. Between objects of one second their names decide.
    pub made_at: i64,
    pub resource: Result<Box<Resource>, String>,
    /// Its spec, where it does not read; nothing otherwise.
    pub unread: Value,
    /// What is written of it in the cluster: its `status`, as it stands there.
    pub status: Value,
}

/// The same object whoever tells of it; none where its name is none of ours, which an API server does not let in.
pub fn key(kind: Kind, namespace: Option<&str>, name: Option<&str>) -> Option<Key> {
    let namespace = Namespace::parse(namespace?).ok()?;
    Some(Key { kind, namespace, name: ObjectName::parse(name?).ok()? })
}

/// Reads an object as a watch gives it.
pub fn seen(kind: Kind, object: DynamicObject) -> Option<Seen> {
    let DynamicObject { metadata, mut data, .. } = object;
    let key = key(kind, metadata.namespace.as_deref(), metadata.name.as_deref())?;
    let made_at = metadata.creation_timestamp.map_or(0, |at| at.0.as_second());
    let labels = metadata.labels.unwrap_or_default();
    let resource = read(&key, &json!(labels), &data["spec"], Some(made_at));
    let unread = if resource.is_err() { data["spec"].take() } else { Value::Null };
    Some(Seen {
        key,
        uid: metadata.uid.unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        made_at,
        resource: resource.map(Box::new),
        unread,
        status: data["status"].take(),
    })
}

/// Reads what an object says. Of its metadata the name, the namespace and the labels are of the mesh: annotations,
/// owners and whatever else hangs on it stay in the cluster.
pub fn read(key: &Key, labels: &Value, spec: &Value, made_at: Option<i64>) -> Result<Resource, String> {
    let made_at = made_at.and_then(|at| Timestamp::from_second(at).ok());
    let annotations = made_at.map_or_else(|| json!({}), |at| json!({ MADE_AT: at.to_string() }));
    let document = json!({
        "apiVersion": API_VERSION,
        "kind": key.kind.name(),
        "metadata": {
            "namespace": key.namespace,
            "name": key.name,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": spec,
    });
    let text = document.to_string();
    if text.len() > VALUE_BYTES_MAX {
        return Err(format!("it has {} bytes; at most {VALUE_BYTES_MAX} are kept", text.len()));
    }
    parse_one(&key.to_string(), &text).map_err(|mistakes| {
        let told = mistakes.iter().map(|it| match it.place.field.as_str() {
            "" => it.problem.to_string(),
            field => format!("{field}: {}", it.problem),
        });
        clipped(&told.collect::<Vec<_>>().join("; "), MESSAGE_BYTES_MAX)
    })
}

/// At most so many bytes of a text.
pub(crate) fn clipped(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max.saturating_sub('…'.len_utf8())).rev().find(|at| text.is_char_boundary(*at));
    format!("{}…", &text[..end.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_object_is_read_without_what_is_the_clusters() {
        let seen = seen(
            Kind::McpServer,
            object(json!({
                "apiVersion": "weft.dev/v1alpha1", "kind": "McpServer",
                "metadata": {
                    "name": "files", "namespace": "research", "uid": "u", "generation": 3, "resourceVersion": "17",
                    "creationTimestamp": "2026-11-28T03:00:00Z", "labels": { "team": "papers" },
                    "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(5000) },
                    "finalizers": ["f"], "managedFields": [],
                },
                "spec": { "stdio": { "command": "x" } }, "status": { "observedGeneration": 2 },
            })),
        )
        .unwrap();
        let resource = seen.resource.unwrap();
        assert_eq!((seen.generation, seen.made_at, &*seen.uid), (3, 1_795_834_800, "u"));
        assert_eq!(seen.status["observedGeneration"], 2);
        assert_eq!(resource.metadata.labels.len(), 1);
        assert_eq!(resource.metadata.resource_version, None);
        let annotations: Vec<_> = resource.metadata.annotations.iter().collect();
        assert_eq!(annotations.len(), 1);
        assert_eq!(annotations[0].1.as_str(), "2026-11-28T03:00:00Z");
    }

    #[test]
    fn an_object_that_does_not_read_says_why_as_apply_would() {
        let check = |kind: Kind, spec: Value, expected: &str| {
            let key = key(kind, Some("research"), Some("x")).unwrap();
            let message = read(&key, &json!({}), &spec, None).unwrap_err();
            assert!(message.contains(expected), "{message}");
        };
        check(Kind::QuotaPolicy, json!({ "limits": [{ "rate": "10/fortnight" }] }), "10/fortnight");
        check(
            Kind::McpServer,
            json!({ "stdio": { "comand": "x" } }),
            "spec.stdio.comand: unknown field \"comand\"; did you mean \"command\"?",
        );
        check(Kind::McpServer, Value::Null, "spec");
        check(
            Kind::Trust,
            json!({ "trustDomain": "a.b" }),
            "metadata.name: the one Trust object is weft-system/mesh",
        );
        check(
            Kind::McpServer,
            json!({ "stdio": { "command": "x".repeat(VALUE_BYTES_MAX) } }),
            "bytes; at most",
        );
        check(Kind::AccessPolicy, json!({ "rules": "7".repeat(100_000) }), "spec.rules");
    }

    #[test]
    fn what_has_no_name_of_ours_is_nothing() {
        assert_eq!(key(Kind::Route, Some("a"), None), None);
        assert_eq!(key(Kind::Route, Some("A_B"), Some("x")), None);
        assert_eq!(clipped("aé…", 3), "…");
        assert_eq!(clipped("aé", 3), "aé");
    }
}
