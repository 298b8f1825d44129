//! Standing by, and beginning to lead: what one of several control planes does with its store.

use std::path::PathBuf;
use std::sync::Arc;

use weft_proto::name::TrustDomain;

use super::{Error, Surroundings, settle_trust_domain};
use crate::audit::Trails;
use crate::metrics::Metrics;
use crate::replica::{Follower, Kept, Replication, Standbys};
use crate::store::Store;
use crate::store::embedded::EmbeddedStore;
use crate::trust::Trust;
use crate::{auth, clock};

/// What one of several control planes has beside what one alone has.
#[derive(Debug)]
pub struct Replica {
    pub follower: Follower,
    pub leading: Leading,
}

/// How this one begins to lead.
#[derive(Debug)]
pub struct Leading {
    copy: Arc<EmbeddedStore>,
    store: Arc<dyn Store>,
    trust_domain: TrustDomain,
    admin: auth::Secret,
}

impl Leading {
    /// Takes the copy as one's own: from now on nothing is taken from others, and what every leader needs is written.
    pub async fn begin(&self) -> Result<(), Error> {
        let wrong = |source| Error::Store { path: PathBuf::from("epoch"), source };
        self.copy.lead(rand::random()).await.map_err(wrong)?;
        settle_trust_domain(&*self.store, Some(self.trust_domain.clone()), true).await?;
        Ok(auth::settle(&*self.store, &self.admin, clock::now()).await?)
    }
}

/// The store as everybody sees it, and how others follow it, if there are others.
pub(super) fn kept(
    store: &Arc<EmbeddedStore>,
    cluster: Option<&Surroundings>,
    metrics: &Arc<Metrics>,
) -> (Arc<dyn Store>, Option<Arc<Standbys>>) {
    if cluster.is_none() {
        return (Arc::<EmbeddedStore>::clone(store), None);
    }
    let standbys = Arc::new(Standbys::new(Arc::clone(metrics)));
    let kept = Kept { store: Arc::clone(store), standbys: Arc::clone(&standbys) };
    (Arc::new(kept), Some(standbys))
}

/// What lets others follow this one.
pub(super) fn replication(
    copy: &Arc<EmbeddedStore>,
    standbys: Option<Arc<Standbys>>,
    (trails, trust): (&Trails, &Trust),
    shutdown: &tokio_util::sync::CancellationToken,
) -> Option<Replication> {
    let (store, own, shutdown) = (Arc::clone(copy), trust.own_id(), shutdown.clone());
    standbys.map(|standbys| Replication { store, standbys, trails: trails.clone(), own, shutdown })
}

/// What stands by, and begins to lead.
pub(super) fn replica(
    copy: Arc<EmbeddedStore>,
    store: Arc<dyn Store>,
    cluster: &Surroundings,
    (trails, trust): (&Trails, &Arc<Trust>),
    metrics: &Arc<Metrics>,
) -> Replica {
    let (trust_domain, admin) = (trust.trust_domain().clone(), cluster.admin.clone());
    let follower = Follower {
        store: Arc::clone(&copy),
        trails: trails.clone(),
        trust: Arc::clone(trust),
        name: cluster.replica.clone(),
        leader: cluster.leader.clone(),
        follows: cluster.follows.clone(),
        metrics: Arc::clone(metrics),
    };
    Replica { follower, leading: Leading { copy, store, trust_domain, admin } }
}
