//! A counter for what many threads count at once. Each counts in a place of its own, so that none waits for the memory
//! that another just wrote; whoever reads adds them up.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use prometheus_client::metrics::counter::Atomic;

/// Threads beyond so many share places.
const STRIPES: usize = 8;

#[derive(Debug, Default)]
pub struct Striped([Stripe; STRIPES]);

/// As large as what processors fetch at once.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

impl Striped {
    fn own(&self) -> &AtomicU64 {
        &self.0[place() % STRIPES].0
    }
}

/// A number of this thread.
pub(crate) fn place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
    }
    PLACE.with(|place| {
        place.get().unwrap_or_else(|| {
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            place.set(Some(next));
            next
        })
    })
}

impl Atomic<u64> for Striped {
    /// Answers what this thread's place had before, for a sum is nobody's concern who counts.
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    fn inc_by(&self, more: u64) -> u64 {
        self.own().fetch_add(more, Ordering::Relaxed)
    }

    fn get(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_threads_counted_is_there() {
        let counter = Striped::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * STRIPES {
                scope.spawn(|| (0..1000).for_each(|_| _ = counter.inc()));
            }
        });
        counter.inc_by(5);
        assert_eq!(counter.get(), 2 * STRIPES as u64 * 1000 + 5);
    }
}
