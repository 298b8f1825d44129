//! One client's subscriptions, as the delta protocol defines them: requests and changes go in, responses come out.
//!
//! Pure: no clock, no channel, no lock. Not here: who the client is (`node`) and what there is (`plan`).

mod outgoing;
mod state;

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_proto::name::ServerName;
use weft_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use weft_proto::wire::ResourceType;

#[cfg(test)]
use crate::plan::Stances;
use crate::plan::{Lookup, Published, Touched, Viewer, World};
pub(super) use outgoing::Outgoing;
use outgoing::in_pieces;
pub(super) use state::{Answer, TypeState};

/// Most names that one request may add or take away.
pub(super) const REQUEST_NAMES_MAX: usize = 10_000;
/// Most names that one client may subscribe to in one type.
pub(super) const SUBSCRIPTIONS_MAX: usize = 20_000;
/// Longest name, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 512;
/// Most resources in one response.
pub(super) const RESPONSE_RESOURCES_MAX: usize = 500;
/// Most names that one response takes away.
pub(super) const RESPONSE_REMOVED_MAX: usize = 5_000;
/// Most resources that a client may say it still holds.
pub(super) const BROUGHT_MAX: usize = 60_000;
/// Largest response, in bytes of resources; a single larger resource travels alone.
pub(super) const RESPONSE_BYTES_MAX: usize = 512 << 10;
/// Most types of resources that a client may ask for without our knowing them.
pub(super) const UNKNOWN_TYPES_MAX: usize = 16;
/// Responses of one type that may await their answer before changes wait too.
pub(super) const UNANSWERED_MAX: usize = 16;

const PERMISSION_DENIED: i32 = 7;
const NOT_FOUND: i32 = 5;

/// Why a stream must end. A client that gets this broke the protocol or a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("the request names no type")]
    NoType,
    #[error("the request has {0} names; at most {REQUEST_NAMES_MAX} are allowed in one")]
    TooManyNames(usize),
    #[error("the client holds {0} resources of one type; at most {BROUGHT_MAX} are allowed")]
    TooManyBrought(usize),
    #[error("a name is {0} bytes long; at most {NAME_BYTES_MAX} are allowed")]
    LongName(usize),
    #[error("a name is empty")]
    EmptyName,
    #[error("the subscription would hold more than {SUBSCRIPTIONS_MAX} names of one type")]
    TooManySubscriptions,
    #[error("more than {UNKNOWN_TYPES_MAX} types of resources are unknown here")]
    TooManyUnknownTypes,
    #[error("resource locators are not supported; subscribe by name")]
    Locators,
}

/// What a request said besides what it subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// A subscription change, or nothing.
    Spontaneous,
    Acknowledged {
        ty: ResourceType,
    },
    Rejected {
        ty: ResourceType,
        message: String,
        stale: bool,
    },
    /// An answer to a response that is not the latest.
    Stale {
        ty: ResourceType,
    },
    /// Something about a type that this version does not know.
    UnknownType {
        type_url: String,
    },
}

/// What there is, as one client sees it.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub world: &'a World,
    pub viewer: &'a Viewer,
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Session {
    identifier: Arc<str>,
    types: [TypeState; ResourceType::ALL.len()],
    unknown: BTreeSet<String>,
    served: Vec<ServerName>,
    nonces: u64,
}

impl Session {
    pub(super) fn new(identifier: Arc<str>, view: View<'_>) -> Self {
        let served = view.world.served_by(view.viewer);
        Self { identifier, types: Default::default(), unknown: BTreeSet::new(), served, nonces: 0 }
    }

    /// The servers that the client stands beside.
    pub(super) fn served(&self) -> &[ServerName] {
        &self.served
    }

    /// Whether any response of a type awaits its answer.
    pub(super) fn unanswered(&self, ty: ResourceType) -> usize {
        self.types[ty.index()].unanswered()
    }

