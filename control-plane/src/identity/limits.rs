//! How often each peer may ask: one token bucket per key, in a map of bounded size.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many at once, and so many each second after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub burst: f64,
    pub per_second: f64,
}

/// Token buckets by key.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    rate: Rate,
    keys_max: usize,
    buckets: Mutex<HashMap<K, Bucket>>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Hash + Eq> Buckets<K> {
    pub(super) fn new(rate: Rate, keys_max: usize) -> Self {
        Self { rate, keys_max, buckets: Mutex::default() }
    }

    /// Takes one token, or says how long to wait for it. When the map is full of buckets in use, a new key is told to
    /// wait: forgetting a bucket would give its owner a fresh one.
    pub(super) fn take(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= self.keys_max && !buckets.contains_key(&key) {
            let full_again = Duration::from_secs_f64(self.rate.burst / self.rate.per_second);
            buckets.retain(|_, bucket| now.duration_since(bucket.at) < full_again);
            if buckets.len() >= self.keys_max {
                return Err(full_again);
            }
        }
        buckets.entry(key).or_insert_with(|| Bucket::new(self.rate, now)).take(self.rate, now)
    }
}

impl Bucket {
    pub(crate) const fn new(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, at: now }
    }

    /// Takes one token, or says how long to wait for it.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let earned = now.duration_since(self.at).as_secs_f64() * rate.per_second;
        let tokens = (self.tokens + earned).min(rate.burst);
        let (left, result) = match tokens >= 1.0 {
            true => (tokens - 1.0, Ok(())),
            false => (tokens, Err(Duration::from_secs_f64((1.0 - tokens) / rate.per_second))),
        };
        *self = Self { tokens: left, at: now };
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 2.0, per_second: 1.0 };

    #[test]
    fn a_burst_passes_then_one_each_second() {
        let (buckets, start) = (Buckets::new(RATE, 10), Instant::now());
        assert_eq!(buckets.take("a", start), Ok(()));
        assert_eq!(buckets.take("a", start), Ok(()));
        assert_eq!(buckets.take("a", start), Err(Duration::from_secs(1)));
        assert_eq!(buckets.take("b", start), Ok(()));
        assert_eq!(buckets.take("a", start + Duration::from_secs(1)), Ok(()));
        assert!(buckets.take("a", start + Duration::from_secs(1)).is_err());
    }

    #[test]
    fn many_keys_neither_grow_the_map_nor_reset_a_bucket() {
        let (buckets, start) = (Buckets::new(RATE, 2), Instant::now());
        for _ in 0..2 {
            assert_eq!(buckets.take(1, start), Ok(()));
        }
        assert_eq!(buckets.take(2, start), Ok(()));
        assert!(buckets.take(3, start).is_err());
        assert!(buckets.take(1, start).is_err());
        assert_eq!(buckets.take(3, start + Duration::from_secs(5)), Ok(()));
    }
}
