//! Messages as a sidecar receives them.

use weft_proto::name::{Namespace, ServerName};
use weft_proto::resource::{Metadata, ROOT_NAMESPACE, Resource, Spec};
use weft_proto::wire::{self, Meta, Object, Part, ResourceType};

use crate::resources::reads_as;

/// The first byte chooses the type, the rest is the message. Whatever is taken must be such as an operator could have
/// written it, and must survive being sent on.
pub fn wire(data: &[u8]) {
    let Some((choice, message)) = data.split_first() else { return };
    let ty = ResourceType::ALL[usize::from(*choice) % ResourceType::ALL.len()];
    match wire::decode(ty, message) {
        Ok(part) => {
            assert_eq!(part.ty(), ty);
            assert!(!part.name().is_empty());
            sent_on(&part);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn sent_on(part: &Part) {
    match part {
        // What it is made of is not all in the message.
        Part::Mesh(_) => {}
        Part::TrustBundle(it) => arrives(part, &|| {
            let (serials, renew) = (&it.revoked_serials, &it.renew_unless_root);
            wire::encode_trust_bundle(&it.trust_domain, &it.roots, it.sequence, serials, renew)
        }),
        Part::Endpoints(it) => arrives(part, &|| wire::encode_endpoints(&it.server, &it.endpoints)),
        Part::AccessPolicy(it) => object(part, it),
        Part::QuotaPolicy(it) => object(part, it),
        Part::ToolPolicy(it) => object(part, it),
        Part::Authentication(it) => object(part, it),
        Part::Telemetry(it) => object(part, it),
        Part::Server(it) => object(part, it),
        Part::Route(it) => object(part, it),
        Part::VirtualServer(it) => object(part, it),
    }
}

fn object<S: Clone + Into<Spec>>(part: &Part, object: &Object<S>) {
    let Meta { namespace, name, labels, created_revision } = object.meta.clone();
    let metadata =
        Metadata { namespace, name, labels, annotations: Default::default(), resource_version: None };
    let mut resource = Resource { metadata, spec: object.spec.clone().into() };
    let encoded = wire::encode(&resource, created_revision).expect("what arrives is of a kind that is sent");
    assert_eq!(encoded.name, part.name());
    arrives(part, &|| encoded.bytes.clone());
    // Reach beyond the own namespace is judged where the mesh is known, and the root namespace may always.
    resource.metadata.namespace =
        Namespace::parse(ROOT_NAMESPACE).expect("the root namespace is a namespace");
    reads_as(&resource.to_yaml(), &resource);
}

/// Lists that are sets may change their order once, and never again.
fn arrives(part: &Part, encode: &dyn Fn() -> Vec<u8>) {
    let bytes = encode();
    let again = wire::decode(part.ty(), &bytes)
        .unwrap_or_else(|error| panic!("what was sent on is not taken: {error}\n{part:?}"));
    assert_eq!(again.name(), part.name());
    let bytes_again = match &again {
        Part::TrustBundle(it) => {
            let (serials, renew) = (&it.revoked_serials, &it.renew_unless_root);
            wire::encode_trust_bundle(&it.trust_domain, &it.roots, it.sequence, serials, renew)
        }
        Part::Endpoints(it) => wire::encode_endpoints(&ServerName::clone(&it.server), &it.endpoints),
        _ => {
            assert_eq!(&again, part);
            bytes.clone()
        }
    };
    assert_eq!(bytes_again, bytes, "{part:?}");
}
