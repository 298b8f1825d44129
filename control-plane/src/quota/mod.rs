//! Mesh-wide limits, lent to sidecars: who is lent how much is [`weft_proto::policy::quota::lease`]'s to say, here are
//! the streams, and which sidecar may ask for what.
//!
//! Rates and calls at once are kept in memory: after a restart the sidecars tell what they hold, and nothing new is lent
//! until every lease of before is over, but of policies that were not there yet. Budgets are in the store before they are
//! lent; see [`budgets`].
//!
//! A sidecar that lies gains what one share is, for each node that it is: `nodes` has the sessions of a node share one,
//! `xds` says which servers and policies a node may name, and how many keys it names is bounded.

mod budgets;
mod lender;
mod lent;
mod limits;
mod nodes;
mod recent;
mod service;
mod unanswered;

use std::time::Duration;

use weft_proto::policy::quota::lease::Timing;

pub use lender::{Lender, Standing};
pub use lent::Totals;
pub use nodes::Refused;
pub use service::{Leases, read_budgets};

/// How leases are lent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a lease lasts.
    pub lease: Duration,
    /// How often sidecars report.
    pub refresh: Duration,
    /// Time for the first report, and between two.
    pub silence_max: Duration,
    /// A grant must be taken within this time.
    pub send_timeout: Duration,
    /// Limits that are lent at once, over all keys.
    pub keys_max: usize,
    /// Of them, those that one sidecar may name.
    pub keys_per_node_max: usize,
    /// Keys that one report may name.
    pub keys_per_report_max: usize,
    /// Streams of all sidecars.
    pub streams_max: usize,
    /// Reports of one stream at once, and each second after.
    pub rate: crate::identity::Rate,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            refresh: Duration::from_secs(1),
            silence_max: Duration::from_secs(30),
            send_timeout: Duration::from_secs(10),
            keys_max: 200_000,
            keys_per_node_max: 16_384,
            keys_per_report_max: 1024,
            streams_max: 50_000,
            rate: crate::identity::Rate { burst: 100.0, per_second: 50.0 },
        }
    }
}

impl Settings {
    /// Clocks that are off by more than a thousandth are broken; this is ten times as much.
    const DRIFT_PER_MILLION: u64 = 10_000;

    fn timing(&self) -> Timing {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Timing {
            lease_nanos: nanos(self.lease),
            refresh_nanos: nanos(self.refresh),
            drift_per_million: Self::DRIFT_PER_MILLION,
        }
    }
}
