//! A token bucket in whole numbers, seen from its other side: what was taken drains away at the rate, and no more may
//! be in it than the burst. Nothing is rounded: what is taken is counted in thousandths times nanoseconds of the window,
//! of which exactly the rate's amount drains in each nanosecond.

use std::time::Duration;

use super::MILLI;
use crate::resource::units::Rate;

/// So much per window, and so much at once; in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub amount_milli: u64,
    pub burst_milli: u64,
    pub window_nanos: u64,
}

/// What was taken and has not drained away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// In thousandths times nanoseconds of the window.
    level: u128,
    /// When it was so, in nanoseconds of a clock that never goes back.
    at: u64,
}

impl Flow {
    pub fn new(rate: Rate, burst: Option<u64>) -> Self {
        Self {
            amount_milli: rate.amount.saturating_mul(MILLI),
            burst_milli: burst.unwrap_or(rate.amount).saturating_mul(MILLI),
            window_nanos: rate.window.as_millis().saturating_mul(1_000_000),
        }
    }

    const fn scaled(self, milli: u64) -> u128 {
        milli as u128 * self.window_nanos as u128
    }
}

impl Bucket {
    /// From which nothing was taken.
    pub const fn fresh() -> Self {
        Self { level: 0, at: 0 }
    }

    /// From which everything at once was taken.
    pub const fn empty(flow: Flow, now_nanos: u64) -> Self {
        Self { level: flow.scaled(flow.burst_milli), at: now_nanos }
    }

    const fn level(self, flow: Flow, now_nanos: u64) -> u128 {
        let elapsed = now_nanos.saturating_sub(self.at);
        self.level.saturating_sub(elapsed as u128 * flow.amount_milli as u128)
    }

