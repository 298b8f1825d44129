//! What a seal says, in the one form that is signed.

use std::fmt;

use jiff::Timestamp;

use super::{Digest, Trail};

/// What a node signs. Its text is the message of the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub node: String,
    pub trail: Trail,
    pub segment: u64,
    /// Lines of the segment so far.
    pub count: u64,
    /// The number of the last.
    pub last: u64,
    /// The digest of the last, which every line before it is in.
    pub head: Digest,
    /// The last line of the segment before, as its digest.
    pub before: Digest,
    pub at: Timestamp,
    pub closes: bool,
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, trail, segment, count, last, head, before, at, closes } = self;
        let how = if *closes { "closed" } else { "open" };
        // A node's name has no line end, so no two statements have one text.
        write!(
            f,
            "weft audit seal v1\nnode {node}\ntrail {trail}\nsegment {segment}\ncount {count}\nlast {last}\n\
             head {head}\nbefore {before}\nat {at}\n{how}\n"
        )
    }
}
