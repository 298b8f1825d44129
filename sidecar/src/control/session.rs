//! The client's side of the delta discovery protocol: responses go in; answers, and the configuration that they add up
//! to, come out.
//!
//! Pure: no clock, no IO. Not here: when what changed is put into force (`settle`), and the stream itself (`link`).
//!
//! What is good in a response is taken; what is bad is refused with every reason, and the last good version of it
//! stays. A policy that never was good is the one case where that would open something: the servers that it may have
//! been meant to guard, and that were never shown before, are held back until it can be read or is gone.

mod accept;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use weft_certs::bundle::Bundles;
use weft_proto::compile::Parts;
use weft_proto::name::{ServerName, TrustDomain};
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_proto::pb::google::rpc::Status;
use weft_proto::resource::ROOT_NAMESPACE;
use weft_proto::wire::{MESH_NAME, Part, ResourceType};

/// Most resources of one type.
pub const RESOURCES_MAX: usize = 50_000;
/// Bytes of all resources together.
pub const BYTES_MAX: usize = 256 << 20;
/// Longest name of a resource, and longest version, in bytes.
pub const NAME_BYTES_MAX: usize = 512;
/// Bytes of the names and versions of one type that are offered at a reconnect; the rest comes anew.
const OFFERED_BYTES_MAX: usize = 3 << 20;
/// Longest refusal that is sent, in bytes; the control plane keeps no more.
const NACK_BYTES_MAX: usize = 2000;

const INVALID_ARGUMENT: i32 = 3;
const TYPES: usize = ResourceType::ALL.len();

/// A resource as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub ty: ResourceType,
    pub name: Arc<str>,
    /// As the control plane calls it; opaque.
    pub version: Arc<str>,
    pub bytes: Bytes,
}

/// What is kept of an accepted resource beside its part.
#[derive(Clone, Debug)]
struct Held {
    version: Arc<str>,
    bytes: Bytes,
    digest: [u8; 32],
}

/// What is held of one resource, for whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    pub ty: ResourceType,
    pub name: Arc<str>,
    /// As the control plane calls it. None, like the digest, of a policy that could not be read and never was good.
    pub version: Option<Arc<str>>,
    pub digest: Option<[u8; 32]>,
    /// It is not in force, because a policy that may be about it cannot be read.
    pub held_back: bool,
}

/// The answer to one response: exactly one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub request: DeltaDiscoveryRequest,
    /// None for a type that is not known here.
    pub ty: Option<ResourceType>,
    /// Why not all of it was taken.
    pub nack: Option<String>,
    /// Trust domains whose roots were told, or taken away.
    pub trust: BTreeSet<TrustDomain>,
}

/// What changed, ready to be compiled and put into force.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub parts: Arc<Parts>,
    /// Digest of the content, in hex.
    pub version: Arc<str>,
    /// Servers that are held back because a policy that may be about them cannot be read.
    pub held_back: usize,
}

/// What one client holds, and how far the present stream has got.
#[derive(Clone, Debug)]
pub struct Session {
    parts: Arc<Parts>,
    held: [BTreeMap<Arc<str>, Held>; TYPES],
    bundles: Bundles,
    /// Bytes of everything that is held.
    bytes: usize,
    /// Types that were answered on this stream.
    heard: [bool; TYPES],
    /// Policies that were refused on this stream and have no last good version.
    unreadable: BTreeSet<(ResourceType, String)>,
    /// What is held and was not offered on this stream: unless it is told again, it is gone.
    unconfirmed: BTreeSet<(ResourceType, Arc<str>)>,
    /// Servers of the configuration in force, and those that are held back from it.
    shown: BTreeSet<ServerName>,
    held_back: BTreeSet<Arc<str>>,
    changed: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// Holds nothing. That nothing is held is news, too, once the control plane has said so.
    pub fn new() -> Self {
        Self {
            parts: Arc::default(),
            held: Default::default(),
            bundles: Bundles::default(),
            bytes: 0,
            heard: [false; TYPES],
            unreadable: BTreeSet::new(),
            unconfirmed: BTreeSet::new(),
            shown: BTreeSet::new(),
            held_back: BTreeSet::new(),
            changed: true,
        }
    }

