//! Stories of sidecars: real ones, with a real control plane, between real connections.

mod pair;
mod upstream;

mod inbound;
mod outbound;
