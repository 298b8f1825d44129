//! When to come back: pure arithmetic on times and on a random number from 0 to 1.

use std::time::{Duration, SystemTime};

/// At half of what is left, give or take a tenth of it.
pub(super) fn renewal(from: SystemTime, until: SystemTime, random: f64) -> SystemTime {
    let life = until.duration_since(from).unwrap_or(Duration::ZERO);
    from + life.mul_f64(0.45 + 0.1 * random.clamp(0.0, 1.0))
}

/// Full jitter: anywhere up to a bound that doubles with each failure. Never nothing at all, so that a lucky draw does
/// not hammer an issuer that is down.
pub(super) fn backoff(attempts: u32, min: Duration, max: Duration, random: f64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(20);
    let bound = min.saturating_mul(1 << doublings).min(max);
    bound.mul_f64(random.clamp(0.0, 1.0)).max(min / 10)
}

/// After the delay, but not after the certificate in hand has ended.
pub(super) fn retry(now: SystemTime, delay: Duration, not_after: Option<SystemTime>) -> SystemTime {
    let at = now + delay;
    match not_after.filter(|end| *end > now) {
        Some(end) => at.min(end),
        None => at,
    }
}

pub(super) fn spread(within: Duration, random: f64) -> Duration {
    within.mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn a_day_is_renewed_between_45_and_55_percent_of_it() {
        assert_eq!(renewal(at(0), at(86_400), 0.0), at(38_880));
        assert_eq!(renewal(at(0), at(86_400), 1.0), at(47_520));
    }

    #[test]
    fn a_certificate_that_has_ended_is_renewed_at_once() {
        assert_eq!(renewal(at(100), at(50), 0.5), at(100));
    }

    #[test]
    fn the_bound_doubles_up_to_its_cap() {
        let bound = |attempts| backoff(attempts, Duration::from_millis(500), Duration::from_secs(150), 1.0);
        assert_eq!(bound(1), Duration::from_millis(500));
        assert_eq!(bound(2), Duration::from_secs(1));
        assert_eq!(bound(9), Duration::from_secs(128));
        assert_eq!(bound(10), Duration::from_secs(150));
        assert_eq!(bound(u32::MAX), Duration::from_secs(150));
    }

    #[test]
    fn a_retry_is_never_later_than_the_end_of_a_valid_certificate() {
        assert_eq!(retry(at(10), HOUR, Some(at(60))), at(60));
        assert_eq!(retry(at(10), Duration::from_secs(5), Some(at(60))), at(15));
        assert_eq!(retry(at(70), HOUR, Some(at(60))), at(3670));
        assert_eq!(retry(at(70), HOUR, None), at(3670));
    }

    proptest! {
        #[test]
        fn backoff_stays_within_its_limits(attempts in 0_u32.., random in 0.0..1.0) {
            let (min, max) = (Duration::from_millis(500), Duration::from_secs(150));
            let delay = backoff(attempts, min, max, random);
            prop_assert!(delay >= min / 10 && delay <= max);
        }
    }
}
