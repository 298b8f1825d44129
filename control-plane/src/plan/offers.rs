//! What servers offer, cut down to what each viewer may use of it.
//!
//! An offer is published whole; whoever may use only a part of it is sent that part, under a version of its own. What
//! policies say of the items is found once and kept until a policy, the server or its offer changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_proto::compile::ServerEntry;
use weft_proto::mcp::lists::Listed;
use weft_proto::name::ServerName;
use weft_proto::offer::{Offer, Offered};
use weft_proto::policy::Caller;
use weft_proto::policy::access::View;
use weft_proto::policy::tools::{self, Speaking};
use weft_proto::resource::kinds::{Strictness, ToolPolicy};
use weft_proto::resource::{Resource, Spec};
use weft_proto::wire::{self, Meta, Object, ResourceType};

use super::world::{Published, World};
use super::{Audience, Touched, Viewer};

/// Different parts of one offer that are kept ready.
const PARTS_MAX: usize = 256;

/// The offers of all servers, whether or not there is an object for the server.
#[derive(Debug, Default)]
pub(super) struct Offers(HashMap<ServerName, Whole>);

#[derive(Debug)]
struct Whole {
    offer: Arc<Offer>,
    /// What was found out about it; none where something has changed since.
    judged: Mutex<Option<Judged>>,
}

/// What policies say of an offer.
#[derive(Debug)]
struct Judged {
    entry: ServerEntry,
    /// Of each item whether its definition may be seen by anybody.
    approved: Box<[bool]>,
    /// Parts of it, by which of its items they have: one bit each.
    parts: HashMap<Box<[u64]>, Arc<Published>>,
}

impl Offers {
    fn of(&self, server: &ServerName) -> Option<&Whole> {
        self.0.get(server)
    }

