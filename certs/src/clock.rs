//! The rim where the wall clock is read. Everything else in this crate is handed the time, or a [`Clock`].

use std::sync::Arc;
use std::time::SystemTime;

/// Tells the time to parts that outlive a single call.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The wall clock of this machine.
pub fn wall() -> Clock {
    Arc::new(now)
}

#[allow(clippy::disallowed_methods, reason = "the one place of this crate that reads the wall clock")]
fn now() -> SystemTime {
    SystemTime::now()
}
