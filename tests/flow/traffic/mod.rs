//! Stories of sidecars: real ones, with a real control plane, between real connections.

mod pair;
mod upstream;

mod broken;
mod doors;
mod drain;
mod inbound;
mod leaving;
mod outbound;
