//! The codec between the resource model and the messages of `weft.config.v1`: both directions of each message stand
//! side by side, and take their message apart whole, so that a field that only one of them knows does not compile.
//!
//! Reading is strict about values and lenient about fields: a name, an amount or an enum's number that this version
//! does not know refuses the message, because guessing could open what should be closed; a field it does not know is
//! passed over, because senders are upgraded first.

mod access;
mod assembly;
mod authentication;
mod choice;
mod mesh;
mod offer;
mod quota;
mod read;
mod server;
mod stdio;
mod telemetry;
mod tool;
mod write;

use std::sync::Arc;

use prost::Message;

use crate::name::{Namespace, ServerName, TrustDomain};
use crate::offer::Offer;
use crate::pb::weft::config::v1 as pb;
use crate::resource::kinds::Trust;
use crate::resource::{Resource, Spec};

use super::{Endpoint, Meta, Part, ResourceType};
use read::{Read, Wrong, at, map, required, text};
use write::string_map;

/// Largest message, in bytes. Larger ones are not read; whoever takes objects in must refuse what encodes to more.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Why a message is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{ty} is {len} bytes long; at most {MESSAGE_BYTES_MAX} are allowed")]
    TooLarge { ty: ResourceType, len: usize },
    #[error("{ty} is malformed")]
    Malformed {
        ty: ResourceType,
        #[source]
        source: prost::DecodeError,
    },
    /// A field, as a dotted path in the message's own spelling, does not hold what it should.
    #[error("{ty}.{field}: {problem}")]
    Field { ty: ResourceType, field: String, problem: String },
    /// Of what restricts, a part that is not understood may be the restriction.
    #[error("{ty} says more than this version understands; a newer one is needed to enforce it")]
    Newer { ty: ResourceType },
    /// The fields are good, each for itself, and contradict each other.
    #[error("{ty}: {problem}")]
    Contradiction { ty: ResourceType, problem: String },
}

/// An object as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub ty: ResourceType,
    /// `<namespace>/<name>`
    pub name: String,
    /// Other names under which it may be asked for, `<namespace>/<alias>`.
    pub aliases: Vec<String>,
    pub bytes: Vec<u8>,
}

/// Encodes an object; equal objects give equal bytes. None for `Trust`, which does not travel itself: the mesh and the
/// trust bundles are made from it and from what the certificate authority knows.
pub fn encode(resource: &Resource, created_revision: u64) -> Option<Encoded> {
    let meta = Meta::new(&resource.metadata, created_revision);
    let name = meta.full_name();
    let wire_meta = Some(encode_meta(&meta));
    let mut aliases = Vec::new();
    let (ty, bytes) = match &resource.spec {
        Spec::McpServer(spec) => {
            aliases.extend(spec.aliases.iter().map(|alias| format!("{}/{alias}", name.namespace)));
            (ResourceType::Server, server::encode(wire_meta, spec).encode_to_vec())
        }
        Spec::VirtualServer(spec) => {
            (ResourceType::VirtualServer, assembly::encode_virtual_server(wire_meta, spec).encode_to_vec())
        }
        Spec::Route(spec) => (ResourceType::Route, assembly::encode_route(wire_meta, spec).encode_to_vec()),
        Spec::AccessPolicy(spec) => {
            (ResourceType::AccessPolicy, access::encode(wire_meta, spec).encode_to_vec())
        }
        Spec::QuotaPolicy(spec) => {
            (ResourceType::QuotaPolicy, quota::encode(wire_meta, spec).encode_to_vec())
        }
        Spec::ToolPolicy(spec) => (ResourceType::ToolPolicy, tool::encode(wire_meta, spec).encode_to_vec()),
        Spec::Authentication(spec) => {
            (ResourceType::Authentication, authentication::encode(wire_meta, spec).encode_to_vec())
        }
        Spec::Telemetry(spec) => {
            (ResourceType::Telemetry, telemetry::encode(wire_meta, spec).encode_to_vec())
        }
        Spec::Trust(_) => return None,
    };
    Some(Encoded { ty, name: name.to_string(), aliases, bytes })
}

/// Encodes what holds for the whole mesh; without a `Trust` object, its defaults.
pub fn encode_mesh(trust_domain: &TrustDomain, trust: Option<&Trust>, root_namespace: &Namespace) -> Vec<u8> {
    mesh::encode_mesh(trust_domain, trust, root_namespace).encode_to_vec()
}

