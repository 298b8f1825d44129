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
pub mod route;
pub mod tools;

pub use caller::Caller;
use caller::any;
pub use reach::{is_for, may_reach, may_use};