    /// Holds what an earlier run accepted. What cannot be read any more is told; it will be asked for anew.
    pub fn restored(resources: impl IntoIterator<Item = Accepted>) -> (Self, Vec<String>) {
        let mut session = Self::new();
        let mut lost = Vec::new();
        for resource in resources {
            let (ty, name) = (resource.ty, Arc::clone(&resource.name));
            if let Err(reason) = session.take(resource) {
                session.note_unreadable(ty, &name);
                lost.push(format!("{ty} {name}: {reason}"));
            }
        }
        (session, lost)
    }

    /// Begins a stream: what is subscribed to, in the order of delivery, with what is held already.
    pub fn connect(&mut self, node: Node) -> Vec<DeltaDiscoveryRequest> {
        self.heard = [false; TYPES];
        // Whatever was refused before is not among what is held, so it comes again.
        self.unreadable.clear();
        self.unconfirmed.clear();
        let mut node = Some(node);
        let requests = ResourceType::ALL.into_iter().map(|ty| DeltaDiscoveryRequest {
            node: node.take(),
            type_url: ty.type_url().to_owned(),
            initial_resource_versions: self.offer(ty),
            ..DeltaDiscoveryRequest::default()
        });
        requests.collect()
    }

    /// The versions that are held, as the first request of a type states them.
    fn offer(&mut self, ty: ResourceType) -> HashMap<String, String> {
        let mut offered = HashMap::new();
        let mut room = OFFERED_BYTES_MAX;
        for (name, held) in &self.held[ty.index()] {
            // Two strings and their map entry take up to eight bytes more than what they say.
            let size = name.len() + held.version.len() + 16;
            // An empty version would say that the resource never came.
            match room.checked_sub(size).filter(|_| !held.version.is_empty()) {
                Some(left) => {
                    room = left;
                    offered.insert(name.to_string(), held.version.to_string());
                }
                None => _ = self.unconfirmed.insert((ty, Arc::clone(name))),
            }
        }
        offered
    }

    /// Takes in one response.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Reply {
        let DeltaDiscoveryResponse { type_url, nonce, .. } = &response;
        let (type_url, nonce) = (type_url.clone(), nonce.clone());
        let ty = ResourceType::from_type_url(&type_url);
        let (reasons, trust) = match ty {
            Some(ty) => {
                self.heard[ty.index()] = true;
                self.apply(ty, response)
            }
            None => (vec!["the type is not known here".to_owned()], BTreeSet::new()),
        };
        let nack = (!reasons.is_empty()).then(|| told(&reasons));
        let error_detail =
            nack.clone().map(|message| Status { code: INVALID_ARGUMENT, message, details: Vec::new() });
        let request = DeltaDiscoveryRequest {
            type_url,
            response_nonce: nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        Reply { request, ty, nack, trust }
    }

    /// Whether every type was answered on this stream. The control plane answers in the order in which it was asked,
    /// so by then all guards are here.
    pub fn is_complete(&self) -> bool {
        self.heard.iter().all(|heard| *heard)
    }

    /// Whether [`Session::take_change`] would yield something.
    pub fn has_change(&self) -> bool {
        self.changed && self.is_complete()
    }

    /// What changed since the last time, once a stream has told everything.
    pub fn take_change(&mut self) -> Option<Change> {
        self.has_change().then(|| self.settle())
    }

    /// What was restored, to be put into force before any stream.
    pub fn restored_change(&mut self) -> Change {
        let change = self.settle();
        // The control plane's word that it is still so is news.
        self.changed = true;
        change
    }

    fn settle(&mut self) -> Change {
        for (ty, name) in std::mem::take(&mut self.unconfirmed) {
            self.remove(ty, &name);
        }
        self.changed = false;
        self.held_back = self.clouded();
        let parts = match self.held_back.is_empty() {
            true => Arc::clone(&self.parts),
            false => {
                let mut parts = Parts::clone(&self.parts);
                self.held_back.iter().for_each(|name| _ = parts.remove(ResourceType::Server, name));
                Arc::new(parts)
            }
        };
        let servers = self.shown_of(ResourceType::Server).map(|(name, _)| ServerName::parse(name));
        self.shown = servers.filter_map(Result::ok).collect();
        Change { parts, version: self.version(), held_back: self.held_back.len() }
    }

