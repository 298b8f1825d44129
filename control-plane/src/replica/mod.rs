//! Of several control planes, those that stand by keep copies of the leader's store: here are the service of the one that
//! leads, and the client of one that follows.
//!
//! Both ends are the control plane itself, each with a certificate of its own from the shared issuer; no workload gets
//! that identity, and nobody else is told anything. What was written is answered once those that keep up have it, but
//! nobody is waited for longer than [`TAKE_TIMEOUT`]. Audit trails are copied beside, and nobody waits. Not here: who leads (`weft-kubernetes`), and what a copy takes
//! (`store`).

mod follow;
mod kept;
mod service;
mod standbys;
mod trails;
mod wire;

use std::time::Duration;

use crate::store::limits::{TXN_BYTES_MAX, TXN_WRITES_MAX};

pub use follow::{Follower, Lost};
pub use kept::Kept;
pub use service::Replication;
pub use standbys::{STANDBYS_MAX, Standby, Standbys, TAKE_TIMEOUT};
pub use trails::{LOOK_EVERY, PAUSE};

/// Largest message: one revision as large as they come, with its numbers.
pub const MESSAGE_BYTES_MAX: usize = TXN_BYTES_MAX + 64 * TXN_WRITES_MAX + (64 << 10);
/// Bytes of keys and values after which no further revision goes into a message.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Most revisions in one message.
pub const BATCH_EVENTS_MAX: usize = 256;
/// Largest word of one that follows.
pub const PROGRESS_BYTES_MAX: usize = 16 << 10;
/// Longest name of one that follows, in bytes.
pub const NAME_BYTES_MAX: usize = 253;
/// How often the leader says that it is there, when there is nothing else to say.
pub const LIFE_EVERY: Duration = Duration::from_secs(2);
/// Longest that either end is silent.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A message must be taken within this time, or whoever is so slow is cut off and begins again.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before the leader is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// Messages that wait for the connection to take them.
pub const OUTGOING_MAX: usize = 4;
