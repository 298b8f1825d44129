//! Whole stories over real sockets: a control plane in this process, and clients that speak as sidecars do.

mod mesh;
mod streams;
mod trust;