    /// Whether what is held is what was last put into force.
    pub const fn is_settled(&self) -> bool {
        !self.changed
    }

    /// Everything that is held and shown, to be stored. Only to be asked for when all is settled.
    pub fn resources(&self) -> Vec<Accepted> {
        let of_type = |ty: ResourceType| self.shown_of(ty).map(move |it| (ty, it));
        let all = ResourceType::ALL.into_iter().flat_map(of_type);
        all.map(|(ty, (name, held))| Accepted {
            ty,
            name: Arc::clone(name),
            version: Arc::clone(&held.version),
            bytes: held.bytes.clone(),
        })
        .collect()
    }

    /// Everything that is held, and what is not because it could not be read.
    pub fn holdings(&self) -> Vec<Holding> {
        let of_type = |ty: ResourceType| self.held[ty.index()].iter().map(move |it| (ty, it));
        let held = ResourceType::ALL.into_iter().flat_map(of_type).map(|(ty, (name, held))| Holding {
            ty,
            name: Arc::clone(name),
            version: Some(Arc::clone(&held.version)),
            digest: Some(held.digest),
            held_back: ty == ResourceType::Server && self.held_back.contains(name),
        });
        let unreadable = self.unreadable.iter().map(|(ty, name)| {
            let name = name.as_str().into();
            Holding { ty: *ty, name, version: None, digest: None, held_back: false }
        });
        held.chain(unreadable).collect()
    }

    fn shown_of(&self, ty: ResourceType) -> impl Iterator<Item = (&Arc<str>, &Held)> {
        let held_back = move |name: &Arc<str>| ty == ResourceType::Server && self.held_back.contains(name);
        self.held[ty.index()].iter().filter(move |(name, _)| !held_back(name))
    }

    /// The roots that were told.
    pub const fn bundles(&self) -> &Bundles {
        &self.bundles
    }

    /// What the control plane says about a trust domain.
    pub fn trust_bundle(&self, domain: &TrustDomain) -> Option<&weft_proto::wire::TrustBundle> {
        match self.parts.find(ResourceType::TrustBundle, domain.as_str()) {
            Some(Part::TrustBundle(bundle)) => Some(bundle),
            _ => None,
        }
    }

    /// How many resources of a type are held.
    pub fn count(&self, ty: ResourceType) -> usize {
        self.held[ty.index()].len()
    }

    #[cfg(test)]
    fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Servers that were never shown, and whose policies are not all readable.
    fn clouded(&self) -> BTreeSet<Arc<str>> {
        if self.unreadable.is_empty() {
            return BTreeSet::new();
        }
        let servers = self.held[ResourceType::Server.index()].keys();
        servers.filter(|name| self.is_clouded(name)).cloned().collect()
    }

    fn is_clouded(&self, server: &str) -> bool {
        let Ok(server) = ServerName::parse(server) else { return true };
        let about = |guard: &str| match ServerName::parse(guard) {
            Ok(guard) => {
                guard.namespace == server.namespace || guard.namespace.as_str() == self.root_namespace()
            }
            Err(_) => true,
        };
        !self.shown.contains(&server) && self.unreadable.iter().any(|(_, guard)| about(guard))
    }

    fn root_namespace(&self) -> &str {
        match self.parts.find(ResourceType::Mesh, MESH_NAME) {
            Some(Part::Mesh(mesh)) => mesh.root_namespace.as_str(),
            _ => ROOT_NAMESPACE,
        }
    }

    fn version(&self) -> Arc<str> {
        let mut context = digest::Context::new(&digest::SHA256);
        for ty in ResourceType::ALL {
            for (name, held) in self.shown_of(ty) {
                context.update(ty.name().as_bytes());
                context.update(&(name.len() as u64).to_be_bytes());
                context.update(name.as_bytes());
                context.update(&held.digest);
            }
        }
        hex(context.finish().as_ref()).into()
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every reason in one text, as long as there is room.
fn told(reasons: &[String]) -> String {
    let mut text = reasons.join("; ");
    if text.len() > NACK_BYTES_MAX {
        let end = (0..=NACK_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
