//! The control planes that follow this one, and how far each of them is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use crate::metrics::{Metrics, ReplicaLabel};
use crate::store::embedded::Mark;

/// Most control planes that follow at once.
pub const STANDBYS_MAX: usize = 8;
/// Longest that a write waits for those that follow to have it too. Whoever has not is not waited for until it has all.
pub const TAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// One that follows, as others are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    pub name: String,
    /// Whether writes wait for it, so that it has whatever was answered.
    pub keeps_up: bool,
    /// Revisions that it lacks.
    pub behind_revisions: u64,
    /// For how long it has lacked something; 0 if it has everything.
    pub behind_secs: u64,
}

/// One that follows.
#[derive(Debug)]
struct Following {
    name: String,
    taken: Mark,
    /// Whether writes wait for it.
    keeps_up: bool,
    /// When it last had everything.
    complete: Instant,
}

impl Following {
    /// How far it is, where the leader is at `now`.
    fn told(&self, now: Mark) -> Standby {
        let behind = self.behind(now);
        Standby {
            name: self.name.clone(),
            keeps_up: self.keeps_up,
            behind_revisions: now.revision.0.saturating_sub(self.taken.revision.0),
            behind_secs: behind.as_secs(),
        }
    }

    fn behind(&self, now: Mark) -> Duration {
        if self.taken.has(now) { Duration::ZERO } else { self.complete.elapsed() }
    }
}

/// Those that follow.
#[derive(Debug)]
pub struct Standbys {
    inner: Mutex<BTreeMap<u64, Following>>,
    next: std::sync::atomic::AtomicU64,
    moved: watch::Sender<()>,
    metrics: Arc<Metrics>,
}

impl Standbys {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let (inner, next, moved) =
            (Mutex::default(), std::sync::atomic::AtomicU64::new(0), watch::Sender::default());
        Self { inner, next, moved, metrics }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Following>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more follows, unless there are too many. Another connection of the same name takes over.
    pub(super) fn begin(self: &Arc<Self>, name: &str) -> Option<Place> {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut inner = self.lock();
        inner.retain(|_, standby| standby.name != name);
        if inner.len() >= STANDBYS_MAX {
            return None;
        }
        let taken = Mark::default();
        let complete = Instant::now();
        inner.insert(id, Following { name: name.to_owned(), taken, keeps_up: false, complete });
        self.metrics.replicas.set(i64::try_from(inner.len()).unwrap_or(i64::MAX));
        Some(Place { standbys: Arc::clone(self), id, name: name.to_owned() })
    }

    /// Waits until all that keep up have a write, but not for long.
    pub async fn settled(&self, mark: Mark) {
        let mut moved = self.moved.subscribe();
        let all = async {
            while self.lock().values().any(|it| it.keeps_up && !it.taken.has(mark)) {
                if moved.changed().await.is_err() {
                    return;
                }
            }
        };
        if timeout(TAKE_TIMEOUT, all).await.is_ok() {
            return;
        }
        for standby in self.lock().values_mut().filter(|it| it.keeps_up && !it.taken.has(mark)) {
            standby.keeps_up = false;
            tracing::warn!(
                replica = standby.name,
                "a control plane that stands by is too slow to be waited for"
            );
        }
    }

    /// Those that follow, by name, where the leader is at `now`.
    pub fn told(&self, now: Mark) -> Vec<Standby> {
        let mut told: Vec<_> = self.lock().values().map(|it| it.told(now)).collect();
        told.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        told
    }
}

/// The place of one that follows, while it does.
#[derive(Debug)]
pub(super) struct Place {
    standbys: Arc<Standbys>,
    id: u64,
    name: String,
}

