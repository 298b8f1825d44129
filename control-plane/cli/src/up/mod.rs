//! The rest of a mesh on this machine: beside each server of the store a sidecar, and one for each agent.
//!
//! `wanted` decides which there should be, [`sides`] follows the store, a `keeper` keeps each, `board` and `tally` say
//! how they stand and what became of calls, [`show`] shows it.

mod addresses;
pub(crate) mod agents;
mod board;
pub(crate) mod desktop;
pub(crate) mod example_server;
mod keeper;
mod rows;
pub(crate) mod show;
mod sidecar;
pub(crate) mod sides;
mod tally;
pub(crate) mod tour;
mod wanted;
