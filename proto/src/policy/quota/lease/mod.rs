//! Leases: how sidecars share one limit without asking for each call.
//!
//! The control plane's [`Allocator`] lends parts of a limit for a time, each sidecar's [`Holder`] decides from what it
//! holds. Both are values that are told what happened and when; messages between them may be late, lost, doubled and out
//! of order, and either side may begin anew.
//!
//! What holds, whatever happens: all that may be in use of a limit together — what is lent and not given back, with
//! every message that is still on its way — is never more than the limit. For a rate this is so for the flow and for the
//! burst, and what a part of the burst holds is handed on only if nobody can still take it; so of a mesh-wide rate no
//! more passes in any time than of one bucket with that rate and burst, but for
//! - clocks: a sidecar whose clock runs fast by so many millionths lets that much more of its flow pass;
//! - a limit that is lowered: what was lent before may be used until its sidecar heard of it, or its lease ends;
//! - `whenUnavailable`: a sidecar without a lease lets pass its floor, or what it last held for as long as it may.
//!
//! Calls under way are lent the same way. A sidecar that lost its lease starts no more of them, yet those that run go
//! on: while it says so, their places are lent to nobody else; while it is silent, by so many the limit may be exceeded.
//!
//! Each grant has a time of its own, which only another grant makes longer: a holder that takes no smaller share, or does
//! not say that it did, is counted with the larger one until the time of that is over, whatever it reports meanwhile. A
//! holder that lies gains nothing by it but places that it was lent: it may say for ever that calls run there.
//!
//! Time is in nanoseconds of each side's own clock, which never goes back; none is ever compared with the other's. A
//! lease is counted by its holder from when it asked, and by the lender from when it answered, and longer by twice what
//! clocks may differ.

mod allocator;
mod holder;
mod holding;
mod ledger;
mod purse;

pub use allocator::Allocator;
pub use holder::{Holder, Share};
pub use ledger::{Ledger, Loan, Told};
pub use purse::Purse;

use super::MILLI;

/// A part of a limit, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Of the flow in each window, or of the calls at once.
    pub capacity: u64,
    /// Of what may pass at once; nothing for calls at once.
    pub burst: u64,
}

/// What is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub whole: Part,
    /// The window of a rate; none for calls at once.
    pub window_nanos: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a lease lasts.
    pub lease_nanos: u64,
    /// How often holders report.
    pub refresh_nanos: u64,
    /// By how much a clock may be fast or slow.
    pub drift_per_million: u64,
}

/// What a holder says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Grows with each report of a holder.
    pub sequence: u64,
    /// Of the lender whose grant is in force; see [`Grant::epoch`].
    pub epoch: u64,
    /// The grant in force.
    pub acknowledged: u64,
    /// What it holds by a lease that is not over.
    pub has: Part,
    /// Calls that run, in thousandths, whatever is held.
    pub in_use: u64,
    pub wants: u64,
    /// It wants no more and uses none.
    pub release: bool,
}

/// What a lender says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Differs for each run of a lender.
    pub epoch: u64,
    /// Grows with each grant to a holder.
    pub number: u64,
    /// The report that it answers. One that answers none begins no lease and makes none longer.
    pub answers: Option<u64>,
    pub part: Part,
    /// What of the burst is there at once; the rest of it fills with the flow.
    pub tokens: u64,
    /// A part that is safe to use without a lease, if all others that are known do the same.
    pub safe: u64,
}

impl Terms {
    pub const fn rate(capacity: u64, burst: u64, window_nanos: u64) -> Self {
        Self { whole: Part { capacity, burst }, window_nanos: Some(window_nanos) }
    }

    pub const fn slots(calls: u32) -> Self {
        Self { whole: Part { capacity: calls as u64 * MILLI, burst: 0 }, window_nanos: None }
    }

    /// To how many at once a part can be lent that lets a whole call pass.
    fn holders_max(&self) -> usize {
        let scarce = if self.window_nanos.is_some() { self.whole.burst } else { self.whole.capacity };
        usize::try_from(scarce / MILLI).unwrap_or(usize::MAX).max(1)
    }
}

impl Timing {
    /// How long the lender counts a lease.
    pub const fn counted_nanos(&self) -> u64 {
        let more = self.lease_nanos as u128 * 2 * self.drift_per_million as u128 / 1_000_000;
        self.lease_nanos.saturating_add(more as u64).saturating_add(1)
    }
}

impl Part {
    pub const NOTHING: Self = Self { capacity: 0, burst: 0 };

    fn most(self, other: Self) -> Self {
        Self { capacity: self.capacity.max(other.capacity), burst: self.burst.max(other.burst) }
    }

    fn least(self, other: Self) -> Self {
        Self { capacity: self.capacity.min(other.capacity), burst: self.burst.min(other.burst) }
    }

    fn and(self, other: Self) -> Self {
        Self {
            capacity: self.capacity.saturating_add(other.capacity),
            burst: self.burst.saturating_add(other.burst),
        }
    }

    fn without(self, other: Self) -> Self {
        Self {
            capacity: self.capacity.saturating_sub(other.capacity),
            burst: self.burst.saturating_sub(other.burst),
        }
    }
}

#[cfg(test)]
mod model;
