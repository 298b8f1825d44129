//! Messages as a sidecar receives them.

use weft_proto::name::{Namespace, ServerName};
use weft_proto::resource::{Metadata, ROOT_NAMESPACE, Resource, Spec};
use weft_proto::wire::{self, Meta, Object, Part, ResourceType};

use crate::resources::reads_as;

/// Texts that mean something in messages.
const TEXTS: [&str; 32] = [
    "",
    "*",
    "a",
    "b/c",
    "files",
    "read_*",
    "research",
    "research/files",
    "weft-system",
    "mesh",
    "mesh.test",
    "spiffe://mesh.test/ns/research/sa/files",
    "spiffe://*/ns/*/sa/*",
    "10.0.0.5:9000",
    "[::1]:1",
    "https://h.example/a",
    "http://localhost/",
    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "a1b2",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "/mcp",
    "app",
    "claim:org",
    "caller",
    "tenant",
    "Europe/Berlin",
    "tools/call",
    "x-canary",
    ".",
    "size(args)",
    "{\"keys\":[]}",
    "line\nline",
];
/// Deepest message that instructions make.
const DEPTH_MAX: usize = 16;

/// The first byte chooses the type, and whether the rest is the message or instructions to make one. Whatever is taken
/// must be such as an operator could have written it, and must survive being sent on.
pub fn wire(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let choice = usize::from(*choice);
    let ty = ResourceType::ALL[choice % ResourceType::ALL.len()];
    let made = (choice / ResourceType::ALL.len() % 2 == 1).then(|| instructed(rest));
    match wire::decode(ty, made.as_deref().unwrap_or(rest)) {
        Ok(part) => {
            assert_eq!(part.ty(), ty);
            assert!(!part.name().is_empty());
            sent_on(&part);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Each pair of bytes sets a field, opens a message in a field, or closes it. The lengths of messages within messages
/// are always right, which bytes that change at random hardly ever achieve.
fn instructed(instructions: &[u8]) -> Vec<u8> {
    let mut open: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut message = Vec::new();
    for pair in instructions.chunks_exact(2) {
        let (field, about) = (u64::from(pair[0] >> 3) + 1, usize::from(pair[1]));
        match pair[0] % 8 {
            0 => number(&mut message, field, u64::from(pair[1])),
            1 => number(&mut message, field, u64::from(pair[1]) * 4),
            2 => number(&mut message, field, (1 << (about % 64)) - u64::from(pair[1] > 127)),
            3 | 4 => text(&mut message, field, TEXTS[about % TEXTS.len()].as_bytes()),
            5 | 6 if open.len() < DEPTH_MAX => open.push((field, std::mem::take(&mut message))),
            _ => close(&mut open, &mut message),
        }
    }
    while !open.is_empty() {
        close(&mut open, &mut message);
    }
    message
}

fn close(open: &mut Vec<(u64, Vec<u8>)>, message: &mut Vec<u8>) {
    if let Some((field, outer)) = open.pop() {
        let inner = std::mem::replace(message, outer);
        text(message, field, &inner);
    }
}

fn number(message: &mut Vec<u8>, field: u64, value: u64) {
    varint(message, field << 3);
    varint(message, value);
}

fn text(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(message, field << 3 | 2);
    varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value > 127 {
        message.push(value as u8 | 128);
        value >>= 7;
    }
    message.push(value as u8);
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
        Part::Offer(it) => arrives(part, &|| wire::encode_offer(it)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_make_messages_that_are_taken() {
        for ty in [
            ResourceType::Mesh,
            ResourceType::TrustBundle,
            ResourceType::AccessPolicy,
            ResourceType::Endpoints,
        ] {
            let path = format!("{}/corpus/wire/instructed-{ty}", env!("CARGO_MANIFEST_DIR"));
            let seed = std::fs::read(&path).unwrap();
            assert_eq!(usize::from(seed[0]), ResourceType::ALL.len() + ty.index());
            wire::decode(ty, &instructed(&seed[1..])).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
    }
}
