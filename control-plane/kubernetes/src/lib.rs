//! A mesh in Kubernetes: sidecars put into pods, objects of the cluster followed, identities proved by service accounts.
//!
//! Never here: what objects mean, which is `proto`'s, and what sidecars are told, which is the control plane's.

pub mod admission;
pub mod app;
pub mod ca_bundle;
pub mod cluster;
pub mod crds;
pub mod events;
pub mod follow;
pub mod inject;
pub mod leader;
pub mod roots;
pub mod secrets;
pub mod source;
mod standby;
pub mod status;
pub mod uninjected;

/// Who writes what we write, as the API server notes it.
pub const MANAGER: &str = "weft-control-plane";
