//! The servers beside this sidecar, as they are spoken to. They are made from the snapshot and kept across changes of
//! it: whoever merely gets another policy keeps its connections, its child and its sessions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_proto::name::{ServerName, Workload};
use weft_proto::policy::placement;
use weft_proto::resource::kinds::McpServer;

use crate::admit::Places;
use crate::backend::{self, Backend, CALL_TIMEOUT};
use crate::bootstrap::{Node, Upstream};
use crate::classify::Call;
use crate::exposure::Exposed;
use crate::health::check::Checked;
use crate::health::{Health, Told};
use crate::identify::Caller;
use crate::limits::Limits;
use crate::metrics::{Metrics, ServerLabel, ServerSeries};
use crate::quota::Plans;
use crate::receive::Place;
use crate::refusal::Refusal;
use crate::session_id::Ring;
use crate::state::{Current, Origin};
use crate::stdio::Phase;
use crate::stdio::launch::Launcher;
use crate::tools::Tools;
use crate::trace::{self, Tracer};

/// A server beside this sidecar.
#[derive(Debug)]
pub struct Local {
    pub name: ServerName,
    pub label: Arc<str>,
    /// The same, as a header.
    pub header: HeaderValue,
    pub spec: McpServer,
    pub places: Arc<Places>,
    /// What quotas say of it, made ready.
    pub quotas: Plans,
    pub series: Arc<ServerSeries>,
    /// Calls under way.
    pub in_flight: Gauge,
    pub backend: Arc<Backend>,
    /// What active checks found, where the server is to be checked.
    pub checked: Option<Arc<Checked>>,
    /// What it advertises, and what policies for its tools need.
    pub tools: Arc<Tools>,
    /// By whom calls of it are traced.
    pub traced: trace::Service,
}

/// The servers beside this sidecar now. Clones are the same.
#[derive(Clone, Debug)]
pub struct Servers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: ArcSwap<HashMap<ServerName, Arc<Local>>>,
    /// Whether the table is of some configuration, which may have no servers.
    made: AtomicBool,
    /// Where servers can be called past this sidecar, as it was found last.
    exposed: ArcSwap<Exposed>,
    /// Something happened by which the health of a server may be another.
    changes: watch::Sender<()>,
    parts: Parts,
}

/// What servers are made with.
#[derive(Debug)]
pub struct Parts {
    pub node: Node,
    pub limits: Arc<Limits>,
    pub metrics: Arc<Metrics>,
    pub launcher: Launcher,
    pub drain: CancellationToken,
    /// What ids of sessions are sealed with.
    pub ring: Ring,
    pub tracer: Tracer,
    /// Whether somebody is told of all that the servers offer.
    pub told: bool,
}

impl Servers {
    pub fn new(parts: Parts) -> Self {
        let (table, made, changes) = (ArcSwap::default(), AtomicBool::new(false), watch::Sender::new(()));
        Self(Arc::new(Shared { table, made, exposed: ArcSwap::default(), changes, parts }))
    }

    /// Finds the server that a path leads to.
    pub fn find(&self, place: &Place, current: &Current) -> Result<Arc<Local>, Refusal> {
        let table = self.0.table.load();
        let found = match place {
            Place::Only => table.values().next().filter(|_| table.len() == 1),
            Place::Virtual(_) => None,
            Place::Server(name) => table.get(name).or_else(|| table.get(current.snapshot.aliases.get(name)?)),
        };
        found.cloned().ok_or_else(|| match (place, current.origin) {
            (_, Origin::Nothing) => Refusal::NotReady,
            (Place::Only, _) => Refusal::UnknownServer("the only one".to_owned()),
            (Place::Server(name) | Place::Virtual(name), _) => Refusal::UnknownServer(name.to_string()),
        })
    }

    /// Whether the servers of a configuration are known here; before, each would be taken for one that does not exist.
    pub fn are_made(&self) -> bool {
        self.0.made.load(Ordering::Relaxed)
    }