    /// Whether the client has asked for a type, and how many resources of it it is believed to hold.
    pub(super) fn holds(&self, ty: ResourceType) -> Option<usize> {
        let state = &self.types[ty.index()];
        state.is_subscribed().then(|| state.held())
    }

    /// The version of a resource that the client is believed to hold.
    pub(super) fn version(&self, ty: ResourceType, name: &str) -> Option<Arc<str>> {
        self.types[ty.index()].version(name).cloned()
    }

    /// Whether changes are held back until the client has answered.
    #[cfg(test)]
    pub(super) fn has_pending(&self) -> bool {
        self.types.iter().any(|state| state.has_dirty())
    }

    /// Takes in one request and answers it.
    pub(super) fn request(
        &mut self,
        request: DeltaDiscoveryRequest,
        view: View<'_>,
    ) -> Result<(Heard, Vec<Outgoing>), Error> {
        check(&request)?;
        let Some(ty) = ResourceType::from_type_url(&request.type_url) else {
            return self.unknown_type(request);
        };
        let heard = self.hear(ty, &request);
        let answer = self.types[ty.index()].subscribe(request)?;
        let mut outgoing = self.answer(ty, answer, view);
        if matches!(heard, Heard::Acknowledged { .. } | Heard::Rejected { stale: false, .. }) {
            // An answer may free what waited for it.
            outgoing.extend(self.push(view));
        }
        Ok((heard, outgoing))
    }

