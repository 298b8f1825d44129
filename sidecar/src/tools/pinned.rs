//! Whether a tool may be shown: what calls of it would come to, for whoever writes lists.

use weft_proto::compile::{ServerEntry, Snapshot};
use weft_proto::name::Digest;

/// Whether a definition of a tool may be shown to callers, by the policies that pin definitions. One that has no digest
/// (see [`weft_proto::policy::tools::digest`]) is none that could have been approved.
pub fn may_show(snapshot: &Snapshot, entry: &ServerEntry, tool: &str, digest: Option<&Digest>) -> bool {
    entry.tools.is_empty() || snapshot.pin_of(entry, tool).shows(digest)
}
