//! Durations counted in buckets whose width grows with the value, so that a quantile is right to about 1.6 % and
//! recording costs nanoseconds however many there are.

use std::time::Duration;

/// Buckets to each doubling.
const FINE_BITS: u32 = 6;
/// Values past this many bits (about a quarter of an hour in nanoseconds) count as the last bucket.
const BITS_MAX: u32 = 40;
const BUCKETS: usize = ((BITS_MAX - FINE_BITS + 1) as usize) << FINE_BITS;

#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
    sum: u128,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0, sum: 0 }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, value: Duration) {
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
        self.sum += u128::from(nanos);
    }

    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    pub(crate) fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    pub(crate) fn mean(&self) -> Duration {
        let mean = self.sum.checked_div(u128::from(self.total)).unwrap_or_default();
        Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    /// The value below which `thousandths` of all lie.
    pub(crate) fn quantile(&self, thousandths: u64) -> Duration {
        let rank = (u128::from(self.total) * u128::from(thousandths)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return Duration::from_nanos(middle(at).min(self.max));
            }
        }
        self.max()
    }
}

fn bucket(nanos: u64) -> usize {
    let bits = u64::BITS - nanos.leading_zeros();
    if bits > BITS_MAX {
        return BUCKETS - 1;
    }
    let shift = bits.saturating_sub(FINE_BITS + 1);
    let fine = usize::try_from(nanos >> shift).unwrap_or(BUCKETS - 1);
    fine + ((shift as usize) << FINE_BITS)
}

/// The value that stands for a bucket.
fn middle(at: usize) -> u64 {
    let at = at as u64;
    let shift = (at >> FINE_BITS).saturating_sub(1);
    let fine = at - (shift << FINE_BITS);
    (fine << shift) + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_near_the_middle_of_its_bucket() {
        let mut value = 1_u64;
        while value < 1 << BITS_MAX {
            for nanos in [value - 1, value, value + value / 3] {
                let found = middle(bucket(nanos));
                let off = found.abs_diff(nanos);
                assert!(off * 60 <= nanos.max(60), "{nanos} stands as {found}");
            }
            value *= 2;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn buckets_rise_with_the_values() {
        let buckets: Vec<usize> = (0..100_000).map(bucket).collect();
        assert!(buckets.is_sorted());
        assert!(buckets.windows(2).all(|pair| pair[1] - pair[0] <= 1));
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|micros| histogram.record(Duration::from_micros(micros)));
        for (thousandths, micros) in [(1, 1), (500, 500), (900, 900), (990, 990), (1000, 1000)] {
            let found = histogram.quantile(thousandths).as_secs_f64() * 1e6;
            assert!((found / f64::from(micros) - 1.0).abs() < 0.02, "{thousandths}: {found}");
        }
        assert_eq!(histogram.max(), Duration::from_micros(1000));
        assert_eq!(histogram.mean(), Duration::from_nanos(500_500));
    }

    #[test]
    fn an_empty_one_is_all_zero() {
        assert_eq!(Histogram::default().quantile(990), Duration::ZERO);
        assert_eq!(Histogram::default().mean(), Duration::ZERO);
    }
}
