//! When leases lapse. Times are handed in, so that this is plain bookkeeping.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::store::types::LeaseId;

/// The deadlines of all running leases.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    leases: HashMap<LeaseId, (Duration, Instant)>,
    by_time: BTreeSet<(Instant, LeaseId)>,
}

impl Deadlines {
    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(super) fn start(&mut self, lease: LeaseId, ttl: Duration, now: Instant) {
        self.end(lease);
        self.leases.insert(lease, (ttl, now + ttl));
        self.by_time.insert((now + ttl, lease));
    }

    /// Gives a running lease its full time again.
    pub(super) fn renew(&mut self, lease: LeaseId, now: Instant) {
        if let Some((ttl, _)) = self.leases.get(&lease).copied() {
            self.start(lease, ttl, now);
        }
    }

    pub(super) fn end(&mut self, lease: LeaseId) {
        if let Some((_, deadline)) = self.leases.remove(&lease) {
            self.by_time.remove(&(deadline, lease));
        }
    }

    /// When the next lease lapses.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(deadline, _)| *deadline)
    }

    /// The leases whose time is over, those first that have waited longest.
    pub(super) fn lapsed(&self, now: Instant, max: usize) -> Vec<LeaseId> {
        let over = self.by_time.iter().take_while(|(deadline, _)| *deadline <= now);
        over.map(|(_, lease)| *lease).take(max).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lapses_when_its_time_is_over_and_not_before() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, two) = (LeaseId(1), LeaseId(2));
        let mut deadlines = Deadlines::default();
        deadlines.start(one, Duration::from_secs(10), at(0));
        deadlines.start(two, Duration::from_secs(5), at(1));
        assert_eq!(deadlines.next(), Some(at(6)));
        assert_eq!(deadlines.lapsed(at(5), 9), []);
        assert_eq!(deadlines.lapsed(at(6), 9), [two]);
        assert_eq!(deadlines.lapsed(at(10), 9), [two, one]);
        assert_eq!(deadlines.lapsed(at(10), 1), [two]);

        deadlines.renew(two, at(6));
        deadlines.renew(LeaseId(3), at(6));
        assert_eq!(deadlines.lapsed(at(10), 9), [one]);
        deadlines.end(one);
        assert_eq!((deadlines.len(), deadlines.next()), (1, Some(at(11))));
    }
}
