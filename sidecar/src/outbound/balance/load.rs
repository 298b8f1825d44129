//! What is known of one instance: how many requests are under way, how fast it answers, whether it is left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::EJECTION_TIME_MAX;

/// Within this time an old latency counts for a third.
const LATENCY_FADES_WITHIN: Duration = Duration::from_secs(10);

/// The state of one instance. Times are nanoseconds since its beginning.
#[derive(Debug)]
pub struct Load {
    since: Instant,
    in_flight: AtomicU32,
    /// Bits of a float, in seconds: rises to a peak at once, falls slowly.
    latency: AtomicU64,
    latency_at: AtomicU64,
    failures: AtomicU32,
    /// Zero when it is not.
    ejected_until: AtomicU64,
    ejections: AtomicU32,
    /// By checks, not by what became of requests.
    unwell: AtomicBool,
}

impl Load {
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            since: now,
            in_flight: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            latency_at: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            unwell: AtomicBool::new(false),
        })
    }

    /// Counts a request until what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The instance answered after this long.
    pub fn answered(&self, after: Duration, now: Instant) {
        // Most requests follow a success: reading is cheaper than writing what is there.
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        self.took(after, now);
    }

    /// Whatever came of a request took this long.
    pub fn took(&self, after: Duration, now: Instant) {
        let (known, after) = (self.latency(now), after.as_secs_f64());
        let next = match after > known {
            true => after,
            false => known * self.fading(now) + after * (1.0 - self.fading(now)),
        };
        self.latency.store(next.to_bits(), Ordering::Relaxed);
        self.latency_at.store(self.nanos(now), Ordering::Relaxed);
    }

    /// In seconds; fades while nothing new is known.
    pub(super) fn latency(&self, now: Instant) -> f64 {
        f64::from_bits(self.latency.load(Ordering::Relaxed)) * self.fading(now)
    }

    /// Whether it has ever answered.
    pub(super) fn is_known(&self) -> bool {
        self.latency.load(Ordering::Relaxed) > 0
    }

    fn fading(&self, now: Instant) -> f64 {
        let silence = self.nanos(now).saturating_sub(self.latency_at.load(Ordering::Relaxed));
        (-(silence as f64) / LATENCY_FADES_WITHIN.as_nanos() as f64).exp()
    }

    /// Whether checks say that it should be left out.
    pub fn is_unwell(&self) -> bool {
        self.unwell.load(Ordering::Relaxed)
    }

    pub fn be_unwell(&self, unwell: bool) {
        if self.is_unwell() != unwell {
            self.unwell.store(unwell, Ordering::Relaxed);
        }
    }

    /// For how long it has been known.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        // The clock is not asked for those that never failed.
        until > 0 && self.nanos(now) < until
    }

    /// How many there are in a row.
    pub(super) fn one_more_failure(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    pub(super) fn ejected_until(&self) -> u64 {
        self.ejected_until.load(Ordering::Relaxed)
    }

    /// Each ejection lasts longer than the one before, less one for each `interval` of health in between.
    pub(super) fn eject(&self, now: Instant, time: Duration, interval: Duration) {
        let now = self.nanos(now);
        let healthy = now.saturating_sub(self.ejected_until.load(Ordering::Relaxed));
        let forgiven = u64::from(u32::MAX).min(healthy / nanos(interval).max(1)) as u32;
        let times = self.ejections.load(Ordering::Relaxed).saturating_sub(forgiven).saturating_add(1);
        let lasts = time.saturating_mul(times).min(EJECTION_TIME_MAX.max(time));
        self.ejections.store(times, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        self.ejected_until.store(now.saturating_add(nanos(lasts)).max(1), Ordering::Relaxed);
    }

    pub(super) fn readmit(&self) {
        self.ejected_until.store(0, Ordering::Relaxed);
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.since))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A request under way.
#[derive(Debug)]
pub struct InFlight(Arc<Load>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
