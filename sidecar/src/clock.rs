//! The one place where the sidecar reads the wall clock.

use std::time::SystemTime;

/// Now, for certificates, records and people. Durations are measured with the monotonic clock instead.
#[allow(clippy::disallowed_methods, reason = "this is the clock that everything else is handed")]
pub fn now() -> SystemTime {
    SystemTime::now()
}
