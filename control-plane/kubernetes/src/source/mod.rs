//! The objects of the cluster, followed into the control plane's own store, where history, comparison, explanation and
//! the sidecars' streams find them like any others.
//!
//! What runs in the cluster is not followed for it: instances of servers announce themselves over their streams, so that
//! neither pods nor EndpointSlices are watched. The replica that leads follows; the others have copies of its store. None
//! writes objects to the cluster.

mod ledger;
mod mirror;
mod read;
mod unread;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_control_plane::desired::Mesh;
use weft_control_plane::metrics::Metrics;
use weft_control_plane::objects::Objects;
use weft_control_plane::store::{Revision, Store};
use weft_proto::name::TrustDomain;
use weft_proto::resource::{Key, Kind};

pub use ledger::{Before, Entry, Fate, Ledger};
pub(crate) use mirror::told;
pub use mirror::{AUTHOR, Batch, Mirror};
pub(crate) use read::{MESSAGE_BYTES_MAX, clipped};
pub use read::{Seen, key, read, seen};
pub use watch::api_resource;
use watch::{NEWS_MAX, News};

/// Most objects that are gathered before they are put into the store.
const GATHERED_MAX: usize = 10_000;
/// Pause after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// The limits of following, by name, for the page that is checked against them.
pub const fn limits() -> [(&'static str, usize); 7] {
    [
        ("bytes of an object", weft_control_plane::store::limits::VALUE_BYTES_MAX),
        ("objects in one page of a list", watch::PAGE_OBJECTS as usize),
        ("news that wait to be taken", NEWS_MAX),
        ("objects gathered before they are put into the store", GATHERED_MAX),
        ("objects in one commit", mirror::COMMIT_OBJECTS_MAX),
        ("contradicting objects that are tried again, in all", mirror::CONTRADICTING_MAX),
        ("contradicting objects that are tried again with one batch", mirror::RETRIED_MAX),
    ]
}

/// What the source connects.
#[derive(Clone)]
pub struct Deps {
    pub client: Client,
    pub store: Arc<dyn Store>,
    pub objects: Arc<Objects>,
    pub trust_domain: TrustDomain,
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
    /// The revision that sidecars are told about, as it moves.
    pub published: channel::Receiver<u64>,
    /// Told once what the cluster says is published. Before, sidecars must not be let in: what restricts callers may not
    /// be there yet.
    pub synced: channel::Sender<bool>,
}

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// News that were gathered and are not in the store yet.
#[derive(Debug, Default)]
struct Gathered {
    batch: Batch,
    whole: BTreeMap<Kind, BTreeSet<Key>>,
}

impl Gathered {
    fn take(&mut self, news: News, metrics: &Metrics) {
        match news {
            News::Is(seen) => _ = self.batch.insert(seen.key.clone(), Some(*seen)),
            News::Gone(key) => _ = self.batch.insert(key, None),
            News::All(kind, all) => {
                let of_kind = self.batch.iter_mut().filter(|(key, _)| key.kind == kind);
                of_kind.filter(|(key, _)| !all.contains(key)).for_each(|(_, seen)| *seen = None);
                self.whole.insert(kind, all);
            }
            News::Lost(kind, error) => {
                metrics.cluster_watch_failures.inc();
                tracing::warn!(
                    kind = kind.name(),
                    error,
                    "the objects of a kind cannot be followed; trying again"
                );
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.whole.is_empty()
    }
}

/// Follows the cluster until the end.
pub async fn run(deps: Deps, shutdown: CancellationToken) {
    let (sender, news) = mpsc::channel(NEWS_MAX);
    let mut watches = JoinSet::new();
    for kind in Kind::ALL {
        watches.spawn(watch::watch(deps.client.clone(), *kind, sender.clone()));
    }
    drop(sender);
    tokio::select! {
        () = follow(deps, news) => {}
        () = shutdown.cancelled() => {}
    }
}

async fn follow(deps: Deps, mut news: mpsc::Receiver<News>) {
    let Deps { store, objects, trust_domain, ledger, metrics, mut published, synced, .. } = deps;
    let mut mirror = Mirror::new(store, objects, Mesh { trust_domain }, Arc::clone(&ledger));
    let mut gathered = Gathered::default();
    let mut listed = BTreeSet::new();
    while let Some(first) = news.recv().await {
        gathered.take(first, &metrics);
        while gathered.batch.len() < GATHERED_MAX
            && let Ok(more) = news.try_recv()
        {
            gathered.take(more, &metrics);
        }
        listed.extend(gathered.whole.keys().copied());
        let complete = listed.len() == Kind::ALL.len();
        // Until all kinds are listed they are gathered, so that what belongs together comes together.
        if gathered.is_empty() || !(complete || gathered.batch.len() >= GATHERED_MAX) {
            continue;
        }
        let Gathered { batch, whole } = std::mem::take(&mut gathered);
        let revision = settle(&mut mirror, batch, &whole).await;
        let (all, out) = ledger.counts();
        metrics.cluster_objects.set(i64::try_from(all).unwrap_or(i64::MAX));
        metrics.cluster_objects_kept_out.set(i64::try_from(out).unwrap_or(i64::MAX));
        if complete && !*synced.borrow() {
            // News wait meanwhile, which is short: the planner is all that comes between.
            let _ = published.wait_for(|published| *published >= revision.0).await;
            tracing::info!(revision = revision.0, "what the cluster says is published");
            synced.send_replace(true);
        }
    }
}

/// Puts it into the store, however long that takes.
async fn settle(mirror: &mut Mirror, batch: Batch, whole: &BTreeMap<Kind, BTreeSet<Key>>) -> Revision {
    loop {
        match mirror.take(batch.clone(), whole).await {
            Ok(revision) => return revision,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the store does not take what the cluster says; trying again"
                );
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
