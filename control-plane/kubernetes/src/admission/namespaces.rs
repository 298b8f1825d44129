//! The labels of the cluster's namespaces, kept in memory: whether a pod gets a sidecar must not wait for a question to
//! the API server, which waits itself for the answer.

use std::sync::Arc;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};

use super::Namespaces;

/// What is known of namespaces, and the work that keeps it so, to be run until the end.
pub fn follow(client: Client) -> (Namespaces, impl Future<Output = ()> + Send) {
    let (known, writer) = reflector::store::<PartialObjectMeta<Namespace>>();
    let namespaces = Api::<PartialObjectMeta<Namespace>>::all(client);
    let changes = watcher(namespaces, watcher::Config::default());
    let work = async move {
        let changes = changes.modify(only_labels).default_backoff().reflect(writer);
        let mut changes = std::pin::pin!(changes);
        while let Some(change) = changes.next().await {
            if let Err(error) = change {
                tracing::warn!(error = &error as &dyn std::error::Error, "namespaces cannot be followed");
            }
        }
    };
    (Arc::new(move |name| labels(&known, name)), work)
}

/// Nothing but their labels is kept.
fn only_labels(namespace: &mut PartialObjectMeta<Namespace>) {
    namespace.managed_fields_mut().clear();
    namespace.annotations_mut().clear();
}

/// None of a namespace that is not known yet: one may be made, and a pod in it, before news of it comes here.
fn labels(known: &Store<PartialObjectMeta<Namespace>>, name: &str) -> Option<super::mutate::Labels> {
    let found = known.get(&ObjectRef::new(name))?;
    Some(found.labels().clone())
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn namespace(name: &str, labels: &serde_json::Value) -> PartialObjectMeta<Namespace> {
        let metadata = json!({ "metadata": { "name": name, "labels": labels, "annotations": { "a": "b" } } });
        let mut read: PartialObjectMeta<Namespace> = serde_json::from_value(metadata).unwrap();
        only_labels(&mut read);
        read
    }

    #[test]
    fn labels_are_those_that_were_heard_of_last() {
        let (known, mut writer) = reflector::store();
        assert_eq!(labels(&known, "a"), None);
        writer.apply_watcher_event(&Event::Apply(namespace("a", &json!({ "weft.dev/inject": "enabled" }))));
        assert_eq!(labels(&known, "a").unwrap()["weft.dev/inject"], "enabled");
        writer.apply_watcher_event(&Event::Apply(namespace("a", &json!(null))));
        assert_eq!(labels(&known, "a"), Some(super::super::mutate::Labels::new()));
        writer.apply_watcher_event(&Event::Delete(namespace("a", &json!(null))));
        assert_eq!(labels(&known, "a"), None);
    }

    #[test]
    fn nothing_but_labels_is_kept() {
        assert!(namespace("a", &json!({})).metadata.annotations.is_none_or(|it| it.is_empty()));
    }
}
