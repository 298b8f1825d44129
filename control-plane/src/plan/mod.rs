//! The planner: what operators said and what the mesh reports, turned into what each sidecar is told.
//!
//! Pure: changes go in, the names of what changed come out, and everything that can be asked of the result is a lookup.
//! A change costs as much as it touches, not as much as there is. Not here: when to plan, and whom to wake.

mod endpoints;
mod index;
mod observed;
mod offers;
mod sight;
mod table;
mod viewer;
mod world;

pub(crate) use index::exact_names;
pub use observed::{Instance, Observation, Speaker};
pub use sight::Lookup;
pub use viewer::{Stances, Viewer};
pub use world::{Change, Published, TrustRoots, Update, World, type_of, version_of};

use weft_proto::name::{Namespace, ServerName};
use weft_proto::wire::ResourceType;

/// Something that was published, changed or withdrawn, and who may have to hear of it. The audience is generous: each
/// client decides with a lookup whether anything changes for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    pub ty: ResourceType,
    pub name: std::sync::Arc<str>,
    pub audience: Audience,
}

/// Whom a change may concern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    Everyone,
    /// Sidecars of one namespace.
    Namespace(Namespace),
    /// Sidecars that serve one of these servers.
    Serving(Vec<ServerName>),
    /// Sidecars that call others.
    Calling,
}

#[cfg(test)]
pub(crate) mod tests;
