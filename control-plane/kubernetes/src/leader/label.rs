//! The label on the pod that leads, which the Service for sidecars and operators selects by: nobody is sent to a control
//! plane that stands by. Whoever leads thereby sees which other pods there are that should stand by.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, PartialObjectMeta, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The label, with `true` as its value.
pub const LABEL: &str = "weft.dev/leader";
/// How often it is looked at, since others may change labels.
const AGAIN: Duration = Duration::from_secs(30);
/// When it is tried again after a failure.
const RETRY: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pods that are looked at, of those that could lead.
const PODS_MAX: u32 = 100;

/// The other pods that could lead, by name; none where they are not known, as to one that does not lead.
pub type Others = Option<Vec<String>>;

/// Keeps the label on this pod while it leads, and off all others then, of which it tells. `selector` is theirs.
pub async fn follow(
    pods: Api<PartialObjectMeta<Pod>>,
    me: String,
    selector: String,
    (mut leads, others): (watch::Receiver<bool>, watch::Sender<Others>),
    shutdown: CancellationToken,
) {
    loop {
        let now = *leads.borrow_and_update();
        let labelled = timeout(ANSWER_TIMEOUT, label(&pods, &me, &selector, now)).await;
        others.send_replace(labelled.as_ref().ok().and_then(|it| it.as_ref().ok()).cloned().flatten());
        let wait = match labelled {
            Ok(Ok(_)) => AGAIN,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                tracing::debug!(
                    pod = me,
                    "this process is no pod of the cluster, so that no Service finds it"
                );
                AGAIN
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the pod that leads cannot be labelled"
                );
                RETRY
            }
            Err(_) => RETRY,
        };
        tokio::select! {
            () = shutdown.cancelled() => {
                let _ = timeout(ANSWER_TIMEOUT, label(&pods, &me, &selector, false)).await;
                return;
            }
            changed = leads.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// `selector` is of the pods that could lead as well.
async fn label(
    pods: &Api<PartialObjectMeta<Pod>>,
    me: &str,
    selector: &str,
    leads: bool,
) -> kube::Result<Others> {
    write(pods, me, if leads { json!("true") } else { Value::Null }).await?;
    if !leads {
        return Ok(None);
    }
    let mut others = Vec::new();
    let all = ListParams::default().labels(selector).limit(PODS_MAX);
    for pod in pods.list(&all).await? {
        let Some(name) = pod.metadata.name.filter(|name| name != me) else { continue };
        // Who led before may be gone too fast to have taken it off.
        if pod.metadata.labels.is_some_and(|labels| labels.get(LABEL).is_some_and(|it| it == "true")) {
            write(pods, &name, Value::Null).await?;
        }
        // One that goes need not stand by any more.
        if pod.metadata.deletion_timestamp.is_none() {
            others.push(name);
        }
    }
    Ok(Some(others))
}

async fn write(pods: &Api<PartialObjectMeta<Pod>>, pod: &str, value: Value) -> kube::Result<()> {
    let patch = json!({ "metadata": { "labels": { LABEL: value } } });
    pods.patch(pod, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}
