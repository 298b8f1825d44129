//! The hub: takes changes in, plans them one batch at a time, and wakes the clients that they may concern.

mod asked;
pub(super) mod held;
mod quotas;
mod reporter;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_certs::svid::Leaf;
use weft_proto::name::{Namespace, NodeId, ServerName, SpiffeId};
use weft_proto::wire::ResourceType;

use super::settings::Settings;
use super::status::ClientStatus;
use crate::ask::Lines;
use crate::catalog::Seen;
use crate::clock;
use crate::metrics::{Metrics, TypeLabel};
use crate::plan::{Audience, Change, Instance, Observation, Speaker, Touched, Update, Viewer, World};

pub use asked::Intended;
pub use reporter::Reporter;

/// Updates that wait for the planner; more make whoever brings them wait.
const INTAKE_MAX: usize = 1024;
/// Batches that wait for one client before they are replaced by a comparison of everything.
const BATCHES_MAX: usize = 32;

/// What was touched, shared by all who are told.
pub(super) type Batch = Arc<[Touched]>;

/// What awaits one client.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) batches: Vec<Batch>,
    pub(super) resync: bool,
    pub(super) since: Option<Instant>,
}

/// One connected client, as the hub sees it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) viewer: Viewer,
    pub(super) instance: Option<Instance>,
    pending: Mutex<Pending>,
    pub(super) wake: Notify,
    /// A newer stream took over, or this one has ended.
    pub(super) replaced: CancellationToken,
    pub(super) status: Mutex<ClientStatus>,
    /// Ends the stream of reports that counts now.
    reporting: Mutex<CancellationToken>,
}

impl Client {
    fn speaker(&self) -> Speaker {
        Speaker { identity: self.viewer.identity.id(), node: self.viewer.node.clone(), stream: self.id }
    }

    pub(super) fn take_pending(&self) -> Pending {
        std::mem::take(&mut *lock(&self.pending))
    }

    /// Hands over all that one planning touched, in one go: what belongs together is judged together.
    fn tell(&self, batches: Vec<Batch>, revision: u64) {
        lock(&self.status).told_revision = revision;
        let mut pending = lock(&self.pending);
        pending.since.get_or_insert_with(Instant::now);
        if !pending.resync {
            pending.batches.extend(batches);
        }
        if pending.batches.len() > BATCHES_MAX {
            pending.batches.clear();
            pending.resync = true;
        }
        drop(pending);
        self.wake.notify_one();
    }
}

#[derive(Debug, Default)]
struct Clients {
    next: u64,
    by_id: HashMap<u64, Arc<Client>>,
    by_node: HashMap<(SpiffeId, NodeId), u64>,
    by_identity: HashMap<SpiffeId, usize>,
    by_namespace: HashMap<Namespace, HashSet<u64>>,
    serving: HashMap<ServerName, HashSet<u64>>,
    calling: HashSet<u64>,
    /// Clients that are gone, for the status.
    gone: BTreeMap<(SpiffeId, NodeId), ClientStatus>,
}

/// Applies changes and wakes clients.
#[derive(Debug)]
pub struct Hub {
    pub(super) settings: Settings,
    pub(super) metrics: Arc<Metrics>,
    pub(super) shutdown: CancellationToken,
    world: RwLock<World>,
    clients: Mutex<Clients>,
    pub(super) intake: mpsc::Sender<Update>,
    ready: watch::Sender<bool>,
    revision: watch::Sender<u64>,
    /// Definitions of tools that were advertised.
    pub(super) seen: Seen,
    /// Sidecars that can be asked something.
    pub(crate) lines: Lines,
}

