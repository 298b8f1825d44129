//! Carries what operators said from the store to the planner: first all of it, then every change.
//!
//! Not here: what the objects mean. An object that cannot be read is left out and reported; the rest goes on. But without
//! a policy that may be the one that forbids, nothing begins: sidecars go on with what they have.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use weft_proto::resource::{self, Kind, Resource, Spec};

use crate::desired::{self, PREFIX};
use crate::metrics::Metrics;
use crate::plan::{Change, Update};
use crate::store::{self, Entry, Prefix, Revision, Store};
use crate::trust::{Trust, Wishes};

/// Pause after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// What the feed connects.
#[derive(Debug)]
pub struct Deps {
    pub store: Arc<dyn Store>,
    pub intake: mpsc::Sender<Update>,
    pub trust: Arc<Trust>,
    pub metrics: Arc<Metrics>,
}

/// The feed, and how far it has come.
#[derive(Debug)]
pub struct Feed {
    deps: Deps,
    known: HashSet<resource::Key>,
    fed: watch::Sender<Option<Revision>>,
}

impl Feed {
    pub fn new(deps: Deps) -> Self {
        Self { deps, known: HashSet::new(), fed: watch::Sender::new(None) }
    }

    /// The last revision that was handed to the planner; none before the first reading is complete.
    pub fn fed(&self) -> watch::Receiver<Option<Revision>> {
        self.fed.subscribe()
    }

    /// Runs until the end, reading everything again whenever the thread is lost.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let result = tokio::select! {
                () = shutdown.cancelled() => return,
                result = self.follow() => result,
            };
            match result {
                Ok(()) => return,
                Err(Lost::Unreadable(key)) => {
                    tracing::error!(
                        key = key.as_str(),
                        "nothing is published until this policy is replaced or deleted"
                    );
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
                Err(Lost::Store(store::Error::Compacted { .. })) => {
                    tracing::info!("fell behind compaction; reading all objects again")
                }
                Err(Lost::Store(error)) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the store failed; trying again"
                    );
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    async fn follow(&mut self) -> Result<(), Lost> {
        let prefix = Prefix::new(PREFIX).expect("the prefix is short and plain");
        let (revision, entries) = store::list_all(&*self.deps.store, &prefix, None).await?;
        let present: HashSet<_> = entries.iter().filter_map(|entry| key_of(&entry.key)).collect();
        let gone = self.known.difference(&present).cloned().map(|key| Change::Delete { key });
        let mut changes: Vec<_> = gone.collect();
        changes.extend(all(&entries, &self.known)?);
        self.known = present;
        if !self.hand_over(revision, changes).await {
            return Ok(());
        }
        // Every revision, so that the published one never stays behind for want of an object.
        let mut watch = self.deps.store.watch(Prefix::all(), revision).await?;
        while let Some(event) = watch.next().await {
            let event = event?;
            let mut changes = Vec::with_capacity(event.changes.len());
            for change in event.changes {
                match change {
                    store::Change::Put(entry) => {
                        let Some(key) = key_of(&entry.key) else { continue };
                        self.known.insert(key);
                        changes.extend(read(&entry));
                    }
                    store::Change::Delete(key) => {
                        let Some(key) = key_of(&key) else { continue };
                        self.known.remove(&key);
                        changes.push(Change::Delete { key });
                    }
                }
            }
            if !self.hand_over(event.revision, changes).await {
                return Ok(());
            }
        }
        Err(store::Error::Closed.into())
    }

    /// False once nobody takes updates any more.
    async fn hand_over(&self, revision: Revision, changes: Vec<Change>) -> bool {
        self.deps.metrics.store_revision.set(i64::try_from(revision.0).unwrap_or(i64::MAX));
        for change in &changes {
            let wishes = match change {
                Change::Put { resource, .. } => match &resource.spec {
                    Spec::Trust(trust) => Wishes::read(trust, revision.0),
                    _ => continue,
                },
                Change::Delete { key } if key.kind == Kind::Trust => Ok(Wishes::default()),
                _ => continue,
            };
            let done = match wishes {
                Ok(wishes) => self.deps.trust.wish(wishes).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = done {
                tracing::error!(error, "the Trust object cannot be followed");
            }
        }
        let handed = self.deps.intake.send(Update { revision: revision.0, changes }).await.is_ok();
        self.fed.send_replace(Some(revision));
        handed
    }
}

/// Why the thread was lost.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("{0} cannot be read")]
    Unreadable(store::Key),
}

