//! The sidecars of a mesh on this machine, each with an identity of its own and mutual TLS between them, as on many
//! machines; only that they share a process. They follow the store: a server that is applied gets its sidecar, and one
//! that is deleted loses it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::{Id, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use weft_control_plane::app::Running as ControlPlane;
use weft_control_plane::desired;
use weft_control_plane::store::{self, Entry, Prefix, Revision, Store};
use weft_proto::name::{NodeId, ServerName};
use weft_proto::resource::{self, Spec};
use weft_sidecar::app::Running;

use super::addresses::Files;
use super::agents::Agent;
use super::board::{Beside, Board, Standing};
use super::keeper::{End, Keeper};
use super::sidecar::{Mesh, Recipe};
use super::tally::Tally;
use super::wanted::{Plan, Stored, Wanted, plan};
use crate::failure::Failure;

/// Time for the sidecars of the start to get their certificates and configuration before it is said how they stand.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// After a failure to read the servers.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// The running sidecars.
pub(crate) struct Sides {
    pub(crate) board: Arc<Board>,
    pub(crate) tally: Arc<Tally>,
    /// The agents on this machine and where each calls; the first is always there.
    pub(crate) agents: Vec<(NodeId, SocketAddr)>,
    pub(crate) files: Files,
    keepers: JoinSet<()>,
    servers: JoinHandle<()>,
    agents_end: watch::Sender<Option<End>>,
    quit: watch::Sender<bool>,
    addresses: JoinHandle<()>,
}

impl Sides {
    /// Where the agent calls that is always there.
    pub(crate) fn address(&self) -> SocketAddr {
        self.agents[0].1
    }

    /// Waits until it is known of each sidecar whether it serves.
    pub(crate) async fn settled(&self) {
        let settled = async {
            while !is_settled(&self.board) {
                sleep(LOOK_EVERY).await;
            }
        };
        if timeout(READY_TIMEOUT, settled).await.is_err() {
            tracing::warn!("some sidecars got no configuration yet");
        }
    }

    /// Ends them all: the agents' first, so that what is under way can finish.
    pub(crate) async fn stop(mut self) {
        self.agents_end.send_replace(Some(End::Quit));
        while self.keepers.join_next().await.is_some() {}
        self.quit.send_replace(true);
        let _ = self.servers.await;
        self.addresses.abort();
        let _ = self.addresses.await;
        self.files.remove().await;
    }
}

fn is_settled(board: &Board) -> bool {
    let seen = board.look();
    seen.servers.values().chain(seen.agents.values()).all(|standing| match standing {
        Standing::Running(up) => up.shown.ready().is_ok(),
        Standing::Failed(_) => true,
        Standing::Starting | Standing::Stopping => false,
    })
}

/// Starts a sidecar for each agent and one beside each server that can run here, and follows the store.
pub(crate) async fn start(
    control_plane: &ControlPlane,
    home: &Path,
    agents: Vec<Agent>,
) -> Result<Sides, Failure> {
    let (board, tally) = (Arc::new(Board::default()), Arc::new(Tally::default()));
    let mesh = Arc::new(Mesh::new(control_plane, home, &tally));
    let read = read(&*mesh.store).await;
    let servers = read
        .map(|(_, servers)| servers)
        .map_err(|error| Failure::failed(format!("the servers cannot be read: {error}")))?;
    let (mut keepers, mut reached) = (JoinSet::new(), Vec::new());
    let (agents_end, ends) = watch::channel(None);
    for agent in agents {
        let node = agent.node.clone();
        let (keeper, running, address) = begin(agent, &mesh, &board, ends.clone()).await?;
        reached.push((node, address));
        keepers.spawn(keeper.keep(Some(running)));
    }
    let (stored, told) = watch::channel(servers);
    let feed = tokio::spawn(feed(Arc::clone(&mesh.store), stored));
    let (quit, quits) = watch::channel(false);
    let mut follower = Follower {
        mesh,
        board: Arc::clone(&board),
        tally: Arc::clone(&tally),
        slots: BTreeMap::new(),
        keepers: JoinSet::new(),
    };
    follower.reconcile(&told.borrow());
    let servers = tokio::spawn(async move {
        follower.follow(told, quits).await;
        feed.abort();
    });
    let files = Files::new(home, control_plane.health);
    let addresses = tokio::spawn(files.clone().keep(Arc::clone(&board)));
    Ok(Sides { board, tally, agents: reached, keepers, servers, agents_end, quit, addresses, files })
}

/// Starts an agent's sidecar. Without it there is nothing to try, so it must start; where it listens by then, it listens
/// whenever it is started again, for clients were told.
async fn begin(
    mut agent: Agent,
    mesh: &Arc<Mesh>,
    board: &Arc<Board>,
    end: watch::Receiver<Option<End>>,
) -> Result<(Keeper, Running, SocketAddr), Failure> {
    let running = mesh.start(&Recipe::agent(&agent)).await?;
    agent.listen = running.outbound.unwrap_or(agent.listen);
    let keeper = Keeper {
        mesh: Arc::clone(mesh),
        recipe: Recipe::agent(&agent),
        board: Arc::clone(board),
        beside: Beside::Agent(agent.node),
        end,
    };
    Ok((keeper, running, agent.listen))
}

