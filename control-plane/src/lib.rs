//! The control plane: the source of truth of a mesh. It keeps what operators say, turns it into what each sidecar is
//! told, gives out identities, and answers operators.
//!
//! Never here: request traffic between agents and servers.

pub mod api;
pub mod app;
pub mod ask;
pub mod audit;
pub mod auth;
pub mod catalog;
pub mod check;
pub mod clock;
pub mod desired;
pub mod feed;
pub mod grpc;
pub mod health;
pub mod identity;
pub mod listen;
pub mod metrics;
pub mod objects;
pub mod peer;
pub mod plan;
pub mod quota;
pub mod replica;
pub mod reports;
pub mod store;
pub mod tokens;
pub mod trust;
pub mod xds;
