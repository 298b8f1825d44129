//! Objects as they are written, compiled as if they had been sent: for whoever answers what sidecars would do.

use super::{Parts, Snapshot, compile};
use crate::name::{Namespace, TrustDomain};
use crate::resource::{ROOT_NAMESPACE, Resource, Spec};
use crate::wire::{self, ResourceType};

/// Compiles objects, each with the revision in which it was made, as a sidecar of a mesh of this trust domain would if
/// it were sent them all.
pub fn compile_resources<'a>(
    trust_domain: &TrustDomain,
    resources: impl IntoIterator<Item = (&'a Resource, u64)>,
) -> Result<Snapshot, wire::Error> {
    let mut parts = Parts::default();
    let mut trust = None;
    for (resource, created) in resources {
        if let Spec::Trust(spec) = &resource.spec {
            trust = Some(spec);
        }
        if let Some(encoded) = wire::encode(resource, created) {
            parts.insert(wire::decode(encoded.ty, &encoded.bytes)?);
        }
    }
    let root = Namespace::parse(ROOT_NAMESPACE).expect("the root namespace is a namespace");
    let mesh = wire::encode_mesh(trust_domain, trust, &root);
    parts.insert(wire::decode(ResourceType::Mesh, &mesh)?);
    Ok(compile(&parts))
}
