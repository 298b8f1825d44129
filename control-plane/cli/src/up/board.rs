//! How the sidecars of this process stand: written by whoever keeps them, read by whoever shows them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use weft_proto::name::{NodeId, ServerName};
use weft_sidecar::admin::Shown;
use weft_sidecar::app::Running;
use weft_sidecar::servers::Servers;
use weft_sidecar::state::Live;

/// How a sidecar stands.
#[derive(Clone, Default)]
pub(crate) enum Standing {
    #[default]
    Starting,
    /// It could not be started, and why. The next attempt comes by itself.
    Failed(String),
    Running(Arc<Up>),
    Stopping,
}

/// What there is to see of a running sidecar.
pub(crate) struct Up {
    pub(crate) inbound: Option<SocketAddr>,
    pub(crate) outbound: Option<SocketAddr>,
    pub(crate) health: Option<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) live: Live,
    pub(crate) servers: Servers,
    pub(crate) shown: Arc<dyn Shown>,
}

impl From<&Running> for Up {
    fn from(running: &Running) -> Self {
        Self {
            inbound: running.inbound,
            outbound: running.outbound,
            health: running.health,
            admin: running.admin,
            live: running.live.clone(),
            servers: running.servers.clone(),
            shown: running.shown(),
        }
    }
}

/// Whom a sidecar stands beside.
#[derive(Clone, Debug)]
pub(crate) enum Beside {
    Server(ServerName),
    Agent(NodeId),
}

/// Every sidecar.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub(crate) agents: BTreeMap<NodeId, Standing>,
    pub(crate) servers: BTreeMap<ServerName, Standing>,
    /// Servers without one, and why.
    pub(crate) left_out: BTreeMap<ServerName, String>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Board {
    seen: Mutex<Seen>,
    changed: watch::Sender<()>,
}

impl Board {
    pub(crate) fn look(&self) -> Seen {
        self.seen().clone()
    }

    /// The agents' sidecars that run.
    pub(crate) fn agents(&self) -> Vec<Arc<Up>> {
        let running = |standing: &Standing| match standing {
            Standing::Running(up) => Some(Arc::clone(up)),
            Standing::Starting | Standing::Failed(_) | Standing::Stopping => None,
        };
        self.seen().agents.values().filter_map(running).collect()
    }

    /// Tells of each change of a sidecar's standing; what servers do changes without notice.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Writes down how a sidecar stands.
    pub(crate) fn set(&self, of: &Beside, standing: Standing) {
        self.change(|seen| match of {
            Beside::Server(name) => _ = seen.servers.insert(name.clone(), standing),
            Beside::Agent(node) => _ = seen.agents.insert(node.clone(), standing),
        });
    }

    pub(crate) fn remove(&self, name: &ServerName) {
        self.change(|seen| _ = seen.servers.remove(name));
    }

    pub(crate) fn leave_out(&self, left_out: BTreeMap<ServerName, String>) {
        self.change(|seen| seen.left_out = left_out);
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen());
        self.changed.send_replace(());
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
