//! When to come back to the control plane, and when to put into force what it said: pure arithmetic on times and on a
//! random number from 0 to 1.

use std::time::Duration;

use tokio::time::Instant;

/// First bound of the wait after a failure; it doubles with each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// Longest wait between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// A stream that lasted this long was a good one, however it ended.
const LONG: Duration = Duration::from_secs(60);

/// How a stream ended, as far as it matters for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Whether anything was received.
    pub(super) answered: bool,
    /// Whether the control plane ended it in good order.
    pub(super) planned: bool,
    pub(super) lasted: Duration,
}

/// How long to stay away.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Full jitter: anywhere up to the bound, so that a whole mesh does not come back at once.
    pub(super) fn after(&mut self, ended: Ended, random: f64) -> Duration {
        let good = ended.answered && (ended.planned || ended.lasted >= LONG);
        self.failures = if good { 0 } else { self.failures.saturating_add(1) };
        let doublings = self.failures.saturating_sub(1).min(20);
        let bound = BACKOFF_MIN.saturating_mul(1 << doublings).min(BACKOFF_MAX);
        bound.mul_f64(random.clamp(0.0, 1.0)).max(Duration::from_millis(1))
    }

    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }
}

/// Makes a burst of changes one: due once none has come for a while, or the first has waited long enough.
#[derive(Debug, Default)]
pub(super) struct Settle {
    first: Option<Instant>,
    due: Option<Instant>,
}

impl Settle {
    pub(super) fn changed(&mut self, now: Instant, quiet: Duration, max: Duration) {
        let first = *self.first.get_or_insert(now);
        self.due = Some((now + quiet).min(first + max));
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) const fn done(&mut self) {
        self.first = None;
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Ended = Ended { answered: false, planned: false, lasted: Duration::ZERO };
    const PLANNED: Ended = Ended { answered: true, planned: true, lasted: Duration::ZERO };

    #[test]
    fn the_bound_doubles_up_to_its_cap_and_begins_anew_after_a_planned_end() {
        let mut backoff = Backoff::default();
        let bounds: Vec<_> = (0..4).map(|_| backoff.after(FAILED, 1.0).as_millis()).collect();
        assert_eq!(bounds, [10, 20, 40, 80]);
        let last = (0..100).map(|_| backoff.after(FAILED, 1.0)).last();
        assert_eq!(last, Some(BACKOFF_MAX));
        assert_eq!(backoff.after(PLANNED, 1.0), BACKOFF_MIN);
        assert_eq!(backoff.after(FAILED, 1.0), BACKOFF_MIN);
    }

    #[test]
    fn an_end_without_any_answer_is_a_failure_even_if_it_is_planned() {
        let mut backoff = Backoff::default();
        backoff.after(Ended { answered: false, ..PLANNED }, 1.0);
        assert_eq!(backoff.after(Ended { answered: false, ..PLANNED }, 1.0).as_millis(), 20);
    }

    #[test]
    fn streams_that_break_after_their_first_answer_are_not_come_back_to_ever_faster() {
        let mut backoff = Backoff::default();
        let broken = Ended { planned: false, ..PLANNED };
        backoff.after(broken, 1.0);
        assert_eq!(backoff.after(broken, 1.0).as_millis(), 20);
        assert_eq!(backoff.after(Ended { lasted: LONG, ..broken }, 1.0), BACKOFF_MIN);
    }

    #[test]
    fn the_wait_is_anywhere_up_to_the_bound_and_never_nothing() {
        let mut backoff = Backoff::default();
        (0..30).for_each(|_| _ = backoff.after(FAILED, 0.0));
        assert_eq!(backoff.after(FAILED, 0.0), Duration::from_millis(1));
        assert_eq!(backoff.after(FAILED, 0.5), BACKOFF_MAX / 2);
    }

    #[test]
    fn a_burst_is_due_when_it_is_over_or_has_lasted_long_enough() {
        let (quiet, max) = (Duration::from_millis(5), Duration::from_millis(100));
        let mut settle = Settle::default();
        assert_eq!(settle.due(), None);
        let start = Instant::now();
        settle.changed(start, quiet, max);
        assert_eq!(settle.due(), Some(start + quiet));
        settle.changed(start + max, quiet, max);
        assert_eq!(settle.due(), Some(start + max));
        settle.done();
        assert_eq!(settle.due(), None);
    }
}