    pub fn all(&self) -> Vec<Arc<Local>> {
        self.0.table.load().values().cloned().collect()
    }

    /// Those that listen, and where they are spoken to.
    pub fn listening(&self) -> Vec<(Arc<str>, Upstream)> {
        let at = |local: &Local| backend::listens_at(&local.name, &local.spec, &self.0.parts.node);
        self.all().iter().filter_map(|it| Some((Arc::clone(&it.label), at(it)?))).collect()
    }

    /// How each server is, in the order of their names.
    pub fn told(&self) -> Vec<Told> {
        let draining = self.0.parts.drain.is_cancelled();
        let exposed = self.0.exposed.load();
        let told = |local: Arc<Local>| Told {
            server: Arc::clone(&local.label),
            health: if draining { Health::Draining } else { local.health() },
            in_flight: u32::try_from(local.in_flight.get()).unwrap_or_default(),
            exposed_at: exposed.get(&local.label).map(|at| at.as_slice().into()).unwrap_or_default(),
        };
        let mut all: Vec<Told> = self.all().into_iter().map(told).collect();
        all.sort_by(|a, b| a.server.cmp(&b.server));
        all
    }

    /// Notes where servers can be called past this sidecar.
    pub fn found_exposed(&self, exposed: Exposed) {
        let before = self.0.exposed.swap(Arc::new(exposed));
        if *before != **self.0.exposed.load() {
            self.0.changes.send_replace(());
        }
    }

    /// Notices when the health of a server may be another than before.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    /// Cancelled once this sidecar drains.
    pub fn drain(&self) -> CancellationToken {
        self.0.parts.drain.clone()
    }

    /// Makes the table that of a snapshot. What is spoken to in the same way stays as it is.
    pub fn follow(&self, current: &Current, identity: Option<&Workload>) {
        let before = self.0.table.load_full();
        let mut table = HashMap::new();
        for (name, entry) in &current.snapshot.servers {
            let spec = &entry.server.spec;
            if !self.stands_beside(name, spec, identity) {
                continue;
            }
            let kept = before.get(name).filter(|local| local.spec == *spec).cloned();
            if let Some(local) = kept.or_else(|| self.make(name, spec, before.get(name))) {
                local.tools.follow(entry);
                table.insert(name.clone(), local);
            }
        }
        let gone: BTreeMap<_, _> = before
            .iter()
            .filter(|(name, local)| {
                !table.get(*name).is_some_and(|now| Arc::ptr_eq(&now.backend, &local.backend))
            })
            .collect();
        self.0.table.store(Arc::new(table));
        self.0.made.store(current.origin != Origin::Nothing, Ordering::Relaxed);
        for (name, local) in gone {
            tracing::info!(server = %name, "the server is spoken to in this way no more");
            local.backend.retire();
        }
        self.0.changes.send_replace(());
    }

    /// Without an identity (a local file and no certificates) the node's own word is all there is.
    fn stands_beside(&self, name: &ServerName, spec: &McpServer, identity: Option<&Workload>) -> bool {
        let node = &self.0.parts.node;
        match identity {
            Some(identity) => {
                let place = placement::Place { identity, labels: &node.labels, claims: &node.servers };
                placement::serves(spec, name, place)
            }
            None => node.servers.contains(name),
        }
    }

