//! The audit trail of this sidecar: a record of every call that policy marks, which cannot be changed quietly.
//!
//! What a line is and what may follow what is in `weft_proto::audit`; here are the files, the thread that writes them,
//! and what is kept of a call while it runs. A call that is marked takes a place before it goes on; where there is none,
//! it is refused, or counted as not recorded, as the sidecar's file says. Not here: who marks calls (policy), and how the
//! trail is shipped (`control`).

mod call;
mod folder;
mod queue;
mod read;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use weft_certs::tls::LiveIdentity;
use weft_proto::audit::Trail;
use weft_proto::name::NodeId;

use crate::limits::Limits;
use crate::metrics::{Metrics, ReasonLabel};
use folder::Held;
use queue::Queue;
use writer::Writer;

pub use call::{About, Recording};
pub use folder::Error;
pub use queue::Lack;
pub use read::{Batch, Reader};

/// How long an answer waits for the disk, at most.
const DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// The section `audit` of a sidecar's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Where the trail lies; `audit` in the state folder if not given.
    pub folder: Option<PathBuf>,
    /// When a call that is to be recorded may go on.
    pub durability: Durability,
    /// What becomes of a call for whose record there is no room.
    pub when_full: WhenFull,
}

/// When a call that is to be recorded may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Durability {
    /// At once; its record is on disk within moments after its end, and a kill may lose what was to be written in them.
    #[default]
    Queued,
    /// Once it is on disk that it begins. A refusal is on disk before it is answered.
    Written,
}

/// What becomes of a call for whose record there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WhenFull {
    /// It goes on, and the trail says how many were not recorded.
    #[default]
    DropAndRecord,
    /// It is refused.
    Refuse,
}

impl Settings {
    /// With the folder that there is, if none is named.
    #[must_use]
    pub fn within(mut self, state_dir: Option<&Path>) -> Self {
        self.folder = self.folder.or_else(|| Some(state_dir?.join(folder::FOLDER)));
        self
    }
}

/// The trail of this sidecar. Clones are the same.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    queue: Arc<Queue>,
    /// None where there is no folder to write to.
    trail: Option<Trail>,
    segments: Mutex<Vec<Held>>,
    /// The number of the line that is written next.
    grown: watch::Sender<u64>,
    /// The number of the line that the control plane wants next.
    shipped: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    fn segments(&self) -> MutexGuard<'_, Vec<Held>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, segments: &[Held]) {
        let bytes: u64 = segments.iter().map(|it| it.bytes).sum();
        self.queue.used.store(bytes, Ordering::Relaxed);
        self.metrics.audit_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn show_lag(&self) {
        let shipped = self.shipped.load(Ordering::Relaxed).max(1);
        let lag = self.grown.borrow().saturating_sub(shipped);
        self.metrics.audit_unshipped.set(i64::try_from(lag).unwrap_or(i64::MAX));
    }

    fn failed(&self, reason: &'static str) {
        self.metrics.audit_failures.get_or_create(&ReasonLabel { reason }).inc();
    }
}

impl Audit {
    /// Takes up the trail in its folder, or begins one. Without a folder nothing can be recorded.
    pub fn start(
        settings: Settings,
        node: &NodeId,
        limits: &Arc<Limits>,
        metrics: &Arc<Metrics>,
        identity: LiveIdentity,
    ) -> Result<Self, Error> {
        let folder = settings.folder.clone();
        let found = match &folder {
            Some(folder) => Some(folder::open(folder, node.as_str(), rand::random())?),
            None => None,
        };
        let (segments, next) =
            found.as_ref().map_or((Vec::new(), 1), |found| (found.segments.clone(), found.cursor.next()));
        let shared = Arc::new(Shared {
            settings,
            limits: Arc::clone(limits),
            metrics: Arc::clone(metrics),
            queue: Queue::new(limits),
            trail: found.as_ref().map(|found| found.cursor.trail().clone()),
            segments: Mutex::new(segments),
            grown: watch::Sender::new(next),
            shipped: AtomicU64::new(0),
            thread: Mutex::new(None),
        });
        shared.count(&shared.segments());
        if let (Some(folder), Some(found)) = (folder, found) {
            let path = folder.clone();
            let writer = Writer::new(Arc::clone(&shared), folder, identity, found);
            let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run());
            let failed = |source| Error::Io { path, done: "written by a thread", source };
            *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.map_err(failed)?);
        }
        Ok(Self(shared))
    }

    /// Nothing is recorded.
    pub fn off(limits: &Arc<Limits>, metrics: &Arc<Metrics>, settings: Settings) -> Self {
        Self(Arc::new(Shared {
            settings,
            limits: Arc::clone(limits),
            metrics: Arc::clone(metrics),
            queue: Queue::new(limits),
            trail: None,
            segments: Mutex::default(),
            grown: watch::Sender::new(1),
            shipped: AtomicU64::new(0),
            thread: Mutex::new(None),
        }))
    }

    /// What the trail is called; none where nothing is recorded.
    pub fn trail(&self) -> Option<&Trail> {
        self.0.trail.as_ref()
    }

    /// Told of the number of the line that is written next.
    pub fn grown(&self) -> watch::Receiver<u64> {
        self.0.grown.subscribe()
    }

    /// The control plane has everything before this line.
    pub fn shipped(&self, next: u64) {
        self.0.shipped.fetch_max(next, Ordering::Relaxed);
        self.0.show_lag();
    }

    /// Counts a failure of shipping.
    pub fn not_shipped(&self, reason: &'static str) {
        self.0.failed(reason);
    }

    pub fn reader(&self) -> Reader {
        Reader::new(self.clone())
    }

    /// Writes what waits, closes the segment with a seal, and ends. Blocks until it is on disk.
    pub fn close(&self) {
        self.0.queue.close();
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // One that panicked has written nothing more, and says so itself.
        let _ = thread.map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests;