    /// Takes in everything that changed since the last time and tells the client what concerns it. All of it is judged
    /// at once: the order of delivery holds only within one push.
    pub(super) fn changed<'t>(
        &mut self,
        touched: impl IntoIterator<Item = &'t Touched> + Clone,
        view: View<'_>,
    ) -> Vec<Outgoing> {
        let of_namespace =
            |it: &&Touched| it.ty == ResourceType::Server && in_namespace(&it.name, view.viewer);
        let mut servers = touched.clone().into_iter().filter(of_namespace).peekable();
        if servers.peek().is_some() {
            let served = view.world.served_by(view.viewer);
            // A server's labels decide which policies select it, so a change of an own server may change them all.
            let own = |name: &str| self.served.iter().any(|server| server.to_string() == name);
            if served != self.served || servers.any(|it| own(&it.name)) {
                return self.resync(view);
            }
        }
        for it in touched {
            let state = &mut self.types[it.ty.index()];
            if state.is_subscribed() {
                state.mark(&it.name);
            }
        }
        self.push(view)
    }

    /// Whether the client asked for anything by name, which may be anywhere in the mesh.
    pub(super) fn names_any(&self) -> bool {
        self.types.iter().any(TypeState::names_any)
    }

    /// Compares everything that the client should hold with what it is believed to hold.
    pub(super) fn resync(&mut self, view: View<'_>) -> Vec<Outgoing> {
        // Whatever was missed may have been a server of the client's own.
        self.served = view.world.served_by(view.viewer);
        for ty in ResourceType::ALL {
            let wanted = match self.types[ty.index()].is_wildcard() {
                true => view.world.concerning(view.viewer, &self.served, ty),
                false => Vec::new(),
            };
            self.types[ty.index()].mark_all(&wanted);
        }
        self.push(view)
    }

    /// Sends what is marked, as far as the client has answered what it was sent: additions in order of delivery, then
    /// removals in reverse. What is no longer pointed at goes only after the client has agreed to stop pointing at it.
    fn push(&mut self, view: View<'_>) -> Vec<Outgoing> {
        let mut outgoing = Vec::new();
        let mut removals = Vec::new();
        for ty in ResourceType::ALL {
            let state = &mut self.types[ty.index()];
            if state.unanswered() >= UNANSWERED_MAX || !state.has_dirty() {
                continue;
            }
            let mut additions = Vec::new();
            let mut gone = Vec::new();
            for name in state.take_dirty() {
                match judge(state, &self.served, ty, &name, view) {
                    Verdict::Send(published) => additions.push(published),
                    Verdict::Remove { denied } => gone.push((name, denied)),
                    Verdict::Nothing => {}
                }
            }
            outgoing.extend(self.respond(ty, Answer { send: additions, ..Answer::default() }, view));
            removals.push((ty, gone));
        }
        let mut held_back = false;
        for (ty, gone) in removals.into_iter().rev().filter(|(_, gone)| !gone.is_empty()) {
            let pointed_at = matches!(ty, ResourceType::Server | ResourceType::Endpoints);
            held_back |=
                pointed_at && POINTERS.iter().any(|above| self.types[above.index()].unanswered() > 0);
            // What guards a server stays for as long as the server does.
            if held_back && ty <= ResourceType::Endpoints {
                let state = &mut self.types[ty.index()];
                gone.iter().for_each(|(name, _)| state.mark(name));
                continue;
            }
            let state = &mut self.types[ty.index()];
            gone.iter().for_each(|(name, _)| state.forget(name));
            let refused = gone.iter().filter(|(_, denied)| *denied);
            let refused = refused.map(|(name, _)| (Arc::clone(name), PERMISSION_DENIED)).collect();
            let removed = gone.into_iter().map(|(name, _)| name).collect();
            outgoing.extend(self.respond(ty, Answer { removed, refused, ..Answer::default() }, view));
        }
        outgoing
    }

    /// What the request says about an earlier response.
    fn hear(&mut self, ty: ResourceType, request: &DeltaDiscoveryRequest) -> Heard {
        if request.response_nonce.is_empty() {
            // Without a nonce it answers nothing, whatever else it carries.
            return Heard::Spontaneous;
        }
        let known = self.types[ty.index()].answered(&request.response_nonce);
        match (&request.error_detail, known) {
            (Some(error), known) => Heard::Rejected { ty, message: clip(&error.message), stale: !known },
            (None, true) => Heard::Acknowledged { ty },
            (None, false) => Heard::Stale { ty },
        }
    }

    /// Turns what the subscription asks for into responses.
    fn answer(&mut self, ty: ResourceType, ask: state::Ask, view: View<'_>) -> Vec<Outgoing> {
        let subscribed = self.types[ty.index()].is_subscribed();
        // Whoever asks for the first time waits for an answer, even if it is that there is nothing.
        let mut answer = Answer { even_if_empty: ask.first && subscribed, ..Answer::default() };
        let world = view.world;
        let held = |state: &TypeState, published: &Published| {
            let version = state.version(&published.name);
            version == Some(&published.version)
                || (state.brought(&published.name) && world.keeps(ty, &published.name, version))
        };
        if ask.wildcard {
            let concerning = view.world.concerning(view.viewer, &self.served, ty);
            let state = &self.types[ty.index()];
            answer
                .send
                .extend(concerning.into_iter().filter(|published| !(ask.first && held(state, published))));
        }
        for name in ask.names {
            match view.world.lookup(view.viewer, &self.served, ty, &name) {
                Lookup::Found(published) => {
                    let state = &mut self.types[ty.index()];
                    state.resolve(&name, &published.name);
                    // Whoever reconnects says what it still has; whoever merely asks may have forgotten.
                    if !(ask.first && held(state, &published)) {
                        answer.send.push(published);
                    }
                }
                Lookup::Missing => answer.refuse(name, NOT_FOUND),
                Lookup::Denied => answer.refuse(name, PERMISSION_DENIED),
            }
        }
        for name in ask.unsubscribed_under_wildcard {
            match view.world.lookup(view.viewer, &self.served, ty, &name) {
                Lookup::Found(it) if view.world.concerns(view.viewer, &self.served, &it) => {
                    answer.send.push(it);
                }
                Lookup::Found(it) => answer.removed.push(Arc::clone(&it.name)),
                Lookup::Missing | Lookup::Denied => answer.removed.push(name),
            }
        }
        // What the client brought along and may hold no longer.
        for name in ask.brought {
            let state = &self.types[ty.index()];
            let kept = match view.world.lookup(view.viewer, &self.served, ty, &name) {
                Lookup::Found(published) => wants(state, &self.served, &published, view),
                Lookup::Missing | Lookup::Denied => false,
            };
            if !kept {
                answer.removed.push(name);
            }
        }
        let state = &mut self.types[ty.index()];
        answer.removed.iter().for_each(|name| state.forget(name));
        self.respond(ty, answer, view)
    }

    /// Cuts an answer into responses of bounded size and notes what the client will hold.
    fn respond(&mut self, ty: ResourceType, answer: Answer, view: View<'_>) -> Vec<Outgoing> {
        let Answer { mut send, mut removed, mut refused, even_if_empty } = answer;
        send.sort_by(|a, b| a.name.cmp(&b.name));
        send.dedup_by(|a, b| a.name == b.name);
        removed.sort();
        removed.dedup();
        refused.sort();
        refused.dedup();
        let mut outgoing = Vec::new();
        for resources in in_pieces(send) {
            let state = &mut self.types[ty.index()];
            resources.iter().for_each(|published| state.sent(published));
            outgoing.push(self.outgoing(ty, view, resources));
        }
        if outgoing.is_empty() && (even_if_empty || !removed.is_empty()) {
            outgoing.push(self.outgoing(ty, view, Vec::new()));
        }
        // What is gone rides with the last, and in more of them if it is much. A name that is refused is gone too.
        for (at, gone) in removed.chunks(RESPONSE_REMOVED_MAX).enumerate() {
            if at > 0 {
                outgoing.push(self.outgoing(ty, view, Vec::new()));
            }
            let Some(last) = outgoing.last_mut() else { break };
            last.removed = gone.to_vec();
            last.refused =
                refused.iter().filter(|(name, _)| gone.binary_search(name).is_ok()).cloned().collect();
        }
        outgoing
    }

    fn outgoing(&mut self, ty: ResourceType, view: View<'_>, resources: Vec<Arc<Published>>) -> Outgoing {
        let nonce = self.next_nonce();
        self.types[ty.index()].awaits(nonce.clone());
        Outgoing {
            ty: Some(ty),
            type_url: ty.type_url().to_owned(),
            identifier: Arc::clone(&self.identifier),
            revision: view.world.revision(),
            nonce,
            resources,
            removed: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// A newer client may ask for types that this version does not know: it is told once that there is nothing of
    /// them, so that it can go on without.
    fn unknown_type(&mut self, request: DeltaDiscoveryRequest) -> Result<(Heard, Vec<Outgoing>), Error> {
        let type_url = request.type_url;
        let heard = Heard::UnknownType { type_url: clip(&type_url) };
        if request.resource_names_subscribe.is_empty() && self.unknown.contains(&type_url) {
            return Ok((heard, Vec::new()));
        }
        if !self.unknown.contains(&type_url) && self.unknown.len() == UNKNOWN_TYPES_MAX {
            return Err(Error::TooManyUnknownTypes);
        }
        self.unknown.insert(type_url.clone());
        let mut names = request.resource_names_subscribe;
        names.retain(|name| name != "*");
        names.sort();
        names.dedup();
        let removed: Vec<Arc<str>> = names.into_iter().map(Into::into).collect();
        let outgoing = Outgoing {
            ty: None,
            type_url,
            identifier: Arc::clone(&self.identifier),
            revision: 0,
            nonce: self.next_nonce(),
            resources: Vec::new(),
            refused: removed.iter().map(|name| (Arc::clone(name), NOT_FOUND)).collect(),
            removed,
        };
        Ok((heard, vec![outgoing]))
    }

    fn next_nonce(&mut self) -> String {
        self.nonces += 1;
        self.nonces.to_string()
    }
}

/// What a change of one name means for a client.
enum Verdict {
    Send(Arc<Published>),
    /// `denied`: the client asked for it by name and is owed the reason.
    Remove {
        denied: bool,
    },
    Nothing,
}

fn judge(
    state: &TypeState,
    served: &[ServerName],
    ty: ResourceType,
    name: &Arc<str>,
    view: View<'_>,
) -> Verdict {
    let found = view.world.lookup(view.viewer, served, ty, name);
    match found {
        Lookup::Found(published) if wants(state, served, &published, view) => {
            // An alias stands for the resource, and the client holds it under its own name.
            let held = state.version(&published.name);
            let keeps = state.brought(&published.name) && view.world.keeps(ty, &published.name, held);
            match held == Some(&published.version) || keeps {
                true => Verdict::Nothing,
                false => Verdict::Send(published),
            }
        }
        Lookup::Denied if state.version(name).is_some() => Verdict::Remove { denied: state.asked_for(name) },
        Lookup::Found(_) | Lookup::Missing if state.version(name).is_some() => {
            Verdict::Remove { denied: false }
        }
        Lookup::Found(_) | Lookup::Missing | Lookup::Denied => Verdict::Nothing,
    }
}

/// Whether a client asked for a resource, by its name, an alias, or the wildcard.
fn wants(state: &TypeState, served: &[ServerName], published: &Published, view: View<'_>) -> bool {
    let by_name =
        state.asked_for(&published.name) || published.aliases.iter().any(|alias| state.asked_for(alias));
    by_name || (state.is_wildcard() && view.world.concerns(view.viewer, served, published))
}

/// The types whose resources point at servers.
const POINTERS: [ResourceType; 2] = [ResourceType::Route, ResourceType::VirtualServer];

fn in_namespace(name: &str, viewer: &Viewer) -> bool {
    name.split_once('/').is_some_and(|(namespace, _)| namespace == viewer.identity.namespace.as_str())
}

/// Everything that can be refused without looking at what there is.
fn check(request: &DeltaDiscoveryRequest) -> Result<(), Error> {
    if request.type_url.is_empty() {
        return Err(Error::NoType);
    }
    if !request.resource_locators_subscribe.is_empty() || !request.resource_locators_unsubscribe.is_empty() {
        return Err(Error::Locators);
    }
    let brought = &request.initial_resource_versions;
    if brought.len() > BROUGHT_MAX {
        return Err(Error::TooManyBrought(brought.len()));
    }
    if let Some(name) = brought.keys().find(|name| name.len() > NAME_BYTES_MAX) {
        return Err(Error::LongName(name.len()));
    }
    let names = request.resource_names_subscribe.iter().chain(&request.resource_names_unsubscribe);
    let mut count = 0;
    for name in names.chain([&request.type_url]) {
        count += 1;
        if name.is_empty() {
            return Err(Error::EmptyName);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(Error::LongName(name.len()));
        }
    }
    if count > 2 * REQUEST_NAMES_MAX || request.resource_names_subscribe.len() > REQUEST_NAMES_MAX {
        return Err(Error::TooManyNames(count));
    }
    Ok(())
}

/// What is kept of a client's own words.
const MESSAGE_BYTES_MAX: usize = 2048;

fn clip(text: &str) -> String {
    let end =
        (0..=MESSAGE_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

/// The request path as a fuzzer drives it.
pub mod fuzz {
    use super::{DeltaDiscoveryRequest, Session, View};

    /// Feeds requests to a fresh session and checks what must hold of its answers.
    pub fn requests(view: View<'_>, requests: Vec<DeltaDiscoveryRequest>) {
        let mut session = Session::new("fuzz".into(), view);
        let mut nonces = std::collections::HashSet::new();
        for request in requests {
            let Ok((_, outgoing)) = session.request(request, view) else { return };
            for outgoing in outgoing {
                let message = outgoing.into_message();
                assert!(nonces.insert(message.nonce), "a nonce was given twice");
                let mut names: Vec<_> = message.resources.iter().map(|it| &it.name).collect();
                names.extend(&message.removed_resources);
                let count = names.len();
                names.sort();
                names.dedup();
                assert_eq!(names.len(), count, "a name stands twice in one response");
            }
        }
    }
}

#[cfg(test)]
mod tests;