    /// What of the server's earlier self is still as it was declared is kept: an edit of its timeouts ends neither its
    /// child nor a session.
    fn make(&self, name: &ServerName, spec: &McpServer, before: Option<&Arc<Local>>) -> Option<Arc<Local>> {
        let parts = &self.0.parts;
        let backend = match before.filter(|local| reached_alike(&local.spec, spec)) {
            Some(local) => Arc::clone(&local.backend),
            None => match Backend::new(name, spec, parts) {
                Ok(backend) => {
                    tracing::info!(server = %name, "standing beside the server");
                    if let Backend::Child(child) = &backend {
                        tokio::spawn(tell_of(child.peer.phase(), self.0.changes.clone()));
                    }
                    Arc::new(backend)
                }
                Err(error) => {
                    tracing::error!(server = %name, %error, "the server cannot be spoken to");
                    return None;
                }
            },
        };
        // Calls under way go on counting.
        let places = before.filter(|local| local.spec.in_flight == spec.in_flight);
        let places = places.map(|local| Arc::clone(&local.places));
        let label: Arc<str> = name.to_string().into();
        let checked = self.checked(&label, spec, &backend, before);
        let tools = before.filter(|local| Arc::ptr_eq(&local.backend, &backend));
        let tools = tools.map(|local| Arc::clone(&local.tools));
        let tools = tools.unwrap_or_else(|| {
            let changes = self.0.changes.clone();
            Arc::new(Tools::new(&label, &backend, &parts.limits, &parts.metrics, parts.told, changes))
        });
        Some(Arc::new(Local {
            name: name.clone(),
            header: HeaderValue::from_str(&label).ok()?,
            spec: spec.clone(),
            places: places
                .unwrap_or_else(|| Arc::new(Places::new(&spec.in_flight, parts.limits.listening_max))),
            quotas: Plans::default(),
            series: Arc::new(ServerSeries::new(&parts.metrics, "inbound", Arc::clone(&label))),
            in_flight: parts
                .metrics
                .in_flight
                .get_or_create_owned(&ServerLabel { server: Arc::clone(&label) }),
            backend,
            checked,
            tools,
            traced: before.map_or_else(|| parts.tracer.serving(name), |local| local.traced.clone()),
            label,
        }))
    }

    /// Goes on with the checks that there are, if they are still those that are wanted; and with what they have found, if
    /// at least the server is the same.
    fn checked(
        &self,
        label: &Arc<str>,
        spec: &McpServer,
        backend: &Arc<Backend>,
        before: Option<&Arc<Local>>,
    ) -> Option<Arc<Checked>> {
        let check = spec.health_check.as_ref()?;
        let before = before.filter(|local| Arc::ptr_eq(&local.backend, backend));
        let known = before.and_then(|local| local.checked.as_ref().map(|checked| (local, checked)));
        if let Some((local, checked)) = known
            && local.spec.health_check == spec.health_check
        {
            return Some(Arc::clone(checked));
        }
        let found = known.map_or(Health::Starting, |(_, checked)| checked.health());
        Some(Arc::new(backend.check(Arc::clone(label), check, found, self.0.changes.clone())))
    }

    /// Ends every child and forgets every connection.
    pub async fn stop(&self) {
        let table = self.0.table.swap(Arc::default());
        for local in table.values() {
            local.backend.stop().await;
        }
    }
}

impl Local {
    /// Time to the first byte of an answer, if no policy for a tool says anything else.
    pub fn call_timeout(&self) -> Duration {
        self.spec.timeouts.call.map_or(CALL_TIMEOUT, |span| span.duration())
    }

    /// Whether a call goes on with one of this caller's that waits here for what its server asked.
    pub fn goes_on(&self, caller: &Caller, call: &Call<'_>) -> bool {
        let says_so = call.request().is_some_and(|request| request.params.request_state.is_some());
        says_so && self.backend.front().is_some_and(|front| front.waits(&caller.shared_name(), call))
    }

    /// How the server is, as far as it is known here.
    pub fn health(&self) -> Health {
        match &self.checked {
            Some(checked) if self.backend.can_be_asked() => checked.health(),
            Some(_) | None => self.backend.health(),
        }
    }
}

/// Says that something changed whenever a child does something else, as long as there is one.
async fn tell_of(mut phase: watch::Receiver<Phase>, changes: watch::Sender<()>) {
    while phase.changed().await.is_ok() {
        changes.send_replace(());
    }
}

/// Whether two declarations of a server lead to the same place in the same way.
fn reached_alike(one: &McpServer, other: &McpServer) -> bool {
    one.location == other.location
        && one.path == other.path
        && one.protocol == other.protocol
        && one.timeouts.connect == other.timeouts.connect
}
