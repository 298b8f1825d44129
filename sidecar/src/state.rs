//! The configuration in force: one immutable snapshot, swapped whole. Whoever serves a request takes one at its
//! beginning and keeps it.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use weft_proto::compile::Snapshot;

/// Where a snapshot came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing was received yet.
    Nothing,
    /// Kept on disk by an earlier run.
    Stored,
    /// Told by the control plane in this run.
    ControlPlane,
    /// Read from a local file.
    File,
}

/// A snapshot with what there is to say of it.
#[derive(Clone, Debug)]
pub struct Current {
    pub snapshot: Snapshot,
    pub origin: Origin,
    /// Digest of the content, in hex: equal on every sidecar that was told the same.
    pub version: Arc<str>,
    /// When the content was last told or read; for a stored one, when it was stored.
    pub since: SystemTime,
}

/// The snapshot in force. Clones are the same.
#[derive(Clone, Debug)]
pub struct Live(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: ArcSwap<Current>,
    changes: watch::Sender<Arc<Current>>,
}

impl Live {
    pub fn new(first: Current) -> Self {
        let first = Arc::new(first);
        Self(Arc::new(Shared {
            current: ArcSwap::from(Arc::clone(&first)),
            changes: watch::Sender::new(first),
        }))
    }

    /// Nothing is configured, so nothing is allowed.
    pub fn empty() -> Self {
        let snapshot = weft_proto::compile::compile(&weft_proto::compile::Parts::default());
        Self::new(Current {
            snapshot,
            origin: Origin::Nothing,
            version: "".into(),
            since: SystemTime::UNIX_EPOCH,
        })
    }

    pub fn load(&self) -> Arc<Current> {
        self.0.current.load_full()
    }

    pub fn swap(&self, current: Current) {
        let current = Arc::new(current);
        self.0.current.store(Arc::clone(&current));
        self.0.changes.send_replace(current);
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Current>> {
        self.0.changes.subscribe()
    }

    /// Whether anything at all is configured.
    pub fn is_ready(&self) -> bool {
        self.0.current.load().origin != Origin::Nothing
    }
}