    /// Whether a cost may be taken now; else after how long, if ever.
    pub fn room(self, flow: Flow, cost_milli: u64, now_nanos: u64) -> Result<(), Option<Duration>> {
        let after = self.level(flow, now_nanos) + flow.scaled(cost_milli);
        let over = after.saturating_sub(flow.scaled(flow.burst_milli));
        if over == 0 {
            return Ok(());
        }
        if cost_milli > flow.burst_milli || flow.amount_milli == 0 {
            return Err(None);
        }
        let nanos = over.div_ceil(flow.amount_milli.into());
        Err(Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))))
    }

    pub fn take(&mut self, flow: Flow, cost_milli: u64, now_nanos: u64) {
        self.settle(flow, now_nanos);
        self.level += flow.scaled(cost_milli);
    }

    pub fn give_back(&mut self, flow: Flow, cost_milli: u64, now_nanos: u64) {
        self.settle(flow, now_nanos);
        self.level = self.level.saturating_sub(flow.scaled(cost_milli));
    }

    /// What drained until now is gone, whatever the rate is from now on.
    pub fn settle(&mut self, flow: Flow, now_nanos: u64) {
        self.level = self.level(flow, now_nanos);
        self.at = self.at.max(now_nanos);
    }

    /// Goes on with another flow from a moment on. What is left stays, as far as the new burst has room for it, and
    /// `tokens` come with it; a larger burst is otherwise empty and has to fill.
    pub fn resize(&mut self, before: Flow, after: Flow, tokens_milli: u64, now_nanos: u64) {
        self.settle(before, now_nanos);
        let left = before.scaled(before.burst_milli).saturating_sub(self.level);
        let left = left.saturating_add(after.scaled(tokens_milli)).min(after.scaled(after.burst_milli));
        self.level = after.scaled(after.burst_milli) - left;
    }

    /// In thousandths, rounded up.
    pub fn used_milli(self, flow: Flow, now_nanos: u64) -> u64 {
        let level = self.level(flow, now_nanos).div_ceil(flow.window_nanos.max(1).into());
        u64::try_from(level).unwrap_or(u64::MAX)
    }

    /// What may be taken at once now, in thousandths, rounded down.
    pub fn left_milli(self, flow: Flow, now_nanos: u64) -> u64 {
        flow.burst_milli.saturating_sub(self.used_milli(flow, now_nanos))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resource::units::Span;

    const SECOND: u64 = 1_000_000_000;

    fn flow(rate: &str, burst: Option<u64>) -> Flow {
        Flow::new(rate.parse().unwrap(), burst)
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let flow = flow("10/min", Some(2));
        let mut bucket = Bucket::default();
        for (at, expected) in [
            (0, Ok(())),
            (0, Ok(())),
            (0, Err(Some(Duration::from_secs(6)))),
            (5, Err(Some(Duration::from_secs(1)))),
            (6, Ok(())),
            (6, Err(Some(Duration::from_secs(6)))),
            (18, Ok(())),
            (18, Ok(())),
            (18, Err(Some(Duration::from_secs(6)))),
        ] {
            let found = bucket.room(flow, MILLI, at * SECOND);
            assert_eq!(found, expected, "at {at} s");
            if found.is_ok() {
                bucket.take(flow, MILLI, at * SECOND);
            }
        }
    }

    #[test]
    fn what_weighs_more_than_the_burst_never_passes() {
        assert_eq!(Bucket::default().room(flow("10/s", Some(2)), 3 * MILLI, SECOND), Err(None));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let flow = flow("1/s", None);
        let mut bucket = Bucket::default();
        bucket.take(flow, MILLI, 10 * SECOND);
        bucket.settle(flow, SECOND);
        assert!(bucket.room(flow, MILLI, 10 * SECOND + SECOND - 1).is_err());
        assert!(bucket.room(flow, MILLI, 11 * SECOND).is_ok());
    }

    #[test]
    fn the_largest_rates_and_times_do_not_overflow() {
        let flow = Flow::new(Rate::new(Rate::AMOUNT_MAX, Span::from_secs(7 * 86_400)).unwrap(), None);
        let mut bucket = Bucket::empty(flow, 0);
        assert!(bucket.room(flow, MILLI, 0).is_err());
        bucket.take(flow, u64::MAX / MILLI, 0);
        assert!(bucket.room(flow, MILLI, u64::MAX).is_ok());
    }

    proptest! {
        /// The promise of a bucket: between any two moments no more passes than the burst and the rate's share.
        #[test]
        fn no_more_passes_in_any_time_than_burst_and_rate(
            amount in 1..50u64, burst in 1..20u64, window in 100..5000u64,
            calls in prop::collection::vec((0..2_000_000_000u64, 1..3000u64), 1..100),
        ) {
            let flow = Flow::new(Rate::new(amount, Span::from_millis(window)).unwrap(), Some(burst));
            let (mut bucket, mut now, mut passed) = (Bucket::default(), 0, Vec::new());
            for (gap, cost) in calls {
                now += gap;
                if bucket.room(flow, cost, now).is_ok() {
                    bucket.take(flow, cost, now);
                    passed.push((now, cost));
                }
            }
            for (at, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0u128;
                for (to, cost) in &passed[at..] {
                    sum += u128::from(*cost);
                    let bound = flow.scaled(flow.burst_milli) + u128::from(to - from) * u128::from(flow.amount_milli);
                    prop_assert!(sum * u128::from(flow.window_nanos) <= bound);
                }
            }
        }

        /// Whoever waits as long as it is told to passes, and a nanosecond earlier does not.
        #[test]
        fn what_a_refused_call_is_told_to_wait_is_exact(amount in 1..1000u64, window in 100..100_000u64, taken in 1..10u64) {
            let flow = Flow::new(Rate::new(amount, Span::from_millis(window)).unwrap(), Some(10));
            let mut bucket = Bucket::default();
            bucket.take(flow, 10 * MILLI, 0);
            let wait = bucket.room(flow, taken * MILLI, 0).unwrap_err().unwrap().as_nanos() as u64;
            prop_assert!(bucket.room(flow, taken * MILLI, wait).is_ok());
            prop_assert!(bucket.room(flow, taken * MILLI, wait - 1).is_err());
        }
    }
}
