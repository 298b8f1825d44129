//! The audit trail as a chain: what one line of it is, what may follow what, and what is wrong with a trail that was
//! changed.
//!
//! A trail is the lines that one node wrote, numbered 1, 2, 3, … without gaps; each carries the digest of the line before
//! it. Lines lie in segments. Now and then the node seals what it has written: it signs a [`Statement`] of how many lines
//! there are and of the digest of the last. Whoever changes a line has to change all that follow it, and cannot sign
//! them; and an [`Anchor`], kept elsewhere, says of each seal that it was there.
//!
//! Not here: files, signatures and who may sign; those who read hand over lines, and are handed statements to check.

mod anchor;
mod cursor;
mod digest;
mod line;
mod review;
mod statement;

pub use anchor::Anchor;
pub use cursor::{Broken, Cursor, Taken};
pub use digest::{Digest, Digesting};
pub use line::{
    Asked, Call, Cut, Dropped, Error, LINE_BYTES_MAX, Line, Operator, Outcome, Seal, Segment, TEXT_BYTES_MAX,
    Trail, What, clip,
};
pub use review::{CheckSeal, Finding, Report, Review};
pub use statement::Statement;

#[cfg(test)]
mod tests;
