//! The chaos tier: parts are killed, starved and cut off, and what they promised must hold all the same.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong is to be a panic")]

mod store_kill;