/// A lock that a panic elsewhere cannot take away: what these guard is consistent after every statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Starts the planner. Streams are refused until `set_ready`.
    pub fn start(
        settings: Settings,
        world: World,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let (intake, updates) = mpsc::channel(INTAKE_MAX);
        let hub = Arc::new(Self {
            settings,
            metrics,
            shutdown,
            revision: watch::Sender::new(world.revision()),
            world: RwLock::new(world),
            clients: Mutex::default(),
            intake,
            ready: watch::Sender::new(false),
            seen: Seen::default(),
            lines: Lines::default(),
        });
        tokio::spawn(Arc::clone(&hub).supervise(updates));
        hub
    }

    /// A planner that is gone would leave the mesh with what it has for ever, and look healthy.
    async fn supervise(self: Arc<Self>, updates: mpsc::Receiver<Update>) {
        if tokio::spawn(Arc::clone(&self).run(updates)).await.is_err() {
            self.metrics.panics.inc();
            tracing::error!("the planner ended in a panic; the control plane stops");
            self.shutdown.cancel();
        }
    }

    /// Where changes go in.
    pub fn intake(&self) -> mpsc::Sender<Update> {
        self.intake.clone()
    }

    /// Lets clients in: everything that was stored is published.
    pub fn set_ready(self: &Arc<Self>) {
        self.ready.send_replace(true);
        let hub = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(hub.settings.gone_grace) => hub.settle(),
                () = hub.shutdown.cancelled() => {}
            }
        });
    }

    /// Sidecars have had time to come back: whoever has not is no instance any more.
    fn settle(&self) {
        self.world.write().unwrap_or_else(PoisonError::into_inner).settle();
        self.resync_all();
    }

    pub fn is_ready(&self) -> bool {
        *self.ready.borrow() && !self.shutdown.is_cancelled()
    }

    /// The revision that is published, as it moves.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub(super) fn world(&self) -> RwLockReadGuard<'_, World> {
        self.world.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many resources of each type are published.
    pub fn counts(&self) -> Vec<(ResourceType, usize)> {
        let world = self.world();
        ResourceType::ALL.into_iter().map(|ty| (ty, world.count(ty))).collect()
    }

    /// Every client that is connected or was lately, in order of their names.
    pub fn status(&self) -> Vec<ClientStatus> {
        let clients = lock(&self.clients);
        let connected = clients.by_id.values().map(|client| lock(&client.status).clone());
        let mut all: Vec<_> = connected.chain(clients.gone.values().cloned()).collect();
        drop(clients);
        all.sort_by(|a, b| a.node.cmp(&b.node).then_with(|| a.identity.cmp(&b.identity)));
        all
    }

    /// Notes that a sidecar holds another certificate now, although its stream was opened with the old one.
    pub fn renewed(&self, old_serial: &str, leaf: &Leaf, root: &str) {
        let clients: Vec<_> = lock(&self.clients).by_id.values().cloned().collect();
        for client in clients {
            let mut status = lock(&client.status);
            if status.certificate_serial == old_serial {
                leaf.serial.as_str().clone_into(&mut status.certificate_serial);
                status.certificate_expires = leaf.not_after;
                root.clone_into(&mut status.certificate_root);
            }
        }
    }

    /// Compares every client with what it should hold; for when a change might have been missed.
    pub fn resync_all(&self) {
        let clients: Vec<_> = lock(&self.clients).by_id.values().cloned().collect();
        for client in clients {
            lock(&client.pending).resync = true;
            client.wake.notify_one();
        }
    }

    async fn run(self: Arc<Self>, mut updates: mpsc::Receiver<Update>) {
        loop {
            let first = tokio::select! {
                update = updates.recv() => update,
                () = self.shutdown.cancelled() => return,
            };
            let Some(first) = first else { return };
            let mut batch = vec![first];
            let deadline = Instant::now() + self.settings.debounce_max;
            while batch.len() < INTAKE_MAX {
                let quiet = Instant::now() + self.settings.debounce_quiet;
                match tokio::time::timeout_at(quiet.min(deadline), updates.recv()).await {
                    Ok(Some(update)) => batch.push(update),
                    Ok(None) | Err(_) => break,
                }
            }
            self.apply(batch);
        }
    }

    /// Plans a batch and wakes whomever it concerns. Public for benchmarks.
    pub fn apply(&self, batch: Vec<Update>) {
        let started = Instant::now();
        let changes: usize = batch.iter().map(|update| update.changes.len()).sum();
        let (touched, revision) = {
            let mut world = self.world.write().unwrap_or_else(PoisonError::into_inner);
            let touched: Vec<Touched> = batch.into_iter().flat_map(|update| world.apply(update)).collect();
            (touched, world.revision())
        };
        self.metrics.plan_seconds.observe(started.elapsed().as_secs_f64());
        self.metrics.plan_changes.inc_by(changes as u64);
        self.metrics.plan_revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        for (ty, count) in self.counts() {
            let gauge = self.metrics.resources.get_or_create(&TypeLabel { r#type: ty.name() });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.dispatch(touched, revision);
        self.revision.send_replace(revision);
    }

    fn dispatch(&self, touched: Vec<Touched>, revision: u64) {
        let mut groups: HashMap<Group, Vec<Touched>> = HashMap::new();
        for it in touched {
            for group in Group::of(&it.audience) {
                let members = groups.entry(group).or_default();
                // A batch of edits often touches the same name over and over.
                if !members.iter().rev().take(16).any(|known| known.ty == it.ty && known.name == it.name) {
                    members.push(it.clone());
                }
            }
        }
        let mut concerned: HashMap<u64, (Arc<Client>, Vec<Batch>)> = HashMap::new();
        for (group, touched) in groups {
            let batch: Batch = touched.into();
            for client in self.members(&group) {
                let entry = concerned.entry(client.id).or_insert_with(|| (client, Vec::new()));
                entry.1.push(Arc::clone(&batch));
            }
        }
        for (client, batches) in concerned.into_values() {
            client.tell(batches, revision);
        }
    }

    /// From now on a client hears of what callers hear of: it asked for something by name, which may be anywhere.
    pub(super) fn hears_of_all(&self, client: &Client) {
        let mut clients = lock(&self.clients);
        if clients.by_id.contains_key(&client.id) {
            clients.calling.insert(client.id);
        }
    }

    fn members(&self, group: &Group) -> Vec<Arc<Client>> {
        let clients = lock(&self.clients);
        let empty = HashSet::new();
        let ids = match group {
            Group::Everyone => return clients.by_id.values().cloned().collect(),
            Group::Namespace(namespace) => clients.by_namespace.get(namespace).unwrap_or(&empty),
            Group::Serving(server) => clients.serving.get(server).unwrap_or(&empty),
            Group::Calling => &clients.calling,
        };
        ids.iter().filter_map(|id| clients.by_id.get(id)).cloned().collect()
    }

    /// Lets a client in, replacing an older stream of the same client.
    pub(super) fn register(
        &self,
        viewer: Viewer,
        instance: Option<Instance>,
        status: ClientStatus,
    ) -> Option<Arc<Client>> {
        let mut clients = lock(&self.clients);
        let key = (status.identity.clone(), viewer.node.clone());
        let replaces = clients.by_node.get(&key).copied();
        let of_identity = clients.by_identity.get(&key.0).copied().unwrap_or_default();
        let full = clients.by_id.len() >= self.settings.clients_max
            || of_identity >= self.settings.clients_per_identity_max;
        if full && replaces.is_none() {
            return None;
        }
        if let Some(old) = replaces.and_then(|old| clients.remove(old)) {
            old.replaced.cancel();
        }
        clients.gone.remove(&key);
        clients.next += 1;
        let id = clients.next;
        let client = Arc::new(Client {
            id,
            instance,
            pending: Mutex::default(),
            wake: Notify::new(),
            replaced: CancellationToken::new(),
            status: Mutex::new(status),
            reporting: Mutex::default(),
            viewer,
        });
        clients.insert(key, &client);
        self.metrics.xds_clients.set(i64::try_from(clients.by_id.len()).unwrap_or(i64::MAX));
        Some(client)
    }

    /// Notes which servers a client stands beside: for whom it is woken, and where callers find it.
    pub(super) fn serves(&self, client: &Arc<Client>, before: &[ServerName], now: &[ServerName]) {
        {
            let mut clients = lock(&self.clients);
            // A replaced client no longer speaks for its node.
            if !clients.by_id.contains_key(&client.id) {
                return;
            }
            clients.unserve(client.id, before);
            for server in now {
                clients.serving.entry(server.clone()).or_default().insert(client.id);
            }
        }
        lock(&client.status).serves = now.to_vec();
        let (by, instance) = (client.speaker(), client.instance.clone());
        self.observe(Observation::Announced { by, instance, servers: now.to_vec() });
    }

    /// Forgets a client whose stream has ended; its instance stays an endpoint for a while.
    pub(super) fn unregister(self: &Arc<Self>, client: &Arc<Client>, served: &[ServerName]) {
        let mut clients = lock(&self.clients);
        clients.unserve(client.id, served);
        if clients.remove(client.id).is_none() {
            return;
        }
        client.replaced.cancel();
        let mut status = lock(&client.status).clone();
        status.connected = false;
        status.report = None;
        status.tools.clear();
        status.disconnected_at = Some(clock::now());
        if clients.gone.len() >= self.settings.remembered_max {
            let oldest = clients.gone.iter().min_by_key(|(_, status)| status.disconnected_at);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.and_then(|key| clients.gone.remove(&key));
        }
        clients.gone.insert((status.identity.clone(), status.node.clone()), status);
        self.metrics.xds_clients.set(i64::try_from(clients.by_id.len()).unwrap_or(i64::MAX));
        drop(clients);
        let (hub, by) = (Arc::clone(self), client.speaker());
        self.observe(Observation::Away { by: by.clone() });
        tokio::spawn(async move {
            tokio::select! {
                // A newer stream of the same sidecar has spoken by then, if there is one, and this is not heard.
                () = tokio::time::sleep(hub.settings.gone_grace) => hub.observe(Observation::Gone { by }),
                () = hub.shutdown.cancelled() => {}
            }
        });
    }

    /// Forgets a client that is gone for good, at once: nobody waits for it, and no status speaks of it. One whose end
    /// was not noticed yet is cut off.
    pub fn forget(&self, node: &NodeId) {
        let mut clients = lock(&self.clients);
        clients.gone.retain(|(_, gone), _| gone != node);
        let ids = clients.by_node.iter().filter(|((_, known), _)| known == node).map(|(_, id)| *id);
        let ids: Vec<_> = ids.collect();
        let left: Vec<_> = ids.into_iter().filter_map(|id| clients.remove(id)).collect();
        self.metrics.xds_clients.set(i64::try_from(clients.by_id.len()).unwrap_or(i64::MAX));
        drop(clients);
        for client in left {
            client.replaced.cancel();
            self.observe(Observation::Gone { by: client.speaker() });
        }
    }

    /// Forgets clients that have been gone for long.
    pub fn sweep(&self, now: std::time::SystemTime) {
        let remembered = self.settings.remembered;
        let recent = |at: std::time::SystemTime| now.duration_since(at).is_ok_and(|age| age < remembered);
        // Whoever may come back with a certificate that still holds is waited for when roots are exchanged.
        let kept = |status: &ClientStatus| {
            status.certificate_expires > now || status.disconnected_at.is_some_and(recent)
        };
        lock(&self.clients).gone.retain(|_, status| kept(status));
    }

    fn observe(&self, observation: Observation) {
        let update = Update { revision: 0, changes: vec![Change::Observed(observation)] };
        if let Err(mpsc::error::TrySendError::Full(update)) = self.intake.try_send(update) {
            let intake = self.intake.clone();
            tokio::spawn(async move { intake.send(update).await });
        }
    }
}

impl Clients {
    fn insert(&mut self, key: (SpiffeId, NodeId), client: &Arc<Client>) {
        *self.by_identity.entry(key.0.clone()).or_default() += 1;
        self.by_node.insert(key, client.id);
        self.by_namespace.entry(client.viewer.identity.namespace.clone()).or_default().insert(client.id);
        if client.viewer.stances.calls() {
            self.calling.insert(client.id);
        }
        self.by_id.insert(client.id, Arc::clone(client));
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Client>> {
        let client = self.by_id.remove(&id)?;
        let key = (client.viewer.identity.id(), client.viewer.node.clone());
        if self.by_node.get(&key) == Some(&id) {
            self.by_node.remove(&key);
        }
        if let Some(count) = self.by_identity.get_mut(&key.0) {
            *count -= 1;
            if *count == 0 {
                self.by_identity.remove(&key.0);
            }
        }
        let namespace = &client.viewer.identity.namespace;
        if let Some(ids) = self.by_namespace.get_mut(namespace) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_namespace.remove(namespace);
            }
        }
        self.calling.remove(&id);
        Some(client)
    }

    fn unserve(&mut self, id: u64, servers: &[ServerName]) {
        for server in servers {
            if let Some(ids) = self.serving.get_mut(server) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.serving.remove(server);
                }
            }
        }
    }
}

/// Clients that are told the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Group {
    Everyone,
    Namespace(Namespace),
    Serving(ServerName),
    Calling,
}

impl Group {
    fn of(audience: &Audience) -> Vec<Self> {
        match audience {
            Audience::Everyone => vec![Self::Everyone],
            Audience::Namespace(namespace) => vec![Self::Namespace(namespace.clone())],
            Audience::Serving(servers) => servers.iter().cloned().map(Self::Serving).collect(),
            Audience::Calling => vec![Self::Calling],
        }
    }
}
