//! Objects of the cluster into the store, in commits that say everything or nothing.
//!
//! What the cluster holds together the mesh may not: an object that does not read, or that contradicts an older one, is
//! kept out, and what it said before goes on holding. One that restricts, and of which nothing earlier is known, is not left
//! out: something stands in for it. Not here: where news come from.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::Arc;

use weft_control_plane::desired::{self, Act, Changes, Mesh, Present, Wish};
use weft_control_plane::objects::Objects;
use weft_control_plane::store::{self, Revision, Store};
use weft_proto::name::Namespace;
use weft_proto::resource::{Key, Kind, Place, Resource};

use super::ledger::{Before, Entry, Fate, Ledger};
use super::read::{MESSAGE_BYTES_MAX, Seen, clipped};
use super::unread::stand_in;

/// Whom history names for what came from the cluster.
pub const AUTHOR: &str = "kubernetes";
/// Most objects in one commit.
pub(super) const COMMIT_OBJECTS_MAX: usize = 2000;
/// Most contradicting objects that are remembered, to be tried again.
pub(super) const CONTRADICTING_MAX: usize = 1000;
/// Most of those that one batch tries again: who fills a namespace with contradictions pays for it alone.
pub(super) const RETRIED_MAX: usize = 64;
/// How often a commit is planned again when something else was written meanwhile.
const ATTEMPTS_MAX: usize = 16;
/// Most warnings about one object that are kept.
const WARNINGS_MAX: usize = 8;

/// Objects, and none for those that are gone.
pub type Batch = BTreeMap<Key, Option<Seen>>;

/// Keeps a store as the cluster is.
#[derive(Debug)]
pub struct Mirror {
    pub store: Arc<dyn Store>,
    pub objects: Arc<Objects>,
    pub mesh: Mesh,
    pub ledger: Arc<Ledger>,
    /// Objects that read well and contradict others: they are tried again when others change.
    contradicting: BTreeMap<Key, Seen>,
    /// The last of those that was tried.
    tried: Option<Key>,
}

/// One step that is asked of the store.
#[derive(Clone, Debug)]
struct Step {
    key: Key,
    /// What was seen of it; none for what is gone.
    seen: Option<Seen>,
    /// What is put for it; none if it is deleted.
    put: Option<Box<Resource>>,
}

impl Step {
    fn wish(&self) -> Wish {
        let act = match &self.put {
            Some(resource) => Act::Put(resource.clone()),
            None => Act::Delete { key: self.key.clone(), version: None },
        };
        let place = Place { file: self.key.to_string(), line: 0, column: 0, field: String::new() };
        Wish { act, place }
    }
}

impl Mirror {
    pub fn new(store: Arc<dyn Store>, objects: Arc<Objects>, mesh: Mesh, ledger: Arc<Ledger>) -> Self {
        Self { store, objects, mesh, ledger, contradicting: BTreeMap::new(), tried: None }
    }

    /// Takes news in. `whole` are the kinds of which all is known, with their objects: whatever else the store has of them
    /// is gone from the cluster. Answers with the revision at which the store is as the cluster was.
    pub async fn take(
        &mut self,
        mut batch: Batch,
        whole: &BTreeMap<Kind, BTreeSet<Key>>,
    ) -> Result<Revision, store::Error> {
        let present = self.objects.present().await?;
        if !whole.is_empty() {
            let known = present.objects().keys().cloned().chain(self.ledger.keys());
            let is_gone = |key: &Key| whole.get(&key.kind).is_some_and(|all| !all.contains(key));
            known.filter(is_gone).for_each(|key| _ = batch.entry(key).or_insert(None));
        }
        let mut steps = self.steps(&present, batch);
        // While somebody looks at the present, it is copied whenever it moves.
        drop(present);
        self.try_again(&mut steps);
        // What goes makes room; then the older comes before the younger, which may contradict it.
        steps.sort_by_cached_key(|step| {
            let made = step.seen.as_ref().map(|seen| seen.made_at);
            (step.put.is_some(), made, step.key.clone())
        });
        self.settle(steps).await?;
        Ok(self.objects.present().await?.revision())
    }