/// Encodes the roots of a trust domain, DER each. Serials and fingerprints are sets: their order does not matter.
pub fn encode_trust_bundle<R: AsRef<[u8]>>(
    trust_domain: &TrustDomain,
    roots: &[R],
    sequence: u64,
    revoked_serials: &[String],
    renew_unless_root: &[String],
) -> Vec<u8> {
    let roots = roots.iter().map(|root| root.as_ref().to_vec()).collect();
    mesh::encode_trust_bundle(trust_domain, roots, sequence, revoked_serials, renew_unless_root)
        .encode_to_vec()
}

/// Encodes where the instances of a server are. Their order does not matter.
pub fn encode_endpoints(server: &ServerName, endpoints: &[Endpoint]) -> Vec<u8> {
    server::encode_endpoints(server, endpoints).encode_to_vec()
}

/// Encodes what a server offers.
pub fn encode_offer(offer: &Offer) -> Vec<u8> {
    offer::encode(offer).encode_to_vec()
}

/// Reads a message of a type. What comes out is as consistent as if an operator had written it.
pub fn decode(ty: ResourceType, bytes: &[u8]) -> Result<Part, Error> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Error::TooLarge { ty, len: bytes.len() });
    }
    Ok(match ty {
        ResourceType::Mesh => Part::Mesh(open(ty, bytes, mesh::decode_mesh)?),
        ResourceType::TrustBundle => Part::TrustBundle(open(ty, bytes, mesh::decode_trust_bundle)?),
        ResourceType::AccessPolicy => Part::AccessPolicy(open_whole(ty, bytes, access::decode)?),
        ResourceType::QuotaPolicy => Part::QuotaPolicy(open_whole(ty, bytes, quota::decode)?),
        ResourceType::ToolPolicy => Part::ToolPolicy(open_whole(ty, bytes, tool::decode)?),
        ResourceType::Authentication => Part::Authentication(open_whole(ty, bytes, authentication::decode)?),
        ResourceType::Telemetry => Part::Telemetry(open(ty, bytes, telemetry::decode)?),
        ResourceType::Server => Part::Server(open(ty, bytes, server::decode)?),
        ResourceType::Endpoints => Part::Endpoints(open(ty, bytes, server::decode_endpoints)?),
        ResourceType::Route => Part::Route(open(ty, bytes, assembly::decode_route)?),
        ResourceType::Offer => Part::Offer(open(ty, bytes, offer::decode)?),
        ResourceType::VirtualServer => Part::VirtualServer(open(ty, bytes, assembly::decode_virtual_server)?),
    })
}

/// Fields that a later version has are passed over.
fn open<M: Message + Default, T>(
    ty: ResourceType,
    bytes: &[u8],
    read: impl FnOnce(M) -> Read<T>,
) -> Result<Arc<T>, Error> {
    opened(ty, M::decode(bytes), read)
}

/// Fields that a later version has are refused, wherever they stand: written again without them, the message is shorter.
fn open_whole<M: Message + Default, T>(
    ty: ResourceType,
    bytes: &[u8],
    read: impl FnOnce(M) -> Read<T>,
) -> Result<Arc<T>, Error> {
    let message = M::decode(bytes);
    match &message {
        Ok(message) if message.encoded_len() != bytes.len() => Err(Error::Newer { ty }),
        _ => opened(ty, message, read),
    }
}

fn opened<M, T>(
    ty: ResourceType,
    message: Result<M, prost::DecodeError>,
    read: impl FnOnce(M) -> Read<T>,
) -> Result<Arc<T>, Error> {
    let message = message.map_err(|source| Error::Malformed { ty, source })?;
    read(message).map(Arc::new).map_err(|Wrong { path: field, problem }| match field.is_empty() {
        true => Error::Contradiction { ty, problem },
        false => Error::Field { ty, field, problem },
    })
}

fn encode_meta(meta: &Meta) -> pb::Meta {
    let Meta { namespace, name, labels, created_revision } = meta;
    pb::Meta {
        namespace: namespace.to_string(),
        name: name.to_string(),
        labels: string_map(labels),
        created_revision: *created_revision,
    }
}

fn decode_meta(message: Option<pb::Meta>) -> Read<Meta> {
    let read = |message| {
        let pb::Meta { namespace, name, labels, created_revision } = required(message)?;
        Ok(Meta {
            namespace: at("namespace", text(&namespace))?,
            name: at("name", text(&name))?,
            labels: at("labels", map(labels, |value| text(&value)))?,
            created_revision,
        })
    };
    at("meta", read(message))
}

#[cfg(test)]
mod tests;
