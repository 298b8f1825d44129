//! That a seal was there, as somebody else remembers it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Digest, Trail};

/// The newest seal of a segment, remembered where the node cannot reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Anchor {
    pub node: String,
    pub trail: Trail,
    pub segment: u64,
    /// The number of the segment's first line.
    pub first: u64,
    /// The number of the line with the seal.
    pub n: u64,
    /// The digest of that line.
    pub head: Digest,
    /// Whether it closes its segment.
    pub closed: bool,
    /// When the node sealed it, by its own clock.
    pub sealed_at: Timestamp,
    /// When it was heard of.
    pub received_at: Timestamp,
    /// Who signed it.
    pub signer: String,
}
