//! What a call took, and how it is given back.

use std::sync::Arc;

use smallvec::SmallVec;
use weft_proto::policy::quota::{Cost, Gauge};

use super::Quotas;
use super::key::Key;
use super::table::Claim;

/// A call that takes from no more counts than this allocates nothing to remember it.
const COUNTS_FEW: usize = 4;

/// What a call took. Dropping it gives everything back, unless it is kept first.
#[derive(Debug)]
#[must_use = "what is dropped is given back"]
pub struct Held<'q> {
    quotas: &'q Quotas,
    counts: SmallVec<[Count; COUNTS_FEW]>,
}

/// The places among the calls under way that a call took, which are given back when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Kept(#[expect(dead_code, reason = "held until dropped")] Option<Arc<Places>>);

#[derive(Debug)]
struct Places {
    quotas: Quotas,
    counts: Vec<Count>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    key: Key,
    cost: Cost,
    /// Of a budget: the end of the window that it was taken from.
    window: Option<i64>,
    /// Whether it is of a limit of calls at once.
    is_place: bool,
}

impl<'q> Held<'q> {
    pub(super) fn nothing(quotas: &'q Quotas) -> Self {
        Self { quotas, counts: SmallVec::new() }
    }

    /// What a claim took is held from now on.
    pub(super) fn add(&mut self, claim: &Claim<'_>) {
        let is_place = matches!(claim.ready.limit.gauge, Gauge::Slots(_));
        self.counts.push(Count { key: claim.key, cost: claim.cost, window: claim.window, is_place });
    }

    /// The call is made: from now on only its places are given back, when it ends.
    pub fn keep(mut self) -> Kept {
        let counts = std::mem::take(&mut self.counts);
        let places = || counts.iter().filter(|count| count.is_place).copied();
        let kept = || Arc::new(Places { quotas: self.quotas.clone(), counts: places().collect() });
        Kept(places().next().map(|_| kept()))
    }
}

impl Kept {
    pub const NOTHING: Self = Self(None);
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        give_back(self.quotas, &self.counts);
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        give_back(&self.quotas, &self.counts);
    }
}

fn give_back(quotas: &Quotas, counts: &[Count]) {
    if counts.is_empty() {
        return;
    }
    let now = quotas.0.table.now();
    for Count { key, cost, window, is_place } in counts {
        quotas.0.table.give_back(*key, *cost, *window, now);
        if *is_place {
            quotas.0.line.one_ended(*key);
        }
    }
}
