//! What checks are made from.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use weft_proto::compile::{Snapshot, compile_resources};
use weft_proto::name::TrustDomain;
use weft_proto::resource::kinds::Trust as TrustSpec;
use weft_proto::resource::{Key, Resource, Spec};
use weft_proto::wire;

use super::cluster::Cluster;
use super::policy::Reviewed;
use crate::api::trust::TrustStatus;
use crate::audit::Head;
use crate::auth;
use crate::catalog::Entry;
use crate::desired::Present;
use crate::quota::Standing;
use crate::replica::Standby;
use crate::tokens::Token;
use crate::xds::ClientStatus;

/// Everything that is known of the mesh at one moment.
#[derive(Debug)]
pub struct Facts {
    pub now: Timestamp,
    /// Of the control plane.
    pub version: &'static str,
    pub revisions: Revisions,
    /// Signing requests that wait.
    pub signing_queue: u64,
    /// Tasks that ended in a panic.
    pub panics: u64,
    /// Where the store is; none if it is not in a folder.
    pub disk: Option<Disk>,
    pub keys: Vec<auth::Key>,
    pub tokens: Vec<Token>,
    pub trust: TrustStatus,
    pub sidecars: Vec<ClientStatus>,
    pub objects: Objects,
    pub limits: Vec<Standing>,
    pub leases: Leases,
    pub audit: Audit,
    /// What servers offer, and what each sidecar found.
    pub offers: Vec<Entry>,
    /// None where the mesh is in no Kubernetes cluster.
    pub cluster: Option<Cluster>,
    /// The control planes that follow this one.
    pub standbys: Vec<Standby>,
}

/// How far the store is, and sidecars.
#[derive(Clone, Copy, Debug)]
pub struct Revisions {
    /// The newest one that changed an object.
    pub changed: u64,
    pub published: u64,
}

/// The file system of the data folder.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    pub bytes_free: u64,
    pub bytes_total: u64,
}

/// Room for counts of mesh-wide limits.
#[derive(Clone, Copy, Debug)]
pub struct Leases {
    pub keys: usize,
    pub keys_max: usize,
}

/// The audit trails.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// How far each trail is.
    pub heads: Vec<Head>,
    pub trails_max: u64,
    pub bytes: u64,
    pub bytes_max: u64,
    /// Times that a trail was not taken further, since the control plane began.
    pub refused: u64,
    /// Seals that were not believed, since the control plane began.
    pub unbelieved: u64,
}

/// The objects, as they are stored and as sidecars read them.
#[derive(Debug)]
pub struct Objects {
    pub present: Arc<Present>,
    pub snapshot: Snapshot,
    /// When objects were changed last, of those where it matters; of what is not here nobody knows any more.
    pub changed_at: BTreeMap<Key, Timestamp>,
    /// Made when it is first needed.
    reviewed: OnceLock<Reviewed>,
}

impl Objects {
    pub fn new(trust_domain: &TrustDomain, present: Arc<Present>) -> Result<Self, wire::Error> {
        let resources = present.objects().values();
        let resources = resources.filter_map(|object| object.aged());
        let snapshot = compile_resources(trust_domain, resources)?;
        Ok(Self { snapshot, present, changed_at: BTreeMap::new(), reviewed: OnceLock::new() })
    }

    /// The objects that can be read.
    pub fn readable(&self) -> impl Iterator<Item = (&Key, &Resource)> {
        let objects = self.present.objects().iter();
        objects.filter_map(|(key, object)| Some((key, object.resource.as_deref().ok()?)))
    }

    /// Policies that are evaluated and not enforced.
    pub fn in_shadow(&self) -> impl Iterator<Item = &Key> {
        let is_shadow = |resource: &Resource| match &resource.spec {
            Spec::AccessPolicy(it) => it.shadow,
            Spec::QuotaPolicy(it) => it.shadow,
            Spec::ToolPolicy(it) => it.shadow,
            _ => false,
        };
        self.readable().filter(move |(_, resource)| is_shadow(resource)).map(|(key, _)| key)
    }

    pub(super) fn reviewed(&self) -> &Reviewed {
        self.reviewed.get_or_init(|| Reviewed::of(&self.snapshot))
    }

    pub(super) fn trust(&self) -> Option<&TrustSpec> {
        self.readable().find_map(|(_, resource)| match &resource.spec {
            Spec::Trust(trust) => Some(trust),
            _ => None,
        })
    }
}
