//! What servers offer, as the sidecars beside them read it: reports are taken ([`service`]), read and held to their
//! limits ([`report`]), put together server by server ([`aggregate`]), and kept, found and handed over ([`catalogue`]),
//! with their history on disk ([`database`]).
//!
//! Nothing is decided here: approving a definition is a change of a policy like any other, and who may use what of an
//! offer is the planner's business.

mod advertised;
mod aggregate;
mod catalogue;
mod database;
mod report;
mod service;

pub use advertised::{Advertised, Seen, Tool};
pub use aggregate::{Known, Place, Since};
pub use catalogue::{Catalogue, Entry, Error, FILE, HandOver, Key, Reading, Replica};
pub use database::{PAST_BYTES_MAX, PAST_PER_ITEM_MAX, PAST_PER_SERVER_MAX, Version};
pub use report::{Digest, Error as Refused, Introduced, ItemKey, Said, Something, Told};
pub use service::Catalog;
