//! The audit trails of the mesh, gathered: every line that sidecars ship, checked as it arrives, with an anchor for each
//! seal; and the control plane's own trail, of what operators did.
//!
//! They lie in a database of their own, so that a flood of records takes no room from the configuration. Anchors are only
//! ever added or moved forward. Not here: what a line is (`weft_proto::audit`), and who may read.

mod clear;
pub mod copy;
mod database;
mod own;
mod service;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use weft_certs::bundle::TrustStore;
use weft_proto::audit::{Anchor, Line};

use crate::clock;
use crate::metrics::Metrics;

pub use own::Own;
pub use service::{SHIPMENT_BYTES_MAX, Trails as Service};

/// The file in the data folder.
pub const FILE: &str = "audit";
/// Most trails of which it is told at once how far they are.
pub const HEADS_MAX: u64 = 200_000;
/// How often old segments are cleared away.
const RETAIN_EVERY: Duration = Duration::from_secs(60);

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of lines; beyond, the oldest segments go.
    pub lines_bytes_max: u64,
    /// Segments whose newest line is older go.
    pub age_max: Duration,
    /// Trails that are kept apart.
    pub trails_max: u64,
    /// Of them, those of one identity: sidecars that lose their folders begin a new one with each start.
    pub trails_per_identity_max: u64,
    /// Those of all identities of one namespace, so that no tenant takes the places of the others.
    pub trails_per_namespace_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lines_bytes_max: 4 << 30,
            age_max: Duration::from_secs(365 * 86_400),
            trails_max: 100_000,
            trails_per_identity_max: 5000,
            trails_per_namespace_max: 20_000,
        }
    }
}

/// Why the trails cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the audit trails cannot be read or written")]
    Engine(#[from] rusqlite::Error),
    #[error("reading or writing the audit trails ended in a panic")]
    Panicked,
    #[error("{0}")]
    Refused(String),
}

/// Which records are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub node: Option<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub caller: Option<String>,
    pub server: Option<String>,
    pub tool: Option<String>,
    pub outcome: Option<String>,
    /// Only those before the one with this place.
    pub before: Option<u64>,
    pub limit: usize,
}

/// A record, and where it stands.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// In the order of arrival.
    pub place: u64,
    pub node: String,
    pub trail: String,
    pub segment: u64,
    /// What is known of it here.
    #[serde(skip)]
    pub line: Line,
    /// All of it, as its node wrote it.
    #[serde(rename = "line")]
    pub text: Box<RawValue>,
}

/// Which trails are wanted.
#[derive(Clone, Debug, Default)]
pub struct WantedTrails {
    pub node: Option<String>,
    /// Only those after the one with this place.
    pub after: Option<u64>,
    pub limit: usize,
}

/// A trail, as far as it is here.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// In the order in which they were first heard of.
    pub place: u64,
    pub node: String,
    pub trail: String,
    pub identity: String,
    pub heard_at: Timestamp,
    /// The oldest first.
    pub segments: Vec<Segment>,
    pub anchors: Vec<Anchor>,
}

/// How far a trail is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    pub node: String,
    pub trail: String,
    pub identity: String,
    pub heard_at: Timestamp,
    /// The number of its last line, and of the last one under a seal that was believed.
    pub last_line: u64,
    pub sealed_line: u64,
}

/// A segment that is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Segment {
    pub number: u64,
    pub first: u64,
    pub last: u64,
    pub bytes: u64,
    pub closed: bool,
}

/// The trails. Clones are the same.
#[derive(Clone)]
pub struct Trails(Arc<Shared>);

struct Shared {
    connection: Mutex<Connection>,
    settings: Settings,
    trust: TrustStore,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Trails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trails").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl Trails {
    /// Opens the database, or makes it. Without a path it lasts as long as the process.
    pub fn open(
        path: Option<&Path>,
        settings: Settings,
        trust: TrustStore,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let connection = match path {
            Some(path) => Connection::open(path)?,
            None => Connection::open_in_memory()?,
        };
        database::prepare(&connection)?;
        Ok(Self(Arc::new(Shared { connection: Mutex::new(connection), settings, trust, metrics })))
    }

    /// Runs beside the runtime, one at a time.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.0);
        let work = tokio::task::spawn_blocking(move || {
            work(&mut shared.connection.lock().unwrap_or_else(PoisonError::into_inner))
        });
        work.await.map_err(|_| Error::Panicked)?
    }

    /// Records, the newest first.
    pub async fn records(&self, wanted: Wanted) -> Result<Vec<Found>, Error> {
        self.with(move |connection| database::records(connection, &wanted)).await
    }

    /// Trails, with their segments and anchors, those first that were heard of first.
    pub async fn known(&self, wanted: WantedTrails) -> Result<Vec<Known>, Error> {
        self.with(move |connection| database::known(connection, &wanted)).await
    }

    /// How far each trail is, at most [`HEADS_MAX`] of them.
    pub async fn heads(&self) -> Result<Vec<Head>, Error> {
        self.with(|connection| database::heads(connection, HEADS_MAX)).await
    }

    pub fn settings(&self) -> Settings {
        self.0.settings
    }

    /// The lines of a segment as they were shipped, each with its end; none if it is not here.
    pub async fn segment(&self, node: String, trail: String, number: u64) -> Result<Option<Vec<u8>>, Error> {
        self.with(move |connection| database::segment(connection, &node, &trail, number)).await
    }

    /// Clears old segments away, until the stop.
    pub async fn retain(self, shutdown: CancellationToken) {
        loop {
            let settings = self.0.settings;
            let now = stamp();
            match self.with(move |connection| clear::retain(connection, settings, now)).await {
                Ok(clear::Retained { segments, trails, bytes }) => {
                    self.0.metrics.audit_segments_removed.inc_by(segments);
                    self.0.metrics.audit_trails_removed.inc_by(trails);
                    self.0.metrics.audit_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "old segments of audit trails could not be cleared away");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETAIN_EVERY) => {}
            }
        }
    }
}

/// Now, to the microsecond, as lines have it.
fn stamp() -> Timestamp {
    let now = Timestamp::try_from(clock::now()).unwrap_or_default();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