    /// Adds those that contradicted something which may be gone now. Objects contradict servers of their own namespace.
    fn try_again(&mut self, steps: &mut Vec<Step>) {
        let moves = |step: &&Step| step.put.is_none() || step.key.kind == Kind::McpServer;
        let moved: BTreeSet<Namespace> =
            steps.iter().filter(moves).map(|step| step.key.namespace.clone()).collect();
        let is_later = |key: &&Key| self.tried.as_ref().is_none_or(|tried| *key > tried);
        let (later, earlier): (Vec<_>, Vec<_>) = self.contradicting.keys().partition(is_later);
        let waiting = later.into_iter().chain(earlier).filter(|key| moved.contains(&key.namespace));
        let waiting: Vec<Key> = waiting.take(RETRIED_MAX).cloned().collect();
        steps.extend(waiting.iter().filter_map(|key| self.contradicting.get(key).cloned()).filter_map(put));
        // Where there are more, everyone has a turn.
        self.tried = waiting.last().cloned();
    }

    /// What is to be done. Whatever is so already is only noted.
    fn steps(&mut self, present: &Present, batch: Batch) -> Vec<Step> {
        let (mut steps, mut noted) = (Vec::new(), Vec::new());
        for (key, seen) in batch {
            self.contradicting.remove(&key);
            let Some(seen) = seen else {
                match present.object(&key) {
                    Some(_) => steps.push(Step { key, seen: None, put: None }),
                    None => noted.push((key, None)),
                }
                continue;
            };
            let before = present.object(&key);
            match &seen.resource {
                Ok(resource) if before.is_some_and(|before| before.value == resource.canonical()) => {
                    // Of a probable mistake that was told when it came, nobody needs to hear anew.
                    let warnings = self.ledger.warnings(&key, &seen.uid, seen.generation);
                    noted.push((key, Some(entry(&seen, Fate::Taken(present.revision()), warnings))));
                }
                Ok(_) => steps.extend(put(seen)),
                Err(message) => {
                    let message = message.clone();
                    tracing::warn!(object = %key, message, "an object of the cluster does not read and is kept out");
                    let denial = stand_in(&seen, &self.mesh)
                        .filter(|denial| before.is_none_or(|before| before.value == denial.canonical()));
                    let held = match (&denial, before) {
                        (Some(_), _) => Before::Denial,
                        (None, Some(_)) => Before::Itself,
                        (None, None) => Before::Nothing,
                    };
                    let fate = Fate::KeptOut { message, before: held };
                    noted.push((key.clone(), Some(entry(&seen, fate, Vec::new()))));
                    steps.extend(denial.map(|denial| Step { key, seen: None, put: Some(Box::new(denial)) }));
                }
            }
        }
        self.ledger.write(noted);
        steps
    }

    /// Does all of it in as few commits as there can be. Where something contradicts, halves are tried, the older first,
    /// until it stands alone.
    async fn settle(&mut self, steps: Vec<Step>) -> Result<(), store::Error> {
        let mut parts = vec![steps];
        while let Some(mut part) = parts.pop() {
            let message = match part.len() {
                0 => continue,
                len if len > COMMIT_OBJECTS_MAX => String::new(),
                _ => match self.commit(&part).await? {
                    Ok((revision, changes)) => {
                        self.note(part, revision, changes);
                        continue;
                    }
                    Err(message) => message,
                },
            };
            match part.len() {
                1 => self.keep_out(part, &message).await?,
                len => {
                    let younger = part.split_off(len.min(2 * COMMIT_OBJECTS_MAX) / 2);
                    parts.extend([younger, part]);
                }
            }
        }
        Ok(())
    }

