//! Whole stories over real sockets: a control plane in this process, and clients that speak as sidecars do.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on says so best where it stops")]

mod broken;
mod catalogue;
mod control;
mod fake;
mod link;
mod mesh;
mod operator;
mod replicas;
mod reports;
mod skew;
mod streams;
mod traffic;
mod trails;
mod trust;
