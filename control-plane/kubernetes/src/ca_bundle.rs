//! The certificates by which the API server knows our webhooks, in the objects that register them.
//!
//! Written when they are not there, when others changed them, and when the roots change; in no webhook but ours, whatever
//! else stands in the same object. One control plane of several does so.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

/// The object that registers the webhook that puts sidecars into pods.
pub const INJECTOR: &str = "weft-injector";
/// The object that registers the webhook that checks resources.
pub const VALIDATOR: &str = "weft-validator";
/// What the names of our webhooks end with.
const OURS: &str = ".weft.dev";
/// When a failure is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Which object is kept right.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Mutating,
    Validating,
}

/// Keeps one object right for as long as this control plane leads. `namespace` is where our Services are.
pub async fn keep(
    client: Client,
    kind: Kind,
    name: String,
    namespace: String,
    mut roots: watch::Receiver<Arc<str>>,
    mut leads: watch::Receiver<bool>,
) {
    let resource = match kind {
        Kind::Mutating => ApiResource::erase::<MutatingWebhookConfiguration>(&()),
        Kind::Validating => ApiResource::erase::<ValidatingWebhookConfiguration>(&()),
    };
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let fields = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let seen = watcher(api.clone(), fields).default_backoff().applied_objects();
    let mut seen = std::pin::pin!(seen);
    let mut last: Option<DynamicObject> = None;
    loop {
        let now = Arc::clone(&roots.borrow_and_update());
        let patch = match (&last, *leads.borrow_and_update()) {
            (Some(object), true) => corrections(&object.data, &namespace, &STANDARD.encode(now.as_bytes())),
            _ => Vec::new(),
        };
        let mut again = None;
        if !patch.is_empty() {
            match write(&api, &name, patch).await {
                // What it says now is seen with the next event. Whoever keeps writing something else gets no race.
                Ok(()) => {
                    last = None;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(why) => {
                    tracing::warn!(object = name, why, "the certificates of webhooks are not written");
                    again = Some(RETRY);
                }
            }
        }
        tokio::select! {
            event = seen.next() => match event {
                Some(Ok(object)) => last = Some(object),
                Some(Err(error)) => {
                    tracing::warn!(object = name, error = &error as &dyn std::error::Error, "webhooks are not seen");
                }
                None => return,
            },
            changed = roots.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
            () = wait(again) => {}
        }
    }
}

async fn wait(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

async fn write(api: &Api<DynamicObject>, name: &str, patch: Vec<Value>) -> Result<(), String> {
    let patch = serde_json::from_value(Value::Array(patch)).map_err(|error| error.to_string())?;
    let (params, patch) = (PatchParams::default(), Patch::<()>::Json(patch));
    match timeout(ANSWER_TIMEOUT, api.patch(name, &params, &patch)).await {
        Ok(Ok(_)) => {
            tracing::info!(object = name, "the certificates of webhooks are written");
            Ok(())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the API server does not answer".to_owned()),
    }
}

/// What to change so that our webhooks, of our Services, have these certificates. Places are given by number, so each is
/// changed only if the one that is meant is still there.
fn corrections(object: &Value, namespace: &str, bundle: &str) -> Vec<Value> {
    let webhooks = object["webhooks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_ours = |webhook: &Value| {
        let name = webhook["name"].as_str().unwrap_or_default();
        name.ends_with(OURS) && webhook["clientConfig"]["service"]["namespace"] == *namespace
    };
    let is_wrong = |webhook: &Value| webhook["clientConfig"]["caBundle"] != *bundle;
    let wrong = webhooks.iter().enumerate().filter(|(_, it)| is_ours(it) && is_wrong(it));
    let patch = wrong.flat_map(|(index, webhook)| {
        [
            json!({ "op": "test", "path": format!("/webhooks/{index}/name"), "value": webhook["name"] }),
            json!({ "op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle }),
        ]
    });
    patch.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(name: &str, namespace: &str, bundle: Option<&str>) -> Value {
        let mut webhook = json!({
            "name": name,
            "clientConfig": { "service": { "namespace": namespace, "name": "weft-control-plane" } },
        });
        if let Some(bundle) = bundle {
            webhook["clientConfig"]["caBundle"] = json!(bundle);
        }
        webhook
    }

    #[test]
    fn only_our_webhooks_are_corrected_and_only_if_they_are_wrong() {
        let object = json!({ "webhooks": [
            webhook("pod.injector.weft.dev", "weft-system", Some("good")),
            webhook("namespace.injector.weft.dev", "weft-system", Some("old")),
            webhook("of.others.example", "weft-system", Some("old")),
            webhook("injector.weft.dev", "another", Some("old")),
            webhook("new.injector.weft.dev", "weft-system", None),
            { "name": "by-url.weft.dev", "clientConfig": { "url": "https://elsewhere.example" } },
        ]});
        let patch = corrections(&object, "weft-system", "good");
        let paths: Vec<_> = patch.iter().map(|it| it["path"].as_str().unwrap()).collect();
        let expected = [
            "/webhooks/1/name",
            "/webhooks/1/clientConfig/caBundle",
            "/webhooks/4/name",
            "/webhooks/4/clientConfig/caBundle",
        ];
        assert_eq!(paths, expected);
        assert_eq!(
            patch[0],
            json!({ "op": "test", "path": "/webhooks/1/name", "value": "namespace.injector.weft.dev" })
        );
    }

    #[test]
    fn an_object_without_webhooks_needs_nothing() {
        for object in [json!({}), json!({ "webhooks": [] }), json!({ "webhooks": "none" }), json!(null)] {
            assert!(corrections(&object, "weft-system", "good").is_empty(), "{object}");
        }
    }
}
