//! Events that wait, and those that were written lately. Pure: the present moment is an argument.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_proto::name::Namespace;

use super::{Event, STEM_BYTES_MAX};

/// Events that wait, in all.
pub(super) const WAITING_MAX: usize = 1000;
/// Of one namespace, so that what happens in it leaves room for others.
pub(super) const NAMESPACE_WAITING_MAX: usize = 50;
/// Events that are remembered after they were written.
pub(super) const KNOWN_MAX: usize = 4000;
/// For how long more of the same is another count of an event that was written, and no other event.
const SERIES_FOR: Duration = Duration::from_secs(360);
/// Least time between two writings of one event.
const SERIES_EVERY: Duration = Duration::from_secs(5);

/// An event as it is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Series {
    pub(super) name: String,
    /// How often it happened, with this.
    pub(super) count: i32,
    /// Whether it was written before, so that its count grows.
    pub(super) is_known: bool,
    at: Instant,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// What waits was written a moment ago, and waits until it may be counted on.
    Later,
    Write(Arc<Event>, Series),
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    order: VecDeque<Arc<Event>>,
    /// How often each happened that waits.
    waiting: HashMap<Arc<Event>, i32>,
    namespaces: HashMap<Namespace, usize>,
    known: HashMap<Arc<Event>, Series>,
    named: u64,
}

impl Queue {
    /// False if there is no room.
    pub(super) fn push(&mut self, event: Event) -> bool {
        if let Some(times) = self.waiting.get_mut(&event) {
            *times = times.saturating_add(1);
            return true;
        }
        let of_namespace = self.namespaces.get(&event.namespace).copied().unwrap_or_default();
        if self.order.len() >= WAITING_MAX || of_namespace >= NAMESPACE_WAITING_MAX {
            return false;
        }
        self.namespaces.insert(event.namespace.clone(), of_namespace + 1);
        let event = Arc::new(event);
        self.waiting.insert(Arc::clone(&event), 1);
        self.order.push_back(event);
        true
    }

    /// Takes what is to be written next.
    pub(super) fn next(&mut self, now: Instant) -> Step {
        if self.order.is_empty() {
            return Step::Nothing;
        }
        let known = &self.known;
        let is_due = |event: &Arc<Event>| known.get(event).is_none_or(|it| now >= it.at + SERIES_EVERY);
        let Some(event) = self.order.iter().position(is_due).and_then(|at| self.order.remove(at)) else {
            return Step::Later;
        };
        let times = self.waiting.remove(&event).unwrap_or(1);
        let left = self.namespaces.get(&event.namespace).map_or(0, |count| count.saturating_sub(1));
        match left {
            0 => _ = self.namespaces.remove(&event.namespace),
            left => _ = self.namespaces.insert(event.namespace.clone(), left),
        }
        let series = match self.known.get(&event).filter(|it| now < it.at + SERIES_FOR) {
            Some(known) => {
                let count = known.count.saturating_add(times);
                Series { name: known.name.clone(), count, is_known: true, at: now }
            }
            None => Series { name: self.name(&event), count: times, is_known: false, at: now },
        };
        Step::Write(event, series)
    }

    /// A name that no other event of this control plane has.
    fn name(&mut self, event: &Event) -> String {
        self.named += 1;
        let began =
            weft_control_plane::clock::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let number = u64::try_from(began.as_nanos()).unwrap_or_default().wrapping_add(self.named);
        let stem = &event.about.name[..event.about.name.floor_char_boundary(STEM_BYTES_MAX)];
        // A part of a name must not end in these.
        format!("{}.{number:016x}", stem.trim_end_matches(['.', '-']))
    }

    /// Remembers what was written.
    pub(super) fn wrote(&mut self, event: Arc<Event>, series: Series) {
        if self.known.len() >= KNOWN_MAX {
            self.known.retain(|_, it| series.at < it.at + SERIES_FOR);
        }
        // Whoever is forgotten is told of anew, which costs an event.
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(event, series);
    }

    pub(super) fn forget(&mut self, event: &Event) {
        self.known.remove(event);
    }
}
