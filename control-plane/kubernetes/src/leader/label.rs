//! The label on the pod that leads, which the Service for sidecars and operators selects by: nobody is sent to a control
//! plane that stands by.

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
/// Pods that are looked at, of those that wear it.
const PODS_MAX: u32 = 100;

/// Keeps the label on this pod while it leads, and off all others then.
pub async fn follow(
    pods: Api<PartialObjectMeta<Pod>>,
    me: String,
    others: String,
    mut leads: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    loop {
        let now = *leads.borrow_and_update();
        let wait = match timeout(ANSWER_TIMEOUT, label(&pods, &me, &others, now)).await {
            Ok(Ok(())) => AGAIN,
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
                let _ = timeout(ANSWER_TIMEOUT, label(&pods, &me, &others, false)).await;
                return;
            }
            changed = leads.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// `others` selects the pods that could lead as well.
async fn label(pods: &Api<PartialObjectMeta<Pod>>, me: &str, others: &str, leads: bool) -> kube::Result<()> {
    write(pods, me, if leads { json!("true") } else { Value::Null }).await?;
    if !leads {
        return Ok(());
    }
    // Who led before may be gone too fast to have taken it off.
    let wearing = ListParams::default().labels(&format!("{LABEL}=true,{others}")).limit(PODS_MAX);
    for pod in pods.list(&wearing).await? {
        if let Some(name) = pod.metadata.name.filter(|name| name != me) {
            write(pods, &name, Value::Null).await?;
        }
    }
    Ok(())
}

async fn write(pods: &Api<PartialObjectMeta<Pod>>, pod: &str, value: Value) -> kube::Result<()> {
    let patch = json!({ "metadata": { "labels": { LABEL: value } } });
    pods.patch(pod, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}