/// All objects, as far as they can be read. Of those that restrict, the planner must have an earlier version, or nothing
/// can be said.
fn all(entries: &[Entry], known: &HashSet<resource::Key>) -> Result<Vec<Change>, Lost> {
    let mut changes = Vec::with_capacity(entries.len());
    for entry in entries {
        match read(entry) {
            Some(change) => changes.push(change),
            None => {
                let key = key_of(&entry.key);
                if key.is_some_and(|key| restricts(key.kind) && !known.contains(&key)) {
                    return Err(Lost::Unreadable(entry.key.clone()));
                }
            }
        }
    }
    Ok(changes)
}

/// Whether more would be allowed without objects of a kind.
const fn restricts(kind: Kind) -> bool {
    match kind {
        Kind::AccessPolicy | Kind::QuotaPolicy | Kind::ToolPolicy | Kind::Authentication => true,
        // It says what happens where no policy speaks.
        Kind::Trust => true,
        Kind::McpServer | Kind::VirtualServer | Kind::Route | Kind::Telemetry => false,
    }
}

fn key_of(key: &store::Key) -> Option<resource::Key> {
    key.as_str().strip_prefix(PREFIX)?.parse().ok()
}

fn read(entry: &Entry) -> Option<Change> {
    let text = std::str::from_utf8(&entry.value).ok();
    let parsed = text.map(|text| resource::parse_one(entry.key.as_str(), text));
    match parsed {
        Some(Ok(resource)) => Some(put(resource, entry)),
        // Only what was checked is ever stored, so this is damage, or was written by a newer version.
        Some(Err(errors)) => {
            let error = errors.first().map(ToString::to_string);
            tracing::error!(
                key = entry.key.as_str(),
                error,
                "a stored object cannot be read and is left out"
            );
            None
        }
        None => {
            tracing::error!(key = entry.key.as_str(), "a stored object is no text and is left out");
            None
        }
    }
}

fn put(resource: Resource, entry: &Entry) -> Change {
    let created_revision = desired::age(&resource, entry.created);
    Change::Put { resource: Box::new(resource), created_revision }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, text: &str) -> Entry {
        Entry {
            key: store::Key::new(format!("{PREFIX}{key}")).unwrap(),
            value: text.to_owned().into(),
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        }
    }

    const SERVER: &str = "{apiVersion: weft.dev/v1alpha1, kind: McpServer, metadata: {namespace: a, name: s}, spec: {stdio: {command: x}}}";

    #[test]
    fn nothing_begins_without_a_policy_that_cannot_be_read() {
        let server = entry("mcpservers/a/s", SERVER);
        let policy =
            entry("accesspolicies/a/p", "{apiVersion: weft.dev/v1alpha1, kind: AccessPolicy, spec: 7}");
        let key = key_of(&policy.key).expect("the key is one of an object");
        let entries = [server, policy];
        assert!(matches!(all(&entries, &HashSet::new()), Err(Lost::Unreadable(it)) if it == entries[1].key));
        let trust = [entry("trusts/weft-system/mesh", "{spec: {defaultAction: ask}}")];
        assert!(matches!(all(&trust, &HashSet::new()), Err(Lost::Unreadable(it)) if it == trust[0].key));
        // The planner goes on with the version that it has.
        assert_eq!(all(&entries, &HashSet::from([key])).unwrap().len(), 1);
    }

    #[test]
    fn what_restricts_nobody_is_left_out_where_it_cannot_be_read() {
        let entries = [entry("mcpservers/a/s", SERVER), entry("routes/a/r", "{"), entry("laters/a/x", "{}")];
        assert_eq!(all(&entries, &HashSet::new()).unwrap().len(), 1);
    }
}
