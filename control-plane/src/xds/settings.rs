//! How discovery behaves: every wait and every limit of it, with its default.

use std::sync::Arc;
use std::time::Duration;

use crate::reports;

/// How the hub and its streams behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names this control plane to its clients.
    pub identifier: Arc<str>,
    /// Changes are planned once none has come for this long…
    pub debounce_quiet: Duration,
    /// …or once the first of them has waited this long.
    pub debounce_max: Duration,
    /// A client that does not take a response for this long is disconnected.
    pub send_timeout: Duration,
    /// A client that does not answer a response for this long is disconnected.
    pub answer_timeout: Duration,
    /// A connected client must say who it is within this time.
    pub first_request_timeout: Duration,
    /// Streams end after about this long, so that clients spread over replicas again.
    pub age_max: Duration,
    /// How long a vanished instance stays an endpoint, so that a restart here or there is no outage.
    pub gone_grace: Duration,
    /// How long a vanished client stays in the status.
    pub remembered: Duration,
    pub clients_max: usize,
    /// One identity cannot take every place by calling itself many nodes.
    pub clients_per_identity_max: usize,
    pub remembered_max: usize,
    /// Of the streams of reports beside those of discovery.
    pub reports: reports::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            identifier: "weft-control-plane".into(),
            debounce_quiet: Duration::from_millis(5),
            debounce_max: Duration::from_millis(250),
            send_timeout: Duration::from_secs(20),
            answer_timeout: Duration::from_secs(60),
            first_request_timeout: Duration::from_secs(10),
            age_max: Duration::from_secs(30 * 60),
            gone_grace: Duration::from_secs(30),
            remembered: Duration::from_secs(24 * 3600),
            clients_max: 50_000,
            clients_per_identity_max: 5_000,
            remembered_max: 50_000,
            reports: reports::Settings::default(),
        }
    }
}
