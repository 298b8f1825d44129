//! Objects as they travel: the xDS resource types, and the codec between the resource model and its messages.

mod types;

pub use types::ResourceType;
