//! Everything that has to do with the objects of the cluster, put together: they are followed into the store, judged
//! before they are kept, and told what became of them.

use std::sync::{Arc, OnceLock};

use kube::Client;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use weft_control_plane::app;
use weft_control_plane::desired::{Mesh, Present};
use weft_control_plane::objects::Objects;
use weft_proto::name::TrustDomain;

use crate::admission::validate::{self, Verdict};
use crate::source::{self, Ledger};
use crate::status;

/// The objects of the cluster, from before there is a control plane that has them.
#[derive(Clone, Debug)]
pub struct Followed {
    trust_domain: TrustDomain,
    /// The objects, and whether they are the mesh's; none before there is a store.
    known: Arc<OnceLock<(Arc<Objects>, watch::Receiver<bool>)>>,
    pub ledger: Arc<Ledger>,
}

impl Followed {
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, known: Arc::default(), ledger: Arc::default() }
    }

    /// Judges the request of a review. To be called where waiting is allowed, and not within the runtime.
    pub fn judge(&self, runtime: &Handle, request: &Value) -> Verdict {
        let mesh = Mesh { trust_domain: self.trust_domain.clone() };
        let present = runtime.block_on(self.present());
        validate::judge(request, &mesh, present.as_deref())
    }

    /// The objects that there are, once they are what the cluster says.
    async fn present(&self) -> Option<Arc<Present>> {
        let (objects, synced) = self.known.get()?;
        if !*synced.borrow() {
            return None;
        }
        let present = objects.present().await;
        // Each object can be judged alone, and what contradicts others is kept out when it comes.
        present.inspect_err(|error| tracing::error!(%error, "objects are judged alone: the store fails")).ok()
    }

    /// Begins to tell, and to judge by the objects that the store has once `useful` says that they are the mesh's. What
    /// is answered follows the cluster into the store, which only the one that leads does: `synced` is told once sidecars
    /// can be told what the cluster says.
    pub fn start(
        &self,
        client: Client,
        control_plane: &app::Running,
        (synced, useful): (watch::Sender<bool>, watch::Receiver<bool>),
        leads: watch::Receiver<bool>,
        tasks: &TaskTracker,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (store, hub) = (Arc::clone(&control_plane.store), Arc::clone(&control_plane.hub));
        let (ledger, shutdown) = (Arc::clone(&self.ledger), control_plane.shutdown());
        let objects = Arc::new(Objects::new(Arc::clone(&store)));
        // Whoever starts it twice follows twice, and judges by the first.
        let _ = self.known.set((Arc::clone(&objects), useful));
        let followed = source::Deps {
            client: client.clone(),
            store,
            objects,
            trust_domain: self.trust_domain.clone(),
            ledger: Arc::clone(&ledger),
            metrics: Arc::clone(&control_plane.metrics),
            published: hub.revision(),
            synced,
        };
        let metrics = Arc::clone(&control_plane.metrics);
        tasks.spawn(status::run(status::Deps { client, hub, ledger, metrics, leads }, shutdown.clone()));
        source::run(followed, shutdown)
    }
}
