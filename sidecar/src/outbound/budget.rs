//! How many retries a server is worth: a share of its calls, so that retries never multiply the load of a server that
//! is down.

use std::sync::atomic::{AtomicU32, Ordering};

/// What a retry costs; each call brings in as many of these as the percentage says.
const COST: u32 = 100;

/// Retries that may come at once.
const SAVED_MAX: u32 = 10 * COST;

#[derive(Debug)]
pub(super) struct Budget(AtomicU32);

impl Default for Budget {
    /// Something is there to begin with, or the first calls had none.
    fn default() -> Self {
        Self(AtomicU32::new(SAVED_MAX))
    }
}

impl Budget {
    /// A call brings something in.
    pub(super) fn call(&self, percent: u32) {
        let saved = self.0.load(Ordering::Relaxed);
        // Full, as it is while nothing fails: not worth a write that other threads would notice.
        if saved < SAVED_MAX && percent > 0 {
            self.change(|saved| Some((saved + percent).min(SAVED_MAX)));
        }
    }

    /// Takes a retry, if there is one.
    pub(super) fn retry(&self) -> bool {
        self.change(|saved| saved.checked_sub(COST))
    }

    fn change(&self, next: impl Fn(u32) -> Option<u32>) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_calls() {
        let budget = Budget::default();
        assert_eq!((0..100).filter(|_| budget.retry()).count(), 10);
        for _ in 0..100 {
            budget.call(20);
        }
        assert_eq!((0..100).filter(|_| budget.retry()).count(), 10);
        for _ in 0..20 {
            budget.call(20);
        }
        assert_eq!((0..100).filter(|_| budget.retry()).count(), 4);
    }

    #[test]
    fn what_is_saved_is_bounded() {
        let budget = Budget::default();
        for _ in 0..10_000 {
            budget.call(100);
        }
        assert_eq!((0..100).filter(|_| budget.retry()).count(), 10);
    }

    #[test]
    fn a_share_of_nothing_brings_in_nothing() {
        let budget = Budget::default();
        while budget.retry() {}
        for _ in 0..1000 {
            budget.call(0);
        }
        assert!(!budget.retry());
    }
}
