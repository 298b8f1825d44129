//! Objects as they travel: the xDS resource types, and the codec between the resource model and its messages.
//!
//! Not here: what the parts mean together (that is `compile`), and whether an object reaches beyond its namespace,
//! which only whoever knows the mesh can tell.

mod codec;
mod part;
mod types;

pub use codec::{
    Encoded, Error, MESSAGE_BYTES_MAX, decode, encode, encode_endpoints, encode_mesh, encode_offer,
    encode_trust_bundle,
};
pub use part::{Endpoint, Endpoints, MESH_NAME, Mesh, Meta, Object, Part, TrustBundle};
pub use types::ResourceType;
