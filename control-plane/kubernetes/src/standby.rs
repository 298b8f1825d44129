//! One that stands by: it follows the leader with a copy of its store, and takes its place with what it has.
//!
//! Nobody writes to a store that does not lead. Whoever begins to lead takes its copy as its own and follows the cluster
//! into it; where the cluster says what the copy says already, nothing is committed and nobody is sent anything. Only then
//! its doors open.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::Api;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_control_plane::app::Leading;
use weft_control_plane::replica::{Follower, Lost};

/// After this time one is ready to stand by that has no copy: a leader of before there were copies gives none.
const WITHOUT_COPY: Duration = Duration::from_secs(20);
/// Pause after the store failed.
const RETRY: Duration = Duration::from_secs(1);
/// How long the API server may take, and how often it is asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS_MAX: usize = 3;

/// What is known of this one's copy: whether there ever was one that was up to date, and whether its objects are the
/// mesh's, be it as a copy or as the leader's. `stands` is told once it could take the leader's place.
pub(crate) fn known(
    follows: &watch::Sender<bool>,
    synced: &watch::Sender<bool>,
    stands: &watch::Sender<bool>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> (watch::Receiver<bool>, watch::Receiver<bool>) {
    let (copied, useful) = (watch::Sender::new(false), watch::Sender::new(false));
    let told = (copied.subscribe(), useful.subscribe());
    let (mut follows, mut synced, stands) = (follows.subscribe(), synced.subscribe(), stands.clone());
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        let late = tokio::time::sleep(WITHOUT_COPY);
        let know = async {
            tokio::select! {
                _ = follows.wait_for(|it| *it) => {
                    copied.send_replace(true);
                }
                _ = synced.wait_for(|it| *it) => {}
            }
            useful.send_replace(true);
        };
        tokio::pin!(know, late);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = &mut know => {}
            () = late => {
                stands.send_replace(true);
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = know => {}
                }
            }
        }
        stands.send_replace(true);
    });
    told
}

/// Follows until this one leads. Whoever cannot go on from its copy ends, and begins anew.
pub(crate) async fn follow(follower: Follower, shutdown: CancellationToken) {
    if let lost @ Lost::BeganAnew = follower.run().await {
        tracing::error!(error = %lost, "this control plane begins anew from the leader's store");
        shutdown.cancel();
    }
}

/// What comes between having the lease and leading.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Whether this one has the lease.
    pub(crate) seat: watch::Receiver<bool>,
    pub(crate) leads: watch::Sender<bool>,
    /// Whether the store is what the cluster says.
    pub(crate) synced: watch::Receiver<bool>,
}

impl Standing {
    /// Leads once it has the lease and is ready to, and from then on while it has the lease.
    pub(crate) async fn promote(
        mut self,
        leading: Leading,
        source: impl Future<Output = ()> + Send + 'static,
        tasks: TaskTracker,
    ) {
        if self.seat.wait_for(|it| *it).await.is_err() {
            return;
        }
        while !begins(&leading).await {
            tokio::time::sleep(RETRY).await;
        }
        tasks.spawn(source);
        if self.synced.wait_for(|it| *it).await.is_err() {
            return;
        }
        loop {
            let has = *self.seat.borrow_and_update();
            self.leads.send_if_modified(|leads| std::mem::replace(leads, has) != has);
            if self.seat.changed().await.is_err() {
                return;
            }
        }
    }
}

async fn begins(leading: &Leading) -> bool {
    let begun = leading.begin().await;
    if let Err(error) = &begun {
        let error = error as &dyn std::error::Error;
        tracing::error!(error, "the store cannot be taken over; trying again");
    }
    begun.is_ok()
}

/// Where others find the sidecars' door of this one: at its address, or at the pod's.
pub(crate) async fn address(
    client: &Client,
    namespace: &str,
    pod: &str,
    door: SocketAddr,
) -> Option<SocketAddr> {
    if !door.ip().is_unspecified() {
        return Some(door);
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for _ in 0..ATTEMPTS_MAX {
        match timeout(ANSWER_TIMEOUT, pods.get_opt(pod)).await {
            Ok(Ok(None)) => {
                tracing::warn!(pod, "this process is no pod and listens everywhere: nobody can follow it");
                return None;
            }
            Ok(Ok(Some(pod))) => {
                let ip = pod.status.and_then(|status| status.pod_ip).and_then(|ip| ip.parse().ok());
                if let Some(ip) = ip {
                    return Some(SocketAddr::new(ip, door.port()));
                }
            }
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the address of this pod cannot be read");
            }
            Err(_) => tracing::warn!("the API server does not answer about the address of this pod"),
        }
        tokio::time::sleep(RETRY).await;
    }
    tracing::warn!(pod, "this pod has no address yet: nobody can follow this control plane");
    None
}
