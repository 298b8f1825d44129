//! How long calls took: a histogram in which many threads count at once, each in a place of its own, and that has for
//! each of its buckets the last call of a trace that fell into it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};
use weft_proto::trace::{SpanId, TraceId};

use crate::striped;

/// The buckets that the semantic conventions of MCP advise, with finer ones below: most calls of a sidecar are short.
pub const BUCKETS: [(f64, Duration); 18] = [
    (0.000_1, Duration::from_micros(100)),
    (0.000_5, Duration::from_micros(500)),
    (0.001, Duration::from_millis(1)),
    (0.005, Duration::from_millis(5)),
    (0.01, Duration::from_millis(10)),
    (0.02, Duration::from_millis(20)),
    (0.05, Duration::from_millis(50)),
    (0.1, Duration::from_millis(100)),
    (0.2, Duration::from_millis(200)),
    (0.5, Duration::from_millis(500)),
    (1.0, Duration::from_secs(1)),
    (2.0, Duration::from_secs(2)),
    (5.0, Duration::from_secs(5)),
    (10.0, Duration::from_secs(10)),
    (30.0, Duration::from_secs(30)),
    (60.0, Duration::from_secs(60)),
    (120.0, Duration::from_secs(120)),
    (300.0, Duration::from_secs(300)),
];
/// With the last, which has no end.
const PLACES: usize = BUCKETS.len() + 1;
/// Threads beyond so many share places.
const STRIPES: usize = 4;

#[derive(Debug, Default)]
pub struct Timings {
    stripes: [Stripe; STRIPES],
    /// Made with the first call that has a trace.
    exemplars: OnceLock<Box<Mutex<Exemplars>>>,
}

/// As large as what processors fetch at once.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    nanos: AtomicU64,
    counts: [AtomicU64; PLACES],
}

/// A call of a trace, as an example of its bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    pub trace: TraceId,
    pub span: SpanId,
    pub took: Duration,
    pub at: SystemTime,
}

/// The examples of all buckets.
pub type Exemplars = [Option<Exemplar>; PLACES];

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub nanos: u64,
    /// Of each bucket, without those below it.
    pub counts: [u64; PLACES],
}

impl Timings {
    pub fn observe(&self, took: Duration) {
        let stripe = &self.stripes[striped::place() % STRIPES];
        stripe.nanos.fetch_add(nanos(took), Ordering::Relaxed);
        stripe.counts[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps a call as the example of its bucket. Whoever meets another doing the same leaves it to them.
    pub fn exemplify(&self, exemplar: Exemplar) {
        let kept = self.exemplars.get_or_init(Box::default);
        if let Ok(mut kept) = kept.try_lock() {
            kept[bucket(exemplar.took)] = Some(exemplar);
        }
    }

    pub fn counted(&self) -> Counted {
        let mut sum = Counted::default();
        for stripe in &self.stripes {
            sum.nanos = sum.nanos.wrapping_add(stripe.nanos.load(Ordering::Relaxed));
            for (sum, count) in sum.counts.iter_mut().zip(&stripe.counts) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        sum
    }

    pub fn exemplars(&self) -> Exemplars {
        self.exemplars.get().and_then(|kept| kept.lock().ok()).map(|kept| *kept).unwrap_or_default()
    }

    /// Takes over what another has counted.
    pub fn add(&self, counted: &Counted) {
        let [stripe, ..] = &self.stripes;
        stripe.nanos.fetch_add(counted.nanos, Ordering::Relaxed);
        for (own, more) in stripe.counts.iter().zip(counted.counts) {
            own.fetch_add(more, Ordering::Relaxed);
        }
    }
}

impl Counted {
    pub fn add(&mut self, other: &Self) {
        self.nanos = self.nanos.wrapping_add(other.nanos);
        self.counts.iter_mut().zip(other.counts).for_each(|(own, more)| *own += more);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanos).as_secs_f64()
    }
}

/// A histogram of durations. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Durations(Arc<Timings>);

impl Durations {
    pub fn observe(&self, took: Duration) {
        self.0.observe(took);
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counted = self.0.counted();
        let ends = BUCKETS.iter().map(|(end, _)| *end).chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = ends.zip(counted.counts).collect();
        encoder.encode_histogram::<NoLabelSet>(counted.seconds(), counted.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

fn bucket(took: Duration) -> usize {
    BUCKETS.iter().position(|(_, end)| took <= *end).unwrap_or(BUCKETS.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_falls_into_the_bucket_that_ends_where_it_does() {
        let check =
            |micros: u64, expected: usize| assert_eq!(bucket(Duration::from_micros(micros)), expected);
        check(0, 0);
        check(100, 0);
        check(101, 1);
        check(1_000_000, 10);
        check(300_000_001, BUCKETS.len());
    }

    #[test]
    fn the_ends_of_buckets_are_said_alike_in_both_ways_and_rise() {
        for (seconds, end) in BUCKETS {
            assert!((end.as_secs_f64() - seconds).abs() < 1e-12, "{seconds}");
        }
        assert!(BUCKETS.is_sorted());
    }

    #[test]
    fn what_all_threads_counted_is_there_and_can_be_taken_over() {
        let (timings, other) = (Timings::default(), Timings::default());
        std::thread::scope(|scope| {
            for _ in 0..2 * STRIPES {
                scope.spawn(|| (0..100).for_each(|_| timings.observe(Duration::from_millis(3))));
            }
        });
        let counted = timings.counted();
        let all = 2 * STRIPES as u64 * 100;
        assert_eq!((counted.count(), counted.counts[3]), (all, all));
        assert_eq!(counted.nanos, all * 3_000_000);
        other.observe(Duration::from_secs(1));
        other.add(&counted);
        assert_eq!(other.counted().count(), all + 1);
    }

    #[test]
    fn a_bucket_shows_the_last_call_that_fell_into_it() {
        let timings = Timings::default();
        assert_eq!(timings.exemplars(), [None; PLACES]);
        let exemplar = |span| Exemplar {
            trace: TraceId::new(1),
            span: SpanId::new(span),
            took: Duration::from_millis(3),
            at: SystemTime::UNIX_EPOCH,
        };
        timings.exemplify(exemplar(1));
        timings.exemplify(exemplar(2));
        assert_eq!(timings.exemplars()[3], Some(exemplar(2)));
    }
}