    /// One commit, or why there is none.
    async fn commit(&self, part: &[Step]) -> Result<Result<(Revision, Changes), String>, store::Error> {
        let wishes: Vec<Wish> = part.iter().map(Step::wish).collect();
        let reason = match part {
            [one] => format!("the cluster's {}", one.key),
            many => format!("{} objects of the cluster", many.len()),
        };
        let mut attempts = 0;
        loop {
            let (present, mesh, wishes) = (self.objects.present().await?, self.mesh.clone(), wishes.clone());
            let planned = tokio::task::spawn_blocking(move || desired::plan(&mesh, &present, wishes)).await;
            let changes = match planned {
                Ok(Ok(changes)) => changes,
                Ok(Err(why)) => return Ok(Err(told(&why))),
                Err(failure) if failure.is_panic() => resume_unwind(failure.into_panic()),
                Err(_) => return Err(store::Error::Closed),
            };
            if changes.writes.is_empty() {
                return Ok(Ok((changes.seen, changes)));
            }
            match self.store.commit(changes.transaction(AUTHOR, &reason)).await {
                Ok(committed) => return Ok(Ok((committed.revision(), changes))),
                Err(store::Error::Invalid(why)) => return Ok(Err(why.to_string())),
                Err(store::Error::Moved { .. } | store::Error::Conflict { .. })
                    if attempts < ATTEMPTS_MAX =>
                {
                    attempts += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn note(&mut self, part: Vec<Step>, revision: Revision, changes: Changes) {
        let mut warnings: BTreeMap<Key, Vec<String>> =
            changes.outcomes.into_iter().map(|it| (it.key, it.warnings)).collect();
        part.iter().for_each(|step| _ = self.contradicting.remove(&step.key));
        let entries = part.into_iter().filter_map(|step| match (step.seen, step.put) {
            (Some(seen), _) => {
                let mut told = warnings.remove(&step.key).unwrap_or_default();
                told.truncate(WARNINGS_MAX);
                Some((step.key, Some(entry(&seen, Fate::Taken(revision), told))))
            }
            // In the place of what was kept out, which is noted already.
            (None, Some(_)) => None,
            (None, None) => Some((step.key, None)),
        });
        self.ledger.write(entries);
    }

    async fn keep_out(&mut self, part: Vec<Step>, message: &str) -> Result<(), store::Error> {
        let present = self.objects.present().await?;
        for Step { key, seen, .. } in part {
            let Some(seen) = seen else {
                tracing::error!(object = %key, message, "the store does not follow the cluster in this object");
                continue;
            };
            tracing::warn!(object = %key, message, "an object of the cluster contradicts others and is kept out");
            let before = if present.object(&key).is_some() { Before::Itself } else { Before::Nothing };
            let fate = Fate::KeptOut { message: clipped(message, MESSAGE_BYTES_MAX), before };
            self.ledger.write([(key.clone(), Some(entry(&seen, fate, Vec::new())))]);
            if self.contradicting.len() < CONTRADICTING_MAX {
                self.contradicting.insert(key, seen);
            }
        }
        Ok(())
    }
}

fn put(seen: Seen) -> Option<Step> {
    let put = seen.resource.clone().ok()?;
    Some(Step { key: seen.key.clone(), seen: Some(seen), put: Some(put) })
}

fn entry(seen: &Seen, fate: Fate, warnings: Vec<String>) -> Entry {
    let Seen { uid, generation, status, .. } = seen.clone();
    Entry { uid, generation, fate, warnings, status }
}

/// The reasons of a plan that was refused, in one text.
pub(crate) fn told(why: &desired::Error) -> String {
    match why {
        desired::Error::Invalid(mistakes) => {
            let told = mistakes.iter().map(|it| match it.place.field.as_str() {
                "" => it.message.clone(),
                field => format!("{field}: {}", it.message),
            });
            told.collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