impl Place {
    /// Notes how far it is, where the leader is at `now`. False if another took its place.
    pub(super) fn took(&self, taken: Option<Mark>, now: Mark) -> bool {
        let mut inner = self.standbys.lock();
        let Some(standby) = inner.get_mut(&self.id) else { return false };
        standby.taken = taken.unwrap_or(standby.taken);
        if standby.taken.has(now) {
            standby.complete = Instant::now();
            standby.keeps_up = true;
        }
        let label = ReplicaLabel { replica: self.name.clone() };
        let (told, behind) = (standby.told(now), standby.behind(now));
        let revisions = i64::try_from(told.behind_revisions).unwrap_or(i64::MAX);
        let metrics = &self.standbys.metrics;
        metrics.replica_behind_revisions.get_or_create(&label).set(revisions);
        metrics.replica_behind_seconds.get_or_create(&label).set(behind.as_secs_f64());
        drop(inner);
        self.standbys.moved.send_replace(());
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.standbys.lock();
        inner.remove(&self.id);
        let metrics = &self.standbys.metrics;
        metrics.replicas.set(i64::try_from(inner.len()).unwrap_or(i64::MAX));
        if inner.values().all(|it| it.name != self.name) {
            let label = ReplicaLabel { replica: self.name.clone() };
            metrics.replica_behind_revisions.remove(&label);
            metrics.replica_behind_seconds.remove(&label);
        }
        drop(inner);
        self.standbys.moved.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Revision;

    fn mark(revision: u64, number: u64) -> Mark {
        Mark { revision: Revision(revision), number }
    }

    /// How many follow, and how many of them keep up.
    fn count(standbys: &Standbys) -> (usize, usize) {
        let told = standbys.told(Mark::default());
        (told.len(), told.iter().filter(|it| it.keeps_up).count())
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_waits_for_those_that_keep_up_and_not_for_long() {
        let standbys = Arc::new(Standbys::new(Arc::default()));
        let began = tokio::time::Instant::now();
        standbys.settled(mark(1, 1)).await;
        let quick = standbys.begin("quick").unwrap();
        let slow = standbys.begin("slow").unwrap();
        // Neither has said yet that it has everything.
        standbys.settled(mark(1, 1)).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(quick.took(Some(mark(1, 1)), mark(1, 1)) && slow.took(Some(mark(1, 1)), mark(1, 1)));
        assert_eq!(count(&standbys), (2, 2));
        quick.took(Some(mark(2, 1)), mark(2, 1));
        standbys.settled(mark(2, 1)).await;
        assert_eq!((began.elapsed(), count(&standbys)), (TAKE_TIMEOUT, (2, 1)));
        // From then on nobody waits for it, until it has everything again.
        quick.took(Some(mark(3, 1)), mark(3, 1));
        standbys.settled(mark(3, 1)).await;
        assert_eq!(began.elapsed(), TAKE_TIMEOUT);
        slow.took(Some(mark(3, 1)), mark(3, 1));
        assert_eq!(count(&standbys), (2, 2));
        drop(slow);
        standbys.settled(mark(3, 1)).await;
        assert_eq!((began.elapsed(), count(&standbys)), (TAKE_TIMEOUT, (1, 1)));
    }

    #[tokio::test]
    async fn it_is_told_how_far_each_of_them_is() {
        let standbys = Arc::new(Standbys::new(Arc::default()));
        let slow = standbys.begin("slow").unwrap();
        let quick = standbys.begin("quick").unwrap();
        assert!(quick.took(Some(mark(9, 4)), mark(9, 4)) && slow.took(Some(mark(7, 4)), mark(9, 4)));
        let of = |name: &str, keeps_up, behind_revisions| Standby {
            name: name.to_owned(),
            keeps_up,
            behind_revisions,
            behind_secs: 0,
        };
        assert_eq!(standbys.told(mark(9, 4)), [of("quick", true, 0), of("slow", false, 2)]);
        drop(slow);
        assert_eq!(standbys.told(mark(10, 4)), [of("quick", true, 1)]);
    }

    #[tokio::test]
    async fn one_that_comes_again_takes_its_place_and_the_last_finds_none() {
        let standbys = Arc::new(Standbys::new(Arc::default()));
        let first = standbys.begin("a").unwrap();
        let second = standbys.begin("a").unwrap();
        assert!(!first.took(None, mark(0, 0)) && second.took(None, mark(0, 0)));
        drop(first);
        assert_eq!(count(&standbys).0, 1);
        let others: Vec<_> = (1..STANDBYS_MAX).map(|it| standbys.begin(&it.to_string())).collect();
        assert!(others.iter().all(Option::is_some) && standbys.begin("late").is_none());
    }
}
