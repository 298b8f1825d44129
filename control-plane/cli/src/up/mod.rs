//! The rest of a mesh on this machine: beside each server of the store a sidecar, and one for the agent.

pub(crate) mod desktop;
pub(crate) mod example_server;
pub(crate) mod sides;
pub(crate) mod tour;

/// The namespace and account in whose name the agent on this machine calls.
pub(crate) const AGENT: (&str, &str) = ("local", "agent");