/// A sidecar beside a server, from its start until it has ended.
struct Slot {
    wanted: Wanted,
    end: watch::Sender<Option<End>>,
    task: Id,
}

/// Keeps the sidecars those that are wanted.
struct Follower {
    mesh: Arc<Mesh>,
    board: Arc<Board>,
    tally: Arc<Tally>,
    slots: BTreeMap<ServerName, Slot>,
    keepers: JoinSet<()>,
}

impl Follower {
    async fn follow(mut self, mut stored: watch::Receiver<Vec<Stored>>, mut quit: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = quit.wait_for(|quit| *quit) => break,
                Some(ended) = self.keepers.join_next_with_id() => {
                    self.ended(ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
                Ok(()) = stored.changed() => {}
            }
            let servers = stored.borrow_and_update().clone();
            self.reconcile(&servers);
        }
        for slot in self.slots.values() {
            slot.end.send_replace(Some(End::Quit));
        }
        while self.keepers.join_next().await.is_some() {}
    }

    /// A sidecar has ended; what its server was called for is not known any more, if it is gone too.
    fn ended(&mut self, task: Id) {
        let name = self.slots.iter().find(|(_, slot)| slot.task == task).map(|(name, _)| name.clone());
        let Some((name, slot)) = name.and_then(|name| self.slots.remove_entry(&name)) else { return };
        self.board.remove(&name);
        if *slot.end.borrow() == Some(End::Withdrawn) {
            self.tally.forget(&name.to_string());
        }
    }

    /// One that is to be another is ended first: two with one name would take turns.
    fn reconcile(&mut self, servers: &[Stored]) {
        let running: BTreeSet<_> = self.slots.keys().cloned().collect();
        let Plan { beside, mut left_out } = plan(servers, &running);
        for (name, slot) in &self.slots {
            let end = match beside.get(name) {
                Some(wanted) if *wanted == slot.wanted => continue,
                Some(_) => End::Changed,
                None => End::Withdrawn,
            };
            // Once said it stays: a sidecar that ends is not called back.
            slot.end.send_if_modified(|said| said.is_none() && said.replace(end).is_none());
        }
        for (name, wanted) in beside {
            if self.slots.contains_key(&name) {
                continue;
            }
            match Recipe::beside(&name, &wanted) {
                Ok(recipe) => self.start(name, wanted, recipe),
                Err(why) => _ = left_out.insert(name, why),
            }
        }
        self.board.leave_out(left_out);
    }

    fn start(&mut self, name: ServerName, wanted: Wanted, recipe: Recipe) {
        let (end, ends) = watch::channel(None);
        self.board.set(&Beside::Server(name.clone()), Standing::Starting);
        let keeper = Keeper {
            mesh: Arc::clone(&self.mesh),
            recipe,
            board: Arc::clone(&self.board),
            beside: Beside::Server(name.clone()),
            end: ends,
        };
        let task = self.keepers.spawn(keeper.keep(None)).id();
        self.slots.insert(name, Slot { wanted, end, task });
    }
}

/// Tells of the servers of the store whenever they change.
async fn feed(store: Arc<dyn Store>, to: watch::Sender<Vec<Stored>>) {
    loop {
        let changed = async {
            let (revision, servers) = read(&*store).await?;
            to.send_if_modified(|known| {
                let differs = *known != servers;
                *known = servers;
                differs
            });
            let mut changes = store.watch(prefix()?, revision).await?;
            changes.next().await.transpose()
        };
        if let Err(error) = changed.await {
            tracing::warn!(%error, "the servers cannot be read; sidecars stay as they are");
            sleep(READ_AGAIN).await;
        }
    }
}

fn prefix() -> store::Result<Prefix> {
    Ok(Prefix::new(format!("{}mcpservers/", desired::PREFIX))?)
}

/// Every server that the control plane knows.
async fn read(store: &dyn Store) -> store::Result<(Revision, Vec<Stored>)> {
    let (revision, entries) = store::list_all(store, &prefix()?, None).await?;
    Ok((revision, entries.iter().filter_map(server).collect()))
}

/// A server as it is stored; none if not even its name can be read.
fn server(entry: &Entry) -> Option<Stored> {
    let mut names = entry.key.as_str().rsplit('/');
    let (name, namespace) = (names.next()?, names.next()?);
    let name = ServerName { namespace: namespace.parse().ok()?, name: name.parse().ok()? };
    let spec = match resource::parse_one("store", &String::from_utf8_lossy(&entry.value)) {
        Ok(object) => match object.spec {
            Spec::McpServer(spec) => Ok(spec),
            _ => Err("what is stored under its name is no server".to_owned()),
        },
        Err(errors) => Err(format!(
            "what is stored cannot be read: {}",
            errors.first().map_or_else(String::new, ToString::to_string)
        )),
    };
    Some((name, spec))
}