    /// Something that decides who may use what of a server is another.
    pub(super) fn judge_anew(&self, server: &ServerName) {
        if let Some(whole) = self.of(server) {
            *lock(&whole.judged) = None;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Takes what a server offers now.
    pub(super) fn offered(
        &mut self,
        server: &ServerName,
        offer: Option<Arc<Offer>>,
        touched: &mut Vec<Touched>,
    ) {
        match offer {
            Some(offer) => {
                let whole = Whole { offer, judged: Mutex::default() };
                self.offers.0.insert(server.clone(), whole);
            }
            None => _ = self.offers.0.remove(server),
        }
        self.publish_offer(server, touched);
    }

    /// Publishes what a server offers, as long as there is such a server.
    pub(super) fn publish_offer(&mut self, server: &ServerName, touched: &mut Vec<Touched>) {
        let ty = ResourceType::Offer;
        let name: Arc<str> = server.to_string().into();
        let note = |touched: &mut Vec<Touched>| {
            touched.push(Touched { ty, name: Arc::clone(&name), audience: Audience::Calling });
        };
        let is_there = self.tables[ResourceType::Server.index()].by_name.contains_key(&name);
        let Some(whole) = self.offers.of(server).filter(|_| is_there) else {
            if self.tables[ty.index()].remove(&name).is_some() {
                note(touched);
            }
            return;
        };
        let bytes = wire::encode_offer(&whole.offer);
        let published = Arc::new(Published::new(ty, Arc::clone(&name), Vec::new(), bytes, None));
        if self.tables[ty.index()].version(&name) != Some(&published.version) {
            self.tables[ty.index()].insert(&published);
            note(touched);
        }
    }

    /// A resource as a viewer is sent it who may see it.
    pub(super) fn as_sent(&self, viewer: &Viewer, published: &Arc<Published>) -> Arc<Published> {
        match published.ty {
            ResourceType::Offer => self.part_of_offer(viewer, published),
            _ => Arc::clone(published),
        }
    }

    fn part_of_offer(&self, viewer: &Viewer, published: &Arc<Published>) -> Arc<Published> {
        let server = ServerName::parse(&published.name).ok();
        let server = server.as_ref().and_then(|name| Some((name, self.server_object(name)?)));
        let whole = server.and_then(|(name, object)| Some((name, object, self.offers.of(name)?)));
        // Whatever is published has all of these.
        let Some((name, object, whole)) = whole else { return Arc::clone(published) };
        let mut judged = lock(&whole.judged);
        let judged = judged.get_or_insert_with(|| self.judged(object, &whole.offer));
        let caller = Caller::new(viewer.identity.clone());
        let (access, server) = (&judged.entry.access, name.clone());
        // What its callers may depends on their claims. Whoever merely calls itself a gateway has no callers that
        // anybody believes.
        let view = match self.is_named_gateway(viewer) {
            true => View::of_any_guest(access, self.default_action, caller, server),
            false => View::new(access, self.default_action, caller, server),
        };
        let items = whole.offer.items();
        let mut bits = vec![0_u64; items.len().div_ceil(64)].into_boxed_slice();
        for ((at, item), approved) in items.iter().enumerate().zip(&judged.approved) {
            if *approved && view.may_list(item.kind, &item.name) {
                bits[at / 64] |= 1 << (at % 64);
            }
        }
        let count: usize = bits.iter().map(|word| word.count_ones() as usize).sum();
        if count == items.len() {
            return Arc::clone(published);
        }
        if let Some(part) = judged.parts.get(&bits) {
            return Arc::clone(part);
        }
        let mut at = 0..;
        let offer = whole.offer.only(|_| at.next().is_some_and(|at| bits[at / 64] >> (at % 64) & 1 == 1));
        let bytes = wire::encode_offer(&offer);
        let part = Published::new(published.ty, Arc::clone(&published.name), Vec::new(), bytes, None);
        let part = Arc::new(part);
        if judged.parts.len() >= PARTS_MAX {
            judged.parts.clear();
        }
        judged.parts.insert(bits, Arc::clone(&part));
        part
    }

    fn server_object(&self, server: &ServerName) -> Option<&Arc<Published>> {
        self.servers.of(&server.namespace)?.get(&server.name)
    }

    fn judged(&self, server: &Published, offer: &Offer) -> Judged {
        let entry = server.object.as_deref().and_then(|resource| self.entry(resource));
        let entry = entry.expect("what is published as a server was made from one");
        let approved = offer.items().iter().map(|item| self.is_approved(&entry, item)).collect();
        Judged { entry, approved, parts: HashMap::new() }
    }

    /// The server as one of its callers would be judged by it. In which order policies stand makes no difference to what
    /// may be seen.
    fn entry(&self, resource: &Resource) -> Option<ServerEntry> {
        let Spec::McpServer(spec) = &resource.spec else { return None };
        let access = self.selected_by(resource, ResourceType::AccessPolicy);
        let access: Vec<_> = access
            .filter_map(|it| {
                object(it, |spec| if let Spec::AccessPolicy(it) = spec { Some(it) } else { None })
            })
            .collect();
        let tools = self.selected_by(resource, ResourceType::ToolPolicy);
        let tools = tools.filter_map(|it| {
            object(it, |spec| if let Spec::ToolPolicy(it) = spec { Some(it) } else { None })
        });
        let server = Object { meta: Meta::new(&resource.metadata, 0), spec: spec.clone() };
        Some(ServerEntry {
            server: Arc::new(server),
            endpoints: Arc::new([]),
            access: access.into(),
            quotas: Vec::new(),
            tools: tools.collect(),
            telemetry: Vec::new(),
            route: None,
            offer: None,
        })
    }

    fn is_approved(&self, entry: &ServerEntry, item: &Offered) -> bool {
        let pins = |policy: &Arc<Object<ToolPolicy>>| policy.spec.pin == Strictness::Enforce;
        if item.kind != Listed::Tool || !entry.tools.iter().any(pins) {
            return true;
        }
        let pin = Speaking::of(entry, &self.root, &item.name).treatments(&item.name).enforced.pin;
        pin.shows(tools::digest(&item.definition).ok().as_ref())
    }
}

fn object<S: Clone>(published: &Published, spec: impl Fn(&Spec) -> Option<&S>) -> Option<Arc<Object<S>>> {
    let resource = published.object.as_deref()?;
    let spec = spec(&resource.spec)?.clone();
    Some(Arc::new(Object { meta: Meta::new(&resource.metadata, 0), spec }))
}
