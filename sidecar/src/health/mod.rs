//! How the servers beside this sidecar are: what the control plane is told, and what readiness says.
//!
//! Where a server says that it is to be checked, [`check`] asks it now and then something that costs nothing, and
//! [`score`] makes of the answers whether it is well. Where it does not, nobody asks. Not here: how a server is asked.

pub mod check;
pub mod score;

use std::net::SocketAddr;
use std::sync::Arc;

/// How a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is not known yet that it serves.
    Starting,
    Serving,
    /// It does not serve, for a reason that is told in a few words.
    Degraded(Arc<str>),
    /// This sidecar is about to end.
    Draining,
}

impl Health {
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Degraded(_) => "degraded",
            Self::Draining => "draining",
        }
    }

    /// Why it does not serve, if there is more to say than the word.
    pub fn detail(&self) -> &str {
        match self {
            Self::Degraded(why) => why,
            Self::Starting | Self::Serving | Self::Draining => "",
        }
    }
}

/// What there is to tell of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub server: Arc<str>,
    pub health: Health,
    /// Calls under way.
    pub in_flight: u32,
    /// Where it can be called past this sidecar.
    pub exposed_at: Arc<[SocketAddr]>,
}
