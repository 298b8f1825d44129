//! What policies mean, as pure functions over facts: both planes decide with them, and so does whoever explains a
//! decision.
//!
//! Not here: counters, clocks and everything else that a decision leaves behind.

pub mod access;
mod caller;
pub mod expr;
pub mod placement;
pub mod quota;
mod reach;
pub mod tools;

pub use caller::Caller;
pub use reach::{is_for, may_reach, may_use};
