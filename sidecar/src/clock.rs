//! The one place where the sidecar reads the wall clock.

use std::time::SystemTime;

/// Now, for certificates, records and people. Durations are measured with the monotonic clock instead.
#[allow(clippy::disallowed_methods, reason = "this is the clock that everything else is handed")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// The seconds of the epoch, for what is valid until then wherever it is read.
pub fn seconds() -> u64 {
    now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
