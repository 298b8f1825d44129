//! What sidecars tell of themselves while they run: a stream of reports beside each discovery stream.
//!
//! The last report of a sidecar is kept with what else is known of it, and goes with its connection. Not here: what
//! follows from a report for others, which the planner decides; it is only told who does not serve, and not more often
//! than others can follow.

mod read;
mod service;

use std::time::Duration;

pub use read::{DETAIL_BYTES_MAX, Grown, Health, Losses, Report, SERVERS_MAX, Served, VERSION_BYTES_MAX};
pub use service::Reports;

/// How reports are taken.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The first report must come within this time.
    pub first_timeout: Duration,
    /// A stream that says nothing for this long is ended; sidecars report at least every 30 s.
    pub silence_max: Duration,
    /// A receipt must be taken within this time.
    pub send_timeout: Duration,
    /// Reports of one stream at once, and each second after.
    pub rate: crate::identity::Rate,
    /// Whether a sidecar serves is passed on to others no more often than this; what counts is its last word.
    pub hold: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            first_timeout: Duration::from_secs(10),
            silence_max: Duration::from_secs(90),
            send_timeout: Duration::from_secs(20),
            rate: crate::identity::Rate { burst: 10.0, per_second: 2.0 },
            hold: Duration::from_secs(2),
        }
    }
}
